"""Bytes that a model's layers keep and use, counted on tensors without data.

The real model code, wrapped by PEFT and cast as the trainer does, runs on the meta device, whose tensors have shapes
and types but no memory. So any architecture is counted as it is written. One layer of each kind is run.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from itertools import chain
from typing import Any
from unittest.mock import patch

import torch
from peft import PeftModel
from peft.helpers import disable_input_dtype_casting
from peft.tuners.lora import LoraLayer
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from transformers import Cache, masking_utils
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from adapters.backends.local.speedups import layers as products
from adapters.backends.local.speedups.caches import plain_attention
from adapters.backends.local.speedups.casts import Casts
from adapters.backends.memory import Pass

FLASH = "memory_plan_flash"
"""Name of the attention function that stands for flash attention packages; no mask is built for it."""
FP32_ON_CUDA = {
    *("acos", "asin", "cosh", "erfinv", "exp", "expm1", "log", "log10", "log2", "log1p", "reciprocal", "rsqrt"),
    *("sinh", "tan", "pow", "__pow__", "softplus", "layer_norm", "rms_norm", "group_norm", "cosine_similarity"),
    *("logsumexp", "prod", "softmax", "log_softmax", "cumprod", "cumsum", "norm", "sum"),
}
"""What autocast computes in 32 bits on CUDA (ATen/autocast_mode.h); on a CPU it leaves these as they are."""
HALF = {
    *("linear", "matmul", "__matmul__", "__rmatmul__", "mm", "mv", "bmm", "addmm", "addmv", "addr", "addbmm"),
    *("baddbmm", "einsum", "prelu", "chain_matmul", "multi_dot", "vecdot", "conv1d", "conv2d", "conv3d"),
    *("conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "conv_tbc"),
}
"""What autocast computes in 16 bits; it knows no meta device, so the casts are made here."""
CHUNK = 64
"""Tokens of a chunk in flash-linear-attention."""


class Trace:
    """Counts passes of a PEFT model on the meta device; see `adapters.backends.memory.Layers`.

    `compute_bytes` 2: under autocast. `attention`: the name of the implementation that training uses. `fused`: linear
    attention as in flash-linear-attention, counted from what its source (0.6.0) saves.
    """

    def __init__(self, model: PeftModel, *, compute_bytes: int, gpu: bool, attention: str, fused: bool) -> None:
        self.model, self.gpu = model.train(), gpu
        self.half = compute_bytes == 2
        self.base = model.get_base_model()
        self.backbone = self.base.base_model
        self.layers = _decoder_layers(self.base)
        self.kinds = [_kind(layer) for layer in self.layers]
        self.attention = FLASH if "flash" in attention else attention
        # On a CPU the product concatenates the rows of a pass (speedups/padding_free.py).
        self.unpadded = not gpu and self.base.config._attn_implementation == "sdpa" and plain_attention(self.base)
        names = [name for _, name, _ in _kernels(self.backbone, fused=fused)]
        self.recurrent, self.fused = bool(names), fused and any(map(_is_delta_rule, names))
        model.to("meta")  # buffers are on the CPU still
        self.parameters = {tensor.untyped_storage() for tensor in chain(model.parameters(), model.buffers())}
        self.training, self.sampling = cache(self._training_at_most), cache(self._sampling)

    def _training_at_most(self, rows: int, tokens: int) -> Pass:
        """Of rows up to so many tokens: just above `products.LONGEST` a shorter row takes more than the longest."""
        longest = self._training(rows, tokens)
        if not (self.unpadded and self.half and tokens > products.LONGEST):
            return longest
        shorter = self._training(rows, products.LONGEST)
        saved, inputs, workspace = (
            tuple(map(max, getattr(longest, part), getattr(shorter, part))) for part in ("saved", "inputs", "workspace")
        )
        return Pass(saved, inputs, workspace, longest.outside)

    def _training(self, rows: int, tokens: int) -> Pass:
        saved: dict[Any, float] = {}
        inputs: dict[Any, float] = {}
        workspace: dict[Any, float] = {}
        outside = _Saved(self.parameters)

        def run(kind: Any, layer: Any, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
            # Every layer but the first has an input that needs a gradient.
            args, kwargs = tree_map_only(torch.Tensor, _leaf, (args, kwargs))
            hidden = next(leaf for leaf in tree_leaves((args, kwargs)) if _trains(leaf))
            shared = {leaf.untyped_storage() for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
            shared = (shared | self.parameters) - {hidden.untyped_storage()}
            own = _Saved(shared)
            with _Live(shared | {hidden.untyped_storage()}) as live:
                with own.counting():
                    output = forward(*args, **kwargs)
                first = next(leaf for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor))
                leaves = [hidden, *(p for p in layer.parameters() if p.requires_grad)]
                torch.autograd.grad(first, leaves, torch.empty_like(first), allow_unused=True)
            inputs[kind] = hidden.untyped_storage().nbytes()
            saved[kind] = own.bytes
            workspace[kind] = max(0, live.peak + inputs[kind] - own.bytes)
            return tree_map_only(torch.Tensor, lambda made: made.detach().requires_grad_(made is first), output)

        with self._running(run, rows, tokens) as batch, self._fast_layers(), outside.counting():
            embedded = self.base.get_input_embeddings().register_forward_hook(lambda *call: call[2].requires_grad_())
            try:
                self.backbone(**batch, use_cache=False)
            finally:
                embedded.remove()
        each = (tuple(found[kind] for kind in self.kinds) for found in (saved, inputs, workspace))
        return Pass(next(each), next(each), next(each), outside.bytes)

    @contextmanager
    def _fast_layers(self) -> Iterator[None]:
        """The LoRA layers of a pass without padding (speedups/padding_free.py)."""
        fast = self.unpadded and (self.half or products.in_32_bits(self.backbone))
        adapted = [module for module in self.model.modules() if isinstance(module, LoraLayer)] if fast else []
        with products.low_rank(adapted, Casts(), torch.bfloat16 if self.half else torch.float32):
            yield

    def _sampling(self, rows: int, tokens: int) -> tuple[tuple[float, ...], float]:
        found: dict[Any, tuple[float, float]] = {}

        def run(kind: Any, layer: Any, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
            states = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Cache)]
            before = _cached(states)
            known = {leaf.untyped_storage() for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
            with _Live(known | self.parameters) as live:
                output = forward(*args, **kwargs)
            size = _cached(states) - before
            found[kind] = size, max(0.0, live.peak - size)
            return output

        with torch.no_grad(), self._running(run, rows, tokens) as batch:
            self.backbone(**batch, use_cache=True)
        return tuple(found[kind][0] for kind in self.kinds), max(peak for _, peak in found.values())

    @contextmanager
    def _running(self, run: Callable[..., Any], rows: int, tokens: int) -> Iterator[dict[str, Any]]:
        """Replace each layer's forward; the model's inputs. Kinds that were run are not run again."""
        outputs: dict[Any, Any] = {}

        def replaced(kind: Any, layer: Any, forward: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                if kind not in outputs:
                    outputs[kind] = run(kind, layer, forward, args, kwargs)
                return outputs[kind]

            return call

        config = self.backbone.config
        with ExitStack() as stack:
            for kind, layer in zip(self.kinds, self.layers, strict=True):
                stack.enter_context(patch.object(layer, "forward", replaced(kind, layer, layer.forward)))
            if self.attention == FLASH:
                stack.enter_context(patch.object(config, "_attn_implementation_internal", FLASH))
                ALL_ATTENTION_FUNCTIONS[FLASH] = _flash_attention
                stack.callback(ALL_ATTENTION_FUNCTIONS.__delitem__, FLASH)
            if self.unpadded and self.half:
                stack.enter_context(disable_input_dtype_casting(self.model))
            # Of tensors without data, it cannot be seen whether masks can be left out. Rows are not packed.
            stack.enter_context(patch.object(masking_utils, "find_packed_sequence_indices", lambda positions: None))
            for module, name, function in _kernels(self.backbone, fused=self.fused):
                stack.enter_context(patch.object(module, name, function))
            stack.enter_context(patch.object(masking_utils, "is_tracing", lambda *tensor: True))
            stack.enter_context(torch.device("meta"))
            kernels = _Kernels(gpu=self.gpu, half=self.half, upcast=self.unpadded)
            stack.enter_context(patch.object(torch, "autocast", kernels.autocast))
            stack.enter_context(kernels)
            batch = {"input_ids": torch.zeros(rows, tokens, dtype=torch.long)}
            if rows > 1 and not self.unpadded:  # rows of several lengths have padding; one row has none
                batch["attention_mask"] = torch.ones(rows, tokens, dtype=torch.long)
            yield batch


def _leaf(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().requires_grad_(tensor.requires_grad)


def _trains(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.requires_grad


def _decoder_layers(model: Any) -> list[Any]:
    """The units of gradient checkpointing, or the longest list of modules."""
    if layers := [m for m in model.base_model.modules() if isinstance(m, GradientCheckpointingLayer)]:
        return layers
    lists: list[Any] = [list(m) for m in model.modules() if isinstance(m, torch.nn.ModuleList)]
    return max(lists, key=len)


def _kind(layer: Any) -> tuple[Any, ...]:
    """What makes two layers compute alike: classes, shapes and settings of all parts."""
    parts = []
    for name, module in layer.named_modules():
        plain = {k: v for k, v in vars(module).items() if isinstance(v, int | float | str | None) and "idx" not in k}
        shapes = [(n, tuple(p.shape), p.dtype) for n, p in module.named_parameters(recurse=False)]
        parts.append((name, type(module), tuple(sorted(plain.items(), key=str)), tuple(shapes)))
    return tuple(parts)


def _cached(states: Sequence[Cache]) -> float:
    """Bytes of the caches' tensors (a window's tensors may be views of longer ones)."""
    parts = {id(part): part for state in states for part in (state, *state.layers)}.values()
    tensors = (leaf for part in parts for leaf in tree_leaves(vars(part)))
    return sum(float(leaf.numel() * leaf.itemsize) for leaf in tensors if isinstance(leaf, torch.Tensor))


class _Saved:
    """Storages saved for backward, each counted once, other than those of `known`."""

    def __init__(self, known: set[Any]) -> None:
        self.storages, self.known = dict.fromkeys(known, 0), known

    @property
    def bytes(self) -> float:
        return float(sum(self.storages.values()))

    def counting(self) -> Any:
        return torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        self.storages.setdefault(storage, storage.nbytes())
        return tensor.detach()  # the tensor itself would keep its own graph alive


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The most bytes that tensors made inside held at once."""

    def __init__(self, known: set[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self.seen = weakref.WeakSet(known)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = function(*args, **(kwargs or {}))
        for leaf in output if isinstance(output, tuple | list) else (output,):
            if isinstance(leaf, torch.Tensor) and (storage := leaf.untyped_storage()) not in self.seen:
                self.seen.add(storage)
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._free, storage.nbytes())
        return output

    def _free(self, size: int) -> None:
        self.now -= size


class _Kernel(torch.autograd.Function):
    """Stands for a fused kernel: `make(*inputs)` gives its output, what it saves, and what its backward makes."""

    @staticmethod
    def forward(ctx: Any, make: Any, *inputs: torch.Tensor) -> torch.Tensor:
        output, saved, ctx.temporary = make(*inputs)
        ctx.save_for_backward(*saved)
        ctx.inputs = [(tensor.shape, tensor.dtype) for tensor in inputs]
        return output  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        temporary, made = (
            [torch.empty(shape, dtype=dtype, device="meta") for shape, dtype in tensors]
            for tensors in (ctx.temporary, ctx.inputs)
        )
        del temporary
        return (None, *made)


_kernel: Callable[..., Any] = _Kernel.apply


class _Kernels(TorchFunctionMode):
    """Attention and casts as on the device that is planned for."""

    def __init__(self, *, gpu: bool, half: bool, upcast: bool) -> None:
        self.gpu, self.half, self.upcast = gpu, half, upcast

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, getattr(function, "__name__", "")
        if name == "scaled_dot_product_attention":
            return self._attention(*args, **kwargs)
        if self.half and name in HALF:
            args, kwargs = tree_map_only(torch.Tensor, _half, (args, kwargs))
        elif self.half and self.gpu and name in FP32_ON_CUDA:
            args, kwargs = tree_map_only(torch.Tensor, _float, (args, kwargs))
        return function(*args, **kwargs)

    @contextmanager
    def autocast(self, *args: Any, enabled: bool = True, **kwargs: Any) -> Iterator[None]:
        """In place of `torch.autocast`, by which a model computes parts of itself in full precision."""
        usual, self.half = self.half, self.half and enabled
        try:
            yield
        finally:
            self.half = usual

    def _attention(self, query: Any, key: Any, value: Any, attn_mask: Any = None, *args: Any, **kwargs: Any) -> Any:
        given = query.dtype
        if self.half:
            query, key, value = (_half(t) for t in (query, key, value))
        if self.upcast and self.half and key.shape[2] <= products.LONGEST:
            return _kernel(_products_save, query, key, value).to(given)
        if self.upcast:
            query, key, value = (t.float() for t in (query, key, value))
        grouped = query.shape[1] != key.shape[1]
        narrow = query.shape[-1] == value.shape[-1] <= 256
        if self.gpu and grouped and (attn_mask is not None or not narrow or query.dtype == torch.float32):
            # No fused kernel takes this: torch's own math, in 32 bits.
            groups = query.shape[1] // key.shape[1]
            query, key, value = query.float(), *(t.float().repeat_interleave(groups, 1) for t in (key, value))
            scores = query @ key.transpose(-1, -2)
            return (scores.softmax(-1) @ value).to(given)
        return _kernel(_attention_saves(attn_mask), query, key, value)


def _float(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def _half(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.bfloat16() if tensor.dtype == torch.float32 else tensor


def _attention_saves(mask: torch.Tensor | None) -> Callable[..., Any]:
    """Flash attention without a mask; with one, the memory-efficient kernel, which takes it as numbers."""

    def make(query: Any, key: Any, value: Any) -> Any:
        output = query.new_empty(*query.shape[:-1], value.shape[-1])
        saved = [query, key, value, output, query.new_empty(query.shape[:-1], dtype=torch.float32)]
        if mask is not None:
            saved.append(mask if mask.is_floating_point() else query.new_empty(mask.shape))
        return output, saved, [(query.shape, torch.float32)]

    return make


def _products_save(query: Any, key: Any, value: Any) -> Any:
    """speedups/layers.py: Attention."""
    output, scores = query.new_empty(*query.shape[:-1], value.shape[-1]), (*query.shape[:-1], key.shape[2])
    return output, [query, key, value, query.new_empty(scores)], [(scores, torch.float32)]


def _flash_attention(module: Any, query: Any, key: Any, value: Any, mask: Any, **rest: Any) -> tuple[Any, None]:
    return _kernel(_attention_saves(None), query, key, value).transpose(1, 2).contiguous(), None


def _kernels(model: Any, *, fused: bool) -> Iterator[tuple[Any, str, Any]]:
    """Names in the model's code that may stand for Triton or CUDA kernels, and what to run instead."""
    for module in {sys.modules[type(part).__module__] for part in model.modules()}:
        for name, function in list(vars(module).items()):
            if fused and _is_delta_rule(name):
                yield module, name, _fused_delta_rule
            elif "is_new_implementation" in getattr(getattr(function, "__code__", None), "co_freevars", ()):
                yield module, name, function.__wrapped__  # transformers' own, where a package's kernel would run


def _is_delta_rule(name: str) -> bool:
    return name.endswith("chunk_gated_delta_rule")


def _fused_delta_rule(query: Any, key: Any, value: Any, *, g: Any, beta: Any, **rest: Any) -> tuple[Any, Any]:
    output = _kernel(_delta_rule_saves, query, key, value, g, beta)
    state = (value.shape[0], value.shape[2], key.shape[3], value.shape[3])
    return output, value.new_empty(state, dtype=torch.float32) if rest.get("output_final_state") else None


def _delta_rule_saves(query: Any, key: Any, value: Any, g: Any, beta: Any) -> Any:
    """fla/ops/gated_delta_rule/chunk.py: ChunkGatedDeltaRuleFunction and chunk_gated_delta_rule_bwd."""
    rows, tokens, heads, width = value.shape
    norms = [query.new_empty(t.shape[:-1], dtype=torch.float32) for t in (query, key)]
    normed = [torch.empty_like(query), torch.empty_like(key)]
    inverse = key.new_empty(rows, tokens, heads, CHUNK)
    saved = [*normed, *norms, value.clone(), g.new_empty(g.shape, dtype=torch.float32), beta.clone(), inverse]
    states = ((rows, -(-tokens // CHUNK), heads, key.shape[3], width), value.dtype)
    by_value = [((rows, tokens, heads, n), value.dtype) for n in (key.shape[3], width, width, width)]
    return torch.empty_like(value), saved, [states, states, *by_value]
