"""The adapter directory: what any PEFT user can load, plus `manifest.json`. Written whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapters.types import UserError

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
MANIFEST = "manifest.json"
MARK = "fingerprint"
WORKING = ("trainer", MARK)
"""What is no part of an adapter: a trainer's checkpoints with their copy of the reference, and whose work this is."""


def partial(folder: Path) -> Path:
    """Where an adapter is made until it is complete."""
    return folder.with_name(folder.name + ".partial")


def mark(fingerprint: str, start: Path | None) -> str:
    """Whose work an unfinished folder holds: a job's, trained from one set of weights."""
    return f"{fingerprint} from {weights_hash(start) or 'base'}"


def seal(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Turn `<folder>.partial` into the adapter directory: hash, manifest, rename, and only then drop working files."""
    work = partial(folder)
    kept = [p for p in sorted(work.rglob("*")) if p.is_file() and p.relative_to(work).parts[0] not in WORKING]
    files = {str(p.relative_to(work)): sha256(p) for p in kept if p.name != MANIFEST}
    write_json(work / MANIFEST, {**manifest, "files": files})
    os.replace(work, folder)
    tidy(folder)


def tidy(folder: Path) -> None:
    """Drop what only the making of an adapter needed."""
    (folder / MARK).unlink(missing_ok=True)
    shutil.rmtree(folder / "trainer", ignore_errors=True)


def manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a complete adapter directory; None when there is none to read."""
    try:
        value = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def problems(folder: Path) -> list[str]:
    """What is wrong with an adapter directory, in words; empty when it is sound."""
    missing = [name for name in (WEIGHTS, CONFIG) if not (folder / name).is_file()]
    if missing:
        return [f"{folder} holds no {name}" for name in missing]
    held = manifest(folder)
    if held is None:
        return []  # an adapter from elsewhere
    out = []
    for name, digest in held.get("files", {}).items():
        if not (folder / name).is_file():
            out.append(f"{folder / name} is missing")
        elif (name in (WEIGHTS, CONFIG)) and sha256(folder / name) != digest:
            out.append(f"{folder / name} was changed after training")
    return out


def weights_hash(folder: Path | None) -> str | None:
    """Hash of a finished adapter's weights, from its manifest; None for the base or an unfinished one."""
    held = manifest(folder) if folder is not None else None
    found = (held or {}).get("files", {}).get(WEIGHTS)
    return found if isinstance(found, str) else None


def sha256(path: Path) -> str:
    """Hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """A file's JSON object; empty when there is none to read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def read_run_json(path: Path) -> dict[str, Any]:
    """A JSON object that every run folder holds. Raises UserError when it cannot be read."""
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(f"{path} is missing or damaged, so {path.parent} cannot be read as a run.") from None
    return value


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def write_text(path: Path, text: str) -> None:
    """Replace a file as a whole, also when the process or the machine dies meanwhile."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8", errors="replace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        # A write that found no room does not know whose it was.
        raise OSError(error.errno, error.strerror, str(path)) from None
