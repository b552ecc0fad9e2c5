"""Long lists: twenty to sixty agencies in one sentence, as collaborations thank them; most have no identifier."""

from __future__ import annotations

from random import Random

from adapters.data_aug.funding_statements.awards import draw_ids
from adapters.data_aug.funding_statements.names import Funder, known_funder, registry_funder
from adapters.data_aug.funding_statements.phrases import GRAMMAR, Award, Mention, join


def _funders(rng: Random, number: int) -> list[Funder]:
    funders: list[Funder] = []
    seen: set[str] = set()
    short = rng.random() < 0.5
    while len(funders) < number:
        funder = known_funder(rng) if rng.random() < 0.4 else registry_funder(rng)
        if short and len(funder.acronym) > 1 and rng.random() < 0.7:
            funder = funder.called(funder.acronym)
        if not seen & funder.keys:
            seen |= funder.keys
            funders.append(funder)
    return funders


def long_list(rng: Random) -> tuple[str, list[Mention]]:
    """One sentence and its mentions; a country behind its agencies in brackets or after a comma, or none."""
    funders = _funders(rng, 20 + int(rng.random() ** 1.5 * 41))
    form = int(rng.random() * 3)
    with_ids = (0.0, 0.0, 0.1, 0.7)[int(rng.random() * 4)]
    mentions: list[Mention] = []
    items: list[str] = []
    while funders:
        here = [funders.pop() for _ in range(min(len(funders), 1 + int(rng.random() * 1.8)))]
        written = []
        for funder in here:
            ids = draw_ids(rng, funder, 1) if rng.random() < with_ids else []
            mentions.append(Mention(funder, [Award(ids)]))
            name = funder.the if form == 2 else funder.label
            written.append(f"{name} ({', '.join(ids)})" if ids else name)
        country = GRAMMAR.say(rng, "country")
        listed = join(rng, written, loose=0)
        items += [f"{listed}, {country}"] if form == 0 else [f"{listed} ({country})"] if form == 1 else written
    return GRAMMAR.say(rng, "collaboration", list=join(rng, items, semicolon=form == 0, loose=0.1)), mentions
