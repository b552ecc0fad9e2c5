"""Ready mixtures of noise families, each at three levels."""

from __future__ import annotations

from functools import cache

from adapters.data_aug.data_files import read_data
from adapters.data_aug.noise import characters, glyphs, latex, layout, markup, page, typography
from adapters.data_aug.noise.compose import Noise
from adapters.data_aug.noise.family import NoiseFamily

ATTEMPTS = 8

# How far a level moves the medium's chances and rates.
LEVELS = {"light": (0.6, 0.5), "medium": (1.0, 1.0), "heavy": (1.8, 2.0)}

# The families of each preset in the order they are applied, with their settings at the medium level. Characters and
# words first, then the page, then markup from escapes to tags: misread text gets marked up, but markup is not misread,
# and no family escapes the tags and commands of an earlier one.
_PRESETS = read_data("noise/presets.json")
PRESETS = tuple(_PRESETS)
FAMILIES: dict[str, type[NoiseFamily]] = {
    family.NAME: family
    for module in (characters, glyphs, latex, layout, markup, page, typography)
    for family in vars(module).values()
    if "NAME" in getattr(family, "__dict__", ())
}


@cache
def preset(name: str, level: str = "medium") -> Noise:
    """A shipped mixture. Raises ValueError for a name or level that does not exist."""
    if name not in PRESETS:
        raise ValueError(f"unknown noise preset {name!r}; known: {', '.join(PRESETS)}")
    if level not in LEVELS:
        raise ValueError(f"unknown noise level {level!r}; known: {', '.join(LEVELS)}")
    chance, rate = LEVELS[level]
    families = []
    for family, settings in _PRESETS[name].items():
        kind = FAMILIES[family]
        forms = {"forms": tuple(settings["forms"])} if "forms" in settings else {}
        new_rate = min(1.0, settings.get("rate", kind.rate) * rate)
        families.append(kind(rate=new_rate, chance=min(1.0, settings["chance"] * chance), **forms))
    return Noise(tuple(families), ATTEMPTS, f"{name}/{level}")
