"""Grammars of llguidance (Lark's syntax; see its docs/syntax.md) for the JSON of a schema."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any, Final, NamedTuple

from adapters.data.quoted import is_quoted
from adapters.rewards.grounding import pieces


class ConstraintError(ValueError):
    """A schema that a constraint cannot express."""


class Layout(NamedTuple):
    """How an answer's JSON is written: its separators, and a regular expression of white space that may stand."""

    item: str = ","
    key: str = ":"
    ignored: str | None = None


COMPACT: Final = Layout()
SPACED: Final = Layout(", ", ": ")
FREE: Final = Layout(ignored=r"( |\n {0,40})")


def layout_of(answers: Iterable[str]) -> Layout:
    """The layout of the first answer that tells it; FREE where none does."""
    for answer in answers:
        try:
            value = json.loads(answer)
        except ValueError:
            return FREE
        dumped = {
            one: json.dumps(value, ensure_ascii=False, separators=(one.item, one.key)) for one in (COMPACT, SPACED)
        }
        fitting = [one for one, text in dumped.items() if text == answer]
        if len(fitting) < 2:  # `[]` fits both
            return fitting[0] if fitting else FREE
    return FREE


def rules(schema: Mapping[str, Any], layout: Layout, *, quoting: bool) -> str:
    """The rules of a schema's JSON. With `quoting` its strings are places of a text, which `place_of` adds.

    Raises ConstraintError for a schema whose strings cannot be told.
    """
    writer = _Writer(schema, layout)
    if not quoting:
        return f"{_HEAD}\nstart: {writer.json(schema)}"
    start = writer.start()
    spaces = [f"%ignore /{layout.ignored}/"] if layout.ignored else []
    return "\n".join([_HEAD, f"start: {start}", *writer.rules.values(), *spaces, *_TERMINALS])


def place_of(text: str) -> str:
    """The terminal of the places of a text, in JSON: what stands between two points where a value may begin or end."""
    # Whole pieces, so that no string ends inside an escape.
    chunks = [json.dumps(piece, ensure_ascii=False)[1:-1] for piece in pieces(text)]
    return f"PLACE: %regex {_dumped({'substring_chunks': chunks})}"


_HEAD: Final = '%llguidance {"no_forcing": true}'
# The model tokenizes forced text itself, so that an answer that keeps to the grammar is the one without it.
_TERMINALS: Final = (
    r'KEY: "\"" /([^"\\\x00-\x1f]|\\["\\bfnrt])+/ "\""',
    'STRING: "\\"" VALUE "\\""',
    # Not empty, and not white space alone.
    r'VALUE: PLACE & /([^\\\s]|\\["\\])(?s:.*)/',
)
_NOTES: Final = frozenset({
    *("title", "description", "default", "examples", "$schema", "$id", "$comment", "$defs", "definitions"),
    *("deprecated", "readOnly", "writeOnly"),
})  # fmt: skip
_KNOWN: Final[Mapping[str, Sequence[str]]] = {
    "object": ("type", "properties", "required", "additionalProperties"),
    "array": ("type", "items", "minItems", "maxItems"),
    "string": ("type",),
}
_Place = tuple[str | int, ...]


class _Writer:
    """Writes the rules of one schema in which some strings must stand in the text."""

    def __init__(self, root: Mapping[str, Any], layout: Layout) -> None:
        self.root, self.layout = root, layout
        self.rules: dict[str, str] = {}
        self._defs = {**root.get("definitions", {}), **root.get("$defs", {})}
        space = {"whitespace_pattern": layout.ignored} if layout.ignored else {"whitespace_flexible": False}
        self._options = {**space, "item_separator": layout.item, "key_separator": layout.key}
        self._item, self._colon = _literal(layout.item), _literal(layout.key)

    def start(self) -> str:
        """An answer, or the empty one, which a schema with required fields would not allow."""
        kind = self._target(self.root).get("type")
        empty = {"array": ' | "[" "]"', "object": ' | "{" "}"'}.get(str(kind), "")
        return f"{self.place(self.root, ())}{empty}"

    def json(self, schema: Mapping[str, Any]) -> str:
        """A place as llguidance's own JSON Schema: nothing in it quotes the text."""
        defs = {"$defs": self._defs} if self._defs and "$ref" in _dumped(schema) else {}
        return f"%json {_dumped({**_closed({**schema, **defs}), 'x-guidance': self._options})}"

    def place(self, schema: Any, path: _Place) -> str:
        """The expression of a place."""
        if not isinstance(schema, Mapping) or not self._kinds(schema):
            raise ConstraintError(f"{_at(path)} names no type, and could hold any string")
        if not self._quotes(schema, ()):
            return self.json(schema)
        if "$ref" in schema:
            return self._referred(str(schema["$ref"]), path)
        for name in ("anyOf", "oneOf"):
            if name in schema:
                return _either([self.place(option, (*path, name, n)) for n, option in enumerate(schema[name])])
        if isinstance(schema["type"], list):
            return _either([self.place({**schema, "type": kind}, path) for kind in schema["type"]])
        self._check_keywords(schema, path)
        write = {"object": self._object, "array": self._array}.get(schema["type"])
        return write(schema, path) if write else "STRING"

    def _kinds(self, schema: Mapping[str, Any]) -> bool:
        return any(name in schema for name in ("type", "$ref", "anyOf", "oneOf", "enum", "const"))

    def _check_keywords(self, schema: Mapping[str, Any], path: _Place) -> None:
        known = _KNOWN[schema["type"]]
        for name, value in schema.items():
            harmless = name in _NOTES or name.startswith("x-") or (name == "minLength" and value in (0, 1))
            if name not in known and not harmless:
                raise ConstraintError(f"{_at(path)} has the keyword {name}, which source cannot keep to")

    def _quotes(self, schema: Any, open_refs: tuple[str, ...]) -> bool:
        """Whether a place holds a string that quotes the text."""
        if not isinstance(schema, Mapping) or not self._kinds(schema):
            return True
        if "$ref" in schema:
            ref = str(schema["$ref"])
            return ref not in open_refs and self._quotes(self._target(schema), (*open_refs, ref))
        kinds = schema.get("type", ())
        kinds = [kinds] if isinstance(kinds, str) else kinds
        inner = [*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("properties", {}).values()]
        if "array" in kinds:
            inner.append(schema.get("items"))
        others = schema.get("additionalProperties", False if "properties" in schema else None)
        if "object" in kinds and others is not False:
            inner.append(others)
        return ("string" in kinds and is_quoted(schema)) or any(self._quotes(one, open_refs) for one in inner)

    def _target(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        if "$ref" not in schema:
            return schema
        ref = str(schema["$ref"])
        target = self._defs.get(ref.rpartition("/")[2]) if ref.startswith(("#/$defs/", "#/definitions/")) else None
        if not isinstance(target, Mapping):
            raise ConstraintError(f"the reference {ref} leads nowhere")
        return target

    def _referred(self, ref: str, path: _Place) -> str:
        return self._rule(ref, lambda: self.place(self._target({"$ref": ref}), path))

    def _rule(self, key: str, body: Callable[[], str]) -> str:
        """The name of a rule, which is written once; it may lead to itself."""
        name = f"r{len(self.rules)}"
        known = self.rules.get(key)
        if known is None:
            self.rules[key] = f"{name}: "
            self.rules[key] += body()
            return name
        return known.partition(":")[0]

    def _array(self, schema: Mapping[str, Any], path: _Place) -> str:
        item = self.place(schema.get("items"), (*path, "items"))
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        if most == 0:
            return '"[" "]"'
        repeated = f"{{{max(least - 1, 0)},{'' if most is None else most - 1}}}"
        items = f"{item} ({self._item} {item}){repeated if repeated != '{0,}' else '*'}"
        return f'("[" {items} "]")' if least else f'("[" ({items})? "]")'

    def _object(self, schema: Mapping[str, Any], path: _Place) -> str:
        """The fields in the schema's order; those that are not required may lack."""
        required, fields = schema.get("required", ()), list(schema.get("properties", {}).items())
        pairs = [(self._pair(name, inner, path), name in required) for name, inner in fields]
        others = schema.get("additionalProperties", not fields)
        if others is not False:
            value = self.place({} if others is True else others, (*path, "additionalProperties"))
            free = f"KEY {self._colon} {value}"
            pairs.append((f"{free} ({self._item} {free})*", False))
        rest = [f"({self._item} {pair}){'' if needed else '?'}" for pair, needed in pairs]
        # What may come first: any field before which all may lack.
        first = [*takewhile(lambda n: not pairs[n][1], range(len(pairs)))]
        all_may_lack = len(first) == len(pairs)
        starts = first if all_may_lack else [*first, len(first)]
        members = _either([" ".join([pairs[n][0], *rest[n + 1 :]]) for n in starts])
        return f'("{{" {members}{"?" if all_may_lack else ""} "}}")'

    def _pair(self, name: str, schema: Any, path: _Place) -> str:
        at = (*path, "properties", name)
        value = self._rule(_dumped(at), lambda: self.place(schema, at))
        # Where the text holds no value, null says so; in a list the value is left out.
        null = ' | "null"' if isinstance(schema, Mapping) and self._is_quote(schema) else ""
        return f"{_literal(json.dumps(name, ensure_ascii=False))} {self._colon} {f'({value}{null})' if null else value}"

    def _is_quote(self, schema: Mapping[str, Any]) -> bool:
        return self._target(schema).get("type") == "string" and self._quotes(schema, ())


def _closed(schema: Any) -> Any:
    """A schema whose objects have no other fields than those that it names."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    inner = {name: _closed(value) if name not in ("enum", "const") else value for name, value in schema.items()}
    named = isinstance(schema.get("properties"), Mapping) and schema.get("type") == "object"
    return {**inner, "additionalProperties": inner.get("additionalProperties", False)} if named else inner


def _either(options: Sequence[str]) -> str:
    return f"({' | '.join(options)})"


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _at(path: _Place) -> str:
    return f"{'.'.join(map(str, path))} of the task's schema" if path else "the task's schema"
