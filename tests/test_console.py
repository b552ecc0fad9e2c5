"""The progress display: what a terminal shows and what a log file holds."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import time

import pytest

from adapters import console

WORK = """
import time
from adapters import console
console.BRIEF = 0.2
with console.progress("1-sft", "loading the model") as progress:
    time.sleep(0.5)
    console.phase("training")
    for step in range(1, 5):
        time.sleep(0.15)
        progress(step, 4, {"loss": 1 / step, "grad_norm": 3.0})
        if step == 2:
            console.console(stderr=True).print("warning: look out")
            time.sleep(0.6)
    console.phase("verifying the adapter")
"""


def lines_of(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines() if line.strip()]


@pytest.mark.slow
@pytest.mark.parametrize("forced", [{}, {"FORCE_COLOR": "1"}])
def test_a_log_file_gets_plain_lines(forced: dict[str, str]) -> None:
    done = subprocess.run([sys.executable, "-c", WORK], capture_output=True, text=True, env=os.environ | forced)
    assert done.returncode == 0, done.stderr
    plain = re.sub(r"\x1b\[[0-9;]*m", "", done.stderr)  # colours may be forced; cursor movements may not
    assert "\x1b" not in plain
    assert "\r" not in plain
    lines = lines_of(plain)
    assert re.match(r"1-sft: loading the model, \ds elapsed$", lines[0])
    assert re.match(r"1-sft: loading the model: done in \ds$", lines[1])
    assert "warning: look out" in lines
    last = r"1-sft: training: 4 of 4 in \ds, loss 0.25$"
    assert re.match(last, lines[-1]), f"short phases without steps are left out: {lines}"


@pytest.mark.slow
def test_a_terminal_gets_a_bar_and_keeps_a_line_for_each_phase() -> None:
    main, side = pty.openpty()
    env = os.environ | {"TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
    process = subprocess.Popen([sys.executable, "-c", WORK], stderr=side, stdout=side, env=env)
    os.close(side)
    raw = b""
    while True:
        try:
            chunk = os.read(main, 65536)
        except OSError:  # the other end is closed
            break
        if not chunk:
            break
        raw += chunk
    assert process.wait() == 0
    text = raw.decode()
    assert "\x1b[1A" in text or "\x1b[2K" in text, "the bar is redrawn in place"
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    assert re.search(r"━+ 1-sft: training, 2 of 4, \ds elapsed, .*loss 0\.5", shown), shown
    assert "1-sft: loading the model: done in" in shown
    assert re.search(r"1-sft: training: 4 of 4 in \ds, loss 0.25", shown)
    assert max(len(line) for line in re.split(r"[\r\n]+", shown)) <= 100


@pytest.mark.slow
def test_a_long_phase_speaks_at_growing_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "BRIEF", 0.02)
    monkeypatch.setattr(console, "INTERVALS", (0.2, 0.8))
    err = io.StringIO()
    monkeypatch.setattr(sys, "stderr", err)
    with console.progress("2-grpo", "training"):
        time.sleep(2)  # one step that takes for ever: nobody moves the display
    count = len(lines_of(err.getvalue()))
    # At 0.02, 0.22, 0.62, 1.42 s, and the line at the end; a busy machine may be late.
    assert 4 <= count <= 5, err.getvalue()


def test_time_left_counts_the_steps_of_this_start(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    phase = console._Phase("1-sft: training", began=now)
    now = 1100.0
    phase.done, phase.total, phase.figures, phase.moved = 60, 100, {"resumed": 50, "kl": 0.1234, "reward": 0.5}, now
    assert phase.state() == "60 of 100, 1m40s elapsed, 6m40s left, reward 0.5, kl 0.123, 10.0 s each"
    now = 1105.0
    assert "6m35s left" in phase.state(), "it counts down between two steps"
    now = 9000.0
    assert "left" not in phase.state(), "an estimate that did not come true is not shown"


def test_other_ranks_are_silent_and_a_phase_without_a_display_is_ignored(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "BRIEF", 0.0)
    console.phase("nobody looks")
    monkeypatch.setenv("RANK", "1")
    with console.progress("1-sft", "training") as progress:
        progress(1, 1, {})
    assert console.Display.active == []
    assert capsys.readouterr().err == ""


def test_a_failure_ends_the_display_without_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), console.progress("1-sft", "training") as progress:
        progress(1, 0, {"loss": 1 / 0})
    assert console.Display.active == []
    assert capsys.readouterr().err == ""
