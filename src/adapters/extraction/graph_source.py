"""Finished outputs over one corpus as the documents of a graph."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import merge as merge_sorted
from itertools import groupby
from pathlib import Path
from typing import Any

from adapters.data.rows import BAD_ROW, column_names, read_records, survey
from adapters.environment import versions
from adapters.errors import UserError, hint
from adapters.extraction.merge_shards import complete
from adapters.extraction.resumable import CHANGEABLE_EXTRACTION_KEYS, manifest
from adapters.files import json_line, sha256
from adapters.graph import mine_records
from adapters.graph.facts import Registry, Text
from adapters.plugins.registry import names, offered, resolve
from adapters.recipe.fields import PluginSpec
from adapters.types import Fact, Row

_OWN = "extraction-adapters"


@dataclass(slots=True)
class Output:
    """One extraction, in one file or in shards of it."""

    parts: list[Path]
    settings: Mapping[str, Any]
    graph: Callable[[Any, Row], Iterable[Fact]]
    """What a record says, with its row."""
    text: str
    digest: Any = field(default_factory=hashlib.sha256)
    """Of its rows in order, whatever files they lie in: that of a merged JSONL file."""
    rows: int = 0

    @property
    def described(self) -> dict[str, Any]:
        """What the graph's manifest says about it."""
        made = {name: self.settings.get(name) for name in ("task", "program", "adapter")}
        return {**made, "rows": self.rows, "sha256": self.digest.hexdigest()}


@dataclass(slots=True)
class GraphSource:
    """Checked outputs and their corpus. `documents` can be read once; then `described` is complete."""

    outputs: list[Output]
    corpus: Path
    rows: int
    digest: str
    registry: Path | None
    without_record: Counter[str] = field(default_factory=Counter)

    def described(self) -> dict[str, Any]:
        """The inputs of the graph, for its manifest: no paths, so that the same input gives the same bytes."""
        registry = sha256(self.registry) if self.registry else None
        inputs = {"corpus": self.digest, "registry": registry, "outputs": [o.described for o in self.outputs]}
        return {"inputs": inputs, "versions": {_OWN: versions().get(_OWN)}}

    def documents(self, moved: Callable[[int, int, Mapping[str, int]], None]) -> Iterator[Text]:
        """The rows that any output has, in the order of the corpus. Raises UserError for damaged files."""
        corpus = read_records(self.corpus)
        lines = merge_sorted(*(_lines(n, o) for n, o in enumerate(self.outputs)), key=lambda line: line[:2])
        for number, group in groupby(lines, key=lambda line: line[0]):
            found = list(group)
            row = next((row for n, row in corpus if n == number), None)
            if row is None:
                raise UserError(f"row {number} of {found[0][2]} is not in {self.corpus}.")
            yield self._document(number, {} if BAD_ROW in row else row, found)
            moved(number, self.rows, {})

    def _document(self, number: int, row: Row, lines: Sequence[_Line]) -> Text:
        facts: list[Fact] = []
        for _, n, part, line in lines:
            output = self.outputs[n]
            if line["record"] is None:
                self.without_record[str(part)] += 1
                continue
            try:
                facts += output.graph(line["record"], {**row, **line})
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise UserError(f"row {number} of {part}: its record cannot be read: {error!r}.") from None
        text = row.get(self.outputs[0].text)
        return Text(number, str(lines[0][3]["id"]), text if isinstance(text, str) else "", facts, row.get("sentences"))


_Line = tuple[int, int, Path, dict[str, Any]]
"""Row number, number of the output, the file, and the line."""


def _lines(n: int, output: Output) -> Iterator[_Line]:
    streams = [_numbered(n, part) for part in output.parts]
    last: tuple[int, Path] = (0, Path())
    for line in merge_sorted(*streams, key=lambda line: line[0]):
        if line[0] <= last[0]:
            where = f"{last[1]} and in {line[2]}" if last[1] != line[2] else str(last[1])
            raise UserError(f"row {line[0]} stands twice: in {where}.")
        last = line[0], line[2]
        output.digest.update(json_line(line[3]))
        output.rows += 1
        yield line


def _numbered(n: int, part: Path) -> Iterator[_Line]:
    for _, row in read_records(part):
        if not isinstance(row.get("row"), int) or "record" not in row or "id" not in row:
            raise UserError(f"{part} is damaged: a row has no number, no id or no record.")
        line = dict(row)
        for name in ("record", "normalized"):
            if isinstance(line.get(name), str):  # JSON text in a Parquet file
                line[name] = json.loads(line[name])
        yield line["row"], n, part, line


def prepare(outs: Sequence[Path], corpus: Path, *, text: str | None, registry: Path | None) -> GraphSource:
    """Check everything that can be checked without reading all rows. Raises UserError."""
    rows, digest = survey(corpus)
    outputs: dict[str, Output] = {}
    for out in outs:
        settings = _settings(out)
        if settings["input"] != digest:
            made = f"{str(settings['input'])[:16]}…"
            raise UserError(f"{out} was made from another corpus than {corpus} (sha256 {made}, not {digest[:16]}…).")
        free = {*CHANGEABLE_EXTRACTION_KEYS, "shard"}
        same = json.dumps({k: v for k, v in settings.items() if k not in free}, sort_keys=True, default=str)
        if same in outputs:
            outputs[same].parts.append(out)
        else:
            outputs[same] = Output([out], settings, _graph(settings), text or settings["text"])
    if len(columns := {output.text for output in outputs.values()}) > 1:
        raise UserError(f"the outputs were made from several columns: {', '.join(sorted(columns))}. Graph them apart.")
    if (column := columns.pop()) not in (known := column_names(corpus)):
        raise UserError(f"{corpus} has no column {column!r}.{hint(column, known)}")
    return GraphSource(list(outputs.values()), corpus, rows, digest, registry)


def _settings(out: Path) -> Mapping[str, Any]:
    value = manifest(out)
    if value is not None and not (value.get("complete") and out.is_file()):
        raise UserError(f"{out} is not finished; run its command again.")
    settings: Mapping[str, Any] = complete(out)["settings"]
    if missing := [name for name in ("input", "task", "text") if name not in settings]:
        raise UserError(f"{out} holds no records: its manifest has no {missing[0]}.")
    return settings


def _graph(settings: Mapping[str, Any]) -> Callable[[Any, Row], Iterable[Fact]]:
    """The meaning of an output's records: of a program's, whatever its proxy's task is, or the task's `graph`.

    The task is one of this project or of an installed package, as no other code is imported. Raises UserError.
    """
    if settings.get("program"):
        return mine_records.graph
    spec = PluginSpec.model_validate(settings["task"])
    if offered("tasks", spec.use) is None and spec.use not in names("tasks").values():
        remedy = "A package that is installed can offer it (entry point group adapters.tasks)"
        raise UserError(f"the task {spec.use!r} is code of a file, which is not imported to make a graph. {remedy}.")
    task = resolve("tasks", spec)
    if not callable(getattr(task, "graph", None)):
        raise UserError(f"the task {spec.use!r} makes no graph: it has no method graph.")
    graph: Callable[[Any, Row], Iterable[Fact]] = task.graph
    return graph


def read_registry(path: Path) -> Registry:
    """The registry of a JSONL file with `id` (or `funder_id`), `name`, `aliases`, `type`. Raises UserError."""
    return Registry(_entries(path))


def _entries(path: Path) -> Iterator[tuple[str, str | None, Sequence[str]]]:
    for number, row in read_records(path):
        identity, name, aliases = row.get("id", row.get("funder_id")), row.get("name"), row.get("aliases") or []
        kind = row.get("type")
        texts = [identity, name, *(aliases if isinstance(aliases, list) else [None]), *([] if kind is None else [kind])]
        if not all(isinstance(text, str) and text for text in texts):
            raise UserError(f"--registry {path}: row {number} is not like {{id, name, aliases: [], type}} with texts.")
        yield str(identity), kind, [str(name), *aliases]
