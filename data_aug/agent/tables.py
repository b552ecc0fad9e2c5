"""DBBench-style trajectories over small invented tables.

A trajectory is a question, SQL, the database's reply and an answer. Every statement runs in SQLite, and the answer is
its result, so that SQL and answer always agree.
"""

# ruff: noqa: S608 - the statements are made of this file's own words and numbers
from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

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
    for line in (
        resources.files("adapters.data_aug.agent").joinpath("tables.txt").read_text(encoding="utf-8").splitlines()
    ):
        if line.startswith("#"):
            continue
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
    where = rng.choice(
        (
            f"The table is `{domain.table}`. Its columns are {described}.",
            f"Table `{domain.table}`, columns {described}.",
        )
    )
    messages = [_user(f"{question}\n{where}")]
    if rng.random() < 0.15:  # a wrong name first: what the agent does about the database's error
        wrong = sql.replace(f"`{domain.table}`", f"`{domain.noun.split()[-1]}_list`", 1)
        # Part of the history, never a target: a model should not learn to guess names.
        messages += [
            {**_agent(write("dbbench", plan, "operate", wrong)), "target": "no"},
            _user(_failure(table, wrong)),
        ]
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
    columns = [rng.sample(range(low, high + 1), len(names)) for _, low, high in _ranges(domain, len(names))]
    rows = [[name, rng.choice(domain.words), *numbers] for name, *numbers in zip(names, *columns, strict=True)]
    return {"name": domain.table, "columns": list(domain.columns), "rows": rows}


def _ranges(domain: Domain, n: int) -> list[tuple[str, int, int]]:
    return [(name, low, max(high, low + n)) for name, low, high in domain.numbers]


def _ask(d: Domain, table: dict[str, Any], rng: random.Random) -> tuple[str, str, str]:
    """A question, the statement that answers it, and the thought before it."""
    row = rng.choice(table["rows"])
    n = rng.randrange(2)
    number, at = d.numbers[n][0], 2 + n
    name, word = row[0], row[1]
    t, key = f"`{d.table}`", f"`{d.key}`"
    limit = sorted(r[at] for r in table["rows"])[rng.randint(1, len(table["rows"]) - 2)]
    high = rng.random() < 0.5
    columns = ", ".join(f"`{column}`" for column in d.columns)
    values = f"{d.word} {word}, {d.numbers[0][0]} {row[2]} and {d.numbers[1][0]} {row[3]}"
    most, order = ("highest", "DESC") if high else ("lowest", "ASC")
    kinds = {
        "number": (
            (f"What is the {number} of the {d.noun} {name}?", f"Tell me the {number} that is recorded for {name}."),
            f"SELECT `{number}` FROM {t} WHERE {key} = '{name}';",
            (f"I need the {number} in the row of {name}.", f"One row holds {name}; I select its {number}."),
        ),
        "word": (
            (f"Which {d.word} belongs to the {d.noun} {name}?", f"What is the {d.word} of {name}?"),
            f"SELECT `{d.word}` FROM {t} WHERE {key} = '{name}';",
            (f"The {d.word} stands in the row of {name}.", f"I filter by {d.key} and read the {d.word}."),
        ),
        "count": (
            (f"How many {d.plural} have the {d.word} {word}?", f"Count the {d.plural} whose {d.word} is {word}."),
            f"SELECT COUNT(*) FROM {t} WHERE `{d.word}` = '{word}';",
            (f"Counting the rows with {d.word} {word} answers this.", "A count with one condition is enough."),
        ),
        "above": (
            (f"How many {d.plural} have a {number} above {limit}?", f"Count {d.plural} with {number} over {limit}."),
            f"SELECT COUNT(*) FROM {t} WHERE `{number}` > {limit};",
            (f"I count the rows whose {number} exceeds {limit}.", f"The condition is {number} greater than {limit}."),
        ),
        "extreme": (
            (f"Which {d.noun} has the {most} {number}?", f"Name the {d.noun} with the {most} {number}."),
            f"SELECT {key} FROM {t} ORDER BY `{number}` {order} LIMIT 1;",
            (f"Sorting by {number} puts the {most} first.", f"I order by {number} and keep one row."),
        ),
        "sum": (
            (f"What is the total {number} of the {d.plural} with {d.word} {word}?", f"Sum the {number} for {word}."),
            f"SELECT SUM(`{number}`) FROM {t} WHERE `{d.word}` = '{word}';",
            (f"I sum {number} over the rows with {word}.", f"The sum of {number} with one filter gives the total."),
        ),
        "list": (
            (f"Which {d.plural} have the {d.word} {word}?", f"List every {d.noun} whose {d.word} is {word}."),
            f"SELECT {key} FROM {t} WHERE `{d.word}` = '{word}';",
            (f"All rows with {d.word} {word} are wanted.", f"I list the {d.key} column for {word}."),
        ),
        "update": (
            (f"Set the {number} of {name} to {limit + 3}.", f"Change the {number} of {name} to {limit + 3}."),
            f"UPDATE {t} SET `{number}` = {limit + 3} WHERE {key} = '{name}';",
            (f"Only the row of {name} changes.", f"One update of the row of {name} does it."),
        ),
        "delete": (
            (f"Remove the {d.noun} {name} from the table.", f"Delete the row of {name}."),
            f"DELETE FROM {t} WHERE {key} = '{name}';",
            (f"I delete the single row of {name}.", f"The {d.key} identifies the row to remove."),
        ),
        "insert": (
            (f"Add a new {d.noun} called Nova with {values}.", f"Insert the {d.noun} Nova with {values}."),
            f"INSERT INTO {t} ({columns}) VALUES ('Nova', '{word}', {row[2]}, {row[3]});",
            ("All four values are given, so one insert is enough.", f"I insert one row for the new {d.noun}."),
        ),
    }
    questions, sql, thoughts = kinds[rng.choice(tuple(kinds))]
    return rng.choice(questions), sql, rng.choice(thoughts)


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
