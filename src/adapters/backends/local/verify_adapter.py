"""Verify a loaded bundle in a process of its own: tensors, keys, logits, answers.

    python -m adapters.backends.local.verify_adapter SPEC.json FACTS.json

SPEC: `bundle`, `base` and `revision` to load, `model` (the recipe's section), `probes` ({prompt, completion,
truncated}, answers of the training process), `example` (a prompt), `max_new_tokens`, and whether the answers come from
`elsewhere`: a hosted trainer with its own arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoTokenizer

from adapters.backends.adapter_folder import own_names
from adapters.backends.local import text_only
from adapters.backends.local.base_model import Base
from adapters.backends.local.bundle_checks import check_change, command, loaded, stored_facts
from adapters.backends.local.encoder import Encoder, end_tokens
from adapters.backends.local.model import load_base, on_gpu, precision
from adapters.backends.local.speedups.by_generate import GREEDY
from adapters.backends.local.text_only import Wrapper, checkpoint_wrapper
from adapters.recipe.recipe import Model

TIES = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
"""Distance of the two best tokens, as a share of the largest logit, below which either may be chosen.

Two runs of one model differ by rounding (a few units of the type's last place): merged or not, alone or in a batch.
"""


def verify(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Facts of a bundle for its card, with `checks`: [[name, passed, detail], …]."""
    bundle = Path(spec["bundle"])
    stored, facts = stored_facts(bundle)
    checks = facts["checks"]
    if not checks[0][1]:
        return facts
    config = Model.model_validate(spec["model"])
    base = Base(spec["base"], spec["base"], spec["revision"])
    model = load_base(base, config)
    wrapper = checkpoint_wrapper(base)
    outer = wrapper.architecture if wrapper else type(model).__name__
    tied = bool(getattr(model.config.get_text_config(), "tie_word_embeddings", False))
    facts |= {
        "class": type(model).__name__,
        "base_class": outer,
        "causal": wrapper is None or wrapper.causal,
        "tied": tied,
        "dtype": str(model.dtype)[6:],
    }
    checks.append(_embeddings(stored, tied))
    peft = loaded(model, bundle, stored, checks)
    if peft is None:
        return facts
    if wrapper:
        checks.append(_served_names(stored, wrapper))
    if precision(config) == "bf16" and not on_gpu():
        peft = peft.to(torch.bfloat16)  # as the evaluation's sampler does
    peft = peft.to(torch.accelerator.current_accelerator() if on_gpu() else "cpu")
    encoder = Encoder(AutoTokenizer.from_pretrained(bundle), config.thinking)
    prompts = encoder.prompts([p["prompt"] for p in spec["probes"]] + [spec["example"]])
    checks.append(check_change(peft, prompts, facts["class"], slice(-1, None)))
    own = end_tokens(model.generation_config)
    facts |= {"prompts": prompts, "stops": sorted({*own, encoder.end})}
    facts["end_token"] = None if encoder.end in own else encoder.tokenizer.convert_ids_to_tokens(encoder.end)
    checks.append(_answers(peft, encoder, facts["stops"], prompts, spec))
    return facts


def _embeddings(stored: Mapping[str, torch.Tensor], tied: bool) -> list[Any]:
    if changed := [k for k in stored if "embed_tokens" in k or "lm_head" in k]:
        problem = "would part the tied embeddings" if tied else "cannot be served by vLLM"
        return ["embeddings", False, f"{changed[0]} is in the adapter, and {problem}"]
    return ["embeddings", True, f"not touched (the base {'ties' if tied else 'does not tie'} them)"]


def _served_names(stored: Mapping[str, torch.Tensor], wrapper: Wrapper) -> list[Any]:
    missing = text_only.with_served_names(own_names(stored), wrapper).keys() - stored.keys()
    if missing or not wrapper.path:
        return ["served names", False, f"servers load {wrapper.architecture}, of which the file has no name"]
    return ["served names", True, f"each matrix also has its name in {wrapper.architecture}, which servers load"]


@torch.inference_mode()
def _answers(
    peft: PeftModel, encoder: Encoder, stops: list[int], prompts: Sequence[list[int]], spec: Mapping[str, Any]
) -> list[Any]:
    probes = spec["probes"]
    if not probes:
        return ["answers", True, "not compared: the run evaluated nothing, so no answers of the training process exist"]
    equal = near = 0
    for ids, probe in zip(prompts, probes, strict=False):
        tokens, logits = _greedy(peft, encoder, stops, ids, spec["max_new_tokens"])
        ended = next((n for n, token in enumerate(tokens) if token in stops), None)
        text = encoder.tokenizer.decode(tokens[:ended], skip_special_tokens=True)
        wanted = probe["completion"]
        # Either may have been cut at its own limit.
        cut = (ended is None and wanted.startswith(text)) or (probe["truncated"] and text.startswith(wanted))
        if text == wanted or cut:
            equal += 1
            continue
        step, gap, scale = _first_difference(encoder, tokens[:ended], logits, wanted)
        if gap > TIES[torch.bfloat16 if spec["elsewhere"] else peft.dtype] * scale:
            what = f"other than the training process: {text[:80]!r} instead of {wanted[:80]!r}"
            return ["answers", False, f"{what} (token {step}, where the best is ahead by {gap:.2g})"]
        near += 1
    if not equal:
        return ["answers", False, f"none of {len(probes)} greedy answers is the training process's"]
    detail = f"{equal} of {len(probes)} greedy answers are the training process's to the letter"
    return ["answers", True, detail + (f", {near} part at a tie of the two best tokens" if near else "")]


def _greedy(
    peft: PeftModel, encoder: Encoder, stops: list[int], ids: list[int], limit: int
) -> tuple[list[int], Sequence[torch.Tensor]]:
    """The tokens of a greedy answer, and the logits of each step."""
    answer = peft.generate(
        input_ids=torch.tensor([ids], device=peft.device),
        max_new_tokens=limit,
        eos_token_id=stops,
        pad_token_id=encoder.tokenizer.pad_token_id,
        return_dict_in_generate=True,
        output_logits=True,
        **GREEDY,
    )
    return answer.sequences[0, len(ids) :].tolist(), answer.logits


def _first_difference(
    encoder: Encoder, tokens: list[int], logits: Sequence[torch.Tensor], wanted: str
) -> tuple[int, float, float]:
    """The first step that leads to another text, its token's lead, the largest logit."""
    for n in range(len(tokens)):
        if not wanted.startswith(encoder.tokenizer.decode(tokens[: n + 1], skip_special_tokens=True).rstrip("\ufffd")):
            break
    else:
        n = len(tokens)  # a prefix of the wanted text: the difference is that it ended here
    n = min(n, len(logits) - 1)
    row = logits[n][0].float()
    best = row.topk(2).values
    return n, float(best[0] - best[1]), float(row.abs().max())


if __name__ == "__main__":
    command(verify)
