"""Terminal output: the console, the progress display, other libraries' logs."""

from __future__ import annotations

import logging
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import ClassVar, Final

from rich import box
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from adapters.secrets import redact
from adapters.types import Progress

LIVE_FIGURES = ("reward", "rewards/margins", "kl", "loss", "nll")
"""Figures of a training that the display shows: the first two that there are."""
COUNTED_FIGURES = {
    **{"ktok": "thousand tokens", "usd": "dollars", "spent": "spent"},
    **{"refused": "refused", "errors": "without a record"},
}
"""Running totals that the display always shows, and their names there."""
BRIEF = 1.0
"""Seconds. A shorter phase is not announced."""
INTERVALS = (60.0, 600.0)
"""Seconds between two lines of a phase where there is no terminal: the first one, doubled up to the second."""


def is_main() -> bool:
    """Whether this process is rank 0, the only one that prints and writes."""
    return os.environ.get("RANK", "0") == "0"


def console(*, stderr: bool = False) -> Console:
    """The console to print to. Other ranks than 0 print nothing."""
    if stderr and Display.active:
        return Display.active[-1].screen  # a second console would write across the bar
    return Console(stderr=stderr, quiet=not is_main(), highlight=False)


def note(text: str) -> None:
    """Print a message for the user that is no result."""
    console(stderr=True).print(f"note: {text}", markup=False, soft_wrap=True)


def new_table(title: str, texts: Sequence[str], numbers: Sequence[str] = ()) -> Table:
    """A table with columns of texts, which fold on a narrow screen, and of numbers, which do not."""
    table = Table(title=title, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.title_justify = table.caption_justify = "left"
    for text in texts:
        table.add_column(text, overflow="fold")
    for number in numbers:
        table.add_column(number, justify="right", no_wrap=True)
    return table


@contextmanager
def quiet(log: Path | None) -> Iterator[None]:
    """Send warnings and logs of other libraries to a file instead of the screen."""
    for variable in ("HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK", "TRL_EXPERIMENTAL_SILENCE", "TQDM_DISABLE"):
        os.environ.setdefault(variable, "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("VLLM_CONFIGURE_LOGGING", "0")  # its own handler writes to stdout
    handler: logging.Handler = logging.NullHandler()
    if log is not None and is_main():
        log.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(log, encoding="utf-8", delay=True)
        handler.setFormatter(_Redacted("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    logging.getLogger("DeepSpeed").addFilter(_to_root)
    try:
        with warnings.catch_warnings():  # a notebook goes on with its own filters
            logging.captureWarnings(True)
            warnings.simplefilter("default")
            warnings.simplefilter("ignore", ResourceWarning)  # connections that end with the process
            yield
    finally:
        logging.captureWarnings(False)
        root.removeHandler(handler)
        handler.close()


class _Redacted(logging.Formatter):
    """Log records without secrets: messages and tracebacks may quote what a plug-in or a server said."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def _to_root(record: logging.LogRecord) -> bool:
    """Pass a record to the root logger alone: DeepSpeed's own handler writes to stdout, where only results belong."""
    logging.getLogger().handle(record)
    return False


_HIDDEN: Final[list[Callable[[], None]]] = []
"""What undoes for the bars and logs of libraries what was switched off."""


def quiet_datasets() -> None:
    """Import `datasets`, and switch off its bars."""
    import datasets

    if not datasets.are_progress_bars_disabled():
        datasets.disable_progress_bars()
        _HIDDEN.append(datasets.enable_progress_bars)


def quiet_libraries() -> None:
    """Import the Hugging Face libraries, and switch off their bars and log handlers."""
    from huggingface_hub.utils.tqdm import disable_progress_bars
    from transformers.utils import logging as bars

    quiet_datasets()
    disable_progress_bars()
    if bars.is_progress_bar_enabled():
        bars.disable_progress_bar()
        _HIDDEN.append(bars.enable_progress_bar)
    for name in ("transformers", "datasets", "accelerate", "trl", "peft", "huggingface_hub", "torch.distributed"):
        logger = logging.getLogger(name)
        _HIDDEN.append(partial(_restore, logger, list(logger.handlers), logger.propagate))
        logger.handlers.clear()
        logger.propagate = True


def _restore(logger: logging.Logger, handlers: list[logging.Handler], propagate: bool) -> None:
    logger.handlers[:], logger.propagate = handlers, propagate


@contextmanager
def bars_as_before() -> Iterator[None]:
    """Show bars and logs again afterwards that were switched off: called from Python, the process is not ours."""
    import_module("tqdm")  # it reads TQDM_DISABLE once, for good
    _HIDDEN.clear()
    disabled = os.environ.get("TQDM_DISABLE")
    try:
        yield
    finally:
        while _HIDDEN:
            _HIDDEN.pop()()
        os.environ.pop("TQDM_DISABLE", None) if disabled is None else os.environ.update(TQDM_DISABLE=disabled)


@dataclass
class _Phase:
    """A phase of some work, and how far it is."""

    label: str
    done: int = 0
    total: int = 0
    figures: Mapping[str, float] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)
    moved: float = 0.0
    """When the last step was done."""

    def state(self) -> str:
        """Step, times, figures and speed."""
        elapsed = time.monotonic() - self.began
        fresh = self.done - self.figures.get("resumed", 0)
        each = (self.moved - self.began) / fresh if fresh > 0 else 0.0
        texts = [*([f"{self.done:,} of {self.total:,}"] if self.total else []), f"{clock(elapsed)} elapsed"]
        left = each * (self.total - self.done + fresh) - elapsed if self.done < self.total else 0.0
        if left >= 0.5:  # a step that takes longer than those before it leaves no sound estimate
            texts.append(f"{clock(left)} left")
        texts += self.shown_figures()
        if each:
            texts.append(f"{each:.1f} s each" if each > 1 else f"{1 / each:,.1f}/s")
        return ", ".join(texts)

    def summary(self) -> str:
        """The line that stays of the phase; empty for a short one without steps."""
        seconds = time.monotonic() - self.began
        if not self.total and seconds < BRIEF:
            return ""
        count = f"{self.done:,} of {self.total:,}" if self.total else "done"
        return ", ".join([f"{self.label}: {count} in {clock(seconds)}", *self.shown_figures()])

    def shown_figures(self) -> list[str]:
        """Two live figures and the running totals."""
        figures = self.figures
        live = [f"{name} {figures[name]:.3g}" for name in LIVE_FIGURES if name in figures][:2]
        return live + [f"{figures[key]:,.4g} {name}" for key, name in COUNTED_FIGURES.items() if figures.get(key)]


class Display:
    """The progress display: title and phase of the work, step, times, figures. Called as `adapters.types.Progress`.

    At a terminal it is a bar that is redrawn; elsewhere a line now and then, without cursor codes. One line of every
    phase stays.
    """

    active: ClassVar[list[Display]] = []

    def __init__(self, title: str, first: str) -> None:
        self.title, self.name, self.screen = title, first, console(stderr=True)
        self.current = self._new_phase()
        self.ended = threading.Event()
        at_terminal = self.screen.is_interactive and self.screen.file.isatty()
        self.live = Live(get_renderable=self._bar, console=self.screen, transient=True) if at_terminal else None

    def __call__(self, done: int, total: int, figures: Mapping[str, float]) -> None:
        """Note that `done` of `total` steps are done."""
        phase = self.current
        phase.done, phase.total, phase.figures, phase.moved = done, total, figures, time.monotonic()

    def phase(self, name: str) -> None:
        """End the current phase and begin another."""
        if name != self.name:
            self.finish()
            self.name = name
            self.current = self._new_phase()

    def finish(self) -> None:
        """Print the line that stays of the current phase."""
        if summary := self.current.summary():
            self._print(summary)

    def speak(self) -> None:
        """Print a line of each phase at growing intervals. Runs in a thread."""
        seen, due, interval = None, 0.0, 0.0
        while not self.ended.wait(BRIEF / 2):
            phase = self.current
            if phase is not seen:
                seen, due, interval = phase, phase.began + BRIEF, INTERVALS[0]
            if time.monotonic() >= due:
                self._print(f"{phase.label}, {phase.state()}")
                due, interval = time.monotonic() + interval, min(2 * interval, INTERVALS[1])

    def _new_phase(self) -> _Phase:
        return _Phase(f"{self.title}: {self.name}" if self.name else self.title)

    def _print(self, line: str) -> None:
        self.screen.print(line, soft_wrap=True, markup=False)

    def _bar(self) -> Table:
        phase = self.current
        words = Text(f"{phase.label}, {phase.state()}", no_wrap=True, overflow="ellipsis")
        grid = Table.grid(padding=(0, 1))
        grid.add_row(*([ProgressBar(phase.total, phase.done, width=12)] if phase.total else []), words)
        return grid


@contextmanager
def progress(title: str, first: str = "") -> Iterator[Progress]:
    """Show the progress of some work from its `first` phase on; yields the display."""
    if not is_main():
        yield lambda *_: None
        return
    display = Display(title, first)
    Display.active.append(display)
    speaker = threading.Thread(target=display.speak, daemon=True)
    try:
        display.live.start() if display.live else speaker.start()
        yield display
        display.finish()
    finally:
        display.ended.set()
        if display.live:
            display.live.stop()
        Display.active.remove(display)


def phase(name: str) -> None:
    """Begin a phase in the progress display, if there is one."""
    if Display.active:
        Display.active[-1].phase(name)


def clock(seconds: float) -> str:
    """A duration, such as 1h05m, 2m03s or 7s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s" if minutes else f"{rest}s"
