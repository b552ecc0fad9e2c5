"""What the model card says of each stage of the training."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
from collections.abc import Mapping
from typing import Any

from adapters.environment import peak_memory_text
from adapters.pipeline.run_folder import Stage, as_dict
from adapters.pipeline.starting import UNKNOWN
from adapters.plugins.rewards import NamedReward, stage_rewards
from adapters.publish import bundle, plugin_code
from adapters.publish.finished_run import Finished
from adapters.recipe.stages import NOT_IN_FINGERPRINT

KINDS = {
    "sft": "Supervised fine-tuning",
    "grpo": "Group relative policy optimisation (GRPO)",
    "dpo": "Direct preference optimisation (DPO)",
    "token_classification": "Tagging of words by an encoder (token classification)",
    "distill": "On-policy distillation of several teachers, routed by domain",
    "best_of": "Supervised fine-tuning on the best of its own answers (rejection sampling)",
}
STARTS = {"start": "start (the weights this stage began with)", "base": "base (the base model)"}
PARTS = ("select", "samples", "environment")
"""Sections of a stage whose keys stand among its constants."""


def facts(finished: Finished, stage: Stage) -> dict[str, Any]:
    """A stage's constants, data, rewards, figures and cost, as the card's template takes them."""
    settings = stage.manifest["stage"]
    kind = settings["kind"]
    apart = ("kind", "trl", "training_args", "rewards", "noise", "teachers", *PARTS, *NOT_IN_FINGERPRINT)
    constants = {
        **{k: v for k, v in settings.items() if k not in apart},
        **settings.get("trl", {}),
        **settings.get("training_args", {}),
    }
    if constants.pop("max_steps", None):
        constants.pop("epochs", None)  # max_steps overrides it
    for part in PARTS:
        constants |= {f"{part} {key}": value for key, value in (settings.get(part) or {}).items()}
    if constants.get("beta") == 0 and kind == "grpo":
        del constants["reference"]  # without the KL term there is none
    if "reference" in constants:
        constants["reference"] = STARTS.get(constants["reference"], constants["reference"])
    return {
        "kind": kind,
        "title": KINDS.get(kind, kind),
        "constants": bundle.without_paths({k: v for k, v in constants.items() if v is not None}),
        "noise": bundle.without_paths(settings.get("noise")),
        "rewards": _rewards(finished, stage),
        **_data(finished, stage, settings),
        "figures": stage.manifest.get("figures", {}),
        "teachers": _teachers(stage.manifest.get("teachers") or {}),
        "steps": _taken(stage),
        "planned": stage.manifest.get("steps"),
        "seconds": stage.manifest.get("seconds"),
        "peak_memory": peak_memory_text(stage.manifest),
    }


def _teachers(teachers: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line for each teacher of a distilled stage: what it is, what was trained on, and under which licences."""
    lines = []
    for domain, teacher in teachers.items():
        sources = (f"{d['source']} ({d.get('license') or 'licence not given'})" for d in teacher.get("data", ()))
        data = ", ".join(dict.fromkeys(sources)) or UNKNOWN["source"]
        lines.append(f"**{domain}:** `{teacher['name']}`, {teacher['rows']:,} prompts; trained on {data}")
    return lines


def start(finished: Finished) -> str | None:
    """In a sentence, the adapter that the first stage starts from; None for a new one."""
    manifest = finished.stages[0].manifest
    if not manifest.get("start"):
        return None
    sentence = f"an adapter of weights `{str(manifest.get('start_hash'))[:16]}` (SHA-256)"
    if history := finished.history:
        last = history[-1]
        names = {s["source"]: None for stage in history for s in stage["data"]}
        kinds = ", then ".join(KINDS.get(stage["kind"], stage["kind"]) for stage in history if stage["kind"])
        sentence += f", stage `{last['stage']}` of the run `{last['run']}`" if last["run"] else ""
        sentence += f", trained by {kinds[0].lower()}{kinds[1:]}" if kinds else ", trained"
        sentence += f" on {', '.join(names)}"
    return sentence


def _data(finished: Finished, stage: Stage, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The data of a stage, and in a sentence what of it the trainer saw."""
    ledger = finished.ledger.get("stages", {}).get(stage.name, {})
    # What was left out later, or learned instead of a row, is not counted by source.
    planned = not {"samples", "unreadable"} & as_dict(stage.manifest.get("figures")).keys()
    trained = {entry["source"]: entry.get("trained") for entry in ledger.get("sources", ()) if planned}
    data = [
        {**entry, "trained": trained[entry["source"]]} if trained.get(entry["source"]) is not None else entry
        for entry in stage.manifest.get("data", [])
    ]
    return {"data": data, "seen": _seen(stage, settings, ledger) if ledger.get("rows") else ""}


def _seen(stage: Stage, settings: Mapping[str, Any], ledger: Mapping[str, Any]) -> str:
    """In a sentence, what a stage was trained on, what was kept apart from it, and how often its steps saw it."""
    rows, what, figures = ledger["rows"], "examples", as_dict(stage.manifest.get("figures"))
    apart = {
        "held out": ledger.get("validation", {}).get("rows", 0),
        "left out as too long": stage.manifest.get("too_long", 0),
    }
    by_domain = {d: t["rows"] for d, t in as_dict(stage.manifest.get("teachers")).items()}
    if by_domain:
        lost = as_dict(figures.get("unreadable"))
        unread = sum(lost.get(domain, 0) for domain in by_domain)
        apart["left out, because the task cannot read the teacher's answer"] = unread
        apart["not drawn"] = rows - unread - sum(by_domain.values())
        rows, what = sum(by_domain.values()), "prompts"
    if samples := as_dict(figures.get("samples")):
        pairs = "pairs of " if settings["kind"] == "dpo" else ""
        rows, what = samples["learned"], f"{pairs}its own answers to {samples['rows']:,} prompts"
    kept = [f"{n:,} {'row was' if n == 1 else 'rows were'} {why}" for why, n in apart.items() if n]
    trained_on = f"Trained on: {rows:,} {what}" + (f" ({', and '.join(kept)})" if kept else "")
    drawn = _taken(stage) * settings.get("batch_size", 0) + int(figures.get("groups_replaced", 0))
    if settings["kind"] == "token_classification":  # whose rows may be read in several windows
        return f"{trained_on}; the steps saw {drawn:,} windows of their texts."
    if not drawn:
        return f"{trained_on}."
    if by_domain:  # a step has equally many prompts of each
        each = drawn // len(by_domain)
        shares = (f"of {domain} {_share(each, n, f'{n:,}')}" for domain, n in by_domain.items())
        return f"{trained_on}; the steps saw {'; '.join(shares)}."
    return f"{trained_on}; the steps saw {_share(drawn, rows, 'them')}."


def _share(drawn: int, rows: int, them: str) -> str:
    """How many of the rows so many draws have seen."""
    if drawn < rows:
        return f"no more than {drawn:,} of {them}"
    return f"{rows:,} of {them}, {'once' if drawn == rows else f'{drawn / rows:.2g} times'} each"


def _taken(stage: Stage) -> int:
    """The optimizer steps that a stage has taken, which may be fewer than planned."""
    return int(as_dict(stage.manifest.get("figures")).get("steps") or stage.manifest.get("steps") or 0)


def _rewards(finished: Finished, stage: Stage) -> list[dict[str, Any]]:
    uses = plugin_code.of_run(finished).uses
    places = (uses.get(("stages", stage.index, "rewards", n), "") for n in itertools.count())
    changed = changed_rewards(finished, stage)
    return [
        {**_reward(reward), "code": place.rpartition(":")[0].removeprefix("./"), "changed": reward.name in changed}
        for reward, place in zip(stage_rewards(finished.file)[stage.index], places, strict=False)
    ]


def changed_rewards(finished: Finished, stage: Stage) -> list[str]:
    """The rewards of a stage whose code is no longer that of the training."""
    then = {record["name"]: record["score_hash"] for record in stage.manifest.get("scoring", ())}
    return [r.name for r in stage_rewards(finished.file)[stage.index] if then.get(r.name, r.score_hash) != r.score_hash]


def _reward(named: NamedReward) -> dict[str, Any]:
    reward: Any = named.reward
    kind = reward if inspect.isfunction(reward) else type(reward)
    if formula := getattr(reward, "formula", None):
        about = f"R = {formula()}"  # a description is of the defaults, which this recipe may have changed
    else:
        generated = (kind.__doc__ or "").startswith(f"{kind.__name__}(")  # by dataclasses, from the fields
        own = None if generated else kind.__doc__
        about = inspect.cleandoc(own or (kind.__call__.__doc__ if inspect.isclass(kind) else "") or "")
    fields = dataclasses.fields(reward) if dataclasses.is_dataclass(kind) else ()
    parameters = bundle.without_paths({field.name: getattr(reward, field.name) for field in fields})
    return {"name": named.name, "weight": named.weight, "parameters": parameters, "about": about}
