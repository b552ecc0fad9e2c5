"""Adapters and bases as other programs leave them: empty tensors, paths into the Hub's cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_extract import invoke
from tiny import funding_rows, write_jsonl

torch = pytest.importorskip("torch")

from adapters.backends import adapter_folder  # noqa: E402
from adapters.backends.hub_cache import snapshot  # noqa: E402
from adapters.backends.local import LocalBackend, base_model, model  # noqa: E402
from adapters.errors import UserError  # noqa: E402
from adapters.extraction import adapter_source  # noqa: E402
from adapters.recipe.recipe import Lora, Model, Recipe  # noqa: E402

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def peft_folder(folder: Path, base: str, tensors: dict[str, Any]) -> Path:
    from safetensors.torch import save_file

    folder.mkdir()
    save_file(tensors, folder / adapter_folder.WEIGHTS)
    config = {"peft_type": "LORA", "base_model_name_or_path": base, "r": 4, "target_modules": ["q_proj"]}
    (folder / adapter_folder.CONFIG).write_text(json.dumps(config))
    return folder


def test_an_adapter_without_values_is_one_sentence(tmp_path: Path) -> None:
    """What `save_pretrained` writes of sharded weights that nobody gathered."""
    name = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"
    tensors = {name.format(n, side): torch.empty(0) for n in range(9) for side in "AB"}
    adapter = peft_folder(tmp_path / "zero3", "me/base", tensors | {"x": torch.ones(2)})
    corpus = write_jsonl(tmp_path / "in.jsonl", funding_rows(2))
    code, told = invoke(adapter, corpus, "-o", tmp_path / "out.jsonl", "--task", "funding")
    assert code == 2
    told = " ".join(told.split())
    assert "has no values in 18 of its 19 tensors" in told
    assert "ZeRO-3" in told
    assert "lora_A" not in told
    assert "continues from there" not in told
    assert len(told) < 400
    assert adapter_folder.problems(peft_folder(tmp_path / "sound", "me/base", {"x": torch.ones(2)})) == []


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (f"/home/a/hub/models--Qwen--Qwen3-0.6B/snapshots/{COMMIT}", ("Qwen/Qwen3-0.6B", COMMIT)),
        (f"hub/models--gpt2/snapshots/{COMMIT}/", ("gpt2", COMMIT)),
        (f"hub/datasets--a--b/snapshots/{COMMIT}", None),
        ("hub/models--a--b/snapshots/main", None),
        (f"hub/models--a--b/snapshots/{COMMIT}/text", None),
        ("a/b", None),
    ],
)
def test_a_path_into_the_cache_names_repository_and_commit(path: str, found: tuple[str, str] | None) -> None:
    assert snapshot(path) == found


def test_a_base_in_the_cache_is_published_by_its_name(tiny_model: Path, tmp_path: Path) -> None:
    cached = tmp_path / "models--me--tiny" / "snapshots" / COMMIT
    cached.parent.mkdir(parents=True)
    cached.symlink_to(tiny_model, target_is_directory=True)
    base = base_model.resolve(str(cached))
    assert (base.load, base.hub_id, base.revision) == (str(cached), "me/tiny", COMMIT)
    adapter = model.new_adapter(model.load_base(base, Model(base=str(cached))), Lora(rank=4), base)
    adapter.save_pretrained(tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / adapter_folder.CONFIG).read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("me/tiny", COMMIT)
    recipe = Recipe.model_validate(
        {
            "name": "c",
            "task": "funding",
            "model": {"base": str(cached)},
            "stages": [{"kind": "sft", "data": [{"path": "x.jsonl"}], "learning_rate": 1e-4}],
        }
    )
    told = LocalBackend(recipe).describe()
    assert (told["hub_id"], told["commit"]) == ("me/tiny", COMMIT)
    with pytest.raises(UserError, match=f"A model is inside it: .*snapshots/{COMMIT}"):
        base_model.resolve(str(tmp_path / "models--me--tiny"))


def test_an_adapter_that_names_another_machines_cache_is_read_by_the_name(tmp_path: Path) -> None:
    named = f"/home/elsewhere/hub/models--me--tiny/snapshots/{COMMIT}"
    adapter = peft_folder(tmp_path / "a", named, {"x": torch.ones(2)})
    source = adapter_source.find(str(adapter), task="funding")
    assert source.model.base == "me/tiny"
