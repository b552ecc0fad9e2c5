"""Versions of the installed libraries and the peak memory of this process."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

VERSIONS = ("extraction-adapters", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "tinker")


def versions() -> dict[str, str]:
    """Versions of what made an adapter."""
    out = {}
    for name in VERSIONS:
        try:
            out[name] = version(name)
        except PackageNotFoundError:
            continue
    return out


def peak_memory_gb() -> float | None:
    """Highest resident memory of this process so far, in GB (10^9 bytes); None where the system does not tell."""
    try:
        import resource
        import sys
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1e9 if sys.platform == "darwin" else 1e6), 2)
