"""The published folder: its files, without local paths, and a search for leaks."""

from __future__ import annotations

import copy
import functools
import json
import math
import re
import shutil
from collections.abc import Mapping
from fnmatch import fnmatch
from io import StringIO
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Final, cast

from ruamel.yaml import YAML

from adapters import secrets
from adapters.backends import adapter_folder
from adapters.errors import UserError
from adapters.evaluation.calibration import FILE as CALIBRATION
from adapters.extraction import confidence
from adapters.files import sha256, write_json
from adapters.publish import hub_files, plugin_code
from adapters.publish.finished_run import Finished
from adapters.recipe.fields import HubSource, PathSource
from adapters.recipe.first_line import FIRST_LINE, HEADER, LAST_LINE

TOKENIZER: Final = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
ADAPTER: Final = (adapter_folder.WEIGHTS, adapter_folder.CONFIG)
LIST: Final = "bundle.json"
"""The bundle's own list of its files, with their hashes; a later push deletes what it lists and no longer holds."""
ALLOWED: Final = (
    *ADAPTER, *TOKENIZER, CALIBRATION, "recipe.yaml", "results.json", "README.md", LIST, "plots/*.png",
    f"{plugin_code.FOLDER}/*.py", hub_files.SCHEMA, f"{hub_files.RESULTS}/*.yaml",
)  # fmt: skip
# Where a model was loaded from is private, and wrong on any other machine.
DROPPED_TOKENIZER_KEYS: Final = ("name_or_path", "is_local", "local_files_only", "_commit_hash", "tokenizer_file")
LOCAL_RECIPE_KEYS: Final = ("data_root", "run_dir", "report_to")
PUSH_KEYS: Final = ("private", "tag")
"""Keys of `publish:` that change the push, not the recipe in the bundle."""

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
    config = _write_weights(finished, folder)
    if ways := confidence.stored(finished.adapter, adapter_folder.content_hash(finished.adapter) or ""):
        # The weights here may have other names than those that were calibrated, and so another hash.
        write_json(folder / CALIBRATION, {"adapter": sha256(folder / adapter_folder.WEIGHTS), "ways": ways})
    write_json(folder / adapter_folder.CONFIG, shippable_config(config, finished.base_id, finished.base_revision))
    for name in TOKENIZER:
        source = finished.adapter / name
        if name == "tokenizer_config.json" and source.is_file():
            settings = json.loads(source.read_text(encoding="utf-8"))
            write_json(folder / name, {k: v for k, v in settings.items() if k not in DROPPED_TOKENIZER_KEYS})
        elif source.is_file():
            shutil.copyfile(source, folder / name)
    for name, path in plugin_code.of_run(finished).files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / name)
    (folder / "recipe.yaml").write_text(shippable_recipe(finished), encoding="utf-8")
    write_json(folder / "results.json", results(finished))
    hub_files.write(finished, folder)


def seal(folder: Path) -> None:
    """Write the list of a bundle's files, once all are there."""
    (folder / LIST).unlink(missing_ok=True)
    write_json(folder / LIST, {"files": hashes(folder)})


def belongs(name: str) -> bool:
    """Whether a bundle may hold a file of this name."""
    return any(fnmatch(name, pattern) for pattern in ALLOWED) and ".." not in name


def _write_weights(finished: Finished, folder: Path) -> dict[str, Any]:
    """Write the adapter's weights, as servers load them too. Returns their config.

    Patterns are folded into one rank and alpha; if the base is stored in a vision-language model, the tensors have the
    names of both classes.
    """
    from safetensors.torch import load_file, save_file

    from adapters.backends.local import base_model, text_only

    source, target = finished.adapter / adapter_folder.WEIGHTS, folder / adapter_folder.WEIGHTS
    config: dict[str, Any] = json.loads((finished.adapter / adapter_folder.CONFIG).read_text(encoding="utf-8"))
    try:
        wrapper = text_only.checkpoint_wrapper(base_model.resolve(finished.recipe.model.base, finished.base_revision))
    except UserError:  # the gate loads the base, and says what is wrong with it
        wrapper = None
    patterns = config.get("rank_pattern") or config.get("alpha_pattern")
    if not patterns and wrapper is None:
        shutil.copyfile(source, target)
        return config
    tensors = load_file(source)
    if patterns:
        config, tensors = plain_lora(config, tensors)
    save_file(text_only.with_served_names(tensors, wrapper), target, metadata={"format": "pt"})
    return config


def shippable_config(config: Mapping[str, Any], base: str, revision: str | None) -> dict[str, Any]:
    """PEFT's config with the base as a Hub id, its sets (stored as lists) sorted."""
    out = {**config, "base_model_name_or_path": base, "revision": revision, "inference_mode": True}
    if isinstance(out.get("target_modules"), list):
        out["target_modules"] = sorted(out["target_modules"])
    return out


def plain_lora(config: Mapping[str, Any], tensors: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The config and tensors of an adapter with rank and alpha patterns, for one rank and alpha.

    vLLM reads `r` and `lora_alpha` alone (its `PEFTHelper`), and would scale the other modules wrongly without a word.
    Zeros bring A and B to the largest rank, and B takes the quotient of the scales: the update is the same.
    """
    from peft.utils.other import get_pattern_key
    from torch.nn.functional import pad

    alphas = config.get("alpha_pattern") or {}
    tensors = dict(tensors)
    divisor = math.sqrt if config.get("use_rslora") else float
    scale = config["lora_alpha"] / divisor(config["r"])
    ranks = {key[: -len(".lora_A.weight")]: len(a) for key, a in tensors.items() if key.endswith(".lora_A.weight")}
    largest = max(ranks.values())
    for module, rank in ranks.items():
        a, b = f"{module}.lora_A.weight", f"{module}.lora_B.weight"
        alpha = alphas.get(get_pattern_key(alphas, module.removeprefix("base_model.model.")), config["lora_alpha"])
        quotient = alpha / divisor(rank) / scale
        if quotient != 1:
            tensors[b] = tensors[b].float() * quotient  # in 32 bits: rounded once, by 6e-8 at most
        tensors[a], tensors[b] = pad(tensors[a], (0, 0, 0, largest - rank)), pad(tensors[b], (0, largest - rank))
    plain = {"r": largest, "lora_alpha": scale * divisor(largest), "rank_pattern": {}, "alpha_pattern": {}}
    return {**config, **plain}, {key: tensor.contiguous() for key, tensor in tensors.items()}


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
    for at, use in plugin_code.of_run(finished).uses.items():
        node: Any = functools.reduce(lambda value, key: value[key], at[:-1], cast(Any, tree))
        node[at[-1]] = {**node[at[-1]], "use": use} if isinstance(node[at[-1]], dict) else use
    if tree.get("publish"):
        tree["publish"] = {k: v for k, v in tree["publish"].items() if k not in PUSH_KEYS}
    yaml = YAML()
    yaml.width, yaml.default_flow_style = 120, None
    text = StringIO()
    yaml.dump(without_paths(tree), text)
    body = text.getvalue()
    # A runnable recipe is a Python string, which these would end.
    return body if '"""' in body or "\n---" in body else f"{FIRST_LINE}\n{body}{LAST_LINE}\n"


def data_files(finished: Finished) -> dict[str, set[Path]]:
    """The recipe's data files as its bundle names them, each with the files that got this name."""
    recipe, root = finished.recipe, finished.file.data_root
    parts = [*recipe.stages, *recipe.evaluate]
    out: dict[str, set[Path]] = {}
    for source in (source for part in parts for source in part.data):
        given = source.path if isinstance(source, PathSource) else source.hub if isinstance(source, HubSource) else None
        if given and (isinstance(source, PathSource) or (root / given).is_dir()):
            out.setdefault(without_paths(given), set()).add((root / Path(given).expanduser()).resolve())
    return out


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
    pure = PureWindowsPath(path) if "\\" in path else PurePosixPath(path)
    # Stages of several runs have one name; another folder around may be named after a person.
    of_run = Path(path).expanduser().with_name("recipe.json").is_file()
    name = f"{pure.parent.name}/{pure.name}" if of_run and pure.parent.name not in ("", "~", "..") else pure.name
    return f"./{name}:{attribute}" if colon else name


def results(finished: Finished) -> dict[str, Any]:
    """Figures of every stage and of every model on every test set, without samples."""
    sets = {
        name: {
            m: {k: v for k, v in figures.items() if k != "key"} for m, figures in models.items() if m in finished.labels
        }
        for name, models in finished.figures.items()
    }
    keys = ("steps", "seconds", "peak_memory_gb", "peak_host_memory_gb", "figures")
    stages = {s.name: {key: s.manifest.get(key) for key in keys} for s in finished.stages}
    return {"name": finished.recipe.name, "published": finished.stages[-1].name, "stages": stages, "sets": sets}


def files(folder: Path) -> list[Path]:
    """Every file of a bundle, relative, in a stable order."""
    return sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())


def hashes(folder: Path) -> dict[str, str]:
    """Relative name -> SHA-256 of every file."""
    return {p.as_posix(): sha256(folder / p) for p in files(folder)}


def leaks(folder: Path, machine: tuple[str, ...] = (), given: str = "") -> list[str]:
    """Unexpected files, local paths, tokens, addresses and the strings of `machine`.

    The addresses of `given` are published on purpose, such as that of `publish.contact`.
    """
    wanted = LEAKS["an e-mail address"].findall(given)
    unexpected = (p for p in files(folder) if not belongs(p.as_posix()))
    out = [f"{p} does not belong in a bundle" for p in unexpected]
    # A path of one part, such as /root, is a word of many vocabularies.
    known = {text: "a path of this machine" for text in (*machine, str(Path.home())) if len(Path(text).parts) > 2}
    known |= {value: f"the value of ${name}" for value, name in secrets.values().items()}
    for path in files(folder):
        if path.suffix in (".safetensors", ".png", ".model"):
            continue
        patterns = {} if path.name in VOCABULARIES else LEAKS
        text = (folder / path).read_text(encoding="utf-8", errors="replace")
        for address in wanted:
            text = text.replace(address, "")
        for number, line in enumerate(text.splitlines(), 1):
            leaks_of_line = [what for string, what in known.items() if string in line]
            leaks_of_line += [what for what, pattern in patterns.items() if pattern.search(line)]
            out += [f"{path}:{number} holds {what}" for what in dict.fromkeys(leaks_of_line)]
    return out
