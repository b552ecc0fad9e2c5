"""Distillation: formulas, routing and the replaced function of TRL."""

from __future__ import annotations

import inspect
import re
import sys
from collections import Counter, defaultdict
from types import SimpleNamespace

import pytest
import torch
import trl.trainer.distillation_trainer as trl_distillation
from torch import nn
from trl.trainer.utils import RepeatSampler

from adapters.backends.batches import stratified
from adapters.backends.local import distill, top_k_kl
from adapters.backends.local.distill import PARAMETERS, REPLACED, Coverage, RoutedLoss, Tally, replaced_loss
from adapters.backends.local.routed_teacher import Route, RoutedTeacher, routes
from adapters.backends.local.top_k_kl import Head, mass, reverse_kl, support, token_figures
from adapters.errors import UserError
from adapters.recipe.stages import Distill

T = torch.tensor([[2.0, 1.0, 0.0, -1.0, -2.0]])
S = torch.tensor([[0.5, 1.5, 0.0, 0.0, 1.0]])
ADAPTERS = (sys.executable, "-m", "adapters")


def of_vectors(k: int, student: torch.Tensor = S) -> tuple:
    tokens = support(T, k)
    s, t = student.gather(-1, tokens), T.gather(-1, tokens)
    return (
        tokens[0].tolist(),
        s.softmax(-1)[0],
        t.softmax(-1)[0],
        mass(student, tokens),
        mass(T, tokens),
        reverse_kl(s, t),
    )


@pytest.mark.parametrize(
    ("k", "tokens", "p", "q", "rho", "tau", "loss"),
    [
        (2, [0, 1], [0.268941, 0.731059], [0.731059, 0.268941], 0.565083, 0.870530, 0.462117),
        (3, [0, 1, 2], [0.231224, 0.628532, 0.140244], [0.665241, 0.244728, 0.090031], 0.657260, 0.956659, 0.410667),
        (
            5,
            [0, 1, 2, 3, 4],
            [0.151974, 0.413109, 0.092177, 0.092177, 0.250563],
            [0.636409, 0.234122, 0.086129, 0.031685, 0.011656],
            *(1.0, 1.0, 0.890329),
        ),
    ],
)
def test_the_formulas_on_the_published_vectors(
    k: int, tokens: list[int], p: list[float], q: list[float], rho: float, tau: float, loss: float
) -> None:
    found = of_vectors(k)
    assert found[0] == tokens
    for value, wanted in zip(found[1:], (p, q, [rho], [tau], [loss]), strict=True):
        assert value.tolist() == pytest.approx(wanted, abs=1e-6)


def test_mass_outside_the_support_is_seen_by_the_coverage_alone() -> None:
    moved = S.clone()
    moved[0, 4] = 3
    *_, rho, _, loss = of_vectors(2, moved)
    assert float(rho) == pytest.approx(0.217268, abs=1e-6)
    assert float(loss) == pytest.approx(0.462117, abs=1e-6)


@pytest.mark.parametrize("width", [5, 200])
def test_the_gradient_is_that_of_the_formula(width: int) -> None:
    # A wide vocabulary projects the support alone; the identity as LM head makes hidden states the logits.
    more = torch.full((1, width - 5), -30.0)
    student, teacher = torch.cat([S, more], dim=1).requires_grad_(), torch.cat([T, more], dim=1)
    found = token_figures(student, teacher, Head(torch.eye(width)), Head(torch.eye(width)), 2)
    found.loss.sum().backward()
    assert student.grad is not None
    assert student.grad[0, :2].tolist() == pytest.approx([-0.393224, 0.393224], abs=1e-6)
    assert student.grad[0, 2:].abs().max() == 0
    assert float(found.coverage) == pytest.approx(0.565083, abs=1e-6)
    assert float(found.teacher_coverage) == pytest.approx(0.870530, abs=1e-6)
    whole = S.softmax(-1)
    assert float(found.entropy) == pytest.approx(float(-(whole * whole.log()).sum()), abs=1e-6)


def test_of_equal_logits_the_lower_token_is_in() -> None:
    rows = torch.tensor([[1.0, 3.0, 3.0, 3.0, 0.0], [0.0, 5.0, 1.0, 1.0, 1.0], [4.0, 3.0, 2.0, 1.0, 0.0]])
    assert support(rows, 2).tolist() == [[1, 2], [1, 2], [0, 1]]
    many = torch.zeros(1, 3000)
    assert support(many, 64)[0].tolist() == list(range(64))
    rounded = torch.randn(300, 500, generator=torch.Generator().manual_seed(0)).bfloat16().float()
    wanted = rounded.sort(dim=-1, descending=True, stable=True).indices[:, :64]
    assert torch.equal(support(rounded, 64).sort().values, wanted.sort().values)


def test_scale_softcap_bias_and_temperature_are_those_of_the_head() -> None:
    torch.manual_seed(0)
    hidden, weight, bias = torch.randn(7, 6), torch.randn(40, 6), torch.randn(40)
    head = Head(weight, bias, scale=0.5, softcap=2.0, temperature=1.7)
    wanted = 2.0 * torch.tanh(0.5 * (hidden @ weight.T + bias) / 2.0) / 1.7
    torch.testing.assert_close(head.logits(hidden), wanted)
    few = torch.tensor([[3], [1], [0], [39], [2], [2], [5]])
    torch.testing.assert_close(head.logits_at(hidden, few), wanted.gather(-1, few))


def loss_of(teacher: RoutedTeacher, batch: int, k: int, domains: list[str]) -> RoutedLoss:
    stage = Distill(
        kind="distill", data=({"path": "x"},), learning_rate=1e-4, top_k=k, batch_size=batch, teachers={"a": "x"}
    )
    return RoutedLoss(teacher, stage, Tally(domains), 1)


class Rows:
    """The domains of a micro-batch, as the router leaves them."""

    def __init__(self, *domains: str) -> None:
        self.domains = list(domains)


def test_the_mean_is_inside_a_row_then_a_domain_then_over_domains(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = torch.tensor([0.2, 0.4, 0.6, 1.0, 0.0, 0.5, 0.5])
    figures = top_k_kl.TokenFigures(tokens, torch.full((7,), 0.5), torch.ones(7), torch.ones(7))
    monkeypatch.setattr(distill, "token_figures", lambda *_: figures)
    mask = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]])
    # Four rows a step of equally many domains; the second row of chem is in another micro-batch, with the same loss.
    loss = loss_of(Rows("bio", "bio", "chem"), 4, 2, ["bio", "chem"])  # type: ignore[arg-type]
    hidden = torch.zeros(3, 4, 2)
    value, entropy, n = loss(hidden, hidden, torch.eye(2), torch.eye(2), mask, 1.0)
    assert float(value) + 0.5 / 4 == pytest.approx(0.475, abs=1e-6)
    assert (float(entropy), int(n)) == (7.0, 7)
    logged = loss.tally.figures(loss.tally.sums)
    assert logged == pytest.approx(
        {"loss/bio": 0.45, "loss/chem": 0.5, "coverage/bio": 0.5, "coverage/chem": 0.5}
        | {"coverage": 0.5, "teacher_coverage": 1.0},
        abs=1e-6,
    )


def test_a_low_coverage_is_warned_of_once_by_the_mean_of_ten_steps(capsys: pytest.CaptureFixture[str]) -> None:
    tally = Tally(["bio", "chem"])

    def warned(low: list[float], steps: int) -> list[str]:
        coverage = Coverage(tally, 0.5)
        accelerator = SimpleNamespace(device="cpu", reduce=lambda sums, reduction: sums)
        coverage.trainer = SimpleNamespace(accelerator=accelerator, _metrics={"train": defaultdict(list)})
        for step, value in enumerate(low, 1):
            tally.add("bio", 0.1, value, 1.0, 1, 1)
            tally.add("chem", 0.1, 0.9, 1.0, 1, 1)
            coverage.on_step_end(None, SimpleNamespace(global_step=step, max_steps=steps), None)
        return re.findall(r"step (\d+): over (\d+) steps the student has (\d+%).* 'bio'", capsys.readouterr().err)

    assert warned([0.1, *[0.9] * 19], 20) == [], "one step has few rows"
    assert warned([0.95] * 10 + [0.1] * 10, 20) == [("16", "10", "44%")]
    assert warned([0.9] * 5 + [0.1] * 4, 20) == []
    assert warned([0.4] * 3, 3) == [("3", "3", "40%")], "a stage of fewer steps"


def test_the_whole_vocabulary_is_the_reverse_kl_of_trl() -> None:
    torch.manual_seed(0)
    shape, vocabulary = (3, 5, 8), 50
    ours, theirs = (torch.randn(shape).requires_grad_() for _ in range(2))
    theirs.data.copy_(ours.data)
    teacher, head, other = torch.randn(shape), torch.randn(vocabulary, 8), torch.randn(vocabulary, 8)
    mask = torch.ones(3, 5, dtype=torch.long)
    options = {"student_final_logit_softcapping": 5.0, "teacher_logit_scale": 0.7, "temperature": 1.3}
    wanted, entropy, n = getattr(trl_distillation, REPLACED)(theirs, teacher, head, other, mask, 1.0, **options)
    loss = loss_of(Rows("a", "a", "a"), 3, vocabulary, ["a"])  # type: ignore[arg-type]
    value, own_entropy, own_n = loss(ours, teacher, head, other, mask, 1.0, **options)
    wanted.backward()
    value.backward()
    assert float(value) == pytest.approx(float(wanted), rel=1e-5)
    assert float(own_entropy) == pytest.approx(float(entropy), rel=1e-5)
    assert int(own_n) == int(n)
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=1e-4)


def test_one_private_function_of_trl_is_replaced_and_put_back() -> None:
    original = getattr(trl_distillation, REPLACED)
    assert tuple(inspect.signature(original).parameters) == PARAMETERS
    assert tuple(inspect.signature(RoutedLoss.__call__).parameters)[1:] == PARAMETERS
    loss = loss_of(Rows(), 4, 2, ["a"])  # type: ignore[arg-type]
    before = {name: value for name, value in vars(trl_distillation).items() if not name.startswith("__")}
    with replaced_loss(loss):
        changed = {name for name, value in before.items() if getattr(trl_distillation, name) is not value}
        assert changed == {REPLACED}
    assert getattr(trl_distillation, REPLACED) is original


def test_batches_hold_equally_many_rows_of_each_domain() -> None:
    domains = ["big"] * 20 + ["small"] * 3
    order = stratified(domains, 4, 10, seed=1)
    batches = [[domains[n] for n in order[at : at + 4]] for at in range(0, 40, 4)]
    assert all(Counter(batch) == {"big": 2, "small": 2} for batch in batches)
    big = [n for n in order if domains[n] == "big"]
    assert sorted(big) == list(range(20)), "each row once before any comes again"
    assert order == stratified(domains, 4, 10, seed=1) != stratified(domains, 4, 10, seed=2)
    assert order[:20] == stratified(domains, 4, 5, seed=1), "a longer run begins as a shorter one"
    # The trainer's sampler keeps that order, and repeats a batch for its passes.
    assert list(RepeatSampler(order[:8], mini_repeat_count=1, batch_size=4, repeat_count=2, shuffle=False)) == [
        *(0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7)
    ]


def test_a_prompt_of_two_domains_is_refused_by_its_tokens() -> None:
    table = routes([("a", [1, 2], "bio", [1, 2]), ("b", [1, 3], "bio", [1, 9]), ("c", [1, 3], "bio", [1, 8])])
    assert table == {(1, 2): Route("bio", (1, 2)), (1, 3): Route("bio", (1, 9))}
    with pytest.raises(UserError, match="row 'a' and row 'b' have one prompt, to the token, and two domains"):
        routes([("row 'a'", [1], "bio", [1]), ("row 'b'", [1], "chem", [1])])


def test_a_prompt_that_is_none_of_the_stages_has_no_teacher() -> None:
    teacher = RoutedTeacher(nn.Linear(1, 1), {"bio": "teacher0"}, {(1, 2): Route("bio", (1, 2))}, pad=0)  # type: ignore[arg-type]
    ids = torch.tensor([[1, 2, 7, 8], [1, 3, 7, 8]])
    with pytest.raises(RuntimeError, match="a prompt that is not one of the stage's"):
        teacher.base_model(input_ids=ids, attention_mask=torch.ones_like(ids), logits_to_keep=3, use_cache=False)
