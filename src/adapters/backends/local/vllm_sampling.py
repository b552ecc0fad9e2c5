"""vLLM as the sampler of GRPO: whether it can be used, with which options, and how it starts and ends in a run."""

from __future__ import annotations

import gc
import importlib.metadata
import importlib.util
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from packaging.version import Version
from peft import PeftModel
from transformers import PreTrainedConfig
from transformers.utils import cached_file
from trl.generation.vllm_generation import VLLMGeneration

from adapters import console
from adapters.backends import adapter_folder
from adapters.backends.jobs import Job
from adapters.backends.local import vllm_server
from adapters.backends.local.base_model import Base
from adapters.backends.local.checkpoints import last_good
from adapters.backends.local.encoder import end_tokens
from adapters.backends.local.memory_plan import vllm_share
from adapters.backends.local.text_only import wrapper_of
from adapters.backends.local.vllm_weights import merged_weights
from adapters.errors import UserError
from adapters.files import read_json, write_json
from adapters.recipe.recipe import Recipe
from adapters.recipe.stages import Grpo

STATE = "vllm.json"
"""In the folder of a running stage's checkpoints: how its completions are sampled."""
OLDEST, NEWEST = Version("0.22"), Version("0.31")
"""Versions of vLLM that TRL takes (trl.import_utils)."""
DEVICES = ("cuda",)
"""Devices of a trainer on which vLLM can take weights: its CPU build repacks them when it loads them."""


@dataclass(frozen=True)
class Sampling:
    """How the completions of a GRPO stage are sampled."""

    mode: str
    """colocate, server, or off: transformers' `generate`."""
    version: str | None = None
    """That of vLLM; None without it."""
    reason: str | None = None
    """Why `vllm: auto` came to be off."""

    @property
    def record(self) -> dict[str, str]:
        """What the manifest says; the card may show it, so no reason with a path in it."""
        return {"mode": self.mode} | ({"version": self.version} if self.version else {})

    @property
    def note(self) -> str:
        """What a person should know before the training; empty for a choice of their own."""
        if self.mode != "off":
            return f"sampled with vLLM {self.version} ({self.mode})"
        return f"sampled without vLLM: {self.reason}" if self.reason else ""


def choose(job: Job, recipe: Recipe, base: Base, device: str) -> Sampling:
    """How a GRPO stage is sampled. A stage with checkpoints keeps to what it began with. A server is asked.

    Raises UserError when the way that the recipe names, or that the stage began with, is impossible.
    """
    stage: Any = job.stage
    at, folder = ("stages", job.index, "vllm"), adapter_folder.work_folder(job.folder) / "trainer"
    asked, began = stage.vllm, None
    if last_good(folder):
        began = str(read_json(folder / STATE).get("mode", "off"))
        if asked not in ("auto", began):
            raise UserError(
                f"{job.name} began with vllm: {began}, and all of a stage is sampled in one way; set vllm: {began} to "
                "continue it, or start again with --fresh.",
                at=at,
            )
        asked = began
    if asked == "off" or (asked == "auto" and device not in DEVICES):  # nobody expects vLLM on a CPU
        return Sampling("off")
    mode = "colocate" if asked == "auto" else asked
    problem = obstacle(job, mode, recipe, base, device)
    if problem and asked == "auto":
        return Sampling("off", reason=problem)
    if problem:
        kept = f"{job.name} began with vLLM ({began}) and cannot continue without it: " if began else ""
        raise UserError(kept + problem, at=at)
    if mode == "server" and console.is_main():
        vllm_server.check_server(stage.vllm_server, base, context(stage), _version())
    return Sampling(mode, _version())


def obstacle(job: Job, mode: str, recipe: Recipe, base: Base, device: str) -> str | None:
    """A sentence on why vLLM cannot sample for a stage; None if it can."""
    stage: Any = job.stage
    if stage.environment is not None:
        return "episodes of an environment are played without vLLM; use vllm: off."
    if missing := not_installed():
        return missing
    if not OLDEST <= Version(_version()) <= NEWEST:
        return f"vLLM {_version()} is none that TRL works with ({OLDEST} to {NEWEST}): install vllm=={NEWEST}.0."
    if device not in DEVICES:
        return f"vLLM takes weights from a trainer on a CUDA GPU only, not on {device}; use vllm: off."
    if recipe.model.quantize:
        return f"vLLM cannot sample from a base that is trained in 4 bits (model.quantize: {recipe.model.quantize})."
    if wrapper_of(base):
        return (
            f"{base.load} is stored as a vision-language model, whose weights have other names in vLLM than in "
            f"training; make a folder of its text model, `adapters base text-only {base.load} -o FOLDER`, and set "
            "model.base=FOLDER."
        )
    config = _config(base)
    longest = (config.get("text_config") or config).get("max_position_embeddings")
    if isinstance(longest, int) and context(stage) > longest:
        return (
            f"max_prompt_length and max_completion_length are {context(stage):,} tokens together, and {base.load} "
            f"reads {longest:,}; lower them."
        )
    try:
        if mode == "colocate" and not stage.trl.get("vllm_gpu_memory_utilization"):
            vllm_share(job, recipe, base)
    except UserError as error:
        return str(error)
    return _refused_by_vllm(stage, mode, config, base)


def not_installed() -> str | None:
    """A sentence when this environment has no vLLM."""
    found = importlib.util.find_spec("vllm") and [*importlib.metadata.distributions(name="vllm")]
    return None if found else "vLLM is not installed: pip install -c constraints.txt -e '.[vllm]' in the repository."


def context(stage: Grpo) -> int:
    """Tokens of a stage's longest prompt and completion together."""
    return stage.max_prompt_length + stage.max_completion_length


def _config(base: Base) -> dict[str, Any]:
    try:
        config: dict[str, Any] = PreTrainedConfig.get_config_dict(base.load, revision=base.revision)[0]
    except (OSError, ValueError) as error:
        raise UserError(f"the configuration of {base.load!r} cannot be read: {error}", at=("model", "base")) from error
    return config


def _refused_by_vllm(stage: Grpo, mode: str, config: Mapping[str, Any], base: Base) -> str | None:
    from vllm import ModelRegistry, SamplingParams  # seconds, so only where nothing else speaks against it

    architectures = config.get("architectures") or []
    if mode == "colocate" and not set(architectures) & set(ModelRegistry.get_supported_archs()):
        return f"vLLM {_version()} has no class for {base.load} ({', '.join(architectures)})."
    options = {k: v for k, v in (stage.trl.get("generation_kwargs") or {}).items() if k != "structured_outputs"}
    try:
        SamplingParams(**options)
    except (TypeError, ValueError) as error:
        return f"trl.generation_kwargs is for vLLM's SamplingParams, which does not take it: {error}."
    return None


def _version() -> str:
    return Version(importlib.metadata.version("vllm")).base_version


@contextmanager
def beside_training(run: Any, base: Base, device: str) -> Iterator[dict[str, Any]]:
    """Let vLLM sample for the trainers of a `LocalStage`, if it can, and leave the process as it was.

    Gives what the manifest says of it; nothing for a stage that samples nothing.
    """
    if not isinstance(run.job.stage, Grpo):
        yield {}
        return
    sampling = choose(run.job, run.recipe, base, device)
    if console.is_main():
        write_json(run.folder / STATE, sampling.record)
    run.sampling.update(_options(sampling, run, base))
    with nullcontext() if sampling.mode == "off" else _replaced(sampling, run.model, base):
        yield {"sampling": sampling.record}


def _options(sampling: Sampling, run: Any, base: Base) -> dict[str, Any]:
    """TRL's options for how a stage is sampled; none without vLLM."""
    if sampling.mode == "off":
        return {}
    stage, tokenizer = run.job.stage, run.encoder.tokenizer
    # vLLM knows the end tokens of the base's folder only; TRL's trainer ends completions at these.
    ends = list(dict.fromkeys([tokenizer.eos_token_id, *end_tokens(run.model.generation_config)]))
    chosen: dict[str, Any] = {
        "use_vllm": True,
        "vllm_mode": sampling.mode,
        "generation_kwargs": {"stop_token_ids": ends, **(stage.trl.get("generation_kwargs") or {})},
    }
    if sampling.mode == "server":
        return chosen | {"vllm_server_base_url": vllm_server.address(stage.vllm_server)}
    share = stage.trl.get("vllm_gpu_memory_utilization") or vllm_share(run.job, run.recipe, base)
    return chosen | {
        "vllm_max_model_length": context(stage),
        "vllm_gpu_memory_utilization": share,
        "trust_remote_code": run.recipe.model.trust_remote_code,
    }


@contextmanager
def _replaced(sampling: Sampling, model: PeftModel, base: Base) -> Iterator[None]:
    original, environment = VLLMGeneration._iter_named_params, dict(os.environ)
    had_groups = torch.distributed.is_initialized()
    if base.revision:  # TRL names the model to vLLM, but not its revision
        config = cached_file(base.load, "config.json", revision=base.revision)
        model.get_base_model().name_or_path = str(Path(config).parent)
    VLLMGeneration._iter_named_params = merged_weights
    try:
        yield
    finally:
        VLLMGeneration._iter_named_params = original
        if sampling.mode == "colocate":
            _forget_groups(had_groups)
        for name in os.environ.keys() - environment.keys():  # TRL sets RANK, WORLD_SIZE and more
            del os.environ[name]
        os.environ.update(environment)


def _forget_groups(keep_default: bool) -> None:
    """End vLLM's process groups; the default one too, unless it is that of the training's processes."""
    from vllm.distributed import parallel_state

    parallel_state.destroy_model_parallel()
    if not keep_default:
        parallel_state.destroy_distributed_environment()


def stop(trainer: Any) -> None:
    """Free what a trainer's vLLM holds: the engine of this process, or the connection to the server."""
    generation = getattr(trainer, "vllm_generation", None)
    if client := getattr(generation, "vllm_client", None):
        client.close_communicator()
    if generation is not None and hasattr(generation, "llm"):
        generation.llm.llm_engine.engine_core.shutdown()
        del generation.llm
        gc.unfreeze()  # vLLM freezes what is alive when it starts, itself included
        gc.collect()
