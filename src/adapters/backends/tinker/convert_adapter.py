"""Convert a downloaded adapter to PEFT's format, and check it.

An adapter that is loaded as the service stores it may do nothing: PEFT takes `target_modules` from the config, and if
that names too few modules, PEFT drops the other tensors with no more than a warning.
"""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from adapters.backends.adapter_folder import CONFIG, WEIGHTS
from adapters.backends.local.base_model import Base
from adapters.backends.local.model import load_adapter, load_base, training_failure
from adapters.backends.tinker.service import Sampler, ServiceError
from adapters.console import phase
from adapters.errors import first_line
from adapters.recipe.recipe import Model

KEY = re.compile(r"^base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight$")
SPLIT = re.compile(r"^(?P<module>.+\.in_proj_)(?P<part>[qkv])$")
TOLERANCE = 0.05
"""Nats per token, mean of absolute differences, between an adapter here and on the service (which may use bfloat16)."""


def peft_name(key: str) -> str:
    """PEFT's name of a tensor of the service, in a text-only causal LM."""
    name = key if key.startswith("base_model.model.") else f"base_model.model.{key}"
    name = name.replace(".model.language_model.", ".model.").replace(".unembed_tokens.", ".lm_head.")
    return re.sub(r"\.layers\.(\d+)\.attn\.", r".layers.\1.self_attn.", name)


def convert(tensors: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], list[str], int, int]:
    """The service's tensors under PEFT's names, adapted modules, rank, rank's growth.

    Modules are paths below the base model. The rank grows by 3 in `_join_thirds`, else by 1; the other modules get
    zeros up to that rank, because vLLM supports one rank and one alpha for all. Raises ServiceError for tensors that
    are no LoRA pair of a linear layer.
    """
    pairs = _lora_pairs(tensors)
    ranks = {sides["A"].shape[0] for sides in pairs.values()}
    if len(ranks) != 1:
        raise ServiceError(f"the service's adapter has modules of ranks {sorted(ranks)}; one rank was asked for")
    _join_thirds(pairs)
    rank = max(sides["A"].shape[0] for sides in pairs.values())
    named: dict[str, torch.Tensor] = {}
    for module, sides in pairs.items():
        missing = rank - sides["A"].shape[0]
        for side, padding in (("A", (0, 0, 0, missing)), ("B", (0, missing))):
            padded = torch.nn.functional.pad(sides[side], padding)
            named[f"base_model.model.{module}.lora_{side}.weight"] = padded.contiguous()
    return named, sorted(pairs), rank, rank // ranks.pop()


def _lora_pairs(tensors: Mapping[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    pairs: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        match = KEY.match(peft_name(key))
        if match is None or tensor.ndim != 2:
            raise ServiceError(
                f"the service's adapter has {key} {tuple(tensor.shape)}, which is no LoRA pair of a linear layer "
                "(experts, perhaps); its files are kept beside the stage's checkpoints"
            )
        pairs.setdefault(match["module"], {})[match["side"]] = tensor
    if incomplete := [module for module, sides in pairs.items() if sides.keys() != {"A", "B"}]:
        raise ServiceError(f"the service's adapter has one half only of {incomplete[0]}")
    return pairs


def _join_thirds(pairs: dict[str, dict[str, torch.Tensor]]) -> None:
    """Join the adapters of query, key and value into one of three times the rank.

    Qwen3.5's linear attention has one input projection where the service adapts its three thirds. With A stacked and B
    block-diagonal the joined adapter computes the same.
    """
    for module in sorted(m for m in pairs if (s := SPLIT.match(m)) and s["part"] == "q"):
        stem = module[:-1]
        thirds = [pairs.pop(stem + letter) for letter in "qkv" if stem + letter in pairs]
        if len(thirds) != 3:
            raise ServiceError(f"the service's adapter lacks one of {stem}q, k and v")
        pairs[f"{stem}qkv"] = {
            "A": torch.cat([t["A"] for t in thirds]),
            "B": torch.block_diag(*(t["B"] for t in thirds)),  # type: ignore[no-untyped-call]
        }


def rebuild_config(stored: Mapping[str, Any], rank: int, grown: int, targets: Sequence[str], base: Base) -> LoraConfig:
    """A config that matches the tensors; alpha grows with the rank, keeping the scale."""
    alpha = stored.get("lora_alpha")
    if not alpha:
        raise ServiceError("the service's adapter does not say its lora_alpha")
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=alpha * grown,
        lora_dropout=0.0,
        target_modules=list(targets),
        inference_mode=True,
    )
    config.base_model_name_or_path, config.revision = base.hub_id, base.revision
    return config


def write_adapter(raw: Path, folder: Path, base: Base) -> dict[str, Any]:
    """Write the downloaded files as an adapter folder that fits the base model.

    Needs the base model's config, no weights. Raises ServiceError when a tensor has no module. Returns rank, alpha and
    target modules.
    """
    stored = json.loads((raw / CONFIG).read_text(encoding="utf-8"))
    tensors, modules, rank, grown = convert(load_file(raw / WEIGHTS))
    if failure := training_failure(tensors):
        raise ServiceError(failure)
    leaves = sorted({module.rpartition(".")[2] for module in modules})
    for targets in (leaves, modules):  # short names, unless they would also match what was not trained
        config = rebuild_config(stored, rank, grown, targets, base)
        if (problem := misfit(config, tensors, base)) is None:
            break
    else:
        raise ServiceError(f"the service's adapter does not fit {base.load}: {problem}")
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    config.save_pretrained(str(folder))
    return {"rank": config.r, "lora_alpha": config.lora_alpha, "target_modules": leaves}


def misfit(config: LoraConfig, tensors: Mapping[str, torch.Tensor], base: Base) -> str | None:
    """How the tensors fail to fit the base model under PEFT; None if they fit."""
    architecture = AutoConfig.from_pretrained(base.load, revision=base.revision)
    trial = copy.deepcopy(config)  # PEFT writes the model's path into the config it is given
    trial.base_model_name_or_path = base.load
    try:
        with torch.device("meta"):
            model = get_peft_model(AutoModelForCausalLM.from_config(architecture), trial)
    except ValueError as error:
        return first_line(error)
    expected = {n: tuple(t.shape) for n, t in get_peft_model_state_dict(model, save_embedding_layers=False).items()}
    if unmatched := sorted(expected.keys() ^ tensors.keys()):
        return f"{len(unmatched)} tensors are only in the adapter or only in the model, such as {unmatched[0]}"
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != expected[name]:
            return f"{name} is {tuple(tensor.shape)}, but the base model needs {expected[name]}"
    return None


def weights_fit_here(base: Base) -> bool:
    """Whether the base model's weights are here and fit into memory as float32."""
    folder = Path(base.load)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(base.load, revision=base.revision, local_files_only=True))
        except OSError:
            return False
    size = sum(p.stat().st_size for p in folder.glob("*.safetensors"))
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    return 0 < size * 3 < memory


@torch.inference_mode()
def compare(
    folder: Path, base: Base, model: Model, sampler: Sampler, texts: Sequence[Sequence[int]]
) -> dict[str, float]:
    """Compare the adapter's log-probabilities here and on the service, per token.

    Returns the mean and highest absolute difference, and the mean of the base model without adapter. Raises
    ServiceError when adapter and service disagree.
    """
    pending = [sampler.logprobs(text) for text in texts]
    bare = load_base(base, model).eval()
    phase("verifying the adapter")
    without = torch.cat([_logprobs(bare, text) for text in texts])
    peft = load_adapter(bare, folder, base, trainable=False).eval()
    here = torch.cat([_logprobs(peft, text) for text in texts])
    there = torch.tensor([float(v) for answer in pending for v in answer.result()[1:]])
    differences = (here - there).abs()
    mean, base_mean = float(differences.mean()), float((without - there).abs().mean())
    if mean > TOLERANCE or (base_mean > TOLERANCE and mean > base_mean / 2):
        raise ServiceError(
            f"the downloaded adapter is not what the service trained: its log-probabilities differ by {mean:.3f} per "
            f"token (the bare base model's by {base_mean:.3f})"
        )
    return {
        "logprob_difference": mean,
        "logprob_difference_max": float(differences.max()),
        "base_difference": base_mean,
    }


def _logprobs(model: Any, tokens: Sequence[int]) -> torch.Tensor:
    ids = torch.tensor([list(tokens)], device=model.device)
    logits: torch.Tensor = model(input_ids=ids).logits[0, :-1].float()
    return logits.log_softmax(-1).gather(-1, ids[0, 1:, None]).squeeze(-1).cpu()
