"""HTML, JATS and TEI left in the text: tags and character entities."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html.entities import codepoint2name
from typing import ClassVar, NamedTuple

from adapters.data_aug.noise.edits import Edit, Span, hits, inside
from adapters.data_aug.noise.family import FormedFamily, NoiseFamily


class Markup(NamedTuple):
    """What may stand around a few words, behind a word and around a whole text."""

    around: tuple[str, ...]
    behind: tuple[str, ...]
    outer: tuple[str, ...]


_DIALECTS = {
    "html": Markup(
        ("<i>|</i>", "<b>|</b>", "<em>|</em>", "<strong>|</strong>", '<span class="s1">|</span>', "<u>|</u>"),
        ("<sup>1</sup>", "<sup>2,3</sup>", "<br/>", "<br>", '<a href="#fn1">1</a>', "<sub>2</sub>"),
        ("<p>|</p>", "<div>|</div>", "<p>|", "|</p>", '<p class="ack">|</p>'),
    ),
    "jats": Markup(
        ("<italic>|</italic>", "<bold>|</bold>", "<sc>|</sc>", '<named-content content-type="x">|</named-content>'),
        (
            "<sup>1</sup>",
            "<sup>a</sup>",
            '<xref ref-type="bibr" rid="B12">12</xref>',
            '<xref ref-type="fn" rid="fn1">*</xref>',
            "<break/>",
        ),
        ("<p>|</p>", "<ack><p>|</p></ack>", "<jats:p>|</jats:p>", '<sec id="s5"><p>|</p></sec>', "<fn><p>|</p></fn>"),
    ),
    "tei": Markup(
        ('<hi rend="italic">|</hi>', '<hi rend="bold">|</hi>', '<rs type="other">|</rs>'),
        ('<ref type="bibr" target="#b3">4</ref>', "<lb/>", '<note place="foot" n="1"/>'),
        ("<div><p>|</p></div>", '<div type="acknowledgement"><p>|</p></div>', "<p><s>|</s></p>"),
    ),
}

# A word of the text: no entity, command, tag or attribute that earlier noise wrote.
PLAIN_WORD = re.compile(r"(?<![\w&\\</{#])[^\W\d_]{2,}+(?![\w;=>}])")
_APOSTROPHE = {0x27: "apos", 0x22: "quot"}


def phrases(text: str, rng: random.Random, protected: Sequence[Span], rate: float) -> list[tuple[int, int]]:
    """Runs of one to four words; none starts or ends within a span.

    `rate`: share of words that start one.
    """
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
    MARKUP: ClassVar[Mapping[str, Markup]]  # by form
    BEHIND: ClassVar[float]  # share of the hits with markup behind the words; the others have it around them

    def __call__(self, text: str, rng: random.Random, protected: Sequence[Span]) -> list[Edit]:
        """Propose edits."""
        markup = self.MARKUP[self._draw(rng)]
        edits: list[Edit] = []
        if text and rng.random() < self.whole:
            edits += surround(0, len(text), rng.choice(markup.outer), self.NAME)
        for start, end in phrases(text, rng, protected, self.rate):
            if rng.random() < self.BEHIND:
                edits.append(Edit(end, end, rng.choice(markup.behind), self.NAME))
            else:
                edits += surround(start, end, rng.choice(markup.around), self.NAME)
        return edits


@dataclass(frozen=True)
class Tags(MarkupFamily, FormedFamily):
    """Tags around words, after words and around the whole text; `forms`: dialects."""

    rate: float = 0.04
    forms: tuple[str, ...] = ("html", "jats", "tei")
    NAME = "tags"
    MARKUP = _DIALECTS
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
