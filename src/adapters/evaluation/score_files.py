"""Scores of a file of completions, without a model."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from adapters.data.json_text import label_text
from adapters.data.on_disk import HELD, Store
from adapters.data.row_forms import conversion_hint, with_structures
from adapters.data.rows import place, read_file
from adapters.data.text_keys import text_hash
from adapters.errors import UserError, hint
from adapters.evaluation import metrics
from adapters.plugins.grader import Grader
from adapters.plugins.registry import resolve
from adapters.plugins.rewards import NamedReward
from adapters.recipe.fields import PluginSpec
from adapters.types import Example, Row, Task, counts_of, total


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
    golden = _Gold(counter, gold)
    table, answered, answers = metrics.CountTable(summed=True), bytearray(len(golden.rows)), _Answers()
    without, strangers, stranger = Example("", "", (), gold=[], meta={"text": ""}), set[int](), ""
    warnings += _said_again(gold, list(golden.again()))
    again = list[tuple[str, int]]()
    for row_id, n, row in _with_ids(predictions):
        text, key = completion_of(row, n, predictions), text_hash(row_id)
        at = golden.place(key)
        if key in strangers if at is None else answered[at]:
            again.append((row_id, n))
            continue
        if at is None:
            strangers.add(key)
            stranger = stranger or row_id
        else:
            answered[at] = True
        counts = counts_of(counter, without if at is None else golden.rows.item(at), text)
        table.add(counts)
        answers.add(readable=counter.is_well_formed(text), claims=total(counts).pred > 0)
    warnings += _said_again(predictions, again)
    if strangers:
        warnings.append(f"{len(strangers)} predictions have no gold row (such as {stranger!r}): all false positives")
    unanswered = [n for n in golden.first.tolist() if not answered[n]]
    if missing := len(unanswered):
        fate = "left out, as published (--set scorer=corrected counts them)" if leave_out else "counted as missed"
        first = golden.rows.item(min(unanswered)).id
        warnings.append(f"{missing} gold rows have no prediction (such as {first!r}): {fate}")
    for n in () if leave_out else unanswered:
        table.add(counts_of(counter, golden.rows.item(n), ""))
    result = metrics.of_table(table.fields, table.rows(), intervals=False)
    to_find = any(figures["gold"] for figures in next(iter(result.values())).values())
    warnings += answers.warnings(len(golden.first), to_find=to_find)
    if mode is None:
        return result, warnings
    if mode not in result:
        text = f"That is a scorer: use --set scorer={mode}." if mode in ("published", "corrected") else ""
        raise UserError(f"no matching mode is called {mode!r}.{hint(mode, list(result))} {text}".strip())
    return {mode: result[mode]}, warnings


@dataclass
class _Answers:
    """Numbers of answers."""

    given: int = 0
    readable: int = 0
    claims: int = 0

    def add(self, *, readable: bool, claims: bool) -> None:
        self.given += 1
        self.readable += readable
        self.claims += readable and claims

    def warnings(self, rows: int, *, to_find: bool) -> list[str]:
        unreadable = self.given - self.readable
        if not to_find:
            return [metrics.nothing_to_find(rows, self.readable - self.claims, self.claims, unreadable)]
        return [f"{unreadable} of {self.given} answers are unreadable"] if unreadable else []


def score_rewards(
    reward: NamedReward, file: Path, *, task: str, params: Mapping[str, Any] = {}
) -> Iterator[dict[str, Any]]:
    """Reward and parts of each row's completion against the row's own gold, row by row."""
    reader: Task = resolve("tasks", PluginSpec.model_validate({"use": task, **params}))
    rows, grader = read_file(file, strict=True), Grader(reward)
    while block := list(islice(rows, HELD)):
        texts = [completion_of(row, n, file) for n, row in block]
        examples = [_graded(reader, row, n, file) for n, row in block]
        batch = grader.grade(texts, examples)
        if batch.failed is not None:
            raise UserError(f"{place(file, block[batch.failed][0])}: {batch.error}") from batch.error
        for example, graded in zip(examples, batch.graded, strict=True):
            if graded is not None:
                yield {"id": example.id, "reward": graded.scored.score, "parts": dict(graded.scored.parts)}


def _graded(task: Task, row: Row, n: int, path: Path) -> Example:
    # Rewards compare with the gold, so the file may lack the texts.
    bare = Example(id=str(row.get("id", n)), source="", prompt=(), gold=_gold(task, row, n, path))
    return task.example(row, id=bare.id) if row.get(task.text_field) else bare


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


class _Gold:
    """The gold rows of a file; memory holds 24 bytes of each. `first`: places of the first row of each id."""

    def __init__(self, task: Task, path: Path) -> None:
        self.rows, hashes = Store[Example](), array("Q")
        for row_id, n, row in _with_ids(path):
            hashes.append(text_hash(row_id))
            self.rows.append(_golden(task, row, n, path, row_id))
        self._hashes, self.first = np.unique(np.frombuffer(hashes, dtype=np.uint64), return_index=True)

    def place(self, key: int) -> int | None:
        """Where the row of a hashed id is."""
        at = int(np.searchsorted(self._hashes, np.uint64(key)))
        return int(self.first[at]) if at < len(self._hashes) and self._hashes[at] == key else None

    def again(self) -> Iterator[tuple[str, int]]:
        """Id and number of the rows whose id was there before."""
        for n in np.setdiff1d(np.arange(len(self.rows)), self.first).tolist():
            row = self.rows.item(n)
            yield row.id, row.meta["n"]


def _said_again(path: Path, again: Sequence[tuple[str, int]]) -> Iterator[str]:
    if again:
        row_id, n = again[0]
        first = f"{place(path, n)}: {row_id!r}"
        yield f"{len(again)} rows have an id that was there before, such as {first}; the first row counts"


def _with_ids(path: Path) -> Iterator[tuple[str, int, Row]]:
    empty = True
    for n, row in read_file(path, strict=True):
        try:
            row_id = label_text(row.get("id"))
        except ValueError as error:
            raise UserError(f"{place(path, n)}: id: {error}.") from None
        if row_id is None:
            raise UserError(f"{place(path, n)}: every row needs an id.")
        empty = False
        yield row_id, n, row
    if empty:
        raise UserError(f"{path} holds no rows.")


def _golden(task: Task, row: Row, n: int, path: Path, row_id: str) -> Example:
    """The gold of a row, with its text where the task looks values up in it."""
    text = row.get(task.text_field)
    if getattr(task, "grounded", False) and not isinstance(text, str):
        raise UserError(f"{place(path, n)}: grounded=true looks values up in {task.text_field}, and the row has none.")
    return Example(row_id, "", (), gold=_gold(task, row, n, path), meta={"text": text, "n": n})


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
