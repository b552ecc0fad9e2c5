"""Funding statements written by a language model for generated labels.

A text is kept only if its labels are exact: it contains every value to the letter, and nothing else in it looks like an
award identifier or is a well-known funder. Which id belongs to which funder cannot be checked.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from random import Random
from typing import Any, NamedTuple

from adapters.data_aug.data_files import read_data
from adapters.data_aug.funding_statements.labels import FunderRow, Row
from adapters.data_aug.funding_statements.names import KNOWN
from adapters.data_aug.funding_statements.people import surname
from adapters.types import Message

_TEXTS = read_data("funding_statements/written.json")
MAX_CHARACTERS = 6000
Ask = Callable[[Mapping[str, tuple[Message, ...]]], Iterable[Mapping[str, Any]]]
"""From prompts by row id to samples with `id` and `completion`; a prompt without a usable completion has none."""
_WORD = re.compile(r"[^\W_]+")
_SPAN = re.compile(r"[^\W_](?:[\w/.\\-]*[^\W_])?")
_YEAR = re.compile(r"(?:19|20)\d\d")
_COUNTED = re.compile(r"\d{1,3}(?:[.,]\d+)?(?:st|nd|rd|th|s|%)?|(?:19|20)\d\ds|COVID-?19|SARS-CoV-2|[A-Za-z]-?\d")


class Written(NamedTuple):
    """The rows that were kept, and how many were refused for which reason."""

    rows: list[Row]
    refused: dict[str, int]

    def __str__(self) -> str:
        """The counts in words."""
        reasons = "".join(f"\n  {count:,}: {reason}" for reason, count in self.refused.items())
        return f"{len(self.rows):,} statements kept, {sum(self.refused.values()):,} refused{reasons}"


def write(rows: Sequence[Row], ask: Ask) -> Written:
    """Ask for a statement with each row's labels; keep texts with exact labels."""
    texts = {sample["id"]: cleaned(sample["completion"]) for sample in ask({row["id"]: messages(row) for row in rows})}
    kept: dict[str, Row] = {}
    refused: Counter[str] = Counter()
    for row in rows:
        text = texts.get(row["id"])
        if text is None:
            refused["cut at the longest length, or refused by the server"] += 1
        elif (reason := refusal(row, text) or ("written before" if text in kept else None)) is not None:
            refused[reason] += 1
        else:
            kept[text] = labelled(row, text)
    return Written(list(kept.values()), dict(refused.most_common()))


def messages(row: Row) -> tuple[Message, ...]:
    """The prompt that asks for a statement with the row's labels."""
    funders = [_shown(funder) for funder in row["funders"]]
    asked = json.dumps(funders, ensure_ascii=False, indent=1) if funders else _TEXTS["no_funding"]
    # Asked the same, a model writes the same: a field, a length and an author of each row's own keep the texts apart.
    rng = Random(row["id"])
    field, length = rng.choice(_TEXTS["fields"]), rng.choice(_TEXTS["lengths"])
    manner = f"A paper on {field}; {length}; the first author is {surname(rng)}.\n"
    return ({"role": "system", "content": "\n".join(_TEXTS["system"])}, {"role": "user", "content": manner + asked})


def _shown(funder: FunderRow) -> dict[str, Any]:
    awards = [{name: values for name, values in award.items() if values} for award in funder["awards"]]
    return {"funder_name": funder["funder_name"], "awards": [award for award in awards if award]}


def cleaned(completion: str) -> str:
    """A completion without its thought, code fence and quotation marks."""
    text = completion.rpartition("</think>")[2].strip()
    if text.startswith("```") and text.endswith("```") and len(text) > 6:
        text = text[3:-3].partition("\n")[2].strip()
    if len(text) > 1 and text[0] + text[-1] in ('""', "“”") and not {'"', "“", "”"} & set(text[1:-1]):
        text = text[1:-1].strip()
    return text


def refusal(row: Row, text: str) -> str | None:
    """The reason why a text cannot be the row's statement, or None.

    Names and ids must each stand by themselves: "12" is not in "A-123", a name that is part of another one of the
    row must also come outside it.
    """
    if not text:
        return "empty"
    if len(text) > MAX_CHARACTERS:
        return "too long"
    names, ids, other = _values(row["funders"])
    if any(value not in text for value in other):
        return "a scheme or title is not there to the letter"
    rest = text
    for value in sorted({*names, *ids}, key=len, reverse=True):
        # "DFG-funded" names the DFG, but "AB-12-7" is another id than "AB-12".
        after = r"(?!\w)" if value in names else r"(?!\w|[-/.]\w)"
        rest, count = re.subn(rf"(?<!\w){re.escape(value)}{after}", " ¦ ", rest)
        if not count:
            return f"{'a name' if value in names else 'an id'} is not there to the letter"
    for value in sorted(set(other), key=len, reverse=True):
        rest = rest.replace(value, " ¦ ")
    if any(like_an_id(token) for token in _SPAN.findall(rest)):
        return "something else looks like an award id"
    words = _WORD.findall(rest)
    if any(words[n : n + len(name)] == name for n, word in enumerate(words) for name in _known().get(word, ())):
        return "another funder is named"
    return None


def labelled(row: Row, text: str) -> Row:
    """The row with this text: its funders in the order in which the text names them."""
    names, ids, _ = _values(row["funders"])
    at: dict[str, int] = {}
    rest = text
    for value in sorted({*names, *ids}, key=len, reverse=True):  # "North" is not where "Fund of the North" stands
        at[value] = rest.find(value)
        rest = rest.replace(value, "¦" * len(value))

    def place(funder: FunderRow) -> int:
        own, ids, other = _values([funder])
        return min((at.get(value, text.find(value)) for value in own or ids + other), default=len(text))

    funders = sorted(row["funders"], key=place)
    return {**row, "funding_statement": text, "funders": funders, "source": "written-funding"}


def like_an_id(token: str) -> bool:
    """Whether a token with a digit is no year, span of years, small number or date."""
    if not any(c.isdigit() for c in token) or _COUNTED.fullmatch(token):
        return False
    parts = re.split(r"[-/.]", token)
    return not all(_YEAR.fullmatch(part) or (part.isdigit() and len(part) <= 2) for part in parts)


def _values(funders: Iterable[FunderRow]) -> tuple[list[str], list[str], list[str]]:
    """Names, ids, and schemes with titles."""
    names: list[str] = []
    ids: list[str] = []
    other: list[str] = []
    for funder in funders:
        if funder["funder_name"] is not None:
            names.append(funder["funder_name"])
        for award in funder["awards"]:
            ids += award["award_ids"]
            other += award["funding_scheme"] + award["award_title"]
    return names, ids, other


@cache
def _known() -> dict[str, list[list[str]]]:
    """The words of well-known names and acronyms, by their first word."""
    out: dict[str, list[list[str]]] = {}
    for name in {name for known in KNOWN for name in (*known.names, known.acronym, known.local) if name}:
        words = _WORD.findall(name)
        # "Total", "VA" and "EC" are other things more often than funders.
        if len(words) > 1 or len(name) > 5 or (len(name) > 2 and name.isupper()):
            out.setdefault(words[0], []).append(words)
    return out
