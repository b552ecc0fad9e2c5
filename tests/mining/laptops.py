"""The proxy of the worked example: it reads by rules, so that every answer is known."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adapters.backends import adapter_folder
from adapters.data_aug.mine.words import Question, Span
from adapters.files import sha256, write_json

PROGRAM = """version: 1
task: Prices of all laptops in positive reviews
steps:
  - {label: positive, instruction: "This review is positive"}
  - {keep: positive}
  - {span: laptop, instruction: "What is the laptop model mentioned?"}
  - each: laptop
    steps:
      - {span: price, instruction: "What is the price of {laptop}?"}
      - {first: price}
"""
TEXTS = (
    "Great laptop. The Swift 3 costs $499 and the Aero 15 costs $1,299.",
    "Terrible. The Swift 3 for $499 broke.",
    "Nice keyboard, no price given.",
)


class Rules:
    """Positive when the text holds "Great" or "Nice"; the laptops by their names; a price after its model."""

    def __init__(self) -> None:
        self.calls: list[Question] = []

    def scores(self, questions: Sequence[Question]) -> list[float]:
        self.calls += questions
        return [0.9 if is_positive(question.text) else 0.2 for question in questions]

    def spans(self, questions: Sequence[Question]) -> list[tuple[list[Span], float]]:
        self.calls += questions
        return [(spans(question.text, question.instruction), 1 / len(question.text)) for question in questions]

    def sub_words(self, questions: Sequence[Question]) -> list[int]:
        return [len(question.text.split()) + len(question.instruction.split()) for question in questions]


def is_positive(text: str) -> bool:
    return "Great" in text or "Nice" in text


def spans(text: str, instruction: str) -> list[Span]:
    if instruction.startswith("What is the price of "):
        model = re.escape(instruction.removeprefix("What is the price of ").removesuffix("?"))
        found = re.finditer(rf"(?<={model} )(?:costs|for) (\$[\d,]*\d)", text)
        return [Span(match[1], match.start(1), match.end(1)) for match in found]
    return [Span(match[0], match.start(), match.end()) for match in re.finditer("Swift 3|Aero 15", text)]


def answer(system: str, user: str) -> str:
    """What an annotator of the same rules answers to a question of `adapters annotate`."""
    instruction, _, text = user.partition("\n\nText:\n")
    instruction = instruction.partition(": ")[2]
    if '"label"' in system:
        return json.dumps({"label": is_positive(text)})
    return json.dumps({"spans": [span.text for span in spans(text, instruction)]})


def proxy_folder(folder: Path, **config: Any) -> Path:
    """A folder that looks like the adapter of a proxy."""
    folder.mkdir(parents=True)
    (folder / adapter_folder.WEIGHTS).write_bytes(b"weights")
    told = {"peft_type": "LORA", "task_type": "TOKEN_CLS", "base_model_name_or_path": "me/encoder", **config}
    (folder / adapter_folder.CONFIG).write_text(json.dumps(told))
    files = {name: sha256(folder / name) for name in (adapter_folder.WEIGHTS, adapter_folder.CONFIG)}
    manifest = {"task": "mine", "thinking": False, "model": {"base": "me/encoder"}, "files": files}
    write_json(folder / adapter_folder.MANIFEST, manifest)
    return folder
