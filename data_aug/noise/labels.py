"""Noise for labelled rows: finds the labels and rewrites or protects them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from adapters.data_aug.noise.compose import Noise, noise_text
from adapters.data_aug.noise.edits import Edit, Noised, Path, Span

Row = Mapping[str, Any]


class Label(NamedTuple):
    """A labelled value: its path in the row, its kind of span, and its text."""

    path: Path
    kind: str
    value: str


@dataclass(frozen=True)
class NoisedRow:
    """A row after noise.

    `row` is the input row itself if nothing changed, else a shallow copy. `touched` are the paths of the labels of
    which an occurrence was edited, `touched_ids` those of the award ids among them.
    """

    row: Row
    noised: Noised
    touched: tuple[Path, ...] = ()
    touched_ids: tuple[Path, ...] = ()

    @property
    def edits(self) -> tuple[Edit, ...]:
        """Every edit made to the text."""
        return self.noised.edits

    @property
    def families(self) -> tuple[str, ...]:
        """The noise families that made an edit."""
        return self.noised.families


def funding_labels(row: Row) -> Iterator[Label]:
    """The labels of a funding row: names, ids, schemes and titles."""
    fields = (("award_ids", "id"), ("funding_scheme", "scheme"), ("award_title", "title"))
    for i, funder in enumerate(row.get("funders") or ()):
        if funder.get("funder_name"):
            yield Label(("funders", i, "funder_name"), "name", str(funder["funder_name"]))
        for j, award in enumerate(funder.get("awards") or ()):
            for field, kind in fields:
                values = award.get(field) or ()
                path: Path = ("funders", i, "awards", j, field)
                if isinstance(values, (list, tuple)):
                    for k, value in enumerate(values):
                        yield Label((*path, k), kind, str(value))
                else:
                    yield Label(path, kind, str(values))


def find_spans(text: str, labels: Iterable[Label]) -> list[Span]:
    """Every occurrence of every label, sorted by position.

    An occurrence inside a longer word or number counts only if there is no free-standing one. A label whose blanks
    differ in the text cannot be followed verbatim: it gets "fixed" spans without a path.
    """
    occurrences: dict[tuple[str, str], list[tuple[int, int]]] = {}
    spans: list[Span] = []
    for path, kind, value in labels:
        places = occurrences.get((kind, value))
        if places is None:
            places = occurrences[kind, value] = _occurrences(text, value)
        if places:
            spans += [Span(start, end, kind, path) for start, end in places]
        else:
            spans += [Span(start, end, "fixed") for start, end in _spaced_occurrences(text, value)]
    spans.sort(key=lambda span: (span.start, span.end))
    return spans


def _occurrences(text: str, value: str) -> list[tuple[int, int]]:
    """Where a value stands in a text: the free-standing places, if any."""
    places: list[tuple[int, int]] = []
    free: list[tuple[int, int]] = []
    if not value.strip():
        return places
    start = text.find(value)
    while start >= 0:
        end = start + len(value)
        places.append((start, end))
        joined = start > 0 and text[start - 1].isalnum() and value[0].isalnum()
        joined = joined or (end < len(text) and text[end].isalnum() and value[-1].isalnum())
        if not joined:
            free.append((start, end))
        start = text.find(value, end)
    return free or places


def _spaced_occurrences(text: str, value: str) -> list[tuple[int, int]]:
    positions = [at for at, character in enumerate(text) if not character.isspace()]
    bare = "".join(value.split())
    places = _occurrences("".join(text.split()), bare)
    return [(positions[start], positions[end - 1] + 1) for start, end in places]


def relabel(row: Row, values: Mapping[Path, str]) -> dict[str, Any]:
    """A copy of a row with the values at some paths replaced."""
    copy: Any = dict(row)
    fresh: set[Path] = {()}
    for path, value in values.items():
        node = copy
        for depth, key in enumerate(path[:-1], start=1):
            if path[:depth] not in fresh:
                node[key] = node[key].copy() if isinstance(node[key], dict) else list(node[key])
                fresh.add(path[:depth])
            node = node[key]
        node[path[-1]] = value
    result: dict[str, Any] = copy
    return result


def noise_row(
    row: Row,
    noise: Noise,
    *,
    seed: int = 0,
    epoch: int = 0,
    variant: int = 0,
    policy: str = "protect",
    share: float = 1.0,
    field: str = "funding_statement",
    labels: Callable[[Row], Iterable[Label]] = funding_labels,
) -> NoisedRow:
    """Noise the text of a row with probability `share`; `policy` treats its labels.

    A pure function of the row, `seed`, `epoch` and `variant`; a row without an `id` is identified by its text. Under
    `follow` each label becomes what the noisy text says at its first occurrence. Labels that are not verbatim in the
    text stay as they are under every policy. Offsets in a column `spans` follow the edits; the column is left out where
    what stands there is no label any more, as under `clean`.
    """
    text: str = row[field]
    key = f"{seed}:{epoch}:{row.get('id', text)}:{variant}"
    rng = random.Random(key.encode("utf-8", "surrogatepass"))
    if rng.random() >= share:
        return NoisedRow(row, Noised(text, text))
    spans = find_spans(text, labels(row))
    noised = noise_text(text, rng, spans, noise, policy)
    if not noised.passes:
        return NoisedRow(row, noised)
    surfaces = _surfaces(noised, spans)
    touched = tuple(path for path, (_, edited) in surfaces.items() if edited)
    ids = {span.path for span in spans if span.kind == "id"}
    new_row = {**row, field: noised.text}
    if policy == "follow" and touched:
        new_row = relabel(new_row, {path: surface for path, (surface, edited) in surfaces.items() if edited})
    if isinstance(row.get("spans"), list):
        old, new = ({" ".join(value.split()) for _, _, value in labels(r)} for r in (row, new_row))
        moved = [_moved(span, noised, old, new) for span in row["spans"]]
        new_row = {k: v for k, v in new_row.items() if k != "spans"} | ({"spans": moved} if all(moved) else {})
    return NoisedRow(new_row, noised, touched, tuple(path for path in touched if path in ids))


def _moved(span: Any, noised: Noised, old: set[str], new: set[str]) -> Any:
    """An annotated span in the noisy text; None where that holds no label of the new row, but one of the old did.

    A span is [start, end, label], or an object with start and end.
    """
    if isinstance(span, Mapping):
        start, end = span.get("start"), span.get("end")
    else:
        start, end = span[:2] if isinstance(span, (list, tuple)) and len(span) > 1 else (None, None)
    if not isinstance(start, int) or not isinstance(end, int):
        return span
    to_start, to_end = noised.to_noisy(start, end)
    before, after = (" ".join(t.split()) for t in (noised.source[start:end], noised.text[to_start:to_end]))
    if after not in new and (before in old or before != after):
        return None
    if isinstance(span, Mapping):
        text = {"text": noised.text[to_start:to_end]} if "text" in span else {}
        return {**span, "start": to_start, "end": to_end, **text}
    return [to_start, to_end, *span[2:]]


def _surfaces(noised: Noised, spans: Sequence[Span]) -> dict[Path, tuple[str, bool]]:
    """Each label's first occurrence in the noisy text, and whether any was edited."""
    surfaces: dict[Path, tuple[str, bool]] = {}
    for span, (start, end, _, _) in zip(spans, noised.spans, strict=True):
        if not span.path:
            continue
        surface = noised.text[start:end]
        edited = surface != noised.source[span.start : span.end]
        first, already = surfaces.get(span.path, (surface, False))
        surfaces[span.path] = (first, already or edited)
    return surfaces
