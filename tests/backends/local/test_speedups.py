"""`model.speedups: false` takes out every replacement of parts of TRL and transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny import chain_recipe

pytest.importorskip("torch")

from adapters.backends import local
from adapters.backends.local import training
from adapters.backends.local.speedups import decoding, grpo, log_probs, padding_free
from adapters.pipeline.plan import make_plan
from adapters.pipeline.run import run_plan
from adapters.recipe.load import load_recipe


@pytest.mark.slow
@pytest.mark.parametrize("speedups", [True, False])
def test_the_switch(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, speedups: bool) -> None:
    used: set[str] = set()

    def watch(module: Any, name: str) -> None:
        original = getattr(module, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            used.add(name)
            return original(*args, **kwargs)

        monkeypatch.setattr(module, name, watched)

    for module, name in (
        (padding_free, "PackedRows"),
        (training, "grpo_speedups"),
        (log_probs, "_Either"),
        (decoding, "greedy"),
        (grpo, "decode_groups"),
    ):
        watch(module, name)
    path = tmp_path / "chain.yaml"
    path.write_text(chain_recipe(tmp_path, tiny_model))
    file = load_recipe(path, [f"model.speedups={str(speedups).lower()}"])
    backend = local.LocalBackend(file.recipe)
    run_plan(make_plan(file, backend), backend)
    assert used == ({"PackedRows", "grpo_speedups", "_Either", "greedy", "decode_groups"} if speedups else set())


@pytest.mark.slow
def test_the_switch_is_not_in_the_fingerprints(tmp_path: Path, tiny_model: Path) -> None:
    path = tmp_path / "chain.yaml"
    path.write_text(chain_recipe(tmp_path, tiny_model))
    plans = []
    for value in ("true", "false"):
        file = load_recipe(path, [f"model.speedups={value}"])
        plans.append(make_plan(file, local.LocalBackend(file.recipe)))
    on, off = plans
    assert [job.fingerprint for job in on.jobs] == [job.fingerprint for job in off.jobs]
    assert [test.fingerprint for test in on.evaluations] == [test.fingerprint for test in off.evaluations]
