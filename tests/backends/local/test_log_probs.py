"""Log-probabilities of the vocabulary head on a CPU: TRL's figures and gradients."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

import trl.trainer.utils as trl_utils  # noqa: E402

from adapters.backends.local.speedups import log_probs  # noqa: E402
from adapters.backends.local.speedups.casts import Casts  # noqa: E402

USUAL = trl_utils._ChunkedLogProbFunction
ALL = ("log_probs", "entropy", "mean_logits", "is_top1")


def head(tokens: int = 70, width: int = 48, words: int = 600, **other: Any) -> list[Any]:
    """Arguments of TRL's function."""
    torch.manual_seed(0)
    weight = torch.nn.Parameter(0.2 * torch.randn(words, width), requires_grad=False)
    hidden = torch.randn(tokens, width, requires_grad=True)
    given = {"bias": None, "temperature": 0.7, "softcap": None, "outputs": ALL, **other}
    targets = torch.randint(words, (tokens,))
    return [
        *(hidden, weight, given["bias"], targets, given["temperature"]),
        *(256, given["softcap"], 1.5, given["outputs"]),
    ]


def learned(function: Any, given: list[Any], weights: tuple[float, float]) -> tuple[list[Any], Any]:
    """The outputs, and the gradient of a weighted sum of log-probabilities and entropies."""
    hidden = given[0]
    hidden.grad = None
    outputs = function.apply(*given)
    by_token = torch.linspace(-1, 2, len(hidden))
    sum((w * by_token * x).sum() for w, x in zip(weights, outputs, strict=False) if w).backward()
    return list(outputs), hidden.grad.clone()


@pytest.mark.parametrize("weights", [(1, 0), (0, 1), (1, 0.3)], ids=["log_probs", "entropy", "both"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_figures_and_gradients_are_those_of_trl(
    monkeypatch: pytest.MonkeyPatch, precision: str, weights: tuple[float, float]
) -> None:
    monkeypatch.setattr(log_probs, "PRODUCT", 32)  # several blocks, the last one short
    given = head()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        plain, gradient = learned(USUAL, given, weights)
        monkeypatch.setattr(USUAL, "apply", lambda *_: pytest.fail("not used here"))
        found, ours = learned(log_probs._Either(USUAL), given, weights)
    for n in (0, 1, 3):
        torch.testing.assert_close(found[n], plain[n], rtol=1e-5, atol=1e-5)
    assert found[2] is None
    assert found[4].equal(plain[4])
    assert ours.dtype == gradient.dtype
    assert (ours - gradient).norm() < (1e-2 if precision == "bf16" else 1e-5) * gradient.norm()


def test_the_first_of_equal_words_is_the_likeliest() -> None:
    given = head(tokens=3, words=5)
    given[0], given[1] = torch.ones(3, 48), torch.nn.Parameter(torch.ones(5, 48), requires_grad=False)
    given[3] = torch.tensor([0, 1, 4])
    assert log_probs._Either(USUAL).apply(*given)[4].tolist() == USUAL.apply(*given)[4].tolist() == [True, False, False]


@pytest.mark.parametrize(
    "changes",
    [{"bias": torch.zeros(600)}, {"softcap": 5.0}, {"outputs": ("log_probs", "log_sum_sq_probs")}, {"learns": True}],
)
def test_other_heads_keep_the_function_of_trl(monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]) -> None:
    given = head(**changes)
    given[1].requires_grad_("learns" in changes)
    monkeypatch.setattr(USUAL, "apply", lambda *_: "usual")
    assert log_probs._Either(USUAL).apply(*given) == "usual"


def test_what_is_not_asked_for_is_not_given() -> None:
    outputs = log_probs._Either(USUAL).apply(*head(outputs=("log_probs", "is_top1")))
    assert [value is None for value in outputs] == [False, True, True, True, False]


@pytest.mark.parametrize("where", ["on_gpu", "shards_weights"])
def test_elsewhere_nothing_is_replaced(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    monkeypatch.setattr(log_probs, where, lambda: True)
    with log_probs.fast_log_probs():
        assert trl_utils._ChunkedLogProbFunction is USUAL


def test_no_token_and_the_context() -> None:
    with log_probs.fast_log_probs():
        given = head(tokens=0)
        found, gradient = learned(trl_utils._ChunkedLogProbFunction, given, (1, 0))
        assert found[0].shape == (0,)
        assert gradient.shape == (0, 48)
    assert trl_utils._ChunkedLogProbFunction is USUAL


def test_a_cast_is_kept_until_the_weight_changes() -> None:
    weight, casts = torch.nn.Linear(4, 4).requires_grad_(False).weight, Casts()
    with torch.inference_mode():
        first = casts.of(weight, torch.bfloat16)
    assert first.dtype == torch.bfloat16
    assert not first.is_inference()
    assert casts.of(weight, torch.bfloat16) is first
    weight.mul_(2)
    assert casts.of(weight, torch.bfloat16).equal(weight.bfloat16())
    assert casts.of(weight, torch.float32) is weight
