"""The rows of the view of an extraction, as blocks of JSON, and what its filters know of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any

from adapters.errors import UserError
from adapters.evaluation import alignment
from adapters.extraction.files import blocks
from adapters.files import json_line
from adapters.report.view_source import Extraction, lines
from adapters.types import Aligned, Row

MATCHES = ("exact", "normalised", "fuzzy", "absent")
BLOCK = 500
"""Rows that the page reads at once."""
NO_RECORD, DIFFERS = 1, 4
"""Bits of a row's flags in the page."""


@dataclass(slots=True)
class Index:
    """What the filters of the page need to know of all rows, without their texts."""

    labels: dict[str, int] = field(default_factory=dict)
    facets: dict[tuple[int, int, int | None], int] = field(default_factory=dict)
    """(label, match, confidence in percent) -> number."""
    rows: list[list[int]] = field(default_factory=list)
    flags: list[int] = field(default_factory=list)
    texts: int = 0
    grounded: int = 0
    confident: int = 0
    gold: int = 0


def write_blocks(made: Extraction, index: Index, file: IO[bytes]) -> None:
    """Write the rows in elements that no browser runs, and note them in the index. Raises UserError."""
    for number, block in enumerate(blocks(lines(made), BLOCK)):
        rows = [embedded(_checked_row(made, index, line, row)) for line, row in block]
        opening = f'<script type="application/json" id="rows-{number}">['
        file.write(opening.encode() + b",\n".join(rows) + b"]</script>\n")


def embedded(value: Mapping[str, Any]) -> bytes:
    """JSON that no HTML parser takes for a tag."""
    return json_line(value).rstrip().replace(b"<", b"\\u003c")


def _checked_row(made: Extraction, index: Index, line: Mapping[str, Any], row: Row) -> dict[str, Any]:
    try:
        return _row(made, index, line, row)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        raise UserError(f"{made.out}, row {line['row']}: the column spans does not fit the record.") from None


def _row(made: Extraction, index: Index, line: Mapping[str, Any], row: Row) -> dict[str, Any]:
    """One row of the page, noted in the index."""
    text, record, spans = row.get(made.settings["text"]), line.get("record"), line.get("spans")
    text = text if isinstance(text, str) and text else None
    differing = None if record is None else _differing(made, index, record, row)
    index.texts += text is not None
    index.grounded += spans is not None
    index.rows.append(sorted(set(_facets(made, index, record, spans or ()))))
    index.flags.append(NO_RECORD * (record is None) + DIFFERS * bool(differing))
    out = {"row": line["row"], "id": str(line.get("id")), "text": text, "record": record, "error": line.get("error")}
    out |= {"spans": None if spans is None else [_short(span) for span in spans]}
    out |= {"completion": line["completion"]} if line.get("completion") else {}
    out |= {"gold": differing} if differing else {}
    if made.by_label:
        out["more"] = {name: row[name] for name in ("schema", "task") if row.get(name)}
    return out


def _short(span: Mapping[str, Any]) -> list[Any]:
    place = [span["start"], span["end"]]
    others = [mention for mention in span.get("mentions") or () if list(mention) != place]
    return [span["path"], MATCHES.index(span["match"]), *place, _sure(span), others]


def _sure(span: Mapping[str, Any]) -> float | None:
    """Confidence of a value; in an output without it the score of a fuzzy match."""
    value = span.get("confidence")
    if value is None and span["match"] == "fuzzy":
        value = span["score"]
    return None if value is None else round(float(value), 3)


def _facets(made: Extraction, index: Index, record: Any, spans: Iterable[Mapping[str, Any]]) -> Iterator[int]:
    for span in spans:
        index.confident += span.get("confidence") is not None
        label = _label(made, record, span["path"])
        if label is None:
            continue
        sure = _sure(span)
        percent = None if sure is None else math.ceil(round(sure * 100, 6))
        key = index.labels.setdefault(label, len(index.labels)), MATCHES.index(span["match"]), percent
        yield index.facets.setdefault(key, len(index.facets))


def _label(made: Extraction, record: Any, path: str) -> str | None:
    """The name of a value: of a labelled item its label, elsewhere the last key; None for a label itself."""
    parts = path.split(".")
    if made.by_label:
        return None if parts[-1] == "label" else str(record[int(parts[0])]["label"])
    return next((part for part in reversed(parts) if not part.isdigit()), "value")


def _differing(made: Extraction, index: Index, record: Any, row: Row) -> list[Aligned] | None:
    """The record beside the row's labels as the task compares them; None where it agrees, or there are none."""
    task = made.task
    if not any(row.get(name) is not None for name in (made.form["gold"], "gold")):
        return None
    try:
        gold = task.gold(row)
        answer = _items_by_label(record) if made.by_label else record
        compared = [] if gold == answer else alignment.align(task, gold, task.answer(answer))
    except Exception:  # another package's task (None here), or labels and records that it cannot read
        return None
    index.gold += 1
    return compared if any(not pair.matched for pair in compared) else None


def _items_by_label(record: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    out: dict[str, list[Any]] = {}
    for item in record:
        ends = {"head": item["head"], "tail": item["tail"]}
        out.setdefault(item["label"], []).append(ends if item["text"] is None else item["text"])
    return out
