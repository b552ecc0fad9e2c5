"""Journal of an extraction: the finished rows on disk, so that a restart repeats no request.

Answers are appended to `OUT.partial` as they come, out of order within the engine's window. A torn last line is dropped
when the journal is opened again. Memory holds a window of rows, not the corpus.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from adapters.errors import UserError
from adapters.files import json_line

SYNC_SECONDS = 5.0
_ROW = re.compile(rb'\{"row": (\d+), ')


class Journal:
    """The finished rows of one shard: of the rows `first`, `first + step`, … of the input."""

    def __init__(self, path: Path, first: int, step: int) -> None:
        self.path, self._first, self.step, self.count = path, first, step, 0
        self.next = first
        """First row that is not done."""
        self._beyond: set[int] = set()
        if path.is_file():
            self._resume()
        self._file = path.open("ab")
        self._synced = time.monotonic()

    def __contains__(self, row: int) -> bool:
        return row < self.next or row in self._beyond

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a finished row, whose first key is `row`. It then survives a kill, and soon a power cut."""
        self._file.write(json_line(record))
        self._file.flush()
        self._mark(record["row"])
        if time.monotonic() - self._synced > SYNC_SECONDS:
            self.sync()

    def sync(self) -> None:
        """Make the added rows survive a power cut too."""
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def ordered(self) -> Iterator[dict[str, Any]]:
        """Records in the order of the input, up to the first missing row."""
        wanted, waiting = self._first, dict[int, bytes]()
        with self.path.open("rb") as file:
            for line in file:
                waiting[_number(line)] = line
                while wanted in waiting:
                    yield json.loads(waiting.pop(wanted))
                    wanted += self.step

    def _mark(self, row: int) -> None:
        self.count += 1
        self._beyond.add(row)
        while self.next in self._beyond:
            self._beyond.remove(self.next)
            self.next += self.step

    def _resume(self) -> None:
        complete = 0
        with self.path.open("rb") as file:
            for line in file:
                try:
                    if not line.endswith(b"\n"):
                        break
                    row = _number(line)
                except ValueError:
                    break  # a power cut may leave a block of zeros; the rows after it are requested again
                if row in self:
                    raise UserError(f"{self.path} holds row {row} twice; delete it, or start over with --fresh.")
                self._mark(row)
                complete += len(line)
        os.truncate(self.path, complete)


def _number(line: bytes) -> int:
    start = _ROW.match(line)
    if start is None or not line.endswith(b"}\n"):
        raise ValueError("not a line of a journal")
    return int(start[1])
