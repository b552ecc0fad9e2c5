"""Preference pairs from files of turns, rows or samples, checked as a set."""

from __future__ import annotations

import json
import math
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from adapters.backends import backend as make_backend
from adapters.data import preference
from adapters.data.row_forms import conversion_hint
from adapters.data.rows import place, read_file, survey
from adapters.data.task_of_file import task_of_file
from adapters.data_aug.agent import pairs as building
from adapters.data_aug.agent import synthesize, turns
from adapters.data_aug.agent.corruptions import KINDS
from adapters.errors import UserError
from adapters.extraction.adapter_source import find_any
from adapters.files import manifest_path, read_json
from adapters.pairs import mine
from adapters.plugins import source_files, trust
from adapters.plugins.registry import resolve
from adapters.plugins.rewards import NamedReward, resolve_all
from adapters.plugins.trust import Consent
from adapters.recipe.fields import PluginSpec, RewardSpec
from adapters.recipe.load import load_recipe, parse_assignments
from adapters.recipe.stages import Dpo
from adapters.tasks.agent import AgentTask
from adapters.types import Example, Row, Task


class Limit(NamedTuple):
    """The length limit of pairs, with the task (and its name) of its recipe."""

    fits: Callable[[Sequence[Example]], list[bool]]
    task: Task | None = None
    name: str | None = None


def limit(recipe: Path | None, max_length: int, consent: Consent | None = None) -> Limit:
    """The limit of a recipe's DPO stage; without a recipe tokens are estimated.

    Raises Refused for a task from outside the recipe's folder without consent.
    """
    if recipe is None:
        return Limit(lambda examples: [_estimate(e) <= max_length for e in examples])
    file = load_recipe(recipe)
    stages = [stage for stage in file.recipe.stages if isinstance(stage, Dpo)]
    if not stages:
        raise UserError(f"{recipe} has no DPO stage, whose max_length the pairs must fit.")
    code = source_files.files_of_plugin("tasks", file.recipe.task, file.folder, ("task",))
    trust.admit_recipe([code], file.folder, consent or Consent())
    backend, longest = make_backend(file.recipe), stages[0].max_length

    def fits(examples: Sequence[Example]) -> list[bool]:
        return [n.prompt + max(n.completion, n.rejected) <= longest for n in backend.lengths(examples)]

    task = resolve("tasks", file.recipe.task, folder=file.folder, at=("task",))
    return Limit(fits, task, file.recipe.task.use)


def task_of(name: str, params: Sequence[str] = ()) -> Task:
    """A task by its name, with its defaults and the given `KEY=VALUE` parameters."""
    task: Task = resolve("tasks", PluginSpec.model_validate({"use": name, **parse_assignments(params)}))
    return task


def readers(
    rows: Path, limit: Limit, task: str | None, params: Sequence[str], reward: RewardSpec | None
) -> tuple[Task, NamedReward]:
    """The task of a file's rows, and the reward, whose default has the task's name."""
    name = limit.name or task_of_file(rows, task)
    [named] = resolve_all([reward or RewardSpec(use=name)], folder=Path(), at=())
    return limit.task or task_of(name, params), named


class Sampled(NamedTuple):
    """What `adapters sample` noted beside its output: the rows, their task, and the name of the task."""

    rows: Path
    task: Task
    name: str


def sampled(file: Path, rows: Path | None = None, consent: Consent | None = None) -> Sampled | None:
    """What a file of samples was drawn from; None for a file of another origin. `rows` is where the rows are now.

    Raises UserError when rows or adapter are no longer there, and Refused for the task's code without consent.
    """
    manifest = read_json(manifest_path(file))
    paths, settings = manifest.get("paths"), manifest.get("settings")
    if not isinstance(paths, dict) or "rows" not in paths or not isinstance(settings, dict):
        return None
    rows, spec = rows or Path(paths["rows"]), dict(settings["task"])
    if survey(rows)[1] != settings["input"]:
        raise UserError(f"{file} was not drawn from {rows} as it is now; give the rows as they were with --rows.")
    use = spec.pop("use")
    task = find_any(paths["adapter"], task=use, params=spec, base=settings["base"], consent=consent).task
    return Sampled(rows, task, use)


def examples(file: Path, task: Task) -> dict[str, Example]:
    """The rows of a file by id. Raises UserError for unreadable rows and repeated ids."""
    out: dict[str, Example] = {}
    for number, row in read_file(file, strict=True, texts=[task.text_field]):
        i = str(row.get("id", f"{file.stem}:{number}"))
        try:
            if i in out:
                raise ValueError(f"the id {i!r} is repeated")
            out[i] = task.example(row, source=file.stem, id=i)
        except ValueError as error:
            raise UserError(f"{place(file, number)}: {error}{conversion_hint(row)}.") from None
    if not out:
        raise UserError(f"{file} holds no rows.")
    return out


def corrupted(file: Path | None, n: int, kinds: Sequence[str], seed: int, *, control: float) -> list[Row]:
    """Up to n pairs from a file's turns or synthetic ones, evenly by environment."""
    rows = _turns(file) if file else list(synthesize(4 * n, seed))
    random.Random(seed).shuffle(rows)
    by_env: dict[str, list[Row]] = defaultdict(list)
    for pair in building.corrupted(rows, kinds, seed, control=control):
        by_env[pair["meta"]["task"]].append(pair)
    return [pair for turn in zip_longest(*by_env.values()) for pair in turn if pair is not None][:n]


def corrupted_rest(completions: Sequence[mine.Graded], pairs: Sequence[Row], floor: float, seed: int) -> list[Row]:
    """Pairs for prompts without one: the best completion against a corruption of it."""
    paired = {p["id"] for p in pairs}
    best: dict[str, mine.Graded] = {}
    for g in sorted(completions, key=lambda g: (g.score, g.completion)):
        if g.score >= floor and g.example.id not in paired and isinstance(g.example.gold, Mapping):
            best[g.example.id] = g
    rows = [
        {"id": i, "env": g.example.gold.get("env"), "actions": g.example.gold.get("actions")}
        | {"prompt": list(g.example.prompt), "completion": g.completion}
        for i, g in best.items()
        if g.example.gold.get("env")
    ]
    return [{**p, "gold": best[p["id"]].example.gold} for p in building.corrupted(rows, list(KINDS), seed)]


def checked(
    pairs: Sequence[Row], task: Task, limit: Limit, rules: building.Rules | None
) -> tuple[list[Row], dict[str, Any]]:
    """Distinct pairs that fit, and their figures. Raises PairsError for a bad set."""
    examples = [preference.example(task, row, source="", id=str(row["id"])) for row in pairs]
    fits = limit.fits(examples) if examples else []
    kept = [(e, row["meta"]) for e, row, fit in zip(examples, pairs, fits, strict=True) if fit]
    rows = [mine.row(e, e.completion or "", e.rejected or "", meta) for e, meta in kept]
    rows, duplicates = building.distinct(rows, lambda r: json.dumps([r["prompt"], r["chosen"], r["rejected"]]))
    figures = building.audit(rows, rules)
    return rows, {**figures, "too_long": len(pairs) - len(kept), "duplicates": duplicates}


def _turns(file: Path) -> list[Row]:
    out: list[Row] = []
    for number, row in read_file(file, strict=True):
        try:
            named = {**row, "id": str(row.get("id", f"{file.stem}:{number}"))}
            out += [_turn(named)] if row.get("completion") is not None else turns(named, prompt="prompt")
        except ValueError as error:
            raise UserError(f"{place(file, number)}: {error}.") from None
    if not out:
        raise UserError(f"{file} holds no turn of an agent that the environment can read.")
    return out


def _turn(row: Row) -> Row:
    read = AgentTask().example(row)
    column = "prompt" if "prompt" in row else "messages"
    gold = {key: read.gold[key] for key in ("env", "actions", "table")}
    return {"id": row["id"], **gold, column: list(preference.conversation(row, column)), "completion": read.completion}


def _estimate(example: Example) -> int:
    longer = max(len(example.completion or ""), len(example.rejected or ""))
    return math.ceil((sum(len(m["content"] or "") for m in example.prompt) + longer) / 3)
