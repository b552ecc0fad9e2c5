"""Invented people: names of many countries, titles, lists, initials."""

from __future__ import annotations

from random import Random

from adapters.data_aug.funding_statements.grammar import Grammar, read_rules

_GRAMMAR = Grammar(read_rules("wording.txt"))
_LETTERS = "AAABBCCDDEEFGGHHIJJJKKLLMMMNPPRRRSSSTTVWXYZ"


def letter(rng: Random) -> str:
    """A capital letter, the commoner first letters of names more often."""
    return _LETTERS[int(rng.random() * len(_LETTERS))]


def surname(rng: Random) -> str:
    """A family name, sometimes double-barrelled."""
    name = _GRAMMAR.say(rng, "family_name")
    return f"{name}-{_GRAMMAR.say(rng, 'family_name')}" if rng.random() < 0.02 else name


def full_name(rng: Random, given: str = "") -> str:
    """Given name or initials, and family name; `given`: "woman" or "man" if known."""
    roll = rng.random()
    given = given or ("woman" if rng.random() < 0.45 else "man")
    if roll < 0.6:
        return f"{_GRAMMAR.say(rng, given)} {surname(rng)}"
    if roll < 0.75:
        return f"{_GRAMMAR.say(rng, given)} {letter(rng)}. {surname(rng)}"
    if roll < 0.92:
        return f"{letter(rng)}. {surname(rng)}"
    gap = "" if roll < 0.96 else " "
    return f"{letter(rng)}.{gap}{letter(rng)}. {surname(rng)}"


def person(rng: Random) -> str:
    """A name, a third of the time with a title."""
    roll = rng.random()
    if roll < 0.66:
        return full_name(rng)
    if roll < 0.7:
        return f"{full_name(rng)}, {'PhD' if rng.random() < 0.7 else 'MD'}"
    title = _GRAMMAR.say(rng, "title_of_person")
    given = {"Mr": "man", "Ms": "woman", "Mrs": "woman"}.get(title.rstrip("."), "")
    return f"{title} {full_name(rng, given)}"


def people(rng: Random) -> str:
    """Two to seven names, all plain or each with its own title."""
    count = 2 + int(rng.random() ** 2 * 5.5)
    if rng.random() < 0.35:
        names = [f"{letter(rng)}. {surname(rng)}" for _ in range(count)]
    elif rng.random() < 0.2:
        names = [full_name(rng) for _ in range(count)]
        names[0] = ("Drs. " if rng.random() < 0.6 else "Profs. ") + names[0]
    else:
        names = [person(rng) if rng.random() < 0.3 else full_name(rng) for _ in range(count)]
    comma = "," if count > 2 and rng.random() < 0.45 else ""
    return f"{', '.join(names[:-1])}{comma} and {names[-1]}"


def initials(rng: Random, style: int) -> str:
    """Initials in a style: A.B. (0), AB (1), A. B. (2), A.B.C. (3), A. Name (4)."""
    first, second = letter(rng), letter(rng)
    if style == 0:
        return f"{first}.{second}."
    if style == 1:
        return first + second if rng.random() < 0.75 else first + letter(rng) + second
    if style == 2:
        return f"{first}. {second}."
    if style == 3:
        return f"{first}.{letter(rng)}.{second}."
    return f"{first}. {surname(rng)}"
