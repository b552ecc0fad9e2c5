"""Several completions of each row, graded.

OUT is a JSONL file: a line for each completion, the rows in the order of the input. It is written, resumed and
described by a manifest as the output of `adapters extract` is (see `extract.py`); the journal holds a row's
completions together, and their rewards, so that no reward is paid for twice.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adapters.data.load import load_examples
from adapters.data.rows import survey
from adapters.errors import UserError
from adapters.evaluation import best_of, graded
from adapters.extraction import files
from adapters.extraction.adapter_source import Source
from adapters.extraction.engine import DrawEngine, Drawing, Group
from adapters.extraction.journal import Journal
from adapters.extraction.resumable import complete, journal_path
from adapters.files import write_jsonl
from adapters.plugins.grader import Grader
from adapters.plugins.rewards import NamedReward, resolve_all, stage_rewards
from adapters.plugins.source_files import score_hash
from adapters.plugins.trust import Consent
from adapters.recipe.fields import PathSource, RewardSpec
from adapters.secrets import redact
from adapters.types import Example, Progress


@dataclass(frozen=True, slots=True)
class SamplingJob:
    """Checked work. A restart must have the same `settings`."""

    source: Source
    rows: Path
    examples: Sequence[Example]
    out: Path
    rewards: Sequence[NamedReward]
    drawing: Drawing
    settings: dict[str, Any]

    @property
    def described(self) -> dict[str, Any]:
        """The manifest's description: the settings, and where adapter and rows were."""
        paths = {"adapter": str(self.source.adapter.resolve()), "rows": str(self.rows.resolve())}
        return {"settings": self.settings, "paths": paths}


def rewards_of(source: Source, given: RewardSpec | None, consent: Consent) -> tuple[NamedReward, ...]:
    """The given reward; else those of the adapter's stage, or of the run's last one with any; else F1 by the counts.

    Raises UserError, and Refused for the run's own code without consent.
    """
    if given is not None:
        return resolve_all([given], folder=Path(), at=())
    if source.run is not None:
        file = source.run.recipe_file(consent=consent)
        stages = [n for n, stage in enumerate(file.recipe.stages) if getattr(stage, "rewards", ())]
        own = [n for n in stages if source.run.stages[n].name == source.run.named]
        if stages:
            return stage_rewards(file)[[*stages, *own][-1]]
    code = score_hash("tasks", source.plug, source.task, source.origin)
    return (NamedReward("f1", best_of.TaskF1(source.task), score_hash=code),)


def prepare(
    source: Source,
    rows: Path,
    out: Path,
    drawing: Drawing,
    rewards: Sequence[NamedReward],
    *,
    engine: Mapping[str, Any],
) -> SamplingJob:
    """Check everything that can be checked before a model is loaded. Raises UserError."""
    if out.suffix.lower() != ".jsonl":
        raise UserError(f"-o {out}: samples are written as .jsonl.")
    files.check_output(out)
    if out.resolve() == rows.resolve():
        raise UserError("the output would overwrite the rows.")
    _, digest = survey(rows)
    source_of_rows = PathSource(path=str(rows.resolve()))
    examples = load_examples([source_of_rows], source.task, root=Path(), seed=0, max_bad_rows=0.0).examples
    repeated = [i for i, count in Counter(e.id for e in examples).items() if count > 1]
    if repeated:
        raise UserError(f"{rows}: the id {repeated[0]!r} is repeated, and samples are told apart by their row's id.")
    settings = {
        "input": digest,
        "rows": len(examples),
        **source.settings,
        **asdict(drawing),
        "rewards": [reward.record for reward in rewards],
        **engine,
    }
    return SamplingJob(source, rows, examples, out, rewards, drawing, settings)


def run(job: SamplingJob, engine: Callable[[], DrawEngine], moved: Progress) -> dict[str, Any]:
    """Draw and grade what is not done, inside `open_or_resume`, and write the output.

    `engine` is called if needed. Returns counts and figures.
    """
    began = time.monotonic()
    with ExitStack() as stack:
        journal = stack.enter_context(closing(Journal(journal_path(job.out), 1, 1)))
        graders = [stack.enter_context(closing(Grader(reward))) for reward in job.rewards]
        resumed, total = journal.count, len(job.examples)
        if resumed < total:
            for group in engine()(job.examples, lambda n: n + 1 not in journal):
                journal.append(_record(job, graders, group))
                moved(journal.count, total, {"resumed": resumed})
            journal.sync()
        if journal.count != total:
            raise RuntimeError(f"{total - journal.count} of {total} rows were not answered")
        records = list(journal.ordered())
    lines = [line for record in records for line in record["lines"]]
    write_jsonl(job.out, lines)
    counts = {**_counts(lines), "resumed": resumed, "seconds": round(time.monotonic() - began, 2)}
    counts["figures"] = best_of.figures(graded.scores(lines, job.source.task))
    complete(job, counts)
    return counts


def _record(job: SamplingJob, graders: Sequence[Grader], group: Group) -> dict[str, Any]:
    """A row of the journal: the row's lines of the output."""
    example, number = job.examples[group.row], group.row + 1
    if group.error is not None:
        failed = {"row": number, "id": example.id, "completion": None, "error": redact(group.error)}
        return {"row": number, "lines": [failed]}
    return {"row": number, "lines": graded.lines(number, example, group.answers, graders, greedy=job.drawing.greedy)}


def _counts(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    answers = [line for line in lines if line["completion"] is not None]
    return {
        "rows": len({line["row"] for line in lines}),
        "errors": dict(Counter(line["error"].partition(":")[0] for line in lines if "error" in line)),
        "samples": len(answers),
        "truncated": sum(line["truncated"] for line in answers),
        "tokens": sum(line["tokens"] for line in answers),
    }
