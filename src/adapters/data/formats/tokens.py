"""Formats that label tokens: GLiNER, Hugging Face token classification, CoNLL, SpERT; and brat and IEPile."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from adapters.data.data_file import read_text
from adapters.data.formats.base import Format, LeftOut, Reader
from adapters.data.formats.source import Source
from adapters.data.formats.spans import count_keys
from adapters.data_aug.ie import from_iepile, is_iepile
from adapters.data_aug.ie.conll import are_bare_types, conll_sentences, is_tag, looks_like_conll, tagged
from adapters.data_aug.ie.corpora import Annotations, brat_sentences, spert_sentence
from adapters.data_aug.ie.sentences import Entity, Options, Sentence, token_starts, without_blank_mentions
from adapters.types import Row


def _list(value: Any, place: str) -> list[Any]:
    if not isinstance(value, list | None):
        raise ValueError(f"{place}: {value!r:.60} is no list")
    return value or []


def _tokens(value: Any, place: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(token, str) for token in value):
        raise ValueError(f"{place}: {value!r:.60} is no list of tokens")
    return value


# ------------------------------------------------------------------------------------------------------------- GLiNER


def _is_gliner(record: Any) -> bool:
    return isinstance(record, dict) and isinstance(record.get("tokenized_text"), list) and "ner" in record


def _gliner(source: Source, options: Options, left_out: LeftOut) -> Iterator[Sentence]:
    for place, record in source.records():
        if not _is_gliner(record):
            raise ValueError(f"{place}: no tokenized_text with ner")
        tokens = _tokens(record["tokenized_text"], place)
        starts, entities = token_starts(tokens), []
        for entry in _list(record["ner"], place):
            fits = isinstance(entry, list) and len(entry) == 3 and isinstance(entry[2], str)
            if not fits or not all(type(n) is int for n in entry[:2]) or not 0 <= entry[0] <= entry[1] < len(tokens):
                bounds = f"first and last token, from 0 to {len(tokens) - 1}"
                raise ValueError(f"{place}: {json.dumps(entry)[:60]} is no mention of {bounds}, and a label")
            entities.append(Entity(entry[2], ((starts[entry[0]], starts[entry[1] + 1] - 1),)))
        count_keys(record, ("tokenized_text", "ner", "id"), left_out)
        left_out["texts without words"] += not "".join(tokens).strip()
        if "".join(tokens).strip():
            yield without_blank_mentions(Sentence(" ".join(tokens), entities), left_out)


GLINER = Format(
    "GLiNER JSON",
    "texts",
    {"ie": _gliner},
    '{"tokenized_text": ["Mira", "Holt", "flew"], "ner": [[0, 1, "person"]]}',
    ("tokenized_text", "ner"),
    _is_gliner,
    tasks=("NER",),
)

# ---------------------------------------------------------------------------------- Hugging Face token classification

_TAG_KEYS = ("ner_tags", "tags", "labels", "ner")


def _tag_key(record: Any) -> str:
    """The key of the tags of a record; empty if it has none."""
    if not isinstance(record, dict) or not isinstance(record.get(_token_key(record)), list):
        return ""
    return next((k for k in _TAG_KEYS if isinstance(record.get(k), list) and _are_tags(record[k])), "")


def _token_key(record: Any) -> str:
    return "tokens" if "tokens" in record else "words"


def _are_tags(value: list[Any]) -> bool:
    return all(isinstance(tag, str) or type(tag) is int for tag in value)


def _hf(source: Source, options: Options, left_out: LeftOut) -> Iterator[Sentence]:
    rows = []
    for place, record in source.records():
        if not (key := _tag_key(record)):
            raise ValueError(f"{place}: no tokens with {', '.join(_TAG_KEYS[:-1])} or ner, names or numbers")
        tokens = _tokens(record[_token_key(record)], place)
        if len(tokens) != len(record[key]):
            raise ValueError(f"{place}: {len(tokens)} tokens, but {len(record[key])} {key}")
        names = options.tag_names or source.label_names(key)
        rows.append((place, tokens, [_name(tag, names, key, place) for tag in record[key]]))
        count_keys(record, (_token_key(record), key, "id"), left_out)
    seen = {tag for _, _, tags in rows for tag in tags}
    bare = are_bare_types(seen)
    for place, tokens, tags in rows:
        pairs = [(t, f"I-{tag}" if bare and tag != "O" else tag) for t, tag in zip(tokens, tags, strict=True) if t]
        left_out["empty tokens"] += len(tokens) - len(pairs)
        if wrong := next((tag for _, tag in pairs if not is_tag(tag)), None):
            raise ValueError(f"{place}: {wrong!r} is no tag such as B-person, I-person or O")
        words = any(token.strip() for token, _ in pairs)
        left_out["texts without words"] += not words
        if words:
            yield without_blank_mentions(tagged(pairs), left_out)


def _name(tag: str | int, names: tuple[str, ...], key: str, place: str) -> str:
    if isinstance(tag, str):
        return tag
    if not names:
        raise ValueError(f"{place}: {key} are numbers; give their names in order, such as --labels O,B-person,I-person")
    if not 0 <= tag < len(names):
        raise ValueError(f"{place}: {key} has the number {tag}, but there are {len(names)} names: {', '.join(names)}")
    return names[tag]


HF = Format(
    "Hugging Face token classification",
    "rows",
    {"ie": _hf},
    '{"tokens": ["Mira", "Holt", "flew"], "ner_tags": ["B-person", "I-person", "O"]}',
    ("tokens", "words", *_TAG_KEYS),
    lambda record: bool(_tag_key(record)),
    tasks=("NER",),
)

# ------------------------------------------------------------------------------- the readers of adapters.data_aug.ie


def _of_path(annotations: Annotations) -> dict[Any, Reader]:
    def read(source: Source, options: Options, left_out: LeftOut) -> Iterator[Sentence]:
        opened = replace(options, read_text=lambda path: source.read(path, read_text))
        for sentence in annotations(source.path, opened, left_out):
            source.count += 1
            yield sentence

    return {"ie": read}


def _spert(source: Source, options: Options, left_out: LeftOut) -> Iterator[Sentence]:
    for place, record in source.records():
        yield spert_sentence(record, place, left_out)


def _iepile(source: Source, options: Options, left_out: LeftOut) -> Iterator[Row]:
    for place, record in source.records():
        try:
            row = from_iepile(record)
        except (ValueError, RecursionError, AttributeError) as error:
            raise ValueError(f"{place}: {error}") from None
        if options.drop_empty and not any(row["gold"].values()):
            left_out["without labels"] += 1
        else:
            yield {**row, "source": options.source or row["source"]}


def _is_iepile(record: Any) -> bool:
    if not isinstance(record, dict) or not is_iepile(record):
        return False
    try:
        return "schema" in json.loads(record["instruction"])
    except (ValueError, RecursionError, TypeError):
        return False


def _is_spert(record: Any) -> bool:
    entities = record.get("entities") if isinstance(record, dict) else None
    return (
        isinstance(entities, list)
        and isinstance(record.get("tokens"), list)
        and all(isinstance(e, dict) and {"type", "start", "end"} <= e.keys() for e in entities)
    )


CONLL = Format(
    "CoNLL columns",
    "sentences",
    _of_path(conll_sentences),
    "Mira\tB-person\nHolt\tI-person\nflew\tO",
    of_file=lambda source: (
        source.kind in ("text", "xml") and looks_like_conll(source.head.rpartition("\n")[0] or source.head, Options())
    ),
    tasks=("NER",),
)
SPERT = Format(
    "SpERT JSON",
    "sentences",
    {"ie": _spert},
    '[{"tokens": ["Mira", "flew"], "entities": [{"type": "person", "start": 0, "end": 1}], "relations": []}]',
    ("tokens", "entities", "relations"),
    _is_spert,
)
BRAT = Format(
    "brat standoff",
    "lines of text",
    _of_path(brat_sentences),
    "a folder with a.txt (Mira Holt flew .) and a.ann (T1<TAB>person 0 9<TAB>Mira Holt)",
    of_file=lambda source: (
        source.kind == "folder" and any(p.with_suffix(".txt").is_file() for p in source.files(".ann"))
    ),
)
IEPILE = Format(
    "IEPile records",
    "records",
    {"ie": _iepile},
    '{"instruction": "{\\"instruction\\": \\"…\\", \\"schema\\": [\\"person\\"], \\"input\\": \\"Mira flew .\\"}", '
    '"output": "{\\"person\\": [\\"Mira\\"]}"}',
    ("instruction", "output", "task", "source"),
    _is_iepile,
)
