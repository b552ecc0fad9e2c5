"""Merging of adapter and base into one model, which is then compared with both."""

from __future__ import annotations

import gc
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from adapters.backends import adapter_folder
from adapters.backends.local import base_model
from adapters.backends.local.model import DTYPES, Encoder, load_adapter, load_base, on_gpu, prepare_cpu
from adapters.console import quiet_libraries
from adapters.errors import UserError
from adapters.publish.finished_run import Finished, probes

PROBES = 4
# Largest difference of a logit, as a share of the largest logit, between adapter and merged weights of one type:
# merging rounds each weight once (half precision keeps 8 or 11 bits of it).
TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}


def merge(finished: Finished, out: Path, dtype: str) -> dict[str, Any]:
    """Merge in float32, store as `dtype`, compare logits with base plus adapter.

    Returns {passed, detail, difference, tolerance, dtype}; `out` exists only when it passed.
    """
    quiet_libraries()
    prepare_cpu()
    base = base_model.resolve(finished.recipe.model.base, finished.base_revision)
    config = finished.recipe.model.model_copy(update={"dtype": "float32"})
    model = load_base(base, config)
    stored = DTYPES[dtype if dtype != "auto" else _stored_dtype(model)]
    encoder = Encoder(AutoTokenizer.from_pretrained(finished.adapter), config.thinking)
    prompts = encoder.prompts([p.prompt for p in probes(finished, PROBES)] or [finished.example().prompt])
    peft = load_adapter(model, finished.adapter, base, trainable=False)
    peft = peft.to("cuda" if on_gpu() and torch.cuda.is_available() else "cpu").eval()
    wanted = _logits(peft, prompts)
    with peft.disable_adapter():
        change = max(float((a - b).abs().max()) for a, b in zip(wanted, _logits(peft, prompts), strict=True))
    merged = peft.merge_and_unload(safe_merge=True).to(stored)  # refuses weights that are not finite
    work = adapter_folder.work_folder(out)
    shutil.rmtree(work, ignore_errors=True)
    work.parent.mkdir(parents=True, exist_ok=True)
    try:
        merged.config._name_or_path = base.hub_id  # no path of this machine
        merged.save_pretrained(work)
        encoder.tokenizer.save_pretrained(work)
        del model, peft, merged
        gc.collect()
        again = AutoModelForCausalLM.from_pretrained(work, dtype=stored).eval()
        again = again.to("cuda" if on_gpu() and torch.cuda.is_available() else "cpu")
        got = _logits(again, prompts)
        difference = max(float((a - b).abs().max()) for a, b in zip(wanted, got, strict=True))
        allowed = TOLERANCE[stored] * max(float(w.abs().max()) for w in wanted)
        passed = difference <= allowed
        detail = (
            f"{str(stored)[6:]}; logits differ from base + adapter by at most {difference:.2g} "
            f"(allowed {allowed:.2g}), the adapter itself moves them by {change:.2g}"
        )
        if passed and difference > 0.5 * change:
            detail += ". Rounding is as large as what was learned: use --dtype float32"
        if passed:
            os.replace(work, out)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return {
        "passed": passed,
        "detail": detail,
        "difference": difference,
        "tolerance": allowed,
        "dtype": str(stored)[6:],
    }


def _stored_dtype(model: Any) -> str:
    """Name of the type that the base is stored in; in memory it is float32."""
    name = str(getattr(model.config, "dtype", None)).removeprefix("torch.")
    return name if name in DTYPES else "float32"


@torch.inference_mode()
def _logits(model: Any, prompts: list[list[int]]) -> list[torch.Tensor]:
    """Logits at the last position of each prompt, float32: a list of (vocabulary,)."""
    device = next(model.parameters()).device
    return [model(input_ids=torch.tensor([p], device=device)).logits[0, -1].float().cpu() for p in prompts]
