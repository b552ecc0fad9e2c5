"""A corpus as sentences with their mentions and relations, and the options of reading one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from adapters.data_aug.ie.records import Row


class Entity(NamedTuple):
    """A mention: its label and character ranges, several if it is discontinuous."""

    label: str
    ranges: tuple[tuple[int, int], ...]

    def surface(self, text: str) -> str:
        """The text of the mention."""
        return " ".join(text[start:end] for start, end in self.ranges)


class Relation(NamedTuple):
    """A directed relation between two mentions."""

    label: str
    head: Entity
    tail: Entity


@dataclass(frozen=True, slots=True)
class Sentence:
    """A text with its mentions and relations."""

    text: str
    entities: Sequence[Entity] = ()
    relations: Sequence[Relation] = ()


def utf8_text(path: Path) -> str:
    """The text of a file in UTF-8, its line ends and byte-order mark as they are. Raises ValueError."""
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8: {error}") from None


@dataclass(frozen=True)
class Options:
    """How a corpus becomes rows.

    `source` names it in ledgers. `labels` renames: {"PER": "person"}; a label renamed to "" is dropped. `schema` (after
    renaming) fixes order and membership; without it, it is the union of the labels in their order of appearance.
    `tasks` are the rows to make, of those that the format knows; a schema is one task's.
    `drop_empty` leaves out texts without labels, as IEPile does for relations. Of texts that come twice only the first
    is kept (IEPile's evaluation knows a text by its hash), unless `keep_doubles`. `token_column` and `tag_column` are
    CoNLL's, counted from 0, from the end when negative; the defaults leave out running numbers. `tag_names` names tags
    that are numbers. `offsets` is what offsets count: characters, utf16 (JavaScript's) or utf8 (bytes); empty: found
    where mentions carry their texts. `read_text` gives a file's text with its line ends and byte-order mark.
    """

    source: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    schema: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ("NER", "RE")
    drop_empty: bool = False
    keep_doubles: bool = False
    token_column: int = 0
    tag_column: int = -1
    tag_names: tuple[str, ...] = ()
    offsets: str = ""
    read_text: Callable[[Path], str] = utf8_text


@dataclass
class Corpus:
    """Rows of a corpus, and the number left out by reason."""

    rows: list[Row]
    left_out: dict[str, int] = field(default_factory=dict)


def without_blank_mentions(sentence: Sentence, left_out: Counter[str]) -> Sentence:
    """A sentence without mentions of white space alone, which tokenizers make tokens of; they are counted."""
    kept = [entity for entity in sentence.entities if entity.surface(sentence.text).strip()]
    left_out["empty mentions"] += len(sentence.entities) - len(kept)
    relations = [relation for relation in sentence.relations if relation.head in kept and relation.tail in kept]
    left_out["relations without their mentions"] += len(sentence.relations) - len(relations)
    return Sentence(sentence.text, kept, relations)


def token_starts(tokens: Iterable[str]) -> list[int]:
    """Where tokens start in their text, and where a further one would; single spaces stand between them."""
    starts = [0]
    for token in tokens:
        starts.append(starts[-1] + len(token) + 1)
    return starts


def text_lines(text: str) -> list[str]:
    """The lines of a text, whatever ends them, without a byte-order mark."""
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n")
