"""SFT and GRPO through TRL's trainers, and what all stages' trainers share."""

from __future__ import annotations

import gc
import json
import math
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
import trl.trainer.utils as trl_utils
from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import send_to_device
from datasets import Dataset
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import TrainerCallback, TrainerState
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from trl import GRPOTrainer, SFTTrainer

from adapters.backends.adapter_folder import WEIGHTS
from adapters.backends.batches import layout
from adapters.backends.figures import grpo_figures
from adapters.backends.groups import fresh_rows
from adapters.backends.jobs import Job
from adapters.backends.local import episodes, packing, sharding, vllm_sampling
from adapters.backends.local.checkpoints import Checkpoints, last_good, rewind, step_of
from adapters.backends.local.encoder import Encoder
from adapters.backends.local.flat_groups import FlatGroups
from adapters.backends.local.health_callback import HealthWatch
from adapters.backends.local.importance_ratio import log_importance_ratio
from adapters.backends.local.model import mismatch, on_gpu
from adapters.backends.local.select import Selecting
from adapters.backends.local.speedups.grpo import grpo_speedups
from adapters.backends.local.speedups.padding_free import in_use
from adapters.backends.local.tracking import Extras
from adapters.backends.local.trainer_args import trainer_config
from adapters.backends.local.trl_reward import TrlReward
from adapters.console import phase
from adapters.data.lengths import BLOCK
from adapters.data.on_disk import Taken
from adapters.errors import UserError
from adapters.files import append_jsonl, write_json
from adapters.recipe.recipe import Recipe
from adapters.recipe.stages import Dpo, Grpo, Supervised
from adapters.types import Example, Progress

# A private name of TRL, which is why the supported TRL is one minor version (pyproject.toml).
_on_triton = trl_utils._use_triton


def _score_targets_only(device: torch.device) -> bool:
    # TRL's fused head skips prompt positions on Triton devices and projects every position elsewhere, because some
    # compilers want static shapes. Eager CPU code does not; with short targets this saves a fifth of the step.
    return device.type == "cpu" or bool(_on_triton(device))


trl_utils._use_triton = _score_targets_only


class Watch(TrainerCallback):  # type: ignore[misc]
    """Reports progress, writes the metrics log, checks the reference at step 1."""

    def __init__(self, job: Job, log: Path, progress: Progress) -> None:
        self.job, self.log, self.progress = job, log, progress
        self.last: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note the step at which the training starts or continues; check the sharding."""
        sharding.prepared(kwargs["model"])
        stage = self.job.stage
        if not state.global_step and isinstance(stage, Grpo) and stage.beta:
            verify_reference(kwargs["model"], stage.reference)
        self.last["resumed"] = state.global_step
        self.on_step_end(args, state, control)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the progress display."""
        self.progress(state.global_step, state.max_steps, self.last)

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        """Log the figures. Raises RuntimeError when the reference is not the start."""
        figures = {k: float(v) for k, v in (logs or {}).items() if isinstance(v, int | float)}
        if state.is_world_process_zero:
            append_jsonl(self.log, [{"step": state.global_step, **figures}])
        self.last.update(figures)
        stage = self.job.stage
        if state.global_step == 1 and isinstance(stage, Dpo | Grpo) and stage.reference == "start":
            # Policy and reference are the same weights before the first update (`verify_reference`). The limits leave
            # room for bf16, which computes the two in batches of different widths: 0.05 nats a token are a KL of 0.001.
            limits = {"rewards/margins": 5 * stage.beta, "rewards/chosen": 5 * stage.beta, "kl": 0.02}
            for name in limits.keys() & figures.keys():
                if not abs(figures[name]) < limits[name]:
                    what = "KL" if name == "kl" else name
                    raise RuntimeError(
                        f"the reference is not the starting adapter: first {what} is {figures[name]:g}, not 0"
                    )


@dataclass(frozen=True)
class LocalStage:
    """A job on this machine's devices; `folder` holds the trainer's checkpoints."""

    model: PeftModel
    encoder: Encoder
    """Of an encoder's stage its `word_encoder.WordEncoder`."""
    job: Job
    recipe: Recipe
    folder: Path
    progress: Progress
    sampling: dict[str, Any] = field(default_factory=dict)
    """TRL's options for sampling with vLLM; see `vllm_sampling`."""
    new: bool = False
    """Whether the stage starts from a new adapter, not from an earlier one."""
    chosen: dict[str, Any] = field(default_factory=dict)
    """Once the training has ended: which state was kept, for the stage's figures; see `selection`."""

    @property
    def joins_rows(self) -> bool:
        """Whether TRL joins the rows of a pass; on a CPU, `speedups.padding_free` does so below it."""
        return getattr(self.job.stage, "packing", False) and not in_use(self.model)

    def order(self, lengths: Sequence[int]) -> list[int]:
        """Row indices in training order."""
        stage: Any = self.job.stage
        by_length = stage.group_by_length and not in_use(self.model) and not self.joins_rows
        return layout(lengths, stage.batch_size, self.job.steps, self.recipe.seed, by_length=by_length)

    def trainer(self, kind: Any, rows: Dataset, **options: Any) -> Any:
        """A trainer of TRL, without its own progress bar and printing."""
        watch = Watch(self.job, self.folder.parent / "log.jsonl", self.progress)
        selecting = [Selecting(self, self.job.select)] if self.job.select else []
        extras = [Extras(self.recipe, self.folder.parent)] if self.recipe.report_to else []
        trainer = kind(
            model=self.model,
            args=trainer_config(
                self.job, self.recipe, self.folder, self.encoder.template, self.sampling, packed=self.joins_rows
            ),
            train_dataset=rows,
            processing_class=self.encoder.tokenizer,
            callbacks=[watch, HealthWatch(self.job.stage.health), *selecting, Checkpoints(), *extras],
            **options,
        )
        for callback in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(callback)
        sharding.prepare(trainer)
        return trainer

    def train(self, trainer: Any) -> TrainerState:
        """Train all steps, from the newest valid checkpoint if there is one; keep the chosen state."""
        checkpoint = last_good(self.folder)
        step = step_of(checkpoint)
        # A record of step n is logged at its end, and its rollouts are written while n - 1 steps are done.
        rewind(self.folder.parent / f"rollouts-{PartialState().process_index}.jsonl", step)
        if PartialState().is_main_process:
            rewind(self.folder.parent / "log.jsonl", step + 1)
        selecting = next((c for c in trainer.callback_handler.callbacks if isinstance(c, Selecting)), None)
        if selecting:
            phase("measuring the start")
            selecting.begin()
        phase("training")
        if checkpoint and step >= (selecting.last_step if selecting else self.job.steps):
            # Killed after the last step: the trainer itself would take one more before it notices.
            model = trainer.accelerator.unwrap_model(trainer.model)
            set_peft_model_state_dict(model, load_file(checkpoint / WEIGHTS), adapter_name="default")
            state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        else:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            state = trainer.state
        if selecting:
            self.chosen["select"] = selecting.finish(state.global_step)
        return state

    def train_measured(self, trainer: Any, measure: Callable[[], float] | None) -> dict[str, Any]:
        """Train all steps; how many, and the loss of held-out rows before and after, as `measure` computes it.

        A new adapter changes nothing before its first step, so its loss before is that of the model without it, and is
        measured in the end: the first step comes sooner, and a training that fails has not waited for it.
        """
        stored = self.folder.parent / "nll_before.json"
        if measure and not self.new and not last_good(self.folder):
            phase("measuring before training")
            with sharding.not_yet(trainer):
                write_json(stored, measure())
        figures: dict[str, Any] = {"steps": self.train(trainer).global_step}
        if measure:
            if self.new:
                phase("measuring without the adapter")
                with self.model.disable_adapter():
                    figures["nll_before"] = measure()
            else:
                figures["nll_before"] = json.loads(stored.read_text()) if stored.is_file() else None
            phase("measuring after training")
            figures["nll_after"] = measure()
        return figures


def train_sft(run: LocalStage, stage: Supervised) -> dict[str, Any]:
    """Train one SFT stage. Returns its steps, and NLL per token before and after."""
    phase("tokenising")
    rows = _tokens(run.encoder, run.job.examples)
    trainer = run.trainer(SFTTrainer, rows.select(run.order(rows["length"])))
    if run.joins_rows:
        two = [{k: rows[n % len(rows)][k] for k in ("input_ids", "labels")} for n in (0, 1)]
        packing.verify(trainer, two, ("stages", run.job.index, "packing"))
    held_out = _tokens(run.encoder, run.job.validation) if run.job.validation else None
    measure = (lambda: nll(trainer, held_out, run.progress)) if held_out else None
    figures = run.train_measured(trainer, measure)
    release(trainer)
    return figures


def train_grpo(run: LocalStage, stage: Grpo) -> dict[str, Any]:
    """Train one GRPO stage. Returns its steps, first KL, rewards and zero variance."""
    job, model = run.job, run.model
    rollouts = run.folder.parent / f"rollouts-{PartialState().process_index}.jsonl"
    rows = _prompts(job.examples) if job.environment is None else episodes.rows(job.examples)
    # TRL would shuffle each epoch as it comes, and a run that is resumed in a later one would begin with the first's.
    order = layout([0] * len(rows), stage.batch_size, job.steps, run.recipe.seed, by_length=False)
    rewards = [TrlReward(reward, job.examples, rollouts) for reward in job.all_rewards]
    played = episodes.Rollouts(run.encoder, job, run.recipe.seed) if job.environment else None
    trainer = run.trainer(GRPOTrainer, rows.select(order), reward_funcs=rewards, rollout_func=played)
    trainer._tokenize_prompts = GroupPrompts(run.encoder)
    if stage.updates_per_generation > 1:
        log_importance_ratio(trainer)

    def fresh(steps: int) -> list[list[int]]:
        start, size = steps * stage.batch_size, stage.updates_per_generation * stage.batch_size
        return fresh_rows(order, len(rows), start, start + size, run.recipe.seed, stage.replace_rounds)

    flat = FlatGroups(trainer, stage, rows, fresh) if stage.flat_groups != "keep" or stage.flat_below else None
    if stage.beta:
        set_reference(model, stage.reference)
        verify_reference(model, stage.reference)
    metrics, done = trainer._metrics["train"], step_of(last_good(run.folder)) // stage.updates_per_generation

    def again() -> bool:
        return bool((flat and flat.replacing) or (played and played.later_turn))

    options = (metrics, done, again, played.turns if played else None)
    with grpo_speedups(model, trainer.args, *options) if run.recipe.model.speedups else nullcontext():
        state = run.train(trainer)
    if "ref" in model.peft_config:
        model.delete_adapter("ref")
    vllm_sampling.stop(trainer)
    release(trainer)
    return {"steps": state.global_step, **grpo_figures(state.log_history)}


def set_reference(model: PeftModel, reference: str) -> None:
    """TRL copied the starting adapter into "ref"; make it what the recipe names."""
    if reference == "start":
        return
    if reference == "base":
        for name, parameter in model.named_parameters():
            if ".lora_B.ref." in name:
                parameter.data.zero_()  # a zero B makes the adapter the base itself
        return
    set_peft_model_state_dict(model, load_file(Path(reference) / WEIGHTS), adapter_name="ref")
    if problem := mismatch(model, Path(reference), "ref"):
        raise UserError(f"the reference {reference} does not fit this adapter: {problem}")


def verify_reference(model: PeftModel, reference: str) -> None:
    """Raise RuntimeError when "start" is not the adapter that this stage starts from.

    To be called before the first step, by all processes together.
    """
    if reference != "start":
        return
    with sharding.whole(model):
        start, ref = (get_peft_model_state_dict(model, adapter_name=name) for name in ("default", "ref"))
        # TRL copies the one into the other, and a trainer may widen what is trained.
        odd = [k for k in start if not torch.equal(start[k].to(ref[k].dtype), ref[k])]
    if odd:
        raise RuntimeError(
            f"the reference is not the starting adapter: {len(odd)} of {len(start)} tensors differ, such as {odd[0]}"
        )


def dataset(examples: Sequence[Example], make: Callable[[Sequence[Example]], Iterable[dict[str, Any]]]) -> Dataset:
    """The rows that `make` makes of examples: those of many, block by block, in a file of this process."""
    if not isinstance(examples, Taken):
        return Dataset.from_list(list(make(examples)))
    with tempfile.NamedTemporaryFile(suffix=".arrow") as file, ExitStack() as stack:
        writer = features = None
        for start in range(0, len(examples), BLOCK):
            rows = list(make(list(examples[start : start + BLOCK])))
            block = Dataset.from_list(rows, features=features)
            if writer is None:
                features = block.features
                writer = stack.enter_context(pa.ipc.new_stream(file, block.data.schema))
            writer.write_table(block.data.table)
        stack.close()
        file.flush()
        return Dataset.from_file(file.name)  # mapped, so that it stays readable without its name


def _tokens(encoder: Encoder, examples: Sequence[Example]) -> Dataset:
    # TRL's own preparation is skipped, so that prompt and mask are those of inference.
    return dataset(
        examples,
        lambda block: (
            {"input_ids": ids, "labels": labels, "length": len(ids)} for ids, labels in encoder.labelled(block)
        ),
    )


def _prompts(examples: Sequence[Example]) -> Dataset:
    # Gold goes by row number and messages as text: Arrow would rewrite nested values (missing keys come back as null).
    number = count()
    return dataset(examples, lambda block: ({"prompt": json.dumps(e.prompt), "row": next(number)} for e in block))


class GroupPrompts:
    """TRL's `_tokenize_prompts` for rows of `_prompts`: the tokens of all other uses, with the tools of each row."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    def __call__(self, prompts: Sequence[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        """Token ids; no images and no other fields."""
        return self.encoder.prompts([json.loads(prompt) for prompt in prompts]), None, {}


def nll(trainer: SFTTrainer, rows: Dataset, progress: Progress) -> float:
    """Mean negative log-likelihood per target token over all rows, in nats."""
    accelerator, model = trainer.accelerator, trainer.model_wrapped
    order = sorted(range(len(rows)), key=lambda i: rows[i]["length"])
    size = trainer.args.per_device_eval_batch_size
    batches = [order[i : i + size] for i in range(0, len(order), size)]
    total = torch.zeros(2, dtype=torch.float64)
    model.to(accelerator.device).eval()  # under DeepSpeed nothing has moved the model before the training starts
    with torch.no_grad():
        # Every process runs the same number of forwards, which sharded models need; the padding ones count nothing.
        for n in range(math.ceil(len(batches) / accelerator.num_processes)):
            mine = n * accelerator.num_processes + accelerator.process_index
            batch = trainer.data_collator(
                [{k: rows[i][k] for k in ("input_ids", "labels")} for i in batches[min(mine, len(batches) - 1)]]
            )
            batch = send_to_device(batch, accelerator.device)
            with accelerator.autocast():
                out = model(**batch, fused_lm_head=True)
            if mine < len(batches):
                total += torch.tensor([-out.log_probs.double().sum().item(), float(out.label_mask.sum().item())])
            progress(min((n + 1) * accelerator.num_processes, len(batches)), len(batches), {})
    model.train()
    total = accelerator.reduce(total.float().to(accelerator.device), reduction="sum").cpu()
    value = float(total[0] / total[1])
    progress(len(batches), len(batches), {"nll": value})
    return value


def release(trainer: Any) -> None:
    """Free the stage's memory before the next one starts."""
    trainer.accelerator.free_memory()
    trainer.optimizer = trainer.lr_scheduler = trainer.model = trainer.model_wrapped = None
    AcceleratorState._reset_state(reset_partial_state=False)
    unset_hf_deepspeed_config()  # the next stage's model is loaded whole
    gc.collect()
    if on_gpu():
        torch.accelerator.empty_cache()
