"""The data ledger of a run: rows by source, duplicates, and texts in both training and test data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from adapters.backends.jobs import Evaluation, Job
from adapters.data import duplicates
from adapters.data.load import prompt_key
from adapters.pipeline.plan import Plan

PROMPT_COLUMNS = ("system", "tools", "tool_calls", "history", "messages", "images", "instruction", "input")
"""Columns in which data sets of conversations keep parts of the prompt."""


def of_plan(plan: Plan) -> dict[str, Any]:
    """The ledger of a plan, as in `ledger.json`. 100,000 rows take some ten seconds."""
    bare = _StripSharedWords(
        text for part in plan.stages_and_tests for texts in part.by_source.values() for text in texts
    )
    trained = sorted({bare(text) for job in plan.jobs for text in job.texts})
    known = duplicates.sketch(trained) if plan.evaluations and trained else None
    stages = {}
    for job in plan.jobs:
        stages[job.name] = {
            "sources": [
                {**entry, "trained": sum(e.source == entry["source"] for e in job.examples)}
                for entry in _sources(job, bare)
            ],
            "rows": len(job.examples),
            "too_long": job.too_long,
            "tokens": job.tokens,
            "lengths": job.lengths,
            "duplicates": duplicates.inside([bare(t) for rows in job.by_source.values() for t in rows]),
        }
        if job.validation:
            held_out, rest = ([bare(prompt_key(e)) for e in part] for part in (job.validation, job.examples))
            stages[job.name]["validation"] = {
                "rows": len(held_out),
                "also_in_training": duplicates.across(held_out, sorted(set(rest))),
            }
    tests = {}
    for test in plan.evaluations:
        texts = [bare(text) for text in test.texts]
        shared = duplicates.across(texts, trained, known)
        tests[test.name] = {
            "sources": _sources(test, bare),
            "rows": len(texts),
            "lengths": test.lengths,
            "also_in_training": test.leaked,
            "nearly_in_training": shared["near"],
            "duplicates": duplicates.inside(texts),
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
                "the held-out NLL is too low"
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
            "duplicates": duplicates.inside([bare(t) for t in part.by_source.get(entry["source"], ())]),
        }
        for entry in part.ledger
    ]


class _StripSharedWords:
    """Strips what all prompts start and end with: the instructions around the text."""

    def __init__(self, texts: Iterable[str]) -> None:
        unique = list(dict.fromkeys(texts))
        start = _common(unique)
        end = _common([text[len(start) :][::-1] for text in unique])
        # Cut at a word, so that texts that happen to start alike keep their first word whole.
        self.start, self.end = start.rfind(" ") + 1, max(0, end.rfind(" "))

    def __call__(self, text: str) -> str:
        return text[self.start : len(text) - self.end]


def _common(texts: Sequence[str]) -> str:
    if len(texts) < 2:
        return ""
    first, last = min(texts), max(texts)
    return first[: next((n for n, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), len(first))]
