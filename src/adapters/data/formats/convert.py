"""From a file in any known format to the rows of a task, or to a format that other programs read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from adapters.data.formats.base import BLANKS, CUT, Format, Item, LeftOut, Target
from adapters.data.formats.catalogue import FORMATS, detect, find, target_of
from adapters.data.formats.chat import NO_ANSWER
from adapters.data.formats.label_studio import labeling_config
from adapters.data.formats.scholarly import NOT_IN_TEXT
from adapters.data.formats.source import Source
from adapters.data.formats.spans import row_sentence
from adapters.data.formats.write import WRITERS
from adapters.data_aug.ie.corpora import corpus, selected
from adapters.data_aug.ie.sentences import Options, Sentence
from adapters.errors import UserError

TARGETS = ("ie", "funding", "chat", *WRITERS)
KEPT = (CUT, BLANKS, NOT_IN_TEXT, NO_ANSWER)
"""What is counted though it is kept."""


@dataclass
class Converted:
    """What a file became. `rows` is read as it is written; the counts are complete after it."""

    name: str
    format: Format
    to: str
    source: Source
    rows: Iterable[Any]
    counts: LeftOut = field(default_factory=Counter)
    config: str = ""
    """The labelling interface that fits, for Label Studio."""

    @property
    def left_out(self) -> dict[str, int]:
        """Numbers of what is left out, by reason."""
        return {reason: n for reason, n in self.counts.items() if n and reason not in KEPT}

    @property
    def notes(self) -> dict[str, int]:
        """Numbers of what is kept and worth a look."""
        return {reason: n for reason in KEPT if (n := self.counts[reason])}


def convert(path: Path, options: Options, *, name: str | None = None, to: str | None = None) -> Converted:
    """Read a file, in the format of this name or the one that it is found to have.

    Raises UserError for an unknown format or target, ValueError that says what in the file is wrong, OSError.
    """
    if to is not None and to not in TARGETS:
        raise UserError(f"--to is {', '.join(TARGETS)}, not {to!r}.")
    source = Source(path)
    if name is None:
        path.stat()  # OSError for a file that is missing
        name, found = detect(source)
    else:
        found = find(name)
    base: Target = "ie" if to in WRITERS else to or next(iter(found.gives))  # type: ignore[assignment]
    if base not in found.gives:
        raise UserError(f"{path}: {found.title} gives rows for {' or '.join(found.gives)}, not for {base}.")
    if found is FORMATS["rows"] and to in (None, "ie"):
        raise UserError(f"{path} holds rows for the task ie already; --to {', '.join(WRITERS)} writes other formats.")
    if found is not FORMATS["iepile"] and not options.source:  # its records name theirs
        options = replace(options, source=path.name.split(".")[0])
    counts: LeftOut = Counter()
    items: Iterator[Item] = iter(found.gives[base](source, options, counts))
    first = next(items, None)
    if found.is_plugin and isinstance(first, dict):
        base = _checked(target_of(first), to, found)
    converted = Converted(name, found, to or base, source, (), counts)
    everything: Iterable[Item] = items if first is None else chain([first], items)
    if base == "ie":
        _fill(converted, everything, options)
    else:
        converted.rows = everything
    return converted


def _checked(base: Target, to: str | None, found: Format) -> Target:
    if to is not None and to != base:
        raise UserError(f"{found.title} gives rows for {base}, not for {to}.")
    return base


def _fill(converted: Converted, items: Iterable[Item], options: Options) -> None:
    """Put sentences, or rows for ie, into what is wanted."""
    counts = converted.counts
    whole = list(items)
    rows = [item for item in whole if isinstance(item, dict)]
    if converted.to == "ie":
        sentences = [item for item in whole if isinstance(item, Sentence)]
        try:
            converted.rows = rows or corpus(sentences, options, converted.format.tasks, counts).rows
        except ValueError as error:
            raise ValueError(f"{error}{_reasons(converted)}") from None
        return
    located = (s for item in whole for s in ([item] if isinstance(item, Sentence) else row_sentence(item, "", counts)))
    kept = list(selected(located, options, counts))
    if not any(sentence.entities for sentence in kept):
        raise ValueError(f"has no mentions to write{_reasons(converted)}")
    converted.rows = list(WRITERS[converted.to](kept, counts))
    if converted.to == "labelstudio":
        first = converted.source.first[0] if converted.format is FORMATS["rows"] else None
        schema = first.get("schema") if isinstance(first, dict) else None
        known = [options.labels.get(str(s), str(s)) for s in schema] if isinstance(schema, list) else []
        converted.config = labeling_config([*options.schema, *filter(None, known)], kept)


def _reasons(converted: Converted) -> str:
    reasons = ", ".join(f"{n:,} {reason}" for reason, n in converted.left_out.items())
    return f"; left out: {reasons}" if reasons else ""
