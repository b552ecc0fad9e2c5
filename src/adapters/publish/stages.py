"""What the model card says of each stage of the training."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
from collections.abc import Mapping
from typing import Any

from adapters.environment import peak_memory_text
from adapters.pipeline.run_folder import Stage
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
        **{key: stage.manifest.get(key) for key in ("steps", "seconds")},
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
    trained = {entry["source"]: entry.get("trained") for entry in ledger.get("sources", ())}
    data = [
        {**entry, "trained": trained[entry["source"]]} if trained.get(entry["source"]) is not None else entry
        for entry in stage.manifest.get("data", [])
    ]
    if not (rows := ledger.get("rows")):
        return {"data": data, "seen": ""}
    held_out, too_long = ledger.get("validation", {}).get("rows", 0), stage.manifest.get("too_long", 0)
    kept_apart = {"held out": held_out, "left out as too long": too_long}
    apart = [f"{n:,} {'row was' if n == 1 else 'rows were'} {why}" for why, n in kept_apart.items() if n]
    drawn = int(stage.manifest.get("steps") or 0) * settings.get("batch_size", 0)
    seen = f"Trained on: {rows:,} examples" + (f" ({', and '.join(apart)})" if apart else "")
    if drawn:
        seen += f"; the steps saw {min(drawn, rows):,} of them, {drawn / rows:.2g} times each" * (drawn >= rows)
        seen += f"; the steps saw no more than {drawn:,} of them" * (drawn < rows)
    return {"data": data, "seen": f"{seen}."}


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
