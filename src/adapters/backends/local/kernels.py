"""Which layers of a base model run on a slow PyTorch fallback, because a package with their kernels is missing."""

from __future__ import annotations

import importlib
import inspect
from types import FunctionType
from typing import Any, Final

from transformers import AutoConfig, AutoModelForCausalLM

from adapters.backends.local.base_model import Base

RECURRENT: Final = ("linear_attention", "hybrid", "hybrid_sliding", "conv")
"""Layer types of transformers whose state mixes tokens without attention."""
INSTALL: Final = {
    "fla": "flash-linear-attention (pip install -c constraints.txt -e '.[gpu]' in the repository)",
    "causal_conv1d": "causal-conv1d (pip install --no-build-isolation causal-conv1d; it is compiled)",
    "mamba_ssm": "mamba-ssm (pip install --no-build-isolation mamba-ssm; it is compiled)",
}
"""Package whose kernels transformers looks for -> what to install."""


def slow_layers(base: Base) -> str | None:
    """A sentence on layers without their kernels and what to install; None if there are none, or no config here."""
    config = _config(base)
    kinds = layer_types(base)
    count = sum(kind in RECURRENT for kind in kinds)
    absent = [INSTALL.get(package, package) for package in _fallbacks(config)] if count else []
    if not absent:
        return None
    return f"{count} of {len(kinds)} layers run on a PyTorch fallback, correct but slow; install {' and '.join(absent)}"


def layer_types(base: Base) -> list[str]:
    """The type of each layer, in transformers' words; empty where all are alike or the config is not here."""
    config = _config(base)
    return list(getattr(config and config.get_text_config(decoder=True), "layer_types", None) or ())


def _config(base: Base) -> Any:
    try:
        return AutoConfig.from_pretrained(base.load, revision=base.revision)
    except (OSError, ValueError, ImportError):  # what loads the base says it better
        return None


def _fallbacks(config: Any) -> list[str]:
    """Packages that the model's module looked for when it was imported, and whose function it does not use."""
    model = AutoModelForCausalLM._model_mapping.get(type(config), None)
    if model is None:  # code of the repository
        return []
    module = importlib.import_module(model.__module__)
    packages: dict[str, None] = {}
    for _, function in inspect.getmembers(module, inspect.isfunction):
        # transformers' use_kernel_func_from_hub_with_fallback decides at import, and keeps its choice in a closure.
        chosen = _closure(function)
        if chosen.get("is_new_implementation") is False and isinstance(chosen.get("package"), str):
            packages[chosen["package"]] = None
    return sorted(packages, key=lambda package: list(INSTALL).index(package) if package in INSTALL else len(INSTALL))


def _closure(function: FunctionType) -> dict[str, Any]:
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=False)
    return {name: cell.cell_contents for name, cell in cells}
