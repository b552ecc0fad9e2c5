"""The `records` reward: F-beta of the values of an object, by the counts of the `records` task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from adapters.rewards import records_match
from adapters.rewards.grounding import needed
from adapters.rewards.records_schema import Node, compiled
from adapters.rewards.records_values import NORMALISERS
from adapters.types import Example, SchemaParameter, Scored


@dataclass(frozen=True)
class Records:
    """Grades an object against `example.gold`, value by value.

    `schema` is the JSON Schema of the objects: a file, a class (`./file.py:Class`) or the schema itself. Without one
    it is that of the task whose examples are scored. `beta` weighs recall against precision. `normalise` is the
    normaliser of strings without `x-normalise`, as in the task. `grounded`: a string that is not in the text
    (`example.meta["text"]`) never counts as found, unless its field has `x-grounded: false`. An example whose gold is
    None is unlabelled: the score is None.

    The score is F-beta over all values of the object. Where there is nothing to find and nothing was found it is 1;
    without a readable object it is 0 on every row: unreadable text is no empty prediction.

    Parts: `readable`; `precision` and `recall`, where they are defined; and `PATH f1` for each field with a value on
    either side.
    """

    schema: SchemaParameter = field(default_factory=dict)
    beta: float = 1.0
    normalise: str = "text"
    grounded: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError that names the parameter and what it must be."""
        if not 0 < self.beta < 100:
            raise ValueError(f"beta must lie between 0 and 100, got {self.beta!r}")
        if self.normalise not in NORMALISERS:
            raise ValueError(f"normalise must be one of {', '.join(NORMALISERS)}, got {self.normalise!r}")
        if not isinstance(self.grounded, bool):
            raise ValueError(f"grounded must be true or false, got {self.grounded!r}")
        if self.schema:
            compiled(self.schema, self.normalise)

    def formula(self) -> str:
        """The reward with these settings, for a model card."""
        return f"F{self.beta:g}(values of the record, by field{', strings in the text only' if self.grounded else ''})"

    def __call__(self, completion: str, example: Example) -> Scored:
        """Score one completion. Never raises, whatever the text. Raises ValueError where a schema or text lacks."""
        if example.gold is None:
            return Scored(None)
        prediction = records_match.read(completion)
        if prediction.value is None:
            return Scored(0.0, {"readable": 0.0})
        node = self._node(example.meta)
        pairs = records_match.compare(node, example.gold, prediction.value)
        if self.grounded:
            pairs = records_match.grounded(node, pairs, needed(example.meta.get("text")))
        counts = records_match.tally(node, pairs)
        whole = records_match.total(counts)
        parts = {"readable": 1.0}
        parts |= {"precision": whole.precision} if whole.pred else {}
        parts |= {"recall": whole.recall} if whole.gold else {}
        parts |= {f"{path} f1": of_field.f() for path, of_field in counts.items() if of_field.gold or of_field.pred}
        return Scored(whole.f(self.beta) if whole.gold or whole.pred else 1.0, parts)

    def _node(self, meta: Mapping[str, Any]) -> Node:
        if self.schema:
            return compiled(self.schema, self.normalise)
        if not meta.get("record_schema"):
            raise ValueError("the row was not read by the task records; give the reward its schema: schema=FILE")
        return compiled(meta["record_schema"], meta.get("normalise", self.normalise))
