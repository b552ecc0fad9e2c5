"""DBBench-style trajectories over small invented tables.

A trajectory is a question, SQL, the database's reply and an answer. Every statement runs in SQLite, and the answer is
its result, so that SQL and answer always agree.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from adapters.data_aug.data_files import read_data, read_lines
from adapters.rewards.agent_formats import write
from adapters.rewards.agent_sql import SqlError, execute


@dataclass(frozen=True)
class Domain:
    """A table's subject: a key column, a column of words, two of whole numbers."""

    table: str
    noun: str
    plural: str
    key: str
    names: tuple[str, ...]
    word: str
    words: tuple[str, ...]
    numbers: tuple[tuple[str, int, int], ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """Column names in their order."""
        return (self.key, self.word, self.numbers[0][0], self.numbers[1][0])


@cache
def domains() -> dict[str, tuple[Domain, ...]]:
    """The invented tables, `seen` and `unseen`."""
    by_side: dict[str, list[Domain]] = {"seen": [], "unseen": []}
    for line in read_lines("agent/tables.txt"):
        side, table, nouns, *columns = (part.strip() for part in line.split("|"))
        (key, names), (word, words), *numbers = (column.split(": ") for column in columns)
        noun, plural = nouns.split("/")
        ranges = tuple((name, int(span.split()[0]), int(span.split()[1])) for name, span in numbers)
        values = tuple(names.split(", ")), tuple(words.split(", "))
        by_side[side].append(Domain(table, noun, plural, key, values[0], word, values[1], ranges))
    return {side: tuple(domains) for side, domains in by_side.items()}


def trajectory(rng: random.Random, *, unseen: bool) -> dict[str, Any]:
    """One trajectory: `env`, `messages` and the `table` before them."""
    domain = rng.choice(domains()["unseen" if unseen else "seen"])
    table = _table(domain, rng)
    question, sql, plan = _ask(domain, table, rng)
    described = ", ".join(f"`{column}`" for column in domain.columns)
    where = rng.choice(("The table is `{}`. Its columns are {}.", "Table `{}`, columns {}."))
    messages = [_user(f"{question}\n{where.format(domain.table, described)}")]
    if rng.random() < 0.15:  # a wrong name first: what the agent does about the database's error
        wrong = sql.replace(f"`{domain.table}`", f"`{domain.noun.split()[-1]}_list`", 1)
        # Part of the history, never a target: a model should not learn to guess names.
        attempt = {**_agent(write("dbbench", plan, "operate", wrong)), "target": "no"}
        messages += [attempt, _user(_failure(table, wrong))]
        plan = f"That table does not exist; its name is {domain.table}."
    rows, _ = execute(table, sql)
    messages += [_agent(write("dbbench", plan, "operate", sql)), _user(str(rows) if rows else "[]")]
    changed = not sql.startswith("SELECT")
    answer = ["done"] if changed else [str(value) for row in rows for value in row]
    thought = _conclusion(answer, changed, rng)
    messages.append(_agent(write("dbbench", thought, "answer", json.dumps(answer, ensure_ascii=False))))
    return {"env": "dbbench", "messages": messages, "table": table}


def _table(domain: Domain, rng: random.Random) -> dict[str, Any]:
    # No number stands twice in a column, so that "the highest" is one row.
    names = rng.sample(domain.names, rng.randint(6, len(domain.names)))
    ranges = [range(low, max(high, low + len(names)) + 1) for _, low, high in domain.numbers]
    columns = [rng.sample(numbers, len(names)) for numbers in ranges]
    rows = [[name, rng.choice(domain.words), *numbers] for name, *numbers in zip(names, *columns, strict=True)]
    return {"name": domain.table, "columns": list(domain.columns), "rows": rows}


def _ask(domain: Domain, table: dict[str, Any], rng: random.Random) -> tuple[str, str, str]:
    """A question, the statement that answers it, and the thought before it."""
    row = rng.choice(table["rows"])
    at = 2 + rng.randrange(2)
    limit = sorted(r[at] for r in table["rows"])[rng.randint(1, len(table["rows"]) - 2)]
    most, order = ("highest", "DESC") if rng.random() < 0.5 else ("lowest", "ASC")
    values = {"domain": domain, "row": row, "number": domain.columns[at], "limit": limit, "new": limit + 3}
    values |= {"most": most, "order": order}
    template = rng.choice(read_data("agent/questions.json"))
    question, thought = rng.choice(template["questions"]), rng.choice(template["thoughts"])
    return question.format(**values), template["sql"].format(**values), thought.format(**values)


def _conclusion(answer: Sequence[str], changed: bool, rng: random.Random) -> str:
    if changed:
        return rng.choice(("The table is changed as asked.", "The statement went through; nothing is left to do."))
    shown = ", ".join(answer[:2]) + (" and others" if len(answer) > 2 else "")
    return rng.choice((f"The database returned {shown}.", f"The result is {shown}, which answers the question."))


def _failure(table: dict[str, Any], sql: str) -> str:
    try:
        execute(table, sql)
    except SqlError as error:
        return str(error)
    raise AssertionError(f"this statement was meant to fail: {sql}")


def _user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def _agent(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}
