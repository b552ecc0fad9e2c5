"""Estimate a stage's memory from the model's shape, without loading anything.

All figures are bytes of one process. What is counted and what not: docs/checking.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

GB = 1e9
CPU_PROCESS, GPU_PROCESS = 0.95 * GB, 1.0 * GB
"""Libraries and code of a training process on a CPU; context, kernels and workspaces on a GPU (not measured)."""
GPU_HEAP, CPU_HEAP = 1.08, 1.8
"""Memory held by the allocator over memory in use. On a CPU, glibc below 2.38 cannot reuse an aligned block that has a
small neighbour: runs of 96 to 600 steps held 1.5 to 1.8 times what their tensors took."""


@dataclass(frozen=True)
class Shape:
    """Sizes from a model's configuration."""

    linear: int
    """Parameters of the base's linear layers."""
    other: int
    lora: int
    """Parameters of the adapter."""
    layers: int
    hidden: int
    intermediate: int
    attention: int
    """Width of all query heads together."""
    kv: int
    """Width of all key heads together."""
    vocabulary: int


@dataclass(frozen=True)
class Use:
    """How a stage uses the model."""

    tokens: int
    """Longest sequence, prompt and completion."""
    micro_batch: int
    """Rows of one forward pass."""
    checkpointing: bool
    weight_bits: float
    """Of the frozen linear layers; embeddings and norms are at least 16."""
    compute_bytes: int
    """Of activations: 2 under bf16 or fp16, 4 under fp32."""
    sides: int = 1
    """Sequences of one row: 2 for a pair."""
    reference: bool = False
    """A second, frozen copy of the adapter for the KL."""
    generated: int = 0
    """Sequences generated at once."""
    optimizer_bytes: float = 8.0
    """Per trained parameter: 8 for AdamW in fp32."""
    trains: bool = True
    world: int = 1
    zero: int = 0
    gpu: bool = True


def components(shape: Shape, use: Use) -> dict[str, float]:
    """Bytes by component; training and generation take turns."""
    c = use.compute_bytes
    other_bits = max(16.0, use.weight_bits)
    weights = shape.linear * use.weight_bits / 8 + shape.other * other_bits / 8
    shared = use.world if use.zero >= 3 else 1
    sizes = {"process": GPU_PROCESS if use.gpu else CPU_PROCESS, "weights": weights / shared}
    # Adapters are trained in fp32, whatever the base's dtype is (PEFT's autocast_adapter_dtype).
    sizes["adapter"] = 4.0 * shape.lora / shared
    if use.trains:
        gradients = 4.0 * shape.lora / (use.world if use.zero >= 2 else 1)
        buckets = 4.0 * shape.lora if use.world > 1 and use.zero == 0 else 0.0
        sizes["gradients"] = gradients + buckets
        sizes["optimizer"] = use.optimizer_bytes * shape.lora / (use.world if use.zero >= 1 else 1)
        if use.reference:
            sizes["reference"] = 4.0 * shape.lora / shared
        sizes["activations"] = _activations(shape, use)
        sizes["logits"] = _logits(shape, use)
    if use.generated:
        sizes["generation cache"] = 2.0 * use.generated * use.tokens * shape.kv * shape.layers * c
        # The last position's logits of every sequence, in fp32, with the copies that sampling makes.
        sizes["generation cache"] += 3 * 4.0 * use.generated * shape.vocabulary
    return sizes


def peak(sizes: Mapping[str, float], *, gpu: bool) -> float:
    """Peak bytes: everything, but only the larger of training and generation."""
    training = sizes.get("activations", 0.0) + sizes.get("logits", 0.0)
    generation = sizes.get("generation cache", 0.0)
    rest = sum(v for k, v in sizes.items() if k not in ("activations", "logits", "generation cache", "process"))
    return sizes["process"] + (rest + max(training, generation)) * (GPU_HEAP if gpu else CPU_HEAP)


def _activations(shape: Shape, use: Use) -> float:
    """Bytes kept for the backward pass: all layers, or one and every layer's input."""
    c, tokens = use.compute_bytes, use.tokens * use.micro_batch * use.sides
    h, i, a, kv = shape.hidden, shape.intermediate, shape.attention, shape.kv
    # Two norms in fp32 (input and normalised), their outputs; q, k, v before and after rotation, the attention's
    # output; gate, its activation, up, their product.
    layer: float = tokens * (2 * (2 * 4 * h + c * h) + c * (3 * a + 4 * kv) + c * 4 * i)
    weights = use.weight_bits / 8
    if weights != c:
        # Mixed precision: each adapted layer keeps a cast copy of its input, and of its weights until its backward.
        layer += tokens * c * (5 * h + a + i) + c * shape.linear / shape.layers
    if use.checkpointing:
        return layer + c * tokens * h * shape.layers
    return layer * shape.layers


def _logits(shape: Shape, use: Use) -> float:
    # TRL's fused head folds tiles of 4,096 tokens; three tiles of fp32 are alive at once, over the whole vocabulary
    # in the worst case. The head's own input is small.
    return 3 * 4.0 * min(4096, use.tokens * use.micro_batch * use.sides) * min(shape.vocabulary, 8192)


def smaller_settings(use: Use, at: str, batch_rows: int) -> Iterator[tuple[str, Any, Use]]:
    """Recipe keys, values and uses that take less memory, the least harmful first."""
    micro = use.micro_batch
    while use.trains and micro > 1:
        micro = next(m for m in range(micro - 1, 0, -1) if batch_rows % m == 0)
        yield f"{at}.micro_batch_size", micro, replace(use, micro_batch=micro)
    lower = replace(use, micro_batch=micro)
    if use.trains and not use.checkpointing:
        lower = replace(lower, checkpointing=True)
        yield f"{at}.gradient_checkpointing", True, lower
    if use.generated > 1:
        for divisor, text in ((2, "(half of it)"), (4, "(a quarter of it)")):
            if generated := use.generated // divisor:
                # A stage generates whole groups, on several processes; a test set as many rows as it says.
                yield f"{at}.batch_size", text if use.trains else generated, replace(lower, generated=generated)
    if use.weight_bits > 16:
        lower = replace(lower, weight_bits=16.0)
        yield "model.dtype", "bfloat16", lower
    for tokens in (use.tokens // 2, use.tokens // 4):
        yield f"{at}'s length limits", tokens, replace(lower, tokens=tokens)


def advise(shape: Shape, use: Use, available: float, at: str, batch_rows: int) -> str:
    """A sentence on the first settings that make a stage fit."""
    tried: dict[str, Any] = {}
    for key, value, smaller in smaller_settings(use, at, batch_rows):
        tried[key] = value
        need = peak(components(shape, smaller), gpu=use.gpu)
        if need <= available:
            return f"{', '.join(f'{k}={v}' for k, v in tried.items())} needs {need / GB:.2f} GB and fits"
    sizes = components(shape, use)
    largest = max((name for name in sizes if name != "process"), key=lambda name: sizes[name])
    return f"no setting of this recipe makes it fit; the largest part is {largest}: take a smaller base model or rank"


@dataclass(frozen=True)
class StagePlan:
    """The memory of one stage or test set."""

    name: str
    parts: Mapping[str, float]
    peak: float
    available: float | None
    advice: str = ""

    @property
    def fits(self) -> bool:
        """Whether the device has enough memory; True if no device is known."""
        return self.available is None or self.peak <= self.available

    def as_json(self) -> dict[str, Any]:
        """The plan as JSON, in bytes."""
        return {**asdict(self), "fits": self.fits}


def plan_stage(name: str, shape: Shape, use: Use, available: float | None, at: str, batch_rows: int) -> StagePlan:
    """The plan of one stage, with advice if it does not fit."""
    sizes = components(shape, use)
    need = peak(sizes, gpu=use.gpu)
    advice = "" if available is None or need <= available else advise(shape, use, available, at, batch_rows)
    return StagePlan(name, sizes, need, available, advice)


def parse_size(text: str, fail: Callable[[str], Exception]) -> float:
    """`80GB`, `24 GiB`, `8e9` to bytes."""
    units = {"gib": 2.0**30, "mib": 2.0**20, "gb": 1e9, "mb": 1e6, "g": 1e9, "b": 1.0, "": 1.0}
    lowered = text.strip().lower()
    number = lowered.rstrip("abcdefghijklmnopqrstuvwxyz ")
    unit = lowered[len(number) :].strip()
    try:
        return float(number) * units[unit]
    except (ValueError, KeyError):
        raise fail(f"{text!r} is no amount of memory; write 80GB or 24GiB.") from None
