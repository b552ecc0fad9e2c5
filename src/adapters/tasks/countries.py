"""Countries at the end of a name, by their two letters (ISO 3166-1)."""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from pathlib import Path
from typing import NamedTuple

_NO_LETTER = re.compile(r"[\W_]+")
_SHORT = 3


class Named(NamedTuple):
    """A name without the country at its end. `in_brackets`: it stood in brackets."""

    name: str
    country: str
    in_brackets: bool


def code(country: str | None) -> str | None:
    """The two letters of a country by them, by three letters or by one of its names; None for any other text."""
    return _codes().get(_plain(country or ""))


def ending(name: str) -> Named | None:
    """A name that ends with a country ("…, China", "… (Spain)", "… - USA", "… Norway"); None for any other."""
    found = _pattern().fullmatch(name)
    if found is None:
        return None
    country = found["inner"] or found["last"]
    if len(_plain(country)) <= _SHORT and not country.isupper():  # "us" is a word
        return None
    return Named(found["name"], _codes()[_plain(country)], found["inner"] is not None)


@cache
def _rows() -> list[list[str]]:
    lines = Path(__file__).with_name("countries.tsv").read_text(encoding="utf-8").splitlines()
    return [line.split("\t") for line in lines if not line.startswith("#")]


@cache
def _codes() -> dict[str, str]:
    return {_plain(name): row[0] for row in _rows() for name in row}


@cache
def _pattern() -> re.Pattern[str]:
    names = sorted({name for row in _rows() for name in row[2:]}, key=len, reverse=True)
    any_name = "|".join(re.escape(name).replace(r"\ ", r"\s+") for name in names)
    inner, last = (rf"(?:the\s+)?(?P<{group}>{any_name})" for group in ("inner", "last"))
    end = rf"\s*[(\[]\s*{inner}\s*[)\]]|(?:\s*[,;]\s*|\s+[-–—]\s+|\s+){last}"
    return re.compile(rf"(?P<name>.+?)(?:{end})\.?\s*", re.IGNORECASE | re.DOTALL)


def _plain(text: str) -> str:
    bare = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return _NO_LETTER.sub("", bare).casefold()
