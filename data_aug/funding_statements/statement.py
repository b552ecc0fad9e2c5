"""Make one labelled statement from a seed and an index."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterator
from itertools import accumulate
from random import Random
from typing import TypedDict

from adapters.data_aug.funding_statements import background, clauses
from adapters.data_aug.funding_statements.awards import draw_ids, draw_mention, programme
from adapters.data_aug.funding_statements.names import Funder, draw_funder, known_funder
from adapters.data_aug.funding_statements.phrases import GRAMMAR, Award, Mention


class AwardRow(TypedDict):
    """One award of the target."""

    funding_scheme: list[str]
    award_ids: list[str]
    award_title: list[str]


class FunderRow(TypedDict):
    """One funder of the target."""

    funder_name: str | None
    awards: list[AwardRow]


class Row(TypedDict):
    """One statement and its label."""

    id: str
    funding_statement: str
    funders: list[FunderRow]
    source: str


_FUNDER_COUNTS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 14, 18)
_FUNDER_SUMS = list(accumulate((420, 262, 144, 84, 45, 18, 9, 6, 5, 4, 2, 1, 1)))
_NEGATIVE = 0.365


def synthesize(n: int, seed: int = 0) -> Iterator[Row]:
    """`n` statements; row i depends on (seed, i) only."""
    for index in range(n):
        yield make_row(seed, index)


def make_row(seed: int, index: int) -> Row:
    """Statement number `index` of a seed."""
    rng = Random(f"{seed}:{index}")
    mentions: list[Mention] = []
    funding_first = False
    if rng.random() < _NEGATIVE:
        sentences = background.negative(rng)
    else:
        sentences, mentions, funding_first = _positive(rng)
    funders = label(mentions)
    text = _finish(rng, " ".join(sentences), funders, funding_first)
    return {"id": f"synth-{seed}-{index}", "funding_statement": text, "funders": funders, "source": "synthetic-funding"}


def label(mentions: list[Mention]) -> list[FunderRow]:
    """Merge mentions: one object for each funder, one award for each scheme or title."""
    rows: list[FunderRow] = []
    places: dict[str, FunderRow] = {}
    for mention in mentions:
        name = mention.funder.label if mention.funder else None
        row = places.get(name) if name is not None else None
        if row is None:
            row = {"funder_name": name, "awards": []}
            rows.append(row)
            if name is not None:
                places[name] = row
        for award in mention.awards:
            if award.ids or award.scheme or award.title:
                _add(row["awards"], award)
    for row in rows:
        if not row["awards"]:
            row["awards"].append({"funding_scheme": [], "award_ids": [], "award_title": []})
    return rows


def _add(awards: list[AwardRow], award: Award) -> None:
    titles = [award.title] if award.title else []
    for row in awards:
        if row["funding_scheme"] == award.schemes and row["award_title"] == titles:
            break
    else:
        row = {"funding_scheme": award.schemes, "award_ids": [], "award_title": titles}
        awards.append(row)
    row["award_ids"] += [i for i in award.ids if i not in row["award_ids"]]


def _draw(rng: Random, style: int) -> list[Mention]:
    count = _FUNDER_COUNTS[bisect(_FUNDER_SUMS, rng.random() * _FUNDER_SUMS[-1])]
    mentions: list[Mention] = []
    seen: set[str] = set()
    more = (0.6, 1.0, 1.0, 1.3)[int(rng.random() * 4)]
    while len(mentions) < count:
        if rng.random() < 0.025:
            mention = programme(rng)
            keys = set(mention.awards[0].schemes)
        else:
            funder = draw_funder(rng)
            mention = draw_mention(rng, funder, style, more)
            keys = {funder.key, funder.label}
        if not keys & seen:
            seen |= keys
            mentions.append(mention)
    return mentions


def _plain(mention: Mention) -> bool:
    return len(mention.awards) == 1 and not mention.awards[0].title and not mention.awards[0].holders


def _special(rng: Random, todo: list[Mention], at: int) -> tuple[str, int]:
    """A sentence of a fixed form and the number of mentions it takes, 0 if none fits."""
    following = todo[at : at + 3]
    first = following[0].funder
    second = following[1].funder if len(following) > 1 else None
    award = following[0].awards[0]
    roll = rng.random()
    if first is None or not _plain(following[0]):
        return "", 0
    if second is not None and roll < 0.07:
        some = following[: 2 + int(rng.random() * 1.4)]
        if all(m.funder and _plain(m) and len(m.awards[0].ids) == 1 and not m.awards[0].scheme for m in some):
            return clauses.respectively(rng, some), len(some)
    if second is not None and roll > (0.7 if first.shape in ("nrf_kr", "iitp") else 0.975):
        following[1].awards = [Award()]
        return clauses.through(rng, first, award, second), 2
    if first.shape == "erc" and roll < 0.35 and not award.under:
        union = clauses.european_union(rng)
        if all(m.funder is None or union.funder is None or m.funder.label != union.funder.label for m in todo):
            todo.insert(at + 1, union)
            return clauses.under_union(rng, first, award, union), 2
    if at and following[0].awards == [Award()] and roll < 0.06:
        return GRAMMAR.say(rng, "open_access", the=first.the), 1
    return "", 0


def _funding(rng: Random, todo: list[Mention], style: int) -> list[str]:
    """Sentences for all mentions; may add a mention or empty a funder's awards."""
    sentences: list[str] = []
    if rng.random() < 0.05 and all(_plain(m) and not (m.funder and m.awards[0].scheme) for m in todo):
        return [clauses.bare_list(rng, todo)]
    together = rng.random() < 0.55
    at = 0
    while at < len(todo):
        text, size = _special(rng, todo, at)
        if not size:
            left = todo[at:]
            size = len(left) if together else min(len(left), 1 + int(rng.random() ** 1.6 * 3.2))
            text = clauses.main_sentence(rng, left[:size], style)
        sentences.append(text)
        at += size
    return sentences


def _positive(rng: Random) -> tuple[list[str], list[Mention], bool]:
    """Sentences and mentions of a text with funders, and whether funding is first."""
    style = int(rng.random() * 5)
    mentions = _draw(rng, style)
    money = _funding(rng, mentions, style)
    named: list[Funder] = [m.funder for m in mentions if m.funder]
    if named and rng.random() < 0.05:
        funder = named[int(rng.random() * len(named))]
        again = Mention(funder, [Award(draw_ids(rng, funder, 1))])
        money.append(clauses.main_sentence(rng, [again], style))
        mentions.append(again)
    if named and rng.random() < 0.04:
        names = [named[int(rng.random() * len(named))].the]
        extra = known_funder(rng)
        if rng.random() < 0.3 and all(extra.label != funder.label for funder in named):
            names.append(extra.the)
            mentions.append(Mention(extra, [Award()]))
        money.append(GRAMMAR.say(rng, "disclaimer", the=" or ".join(names)))
    if rng.random() < 0.07:
        money.append(background.sentence(rng, "role"))
    wanted = 0 if rng.random() < 0.47 else 1 + int(rng.random() ** 2.4 * 6)
    rest = [background.thanks(rng) if rng.random() < 0.85 else background.other(rng) for _ in range(wanted)]
    closed = [background.close(text) for text in money]
    if rest and rng.random() < 0.47:
        return [*rest, *closed], mentions, False
    return [*closed, *rest], mentions, True


def _literals(funders: list[FunderRow]) -> Iterator[str]:
    for funder in funders:
        if funder["funder_name"] is not None:
            yield funder["funder_name"]
        for award in funder["awards"]:
            yield from (*award["funding_scheme"], *award["award_ids"], *award["award_title"])


def _finish(rng: Random, text: str, funders: list[FunderRow], funding_first: bool) -> str:
    """Add a heading, cut or hyphenate the text; labels stay literal parts of it."""
    roll = rng.random()
    if roll < (0.125 if funding_first else 0.15):
        text = background.heading(rng, funding_first and roll < 0.06) + text
    finished = text
    roll = rng.random()
    if roll < 0.06:
        finished = text.rstrip(".")
    elif roll < 0.09 and len(text) > 120:
        finished = text[: text.rfind(" ", 0, len(text) - int(rng.random() * 60))]
    elif roll < 0.13:
        words = text.split(" ")
        place = int(rng.random() * len(words))
        word = words[place]
        if len(word) > 7 and word.isalpha() and word.islower():
            cut = 3 + int(rng.random() * (len(word) - 5))
            words[place] = word[:cut] + ("-" if rng.random() < 0.6 else "- ") + word[cut:]
            finished = " ".join(words)
    return text if any(literal not in finished for literal in _literals(funders)) else finished
