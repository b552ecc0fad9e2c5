"""Sentences in the formats that other programs read: spans JSONL, CoNLL, Label Studio."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from adapters.data.formats import label_studio
from adapters.data.formats.base import LeftOut
from adapters.data_aug.ie import row_id
from adapters.data_aug.ie.sentences import Entity, Sentence


def spans(sentences: Iterable[Sentence], left_out: LeftOut) -> Iterator[dict[str, Any]]:
    """Rows of text, spans [start, end, label] and relations [head, tail, label], whose ends are numbers of spans."""
    for sentence in sentences:
        whole = [e for e in dict.fromkeys(sentence.entities) if len(e.ranges) == 1]
        left_out["mentions in several pieces"] += len(set(sentence.entities)) - len(whole)
        whole.sort(key=lambda e: (e.ranges, e.label))
        numbers = {entity: n for n, entity in enumerate(whole)}
        joined = [r for r in sentence.relations if r.head in numbers and r.tail in numbers]
        left_out["relations without their mentions"] += len(sentence.relations) - len(joined)
        relations = [[numbers[r.head], numbers[r.tail], r.label] for r in joined]
        marks = [[*e.ranges[0], e.label] for e in whole]
        yield {"id": row_id(sentence.text), "text": sentence.text, "spans": marks, "relations": relations}


def conll(sentences: Iterable[Sentence], left_out: LeftOut) -> Iterator[str]:
    """Lines of token, tab and BIO tag. A token never goes over the edge of a mention; white space is not kept.

    Of mentions that overlap the longest is kept. Raises ValueError for a label that a column cannot hold.
    """
    for sentence in sentences:
        left_out["relations, which CoNLL does not hold"] += len(sentence.relations)
        kept = _flat(sentence, left_out)
        edges = {edge for start, end, _ in kept for edge in (start, end)}
        lines = []
        for start, end in _tokens(sentence.text, edges):
            mention = next(((a, label) for a, b, label in kept if a <= start < b), None)
            tag = "O" if mention is None else f"{'B' if mention[0] == start else 'I'}-{mention[1]}"
            lines.append(f"{sentence.text[start:end]}\t{tag}\n")
        left_out["texts without words"] += not lines
        if lines:
            yield "".join([*lines, "\n"])


def _flat(sentence: Sentence, left_out: LeftOut) -> list[tuple[int, int, str]]:
    kept: list[tuple[int, int, str]] = []
    for entity in sorted(dict.fromkeys(sentence.entities), key=_longest_first):
        (start, end), more = entity.ranges[0], entity.ranges[1:]
        if any(c in entity.label for c in "\t\r\n") or entity.label != entity.label.strip():
            raise ValueError(
                f"the label {entity.label!r} has white space that a column of CoNLL cannot hold; rename it"
            )
        # A byte-order mark is white space to readers.
        start += next((n for n, c in enumerate(sentence.text[start:end]) if not _is_blank(c)), 0)
        if more or any(a < end and start < b for a, b, _ in kept):
            left_out["mentions in several pieces" if more else "mentions that overlap a longer one"] += 1
        else:
            kept.append((start, end, entity.label))
    return kept


def _longest_first(entity: Entity) -> tuple[int, int, str]:
    start, end = entity.ranges[0]
    return start - end, start, entity.label


def _is_blank(c: str) -> bool:
    return c.isspace() or c == "\ufeff"


def _tokens(text: str, edges: set[int]) -> Iterator[tuple[int, int]]:
    """Start and end of words and of single signs; marks, joiners and selectors stay with what they follow."""
    start, in_word = -1, False
    for n, c in enumerate([*text, " "]):
        blank, letter = _is_blank(c), c.isalnum() or c == "_"
        if start >= 0 and not blank and n not in edges and ((in_word and letter) or _continues(text, n)):
            continue
        if start >= 0:
            yield start, n
        start, in_word = (-1 if blank else n), letter


def _continues(text: str, n: int) -> bool:
    c, before = text[n], text[n - 1]
    return (
        unicodedata.category(c).startswith("M")
        or c == "\u200d"
        or before == "\u200d"
        or "\U0001f3fb" <= c <= "\U0001f3ff"
    )


Writer = Callable[[list[Sentence], LeftOut], Iterable[Any]]
WRITERS: dict[str, Writer] = {
    "spans": spans,
    "conll": conll,
    "labelstudio": lambda sentences, left_out: label_studio.tasks(sentences, left_out, "data convert"),
}
"""Formats to write: JSON rows, texts (CoNLL), or tasks of one JSON list (Label Studio)."""
