"""Errors of a recipe in words: pydantic's errors as one sentence for each key, led by file, line and key."""

from __future__ import annotations

import json
import re
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from adapters.errors import SYNONYMS, KeyPath, hint
from adapters.recipe.fields import SOURCES
from adapters.recipe.recipe import Recipe
from adapters.recipe.stages import BestOf, Distill, Dpo, Grpo, Sft, TokenClassification


def sentences(path: Path, tree: Any, lines: Mapping[KeyPath, int], error: ValidationError) -> list[str]:
    """One sentence for each key that is wrong."""
    items: dict[KeyPath, list[ErrorDetails]] = {}
    for item in error.errors(include_url=False):
        at = _real_path(tree, item)
        items.setdefault((*at, "kind") if item["type"].startswith("union_tag") else at, []).append(item)
    # Of a value with an error inside, only that error counts: pydantic repeats it for the value as a whole.
    inner = [at for at in items if not any(at == other[: len(at)] and at != other for other in items)]
    return [where(path, lines, at) + _sentence(str(at[-1]) if at else "", items[at]) for at in inner]


def sentence(error: ValidationError) -> str:
    """The first error of keys that stand in no file, led by its key."""
    first = error.errors(include_url=False)[0]
    key = ".".join(map(str, first["loc"]))
    return f"{key}: {_sentence(key, [first])}" if key else _sentence(key, [first])


def _sentence(key: str, items: Sequence[ErrorDetails]) -> str:
    first, given = items[0], items[0]["input"]
    if word := _WORDED.get(first["type"]):
        return word(key, first)
    # Several items are the alternatives of one key, none of which the value fits.
    texts = [_PYDANTIC.sub("", item["msg"]).replace("tuple", "list").replace("dictionary", "mapping") for item in items]
    wanted = " or ".join(dict.fromkeys(text.removeprefix("Input should be ") for text in texts))
    shown = json.dumps(given, default=str, ensure_ascii=False)
    text = f"{'this should be ' if texts[0].startswith('Input should be ') else ''}{wanted}, not {shown[:80]}"
    typed = first["type"] in ("int_type", "float_type", "bool_type")
    quoted = typed and isinstance(given, str) and _UNQUOTED.fullmatch(given)
    return f"{text}{'…' if len(shown) > 80 else ''}.{' Remove the quotes?' if quoted else ''}"


def _unknown_key(key: str, item: ErrorDetails) -> str:
    model = _model_at(item["loc"][:-1])
    if reason := getattr(model, "not_offered", {}).get(key):
        return f"this option of PEFT is not offered: {reason}."
    known = [name for name in model.model_fields if name != "header"]
    return f"unknown key.{hint(key, known)}"


def _unknown_kind(_key: str, item: ErrorDetails) -> str:
    given = item.get("ctx", {}).get("tag")
    *most, last = _KINDS
    near = hint(str(given), [*_KINDS]) if given in SYNONYMS else ""
    return f"a stage's kind is {', '.join(most)} or {last}{f', not {str(given)[:80]!r}' if given else ''}.{near}"


_PYDANTIC = re.compile(r" or (?:instance of \w+|object to extract fields from)")
_UNQUOTED = re.compile(r"true|false|[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)
_NAME = "letters, digits, '-', '_' and '.', and begins with a letter or a digit"
_MADE_OF = {"^[0-9a-f]{40}$": "40 hexadecimal digits"}
_WORDED: Mapping[str, Callable[[str, ErrorDetails], str]] = {
    "extra_forbidden": _unknown_key,
    "missing": lambda key, item: "this key is required.",
    "union_tag_not_found": _unknown_kind,
    "union_tag_invalid": _unknown_kind,
    "too_short": lambda key, item: "needs at least one entry.",
    "value_error": lambda key, item: item["msg"].removeprefix("Value error, ") + ".",
    "string_pattern_mismatch": lambda key, item: (
        f"{item['input'][:80]!r} does not fit; this is made of {_MADE_OF.get(item['ctx']['pattern'], _NAME)}."
    ),
}
"""What is said of an error of pydantic, by its type; `_sentence` words all others by pydantic's own message."""


def where(path: Path, lines: Mapping[KeyPath, int], at: Sequence[str | int]) -> str:
    """The start of a message about a key: `file:line: key.path: `."""
    line = next((lines[tuple(at[:n])] for n in range(len(at), 0, -1) if tuple(at[:n]) in lines), None)
    name = ".".join(str(part) for part in at)
    return f"{path}{f':{line}' if line else ''}: {name + ': ' if name else ''}"


def _real_path(tree: Any, item: ErrorDetails) -> KeyPath:
    """The path in the user's file: pydantic's location without the branches of unions."""
    out: list[str | int] = []
    node, loc = tree, item["loc"]
    for n, part in enumerate(loc):
        if part in _TAGS and n and isinstance(loc[n - 1], int):
            continue
        inside = part in node if isinstance(node, dict) else isinstance(node, list) and part in range(len(node))
        node = node[part] if inside else node
        if inside or (item["type"] == "missing" and n == len(loc) - 1):
            out.append(part)
    return tuple(out)


_KINDS: Mapping[str, type[BaseModel]] = {
    "sft": Sft,
    "grpo": Grpo,
    "dpo": Dpo,
    "best_of": BestOf,
    "distill": Distill,
    "token_classification": TokenClassification,
}
_TAGS: Mapping[Any, type[BaseModel]] = {**_KINDS, **SOURCES}


def _model_at(loc: Sequence[str | int]) -> type[BaseModel]:
    model: type[BaseModel] = Recipe
    for part in loc:
        if not isinstance(part, str):
            continue
        if part in model.model_fields:
            model = next(_models(model.model_fields[part].annotation), model)
        elif part in _TAGS:
            model = _TAGS[part]
    return model


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _models(argument)
