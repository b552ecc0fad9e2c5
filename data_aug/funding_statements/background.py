"""Sentences without a funder: thanks, disclaimers, declarations, headings."""

from __future__ import annotations

import re
from random import Random

from adapters.data_aug.funding_statements.grammar import Grammar, read_rules
from adapters.data_aug.funding_statements.names import REGISTRY, article
from adapters.data_aug.funding_statements.people import full_name, initials, people, person, surname

_PAYS = re.compile(r"Foundation|Office|Fund\b|Trust|Stiftung|Board|Society|Council|Associat|Agency|Program")


def _institution(rng: Random) -> str:
    """A real university or institute that does not fund."""
    while True:
        name, _, _, kind = REGISTRY[int(rng.random() * len(REGISTRY))]
        if kind in ("university", "institute") and not _PAYS.search(name):
            return name


def _the_institution(rng: Random) -> str:
    name = _institution(rng)
    return article(rng, name, "university" if "niversit" in name or "College" in name else "institute") + name


def _code(rng: Random) -> str:
    letters = "ABCDEFGHKLMNPRSTX"
    head = "".join(letters[int(rng.random() * 17)] for _ in range(2 + int(rng.random() * 2)))
    return head + str(100 + int(rng.random() ** 2 * 90000))


def _low(rng: Random) -> str:
    return surname(rng).split("-")[0].lower().encode("ascii", "ignore").decode() or "data"


GRAMMAR = Grammar(
    {
        **read_rules("wording.txt"),
        "person": person,
        "people": people,
        "name": full_name,
        "surname": surname,
        "author": lambda rng: initials(rng, int(rng.random() * 4)),
        "inst": _institution,
        "institution": _the_institution,
        "code": _code,
        "four": lambda rng: str(1000 + int(rng.random() * 9000)),
        "low": _low,
    }
)
_THANKS = ("thanks", "thanks", "thanks", "thanks", "lab", "lab", "referee")
_OTHER = ("coi", "declare", "declare", "tail", "lab")
_TWICE = re.compile(r"\b(\w{4,}) and \1\b")
_ADVERBS = ("", "also ", "kindly ", "sincerely ", "warmly ", "gratefully ", "greatly ")
_VERBS = ("thank", "acknowledge", "owe", "appreciate", "wish", "want")
_AGREEMENT = {
    "I ": (("are ", "am "), ("express their", "express my")),
    "The author ": (
        ("are ", "is "),
        ("express their", "expresses his"),
        *((f"{adverb}{verb} ", f"{adverb}{verb}s ") for adverb in _ADVERBS for verb in _VERBS),
    ),
    "We ": (("express their", "express our"),),
}


def sentence(rng: Random, *rules: str) -> str:
    """One sentence of one of the rules, with capital and full stop."""
    rule = rules[int(rng.random() * len(rules))]
    text = GRAMMAR.say(rng, rule)
    if _TWICE.search(text):
        text = GRAMMAR.say(rng, rule)
    return close(agree(text[:1].upper() + text[1:]))


def close(text: str) -> str:
    """The text with one full stop at its end and a capital at its head."""
    text = text[:1].upper() + text[1:]
    return text if text.endswith(".") else text + "."


def agree(text: str) -> str:
    """Correct the verb after a singular subject, the possessive after a first person."""
    for subject, pairs in _AGREEMENT.items():
        if text.startswith(subject):
            rest = text[len(subject) :]
            for wrong, right in pairs:
                if rest.startswith(wrong):
                    return subject + right + rest[len(wrong) :]
    return text


def heading(rng: Random, funding: bool) -> str:
    """A heading as extraction glues it to the text."""
    rule = "funding_heading" if funding else "heading"
    return GRAMMAR.say(rng, rule, number=str(3 + int(rng.random() * 67))).replace("_", " ")


def thanks(rng: Random) -> str:
    """A sentence of thanks that a funding statement may carry along."""
    return sentence(rng, *_THANKS)


def other(rng: Random) -> str:
    """A declaration or remark that is neither thanks nor funding."""
    return sentence(rng, *_OTHER)


def negative(rng: Random) -> list[str]:
    """All sentences of a statement that names no funder."""
    roll = rng.random()
    if roll < 0.025:
        return [sentence(rng, "nofund")]
    if roll < 0.055:
        return [sentence(rng, "coi"), *([other(rng)] if rng.random() < 0.3 else [])]
    if roll < 0.11:
        return [sentence(rng, "declare") for _ in range(1 + int(rng.random() * 2))]
    sentences = [thanks(rng)]
    while rng.random() < 0.55 and len(sentences) < 14:
        sentences.append(thanks(rng) if rng.random() < 0.8 else other(rng))
    return sentences
