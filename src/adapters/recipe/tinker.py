"""The recipe's `tinker:` section: what only the hosted trainer needs to know."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from adapters.recipe.fields import Seq, Strict

CLIPS = {"ppo": (0.8, 1.2), "cispo": (0.0, 4.0)}


class Prices(Strict):
    """US dollars per million tokens, as the service's price list names them."""

    prefill: float = Field(ge=0, description="Tokens read: prompts, and texts whose log-probabilities are asked for.")
    sample: float = Field(ge=0, description="Tokens written.")
    train: float = Field(ge=0, description="Tokens trained on.")


class Hosted(Strict):
    """Options of `trainer: tinker`; any other trainer leaves them alone."""

    base: str | None = Field(default=None, description="The service's name of the base model; default: its Hub id.")
    loss: Literal["importance_sampling", "ppo", "cispo"] = Field(
        default="importance_sampling", description="Loss of GRPO on the service."
    )
    clip: Seq[float] | None = Field(
        default=None,
        description="Bounds of the probability ratio, absolute: [0.8, 1.2], not 0.2. Default: ppo [0.8, 1.2], "
        "cispo [0, 4].",
    )
    max_tokens: int | None = Field(default=None, ge=1, description="Stop the run after this many tokens in all.")
    max_cost: float | None = Field(
        default=None, gt=0, description="Stop the run after this many dollars; needs prices."
    )
    prices: Prices | None = None
    keep_days: int = Field(
        default=30, ge=1, le=3650, description="How long the service keeps a finished stage's weights."
    )
    patience: float = Field(
        default=10, gt=0, description="Minutes without any answer of the service before the run gives up."
    )
    verify: Literal["auto", "numbers", "shapes"] = Field(
        default="auto",
        description="How an adapter is checked at home: against the service's log-probabilities (needs the base "
        "model's weights here) or by its tensors alone. auto: numbers where the weights are here and fit in memory.",
    )

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Lowest and highest probability ratio of the loss; None for a loss without."""
        if self.loss == "importance_sampling":
            return None
        low, high = self.clip or CLIPS[self.loss]
        return low, high

    @model_validator(mode="after")
    def _consistent(self) -> Hosted:
        if self.clip is not None:
            if self.loss == "importance_sampling":
                raise ValueError("clip needs a loss that clips: ppo or cispo")
            if len(self.clip) != 2 or not 0 <= self.clip[0] <= 1 <= self.clip[1]:
                raise ValueError("clip is [low, high] with low <= 1 <= high, such as [0.8, 1.2]")
        if self.max_cost is not None and self.prices is None:
            raise ValueError("max_cost needs prices: {prefill: …, sample: …, train: …} in dollars per million tokens")
        return self
