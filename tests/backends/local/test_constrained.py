"""Answers of random models held to a grammar: JSON of the schema, and strings that stand in the text."""

from __future__ import annotations

import json
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from test_decoding import liven

from adapters.backends.constraint import Constraint, constraint
from adapters.backends.local import base_model
from adapters.backends.local.encoder import Encoder
from adapters.backends.local.generate import LocalSampler
from adapters.backends.local.model import load_base
from adapters.backends.local.speedups import by_generate, choosing
from adapters.backends.local.speedups.constrained import Held
from adapters.backends.local.tokenizer import load_tokenizer
from adapters.data.quoted import quoted_strings
from adapters.recipe.recipe import Model
from adapters.tasks.funding import FundingTask
from adapters.tasks.ie import IeTask
from adapters.tasks.records import RecordsTask

pytest.importorskip("llguidance")

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


@pytest.mark.slow
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
            max_new_tokens=120,
            batch_size=None,
            wanted=lambda _: True,
            grammar=lambda n: made.grammar(TEXTS[n]),
        )
    )
    whole = [(TEXTS[n], answer.text) for n, group in groups.items() for answer in group if not answer.truncated]
    assert len(whole) > (4 if how == "source" else 0), (
        f"too few answers ended: {[a.text for g in groups.values() for a in g]}"
    )
    assert sum(check(made, text, answer, how) for text, answer in whole) > 0 or how == "schema"
    assert all(answer.logprob is not None and answer.logprob < 0 for group in groups.values() for answer in group)


class Letters:
    """Takes one of some tokens at any time."""

    def __init__(self, taken: set[int]) -> None:
        self.taken = taken

    def is_accepting(self) -> bool:
        return False

    def is_error(self) -> bool:
        return False

    def try_consume_tokens(self, tokens: list[int]) -> int:
        return int(tokens[0] in self.taken)

    def compute_bitmask(self) -> bytes:
        return sum(1 << token for token in self.taken).to_bytes(4, "little")


def test_held_draws_have_the_models_distribution_among_what_is_taken() -> None:
    n, taken = 4000, {1, 3}
    logits = torch.tensor([[2.0, 1.0, 1.5, 0.0]]).repeat(n, 1)
    free = choosing.Draws([f"{i}" for i in range(n)], 0.7)
    held = choosing.Draws([f"{i}" for i in range(n)], 0.7, Held(lambda row: Letters(taken), set()))
    rows = list(range(n))
    before, after = free(logits, rows).tolist(), held(logits, rows).tolist()
    counts, wanted = Counter(after), (logits[0, [1, 3]] / 0.7).softmax(-1)[0].item()
    assert set(counts) == taken
    assert counts[1] / n == pytest.approx(wanted, abs=0.02)
    assert all(b == a for a, b in zip(before, after, strict=True) if a in taken), "what is taken stays"
    scores = logits[0].log_softmax(-1)
    drawn = [score for [score] in held.logprobs]
    assert drawn == pytest.approx([scores[token].item() for token in after]), "the model's own"


@pytest.mark.slow
@pytest.mark.parametrize("shares", [True, False])
def test_greedy_answers_take_the_likeliest_allowed_token(sampler: LocalSampler, shares: bool) -> None:
    task = TASKS["funding"]
    made, ids = held(task, "source"), asked(sampler, task)
    plain = LocalSampler(sampler.model, sampler.encoder, speedups=shares)
    assert plain.shares == shares
    options: dict[str, Any] = {"max_new_tokens": 24, "batch_size": 4}
    grammars = [made.grammar(text) for text in TEXTS]
    answers = dict(plain.answers(ids, **options, grammar=lambda n: grammars[n]))
    for n, text in enumerate(TEXTS):
        steps = by_generate.generate(
            sampler.model, [ids[n]], limits=[24], stops=sampler.stops, pad=0,
            choose=partial(masked, sampler._grammars.matcher(grammars[n]), sampler.stops),
        )  # fmt: skip
        assert answers[n] == plain._sample(steps[0], len(steps[0]) >= 24)
        if not answers[n].truncated:
            check(made, text, answers[n].text, "source")


def masked(matcher: Any, stops: set[int], logits: torch.Tensor, rows: list[int]) -> torch.Tensor:
    """A choice among the masked logits of every step, as libraries do it."""
    chosen = Held(lambda row: matcher, stops)
    allowed = torch.from_numpy(chosen._taken(0, logits.shape[-1]))
    best = logits.masked_fill(~allowed, float("-inf")).argmax(-1)
    assert chosen._takes(0, int(best[0]))
    return best


def test_an_answer_that_keeps_to_its_grammar_is_the_one_without_it(sampler: LocalSampler) -> None:
    ids = asked(sampler, TASKS["funding"])
    options: dict[str, Any] = {"max_new_tokens": 12, "batch_size": 4}
    free = dict(sampler.answers(ids, **options))
    anything = "start: ANY\nANY: ~/nonesuch/"  # bytes that are no UTF-8 too, which a random model writes
    assert dict(sampler.answers(ids, **options, grammar=lambda n: anything)) == free
    assert dict(sampler.answers(ids, **options, grammar=lambda n: 'start: "[]"'))[0].text == "[]"
    with pytest.raises(RuntimeError, match="llguidance"):
        dict(sampler.answers(ids, **options, grammar=lambda n: "start: nonesuch"))
