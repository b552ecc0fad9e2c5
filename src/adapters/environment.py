"""Versions of the installed libraries, the peak memory of this process, and what a launch asked for."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

VERSIONS = ("extraction-adapters", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "tinker")

PROCESSES = "ADAPTERS_PROCESSES"
"""Environment variable of a launch: the number of processes that were asked for, or LATER."""
LATER = "later"
"""This process plans what a launch file's processes will train."""
LOG_LEVEL, SILENT = "TORCH_CPP_LOG_LEVEL", "FATAL"
"""Environment variable that torch reads once, and the value that silences its C++ parts."""


def versions() -> dict[str, str]:
    """Versions of the installed libraries that training depends on."""
    installed = {}
    for name in VERSIONS:
        with suppress(PackageNotFoundError):
            installed[name] = version(name)
    return installed


def peak_memory() -> dict[str, float | None]:
    """Peak memory of this process in GB (10^9 bytes): `peak_memory_gb`, that of the device it computes on.

    On a GPU it is what torch's allocator held at most, without the context and the kernels, and `peak_host_memory_gb`
    is the host's beside it. Elsewhere it is the host's resident memory (None on Windows).
    """
    host, device = _peak_host_bytes(), _peak_device_bytes()
    if not device:
        return {"peak_memory_gb": _gb(host)}
    return {"peak_memory_gb": _gb(device), "peak_host_memory_gb": _gb(host)}


def peak_memory_text(record: Mapping[str, Any]) -> str | None:
    """The peak memory that a manifest records, for a person; None if it records none."""
    if not isinstance(peak := record.get("peak_memory_gb"), int | float) or not peak:
        return None
    host = record.get("peak_host_memory_gb")
    return f"{peak:.1f} GB" + (f" (host {host:.1f} GB)" if isinstance(host, int | float) else "")


def _gb(size: float | None) -> float | None:
    return None if size is None else round(size / 1e9, 2)


def _peak_device_bytes() -> int:
    torch = sys.modules.get("torch")  # a backend that computes here has imported it
    if torch is None or not torch.accelerator.is_available():
        return 0
    return int(torch.accelerator.max_memory_reserved())  # 0 for a process that does not use its accelerator


def _peak_host_bytes() -> float | None:
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1.0 if sys.platform == "darwin" else 1e3)
