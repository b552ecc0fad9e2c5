"""The published folder: its files, without local paths, and a search for leaks."""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Mapping
from fnmatch import fnmatch
from io import StringIO
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Final

from ruamel.yaml import YAML

from adapters.backends import adapter_folder
from adapters.files import sha256, write_json
from adapters.publish.finished_run import Finished
from adapters.recipe import secrets
from adapters.recipe.recipe import HEADER

TOKENIZER: Final = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
ADAPTER: Final = (adapter_folder.WEIGHTS, adapter_folder.CONFIG)
ALLOWED: Final = (*ADAPTER, *TOKENIZER, "recipe.yaml", "results.json", "README.md", "plots/*.png")
# Where a model was loaded from is private, and wrong on any other machine.
DROPPED_TOKENIZER_KEYS: Final = ("name_or_path", "is_local", "local_files_only", "_commit_hash", "tokenizer_file")
LOCAL_RECIPE_KEYS: Final = ("data_root", "run_dir", "report_to")
PUSH_KEYS: Final = ("private", "tag")
"""Keys of `publish:` that change the push, not the bundle."""
HEADER_LINE: Final = 'if __name__ == "__main__": from adapters import main; main(__file__); r"""\n'

LEAKS: Final = {
    "an access token": secrets.SHAPES,
    "an e-mail address": re.compile(r"\b[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}\b"),
    "a path on the hosted trainer": re.compile(r"\btinker://"),
    "a path of this machine": re.compile(
        r"(?<![\w./:])/(?:home|root|Users|tmp|mnt|data|scratch|workspace|var|opt|srv|work|content)/[\w.-]|\b[A-Z]:\\\\?[\w.-]"
    ),
}
# A vocabulary holds strings of every shape, so only known secrets are looked for in it.
VOCABULARIES: Final = ("tokenizer.json", "vocab.json", "merges.txt", "vocab.txt", "added_tokens.json")


def assemble(finished: Finished, folder: Path) -> None:
    """Write everything but the card into an empty folder."""
    folder.mkdir(parents=True)
    shutil.copyfile(finished.adapter / adapter_folder.WEIGHTS, folder / adapter_folder.WEIGHTS)
    config = json.loads((finished.adapter / adapter_folder.CONFIG).read_text(encoding="utf-8"))
    write_json(folder / adapter_folder.CONFIG, shippable_config(config, finished.base_id, finished.base_revision))
    for name in TOKENIZER:
        source = finished.adapter / name
        if name == "tokenizer_config.json" and source.is_file():
            settings = json.loads(source.read_text(encoding="utf-8"))
            write_json(folder / name, {k: v for k, v in settings.items() if k not in DROPPED_TOKENIZER_KEYS})
        elif source.is_file():
            shutil.copyfile(source, folder / name)
    (folder / "recipe.yaml").write_text(shippable_recipe(finished), encoding="utf-8")
    write_json(folder / "results.json", results(finished))


def shippable_config(config: Mapping[str, Any], base: str, revision: str | None) -> dict[str, Any]:
    """PEFT's config with the base as a Hub id, its sets (stored as lists) sorted."""
    out = {**config, "base_model_name_or_path": base, "revision": revision, "inference_mode": True}
    if isinstance(out.get("target_modules"), list):
        out["target_modules"] = sorted(out["target_modules"])
    return out


def shippable_recipe(finished: Finished) -> str:
    """The recipe as it ran, without local paths; runnable as it is."""
    tree = copy.deepcopy({k: v for k, v in finished.file.tree.items() if k not in (HEADER, *LOCAL_RECIPE_KEYS)})
    if not str(tree["model"]["base"]).startswith("pypi:"):  # a package of PyPI is found everywhere
        tree["model"]["base"] = finished.base_id
        if finished.base_revision:
            tree["model"]["revision"] = finished.base_revision
    for stage in tree["stages"]:
        if stage.pop("vllm_server", None):  # an address of this network
            del stage["vllm"]
    if tree.get("publish"):
        tree["publish"] = {k: v for k, v in tree["publish"].items() if k not in PUSH_KEYS}
    yaml = YAML()
    yaml.width, yaml.default_flow_style = 120, None
    text = StringIO()
    yaml.dump(without_paths(tree), text)
    body = text.getvalue()
    # A runnable recipe is a Python string, which these would end.
    return body if '"""' in body or "\n---" in body else f'{HEADER_LINE}{body}# """\n'


def without_paths(value: Any) -> Any:
    """The value with every local path in it cut to its last part."""
    if isinstance(value, dict):
        return {k: without_paths(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(v) for v in value]
    return _name_only(value) if isinstance(value, str) else value


def _name_only(text: str) -> str:
    """The last part of an absolute path, or one from ~ or ..; else the text."""
    local = text.startswith(("/", "~/", "../", "./../")) or re.match(r"^[A-Za-z]:[\\/]", text)
    if not local or "\n" in text or " " in text.strip():
        return text
    path, colon, attribute = text.rpartition(":") if re.search(r"\.py:\w+$", text) else (text, "", "")
    name = PureWindowsPath(path).name if "\\" in path else PurePosixPath(path).name
    return f"./{name}:{attribute}" if colon else name


def results(finished: Finished) -> dict[str, Any]:
    """Figures of every stage and of every model on every test set, without samples."""
    labels = {s.name for s in finished.stages} | {"base"}
    sets = {
        name: {m: {k: v for k, v in figures.items() if k != "key"} for m, figures in models.items() if m in labels}
        for name, models in finished.figures.items()
    }
    keys = ("steps", "seconds", "peak_memory_gb", "figures")
    stages = {s.name: {key: s.manifest.get(key) for key in keys} for s in finished.stages}
    return {"name": finished.recipe.name, "published": finished.stages[-1].name, "stages": stages, "sets": sets}


def files(folder: Path) -> list[Path]:
    """Every file of a bundle, relative, in a stable order."""
    return sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())


def hashes(folder: Path) -> dict[str, str]:
    """Relative name -> SHA-256 of every file."""
    return {p.as_posix(): sha256(folder / p) for p in files(folder)}


def leaks(folder: Path, machine: tuple[str, ...] = ()) -> list[str]:
    """Unexpected files, local paths, tokens, addresses and the strings of `machine`."""
    unexpected = (p for p in files(folder) if not any(fnmatch(p.as_posix(), pattern) for pattern in ALLOWED))
    out = [f"{p} does not belong in a bundle" for p in unexpected]
    # A path of one part, such as /root, is a word of many vocabularies.
    known = {text: "a path of this machine" for text in (*machine, str(Path.home())) if len(Path(text).parts) > 2}
    known |= {value: f"the value of ${name}" for value, name in secrets.values().items()}
    for path in files(folder):
        if path.suffix in (".safetensors", ".png", ".model"):
            continue
        patterns = {} if path.name in VOCABULARIES else LEAKS
        text = (folder / path).read_text(encoding="utf-8", errors="replace")
        for number, line in enumerate(text.splitlines(), 1):
            leaks_of_line = [what for string, what in known.items() if string in line]
            leaks_of_line += [what for what, pattern in patterns.items() if pattern.search(line)]
            out += [f"{path}:{number} holds {what}" for what in dict.fromkeys(leaks_of_line)]
    return out
