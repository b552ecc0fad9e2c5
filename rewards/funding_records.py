"""Reads funders and awards from gold rows and model text; normalises strings.

Everything here accepts any input: bad shapes become fewer records, never an exception.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal
from unicodedata import normalize

import ftfy

from adapters.types import OldParameters

Scorer = Literal["published", "corrected"]
"""`published` counts exactly as the published harness, `corrected` repairs its defects (see `funding_matching`)."""

OLD_PARAMETERS: OldParameters = {"reading": ("scorer", {"compatible": "published", "fixed": "corrected"})}

MAX_CHARS = 1024
"""Names, schemes and titles are compared on this many leading characters; real ones stay under 200."""

MAX_TEXT = 1_000_000
"""Longer completions are not read; 4,096 tokens are under 20,000 characters."""

_REMEMBERED_CHARS = 256
"""Normalised forms of longer texts are not kept, so that the cache stays under some tens of megabytes."""


@dataclass(frozen=True, slots=True)
class Award:
    """One grant as labelled: its identifiers, its programmes, its titles."""

    award_ids: tuple[str, ...] = ()
    funding_scheme: tuple[str, ...] = ()
    award_title: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Funder:
    """A funding body and its awards; its name is None when only an award is known."""

    funder_name: str | None = None
    awards: tuple[Award, ...] = ()


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a completion says.

    `valid` means well-formed JSON whose top level is a list, one funder, or `{"funders": [...]}`. `problem` says why
    it is not valid, or what was dropped although it is; None when there is nothing to say.
    """

    funders: tuple[Funder, ...]
    valid: bool
    problem: str | None = None


_QUOTES = str.maketrans({"\u201c": '"', "\u201d": '"', "\u2018": "'", "\u2019": "'"})
_STARS = str.maketrans("", "", "\u22c6\u2022*")
_ESCAPED_LETTER = re.compile(r"\\([a-z])")


def normalise_text(text: str) -> str:
    """Bring a name, scheme or title to the form that is compared; case is kept.

    Order: ftfy, straight quotes, doubled ticks to one double quote, no stars or bullets, single spaces, no backslash
    before a lower-case letter. Only the first MAX_CHARS characters count.
    """
    return _remembered_text(text) if len(text) <= _REMEMBERED_CHARS else _normalised_text(text)


def _normalised_text(text: str) -> str:
    text = text[:MAX_CHARS]
    if not (text.isascii() and text.isprintable() and "&" not in text):  # ftfy leaves all other text as it is
        text = ftfy.fix_text(text).translate(_QUOTES)
    text = text.replace("``", '"').replace("''", '"').translate(_STARS)
    return _ESCAPED_LETTER.sub(r"\1", " ".join(text.split())).strip()


_remembered_text = lru_cache(maxsize=1 << 16)(_normalised_text)


_MORE_SEPARATORS = str.maketrans("", "", "\\\u00ad\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d")


def normalise_award_id(award_id: str, scorer: Scorer = "published") -> str:
    """Bring an award id to the form that is compared: upper case, no separators.

    Separators are spaces, hyphens, slashes; for `corrected` also Unicode dashes, minus, soft hyphens, backslashes, and
    canonically equal Unicode is the same.
    """
    bare = "".join(award_id.upper().split()).replace("-", "").replace("/", "")
    return normalize("NFC", bare.translate(_MORE_SEPARATORS)) if scorer == "corrected" else bare


def _as_text(value: object) -> str:
    """A scalar as text, None as "", a container as one wrong value."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, (int, float)):
        try:
            return str(value)
        except ValueError:  # an integer beyond the interpreter's digit limit
            return "<int>"
    return f"<{type(value).__name__}>"


def _items(value: object) -> list[Any] | tuple[Any, ...] | None:
    """A list, tuple or numpy array (as Parquet readers give); None for other values."""
    if isinstance(value, (list, tuple)):
        return value
    if type(value).__module__ == "numpy" and isinstance(array := value.tolist(), list):  # type: ignore[attr-defined]
        return array
    return None


def _texts(value: object) -> tuple[str, ...]:
    """An absent, scalar or list field as a tuple of non-empty strings."""
    if value is None or (type(value) is list and not value):
        return ()
    items = _items(value)
    texts = (value,) if items is None else items
    return tuple([text for item in texts if (text := item if type(item) is str else _as_text(item))])


def _award(record: Mapping[str, Any]) -> Award:
    get = record.get
    return Award(_texts(get("award_ids")), _texts(get("funding_scheme")), _texts(get("award_title")))


def _funder(record: Mapping[str, Any]) -> Funder:
    items = _items(record.get("awards"))
    if items is not None:
        awards = tuple([_award(item) for item in items if isinstance(item, dict)])
    else:
        flat = _award(record)
        awards = () if flat == Award() else (flat,)
    return Funder(_as_text(record.get("funder_name")) or None, awards)


def read_funders(value: object) -> tuple[Funder, ...]:
    """Read a gold row: records, one record, `{"funders": [...]}`, or their JSON text.

    A record is `{"funder_name", "awards": [{"award_ids", "funding_scheme", "award_title"}]}`; without a list of awards
    the three award fields may lie on the funder itself. Each field may be absent, a scalar or a list. What is not a
    record is dropped. Funders that were already read pass through.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return ()
    if isinstance(value, dict):
        inner = _items(value.get("funders"))
        value = [value] if inner is None else inner
    records = [item for item in _items(value) or () if isinstance(item, (dict, Funder))]
    return tuple([_funder(item) if isinstance(item, dict) else item for item in records])


_KEYS = frozenset({"funder_name", "awards", "award_ids", "funding_scheme", "award_title"})


def _unfenced(text: str) -> str:
    """The inside of the first closed json fence, else the whole text, in linear time."""
    start = text.find("```json")
    if start >= 0:
        end = text.find("```", start + 7)
        if end >= 0:
            text = text[start + 7 : end]
    return text.strip()


def parse(text: str) -> Parsed:
    """Read a completion; what cannot be read is an empty, invalid prediction."""
    if len(text) > MAX_TEXT:
        return Parsed((), False, f"longer than {MAX_TEXT:,} characters")
    try:
        value = json.loads(_unfenced(text))
    except RecursionError:
        return Parsed((), False, "nested too deeply")
    except ValueError as error:
        return Parsed((), False, f"not JSON: {error}")
    if isinstance(value, list):
        records, valid = value, True
    elif isinstance(value, dict):
        inner = value.get("funders")
        records = inner if isinstance(inner, list) else [value]
        valid = records is inner or not _KEYS.isdisjoint(value)
    else:
        return Parsed((), False, f"top level is {type(value).__name__}, wanted a list of funders")
    funders = read_funders(records)
    if not valid:
        return Parsed(funders, False, "the object has none of the keys of a funder")
    dropped = len(records) - len(funders)
    return Parsed(funders, True, f"{dropped} of {len(records)} records are not objects" if dropped else None)
