"""What a format is, and mentions that are placed by offsets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from adapters.data.formats.source import Source
from adapters.data.row_forms import LONE_SURROGATE
from adapters.data_aug.ie.sentences import Entity, Options, Relation, Sentence
from adapters.types import Row

Target = Literal["ie", "funding", "chat"]
LeftOut = Counter[str]
Item = Sentence | Row
Reader = Callable[[Source, Options, LeftOut], Iterable[Item]]
"""Gives sentences for ie, else rows, and counts what it leaves out. Raises ValueError that says what is wrong where."""


@dataclass(frozen=True)
class Format:
    """A format that `data convert` reads.

    `gives` are its readers by the task they read for, the usual one first. `of_record` says whether a JSON value is one
    of its records, `of_file` whether a file that holds no JSON is one of its. `keys` are those of its records, for
    finding formats near to an unknown one; `example` is one that works.
    """

    title: str
    unit: str
    gives: Mapping[Target, Reader]
    example: str
    keys: tuple[str, ...] = ()
    of_record: Callable[[Any], bool] | None = None
    of_file: Callable[[Source], bool] | None = None
    tasks: tuple[str, ...] = ("NER", "RE")
    is_plugin: bool = False


@dataclass(frozen=True)
class Mention:
    """A mention as a file gives it: `name` is what relations call it, `surface` its text, where the file repeats it."""

    start: int
    end: int
    label: str
    name: Any = None
    surface: str | None = None


UNITS: dict[str, Callable[[str], int]] = {
    "characters": lambda c: 1,
    "utf16": lambda c: 1 + (c > "\uffff"),
    "utf8": lambda c: len(c.encode("utf-8", "surrogatepass")),
}
"""How many units of an offset a character takes: code points, JavaScript's UTF-16 code units, bytes."""


def document(
    text: Any,
    mentions: Sequence[Mention],
    relations: Iterable[tuple[str, Any, Any]],
    place: str,
    options: Options,
    left_out: LeftOut,
) -> Iterator[Sentence]:
    """The sentence of a text, its mentions and relations (label, name of the head, name of the tail).

    Blanks at the ends of a mention are cut off, a byte-order mark before the text is dropped; both move offsets. What
    cannot be kept is counted. Raises ValueError for a mention that does not stand where it should.
    """
    if not isinstance(text, str):
        raise ValueError(f"{place}: the text is {type(text).__name__}, not a text")
    if not text.isascii() and LONE_SURROGATE.search(text):
        left_out["texts with a lone surrogate, which were decoded wrongly"] += 1
        return
    if not text.strip("\ufeff \t\r\n"):
        left_out["texts without words"] += 1
        return
    entities = _entities(text, mentions, place, options, left_out)
    joined = []
    for label, head, tail in relations:
        if all(isinstance(end, str | int | tuple) and end in entities for end in (head, tail)):
            joined.append(Relation(label, entities[head], entities[tail]))
        else:
            left_out["relations without their mentions"] += 1
    yield Sentence(text.removeprefix("\ufeff"), list(dict.fromkeys(entities.values())), joined)


def _entities(
    text: str, mentions: Sequence[Mention], place: str, options: Options, left_out: LeftOut
) -> dict[Any, Entity]:
    """Mentions by their names, without blanks at their ends; offsets are those of the text without its mark."""
    entities: dict[Any, Entity] = {}
    shift = text.startswith("\ufeff")
    for mention, (start, end) in zip(mentions, _places(text, mentions, place, options.offsets), strict=True):
        inside = text[start:end].strip("\ufeff").strip()
        if not inside:
            left_out["empty mentions"] += 1
            continue
        if len(inside) < end - start:
            left_out[BLANKS] += 1
            start = text.index(inside, start)
            end = start + len(inside)
        left_out[CUT] += mention.surface is None and _cuts_a_word(text, start, end)
        entity = Entity(mention.label, ((start - shift, end - shift),))
        left_out["repeated mentions"] += entity in entities.values()
        entities[len(entities) if mention.name is None else mention.name] = entity
    return entities


CUT = "mentions that begin or end inside a word"
"""Counted, not left out: their offsets may count something else."""
BLANKS = "blanks at the ends of mentions"


def _cuts_a_word(text: str, start: int, end: int) -> bool:
    return any(0 < at < len(text) and text[at - 1].isalnum() and text[at].isalnum() for at in (start, end))


def _places(text: str, mentions: Sequence[Mention], place: str, unit: str) -> list[tuple[int, int]]:
    """Start and end of each mention in characters. Where mentions repeat their texts, these say what offsets count."""
    if not mentions:
        return []
    repeated = any(mention.surface is not None for mention in mentions)
    fault = ""
    for position in _readings(text, [unit] if unit else list(UNITS) if repeated else ["characters"], repeated):
        places = [(_at(position, m.start), _at(position, m.end)) for m in mentions]
        wrong = next((m for m, place in zip(mentions, places, strict=True) if not _stands(text, m, *place)), None)
        if wrong is None:
            return places
        fault = fault or _fault(wrong, len(position) - 1, unit)
    raise ValueError(f"{place}: {fault}")


def _stands(text: str, mention: Mention, start: int, end: int) -> bool:
    return 0 <= start <= end and (mention.surface is None or _same(text[start:end], mention.surface))


def _readings(text: str, units: Sequence[str], repeated: bool) -> Iterator[Sequence[int]]:
    """The character at each offset, -1 inside one, in every way to count that makes a difference for the text."""
    plain = text.isascii()
    for unit in units[:1] if plain else units:
        for breaks in (2, 1) if repeated and "\r\n" in text else (2,):
            for mark in (1, 0) if repeated and text.startswith("\ufeff") else (1,):
                if (plain or unit == "characters") and breaks == 2 and mark:
                    yield range(len(text) + 1)
                else:
                    yield _positions(text, UNITS[unit], breaks, mark)


def _positions(text: str, width: Callable[[str], int], breaks: int, mark: int) -> list[int]:
    """Characters by offset; `breaks` and `mark` are units of a CR LF and of a byte-order mark before the text."""
    position: list[int] = []
    for n, c in enumerate(text):
        units = width(c)
        if (n == 0 and c == "\ufeff" and not mark) or (breaks == 1 and c == "\n" and text[n - 1 : n] == "\r"):
            units = 0
        position += [n, *[-1] * (units - 1)][:units]
    return [*position, len(text)]


def _at(position: Sequence[int], offset: Any) -> int:
    return position[offset] if type(offset) is int and 0 <= offset < len(position) else -1


def _same(inside: str, surface: str) -> bool:
    # Label Studio once wrote line breaks as a backslash and an n.
    words = inside.split()
    return words == surface.split() or (bool(words) and words == surface.replace("\\n", "\n").split())


def _fault(mention: Mention, length: int, unit: str) -> str:
    between = f"{mention.start!r} to {mention.end!r}"
    if mention.surface is not None:
        return f"{mention.surface[:60]!r} does not stand at {between} of its text"
    other = "" if unit else "; if they count UTF-16 units or bytes, say --offsets utf16 or utf8"
    return f"the mention of {mention.label!r} at {between} is no range of its text, which ends at {length}{other}"
