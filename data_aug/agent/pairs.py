"""Preference pairs from disciplined turns: corruptions, rules, figures."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from adapters.data_aug.agent import Row, trajectory, turns
from adapters.data_aug.agent.corruptions import KINDS, SourceTurn, source_turn, with_longer_thought
from adapters.rewards.agent import FILLER, THOUGHT, examine, tokens
from adapters.rewards.agent_formats import env_of, read

CARD: Final = 157
"""How many pairs the public recipe for this kind of training used, half of them DBBench, half ALFWorld."""
CONTROL: Final = ("wrong_format", "no_action", "loop")


class PairsError(ValueError):
    """The set of pairs breaks a rule; the message says which, and what to do."""


@dataclass(frozen=True)
class Rules:
    """Limits for a whole set of pairs, as shares.

    `longer`: most pairs whose chosen side is no shorter than the rejected one, control pairs apart. `domain`: most
    pairs of one environment. `same_action` and `unreadable`: least rejected sides that keep the action, and that the
    environment cannot parse.
    """

    longer: float = 0.35
    domain: float = 0.6
    same_action: float = 0.3
    unreadable: float = 0.1


def synthesize(n: int = CARD, seed: int = 0, *, unseen: bool = False, control: bool = False) -> Iterator[Row]:
    """N pairs from as many trajectories; row i is a function of (seed, i)."""
    kinds = CONTROL if control else tuple(KINDS)
    for i in range(n):
        episode = trajectory(seed, i, unseen=unseen)
        rng = random.Random(f"pair:{seed}:{i}")
        rows = turns(episode)
        rng.shuffle(rows)
        order = [kinds[(i // 2 + k) % len(kinds)] for k in range(len(kinds))]
        tries = (pair(row, kind, rng, control=control) for kind in order for row in rows)
        yield {**next(p for p in tries if p is not None), "id": f"{episode['id']}-pair"}


def synthesize_unseen(n: int, seed: int = 0) -> Iterator[Row]:
    """As `synthesize`, from held-out tables and rooms."""
    return synthesize(n, seed, unseen=True)


def synthesize_control(n: int, seed: int = 0) -> Iterator[Row]:
    """Pairs whose chosen side is longer: a model that learned only brevity fails them."""
    return synthesize(n, seed, control=True)


def corrupted(rows: Sequence[Row], kinds: Sequence[str], seed: int, *, control: float = 0.0) -> Iterator[Row]:
    """One pair from each row of `turns`; within each environment the kinds take turns.

    A share of `control` gets a longer chosen side and a short rejected one. Rows with an undisciplined turn, and rows
    to which no kind applies, give none.
    """
    seen: Counter[str] = Counter()
    for n, row in enumerate(rows):
        rng = random.Random(f"corrupt:{seed}:{n}:{row.get('id')}")
        steered = rng.random() < control
        pool = [k for k in kinds if k in CONTROL] or list(CONTROL) if steered else list(kinds)
        start = seen[str(row.get("env"))]
        for k in range(len(pool)):
            corrupted_pair = pair(row, pool[(start + k) % len(pool)], rng, control=steered)
            if corrupted_pair is not None:
                seen[str(row.get("env"))] += 1
                yield corrupted_pair
                break


def pair(row: Row, kind: str, rng: random.Random, *, control: bool = False) -> Row | None:
    """A pair of one kind from a row, or None if the kind does not apply.

    The row has `env`, `prompt` or `messages`, and `completion`. The environment can parse the chosen side, which has
    one action, nothing behind it, no filler, and at most 60 tokens of thought.
    """
    env = env_of(row.get("env"))
    messages = row["prompt"] if "prompt" in row else row["messages"]
    terse = source = source_turn(env, str(row["completion"]), messages, row.get("actions"))
    if control:
        longer = with_longer_thought(source, rng, THOUGHT, tokens) if source.turn.kind else None
        if longer is None:
            return None
        source = source._replace(text=longer, turn=read(env, longer))
    if not _disciplined(source, row):
        return None
    rejected = KINDS[kind](terse, rng)
    if rejected is None or rejected.strip() == source.text.strip() or (control and len(rejected) >= len(source.text)):
        return None
    other = read(env, rejected)
    meta = {
        "task": env,
        "kind": kind,
        "action": {"kind": source.turn.kind, "argument": source.turn.argument},
        "same_action": other[:2] == source.turn[:2],
        "readable": other.kind is not None,
        "control": control,
    }
    kept = ("id", "env", "prompt", "messages", "system", "tools", "actions", "table")
    context = {k: v for k, v in row.items() if k in kept}
    return {**context, "chosen": _agent(source.text), "rejected": _agent(rejected), "meta": meta}


def audit(pairs: Sequence[Row], rules: Rules | None = None) -> dict[str, Any]:
    """Figures of a set of pairs. Raises PairsError if the set breaks a rule."""
    if not pairs:
        raise PairsError("no pair is left")
    metas: list[Mapping[str, Any]] = [row.get("meta") or {} for row in pairs]
    lengths = [(tokens(row["chosen"][0]["content"]), tokens(row["rejected"][0]["content"])) for row in pairs]
    ratios = [rejected / max(1, chosen) for chosen, rejected in lengths]
    plain = [ratio for ratio, meta in zip(ratios, metas, strict=True) if not meta.get("control")]
    n = len(pairs)
    figures: dict[str, Any] = {
        "pairs": n,
        "domains": dict(Counter(str(meta.get("task")) for meta in metas).most_common()),
        "kinds": dict(Counter(str(meta.get("kind")) for meta in metas).most_common()),
        "same_action": sum(bool(meta.get("same_action")) for meta in metas) / n,
        "unreadable": sum(meta.get("readable") is False for meta in metas) / n,
        "control": 1 - len(plain) / n,
        "chosen_tokens": median(chosen for chosen, _ in lengths),
        "rejected_tokens": median(rejected for _, rejected in lengths),
        "length_ratio": median(ratios),
        # The accuracy of a model that has learned only to be short.
        "shorter_is_chosen": sum(ratio > 1 for ratio in ratios) / n,
    }
    longer = sum(ratio <= 1 for ratio in plain) / max(1, len(plain))
    if rules and (broken := [*_broken_rules(figures, longer, rules)]):
        raise PairsError("; ".join(broken))
    return figures


def _broken_rules(figures: Mapping[str, Any], longer: float, rules: Rules) -> Iterator[str]:
    """A message for each broken rule; `longer`: share of chosen sides no shorter."""
    domain, count = next(iter(figures["domains"].items()))
    share, same, unreadable = count / figures["pairs"], figures["same_action"], figures["unreadable"]
    if longer > rules.longer:
        yield (
            f"{longer:.0%} of the chosen sides are no shorter than the rejected (at most {rules.longer:.0%}); "
            "leave out kinds such as no_action and loop, or shorten the thoughts"
        )
    if share > rules.domain:
        yield f"{share:.0%} of the pairs are {domain} (at most {rules.domain:.0%}); add rows of another"
    if same < rules.same_action:
        yield (
            f"only {same:.0%} of the rejected sides keep the action (at least {rules.same_action:.0%}), so a model "
            "would learn content; add kinds such as filler and delayed"
        )
    if unreadable < rules.unreadable:
        yield (
            f"only {unreadable:.0%} of the rejected sides cannot be read by the environment (at least "
            f"{rules.unreadable:.0%}); add wrong_format and no_action"
        )


def distinct(pairs: Iterable[Row], key: Callable[[Row], Any]) -> tuple[list[Row], int]:
    """The first pair of each key, and the number of the others."""
    first: dict[Any, Row] = {}
    total = 0
    for row in pairs:
        total += 1
        first.setdefault(key(row), row)
    return list(first.values()), total - len(first)


def _disciplined(source: SourceTurn, row: Row) -> bool:
    context = {"env": source.env, "actions": row.get("actions")}
    rules = examine(source.text, source.turn, context, thought=THOUGHT, filler=FILLER)
    return all(value is not False for value in rules.values())


def _agent(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]
