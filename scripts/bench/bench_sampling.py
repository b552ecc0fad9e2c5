"""Operations that a token costs in GRPO's sampling without vLLM, with the adapter merged and not.

    python scripts/bench/bench_sampling.py [--layers 8] [--tokens 16]

An operation is a call of a PyTorch operator that computes or copies; on a GPU most are one kernel, and for small
batches their launches are what sampling waits for. Views are not counted. The models have the layers of a Llama and of
Qwen3.5 (three of four with linear attention, computed without flash-linear-attention), random weights and small sizes,
which change no count; weights are in bfloat16 and the adapter in 32 bits, as on a GPU. The count of a shorter
generation is taken off, so that reading the prompt and merging do not count.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import benchmarks
import torch
from peft import LoraConfig, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, Qwen3_5ForCausalLM, Qwen3_5TextConfig
from trl import GRPOConfig
from trl.trainer.utils import add_fused_lm_head

from adapters.backends.local.speedups import merged
from adapters.backends.local.speedups.grpo import grpo_speedups

SIZES = {"vocab_size": 256, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
HEADS = {"num_key_value_heads": 2, "head_dim": 16}
LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}


class Operations(TorchDispatchMode):
    """Counts calls of operators that are no views."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not (function.is_view or function.overloadpacket.__name__ in ("_unsafe_view", "detach"))
        return function(*args, **(kwargs or {}))


def llama(layers: int) -> Any:
    return LlamaForCausalLM(LlamaConfig(num_hidden_layers=layers, **SIZES, **HEADS))


def qwen(layers: int) -> Any:
    return Qwen3_5ForCausalLM(Qwen3_5TextConfig(num_hidden_layers=layers, **SIZES, **HEADS, **LINEAR))


def per_token(model: Any, tokens: int) -> float:
    """Operations of each token after the first four."""
    ids = torch.arange(5, 29).reshape(2, 12)
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    found = []
    for most in (4, 4 + tokens):
        config = GenerationConfig(
            max_new_tokens=most,
            do_sample=True,
            temperature=0.9,
            top_k=0,
            pad_token_id=0,
            eos_token_id=[SIZES["vocab_size"]],
        )
        with Operations() as operations, torch.no_grad():
            model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
        found.append(operations.count)
    return (found[1] - found[0]) / tokens


def contenders(model: Any, folder: str) -> dict[str, Callable[[], Any]]:
    """Ways to sample: the context of each."""
    args = GRPOConfig(output_dir=folder, use_cpu=True, bf16=False)

    def ours(reason: str | None) -> Any:
        merged.obstacle = lambda _: reason
        merged.MergedSampling._scoring = lambda *_: lambda: torch.zeros(1)  # the measurement is made now and then
        return grpo_speedups(model, args, defaultdict(list))

    return {
        "transformers' generate, adapter beside the layers": nullcontext,
        "ours without: merging": lambda: ours("not wanted"),
        "ours": lambda: ours(None),
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--layers", type=int, default=8)
    arguments.add_argument("--tokens", type=int, default=16)
    options = arguments.parse_args()
    logging.disable()
    rows = []
    for name, make in (("Llama", llama), ("Qwen3.5", qwen)):
        torch.manual_seed(0)
        base = make(options.layers).to(torch.bfloat16)
        add_fused_lm_head(base)
        model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear")).eval()
        with tempfile.TemporaryDirectory() as folder:
            found = {}
            for way, context in contenders(model, folder).items():
                with context():
                    found[way] = per_token(model, options.tokens)
        first = next(iter(found.values()))
        rows += [(name, way, f"{count:,.0f}", f"{1 - count / first:.1%}") for way, count in found.items()]
    columns = ("model", "sampling", "operations/token", "fewer")
    benchmarks.markdown(f"{options.layers} layers, {options.tokens} tokens", columns, rows)
    print(f"\n{benchmarks.machine()}")


if __name__ == "__main__":
    main()
