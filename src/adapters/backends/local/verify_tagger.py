"""Verify a loaded bundle of an encoder's adapter in a process of its own: tensors, keys, logits, answers.

    python -m adapters.backends.local.verify_tagger SPEC.json FACTS.json

SPEC is that of `verify_adapter`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from peft import PeftModel
from safetensors.torch import load_file

from adapters.backends.adapter_folder import WEIGHTS
from adapters.backends.local.base_model import Base
from adapters.backends.local.model import load_base, prepare_cpu
from adapters.backends.local.tagger import Tagger, TaggerSampler
from adapters.backends.local.verify_adapter import check_keys, check_tensors
from adapters.data_aug.mine.words import LABELS, question_of
from adapters.errors import first_line
from adapters.files import write_json
from adapters.recipe.recipe import Model

SCORES: float = 1e-4
"""Difference of two scores that rounding may cause: batches of other sizes, six digits that are stored."""


def verify(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Facts of a bundle for its card, with `checks`: [[name, passed, detail], …]."""
    bundle = Path(spec["bundle"])
    stored = load_file(bundle / WEIGHTS)
    checks = [check_tensors(stored)]
    facts: dict[str, Any] = {"parameters": sum(t.numel() for t in stored.values()), "checks": checks}
    if not checks[0][1]:
        return facts
    set_seed(0)
    base = Base(spec["base"], spec["base"], spec["revision"])
    model = load_base(base, Model.model_validate(spec["model"] | {"dtype": "float32"}), labels=LABELS)
    name = type(model).__name__
    facts |= {"class": name, "base_class": name, "causal": False, "tied": False, "dtype": "float32"}
    try:
        peft = PeftModel.from_pretrained(model, str(bundle)).eval()
    except (ValueError, RuntimeError) as error:  # no such modules, other shapes
        checks.append(["keys", False, f"{name} cannot load it: {first_line(error)}"])
        return facts
    checks.append(check_keys(peft, stored, bundle, name))
    if not checks[-1][1]:
        return facts
    tagger = Tagger.load(bundle, base=spec["base"])
    facts["blank"] = tagger.encoder.blank
    pieces = [tagger.encoder.read(question_of(prompt)).pieces[0].ids for prompt in _prompts(spec)]
    checks += [_change(peft, pieces, name), _answers(tagger, spec["probes"])]
    return facts


def _prompts(spec: Mapping[str, Any]) -> list[Any]:
    return [*(probe["prompt"] for probe in spec["probes"]), spec["example"]]


@torch.inference_mode()
def _change(peft: PeftModel, prompts: Sequence[list[int]], name: str) -> list[Any]:
    changes = []
    for ids in prompts:
        tokens = torch.tensor([ids])
        adapted = peft(input_ids=tokens).logits
        with peft.disable_adapter():
            changes.append(float((adapted - peft(input_ids=tokens).logits).abs().max()))
    return ["logits", min(changes) > 0, f"{name}: differ from the base's by {min(changes):.2g} to {max(changes):.2g}"]


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


def main() -> None:
    """Read the specification and write the facts."""
    prepare_cpu()
    write_json(Path(sys.argv[2]), verify(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
