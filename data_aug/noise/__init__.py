"""Noise of scans, PDF readers and markup, with exact positions of labels.

    noise_row(row, preset("document", "medium"), seed=1, epoch=0, policy="protect", share=0.5)
    noise_text(text, rng, spans, Noise((Ligatures(rate=0.5), Hyphenation())), policy="follow")

A family is a `NoiseFamily`, or any callable `(text, rng, spans) -> list[Edit]`. It proposes edits; those that respect
the labelled spans are made. Every result carries its edits and maps spans both ways.
"""

from adapters.data_aug.noise.characters import Case, Ocr, Swaps
from adapters.data_aug.noise.compose import Noise, noise_text
from adapters.data_aug.noise.edits import Edit, Family, Noised, Path, Span, hits
from adapters.data_aug.noise.family import FormedFamily, NoiseFamily
from adapters.data_aug.noise.glyphs import Accents, FullWidth, Ligatures, LookAlikes, Mojibake
from adapters.data_aug.noise.labels import Label, NoisedRow, find_spans, funding_labels, noise_row, relabel
from adapters.data_aug.noise.latex import LatexCommands, LatexEscapes, LatexMath, LatexTies
from adapters.data_aug.noise.layout import GluedWords, Hyphenation, IdSpacing, LineBreaks, SpacedCapitals, SplitWords
from adapters.data_aug.noise.markup import Emphasis, Entities, MarkdownEscapes, Pipes, Tags
from adapters.data_aug.noise.page import LineNumbers, RunningHeads
from adapters.data_aug.noise.policy import POLICIES
from adapters.data_aug.noise.presets import FAMILIES, LEVELS, PRESETS, preset
from adapters.data_aug.noise.typography import Blanks, Dashes, Invisible, Quotes, Superscripts

__all__ = [
    "FAMILIES",
    "LEVELS",
    "POLICIES",
    "PRESETS",
    "Accents",
    "Blanks",
    "Case",
    "Dashes",
    "Edit",
    "Emphasis",
    "Entities",
    "Family",
    "FormedFamily",
    "FullWidth",
    "GluedWords",
    "Hyphenation",
    "IdSpacing",
    "Invisible",
    "Label",
    "LatexCommands",
    "LatexEscapes",
    "LatexMath",
    "LatexTies",
    "Ligatures",
    "LineBreaks",
    "LineNumbers",
    "LookAlikes",
    "MarkdownEscapes",
    "Mojibake",
    "Noise",
    "NoiseFamily",
    "Noised",
    "NoisedRow",
    "Ocr",
    "Path",
    "Pipes",
    "Quotes",
    "RunningHeads",
    "SpacedCapitals",
    "Span",
    "SplitWords",
    "Superscripts",
    "Swaps",
    "Tags",
    "find_spans",
    "funding_labels",
    "hits",
    "noise_row",
    "noise_text",
    "preset",
    "relabel",
]
