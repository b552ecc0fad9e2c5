"""Labels from a large model for a share of a corpus, as rows that a proxy is trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from adapters.data.rows import survey
from adapters.environment import versions
from adapters.errors import UserError
from adapters.extraction.extract import check_text_column
from adapters.extraction.resumable import complete
from adapters.files import write_jsonl
from adapters.mining.answers import Annotator, Prices
from adapters.mining.program import MOST_ITEMS, Ask, Each, Program, Step, rendered
from adapters.mining.questions import Question, marked, prompt_tokens, read
from adapters.mining.sample import Balanced, Sample, Text, balanced, draw, pool_size, size
from adapters.types import Progress, Row

SPANS_A_TEXT = 2
"""Spans of a text that an estimate assumes."""
ERRORS = ("not JSON", "wrong shape", "not verbatim", "truncated", "refused")
Labeller = Callable[[Sequence[str], str], list[bool]]
"""A proxy's `get_label`."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be annotated: a corpus, the sample of it, and the questions."""

    corpus: Path
    out: Path
    program: Program
    text: str = "text"
    share: float | None = None
    n: int | None = None
    seed: int = 0
    balance: str | None = None
    """Hash of the proxy whose answers balance the sample."""
    cache: Path | None = None
    """The file of answers, where it is not beside the output."""

    def check(self) -> None:
        """Raise UserError for what cannot be sampled or written."""
        size(0, self.share, self.n)
        if self.out.suffix.lower() != ".jsonl":
            raise UserError(f"-o {self.out}: annotations are written as .jsonl.")
        if not self.out.parent.is_dir():
            raise UserError(f"-o {self.out}: there is no folder {self.out.parent}.")
        if self.out.resolve() == self.corpus.resolve():
            raise UserError("the output would overwrite the corpus.")
        for what, other in (("corpus", self.corpus), ("output", self.out)):
            if self.cache is not None and self.cache.resolve() == other.resolve():
                raise UserError(f"--cache {self.cache}: answers would be written into the {what}.")
        check_text_column(self.corpus, self.text)
        if self.balance is None:
            return
        if any(ask.kind == "span" for _, _, ask in self.program.asks):
            raise UserError("--balance is for labels; spans are drawn at random.")
        if len(self.program.asks) > 1:
            raise UserError("--balance takes one label; annotate the others by commands of their own.")


def of_options(spans: Sequence[str], labels: Sequence[str]) -> Program:
    """The program that asks the instructions of `--span` and `--label`. Raises UserError for none, or an empty one."""
    asks: list[Step] = [Ask("span", f"span_{n}", text) for n, text in enumerate(dict.fromkeys(spans), 1)]
    asks += [Ask("label", f"label_{n}", text) for n, text in enumerate(dict.fromkeys(labels), 1)]
    if not asks:
        raise UserError("say what to ask: --program, --span or --label.")
    if any(not text.strip() for text in (*spans, *labels)):
        raise UserError("--span, --label: the instruction is empty.")
    return Program(tuple(asks))


def drawn(wanted: Wanted, label: Labeller | None) -> tuple[Sample, Balanced[Text] | None]:
    """The sample, drawn at random or balanced by a proxy's labels. Raises UserError."""
    wanted.check()
    if label is None:
        sample = draw(wanted.corpus, wanted.text, seed=wanted.seed, share=wanted.share, n=wanted.n)
        sides = None
    else:
        counted = draw(wanted.corpus, wanted.text, seed=wanted.seed, n=0)
        n = size(counted.distinct, wanted.share, wanted.n)
        sample = draw(wanted.corpus, wanted.text, seed=wanted.seed, n=pool_size(n))
        [(_, _, ask)] = wanted.program.asks
        sides = balanced(sample.texts, label([text.text for text in sample.texts], ask.instruction), n)
        sample = Sample(sides.chosen, sample.rows, sample.distinct, sample.without_text)
    if not sample.texts:
        raise UserError(f"{wanted.corpus}: no row has a text in the column {wanted.text!r}.")
    return sample, sides


class Estimate(NamedTuple):
    """What annotation takes. Where the program has an `each`, a text is assumed to have `SPANS_A_TEXT` spans."""

    texts: int
    requests: int
    known: int
    prompt_tokens: int
    completion_tokens: int
    cost: Decimal | None
    assumed: bool

    def lines(self) -> list[str]:
        """In words."""
        most = "about" if self.assumed else "at most"
        tokens = f"{self.prompt_tokens:,} tokens of prompts, {most} {self.completion_tokens:,} of answers"
        cost = "the cost is not known without --price-in and --price-out"
        if self.cost is not None:
            cost = f"{most} {self.cost:.4f} by the prices given"
        assumed = f", if a text has {SPANS_A_TEXT} spans; more spans cost more" if self.assumed else ""
        known = f" ({self.known:,} more are answered already)" if self.known else ""
        return [f"{self.texts:,} texts, about {self.requests:,} requests{assumed}{known}", f"{tokens}; {cost}"]


def calls(program: Program, texts: int) -> int:
    """Questions of a program to so many texts, at most."""
    return sum(texts * SPANS_A_TEXT**depth for _, depth, _ in program.asks)


def estimate(sample: Sample, program: Program, annotator: Annotator, prices: Prices) -> Estimate:
    """What is still to be asked. Tokens of prompts are a third of their UTF-8 bytes."""
    requests = known = tokens = 0
    for _, depth, ask in program.asks:
        for text in sample.texts:
            question = Question(text.row, text.id, text.text, ask.kind, ask.instruction)
            if depth == 0 and annotator.key(question) in annotator.answers.known:
                known += 1
                continue
            requests += SPANS_A_TEXT**depth
            tokens += prompt_tokens(question.messages) * SPANS_A_TEXT**depth
    longest = requests * annotator.max_tokens
    cost = prices.cost(tokens, longest) if prices.known else None
    assumed = any(depth for _, depth, _ in program.asks)
    return Estimate(len(sample.texts), requests, known, tokens, longest, cost, assumed)


@dataclass(frozen=True, slots=True)
class AnnotationJob:
    """A checked annotation. See `extraction.extract.Resumable`."""

    wanted: Wanted
    sample: Sample
    sides: Balanced[Text] | None
    settings: dict[str, Any]

    @property
    def out(self) -> Path:
        """The output."""
        return self.wanted.out

    @property
    def described(self) -> dict[str, Any]:
        """The manifest's description."""
        return {"settings": self.settings, "paths": {"input": str(self.wanted.corpus.resolve())}}


def job(wanted: Wanted, sample: Sample, sides: Balanced[Text] | None, annotator: Annotator) -> AnnotationJob:
    """The job of a drawn sample."""
    program = wanted.program
    questions = program.digest or {ask.name: ask.instruction for _, _, ask in program.asks}
    settings = {
        "input": survey(wanted.corpus)[1],
        "text": wanted.text,
        "seed": wanted.seed,
        "share": wanted.share,
        "n": wanted.n,
        "balance": wanted.balance,
        "program": questions,
        "model": annotator.connection.model,
        "max_tokens": annotator.max_tokens,
        "versions": versions(),
    }
    return AnnotationJob(wanted, sample, sides, settings)


@dataclass(slots=True)
class _Rows:
    """The rows so far, by row number, instruction and kind."""

    annotator: str
    source: str
    rows: dict[tuple[int, str, str], Row] = field(default_factory=dict)
    not_verbatim: int = 0

    def add(self, question: Question, answer: Row) -> list[str]:
        """Make a row of an answer. Returns the texts of the spans that it found."""
        gold: Any = None
        found: list[str] = []
        error = "refused" if answer["refused"] else None
        if error is None:
            try:
                said = read(question.kind, answer["answer"])
                gold = said if isinstance(said, bool) else self._places(question.text, said)
            except ValueError as reason:
                error = str(reason) if not answer["cut"] or str(reason) == "not verbatim" else "truncated"
        if isinstance(gold, list):
            found = list(dict.fromkeys(question.text[start:end] for start, end in gold))
        self.rows[question.row, question.instruction, question.kind] = {
            "row": question.row, "id": question.id, "text": question.text, "kind": question.kind,
            "instruction": question.instruction, "gold": gold, "source": self.source, "annotator": self.annotator,
            "error": error,
        }  # fmt: skip
        return found

    def _places(self, text: str, strings: Sequence[str]) -> list[list[int]]:
        places, missing = marked(text, strings)
        self.not_verbatim += len(missing)
        if strings and not places:
            raise ValueError("not verbatim")
        return [list(place) for place in places]


def run(work: AnnotationJob, annotator: Annotator, moved: Progress) -> dict[str, Any]:
    """Ask what is not answered, inside `open_or_resume`, and write the output. Raises Refused, ServerError.

    Every question of the program is asked of every text: `keep` and `first` choose records, and a proxy is to learn
    the other answers too. Questions inside `each` are asked for the spans that the annotator itself found.
    """
    made = _Rows(annotator.connection.model, work.wanted.corpus.name)
    frontier: list[_At] = [_At(text, {}, work.wanted.program.steps) for text in work.sample.texts]
    while frontier:
        asked = [(at, ask, at.question(ask)) for at in frontier for ask in at.steps if isinstance(ask, Ask)]
        answers = annotator.ask([question for *_, question in asked], moved)
        found = {
            (id(at), ask.name): made.add(question, answer)
            for (at, ask, question), answer in zip(asked, answers, strict=True)
        }
        frontier = [inner for at in frontier for inner in _inside(at, found)]
    rows = [row for _, row in sorted(made.rows.items())]
    write_jsonl(work.out, rows)
    counts = _counts(work, annotator, rows, made.not_verbatim)
    complete(work, counts)
    return counts


class _At(NamedTuple):
    """A text, or a span of it, at a list of steps."""

    text: Text
    given: Mapping[str, str]
    steps: tuple[Step, ...]

    def question(self, ask: Ask) -> Question:
        instruction = rendered(ask.instruction, self.given)
        return Question(self.text.row, self.text.id, self.text.text, ask.kind, instruction)


def _inside(at: _At, found: Mapping[tuple[int, str], list[str]]) -> Iterator[_At]:
    for step in at.steps:
        if isinstance(step, Each):
            for span in found[id(at), step.name][:MOST_ITEMS]:
                yield _At(at.text, {**at.given, step.name: span}, step.steps)


def _counts(work: AnnotationJob, annotator: Annotator, rows: Sequence[Row], not_verbatim: int) -> dict[str, Any]:
    right = [row for row in rows if row["error"] is None]
    empty = [row["gold"] in ([], False) for row in right]
    errors = Counter(row["error"] for row in rows if row["error"])
    budget, sides = annotator.budget, work.sides
    known = [annotator.answers.known[key] for key in annotator.used]
    balance = sides and {name: len(getattr(sides, name)) for name in ("true", "false", "filled")}
    return {
        "texts": len(work.sample.texts),
        "distinct_texts": work.sample.distinct,
        "without_text": work.sample.without_text,
        "balance": balance,
        "rows": len(rows),
        "requests": annotator.requests,
        "cached": len(annotator.used) - annotator.requests,
        "prompt_tokens": budget.spent[0],
        "completion_tokens": budget.spent[1],
        "estimated": sum(bool(row.get("estimated")) for row in known),
        "cost": float(budget.cost) if budget.prices.known else None,
        "errors": {kind: errors[kind] for kind in ERRORS if errors[kind]},
        "empty_share": round(sum(empty) / len(right), 4) if right else None,
        "not_verbatim": not_verbatim,
    }
