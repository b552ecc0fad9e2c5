"""A program from an instruction in words: a large model writes it, the strict reader checks it, a person confirms."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, NamedTuple

from adapters.chat_client import Connection
from adapters.errors import UserError
from adapters.mining.annotate import SPANS_A_TEXT, calls
from adapters.mining.answers import Prices
from adapters.mining.engine import ProgramEngine, Proxy
from adapters.mining.program import MOST_STEPS, Program, read
from adapters.mining.questions import Question, prompt_tokens
from adapters.mining.sample import Text, draw, size
from adapters.types import Message

REPAIRS: Final = 2
SAMPLED: Final = 64
"""Texts on which a program is measured."""
WARMING: Final = 8
SUPPOSED: Final = 1000
"""Texts of an estimate without a corpus."""
MAX_TOKENS: Final = 2048
_FENCE: Final = re.compile(r"```(?:ya?ml)?[ \t]*\n(.*?)(?:\n```|\Z)", re.DOTALL)

SYSTEM: Final = f"""You write programs that read a corpus text by text. A program is YAML:
version: 1
task: what the user wants, in a sentence
steps: a list of at most {MOST_STEPS} steps, each one of
  - {{label: NAME, instruction: "…"}}   is it so? A statement about the text, or a topic. True or false.
  - {{span: NAME, instruction: "…"}}    where is it? A question about the text, or what to mark. A list of stretches.
  - {{keep: EXPR}}                      drops the text unless EXPR is true: names, not, and, or, parentheses.
  - {{first: NAME}}                     keeps only the first stretch of a span.
  - each: NAME                        runs the inner steps for every stretch of a span of this list of steps;
    steps: [...]                      {{NAME}} in their instructions is its text. At most two deep.
Names are small letters, digits and _, made before they are used, and each once. Ask for every thing by a step of its
own. Put labels and keep first, so that later steps read fewer texts. Answer with one ```yaml block and nothing else.

Find drugs in texts about cancer treatment.
```yaml
version: 1
task: Drugs in texts about cancer treatment
steps:
  - {{label: treatment, instruction: "This text is about cancer treatment"}}
  - {{keep: treatment}}
  - {{span: drug, instruction: "What is the drug mentioned?"}}
```

Which reviews are negative and speak of the delivery?
```yaml
version: 1
task: Negative reviews that speak of the delivery
steps:
  - {{label: negative, instruction: "This review is negative"}}
  - {{label: delivery, instruction: "This review speaks of the delivery"}}
  - {{keep: negative and delivery}}
```

List people, organizations and places.
```yaml
version: 1
task: People, organizations and places
steps:
  - {{span: person, instruction: "What is the person mentioned?"}}
  - {{span: organization, instruction: "What is the organization mentioned?"}}
  - {{span: place, instruction: "What is the place mentioned?"}}
```

For every company, its founder and the year it was founded.
```yaml
version: 1
task: Founder and founding year of every company
steps:
  - {{span: company, instruction: "What is the company mentioned?"}}
  - each: company
    steps:
      - {{span: founder, instruction: "Who founded {{company}}?"}}
      - {{span: year, instruction: "When was {{company}} founded?"}}
      - {{first: year}}
```"""


class NotPlannedError(Exception):
    """The model wrote no program. `answer` is its last one."""

    def __init__(self, message: str, answer: str) -> None:
        super().__init__(message)
        self.answer = answer


class Plan(NamedTuple):
    """A checked program and its text."""

    program: Program
    text: str


def plan(instruction: str, connection: Connection, path: Path) -> Plan:
    """Ask for a program, and at most twice for its repair. Raises NotPlannedError, and ServerError."""
    if not instruction.strip():
        raise UserError("the instruction is empty; say what to find, in words.")
    messages: list[Message] = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": instruction}]
    for repairs in range(REPAIRS + 1):
        [reply] = connection.complete(messages, temperature=0, max_tokens=MAX_TOKENS)
        text = block(reply.text)
        try:
            return Plan(read(path, text), text)
        except UserError as error:
            if repairs == REPAIRS:
                raise NotPlannedError(f"{connection.model} wrote no program: {error}", reply.text) from None
            again = f"The program is wrong.\n{error}\nAnswer with the whole corrected program."
            messages += [{"role": "assistant", "content": reply.text}, {"role": "user", "content": again}]
    raise AssertionError  # the last repair has returned or raised


def block(answer: str) -> str:
    """The first YAML block of an answer; all of it without one."""
    answer = answer.rpartition("</think>")[2]
    match = _FENCE.search(answer)
    return (match[1] if match else answer).strip() + "\n"


@dataclass(slots=True)
class Cost:
    """What a program takes on a corpus: assumed, or measured on a sample."""

    texts: int
    calls: int
    annotated: int
    requests: int
    tokens: int
    """Of the prompts; how long the answers are is not known."""
    price: Decimal | None
    measured: dict[str, Any] = field(default_factory=dict)

    def lines(self, corpus: bool) -> list[str]:
        """In words."""
        texts = f"{self.texts:,} texts" if corpus else f"{self.texts:,} texts (say which with --corpus)"
        if self.measured:
            found = self.measured
            steps = ", ".join(f"{name} {rate:.2f}" for name, rate in found["found"].items())
            seconds = self.texts / found["texts_per_second"]
            out = [
                f"{texts}, about {self.calls:,} calls of the proxy, {seconds / 60:,.1f} minutes at "
                f"{found['texts_per_second']:,.1f} texts/s (measured on {found['texts']} texts)",
                f"kept: {found['kept']:.0%}; found per text: {steps}",
            ]
        else:
            out = [f"{texts}, at most {self.calls:,} calls of the proxy, if a text has {SPANS_A_TEXT} spans"]
        cost = "" if self.price is None else f": {self.price:.4f} by the prices given, without the answers"
        annotation = f"annotation: {self.annotated:,} texts, about {self.requests:,} requests"
        return [*out, f"{annotation}, {self.tokens:,} tokens of prompts{cost}"]


def cost(
    program: Program,
    *,
    corpus: Path | None,
    text: str,
    proxy: Callable[[], Proxy] | None,
    threshold: float,
    share: float,
    prices: Prices,
) -> Cost:
    """What a program takes. Calls are an upper bound, unless a proxy is there to measure them. Raises UserError."""
    size(0, share, None)
    sample = draw(corpus, text, n=SAMPLED) if corpus else None
    texts = sample.distinct if sample else SUPPOSED
    annotated = size(texts, share, None)
    requests = calls(program, annotated)
    each = _tokens(program, sample.texts if sample else [])
    price = prices.cost(round(requests * each), 0) if prices.known else None
    found = Cost(texts, calls(program, texts), annotated, requests, round(requests * each), price)
    if sample and sample.texts and proxy is not None:
        engine = ProgramEngine(program, proxy(), threshold)
        engine.read([drawn.text for drawn in sample.texts[:WARMING]])  # a first call plans its kernels
        began = time.monotonic()
        outcomes = engine.read([drawn.text for drawn in sample.texts])
        seconds = max(time.monotonic() - began, 1e-9)
        n = len(outcomes)
        asked = sum(sum(outcome.asked) for outcome in outcomes)
        found.calls = round(texts * asked / n)
        found.requests = round(annotated * _questions(program, outcomes))
        found.tokens = round(found.requests * each)
        found.price = prices.cost(found.tokens, 0) if prices.known else None
        found.measured = {
            "texts": n,
            "texts_per_second": n / seconds,
            "kept": sum(outcome.record["kept"] for outcome in outcomes) / n,
            "found": {
                path: sum(_count(outcome.record, path.split(".")) for outcome in outcomes) / n
                for path, _, _ in program.asks
            },
        }
    return found


def _questions(program: Program, outcomes: Sequence[Any]) -> float:
    """Questions of `annotate` about a text. It asks all of them; those of an `each` for every span that is found."""
    paths = [path for path, _, _ in program.asks]
    asked = dict(zip(paths, (sum(o.asked[n] for o in outcomes) for n in range(len(paths))), strict=True))
    rates: dict[str, float] = {}
    for path in paths:  # outer ones first
        outer = path.rpartition(".")[0]
        spans = asked[path] / asked[outer] if outer and asked[outer] else SPANS_A_TEXT
        rates[path] = rates[outer] * spans if outer else 1.0
    return sum(rates.values())


def _count(holder: Any, path: Sequence[str]) -> int:
    """How many spans a record holds at a path, or labels that are true."""
    if isinstance(holder, list):
        return sum(_count(span, path) for span in holder)
    if path:
        return _count(holder.get(path[0]), path[1:]) if isinstance(holder, dict) else 0
    return int(bool(holder))


def _tokens(program: Program, texts: list[Text]) -> float:
    """Mean estimated tokens of a prompt."""
    drawn = texts or [Text(1, "1", "x" * 600)]
    counts = [
        prompt_tokens(Question(text.row, text.id, text.text, ask.kind, ask.instruction).messages)
        for _, _, ask in program.asks
        for text in drawn
    ]
    return sum(counts) / len(counts)
