"""The verbs of `adapters data` for entities and relations: convert corpora, mix them, score spans."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapters.cli.data import data_app, write_lines
from adapters.cli.errors import errors
from adapters.cli.options import AsJson, Params, Seed, grouped
from adapters.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from adapters.data_aug.ie import Mix, Options


@dataclass(frozen=True)
class RowOptions:
    """The options that say how a corpus becomes rows."""

    name: Annotated[str | None, typer.Option("--source", help="The corpus's name; default: the file's.")] = None
    rename: Annotated[
        list[str] | None,
        typer.Option("--rename", metavar="OLD=NEW", help="PER=person; MISC= drops the label; may be repeated."),
    ] = None
    schema: Annotated[
        str | None, typer.Option("--schema", help="Labels after renaming, comma-separated; default: the corpus's.")
    ] = None
    task: Annotated[
        str | None, typer.Option("--task", metavar="NER|RE", help="Rows of one kind; default: what the corpus has.")
    ] = None
    drop_empty: Annotated[bool, typer.Option("--drop-empty", help="Leave out texts without labels.")] = False
    keep_doubles: Annotated[bool, typer.Option("--keep-doubles", help="Keep repeated texts.")] = False
    token_column: Annotated[int, typer.Option("--token-column", help="CoNLL: counted from 0.")] = 0
    tag_column: Annotated[int, typer.Option("--tag-column", help="CoNLL: from 0, or from the end when negative.")] = -1

    def of(self, source: Path, kind: str) -> Options:
        """The reader's options for a corpus. Raises UserError."""
        from adapters.data_aug.ie import Options
        from adapters.recipe.load import split_assignment

        if self.task not in (None, "NER", "RE"):
            raise UserError(f"--task is NER or RE, not {self.task!r}.")
        return Options(
            source=self.name or ("" if kind == "iepile" else source.name.split(".")[0]),
            labels=dict(map(split_assignment, self.rename or ())),
            schema=_names(self.schema) if self.schema else (),
            tasks=(self.task,) if self.task else ("NER", "RE"),
            drop_empty=self.drop_empty,
            keep_doubles=self.keep_doubles,
            token_column=self.token_column,
            tag_column=self.tag_column,
        )


@data_app.command()
@grouped
def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A file; for brat, a folder.")],
    kind: Annotated[str, typer.Option("--from", help="conll, spert, brat or iepile.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="JSONL file of rows for the task ie.")],
    options: RowOptions,
    as_json: AsJson = False,
) -> None:
    """Convert an annotated corpus to rows of id, task, source, schema, text, gold and spans."""
    from adapters.data_aug.ie import READERS
    from adapters.errors import hint

    with errors():
        if kind not in READERS:
            raise UserError(
                f"--from: no format is called {kind!r}.{hint(kind, list(READERS))} Known: {', '.join(READERS)}."
            )
        try:
            corpus = READERS[kind](source, options.of(source, kind))
        except ValueError as error:
            raise UserError(f"{source}: {error}.") from None
        except OSError as error:
            raise UserError(f"{source} cannot be read: {error.strerror}.") from None
        if not corpus.rows:
            raise UserError(f"{source}: no row is left; left out: {corpus.left_out or 'nothing'}.")
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

    total: Annotated[int, typer.Option("--total", min=1, help="Records, training and validation together.")] = 16_000
    empty: Annotated[float, typer.Option("--empty", help="Share of records without labels.")] = 0.3
    validation: Annotated[float, typer.Option("--validation", help="Share of records held out, by text.")] = 0.1
    max_rows: Annotated[
        int | None, typer.Option("--max-rows", min=1, help="Of a source; default: as level as the total allows.")
    ] = None
    tasks: Annotated[str, typer.Option("--tasks", help="Comma-separated.")] = "NER,RE"
    keep: Annotated[
        str, typer.Option("--sources", help="all, card (the 22 of Agents-K1), or names, comma-separated.")
    ] = "all"
    language: Annotated[str, typer.Option("--language", help="en (IEPile's ASCII instructions) or any.")] = "en"
    ner_labels: Annotated[int, typer.Option("--ner-labels", min=1, help="Entity types in a prompt.")] = 6
    re_labels: Annotated[int, typer.Option("--re-labels", min=1, help="Relations in a prompt.")] = 4
    seed: Seed = 42

    def mix(self) -> Mix:
        """The settings of the mix. Raises ValueError for those that no mix has."""
        from adapters.data_aug.ie import CARD_SOURCES, Mix

        return Mix(
            total=self.total,
            empty=self.empty,
            validation=self.validation,
            cap=self.max_rows,
            seed=self.seed,
            tasks=_names(self.tasks),
            sources={"all": (), "card": CARD_SOURCES}.get(self.keep, _names(self.keep)),
            language=self.language,
            sizes={"NER": self.ner_labels, "RE": self.re_labels},
        )


@data_app.command("build-ie")
@grouped
def build(
    sources: Annotated[list[Path], typer.Argument(metavar="IN...", help="IEPile records, or rows of `data convert`.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for train, validation and ledger.jsonl.")],
    options: MixOptions,
    label_names: Annotated[
        Path | None,
        typer.Option("--label-names", help="JSON: task -> source -> label -> labels easily confused with it."),
    ] = None,
    exclude: Annotated[
        list[Path] | None, typer.Option("--exclude", help="Test rows, whose texts are left out; may be repeated.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Mix corpora into training and validation rows, as Agents-K1 did.

    Batches of the schema with hard negatives, at most so many records of a source, 70 % with labels, 90/10.
    """
    from adapters.console import console
    from adapters.data_aug.ie import mix

    with errors():
        try:
            excluded = [text for row in _plain(exclude or []) if (text := str(row.get("text") or ""))]
            mixed = mix(_read(sources), options.mix(), _confusable(label_names), excluded)
        except ValueError as error:
            raise UserError(f"{error}.") from None
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--out {out} cannot be a folder: {error.strerror}.") from None
        write_lines(mixed.validation, out / "validation.jsonl")
        write_lines(mixed.train, out / "train.jsonl")
        write_lines([{"source": name, **counts} for name, counts in mixed.ledger.items()], out / "ledger.jsonl")
        figures = {"train": len(mixed.train), "validation": len(mixed.validation), "ledger": mixed.ledger}
        if as_json:
            print(json.dumps({**figures, "notes": mixed.notes}))
            return
        console().print(_ledger(mixed.ledger))
        for note in mixed.notes:
            console(stderr=True).print(f"note: {note}", style="yellow")
        print(f"{out}: {len(mixed.train):,} rows to train on, {len(mixed.validation):,} held out")


@data_app.command("score-spans")
def score_spans(
    predictions: Annotated[Path, typer.Argument(help="JSONL: id and completion, such as a run's samples.jsonl.")],
    gold: Annotated[Path, typer.Argument(help="Rows with spans, as `data convert` writes them.")],
    params: Params = None,
    as_json: AsJson = False,
) -> None:
    """Score entities as spans of the text (strict, exact, partial, type), with nervaluate."""
    from adapters.console import console
    from adapters.evaluation import spans
    from adapters.recipe.load import parse_assignments

    with errors():
        result = spans.score_spans(predictions, gold, parse_assignments(params or []))
        if as_json:
            print(json.dumps(result))
            return
        for table in spans.tables(result, predictions.stem):
            console().print(table)


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
    from rich.table import Table

    columns = ("read", "filtered", "in test sets", "doubles", "records", "with labels", "empty", "train", "validation")
    table = Table(title="records by source", title_justify="left")
    table.add_column("source")
    shown = [column for column in columns if any(counts[column] for counts in ledger.values())]
    for column in shown:
        table.add_column(column, justify="right")
    for source, counts in ledger.items():
        table.add_row(source or "(none)", *(f"{counts[column]:,}" for column in shown))
    table.add_section()
    whole = sum(ledger.values(), Counter[str]())
    table.add_row("all", *(f"{whole[column]:,}" for column in shown))
    return table
