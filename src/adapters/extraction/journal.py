"""What an extraction has done so far, on disk: nothing is lost when it is killed, and nothing is done twice.

Answers are appended to `OUT.partial` as they come, which is out of order inside the engine's window. A line that was
cut while it was written is dropped when the journal is opened again, and its row is asked once more. Only a complete
journal becomes OUT, in order. Memory holds a window of rows, not the corpus.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from adapters.errors import UserError

_ROW = re.compile(rb'\{"row": (\d+), ')


class Journal:
    """The finished rows of one shard: of the rows `first`, `first + step`, … of the input."""

    def __init__(self, path: Path, first: int, step: int) -> None:
        self.path, self.step = path, step
        self.next = first
        """The first row that is not done."""
        self._beyond: set[int] = set()
        self.count = 0
        self._first = first
        if path.is_file():
            self._open_again()
        self._file = path.open("ab")

    def __contains__(self, row: int) -> bool:
        return row < self.next or row in self._beyond

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a finished row; it is safe from a kill once this returns. `row` is the record's first key."""
        self._file.write(json.dumps(record, ensure_ascii=False, default=str).encode("utf-8", "replace") + b"\n")
        self._file.flush()
        self._mark(record["row"])

    def sync(self) -> None:
        """Make what was added safe from a power cut too."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    def ordered(self) -> Iterator[dict[str, Any]]:
        """The records in the order of the input, up to the first row that is missing."""
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

    def _open_again(self) -> None:
        whole = 0
        with self.path.open("rb") as file:
            for line in file:
                try:
                    if not line.endswith(b"\n"):
                        break
                    row = _number(line)
                except ValueError:
                    break  # a power cut may leave a block of zeros; what follows it is asked again
                if row in self:
                    raise UserError(f"{self.path} holds row {row} twice; delete it, or start over with --fresh.")
                self._mark(row)
                whole += len(line)
        os.truncate(self.path, whole)


def _number(line: bytes) -> int:
    found = _ROW.match(line)
    if found is None or not line.endswith(b"}\n"):
        raise ValueError("not a line of a journal")
    return int(found[1])
