"""Made-up sentences of many fields with the entities in them, so that training sees labels by the dozen.

Corpora of entities have few types each, and a small model learns these by heart. Here a prompt asks for a draw of some
sixty types under several names, beside types that the text has nothing of, and for the broader type of some (`person`
for composers), which then holds what no narrower one on the list does. Sentences and examples are in `made_types.txt`
and `made_sentences.txt`; they belong to no test set.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import count, islice
from random import Random
from typing import Any, Final

from adapters.data_aug.data_files import read_lines

BROADER: Final = {
    "person": "people",
    "organization": "organizations and groups",
    "location": "places",
    "creative work": "works of art and entertainment",
}
"""Broader types: name -> what it means, without the narrower ones that are asked for too."""
MOST_LABELS: Final = 14
ASKED, BROADER_ASKED, DESCRIBED = 0.8, 0.5, 0.8
"""Probabilities: a type of the text is asked for, a broader one is, and the row says what its labels mean."""
_SLOT = re.compile(r"\[([^]]+)]")


@dataclass(frozen=True, slots=True)
class Type:
    """A line of made_types.txt."""

    names: tuple[str, ...]
    broader: str
    means: tuple[str, ...]
    examples: tuple[str, ...]
    anywhere: re.Pattern[str]
    """Finds an example in a text."""


@cache
def types() -> dict[str, Type]:
    """The types by their first name."""
    lines = [[part.strip() for part in line.split("|")] for line in read_lines("ie/made_types.txt")]
    columns = [(_several(names), broader, _several(means), _several(items)) for names, broader, means, items in lines]
    return {names[0]: Type(names, broader, means, items, _any_of(items)) for names, broader, means, items in columns}


def _several(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(";"))


def _any_of(items: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, items))})(?!\w)", re.IGNORECASE)


@cache
def _sentences() -> tuple[str, ...]:
    return tuple(read_lines("ie/made_sentences.txt"))


def synthesize(n: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """`n` rows of the `ie` task, no two with the same text; those before a row depend on the seed alone."""
    texts: set[str] = set()
    rows = (row for number in count() if (row := _row(Random(f"{seed}:{number}"), number, texts)))
    yield from islice(rows, n)


def _row(rng: Random, number: int, texts: set[str]) -> dict[str, Any] | None:
    by_type: dict[str, list[str]] = {}
    text = " ".join(_filled(sentence, by_type, rng) for sentence in rng.sample(_sentences(), rng.choice((1, 1, 2, 3))))
    if text in texts:
        return None
    texts.add(text)
    gold, means = _asked(text, by_type, rng)
    descriptions = means if rng.random() < DESCRIBED else {}
    shown = {"schema": list(gold), "text": text, "gold": gold, "descriptions": descriptions}
    return {"id": f"made-{number}", "task": "NER", "source": "made", **shown}


def _filled(sentence: str, by_type: dict[str, list[str]], rng: Random) -> str:
    def example(slot: re.Match[str]) -> str:
        mine = by_type.setdefault(slot[1], [])
        mine.append(rng.choice([item for item in types()[slot[1]].examples if item not in mine]))
        return mine[-1]

    return _SLOT.sub(example, sentence)


def _asked(text: str, by_type: dict[str, list[str]], rng: Random) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Items and meanings of the labels to ask for, in the order of the prompt."""
    asked = {kind: items for kind, items in by_type.items() if rng.random() < ASKED}
    rest = [kind for kind in by_type if kind not in asked]
    labels = [(*_named(types()[kind], rng), items) for kind, items in asked.items()]
    for name, means in BROADER.items():
        if rng.random() < BROADER_ASKED:
            items = [item for kind in rest if types()[kind].broader == name for item in by_type[kind]]
            others = rng.choice(("", " of no other type", ", but those of the narrower types"))
            labels.append((name, means + others, items))
    absent = [kind for kind, value in types().items() if kind not in by_type and not value.anywhere.search(text)]
    # Narrower types of those that stand in the text are the ones that are easily taken for them.
    near = {types()[kind].broader for kind in by_type} - {""}
    absent.sort(key=lambda kind: rng.random() - (types()[kind].broader in near) / 2)
    number = max(0, rng.randint(1, MOST_LABELS) - len(labels))
    labels += [(*_named(types()[kind], rng), []) for kind in absent[:number]]
    labels = labels or [(*_named(types()[absent[0]], rng), [])]
    rng.shuffle(labels)
    names = [name for name, *_ in labels]
    labels = [label for n, label in enumerate(labels) if label[0] not in names[:n]]
    return {name: items for name, _, items in labels}, {name: means for name, means, _ in labels}


def _named(kind: Type, rng: Random) -> tuple[str, str]:
    name = kind.names[0] if rng.random() < 0.5 else rng.choice(kind.names)
    return name, rng.choice(kind.means)
