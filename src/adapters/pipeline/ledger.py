"""The data ledger of a run: rows by source, duplicates, and texts in both training and test data."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, groupby, islice
from typing import Any, Final

from adapters.backends.jobs import Earlier, Evaluation, Job
from adapters.data import duplicates
from adapters.data.examples import prompt_key
from adapters.data.on_disk import collect
from adapters.data.text_keys import TextKeys
from adapters.pipeline.plan import Plan
from adapters.types import QUESTION

PROMPT_COLUMNS = ("system", "tools", "tool_calls", "history", "messages", "images", "instruction", "input")
"""Columns in which data sets of conversations keep parts of the prompt."""
SORTED: Final = 100_000
"""Texts that are sorted at once."""


def of_plan(plan: Plan, earlier: Sequence[Earlier] = ()) -> dict[str, Any]:
    """The ledger of a plan, as in `ledger.json`. 100,000 rows take some ten seconds.

    Texts of the test sets are looked for also in the rows of `earlier` stages, which trained what the plan starts from.
    """
    training: list[Job | Earlier] = [*earlier, *plan.jobs]
    parts: list[Job | Earlier | Evaluation] = [*training, *plan.evaluations]
    bare = _StripSharedWords(*(texts for part in parts for texts in part.by_source.values()))
    trained = _in_order(bare(text) for stage in training for texts in stage.by_source.values() for text in texts)
    hashes = TextKeys.union(stage.texts for stage in training)
    known = duplicates.sketch(trained) if plan.evaluations and trained else None
    stages = {}
    for job in plan.jobs:
        sources, used = _sources(job, bare), Counter(e.source for e in job.examples)
        stages[job.name] = {
            "sources": [{**entry, "trained": used[entry["source"]]} for entry in sources],
            "rows": len(job.examples),
            "too_long": job.too_long,
            "tokens": job.tokens,
            "lengths": job.lengths,
            "duplicates": _duplicates(job, sources, bare),
        }
        if job.validation:
            held_out = [bare(prompt_key(e)) for e in job.validation]
            stages[job.name]["validation"] = {
                "rows": len(held_out),
                "also_in_training": duplicates.across(held_out, _in_order(bare(prompt_key(e)) for e in job.examples)),
            }
    tests = {}
    for test in plan.evaluations:
        texts, sources = collect(map(bare, test.texts)), _sources(test, bare)
        shared = duplicates.across(texts, trained, known)
        tests[test.name] = {
            "sources": sources,
            "rows": len(texts),
            "lengths": test.lengths,
            "also_in_training": int(hashes.among(test.texts).sum()),
            "nearly_in_training": shared["near"],
            "duplicates": _duplicates(test, sources, bare),
        }
    return {"stages": stages, "tests": tests}


def findings(ledger: dict[str, Any]) -> list[str]:
    """The warnings about the data, in words."""
    out = []
    for name, test in ledger["tests"].items():
        if test["nearly_in_training"]:
            out.append(
                f"test set {name}: {test['nearly_in_training']} of {test['rows']} texts also stand in the training "
                f"data ({test['also_in_training']} word for word, the others nearly); its figures flatter the model"
            )
    for name, stage in ledger["stages"].items():
        validation = stage.get("validation")
        if validation and (twins := validation["also_in_training"]["near"]):
            out.append(
                f"{name}: {twins} of {validation['rows']} held-out rows have a near duplicate in the training rows; "
                "the held-out figures are too good"
            )
        if stage["duplicates"]["near"] > 0.1:
            out.append(f"{name}: {stage['duplicates']['near']:.0%} of its rows nearly repeat another")
    sources = [s for part in (*ledger["stages"].values(), *ledger["tests"].values()) for s in part["sources"]]
    for s in sources:
        for column in PROMPT_COLUMNS:
            if count := s.get("unread", {}).get(column):
                out.append(f"nobody reads the column {column!r}, which {count} rows of {s['source']} have")
    if unlicensed := dict.fromkeys(s["source"] for s in sources if not s["license"] and not s["generated"]):
        out.append(f"no licence is stated for {', '.join(unlicensed)} (`license:` beside the source's path)")
    return out


def unread(ledger: dict[str, Any]) -> str:
    """One line on the columns that neither the recipe nor the task reads; nothing where all are read."""
    sources = [s for part in (*ledger["stages"].values(), *ledger["tests"].values()) for s in part["sources"]]
    rows: dict[str, dict[str, int]] = {}
    for source in sources:
        for key, count in source.get("unread", {}).items():
            rows.setdefault(key, {})[source["source"]] = count
    told = (f"{key} ({', '.join(f'{n:,} rows of {name}' for name, n in by.items())})" for key, by in rows.items())
    return f"columns that nothing reads: {', '.join(told)}" if rows else ""


def _sources(part: Job | Evaluation, bare: _StripSharedWords) -> list[dict[str, Any]]:
    used = sum(entry["used"] for entry in part.ledger) or 1
    return [
        {
            **entry,
            "share": entry["used"] / used,
            "empty_gold_share": entry["empty_gold"] / max(1, entry["rows"] * entry["repeat"]),
            "duplicates": duplicates.inside(collect(map(bare, _texts(part, part.by_source.get(entry["source"], ()))))),
        }
        for entry in part.ledger
    ]


def _duplicates(part: Job | Evaluation, sources: Sequence[dict[str, Any]], bare: _StripSharedWords) -> dict[str, Any]:
    """Duplicates among the rows of all sources; those of the one source are known."""
    if len(sources) == 1:
        known: dict[str, Any] = sources[0]["duplicates"]
        return known
    return duplicates.inside(collect(map(bare, _texts(part, chain.from_iterable(part.by_source.values())))))


def _texts(part: Job | Evaluation, texts: Iterable[str]) -> Iterable[str]:
    """The texts among which duplicates are looked for: each once, where several questions are asked about it."""
    asked = any(QUESTION in example.meta for example in islice(part.examples, 1))
    return _in_order(texts) if asked else texts


def _in_order(texts: Iterable[str]) -> Sequence[str]:
    """The different texts, sorted: in parts, which are merged."""
    texts, parts = iter(texts), list[Sequence[str]]()
    while part := set(islice(texts, SORTED)):
        parts.append(collect(sorted(part)))
    return parts[0] if len(parts) == 1 else collect(text for text, _ in groupby(heapq.merge(*parts)))


class _StripSharedWords:
    """Strips what all prompts start and end with: the instructions around the text."""

    def __init__(self, *parts: Sequence[str]) -> None:
        start = _common(lambda: chain(*parts))
        end = _common(lambda: (text[len(start) :][::-1] for text in chain(*parts)))
        # Cut at a word, so that texts that happen to start alike keep their first word whole.
        self.start, self.end = start.rfind(" ") + 1, max(0, end.rfind(" "))

    def __call__(self, text: str) -> str:
        return text[self.start : len(text) - self.end]


def _common(texts: Callable[[], Iterable[str]]) -> str:
    """What all texts start with; nothing where there is but one."""
    first, last = min(texts(), default=""), max(texts(), default="")
    if first == last:
        return ""
    return first[: next((n for n, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), len(first))]
