"""The verbs of `adapters data` that convert files, and those for entities and relations: mix corpora, score spans."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from adapters.cli.data import data_app, write_lines, write_whole
from adapters.cli.errors import errors
from adapters.cli.in_parts import ClusterOptions, Where
from adapters.cli.options import AsJson, Params, Seed, grouped
from adapters.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from adapters.data.formats import Converted
    from adapters.data_aug.ie import Mix, Options


@dataclass(frozen=True)
class RowOptions:
    """How a corpus becomes rows."""

    source: Annotated[str | None, Option(help="The corpus's name; default: the file's.")] = None
    labels: Annotated[list[str] | None, Option("--rename", metavar="OLD=NEW", help="PER=person; X= drops X.")] = None
    tag_names: Annotated[
        str | None, Option("--labels", metavar="NAMES", help="Names of tags that are numbers: O,B-PER …")
    ] = None
    offsets: Annotated[str, Option(help="What offsets count: characters, utf16 or utf8; default: found.")] = ""
    schema: Annotated[str | None, Option(help="Labels after renaming, comma-separated; default: the corpus's.")] = None
    tasks: Annotated[str | None, Option("--task", metavar="NER|RE", help="Rows of one kind; default: all.")] = None
    drop_empty: Annotated[bool, Option("--drop-empty", help="Leave out texts without labels.")] = False
    keep_doubles: Annotated[bool, Option("--keep-doubles", help="Keep repeated texts.")] = False
    token_column: Annotated[int, Option(help="CoNLL: counted from 0.")] = 0
    tag_column: Annotated[int, Option(help="CoNLL: from 0, or from the end when negative.")] = -1

    def of(self) -> Options:
        """The reader's options. Raises UserError."""
        from adapters.data.formats.base import UNITS
        from adapters.data_aug.ie import Options
        from adapters.recipe.load import split_assignment

        if self.tasks not in (None, "NER", "RE"):
            raise UserError(f"--task is NER or RE, not {self.tasks!r}.")
        if self.offsets not in ("", *UNITS):
            raise UserError(f"--offsets is {', '.join(UNITS)}, not {self.offsets!r}.")
        parsed = {
            "source": self.source or "",
            "labels": dict(map(split_assignment, self.labels or ())),
            "tag_names": _names(self.tag_names) if self.tag_names else (),
            "schema": _names(self.schema) if self.schema else (),
            "tasks": (self.tasks,) if self.tasks else ("NER", "RE"),
        }
        return Options(**(vars(self) | parsed))


@data_app.command()
@grouped
@errors()
def convert(
    file: Annotated[Path, Argument(metavar="IN", help="A file, or a folder of files.")],
    out: Annotated[Path, Option("-o", "--out", help="The file to write, JSONL unless --to says otherwise.")],
    options: RowOptions,
    cluster: ClusterOptions,
    to: Annotated[
        str | None, Option(help="ie, funding, chat, spans, conll or labelstudio; default: by format.")
    ] = None,
    kind: Annotated[str | None, Option("--from", help="The format, or ./file.py:read; default: found.")] = None,
    engine: Where = "local",
    fresh: Annotated[bool, Option("--fresh", help="With --engine ray: replace what OUT holds.")] = False,
    as_json: AsJson = False,
) -> None:
    """Convert annotations, articles or conversations to rows of a task, or to other programs' formats.

    The format is found from the content: gliner, hf (token classification), conll, spert, brat, iepile, doccano,
    labelstudio, prodigy (and spaCy), spans, jats, tei (GROBID), crossref, sharegpt, alpaca, openai, completion, pairs;
    rows are those for the task ie.
    """
    from adapters.data import formats
    from adapters.data.data_file import FAULTS

    cluster.refuse_without_ray(engine)
    if engine == "ray":
        _convert_in_parts(file, out, options, kind, to, cluster, fresh=fresh, as_json=as_json)
        return
    if out.resolve() == file.resolve():
        raise UserError(f"-o {out} is the file that is read; name another.")
    try:
        done = formats.convert(file, options.of(), name=kind, to=to)
        rows, empty, schemas = _write(done, out)
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or error}.") from None
    except FAULTS as error:
        raise UserError(f"{file}: {error}.") from None
    if as_json:
        found = {"format": done.name, "read": done.source.count, "to": done.to}
        counts = {"rows": rows, "empty": empty, "left_out": done.left_out, "notes": done.notes}
        print(json.dumps(found | counts | ({"config": done.config} if done.config else {})))
        return
    print(f"{file}: read as {done.format.title}, {done.source.count:,} {done.format.unit}")
    for task, n in rows.items():
        labels = f"; schema: {', '.join(schemas[task])}" if task in schemas else ""
        what = UNITS.get(done.to, f"{task} rows")
        print(f"{out}: {n:,} {what}{f', {empty[task]:,} without labels' if done.to in LABELLED else ''}{labels}")
    _print_reasons(done.notes, done.left_out)
    if done.config:
        print(f"labelling interface for Label Studio: {done.config}")


def _print_reasons(notes: Mapping[str, int], left_out: Mapping[str, int]) -> None:
    for reason, n in notes.items():
        print(f"note: {n:,} {reason}")
    for reason, n in left_out.items():
        print(f"left out: {n:,} {reason}")


def _convert_in_parts(
    file: Path,
    out: Path,
    options: RowOptions,
    kind: str | None,
    to: str | None,
    cluster: ClusterOptions,
    *,
    fresh: bool,
    as_json: bool,
) -> None:
    """Convert the files of a folder by Ray, each for itself."""
    from adapters.cluster.parts import shown
    from adapters.cluster.work import Conversion, shared

    if to in ("conll", "labelstudio") or cluster.part_format == "parquet" or cluster.part_rows:
        raise UserError("--engine ray converts whole files to rows in .jsonl: no --part-rows, conll or labelstudio.")
    work = Conversion(options.of(), kind and shared(kind), to)
    counts = cluster.run(file, out, lambda _: work, whole_files=True, fresh=fresh)
    if as_json:
        print(json.dumps(counts))
        return
    print(f"{shown(out)}: {counts['rows']:,} rows of {counts['parts']:,} files")
    _print_reasons(counts["notes"], counts["left_out"])


UNITS = {"conll": "sentences", "labelstudio": "tasks", "spans": "texts"}
"""What is written, where it is not rows of a task."""
LABELLED = ("ie", "funding")
"""Targets whose rows have labels to count."""


def _write(done: Converted, out: Path) -> tuple[Counter[str], Counter[str], dict[str, list[str]]]:
    """Write what a file became. Numbers of rows, of those without labels, and schemas, by task. Raises UserError."""
    counts: Counter[str] = Counter()
    empty: Counter[str] = Counter()
    schemas: dict[str, list[str]] = {}

    def counted() -> Iterator[Any]:
        for row in done.rows:
            task = row["task"] if done.to == "ie" else done.to
            counts[task] += 1
            if done.to == "ie":
                schemas.setdefault(task, row["schema"])
            empty[task] += done.to in LABELLED and not any(row.get("funders") or row.get("gold", {}).values())
            yield row

    rows = counted()
    first = next(rows, None)
    if first is None:
        raise UserError(f"{done.source.path}: no row is left; left out: {done.left_out or 'nothing'}.")
    rows = chain([first], rows)
    if done.to in ("conll", "labelstudio"):
        tasks = (json.dumps(task, ensure_ascii=False) for task in rows)
        write_whole(out, "".join(rows) if done.to == "conll" else "[\n" + ",\n".join(tasks) + "\n]\n")
    else:
        write_lines(rows, out)
    return counts, empty, schemas


@dataclass(frozen=True)
class MixOptions:
    """The options of a mix."""

    total: Annotated[int, Option(min=1, help="Records, training and validation together.")] = 16_000
    empty: Annotated[float, Option(help="Share of records without labels.")] = 0.3
    validation: Annotated[float, Option(help="Share of records held out, by text.")] = 0.1
    cap: Annotated[
        int | None, Option("--max-rows", min=1, help="Of a source; default: as level as the total allows.")
    ] = None
    tasks: Annotated[str, Option(help="Comma-separated.")] = "NER,RE"
    sources: Annotated[str, Option(help="all, card (Agents-K1's 22), or names, comma-separated.")] = "all"
    language: Annotated[str, Option(help="en (IEPile's ASCII instructions) or any.")] = "en"
    ner_labels: Annotated[int, Option(min=1, help="Entity types in a prompt.")] = 6
    re_labels: Annotated[int, Option(min=1, help="Relations in a prompt.")] = 4
    seed: Seed = 42

    def mix(self) -> Mix:
        """The settings of the mix. Raises ValueError for those that no mix has."""
        from adapters.data_aug.ie import CARD_SOURCES, Mix

        settings = dict(vars(self))
        settings["sizes"] = {"NER": settings.pop("ner_labels"), "RE": settings.pop("re_labels")}
        settings["tasks"] = _names(self.tasks)
        settings["sources"] = {"all": (), "card": CARD_SOURCES}.get(self.sources, _names(self.sources))
        return Mix(**settings)


@data_app.command("build-ie")
@grouped
@errors()
def build(
    corpora: Annotated[list[Path], Argument(metavar="IN...", help="IEPile records, or rows of `data convert`.")],
    out: Annotated[Path, Option("-o", "--out", help="Folder for train, validation and ledger.jsonl.")],
    options: MixOptions,
    label_names: Annotated[Path | None, Option(help="JSON: task -> source -> label -> confusable labels.")] = None,
    exclude: Annotated[list[Path] | None, Option(help="Test rows, whose texts are left out; may be repeated.")] = None,
    as_json: AsJson = False,
) -> None:
    """Mix corpora into training and validation rows, as Agents-K1 did.

    Batches of the schema with hard negatives, at most so many records of a source, 70 % with labels, 90/10.
    """
    from adapters.console import console
    from adapters.data_aug.ie import mix

    try:
        excluded = [text for row in _plain(exclude or []) if (text := str(row.get("text") or ""))]
        mixed = mix(_read(corpora), options.mix(), _confusable(label_names), excluded)
    except ValueError as error:
        raise UserError(f"{error}.") from None
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out} cannot be a folder: {error.strerror}.") from None
    write_lines(mixed.validation, out / "validation.jsonl")
    write_lines(mixed.train, out / "train.jsonl")
    write_lines([{"source": name, **counts} for name, counts in mixed.ledger.items()], out / "ledger.jsonl")
    if as_json:
        sizes = {"train": len(mixed.train), "validation": len(mixed.validation)}
        print(json.dumps({**sizes, "ledger": mixed.ledger, "notes": mixed.notes}))
        return
    console().print(_ledger(mixed.ledger))
    for note in mixed.notes:
        console(stderr=True).print(f"note: {note}", style="yellow")
    print(f"{out}: {len(mixed.train):,} rows to train on, {len(mixed.validation):,} held out")


@data_app.command("score-spans")
@errors()
def score_spans(
    predictions: Annotated[Path, Argument(help="JSONL: id and completion, such as a run's samples.jsonl.")],
    gold: Annotated[Path, Argument(help="Rows with spans, as `data convert` writes them.")],
    params: Params = None,
    as_json: AsJson = False,
) -> None:
    """Score entities as spans of the text (strict, exact, partial, type), with nervaluate."""
    from adapters.console import console
    from adapters.evaluation import spans
    from adapters.recipe.load import parse_assignments

    result = spans.score_spans(predictions, gold, parse_assignments(params or []))
    if as_json:
        print(json.dumps(result))
    else:
        console().print(*spans.tables(result, predictions.stem), sep="\n")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


def _read(paths: list[Path]) -> Iterator[Mapping[str, Any]]:
    from adapters.data.rows import read_file

    for path in paths:
        yield from (row for _, row in read_file(path, strict=True))


def _plain(paths: list[Path]) -> Iterator[Mapping[str, Any]]:
    from adapters.data_aug.ie import from_iepile, is_iepile

    for row in _read(paths):
        yield from_iepile(row) if is_iepile(row) else row


def _confusable(path: Path | None) -> Mapping[str, Any]:
    if path is None:
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--label-names {path} cannot be read: {error}") from None
    sources = list(value.values()) if isinstance(value, dict) else [None]
    if not all(isinstance(s, dict) and all(isinstance(labels, dict) for labels in s.values()) for s in sources):
        raise UserError(f"--label-names {path}: an object task -> source -> label -> labels is wanted.")
    return dict(value)


def _ledger(ledger: Mapping[str, Counter[str]]) -> Table:
    from adapters.console import new_table

    columns = ("read", "filtered", "in test sets", "doubles", "records", "with labels", "empty", "train", "validation")
    shown = [column for column in columns if any(counts[column] for counts in ledger.values())]
    table = new_table("records by source", ["source"], shown)
    for source, counts in ledger.items():
        table.add_row(source or "(none)", *(f"{counts[column]:,}" for column in shown))
    table.add_section()
    whole = sum(ledger.values(), Counter[str]())
    table.add_row("all", *(f"{whole[column]:,}" for column in shown))
    return table
