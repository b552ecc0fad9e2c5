"""Sentences of a fixed form: each takes the next mentions of a statement and may change their awards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from adapters.data_aug.funding_statements.awards import draw_ids
from adapters.data_aug.funding_statements.clauses import main_sentence
from adapters.data_aug.funding_statements.names import Funder
from adapters.data_aug.funding_statements.people import initials
from adapters.data_aug.funding_statements.phrases import GRAMMAR, Award, Mention, a, id_list, join, words


@dataclass(slots=True)
class Todo:
    """The mentions of a statement and how many of them have been written."""

    mentions: list[Mention]
    style: int
    at: int = 0

    def ahead(self, number: int) -> list[Mention]:
        """The next mentions, at most so many."""
        return self.mentions[self.at : self.at + number]

    def named(self, number: int) -> list[Funder]:
        """The funders of the next mentions; none where one has no funder or there are fewer."""
        funders = [m.funder for m in self.ahead(number) if m.funder]
        return funders if len(funders) == number else []


Form = Callable[[Random, Todo], str]
"""Writes the next mentions and moves `at`; an empty text where it does not fit them."""


def is_plain(mention: Mention) -> bool:
    """Whether a mention has one award object, without title and holders."""
    return len(mention.awards) == 1 and not mention.awards[0].title and not mention.awards[0].holders


def _bracket(rng: Random, award: Award, shape: str) -> str:
    return f" ({words(rng, award, shape, True)})" if award.ids else ""


def respectively(rng: Random, todo: Todo) -> str:
    """Funders, then their identifiers in the same order; each has exactly one."""
    some = todo.ahead(2 + int(rng.random() * 1.4))
    funders = todo.named(len(some))
    if len(funders) < 2 or not all(is_plain(m) and len(m.awards[0].ids) == 1 and not m.awards[0].scheme for m in some):
        return ""
    todo.at += len(some)
    merged = Award([m.awards[0].ids[0] for m in some])
    names = join(rng, [funder.the for funder in funders], loose=0)
    return GRAMMAR.say(rng, "respectively", names=names, listed=words(rng, merged, "", False))


def through(rng: Random, todo: Todo) -> str:
    """The first funder's award, spent by the second, which has no identifier."""
    pair, funders = todo.ahead(2), todo.named(2)
    if not funders or not is_plain(pair[0]) or (rng.random() < 0.8 and funders[0].shape not in ("nrf_kr", "iitp")):
        return ""
    todo.at += 2
    pair[1].awards = [Award()]
    award = pair[0].awards[0]
    scheme = ""
    if award.scheme:
        scheme = f"the {award.scheme[1]} of " if award.scheme[0] == "p" else f"{a(award.scheme[1])} of "
    award.under = ""
    ids = _bracket(rng, award, funders[0].shape)
    return GRAMMAR.say(rng, "through", scheme=scheme, one=funders[0].the, two=funders[1].the, ids=ids)


def under_union(rng: Random, todo: Todo) -> str:
    """A grant of a research council, which has the id, under a programme of the European Union."""
    mention, council = todo.ahead(1)[0], todo.ahead(1)[0].funder
    if council is None or council.shape != "erc" or not is_plain(mention) or mention.awards[0].under:
        return ""
    union = Funder("EU", GRAMMAR.say(rng, "union"), "the ", "eu", "", (), True)
    if any(m.funder and union.keys & m.funder.keys for m in todo.mentions):
        return ""
    award, programme = mention.awards[0], GRAMMAR.say(rng, "union_programme")
    todo.mentions.insert(todo.at + 1, Mention(union, [Award([], ("p", programme))]))
    todo.at += 2
    scheme = ""
    if award.scheme:
        scheme = f" through {a(award.scheme[1])}" if award.scheme[0] == "f" else f" ({award.scheme[1]})"
    ids = _bracket(rng, award, "erc")
    return GRAMMAR.say(rng, "under_union", one=council.the, two=union.the, scheme=scheme, programme=programme, ids=ids)


def publication_fee(rng: Random, todo: Todo) -> str:
    """A body that paid for open access or another fee of the journal."""
    funders = todo.named(1)
    if not funders:
        return ""
    todo.ahead(1)[0].awards = [Award()]
    todo.at += 1
    return GRAMMAR.say(rng, "open_access", the=funders[0].the)


def shared(rng: Random, todo: Todo) -> str:
    """One grant of two bodies: its ids stand under both."""
    pair, funders = todo.ahead(2), todo.named(2)
    if not funders:
        return ""
    ids = draw_ids(rng, funders[int(rng.random() * 2)], 1 if rng.random() < 0.75 else 2)
    rule = "shared"
    if all(f.acronym and f.acronym.isalnum() for f in funders) and rng.random() < 0.4:
        rule = "shared_short"
        funders = [funder.called(funder.acronym) for funder in funders]
    for mention, funder in zip(pair, funders, strict=True):
        mention.funder, mention.awards = funder, [Award(list(ids))]
    todo.at += 2
    one, two = funders
    names = {"one": one.the, "two": two.the, "ONE": one.label, "TWO": two.label}
    listed = join(rng, ids, loose=0)
    return GRAMMAR.say(rng, rule, **names, ids=listed, gids=words(rng, Award(ids), "", False))


def acronym_later(rng: Random, todo: Todo) -> str:
    """The full name with its acronym, and a later grant under the acronym alone: one funder, the full name."""
    mention, funder = todo.ahead(1)[0], todo.ahead(1)[0].funder
    if funder is None or len(funder.acronym) < 2 or " " not in funder.name or funder.acronym in funder.name:
        return ""
    first = next((award for award in mention.awards if award.ids), Award(draw_ids(rng, funder, 1)))
    first = Award(first.ids)
    mention.funder = funder = funder.called(funder.name)
    mention.wording = f"{funder.the} ({funder.acronym}, {words(rng, first, funder.shape, True)})"
    if rng.random() < 0.45:
        mention.funder = funder.called(f"{funder.name} ({funder.acronym})")
        mention.wording = f"{mention.funder.the}, {words(rng, first, funder.shape, True)}"
    later = Award([i for i in draw_ids(rng, funder, 1 + int(rng.random() * 1.5)) if i not in first.ids])
    if not later.ids:
        return ""
    if funder.schemes and rng.random() < 0.4:
        later.scheme = funder.schemes[int(rng.random() * len(funder.schemes))]
    mention.awards = [first, later]
    taken = todo.ahead(1 + int(rng.random() * 3))
    todo.at += len(taken)
    values = {"who": initials(rng, todo.style), "ACR": funder.acronym, "a_ACR": a(funder.acronym)}
    values |= {"s": later.scheme[1] if later.scheme else "", "ids": id_list(rng, later)}
    values["gids"] = words(rng, later, "", False)
    second = GRAMMAR.say(rng, "later_scheme" if later.scheme else "later", **values)
    return f"{main_sentence(rng, taken, todo.style)}. {second[:1].upper()}{second[1:]}"


def facility(rng: Random, todo: Todo) -> str:
    """Computing time, beam time or a school, allotted by a body under an identifier of its own."""
    if not (funders := todo.named(1)):
        return ""
    mention, funder = todo.ahead(1)[0], funders[0]
    if rng.random() < 0.6:
        name = GRAMMAR.say(rng, "centre")
        if any(m.funder and name in m.funder.keys for m in todo.mentions):
            return ""
        funder = Funder(name, name, "the " if " " in name else "", "misc", "", (), False)
    award = Award(draw_ids(rng, funder, 1) if rng.random() < 0.75 else [])
    mention.funder, mention.awards = funder, [award]
    todo.at += 1
    ids = award.ids[0] if award.ids else ""
    return GRAMMAR.say(rng, "allocation" if ids else "allotted", the=funder.the, F=funder.label, ids=ids)


def many_ids(rng: Random, todo: Todo) -> str:
    """One body with six to twenty identifiers, other bodies, persons and activities among them."""
    if not (funders := todo.named(1)) or not funders[0].known:
        return ""
    funder, others = funders[0], [m for m in todo.ahead(1 + int(rng.random() * 3))[1:] if m.funder]
    ids = draw_ids(rng, funder, 6 + int(rng.random() ** 2 * 15))
    todo.ahead(1)[0].awards = [Award(ids)]
    parts, at = [], 0
    while at < len(ids):
        some = ids[at : at + 1 + int(rng.random() * 4)]
        at += len(some)
        holder = f" to {initials(rng, todo.style)}" if rng.random() < 0.3 else ""
        if rng.random() < 0.3 and not holder:
            some = [f"{i} ({initials(rng, todo.style)})" for i in some]
        activity = f"{GRAMMAR.say(rng, 'activity')} " if rng.random() < 0.6 else ""
        parts.append(f"{activity}{join(rng, some, loose=0.4)}{holder}")
    parts[0] = f"{funder.the} {parts[0]}"
    for number, mention in enumerate(others, 1):
        mention.awards = [Award()]
        parts.insert(min(len(parts), 2 * number), mention.funder.the if mention.funder else "")
    todo.at += 1 + len(others)
    listed = "; ".join(parts[:-1]) + ("; and " if rng.random() < 0.6 else "; ") + parts[-1] if parts[1:] else parts[0]
    return GRAMMAR.say(rng, "passive", list=listed)


def by_person(rng: Random, todo: Todo) -> str:
    """A list by person: who thanks whom, separated by semicolons."""
    some = todo.ahead(3 + int(rng.random() * 6))
    if len(some) < 3:
        return ""
    todo.at += len(some)
    written: list[str] = []
    while some:
        size = 1 + int(rng.random() * 1.4)
        written.append(main_sentence(rng, some[:size], todo.style, "personal"))
        some = some[size:]
    return "; ".join(written)


FORMS: dict[str, tuple[float, Form]] = {
    "respectively": (0.05, respectively),
    "through": (0.05, through),
    "under_union": (0.35, under_union),
    "publication_fee": (0.012, publication_fee),
    "shared": (0.05, shared),
    "acronym_later": (0.09, acronym_later),
    "facility": (0.018, facility),
    "many_ids": (0.011, many_ids),
    "by_person": (0.08, by_person),
}
"""Chance of each form at every sentence that it fits."""
