"""The stages of a recipe."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, model_validator

from adapters.recipe.fields import NoiseSpec, RewardSpec, Sources, Strict


class Health(Strict):
    """When a training that goes wrong is stopped. A loss or gradient that is not finite always stops it."""

    max_kl: float | None = Field(default=10.0, gt=0, description="Mean KL per token to the reference; null: no limit.")
    stuck_steps: int | None = Field(
        default=20,
        ge=2,
        description="Steps in a row without any difference in reward, or with every completion cut; null: no limit.",
    )


class _Stage(Strict):
    data: Sources
    noise: NoiseSpec | None = Field(
        default=None, description="Fresh in every epoch of SFT, fixed per row in GRPO and DPO."
    )
    batch_size: int = Field(default=16, ge=1, description="Global batch of one optimizer step, over all processes.")
    micro_batch_size: int | None = Field(
        default=None, ge=1, description="Rows per process and forward pass; default: the largest sensible divisor."
    )
    epochs: float = Field(default=1.0, gt=0, le=1_000_000)
    max_steps: int | None = Field(default=None, ge=1, description="Stop after this many optimizer steps.")
    learning_rate: float = Field(gt=0)
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup: float = Field(default=0.0, ge=0, lt=1, description="Share of the steps spent warming up.")
    weight_decay: float = Field(default=0.0, ge=0)
    max_dropped: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="Share of the rows that the length limits may cost; above it nothing starts.",
    )
    save_every: int | None = Field(default=None, ge=1, description="Checkpoint interval in steps; default: a tenth.")
    gradient_checkpointing: bool | None = Field(default=None, description="Default: on for GPU, off for CPU.")
    health: Health = Health()
    trl: dict[str, Any] = Field(default_factory=dict, description="Passed to TRL's config, checked against its fields.")


class Sft(_Stage):
    """Supervised fine-tuning on prompt and completion; loss on the completion only."""

    kind: Literal["sft"]
    max_length: int = Field(
        default=2048, ge=8, description="Rows longer than this many tokens are dropped, and counted."
    )
    group_by_length: bool = Field(
        default=True,
        description="Sort the rows inside each (random) batch, so that its forward passes pad little. Not done where "
        "passes have no padding, which is so on a CPU.",
    )
    validation: float = Field(
        default=0.05,
        ge=0,
        lt=0.5,
        description="Share of row ids held out for the NLL before and after (at most 200 rows).",
    )


class Grpo(_Stage):
    """Group relative policy optimisation (Shao et al. 2024) against the plug-in rewards."""

    kind: Literal["grpo"]
    rewards: Annotated[tuple[RewardSpec, ...], Field(strict=False, min_length=1)]
    batch_size: int = Field(
        default=16, ge=1, description="Prompts per optimizer step; each gets group_size completions."
    )
    group_size: int = Field(default=8, ge=2)
    temperature: float = Field(default=1.0, gt=0)
    beta: float = Field(default=0.0, ge=0, description="Weight of the KL to the reference.")
    reference: str = Field(default="start", description="start: the adapter this stage starts from; base; or a path.")
    advantage: Literal["group", "batch", "none"] = Field(
        default="group", description="Divide the centred reward by the deviation of the group, of the batch, or not."
    )
    max_prompt_length: int = Field(default=1024, ge=1, description="Longer prompts are dropped, and counted.")
    max_completion_length: int = Field(
        default=1024, ge=1, description="Rows whose gold target is longer are dropped, and counted."
    )


class Dpo(_Stage):
    """Direct preference optimisation (Rafailov et al. 2023) on pairs of a chosen and a rejected completion."""

    kind: Literal["dpo"]
    batch_size: int = Field(default=16, ge=1, description="Pairs of one optimizer step, over all processes.")
    beta: float = Field(default=0.1, gt=0, description="How firmly the policy is held to the reference.")
    reference: str = Field(default="start", description="start: the adapter this stage starts from; base; or a path.")
    max_length: int = Field(
        default=2048, ge=8, description="Pairs whose prompt and longer side exceed it are dropped, and counted."
    )
    group_by_length: bool = Field(default=True, description="As in SFT: sort the pairs inside each (random) batch.")
    validation: float = Field(
        default=0.05,
        ge=0,
        lt=0.5,
        description="Share of pair ids held out for the accuracy and margin at the end (at most 200 pairs).",
    )

    @model_validator(mode="after")
    def _both_sides(self) -> Dpo:
        if self.noise is not None and self.noise.policy == "follow":
            raise ValueError("noise with policy follow rewrites the chosen side only; use protect or clean")
        return self


Stage = Annotated[Sft | Grpo | Dpo, Discriminator("kind")]


NOT_IN_FINGERPRINT = ("micro_batch_size", "save_every", "gradient_checkpointing", "health", "max_dropped")
"""Settings of a stage that alter no trained weight."""
