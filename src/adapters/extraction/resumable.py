"""Work on one output file that a restart continues: its lock, its manifest, its journal's name.

The manifest, OUT.manifest.json, holds the settings, which a restart must share, and the counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from adapters.errors import UserError
from adapters.files import manifest_path, read_json, write_json

CHANGEABLE_EXTRACTION_KEYS = ("versions", "endpoint", "engine")
"""Settings that may change when an extraction is resumed."""


class Resumable(Protocol):
    """Work on one output file, which a restart continues. A restart must have the same `settings`."""

    @property
    def out(self) -> Path:
        """The output."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """What decides the output."""

    @property
    def described(self) -> Mapping[str, Any]:
        """The manifest's description of the work, `settings` among it."""


def journal_path(out: Path) -> Path:
    """Path of an output's journal."""
    return out.with_name(f"{out.name}.partial")


def complete(job: Resumable, counts: Mapping[str, Any]) -> None:
    """Say in the manifest that an output is complete, and delete its journal."""
    write_json(manifest_path(job.out), {"complete": True, **job.described, "counts": counts})
    journal_path(job.out).unlink(missing_ok=True)


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Lock an output for this process. Raises UserError."""
    lock = FileLock(f"{out}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise UserError(f"another process is writing {out}.") from None
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror}.") from None
    try:
        yield
    finally:
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)


@contextmanager
def open_or_resume(job: Resumable, *, fresh: bool) -> Iterator[None]:
    """Lock the output for this process, and refuse one made with other settings. Raises UserError."""
    with locked(job.out):
        yield from _opened(job, fresh=fresh)


def _opened(job: Resumable, *, fresh: bool) -> Iterator[None]:
    earlier, journal = None, journal_path(job.out)
    try:
        if fresh:
            for path in (job.out, journal, manifest_path(job.out)):
                path.unlink(missing_ok=True)
        earlier = manifest(job.out)
        if earlier is not None:
            check_settings(
                job.settings, earlier["settings"], f"{job.out} was {'made' if job.out.exists() else 'begun'}"
            )
        elif job.out.exists() or journal.exists():
            remedy = "Choose another name, or replace it with --fresh."
            raise UserError(f"{job.out} exists, but no extraction wrote it, and no sampling. {remedy}")
        else:
            write_json(manifest_path(job.out), {"complete": False, **job.described})
        yield
    finally:
        if earlier is None and not job.out.exists() and not (journal.is_file() and journal.stat().st_size):
            for path in (journal, manifest_path(job.out)):  # no row was finished
                path.unlink(missing_ok=True)


def check_settings(settings: Mapping[str, Any], earlier: Mapping[str, Any], begun: str) -> None:
    """Raise UserError, which starts with `begun`, for other settings than an output was begun with."""
    changes = []
    if isinstance(old := earlier.get("constrain"), bool):  # before it was one of three words
        earlier = {**earlier, "constrain": "schema" if old and earlier.get("engine") != "transformers" else "off"}
    for name in {**earlier, **settings}:
        value = settings.get(name)
        if name not in CHANGEABLE_EXTRACTION_KEYS and earlier.get(name) != value:
            size = 12 if name in ("input", "adapter", "registry", "program", "balance") else 80
            old, new = earlier.get(name), value
            was, now = (json.dumps(v[:size] if isinstance(v, str) else v)[:82] for v in (old, new))
            changes.append(f"{name} was {was}, is {now}")
    if changes:
        raise UserError(
            f"{begun} with other settings: {'; '.join(changes)}. Choose another name, or start over with --fresh."
        )


def manifest(out: Path) -> dict[str, Any] | None:
    """An output's manifest; None when it is missing or damaged, and of a folder."""
    value = read_json(manifest_path(out)) if out.name else {}
    return value if isinstance(value.get("settings"), dict) else None


def finished(job: Resumable) -> dict[str, Any] | None:
    """Counts of a complete output; None for any other."""
    earlier = manifest(job.out) or {}
    return dict(earlier["counts"]) if earlier.get("complete") and job.out.is_file() else None
