"""Passes without padding: fewer tokens, and the same losses, gradients and weights."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from tiny import VOWELS, funding_rows, save_lively_model, train_stage, write_jsonl

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402
from transformers import LlamaConfig, MistralConfig, Qwen3Config  # noqa: E402

from adapters.backends import local  # noqa: E402
from adapters.backends.local.speedups import padding_free  # noqa: E402

RECIPE = """name: one
task: {use: funding, target: compact, system: Extract., user: "{statement}"}
model: {base: BASE, precision: PRECISION}
lora: {rank: 4, alpha: 8}
stages:
  - kind: KIND
    data: [{path: train.jsonl}]
    batch_size: 8
    micro_batch_size: 4
    max_steps: 3
    learning_rate: 1e-2
"""
MORE = {
    "sft": ["validation=0.2", "group_by_length=false"],
    "dpo": ["validation=0.2", "group_by_length=false"],
    "grpo": ["group_size=2", "beta=0.1", "max_completion_length=60", "rewards=[{use: './v.py:Vowels'}]"],
}


def train(
    folder: Path, base: Path, kind: str, precision: str
) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]:
    """Weights, log and figures of three steps."""
    folder.mkdir()
    rows = funding_rows(30)
    for n, row in enumerate(rows):
        row["funding_statement"] += " And so on." * (n % 7)
        row["rejected"] = "No funders, " * (n % 4 + 1)
    if kind != "dpo":
        rows = [{k: v for k, v in row.items() if k != "rejected"} for row in rows]
    write_jsonl(folder / "train.jsonl", rows)
    (folder / "v.py").write_text(VOWELS)
    text = RECIPE.replace("BASE", str(base)).replace("KIND", kind).replace("PRECISION", precision)
    out, figures = train_stage(folder, text, *(f"stages.0.{setting}" for setting in MORE[kind]))
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return load_file(out / "adapter_model.safetensors"), log, figures


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "precision"), [("sft", "fp32"), ("sft", "bf16"), ("dpo", "fp32"), ("dpo", "bf16"), ("grpo", "fp32")]
)
def test_the_same_training_without_padding(
    tmp_path: Path, tiny_model: Path, shown: list[int], monkeypatch: pytest.MonkeyPatch, kind: str, precision: str
) -> None:
    base = save_lively_model(tiny_model, tmp_path / "lively")
    weights, log, figures = train(tmp_path / "ours", base, kind, precision)
    ours = sum(shown)
    shown.clear()
    monkeypatch.setattr(local, "without_padding", lambda *_, **__: nullcontext())
    plain_weights, plain_log, plain_figures = train(tmp_path / "plain", base, kind, precision)
    assert ours < 0.97 * sum(shown), "tokens of generation, which is the same, among them"
    rough = {"rel": 2e-2, "abs": 1e-2} if precision == "bf16" else {"rel": 1e-4, "abs": 1e-6}
    for one, other in zip(log[:3], plain_log[:3], strict=True):
        assert one.keys() == other.keys()
        for name in ("loss", "grad_norm", "entropy", "kl", "reward", "mean_token_accuracy", "rewards/margins"):
            if name in one:
                # GRPO's rows go through the passes in another order, and these are means of means
                loose = {"rel": 0.05, "abs": 1e-5} if kind == "grpo" and name in ("kl", "entropy") else rough
                assert one[name] == pytest.approx(other[name], **loose), name
    # In the first step of DPO policy and reference are the same, and which is ahead is a matter of rounding.
    for name in figures.keys() - ({"accuracy_first"} if precision == "bf16" else set()):
        value, same = figures[name], plain_figures[name]
        assert value == (same if name == "sampling" else pytest.approx(same, **rough)), name
    if precision == "fp32":
        for name, tensor in weights.items():
            torch.testing.assert_close(tensor, plain_weights[name], rtol=1e-3, atol=1e-4)


def adapted(config: Any, **lora: Any) -> Any:
    """A random model of that shape with an adapter."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    return get_peft_model(made, LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM", **lora))


SHAPE: dict[str, Any] = {
    **{"vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64},
}


@pytest.mark.parametrize("config", [LlamaConfig, Qwen3Config])
def test_a_pass_that_scores_text_is_computed_without_padding(config: type) -> None:
    model = adapted(config(**SHAPE))
    backbone = model.get_base_model().model
    ids = torch.randint(64, (3, 12))
    mask = torch.ones_like(ids)
    mask[0, :5] = mask[1, 7:] = mask[2, :2] = mask[2, 9:] = 0  # as GRPO pads: prompts on the left, answers on the right
    given = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
    plain = backbone(**given).last_hidden_state
    with padding_free.without_padding(model, checkpointing=False):
        found = backbone(**given).last_hidden_state
        assert found.shape == plain.shape
        assert not found[~mask.bool()].any()
        torch.testing.assert_close(found[mask.bool()], plain[mask.bool()], rtol=1e-4, atol=1e-5)
        grown = backbone(input_ids=ids, attention_mask=mask, use_cache=True)
        assert grown.past_key_values.get_seq_length() == 12, "generation is not touched"
    assert "forward" not in vars(backbone)
    assert padding_free.NAME not in padding_free.ALL_ATTENTION_FUNCTIONS
    assert backbone.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_common_prefix_is_computed_once_with_the_same_states_and_gradients(shown: list[int], precision: str) -> None:
    model = adapted(LlamaConfig(**SHAPE))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=0.1)
    ids = torch.randint(64, (5, 24))
    ids[1, :20] = ids[3, :20] = ids[0, :20]  # three answers to a prompt
    ids[3, 20:22] = ids[1, 20:22]  # two of which begin alike
    ids[4, 4:24] = ids[0, :20]  # the prompt again, padded on the left
    mask = torch.ones_like(ids)
    mask[1, 23:] = mask[4, :4] = 0
    given = {"input_ids": ids, "attention_mask": mask, "use_cache": False}

    def learned() -> tuple[Any, dict[str, Any]]:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            states = model.get_base_model().model(**given).last_hidden_state
        (states.float().square() * mask[..., None] * torch.arange(1, 25)[:, None]).sum().backward()
        return states, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    plain, gradients = learned()
    shown.clear()
    with padding_free.without_padding(model, checkpointing=False):
        shown.clear()
        found, ours = learned()
    # 24 of the first row, 24 of the third; 3 and 2 behind the prompt, of which the fifth has nothing else
    assert sum(shown) == 24 + 24 + 3 + 2
    rough = {"rtol": 5e-2, "atol": 2e-2} if precision == "bf16" else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(found[mask.bool()], plain[mask.bool()], **rough)
    for name, gradient in gradients.items():
        assert (ours[name] - gradient).norm() < (5e-2 if precision == "bf16" else 1e-4) * gradient.norm(), name


@pytest.mark.parametrize(
    ("config", "lora", "training", "tokens"),
    [
        ({}, {"lora_dropout": 0.5}, True, 40),
        ({}, {"lora_dropout": 0.5}, False, 20),
        ({"attention_dropout": 0.1}, {}, True, 40),
        ({}, {}, True, 20),
    ],
)
def test_dropout_is_drawn_for_every_row(
    shown: list[int], config: dict[str, Any], lora: dict[str, Any], training: bool, tokens: int
) -> None:
    model = adapted(LlamaConfig(**SHAPE, **config), **lora).train(training)
    ids = torch.arange(40).remainder(20).reshape(2, 20)
    with padding_free.without_padding(model, checkpointing=False):
        shown.clear()
        model.get_base_model().model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    assert sum(shown) == tokens


def test_models_that_it_does_not_fit_keep_their_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    def changed(model: Any, **given: Any) -> bool:
        with padding_free.without_padding(model, **{"checkpointing": False, **given}):
            return "forward" in vars(model.get_base_model().model)

    llama = adapted(LlamaConfig(**SHAPE))
    assert changed(llama)
    assert not changed(llama, checkpointing=True)
    assert not changed(adapted(MistralConfig(**SHAPE, sliding_window=8)))
    for dtype in (torch.bfloat16, torch.float32):
        assert changed(llama, dtype=dtype)
        with monkeypatch.context() as patch:
            patch.setattr(padding_free.PackedRows, "attention", lambda self, *args, **rest: across(*args, **rest))
            assert not changed(llama, dtype=dtype), "rows that see each other are found out"
    noisy = adapted(LlamaConfig(**SHAPE | {"num_hidden_layers": 20}, initializer_range=0.5))
    assert changed(noisy, dtype=torch.bfloat16), "16 bits are no reason"


def across(module: Any, query: Any, key: Any, value: Any, mask: Any, **rest: Any) -> Any:
    return padding_free.sdpa_attention_forward(module, query, key, value, None, **{**rest, "is_causal": True})


def test_the_adapter_is_left_as_it_was() -> None:
    model = adapted(LlamaConfig(**SHAPE)).train()
    ids = torch.arange(12).reshape(2, 6)
    with padding_free.without_padding(model, checkpointing=False):
        assert all(m.training for m in model.modules())
        with torch.autocast("cpu", torch.bfloat16):
            model.get_base_model().model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    casts = [m.cast_input_dtype_enabled for m in model.modules() if hasattr(m, "cast_input_dtype_enabled")]
    assert casts
    assert all(casts)
