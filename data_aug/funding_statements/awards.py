"""Awards of a funder: identifiers, schemes and titles in realistic numbers."""

from __future__ import annotations

from bisect import bisect
from itertools import accumulate
from random import Random

from adapters.data_aug.funding_statements.grammar import Grammar, read_rules
from adapters.data_aug.funding_statements.identifiers import identifiers
from adapters.data_aug.funding_statements.names import Funder
from adapters.data_aug.funding_statements.people import initials, surname
from adapters.data_aug.funding_statements.phrases import Award, Mention

_COUNTS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 14)
_COUNT_SUMS = list(accumulate((790, 140, 42, 12, 5, 2, 1, 1, 1, 0)))


def _acronym(rng: Random) -> str:
    """A pronounceable project acronym such as GEONET or Bio-Flux."""
    first, second = _GRAMMAR.say(rng, "acronym_head"), _GRAMMAR.say(rng, "acronym_tail")
    roll = rng.random()
    if roll < 0.7:
        return first + second
    return (first + second).title() if roll < 0.85 else f"{first.title()}-{second.title()}"


_GRAMMAR = Grammar({**read_rules("wording.txt"), "surname": surname, "acronym": _acronym})


def _scheme(rng: Random, funder: Funder) -> tuple[str, str] | None:
    if funder.schemes and rng.random() < 0.34:
        return funder.schemes[int(rng.random() * len(funder.schemes))]
    if rng.random() < (0.10 if funder.known else 0.17):
        form = "f" if rng.random() < 0.18 else "p"
        return form, _GRAMMAR.say(rng, "scheme_award" if form == "f" else "scheme_programme")
    return None


def count(rng: Random) -> int:
    """Draw the number of a funder's identifiers, at least one."""
    return _COUNTS[bisect(_COUNT_SUMS, rng.random() * _COUNT_SUMS[-1])]


def _hold(rng: Random, award: Award, style: int) -> None:
    if award.ids and rng.random() < 0.09:
        award.holders = [initials(rng, style) for _ in award.ids]
    elif rng.random() < 0.05:
        award.holders = [initials(rng, style)]


def draw_ids(rng: Random, funder: Funder, number: int) -> list[str]:
    """A funder's identifiers without its name: "MOST 106-2420" gives "106-2420"."""
    ids = []
    for award_id in identifiers(rng, funder.shape, number):
        head, _, rest = award_id.partition(" ")
        ids.append(rest if rest and head in funder.label and head.isalpha() and len(head) > 1 else award_id)
    return ids


def draw_awards(rng: Random, funder: Funder, style: int, more: float = 1.0) -> list[Award]:
    """The awards of one funder; `more` raises the odds that they have identifiers."""
    with_ids = rng.random() < (0.765 if funder.known else 0.43) * more
    award = Award(draw_ids(rng, funder, count(rng)) if with_ids else [], _scheme(rng, funder))
    if award.scheme is None and rng.random() < (0.07 if with_ids else 0.02):
        award.title = _GRAMMAR.say(rng, "title")
    if award.scheme and award.ids and award.scheme[0] == "p" and rng.random() < 0.09:
        award.under = _GRAMMAR.say(rng, "second_scheme")
        return [award]
    if award.scheme and award.ids and funder.shape in ("eu", "fp") and award.scheme[0] == "p" and rng.random() < 0.5:
        if "Curie" not in award.scheme[1]:
            award.under = _GRAMMAR.say(rng, "second_programme")
        return [award]
    _hold(rng, award, style)
    if not with_ids or not funder.schemes or rng.random() > 0.05:
        return [award]
    awards = [award]
    for scheme in rng.sample(funder.schemes, min(len(funder.schemes), 2)):
        if all(scheme[1] not in (*other.schemes, *other.titles) for other in awards):
            fresh = [i for i in draw_ids(rng, funder, 1 + int(rng.random() * 1.3)) if i not in award.ids]
            awards.append(Award(fresh if rng.random() < 0.9 else [], scheme))
    return awards


def draw_mention(rng: Random, funder: Funder, style: int, more: float = 1.0) -> Mention:
    """A funder with its awards."""
    return Mention(funder, draw_awards(rng, funder, style, more))


def programme(rng: Random) -> Mention:
    """A programme named without its funder; sometimes a grant or fellowship by its name."""
    if rng.random() < 0.13:
        return Mention(None, [Award(identifiers(rng, "misc", 1) if rng.random() < 0.4 else [], _named_award(rng))])
    shape, _, name = _GRAMMAR.say(rng, "orphan_programme").partition(": ")
    ids = identifiers(rng, shape, 1 if rng.random() < 0.8 else 2) if rng.random() < 0.8 else []
    return Mention(None, [Award(ids, ("p", name))])


def _named_award(rng: Random) -> tuple[str, str]:
    return "f", _GRAMMAR.say(rng, "orphan_award_name")


_CODES = ("nih", "nih", "nih", "nsf", "doe", "rc", "onr", "nasa", "spain", "anr", "jsps", "nrf_kr", "dfg")


def codes(rng: Random, style: int) -> Mention:
    """Identifiers without any name: one object for all of them."""
    award = Award(identifiers(rng, _CODES[int(rng.random() * len(_CODES))], 1 + int(rng.random() ** 1.5 * 5)))
    if rng.random() < 0.4:
        award.holders = [initials(rng, style) for _ in award.ids]
    return Mention(None, [award])
