"""Preference pairs from graded completions: rollouts of a run, or samples."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from adapters.errors import UserError
from adapters.evaluation.metrics import number
from adapters.pipeline.reading import Reader, rows_of_stage
from adapters.pipeline.run_folder import RunFolder, Stage, read_rollouts
from adapters.plugins.grader import Grader
from adapters.plugins.registry import resolve
from adapters.plugins.rewards import NamedReward, resolve_all
from adapters.plugins.trust import Consent
from adapters.recipe.load import RecipeFile
from adapters.recipe.stages import Grpo
from adapters.types import Example, Row, Task


class Graded(NamedTuple):
    """One completion of an example with its score in [0, 1]."""

    example: Example
    completion: str
    score: float


def rollouts(folder: Path, consent: Consent | None = None) -> tuple[Task, list[Graded]]:
    """The task of a run and all graded completions of it, or of the stage named.

    A score is the rewards' weighted mean. Raises UserError without rollouts, or when rows cannot be told apart, and
    Refused for code that is not of this machine without consent.
    """
    run = RunFolder.open(folder)
    file = run.recipe_file(consent=consent)
    task: Task = resolve("tasks", file.recipe.task, folder=file.folder, at=("task",))
    stages = [s for s in run.stages if s.kind == "grpo" and run.named in (None, s.name)]
    completions = [graded for stage in stages for graded in _graded_by_stage(file, task, stage)]
    if not completions:
        raise UserError(f"{folder} holds no rollouts; only GRPO stages write them.")
    return task, completions


def _graded_by_stage(file: RecipeFile, task: Task, stage: Stage) -> list[Graded]:
    at, settings = ("stages", stage.index), file.recipe.stages[stage.index]
    assert isinstance(settings, Grpo)  # noqa: S101 - its kind says so
    if settings.environment is not None:
        fault = "its rollouts are episodes of several turns, and a pair is of single answers to one prompt."
        raise UserError(fault, at=(*at, "environment"))
    examples: dict[str, Example] = {}
    for example in rows_of_stage(Reader(file, task), stage.index)[0].examples:
        if examples.setdefault(example.id, example).prompt != example.prompt:
            raise UserError(
                f"the id {example.id!r} has several prompts (noise and vary change every repeat of a row), so their "
                "rollouts cannot be told apart.",
                at=(*at, "data"),
            )
    weights = {r.name: r.weight for r in resolve_all(settings.rewards, folder=file.folder, at=(*at, "rewards"))}
    scores: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for entry in read_rollouts(stage.folder):
        score = number(entry.get("score"))
        if score is not None and entry["id"] in examples and entry.get("reward") in weights:
            scores[entry["id"], str(entry["completion"])][entry["reward"]] = score
    size = sum(map(abs, weights.values())) or 1.0
    return [
        Graded(examples[i], completion, sum(weights[name] * score for name, score in by_reward.items()) / size)
        for (i, completion), by_reward in scores.items()
    ]


def graded(samples: Iterable[Row], examples: Mapping[str, Example], reward: NamedReward | None) -> list[Graded]:
    """Samples (`id`, `completion`) scored by a reward, or, without one, by their own column `reward`.

    A sample that says why it has no completion (`error`) is left out, and one to which no reward applies. Raises
    UserError without a row.
    """
    answered = [sample for sample in samples if not (sample.get("error") and sample.get("completion") is None)]
    rows, texts = list[Example](), list[str]()
    for sample in answered:
        example, text = examples.get(str(sample.get("id"))), sample.get("completion")
        if example is None or not isinstance(text, str):
            raise UserError(f"a sample needs the id of a row and a completion; this one has id {sample.get('id')!r}.")
        rows.append(example)
        texts.append(text)
    if reward is None:
        scores = [number(sample.get("reward")) for sample in answered]
    else:
        scores = [scored.score for scored in Grader(reward).scores(texts, rows)]
    graded_rows = zip(rows, texts, scores, strict=True)
    return [Graded(example, text, score) for example, text, score in graded_rows if score is not None]


def pairs(completions: Sequence[Graded], task: Task, *, margin: float, floor: float, per_prompt: int = 1) -> list[Row]:
    """Pairs of each prompt: its best against its worst completion, then the next.

    Scores differ by `margin` or more; the chosen side reaches `floor` and is well-formed.
    """
    by_id: dict[str, list[Graded]] = defaultdict(list)
    for g in {(g.example.id, g.completion.strip()): g for g in completions if g.completion.strip()}.values():
        by_id[g.example.id].append(g)
    out: list[Row] = []
    for same_prompt in by_id.values():
        ranked = sorted(same_prompt, key=lambda g: (-g.score, g.completion))
        good = [g for g in ranked if g.score >= floor and task.is_well_formed(g.completion)]
        for n, chosen in enumerate(good[:per_prompt]):
            rejected = ranked[-1 - n]
            if chosen.score - rejected.score < max(margin, 1e-9):
                break
            gold = chosen.example.gold
            domain = (gold.get("env") if isinstance(gold, Mapping) else None) or chosen.example.source
            meta = {"task": domain, "kind": "mined", "chosen_score": chosen.score, "rejected_score": rejected.score}
            out.append(row(chosen.example, chosen.completion, rejected.completion, meta))
    return out


def row(example: Example, chosen: str, rejected: str, meta: Mapping[str, Any]) -> Row:
    """A preference pair as a row, with its prompt's id, by which splits are made."""
    return {
        "id": example.id,
        "prompt": list(example.prompt),
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
        "gold": example.gold,
        "meta": dict(meta),
    }
