"""Versions of the installed libraries, the peak memory of this process, and what a launch asked for."""

from __future__ import annotations

from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

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


def peak_memory_gb() -> float | None:
    """Peak resident memory of this process in GB (10^9 bytes); None on Windows."""
    try:
        import resource
        import sys
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1e9 if sys.platform == "darwin" else 1e6), 2)
