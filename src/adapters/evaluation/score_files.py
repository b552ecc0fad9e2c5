"""Scores of a file of completions, without a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from adapters.data.json_text import label_text
from adapters.data.row_forms import conversion_hint, with_structures
from adapters.data.rows import place, read_file
from adapters.errors import UserError, hint
from adapters.evaluation import metrics
from adapters.plugins.grader import Grader
from adapters.plugins.registry import resolve
from adapters.plugins.rewards import NamedReward
from adapters.recipe.fields import PluginSpec
from adapters.types import Counts, Example, Row, Task, counts_of, total


def score_files(
    predictions: Path, gold: Path, *, task: str = "funding", mode: str | None = None, params: Mapping[str, Any] = {}
) -> tuple[dict[str, Any], list[str]]:
    """Metrics of a prediction file, mode -> field -> figures, and warnings.

    Rows are joined by `id`; the first of a repeated id counts. A prediction without gold is all false positives. A gold
    row without a prediction is missed, or left out where the task's `scorer` is `published`, as its harness does.
    """
    counter: Task = resolve("tasks", PluginSpec.model_validate({"use": task, **params}))
    leave_out = getattr(counter, "scorer", None) == "published"
    warnings: list[str] = []
    golden = {i: _golden(counter, row, n, gold) for i, n, row in _by_id(gold, warnings)}
    answers = {i: completion_of(row, n, predictions) for i, n, row in _by_id(predictions, warnings)}
    if without_gold := [i for i in answers if i not in golden]:
        count, first = len(without_gold), without_gold[0]
        warnings.append(f"{count} predictions have no gold row (such as {first!r}): all false positives")
    if missing := [i for i in golden if i not in answers]:
        fate = "left out, as published (--set scorer=corrected counts them)" if leave_out else "counted as missed"
        warnings.append(f"{len(missing)} gold rows have no prediction (such as {missing[0]!r}): {fate}")
    if not leave_out:
        answers |= dict.fromkeys(missing, "")
    without = Example("", "", (), gold=[], meta={"text": ""})
    counts = [counts_of(counter, golden.get(i, without), text) for i, text in answers.items()]
    result = metrics.corpus(counts, intervals=False)
    left_out = set(missing)
    given = [
        (text, total(of_row)) for (i, text), of_row in zip(answers.items(), counts, strict=True) if i not in left_out
    ]
    warnings += _on_answers(counter, given, len(golden), to_find=any(total(of_row).gold for of_row in counts))
    if mode is None:
        return result, warnings
    if mode not in result:
        text = f"That is a scorer: use --set scorer={mode}." if mode in ("published", "corrected") else ""
        raise UserError(f"no matching mode is called {mode!r}.{hint(mode, list(result))} {text}".strip())
    return {mode: result[mode]}, warnings


def _on_answers(task: Task, given: Sequence[tuple[str, Counts]], rows: int, *, to_find: bool) -> list[str]:
    readable = [found for text, found in given if task.is_well_formed(text)]
    unreadable, claims = len(given) - len(readable), sum(found.pred > 0 for found in readable)
    if not to_find:
        return [metrics.nothing_to_find(rows, len(readable) - claims, claims, unreadable)]
    return [f"{unreadable} of {len(given)} answers are unreadable"] if unreadable else []


def score_rewards(
    reward: NamedReward, file: Path, *, task: str, params: Mapping[str, Any] = {}
) -> list[dict[str, Any]]:
    """Reward and parts of each row's completion against the row's own gold."""
    reader: Task = resolve("tasks", PluginSpec.model_validate({"use": task, **params}))
    places, texts, examples = list[int](), list[str](), list[Example]()
    for n, row in read_file(file, strict=True):
        places.append(n)
        texts.append(completion_of(row, n, file))
        # Rewards compare with the gold, so the file may lack the texts.
        bare = Example(id=str(row.get("id", n)), source="", prompt=(), gold=_gold(reader, row, n, file))
        examples.append(reader.example(row, id=bare.id) if row.get(reader.text_field) else bare)
    batch = Grader(reward).grade(texts, examples)
    if batch.failed is not None:
        raise UserError(f"{place(file, places[batch.failed])}: {batch.error}") from batch.error
    scores = [graded.scored for graded in batch.graded if graded is not None]
    return [
        {"id": example.id, "reward": scored.score, "parts": dict(scored.parts)}
        for example, scored in zip(examples, scores, strict=True)
    ]


def tables(result: dict[str, Any], title: str) -> Iterator[Table]:
    """One table for each matching mode, of the fields with gold or predicted values."""
    for mode, fields in result.items():
        table = Table(title=f"{title}, {mode}", title_justify="left")
        table.add_column("field", no_wrap=True)
        for column in ("P", "R", "F1", "F0.5", "F1.5", "gold", "pred", "matched"):
            table.add_column(column, justify="right")
        for name, f in fields.items():
            if f["gold"] or f["pred"]:
                scores = [metrics.text(f[k], 4) for k in ("precision", "recall", "f1", "f0.5", "f1.5")]
                table.add_row(name, *scores, *(f"{f[k]:g}" for k in ("gold", "pred", "matched")))
        if table.row_count:
            yield table


def _by_id(path: Path, warnings: list[str]) -> Iterator[tuple[str, int, Row]]:
    seen: set[str] = set()
    for n, row in read_file(path, strict=True):
        try:
            row_id = label_text(row.get("id"))
        except ValueError as error:
            raise UserError(f"{place(path, n)}: id: {error}.") from None
        if row_id is None:
            raise UserError(f"{place(path, n)}: every row needs an id.")
        if row_id in seen:
            warnings.append(f"{place(path, n)}: a repeated id {row_id!r}; the first row counts")
            continue
        seen.add(row_id)
        yield row_id, n, row
    if not seen:
        raise UserError(f"{path} holds no rows.")


def _golden(task: Task, row: Row, n: int, path: Path) -> Example:
    """The gold of a row, with its text where the task looks values up in it."""
    text = row.get(task.text_field)
    if getattr(task, "grounded", False) and not isinstance(text, str):
        raise UserError(f"{place(path, n)}: grounded=true looks values up in {task.text_field}, and the row has none.")
    return Example("", "", (), gold=_gold(task, row, n, path), meta={"text": text})


def _gold(task: Task, row: Row, n: int, path: Path) -> Any:
    try:
        return task.gold(with_structures(row, getattr(task, "structures", ())))
    except ValueError as error:
        raise UserError(f"{place(path, n)}: {error}{conversion_hint(row)}.") from None


def completion_of(row: Row, n: int, path: Path) -> str:
    """The completion of row `n` of a file. Raises UserError without one."""
    if not isinstance(row.get("completion"), str):
        raise UserError(f"{place(path, n)}: completion must be the model's raw text.")
    return str(row["completion"])
