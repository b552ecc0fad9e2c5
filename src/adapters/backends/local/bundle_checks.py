"""What `verify_adapter` and `verify_tagger` share. A check is [name, passed, detail]."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file

from adapters.backends.adapter_folder import WEIGHTS, own_names
from adapters.backends.local.model import mismatch, prepare_cpu
from adapters.errors import first_line
from adapters.files import write_json


def stored_facts(bundle: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The bundle's tensors, and the facts with their check."""
    stored = load_file(bundle / WEIGHTS)
    return stored, {"parameters": sum(t.numel() for t in stored.values()), "checks": [check_tensors(stored)]}


def loaded(model: Any, bundle: Path, stored: Mapping[str, torch.Tensor], checks: list[Any]) -> PeftModel | None:
    """The model with the bundle's adapter, or None where a key has no place; the finding is added to `checks`."""
    name = type(model).__name__
    try:
        peft = PeftModel.from_pretrained(model, str(bundle))
    except (ValueError, RuntimeError) as error:  # no such modules, other shapes
        checks.append(["keys", False, f"{name} cannot load it: {first_line(error)}"])
        return None
    checks.append(_check_keys(peft, own_names(stored), bundle, name))
    return peft.eval() if checks[-1][1] else None


def check_tensors(stored: Mapping[str, torch.Tensor]) -> list[Any]:
    """Whether the stored tensors are finite, whole and trained."""
    if not stored:
        return ["tensors", False, "the file has no tensor"]
    if not_finite := [k for k, t in stored.items() if not torch.isfinite(t).all()]:
        return ["tensors", False, f"{len(not_finite)} tensors are not finite, such as {not_finite[0]}"]
    if empty := [k for k, t in stored.items() if t.numel() == 0]:
        return ["tensors", False, f"{len(empty)} tensors are empty, such as {empty[0]} (a sharded save?)"]
    trained = [bool(t.abs().max() > 0) for k, t in stored.items() if ".lora_B." in k]
    if not any(trained):
        return ["tensors", False, "every B matrix is zero: the adapter changes nothing"]
    return ["tensors", True, f"{len(stored)} finite tensors; {sum(trained)} of {len(trained)} B matrices are not zero"]


def _check_keys(peft: PeftModel, stored: Mapping[str, torch.Tensor], bundle: Path, name: str) -> list[Any]:
    """Whether each stored tensor has its place in the model, and the model no other."""
    result = set_peft_model_state_dict(peft, dict(stored))
    missing = [k for k in result.missing_keys if ".lora_" in k]
    for what, keys in (("missing", missing), ("unexpected", list(result.unexpected_keys))):
        if keys:
            return ["keys", False, f"{name}: {len(keys)} {what}, such as {keys[0]}"]
    if problem := mismatch(peft, bundle):
        return ["keys", False, f"{name}: {problem}"]
    return ["keys", True, f"{name}: all {len(stored)} arrive, none is missing or unexpected"]


@torch.inference_mode()
def check_change(peft: PeftModel, prompts: Sequence[list[int]], name: str, at: slice) -> list[Any]:
    """Whether the adapter changes the logits of each prompt, at the tokens `at`."""
    changes = []
    for ids in prompts:
        tokens = torch.tensor([ids], device=peft.device)
        adapted = peft(input_ids=tokens).logits[0, at].float()
        with peft.disable_adapter():
            changes.append(float((adapted - peft(input_ids=tokens).logits[0, at].float()).abs().max()))
    # An adapter without effect gives exactly 0, and NaN is not above 0.
    return ["logits", min(changes) > 0, f"{name}: differ from the base's by {min(changes):.2g} to {max(changes):.2g}"]


def command(verify: Callable[[Mapping[str, Any]], dict[str, Any]]) -> None:
    """Read the specification that the command line names, and write the facts of `verify`."""
    prepare_cpu()
    write_json(Path(sys.argv[2]), verify(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
