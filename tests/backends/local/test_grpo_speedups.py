"""GRPO without what TRL computes for nothing: the same samples, the same losses, fewer tokens."""

from __future__ import annotations

import json
from collections import defaultdict
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from tiny import VOWELS, funding_rows, save_lively_model, train_stage, write_jsonl

from adapters.recipe.recipe import Recipe

torch = pytest.importorskip("torch")

from peft import LoraConfig, get_peft_model  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from transformers import GenerationConfig, Qwen3_5ForCausalLM, Qwen3_5TextConfig  # noqa: E402
from trl import GRPOConfig  # noqa: E402
from trl.trainer.utils import add_fused_lm_head  # noqa: E402

from adapters.backends import local  # noqa: E402
from adapters.backends.local import (  # noqa: E402
    base_model,
    model,
    training,
)
from adapters.backends.local.speedups import grpo, merged  # noqa: E402

SMALL = {
    "name": "x",
    "task": "funding",
    "lora": {"rank": 4, "alpha": 8},
    "stages": [{"kind": "sft", "data": [{"path": "x"}], "learning_rate": 1e-4}],
}
RECIPE = """name: one
task: {use: funding, target: compact, system: Extract., user: "{statement}"}
model: {base: BASE, precision: fp32}
lora: {rank: 4, alpha: 8}
stages:
  - kind: grpo
    data: [{path: train.jsonl}]
    batch_size: 4
    group_size: 4
    micro_batch_size: 4
    max_steps: 2
    learning_rate: 1e-2
    beta: 0.1
    reference: base
    rewards: [{use: "./vowels.py:Vowels"}]
    max_completion_length: 160
"""


def train(folder: Path, base: Path, *overrides: str) -> tuple[dict[str, Any], list[dict], list[dict]]:
    """Weights, rollouts and the log of two steps."""
    folder.mkdir()
    rows = funding_rows(6)
    for n, row in enumerate(rows):
        row["funding_statement"] += " And so on." * 3 * n
    write_jsonl(folder / "train.jsonl", rows)
    (folder / "vowels.py").write_text(VOWELS)
    out, _ = train_stage(folder, RECIPE.replace("BASE", str(base)), *overrides)
    rollouts, log = (
        [json.loads(line) for line in (out / name).read_text().splitlines()]
        for name in ("rollouts-0.jsonl", "log.jsonl")
    )
    return load_file(out / "adapter_model.safetensors"), rollouts, log


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["dapo", "grpo", "bnpo"])
def test_the_same_training_with_fewer_tokens(
    tmp_path: Path, tiny_model: Path, shown: list[int], monkeypatch: pytest.MonkeyPatch, loss: str
) -> None:
    base = save_lively_model(tiny_model, tmp_path / "lively")
    monkeypatch.setattr(local, "without_padding", lambda *_, **__: nullcontext())  # as on a GPU
    monkeypatch.setattr(merged, "obstacle", lambda _: "its measurements would be counted too")
    # min_p makes both sides generate with transformers, and so draw the same
    option = f"stages.0.trl={{loss_type: {loss}, min_p: 1e-9, generation_kwargs: {{max_new_tokens: 12}}}}"
    weights, rollouts, log = train(tmp_path / "ours", base, option)
    ours = sum(shown)
    shown.clear()
    monkeypatch.setattr(training, "grpo_speedups", lambda *_: nullcontext())
    plain_weights, plain_rollouts, plain_log = train(tmp_path / "plain", base, option)
    assert ours < 0.95 * sum(shown), "of both, the same for generation"
    assert [r["completion"] for r in rollouts] == [r["completion"] for r in plain_rollouts]
    assert len({r["completion"] for r in rollouts}) > 8
    for one, other in zip(log[:2], plain_log[:2], strict=True):
        for name in ("loss", "reward", "kl", "grad_norm", "entropy"):
            # means of means: where the passes are cut differently, only sums over a step are the same
            assert one[name] == pytest.approx(other[name], rel=0.05 if name in ("kl", "entropy") else 1e-4, abs=1e-6)
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, plain_weights[name], rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A random model with a random adapter on it."""
    found = base_model.resolve(str(save_lively_model(tiny_model, tmp_path_factory.mktemp("lively"))))
    settings = Recipe.model_validate({**SMALL, "model": {"base": found.load, "precision": "fp32"}})
    loaded = model.load_base(found, settings.model)
    add_fused_lm_head(loaded)  # as the trainer does
    made = model.new_adapter(loaded, settings.lora, found)
    torch.manual_seed(1)
    for name, parameter in made.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    return made


def qwen() -> Any:
    """A random Qwen3.5: one layer of linear attention and one of full attention."""
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    linear = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8}
    config = {"vocab_size": 400, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    kinds = {"layer_types": ["linear_attention", "full_attention"], "linear_value_head_dim": 8}
    return Qwen3_5ForCausalLM(Qwen3_5TextConfig(**config, **heads, **linear, **kinds))


@pytest.fixture
def args(tmp_path: Path) -> GRPOConfig:
    return GRPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False)


def sampling(**changes: Any) -> GenerationConfig:
    held = {"max_new_tokens": 8, "do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0}
    return GenerationConfig(**{**held, "pad_token_id": 0, "eos_token_id": [2], "disable_compile": True, **changes})


def asked(prompts: list[list[int]], config: GenerationConfig) -> dict[str, Any]:
    ids = torch.tensor(prompts)
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "generation_config": config}


PROMPTS = [[0, 0, 5, 6, 7, 8]] * 3 + [[9, 8, 7, 6, 5, 4]] * 3 + [[0, 11, 12, 13, 14, 15]]


def test_generation_reads_a_prompt_once(adapter: Any, args: GRPOConfig, shown: list[int]) -> None:
    cold = asked(PROMPTS, sampling(temperature=1e-4))
    plain, passes = adapter.generate(**cold).tolist(), list(shown)
    shown.clear()
    with grpo.grpo_speedups(adapter, args, defaultdict(list)):
        assert adapter.generate(**cold).tolist() == plain
    assert (passes[0], shown[:2]) == (7 * 6, [3 * 5, 7]), "three prompts but their last tokens, then seven last tokens"
    assert len({tuple(row) for row in plain}) == 3
    assert "generate" not in vars(adapter)


def test_recurrent_states_are_copied_and_left_too(args: GRPOConfig) -> None:
    """In Qwen3.5 three layers of four have a state instead of keys and values."""
    torch.manual_seed(0)
    base = qwen()
    base.lm_head.weight = torch.nn.Parameter(torch.randn_like(base.lm_head.weight))  # answers that differ
    add_fused_lm_head(base)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear")).eval()
    cold = asked(PROMPTS, sampling(temperature=1e-4, max_new_tokens=30))
    free = model.generate(**cold)[:, 6:].tolist()
    stops = [2, free[0][4], free[3][9]]
    cold["generation_config"].eos_token_id = stops
    plain, passes = model.generate(**cold).tolist(), []
    model.get_base_model().model.register_forward_pre_hook(
        lambda _, __, given: passes.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )
    with grpo.grpo_speedups(model, args, defaultdict(list)):
        assert model.generate(**cold).tolist() == plain
    assert passes[:2] == [(3, 5), (7, 1)], "each prompt once"
    assert {rows for rows, width in passes if width == 1} >= {7, 4, 1}, "ended rows leave"


def test_a_row_that_has_ended_leaves(adapter: Any, args: GRPOConfig, shown: list[int]) -> None:
    stops = list(range(100, 300))
    torch.manual_seed(0)
    with grpo.grpo_speedups(adapter, args, defaultdict(list)):
        out = adapter.generate(**asked(PROMPTS, sampling(eos_token_id=stops, max_new_tokens=20)))
    answers = [[t for t in row if t] for row in out[:, 6:].tolist()]
    assert out.shape[1] == 6 + max(map(len, answers))
    for answer in answers:
        assert not set(answer[:-1]) & set(stops)
        assert answer[-1] in stops or len(answer) == 20
    assert sum(shown[1:-2]) == sum(map(len, answers)), "a token computed for each token answered, then two measurements"


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_tokens_are_drawn_by_their_odds(adapter: Any, args: GRPOConfig, temperature: float) -> None:
    prompt = [9, 8, 7, 6, 5, 4]
    with torch.no_grad():
        logits = adapter(input_ids=torch.tensor([prompt])).logits[0, -1].float()
    torch.manual_seed(0)
    with grpo.grpo_speedups(adapter, args, defaultdict(list)):
        out = adapter.generate(**asked([prompt] * 8000, sampling(temperature=temperature, max_new_tokens=1)))
    drawn = torch.bincount(out[:, 6], minlength=len(logits)) / len(out)

    def distance(odds: Any) -> float:
        return float((drawn - odds).abs().sum() / 2)

    assert distance((logits / temperature).softmax(-1)) < 0.1
    assert distance((logits / (1.5 - temperature)).softmax(-1)) > 0.2


@pytest.mark.parametrize("rule", [{"top_k": 5}, {"top_p": 0.9}, {"repetition_penalty": 1.2}, {"do_sample": False}])
def test_other_rules_are_left_to_transformers(adapter: Any, args: GRPOConfig, rule: dict[str, Any]) -> None:
    given = asked(PROMPTS, sampling(**rule))
    torch.manual_seed(4)
    plain = adapter.generate(**given).tolist()
    torch.manual_seed(4)
    with grpo.grpo_speedups(adapter, args, defaultdict(list)):
        assert adapter.generate(**given).tolist() == plain
