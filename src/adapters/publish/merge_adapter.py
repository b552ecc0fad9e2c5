"""Merging an adapter into its base, checked against base plus adapter."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification, AutoTokenizer

from adapters.backends import adapter_folder
from adapters.backends.local import base_model
from adapters.backends.local.encoder import Encoder
from adapters.backends.local.model import DTYPES, head_of, load_adapter, load_base, on_gpu, prepare_cpu
from adapters.backends.local.tagger import word_encoder
from adapters.console import quiet_libraries
from adapters.data_aug.mine.words import LABELS, question_of
from adapters.publish.finished_run import Finished, probes

PROBES = 4
# Largest difference of a logit that merging may cause, as a share of the largest logit, by type of the merged weights:
# each weight is rounded once, in half precision to 8 or 11 bits.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}


def merge(finished: Finished, out: Path, dtype: str) -> dict[str, Any]:
    """Merge in float32, store as `dtype`, compare logits with base plus adapter.

    Returns {passed, detail, difference, tolerance, dtype}. Only a model that passes is written to `out`.
    """
    quiet_libraries()
    prepare_cpu()
    base = base_model.resolve(finished.recipe.model.base, finished.base_revision)
    config = finished.recipe.model.model_copy(update={"dtype": "float32"})
    tags = finished.recipe.tags_words
    model = load_base(base, config, whole=True, labels=LABELS if tags else ())  # merging into 4 bits would round
    # In memory the weights are float32; the config names the type that they are stored in.
    own = str(getattr(model.config, "dtype", None)).removeprefix("torch.")
    stored = DTYPES.get(own if dtype == "auto" else dtype, torch.float32)
    asked = [p.prompt for p in probes(finished, PROBES)] or [finished.example().prompt]
    encoder: Any
    if tags:
        encoder = word_encoder(base, config, finished.recipe.stages, finished.adapter)
        prompts = [encoder.read(question_of(prompt)).pieces[0].ids for prompt in asked]
    else:
        encoder = Encoder(AutoTokenizer.from_pretrained(finished.adapter), config.thinking)
        prompts = encoder.prompts(asked)
    device = "cuda" if on_gpu() and torch.cuda.is_available() else "cpu"
    peft = load_adapter(model, finished.adapter, base, trainable=False).to(device).eval()
    wanted = _logits(peft, prompts)
    with peft.disable_adapter():
        change = _difference(wanted, _logits(peft, prompts))
    merged = peft.merge_and_unload(safe_merge=True).to(stored)  # refuses weights that are not finite
    with adapter_folder.new_folder(out) as work:
        merged.config._name_or_path = base.hub_id  # no path of this machine
        if not tags:
            merged.generation_config.eos_token_id = encoder.stops(merged.generation_config)
        merged.save_pretrained(work)
        encoder.tokenizer.save_pretrained(work)
        del model, peft, merged
        gc.collect()
        auto = AutoModelForTokenClassification if tags else AutoModelForCausalLM
        reloaded = auto.from_pretrained(work, dtype=stored).eval().to(device)
        difference = _difference(wanted, _logits(reloaded, prompts))
        allowed = TOLERANCE[stored] * max(float(w.abs().max()) for w in wanted)
        passed = difference <= allowed
        if passed:
            os.replace(work, out)
    name = str(stored).removeprefix("torch.")
    detail = (
        f"{name}; logits differ from base + adapter by at most {difference:.2g} "
        f"(allowed {allowed:.2g}), the adapter itself moves them by {change:.2g}"
    )
    if passed and difference > 0.5 * change:
        detail += ". Rounding is as large as what was learned: use --dtype float32"
    return {"passed": passed, "detail": detail, "difference": difference, "tolerance": allowed, "dtype": name}


def _difference(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    return max(float((x - y).abs().max()) for x, y in zip(a, b, strict=True))


@torch.inference_mode()
def _logits(model: Any, prompts: list[list[int]]) -> list[torch.Tensor]:
    """Float32 logits of each prompt: at its last position (vocabulary,), of an encoder at all (sub-words, tags)."""
    device = next(model.parameters()).device
    found = [model(input_ids=torch.tensor([p], device=device)).logits[0].float().cpu() for p in prompts]
    return found if head_of(_inner(model)) else [row[-1] for row in found]


def _inner(model: Any) -> Any:
    return model.get_base_model() if isinstance(model, PeftModel) else model
