"""A JSON Schema as a tree of fields: what a record may hold, how it is shown to a model, and what fits it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Final, Literal

from adapters.rewards.records_values import NORMALISERS, Kind, is_empty

DEEPEST: Final = 16
"""Levels of objects and lists, at most."""
MOST_FIELDS: Final = 500

_KINDS: Final = ("string", "number", "integer", "boolean")
_FORMATS: Final = ("date", "date-time")
_CHECKS: Final = (
    "minLength", "maxLength", "pattern", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf",
    "minItems", "maxItems", "uniqueItems",
)  # fmt: skip
"""Keywords that rows are checked against, and that an engine gets, but that the scorer does not need."""
_READ: Final = (
    "type", "properties", "required", "additionalProperties", "items", "enum", "const", "format", "anyOf", "$ref",
)  # fmt: skip
_IGNORED: Final = (
    "title", "description", "default", "examples", "$schema", "$id", "$comment", "$defs", "definitions", "deprecated",
    "readOnly", "writeOnly",
)  # fmt: skip
OWN: Final = ("x-normalise", "x-tolerance", "x-grounded")
"""Keywords of this project: how a string is compared, how far a number may be off, whether the text holds a string."""


Place = tuple[str | int, ...]
"""Keys and indices that lead to a place of a schema."""


class SchemaError(ValueError):
    """What is wrong with a schema. `at` is the place in it, after the parameter's name."""

    def __init__(self, message: str, path: Place) -> None:
        super().__init__(f"{'.'.join(map(str, path))}: {message}" if path else message)
        self.at = ("schema", *path)


@dataclass(frozen=True, slots=True)
class Node:
    """A field: an object of `fields`, a list of `item`, or one value of a kind."""

    kind: Literal["object", "array"] | Kind
    fields: Mapping[str, Node] = field(default_factory=dict)
    item: Node | None = None
    required: frozenset[str] = frozenset()
    nullable: bool = False
    normaliser: str = "text"
    tolerance: float = 0.0
    grounded: bool = True
    description: str = ""
    checks: Mapping[str, Any] = field(default_factory=dict)
    """What the schema says of the value besides its kind."""

    def leaves(self, path: str = "") -> Iterator[tuple[str, Node]]:
        """The fields that hold values, with their paths: `seller.name`, `items[].price`, `tags[]`."""
        if self.kind == "object":
            for name, inner in self.fields.items():
                yield from inner.leaves(f"{path}.{name}" if path else name)
        elif self.item is not None:
            yield from self.item.leaves(f"{path}[]")
        else:
            yield path, self

    def canonical(self, value: Any) -> Any:
        """A value with the schema's keys first and in its order, without empty ones that are not required."""
        if self.kind == "object" and isinstance(value, Mapping):
            known = {name: inner.canonical(value[name]) for name, inner in self.fields.items() if name in value}
            kept = {name: v for name, v in known.items() if name in self.required or not is_empty(v)}
            return kept | {name: v for name, v in value.items() if name not in self.fields}
        if self.item is not None and isinstance(value, list | tuple):
            return [self.item.canonical(item) for item in value]
        whole = self.kind == "integer" and isinstance(value, float) and value.is_integer()
        return int(value) if whole else value

    def schema(self, *, marked: bool = False) -> dict[str, Any]:
        """The field as plain JSON Schema: no references, no other keys than its own, none of this project.

        `marked`: but `x-grounded`.
        """
        if self.kind == "object":
            inner = {"properties": {name: inner.schema(marked=marked) for name, inner in self.fields.items()}}
            required = [name for name in self.fields if name in self.required]
            out: dict[str, Any] = {"type": "object", **inner, "required": required, "additionalProperties": False}
        elif self.item is not None:
            out = {"type": "array", "items": self.item.schema(marked=marked), **self.checks}
        elif self.kind == "enum":
            texts = all(isinstance(value, str) for value in self.checks["enum"])
            out = {**({"type": "string"} if texts else {}), **self.checks}
        else:
            out = {"type": "string" if self.kind in _FORMATS else self.kind, **self.checks}
            out |= {OWN[2]: False} if marked and not self.grounded else {}
        return {"anyOf": [out, {"type": "null"}]} if self.nullable else out

    def shown(self) -> str:
        """The field in one line: `{"shop": text, "tags": [text], "paid"?: "cash" | "card"}`; ? marks what may lack."""
        if self.kind == "object":
            pairs = (
                f"{json.dumps(name, ensure_ascii=False)}{'' if name in self.required and not inner.nullable else '?'}: "
                f"{inner.shown()}"
                for name, inner in self.fields.items()
            )
            text = f"{{{', '.join(pairs)}}}"
        elif self.item is not None:
            text = f"[{self.item.shown()}]"
        elif self.kind == "enum":
            text = " | ".join(json.dumps(value, ensure_ascii=False) for value in self.checks["enum"])
        else:
            text = {"string": "text", "date": "YYYY-MM-DD", "boolean": "true | false"}.get(self.kind, self.kind)
        return f"{text} ({self.description})" if self.description else text


def compiled(schema: Mapping[str, Any], normaliser: str = "text") -> Node:
    """The tree of a schema. `normaliser`: of strings without `x-normalise`. Raises SchemaError."""
    try:
        text = json.dumps(schema)
    except (TypeError, ValueError, RecursionError) as error:
        raise SchemaError(f"it cannot be written as JSON: {error}", ()) from None
    return _compiled(text, normaliser)


@lru_cache(maxsize=64)
def _compiled(text: str, normaliser: str) -> Node:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError as Invalid
    from jsonschema.exceptions import best_match

    schema = json.loads(text)
    faults: Iterator[Invalid] = Draft202012Validator(Draft202012Validator.META_SCHEMA).iter_errors(schema)
    if fault := best_match(faults):
        raise SchemaError(f"{fault.message}.", tuple(fault.absolute_path))
    root = _Reader(schema, normaliser).node(schema, (), ())
    if root.kind != "object":
        raise SchemaError(f"a record is an object, and this schema describes {_a(root.kind)}; give type: object.", ())
    if root.nullable:
        raise SchemaError("a record is an object, never null.", ())
    if (count := sum(1 for _ in root.leaves())) > MOST_FIELDS:
        raise SchemaError(f"{count:,} fields; the limit is {MOST_FIELDS}.", ())
    if not count:
        raise SchemaError("it names no field; give properties.", ())
    return root


def _a(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


class _Reader:
    """Reads the places of one schema."""

    def __init__(self, root: Mapping[str, Any], normaliser: str) -> None:
        self.root, self.normaliser = root, normaliser

    def node(self, schema: Any, path: Place, open_refs: tuple[str, ...], depth: int = 0) -> Node:
        """The field of a schema's place. `open_refs` are those that led here."""
        if not isinstance(schema, Mapping):
            raise SchemaError(f"a schema is an object, not {schema!r}.", path)
        if depth > DEEPEST:
            raise SchemaError(f"more than {DEEPEST} levels.", path)
        self._check_keywords(schema, path)
        if "$ref" in schema:
            return self._referred(schema, path, open_refs, depth)
        if "anyOf" in schema:
            return self._optional(schema, path, open_refs, depth)
        kind, nullable = self._type(schema, path)
        described = " ".join(str(schema.get("description", "")).split())
        if values := schema.get("enum", [schema["const"]] if "const" in schema else None):
            return self._enum(schema, values, Node("enum", nullable=nullable, description=described), path)
        if kind == "object":
            fields, required = self._fields(schema, path, open_refs, depth)
            return Node("object", fields=fields, required=required, nullable=nullable, description=described)
        checks = {name: schema[name] for name in _CHECKS if name in schema}
        if kind == "array":
            item = self._item(schema, path, open_refs, depth)
            return Node("array", item=item, checks=checks, nullable=nullable, description=described)
        if kind not in _KINDS:
            raise SchemaError("it needs a type: object, array, string, number, integer or boolean.", path)
        own = self._own(schema, path, Node("string", normaliser=self.normaliser))
        if kind == "string" and schema.get("format") in _FORMATS:
            kind, checks = schema["format"], {**checks, "format": schema["format"]}
        return Node(kind, checks=checks, nullable=nullable, description=described, **own)

    def _type(self, schema: Mapping[str, Any], path: Place) -> tuple[Any, bool]:
        """The type of a place, where it names one or its keywords tell, and whether it may be null."""
        kind = schema.get("type")
        kinds = [k for k in kind if k != "null"] if isinstance(kind, list) else [kind]
        if len(kinds) != 1:
            raise SchemaError("of several types only one beside null is supported; name one.", (*path, "type"))
        guess = "object" if "properties" in schema else "array" if "items" in schema else None
        return kinds[0] or guess, isinstance(kind, list) and "null" in kind

    def _optional(self, schema: Mapping[str, Any], path: Place, open_refs: tuple[str, ...], depth: int) -> Node:
        options = schema["anyOf"]
        others = [n for n, option in enumerate(options) if option != {"type": "null"}]
        if len(others) != 1:
            raise SchemaError("of several types only one beside null is supported; name one.", (*path, "anyOf"))
        inner = self.node(options[others[0]], (*path, "anyOf", others[0]), open_refs, depth)
        own = self._own(schema, path, inner)
        described = str(schema.get("description") or inner.description)
        return replace(inner, nullable=inner.nullable or len(options) > 1, description=described, **own)

    def _item(self, schema: Mapping[str, Any], path: Place, open_refs: tuple[str, ...], depth: int) -> Node:
        if "items" not in schema:
            raise SchemaError("a list needs items, the schema of its members.", path)
        item = self.node(schema["items"], (*path, "items"), open_refs, depth + 1)
        if item.kind == "array":
            raise SchemaError("a list of lists is not supported; put an object between them.", (*path, "items"))
        return item

    def _check_keywords(self, schema: Mapping[str, Any], path: Place) -> None:
        for name in schema:
            if name not in (*_READ, *_CHECKS, *_IGNORED) and not name.startswith("x-"):
                supported = ", ".join((*_READ, *_CHECKS, *OWN))
                raise SchemaError(f"the keyword {name} is not supported. Supported: {supported}.", (*path, name))
            if name.startswith("x-") and name not in OWN and name.removeprefix("x-")[:4] in ("norm", "tole", "grou"):
                raise SchemaError(f"the keyword is not {name}, but {' or '.join(OWN)}.", (*path, name))

    def _referred(self, schema: Mapping[str, Any], path: Place, open_refs: tuple[str, ...], depth: int) -> Node:
        ref, at = schema["$ref"], (*path, "$ref")
        if ref in open_refs:
            raise SchemaError(f"{ref} leads to itself, and a record has a fixed depth.", at)
        section, _, name = ref.removeprefix("#/").partition("/")
        target = self.root.get(section, {}).get(name) if ref.startswith(("#/$defs/", "#/definitions/")) else None
        if target is None:
            raise SchemaError(f"{ref} is not in this schema; a reference is #/$defs/NAME.", at)
        inner = self.node(target, (section, name), (*open_refs, ref), depth)
        own = self._own(schema, path, inner)
        return replace(inner, description=str(schema.get("description") or inner.description), **own)

    def _fields(
        self, schema: Mapping[str, Any], path: Place, open_refs: tuple[str, ...], depth: int
    ) -> tuple[dict[str, Node], frozenset[str]]:
        """The fields of an object, and the names of those that must be there."""
        if schema.get("additionalProperties", False) is not False:
            at = (*path, "additionalProperties")
            raise SchemaError("fields without a name cannot be scored; say false, or leave it out.", at)
        names, required = schema.get("properties", {}), schema.get("required", ())
        if missing := [name for name in required if name not in names]:
            raise SchemaError(f"{missing[0]!r} is not among the properties.", (*path, "required"))
        at = (*path, "properties")
        fields = {name: self.node(inner, (*at, name), open_refs, depth + 1) for name, inner in names.items()}
        return fields, frozenset(required)

    def _enum(self, schema: Mapping[str, Any], values: list[Any], node: Node, path: Place) -> Node:
        if any(isinstance(value, dict | list) for value in values):
            raise SchemaError("lists and objects are not supported as values of an enum.", (*path, "enum"))
        allowed = [value for value in values if value is not None]
        if not allowed:
            raise SchemaError("it allows no value but null.", path)
        own = self._own(schema, path, Node("enum", normaliser="exact"))
        return replace(node, nullable=node.nullable or None in values, checks={"enum": allowed}, **own)

    def _own(self, schema: Mapping[str, Any], path: Place, other: Node) -> dict[str, Any]:
        """The values of OWN's keywords, or those of a node."""
        name, off = schema.get(OWN[0], other.normaliser), schema.get(OWN[1], other.tolerance)
        grounded = schema.get(OWN[2], other.grounded)
        if name not in NORMALISERS:
            raise SchemaError(f"must be one of {', '.join(NORMALISERS)}, not {name!r}.", (*path, OWN[0]))
        if isinstance(off, bool) or not isinstance(off, int | float) or not (math.isfinite(off) and off >= 0):
            raise SchemaError(f"must be a number from 0 on, not {off!r}.", (*path, OWN[1]))
        if not isinstance(grounded, bool):
            raise SchemaError(f"must be true or false, not {grounded!r}.", (*path, OWN[2]))
        return {"normaliser": name, "tolerance": float(off), "grounded": grounded}


def problem(node: Node, value: Any) -> str | None:
    """Why an object does not fit a schema, led by the place in it; None when it fits."""
    fault = _first_fault(json.dumps(node.schema()), value)
    if fault is None:
        return None
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault.absolute_path)
    if fault.validator == "additionalProperties":
        named = fault.schema["properties"]
        extra = [name for name in fault.instance if name not in named]
        return f"{(place + '.').lstrip('.')}{extra[0]}: the schema has no such field (it has {', '.join(named)})"
    reason = fault.message if len(fault.message) < 300 else f"{fault.message[:200]} … {fault.message[-80:]}"
    return f"{place.lstrip('.')}: {reason}" if place else reason


def _first_fault(schema: str, value: Any) -> Any:
    from jsonschema.exceptions import relevance

    faults = _validator(schema).iter_errors(value)
    first = next(iter(sorted(faults, key=lambda fault: (list(map(str, fault.absolute_path)), relevance(fault)))), None)
    while first is not None and first.validator == "anyOf" and first.context:
        # Of the field and null: what the field says.
        first = first.context[0]
    return first


@lru_cache(maxsize=64)
def _validator(schema: str) -> Any:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(json.loads(schema), format_checker=Draft202012Validator.FORMAT_CHECKER)


RECEIPT: Final[Mapping[str, Any]] = {
    "type": "object",
    "properties": {
        "shop": {"type": "string", "x-normalise": "name"},
        "number": {"type": "string", "x-normalise": "id"},
        "date": {"type": "string", "format": "date"},
        "currency": {"enum": ["EUR", "GBP", "USD"]},
        "items": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "quantity": {"type": "integer"},
                    "price": {"type": "number"},
                },
                "required": ["name", "quantity", "price"],
            },
        },
        "total": {"type": "number"},
        "paid_by": {"enum": ["cash", "card"]},
    },
    "required": ["shop", "date", "currency", "items", "total"],
}
"""The schema of the synthetic receipts, which stands in where none is given."""
