"""One value of a record: how strings, numbers, dates and names are read, and when two of them are the same.

Everything here accepts any JSON value and any text, never raises, and is linear in its input.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from datetime import date, datetime
from functools import lru_cache
from typing import Any, Final, Literal, get_args
from unicodedata import category, normalize

Kind = Literal["string", "number", "integer", "boolean", "enum", "date", "date-time"]
Normaliser = Literal["exact", "text", "name", "id"]
NORMALISERS: Final = get_args(Normaliser)

MAX_CHARS = 4096
"""Strings are compared on this many leading characters."""

DATES: Final = (
    "%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%Y%m%d", "%d.%m.%Y", "%d %B %Y", "%d %b %Y", "%d. %B %Y", "%d-%b-%Y",
    "%B %d, %Y", "%b %d, %Y", "%B %d %Y", "%b %d %Y",
)  # fmt: skip
"""Spellings of a date that mean one day everywhere: a point puts the day first, a year in front the month second."""
SLASHED: Final = ("%d/%m/%Y", "%m/%d/%Y")
"""Read where only one of them is a date: 25/12/2024, but not 03/12/2024."""

_GROUPED = re.compile(r"[+-]?\d{1,3}(?:([ ,.'])\d{3})(?:\1\d{3})*")
_CURRENCY: Final = " $\u20ac\u00a3\u00a5%"
_LONGEST_NUMBER = 64


def number(value: object) -> float | None:
    """A number or the text of one: 1200.5, `1,200.50`, `1.200,50`, `1 200,50`, `$1,200`; None for others.

    Of a point and a comma the later one is the decimal sign. A comma alone groups thousands where three digits follow
    each, else it is the decimal sign; a single point is always the decimal sign, as in JSON.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(_plain_number(value) if isinstance(value, str) else value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def _plain_number(text: str) -> str:
    text = text[: _LONGEST_NUMBER + 1].strip().strip(_CURRENCY).replace("\u00a0", " ").replace("\u202f", " ")
    text = text.replace("\u2212", "-").replace("\u2019", "'")
    if len(text) > _LONGEST_NUMBER or "_" in text or not any(c.isdigit() for c in text):
        raise ValueError
    decimal = "." if text.rfind(".") > text.rfind(",") else ","
    grouped = _GROUPED.fullmatch(text)
    if grouped and (grouped[1] == "," or text.count(decimal) > 1):
        decimal = "\0"  # it only groups
    whole, sign, fraction = text.rpartition(decimal) if decimal in text else (text, "", "")
    if re.search(r"[ ,.']", whole):
        if not _GROUPED.fullmatch(whole):
            raise ValueError
        whole = re.sub(r"[ ,.']", "", whole)
    return f"{whole}{'.' if sign else ''}{fraction}"


def day(value: object) -> str | None:
    """A date as YYYY-MM-DD; None for what is no date, or could be two."""
    return _day(" ".join(value.split())) if isinstance(value, str) and len(value) <= _LONGEST_NUMBER else None


@lru_cache(maxsize=1 << 12)
def _day(text: str) -> str | None:
    for spelling in DATES:
        if found := _strptime(text, spelling):
            return found
    read = {found for spelling in SLASHED if (found := _strptime(text, spelling))}
    return read.pop() if len(read) == 1 else None


def _strptime(text: str, spelling: str) -> str | None:
    try:
        return datetime.strptime(text, spelling).date().isoformat()
    except ValueError:
        return None


def instant(value: object) -> str | None:
    """An ISO 8601 date and time, in UTC where it names its zone; None for others."""
    if not isinstance(value, str) or len(value) > _LONGEST_NUMBER:
        return None
    try:
        found = datetime.fromisoformat(value.strip())
        return found.timestamp().hex() if found.tzinfo else found.isoformat()
    except (ValueError, OverflowError, OSError):
        return None


def spellings(value: object) -> set[str]:
    """How a number or a date may stand in a text."""
    if isinstance(value, bool):
        return set()
    if isinstance(value, int | float):
        plain = {json.dumps(value), f"{value:.2f}", f"{value:,.2f}"}
        return plain | {text.translate(str.maketrans(",.", ".,")) for text in plain}
    found = day(value)
    if found is None:
        return set()
    when = date.fromisoformat(found)
    padded = {when.strftime(spelling) for spelling in (*DATES, *SLASHED)}
    return padded | {re.sub(r"\b0(?=\d\b)", "", text) for text in padded}


def _text(value: str) -> str:
    folded = normalize("NFC", normalize("NFKC", value).casefold())
    return " ".join(folded.split())


def _name(value: str) -> str:
    bare = "".join(c for c in normalize("NFKD", value.replace("&", " and ").casefold()) if category(c)[0] != "M")
    words = "".join(c if c.isalnum() else " " for c in bare).split()
    return " ".join(words[1:] if words[:1] == ["the"] and words[1:] else words) or _text(value)


def _id(value: str) -> str:
    return "".join(c for c in normalize("NFKC", value).upper() if c.isalnum()) or _text(value)


_NORMALISE: Final[dict[str, Callable[[str], str]]] = {
    "exact": lambda value: normalize("NFC", value),
    "text": _text,
    "name": _name,
    "id": _id,
}


@lru_cache(maxsize=1 << 14)
def _short(value: str, normaliser: str) -> str:
    return _NORMALISE[normaliser](value)


def normalised(value: str, normaliser: str) -> str:
    """A string as it is compared.

    `exact`: canonically equal Unicode is one text. `text`: so are upper and lower case, all white space, and
    compatibility forms such as ligatures. `name`: so are accents, punctuation, & and "and", a leading "the". `id`:
    letters and digits alone, without case.
    """
    return _short(value, normaliser) if len(value) <= 256 else _NORMALISE[normaliser](value[:MAX_CHARS])


def key(value: object, kind: str, normaliser: str) -> str | None:
    """The text by which two values of a field are the same; None where the value is none of this kind."""
    if kind in ("number", "integer"):
        found = number(value)
        return None if found is None else f"{found + 0.0:.12g}"
    if kind == "boolean":
        text = value.strip().lower() if isinstance(value, str) else json.dumps(value) if value in (True, False) else ""
        return text if text in ("true", "false") else None
    if kind == "date":
        return day(value)
    if kind == "date-time":
        return instant(value)
    if isinstance(value, str):
        return normalised(value, normaliser)
    if isinstance(value, int | float):
        try:
            return normalised(json.dumps(value), normaliser)
        except ValueError:  # an integer beyond the interpreter's digit limit
            return None
    return None


def is_empty(value: object) -> bool:
    """Whether a value says nothing: null, blank text, an empty list, an object of such values."""
    stack = [value]
    while stack:
        inner = stack.pop()
        if isinstance(inner, dict):
            stack += inner.values()
        elif isinstance(inner, list | tuple):
            stack += inner
        elif not (inner is None or (isinstance(inner, str) and not inner.strip())):
            return False
    return True


def scalars(value: object) -> list[Any]:
    """The values inside a JSON value that are neither list nor object, empty ones left out."""
    out, stack = list[Any](), [value]
    while stack:
        inner = stack.pop()
        if isinstance(inner, dict):
            stack += reversed(inner.values())
        elif isinstance(inner, list | tuple):
            stack += reversed(inner)
        elif not is_empty(inner):
            out.append(inner)
    return out
