"""The adapter's shape: patterns, excluded modules, and wrappers with a vision tower."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import save_tiny_model

torch = pytest.importorskip("torch")

from transformers import AutoModelForCausalLM, Gemma3Config, LlamaConfig  # noqa: E402

from adapters.backends.local.base_model import Base, resolve  # noqa: E402
from adapters.backends.local.model import check_modules, load_adapter, new_adapter  # noqa: E402
from adapters.errors import UserError  # noqa: E402
from adapters.recipe.recipe import Lora, Model  # noqa: E402

BASE = Base("none", "me/base")
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
LLAMA = LlamaConfig(**SIZES, vocab_size=60, num_key_value_heads=2)


def adapt(lora: Lora, config=LLAMA):
    torch.manual_seed(0)
    return new_adapter(AutoModelForCausalLM.from_config(config), lora, BASE)


def shapes(peft) -> dict[str, tuple[int, float]]:
    """Rank and scale of every adapted module."""
    found = {name: m for name, m in peft.base_model.model.named_modules() if hasattr(m, "lora_A")}
    return {name: (m.r["default"], m.scaling["default"]) for name, m in found.items()}


def test_patterns_give_ranks_and_alphas() -> None:
    found = shapes(
        adapt(
            Lora(rank=4, alpha=8, rank_pattern={r"layers\.0\..*_proj": 2, "down_proj": 8}, alpha_pattern={"q_proj": 4})
        )
    )
    assert len(found) == 14
    assert found["model.layers.0.self_attn.q_proj"] == (2, 2.0)
    assert found["model.layers.0.mlp.down_proj"] == (2, 4.0), "the first pattern that fits counts"
    assert found["model.layers.1.mlp.down_proj"] == (8, 1.0)
    assert found["model.layers.1.self_attn.k_proj"] == (4, 2.0)


def test_excluded_modules_with_all_inside_them() -> None:
    found = shapes(adapt(Lora(rank=4, alpha=8, exclude_modules=("layers.0", "down_proj"))))
    assert len(found) == 6
    assert all(name.startswith("model.layers.1.") for name in found)
    assert not [name for name in found if "down_proj" in name]


@pytest.mark.filterwarnings("ignore:The following:RuntimeWarning:peft")
@pytest.mark.parametrize(
    ("key", "lora"),
    [
        ("rank_pattern", Lora(rank_pattern={"qproj": 8})),
        ("alpha_pattern", Lora(alpha_pattern={"layers": 8})),
        ("rank_pattern", Lora(rank_pattern={"q_proj": 4}, exclude_modules=("q_proj",))),
        ("rank_pattern", Lora(rank_pattern={".*": 4, "q_proj": 8})),
        ("exclude_modules", Lora(exclude_modules=("layers.7",))),
        ("target_modules", Lora(target_modules=("query",))),
    ],
)
def test_a_name_that_fits_nothing_is_said_before_training(key: str, lora: Lora, tmp_path: Path) -> None:
    LLAMA.save_pretrained(tmp_path)
    with pytest.raises(UserError) as caught:
        check_modules(Base(str(tmp_path), "me/base"), Model(base=str(tmp_path)), lora)
    assert caught.value.at == ("lora", key)
    if key != "target_modules":
        assert "k_proj" in str(caught.value)


def test_names_are_checked_without_weights(tmp_path: Path) -> None:
    LLAMA.save_pretrained(tmp_path)
    check_modules(Base(str(tmp_path), "me/base"), Model(base=str(tmp_path)), Lora(rank_pattern={"q_proj": 8}))
    assert not list(tmp_path.glob("*.safetensors"))


@pytest.mark.parametrize("targets", ["all-linear", ("q_proj", "v_proj")])
def test_text_never_adapts_a_vision_tower(targets: str | tuple[str, ...], tmp_path: Path) -> None:
    text = {**SIZES, "vocab_size": 60, "num_key_value_heads": 2, "head_dim": 8}
    vision = {**SIZES, "image_size": 32, "patch_size": 8}
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=59)
    peft = adapt(Lora(rank=4, alpha=8, target_modules=targets), config)
    assert type(peft.base_model.model).__name__ == "Gemma3ForConditionalGeneration"
    found = shapes(peft)
    assert len(found) == (14 if targets == "all-linear" else 4)
    assert all(name.startswith("model.language_model.") for name in found), found
    ids = torch.arange(1, 17)[None]
    peft.train()(input_ids=ids, labels=ids, token_type_ids=torch.zeros_like(ids)).loss.backward()
    trained = {name: p for name, p in peft.named_parameters() if p.requires_grad}
    assert all(p.grad is not None for p in trained.values())
    assert all(p.grad.abs().max() > 0 for name, p in trained.items() if ".lora_B." in name)

    peft.save_pretrained(tmp_path)
    again = load_adapter(AutoModelForCausalLM.from_config(config), tmp_path, BASE, trainable=False)
    assert shapes(again) == found


def test_a_text_model_excludes_nothing_by_itself(tmp_path: Path) -> None:
    base = resolve(str(save_tiny_model(tmp_path / "tiny")))
    peft = new_adapter(AutoModelForCausalLM.from_pretrained(base.load), Lora(rank=4), base)
    assert peft.peft_config["default"].exclude_modules is None
