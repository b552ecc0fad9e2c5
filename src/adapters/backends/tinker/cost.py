"""Tokens and dollars that a run has spent on the service, and their limits."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from adapters.errors import Refused
from adapters.files import write_json
from adapters.recipe.tinker import Hosted, Prices


@dataclass(frozen=True, slots=True)
class Tokens:
    """Numbers of tokens by what the service charges for: read, sampled, trained on."""

    prefill: int = 0
    sample: int = 0
    train: int = 0

    def __add__(self, other: Tokens) -> Tokens:
        """Sum, kind by kind."""
        return Tokens(self.prefill + other.prefill, self.sample + other.sample, self.train + other.train)

    @property
    def total(self) -> int:
        """All tokens."""
        return self.prefill + self.sample + self.train

    def dollars(self, prices: Prices) -> float:
        """Cost at prices per million tokens."""
        return (self.prefill * prices.prefill + self.sample * prices.sample + self.train * prices.train) / 1e6


class Account:
    """The run's spending by stage, in its `spent.json`; repeated work counts, too."""

    def __init__(self, hosted: Hosted, folder: Path) -> None:
        self.hosted, self.path = hosted, folder / "spent.json"
        stored = json.loads(self.path.read_text()) if self.path.is_file() else {}
        self.spent = {name: Tokens(**counts) for name, counts in stored.items()}

    @property
    def total(self) -> Tokens:
        """Everything the run has used so far."""
        return sum(self.spent.values(), Tokens())

    def charge(self, entry: str, tokens: Tokens) -> None:
        """Record tokens, where possible before the request: a killed run counts them."""
        self.spent[entry] = self.spent.get(entry, Tokens()) + tokens
        if self.path.parent.is_dir():
            write_json(self.path, {name: asdict(tokens) for name, tokens in self.spent.items()})

    def allow(self, more: Tokens) -> None:
        """Raise Refused when `more` would go beyond the recipe's limit."""
        after, limits = self.total + more, self.hosted
        if limits.max_tokens is not None and after.total > limits.max_tokens:
            raise Refused(
                f"the budget of {limits.max_tokens:,} tokens is used up ({self.total.total:,} spent, the next step "
                f"needs about {more.total:,}); raise tinker.max_tokens to go on"
            )
        if limits.max_cost is not None and limits.prices and after.dollars(limits.prices) > limits.max_cost:
            raise Refused(
                f"the budget of ${limits.max_cost:g} is used up (${self.total.dollars(limits.prices):.2f} spent, the "
                f"next step costs about ${more.dollars(limits.prices):.2f}); raise tinker.max_cost to go on"
            )

    def figures(self, entry: str) -> dict[str, float]:
        """The figures of an entry, for manifests and logs; `cost` in dollars if known."""
        spent = self.spent.get(entry, Tokens())
        figures: dict[str, float] = {f"tokens_{kind}": count for kind, count in asdict(spent).items()}
        if self.hosted.prices:
            figures["cost"] = round(spent.dollars(self.hosted.prices), 4)
        return figures

    def live(self) -> dict[str, float]:
        """The figures of the progress bar: thousands of tokens, and dollars if known."""
        figures = {"ktok": self.total.total / 1000}
        return figures | ({"usd": self.total.dollars(self.hosted.prices)} if self.hosted.prices else {})
