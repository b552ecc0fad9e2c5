"""Estimate a stage's memory from the model's shape, without loading anything.

All figures are bytes of one process. What is counted and what not: docs/checking.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

GB = 1e9
CPU_PROCESS, GPU_PROCESS = 0.74 * GB, 1.0 * GB
"""Libraries and code of a training process on a CPU (0.58 to 0.60 GB measured, and a quarter more, so that the parts'
sum is not below what short runs measure); context, kernels and workspaces on a GPU (not measured)."""
GPU_HEAP, CPU_HEAP = 1.08, 1.8
"""Memory held by the allocator over memory in use. On a CPU, glibc below 2.38 cannot reuse an aligned block that has a
small neighbour: runs of 96 to 600 steps held 1.5 to 1.8 times what their tensors took."""


@dataclass(frozen=True)
class Pass:
    """Bytes of one forward and backward pass, by decoder layer."""

    saved: tuple[float, ...]
    """Kept by each layer for its backward pass, its input among it; parameters are not counted."""
    inputs: tuple[float, ...]
    workspace: tuple[float, ...]
    """The most that each layer's two passes hold beyond `saved`, its output and gradients among it."""
    outside: float = 0.0
    """Kept outside the layers: embeddings, masks, rotations, the last norm."""

    def kept(self, *, checkpointing: bool) -> tuple[float, float]:
        """Bytes kept by all layers, and the largest workspace on top of them."""
        if not checkpointing:
            return self.outside + sum(self.saved), max(self.workspace)
        # Every layer's input; and one layer at a time is computed again.
        layers = zip(self.saved, self.inputs, self.workspace, strict=True)
        again, more = max(((s - i, w) for s, i, w in layers), key=sum)
        return self.outside + sum(self.inputs) + again, more


class Layers(Protocol):
    """What a model's decoder layers keep, by rows and tokens of a row."""

    def training(self, rows: int, tokens: int) -> Pass:
        """A forward and backward pass."""

    def sampling(self, rows: int, tokens: int) -> tuple[tuple[float, ...], float]:
        """Reading prompts: bytes of each layer's cache after it, and the most that a layer's pass holds beside it."""


@dataclass(frozen=True)
class StandardLayers:
    """A formula for standard decoder layers: full attention and a gated MLP."""

    layers: int
    hidden: int
    intermediate: int
    attention: int
    """Width of all query heads together."""
    kv: int
    """Width of all key heads together."""
    compute_bytes: int
    cast: float = 0.0
    """Bytes of a layer's weights that are cast for the arithmetic, and kept."""

    def training(self, rows: int, tokens: int) -> Pass:
        """See `Layers`. Counts norms in fp32, the inputs of all linear layers cast for their adapters, and q, k, v."""
        c, t = self.compute_bytes, rows * tokens
        h, i, a, kv = self.hidden, self.intermediate, self.attention, self.kv
        # Two norms in fp32 (input and normalised), their outputs; q, k, v before and after rotation, the attention's
        # output; gate, its activation, up, their product; and what the adapters of seven layers keep of their inputs.
        layer: float = t * (2 * (2 * 4 * h + c * h) + c * (3 * a + 4 * kv) + c * 4 * i)
        if c != 4:
            layer += t * c * (5 * h + a + i) + self.cast
        n = self.layers
        return Pass((layer,) * n, (float(c * t * h),) * n, (float(t * c * (2 * h + 2 * i)),) * n)

    def sampling(self, rows: int, tokens: int) -> tuple[tuple[float, ...], float]:
        """See `Layers`."""
        c, t = self.compute_bytes, rows * tokens
        cache = 2.0 * t * self.kv * c
        return (cache,) * self.layers, float(t * c * (4 * self.hidden + 3 * self.intermediate))


@dataclass(frozen=True)
class Shape:
    """Sizes of a model."""

    linear: int
    """Parameters of the base's linear layers."""
    other: int
    lora: int
    """Parameters of the adapter."""
    adapted: int
    """Parameters of the base's layers that the adapter changes; 0: it cannot be merged for sampling."""
    hidden: int
    vocabulary: int
    layers: Layers
    reads_once: bool = False
    """A prompt is read once for all its completions."""


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
    target: int = 0
    """Longest completion whose tokens are scored; 0: all tokens are."""
    reference: bool = False
    """A second, frozen copy of the adapter for the KL."""
    teachers: int = 0
    """Values of the frozen adapters that judge the completions."""
    generated: int = 0
    """Sequences generated at once."""
    prompt: int = 0
    """Longest prompt of those."""
    prompts: int = 0
    """Prompts read at once."""
    merged_copy: bool = False
    """Sequences are generated with a merged copy of the adapted layers' weights."""
    vllm: VllmUse | None = None
    """vLLM in the same process generates the sequences."""
    optimizer_bytes: float = 8.0
    """Per trained parameter: 8 for AdamW in fp32."""
    trains: bool = True
    world: int = 1
    zero: int = 0
    gpu: bool = True


@dataclass(frozen=True)
class VllmUse:
    """What vLLM samples in the trainer's process."""

    sequences: int
    """Sequences sampled at once by this process's engine."""
    sleeps: bool = False
    """vLLM gives its memory back while the trainer trains."""
    gpus: int = 1
    """GPUs that share one copy of the weights."""
    held: float | None = None
    """Bytes that vLLM is given; None: what `vllm_bytes` says."""


GENERATION = ("generation cache", "reading prompts", "merged copy", "cast weights", "vLLM (asleep in training)")
TRAINING = ("activations", "workspace", "logits")
EXACT = ("process", "vLLM", "vLLM (asleep in training)")
"""Parts that are what a process or its allocator holds, not what is in use inside it."""
VLLM_OVERHEAD = 3.0 * GB
"""Of vLLM beside weights and cache: its context, CUDA graphs, and the pass by which it measures itself (not measured
here)."""


def components(shape: Shape, use: Use) -> dict[str, float]:
    """Bytes by component; training and generation take turns."""
    shared = use.world if use.zero >= 3 else 1
    sizes = {"process": GPU_PROCESS if use.gpu else CPU_PROCESS, "weights": weight_bytes(shape, use) / shared}
    # Adapters are trained in fp32, whatever the base's dtype is (PEFT's autocast_adapter_dtype).
    sizes["adapter"] = 4.0 * shape.lora / shared
    if use.trains:
        gradients = 4.0 * shape.lora / (use.world if use.zero >= 2 else 1)
        buckets = 4.0 * shape.lora if use.world > 1 and use.zero == 0 else 0.0
        sizes["gradients"] = gradients + buckets
        sizes["optimizer"] = use.optimizer_bytes * shape.lora / (use.world if use.zero >= 1 else 1)
        if use.reference:
            sizes["reference"] = 4.0 * shape.lora / shared
        if use.teachers:
            # Loaded in fp32. One judges at a time, a layer after another, while the student's activations are kept.
            _, pass_of_layer = shape.layers.sampling(use.micro_batch, use.tokens)
            judged = use.compute_bytes * shape.hidden * use.micro_batch * use.target
            sizes["teachers"] = 4.0 * use.teachers + pass_of_layer + judged
        layers = shape.layers.training(use.micro_batch * use.sides, use.tokens)
        sizes["activations"], workspace = layers.kept(checkpointing=use.checkpointing)
        sizes["logits"] = _logits(shape, use)
        # The head's backward pass is over when the layers' begins.
        sizes["workspace"] = max(0.0, workspace - sizes["logits"])
    if use.vllm:
        name = "vLLM (asleep in training)" if use.vllm.sleeps else "vLLM"
        sizes[name] = use.vllm.held or vllm_bytes(shape, use.tokens, use.vllm)
    elif use.generated:
        caches, reading = _sampling(shape, use)
        # A layer's cache is copied when it grows. The last position's logits of every sequence are in fp32, with the
        # copies that sampling makes.
        sizes["generation cache"] = sum(caches) + max(caches) + 3 * 4.0 * use.generated * shape.vocabulary
        sizes["reading prompts"] = reading
        if use.merged_copy:
            sizes["merged copy"] = merged_copy_bytes(shape, use)
        if use.trains and _casts(use):
            sizes["cast weights"] = use.compute_bytes * shape.linear  # in training a part of the activations
    return sizes


def peak(sizes: Mapping[str, float], *, gpu: bool) -> float:
    """Peak bytes: everything, but only the larger of training and generation."""
    heap = GPU_HEAP if gpu else CPU_HEAP
    held = {name: size * (1.0 if name in EXACT else heap) for name, size in sizes.items()}
    turns = (sum(held.get(name, 0.0) for name in names) for names in (TRAINING, GENERATION))
    return sum(size for name, size in held.items() if name not in (*TRAINING, *GENERATION)) + max(turns)


def weight_bytes(shape: Shape, use: Use) -> float:
    """Bytes of the base's weights, whole."""
    return shape.linear * use.weight_bits / 8 + shape.other * max(16.0, use.weight_bits) / 8


def merged_copy_bytes(shape: Shape, use: Use) -> float:
    """Bytes of a second copy of the adapted layers' weights, in which the adapter is merged."""
    return shape.adapted * max(16.0, use.weight_bits) / 8


def merged_copy_fits(shape: Shape, use: Use, available: float | None) -> bool:
    """Whether sequences can be generated with a merged copy of the adapted layers."""
    return available is None or peak(components(shape, replace(use, merged_copy=True)), gpu=use.gpu) <= available


def vllm_bytes(shape: Shape, tokens: int, vllm: VllmUse) -> float:
    """Bytes of vLLM: weights once more, the cache of the sequences it samples at once, and its own overhead."""
    caches, _ = shape.layers.sampling(1, tokens)
    shared = 2.0 * (shape.linear + shape.other) + vllm.sequences * sum(caches)
    return shared / vllm.gpus + VLLM_OVERHEAD


def vllm_share(shape: Shape, use: Use, available: float) -> float | None:
    """`vllm_gpu_memory_utilization` for a stage that vLLM samples beside its training (`use.vllm`).

    The share that all sequences need at once or, if that does not fit beside the training, what is left: vLLM then
    samples them in turns. None: not even one sequence fits. `available` is the GPU's whole memory in bytes.
    """
    vllm = use.vllm or VllmUse(use.generated)
    sizes = components(shape, replace(use, vllm=None, generated=0))
    free = available - peak({k: v for k, v in sizes.items() if not (vllm.sleeps and k in TRAINING)}, gpu=use.gpu)
    one = vllm_bytes(shape, use.tokens, replace(vllm, sequences=1))
    wanted = math.ceil(100 * vllm_bytes(shape, use.tokens, vllm) / available) / 100
    share = min(wanted, math.floor(100 * free / available) / 100)
    return share if share * available >= one else None


def _sampling(shape: Shape, use: Use) -> tuple[list[float], float]:
    """Bytes of each layer's cache at the end of all rows, and of reading their prompts."""
    caches, _ = shape.layers.sampling(1, use.tokens)
    _, reading = shape.layers.sampling(use.prompts or use.generated, use.prompt or use.tokens)
    return [use.generated * size for size in caches], reading


def _logits(shape: Shape, use: Use) -> float:
    tokens = min(use.tokens, use.target or use.tokens) * use.micro_batch * use.sides
    if use.teachers:
        return _judged_logits(shape, use, tokens)
    # TRL's fused head folds tiles of 4,096 tokens and 8,192 entries of the vocabulary; three such tiles of fp32 are
    # alive at once. It keeps its input and adds up that input's gradient in fp32.
    tiles = 3 * 4.0 * min(4096, tokens) * min(shape.vocabulary, 8192)
    if not use.gpu:  # speedups/log_probs.py: 512 tokens, 16 of them in fp32; and the head's weights in their type
        head = use.compute_bytes * shape.hidden if _casts(use) else 0
        tiles = shape.vocabulary * (use.compute_bytes * min(512, tokens) + 3 * 4.0 * min(16, tokens) + head)
    return tiles + tokens * shape.hidden * (4.0 + use.compute_bytes)


def _judged_logits(shape: Shape, use: Use, tokens: int) -> float:
    # local/top_k_kl.py: three tiles of 1,024 tokens with the whole vocabulary are alive at once, in fp32.
    tiles = 3 * 4.0 * min(1024, tokens) * shape.vocabulary
    other_type = max(16.0, use.weight_bits) != 8 * use.compute_bytes
    head = use.compute_bytes * shape.hidden * shape.vocabulary if other_type else 0
    # The hidden states of both sides without padding, and the student's gradient, whole and of a tile.
    return tiles + head + 4.0 * use.compute_bytes * tokens * shape.hidden


def _casts(use: Use) -> bool:
    """Whether frozen weights are kept in the type of the arithmetic too (speedups/casts.py)."""
    return not use.gpu and 8 * use.compute_bytes < use.weight_bits


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
    note: str = ""
    """How parts of it were counted, where that is not the usual way."""

    @property
    def fits(self) -> bool:
        """Whether the device has enough memory; True if no device is known."""
        return self.available is None or self.peak <= self.available

    def as_json(self) -> dict[str, Any]:
        """The plan as JSON, in bytes."""
        return {**asdict(self), "fits": self.fits}


def plan_stage(
    name: str, shape: Shape, use: Use, available: float | None, at: str, batch_rows: int, note: str = ""
) -> StagePlan:
    """The plan of one stage, with advice if it does not fit."""
    sizes = components(shape, use)
    need = peak(sizes, gpu=use.gpu)
    advice = "" if available is None or need <= available else advise(shape, use, available, at, batch_rows)
    return StagePlan(name, sizes, need, available, advice, note)


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
