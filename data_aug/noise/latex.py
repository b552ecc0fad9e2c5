"""LaTeX source left in the text: escapes, accents, ties, commands, inline math."""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from adapters.data_aug.noise.edits import Edit, Span, check, hits
from adapters.data_aug.noise.markup import phrases, surround

_ESCAPES = {
    "&": (r"\&",),
    "%": (r"\%",),
    "$": (r"\$",),
    "#": (r"\#",),
    "_": (r"\_",),
    "{": (r"\{",),
    "}": (r"\}",),
    "\u2013": ("--",),
    "\u2014": ("---",),
    "\u2018": ("`",),
    "\u2019": ("'",),
    "\u201c": ("``",),
    "\u201d": ("''",),
    "\u2026": (r"\ldots", r"\dots{}"),
    "\u00b0": (r"$^{\circ}$", r"\textdegree"),
    "\u00d7": (r"$\times$",),
    "\u00b1": (r"$\pm$",),
    "\u00ae": (r"\textregistered", r"$^{\circledR}$"),
    "\u2122": (r"\texttrademark", r"$^{TM}$"),
    "\u00df": (r"\ss{}", r"{\ss}"),
    "\u00f8": (r"\o{}", r"{\o}"),
    "\u00d8": (r"\O{}", r"{\O}"),
    "\u00e6": (r"\ae{}", r"{\ae}"),
    "\u0142": (r"\l{}", r"{\l}"),
    "\u0141": (r"\L{}", r"{\L}"),
    "\u0131": (r"\i{}",),
}
_ACCENT_COMMANDS = {
    "\u0300": "`",
    "\u0301": "'",
    "\u0302": "^",
    "\u0303": "~",
    "\u0304": "=",
    "\u0306": "u",
    "\u0308": '"',
    "\u030a": "r",
    "\u030b": "H",
    "\u030c": "v",
    "\u0327": "c",
    "\u0328": "k",
}
_SITE = re.compile('[&%$#_{}"\u2013\u2014\u2018\u2019\u201c\u201d\u2026\u00a0\u00ae\u00b0-\u024f\u1e00-\u1eff\u2122]')
_TIES = ("~", "~", "~", "\\ ", r"\,", "\n", "%\n")
_AROUND = (
    r"\textit{|}",
    r"\emph{|}",
    r"\textbf{|}",
    r"\textsc{|}",
    r"{\it |}",
    r"{\bf |}",
    r"{\em |\/}",
    r"\mbox{|}",
    r"\textcolor{blue}{|}",
    r"\uline{|}",
)
_BEHIND = (
    r"\textsuperscript{1}",
    r"\textsuperscript{1,2}",
    r"$^{1}$",
    r"$^{a}$",
    r"$^{\dagger}$",
    r"$^*$",
    r"\footnotemark[1]",
    r"~\cite{ref12}",
    r"\citep{a2019}",
    r" \\",
    r"\newline",
)
_OUTER = (
    "\\section*{Acknowledgments}\n|",
    "\\acknowledgments\n|",
    "\\begin{acknowledgements}\n|\n\\end{acknowledgements}",
    "\\noindent |",
    "\\thanks{|}",
    "{\\small |}",
    "|\\par",
    "\\ack{|}",
)
_NUMBER = re.compile(r"(?<![\w.,/-])\d+(?:\.\d+)?(?![\w/-])")


@cache
def _commands(character: str) -> tuple[str, ...]:
    """The ways to write a character; none for one that is written as itself."""
    if character in _ESCAPES:
        return _ESCAPES[character]
    parts = unicodedata.normalize("NFD", character)
    if len(parts) != 2 or parts[1] not in _ACCENT_COMMANDS:
        return ()
    base, mark = parts[0], _ACCENT_COMMANDS[parts[1]]
    dotless = f"\\{base}" if base in "ij" else base
    braced = f"\\{mark}{{{dotless}}}"
    short = braced if mark.isalpha() else f"\\{mark}{dotless}"
    return (braced, f"{{{short}}}") if dotless != base else (braced, short, f"{{{short}}}")


@dataclass(frozen=True)
class LatexEscapes:
    r"""Special and accented characters as LaTeX writes them: `\&`, `\_`, `\"{u}`, `--`. `rate`: share of them hit."""

    rate: float = 0.8
    chance: float = 1.0

    def __post_init__(self) -> None:
        check(self)

    def __call__(self, text: str, rng: random.Random, protected: Sequence[Span]) -> list[Edit]:
        """Propose edits."""
        sites = [site.start() for site in _SITE.finditer(text)]
        edits = []
        for index in hits(rng, len(sites), self.rate):
            at = sites[index]
            if text[at] == '"':
                after = "``" if at == 0 or text[at - 1] in " \n([" else "''"
                edits.append(Edit(at, at + 1, after, "latex_escapes"))
            elif written := _commands(text[at]):
                edits.append(Edit(at, at + 1, rng.choice(written), "latex_escapes"))
        return edits


@dataclass(frozen=True)
class LatexTies:
    r"""Blanks as `~`, `\ `, `\,` or a line break of the source. `rate`: share of blanks hit."""

    rate: float = 0.08
    chance: float = 1.0

    def __post_init__(self) -> None:
        check(self)

    def __call__(self, text: str, rng: random.Random, protected: Sequence[Span]) -> list[Edit]:
        """Propose edits."""
        sites = [at for at, character in enumerate(text) if character == " "]
        return [
            Edit(sites[index], sites[index] + 1, rng.choice(_TIES), "latex_ties")
            for index in hits(rng, len(sites), self.rate)
        ]


@dataclass(frozen=True)
class LatexCommands:
    r"""Commands around words (`\emph{}`), after words (`\textsuperscript{1}`, `$^{a}$`) and around the whole text.

    `rate`: share of words hit; `whole`: chance of a command around everything. None stands inside a labelled span.
    """

    rate: float = 0.04
    whole: float = 0.2
    chance: float = 1.0

    def __post_init__(self) -> None:
        check(self)

    def __call__(self, text: str, rng: random.Random, protected: Sequence[Span]) -> list[Edit]:
        """Propose edits."""
        edits: list[Edit] = []
        if text and rng.random() < self.whole:
            edits += surround(0, len(text), rng.choice(_OUTER), "latex_commands")
        for start, end in phrases(text, rng, protected, self.rate):
            if rng.random() < 0.5:
                edits.append(Edit(end, end, rng.choice(_BEHIND), "latex_commands"))
            else:
                edits += surround(start, end, rng.choice(_AROUND), "latex_commands")
        return edits


@dataclass(frozen=True)
class LatexMath:
    """Numbers set in math mode: `$12$`. `rate`: share of free-standing numbers hit."""

    rate: float = 0.4
    chance: float = 1.0

    def __post_init__(self) -> None:
        check(self)

    def __call__(self, text: str, rng: random.Random, protected: Sequence[Span]) -> list[Edit]:
        """Propose edits."""
        numbers = [number.span() for number in _NUMBER.finditer(text)]
        return [
            Edit(start, end, f"${text[start:end]}$", "latex_math")
            for start, end in (numbers[index] for index in hits(rng, len(numbers), self.rate))
        ]
