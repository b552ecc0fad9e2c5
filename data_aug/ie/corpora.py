"""Annotated corpora as plain rows; the readers of SpERT, brat and IEPile."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from adapters.data_aug.ie.conll import conll_sentences
from adapters.data_aug.ie.records import Row, from_iepile, row_id
from adapters.data_aug.ie.sentences import (
    Corpus,
    Entity,
    Options,
    Relation,
    Sentence,
    text_lines,
    token_starts,
    without_blank_mentions,
)

T = TypeVar("T")


def spert_sentences(path: Path, options: Options, left_out: Counter[str]) -> Iterator[Sentence]:
    """Read SpERT's JSON: a list of sentences with tokens, entities and relations. Raises ValueError for other JSON."""
    try:
        documents = json.loads("\n".join(text_lines(options.read_text(path))))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"is not JSON: {error}") from None
    if not isinstance(documents, list):
        raise ValueError("is no list of sentences")
    for number, document in enumerate(documents, 1):
        yield spert_sentence(document, f"sentence {number}", left_out)


def spert_sentence(document: Any, place: str, left_out: Counter[str]) -> Sentence:
    """A sentence of SpERT's JSON.

    It is `{"tokens", "entities": [{"type", "start", "end"}], "relations": [{"type", "head", "tail"}]}`. Entities are
    token ranges, relations indices into them. Raises ValueError for another record.
    """
    try:
        return without_blank_mentions(_spert_sentence(document), left_out)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"{place} is not SpERT's: {type(error).__name__} {error}") from None


def _spert_sentence(document: Mapping[str, Any]) -> Sentence:
    tokens, entities = document["tokens"], []
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise TypeError("tokens must be texts")
    starts = token_starts(tokens)
    for entity in document["entities"]:
        start, end, label = entity["start"], entity["end"], entity["type"]
        if not isinstance(label, str) or not 0 <= start < end <= len(tokens):
            raise IndexError(f"the entity {label!r} from {start} to {end} is no range of {len(tokens)} tokens")
        entities.append(Entity(label, ((starts[start], starts[end] - 1),)))
    relations = []
    for relation in document.get("relations") or ():
        head, tail = relation["head"], relation["tail"]
        if not 0 <= min(head, tail) <= max(head, tail) < len(entities):
            raise IndexError(f"the relation from {head} to {tail} is of no entities")
        relations.append(Relation(str(relation["type"]), entities[head], entities[tail]))
    return Sentence(" ".join(tokens), entities, relations)


def brat_sentences(path: Path, options: Options, left_out: Counter[str]) -> Iterator[Sentence]:
    """Read brat's standoff files: a folder of NAME.txt and NAME.ann.

    A line of the text is a sentence. Only T and R annotations are read; a relation's first argument is its head.
    Mentions that cross a line, and relations with an end in another line, are counted as left out. Raises ValueError
    for a folder without such pairs and for broken lines.
    """
    texts = sorted(p for p in path.rglob("*.txt") if p.with_suffix(".ann").is_file()) if path.is_dir() else []
    if not texts:
        raise ValueError("is no folder with pairs of .txt and .ann files")
    for text_file in texts:
        text = options.read_text(text_file)
        annotations = text_file.with_suffix(".ann")
        mentions, relations = _standoff(annotations.name, options.read_text(annotations), text, left_out)
        placed: dict[str, tuple[int, Entity]] = {}
        by_line: dict[int, tuple[list[Entity], list[Relation]]] = {}
        lines = [(m.start(), m.end()) for m in re.finditer(r"[^\r\n\ufeff][^\r\n]*", text)]
        for name, entity in mentions.items():
            inside = [n for n, (a, b) in enumerate(lines) if a <= entity.ranges[0][0] and entity.ranges[-1][1] <= b]
            if not inside:
                left_out["mentions across lines"] += 1
                continue
            begin = lines[inside[0]][0]
            moved = Entity(entity.label, tuple((a - begin, b - begin) for a, b in entity.ranges))
            placed[name] = inside[0], moved
            by_line.setdefault(inside[0], ([], []))[0].append(moved)
        for label, head, tail in relations:
            if head in placed and tail in placed and placed[head][0] == placed[tail][0]:
                line, first = placed[head]
                by_line[line][1].append(Relation(label, first, placed[tail][1]))
            else:
                left_out["relations across lines"] += 1
        yield from (Sentence(text[a:b], *by_line.get(n, ((), ()))) for n, (a, b) in enumerate(lines))


_MENTION = re.compile(r"(T\S+)\t(\S+) (\d+ \d+(?:;\d+ \d+)*)(?:\t(.*))?")
_RELATION = re.compile(r"R\S+\t(\S+) \S+?:(T\S+) \S+?:(T\S+)\s*")


def _standoff(
    name: str, annotations: str, text: str, left_out: Counter[str]
) -> tuple[dict[str, Entity], list[tuple[str, str, str]]]:
    """The mentions of a text by name, and its relations. Raises ValueError, also for a mention that stands elsewhere.

    A byte-order mark is a character of the text for some annotators, and none for others.
    """
    mentions: dict[str, Entity] = {}
    relations: list[tuple[str, str, str]] = []
    shift = 0
    for number, line in enumerate(text_lines(annotations), 1):
        if line.startswith("T") and (match := _MENTION.fullmatch(line)):
            entity = Entity(match[2], tuple(_bounds(bounds) for bounds in match[3].split(";")))
            if match[4] is not None and not _says(entity, text, match[4]):
                if text[:1] != "\ufeff" or not _says(entity, text[1:], match[4]):
                    raise ValueError(f"{name}, line {number}: {match[4][:60]!r} does not stand at {match[3]}")
                shift = 1
            if match[1] in mentions:
                raise ValueError(f"{name}, line {number}: a second mention is called {match[1]}")
            mentions[match[1]] = entity
        elif line.startswith("R") and (match := _RELATION.fullmatch(line)):
            relations.append((match[1], match[2], match[3]))
        elif line.startswith(("T", "R")):
            raise ValueError(f"{name}, line {number} is not brat's: {line.strip()[:60]!r}")
        elif line.strip():
            left_out["events, attributes, equivalences and notes"] += 1
    if shift:
        mentions = {name: Entity(e.label, tuple((a + 1, b + 1) for a, b in e.ranges)) for name, e in mentions.items()}
    return mentions, relations


def _bounds(text: str) -> tuple[int, int]:
    start, end = map(int, text.split())
    return start, end


def _says(entity: Entity, text: str, surface: str) -> bool:
    """Whether a mention's ranges hold this text, line breaks and other blanks apart."""
    return entity.surface(text).split() == surface.split()


def read_iepile(path: Path, options: Options) -> Corpus:
    """Read a JSONL file of IEPile records, which have their own schemas and labels."""
    rows: list[Row] = []
    for number, line in enumerate(text_lines(options.read_text(path)), 1):
        if line.strip():
            try:
                rows.append(from_iepile(json.loads(line)))
            except (ValueError, RecursionError, AttributeError) as error:
                raise ValueError(f"line {number}: {error}") from None
    if options.drop_empty:
        rows = [row for row in rows if any(row["gold"].values())]
    return Corpus([{**row, "source": options.source or row["source"]} for row in rows])


Annotations = Callable[[Path, Options, "Counter[str]"], Iterable[Sentence]]
"""A reader of sentences, which counts what it leaves out."""


def _read(annotations: Annotations, tasks: Sequence[str], path: Path, options: Options) -> Corpus:
    left_out: Counter[str] = Counter()
    return corpus(annotations(path, options, left_out), options, tasks, left_out)


READERS: dict[str, Callable[[Path, Options], Corpus]] = {
    "conll": partial(_read, conll_sentences, ("NER",)),
    "spert": partial(_read, spert_sentences, ("NER", "RE")),
    "brat": partial(_read, brat_sentences, ("NER", "RE")),
    "iepile": read_iepile,
}
"""Readers by format. Each raises ValueError that says what in the file is wrong."""


def corpus(sentences: Iterable[Sentence], options: Options, tasks: Sequence[str], left_out: Counter[str]) -> Corpus:
    """Sentences as rows for the task ie. `left_out` is added to. Raises ValueError for labels that do not fit."""
    kept = [renamed(sentence, options.labels) for sentence in sentences]
    rows: list[Row] = []
    wanted = [task for task in tasks if task in options.tasks]
    labels = {t: dict.fromkeys(label for sentence in kept for label, _ in _labelled(sentence, t)) for t in wanted}
    labels = {task: seen for task, seen in labels.items() if seen or (options.schema and len(wanted) == 1)}
    if not labels:
        raise ValueError(f"has no labels for {' or '.join(options.tasks)}")
    if options.schema and len(labels) > 1:
        raise ValueError("has entities and relations; a schema is one task's, so choose the task too")
    for task, seen_labels in labels.items():
        if unknown := [label for label in seen_labels if options.schema and label not in options.schema]:
            raise ValueError(f"has the label {unknown[0]!r}, which the given schema lacks; rename it, or to nothing")
        schema = options.schema or list(seen_labels)
        by_text = ((sentence.text, _row(sentence, task, schema, options.source)) for sentence in kept)
        rows += _selected(by_text, options, left_out, lambda row: any(row["gold"].values()))
    return Corpus(rows, {reason: n for reason, n in left_out.items() if n})


def selected(sentences: Iterable[Sentence], options: Options, left_out: Counter[str]) -> Iterator[Sentence]:
    """The sentences with their labels renamed, without doubles and, if wanted, without those that have no label."""
    kept = (renamed(sentence, options.labels) for sentence in sentences)
    return _selected(((s.text, s) for s in kept), options, left_out, lambda s: bool(s.entities or s.relations))


def _selected(
    records: Iterable[tuple[str, T]], options: Options, left_out: Counter[str], has_labels: Callable[[T], bool]
) -> Iterator[T]:
    seen: set[str] = set()
    for text, record in records:
        reason = "without labels" if options.drop_empty and not has_labels(record) else ""
        if text in seen and not options.keep_doubles:
            reason = "duplicate texts"
        seen.add(text)
        if reason:
            left_out[reason] += 1
        else:
            yield record


def renamed(sentence: Sentence, labels: Mapping[str, str]) -> Sentence:
    """A sentence with other names of labels; what a label renamed to nothing marks is dropped."""
    if not labels:
        return sentence
    return Sentence(
        sentence.text,
        [e._replace(label=new) for e in sentence.entities if (new := labels.get(e.label, e.label))],
        [r._replace(label=new) for r in sentence.relations if (new := labels.get(r.label, r.label))],
    )


def _labelled(sentence: Sentence, task: str) -> Iterator[tuple[str, str | dict[str, str]]]:
    if task == "NER":
        yield from ((e.label, e.surface(sentence.text)) for e in sentence.entities)
    else:
        for r in sentence.relations:
            yield r.label, {"head": r.head.surface(sentence.text), "tail": r.tail.surface(sentence.text)}


def _row(sentence: Sentence, task: str, schema: Sequence[str], source: str) -> Row:
    gold: dict[str, list[Any]] = {label: [] for label in schema}
    for label, entry in _labelled(sentence, task):
        if entry not in gold[label]:
            gold[label].append(entry)
    row: Row = {"id": row_id(sentence.text), "task": task, "source": source, "schema": list(schema)}
    row |= {"text": sentence.text, "gold": gold}
    if task == "NER":
        row["spans"] = sorted([*e.ranges[0], e.label] for e in sentence.entities if len(e.ranges) == 1)
    return row
