"""Layers on a PyTorch fallback are counted, and what to install is said."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
from tiny import funding_rows, save_tiny_model, write_jsonl

torch = pytest.importorskip("torch")

from transformers import AutoTokenizer, LlamaConfig, Qwen3_5ForCausalLM, Qwen3_5TextConfig  # noqa: E402
from transformers.integrations import use_kernel_func_from_hub_with_fallback  # noqa: E402

from adapters.backends import backend as make_backend  # noqa: E402
from adapters.backends import local  # noqa: E402
from adapters.backends.local import kernels  # noqa: E402
from adapters.backends.local.base_model import Base  # noqa: E402
from adapters.pipeline.check import Hardware, check_recipe  # noqa: E402
from adapters.recipe.load import load_recipe  # noqa: E402

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
LINEAR = {f"linear_{k}": 8 for k in ("key_head_dim", "value_head_dim")} | {
    f"linear_num_{k}_heads": 2 for k in ("key", "value")
}


def test_the_layers_of_qwen_without_their_kernels(tmp_path: Path) -> None:
    Qwen3_5TextConfig().save_pretrained(tmp_path)  # the shape of the 9B
    note = kernels.slow_layers(Base(str(tmp_path), "me/base"))
    assert note is not None
    assert note.startswith("24 of 32 layers run on a PyTorch fallback")
    assert "flash-linear-attention (pip install -c constraints.txt -e '.[gpu]'" in note
    assert "causal-conv1d" in note


def test_a_model_of_attention_alone_has_no_note(tmp_path: Path) -> None:
    LlamaConfig().save_pretrained(tmp_path)
    assert kernels.slow_layers(Base(str(tmp_path), "me/base")) is None
    assert kernels.slow_layers(Base(str(tmp_path / "nowhere"), "me/base")) is None


def test_the_choice_of_transformers_itself_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fla", types.SimpleNamespace(chunk_rule=lambda x: x))

    def plain(x: int) -> int:
        return x

    with_package = use_kernel_func_from_hub_with_fallback("chunk_rule", "fla")(plain)
    without = use_kernel_func_from_hub_with_fallback("chunk_rule", "a_package_that_is_not_there")(plain)
    assert kernels._closure(with_package)["is_new_implementation"] is True
    assert kernels._closure(without)["is_new_implementation"] is False


@pytest.mark.slow
def test_check_says_it_for_a_gpu_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = AutoTokenizer.from_pretrained(save_tiny_model(tmp_path / "tiny"))
    config = Qwen3_5TextConfig(**SIZES, **LINEAR, num_hidden_layers=4, vocab_size=len(tokenizer))
    Qwen3_5ForCausalLM(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    write_jsonl(tmp_path / "train.jsonl", funding_rows(8))
    (tmp_path / "r.yaml").write_text(
        "name: r\ntask: {use: funding, target: compact, system: Extract., user: '{statement}'}\n"
        f"model: {{base: {tmp_path / 'base'}}}\nlora: {{rank: 4}}\n"
        "stages: [{kind: sft, data: [train.jsonl], batch_size: 4, max_steps: 2, learning_rate: 1e-4, validation: 0}]\n"
    )
    file = load_recipe(tmp_path / "r.yaml")

    def notes(device: float | None) -> list[str]:
        found = check_recipe(file, make_backend(file.recipe), [], Hardware(device), lambda _: None, lambda _: ([], []))
        assert not found.errors
        return [note for note in found.notes if "fallback" in note]

    assert notes(None) == []
    assert [note.partition(" run")[0] for note in notes(80e9)] == ["3 of 4 layers"]
    with monkeypatch.context() as on_a_gpu:
        on_a_gpu.setattr(local, "on_gpu", lambda: True)
        planned = make_backend(file.recipe).check(file.recipe.stages)
    assert [note.partition(" run")[0] for note in planned if "fallback" in note] == ["3 of 4 layers"]
