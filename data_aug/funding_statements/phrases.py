"""How a sentence names a funder and its awards: "grant no. X from the Y"."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from random import Random

from adapters.data_aug.funding_statements.grammar import Grammar, read_rules
from adapters.data_aug.funding_statements.names import Funder
from adapters.data_aug.funding_statements.people import surname


@dataclass(slots=True)
class Award:
    """Awards that share a scheme or a title; for the form of a scheme see `Known`."""

    ids: list[str] = field(default_factory=list)
    scheme: tuple[str, str] | None = None
    title: str = ""
    under: str = ""
    """A second scheme that the award belongs to, within the first."""
    holders: list[str] = field(default_factory=list)
    """Initials of the holders: none, one for all, or one for each id."""

    @property
    def schemes(self) -> list[str]:
        """The names of programmes, and the acronym of a project."""
        named = self.scheme[1] if self.scheme and not _is_by_name(self.scheme[1]) else ""
        return [name for name in (named, self.under, self.title if self.title.isupper() else "") if name]

    @property
    def titles(self) -> list[str]:
        """The title of a project, and the name of a grant, an award or a fellowship."""
        named = self.scheme[1] if self.scheme and _is_by_name(self.scheme[1]) else ""
        return [name for name in (named, "" if self.title.isupper() else self.title) if name]


@dataclass(slots=True)
class Mention:
    """A funder at one place of the text; None for a programme or for ids without a funder."""

    funder: Funder | None
    awards: list[Award]
    wording: str = ""
    """The noun phrase that names them, where it is decided already."""


GRAMMAR = Grammar({**read_rules("wording.txt"), "surname": surname})
_BY_NAME = re.compile(
    r"(?i)^(?!.*\b(?:Program|Programme|Scheme|Plan|Project|Grants?-in-Aid)\b)"
    r".*\b(?:Grant|Award|Fellowship|Scholarship|Studentship|Prize|Professorship)s?\b"
)


@lru_cache(maxsize=4096)
def _is_by_name(scheme: str) -> bool:
    return _BY_NAME.search(scheme) is not None


_VOWEL_LETTERS = "AEFHILMNORSX"
_READ_AS_WORDS = {"NASA", "NATO", "RIKEN", "MINECO", "FAPESP", "MOST", "NIST", "NERC", "SERB", "FEDER", "MEXT", "LOEWE"}


def a(noun: str) -> str:
    """The noun with "a" or "an", by sound as far as spelling shows it."""
    first = noun.split()[0].strip("'\"(")
    vowel = first[:1].upper() in "AEIOUÖ" and not first.lower().startswith(("uni", "eu", "us", "u.s", "uk", "one"))
    if first.isupper() and len(first) <= 6:
        vowel = first[0] in _VOWEL_LETTERS and first not in _READ_AS_WORDS
    return f"{'an' if vowel else 'a'} {noun}"


def join(rng: Random, items: list[str], semicolon: bool = False, loose: float = 0.25) -> str:
    """A list in running text; `loose` is the chance that it has no "and"."""
    if len(items) == 1:
        return items[0]
    roll = rng.random()
    mark = "; " if semicolon else ", "
    if roll < loose:
        return mark.join(items)
    if len(items) == 2:
        return (" & " if rng.random() < 0.05 else " and ").join(items)
    last = f"{mark.strip()} and " if rng.random() < 0.45 else " & " if rng.random() < 0.03 else " and "
    return mark.join(items[:-1]) + last + items[-1]


def id_list(rng: Random, award: Award) -> str:
    """The identifiers, each followed by its holder when every one has its own."""
    ids, holders = award.ids, award.holders
    if len(ids) > 1 and len(holders) == len(ids):
        roll = rng.random()
        if roll < 0.3:
            return f"{join(rng, ids, loose=0)} to {join(rng, holders, loose=0)}, respectively"
        form = "{} to {}" if roll < 0.6 else "{} ({})" if roll < 0.85 else "{} (to {})"
        return join(rng, [form.format(i, h) for i, h in zip(ids, holders, strict=True)], roll > 0.9)
    if len(ids) > 1 and rng.random() < 0.1:
        return "; ".join(ids)
    return join(rng, ids)


def words(rng: Random, award: Award, shape: str, bracket: bool) -> str:
    """Identifiers behind a word such as "grant no."; `bracket` allows a bare "No."."""
    rule = "id_word"
    if shape in ("eu", "erc", "fp") and rng.random() < 0.45:
        rule = "union_id_word"
    elif bracket and rng.random() < 0.3:
        rule = "short_id_word"
    word = GRAMMAR.say(rng, rule).replace("_", " ").split("/")[len(award.ids) > 1]
    if word.endswith("#") and len(award.ids) > 1 and rng.random() < 0.7:
        return word[:-1] + id_list(rng, Award(["#" + i for i in award.ids], holders=award.holders))
    return word + id_list(rng, award)


def phrase(rng: Random, mention: Mention) -> str:
    """A noun phrase that fits after "supported by"."""
    funder = mention.funder
    if mention.wording:
        return mention.wording
    if funder is not None and len(mention.awards) > 1:
        bracket = rng.random() < 0.6
        awards = [_inner(rng, award, funder.shape, bracket) for award in mention.awards]
        return f"{funder.the} " + (f"({'; '.join(awards)})" if bracket else f"for {join(rng, awards, True, 0)}")
    award = mention.awards[0]
    scheme = award.scheme[1] if award.scheme else ""
    values = {"s": scheme, "u": award.under}
    shape = funder.shape if funder else ""
    if award.ids:
        values |= {"ids": id_list(rng, award), "gids": words(rng, award, shape, False)}
        values["bids"] = words(rng, award, shape, True)
    if funder is None and award.scheme is None:
        return GRAMMAR.say(rng, "codes", **values)
    if funder is None:
        rule = "orphan_award" if award.titles else "orphan"
        return GRAMMAR.say(rng, f"{rule}_ids" if award.ids else rule, a_s=a(scheme), **values)
    values["to"] = f" to {award.holders[0]}" if len(award.holders) == 1 else ""
    values |= {"the": funder.the, "F": funder.label, "a_F": a(funder.label), "a_s": a(scheme) if scheme else ""}
    if award.title:
        values["T"] = _quoted(rng, award.title)
    form = "award" if award.scheme and award.scheme[0] == "f" else "programme" if award.scheme else ""
    parts = ("ids" if award.ids else "none", form, "title" if award.title else "")
    return GRAMMAR.say(rng, "under_ids" if award.under else "_".join(filter(None, parts)), **values)


def _quoted(rng: Random, title: str) -> str:
    if " " not in title and rng.random() < 0.8:
        return title
    left, right = (('"', '"'), ('"', '"'), ("“", "”"), ("'", "'"))[int(rng.random() * 4)]
    return f"{left}{title}{right}"


def _inner(rng: Random, award: Award, shape: str, bracket: bool) -> str:
    """One of several awards of a funder: scheme or title with its identifiers."""
    head = award.scheme[1] if award.scheme else f'"{award.title}"' if award.title else ""
    if not award.ids:
        return head
    if not head:
        return words(rng, award, shape, bracket)
    tail = id_list(rng, award)
    roll = rng.random()
    if roll < 0.5:
        return f"{head} {tail}"
    return f"{head} ({tail})" if roll < 0.65 else f"{head}, {words(rng, award, shape, True)}"
