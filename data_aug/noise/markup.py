"""Markup left in the text: HTML, JATS and TEI tags, entities, and Markdown."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html.entities import codepoint2name
from typing import ClassVar

from adapters.data_aug.data_files import read_data
from adapters.data_aug.noise.edits import Edit, Span, hits, inside
from adapters.data_aug.noise.family import Change, FormedFamily, NoiseFamily

# A word of the text: no entity, command, tag or attribute that earlier noise wrote.
PLAIN_WORD = re.compile(r"(?<![\w&\\</{#])[^\W\d_]{2,}+(?![\w;=>}])")
_EMPHASIS = {"star": "*|*", "strong": "**|**", "underscore": "_|_"}
_APOSTROPHE = {0x27: "apos", 0x22: "quot"}


def phrases(text: str, rng: random.Random, protected: Sequence[Span], rate: float) -> list[tuple[int, int]]:
    """Runs of 1 to 4 words that cut no span; `rate`: share of words that start one."""
    words = list(PLAIN_WORD.finditer(text))
    runs: list[tuple[int, int]] = []
    last = 0
    for index in hits(rng, len(words), rate):
        start = words[index].start()
        end = words[min(index + rng.randrange(4), len(words) - 1)].end()
        if start >= last and not inside(protected, start) and not inside(protected, end):
            runs.append((start, end))
            last = end
    return runs


def surround(start: int, end: int, pattern: str, family: str) -> list[Edit]:
    """The insertions that put `left|right` around a run."""
    left, right = pattern.split("|", 1)
    return [edit for edit in (Edit(start, start, left, family), Edit(end, end, right, family)) if edit.after]


@dataclass(frozen=True)
class MarkupFamily(NoiseFamily):
    """Markup around words, after words and around the whole text.

    `rate`: share of words hit; `whole`: chance of markup around everything. None stands inside a labelled span.
    """

    whole: float = 0.3
    MARKUP: ClassVar[Mapping[str, Mapping[str, Sequence[str]]]]
    """Form -> markup `around` words, `behind` a word, and around a whole text (`outer`)."""
    BEHIND: ClassVar[float]
    """Share of the hits with markup behind the words; the others have it around them."""

    def __call__(self, text: str, rng: random.Random, protected: Sequence[Span]) -> list[Edit]:
        """Propose edits."""
        markup = self.MARKUP[self._draw(rng)]
        edits: list[Edit] = []
        if text and rng.random() < self.whole:
            edits += surround(0, len(text), rng.choice(markup["outer"]), self.NAME)
        for start, end in phrases(text, rng, protected, self.rate):
            if rng.random() < self.BEHIND:
                edits.append(Edit(end, end, rng.choice(markup["behind"]), self.NAME))
            else:
                edits += surround(start, end, rng.choice(markup["around"]), self.NAME)
        return edits


@dataclass(frozen=True)
class Tags(MarkupFamily, FormedFamily):
    """Tags around words, after words and around the whole text; `forms`: dialects."""

    rate: float = 0.04
    forms: tuple[str, ...] = ("html", "jats", "tei")
    NAME = "tags"
    MARKUP = read_data("noise/tables.json")["markup"]
    BEHIND = 0.4


@dataclass(frozen=True)
class Entities(FormedFamily):
    """Character entities for special and non-ASCII characters, and for blanks.

    `rate`: share of such characters hit; `blanks`: share of blanks that become `&nbsp;`. Named, decimal, hexadecimal or
    escaped twice: one of `forms` for a text.
    """

    rate: float = 0.8
    blanks: float = 0.01
    forms: tuple[str, ...] = ("named", "named", "decimal", "hex", "twice")
    NAME = "entities"
    SITES = re.compile("[&\"'<>\u0080-\U0010ffff]")

    def __call__(self, text: str, rng: random.Random, protected: Sequence[Span]) -> list[Edit]:
        """Propose edits."""
        form = self._draw(rng)
        places = [(start, text[start]) for start, _ in self._hit_sites(text, rng, protected)]
        places += [(at, "\u00a0") for at in hits(rng, len(text), self.blanks) if text[at] == " "]
        return [Edit(at, at + 1, _entity(ord(character), form), "entities") for at, character in places]


def _entity(code: int, form: str) -> str:
    name = codepoint2name.get(code) or _APOSTROPHE.get(code)
    if form == "hex":
        return f"&#x{code:X};"
    if form == "decimal" or name is None:
        return f"&#{code};"
    return f"&amp;{name};" if form == "twice" else f"&{name};"


@dataclass(frozen=True)
class MarkdownEscapes(NoiseFamily):
    r"""Backslashes before characters with a meaning in Markdown: `\_`, `\[`."""

    NAME = "markdown_escapes"
    SITES = re.compile(r"[*_#\[\]()<>&|~+-]")

    def _change(self, text: str, start: int, end: int, rng: random.Random, form: str) -> Change:
        return start, end, f"\\{text[start]}"


@dataclass(frozen=True)
class Emphasis(FormedFamily):
    """Stars and underscores around words, and lone stars.

    `rate`: share of words where emphasis starts; `stray`: share of words before a lone `*`. Only lone stars may stand
    inside a name, because scorers ignore them.
    """

    rate: float = 0.03
    stray: float = 0.02
    forms: tuple[str, ...] = tuple(_EMPHASIS)
    NAME = "emphasis"

    def __call__(self, text: str, rng: random.Random, protected: Sequence[Span]) -> list[Edit]:
        """Propose edits."""
        pattern = _EMPHASIS[self._draw(rng)]
        edits: list[Edit] = []
        for start, end in phrases(text, rng, protected, self.rate):
            edits += surround(start, end, pattern, "emphasis")
        if self.stray:
            words = list(PLAIN_WORD.finditer(text))
            ends = (words[index].end() for index in hits(rng, len(words), self.stray))
            edits += [Edit(end, end, "*", "emphasis") for end in ends]
        return edits


@dataclass(frozen=True)
class Pipes(NoiseFamily):
    """Table pipes around the text and after punctuation, or a list `bullet`."""

    rate: float = 0.2
    bullet: float = 0.2
    NAME = "pipes"
    SITES = re.compile(r"(?<=[,.;:)]) ")

    def __call__(self, text: str, rng: random.Random, protected: Sequence[Span]) -> list[Edit]:
        """Propose edits."""
        if not text:
            return []
        if rng.random() < self.bullet:
            return [Edit(0, 0, rng.choice(("\u2022 ", "* ", "- ", "> ")), "pipes")]
        borders = super().__call__(text, rng, protected)
        left = rng.choice(("| ", "| ", "|", "| | "))
        return [Edit(0, 0, left, "pipes"), *borders, Edit(len(text), len(text), " |", "pipes")]

    def _change(self, text: str, start: int, end: int, rng: random.Random, form: str) -> Change:
        return start, end, " | "
