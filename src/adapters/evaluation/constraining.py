"""Constrained answers of a test set, beside the free ones: what the constraint changed, and what is not in the text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from adapters.backends.constraint import Constrain, Constraint, constraint, needs_llguidance
from adapters.backends.jobs import Evaluation
from adapters.backends.json_stop import first_value
from adapters.data.quoted import quoted_strings
from adapters.errors import KeyPath, UserError
from adapters.rewards.grounding import searched
from adapters.types import Example, Message, Progress, Sample, Sampler


class Strings(TypedDict):
    """The strings of answers that quote the text, and how many of them do not stand in it."""

    strings: int
    ungrounded: int


class Compared(TypedDict):
    """Constrained answers beside free ones to the same prompts."""

    answers: int
    changed: int
    """Answers that differ."""
    free: Strings
    constrained: Strings


def of_test_set(
    how: Constrain, task: Any, examples: Sequence[Example], backend: Any, *, thinking: bool, at: KeyPath
) -> Constraint | None:
    """The constraint of a test set. Raises UserError for one that its rows, task or backend cannot have."""
    if how == "off":
        return None
    if not getattr(backend, "constrains", False):
        raise UserError("only the local trainer holds answers to a grammar; leave constrain out.", at=at)
    needs_llguidance(at)
    bare = next((e.id for e in examples if not isinstance(e.meta.get("text"), str)), None)
    if how == "source" and bare is not None:
        raise UserError(f"source needs the text of every row, and the row {bare!r} has none (meta: text).", at=at)
    answers = [e.completion for e in examples if e.completion]
    return constraint(task, how, answers=answers, thinking=thinking, at=at)


class ConstrainedSampler:
    """A local sampler whose answers keep to a test set's constraint."""

    def __init__(self, sampler: Sampler, evaluation: Evaluation) -> None:
        self.sampler, self.evaluation = sampler, evaluation

    def __call__(
        self, prompts: Sequence[Sequence[Message]], *, max_new_tokens: int, batch_size: int | None, progress: Progress
    ) -> list[Sample]:
        """The constrained completions in the order of the prompts."""
        made, examples = self.evaluation.constraint, self.evaluation.examples
        assert made is not None  # noqa: S101 - such an evaluation is not answered by this sampler
        local: Any = self.sampler
        samples: list[Sample] = local(
            prompts,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            progress=progress,
            grammar=lambda n: made.grammar(examples[n].meta.get("text")),
        )
        return samples


def compared(task: Any, free: Sequence[Mapping[str, Any]], held: Sequence[Mapping[str, Any]]) -> Compared | None:
    """What a constraint changed, from stored samples; None where the free answers are not those of the same rows."""
    if [sample.get("id") for sample in free] != [sample.get("id") for sample in held]:
        return None
    changed = sum(a["completion"] != b["completion"] for a, b in zip(free, held, strict=True))
    return Compared(answers=len(held), changed=changed, free=_strings(task, free), constrained=_strings(task, held))


def _strings(task: Any, samples: Sequence[Mapping[str, Any]]) -> Strings:
    counts, schema = Strings(strings=0, ungrounded=0), task.record_schema()
    for sample in samples:
        try:
            record = task.record(getattr(task, "decode", first_value)(sample["completion"]))
        except ValueError:
            continue  # a parse error, which has a figure of its own
        within = searched(sample.get("text") or "")
        values = [value for _, value in quoted_strings(record, schema)]
        counts["strings"] += len(values)
        counts["ungrounded"] += sum(not within.has(value) for value in values)
    return counts


def sentence(figures: Any) -> str:
    """What a constraint changed, in words; empty for what are no figures of it."""
    try:
        free, held = (_share(figures[side]) for side in ("free", "constrained"))
        changed = f"the constraint changed {figures['changed']:,} of {figures['answers']:,} answers"
    except (KeyError, TypeError, ValueError):  # of a run that may come from anywhere
        return ""
    return f"{changed}; strings that are not in the text: {free} free, {held} constrained"


def _share(counts: Strings) -> str:
    share = f" ({counts['ungrounded'] / counts['strings']:.1%})" if counts["strings"] else ""
    return f"{counts['ungrounded']:,} of {counts['strings']:,}{share}"
