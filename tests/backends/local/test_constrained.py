"""Answers of random models held to a grammar: JSON of the schema, and strings that stand in the text."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from test_decoding import liven

from adapters.backends.constraint import Constraint, constraint
from adapters.backends.local import base_model
from adapters.backends.local.encoder import Encoder, load_tokenizer
from adapters.backends.local.generate import LocalSampler
from adapters.backends.local.model import load_base
from adapters.backends.local.speedups import decoding
from adapters.backends.local.speedups.constrained import Held
from adapters.data.quoted import quoted_strings
from adapters.recipe.recipe import Model
from adapters.tasks.funding import FundingTask
from adapters.tasks.ie import IeTask
from adapters.tasks.records import RecordsTask

pytest.importorskip("llguidance")
import torch  # noqa: E402

TEXTS = (
    'Paid by the "Quoted \\ Fund" (grant C:\\new\\7), line\nbreak\tand tab.',
    "日本学術振興会の助成 JP-12345 を受けた。",
    "Thanks 👩‍🔬🇩🇪 to the E\u0301cole, grant É-1 and مؤسسة قطر.",
    "Supported by NSFC under 2041-77/88 and by DFG.",
)
TASKS = {
    "funding": FundingTask(target="compact"),
    "nested": FundingTask(),
    "ie": IeTask(target="compact", missing_answer="whole", kind="NER", schema=("person", "place")),
    "records": RecordsTask(),
}


@pytest.fixture(scope="module")
def sampler(tiny_model: Path) -> LocalSampler:
    base = base_model.resolve(str(tiny_model))
    model = load_base(base, Model(base=str(tiny_model), dtype="float32")).eval()
    liven(model)
    return LocalSampler(model, Encoder(load_tokenizer(base), thinking=False))


def asked(sampler: LocalSampler, task: Any) -> list[list[int]]:
    return sampler.encoder.prompts([task.request({task.text_field: text}) for text in TEXTS])


def held(task: Any, how: Any) -> Constraint:
    made = constraint(task, how)
    assert made is not None
    return made


def check(made: Constraint, text: str, answer: str, how: str) -> int:
    """An answer keeps to its constraint; its strings are counted."""
    value = json.loads(answer)
    strings = [string for _, string in quoted_strings(value, made.schema)]
    if how == "source":
        assert all(string and string in text for string in strings), (text, answer)
    return len(strings)


@pytest.mark.parametrize("how", ["schema", "source"])
@pytest.mark.parametrize("name", TASKS)
def test_every_answer_parses_and_its_strings_stand_in_the_text(sampler: LocalSampler, name: str, how: str) -> None:
    task = TASKS[name]
    made, ids = held(task, how), asked(sampler, task)
    seeds = [[None, *(f"{n} {i}" for i in range(1, 4))] for n in range(len(ids))]
    groups = dict(
        sampler.draws(
            ids,
            seeds,
            temperature=1.5,
            max_new_tokens=160,
            batch_size=None,
            wanted=lambda _: True,
            grammar=lambda n: made.grammar(TEXTS[n]),
        )
    )
    whole = [(TEXTS[n], answer.text) for n, group in groups.items() for answer in group if not answer.truncated]
    assert len(whole) > 5, f"too few answers ended: {[a.text for g in groups.values() for a in g]}"
    assert sum(check(made, text, answer, how) for text, answer in whole) > 0 or how == "schema"
    assert all(answer.logprob is not None and answer.logprob < 0 for group in groups.values() for answer in group)
