"""Other ids and other funders in a labelled statement: its sentences stay, what is copied from them changes.

A model that meets the same few hundred statements again and again learns their names by heart instead of where names
stand. With other names and digits in every epoch it can only learn the latter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from random import Random
from typing import Any

from adapters.data_aug.funding_statements.names import draw_funder

_TRIES = 20
_SHORT_FORM = re.compile(r"\s?[(\[][A-Z][\w&./-]*[A-Z]\w*[)\]]")
"""What a name is called from here on: "(NSF)"."""


def with_other_ids(row: Mapping[str, Any], rng: Random, text_field: str = "funding_statement") -> dict[str, Any]:
    """The row with other digits in its ids, the same in text and labels."""
    ids = {i for funder in row["funders"] for award in funder["awards"] for i in award.get("award_ids") or ()}
    return _exchanged(row, {i: _other_digits(i, rng) for i in sorted(ids)}, text_field)


def with_other_funders(row: Mapping[str, Any], rng: Random, text_field: str = "funding_statement") -> dict[str, Any]:
    """The row with other funders in the place of its own, of the same form: a word for a word, several for several.

    A name stays where the text has its short form too, outside of the label, and where no other fits. The row stays
    as it is where a label would no longer stand in the text as it did.
    """
    text: str = row[text_field]
    names = sorted({funder["funder_name"] for funder in row["funders"] if funder["funder_name"]})
    taken = {*names, *text.split()}
    fresh: dict[str, str] = {}
    for name in names:
        if _is_abbreviated(name, text):
            continue
        for _ in range(_TRIES):
            drawn = draw_funder(rng)
            if (" " in drawn.label) == (" " in name) and not drawn.keys & taken:
                fresh[name] = drawn.label
                taken |= drawn.keys
                break
    other = _exchanged(row, fresh, text_field)
    same = [a in text for a in _strings(row["funders"])] == [b in other[text_field] for b in _strings(other["funders"])]
    return other if same else dict(row)


def _is_abbreviated(name: str, text: str) -> bool:
    """Whether the text has a short form of a name: "(NSF)" behind it, or that of its own brackets once more."""
    own = re.findall(r"\(([^()]+)\)", name)
    behind = any(_SHORT_FORM.match(text, match.end()) for match in re.finditer(re.escape(name), text))
    return behind or any(text.count(short) > name.count(short) * text.count(name) for short in own)


def _exchanged(row: Mapping[str, Any], values: Mapping[str, str], text_field: str) -> dict[str, Any]:
    """The row with values exchanged wherever they stand by themselves; as it is if two would become one."""
    if not values or len(set(values.values())) < len(values):
        return dict(row)
    longest_first = "|".join(map(re.escape, sorted(values, key=len, reverse=True)))
    pattern = re.compile(rf"(?<!\w)(?:{longest_first})(?!\w|[-/.]\w)")

    def exchanged(value: Any) -> Any:
        if isinstance(value, str):
            return pattern.sub(lambda match: values[match.group()], value)
        if isinstance(value, list):
            return [exchanged(part) for part in value]
        return {key: exchanged(part) for key, part in value.items()} if isinstance(value, dict) else value

    return {**row, text_field: exchanged(row[text_field]), "funders": exchanged(row["funders"])}


def _strings(value: Any) -> Iterator[str]:
    """All strings of a label, in order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _strings(part)


def _other_digits(award_id: str, rng: Random) -> str:
    """Other digits in runs of three and more; a year stays, and a first digit does not become 0."""

    def run(match: re.Match[str]) -> str:
        digits = match.group()
        if re.fullmatch(r"(?:19|20)\d\d", digits):
            return digits
        return rng.choice(digits[0] if digits[0] == "0" else "123456789") + "".join(
            rng.choice("0123456789") for _ in digits[1:]
        )

    return re.sub(r"\d{3,}", run, award_id)
