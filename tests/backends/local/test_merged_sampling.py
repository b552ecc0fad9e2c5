"""Sampling with the adapter merged: the same tokens, the same base, and a divergence that is measured and limited."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import save_lively_model

torch = pytest.importorskip("torch")

from peft import LoraConfig, get_peft_model  # noqa: E402
from test_grpo_speedups import PROMPTS, asked, qwen, sampling, train  # noqa: E402
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel  # noqa: E402
from trl import GRPOConfig  # noqa: E402
from trl.trainer.utils import add_fused_lm_head  # noqa: E402

from adapters.backends.local import base_model  # noqa: E402
from adapters.backends.local.model import load_base  # noqa: E402
from adapters.backends.local.speedups import grpo, merged  # noqa: E402
from adapters.recipe.recipe import Model  # noqa: E402


def gpt2() -> Any:
    """A model whose layers store their weights transposed (fan_in_fan_out)."""
    return GPT2LMHeadModel(GPT2Config(vocab_size=400, n_embd=16, n_layer=2, n_head=2, n_positions=64))


def adapted(model: Any, *, std: float = 0.05, **lora: Any) -> Any:
    """A random adapter of 4 ranks on all linear layers of a model, as the trainer prepares it."""
    add_fused_lm_head(model)
    made = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, **{"target_modules": "all-linear", **lora}))
    torch.manual_seed(1)
    for name, parameter in made.named_parameters():
        if "lora_B" in name or "embedding_A" in name:
            parameter.data.normal_(std=std)
    return made.eval()


@pytest.fixture(scope="module")
def llama(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Any]:
    base = save_lively_model(tiny_model, tmp_path_factory.mktemp("lively"))
    return lambda: AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)


@pytest.fixture
def args(tmp_path: Path) -> GRPOConfig:
    return GRPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False)


def logits(model: Any) -> Any:
    ids = torch.tensor([[5, 6, 7, 8, 9], [9, 8, 7, 6, 5]])
    with torch.no_grad():
        return model(input_ids=ids).logits


def tensors(model: Any) -> dict[str, Any]:
    """Every tensor of a model: the object itself, where its numbers are, and a copy of them."""
    return {name: (t, t.data_ptr(), t.detach().clone()) for name, t in model.state_dict(keep_vars=True).items()}


PLAIN: dict[str, Any] = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "patterns": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"down_proj": 32}},
    "dropout": {"lora_dropout": 0.5},
    "a tied head": {"target_modules": ["lm_head", "q_proj"]},
    "embeddings": {"target_modules": ["embed_tokens", "q_proj"]},
}


@pytest.mark.parametrize("lora", PLAIN.values(), ids=PLAIN.keys())
def test_the_merged_model_computes_the_same(llama: Callable[[], Any], lora: dict[str, Any]) -> None:
    model = adapted(llama(), **lora)
    model.add_adapter("ref", model.peft_config["default"])  # TRL's copy, which is not active
    model.set_adapter("default")
    before, usual = tensors(model), logits(model)
    with merged.merged(model):
        torch.testing.assert_close(logits(model), usual, rtol=1e-4, atol=1e-4)
        layers = merged._layers(model)
        assert all(layer.merged_adapters == ["default"] for layer in layers), "the branches are bypassed"
    after = tensors(model)
    assert before.keys() == after.keys()
    for name, (tensor, place, values) in before.items():
        assert after[name][0] is tensor
        assert after[name][1] == place
        assert torch.equal(after[name][2], values), name
    assert torch.equal(logits(model), usual)
    assert not any(layer.merged_adapters for layer in layers)


@pytest.mark.parametrize("make", [gpt2, qwen])
def test_other_layers_too(make: Callable[[], Any]) -> None:
    model = adapted(make(), target_modules=["c_attn", "c_proj"] if make is gpt2 else "all-linear")
    usual = logits(model)
    with merged.merged(model):
        torch.testing.assert_close(logits(model), usual, rtol=1e-4, atol=1e-4)
        with model.disable_adapter():
            pass  # PEFT would unmerge at the next pass: nothing may be computed so while sampling
    assert torch.equal(logits(model), usual)


def test_the_base_is_put_back_after_an_error(llama: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapted(llama().to(torch.bfloat16))
    before = tensors(model)

    def unchanged() -> bool:
        return all(
            after[0] is before[name][0] and torch.equal(after[0], before[name][2]) for name, after in now.items()
        )

    with pytest.raises(KeyboardInterrupt), merged.merged(model):
        raise KeyboardInterrupt
    now = tensors(model)
    assert unchanged()
    merge = merged.lora.Linear.merge
    calls = []

    def fails(layer: Any, *args: Any) -> None:
        calls.append(layer)
        if len(calls) == 5:
            raise RuntimeError
        merge(layer, *args)

    monkeypatch.setattr(merged.lora.Linear, "merge", fails)
    with pytest.raises(RuntimeError), merged.merged(model):
        pass
    now = tensors(model)
    assert unchanged()
    assert not any(layer.merged_adapters for layer in merged._layers(model))


def test_sums_are_rounded_once(llama: Callable[[], Any]) -> None:
    model = adapted(llama().to(torch.bfloat16))
    layer = merged._layers(model)[0]
    exact = layer.get_base_layer().weight.float() + layer.get_delta_weight("default")
    with merged.merged(model):
        assert torch.equal(layer.get_base_layer().weight, exact.to(torch.bfloat16))


@pytest.mark.slow
@pytest.mark.parametrize("rule", [{}, {"top_k": 50}], ids=["our decoding", "transformers' generate"])
@pytest.mark.parametrize("make", ["llama", "qwen"])
def test_the_same_answers_in_32_bits(
    llama: Callable[[], Any], args: GRPOConfig, monkeypatch: pytest.MonkeyPatch, make: str, rule: dict[str, Any]
) -> None:
    model = adapted(llama() if make == "llama" else qwen())
    seen, answers, metrics = [], {}, defaultdict(list)
    model.get_base_model().register_forward_pre_hook(lambda *_: seen.append(bool(merged._layers(model)[0].merged)))
    for reason in (None, "not wanted"):
        monkeypatch.setattr(merged, "obstacle", lambda _, reason=reason: reason)
        torch.manual_seed(3)
        with grpo.grpo_speedups(model, args, metrics):
            answers[reason] = model.generate(**asked(PROMPTS, sampling(max_new_tokens=12, **rule))).tolist()
    assert answers[None] == answers["not wanted"]
    assert seen.count(True) >= 13, "all passes of one generation, and one of the measurement"
    assert [value < 1e-8 for value in metrics[merged.METRIC]] == [True]


def test_the_divergence_is_that_of_the_definition(llama: Callable[[], Any], args: GRPOConfig) -> None:
    """Of many draws; the metric's four rows are too few to compare."""
    model = adapted(llama().to(torch.bfloat16), std=0.5)
    ids = torch.tensor([[9, 8, 7, 6]])
    with torch.no_grad():
        trained = model(input_ids=ids).logits[0, -1].float().log_softmax(-1)
        with merged.merged(model):
            sampled = model(input_ids=ids).logits[0, -1].float().log_softmax(-1)
    exact = float((sampled.exp() * (sampled - trained)).sum())
    torch.manual_seed(0)
    drawn = sampled.exp().multinomial(200_000, replacement=True)
    assert exact > 1e-6
    assert merged.kl(trained[drawn], sampled[drawn]) == pytest.approx(exact, rel=0.1)


def test_a_measurement_reads_the_answers_up_to_their_end(
    llama: Callable[[], Any], args: GRPOConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = adapted(llama())
    found = []
    monkeypatch.setattr(merged, "kl", lambda trained, sampled: found.append((trained, sampled)) or 0.0)
    torch.manual_seed(0)
    with grpo.grpo_speedups(model, args, defaultdict(list)):
        out = model.generate(**asked(PROMPTS, sampling(eos_token_id=list(range(100, 300)), max_new_tokens=9)))
    rows = out[:: len(out) // merged.ROWS][: merged.ROWS]
    expected = []
    for row in rows:
        end = next((n for n, token in enumerate(row[6:].tolist()) if 100 <= token < 300), 8)
        with torch.no_grad():
            ids = row[: 6 + end + 1][None]
            odds = model(
                input_ids=ids, attention_mask=(torch.arange(ids.shape[1]) >= (row == 0)[:6].sum()).long()[None]
            )
        chances = odds.logits[0, 5:-1].log_softmax(-1)
        expected.append(chances.gather(1, ids[0, 6:, None])[:, 0])
    torch.testing.assert_close(found[0][0], torch.cat(expected), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found[0][1], torch.cat(expected), rtol=1e-3, atol=1e-3)


def test_measured_now_and_then_and_stopped(
    llama: Callable[[], Any], args: GRPOConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model, metrics = adapted(llama()), defaultdict(list)
    values = iter([1e-5, 2e-5, 0.5])
    monkeypatch.setattr(merged, "kl", lambda *_: next(values))
    with grpo.grpo_speedups(model, args, metrics):
        for _ in range(2 * merged.EVERY):
            model.generate(**asked(PROMPTS, sampling(max_new_tokens=1)))
        assert metrics[merged.METRIC] == [1e-5, 2e-5]
        assert not caplog.records
        merging = []
        model.register_forward_pre_hook(lambda *_: None)
        hook = model.get_base_model().register_forward_pre_hook(
            lambda *_: merging.append(bool(merged._layers(model)[0].merged))
        )
        model.generate(**asked(PROMPTS, sampling(max_new_tokens=1)))
        assert True in merging
        merging.clear()
        model.generate(**asked(PROMPTS, sampling(max_new_tokens=1)))
        hook.remove()
    assert True not in merging
    assert metrics[merged.METRIC] == [1e-5, 2e-5, 0.5]
    assert [record.getMessage() for record in caplog.records] == [
        "the adapter is not merged for sampling: the rounded weights are 0.5 nats a token from the trained ones "
        f"(most: {merged.MOST_KL})"
    ]


def test_more_of_a_generation_is_merged_and_neither_counted_nor_measured(
    llama: Callable[[], Any], args: GRPOConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, metrics, again = adapted(llama()), defaultdict(list), [False]
    monkeypatch.setattr(merged, "kl", lambda *_: 1e-5)
    with grpo.grpo_speedups(model, args, metrics, again=lambda: again[0]):
        for n in range(merged.EVERY + 1):
            for again[0] in (False, True, True):
                model.generate(**asked(PROMPTS, sampling(max_new_tokens=1)))
            assert len(metrics[merged.METRIC]) == 1 + (n == merged.EVERY)


def test_a_divergence_that_is_no_number_stops(
    llama: Callable[[], Any], args: GRPOConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampling_ = merged.MergedSampling(adapted(llama()), args, defaultdict(list))
    sampling_._judge(float("nan"))
    assert sampling_.stopped


def test_a_cpu_samples_in_16_bits_as_long_as_that_is_exact_enough(
    llama: Callable[[], Any], args: GRPOConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model, seen, divergences = adapted(llama()), [], [1e-4, 0.5, 1e-4, 0.5]
    monkeypatch.setattr(merged, "kl", lambda *_: divergences.pop(0))
    monkeypatch.setattr(args, "bf16", True)
    phase = merged.MergedSampling(model, args, metrics := defaultdict(list))
    monkeypatch.setattr(phase, "_scoring", lambda *_: lambda: torch.zeros(1))

    def sample() -> Any:
        layer = merged._layers(model)[0]
        seen.append(
            (bool(layer.merged), layer.get_base_layer().weight.dtype, model.get_input_embeddings().weight.dtype)
        )
        return torch.tensor([[5, 6, 7]])

    for _ in range(5):
        phase.generations = 0  # every generation is measured
        phase(sample, torch.ones(1, 2), {2})
    half, whole = torch.bfloat16, torch.float32
    rounded, exact, plain = (True, half, half), (True, whole, whole), (False, whole, whole)
    assert seen == [rounded, rounded, exact, exact, plain]
    assert "sampling goes on with weights of 32 bits" in caplog.text
    assert len(metrics[merged.METRIC]) == 4
    assert {p.dtype for p in model.parameters()} == {whole}


def test_memory_that_runs_out_samples_without(
    llama: Callable[[], Any], args: GRPOConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = adapted(llama())
    monkeypatch.setattr(torch.accelerator, "empty_cache", lambda: None)
    tried = []

    def sample() -> Any:
        tried.append(bool(merged._layers(model)[0].merged))
        if tried[-1]:
            raise torch.OutOfMemoryError
        return torch.tensor([[5, 6, 7]])

    phase = merged.MergedSampling(model, args, defaultdict(list))
    for _ in range(2):
        assert phase(sample, torch.ones(1, 2), {2}).tolist() == [[5, 6, 7]]
    assert tried == [True, False, False]
    assert "the memory holds no second copy" in caplog.text


def test_a_gpu_without_room_merges_nothing(llama: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapted(llama())

    class Elsewhere:
        """A weight on another device, which this machine does not have."""

        device = torch.device("meta")

        def __init__(self, weight: Any) -> None:
            self.weight = weight

        def __getattr__(self, name: str) -> Any:
            return getattr(self.weight, name)

    class Layer:
        weight = Elsewhere(torch.zeros(1000, 1000))

    copy = 4_000_000 * len(merged._layers(model))
    monkeypatch.setattr(merged.lora.Linear, "get_base_layer", lambda _: Layer)
    held = {"reserved": 3 * 10**6, "allocated": 10**6}
    monkeypatch.setattr(torch.accelerator, "memory_reserved", lambda _: held["reserved"])
    monkeypatch.setattr(torch.accelerator, "memory_allocated", lambda _: held["allocated"])
    for free, reason in ((copy + merged.MARGIN - 2 * 10**6, None), (copy + merged.MARGIN - 2 * 10**6 - 1, "0.1 GB")):
        monkeypatch.setattr(torch.accelerator, "get_memory_info", lambda _, free=free: (free, 10**12))
        found = merged.obstacle(model)
        assert (found is None) if reason is None else reason in str(found)


def test_what_cannot_be_merged(llama: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert merged.obstacle(adapted(llama())) is None
    assert merged.obstacle(adapted(llama(), use_dora=True)) == "the adapter is not plain LoRA"
    model = adapted(llama())
    layer = merged._layers(model)[0].get_base_layer()
    layer.weight = torch.nn.Parameter(layer.weight.to(torch.float8_e4m3fn), requires_grad=False)
    assert merged.obstacle(model) == "the base weights are quantised"
    monkeypatch.setattr(merged, "shards_weights", lambda: True)
    assert merged.obstacle(model) == "the weights are sharded"


def test_four_bits_are_not_merged(tiny_model: Path, args: GRPOConfig, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("bitsandbytes")
    found = base_model.resolve(str(tiny_model))
    model = adapted(load_base(found, Model(base=found.load, quantize="nf4", precision="fp32")))
    with caplog.at_level(logging.WARNING), grpo.grpo_speedups(model, args, metrics := defaultdict(list)):
        for _ in range(2):
            model.generate(**asked(PROMPTS, sampling(max_new_tokens=2)))
    assert [r.getMessage() for r in caplog.records if r.name == merged.__name__] == [
        "the adapter is not merged for sampling: the base weights are quantised"
    ]
    assert not metrics


def test_vllm_samples(llama: Callable[[], Any], args: GRPOConfig, caplog: pytest.LogCaptureFixture) -> None:
    args.use_vllm = True
    assert merged.MergedSampling(adapted(llama()), args, defaultdict(list)).stopped == "vLLM samples"
    assert "vLLM samples" in caplog.text


@pytest.mark.slow
def test_a_training_is_the_same_merged_and_not(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rewards, KL, losses and the importance ratio of two steps through the whole product, in 32 bits."""
    base = save_lively_model(tiny_model, tmp_path / "lively")
    option = "stages.0.trl={generation_kwargs: {max_new_tokens: 12}}"
    weights, rollouts, log = train(tmp_path / "merged", base, option)
    monkeypatch.setattr(merged, "obstacle", lambda _: "not wanted")
    plain_weights, plain_rollouts, plain_log = train(tmp_path / "plain", base, option)
    assert log[0][merged.METRIC] < 1e-8
    assert merged.METRIC not in log[1]
    assert merged.METRIC not in plain_log[0]
    same = [a["completion"] == b["completion"] for a, b in zip(rollouts, plain_rollouts, strict=True)]
    assert all(same)
    for one, other in zip(log[:2], plain_log[:2], strict=True):
        for name in ("loss", "reward", "kl", "grad_norm", "entropy"):
            assert one[name] == pytest.approx(other[name], rel=1e-4, abs=1e-6)
        assert one["clip_ratio/region_mean"] == 0.0
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, plain_weights[name], rtol=1e-3, atol=1e-4)
