"""Are the answer's names and ids in the text?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from adapters.types import Example, Scored


@dataclass(frozen=True)
class Grounded:
    """Share of the answer's strings that stand in the text word for word; an empty answer is grounded.

    `ignore_case` compares without case.
    """

    ignore_case: bool = False

    def __call__(self, completion: str, example: Example) -> Scored:
        try:
            found = list(_strings(json.loads(completion)))
        except (ValueError, RecursionError):
            return Scored(0.0, {"readable": 0.0})
        text = str(example.meta.get("text", ""))
        if self.ignore_case:
            found, text = [f.casefold() for f in found], text.casefold()
        return Scored(sum(f in text for f in found) / len(found) if found else 1.0, {"readable": 1.0})


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)
