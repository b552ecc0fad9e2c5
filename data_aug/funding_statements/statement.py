"""Make one labelled statement from a seed and an index."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Collection, Iterator
from itertools import accumulate
from random import Random

from adapters.data_aug.funding_statements import background, clauses, lists, passages
from adapters.data_aug.funding_statements.awards import codes, draw_ids, draw_mention, programme
from adapters.data_aug.funding_statements.forms import FORMS, Todo, is_plain
from adapters.data_aug.funding_statements.labels import Row, label
from adapters.data_aug.funding_statements.names import Funder, draw_funder, known_funder
from adapters.data_aug.funding_statements.phrases import GRAMMAR, Award, Mention

_FUNDER_COUNTS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 14, 18)
_FUNDER_SUMS = list(accumulate((278, 300, 172, 105, 70, 30, 20, 14, 8, 5, 4, 2, 1)))
_NEGATIVE = 0.365
KINDS = {
    "programmes": 0.07,
    "codes": 0.022,
    "long_list": 0.014,
    "second_passage": 0.05,
}
"""Chance that a mention is a programme without a funder; that a statement has the other kinds."""


def synthesize(n: int, seed: int = 0, without: Collection[str] = ()) -> Iterator[Row]:
    """`n` statements; row i depends on (seed, i) and `without` only, the KINDS and FORMS that are left out."""
    chances = {name: 0.0 if name in without else chance for name, chance in KINDS.items()}
    chances |= {name: 0.0 if name in without else chance for name, (chance, _) in FORMS.items()}
    if unknown := set(without) - chances.keys():
        raise ValueError(f"unknown kinds {sorted(unknown)}; there are {', '.join(chances)}")
    for index in range(n):
        yield make_row(seed, index, chances)


def make_row(seed: int, index: int, chances: dict[str, float]) -> Row:
    """Statement number `index` of a seed."""
    rng = Random(f"{seed}:{index}")
    mentions: list[Mention] = []
    funding_first = False
    if rng.random() < _NEGATIVE:
        sentences = background.negative(rng)
    else:
        sentences, mentions, funding_first = _positive(rng, chances)
    text = " ".join(sentences)
    if mentions and len(mentions) < 9 and rng.random() < chances["second_passage"]:
        text += passages.again(rng, mentions, 0)
    funders = label(mentions)
    text = passages.finished(rng, text, funders, funding_first)
    return {"id": f"synth-{seed}-{index}", "funding_statement": text, "funders": funders, "source": "synthetic-funding"}


def _draw(rng: Random, style: int, chances: dict[str, float]) -> list[Mention]:
    count = _FUNDER_COUNTS[bisect(_FUNDER_SUMS, rng.random() * _FUNDER_SUMS[-1])]
    mentions: list[Mention] = []
    seen: set[str] = set()
    more = (0.6, 1.0, 1.0, 1.3)[int(rng.random() * 4)]
    if rng.random() < chances["codes"]:
        mentions.append(codes(rng, style))
        count = 1 if rng.random() < 0.7 else count + 1
    while len(mentions) < count:
        if rng.random() < chances["programmes"]:
            mention = programme(rng)
            keys = {*mention.awards[0].schemes, *mention.awards[0].titles}
        else:
            funder = draw_funder(rng)
            mention = draw_mention(rng, funder, style, more)
            keys = funder.keys
        if not keys & seen:
            seen |= keys
            mentions.append(mention)
    return mentions


def _funding(rng: Random, mentions: list[Mention], style: int, chances: dict[str, float]) -> list[str]:
    """Sentences for all mentions; forms may add a mention or change awards."""
    if rng.random() < 0.05 and all(is_plain(m) and m.funder and not m.awards[0].scheme for m in mentions):
        return [clauses.bare_list(rng, mentions)]
    sentences: list[str] = []
    todo = Todo(mentions, style)
    together = rng.random() < 0.55
    while todo.at < len(mentions):
        text = ""
        for name, (_, form) in FORMS.items():
            if rng.random() < chances[name] and (text := form(rng, todo)):
                break
        if not text:
            size = len(mentions) if together else 1 + int(rng.random() ** 1.6 * 3.2)
            here = todo.ahead(size)
            todo.at += len(here)
            text = clauses.main_sentence(rng, here, style)
        sentences.append(text)
    return sentences


def _positive(rng: Random, chances: dict[str, float]) -> tuple[list[str], list[Mention], bool]:
    """Sentences and mentions of a text with funders, and whether funding is first."""
    style = int(rng.random() * 5)
    if rng.random() < chances["long_list"]:
        text, mentions = lists.long_list(rng)
        money = [text]
    else:
        mentions = _draw(rng, style, chances)
        money = _funding(rng, mentions, style, chances)
        money += _repeated(rng, mentions, style)
    if rng.random() < 0.07:
        money.append(background.sentence(rng, "role"))
    wanted = 0 if rng.random() < 0.62 else 1 + int(rng.random() ** 2.4 * 6)
    rest = [background.thanks(rng) if rng.random() < 0.55 else background.other(rng) for _ in range(wanted)]
    closed = [background.close(text) for text in money]
    if rest and rng.random() < 0.47:
        return [*rest, *closed], mentions, False
    return [*closed, *rest], mentions, True


def _repeated(rng: Random, mentions: list[Mention], style: int) -> list[str]:
    """Sentences that name a funder again: for another grant, or in a disclaimer, which may add one."""
    sentences: list[str] = []
    named: list[Funder] = [m.funder for m in mentions if m.funder]
    if named and rng.random() < 0.05:
        funder = named[int(rng.random() * len(named))]
        again = Mention(funder, [Award(draw_ids(rng, funder, 1))])
        sentences.append(clauses.main_sentence(rng, [again], style))
        mentions.append(again)
    if named and rng.random() < 0.04:
        names = [named[int(rng.random() * len(named))].the]
        extra = known_funder(rng)
        if rng.random() < 0.3 and not any(extra.keys & funder.keys for funder in named):
            names.append(extra.the)
            mentions.append(Mention(extra, [Award()]))
        sentences.append(GRAMMAR.say(rng, "disclaimer", the=" or ".join(names)))
    return sentences
