"""GRPO on the service: sampled there, scored here, each group while the next ones are still being sampled."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from adapters.backends.batches import layout
from adapters.backends.tinker.cost import Tokens
from adapters.backends.tinker.generate import stop_tokens, text_of
from adapters.backends.tinker.objectives import (
    TrainRow,
    answer_logprobs,
    answer_row,
    fold_kl,
    group_advantages,
    kl_estimate,
    parts,
    weighted_reward,
)
from adapters.backends.tinker.service import Pending, Sampler, ServiceError, logprobs_of
from adapters.backends.tinker.stage import HostedStage
from adapters.plugins.rewards import grade
from adapters.recipe.stages import Grpo
from adapters.types import Example

NOTHING = 1e-9
"""An advantage this small is the rounding of a mean."""
FIRST_KL = 1e-2
"""How far the first KL to the start may be from 0: two copies of one set of weights, in the service's arithmetic."""


@dataclass(slots=True)
class Answer:
    """A sampled answer: tokens, the sampler's own log-probabilities, and what is asked about it meanwhile."""

    tokens: list[int]
    logprobs: list[float]
    cut: bool
    reward: float | None = None
    plain: Pending | None = None
    """The sampler's log-probabilities at temperature 1, where sampling had another."""
    reference: Pending | None = None


@dataclass(slots=True)
class Figures:
    """Figures of one step as they come in."""

    scores: dict[str, list[float]] = field(default_factory=dict)
    parts: dict[str, list[float]] = field(default_factory=dict)


def train_grpo(run: HostedStage, stage: Grpo) -> dict[str, Any]:
    """One GRPO stage. Returns its figures.

    On-policy: every step samples from weights that hold all steps before it. The KL's reference is what the recipe
    says, found once; when it is the start, the first KL is asserted to be 0.
    """
    job = run.job
    prompts = run.encoder.prompts([e.prompt for e in job.examples])
    order = layout([len(p) for p in prompts], stage.batch_size, job.steps, run.recipe.seed, by_length=False)
    reference = run.reference(stage.reference) if stage.beta and run.done < job.steps else None
    stops = stop_tokens(run.encoder)
    length = job.tokens.get("completion_p50") or stage.max_completion_length
    bounds = run.recipe.tinker.bounds
    snapshot: Pending | None = None
    for step in range(run.done + 1, job.steps + 1):
        batch = order[(step - 1) * stage.batch_size : step * stage.batch_size]
        read = sum(len(prompts[i]) for i in batch)
        run.account.allow(_expected(run, stage, read, length))
        sampler = Sampler(run.service, (snapshot or run.run.snapshot()).result())
        run.spend(Tokens(prefill=read))
        asked = [
            sampler.sample(
                prompts[i],
                stage.group_size,
                max_tokens=stage.max_completion_length,
                temperature=stage.temperature,
                stop=stops,
            )
            for i in batch
        ]
        run.settle()  # the last step's figures are read while this step's answers are on their way
        figures = Figures()
        groups = []
        for i, pending in zip(batch, asked, strict=True):
            group = _group(pending.result(), stage)
            _ask_more(run, stage, sampler, reference, prompts[i], group)
            _score(run, stage, step, job.examples[i], group, figures)
            groups.append(group)
        length = sum(len(a.tokens) for g in groups for a in g) / (len(groups) * stage.group_size)
        rows, measured = _rows(run, stage, step, [prompts[i] for i in batch], groups, figures)
        run.spend(Tokens(train=sum(len(r.tokens) for r in rows)))
        config = {"clip_low_threshold": bounds[0], "clip_high_threshold": bounds[1]} if bounds else None
        sent = list(parts(rows, stage.micro_batch_size))
        passes = [run.run.learn(part, run.recipe.tinker.loss, config) for part in sent]
        run.submit(step, passes, _measure(sent, measured, on_policy=stage.temperature == 1))
        snapshot = run.run.snapshot() if step < job.steps else None
    run.settle()
    return _summary(run)


def _expected(run: HostedStage, stage: Grpo, read: int, length: float) -> Tokens:
    """Tokens a step will use, by the length of the last answers; what is charged is counted."""
    written = int(stage.batch_size * stage.group_size * length)
    both = read * stage.group_size + written
    compared = both * ((stage.beta > 0) + _needs_plain(run, stage))
    return Tokens(prefill=read + compared, sample=written, train=both)


def _needs_plain(run: HostedStage, stage: Grpo) -> bool:
    """Whether the sampler's log-probabilities, which are tempered, have to be asked for again at temperature 1."""
    return stage.temperature != 1 and (stage.beta > 0 or run.recipe.tinker.bounds is not None)


def _group(answer: Any, stage: Grpo) -> list[Answer]:
    out = []
    for sequence in answer.sequences:
        if sequence.logprobs is None or len(sequence.logprobs) != len(sequence.tokens):
            raise ServiceError("the service sent answers without their log-probabilities")
        out.append(Answer(list(sequence.tokens), list(sequence.logprobs), sequence.stop_reason == "length"))
    if len(out) != stage.group_size:
        raise ServiceError(f"the service sent {len(out)} answers of {stage.group_size}")
    return out


def _ask_more(
    run: HostedStage, stage: Grpo, sampler: Sampler, reference: Sampler | None, prompt: list[int], group: list[Answer]
) -> None:
    """Ask for the log-probabilities that the loss needs besides the sampler's own; charge what was written."""
    written = sum(len(a.tokens) for a in group)
    plain = _needs_plain(run, stage)
    compared = (len(prompt) * len(group) + written) * ((reference is not None) + plain)
    run.spend(Tokens(prefill=compared, sample=written))
    for answer in group:
        if answer.tokens:
            whole = prompt + answer.tokens
            answer.reference = reference.logprobs(whole) if reference else None
            answer.plain = sampler.logprobs(whole) if plain else None


def _score(run: HostedStage, stage: Grpo, step: int, example: Example, group: list[Answer], figures: Figures) -> None:
    """Grade a group and write its rollouts down."""
    with run.rollouts.open("a", encoding="utf-8") as file:
        for answer in group:
            text = text_of(run.encoder, answer.tokens)
            scores: list[float | None] = []
            for reward in run.job.rewards:
                scored = grade(reward, text, example)
                scores.append(scored.score)
                if scored.score is not None:
                    figures.scores.setdefault(reward.name, []).append(scored.score)
                for name, value in scored.parts.items():
                    if math.isfinite(value):
                        figures.parts.setdefault(f"{reward.name}/{name}", []).append(value)
                entry = {"step": step, "id": example.id, "reward": reward.name, "score": scored.score}
                file.write(json.dumps({**entry, "parts": dict(scored.parts), "completion": text}) + "\n")
            answer.reward = weighted_reward(scores, [r.weight for r in run.job.rewards])


def _rows(
    run: HostedStage,
    stage: Grpo,
    step: int,
    prompts: Sequence[list[int]],
    groups: Sequence[list[Answer]],
    figures: Figures,
) -> tuple[list[TrainRow], dict[str, float]]:
    """The step's rows, advantages divided by the batch's answer tokens (TRL's dapo), and its figures."""
    advantages = group_advantages([[a.reward for a in g] for g in groups], stage.scale_rewards)
    total = sum(len(a.tokens) for g in groups for a in g)
    if not total:
        raise ServiceError("every answer of a step is empty")
    rows: list[TrainRow] = []
    still: list[TrainRow] = []
    kl = 0.0
    for prompt, group, group_advantage in zip(prompts, groups, advantages, strict=True):
        for answer, advantage in zip(group, group_advantage, strict=True):
            if not answer.tokens:
                continue
            policy = _asked(answer.plain, len(prompt)) if answer.plain else answer.logprobs
            folded = [advantage] * len(answer.tokens)
            if answer.reference is not None:
                reference = _asked(answer.reference, len(prompt))
                folded = fold_kl(advantage, policy, reference, stage.beta)
                kl += kl_estimate(policy, reference)
            # A clipped loss bounds how far the policy moves from where it stood, at temperature 1; importance
            # sampling weighs by what the answers were really drawn from.
            behaviour = policy if run.recipe.tinker.bounds else answer.logprobs
            row = answer_row(prompt, answer.tokens, {"logprobs": behaviour, "advantages": [a / total for a in folded]})
            (rows if any(abs(a) > NOTHING for a in folded) else still).append(row)
    kl /= total
    if stage.beta and step == 1 and stage.reference == "start" and kl > FIRST_KL:
        raise RuntimeError(f"the reference is not the starting adapter: first KL is {kl:g}, not 0")
    measured = _figures(groups, figures, run) | ({"kl": kl} if stage.beta else {})
    # Rows without advantage have no gradient and cost as much as others; one keeps a step a step.
    return rows or still[:1], measured


def _asked(pending: Pending, prompt: int) -> list[float]:
    logprobs = pending.result()
    return [float(v) for v in answer_logprobs(logprobs[1:], prompt)]


def _figures(groups: Sequence[list[Answer]], figures: Figures, run: HostedStage) -> dict[str, float]:
    everyone = [a for g in groups for a in g]
    known = [a.reward for a in everyone if a.reward is not None]
    if not known:
        raise RuntimeError("no reward applies to any answer of this step")
    flat = [g for g in groups if len({round(a.reward, 8) for a in g if a.reward is not None}) <= 1]
    out = {
        "reward": sum(known) / len(known),
        "frac_reward_zero_std": len(flat) / len(groups),
        "completions/mean_length": sum(len(a.tokens) for a in everyone) / len(everyone),
        "completions/clipped_ratio": sum(a.cut for a in everyone) / len(everyone),
    }
    for name, values in figures.scores.items():
        mean = sum(values) / len(values)
        out[f"rewards/{name}/mean"] = mean
        out[f"rewards/{name}/std"] = math.sqrt(sum((v - mean) ** 2 for v in values) / max(1, len(values) - 1))
    return out | {f"parts/{name}": sum(values) / len(values) for name, values in figures.parts.items()}


def _measure(sent: Sequence[Sequence[TrainRow]], measured: Mapping[str, float], *, on_policy: bool) -> Any:
    def measure(answers: list[Any]) -> Mapping[str, float]:
        figures = dict(measured)
        figures["loss"] = sum(float(answer.metrics.get("loss:sum", 0.0)) for answer in answers)
        differences = [
            abs(trained - sampled)
            for rows, answer in zip(sent, answers, strict=True)
            for row, logprobs in zip(rows, logprobs_of(answer), strict=True)
            for trained, sampled in zip(logprobs, row.columns["logprobs"], strict=True)
            if sampled  # prompt positions hold 0
        ]
        if on_policy and differences:
            # Sampler and trainer hold the same weights: what differs is their arithmetic, or a stale sampler.
            figures["sampling/sampling_logp_difference/mean"] = sum(differences) / len(differences)
        return figures

    return measure


def _summary(run: HostedStage) -> dict[str, Any]:
    log = [entry for entry in run.logged() if "reward" in entry]
    figures: dict[str, Any] = {"steps": run.done}
    if log:
        figures["first_kl"] = log[0].get("kl")
        figures |= {"reward_first": log[0]["reward"], "reward_last": log[-1]["reward"]}
        figures["zero_variance_share"] = sum(e["frac_reward_zero_std"] for e in log) / len(log)
        far = [e[k] for e in log if (k := "sampling/sampling_logp_difference/mean") in e]
        if far:
            figures["sampling_logp_difference"] = max(far)
    return figures
