"""GRPO on the service: it samples, this machine scores. A group is scored while the next ones are sampled."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from adapters.plugins.rollouts import RewardCaller
from adapters.recipe.stages import Grpo
from adapters.types import Example

NOTHING = 1e-9
"""An advantage this small is the rounding of a mean."""
FIRST_KL = 1e-2
"""How far the first KL to the start may be from 0: two copies of one set of weights, in the service's arithmetic."""


@dataclass(slots=True)
class Answer:
    """A sampled answer: tokens, the sampler's own log-probabilities, scores, and requests that are under way."""

    tokens: list[int]
    logprobs: list[float]
    cut: bool
    scores: tuple[float | None, ...] = ()
    """One a reward; None where it does not apply."""
    reward: float | None = None
    """Their weighted sum."""
    plain: Pending | None = None
    """The sampler's log-probabilities at temperature 1, where sampling had another."""
    reference: Pending | None = None


def train_grpo(run: HostedStage, stage: Grpo) -> dict[str, Any]:
    """One GRPO stage. Returns its figures.

    On-policy: every step samples from weights that hold all steps before it. The KL's reference is what the recipe
    says, found once; when it is the start, the first KL is asserted to be 0.
    """
    job = run.job
    prompts = run.encoder.prompts([e.prompt for e in job.examples])
    order = layout([len(p) for p in prompts], stage.batch_size, job.steps, run.recipe.seed, by_length=False)
    reference = run.reference(stage.reference) if stage.beta and run.done < job.steps else None
    length = job.tokens.get("completion_p50") or stage.max_completion_length
    callers = [RewardCaller(reward, run.rollouts) for reward in job.rewards]
    snapshot: Pending | None = None
    try:
        for step in range(run.done + 1, job.steps + 1):
            batch = order[(step - 1) * stage.batch_size : step * stage.batch_size]
            asked = [prompts[i] for i in batch]
            run.account.allow(_expected(run, stage, sum(map(len, asked)), length))
            sampler = Sampler(run.service, (snapshot or run.run.snapshot()).result())
            groups = _sample(run, stage, sampler, reference, asked, callers, [job.examples[i] for i in batch], step)
            length = sum(len(a.tokens) for g in groups for a in g) / (len(groups) * stage.group_size)
            rows, measured = _rows(run, stage, step, asked, groups)
            measured |= _figures(groups, callers)
            _submit(run, stage, step, rows, measured)
            snapshot = run.run.snapshot() if step < job.steps else None
    finally:
        for caller in callers:
            caller.grader.close()
    run.settle()
    return _summary(run)


def _sample(
    run: HostedStage,
    stage: Grpo,
    sampler: Sampler,
    reference: Sampler | None,
    prompts: Sequence[list[int]],
    callers: Sequence[RewardCaller],
    examples: Sequence[Example],
    step: int,
) -> list[list[Answer]]:
    """A scored group of answers to each prompt of a step."""
    run.spend(Tokens(prefill=sum(map(len, prompts))))
    stops = stop_tokens(run.encoder)
    length, temperature = stage.max_completion_length, stage.temperature
    asked = [
        sampler.sample(p, stage.group_size, max_tokens=length, temperature=temperature, stop=stops) for p in prompts
    ]
    run.settle()  # the last step's figures are read while this step's answers are on their way
    groups = []
    for prompt, example, pending in zip(prompts, examples, asked, strict=True):
        group = _group(pending.result(), stage)
        _ask_more(run, stage, sampler, reference, prompt, group)
        score_group(group, [text_of(run.encoder, a.tokens) for a in group], example, callers, step)
        groups.append(group)
    return groups


def score_group(
    group: Sequence[Answer], texts: Sequence[str], example: Example, callers: Sequence[RewardCaller], step: int
) -> None:
    """Score the answers to one prompt with every reward, and append them to the rollouts."""
    by_reward = [caller.score(texts, [example] * len(texts), step) for caller in callers]
    for answer, scores in zip(group, zip(*by_reward, strict=True), strict=True):
        answer.scores = scores
        answer.reward = weighted_reward(scores, [caller.grader.named.weight for caller in callers])


def _submit(run: HostedStage, stage: Grpo, step: int, rows: list[TrainRow], measured: Mapping[str, float]) -> None:
    """Train on a step's rows."""
    run.spend(Tokens(train=sum(len(r.tokens) for r in rows)))
    bounds = run.recipe.tinker.bounds
    config = {"clip_low_threshold": bounds[0], "clip_high_threshold": bounds[1]} if bounds else None
    sent = list(parts(rows, stage.micro_batch_size))
    passes = [run.run.learn(part, run.recipe.tinker.loss, config) for part in sent]
    run.submit(step, passes, _measure(sent, measured, on_policy=stage.temperature == 1))


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


def _rows(
    run: HostedStage,
    stage: Grpo,
    step: int,
    prompts: Sequence[list[int]],
    groups: Sequence[list[Answer]],
) -> tuple[list[TrainRow], dict[str, float]]:
    """The step's rows, advantages divided by the batch's answer tokens (TRL's dapo), and its KL."""
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
    # Rows without advantage have no gradient and cost as much as others; one keeps a step a step.
    return rows or still[:1], {"kl": kl} if stage.beta else {}


def _asked(pending: Pending, prompt: int) -> list[float]:
    logprobs = pending.result()
    return [float(v) for v in answer_logprobs(logprobs[1:], prompt)]


def _figures(groups: Sequence[list[Answer]], callers: Sequence[RewardCaller]) -> dict[str, float]:
    """Figures of a step's answers and rewards, under TRL's names."""
    answers = [a for g in groups for a in g]
    known = [a.reward for a in answers if a.reward is not None]
    flat = [g for g in groups if len({round(a.reward, 8) for a in g if a.reward is not None}) <= 1]
    out = {
        "reward": sum(known) / max(1, len(known)),  # 0 where no reward applies, as in TRL
        "frac_reward_zero_std": len(flat) / len(groups),
        "completions/mean_length": sum(len(a.tokens) for a in answers) / len(answers),
        "completions/clipped_ratio": sum(a.cut for a in answers) / len(answers),
    }
    for n, caller in enumerate(callers):
        if scores := [score for a in answers if (score := a.scores[n]) is not None]:
            mean = sum(scores) / len(scores)
            out[f"rewards/{caller.name}/mean"] = mean
            out[f"rewards/{caller.name}/std"] = math.sqrt(
                sum((s - mean) ** 2 for s in scores) / max(1, len(scores) - 1)
            )
        out |= caller.take_figures()
    return out


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
