"""Versions of the installed libraries, what this machine has, peak memory, and what a launch asked for."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Any, Final

VERSIONS: Final = (
    *("extraction-adapters", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "tinker"),
    *("deepspeed", "vllm", "bitsandbytes", "flash-linear-attention", "kernels", "numpy"),
)
SHOWN: Final = (
    *("CUDA_VISIBLE_DEVICES", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME"),
    *("ACCELERATE_USE_CPU", "ACCELERATE_MIXED_PRECISION", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "OMP_NUM_THREADS"),
    *("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"),
)
"""Environment variables whose values `describe` shows."""
MENTIONED: Final = (
    *("HF_TOKEN", "WANDB_API_KEY", "TINKER_API_KEY", "OPENAI_API_KEY", "HF_ENDPOINT", "HTTPS_PROXY", "HTTP_PROXY"),
)
"""Environment variables that `describe` calls set or not set: their values hold secrets, or may."""
ACCELERATIONS: Final = {
    "flash-linear-attention": ("fla", "is_flash_linear_attention_available"),
    "causal-conv1d": ("causal_conv1d", "is_causal_conv1d_available"),
    "flash-attn (flash_attention_2)": ("flash_attn", "is_flash_attn_2_available"),
    "flash-attn-3 (flash_attention_3)": ("flash_attn_interface", "is_flash_attn_3_available"),
    "kernels": ("kernels", "is_kernels_available"),
    "bitsandbytes": ("bitsandbytes", "is_bitsandbytes_available"),
    "deepspeed": ("deepspeed", ""),
    "vllm": ("vllm", ""),
}
"""Name -> its module, and the check of transformers that says whether it can be used here."""
HUB_SECONDS: Final = 5.0

PROCESSES = "ADAPTERS_PROCESSES"
"""Environment variable of a launch: the number of processes that were asked for, or LATER."""
LATER = "later"
"""This process plans what a launch file's processes will train."""
LOG_LEVEL, SILENT = "TORCH_CPP_LOG_LEVEL", "FATAL"
"""Environment variable that torch reads once, and the value that silences its C++ parts."""


def versions() -> dict[str, str]:
    """Versions of Python and of the installed libraries that training depends on."""
    installed = {"python": platform.python_version()}
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
    # Linux keeps ru_maxrss through fork and exec: a child of a large process would report its parent's memory.
    with suppress(OSError, ValueError), open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024.0
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1.0 if sys.platform == "darwin" else 1e3)


def describe() -> dict[str, Any]:
    """What a bug report needs to know of this machine. Holds no secret, but paths of the user."""
    return {
        "versions": versions(),
        "machine": {
            "platform": platform.platform(),
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "memory": _memory(),
        },
        "devices": _tried(_devices),
        "accelerations": _tried(_accelerations),
        "hub": _tried(_hub),
        "variables": {
            **{name: os.environ.get(name, "not set") for name in SHOWN},
            **{name: "set" if os.environ.get(name) else "not set" for name in MENTIONED},
        },
    }


def _tried(part: Callable[[], Any]) -> Any:
    try:
        return part()
    except Exception as error:  # a broken library is what the report is about
        return f"cannot be said: {type(error).__name__}: {error}"


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory() -> str | None:
    with suppress(AttributeError, ValueError, OSError):
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.1f} GB"
    return None


def _devices() -> Any:
    import torch

    if not torch.cuda.is_available():
        other = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return f"{other}" if other else "none: training runs on the processor"
    found: dict[str, Any] = {"CUDA of torch": torch.version.cuda, "driver": _driver()}
    for n in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(n)
        with torch.cuda.device(n):
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        found[f"cuda:{n}"] = f"{card.name}, {card.total_memory / 1e9:.1f} GB, {'bf16' if native else 'no bf16'}"
    return found


def _driver() -> str | None:
    if (program := shutil.which("nvidia-smi")) is None:
        return None
    command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)  # noqa: S603
    return next(iter(done.stdout.split()), None)


def _accelerations() -> dict[str, str]:
    from transformers.utils import import_utils

    found = {}
    for name, (module, check) in ACCELERATIONS.items():
        usable = getattr(import_utils, check)() if check else True
        absent = find_spec(module) is None
        found[name] = "not installed" if absent else "found" if usable else "installed, but transformers cannot use it"
    return found


def _hub() -> str:
    from huggingface_hub import HfApi, constants, get_token

    if constants.HF_HUB_OFFLINE:
        return "not asked: HF_HUB_OFFLINE is set"
    if get_token() is None:
        return "not logged in"
    answer = [f"cannot be reached within {HUB_SECONDS:g} seconds"]

    def ask() -> None:
        try:
            answer[0] = f"logged in as {HfApi().whoami()['name']}"
        except Exception as error:  # its text may name addresses
            answer[0] = f"the Hub could not be asked: {type(error).__name__}"

    asking = Thread(target=ask, daemon=True)
    asking.start()
    asking.join(HUB_SECONDS)
    return answer[0]
