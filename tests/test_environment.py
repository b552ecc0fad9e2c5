"""What a run records about its peak memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from adapters.environment import peak_memory, peak_memory_text


def test_on_a_cpu_it_is_the_process() -> None:
    found = peak_memory()
    assert found.keys() == {"peak_memory_gb"}
    assert 0.01 < (found["peak_memory_gb"] or 0) < 100
    assert peak_memory_text({"peak_memory_gb": 5.46}) == "5.5 GB"
    assert peak_memory_text({"peak_memory_gb": None}) is None


def test_on_a_gpu_it_is_the_gpu_with_the_host_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "max_memory_reserved", lambda: 61_200_000_000)
    found = peak_memory()
    assert found["peak_memory_gb"] == 61.2
    assert 0.01 < (found["peak_host_memory_gb"] or 0) < 60
    assert peak_memory_text({**found, "peak_host_memory_gb": 19.04}) == "61.2 GB (host 19.0 GB)"
    monkeypatch.setattr(torch.accelerator, "max_memory_reserved", lambda: 0)
    assert peak_memory().keys() == {"peak_memory_gb"}, "a process that does not use the GPU"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is read from /proc")
def test_the_peak_of_a_process_is_not_its_parents() -> None:
    held = bytearray(500_000_000)
    held[::4096] = b"x" * len(held[::4096])
    asked = "from adapters.environment import peak_memory; print(peak_memory()['peak_memory_gb'])"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert 0 < float(done.stdout) < 0.3 < len(held) / 1e9
