"""The funding reward: funders, award ids under their funder, and ids anywhere.

R = 0.50 F(funder) + 0.40 F(award id under the right funder) + 0.10 F(award id under any funder), each F0.5 of one
completion. It is the shaped reward behind cometadata/funding-extraction-qwen3.5-9B-artifact-data-mix-grpo-mixed-reward;
`funder: 0.5, hierarchical: 0.5, flat: 0, soft_ids: false` gives the binary reward its training was monitored with.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, get_args

from adapters.rewards.funding_grounded import marked
from adapters.rewards.funding_matching import (
    THRESHOLD,
    Funder,
    Mode,
    Scorer,
    Side,
    group,
    match_ids,
    paired,
    parse,
    read_funders,
    with_unnamed,
)
from adapters.rewards.funding_records import OLD_PARAMETERS
from adapters.rewards.funding_uncertain import compared, uncertain_values
from adapters.rewards.grounding import needed
from adapters.types import Counts, Example, OldParameters, Scored


@dataclass(frozen=True)
class Funding:
    """Grades funders and award ids of a JSON completion against `example.gold`.

    The weights `funder`, `hierarchical` and `flat` are not negative and sum to 1, so the score stays in [0, 1]. `beta`
    below 1 favours precision. `full_size` is the number of labelled names and ids from which on a statement counts in
    full: one with fewer earns in proportion, so that training does not live on short statements alone; 0 counts all
    alike. `soft_ids` gives half credit to ids one edit away. For `mode` and `scorer` see `funding_matching`; `strict`
    with a `threshold` of 1 pays for exact names alone. An example whose gold is None is unlabelled: the score is None.
    Values that the gold calls uncertain are left out on both sides. `grounded`: a predicted value that is not in the
    text (`example.meta["text"]`; see `grounding`) is a false positive, whatever the gold says.

    Parts: the three terms; `format_valid`, 1 for JSON of the right shape; `association_gap`, flat minus hierarchical,
    above 0 when right ids sit under wrong funders; `id_ratio`, predicted ids per gold id, above 1 when the model
    hedges (without gold ids: 1 if none is predicted, else their number). The terms are 0 where the score is 0 by rule:
    an empty prediction against gold, or a prediction where there is nothing to find.
    """

    funder: float = 0.5
    hierarchical: float = 0.4
    flat: float = 0.1
    beta: float = 0.5
    threshold: float = THRESHOLD
    soft_ids: bool = True
    mode: Mode = "balanced"
    scorer: Scorer = "published"
    full_size: int = 0
    grounded: bool = False
    old_parameters: ClassVar[OldParameters] = OLD_PARAMETERS
    part_names: ClassVar = ("funder", "hierarchical", "flat", "format_valid", "association_gap", "id_ratio")

    def __post_init__(self) -> None:
        """Raises ValueError that names the parameter and what it must be."""
        weights = {"funder": self.funder, "hierarchical": self.hierarchical, "flat": self.flat}
        for name, value in {**weights, "beta": self.beta, "threshold": self.threshold}.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ValueError(f"{name} must be a number, got {value!r}")
        for name, value in weights.items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is a weight and must lie between 0 and 1, got {value!r}")
        total = sum(weights.values())
        if abs(total - 1) > 1e-9:
            raise ValueError(f"funder + hierarchical + flat must sum to 1, got {total:g}")
        if not 0 < self.beta <= 100:
            raise ValueError(f"beta must be above 0 and at most 100, got {self.beta!r}")
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold must be above 0 and at most 1, got {self.threshold!r}")
        if isinstance(self.full_size, bool) or not isinstance(self.full_size, int) or self.full_size < 0:
            raise ValueError(f"full_size must be a whole number, 0 or more, got {self.full_size!r}")
        for name, switch in (("soft_ids", self.soft_ids), ("grounded", self.grounded)):
            if not isinstance(switch, bool):
                raise ValueError(f"{name} must be true or false, got {switch!r}")
        for name, choice, allowed in (("mode", self.mode, get_args(Mode)), ("scorer", self.scorer, get_args(Scorer))):
            if choice not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {choice!r}")

    def formula(self) -> str:
        """The reward with these settings, for a model card."""
        ids = "award id, one edit away for half" if self.soft_ids else "award id"
        terms = (
            (self.funder, "funder"),
            (self.hierarchical, f"{ids}, under the right funder"),
            (self.flat, f"{ids}, under any funder"),
        )
        shown = " + ".join(f"{weight:g} F{self.beta:g}({what})" for weight, what in terms if weight)
        shown = f"({shown}) min(1, labelled values / {self.full_size})" if self.full_size else shown
        where = ", values in the text only" if self.grounded else ""
        return f"{shown}; names match from {self.threshold:g} on in {self.mode} mode, {self.scorer} scorer{where}"

    def __call__(self, completion: str, example: Example) -> Scored:
        """Score one completion. Never raises, whatever the text; ValueError if `grounded` and the row has no text."""
        if example.gold is None:
            return Scored(None)
        parsed = parse(completion)
        funders: Sequence[Funder] = parsed.funders
        if uncertain_values(example.gold):
            labelled, funders = compared(example.gold, funders, self.scorer)
            gold = group(labelled, self.mode, self.scorer, self.threshold)
        else:
            gold = _gold_side(example.gold, self.mode, self.scorer, self.threshold)
        if self.grounded:
            funders, _ = marked(funders, needed(example.meta.get("text")))
        pred = group(funders, self.mode, self.scorer, self.threshold)
        funder, hierarchical, flat = self._terms(gold, pred, parsed.valid)
        gold_ids, pred_ids = gold.id_count, pred.id_count
        score = self.funder * funder + self.hierarchical * hierarchical + self.flat * flat
        if self.full_size:
            score *= min(1.0, max(1, len(gold.names) + gold_ids) / self.full_size)
        return Scored(
            min(score, 1.0),
            {
                "funder": funder,
                "hierarchical": hierarchical,
                "flat": flat,
                "format_valid": float(parsed.valid),
                "association_gap": flat - hierarchical,
                "id_ratio": pred_ids / gold_ids if gold_ids else float(pred_ids or 1),
            },
        )

    def _terms(self, gold: Side, pred: Side, valid: bool) -> tuple[float, float, float]:
        """F of funders, of ids under their funder, and of ids anywhere."""
        if not gold.awards:
            right = not pred.awards and (valid or self.scorer == "published")
            return (1.0, 1.0, 1.0) if right else (0.0, 0.0, 0.0)
        if not pred.awards:
            return 0.0, 0.0, 0.0
        named = paired(gold, pred, self.scorer, self.threshold)[self.mode]
        pairs = with_unnamed(named, gold, pred)
        n_gold, n_pred = gold.id_count, pred.id_count
        funder = self._f(len(gold.names), len(pred.names), len(named))
        if not n_gold and not n_pred:
            return (funder, funder, funder) if self.scorer == "corrected" else (funder, 1.0, 1.0)
        under = sum([match_ids(gold.ids[i], pred.ids[j], self.soft_ids) for i, j in pairs])
        anywhere = match_ids(_flat(gold), _flat(pred), self.soft_ids)
        return funder, self._f(n_gold, n_pred, under), self._f(n_gold, n_pred, anywhere)

    def _f(self, gold: float, pred: float, matched: float) -> float:
        return Counts(gold, pred, matched).f(self.beta) if gold or pred else 1.0


def _flat(side: Side) -> list[str]:
    return [award_id for ids in side.ids for award_id in ids]


def _gold_side(gold: object, mode: Mode, scorer: Scorer, threshold: float) -> Side:
    try:
        key = json.dumps(gold)
    except (TypeError, ValueError, RecursionError):  # not a JSON value: funders read before, say
        return group(read_funders(gold), mode, scorer, threshold)
    return _remembered_side(key, mode, scorer, threshold)


@lru_cache(maxsize=4096)
def _remembered_side(key: str, mode: Mode, scorer: Scorer, threshold: float) -> Side:
    return group(read_funders(json.loads(key)), mode, scorer, threshold)
