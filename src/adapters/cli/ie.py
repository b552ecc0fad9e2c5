"""The verbs of `adapters data` for entities and relations: convert corpora, mix them, score spans."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from adapters.cli.data import data_app, write_lines
from adapters.cli.errors import errors
from adapters.cli.options import AsJson, Params, Seed, grouped
from adapters.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from adapters.data_aug.ie import Mix, Options


@dataclass(frozen=True)
class RowOptions:
    """How a corpus becomes rows."""

    source: Annotated[str | None, Option(help="The corpus's name; default: the file's.")] = None
    labels: Annotated[list[str] | None, Option("--rename", metavar="OLD=NEW", help="PER=person; X= drops X.")] = None
    schema: Annotated[str | None, Option(help="Labels after renaming, comma-separated; default: the corpus's.")] = None
    tasks: Annotated[str | None, Option("--task", metavar="NER|RE", help="Rows of one kind; default: all.")] = None
    drop_empty: Annotated[bool, Option("--drop-empty", help="Leave out texts without labels.")] = False
    keep_doubles: Annotated[bool, Option("--keep-doubles", help="Keep repeated texts.")] = False
    token_column: Annotated[int, Option(help="CoNLL: counted from 0.")] = 0
    tag_column: Annotated[int, Option(help="CoNLL: from 0, or from the end when negative.")] = -1

    def of(self, file: Path, kind: str) -> Options:
        """The reader's options for a corpus. Raises UserError."""
        from adapters.data_aug.ie import Options
        from adapters.recipe.load import split_assignment

        if self.tasks not in (None, "NER", "RE"):
            raise UserError(f"--task is NER or RE, not {self.tasks!r}.")
        parsed = {
            "source": self.source or ("" if kind == "iepile" else file.name.split(".")[0]),
            "labels": dict(map(split_assignment, self.labels or ())),
            "schema": _names(self.schema) if self.schema else (),
            "tasks": (self.tasks,) if self.tasks else ("NER", "RE"),
        }
        return Options(**(vars(self) | parsed))


@data_app.command()
@grouped
@errors()
def convert(
    file: Annotated[Path, Argument(metavar="IN", help="A file; for brat, a folder.")],
    kind: Annotated[str, Option("--from", help="conll, spert, brat or iepile.")],
    out: Annotated[Path, Option("-o", "--out", help="JSONL file of rows for the task ie.")],
    options: RowOptions,
    as_json: AsJson = False,
) -> None:
    """Convert an annotated corpus to rows of id, task, source, schema, text, gold and spans."""
    from adapters.data_aug.ie import READERS
    from adapters.errors import hint

    if kind not in READERS:
        raise UserError(f"--from: no format is called {kind!r}.{hint(kind, list(READERS))}")
    try:
        corpus = READERS[kind](file, options.of(file, kind))
    except ValueError as error:
        raise UserError(f"{file}: {error}.") from None
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}.") from None
    if not corpus.rows:
        raise UserError(f"{file}: no row is left; left out: {corpus.left_out or 'nothing'}.")
    write_lines(corpus.rows, out)
    counts = Counter(row["task"] for row in corpus.rows)
    empty = Counter(row["task"] for row in corpus.rows if not any(row["gold"].values()))
    if as_json:
        print(json.dumps({"rows": counts, "empty": empty, "left_out": corpus.left_out}))
        return
    for task, n in counts.items():
        labels = next(row["schema"] for row in corpus.rows if row["task"] == task)
        print(f"{out}: {n:,} {task} rows, {empty[task]:,} without labels; schema: {', '.join(labels)}")
    for reason, n in corpus.left_out.items():
        print(f"left out: {n:,} {reason}")


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
