"""Ranks and alphas by module: trained, published as a plain adapter that computes the same, and merged."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from test_publish_chain import call
from tiny import chain_recipe, save_lively_model

torch = pytest.importorskip("torch")

from peft import LoraConfig, PeftModel, get_peft_model  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from transformers import AutoModelForCausalLM, LlamaConfig  # noqa: E402

from adapters.backends.adapter_folder import CONFIG, WEIGHTS  # noqa: E402
from adapters.publish import bundle  # noqa: E402

SHAPES = {
    "rank_pattern": "lora={rank: 4, alpha: 8, rank_pattern: {q_proj: 6, 'layers.1.mlp.*': 2}}",
    "alpha_pattern": "lora={rank: 4, alpha: 8, rslora: true, alpha_pattern: {down_proj: 3}, "
    "exclude_modules: [layers.0.mlp, k_proj]}",
}


def served(folder: Path) -> dict[str, torch.Tensor]:
    """The update of every module as vLLM computes it: from A, B, `r` and `lora_alpha` alone (its PEFTHelper)."""
    config = json.loads((folder / CONFIG).read_text())
    stored = {key: tensor.float() for key, tensor in load_file(folder / WEIGHTS).items()}
    scale = config["lora_alpha"] / (math.sqrt(config["r"]) if config["use_rslora"] else config["r"])
    names = [key.removesuffix(".lora_A.weight") for key in stored if key.endswith(".lora_A.weight")]
    assert {len(stored[f"{name}.lora_A.weight"]) for name in names} == {config["r"]}
    return {
        name.removeprefix("base_model.model."): scale
        * stored[f"{name}.lora_B.weight"]
        @ stored[f"{name}.lora_A.weight"]
        for name in names
    }


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_folded_adapter_computes_the_same(rslora: bool, dtype: torch.dtype, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, vocab_size=60
    )
    model = AutoModelForCausalLM.from_config(config)
    shape = LoraConfig(
        r=4,
        lora_alpha=7,
        use_rslora=rslora,
        target_modules="all-linear",
        rank_pattern={"q_proj": 6, r"layers\.1\.mlp.*": 2},
        alpha_pattern={"down_proj": 3.5, "k_proj": 1},
        task_type="CAUSAL_LM",
    )
    peft = get_peft_model(model, shape).eval()
    for name, parameter in peft.named_parameters():
        if "lora_" in name:
            parameter.data = (0.3 * torch.randn_like(parameter)).to(dtype).float()
    peft.save_pretrained(tmp_path / "as trained")
    stored = {key: tensor.to(dtype) for key, tensor in load_file(tmp_path / "as trained" / WEIGHTS).items()}
    save_file(stored, tmp_path / "as trained" / WEIGHTS, metadata={"format": "pt"})
    plain = tmp_path / "plain"
    plain.mkdir()
    before = json.loads((tmp_path / "as trained" / CONFIG).read_text())
    after, tensors = bundle.plain_lora(before, load_file(tmp_path / "as trained" / WEIGHTS))
    save_file(tensors, plain / WEIGHTS, metadata={"format": "pt"})
    (plain / CONFIG).write_text(json.dumps(after))
    assert after["r"] == 6
    assert not after["rank_pattern"]
    assert not after["alpha_pattern"]

    updates = served(plain)
    layers = {n: m for n, m in peft.base_model.model.named_modules() if hasattr(m, "get_delta_weight")}
    assert updates.keys() == layers.keys()
    for name, layer in layers.items():
        torch.testing.assert_close(updates[name], layer.get_delta_weight("default"), rtol=1e-5, atol=1e-5)
    ids = torch.arange(1, 17)[None]
    wanted = peft(input_ids=ids).logits
    again = PeftModel.from_pretrained(peft.unload(), str(plain)).eval()
    torch.testing.assert_close(again(input_ids=ids).logits, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("key", SHAPES)
def test_from_training_through_the_gate_to_a_merged_model(key: str, tmp_path: Path, tiny_model: Path) -> None:
    base = save_lively_model(tiny_model, tmp_path / "lively")
    (tmp_path / "chain.yaml").write_text(chain_recipe(tmp_path, base))
    offline = {"HF_HUB_OFFLINE": "1"}
    done = call(["chain.yaml", "model.precision=fp32", SHAPES[key], "stages.0.max_steps=6"], tmp_path, **offline)
    assert done.returncode == 0, done.stderr[-3000:]
    trained = json.loads((tmp_path / "runs/chain/2-grpo" / CONFIG).read_text())
    assert trained[key]
    assert bool(trained["exclude_modules"]) == ("exclude_modules" in SHAPES[key])

    settings = [
        "publish.base_model=tests/lively",
        "publish.license=mit",
        "publish.minimum={}",
        "--repo",
        "me/tiny",
        "--dry-run",
    ]
    dry = call(["-m", "adapters", "publish", "runs/chain", *settings], tmp_path, **offline)
    assert dry.returncode == 0, dry.stdout + dry.stderr
    assert "4 of 4 greedy answers are the training process's" in dry.stdout
    made = tmp_path / "runs/chain/publish/bundle"
    model = AutoModelForCausalLM.from_pretrained(base)
    own = PeftModel.from_pretrained(model, str(tmp_path / "runs/chain/2-grpo"))
    updates = served(made)
    layers = {n: m for n, m in own.base_model.model.named_modules() if hasattr(m, "get_delta_weight")}
    assert updates.keys() == layers.keys()
    for name, layer in layers.items():
        torch.testing.assert_close(updates[name], layer.get_delta_weight("default"), rtol=1e-5, atol=1e-7)

    merged = call(["-m", "adapters", "merge", "runs/chain", "-o", "merged", "--json"], tmp_path, **offline)
    assert merged.returncode == 0, merged.stdout + merged.stderr
    result = json.loads(merged.stdout)
    assert result["difference"] <= result["tolerance"]
