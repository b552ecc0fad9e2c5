"""A stage's checkpoints: sealed when complete, verified before and after they are loaded, the last two kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from adapters.backends.local.deepspeed import whole
from adapters.backends.local.model import mismatch
from adapters.files import sha256, truncate_jsonl, write_json

SEAL = "seal.json"
KEPT = 2


class Checkpoints(TrainerCallback):  # type: ignore[misc]
    """Seals what the trainer saves, and proves that what it loaded is what was saved.

    The trainer's own rotation goes by modification time, which a clock that was set back turns upside down; this one
    goes by step.
    """

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the hashes of the checkpoint's files as its last file; drop older checkpoints."""
        if not state.is_world_process_zero:
            return
        newest = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        # The random states of the other processes may still be on their way to the disk.
        files = [p for p in sorted(newest.rglob("*")) if p.is_file() and not p.name.startswith("rng_state_")]
        hashes = {str(p.relative_to(newest)): sha256(p) for p in files}
        write_json(newest / SEAL, {"files": hashes})
        for old in _by_step(newest.parent)[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """After a checkpoint was loaded, the weights in memory are the file's; anything else stops the run."""
        if state.global_step:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            with whole(model):
                problem = mismatch(model, folder)
            if problem:
                raise RuntimeError(f"{folder} was not loaded as it was saved: {problem}")


def last_good(folder: Path) -> Path | None:
    """The newest checkpoint whose files are all as they were sealed; None when there is none."""
    return next((c for c in reversed(_by_step(folder)) if _sound(c)), None)


def rewind(records: Path, below: float) -> None:
    """Drop the records of a stage's log that the steps from `below` on will write again, and torn lines."""
    truncate_jsonl(records, lambda record: (record.get("step") or 0) < below)


def _by_step(folder: Path) -> list[Path]:
    return sorted(folder.glob("checkpoint-*"), key=lambda p: int(p.name.rpartition("-")[2]))


def _sound(checkpoint: Path) -> bool:
    try:
        files = json.loads((checkpoint / SEAL).read_text(encoding="utf-8"))["files"]
        return all(sha256(checkpoint / name) == digest for name, digest in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
