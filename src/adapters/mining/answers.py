"""Answers of a large model: kept in a file, bounded by a budget, and never asked for twice."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from adapters import parallel
from adapters.chat_client import Connection, PromptRefused, ServerError, after_a_completion
from adapters.errors import Refused, UserError
from adapters.files import append_jsonl, read_jsonl
from adapters.mining.questions import Question, estimated_tokens, prompt_tokens, read
from adapters.secrets import redact
from adapters.types import Progress, Row

MILLION = 1_000_000
FIRST_ANSWERS = 32
"""Answers after which a model that has given none in the form asked for is not asked on."""


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices of a million tokens of prompts and of completions, in one currency. None: not known."""

    prompt: float | None = None
    completion: float | None = None

    @property
    def known(self) -> bool:
        """Whether a cost can be told."""
        return self.prompt is not None and self.completion is not None

    def cost(self, prompt: int, completion: int) -> Decimal:
        """The cost of tokens. Exact, as a limit may be reached to the cent."""
        return (prompt * Decimal(str(self.prompt or 0)) + completion * Decimal(str(self.completion or 0))) / MILLION


@dataclass(slots=True)
class Budget:
    """What may be spent. Threads reserve before a request, and settle after it."""

    prices: Prices = field(default_factory=Prices)
    max_cost: float | None = None
    max_tokens: int | None = None
    spent: tuple[int, int] = (0, 0)
    """Tokens of prompts and of completions."""
    ended: str = ""
    """The option that ended the work, or `closed`."""
    _reserved: tuple[int, int] = (0, 0)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        """Raises UserError for a limit of the cost without prices."""
        if self.max_cost is not None and not self.prices.known:
            raise UserError("--max-cost needs --price-in and --price-out.")

    @property
    def cost(self) -> Decimal:
        """What is spent so far."""
        return self.prices.cost(*self.spent)

    def reserve(self, tokens: tuple[int, int]) -> bool:
        """Set tokens aside for a request. Waits while only requests under way stand in its way."""
        with self._changed:
            while not self.ended:
                option = self._exceeded(_sum(self.spent, self._reserved, tokens))
                if not option:
                    self._reserved = _sum(self._reserved, tokens)
                    return True
                if self._reserved == (0, 0):
                    self.ended = option
                    self._changed.notify_all()
                else:
                    self._changed.wait()
            return False

    def settle(self, reserved: tuple[int, int], used: tuple[int, int]) -> None:
        """Replace what was set aside by what was used."""
        with self._changed:
            self._reserved = (self._reserved[0] - reserved[0], self._reserved[1] - reserved[1])
            self.spent = _sum(self.spent, used)
            self._changed.notify_all()

    def close(self) -> None:
        """Let no further request be sent."""
        with self._changed:
            self.ended = self.ended or "closed"
            self._changed.notify_all()

    def _exceeded(self, tokens: tuple[int, int]) -> str:
        """The option that forbids to have spent so many tokens; empty for none."""
        if self.max_cost is not None and self.prices.cost(*tokens) > Decimal(str(self.max_cost)):
            return "--max-cost"
        return "--max-tokens-total" if self.max_tokens is not None and sum(tokens) > self.max_tokens else ""

    def refusal(self, done: int, total: int) -> Refused:
        """The message when the budget ends the work."""
        spent = f"{sum(self.spent):,} of {self.max_tokens or 0:,} tokens"
        if self.ended == "--max-cost":
            spent = f"{self.cost:.4f} of {self.max_cost or 0:.4f}"
        remedy = f"The same command with a higher {self.ended} continues."
        return Refused(f"spent {spent}; {done:,} of {total:,} answers. {remedy}")


def _sum(*pairs: tuple[int, int]) -> tuple[int, int]:
    return sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)


class Answers:
    """A file of answers by key: one a line, appended as they come. A torn last line is not read."""

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, threading.Lock()
        self.known: dict[str, Row] = {str(row["key"]): row for row in read_jsonl(path) if "key" in row}

    def add(self, row: Row) -> None:
        """Keep an answer, unless it is known. Threads may call it."""
        with self._lock:
            if row["key"] not in self.known:
                append_jsonl(self.path, [row])
                self.known[row["key"]] = row


@dataclass(slots=True)
class Annotator:
    """A large model, its answers so far, and what may be spent on more."""

    connection: Connection
    answers: Answers
    budget: Budget
    max_tokens: int
    requests: int = 0
    _unread: int | None = field(default=0, init=False)
    """Answers so far, those of earlier runs too, of which none can be read; None after one that can."""
    used: set[str] = field(default_factory=set)
    """Keys of the answers that this work uses."""

    def key(self, question: Question) -> str:
        """The key of a question's answer."""
        return question.key(self.connection.model, self.max_tokens)

    def count(self, key: str) -> None:
        """Count an answer that was there before among what is spent; each once."""
        if key not in self.used and key in self.answers.known:
            row = self.answers.known[key]
            self.budget.settle((0, 0), (row["prompt_tokens"], row["completion_tokens"]))
        self.used.add(key)

    def ask(self, questions: Sequence[Question], moved: Progress) -> list[Row]:
        """The answers to questions, asked for where they are not known. Raises Refused, ServerError."""
        keys = [self.key(question) for question in questions]
        missing = {key: q for key, q in zip(keys, questions, strict=True) if key not in self.answers.known}
        for key, question in zip(keys, questions, strict=True):
            self.count(key)
            if key not in missing:
                self._watch(question, self.answers.known[key])
        total, before = len(set(keys)), len(set(keys)) - len(missing)
        for done, rows in self._replies(missing):
            for row in rows:
                self.answers.add(row)
                self.requests += 1
                if self._watch(missing[row["key"]], row):
                    raise ServerError(
                        f"none of {self._unread} answers can be read, the last one is {row['answer'][:80]!r}. They are "
                        f"kept in {self.answers.path}. {self.connection.model} may be too small, or --max-tokens too "
                        "low."
                    )
            moved(before + done, total, {"resumed": before, "spent": float(self.budget.cost)})
        there = sum(key in self.answers.known for key in set(keys))
        if there < total:
            raise self.budget.refusal(there, total)
        return [self.answers.known[key] for key in keys]

    def _watch(self, question: Question, row: Row) -> bool:
        """Whether answers are of another form, so many and without exception that the others would be paid in vain."""
        unread = self._unread
        if unread is None or row["refused"]:
            return False
        try:
            read(question.kind, row["answer"])
            self._unread = None
        except ValueError:
            self._unread = unread + 1
        return self._unread is not None and self._unread >= FIRST_ANSWERS

    def _replies(self, missing: Mapping[str, Question]) -> Iterator[tuple[int, list[Row]]]:
        """Numbered lines for the file of answers, as they come."""
        threads = min(self.connection.concurrency, len(missing))
        items = (item for item in missing.items() if not self.budget.ended)
        replies = parallel.each(self._send, items, threads=threads, window=len(missing))
        try:
            with closing(replies):
                sent = (rows for rows in replies if rows)
                for done, rows in after_a_completion(sent, bool(self.answers.known), threads) if missing else ():
                    yield done, [_line(row) for row in rows]
        except ServerError as error:
            kept = len(self.answers.known)
            note = f" {kept:,} answers are kept in {self.answers.path}; the same command continues." if kept else ""
            raise type(error)(f"{error}.{note}") from None
        except GeneratorExit:
            self.budget.close()
            raise

    def _send(self, item: tuple[str, Question]) -> list[Row]:
        """One request; nothing when the budget does not allow it."""
        key, question = item
        messages = question.messages
        reserved, used = (prompt_tokens(messages), self.max_tokens), (0, 0)
        if not self.budget.reserve(reserved):
            return []
        row: dict[str, Any] = {"key": key, "model": self.connection.model}
        try:
            [reply] = self.connection.complete(messages, temperature=0, max_tokens=self.max_tokens)
            used = reply.prompt_tokens, reply.tokens
            estimated = not reply.prompt_tokens
            if estimated:
                used = reserved[0], reply.tokens or estimated_tokens(reply.text)
            row |= {"completion": reply.text, "cut": reply.cut, "tokens": used, "estimated": estimated}
        except PromptRefused as refusal:
            row["refused"] = redact(refusal.reason)
        except BaseException:
            self.budget.close()
            raise
        finally:
            self.budget.settle(reserved, used)
        if row.get("completion", "").strip():  # at once: a kill must not lose what is paid for
            self.answers.add(_line(row))
        return [row]


def _line(row: Row) -> Row:
    prompt, completion = row.get("tokens", (0, 0))
    spent = {"prompt_tokens": prompt, "completion_tokens": completion, "cut": row.get("cut", False)}
    said = {"key": row["key"], "answer": row.get("completion"), **spent, "model": row["model"]}
    return {**said, "refused": row.get("refused")} | ({"estimated": True} if row.get("estimated") else {})
