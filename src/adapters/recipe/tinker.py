"""The recipe's `tinker:` section: options of the hosted trainer."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from adapters.recipe.fields import Count, Seq, Strict

CLIPS = {"ppo": (0.8, 1.2), "cispo": (0.0, 4.0)}


class Prices(Strict):
    """US dollars per million tokens, as in the service's price list."""

    prefill: float = Field(ge=0, description="Tokens read: prompts, and texts whose log-probabilities are computed.")
    sample: float = Field(ge=0, description="Tokens generated.")
    train: float = Field(ge=0, description="Tokens trained on.")


class Hosted(Strict):
    """Options of `trainer: tinker`; other trainers ignore them."""

    base: str | None = Field(default=None, description="The service's name of the base model; default: its Hub id.")
    loss: Literal["importance_sampling", "ppo", "cispo"] = Field(
        default="importance_sampling", description="Loss of GRPO on the service."
    )
    clip_range: Seq[float] | None = Field(
        default=None, description="Lowest and highest probability ratio; default: ppo [0.8, 1.2], cispo [0, 4]."
    )
    max_tokens: Count | None = Field(default=None, description="Stop the run after this many tokens in all.")
    max_cost: float | None = Field(default=None, gt=0, description="Stop after this many dollars; needs prices.")
    prices: Prices | None = Field(default=None, description="Prices, for costs in dollars beside tokens.")
    checkpoint_ttl_days: int = Field(default=30, ge=1, le=3650, description="Days for which the service keeps weights.")
    timeout_minutes: float = Field(default=10, gt=0, description="Minutes without an answer until the run stops.")
    verify_adapter: Literal["auto", "numbers", "shapes"] = Field(
        default="auto",
        description="Verify the adapter by the service's log-probabilities (numbers; needs the base model), by its "
        "tensors alone (shapes), or by numbers where the base fits in memory (auto).",
    )

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Lowest and highest probability ratio of the loss; None for a loss that does not clip."""
        if self.loss == "importance_sampling":
            return None
        low, high = self.clip_range or CLIPS[self.loss]
        return low, high

    @model_validator(mode="after")
    def _consistent(self) -> Hosted:
        if self.clip_range is not None:
            if self.loss == "importance_sampling":
                raise ValueError("clip_range needs a loss that clips: ppo or cispo")
            if len(self.clip_range) != 2 or not 0 <= self.clip_range[0] <= 1 <= self.clip_range[1]:
                raise ValueError("clip_range is [low, high] with low <= 1 <= high, such as [0.8, 1.2]")
        if self.max_cost is not None and self.prices is None:
            raise ValueError("max_cost needs prices: {prefill: …, sample: …, train: …} in dollars per million tokens")
        return self
