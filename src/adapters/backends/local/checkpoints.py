"""A stage's checkpoints: hashed when complete, verified, the last two kept."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from adapters.backends.local.model import mismatch
from adapters.backends.local.sharding import whole
from adapters.files import read_json, sha256, truncate_jsonl, write_json

HASHES = "seal.json"
KEPT = 2


class Checkpoints(TrainerCallback):  # type: ignore[misc]
    """Hashes each checkpoint, deletes old ones, verifies the one that was loaded."""

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the hashes of the new checkpoint's files; delete older checkpoints."""
        if not state.is_world_process_zero:
            return
        newest = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        # Other ranks may still be writing their random states.
        files = [p for p in sorted(newest.rglob("*")) if p.is_file() and not p.name.startswith("rng_state_")]
        hashes = {str(p.relative_to(newest)): sha256(p) for p in files}
        write_json(newest / HASHES, {"files": hashes})
        for old in _by_step(newest.parent)[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Raise RuntimeError when the weights in memory are not the checkpoint's."""
        if state.global_step:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            with whole(model):
                if problem := mismatch(model, folder):
                    raise RuntimeError(f"{folder} was not loaded as it was saved: {problem}")


def last_good(folder: Path) -> Path | None:
    """The newest checkpoint whose files have their recorded hashes; None without one."""
    return next((c for c in reversed(_by_step(folder)) if _is_complete(c)), None)


def step_of(checkpoint: Path | None) -> int:
    """The step after which a checkpoint was saved; 0 without one."""
    return int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0


def rewind(records: Path, below: float) -> None:
    """Delete incomplete log lines and those of steps from `below` on, to be repeated."""
    truncate_jsonl(records, lambda record: (record.get("step") or 0) < below)


def _by_step(folder: Path) -> list[Path]:
    # The trainer itself orders checkpoints by time, which a clock that is set back reverses.
    return sorted(folder.glob("checkpoint-*"), key=step_of)


def _is_complete(checkpoint: Path) -> bool:
    files = read_json(checkpoint / HASHES).get("files")
    try:
        return isinstance(files, dict) and all(sha256(checkpoint / name) == digest for name, digest in files.items())
    except OSError:
        return False
