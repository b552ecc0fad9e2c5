"""Attention and LoRA layers of a training pass: the same outputs and gradients as PyTorch's and PEFT's."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from peft import LoraConfig, get_peft_model  # noqa: E402
from peft.tuners.lora import Linear as LoraLinear  # noqa: E402
from torch.nn.functional import scaled_dot_product_attention  # noqa: E402

from adapters.backends.local.speedups import layers as fast  # noqa: E402
from adapters.backends.local.speedups.casts import Casts  # noqa: E402

BF16 = torch.bfloat16


def gradients(output: Any, inputs: list[Any]) -> list[Any]:
    torch.manual_seed(1)
    return [output.detach(), *torch.autograd.grad(output, inputs, torch.randn_like(output))]


def assert_near(found: Any, exact: Any, most: float) -> None:
    assert found.shape == exact.shape
    assert found.dtype == exact.dtype
    assert (found - exact).norm() < most * exact.norm()


@pytest.mark.parametrize(("kind", "most"), [(torch.float32, 1e-5), (BF16, 1e-2)])
@pytest.mark.parametrize(("heads", "groups", "queries", "tokens"), [(4, 2, 7, 7), (3, 3, 2, 9), (6, 1, 1, 5)])
def test_attention_is_pytorchs(kind: Any, most: float, heads: int, groups: int, queries: int, tokens: int) -> None:
    torch.manual_seed(0)
    query = torch.randn(heads, queries, 8, requires_grad=True)
    key, value = (torch.randn(groups, tokens, 8, requires_grad=True) for _ in range(2))
    mask = torch.ones(queries, tokens, dtype=torch.bool).tril(tokens - queries)
    usual = scaled_dot_product_attention(query[None], key[None], value[None], mask, scale=0.3, enable_gqa=True)[0]
    ours = fast.Attention.apply(query, key, value, 0.3, kind)
    assert ours.dtype == kind
    states = [query, key, value]
    for found, exact in zip(gradients(ours.float(), states), gradients(usual, states), strict=True):
        assert_near(found, exact, most)


def adapted(**lora: Any) -> Any:
    """Two linear layers with adapters that do something; the second has a bias."""
    torch.manual_seed(0)
    base = torch.nn.Sequential(torch.nn.Linear(12, 20, bias=False), torch.nn.Linear(20, 6))
    model = get_peft_model(base, LoraConfig(target_modules=["0", "1"], r=4, lora_alpha=12, **lora))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=0.3)
    return model


def learned(model: Any, kind: Any) -> list[Any]:
    """Output and gradients of a pass; in 16 bits under autocast."""
    torch.manual_seed(2)
    states = torch.randn(2, 5, 12, requires_grad=True)
    with torch.autocast("cpu", BF16, enabled=kind == BF16):
        output = model(states)
    return gradients(output.float(), [states, *(p for p in model.parameters() if p.requires_grad)])


def lora_layers(model: Any) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, LoraLinear)]


@pytest.mark.parametrize(("kind", "most"), [(torch.float32, 1e-6), (BF16, 2e-2)])
def test_a_lora_layer_is_pefts(kind: Any, most: float) -> None:
    model = adapted()
    usual, layers = learned(model, kind), lora_layers(model)
    with fast.low_rank(layers, Casts(), kind):
        assert all("forward" in vars(layer) for layer in layers)
        ours = learned(model, kind)
    assert not any("forward" in vars(layer) for layer in layers)
    for found, exact in zip(ours, usual, strict=True):
        assert_near(found, exact, most)


def test_the_output_may_be_changed_in_place() -> None:
    layer = lora_layers(adapted())[0]
    with fast.low_rank([layer], Casts(), BF16):
        output = layer(torch.randn(2, 5, 12, requires_grad=True))
    output.clamp_(-0.1, 0.1)  # as OLMo does with its queries
    output.float().sum().backward()
    assert layer.lora_B["default"].weight.grad.any()


def test_what_trains_nothing_gets_no_gradient() -> None:
    model = adapted()
    layer = lora_layers(model)[0]
    layer.lora_A["default"].weight.requires_grad_(False)
    states = torch.randn(3, 12)
    with fast.low_rank([layer], Casts(), BF16):
        layer(states).float().sum().backward()
    assert layer.lora_A["default"].weight.grad is None
    assert layer.lora_B["default"].weight.grad.any()


@pytest.mark.parametrize(
    "change",
    [
        *("dropout", "dora", "lora bias", "merged", "disabled", "two adapters", "trained base", "other forward"),
        *("a hook on the base", "a hook on A"),
    ],
)
def test_other_layers_keep_pefts_forward(change: str) -> None:
    more = {"dropout": {"lora_dropout": 0.5}, "dora": {"use_dora": True}, "lora bias": {"lora_bias": True}}
    model = adapted(**more.get(change, {})).train()
    layer = lora_layers(model)[1]
    if change == "merged":
        layer.merge()
    elif change == "disabled":
        layer.enable_adapters(False)
    elif change == "two adapters":
        model.add_adapter("other", LoraConfig(target_modules=["0", "1"], r=2))
        layer.set_adapter(["default", "other"])
    elif change == "trained base":
        layer.base_layer.bias.requires_grad_()
    elif change == "other forward":
        layer.forward = layer.forward
    elif "hook" in change:
        (layer.base_layer if "base" in change else layer.lora_A["default"]).register_forward_hook(lambda *_: None)
    before = dict(vars(layer))
    with fast.low_rank([layer], Casts(), BF16):
        assert vars(layer) == before
    assert vars(layer) == before
