"""What a run has spent on the service: tokens, dollars where prices are known, and the limit the recipe sets."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from adapters.errors import Refused
from adapters.files import write_json
from adapters.recipe.tinker import Hosted, Prices


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens by what the service charges for: read, written, trained on."""

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
    """The run's ledger, `spent.json` in its folder: what each stage, and evaluation, has used, lost work included."""

    def __init__(self, hosted: Hosted, folder: Path) -> None:
        self.hosted, self.path = hosted, folder / "spent.json"
        self.spent: dict[str, Tokens] = {}
        if self.path.is_file():
            self.spent = {name: Tokens(**held) for name, held in json.loads(self.path.read_text()).items()}

    @property
    def total(self) -> Tokens:
        """Everything the run has used so far."""
        return sum(self.spent.values(), Tokens())

    def charge(self, entry: str, tokens: Tokens) -> None:
        """Write tokens down, before they are sent where that is possible: a killed run must not forget them."""
        self.spent[entry] = self.spent.get(entry, Tokens()) + tokens
        if self.path.parent.is_dir():
            write_json(self.path, {name: asdict(held) for name, held in self.spent.items()})

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
        """The figures of one entry, for manifests and logs; `cost` in dollars where prices are known."""
        held = self.spent.get(entry, Tokens())
        out: dict[str, float] = {f"tokens_{kind}": count for kind, count in asdict(held).items()}
        if self.hosted.prices:
            out["cost"] = round(held.dollars(self.hosted.prices), 4)
        return out

    def live(self) -> dict[str, float]:
        """What the progress bar shows: the run's thousands of tokens so far, and dollars where prices are known."""
        out = {"ktok": self.total.total / 1000}
        return out | ({"usd": self.total.dollars(self.hosted.prices)} if self.hosted.prices else {})
