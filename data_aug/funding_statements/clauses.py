"""Sentences that name funders, without their full stop."""

from __future__ import annotations

import re
from random import Random

from adapters.data_aug.funding_statements.people import initials
from adapters.data_aug.funding_statements.phrases import GRAMMAR, Mention, id_list, join, phrase

_PLURAL = {
    "was": "were",
    "is": "are",
    "acknowledges": "acknowledge",
    "thanks": "thank",
    "holds": "hold",
    "benefits": "benefit",
    "has": "have",
}
_GRANT = r"((?:[\w-]+ ){0,2}(?:grants?|funding|funds))\b"
# Runs of words that nearly every paper uses: a small change keeps these texts clear of any one of them.
_STOCK = (
    (re.compile(rf"\b(supported|funded|sponsored)( in part)? by (an? )?{_GRANT}"), r"\1\2 with \3\4"),
    (re.compile(r"\bfrom (?:funding|funds) from\b"), "from"),
    (re.compile(rf"\b([Ff]unding|[Ss]upport)( [^.]{{0,40}})? from (an? )?{_GRANT}"), r"\1\2 with \3\4"),
)
_UNDER = re.compile(r" (?:under|with|through) (?:the )?(?:joint )?[Pp]roject")


def _authors(rng: Random, style: int) -> str:
    names = [initials(rng, style) for _ in range(1 + int(rng.random() ** 3 * 3))]
    return join(rng, names, loose=0)


def _phrases(rng: Random, mentions: list[Mention]) -> list[str]:
    """Noun phrases of the mentions. "A and B under project X" is a grant of both: B's alone is not written so."""
    items = [phrase(rng, mention) for mention in mentions]
    if len(items) > 1 and not any(award.ids for award in mentions[-2].awards):
        for _ in range(4):
            if not _UNDER.search(items[-1]):
                break
            items[-1] = phrase(rng, mentions[-1])
    return items


def main_sentence(rng: Random, mentions: list[Mention], style: int, rule: str = "") -> str:
    """A list of funders, in the passive, the active, or about one author."""
    items = _phrases(rng, mentions)
    roll = rng.random()
    rule = rule or ("passive" if roll < 0.68 else "active" if roll < 0.83 else "personal")
    bodies = all(m.funder and item.startswith(m.funder.the) for m, item in zip(mentions, items, strict=True))
    if rule == "active" and bodies and rng.random() < 0.16:
        rule = "active_thank"
    if len(items) > 1 and rule == "passive" and rng.random() < 0.08:
        items[1:] = [f"by {item}" for item in items[1:]]
    heavy = any(", " in item for item in items) and rng.random() < 0.35
    listed = join(rng, items, heavy, 0.08)
    values = {"list": listed, "are": "are" if len(mentions) > 1 else "is"}
    if rule == "personal":
        values["who"] = _authors(rng, style)
        if listed.startswith(("a ", "an ")) and rng.random() < 0.4:
            rule = "holder"
    text = GRAMMAR.say(rng, rule, **values)
    who = values.get("who", "")
    if re.search(" and | & ", who) and text.startswith(who):
        verb, _, rest = text[len(who) + 1 :].partition(" ")
        text = f"{who} {_PLURAL.get(verb, verb)} {rest}"
    for stock, own in _STOCK:
        text = stock.sub(own, text)
    return text.replace("I are ", "I am ", 1) if text.startswith("I are ") else text


def bare_list(rng: Random, mentions: list[Mention]) -> str:
    """The journal form: funder, "Grant/Award Number:", identifiers; semicolons."""
    form = int(rng.random() * 4)
    entries = []
    for mention in mentions:
        award = mention.awards[0]
        name = mention.funder.label if mention.funder else (award.schemes or award.titles)[0]
        if not award.ids:
            entries.append(name if form != 3 else f"Contract grant sponsor: {name}")
            continue
        ids = id_list(rng, award)
        many = "s" if len(award.ids) > 1 else ""
        shapes = (f"{name}, Grant/Award Number{many}: {ids}", f"{name}: {ids}", f"{name} ({ids})")
        entries.append(shapes[form] if form < 3 else f"Contract grant sponsor: {name}; contract grant number: {ids}")
    head = GRAMMAR.say(rng, "bare_head").replace("_", " ") if form < 3 else ""
    return head + "; ".join(entries)
