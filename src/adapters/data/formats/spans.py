"""Formats that place mentions by offsets: doccano, Prodigy, spaCy, spans JSONL and the rows of the task ie."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from adapters.data.formats.base import Format, LeftOut, Mention, document
from adapters.data.formats.source import Source
from adapters.data_aug.ie import is_iepile
from adapters.data_aug.ie.sentences import Entity, Options, Sentence
from adapters.data_aug.noise import Label, find_spans


def count_keys(record: Mapping[str, Any], known: Sequence[str], left_out: LeftOut) -> None:
    """Count the values under keys that nobody reads, empty ones apart."""
    for key, value in record.items():
        if key not in known and value not in (None, "", [], {}):
            left_out[f"values of {key}"] += 1


def mentions_of(entries: Any, place: str, names: Sequence[str]) -> list[Mention]:
    """Mentions from objects with start, end and label under these names, or from lists of the three."""
    if not isinstance(entries, list):
        raise ValueError(f"{place}: {entries!r:.60} is no list of mentions")
    found = []
    for n, entry in enumerate(entries):
        values = [entry.get(name) for name in names] if isinstance(entry, dict) else entry
        if not isinstance(values, list) or len(values) != 3 or not _is_mention(*values):
            raise ValueError(f"{place}: {entry!r:.80} is no mention with {', '.join(names)}")
        start, end, label = values
        surface = entry.get("text") if isinstance(entry, dict) else None
        found.append(Mention(start, end, label, n, surface if isinstance(surface, str) else None))
    return found


def _is_mention(start: Any, end: Any, label: Any) -> bool:
    return type(start) is int and type(end) is int and isinstance(label, str) and bool(label)


def _are_triples(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(e, list) and len(e) == 3 and _is_mention(*e) for e in value)


def _have(value: Any, *keys: str) -> bool:
    return isinstance(value, list) and all(isinstance(e, dict) and all(k in e for k in keys) for e in value)


# ------------------------------------------------------------------------------------------------------------ doccano

_DOCCANO_TEXT = ("text", "data")
_DOCCANO_KEYS = (*_DOCCANO_TEXT, "id", "label", "labels", "entities", "relations", "annotations", "meta", "Comments")
_OFFSETS = ("start_offset", "end_offset", "label")


def _is_doccano(record: Any) -> bool:
    if not isinstance(record, dict) or not any(isinstance(record.get(key), str) for key in _DOCCANO_TEXT):
        return False
    lists = [record[key] for key in ("label", "labels") if key in record]
    if any(_are_triples(value) for value in lists):
        return True
    return any(_have(record.get(key), *_OFFSETS) for key in ("entities", "annotations"))


def _doccano(source: Source, options: Options, left_out: LeftOut) -> Iterator[Sentence]:
    for place, record in source.records():
        if not _is_doccano(record):
            raise ValueError(f"{place}: no text with label [[start, end, label]] or entities")
        text = next(record[key] for key in _DOCCANO_TEXT if isinstance(record.get(key), str))
        key = next(key for key in ("entities", "annotations", "label", "labels") if isinstance(record.get(key), list))
        mentions = mentions_of(record[key], place, _OFFSETS)
        if key in ("entities", "annotations"):
            mentions = [
                Mention(m.start, m.end, m.label, entry["id"] if isinstance(entry.get("id"), str | int) else n)
                for n, (m, entry) in enumerate(zip(mentions, record[key], strict=True))
            ]
        relations = record.get("relations") or []
        if not _have(relations, "from_id", "to_id", "type"):
            raise ValueError(f"{place}: relations must be objects with from_id, to_id and type")
        triples = [(str(r["type"]), r["from_id"], r["to_id"]) for r in relations]
        left_out["comments"] += bool(record.get("Comments"))
        count_keys(record, _DOCCANO_KEYS, left_out)
        yield from document(text, mentions, triples, place, options, left_out)


DOCCANO = Format(
    "doccano JSONL",
    "texts",
    {"ie": _doccano},
    '{"text": "Mira Holt flew to Lima .", "label": [[0, 9, "person"], [18, 22, "place"]]}',
    ("text", "label", "labels", "entities", "relations"),
    _is_doccano,
)

# -------------------------------------------------------------------------------------------------- Prodigy and spaCy

_PRODIGY_KEYS = ("text", "spans", "ents", "relations", "answer", "tokens", "id", "meta")
_BOOKKEEPING = ("_input_hash", "_task_hash", "_view_id", "_session_id", "_annotator_id", "_timestamp", "_is_binary")
_BOUNDS = ("start", "end", "label")


def _is_prodigy(record: Any) -> bool:
    if isinstance(record, list):
        return (
            len(record) == 2 and isinstance(record[0], str) and isinstance(record[1], dict) and "entities" in record[1]
        )
    if not isinstance(record, dict) or not isinstance(record.get("text"), str):
        return False
    return any(_have(record.get(key), *_BOUNDS) for key in ("spans", "ents")) and "gold" not in record


def _prodigy(source: Source, options: Options, left_out: LeftOut) -> Iterator[Sentence]:
    for place, record in source.records():
        if isinstance(record, list) and _is_prodigy(record):
            count_keys(record[1], ("entities",), left_out)
            entities = record[1]["entities"] or []
            if isinstance(entities, list):
                entities = [e[:3] if isinstance(e, list) else e for e in entities]  # spaCy 2 allowed an id as fourth
            yield from document(record[0], mentions_of(entities, place, _BOUNDS), (), place, options, left_out)
            continue
        if not isinstance(record, dict) or not isinstance(record.get("text"), str):
            raise ValueError(f"{place}: no text with spans of start, end and label")
        if (answer := record.get("answer", "accept")) != "accept":
            left_out[f"texts with the answer {answer}"] += 1
            continue
        mentions = mentions_of(record.get("spans", record.get("ents")) or [], place, _BOUNDS)
        joined = record.get("relations") or []
        if not _have(joined, "label"):
            raise ValueError(f"{place}: relations must be objects with a label")
        relations = [(str(r["label"]), *_ends(r, mentions)) for r in joined]
        count_keys(record, (*_PRODIGY_KEYS, *_BOOKKEEPING), left_out)
        yield from document(record["text"], mentions, relations, place, options, left_out)


def _ends(relation: Mapping[str, Any], mentions: Sequence[Mention]) -> tuple[int | None, int | None]:
    """Numbers of the mentions that a relation of Prodigy joins; None for a bare token."""
    ends = [relation.get(key) for key in ("head_span", "child_span")]
    bounds = [(e.get("start"), e.get("end")) if isinstance(e, dict) else None for e in ends]
    head, child = (next((m.name for m in mentions if (m.start, m.end) == b), None) for b in bounds)
    return head, child


PRODIGY = Format(
    "Prodigy or spaCy JSONL",
    "texts",
    {"ie": _prodigy},
    '{"text": "Mira Holt flew to Lima .", "spans": [{"start": 0, "end": 9, "label": "person"}]}',
    ("text", "spans", "ents", "answer", "tokens"),
    _is_prodigy,
)

# ------------------------------------------------------------------------------------------------------------- spans


def _is_spans(record: Any) -> bool:
    return isinstance(record, dict) and isinstance(record.get("text"), str) and "gold" not in record and (
        _are_triples(record.get("spans"))
    )  # fmt: skip


def spans_sentence(record: Mapping[str, Any], place: str, options: Options, left_out: LeftOut) -> Iterator[Sentence]:
    """The sentence of a row of text, spans and relations. Raises ValueError."""
    mentions = mentions_of(record.get("spans"), place, _BOUNDS)
    relations = record.get("relations") or []
    if not isinstance(relations, list) or not all(isinstance(r, list) and len(r) == 3 for r in relations):
        raise ValueError(f"{place}: relations must be lists of head, tail and label; both ends are numbers of spans")
    count_keys(record, ("text", "spans", "relations", "id"), left_out)
    triples = [(str(label), head, tail) for head, tail, label in relations]
    yield from document(record.get("text"), mentions, triples, place, options, left_out)


def _spans(source: Source, options: Options, left_out: LeftOut) -> Iterator[Sentence]:
    for place, record in source.records():
        if not isinstance(record, dict):
            raise ValueError(f"{place}: no text with spans")
        yield from spans_sentence(record, place, options, left_out)


SPANS = Format(
    "spans JSONL",
    "texts",
    {"ie": _spans},
    '{"text": "Mira Holt flew to Lima .", "spans": [[0, 9, "person"], [18, 22, "place"]], "relations": []}',
    ("text", "spans", "relations"),
    _is_spans,
)

# --------------------------------------------------------------------------------------------- rows of the task ie


def _is_row(record: Any) -> bool:
    return (
        isinstance(record, dict)
        and isinstance(record.get("text"), str)
        and isinstance(record.get("gold"), dict)
        and not is_iepile(record)
    )


def _rows(source: Source, options: Options, left_out: LeftOut) -> Iterator[Sentence]:
    for place, record in source.records():
        if not _is_row(record):
            raise ValueError(f"{place}: no row with text and gold")
        yield from row_sentence(record, place, left_out)


def row_sentence(row: Mapping[str, Any], place: str, left_out: LeftOut) -> Iterator[Sentence]:
    """The sentence of a row for ie: its spans, and for gold without spans every occurrence. Raises ValueError."""
    if row.get("task") == "RE":
        left_out["rows of relations, which have no offsets"] += 1
        return
    text = row["text"]
    given = mentions_of(row.get("spans") or [], place, _BOUNDS)
    if not all(0 <= m.start < m.end <= len(text) for m in given):
        raise ValueError(f"{place}: a span is no range of the text")
    spans = {(m.label, (m.start, m.end)) for m in given}
    marked = {(label, text[start:end]) for label, (start, end) in spans}
    for label, entries in row["gold"].items():
        if not isinstance(entries, list | None):
            raise ValueError(f"{place}: gold of {label!r} is {entries!r:.60}, not a list")
        for entry in entries or ():
            if not isinstance(entry, str):
                raise ValueError(f"{place}: gold of {label!r} is {entry!r:.60}, not a text")
            if (label, entry) in marked:
                continue
            places = [(span.start, span.end) for span in find_spans(text, [Label((), "exact", entry)])]
            left_out["entries that the text does not hold"] += not places
            spans |= {(label, bounds) for bounds in places}
    entities = [Entity(label, (bounds,)) for label, bounds in sorted(spans, key=lambda span: (span[1], span[0]))]
    yield Sentence(text, entities)


ROWS = Format(
    "rows for the task ie",
    "rows",
    {"ie": _rows},
    '{"text": "Mira Holt flew .", "task": "NER", "schema": ["person"], "gold": {"person": ["Mira Holt"]}}',
    ("text", "task", "schema", "gold", "spans"),
    _is_row,
    tasks=("NER",),
)
