"""LaTeX source left in the text: escapes, accents, ties, commands, inline math."""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from adapters.data_aug.data_files import read_data
from adapters.data_aug.noise.family import BLANK, Change, NoiseFamily
from adapters.data_aug.noise.markup import MarkupFamily

_TABLES = read_data("noise/tables.json")
_ESCAPES: dict[str, list[str]] = _TABLES["latex_escapes"]
_ACCENT_COMMANDS: dict[str, str] = _TABLES["latex_accents"]
_MARKUP: dict[str, dict[str, list[str]]] = {"": _TABLES["latex_markup"]}


@cache
def _commands(character: str) -> Sequence[str]:
    """The LaTeX commands for a character; none if it is written as itself."""
    if character in _ESCAPES:
        return _ESCAPES[character]
    characters = unicodedata.normalize("NFD", character)
    if len(characters) != 2 or characters[1] not in _ACCENT_COMMANDS:
        return ()
    base, mark = characters[0], _ACCENT_COMMANDS[characters[1]]
    dotless = f"\\{base}" if base in "ij" else base
    braced = f"\\{mark}{{{dotless}}}"
    short = braced if mark.isalpha() else f"\\{mark}{dotless}"
    return (braced, f"{{{short}}}") if dotless != base else (braced, short, f"{{{short}}}")


@dataclass(frozen=True)
class LatexEscapes(NoiseFamily):
    r"""Special and accented characters in LaTeX: `\&`, `\_`, `\"{u}`, `--`."""

    rate: float = 0.8
    NAME = "latex_escapes"
    SITES = re.compile(
        '[&%$#_{}"\u2013\u2014\u2018\u2019\u201c\u201d\u2026\u00a0\u00ae\u00b0-\u024f\u1e00-\u1eff\u2122]'
    )

    def _change(self, text: str, start: int, end: int, rng: random.Random, form: str) -> Change | None:
        if text[start] == '"':
            return start, end, "``" if start == 0 or text[start - 1] in " \n([" else "''"
        commands = _commands(text[start])
        return (start, end, rng.choice(commands)) if commands else None


@dataclass(frozen=True)
class LatexTies(NoiseFamily):
    r"""Blanks as `~`, `\ `, `\,` or a line break of the source."""

    rate: float = 0.08
    NAME = "latex_ties"
    SITES = BLANK
    CHOICES = ("~", "~", "~", "\\ ", r"\,", "\n", "%\n")


@dataclass(frozen=True)
class LatexCommands(MarkupFamily):
    r"""Commands around words (`\emph{}`), after words (`$^{a}$`) and around the text."""

    rate: float = 0.04
    whole: float = 0.2
    NAME = "latex_commands"
    MARKUP = _MARKUP
    BEHIND = 0.5


@dataclass(frozen=True)
class LatexMath(NoiseFamily):
    """Free-standing numbers set in math mode: `$12$`."""

    rate: float = 0.4
    NAME = "latex_math"
    SITES = re.compile(r"(?<![\w.,/-])\d+(?:\.\d+)?(?![\w/-])")

    def _change(self, text: str, start: int, end: int, rng: random.Random, form: str) -> Change:
        return start, end, f"${text[start:end]}$"
