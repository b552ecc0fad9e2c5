"""An adapter's calibration: labelled rows answered, each value judged, and a model fitted to the signals.

The evidence, a line for each row, stands beside the adapter. It is written, resumed and described by a manifest as the
output of `adapters extract` is (see `extract.py`).
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from adapters.backends.json_stop import first_value
from adapters.data.examples import text_key
from adapters.data.load import load_examples
from adapters.errors import UserError
from adapters.evaluation import answer_values, calibration, confidence
from adapters.evaluation.calibration import FILE, Fitted
from adapters.extraction import grounding
from adapters.extraction.adapter_source import Source
from adapters.extraction.chunks import Cutter
from adapters.extraction.confidence import CHOICES, TOKENS, stored, told
from adapters.extraction.engine import Answer, Engine, Request
from adapters.extraction.journal import Journal
from adapters.extraction.resumable import complete, finished, journal_path
from adapters.files import read_jsonl, write_json, write_jsonl
from adapters.pipeline import unseen_rows
from adapters.pipeline.fingerprint import digest
from adapters.plugins.trust import Consent
from adapters.recipe.fields import PathSource
from adapters.secrets import redact
from adapters.types import Example, Progress

LEAST_ROWS: Final = 50
FIT, TEST = "fit", "test"


@dataclass(frozen=True, slots=True)
class CalibrationJob:
    """Checked work. A restart must have the same `settings`."""

    source: Source
    way: str
    examples: Sequence[Example]
    fitted: int
    """How many of the examples, the first ones, are fitted; the others are only measured."""
    test: str | None
    left_out: Mapping[str, int]
    settings: dict[str, Any]

    @property
    def out(self) -> Path:
        """The evidence, beside the adapter's weights."""
        name = re.sub(r"[^\w.]+", "-", self.way)
        return self.source.adapter / f"calibration-{name}.jsonl"

    @property
    def described(self) -> dict[str, Any]:
        """The manifest's description."""
        return {"settings": self.settings}


def prepare(
    source: Source,
    rows: Sequence[Path],
    way: str,
    *,
    test: str | None = None,
    consent: Consent | None = None,
    cutter: Cutter | None = None,
    engine: Mapping[str, Any],
) -> CalibrationJob:
    """Check everything that can be checked before a model is loaded. Raises UserError.

    Rows that `cutter` would cut are left out: a calibration is of texts that are asked about as a whole.
    Rows whose text is, or nearly repeats, one of the run's training or test rows are left out, as are test rows that
    were trained on. Without the run nobody knows them.
    """
    file = source.run.recipe_file(consent=consent) if source.run else None
    given = _read(source, rows)
    measured = _test_rows(source, file, test)
    many = len(given), len(measured)
    if cutter is not None:
        given, measured = ([e for e in part if cutter.whole(e.prompt)] for part in (given, measured))
    too_long = many[0] - len(given), many[1] - len(measured)
    left_out = {"rows in the training data": 0, "rows in a test set": 0, "test rows in the training data": 0}
    if file is not None and source.run is not None:
        texts = unseen_rows.texts_of(file, len(source.run.stages_up_to_named()))
        trained = unseen_rows.seen(given, texts.training)
        tested = unseen_rows.seen(given, texts.test)
        counts = sum(trained), sum(b and not a for a, b in zip(trained, tested, strict=True))
        given = [e for e, a, b in zip(given, trained, tested, strict=True) if not (a or b)]
        known = unseen_rows.seen(measured, texts.training)
        left_out = dict(zip(left_out, (*counts, sum(known)), strict=True))
        measured = [e for e, trained_on in zip(measured, known, strict=True) if not trained_on]
    own = frozenset(map(text_key, given))
    left_out |= zip(("rows too long for one prompt", "test rows too long for one prompt"), too_long, strict=True)
    left_out["test rows among the rows"] = sum(repeated := unseen_rows.seen(measured, own))
    measured = [e for e, again in zip(measured, repeated, strict=True) if not again]
    _check_number(len(given), left_out, rows)
    every = [*given, *measured]
    settings = {
        "rows": digest([[e.prompt, e.gold] for e in every]),
        "fitted": len(given),
        **source.settings,
        "way": way,
        "test": test,
        **engine,
    }
    return CalibrationJob(source, way, every, len(given), test, left_out, settings)


def _read(source: Source, paths: Sequence[Path]) -> list[Example]:
    sources = [PathSource(path=str(path.resolve())) for path in paths]
    examples = load_examples(sources, source.task, root=Path(), seed=0, max_bad_rows=0.0).examples
    if any(not isinstance(e.meta.get("text"), str) for e in examples):
        raise UserError(f"the task {source.plug.use!r} does not say which text a row has, so no value can be placed.")
    return list(examples)


def _test_rows(source: Source, file: Any, test: str | None) -> list[Example]:
    """The rows of a test set of the run, or of a file."""
    if test is None:
        return []
    if file is not None and test in (names := [spec.name for spec in file.recipe.evaluate]):
        return unseen_rows.test_rows(file, test)
    if not Path(test).is_file():
        known = f" (its test sets: {', '.join(names)})" if file is not None and names else ""
        raise UserError(f"--test {test}: neither a test set of the run nor a file{known}.")
    return _read(source, [Path(test)])


def _check_number(count: int, left_out: Mapping[str, int], paths: Sequence[Path]) -> None:
    if count < LEAST_ROWS:
        without = ", ".join(f"{n:,} {why}" for why, n in left_out.items() if n)
        more = f" (left out: {without})" if without else ""
        name = ", ".join(map(str, paths))
        raise UserError(f"{name}: {count:,} rows{more} are too few to calibrate on; give {LEAST_ROWS} or more.")


def run(job: CalibrationJob, engine: Callable[[], Engine], moved: Progress) -> dict[str, Any]:
    """Answer what is not done, inside `open_or_resume`, fit, and store the calibration with the adapter.

    `engine` is called if needed. Returns counts and figures. Raises UserError where the rows cannot be calibrated on.
    """
    began = time.monotonic()
    # Complete evidence of the same settings is fitted again where the adapter has lost its calibration.
    lines = list(read_jsonl(job.out)) if job.out.is_file() else _answered(job, engine, moved)
    counts: dict[str, Any] = {"rows": job.fitted, "measured": len(job.examples) - job.fitted}
    errors = Counter(line["error"].partition(":")[0] for line in lines if line["error"])
    counts |= {"left_out": dict(job.left_out), "errors": dict(errors), "way": job.way, **_calibration(job, lines)}
    counts["seconds"] = round(time.monotonic() - began, 2)
    write_jsonl(job.out, lines)
    complete(job, counts)
    return counts


def done(job: CalibrationJob) -> dict[str, Any] | None:
    """The counts of complete work whose calibration the adapter still has; None for any other."""
    return finished(job) if job.way in stored(job.source.adapter, job.source.weights) else None


def _answered(job: CalibrationJob, engine: Callable[[], Engine], moved: Progress) -> list[dict[str, Any]]:
    """The evidence of every row, in order."""
    total = len(job.examples)
    with closing(Journal(journal_path(job.out), 1, 1)) as journal:
        resumed = journal.count
        if resumed < total:
            missing = (Request(n, e.prompt, e.meta["text"]) for n, e in enumerate(job.examples, 1) if n not in journal)
            for answer in engine()(missing):
                journal.append(_line(job, answer))
                moved(journal.count, total, {"resumed": resumed})
            journal.sync()
        if journal.count != total:
            raise RuntimeError(f"{total - journal.count} of {total} rows were not answered")
        return list(journal.ordered())


def _line(job: CalibrationJob, answer: Answer) -> dict[str, Any]:
    """The evidence of a row: each value's signals and verdict, and those of the whole."""
    task, example = job.source.task, job.examples[answer.row - 1]
    start = {"row": answer.row, "set": FIT if answer.row <= job.fitted else TEST, "id": example.id}
    counts = answer_values.matched(task, example, answer.text)
    start["counts"] = list(counts)
    try:
        if answer.error is not None:
            raise ValueError(answer.error)
        record = task.record(getattr(task, "decode", first_value)(answer.text))
    except ValueError as error:
        cut = answer.truncated and answer.error is None
        why = f"truncated: no complete answer in {answer.tokens} tokens" if cut else str(error)
        return {**start, "values": [], "whole": None, "error": redact(why)}
    text = example.meta["text"]
    spans = grounding.spans(record, task.record_schema(), text)
    if (signals := told(task, answer, spans, text)) is None:
        raise UserError("this engine gives no log-probabilities; calibrate by vote, with --samples 5.")
    at = answer_values.places(answer.text, [span["value"] for span in spans])
    right = answer_values.verdicts(task, example, answer.text, at)
    values = [
        {"path": span["path"], "value": span["value"], "right": verdict, "raw": raw, "signals": of_value}
        for span, verdict, raw, of_value in zip(spans, right, signals.raw_values, signals.values, strict=True)
    ]
    whole = {"right": answer_values.whole_is_right(counts), "raw": signals.raw_whole, "signals": signals.whole}
    return {**start, "values": values, "whole": whole, "error": None}


Judged = list[tuple[int, Mapping[str, Any]]]
"""A row's number, and a value or the whole of it."""


def _calibration(job: CalibrationJob, lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Fit, measure and store; returns the figures by what they are of: `values`, `records`, and `test` ones."""
    choices = CHOICES[job.way.startswith(TOKENS)]
    values, rows = _judged(lines, FIT)
    try:
        of_values = _fit(values, choices["values"])
    except ValueError as error:
        raise UserError(f"the rows cannot be calibrated on: {error}. Give more rows, or longer answers.") from None
    try:
        of_rows = _fit(rows, choices["rows"])
    except ValueError:
        of_rows = None
    found = {"values": _figures(values, of_values.confidence, lines, FIT)}
    if of_rows is not None:
        found["records"] = _figures(rows, of_rows.confidence, lines, FIT)
    if job.test is not None:
        found |= _measured(of_values, of_rows, lines)
    skipped = sum(value["right"] is None for line in lines for value in line["values"])
    made = {"rows": job.fitted, "settings": digest(job.settings | {"versions": None}), "not_judged": skipped}
    own: dict[str, Any] = {"values": _stored(of_values), "rows": of_rows and _stored(of_rows), "made": made}
    own |= {"figures": found, "test": job.test and Path(job.test).name}
    ways = {**stored(job.source.adapter, job.source.weights), job.way: own}
    write_json(job.source.adapter / FILE, {"adapter": job.source.weights, "ways": ways})
    return {"not_judged": skipped, "figures": found}


def _judged(lines: Sequence[Mapping[str, Any]], which: str) -> tuple[Judged, Judged]:
    """The values of which the counts say whether they are right, and the wholes."""
    mine = [line for line in lines if line["set"] == which and line["error"] is None]
    values = [(line["row"], value) for line in mine for value in line["values"] if value["right"] is not None]
    return values, [(line["row"], line["whole"]) for line in mine]


def _fit(judged: Judged, choices: Mapping[str, Sequence[str]]) -> Fitted:
    signals, right, rows = [j["signals"] for _, j in judged], [j["right"] for _, j in judged], [n for n, _ in judged]
    return calibration.fit(signals, right, rows, choices)


def _stored(fitted: Fitted) -> dict[str, Any]:
    return {**fitted.calibration.stored, "chosen": fitted.signals, "how": fitted.how}


def _measured(of_values: Fitted, of_rows: Fitted | None, lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    out = {}
    for name, judged, fitted in zip(("values", "records"), _judged(lines, TEST), (of_values, of_rows), strict=True):
        if judged and fitted is not None:
            sure = fitted.calibration([one["signals"] for _, one in judged])
            out[f"test {name}"] = _figures(judged, sure, lines, TEST)
    return out


def _figures(judged: Judged, sure: Sequence[float], lines: Sequence[Mapping[str, Any]], which: str) -> dict[str, Any]:
    """The figures of judged values; `recall` is that of the answers, of which a threshold keeps a share."""
    raw, right = [one["raw"] for _, one in judged], [one["right"] for _, one in judged]
    figures = confidence.figures(raw, sure, right, [n for n, _ in judged])
    gold, matched = (sum(line["counts"][n] for line in lines if line["set"] == which) for n in (0, 2))
    return {**figures, "recall": matched / gold if gold else None}
