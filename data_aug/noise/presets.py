"""Ready mixtures of noise families, each at three levels."""

from __future__ import annotations

import dataclasses
from functools import cache

from adapters.data_aug.noise.characters import Case, Ocr, Swaps
from adapters.data_aug.noise.compose import Noise
from adapters.data_aug.noise.family import NoiseFamily
from adapters.data_aug.noise.glyphs import Accents, FullWidth, Ligatures, LookAlikes, Mojibake
from adapters.data_aug.noise.latex import LatexCommands, LatexEscapes, LatexMath, LatexTies
from adapters.data_aug.noise.layout import GluedWords, Hyphenation, IdSpacing, LineBreaks, SpacedCapitals, SplitWords
from adapters.data_aug.noise.markdown import Emphasis, MarkdownEscapes, Pipes
from adapters.data_aug.noise.markup import Entities, Tags
from adapters.data_aug.noise.page import LineNumbers, RunningHeads
from adapters.data_aug.noise.typography import Blanks, Dashes, Invisible, Quotes, Superscripts

ATTEMPTS = 8

# How far a level moves the medium's chances and rates.
LEVELS = {"light": (0.6, 0.5), "medium": (1.0, 1.0), "heavy": (1.8, 2.0)}

# Characters and words first, then the page, then markup from escapes to tags: misread text gets marked up, but markup
# is not misread, and no family escapes the tags and commands of an earlier one.
_PRESETS: dict[str, tuple[NoiseFamily, ...]] = {
    "ocr": (
        Case(rate=0.02, chance=0.5),
        Ocr(rate=0.012, chance=0.9),
        Swaps(rate=0.015, chance=0.4),
        GluedWords(rate=0.02, chance=0.3),
        SplitWords(rate=0.02, chance=0.3),
        SpacedCapitals(chance=0.15),
        Hyphenation(chance=0.3),
        LineBreaks(chance=0.4),
        IdSpacing(chance=0.4),
    ),
    "pdf": (
        Ligatures(chance=0.35),
        Accents(chance=0.5),
        GluedWords(rate=0.02, chance=0.2),
        SplitWords(rate=0.02, chance=0.15),
        SpacedCapitals(chance=0.15),
        Superscripts(chance=0.2),
        Dashes(chance=0.25),
        Quotes(chance=0.4),
        IdSpacing(chance=0.4),
        Hyphenation(chance=0.35),
        LookAlikes(chance=0.05),
        Blanks(chance=0.2),
        Invisible(chance=0.1),
        Mojibake(chance=0.05),
        LineBreaks(chance=0.4),
        RunningHeads(chance=0.1),
        LineNumbers(chance=0.08),
        Pipes(chance=0.09),
    ),
    "html": (
        Quotes(forms=("curly",), chance=0.3),
        Dashes(chance=0.2),
        Blanks(rate=0.05, chance=0.2),
        Invisible(rate=0.005, chance=0.1),
        Mojibake(chance=0.2),
        IdSpacing(chance=0.15),
        LineBreaks(chance=0.2),
        Entities(chance=0.6),
        Tags(rate=0.05, chance=0.7),
    ),
    "latex": (
        Quotes(forms=("doubled",), chance=0.4),
        LineBreaks(forms=("newline",), chance=0.3),
        IdSpacing(chance=0.15),
        LatexEscapes(chance=0.9),
        LatexMath(chance=0.2),
        LatexTies(chance=0.5),
        LatexCommands(rate=0.05, chance=0.6),
    ),
    "document": (
        Case(rate=0.02, chance=0.3),
        Ocr(rate=0.008, chance=0.3),
        Swaps(rate=0.02, chance=0.25),
        Ligatures(chance=0.15),
        Accents(chance=0.3),
        GluedWords(rate=0.02, chance=0.1),
        SplitWords(rate=0.02, chance=0.06),
        SpacedCapitals(chance=0.06),
        Superscripts(chance=0.08),
        Dashes(chance=0.15),
        Quotes(chance=0.25),
        IdSpacing(chance=0.25),
        Hyphenation(chance=0.12),
        LookAlikes(chance=0.06),
        FullWidth(chance=0.03),
        Blanks(chance=0.12),
        Invisible(chance=0.08),
        Mojibake(chance=0.06),
        LineBreaks(chance=0.15),
        RunningHeads(chance=0.03),
        LineNumbers(chance=0.03),
        MarkdownEscapes(rate=0.3, chance=0.06),
        LatexEscapes(chance=0.12),
        LatexMath(chance=0.05),
        LatexTies(chance=0.08),
        Entities(chance=0.15),
        Emphasis(chance=0.12),
        LatexCommands(chance=0.15),
        Tags(chance=0.25),
        Pipes(chance=0.08),
    ),
}

PRESETS = tuple(_PRESETS)
FAMILIES = {family.NAME: type(family) for family in _PRESETS["document"]}  # the preset that mixes them all


@cache
def preset(name: str, level: str = "medium") -> Noise:
    """A shipped mixture. Raises ValueError for a name or level that does not exist."""
    if name not in _PRESETS:
        raise ValueError(f"unknown noise preset {name!r}; known: {', '.join(PRESETS)}")
    if level not in LEVELS:
        raise ValueError(f"unknown noise level {level!r}; known: {', '.join(LEVELS)}")
    chance, rate = LEVELS[level]
    families = (
        dataclasses.replace(family, chance=min(1.0, family.chance * chance), rate=min(1.0, family.rate * rate))
        for family in _PRESETS[name]
    )
    return Noise(tuple(families), ATTEMPTS, f"{name}/{level}")
