"""Verify a loaded bundle of an encoder's adapter in a process of its own: tensors, keys, logits, answers.

    python -m adapters.backends.local.verify_tagger SPEC.json FACTS.json

SPEC is that of `verify_adapter`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate.utils import set_seed

from adapters.backends.local.base_model import Base
from adapters.backends.local.bundle_checks import check_change, command, loaded, stored_facts
from adapters.backends.local.model import load_base
from adapters.backends.local.tagger import Tagger, TaggerSampler
from adapters.data_aug.mine.words import LABELS, question_of
from adapters.recipe.recipe import Model

SCORES: float = 1e-4
"""Difference of two scores that rounding may cause: batches of other sizes, six digits that are stored."""


def verify(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Facts of a bundle for its card, with `checks`: [[name, passed, detail], …]."""
    bundle = Path(spec["bundle"])
    stored, facts = stored_facts(bundle)
    checks = facts["checks"]
    if not checks[0][1]:
        return facts
    set_seed(0)
    base = Base(spec["base"], spec["base"], spec["revision"])
    model = load_base(base, Model.model_validate(spec["model"] | {"dtype": "float32"}), labels=LABELS)
    name = type(model).__name__
    facts |= {"class": name, "base_class": name, "causal": False, "tied": False, "dtype": "float32"}
    peft = loaded(model, bundle, stored, checks)
    if peft is None:
        return facts
    tagger = Tagger.load(bundle, base=spec["base"])
    facts["blank"] = tagger.encoder.blank
    pieces = [tagger.encoder.read(question_of(prompt)).pieces[0].ids for prompt in _prompts(spec)]
    checks += [check_change(peft, pieces, name, slice(None)), _answers(tagger, spec["probes"])]
    return facts


def _prompts(spec: Mapping[str, Any]) -> list[Any]:
    return [*(probe["prompt"] for probe in spec["probes"]), spec["example"]]


def _answers(tagger: Tagger, probes: Sequence[Mapping[str, Any]]) -> list[Any]:
    if not probes:
        return ["answers", True, "not compared: the run evaluated nothing, so no answers of the training process exist"]
    found = TaggerSampler(tagger).answers([question_of(probe["prompt"]) for probe in probes])
    for sample, probe in zip(found, probes, strict=True):
        if not _same(json.loads(sample.text), json.loads(probe["completion"])):
            what = f"{sample.text[:80]!r} instead of {probe['completion'][:80]!r}"
            return ["answers", False, f"other than the training process: {what}"]
    return ["answers", True, f"{len(probes)} of {len(probes)} answers are the training process's"]


def _same(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    scores = [answer.get("score", 0.0) for answer in (a, b)]
    others = [{k: v for k, v in answer.items() if k != "score"} for answer in (a, b)]
    return others[0] == others[1] and bool(abs(scores[0] - scores[1]) <= SCORES)


if __name__ == "__main__":
    command(verify)
