"""Versions of the installed libraries and the peak memory of this process."""

from __future__ import annotations

from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

VERSIONS = ("extraction-adapters", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "tinker")


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
