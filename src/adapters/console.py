"""Terminal output: the console, progress bars, and where other libraries' logs go."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from adapters.types import Progress as Report

LIVE_FIGURES = ("reward", "rewards/margins", "kl", "loss")


SPENT_FIGURES = ("ktok", "usd", "refused")
"""What a server has used so far, thousands of tokens and dollars where prices are known, and prompts it refused."""


def is_main() -> bool:
    """Whether this process speaks and writes for the run."""
    return os.environ.get("RANK", "0") == "0"


def console(*, stderr: bool = False) -> Console:
    """Where to print; silent on every process but the first."""
    return Console(stderr=stderr, quiet=not is_main(), highlight=False)


@contextmanager
def quiet(log: Path | None) -> Iterator[None]:
    """Send warnings and logs of other libraries to a file instead of the screen."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("DO_NOT_TRACK", "1")  # vLLM and others
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TQDM_DISABLE", "1")  # read when tqdm is first imported; the bars here are rich's
    handler: logging.Handler = logging.NullHandler()
    if log is not None and is_main():
        log.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(log, encoding="utf-8", delay=True)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    logging.captureWarnings(True)
    logging.getLogger("DeepSpeed").addFilter(_to_root)
    warnings.simplefilter("default")
    warnings.simplefilter("ignore", ResourceWarning)  # connections that end with the process
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.removeHandler(handler)
        handler.close()


def _to_root(record: logging.LogRecord) -> bool:
    """DeepSpeed's logger writes to stdout, where only results belong."""
    logging.getLogger().handle(record)
    return False


def quiet_libraries() -> None:
    """Route the Hugging Face libraries' own handlers and progress bars away from the screen. Imports them."""
    import datasets
    import transformers
    from huggingface_hub.utils.tqdm import disable_progress_bars

    datasets.disable_progress_bars()
    disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    for name in ("transformers", "datasets", "accelerate", "trl", "peft", "huggingface_hub", "torch.distributed"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True


@contextmanager
def progress(title: str) -> Iterator[Report]:
    """A progress bar with time left and the latest figures; yields the function that moves it."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=console(stderr=True)) as bar:
        task = bar.add_task(title, total=None, figures="")

        def move(done: int, total: int, figures: Mapping[str, float]) -> None:
            known = [k for k in LIVE_FIGURES if k in figures][:2]
            known += [k for k in SPENT_FIGURES if k in figures]
            shown = "  ".join(f"{k} {figures[k]:.3g}" for k in known)
            bar.update(task, completed=done, total=total, figures=shown)

        yield move
