"""The base of the noise families: a rate, a chance, and edits at hit sites."""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from adapters.data_aug.noise.edits import Edit, Span, hits

Change = tuple[int, int, str]
"""`(start, end, after)`: `text[start:end]` becomes `after`."""

WORD = re.compile(r"[^\W\d_]{2,}")
BLANK = re.compile(" ")


@dataclass(frozen=True)
class NoiseFamily:
    """One kind of noise: edits at a share of a text's sites.

    `rate`: share of the sites that are hit; `chance`: probability that the family acts on a text at all. A subclass
    sets its `NAME` and the pattern of its `SITES`. A hit site becomes one of its `CHOICES`, drawn anew each time, or
    what `_change` returns. What all changes of a text share comes from `_draw`.
    """

    rate: float = 0.5
    chance: float = dataclasses.field(default=1.0, kw_only=True)
    NAME: ClassVar[str]
    SITES: ClassVar[re.Pattern[str]]
    CHOICES: ClassVar[Sequence[str]]

    def __post_init__(self) -> None:
        """Raise ValueError for a number outside [0, 1]."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, (int, float)) and not 0 <= value <= 1:
                raise ValueError(f"{type(self).__name__}.{field.name} must lie in [0, 1], not {value}")

    def __call__(self, text: str, rng: random.Random, protected: Sequence[Span]) -> list[Edit]:
        """Propose edits."""
        form = self._draw(rng)
        hit = self._hit_sites(text, rng, protected)
        changes = [self._change(text, start, end, rng, form) for start, end in hit]
        return [Edit(*change, self.NAME) for change in changes if change]

    def _hit_sites(self, text: str, rng: random.Random, protected: Sequence[Span]) -> list[tuple[int, int]]:
        sites = list(self.SITES.finditer(text))
        return [sites[index].span() for index in hits(rng, len(sites), self.rate)]

    def _draw(self, rng: random.Random) -> str:
        """What all changes of a text have in common."""
        return ""

    def _change(self, text: str, start: int, end: int, rng: random.Random, form: str) -> Change | None:
        """The change at a hit site, or None to leave it alone."""
        return start, end, rng.choice(self.CHOICES)


@dataclass(frozen=True)
class FormedFamily(NoiseFamily):
    """A family that draws one of `forms` for each text; repeated forms weigh more."""

    forms: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise ValueError for a number outside [0, 1] or an unknown form."""
        super().__post_init__()
        known = dict.fromkeys(type(self).forms)
        if not self.forms or set(self.forms) - set(known):
            name, forms = type(self).__name__, list(self.forms)
            raise ValueError(f"{name}.forms must be a non-empty choice of {', '.join(known)}, not {forms}")

    def _draw(self, rng: random.Random) -> str:
        return rng.choice(self.forms)


@dataclass(frozen=True)
class SwapFamily(NoiseFamily):
    """A family that swaps a share `rate` of the characters in its `TABLE`."""

    TABLE: ClassVar[Mapping[str, str]]

    def __call__(self, text: str, rng: random.Random, protected: Sequence[Span]) -> list[Edit]:
        """Propose edits."""
        table, name = self.TABLE, self.NAME
        hit = hits(rng, len(text), self.rate)
        return [Edit(at, at + 1, rng.choice(table[text[at]]), name) for at in hit if text[at] in table]
