"""The adapter folder: PEFT's files and `manifest.json`, written atomically."""

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
"""Files of a running stage that are deleted when it completes: trainer checkpoints and the owner file."""


def work_folder(folder: Path) -> Path:
    """The folder in which an adapter is made until it is complete."""
    return folder.with_name(folder.name + ".partial")


def owner_line(fingerprint: str, start: Path | None) -> str:
    """The owner file's line: a job's fingerprint and the weights it starts from."""
    return f"{fingerprint} from {weights_hash(start) or 'base'}"


def commit(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Turn `<folder>.partial` into the adapter folder.

    Hashes the files, writes the manifest, renames, then deletes the work files.
    """
    work = work_folder(folder)
    paths = [p for p in sorted(work.rglob("*")) if p.is_file() and p.relative_to(work).parts[0] not in WORK_FILES]
    files = {str(p.relative_to(work)): sha256(p) for p in paths if p.name != MANIFEST}
    write_json(work / MANIFEST, {**manifest, "files": files})
    os.replace(work, folder)
    remove_work_files(folder)


def remove_work_files(folder: Path) -> None:
    """Delete the files that only training needed."""
    (folder / OWNER_FILE).unlink(missing_ok=True)
    shutil.rmtree(folder / "trainer", ignore_errors=True)


def manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a complete adapter folder, or None."""
    try:
        value = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def problems(folder: Path) -> list[str]:
    """Messages on what is wrong with an adapter folder; empty if nothing is."""
    missing = [name for name in (WEIGHTS, CONFIG) if not (folder / name).is_file()]
    if missing:
        return [f"{folder} has no {name}" for name in missing]
    stored = manifest(folder) or {}  # an adapter from elsewhere has none
    messages = []
    for name, digest in stored.get("files", {}).items():
        if not (folder / name).is_file():
            messages.append(f"{folder / name} is missing")
        elif (name in (WEIGHTS, CONFIG)) and sha256(folder / name) != digest:
            messages.append(f"{folder / name} was changed after training")
    return messages


def weights_hash(folder: Path | None) -> str | None:
    """Hash of a complete adapter's weights from its manifest, else None."""
    stored = manifest(folder) if folder is not None else None
    digest = (stored or {}).get("files", {}).get(WEIGHTS)
    return digest if isinstance(digest, str) else None
