"""Span scores of the entities that a model names, as papers report them.

Every free-standing occurrence of an answered string in the text counts as predicted, so occurrences that the annotators
did not mark, and strings that the text lacks, are false positives.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unicodedata import normalize

from rich.table import Table

from adapters.data.rows import place, read_file
from adapters.data_aug.noise import Label, find_spans
from adapters.errors import UserError
from adapters.evaluation.score_files import completion_of
from adapters.plugins.registry import resolve
from adapters.recipe.fields import PluginSpec

STRATEGIES = ("strict", "exact", "partial", "ent_type")
"""Of nervaluate (SemEval 2013, task 9.1); partial overlap gets half credit."""

Mention = Mapping[str, Any]


def score_spans(predictions: Path, gold: Path, params: Mapping[str, Any]) -> dict[str, Any]:
    """Figures by strategy over all entities, and by label in the strict one.

    Predictions with one id are merged: those of a text that was asked about in several batches of its schema. Where
    gold has a column `variant` (noise), id and variant name a row. Raises UserError for two texts under one name.
    """
    try:
        from nervaluate.evaluator import Evaluator
    except ImportError:
        raise UserError("span scores need nervaluate: pip install -e '.[ie]' in the repository") from None
    task = resolve("tasks", PluginSpec.model_validate({"use": "ie", **params}))
    rows = list(read_file(gold, strict=True))
    has_variants = any("variant" in row for _, row in rows)
    answers: dict[tuple[str, Any], set[Any]] = defaultdict(set)
    for number, row in read_file(predictions, strict=True):
        completion = completion_of(row, number, predictions)
        if has_variants or not row.get("variant"):  # else further label orders ask the same question again
            answers[_name(row, has_variants)] |= task.read(completion).items
    true, pred = [], []
    texts: dict[tuple[str, Any], str] = {}
    for number, row in rows:
        if (name := _name(row, has_variants)) not in answers:
            continue
        if not isinstance(row.get("spans"), list) or not isinstance(row.get("text"), str):
            raise UserError(f"{place(gold, number)}: no spans; `adapters data convert` keeps them.")
        if texts.setdefault(name, row["text"]) != row["text"]:
            raise UserError(
                f"{place(gold, number)}: a second text with the id {name[0]!r}; give each an id of its own."
            )
        try:
            true.append(list(_annotated(task, row)))
        except (ValueError, TypeError, KeyError) as error:
            remedy = "A span is [start, end, label], in characters of the row's text"
            raise UserError(f"{place(gold, number)}: spans: {error}. {remedy}.") from None
        pred.append(_located(row["text"], sorted(item for item in answers[name] if len(item) == 2)))
    if not true:
        named = "id and variant" if has_variants else "id"
        raise UserError(f"no {named} of {predictions} stands in {gold}.")
    labels = sorted({mention["label"] for side in (true, pred) for text in side for mention in text})
    result = Evaluator(true, pred, tags=labels, loader="dict").evaluate()
    return {
        "n": len(true),
        "overall": {name: vars(result["overall"][name]) for name in STRATEGIES},
        "strict_by_label": {label: vars(result["entities"][label]["strict"]) for label in labels},
    }


def tables(result: Mapping[str, Any], title: str) -> Iterator[Table]:
    """A table of the strategies and one of the labels."""
    for name, lines in (("all labels", result["overall"]), ("strict, by label", result["strict_by_label"])):
        table = Table("", title=f"{title} ({result['n']} texts), {name}", title_justify="left")
        for column in ("P", "R", "F1", "possible", "actual", "correct"):
            table.add_column(column, justify="right")
        for label, f in lines.items():
            scores = [f"{f[k]:.4f}" for k in ("precision", "recall", "f1")]
            table.add_row(label, *scores, *(f"{f[k]:,}" for k in ("possible", "actual", "correct")))
        yield table


def _name(row: Mapping[str, Any], has_variants: bool) -> tuple[str, Any]:
    return str(row.get("id")), row.get("variant") if has_variants else None


def _annotated(task: Any, row: Mapping[str, Any]) -> Iterator[Mention]:
    """The annotated mentions of a row. Raises ValueError for one whose text is not what the row's gold names."""
    text, items = row["text"], task.items(task.gold(row))
    for span in row["spans"]:
        start, end, label = [span[key] for key in ("start", "end", "label")] if isinstance(span, dict) else span
        surface = text[start:end]
        if not surface.strip() or not task.items({label: [surface]}) <= items:
            raise ValueError(f"at {start} to {end} stands {surface!r}, which gold does not name as {label}")
        start += len(surface) - len(surface.lstrip())  # gold is read without blanks at its ends
        yield _mention(label, start, start + len(surface.strip()))


def _located(text: str, items: Sequence[tuple[str, str]]) -> list[Mention]:
    """Every occurrence of every item; one that the text lacks stands after its end."""
    # Items are read with single blanks and composed accents; the text may have line breaks and marks of their own.
    characters = list(re.finditer(r"\s+|\S", text))
    even = "".join(" " if c[0].isspace() else c[0] for c in characters)
    forms = [(n, {item[1], normalize("NFD", item[1])}) for n, item in enumerate(items)]
    spans = find_spans(even, [Label((n,), "exact", form) for n, both in forms for form in sorted(both)])
    ends = [(characters[span.start].start(), characters[span.end - 1].end()) for span in spans]
    places = [(int(span.path[0]), *end) for span, end in zip(spans, ends, strict=True) if span.path]
    absent = sorted(set(range(len(items))) - {n for n, _, _ in places})
    places += [(n, len(text) + 2 * k, len(text) + 2 * k + 1) for k, n in enumerate(absent)]
    return [_mention(items[n][0], start, end) for n, start, end in places]


def _mention(label: str, start: int, end: int) -> Mention:
    return {"label": label, "start": start, "end": end - 1}  # the library's ends are inclusive
