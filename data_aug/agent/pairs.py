"""Preference pairs from disciplined turns: seeded corruptions, the rules a set of pairs must keep, and its figures."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from adapters.data_aug.agent import Row, trajectory, turns
from adapters.data_aug.agent.corruptions import KINDS, Given, fuller, given
from adapters.rewards.agent import FILLER, THOUGHT, examine, tokens
from adapters.rewards.agent_formats import env_of, read

CARD: Final = 157
"""How many pairs the public recipe for this kind of training used, half of them DBBench, half ALFWorld."""
CONTROL: Final = ("wrong_format", "no_action", "loop")


class PairsError(ValueError):
    """The set of pairs would teach something else than discipline; the message says what, and what to do."""


@dataclass(frozen=True)
class Rules:
    """What a whole set of pairs must keep.

    `longer` is the most that may have a chosen side no shorter than the rejected one (control pairs, made that way,
    are not counted); `domain` the largest share of one environment; `same_action` and `unreadable` the least shares of
    rejected sides that keep the action, and that the environment cannot read.
    """

    longer: float = 0.35
    domain: float = 0.6
    same_action: float = 0.3
    unreadable: float = 0.1


def synthesize(n: int = CARD, seed: int = 0, *, unseen: bool = False, control: bool = False) -> Iterator[Row]:
    """N pairs from as many of the project's own trajectories, the kinds in turn; row i is a function of (seed, i)."""
    kinds = CONTROL if control else tuple(KINDS)
    for i in range(n):
        held = trajectory(seed, i, unseen=unseen)
        rng = random.Random(f"pair:{seed}:{i}")
        rows = turns(held)
        rng.shuffle(rows)
        order = [kinds[(i // 2 + k) % len(kinds)] for k in range(len(kinds))]
        tries = (pair(row, kind, rng, control=control) for kind in order for row in rows)
        yield {**next(p for p in tries if p is not None), "id": f"{held['id']}-pair"}


def synthesize_unseen(n: int, seed: int = 0) -> Iterator[Row]:
    """As `synthesize`, from tables and rooms of their own."""
    return synthesize(n, seed, unseen=True)


def synthesize_control(n: int, seed: int = 0) -> Iterator[Row]:
    """Pairs whose chosen side is the longer one: a model that learned only to be short prefers the other."""
    return synthesize(n, seed, control=True)


def corrupted(rows: Sequence[Row], kinds: Sequence[str], seed: int, *, control: float = 0.0) -> Iterator[Row]:
    """One pair from each row (a turn, as `turns` makes them), the kinds in turn within each environment.

    A share of `control` gets a longer chosen side and a short rejected one. Rows whose own turn is undisciplined, or
    that no kind can be applied to, give none.
    """
    seen: Counter[str] = Counter()
    for n, row in enumerate(rows):
        rng = random.Random(f"corrupt:{seed}:{n}:{row.get('id')}")
        steered = rng.random() < control
        pool = [k for k in kinds if k in CONTROL] or list(CONTROL) if steered else list(kinds)
        start = seen[str(row.get("env"))]
        for k in range(len(pool)):
            made = pair(row, pool[(start + k) % len(pool)], rng, control=steered)
            if made is not None:
                seen[str(row.get("env"))] += 1
                yield made
                break


def pair(row: Row, kind: str, rng: random.Random, *, control: bool = False) -> Row | None:
    """A pair of one kind from a row with `env`, `prompt` or `messages`, and `completion`; None where it cannot be.

    The chosen side is read by the environment, with one action, nothing behind it, no filler, and at most 60 tokens of
    thought.
    """
    env = env_of(row.get("env"))
    messages = row["prompt"] if "prompt" in row else row["messages"]
    terse = g = given(env, str(row["completion"]), messages, row.get("actions"))
    if control:
        longer = fuller(g, rng, THOUGHT, tokens) if g.turn.kind else None
        if longer is None:
            return None
        g = g._replace(text=longer, turn=read(env, longer))
    if not _disciplined(g, row):
        return None
    rejected = KINDS[kind](terse, rng)
    if rejected is None or rejected.strip() == g.text.strip() or (control and len(rejected) >= len(g.text)):
        return None
    other = read(env, rejected)
    meta = {
        "task": env,
        "kind": kind,
        "action": {"kind": g.turn.kind, "argument": g.turn.argument},
        "same_action": other[:2] == g.turn[:2],
        "readable": other.kind is not None,
        "control": control,
    }
    kept = {k: v for k, v in row.items() if k in ("id", "env", "prompt", "messages", "actions", "table")}
    return {**kept, "chosen": _said(g.text), "rejected": _said(rejected), "meta": meta}


def audit(pairs: Sequence[Row], rules: Rules | None = None) -> dict[str, Any]:
    """Figures of a set of pairs. Raises PairsError when it breaks a rule (None: only the figures are wanted)."""
    if not pairs:
        raise PairsError("no pair is left")
    sides = [(p["chosen"][0]["content"], p["rejected"][0]["content"]) for p in pairs]
    metas: list[Mapping[str, Any]] = [p.get("meta") or {} for p in pairs]
    plain = [n for n, m in enumerate(metas) if not m.get("control")]
    ratios = [tokens(rejected) / max(1, tokens(chosen)) for chosen, rejected in sides]
    domains = Counter(str(m.get("task")) for m in metas)
    n = len(pairs)
    figures: dict[str, Any] = {
        "pairs": n,
        "domains": dict(domains.most_common()),
        "kinds": dict(Counter(str(m.get("kind")) for m in metas).most_common()),
        "same_action": sum(bool(m.get("same_action")) for m in metas) / n,
        "unreadable": sum(m.get("readable") is False for m in metas) / n,
        "control": 1 - len(plain) / n,
        "chosen_tokens": median(tokens(chosen) for chosen, _ in sides),
        "rejected_tokens": median(tokens(rejected) for _, rejected in sides),
        "length_ratio": median(ratios),
        # What a model would get right that has learned nothing but to be short.
        "shorter_is_chosen": sum(ratio > 1 for ratio in ratios) / n,
    }
    longer = sum(ratios[i] <= 1 for i in plain) / max(1, len(plain))
    if rules is None:
        return figures
    biggest, count = domains.most_common(1)[0]
    same, unreadable = figures["same_action"], figures["unreadable"]
    checks = [
        (
            longer > rules.longer,
            f"{longer:.0%} of the chosen sides are no shorter than the rejected (at most {rules.longer:.0%}); "
            "leave out kinds such as no_action and loop, or shorten the thoughts",
        ),
        (
            count / n > rules.domain,
            f"{count / n:.0%} of the pairs are {biggest} (at most {rules.domain:.0%}); add rows of another",
        ),
        (
            same < rules.same_action,
            f"only {same:.0%} of the rejected sides keep the action (at least {rules.same_action:.0%}), so a model "
            "would learn content; add kinds such as filler and delayed",
        ),
        (
            unreadable < rules.unreadable,
            f"only {unreadable:.0%} of the rejected sides cannot be read by the environment (at least "
            f"{rules.unreadable:.0%}); add wrong_format and no_action",
        ),
    ]
    if broken := [text for refused, text in checks if refused]:
        raise PairsError("; ".join(broken))
    return figures


def distinct(pairs: Iterable[Row], key: Callable[[Row], Any]) -> tuple[list[Row], int]:
    """The first of each key, and how many others there were."""
    found: dict[Any, Row] = {}
    total = 0
    for p in pairs:
        total += 1
        found.setdefault(key(p), p)
    return list(found.values()), total - len(found)


def _disciplined(g: Given, row: Row) -> bool:
    held = examine(g.text, g.turn, {"env": g.env, "actions": row.get("actions")}, thought=THOUGHT, filler=FILLER)
    return all(value is not False for value in held.values())


def _said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]
