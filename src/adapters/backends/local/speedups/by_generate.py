"""Decoding through transformers' `generate`, for models whose passes the faster decoding does not fit."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence, Set
from typing import Any, Final

import torch
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from adapters.backends.local.speedups.caches import padded
from adapters.backends.local.speedups.choosing import Choose

Ended = Callable[[int], bool]
"""Called with each token of one row; True if the row's answer is complete."""
GREEDY: Final = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None, "repetition_penalty": None}
"""Arguments of transformers' `generate` for greedy answers, whatever a model's own config says."""


@torch.inference_mode()
def generate(
    model: Any,
    prompts: Sequence[list[int]],
    *,
    limits: Sequence[int],
    stops: Set[int],
    pad: int,
    ended: Sequence[Ended] | None = None,
    choose: Choose | None = None,
) -> list[list[int]]:
    """Answers through transformers' `generate`, for any model; greedy ones without `choose`."""
    tokens, mask = padded(model, prompts, pad)
    width = tokens.shape[1]
    rules = [_EachRow(ended, width)] if ended else []
    rows = model.generate(
        input_ids=tokens,
        attention_mask=mask,
        max_new_tokens=max(limits),
        eos_token_id=sorted(stops),
        pad_token_id=pad,
        stopping_criteria=StoppingCriteriaList(rules),
        logits_processor=LogitsProcessorList([_Chosen(choose, limits, stops)] if choose else []),
        **GREEDY,
    )[:, width:].tolist()
    lengths = rules[0].lengths if rules else {}
    answers = []
    for n, row in enumerate(rows):
        end = next((i + 1 for i, token in enumerate(row) if token in stops), len(row))
        answers.append(row[: min(end, lengths.get(n, end), limits[n])])
    return answers


def draw(
    model: Any,
    prompts: Sequence[list[int]],
    answers: int,
    choose: Choose,
    *,
    most: int,
    limits: Sequence[int],
    ended: Sequence[Ended],
    **options: Any,
) -> Iterator[tuple[int, list[list[int]]]]:
    """As `decoding.draw`, for any model: whole batches through `generate`."""
    size = max(1, most // answers)
    for first in range(0, len(prompts), size):
        some, begin = prompts[first : first + size], first * answers
        own = slice(begin, begin + len(some) * answers)
        found = generate(
            model,
            [prompt for prompt in some for _ in range(answers)],
            limits=limits[own],
            ended=ended[own],
            choose=lambda logits, rows, begin=begin: choose(logits, [begin + row for row in rows]),  # type: ignore[misc]
            **options,
        )
        for n in range(len(some)):
            yield first + n, found[n * answers : (n + 1) * answers]


def in_batches(
    model: Any,
    prompts: Sequence[list[int]],
    *,
    order: Sequence[int],
    most: int,
    room: int,
    limits: Sequence[int],
    ended: Sequence[Ended],
    choose: Choose | None,
    **options: Any,
) -> Iterator[tuple[int, list[int]]]:
    """As `greedy`, for any model: whole batches through `generate`."""
    waiting = deque(order)
    while waiting:
        size = min(most, max(1, room // len(prompts[waiting[0]])), len(waiting))
        rows = [waiting.popleft() for _ in range(size)]

        def chosen(logits: torch.Tensor, places: Sequence[int], rows: Sequence[int] = rows) -> torch.Tensor:
            return choose(logits, [rows[place] for place in places])  # type: ignore[misc]

        answers = generate(
            model,
            [prompts[n] for n in rows],
            limits=[limits[n] for n in rows],
            ended=[ended[n] for n in rows],
            choose=choose and chosen,
            **options,
        )
        yield from zip(rows, answers, strict=True)


class _Chosen(LogitsProcessor):  # type: ignore[misc]
    """Leaves `generate` one token of each row."""

    def __init__(self, choose: Choose, limits: Sequence[int], stops: Set[int]) -> None:
        self.choose, self.limits, self.stops = choose, limits, stops
        self.alive, self.steps = list(range(len(limits))), 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        only = torch.full_like(scores, float("-inf"))
        self.steps += 1
        if self.alive:
            chosen = self.choose(scores[self.alive].float(), self.alive)
            only[self.alive, chosen] = 0.0
            ended = [token in self.stops for token in chosen.tolist()]
            rows = zip(self.alive, ended, strict=True)
            self.alive = [row for row, stop in rows if not stop and self.steps < self.limits[row]]
        return only


class _EachRow(StoppingCriteria):  # type: ignore[misc]
    """Ends single rows of a batch; `lengths` are the tokens of ended rows."""

    def __init__(self, ended: Sequence[Ended], width: int) -> None:
        self.ended, self.width = ended, width
        self.lengths: dict[int, int] = {}

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        for n, token in enumerate(input_ids[:, -1].tolist()):
            if n not in self.lengths and self.ended[n](token):
                self.lengths[n] = input_ids.shape[1] - self.width
        return torch.tensor([n in self.lengths for n in range(len(input_ids))], device=input_ids.device)
