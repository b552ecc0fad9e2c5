"""The adapter folder: PEFT's files and `manifest.json`, written atomically."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from adapters.errors import UserError, first_line
from adapters.files import read_json, sha256, write_json

Tensor = TypeVar("Tensor")

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
MANIFEST = "manifest.json"
PEFT_PREFIX = "base_model.model."
"""What PEFT puts before the base's own module names."""
SCALING: Mapping[str, Any] = {"r": 8, "lora_alpha": 8, "use_rslora": False, "rank_pattern": {}, "alpha_pattern": {}}
"""Keys of PEFT's config that decide how weights are scaled, and their defaults."""
OWNER_FILE = "fingerprint"
WORK_FILES = ("trainer", OWNER_FILE)
"""Files of a running stage that are deleted when it completes."""


def work_folder(folder: Path) -> Path:
    """The folder in which an adapter is made until it is complete."""
    return folder.with_name(folder.name + ".partial")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that is gone afterwards, unless it was moved there. Raises UserError for a full disk."""
    work = work_folder(out.absolute())  # a name may begin with a dash
    shutil.rmtree(work, ignore_errors=True)
    try:
        work.mkdir(parents=True)
        yield work
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def owner_line(fingerprint: str, start: Path | None) -> str:
    """The owner file's line: a job's fingerprint and the weights it starts from."""
    return f"{fingerprint} from {content_hash(start) or 'base'}"


def commit(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Turn `<folder>.partial` into the adapter folder, with a manifest of its files."""
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
    return read_json(folder / MANIFEST) or None


def problems(folder: Path) -> list[str]:
    """Messages on what is wrong with an adapter folder; empty if nothing is."""
    if missing := [name for name in (WEIGHTS, CONFIG) if not (folder / name).is_file()]:
        return [f"{folder} has no {name}" for name in missing]
    messages = [empty] if (empty := _without_values(folder / WEIGHTS)) else []
    for name, digest in read_json(folder / MANIFEST).get("files", {}).items():  # other tools' adapters have none
        if not (folder / name).is_file():
            messages.append(f"{folder / name} is missing")
        elif name in (WEIGHTS, CONFIG) and sha256(folder / name) != digest:
            messages.append(f"{folder / name} was changed after training")
    return messages


def shapes(weights: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of a file's tensors, of which none is read. Raises SafetensorError for a file that holds none."""
    from safetensors import safe_open

    with safe_open(weights, framework="numpy") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no mapping


def _without_values(weights: Path) -> str | None:
    from safetensors import SafetensorError

    try:
        found = shapes(weights).values()
    except SafetensorError:  # what loads it says it better, and the echo backend's file is none
        return None
    empty = sum(0 in shape for shape in found)
    if not empty:
        return None
    return (
        f"{weights} has no values in {empty} of its {len(found)} tensors: it was saved under ZeRO-3 (or FSDP) without "
        "gathering the weights, so train again, or save it again from its checkpoint, with "
        "stage3_gather_16bit_weights_on_model_save: true"
    )


def weights_hash(folder: Path | None) -> str | None:
    """Hash of a complete adapter's weights from its manifest, else None."""
    stored = read_json(folder / MANIFEST) if folder is not None else {}
    digest = stored.get("files", {}).get(WEIGHTS)
    return digest if isinstance(digest, str) else None


def content_hash(folder: Path | None) -> str | None:
    """Hash of an adapter's weights, also of one without a manifest; None without weights."""
    if folder is None or not (folder / WEIGHTS).is_file():
        return None
    return weights_hash(folder) or sha256(folder / WEIGHTS)


def scaling(folder: Path) -> dict[str, Any]:
    """How an adapter's weights are scaled; {} where that is by 2, as recipes' adapters are unless they say it."""
    config = read_json(folder / CONFIG)
    stored = {key: default if config.get(key) is None else config[key] for key, default in SCALING.items()}
    if stored == {**SCALING, "r": stored["r"], "lora_alpha": 2 * stored["r"]}:
        return {}
    # The first pattern that fits counts.
    return {key: list(value.items()) if isinstance(value, dict) else value for key, value in stored.items()}


def local(given: str, revision: str | None = None) -> Path:
    """A folder of this machine: the given one, or a copy of the Hub's repository of an adapter. Raises UserError."""
    folder = Path(given).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise UserError(f"a revision is that of an adapter on the Hub, and {folder} is a folder: leave it out.")
        return folder
    if given.startswith((".", "/", "~")) or not re.fullmatch(r"[\w.-]+/[\w.-]+", given):
        raise UserError(f"{given} is neither a folder nor the Hub id of an adapter, such as me/funding-extraction.")
    from huggingface_hub import constants, hf_hub_download, snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RemoteEntryNotFoundError,
    )

    try:
        hf_hub_download(given, CONFIG, revision=revision)  # what is no adapter may have gigabytes
        return Path(snapshot_download(given, revision=revision))
    except RemoteEntryNotFoundError:
        raise UserError(f"{given} is no adapter: its repository has no {CONFIG}.") from None
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        first = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else first_line(error)
        raise UserError(f"there is no folder {given}, and the Hub does not give it either: {first}") from None


def own_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An adapter's tensors, each once.

    A published file may hold them also under the longer names of a vision-language class, so that servers which load
    that class find them: `model.language_model.layers` beside `model.layers`.
    """
    # An encoder's head, such as classifier.weight, is whole and has one name.
    ends = {key: key.removeprefix(PEFT_PREFIX).split(".")[1:] for key in tensors if ".lora_" in key}
    short = {".".join(end) for end in ends.values()}
    longer = {key for key, end in ends.items() if any(".".join(end[n:]) in short for n in range(1, len(end)))}
    return {key: tensor for key, tensor in tensors.items() if key not in longer}
