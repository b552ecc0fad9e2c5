"""Rows of the task `mine` from rows of entities: one question for each label of a row's schema.

Or rows of words and tags, the format in which next-token extraction is published (Cuckoo, arXiv 2502.11275), its prompt
with them.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from adapters.data_aug.mine.words import (
    LABELS,
    NO,
    OUTSIDE,
    YES,
    Kind,
    Place,
    around,
    occurrences,
    tags_of,
    words,
)

Row = dict[str, Any]
STATEMENT = "This text mentions a {label}"


@dataclass(frozen=True)
class Settings:
    """What is asked, and how many rows are kept.

    `question` and `statement` hold {label}; without a question a span row asks for the label by its name. `negatives`:
    the share of rows with nothing to find, at most; None for `max_rows`: all.
    """

    kind: Literal["span", "label"] = "span"
    question: str | None = None
    statement: str = STATEMENT
    negatives: float = 0.5
    max_rows: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError that names the parameter."""
        if not 0 <= self.negatives <= 1:
            raise ValueError(f"negatives is a share and must lie between 0 and 1, got {self.negatives!r}")
        for name in ("question", "statement"):
            if (given := getattr(self, name)) is not None and "{label}" not in given:
                raise ValueError(f"{name} must contain {{label}}")

    def instruction(self, label: str) -> str:
        """What is asked about a label."""
        template = self.statement if self.kind == "label" else self.question or "{label}"
        return template.replace("{label}", label)


@dataclass
class Built:
    """The rows, and what became of those that were read."""

    rows: list[Row] = field(default_factory=list)
    read: int = 0
    excluded: int = 0
    relations: int = 0
    repeated: int = 0
    empty_left_out: int = 0
    not_found: Counter[str] = field(default_factory=Counter)

    def summary(self) -> dict[str, Any]:
        """Counts for people and programs."""
        empty = sum(not row["gold"] for row in self.rows)
        counts = {"rows": len(self.rows), "positives": len(self.rows) - empty, "empty": empty}
        counts |= {"empty_left_out": self.empty_left_out, "excluded": self.excluded, "relations": self.relations}
        return {"read": self.read, **counts, "repeated": self.repeated, "not_found": dict(+self.not_found)}


def build(rows: Iterable[Mapping[str, Any]], settings: Settings, is_excluded: Callable[[str], bool]) -> Built:
    """Questions about the rows' texts, in their order. Raises ValueError for a row that holds no entities."""
    out = Built()
    made: dict[tuple[str, str], Row] = {}
    for row in rows:
        out.read += 1
        text, schema, gold = _parts(row, out.read)
        if is_excluded(text):
            out.excluded += 1
        elif any(isinstance(item, Mapping) for items in gold.values() for item in items or ()):
            out.relations += 1
        else:
            for label in schema:
                if (text, label) in made:
                    out.repeated += 1
                else:
                    made[text, label] = _row(row, text, label, gold, settings, out)
    out.rows = _drawn(list(made.values()), settings, out)
    return out


def as_nte(rows: Iterable[Row]) -> Iterator[Row]:
    """The rows as words and tags; all words of the prompt are outside, but for the answer of a label."""
    for row in rows:
        kind: Kind = row["kind"]
        before, after = around(kind, row["instruction"])
        of_text = words(row["text"])
        tags = [OUTSIDE] * len(before), tags_of(map(tuple, row["gold"] if kind == "span" else ()), of_text)
        if kind == "label":
            tags[0][YES if row["gold"] else NO] = LABELS.index("B")
        numbers = [*tags[0], *tags[1], *[OUTSIDE] * len(after)]
        yield {
            "id": row["id"],
            "words": [*before, *(word.text for word in of_text), *after],
            "ner": [LABELS[n] for n in numbers],
            "source": row["source"],
            "annotator": row["annotator"],
        }


def _parts(row: Mapping[str, Any], number: int) -> tuple[str, list[str], Mapping[str, Any]]:
    text, gold = row.get("text"), row.get("gold")
    schema = row.get("schema") or (list(gold) if isinstance(gold, Mapping) else None)
    if not isinstance(text, str) or not isinstance(gold, Mapping) or not isinstance(schema, list | tuple):
        raise ValueError(f"row {number} holds no entities: it needs text, schema and gold (adapters data convert)")
    return text, [str(label) for label in schema], gold


def _row(row: Mapping[str, Any], text: str, label: str, gold: Mapping[str, Any], settings: Settings, out: Built) -> Row:
    strings = [item for item in gold.get(label) or () if isinstance(item, str)]
    found: Any = bool(strings)
    if settings.kind == "span":
        places = _annotated(row.get("spans"), label, len(text))
        if places is None:
            places, missing = occurrences(text, strings)
            out.not_found[label] += len(missing)
        found = [list(place) for place in places]
    source = row.get("source")
    return {
        "id": str(row.get("id") or hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()),
        "text": text,
        "kind": settings.kind,
        "instruction": settings.instruction(label),
        "gold": found,
        "source": source if isinstance(source, str) else "",
        "annotator": "human",
    }


def _annotated(spans: Any, label: str, length: int) -> list[Place] | None:
    """The annotated places of a label, the longest of overlapping ones; None where a row has no such column."""
    if not isinstance(spans, list):
        return None
    places: list[Place] = []
    for span in spans:
        start, end, name = (
            (span.get("start"), span.get("end"), span.get("label")) if isinstance(span, Mapping) else (*span, None)[:3]
        )
        if name == label and isinstance(start, int) and isinstance(end, int) and 0 <= start < end <= length:
            places.append((start, end))
    kept: list[Place] = []
    for start, end in sorted(set(places), key=lambda p: (p[0] - p[1], p)):
        if not any(a < end and start < b for a, b in kept):
            kept.append((start, end))
    return sorted(kept)


def _drawn(rows: list[Row], settings: Settings, out: Built) -> list[Row]:
    """The rows that are kept, in their order; which ones is a function of the seed, id and question."""
    ranked = sorted(range(len(rows)), key=lambda n: _rank(rows[n], settings.seed))
    positives = sum(bool(row["gold"]) for row in rows)
    share = settings.negatives
    most = len(rows) if share == 1 else round(positives * share / (1 - share))
    empty = [n for n in ranked if not rows[n]["gold"]][:most]
    out.empty_left_out = len(rows) - positives - len(empty)
    kept = {*empty, *(n for n in ranked if rows[n]["gold"])}
    chosen = [n for n in ranked if n in kept][: settings.max_rows]
    return [rows[n] for n in sorted(chosen)]


def _rank(row: Row, seed: int) -> bytes:
    key = f"{seed}\n{row['id']}\n{row['instruction']}"
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
