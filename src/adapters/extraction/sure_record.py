"""A record without its unsure strings."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final, NamedTuple

from adapters.data.quoted import resolved

_GONE: Final = object()


def without(record: Any, unsure: Collection[str], schema: Mapping[str, Any]) -> tuple[Any, dict[str, str]]:
    """The record without the strings at these dotted paths, and where the other strings are now: old path -> new.

    A string of a list leaves the list. A string of an object in a list takes the object with it, as what stands beside
    it would have lost what it belongs to: a funder without a name, a relation without its head. Of another object the
    key is left out; where the schema requires it, the object goes. None where nothing is left.
    """
    moved: dict[str, str] = {}
    kept = _kept(record, _Unsure(unsure, schema), schema, ("", ""), moved, listed=False)
    return (None, {}) if kept is _GONE else (kept, moved)


def says_something(value: Any) -> bool:
    """Whether anything stands in a record, if only a number or a choice."""
    if isinstance(value, Mapping | list):
        return any(map(says_something, value.values() if isinstance(value, Mapping) else value))
    return value is not None


class _Unsure(NamedTuple):
    """The paths of unsure strings, and the whole record's schema, to which references lead."""

    paths: Collection[str]
    root: Mapping[str, Any]


def _kept(value: Any, unsure: _Unsure, schema: Any, at: tuple[str, str], moved: dict[str, str], *, listed: bool) -> Any:
    """A value without what is unsure, or `_GONE`; `at` are its old and its new path."""
    if isinstance(value, str):
        if at[0] in unsure.paths:
            return _GONE
        moved[at[0]] = at[1]
        return value
    schema = resolved(value, schema, unsure.root) if isinstance(schema, Mapping) else {}
    if isinstance(value, list):
        out: list[Any] = []
        for n, item in enumerate(value):
            _keep_in(out, item, unsure, _inner(schema, "items"), (_under(at[0], n), _under(at[1], len(out))), moved)
        return out
    return _object(value, unsure, schema, at, moved, listed=listed) if isinstance(value, Mapping) else value


def _keep_in(
    out: list[Any], item: Any, unsure: _Unsure, schema: Any, at: tuple[str, str], moved: dict[str, str]
) -> None:
    inside: dict[str, str] = {}
    if (kept := _kept(item, unsure, schema, at, inside, listed=True)) is not _GONE:
        out.append(kept)
        moved.update(inside)


def _object(
    value: Mapping[str, Any],
    unsure: _Unsure,
    schema: Mapping[str, Any],
    at: tuple[str, str],
    moved: dict[str, str],
    *,
    listed: bool,
) -> Any:
    out = {}
    required = _inner(schema, "required") or ()
    for name, inner in value.items():
        places, inside = (_under(at[0], name), _under(at[1], name)), dict[str, str]()
        kept = _kept(inner, unsure, _inner(_inner(schema, "properties"), name), places, inside, listed=False)
        if kept is not _GONE:
            out[name] = kept
            moved.update(inside)
        elif listed or name in required:
            return _GONE
    return out


def _inner(schema: Any, key: str) -> Any:
    return schema.get(key) if isinstance(schema, Mapping) else None


def _under(path: str, key: str | int) -> str:
    return f"{path}.{key}" if path else str(key)
