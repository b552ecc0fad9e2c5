"""Joined rows: the same losses and weights as padded ones, and refused where rows would see each other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny import funding_rows, save_lively_model, train_stage, write_jsonl

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402
from transformers import AutoTokenizer, Qwen3_5ForCausalLM, Qwen3_5TextConfig  # noqa: E402
from transformers.integrations.sdpa_attention import sdpa_attention_forward  # noqa: E402
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS  # noqa: E402
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling  # noqa: E402

from adapters.backends.local import kernels, packing  # noqa: E402
from adapters.errors import UserError  # noqa: E402
from adapters.recipe.recipe import Recipe  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
RECIPE = """name: one
task: {use: funding, target: compact, system: Extract., user: "{statement}"}
model: {base: BASE, precision: fp32}
lora: {rank: 4, alpha: 8}
stages:
  - kind: sft
    data: [{path: train.jsonl}]
    batch_size: 8
    micro_batch_size: 4
    max_steps: 3
    learning_rate: 1e-2
    validation: 0.2
    group_by_length: false
"""


def train(folder: Path, base: Path, *overrides: str) -> tuple[dict, list[dict], dict]:
    """Weights, log and figures of three steps."""
    folder.mkdir()
    rows = funding_rows(30)
    for n, row in enumerate(rows):
        row["funding_statement"] += " And so on." * (n % 7)
    write_jsonl(folder / "train.jsonl", rows)
    out, figures = train_stage(folder, RECIPE.replace("BASE", str(base)), *overrides)
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return load_file(out / "adapter_model.safetensors"), log, figures


def recipe(**model: object) -> Recipe:
    stage = {"kind": "sft", "data": ["a.jsonl"], "learning_rate": 1, "packing": True}
    return Recipe.model_validate({"name": "a", "task": "funding", "model": {"base": "b", **model}, "stages": [stage]})


@pytest.mark.parametrize(
    ("gpu", "model", "layers", "fits"),
    [
        (False, {}, [], True),
        (False, {"attention": "eager"}, [], False),
        (False, {"speedups": False}, [], False),
        (True, {}, [], False),
        (True, {"attention": "sdpa"}, [], False),
        (True, {"attention": "flash_attention_2"}, ["full_attention", "sliding_attention"], True),
        (True, {"attention": "kernels-community/flash-attn3"}, [], True),
        (True, {"attention": "flash_attention_2"}, ["linear_attention", "full_attention"], False),
    ],
)
def test_what_keeps_rows_apart_is_asked_before_anything_is_loaded(
    gpu: bool, model: dict, layers: list[str], fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "on_gpu", lambda: gpu)
    made = recipe(**model)
    if fits:
        packing.check(made, made.stages[0], layers, ("stages", 0, "packing"))
        return
    with pytest.raises(UserError) as caught:
        packing.check(made, made.stages[0], layers, ("stages", 0, "packing"))
    assert caught.value.at == ("stages", 0, "packing")
    assert ("linear_attention" if layers else "flash_attention_2") in str(caught.value)


def test_packing_is_not_in_the_fingerprint() -> None:
    from adapters.pipeline.fingerprint import fingerprinted_settings

    assert "packing" not in fingerprinted_settings(recipe().stages[0])


def test_the_boundaries_that_trl_gives() -> None:
    rows = [{"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}, {"input_ids": [8, 9], "labels": [-100, 9]}]
    batch = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)(rows)
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1]]
    assert batch["labels"].tolist() == [[-100, 6, 7, -100, 9]], "no row predicts the next one's first token"
    assert batch["cu_seq_lens_q"].tolist() == [0, 3, 5]
    assert batch["seq_idx"].tolist() == [[0, 0, 0, 1, 1]]
    assert "attention_mask" not in batch


@pytest.mark.slow
def test_joined_rows_train_the_same_weights(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU twice: below TRL, and TRL's own way, which GPUs take, with sdpa's mask in place of flash attention."""
    base = save_lively_model(tiny_model, tmp_path / "lively")
    padded = train(tmp_path / "padded", base, "model.speedups=false")
    below = train(tmp_path / "below", base, "stages.0.packing=true")
    monkeypatch.setattr(packing, "on_gpu", lambda: True)
    monkeypatch.setattr(packing, "is_flash_attention_requested", lambda **_: True)
    sizes = []
    original = DataCollatorForLanguageModeling.torch_call

    def counted(self, examples):
        batch = original(self, examples)
        sizes.append((len(examples), tuple(batch["input_ids"].shape)))
        return batch

    monkeypatch.setattr(DataCollatorForLanguageModeling, "torch_call", counted)
    joined = train(tmp_path / "joined", base, "model.speedups=false", "stages.0.packing=true")
    assert any(rows == 4 for rows, _ in sizes)
    assert all(shape[0] == 1 for _, shape in sizes), "every pass is one sequence"
    for weights, log, figures in (below, joined):
        assert figures["steps"] == 3
        assert figures["nll_before"] == pytest.approx(padded[2]["nll_before"], rel=1e-5)
        assert figures["nll_after"] == pytest.approx(padded[2]["nll_after"], rel=1e-4)
        losses = [[entry["loss"] for entry in some if "loss" in entry] for some in (log, padded[1])]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
        assert len(losses[0]) == 3
        for name, tensor in weights.items():
            torch.testing.assert_close(tensor, padded[0][name], rtol=1e-2, atol=2e-4)


@pytest.mark.slow
def test_an_attention_without_boundaries_is_found_before_training(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def blind(module, query, key, value, mask, **rest):
        return sdpa_attention_forward(module, query, key, value, None, is_causal=True, scaling=rest.get("scaling"))

    ALL_ATTENTION_FUNCTIONS["blind"] = blind
    monkeypatch.setattr(packing, "on_gpu", lambda: True)
    monkeypatch.setattr(packing, "is_flash_attention_requested", lambda **_: True)
    base = save_lively_model(tiny_model, tmp_path / "lively")
    try:
        with pytest.raises(UserError, match="are not kept apart"):
            train(tmp_path / "a", base, "model.attention=blind", "model.speedups=false", "stages.0.packing=true")
    finally:
        del ALL_ATTENTION_FUNCTIONS["blind"]
    assert not (tmp_path / "a" / "out" / "adapter_model.safetensors").exists()


@pytest.mark.slow
def test_recurrent_layers_are_refused_at_the_plan_and_found_before_training(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    linear = {f"linear_{side}_head_dim": 8 for side in ("key", "value")}
    linear |= {f"linear_num_{side}_heads": 2 for side in ("key", "value")}
    config = Qwen3_5TextConfig(**sizes, **linear, head_dim=8, num_hidden_layers=4, vocab_size=len(tokenizer))
    Qwen3_5ForCausalLM(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    with pytest.raises(UserError, match="through the base's linear_attention layers"):
        train(tmp_path / "a", tmp_path / "base", "stages.0.packing=true")
    monkeypatch.setattr(packing, "on_gpu", lambda: True)
    monkeypatch.setattr(packing, "is_flash_attention_requested", lambda **_: True)
    monkeypatch.setattr(kernels, "layer_types", lambda base: [])
    with pytest.raises(UserError, match="are not kept apart"):
        train(tmp_path / "b", tmp_path / "base", "stages.0.packing=true")
