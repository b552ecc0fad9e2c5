"""Runs a model's SQL on one small table in SQLite's memory.

The SQL is untrusted: an authorizer allows reading and changing that one table and nothing else, and time, size of
values and rows are bounded. MySQL is not SQLite (backticks work, `concat_ws` and `md5` do not): an error says
"not the same" at worst, never more.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any, Final

ALLOWED: Final = {
    getattr(sqlite3, name)
    for name in ("SQLITE_SELECT", "SQLITE_READ", "SQLITE_FUNCTION", "SQLITE_INSERT", "SQLITE_UPDATE", "SQLITE_DELETE")
}
OPERATIONS: Final = 200_000
PAGES: Final = 2_000
ROWS: Final = 1_000


class SqlError(Exception):
    """The statement could not be run; the message is the database's."""


def execute(table: Mapping[str, Any], sql: str) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """Run SQL on `{name, columns, rows}`; returned rows, and the table's rows after.

    Raises SqlError for an error, a second statement, forbidden commands, and work beyond the bounds.
    """
    name = _quoted(table["name"])
    connection = sqlite3.connect(":memory:", isolation_level=None)
    try:
        columns = ", ".join(_quoted(column) for column in table["columns"])
        connection.execute(f"CREATE TABLE {name} ({columns})")
        marks = ", ".join("?" * len(table["columns"]))
        connection.executemany(f"INSERT INTO {name} VALUES ({marks})", table["rows"])  # noqa: S608 - quoted above
        connection.execute(f"PRAGMA max_page_count = {PAGES}")
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 10_000)
        connection.setlimit(sqlite3.SQLITE_LIMIT_COMPOUND_SELECT, 20)
        connection.set_authorizer(_allow)
        connection.set_progress_handler(lambda: 1, OPERATIONS)  # the first call comes after so many operations
        returned = connection.execute(sql.replace("\0", "")).fetchmany(ROWS)
        connection.set_progress_handler(None, 0)
        connection.set_authorizer(None)
        return returned, connection.execute(f"SELECT * FROM {name}").fetchmany(ROWS)  # noqa: S608
    except (sqlite3.Error, sqlite3.Warning, UnicodeError, OverflowError) as error:
        raise SqlError(str(error)) from None
    finally:
        connection.close()


def same_effect(table: Mapping[str, Any], gold: str, sql: str) -> bool:
    """Whether two statements return the same rows and leave the same table."""
    try:
        (a, left_a), (b, left_b) = execute(table, gold), execute(table, sql)
    except SqlError:
        return False
    return sorted(map(repr, a)) == sorted(map(repr, b)) and sorted(map(repr, left_a)) == sorted(map(repr, left_b))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _allow(action: int, first: str | None, second: str | None, database: str | None, trigger: str | None) -> int:
    if action not in ALLOWED or (first or "").startswith("sqlite_") or second == "load_extension":
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK
