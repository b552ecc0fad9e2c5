"""The gate: checks that a bundle must pass before the push.

The card's code runs unchanged, offline and in a fresh process. Its cache folder maps the repository's id to the bundle,
and the base's id to the weights that the run was trained on.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from safetensors import safe_open

from adapters.backends import adapter_folder
from adapters.extraction import vllm_probe
from adapters.extraction.vllm_probe import Greedy
from adapters.files import read_json, write_json
from adapters.publish import bundle, plugin_code, quality
from adapters.publish.finished_run import Finished, probes

PROBES: Final = 4
PROBE_TOKENS: Final = 128
TIMEOUT: Final = 3600
ASKED_FOR: Final = ("config.json", "adapter_config.json", "generation_config.json", "processor_config.json")
"""Optional files that libraries ask a repository for."""


class Check(NamedTuple):
    """One check of the gate and its result."""

    name: str
    passed: bool
    detail: str


class GateError(Exception):
    """Why a bundle must not be published. The command exits with 3."""


def measured(finished: Finished) -> Check:
    """Whether the figures reach `publish.minimum` and the base model's."""
    passed, detail, _ = quality.judge(finished)
    return Check("figures", passed, detail)


def static(finished: Finished, folder: Path) -> list[Check]:
    """Checks without loading a model: files, card, and whether vLLM can serve it."""
    given = f"{finished.settings.contact} {finished.settings.citation}"
    leaks = bundle.leaks(folder, (str(finished.folder.resolve()), str(Path.cwd())), given)
    files = bundle.files(folder)
    size = sum((folder / f).stat().st_size for f in files)
    clean = f"{len(files)} files, {size / 1e6:.1f} MB; no path, token or address of yours"
    return [Check("files", not leaks, "; ".join(leaks[:5]) or clean), _servable(folder), _card(folder)]


def max_lora_rank(rank: int) -> int | None:
    """The --max-lora-rank that vLLM needs for a rank; None above its largest."""
    return next((r for r in vllm_probe.RANKS if r >= rank), None)


def _servable(folder: Path) -> Check:
    name, config = "vLLM", json.loads((folder / adapter_folder.CONFIG).read_text(encoding="utf-8"))
    if config.get("peft_type") != "LORA":
        return Check(name, False, f"the adapter's type is {config.get('peft_type')}, not LORA")
    if config.get("task_type") == "TOKEN_CLS":
        return _head(folder, config)
    for key in ("modules_to_save", "use_dora", "target_parameters", "alpha_pattern", "rank_pattern", "lora_bias"):
        if config.get(key):
            return Check(name, False, f"{key} is set, which vLLM does not serve")
    if config.get("bias") != "none":
        return Check(name, False, f"bias is {config.get('bias')!r}, which vLLM does not serve")
    if max_lora_rank(config["r"]) is None:
        return Check(name, False, f"rank {config['r']} is above {vllm_probe.RANKS[-1]}, the largest that vLLM takes")
    with safe_open(folder / adapter_folder.WEIGHTS, framework="numpy") as stored:
        names = list(stored.keys())
    odd = [n for n in names if not re.search(r"\.lora_[AB]\.weight$", n) or "lm_head" in n or "embed_tokens" in n]
    if odd:
        return Check(name, False, f"{odd[0]} is no A or B matrix of an inner linear layer")
    return Check(name, True, f"plain LoRA of rank {config['r']}: --max-lora-rank {max_lora_rank(config['r'])}")


def _head(folder: Path, config: Mapping[str, Any]) -> Check:
    """Whether an encoder's adapter is matrices and exactly the head."""
    name, heads = "vLLM", set(config.get("modules_to_save") or ())
    for key in ("use_dora", "target_parameters", "lora_bias"):
        if config.get(key):
            return Check(name, False, f"{key} is set, which recipes do not offer")
    with safe_open(folder / adapter_folder.WEIGHTS, framework="numpy") as stored:
        whole = [n for n in stored.keys() if not re.search(r"\.lora_[AB]\.weight$", n)]  # noqa: SIM118 - no mapping
    saved = {n.removeprefix(adapter_folder.PEFT_PREFIX).rpartition(".")[0] for n in whole}
    if odd := sorted((heads | saved) - {"classifier", "score"}):
        return Check(name, False, f"{odd[0]} is trained whole, and only the head may be")
    if len(saved) != 1:
        return Check(name, False, f"the adapter holds {len(saved)} heads, not one")
    return Check(
        name, True, f"an encoder: not served by vLLM; of whole modules it holds the head ({saved.pop()}) alone"
    )


def _card(folder: Path) -> Check:
    from huggingface_hub import ModelCard

    text = (folder / "README.md").read_text(encoding="utf-8")
    try:
        card = ModelCard(text)
    except (ValueError, TypeError) as error:
        return Check("card", False, f"the metadata cannot be read back: {error}")
    data: dict[str, Any] = card.data.to_dict()  # type: ignore[no-untyped-call]
    absent = [k for k in ("base_model", "library_name", "pipeline_tag", "tags") if not data.get(k)]
    if absent:
        return Check("card", False, f"the metadata lack {', '.join(absent)}")
    links = re.findall(r"\]\((plots/[^)]+)\)", text)
    if dead := [link for link in links if not (folder / link).is_file()]:
        return Check("card", False, f"it links to {dead[0]}, which is not there")
    results = getattr(card.data, "eval_results", None) or []
    return Check("card", True, f"{len(results)} results in its metadata, {len(links)} plots")


def loaded(finished: Finished, folder: Path) -> tuple[list[Check], dict[str, Any]]:
    """Load the bundle in a fresh process: checks, facts. RuntimeError when that fails."""
    from adapters.backends.local import base_model

    base = base_model.resolve(finished.recipe.model.base, finished.base_revision)
    with tempfile.TemporaryDirectory() as work:
        spec = {
            "bundle": str(folder.resolve()),
            "base": base.load,
            "revision": base.revision,
            "model": finished.recipe.model.model_dump(),
            "probes": [p._asdict() for p in probes(finished, PROBES)],
            "example": finished.example().prompt,
            "max_new_tokens": PROBE_TOKENS,
            "elsewhere": "service" in finished.manifest.get("model", {}),
        }
        write_json(Path(work) / "spec.json", spec)
        module = "verify_tagger" if finished.recipe.tags_words else "verify_adapter"
        command = [sys.executable, "-m", f"adapters.backends.local.{module}", "spec.json", "facts.json"]
        done = run_in(command, work, {})
        if done.returncode:
            raise RuntimeError(f"the bundle could not be loaded: {reason(done.stderr)}")
        facts = json.loads((Path(work) / "facts.json").read_text(encoding="utf-8"))
    return [Check(*check) for check in facts.pop("checks")], facts


def served(finished: Finished, folder: Path, facts: Mapping[str, Any], python: Path) -> tuple[Check, dict[str, Any]]:
    """Ask vLLM for the probes with and without the adapter: a check, and what the card says of it.

    `python` is the interpreter of an environment with vLLM. It runs the base's files as they are.
    """
    base = base_files(finished)
    config = json.loads((folder / adapter_folder.CONFIG).read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as work:
        spec = {
            "base": str(base),
            "revision": None,
            "adapter": str(folder.resolve()),
            "rank": config["r"],
            "dtype": finished.recipe.model.dtype,
            "prompts": facts["prompts"],
            "stops": facts["stops"],
            "max_tokens": PROBE_TOKENS,
        }
        write_json(Path(work) / "spec.json", spec)
        done = run_in([str(python), str(vllm_probe.__file__), "spec.json", "answers.json"], work, {})
        if done.returncode:
            return Check("served", False, f"vLLM fails: {_first_error(done.stdout + done.stderr)}"), {}
        answers = read_json(Path(work) / "answers.json")
    runs = [[Greedy(*answer) for answer in answers[name]] for name in ("base", "repeated", "adapted")]
    name = f"vLLM {answers['version']}"
    changed = sum(vllm_probe.has_effect(*asked) for asked in zip(*runs, strict=True))
    if changed < len(runs[0]):
        what = "the adapter changes nothing of" if not changed else "the adapter changes only"
        return Check("served", False, f"{name}: {what} {changed or len(runs[0])} of {len(runs[0])} answers"), {}
    known = probes(finished, PROBES)
    same = sum(
        a.text.strip() == p.completion.strip() or (p.truncated and a.text.startswith(p.completion))
        for a, p in zip(runs[2], known, strict=False)
    )
    detail = f"{name}: the adapter changes the log-probabilities of {changed} of {changed} answers; {same} of "
    detail += f"{len(known)} answers are the training process's to the letter"
    return Check("served", True, detail), {"vllm": answers["version"], "vllm_base": base_is_text_only(base)}


def base_is_text_only(base: Path) -> bool:
    """Whether a folder holds the text model that was taken out of a vision-language checkpoint."""
    from adapters.backends.local.text_only import MARKER

    return (base / MARKER).is_file()


def snippet(card: str) -> str:
    """The usage code of a card: its first Python block."""
    block = re.search(r"^```python\n(.*?)^```$", card, re.DOTALL | re.MULTILINE)
    return block[1] if block else ""


def rerun(finished: Finished, folder: Path) -> str | None:
    """Why a dry run of the bundle's recipe fails, with its data files beside it; None when it ends with 0."""
    with tempfile.TemporaryDirectory() as work, tempfile.TemporaryDirectory() as cache:
        shutil.copyfile(folder / "recipe.yaml", Path(work) / "recipe.yaml")
        if (folder / plugin_code.FOLDER).is_dir():
            shutil.copytree(folder / plugin_code.FOLDER, Path(work) / plugin_code.FOLDER)
        for name, (path, *others) in bundle.data_files(finished).items():
            target = Path(work) / name
            if others or not target.resolve().is_relative_to(Path(work).resolve()):
                return f"its data file `{name}` {'is two files' if others else 'lies in another folder'}"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(path)
        env = {}
        if Path(finished.recipe.model.base).expanduser().is_dir():  # the bundle names it by its Hub id
            env["HF_HUB_CACHE"] = cache
            _resolve_to(Path(cache), finished.base_id, finished.base_revision, base_files(finished))
        done = run_in([sys.executable, "-m", "adapters", "run", "recipe.yaml", "--dry-run"], work, env)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            reason = " ".join(lines[-1:]).replace(f"{work}/", "").removesuffix(".")
            return re.sub(r"(?<![\w./:])/[\w./-]*/", "", reason) or f"exit code {done.returncode}"
    return None


def used(finished: Finished, folder: Path, repo: str, tag: str | None = None) -> Check:
    """Run the card's usage code, unchanged, in a fresh process."""
    code = snippet((folder / "README.md").read_text(encoding="utf-8"))
    if not code:
        return Check("usage", False, "the card has no Python code")
    with as_on_the_hub(finished, folder, repo, tag, code) as (work, env):
        (work / "usage.py").write_text(code, encoding="utf-8")
        done = run_in([sys.executable, "usage.py"], str(work), env)
    if done.returncode:
        return Check("usage", False, f"the card's code fails: {reason(done.stderr)}")
    if "missing adapter keys" in done.stderr:
        return Check("usage", False, "the card's code loads the base, but not the adapter's weights")
    answer = done.stdout.strip()
    form = "a well-formed" if finished.task.is_well_formed(answer) else "a malformed"
    return Check("usage", True, f"the card's code runs, and prints {form} answer: {answer[:60]!r}")


@contextmanager
def as_on_the_hub(
    finished: Finished, folder: Path, repo: str, tag: str | None, code: str
) -> Iterator[tuple[Path, dict[str, str]]]:
    """A new folder, and an environment in which `code` finds a bundle and its base under their Hub ids."""
    with tempfile.TemporaryDirectory() as name:
        work, cache = Path(name), Path(name, "hub")
        base = base_files(finished, checkpoint="AutoModelForImageTextToText" in code)
        _resolve_to(cache, repo, tag, folder)
        _resolve_to(cache, finished.base_id, finished.base_revision, base)
        yield work, {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(cache)}


def base_files(finished: Finished, *, checkpoint: bool = False) -> Path:
    """The folder of the base that the run was trained on, or of the `checkpoint` that it was taken from."""
    from adapters.backends.local import base_model

    base = base_model.resolve(finished.recipe.model.base, finished.base_revision)
    if Path(base.load).is_dir() and not (checkpoint and base_is_text_only(Path(base.load))):
        return Path(base.load)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(finished.base_id, revision=finished.base_revision, local_files_only=True))


def _resolve_to(cache: Path, repo: str, revision: str | None, folder: Path) -> None:
    """Add a folder to a cache of huggingface_hub's layout, as the given Hub id."""
    commit = revision if revision and re.fullmatch(r"[0-9a-f]{40}", revision) else "0" * 40
    root = cache / f"models--{repo.replace('/', '--')}"
    refs, missing = root / "refs", root / ".no_exist" / commit
    for new in (refs, missing):
        new.mkdir(parents=True)
    for ref in {"main", revision or "main"} - {commit}:
        (refs / ref).write_text(commit)
    for source in bundle.files(folder):
        target = root / "snapshots" / commit / source
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to((folder / source).resolve())
    for name in ASKED_FOR:
        if not (folder / name).is_file():
            (missing / name).touch()  # huggingface_hub's note of a 404; without it, "offline" is the answer


def run_in(command: Sequence[str], folder: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command of one process in a folder, with more environment. RuntimeError when it takes an hour."""
    ranks = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
    env = {k: v for k, v in os.environ.items() if k not in ranks} | env
    try:
        return subprocess.run(  # noqa: S603 - a list of our own making, no shell reads it
            command, cwd=folder, env=env, capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{command[1]} was not done after {TIMEOUT // 60} minutes") from None


def _first_error(text: str) -> str:
    """The error that a process of vLLM met first; the last one only says that a process ended."""
    first = re.search(r"\b[A-Z]\w*Error: \S.*", text)
    return first[0] if first else reason(text)


def reason(text: str) -> str:
    """The exception that ended a process, else its last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no message"]
    exceptions = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Interrupt)\b", line)]
    return (exceptions or lines)[-1]
