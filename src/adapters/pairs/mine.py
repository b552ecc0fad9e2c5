"""Preference pairs from graded completions: a run's logged rollouts, or samples of any model."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from adapters.data.load import load_examples
from adapters.data.noise import make_row_noiser
from adapters.data.rows import read_file
from adapters.errors import UserError
from adapters.plugins.registry import resolve
from adapters.plugins.rewards import NamedReward, grade, resolve_all
from adapters.recipe.load import RecipeFile, as_overrides, load_recipe
from adapters.recipe.stages import Grpo
from adapters.types import Example, Row, Task


class Graded(NamedTuple):
    """One completion of an example with its score in [0, 1]."""

    example: Example
    completion: str
    score: float


def rollouts(folder: Path) -> tuple[Task, list[Graded]]:
    """Every completion that the GRPO stages of a run graded, with the run's task.

    `folder` is a run or one of its stages, finished or not. A score is the rewards' weighted sum over the sum of the
    weights' sizes. Raises UserError when there is nothing to read, or rows cannot be told apart.
    """
    stages = [folder] if list(folder.glob("rollouts-*.jsonl")) else sorted(folder.glob("*-grpo*"))
    run = folder.parent if stages == [folder] else folder
    try:
        tree, origin = (json.loads((run / name).read_text(encoding="utf-8")) for name in ("recipe.json", "origin.json"))
    except (OSError, ValueError):
        raise UserError(f"{run} is no run folder: it holds no readable recipe.json.") from None
    file = load_recipe(run / "recipe.yaml", as_overrides(tree), origin=Path(origin["folder"]))
    task: Task = resolve("tasks", file.recipe.task, folder=file.folder, at=("task",))
    out: list[Graded] = []
    for stage_folder in stages:
        out += _stage(file, task, stage_folder)
    if not out:
        raise UserError(f"{folder} holds no rollouts; only GRPO stages write them.")
    return task, out


def _stage(file: RecipeFile, task: Task, folder: Path) -> list[Graded]:
    n = int(folder.name.partition("-")[0]) - 1
    recipe, at = file.recipe, ("stages", n)
    stage = recipe.stages[n]
    if not isinstance(stage, Grpo):
        raise UserError(f"{folder.name} is not a GRPO stage of {file.path}.")
    if stage.noise is not None and any(source.repeat > 1 for source in stage.data):
        raise UserError("the noisy repeats of one row share its id, so their rollouts cannot be told apart.", at=at)
    noising = None
    if stage.noise is not None:
        noising = make_row_noiser(stage.noise, seed=recipe.seed, folder=file.folder, at=(*at, "noise"))
    loaded = load_examples(
        stage.data, task, root=file.data_root, seed=recipe.seed, max_bad_rows=1, noising=noising, at=(*at, "data")
    )
    examples = {e.id: e for e in loaded.examples}
    weights = {r.name: r.weight for r in resolve_all(stage.rewards, folder=file.folder, at=(*at, "rewards"))}
    scores: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for path in sorted(folder.glob("rollouts-*.jsonl")):
        for number, entry in read_file(path):
            if not {"id", "completion", "reward", "score"} <= entry.keys():
                raise UserError(f"{path}, line {number}: this is no rollout.")
            if entry["score"] is not None and entry["id"] in examples and entry["reward"] in weights:
                scores[str(entry["id"]), str(entry["completion"])][entry["reward"]] = float(entry["score"])
    size = sum(map(abs, weights.values())) or 1.0
    return [
        Graded(examples[i], completion, sum(weights[name] * score for name, score in held.items()) / size)
        for (i, completion), held in scores.items()
    ]


def graded(samples: Iterable[Row], examples: Mapping[str, Example], reward: NamedReward) -> list[Graded]:
    """Samples (rows with `id` and `completion`) scored by a reward. Raises UserError for a sample of no example."""
    out = []
    for sample in samples:
        example, text = examples.get(str(sample.get("id"))), sample.get("completion")
        if example is None or not isinstance(text, str):
            raise UserError(f"a sample needs the id of a row and a completion; this one has id {sample.get('id')!r}.")
        score = grade(reward, text, example).score
        if score is not None:
            out.append(Graded(example, text, score))
    return out


def pairs(found: Sequence[Graded], task: Task, *, margin: float, floor: float, per_prompt: int = 1) -> list[Row]:
    """The best against the worst completion of each prompt, then the second best against the second worst.

    A pair's scores differ by `margin` or more; the chosen side reaches `floor` and has the form that the task asks
    for. Completions that are empty, or the same text, make no pair.
    """
    by_id: dict[str, list[Graded]] = defaultdict(list)
    for one in {(g.example.id, g.completion.strip()): g for g in found if g.completion.strip()}.values():
        by_id[one.example.id].append(one)
    out: list[Row] = []
    for held in by_id.values():
        ranked = sorted(held, key=lambda g: (-g.score, g.completion))
        good = [g for g in ranked if g.score >= floor and task.is_well_formed(g.completion)]
        for n, chosen in enumerate(good[:per_prompt]):
            rejected = ranked[-1 - n]
            if chosen.score - rejected.score < max(margin, 1e-9):
                break
            out.append(row(chosen.example, chosen.completion, rejected.completion, _meta(chosen, rejected)))
    return out


def row(example: Example, chosen: str, rejected: str, meta: Mapping[str, Any]) -> Row:
    """A pair in the field's usual form: prompt, chosen and rejected as messages, with gold and meta.

    All pairs of a prompt keep its id, so that none is held out while another is learned.
    """
    return {
        "id": example.id,
        "prompt": list(example.prompt),
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
        "gold": example.gold,
        "meta": dict(meta),
    }


def _meta(chosen: Graded, rejected: Graded) -> dict[str, Any]:
    env = chosen.example.gold.get("env") if isinstance(chosen.example.gold, Mapping) else None
    domain = env or chosen.example.source
    return {"task": domain, "kind": "mined", "chosen_score": chosen.score, "rejected_score": rejected.score}
