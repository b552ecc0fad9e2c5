"""vLLM with one adapter, and whether it applies it.

vLLM takes an adapter whose modules it does not know, applies nothing, and answers as the base. So a prompt is asked
with and without the adapter. Run by path, this file needs vLLM and nothing of this project:

    python vllm_probe.py SPEC.json ANSWERS.json

SPEC: `base`, `revision`, `adapter`, `rank`, `dtype`, `prompts` (token ids), `max_tokens`, `stops` (token ids).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Values of vLLM's --max-lora-rank."""
PROBE: Any = ({"role": "user", "content": "This work was supported by the Example Foundation under grant AB-1234."},)
"""What is asked with and without an adapter: any text will do, as an adapter moves every probability a little."""
PROBE_TOKENS = 16


class Greedy(NamedTuple):
    """A greedy answer: its tokens, their log-probabilities in nats, its text."""

    tokens: Sequence[Any]
    logprobs: Sequence[float]
    text: str = ""


def change(one: Greedy, other: Greedy) -> float:
    """Largest change of a log-probability, in nats, up to the first token that differs."""
    same = next((n for n, (a, b) in enumerate(zip(one.tokens, other.tokens, strict=False)) if a != b), None)
    last = min(len(one.tokens), len(other.tokens)) if same is None else same + 1
    changes = (abs(a - b) for a, b in zip(one.logprobs[:last], other.logprobs[:last], strict=True))
    return max(changes, default=0.0) if len(one.tokens) == len(other.tokens) or same is not None else float("inf")


def has_effect(base: Greedy, repeated: Greedy, adapted: Greedy) -> bool:
    """Whether the adapter changes an answer by more than asking the base twice does."""
    return change(base, adapted) > 2 * change(base, repeated)


def open_llm(base: str, revision: str | None, rank: int, dtype: str, **options: Any) -> Any:
    """A vLLM engine in this process that takes adapters of the rank."""
    from vllm import LLM

    # Memory is reserved for the largest rank; a vision tower that nothing asks is not loaded.
    largest = next((r for r in RANKS if r >= rank), rank)
    return LLM(
        model=base,
        revision=revision,
        dtype=dtype,
        enable_lora=True,
        max_lora_rank=largest,
        language_model_only=True,
        **options,
    )


def lora(adapter: str | Path) -> Any:
    """The adapter in a folder, as vLLM takes it."""
    from vllm.lora.request import LoRARequest

    return LoRARequest("adapter", 1, str(Path(adapter).resolve()))


def greedy(llm: Any, prompts: Sequence[Sequence[int]], request: Any, tokens: int, stops: Sequence[int]) -> list[Greedy]:
    """Greedy answers with log-probabilities, one prompt at a time."""
    from vllm import SamplingParams

    sampling = SamplingParams(temperature=0.0, max_tokens=tokens, logprobs=0, stop_token_ids=list(stops))
    answers = []
    for ids in prompts:  # alone, so that equal questions are computed in equal batches
        [reply] = llm.generate([{"prompt_token_ids": list(ids)}], sampling, lora_request=request, use_tqdm=False)
        first = reply.outputs[0]
        logprobs = [step[token].logprob for token, step in zip(first.token_ids, first.logprobs, strict=True)]
        answers.append(Greedy(list(first.token_ids), logprobs, first.text))
    return answers


def main() -> None:
    """Read the specification and write the answers."""
    import vllm

    spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    prompts, tokens, stops = spec["prompts"], spec["max_tokens"], spec["stops"]
    longest = max(map(len, prompts)) + tokens
    llm = open_llm(
        spec["base"], spec["revision"], spec["rank"], spec["dtype"], max_model_len=longest, enforce_eager=True
    )
    runs = [greedy(llm, prompts, request, tokens, stops) for request in (None, None, lora(spec["adapter"]))]
    names = ("base", "repeated", "adapted")
    Path(sys.argv[2]).write_text(json.dumps({"version": vllm.__version__, **dict(zip(names, runs, strict=True))}))


if __name__ == "__main__":
    main()
