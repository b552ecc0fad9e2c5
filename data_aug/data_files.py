"""Reads data files of this package, by their path in it: `noise/tables.json`."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


@cache
def read_data(name: str) -> Any:
    """The value of a JSON file."""
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


def read_lines(name: str) -> list[str]:
    """The lines of a text file, without blank ones and those that begin with `#`."""
    lines = (FOLDER / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]
