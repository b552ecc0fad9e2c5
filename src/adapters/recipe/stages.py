"""The stages of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Discriminator, Field, field_validator, model_validator

from adapters.recipe.fields import (
    Count,
    Domain,
    EnvironmentSpec,
    NoiseSpec,
    NonEmpty,
    RewardSpec,
    Share,
    Sources,
    Strict,
)


class Health(Strict):
    """Automatic stopping. A loss or gradient that is not finite always stops the run."""

    max_kl: float | None = Field(default=10.0, gt=0, description="Mean KL per token to the reference; null: no limit.")
    no_signal_steps: int | None = Field(
        default=20, ge=2, description="Steps in a row with equal rewards, or with all completions cut; null: no limit."
    )
    max_sampling_gap: float | None = Field(
        default=0.2, gt=0, description="Mean gap of a token's log-probability in vLLM and the trainer; null: no limit."
    )


class Select(Strict):
    """Held-out rows answered greedily while a stage trains, early stopping, and which state the stage keeps."""

    metric: str = Field(
        default="f1", description="f1: over all fields in the main matching mode; reward: of GRPO; or one field's F1."
    )
    every: Count | None = Field(default=None, description="Steps between two measurements; default: a tenth.")
    patience: Count | None = Field(
        default=None, description="Stop after so many measurements in a row without a better one; null: never."
    )
    rows: int = Field(default=200, ge=2, description="Held-out rows, at most.")
    on: Literal["validation"] = Field(
        default="validation", description="Where the rows come from: those that the stage's validation holds out."
    )
    keep: Literal["better", "last"] = Field(
        default="better", description="The best state, or the start where that is better; or the last state."
    )


class Samples(Strict):
    """Answers of the stage's start to its rows, graded by `rewards`."""

    k: int = Field(default=8, ge=2, description="Samples of each row, beside the greedy answer.")
    temperature: float = Field(default=0.8, gt=0, description="Sampling temperature.")
    margin: float = Field(
        default=0.02,
        ge=0,
        description="Least difference: best_of, of the best sample and the greedy answer; dpo, of best and worst.",
    )
    floor: float = Field(default=0.0, description="Least reward of an answer that is learned.")
    pick: Literal["best", "first"] = Field(
        default="best", description="best_of: the best sample, or as a control the first one, whatever it earns."
    )
    path: str | None = Field(
        default=None, description="Answers that `adapters sample` has drawn from `start`, instead of new ones."
    )

    @model_validator(mode="after")
    def _drawn_or_stored(self) -> Self:
        if self.path is not None and (odd := {"k", "temperature"} & self.model_fields_set):
            raise ValueError(f"{min(odd)} is that of the stored samples; leave it out")
        if self.pick == "first" and (odd := {"margin", "floor"} & self.model_fields_set):
            raise ValueError(f"{min(odd)} chooses among samples, and pick: first takes the first; leave it out")
        return self


class _AnyStage(Strict):
    method: ClassVar[Literal["sft", "dpo", "grpo", "distill", "token_classification"]]
    """What trains the stage."""
    data: Sources = Field(description="The stage's training data.")
    noise: NoiseSpec | None = Field(default=None, description="Noise on the texts (in SFT new in every epoch).")
    batch_size: Count = Field(default=16, description="Rows of one optimizer step, over all processes.")
    micro_batch_size: Count | None = Field(default=None, description="Rows per process and pass; default: by device.")
    epochs: float = Field(default=1.0, gt=0, le=1_000_000, description="Passes over the data.")
    max_steps: Count | None = Field(default=None, description="Stop after this many optimizer steps.")
    learning_rate: float = Field(gt=0, description="Highest learning rate of AdamW.")
    schedule: Literal["linear", "cosine", "constant"] = Field(default="linear", description="Learning rate schedule.")
    warmup: float = Field(default=0.0, ge=0, lt=1, description="Share of the steps in which the learning rate rises.")
    weight_decay: float = Field(default=0.0, ge=0, description="Weight decay of AdamW.")
    max_too_long: Share = Field(default=0.2, description="Share of the rows that the length limits may drop.")
    save_every: Count | None = Field(default=None, description="Checkpoint interval in steps; default: a tenth.")
    gradient_checkpointing: bool | None = Field(default=None, description="Default: on for GPU, off for CPU.")
    health: Health = Field(default=Health(), description="Automatic stopping.")
    select: Select | None = Field(default=None, description="Measure held-out rows while training, keep the best.")

    @model_validator(mode="after")
    def _clean_for_teachers(self) -> Self:
        if self.noise is not None and self.noise.teacher == "clean" and self.method != "distill":
            raise ValueError("noise with teacher: clean is for a distill stage, whose teachers then read clean texts")
        return self


class _Stage(_AnyStage):
    trl: dict[str, Any] = Field(default_factory=dict, description="Options of TRL's config class.")


class _PromptWithAnswer(_Stage):
    max_length: int = Field(default=2048, ge=8, description="Rows (or pairs) of more tokens are dropped, and counted.")
    group_by_length: bool = Field(default=True, description="Sort the rows inside each (random) batch: less padding.")
    validation: float = Field(default=0.05, ge=0, lt=0.5, description="Share of ids held out to measure (200 at most).")


class Supervised(_PromptWithAnswer):
    """What SFT and best_of have in common."""

    method: ClassVar = "sft"
    vary: Share = Field(
        default=0.0, description="Share of the rows that the task asks for in another way; see recipes.md."
    )
    packing: bool = Field(
        default=False, description="Join the rows of a pass instead of padding them; where attention keeps them apart."
    )


class Sft(Supervised):
    """Supervised fine-tuning on prompt and completion; loss on the completion only."""

    kind: Literal["sft"]


class BestOf(Supervised):
    """SFT on the start's own best answers: rejection sampling (Dong et al. 2023, RAFT; Gulcehre et al. 2023, ReST)."""

    kind: Literal["best_of"]
    rewards: NonEmpty[RewardSpec] = Field(description="Rewards, by name or with their parameters.")
    samples: Samples = Field(default=Samples(), description="How answers are sampled and picked.")


class _Sampled(_Stage):
    """What stages have in common that learn from what the student samples while it trains."""

    validation: float | None = Field(
        default=None, ge=0, lt=0.5, description="Share of ids held out for select; default: 0.1 with it, else 0."
    )
    temperature: float = Field(default=1.0, gt=0, description="Sampling temperature.")
    max_prompt_length: Count = Field(default=1024, description="Longer prompts are dropped, and counted.")

    @model_validator(mode="after")
    def _held_out_for_something(self) -> Self:
        if self.validation and self.select is None:
            raise ValueError(f"validation of a {self.method} stage holds rows out for select, which is not given")
        return self


class Grpo(_Sampled):
    """Group relative policy optimisation (Shao et al. 2024) on the sum of the rewards."""

    kind: Literal["grpo"]
    method: ClassVar = "grpo"
    vary: Share = Field(
        default=0.0, description="Share of the rows that the task asks for in another way; see recipes.md."
    )
    rewards: Annotated[tuple[RewardSpec, ...], Field(strict=False)] = Field(
        default=(), description="Rewards, by name or with their parameters; with an environment none are needed."
    )
    environment: EnvironmentSpec | None = Field(
        default=None, description="Play episodes of several turns: `./file.py:Class` (docs/environments.md)."
    )
    batch_size: Count = Field(default=16, description="Prompts per optimizer step; each gets group_size completions.")
    group_size: int = Field(default=8, ge=2, description="Completions of each prompt.")
    updates_per_generation: Count = Field(
        default=1,
        description="Optimizer steps whose batches are sampled at once; each completion is learned from once.",
    )
    beta: float = Field(default=0.0, ge=0, description="Weight of the KL to the reference.")
    reference: str = Field(default="start", description="start: the adapter this stage starts from; base; or a path.")
    scale_rewards: Literal["group", "batch", "none"] = Field(
        default="group",
        description="Divide the centred rewards by the standard deviation of their group, of the batch, or by nothing.",
    )
    flat_groups: Literal["keep", "leave_out", "replace"] = Field(
        default="keep",
        description="Groups of equal rewards, which teach nothing, count in the loss's denominator and KL (keep), do "
        "not, or are replaced by groups of fresh prompts.",
    )
    flat_below: float = Field(
        default=0.0,
        ge=0,
        description="Groups whose rewards differ by less are flat; 0: that are equal but for rounding.",
    )
    replace_rounds: Count = Field(
        default=2, description="Rounds of replacements in a generation, at most; what is flat then is left out."
    )
    max_completion_length: Count = Field(default=1024, description="Rows with a longer gold target are dropped.")
    vllm: Literal["auto", "colocate", "server", "off"] = Field(
        default="auto",
        description="vLLM samples on the trainer's GPU (colocate) or on a server; auto: colocate where that can work.",
    )
    vllm_server: str | None = Field(default=None, description="Address of the vLLM server: http://localhost:8000.")

    @model_validator(mode="after")
    def _server_and_address(self) -> Grpo:
        if (self.vllm == "server") != (self.vllm_server or "").startswith(("http://", "https://")):
            raise ValueError("vllm: server and vllm_server: http://HOST:PORT go together")
        return self

    @model_validator(mode="after")
    def _graded_by_something(self) -> Grpo:
        if not self.rewards and self.environment is None:
            raise ValueError("a grpo stage needs rewards, or an environment, to learn from")
        if self.environment is not None and self.select is not None and self.select.metric != "reward":
            raise ValueError("the environment plays episodes, which select measures by their reward: metric: reward")
        return self

    @model_validator(mode="after")
    def _rounds_of_something(self) -> Grpo:
        if "replace_rounds" in self.model_fields_set and self.flat_groups != "replace":
            raise ValueError("replace_rounds goes with flat_groups: replace")
        return self

    @model_validator(mode="after")
    def _whole_generations(self) -> Grpo:
        updates = self.updates_per_generation
        for key in ("max_steps", "save_every"):  # a checkpoint does not hold the rest of a generation
            steps = getattr(self, key)
            if steps is not None and steps % updates:
                lower, higher = steps // updates * updates, -(-steps // updates) * updates
                near = f"{lower} or {higher}" if lower else str(higher)
                raise ValueError(f"{key}: {steps} is no multiple of updates_per_generation ({updates}); {near} is")
        return self


class Dpo(_PromptWithAnswer):
    """Direct preference optimisation (Rafailov et al. 2023) on pairs of a chosen and a rejected completion.

    With `samples` the rows are prompts with labels, and a pair is the best and the worst answer of the stage's start.
    """

    kind: Literal["dpo"]
    method: ClassVar = "dpo"
    batch_size: Count = Field(default=16, description="Pairs of one optimizer step, over all processes.")
    validation: float = Field(
        default=0.05,
        ge=0,
        lt=0.5,
        description="Share of ids held out to measure (200 at most); default with samples and without select: 0.",
    )
    beta: float = Field(default=0.1, gt=0, description="Weight of the reference: a higher beta keeps closer to it.")
    reference: str = Field(default="start", description="start: the adapter this stage starts from; base; or a path.")
    samples: Samples | None = Field(default=None, description="Pairs are made of the start's own answers.")
    rewards: Annotated[tuple[RewardSpec, ...], Field(strict=False)] = Field(
        default=(), description="What grades the samples."
    )

    @model_validator(mode="before")
    @classmethod
    def _nothing_to_measure(cls, value: Any) -> Any:
        # Rows that are sampled are no pairs: held out, only select could measure them.
        sampled = isinstance(value, dict) and value.get("samples") is not None and value.get("select") is None
        return {"validation": 0.0, **value} if sampled else value

    @model_validator(mode="after")
    def _samples_and_rewards(self) -> Dpo:
        if self.samples and self.samples.pick != "best":
            raise ValueError("samples.pick is for best_of; a pair is the best and the worst answer")
        if bool(self.samples) != bool(self.rewards):
            raise ValueError("samples and rewards go together: the rewards say which of the samples is better")
        return self

    @model_validator(mode="after")
    def _both_sides(self) -> Dpo:
        if self.noise is not None and self.noise.policy == "follow":
            raise ValueError("noise with policy follow rewrites the chosen side only; use protect or clean")
        return self


class DistillHealth(Health):
    """Automatic stopping of a distill stage, in which completions that are cut teach too."""

    no_signal_steps: int | None = Field(
        default=None, ge=2, description="Steps in a row with all completions cut; null: no limit."
    )


class Distill(_Sampled):
    """On-policy distillation (Agarwal et al. 2024) of several teachers into one student, routed by domain (Agents-A1).

    The student writes; at each token the teacher of the row's domain gives its top_k likeliest, and the loss is the
    reverse KL on these: the mean over a completion's tokens, a domain's rows, and the domains.
    """

    kind: Literal["distill"]
    method: ClassVar = "distill"
    teachers: dict[Domain, str] = Field(
        min_length=1, description="Domain: its teacher, an adapter on the same base: a stage's or a run's folder."
    )
    batch_size: Count = Field(default=16, description="Prompts of one optimizer step; a multiple of the domains.")
    top_k: Count = Field(default=64, description="Tokens of the teacher on which both sides are compared; at least 2.")
    max_completion_length: Count = Field(default=256, description="The student's completions are cut here.")
    min_coverage: Share = Field(
        default=0.5,
        description="Warn where over ten steps the student has less of its probability on a teacher's top_k tokens.",
    )
    health: DistillHealth = Field(
        default=DistillHealth(),
        description="Automatic stopping; completions that are cut teach too, and stop nothing by default.",
    )
    skip_unreadable: bool = Field(
        default=False,
        description="Let teachers answer their prompts first; those whose answer the task cannot read are left out.",
    )
    evaluate_teachers: bool = Field(default=True, description="Measure the teachers too on every test set.")

    @field_validator("top_k")
    @classmethod
    def _learns_something(cls, value: int) -> int:
        if value == 1:
            raise ValueError("1 teaches nothing (both sides are 1); use 2 or more")
        return value


class TokenClassification(_AnyStage):
    """Tagging of words by an encoder: what begins, continues or is outside of an answer (the task mine)."""

    kind: Literal["token_classification"]
    method: ClassVar = "token_classification"
    labels: ClassVar[tuple[str, ...]] = ("B", "I", "O")
    max_length: int | None = Field(
        default=None, ge=32, description="Sub-words of one window; default: 256, or what the model reads if less."
    )
    stride: int = Field(default=64, ge=0, description="Sub-words of text that neighbouring windows share.")
    group_by_length: bool = Field(default=True, description="Sort the rows inside each (random) batch: less padding.")
    validation: float = Field(default=0.05, ge=0, lt=0.5, description="Share of ids held out to measure (200 at most).")
    training_args: dict[str, Any] = Field(
        default_factory=dict, description="Options of transformers.TrainingArguments."
    )


Stage = Annotated[Sft | Grpo | Dpo | BestOf | Distill | TokenClassification, Discriminator("kind")]
READ_AFTERWARDS = ("min_coverage", "evaluate_teachers")
"""Settings of a distill stage that evaluations and reports read: of a finished stage too, those of the recipe count."""
NOT_IN_FINGERPRINT = (
    *("micro_batch_size", "save_every", "gradient_checkpointing", "health", "max_too_long", "packing"),
    *("vllm", "vllm_server", *READ_AFTERWARDS),
)
"""Settings of a stage that do not change what it learns. What samples is recorded in the stage's own files."""


def own_options(stage: Stage) -> tuple[str, Mapping[str, Any]]:
    """The section of a stage with its trainer's own options, and these."""
    if isinstance(stage, TokenClassification):
        return "training_args", stage.training_args
    return "trl", stage.trl


def samples_of(stage: Stage) -> Samples | None:
    """How a stage samples its start's answers before it trains; None for stages that do not."""
    return stage.samples if isinstance(stage, BestOf | Dpo) else None
