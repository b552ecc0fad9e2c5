"""GRPO on the service, which samples; groups are scored here in the meantime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import compress
from typing import Any

from adapters.backends.batches import layout
from adapters.backends.figures import grpo_figures
from adapters.backends.groups import fresh_rows, is_flat
from adapters.backends.tinker.cost import Tokens
from adapters.backends.tinker.cost_estimate import needs_plain
from adapters.backends.tinker.generate import stop_tokens, text_of
from adapters.backends.tinker.objectives import (
    TrainRow,
    answer_logprobs,
    answer_row,
    deviation,
    fold_kl,
    group_advantages,
    kl_estimate,
    micro_batches,
    weighted_reward,
)
from adapters.backends.tinker.service import Pending, Sampler, ServiceError, logprobs_of
from adapters.backends.tinker.stage import HostedStage
from adapters.files import read_jsonl
from adapters.plugins.rollouts import RewardCaller
from adapters.recipe.stages import Grpo
from adapters.types import Example

NO_ADVANTAGE = 1e-9
"""An advantage this small is the rounding of a mean."""
FIRST_KL = 1e-2
"""Highest first KL to the start: between two copies of the same weights, in the service's arithmetic."""
SAMPLING_DIFFERENCE = "sampling/sampling_logp_difference/mean"


@dataclass(slots=True)
class Answer:
    """A sampled answer with the sampler's log-probabilities, scores and open requests."""

    tokens: list[int]
    logprobs: list[float]
    cut: bool
    scores: tuple[float | None, ...] = ()
    """By reward; None where it does not apply."""
    reward: float | None = None
    """Weighted sum of the scores."""
    plain: Pending | None = None
    """The sampler's log-probabilities at temperature 1, if sampling had another."""
    reference: Pending | None = None


def train_grpo(run: HostedStage, stage: Grpo) -> dict[str, Any]:
    """Train one GRPO stage on-policy: each step samples from the current weights.

    Returns its figures. Raises RuntimeError when the reference is the start and the first KL is not 0.
    """
    job = run.job
    prompts = run.encoder.prompts([e.prompt for e in job.examples])
    order = layout([len(p) for p in prompts], stage.batch_size, job.steps, run.recipe.seed, by_length=False)
    reference = run.reference(stage.reference) if stage.beta and run.done < job.steps else None
    length = job.tokens.get("completion_p50") or stage.max_completion_length
    callers = [RewardCaller(reward, run.rollouts) for reward in job.rewards]
    bounds = run.recipe.tinker.bounds
    config = {"clip_low_threshold": bounds[0], "clip_high_threshold": bounds[1]} if bounds else None
    snapshot: Pending | None = None
    try:
        for step in range(run.done + 1, job.steps + 1):
            batch = order[(step - 1) * stage.batch_size : step * stage.batch_size]
            run.account.allow(_expected(run, stage, [prompts[i] for i in batch], length))
            sampler = Sampler(run.service, (snapshot or run.run.snapshot()).result())
            ask = partial(_sample, run, stage, sampler, reference, prompts, callers, step)
            groups = ask(batch)
            length = sum(len(a.tokens) for g in groups for a in g) / (len(groups) * stage.group_size)
            measured = _figures(groups, callers, stage.flat_below)
            if stage.flat_groups == "replace":
                measured |= _replace(run, stage, ask, prompts, order, batch, groups, step)
                for caller in callers:
                    caller.take_figures()  # the step's figures are those of its own prompts
            rows, kl = _rows(run, stage, step, [prompts[i] for i in batch], groups)
            run.spend(Tokens(train=sum(len(r.tokens) for r in rows)))
            batches = micro_batches(rows, stage.micro_batch_size)
            passes = [run.run.learn(batch, run.recipe.tinker.loss, config) for batch in batches]
            run.submit(step, passes, _measure(batches, kl | measured, on_policy=stage.temperature == 1))
            snapshot = run.run.snapshot() if step < job.steps else None
    finally:
        for caller in callers:
            caller.grader.close()
    run.settle()
    log = read_jsonl(run.log)
    differences = [entry[SAMPLING_DIFFERENCE] for entry in log if SAMPLING_DIFFERENCE in entry]
    highest = {"sampling_logp_difference": max(differences)} if differences else {}
    return {"steps": run.done, **grpo_figures(log), **highest}


def _sample(
    run: HostedStage,
    stage: Grpo,
    sampler: Sampler,
    reference: Sampler | None,
    encoded: Sequence[list[int]],
    callers: Sequence[RewardCaller],
    step: int,
    batch: Sequence[int],
) -> list[list[Answer]]:
    """A scored group of answers to each row of `batch`, whose prompts are in `encoded`."""
    prompts, examples = [encoded[i] for i in batch], [run.job.examples[i] for i in batch]
    run.spend(Tokens(prefill=sum(map(len, prompts))))
    options: dict[str, Any] = {"max_tokens": stage.max_completion_length, "temperature": stage.temperature}
    sampled = [sampler.sample(p, stage.group_size, **options, stop=stop_tokens(run.encoder)) for p in prompts]
    run.settle()  # the last step's figures are read while this step's answers are sampled
    at_once = any(caller.grader.named.calls_at_once > 1 for caller in callers)
    groups, texts = list[list[Answer]](), list[list[str]]()
    for prompt, example, pending in zip(prompts, examples, sampled, strict=True):
        group = _group(pending.result(), stage)
        _ask_more(run, stage, sampler, reference, prompt, group)
        groups.append(group)
        texts.append([text_of(run.encoder, a.tokens) for a in group])
        if not at_once:  # scored while the service samples the next
            score_groups([group], texts[-1:], [example], callers, step)
    if at_once:
        score_groups(groups, texts, examples, callers, step)
    return groups


def _replace(
    run: HostedStage,
    stage: Grpo,
    ask: Callable[[Sequence[int]], list[list[Answer]]],
    prompts: Sequence[list[int]],
    order: Sequence[int],
    batch: list[int],
    groups: list[list[Answer]],
    step: int,
) -> dict[str, float]:
    """Replace a step's flat groups by groups of fresh rows; returns how many, in how many rounds, and what is left."""
    rounds = replaced = 0
    start, stop = (step - 1) * stage.batch_size, step * stage.batch_size
    for drawn in fresh_rows(order, len(prompts), start, stop, run.recipe.seed, stage.replace_rounds):
        flat = [n for n, group in enumerate(groups) if _is_flat(group, stage.flat_below)]
        if not (rows := drawn[: len(flat)]):
            break
        length = sum(len(a.tokens) for g in groups for a in g) / (len(groups) * stage.group_size)
        run.account.allow(_expected(run, stage, [prompts[i] for i in rows], length))
        found = zip(rows, ask(rows), strict=True)
        varied = [(row, group) for row, group in found if not _is_flat(group, stage.flat_below)]
        for place, (row, group) in zip(flat, varied, strict=False):
            batch[place], groups[place] = row, group
        rounds, replaced = rounds + 1, replaced + len(varied)
    left = sum(_is_flat(group, stage.flat_below) for group in groups) / len(groups)
    return {"flat_groups/replaced": replaced, "flat_groups/rounds": rounds, "flat_groups/left": left}


def _is_flat(group: Sequence[Answer], below: float) -> bool:
    return is_flat((a.reward for a in group), below)


def score_groups(
    groups: Sequence[Sequence[Answer]],
    texts: Sequence[Sequence[str]],
    examples: Sequence[Example],
    callers: Sequence[RewardCaller],
    step: int,
) -> None:
    """Score the answers to each prompt with every reward, and log them as rollouts."""
    answers, completions = [a for group in groups for a in group], [text for group in texts for text in group]
    asked = [example for example, group in zip(examples, groups, strict=True) for _ in group]
    by_reward = [caller.score(completions, asked, step) for caller in callers]
    for answer, scores in zip(answers, zip(*by_reward, strict=True), strict=True):
        answer.scores = scores
        answer.reward = weighted_reward(scores, [caller.grader.named.weight for caller in callers])


def _expected(run: HostedStage, stage: Grpo, prompts: Sequence[list[int]], length: float) -> Tokens:
    """Estimated tokens of a step's prompts, by the length of the last answers."""
    read, written = sum(map(len, prompts)), int(len(prompts) * stage.group_size * length)
    both = read * stage.group_size + written
    compared = both * ((stage.beta > 0) + needs_plain(stage, run.recipe.tinker))
    return Tokens(prefill=read + compared, sample=written, train=both)


def _group(answer: Any, stage: Grpo) -> list[Answer]:
    sequences = answer.sequences
    if any(s.logprobs is None or len(s.logprobs) != len(s.tokens) for s in sequences):
        raise ServiceError("the service sent answers without their log-probabilities")
    if len(sequences) != stage.group_size:
        raise ServiceError(f"the service sent {len(sequences)} answers of {stage.group_size}")
    return [Answer(list(s.tokens), list(s.logprobs), s.stop_reason == "length") for s in sequences]


def _ask_more(
    run: HostedStage, stage: Grpo, sampler: Sampler, reference: Sampler | None, prompt: list[int], group: list[Answer]
) -> None:
    """Request the other log-probabilities of the loss; charge the sampled tokens."""
    written = sum(len(a.tokens) for a in group)
    plain = needs_plain(stage, run.recipe.tinker)
    compared = (len(prompt) * len(group) + written) * ((reference is not None) + plain)
    run.spend(Tokens(prefill=compared, sample=written))
    for answer in group:
        if answer.tokens:
            whole = prompt + answer.tokens
            answer.reference = reference.logprobs(whole) if reference else None
            answer.plain = sampler.logprobs(whole) if plain else None


def _rows(
    run: HostedStage, stage: Grpo, step: int, prompts: Sequence[list[int]], groups: Sequence[list[Answer]]
) -> tuple[list[TrainRow], dict[str, float]]:
    """The step's rows, advantages over answer tokens (TRL's dapo), and the step's KL."""
    advantages = group_advantages([[a.reward for a in g] for g in groups], stage.scale_rewards)
    varied = [not _is_flat(group, stage.flat_below) for group in groups]
    advantages = [of_group if v else [0.0] * len(of_group) for of_group, v in zip(advantages, varied, strict=True)]
    if stage.flat_groups != "keep" and any(varied):
        prompts, groups = [*compress(prompts, varied)], [*compress(groups, varied)]
        advantages = [*compress(advantages, varied)]
    total = sum(len(a.tokens) for g in groups for a in g)
    if not total:
        raise ServiceError("every answer of a step is empty")
    rows: list[TrainRow] = []
    without_gradient: list[TrainRow] = []
    kl = 0.0
    for prompt, group, group_advantage in zip(prompts, groups, advantages, strict=True):
        for answer, advantage in zip(group, group_advantage, strict=True):
            if not answer.tokens:
                continue
            policy = _result(answer.plain, len(prompt)) if answer.plain else answer.logprobs
            folded = [advantage] * len(answer.tokens)
            if answer.reference is not None:
                reference = _result(answer.reference, len(prompt))
                folded = fold_kl(advantage, policy, reference, stage.beta)
                kl += kl_estimate(policy, reference)
            # A clipped loss limits the policy's distance to its old self at temperature 1; importance sampling
            # weighs by the distribution that the answers were drawn from.
            behaviour = policy if run.recipe.tinker.bounds else answer.logprobs
            row = answer_row(prompt, answer.tokens, {"logprobs": behaviour, "advantages": [a / total for a in folded]})
            (rows if any(abs(a) > NO_ADVANTAGE for a in folded) else without_gradient).append(row)
    kl /= total
    if stage.beta and step == 1 and stage.reference == "start" and kl > FIRST_KL:
        raise RuntimeError(f"the reference is not the starting adapter: first KL is {kl:g}, not 0")
    # Rows without gradient cost as much as others; one is enough for an optimizer step.
    return rows or without_gradient[:1], {"kl": kl} if stage.beta else {}


def _result(pending: Pending, prompt: int) -> list[float]:
    return [float(v) for v in answer_logprobs(pending.result()[1:], prompt)]


def _figures(
    groups: Sequence[list[Answer]], callers: Sequence[RewardCaller], flat_below: float = 0.0
) -> dict[str, float]:
    """Figures of a step's answers and rewards, under TRL's names."""
    answers = [a for g in groups for a in g]
    rewards = [a.reward for a in answers if a.reward is not None]
    figures = {
        "reward": sum(rewards) / max(1, len(rewards)),  # 0 where no reward applies, as in TRL
        "frac_reward_zero_std": sum(_is_flat(g, flat_below) for g in groups) / len(groups),
        "completions/mean_length": sum(len(a.tokens) for a in answers) / len(answers),
        "completions/clipped_ratio": sum(a.cut for a in answers) / len(answers),
    }
    for n, caller in enumerate(callers):
        if scores := [score for a in answers if (score := a.scores[n]) is not None]:
            figures[f"rewards/{caller.name}/mean"] = sum(scores) / len(scores)
            figures[f"rewards/{caller.name}/std"] = deviation(scores)
        figures |= caller.take_figures()
    return figures


def _measure(batches: Sequence[Sequence[TrainRow]], measured: Mapping[str, float], *, on_policy: bool) -> Any:
    def measure(answers: list[Any]) -> Mapping[str, float]:
        figures = {**measured, "loss": sum(float(answer.metrics.get("loss:sum", 0.0)) for answer in answers)}
        differences = [
            abs(trained - sampled)
            for rows, answer in zip(batches, answers, strict=True)
            for row, logprobs in zip(rows, logprobs_of(answer), strict=True)
            for trained, sampled in zip(logprobs, row.columns["logprobs"], strict=True)
            if sampled  # prompt positions hold 0
        ]
        if on_policy and differences:
            # Sampler and trainer hold the same weights: the difference is arithmetic, or a stale sampler.
            figures[SAMPLING_DIFFERENCE] = sum(differences) / len(differences)
        return figures

    return measure
