"""Training on rows on disk: the trainers get what they get of rows in memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from adapters.backends import backend
from adapters.backends.local import base_model, dpo, training
from adapters.backends.local.encoder import Encoder
from adapters.backends.local.tokenizer import load_tokenizer
from adapters.data import lengths, on_disk
from adapters.data.on_disk import Taken, collect
from adapters.pipeline.plan import make_plan
from adapters.pipeline.run import run_plan
from adapters.recipe.load import load_recipe
from adapters.types import Example


def test_trainers_get_the_same_rows(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Encoder(load_tokenizer(base_model.resolve(str(tiny_model))), thinking=False)
    held = [
        Example(f"r{n}", "s", ({"role": "user", "content": f"text {n}"},), f"answer {n}" * (n % 4), "no")
        for n in range(23)
    ]
    monkeypatch.setattr(on_disk, "HELD", 5)
    monkeypatch.setattr(training, "BLOCK", 4)
    monkeypatch.setattr(lengths, "BLOCK", 4)
    stored = collect(iter(held))
    assert isinstance(stored, Taken)
    for make in (
        lambda rows: training._tokens(encoder, rows),
        training._prompts,
        lambda rows: dpo._pairs(encoder, rows),
    ):
        one, other = make(held), make(stored)
        assert one.features == other.features
        assert one.to_list() == other.to_list()
        assert one.select([22, 3, 3]).to_list() == other.select([22, 3, 3]).to_list()
    assert list(lengths.measured(stored, encoder.lengths)) == lengths.measured(held, encoder.lengths)


@pytest.mark.slow
def test_adapters_are_the_same(tmp_path: Path, recipe_text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "chain.yaml").write_text(recipe_text)
    made = []
    for most in (on_disk.HELD, 3):
        monkeypatch.setattr(on_disk, "HELD", most)
        file = load_recipe(tmp_path / "chain.yaml", [f"name=held{most}"])
        plan = make_plan(file, backend(file.recipe))
        assert [isinstance(job.examples, Taken) for job in plan.jobs] == [most == 3] * 2
        run_plan(plan, backend(file.recipe))
        made.append([load_file(job.folder / "adapter_model.safetensors") for job in plan.jobs])
    for held, stored in zip(*made, strict=True):
        assert held.keys() == stored.keys()
        assert all(torch.equal(held[name], stored[name]) for name in held)
