"""LaTeX source left in the text: escapes, accents, ties, commands, inline math."""

from __future__ import annotations

import random
import re
import unicodedata
from dataclasses import dataclass
from functools import cache

from adapters.data_aug.noise.family import BLANK, Change, NoiseFamily
from adapters.data_aug.noise.markup import Markup, MarkupFamily

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
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u", "\u0308": '"',
    "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0327": "c", "\u0328": "k",
}  # fmt: skip
_COMMANDS = {
    "": Markup(
        around=(
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
        ),
        behind=(
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
        ),
        outer=(
            "\\section*{Acknowledgments}\n|",
            "\\acknowledgments\n|",
            "\\begin{acknowledgements}\n|\n\\end{acknowledgements}",
            "\\noindent |",
            "\\thanks{|}",
            "{\\small |}",
            "|\\par",
            "\\ack{|}",
        ),
    )
}


@cache
def _commands(character: str) -> tuple[str, ...]:
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
    MARKUP = _COMMANDS
    BEHIND = 0.5


@dataclass(frozen=True)
class LatexMath(NoiseFamily):
    """Free-standing numbers set in math mode: `$12$`."""

    rate: float = 0.4
    NAME = "latex_math"
    SITES = re.compile(r"(?<![\w.,/-])\d+(?:\.\d+)?(?![\w/-])")

    def _change(self, text: str, start: int, end: int, rng: random.Random, form: str) -> Change:
        return start, end, f"${text[start:end]}$"
