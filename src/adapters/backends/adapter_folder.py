"""The adapter directory: what any PEFT user can load, plus `manifest.json`. Written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapters.files import sha256, write_json

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
MANIFEST = "manifest.json"
OWNER_FILE = "fingerprint"
WORK_FILES = ("trainer", OWNER_FILE)
"""What is no part of an adapter: a trainer's checkpoints with their copy of the reference, and whose work this is."""


def work_folder(folder: Path) -> Path:
    """Where an adapter is made until it is complete."""
    return folder.with_name(folder.name + ".partial")


def owner_line(fingerprint: str, start: Path | None) -> str:
    """Whose work an unfinished folder holds: a job's, trained from one set of weights."""
    return f"{fingerprint} from {weights_hash(start) or 'base'}"


def commit(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Turn `<folder>.partial` into the adapter directory: hash, write the manifest, rename, then drop work files."""
    work = work_folder(folder)
    kept = [p for p in sorted(work.rglob("*")) if p.is_file() and p.relative_to(work).parts[0] not in WORK_FILES]
    files = {str(p.relative_to(work)): sha256(p) for p in kept if p.name != MANIFEST}
    write_json(work / MANIFEST, {**manifest, "files": files})
    os.replace(work, folder)
    remove_work_files(folder)


def remove_work_files(folder: Path) -> None:
    """Drop what only the making of an adapter needed."""
    (folder / OWNER_FILE).unlink(missing_ok=True)
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
