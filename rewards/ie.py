"""The `ie` reward: tags, well-formed JSON, and the F1 of entities or relations.

R = 0.1 [has <think>] + 0.1 [has <answer>] + 0.1 [JSON object] (0.05 for other JSON) + 0.7 F1, as the card of
InternScience/Agents-K1 gives it. What the card leaves open is in `ie_records.AnswerReader`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from adapters.rewards.ie_records import AnswerReader, is_empty, overlap, unlabelled
from adapters.types import Example, Scored


@dataclass(frozen=True)
class InformationExtraction(AnswerReader):
    """Grades entities or relations against `example.gold`, labels mapped to lists.

    Weights: `think`, `answer`, `json` and `f1` are not negative and sum to 1; `json_other`, for well-formed JSON that
    is no object, is at most `json`. `typed`: an item counts with its type; off, by its text alone. The other
    fields are those of `AnswerReader`. An example whose gold is None is unlabelled: the score is None.

    Where there is nothing to find and nothing was found, F1 is 1. Without readable JSON it is 0 on every row:
    unreadable text is no empty prediction.

    Parts: `think`, `answer`, `json` and `f1` as they enter the sum, before their weights; `f1_empty_gold` and
    `f1_some_gold`, the same F1 on rows without and with something to find; `empty_answers`, 1 for a readable answer
    without items; `tags`, the number of tag marks.
    """

    think: float = 0.1
    answer: float = 0.1
    json: float = 0.1
    json_other: float = 0.05
    f1: float = 0.7
    typed: bool = True
    part_names: ClassVar = ("think", "answer", "json", "f1", "empty_answers", "tags")

    def __post_init__(self) -> None:
        """Raises ValueError that names the parameter and what it must be."""
        super().__post_init__()
        weights = {name: getattr(self, name) for name in ("think", "answer", "json", "f1")}
        for name, value in {**weights, "json_other": self.json_other}.items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must lie between 0 and 1, got {value!r}")
        if abs(sum(weights.values()) - 1) > 1e-9:
            raise ValueError(f"think + answer + json + f1 must sum to 1, got {sum(weights.values()):g}")
        if self.json_other > self.json:
            raise ValueError(f"json_other must not be above json ({self.json:g}), got {self.json_other!r}")

    def formula(self) -> str:
        """The reward with these settings, for a model card."""
        items = "items with their labels" if self.typed else "items, whatever their labels"
        items += ", in the text only" if self.grounded else ""
        return (
            f"{self.think:g} [has `<think>`] + {self.answer:g} [has `<answer>`] + {self.json:g} [JSON object] "
            f"({self.json_other:g} for other JSON) + {self.f1:g} F1({items})"
        )

    @property
    def blind_to(self) -> tuple[str, ...]:
        """Wrong answers that these settings are meant not to tell from gold."""
        untyped = () if self.typed else ("wrong label",)
        return (*untyped, "ends swapped") if self.symmetric else untyped

    def __call__(self, completion: str, example: Example) -> Scored:
        """Score one completion. Never raises, whatever the text; ValueError if `grounded` and the row has no text."""
        if example.gold is None:
            return Scored(None)
        prediction = self.read(completion)
        gold = self.items(example.gold)
        f1 = 0.0
        if prediction.json == "object":
            sides = gold, prediction.items, self.findable(prediction.items, example.meta.get("text"))
            compared = sides if self.typed else map(unlabelled, sides)
            f1 = overlap(*compared).f() if gold or prediction.items else 1.0
        json_part = {"object": self.json, "other": self.json_other, None: 0.0}[prediction.json]
        score = self.think * prediction.think + self.answer * prediction.answer + json_part + self.f1 * f1
        parts = {
            "think": float(prediction.think),
            "answer": float(prediction.answer),
            "json": json_part / self.json if self.json else float(prediction.json == "object"),
            "f1": f1,
            "f1_empty_gold" if is_empty(example.gold) else "f1_some_gold": f1,
            "empty_answers": float(prediction.json == "object" and not prediction.items),
            "tags": float(prediction.tags),
        }
        return Scored(min(score, 1.0), parts)
