"""Bases whose checkpoint is a vision-language model, and the text model inside.

transformers' AutoModelForCausalLM gives the text model of such a checkpoint, or nothing. Servers pick the class that
the checkpoint names, in which the same modules have longer names: `model.language_model.layers` for `model.layers`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from accelerate import init_empty_weights
from transformers import AutoModelForImageTextToText, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from adapters.backends.adapter_folder import PEFT_PREFIX, new_folder
from adapters.backends.local.base_model import AT, Base, load_config
from adapters.console import phase
from adapters.errors import UserError, first_line
from adapters.files import read_json, write_json

MARKER: Final = "text_only.json"
"""File of a text-only folder: the checkpoint that it was taken from."""
PROMPT: Final = 24
"""Tokens on which both models must give the same logits."""
_TEXT_CLASSES: Final = {
    "qwen2_vl_text": "Qwen2", "qwen2_5_vl_text": "Qwen2", "qwen3_vl_text": "Qwen3", "qwen3_vl_moe_text": "Qwen3Moe",
}  # fmt: skip
"""Text models without a class of their own, and whose class computes the same on text; `make` compares them."""


@dataclass(frozen=True, slots=True)
class Wrapper:
    """A checkpoint's class, and where the text model stands in it."""

    architecture: str
    path: str
    """Module of the text model's backbone, such as `model.language_model`; empty where none has its parameters."""
    backbone: str = "model"
    """The backbone's name in the text model."""
    causal: bool = True
    """Whether AutoModelForCausalLM gives the text model."""

    def name(self, key: str) -> str:
        """The name in the checkpoint's class of an adapter's tensor."""
        inner = key.removeprefix(PEFT_PREFIX)
        rest = inner.removeprefix(f"{self.backbone}.")
        return key if rest == inner or inner.startswith(f"{self.path}.") else f"{key[: -len(inner)]}{self.path}.{rest}"


def wrapper_of(base: Base) -> Wrapper | None:
    """The class that a server picks for a base, if it is not the one that is trained.

    None for text checkpoints, a text-only folder among them. Raises UserError when there is no configuration.
    """
    config = load_config(base)
    trained = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    outer = getattr(transformers, (config.architectures or [""])[0], None)
    if outer is None or outer is trained or config.get_text_config() is config:
        return None
    with init_empty_weights():
        kind, text_config = _text_class(config)
        return _locate(outer(config), kind(text_config), causal=trained is not None)


def checkpoint_wrapper(base: Base) -> Wrapper | None:
    """As `wrapper_of`, and for a text-only folder the wrapper that it was taken from."""
    stored = read_json(Path(base.load) / MARKER).get("wrapper")
    return Wrapper(**stored) if stored else wrapper_of(base)


def with_served_names(tensors: Mapping[str, Any], wrapper: Wrapper | None) -> dict[str, Any]:
    """An adapter's tensors, each also under its name in the checkpoint's class.

    A loader takes the names that its class has and leaves the others alone. `adapter_folder.own_names` is the inverse.
    """
    if wrapper is None or not wrapper.path:
        return dict(tensors)
    return {**tensors, **{wrapper.name(key): tensor.clone() for key, tensor in tensors.items()}}


def make(base: Base, out: Path) -> dict[str, Any]:
    """Write a base's text model into the new folder `out`. Raises UserError when that is impossible.

    The weights are the checkpoint's; both models must give the same logits on text. Returns facts for the user.
    """
    if out.exists():
        raise UserError(f"{out} exists already; nothing was written.")
    config = load_config(base)
    if config.get_text_config() is config:
        raise UserError(f"{base.load} is a text model already; use it as it is.", at=AT)
    kind, text_config = _text_class(config)
    phase("loading the model")
    try:
        outer = AutoModelForImageTextToText.from_pretrained(
            base.load, revision=base.revision, dtype="auto", use_safetensors=True
        ).eval()
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"{base.load!r} cannot be loaded: {first_line(error)}", at=AT) from error
    text, wrapper = _extract(outer, kind, text_config)
    phase("comparing both models")
    difference = _difference(outer, text)
    if difference > 0.02:
        raise UserError(f"{kind.__name__} does not compute what {wrapper.architecture} computes on text.", at=AT)
    commit = getattr(config, "_commit_hash", None)
    source = {"hub_id": base.hub_id, "revision": commit or base.revision, "wrapper": asdict(wrapper)}
    with new_folder(out) as work:
        phase("writing the text model")
        text.save_pretrained(work)
        AutoTokenizer.from_pretrained(base.load, revision=base.revision).save_pretrained(work)
        write_json(work / MARKER, source)
        (work / "hub_id").write_text(base.hub_id + "\n", encoding="utf-8")
        os.replace(work, out)
    parameters = sum(p.numel() for p in text.parameters())
    return {**source, "class": kind.__name__, "parameters": parameters, "difference": difference}


def _text_class(config: Any) -> tuple[Any, Any]:
    """The class of a checkpoint's text model, and the configuration that it takes."""
    text = config.get_text_config()
    if (kind := MODEL_FOR_CAUSAL_LM_MAPPING.get(type(text), None)) is not None:
        return kind, text
    if (name := _TEXT_CLASSES.get(text.model_type)) is None:
        raise UserError(f"transformers has no class for the text model of {config.architectures[0]} alone.", at=AT)
    values = {k: v for k, v in text.to_dict().items() if k not in ("model_type", "architectures")}
    # Rotations in three axes (time, height, width) are plain ones where all three positions are the token's.
    rope = {k: v for k, v in (values.get("rope_parameters") or {}).items() if not k.startswith("mrope")}
    values["rope_parameters"] = {**rope, "rope_type": "default"}
    return getattr(transformers, f"{name}ForCausalLM"), getattr(transformers, f"{name}Config")(**values)


def _locate(outer: Any, text: Any, *, causal: bool) -> Wrapper:
    backbone = text.base_model_prefix
    wanted = {name for name, _ in getattr(text, backbone).named_parameters()}
    path = next(
        (name for name, module in outer.named_modules() if {n for n, _ in module.named_parameters()} == wanted), ""
    )
    return Wrapper(type(outer).__name__, path, backbone, causal)


def _extract(outer: Any, kind: Any, text_config: Any) -> tuple[Any, Wrapper]:
    """The text model with the wrapper's tensors, not copied."""
    with init_empty_weights(include_buffers=False):
        text = kind(text_config)
    wrapper = _locate(outer, text, causal=type(outer.config) in MODEL_FOR_CAUSAL_LM_MAPPING)
    if not wrapper.path:
        raise UserError(f"{wrapper.architecture} holds no module with the parameters of {kind.__name__}.", at=AT)
    tensors = outer.get_submodule(wrapper.path).state_dict(prefix=f"{wrapper.backbone}.")
    tensors["lm_head.weight"] = outer.get_output_embeddings().weight
    text.load_state_dict(tensors, assign=True, strict=True)
    text.tie_weights()
    text.generation_config = outer.generation_config
    return text.eval(), wrapper


@torch.inference_mode()
def _difference(outer: Any, text: Any) -> float:
    """Largest difference of a logit, as a share of the largest logit."""
    vocabulary = text.config.vocab_size
    ids = torch.arange(7, 7 + 97 * PROMPT, 97)[None] % vocabulary
    wanted = outer(input_ids=ids).logits.float()
    return float((text(input_ids=ids).logits.float() - wanted).abs().max() / wanted.abs().max())
