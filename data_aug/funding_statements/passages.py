"""The text around the sentences: a second passage of the same paper, headings, marks, broken lines and words."""

from __future__ import annotations

from random import Random

from adapters.data_aug.funding_statements import background
from adapters.data_aug.funding_statements.awards import draw_ids
from adapters.data_aug.funding_statements.clauses import main_sentence
from adapters.data_aug.funding_statements.labels import FunderRow, literals
from adapters.data_aug.funding_statements.phrases import GRAMMAR, Award, Mention

_BETWEEN = (" ", "\n", "\n\n", " | ", " * ", " \u2020 ", "\n- ", " ")


def again(rng: Random, mentions: list[Mention], style: int) -> str:
    """The separator and text of a second passage: the same funders, partly by other names, with old and new ids."""
    copies: list[Mention] = []
    for mention in mentions[:8]:
        if rng.random() < 0.15 and copies:
            continue
        funder = mention.funder
        awards = [Award(award.ids, award.scheme, award.title, award.under) for award in mention.awards]
        if funder is not None and rng.random() < 0.3:
            new = [i for i in draw_ids(rng, funder, 1) if all(i not in award.ids for award in awards)]
            mention.awards = [*mention.awards, Award(new)]
            awards = [Award(new)]
        if funder is not None:
            other = funder.acronym if rng.random() < 0.5 else funder.name
            funder = funder.called(other) if len(other) > 1 else funder
        copies.append(Mention(funder, awards))
    text = background.close(main_sentence(rng, copies, style))
    head = background.heading(rng, True) if rng.random() < 0.2 else ""
    return _BETWEEN[int(rng.random() * len(_BETWEEN))] + head + text


def finished(rng: Random, text: str, funders: list[FunderRow], funding_first: bool) -> str:
    """Add a heading or a mark, cut, break or hyphenate the text; labels stay literal parts of it."""
    roll = rng.random()
    if roll < (0.125 if funding_first else 0.15):
        text = background.heading(rng, funding_first and roll < 0.06) + text
    elif roll < 0.17:
        text = GRAMMAR.say(rng, "mark").replace("_", " ") + text
    roll = rng.random()
    changed = text
    if roll < 0.06:
        changed = text.rstrip(".")
    elif roll < 0.09 and len(text) > 120:
        changed = text[: text.rfind(" ", 0, len(text) - int(rng.random() * 60))]
    elif roll < 0.14:
        changed = _hyphenated(rng, text)
    elif roll < 0.17:
        changed = _lines(rng, text)
    return text if any(changed.count(literal) < text.count(literal) for literal in literals(funders)) else changed


def _hyphenated(rng: Random, text: str) -> str:
    words = text.split(" ")
    place = int(rng.random() * len(words))
    word = words[place]
    if len(word) > 7 and word.isalpha() and word.islower():
        cut = 3 + int(rng.random() * (len(word) - 5))
        words[place] = word[:cut] + ("-", "- ", "-\n")[int(rng.random() * 3)] + word[cut:]
    return " ".join(words)


def _lines(rng: Random, text: str) -> str:
    """The text in lines of equal width, or with one line break."""
    words = text.split(" ")
    if rng.random() < 0.5 and len(words) > 2:
        place = 1 + int(rng.random() * (len(words) - 1))
        return " ".join(words[:place]) + "\n" + " ".join(words[place:])
    width, at = 60 + int(rng.random() * 40), 0
    for number, word in enumerate(words):
        at += len(word) + 1
        if at > width and number + 1 < len(words):
            words[number], at = word + "\n", 0
    return " ".join(words).replace("\n ", "\n")
