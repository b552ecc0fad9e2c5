"""A few kills; `tests/kill_campaign.py --kills 40` makes many, and publishes too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills process groups, which this system does not have")
def test_killed_runs_end_as_if_nobody_had_killed_them() -> None:
    script = Path(__file__).parents[1] / "kill_campaign.py"
    command = [sys.executable, str(script), "--kills", "3", "--no-publish", "--seed", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "different: 0" in done.stdout
    assert ": checkpoint" in done.stdout
    assert "all                         3, in" in done.stdout
