"""Device, precision and weights of a base model, and adapters on it."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.utils.other import get_pattern_key
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
)
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging as transformers_logging

from adapters.backends.adapter_folder import WEIGHTS, own_names, shapes
from adapters.backends.local.base_model import AT, Base
from adapters.console import phase
from adapters.errors import UserError, first_line
from adapters.recipe.recipe import Lora, Model

CONSENT = "ADAPTERS_TRUST_REMOTE_CODE"
"""Environment variable that --trust-remote-code sets, also for the processes that a launcher starts."""
HEADS = ("classifier", "score")
"""Names of the layer that an encoder tags words with; PEFT trains both of them whole."""
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def on_gpu() -> bool:
    """Whether there is an accelerator, and the launcher did not ask for the CPU."""
    return torch.accelerator.is_available() and os.environ.get("ACCELERATE_USE_CPU", "").lower() not in ("1", "true")


def precision(model: Model) -> str:
    """bf16, fp16 or fp32: the recipe's choice, or what the hardware computes natively."""
    if model.precision != "auto":
        return model.precision
    if on_gpu():
        native = not torch.cuda.is_available() or torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16" if native else "fp16"
    # On CPUs without these instructions bf16 is emulated and slower than fp32.
    probes = [getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    return "bf16" if any(probe is not None and probe() for probe in probes) else "fp32"


def arithmetic(model: Model) -> torch.dtype:
    """The type of `precision`."""
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision(model)]


def prepare_cpu() -> None:
    """Use all cores, and keep freed memory for reuse."""
    # accelerate would set one thread, and glibc would give every activation back to the system.
    if on_gpu():
        return
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(max(1, cores // local))
    with suppress(OSError, AttributeError):  # not glibc
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
        mallopt(-3, 2**30)  # M_MMAP_THRESHOLD


def trusts(config: Model) -> bool:
    """Whether the model's own code may run: both recipe and command line must say so."""
    if config.trust_remote_code and os.environ.get(CONSENT) != "1":
        raise UserError(
            "the recipe wants to run Python code of the model's repository on this machine. If you have read that "
            "code, pin model.revision to a commit hash and say --trust-remote-code as well.",
            at=("model", "trust_remote_code"),
        )
    return config.trust_remote_code


def load_base(base: Base, config: Model, *, whole: bool = False, labels: Sequence[str] = ()) -> Any:
    """The base model in the recipe's dtype (default: bfloat16 on GPU, else float32).

    It is on the CPU; quantised to 4 bits (Dettmers et al. 2023, double quantisation), on this process's device.
    `whole` leaves the weights unquantised, as merging an adapter requires. With `labels` it is an encoder, and its head
    tags words with them; a head that the base lacks begins with random weights.
    """
    phase("loading the model")
    on_device = arithmetic(config)
    dtype = DTYPES.get(config.dtype, on_device if on_gpu() else torch.float32)
    options: dict[str, Any] = {} if config.attention == "auto" else {"attn_implementation": config.attention}
    if config.quantize and not whole:
        # PEFT freezes the base, the trainer checkpoints, and adapter weights are float32: what else
        # prepare_model_for_kbit_training does is to copy embeddings and LM head to float32, at twice their memory.
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=config.quantize,
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=on_device,
        )
    if labels:  # a head of other labels, of a base that was trained to tag, is none of ours
        options |= {**_label_names(labels), "ignore_mismatched_sizes": True}
    auto = AutoModelForTokenClassification if labels else AutoModelForCausalLM
    try:
        with _new_head_expected() if labels else nullcontext():
            model = auto.from_pretrained(
                base.load,
                revision=base.revision,
                dtype=dtype,
                use_safetensors=True,  # pickled weights can run any code when they are read
                trust_remote_code=trusts(config),
                **options,
            )
    except (OSError, ValueError, ImportError) as error:
        reason = first_line(error)
        if "Unrecognized configuration class" in reason:
            reason = (
                "transformers has no text model for its class. If it is a vision-language model, take the text model "
                f"out: adapters base text-only {base.load} -o FOLDER, and set model.base=FOLDER."
            )
        raise UserError(f"{base.load!r} cannot be loaded: {reason}", at=AT) from error
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # On such CPUs the first forward without gradients repacks 4-bit weights into a form that has no backward.
            module.support_avx512bf16_for_cpu = False
    if not labels:
        model.config.use_cache = True
    return model


@contextmanager
def _new_head_expected() -> Iterator[None]:
    """Without transformers' report of what the checkpoint lacks: an encoder's head is new, and its pooler not used."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def _label_names(labels: Sequence[str]) -> dict[str, Any]:
    names = dict(enumerate(labels))
    return {"num_labels": len(names), "id2label": names, "label2id": {name: n for n, name in names.items()}}


def word_tokenizer(base: Base, config: Model) -> Any:
    """The tokenizer of an encoder. Raises UserError when it cannot be had."""
    try:
        return AutoTokenizer.from_pretrained(base.load, revision=base.revision, trust_remote_code=trusts(config))
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"the tokenizer of {base.load!r} cannot be loaded: {first_line(error)}", at=AT) from error


def new_adapter(model: Any, lora: Lora, base: Base) -> PeftModel:
    """Wrap the base in a fresh adapter, equal to the base until it is trained (B = 0)."""
    targets = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    linear, head = _linear_modules(model), head_of(model)
    # PEFT trains an encoder's head whole, and fails where it is also to get matrices.
    left_out = _named_or_inside((*lora.exclude_modules, *head, *_beside_the_decoder(model, linear)))
    config = LoraConfig(
        task_type="TOKEN_CLS" if head else "CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        use_rslora=lora.rslora,
        rank_pattern=dict(lora.rank_pattern),
        alpha_pattern=dict(lora.alpha_pattern),
        exclude_modules=left_out,
    )
    for name in lora.exclude_modules:
        if not any(re.fullmatch(str(_named_or_inside([name])), module) for module in linear):
            raise UserError(
                f"{name!r} is no linear layer and holds none. {_ends(linear)}", at=("lora", "exclude_modules")
            )
    try:
        peft = get_peft_model(model, config)
    except ValueError as error:
        raise UserError(first_line(error), at=("lora", "target_modules")) from error
    adapted = peft.base_model.targeted_module_names
    for key in ("rank_pattern", "alpha_pattern"):
        patterns = getattr(lora, key)
        if idle := patterns.keys() - {get_pattern_key(patterns, module) for module in adapted}:
            what = "no adapted module takes its value from"
            raise UserError(
                f"{what} {min(idle)!r}; the first pattern that fits counts. {_ends(adapted)}", at=("lora", key)
            )
    name_base(peft, base)
    return peft


def head_of(model: Any) -> list[str]:
    """The names of an encoder's head, which is trained whole; none of a causal model."""
    return [name for name, _ in model.named_children() if name in HEADS]


def check_modules(base: Base, model: Model, lora: Lora, labels: Sequence[str] = ()) -> None:
    """Raise UserError for a name or pattern in `lora` that fits no module of the base; loads no weights."""
    if lora.rank_pattern or lora.alpha_pattern or lora.exclude_modules or lora.target_modules != "all-linear":
        _empty_adapter(base, model, lora, labels)


def check_start(folder: Path, base: Base, model: Model, lora: Lora, labels: Sequence[str] = ()) -> None:
    """Raise UserError for an adapter whose tensors are not those of a new one by `lora`; loads no weights."""
    if (empty := _empty_adapter(base, model, lora, labels)) is not None and (odd := other_shapes(folder, empty)):
        raise UserError(
            f"the adapter in {folder} does not fit: {odd[0]} of its tensors are not those that this recipe's base "
            f"and `lora` (rank, target_modules, exclude_modules) give; {odd[1]}."
        )


def other_shapes(folder: Path, peft: PeftModel) -> tuple[int, str] | None:
    """How many tensors of a stored adapter and of one on a model differ in name or shape, and the first; or None."""
    wanted = {name: tuple(tensor.shape) for name, tensor in get_peft_model_state_dict(peft).items()}
    stored = own_names(shapes(folder / WEIGHTS))
    odd = sorted(name for name in stored.keys() | wanted.keys() if stored.get(name) != wanted.get(name))
    if not odd:
        return None
    there, here = (side.get(odd[0], "missing") for side in (stored, wanted))
    return len(odd), f"{odd[0]} is {there} in its file and {here} here"


def _empty_adapter(base: Base, model: Model, lora: Lora, labels: Sequence[str]) -> PeftModel | None:
    """A new adapter on the base, both without values; None where the base cannot be had."""
    if (empty := empty_base(base, model, labels)) is None:
        return None
    with init_empty_weights():
        return new_adapter(empty, lora, base)


def empty_base(base: Base, model: Model, labels: Sequence[str] = ()) -> Any:
    """The base without values; None where it cannot be had."""
    auto, names = (AutoModelForTokenClassification, _label_names(labels)) if labels else (AutoModelForCausalLM, {})
    try:
        config = AutoConfig.from_pretrained(base.load, revision=base.revision, trust_remote_code=trusts(model), **names)
        with init_empty_weights():
            return auto.from_config(config, trust_remote_code=trusts(model))
    except (OSError, ValueError, ImportError):  # what loads the base says it better
        return None


def _linear_modules(model: Any) -> list[str]:
    head = model.get_output_embeddings()
    return [name for name, m in model.named_modules() if isinstance(m, (torch.nn.Linear, Conv1D)) and m is not head]


def _beside_the_decoder(model: Any, linear: Sequence[str]) -> list[str]:
    """What holds the linear modules outside the text decoder: the vision tower and projector of a wrapper."""
    # Text gives them no gradient, and vLLM serves no adapter on them.
    if model.config.get_text_config(decoder=True) is model.config:
        return []
    decoder = model.get_decoder()
    path: list[str] = next((name.split(".") for name, module in model.named_modules() if module is decoder), [])
    found = []
    for parts in (name.split(".") for name in linear):
        same = [a == b for a, b in zip(parts, path, strict=False)]
        if not all(same):
            found.append(".".join(parts[: same.index(False) + 1]))
    return list(dict.fromkeys(found))


def _named_or_inside(names: Sequence[str]) -> str | None:
    """PEFT's regular expression for modules whose name ends in one of the names, and all inside them."""
    return rf"(.*\.)?({'|'.join(map(re.escape, names))})(\..*)?" if names else None


def _ends(modules: Sequence[str]) -> str:
    ends = ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in modules))
    return f"Modules end in: {ends}; the first is {modules[0]}." if modules else "There is none."


def load_adapter(model: Any, folder: Path, base: Base, *, trainable: bool) -> PeftModel:
    """Put a saved adapter on the base, and verify that every tensor was loaded."""
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"{folder} holds no {WEIGHTS}; pickled adapters (.bin) are not read.")
    peft = PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)
    name_base(peft, base)
    if problem := mismatch(peft, folder):
        raise UserError(f"the adapter in {folder} does not fit {base.load}: {problem}")
    return peft


def load_merged(base: Base, config: Model, adapter: Path | None, labels: Sequence[str] = ()) -> Any:
    """The base, alone or with an adapter merged in memory, on the CPU, for sampling."""
    model = load_base(base, config, whole=True, labels=labels)  # merging into 4-bit weights would round
    if adapter is not None:
        model = load_adapter(model, adapter, base, trainable=False).merge_and_unload()
    if precision(config) == "bf16" and not on_gpu():
        model = model.to(torch.bfloat16)  # half the memory traffic, which limits decoding on a CPU
    return model.eval()


def mismatch(peft: PeftModel, folder: Path, adapter: str = "default") -> str | None:
    """How an adapter in memory differs from its file: tensors, shapes, values."""
    from safetensors.torch import load_file

    stored = own_names(load_file(folder / WEIGHTS))
    loaded = get_peft_model_state_dict(peft, adapter_name=adapter)
    if stored.keys() != loaded.keys():
        odd = sorted(stored.keys() ^ loaded.keys())
        return f"{len(odd)} tensors are on one side only, such as {odd[0]}"
    for name, tensor in stored.items():
        if tensor.shape != loaded[name].shape:
            return f"{name} is {tuple(tensor.shape)} in the file and {tuple(loaded[name].shape)} here"
        if not torch.allclose(tensor.float(), loaded[name].detach().cpu().float(), atol=1e-6):
            return f"{name} has other values than its file"
    return None


def training_failure(tensors: Mapping[str, torch.Tensor]) -> str | None:
    """Why an adapter's tensors are no result of a training; None if they are."""
    if not_finite := [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]:
        return f"the trained adapter is not finite: {not_finite[0]}"
    if not any(tensor.abs().max() > 0 for name, tensor in tensors.items() if ".lora_B." in name):
        return (
            "training left every B matrix at zero: the adapter would change nothing. In RL this is so where the "
            "answers of a group all earn the same; see reward and frac_reward_zero_std in the stage's log.jsonl"
        )
    return None


def name_base(peft: PeftModel, base: Base | None) -> None:
    """Write the base's Hub id into the adapter's configuration; None removes it.

    With an id, PEFT asks the Hub for the base's vocabulary at every checkpoint that the trainer saves.
    """
    config = peft.peft_config["default"]
    config.base_model_name_or_path, config.revision = (base.hub_id, base.revision) if base else ("", None)
