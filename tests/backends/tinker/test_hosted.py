"""The hosted trainer piece by piece, without a server: arithmetic, money, refusals, tensors, the SDK's form."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import logging
import math
import os
import runpy
import threading
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import FAULTY, chain_recipe, funding_rows

from adapters.backends.health import HealthError, HealthMonitor
from adapters.errors import Refused, UserError
from adapters.recipe.load import load_recipe
from adapters.recipe.recipe import Recipe
from adapters.recipe.stages import Grpo, Health
from adapters.recipe.tinker import Hosted

# The folder of these tests has the SDK's name too, and is found as a package without a file.
if getattr(importlib.util.find_spec("tinker"), "origin", None) is None:
    if os.environ.get("ADAPTERS_REQUIRE_HOSTED"):
        raise RuntimeError("the hosted trainer's SDK is not installed: scripts/build/install_tuft.sh")
    pytest.skip("needs the hosted trainer's SDK: scripts/build/install_tuft.sh", allow_module_level=True)

import tinker
import torch
from safetensors.torch import load_file, save_file

from adapters.backends.local import base_model, model
from adapters.backends.local.trl_reward import TrlReward
from adapters.backends.tinker import TinkerBackend, convert_adapter, grpo, objectives, parity, service
from adapters.backends.tinker import stage as stage_run
from adapters.backends.tinker.cost import Account, Tokens
from adapters.backends.tinker.cost_estimate import needs_plain
from adapters.backends.tinker.idle_time import IdleTimer
from adapters.integrations import named_reward
from adapters.plugins.attempts import RewardError
from adapters.plugins.rewards import NamedReward
from adapters.plugins.rollouts import RewardCaller
from adapters.tasks.funding import FundingTask
from adapters.types import Example, Scored

ROOT = Path(__file__).parents[3]


def recipe(**changes: object) -> Recipe:
    stage = {"kind": "grpo", "data": [{"path": "x"}], "learning_rate": 1e-4, "rewards": ["funding"]}
    tree = {"name": "x", "task": "funding", "model": {"base": "a/b"}, "trainer": "tinker", "stages": [stage]}
    return Recipe.model_validate({**tree, **changes})


# --- rows -------------------------------------------------------------------------------------------------------


def test_a_row_is_shifted_by_one_and_zero_on_the_prompt() -> None:
    row = objectives.answer_row([1, 2, 3], [4, 5], {"weights": [0.5, 0.25]})
    assert row.tokens == (1, 2, 3, 4)
    assert row.targets == (2, 3, 4, 5)
    assert row.columns["weights"] == (0, 0, 0.5, 0.25)
    assert objectives.answer_logprobs([-1, -2, -3, -4], 3) == [-3, -4]


@pytest.mark.parametrize(
    ("prompt", "answer", "columns", "text"),
    [
        ([], [1], {}, "a prompt and an answer"),
        ([1], [], {}, "a prompt and an answer"),
        ([1], [2, 3], {"weights": [1]}, "1 numbers for an answer of 2"),
        ([1], [2], {"weights": [math.nan]}, "weights holds a number that is not finite"),
        ([1], [2], {"advantages": [math.inf]}, "advantages holds"),
    ],
)
def test_malformed_rows_never_leave_the_house(prompt: list, answer: list, columns: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        objectives.answer_row(prompt, answer, columns)


def test_columns_must_have_the_length_of_the_tokens() -> None:
    with pytest.raises(ValueError, match="targets has 1 entries for 2 tokens"):
        objectives.TrainRow((1, 2), (2,), {})


def test_summed_sft_rows_are_the_mean_over_target_tokens() -> None:
    rows = objectives.sft_rows([([1, 2, 3], [-100, -100, 3]), ([1, 4, 5, 6, 7], [-100, 4, 5, -100, 7])])
    logprobs = [[-9.0, -1.0], [-2.0, -3.0, -9.0, -4.0]]  # -9: of tokens that are not learned
    summed = 0.0
    for row, lps in zip(rows, logprobs, strict=True):
        summed -= sum(w * lp for w, lp in zip(row.columns["weights"], lps, strict=True))
    assert summed == pytest.approx((1 + 2 + 3 + 4) / 4)


def test_a_step_is_cut_into_passes() -> None:
    rows = objectives.sft_rows([([1, 2], [-100, 2])] * 5)
    assert [len(p) for p in objectives.micro_batches(rows, 2)] == [2, 2, 1]
    assert [len(p) for p in objectives.micro_batches(rows, None)] == [5]


# --- rewards ----------------------------------------------------------------------------------------------------

FAILURES = {
    "crash": "KeyError", "exit": "SystemExit", "nan": "nan", "inf": "inf", "high": "outside [0, 1]", "text": "'0.5'",
    "lambda": "cannot be sent", "die": "exit code 7", "loop": "longer than 1 s",
}  # fmt: skip
"""What a faulty reward does -> what its error says."""


@pytest.fixture
def example() -> Example:
    return FundingTask().example(funding_rows(1)[0], id="r0")


def faulty(folder: Path, **policy: object) -> NamedReward:
    (folder / "faulty.py").write_text(FAULTY)
    return named_reward("./faulty.py:Faulty", folder=folder, **policy)


def group_of(n: int) -> list[grpo.Answer]:
    return [grpo.Answer([1, 2], [-1.0, -1.0], cut=False) for _ in range(n)]


@pytest.mark.parametrize(("flat_groups", "tokens"), [("keep", 8), ("leave_out", 4), ("replace", 4)])
@pytest.mark.parametrize("spread", [0.0, 0.01])
def test_groups_without_variance_may_leave_the_denominator(flat_groups: str, tokens: int, spread: float) -> None:
    given = {"kind": "grpo", "data": [{"path": "x"}], "learning_rate": 1e-4, "rewards": ["funding"]}
    settings = {"scale_rewards": "none", "flat_groups": flat_groups, "flat_below": 2 * spread}
    stage = Grpo.model_validate(given | settings)
    run = SimpleNamespace(recipe=SimpleNamespace(tinker=SimpleNamespace(bounds=None)))
    flat, varied = group_of(2), group_of(2)
    for answer, reward in zip([*flat, *varied], (0.5, 0.5 + spread, 0.0, 1.0), strict=True):
        answer.reward = reward
    rows, _ = grpo._rows(run, stage, 1, [[5, 6], [7, 8]], [flat, varied])
    assert [row.columns["advantages"][-1] for row in rows] == pytest.approx([-0.5 / tokens, 0.5 / tokens])


def rollouts(path: Path) -> list[dict]:
    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize(("policy", "score"), [("zero", 0.0), ("skip", None)])
def test_a_faulty_reward_neither_ends_nor_stalls_a_run(
    policy: str, score: float | None, tmp_path: Path, example: Example
) -> None:
    texts = [*FAILURES, "none", "nan part", "fine"]
    reward = faulty(tmp_path, on_error=policy, timeout=1.0, max_errors=1.0, weight=2.0)
    caller = RewardCaller(reward, tmp_path / "hosted.jsonl")
    group = group_of(len(texts))
    grpo.score_groups([group], [texts], [example], [caller], 3)
    assert [a.scores for a in group] == [(score,)] * len(FAILURES) + [(None,), (1.0,), (1.0,)]
    assert [a.reward for a in group[-3:]] == [None, 2.0, 2.0]
    figures = grpo._figures([group], [caller])
    assert figures["errors/Faulty"] == pytest.approx(len(FAILURES) / len(texts))
    assert all(map(math.isfinite, figures.values()))
    assert figures["parts/Faulty/fine"] == 0.5
    assert not {"parts/Faulty/nan", "parts/Faulty/inf"} & set(figures)
    caller.grader.close()
    entries = rollouts(tmp_path / "hosted.jsonl")
    for entry, text in zip(entries, texts, strict=True):
        assert entry["completion"] == text
        assert FAILURES.get(text, "") in entry.get("error", "")
        assert ("error" in entry) == (text in FAILURES)
    assert (entries[0]["text"], entries[0]["gold"]) == (example.meta["text"], example.gold)
    local = TrlReward(reward, [example], tmp_path / "local.jsonl")
    local(completions=texts, row=[0] * len(texts), trainer_state=SimpleNamespace(global_step=3))
    assert rollouts(tmp_path / "local.jsonl") == entries, "the local trainer writes the same"


def test_a_reward_that_may_not_fail_ends_the_run_and_shows_the_completion(tmp_path: Path, example: Example) -> None:
    caller = RewardCaller(faulty(tmp_path), tmp_path / "hosted.jsonl")
    with pytest.raises(RewardError, match=r"the reward Faulty failed on row 'r0': KeyError"):
        grpo.score_groups([group_of(3)], [["fine", "crash", "fine"]], [example], [caller], 1)
    assert [(e["completion"], e["score"], "error" in e) for e in rollouts(tmp_path / "hosted.jsonl")] == [
        ("fine", 1.0, False),
        ("crash", None, True),
    ]


def test_the_error_budget_ends_a_hosted_run(tmp_path: Path, example: Example) -> None:
    caller = RewardCaller(faulty(tmp_path, on_error="zero", max_errors=0.02), tmp_path / "hosted.jsonl")
    with pytest.raises(RewardError, match=r"3 of 4 calls failed, more than max_errors \(2.0%\)"):
        grpo.score_groups([group_of(5)], [["crash", "fine", "nan", "high", "fine"]], [example], [caller], 1)


@pytest.mark.parametrize("call", ["def", "async def"])
def test_all_groups_of_a_step_are_graded_at_once(tmp_path: Path, call: str) -> None:
    module, wait = ("asyncio", "await meeting.wait()") if call == "async def" else ("threading", "meeting.wait(20)")
    (tmp_path / "judge.py").write_text(
        f"import {module}\nmeeting = {module}.Barrier(20)\n"  # nobody passes before all twenty are there
        f"{call} judge(completion, example):\n    {wait}\n    return len(completion) / 20\n"
    )
    caller = RewardCaller(named_reward("./judge.py:judge", folder=tmp_path, parallel=20), tmp_path / "hosted.jsonl")
    groups, texts = [group_of(2) for _ in range(10)], [["a" * n, "a" * (n + 1)] for n in range(10)]
    examples = [Example(str(n), "", (), gold=n) for n in range(10)]
    grpo.score_groups(groups, texts, examples, [caller], 2)
    assert [[a.reward for a in group] for group in groups] == [[n / 20, (n + 1) / 20] for n in range(10)]
    entries = rollouts(tmp_path / "hosted.jsonl")
    assert [e["id"] for e in entries] == [str(n // 2) for n in range(20)]
    assert [e.get("gold") for e in entries] == [None if n % 2 else n // 2 for n in range(20)]


def test_a_step_without_any_score_is_no_step_less(tmp_path: Path, example: Example) -> None:
    """Under `skip` every call of a step may fail: nothing is learned from it, and the run goes on."""
    caller = RewardCaller(faulty(tmp_path, on_error="skip", max_errors=1.0), tmp_path / "hosted.jsonl")
    group = group_of(2)
    grpo.score_groups([group], [["crash", "nan"]], [example], [caller], 1)
    figures = grpo._figures([group], [caller])
    assert (figures["reward"], figures["frac_reward_zero_std"], figures["errors/Faulty"]) == (0, 1, 1)
    assert objectives.group_advantages([[a.reward for a in group]], "group") == [[0.0, 0.0]]


def test_rollouts_are_json_whatever_the_gold(tmp_path: Path) -> None:
    gold = {"amount": math.nan, "names": ["NaN", -math.inf], "place": tmp_path}
    reward = NamedReward("odd", lambda completion, example: Scored(0.5, {"part": math.nan}))
    RewardCaller(reward, tmp_path / "r.jsonl").score(["NaN"], [Example("1", "", (), gold=gold)], 1)
    assert rollouts(tmp_path / "r.jsonl") == [
        {"step": 1, "id": "1", "reward": "odd", "score": 0.5, "parts": {}, "completion": "NaN", "text": "",
         "gold": {"amount": None, "names": ["NaN", None], "place": str(tmp_path)}}
    ]  # fmt: skip


# --- advantages, KL, DPO, schedules -----------------------------------------------------------------------------


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_advantages_are_trls(scale: str) -> None:
    rewards = [[0.0, 1.0, 0.5, 0.25], [1.0, 1.0, 1.0, 1.0]]
    table = torch.tensor(rewards)
    centred = table - table.mean(1, keepdim=True)
    expected = {
        "group": centred / (table.std(1, keepdim=True) + 1e-4),
        "batch": centred / (table.std() + 1e-4),
        "none": centred,
    }[scale]
    assert torch.allclose(torch.tensor(objectives.group_advantages(rewards, scale)), expected, atol=1e-5)


def test_what_cannot_be_scored_has_no_advantage_and_no_say() -> None:
    assert objectives.group_advantages([[1.0, None, 0.0]], "none") == [[0.5, 0.0, -0.5]]
    assert objectives.group_advantages([[None, None]], "group") == [[0.0, 0.0]]
    assert objectives.weighted_reward([0.5, None], [2.0, 1.0]) == 1.0
    assert objectives.weighted_reward([None, None], [2.0, 1.0]) is None


def test_folded_kl_has_the_gradient_of_trls_term() -> None:
    """TRL's per-token loss at the point where policy and sampler agree, against the service's with a folded KL."""
    sampled, reference = torch.tensor([-1.0, -2.5, -0.3]), torch.tensor([-1.4, -2.0, -0.3])
    advantage, beta = 0.7, 0.3
    theirs = sampled.clone().requires_grad_()
    ratio = torch.exp(theirs - sampled)
    k3 = torch.exp(reference - theirs) - (reference - theirs) - 1
    (-ratio * advantage + beta * k3 * ratio).sum().backward()
    ours = sampled.clone().requires_grad_()
    folded = torch.tensor(objectives.fold_kl(advantage, sampled.tolist(), reference.tolist(), beta))
    (-torch.exp(ours - sampled) * folded).sum().backward()
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-6)


@given(st.lists(st.tuples(st.floats(-20, 0), st.floats(-20, 0)), min_size=1))
def test_the_kl_estimate_is_never_negative(pairs: list) -> None:
    policy, reference = zip(*pairs, strict=True)
    assert objectives.kl_estimate(policy, reference) >= -1e-9
    assert objectives.kl_estimate(policy, policy) == 0


def test_dpo_at_the_reference_and_beyond() -> None:
    chosen, rejected = torch.tensor([-5.0, -3.0]), torch.tensor([-4.0, -9.0])
    loss, figures = objectives.dpo_loss(chosen, rejected, chosen, rejected, 0.1)
    assert float(loss) == pytest.approx(math.log(2))
    assert figures == {"accuracy": 0, "margin": 0, "chosen": 0, "rejected": 0}
    loss, figures = objectives.dpo_loss(chosen + 2, rejected - torch.tensor([1.0, 4.0]), chosen, rejected, 0.5)
    assert figures["margin"] == pytest.approx(0.5 * (3 + 6) / 2)
    assert figures["accuracy"] == 1
    expected = [math.log(1 + math.exp(-0.5 * m)) for m in (3, 6)]
    assert float(loss) == pytest.approx(sum(expected) / 2)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("warmup", [0.0, 0.25])
def test_learning_rates_are_transformers(schedule: str, warmup: float) -> None:
    from transformers import get_scheduler

    steps = 10
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    name = "constant_with_warmup" if schedule == "constant" else schedule
    scheduler = get_scheduler(name, optimizer, math.ceil(warmup * steps), steps)
    for step in range(1, steps + 1):
        assert objectives.learning_rate(step, steps, 0.3, schedule, warmup) == pytest.approx(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()


# --- money ------------------------------------------------------------------------------------------------------

PRICES = {"prefill": 1.0, "sample": 3.0, "train": 2.0}


def test_what_is_spent_survives_the_process(tmp_path: Path) -> None:
    first = Account(Hosted(prices=PRICES), tmp_path)
    first.charge("1-sft", Tokens(train=1_000_000))
    first.charge("1-sft", Tokens(prefill=500_000))
    again = Account(Hosted(prices=PRICES), tmp_path)
    assert again.total == Tokens(500_000, 0, 1_000_000)
    assert again.figures("1-sft")["cost"] == 2.5
    assert again.live() == {"ktok": 1500.0, "usd": 2.5}


@pytest.mark.parametrize(
    ("limit", "text"),
    [({"max_tokens": 100}, "100 tokens is used up"), ({"max_cost": 1e-4, "prices": PRICES}, r"\$0.0001 is used up")],
)
def test_a_budget_refuses_the_step_that_would_exceed_it(tmp_path: Path, limit: dict, text: str) -> None:
    account = Account(Hosted.model_validate(limit), tmp_path)
    account.allow(Tokens(train=40))
    account.charge("1-sft", Tokens(train=40))
    with pytest.raises(Refused, match=text):
        account.allow(Tokens(train=61))


# --- the recipe -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"clip_range": [0.8, 1.2]}, "needs a loss that clips"),
        ({"loss": "ppo", "clip_range": [0.2, 0.2]}, "low <= 1 <= high"),
        ({"max_cost": 3.0}, "needs prices"),
    ],
)
def test_the_section_is_consistent(changes: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Hosted.model_validate(changes)


def test_clipping_bounds_are_absolute_and_always_sent() -> None:
    assert Hosted().bounds is None
    assert Hosted(loss="ppo").bounds == (0.8, 1.2)
    assert Hosted(loss="cispo").bounds == (0.0, 4.0)
    assert Hosted(loss="ppo", clip_range=[0.9, 1.3]).bounds == (0.9, 1.3)


GRPO = {"kind": "grpo", "data": [{"path": "x"}], "learning_rate": 1e-4, "rewards": ["funding"]}
DISTILL = {"kind": "distill", "data": [{"path": "x"}], "learning_rate": 1e-4, "teachers": {"a": "x"}}


@pytest.mark.parametrize(
    ("changes", "at", "text"),
    [
        ({"lora": {"rank": 48}}, ("lora", "rank"), "32 and 64 are nearest"),
        ({"lora": {"rank": 32, "alpha": 64}}, ("lora", "alpha"), "write 32 or leave it out"),
        ({"lora": {"dropout": 0.1}}, ("lora", "dropout"), "0 works"),
        ({"lora": {"rslora": True}}, ("lora", "rslora"), "false works"),
        ({"lora": {"rank_pattern": {"q_proj": 8}}}, ("lora", "rank_pattern"), "one rank and alpha"),
        ({"lora": {"exclude_modules": ["q_proj"]}}, ("lora", "exclude_modules"), "every module"),
        ({"lora": {"target_modules": ["q_proj", "v_proj"]}}, ("lora", "target_modules"), "all-linear"),
        ({"model": {"base": "a/b", "dtype": "float32"}}, ("model", "dtype"), "auto works"),
        ({"model": {"base": "a/b", "quantize": "nf4"}}, ("model", "quantize"), "leave this out"),
        ({"report_to": ["wandb"]}, ("report_to",), "log.jsonl"),
        ({"stages": [{**GRPO, "trl": {"loss_type": "dr_grpo"}}]}, ("stages", 0, "trl", "loss_type"), "tinker.loss"),
        ({"stages": [{**GRPO, "trl": {"use_vllm": True}}]}, ("stages", 0, "trl", "use_vllm"), "not ignored"),
        ({"stages": [{**GRPO, "gradient_checkpointing": True}]}, ("stages", 0, "gradient_checkpointing"), "leave it"),
        ({"stages": [{**GRPO, "select": {}}]}, ("stages", 0, "select"), "keeps the last state"),
        ({"stages": [{**GRPO, "vllm": "colocate"}]}, ("stages", 0, "vllm"), "leave it"),
        ({"stages": [DISTILL]}, ("stages", 0), "does not distill; use trainer: local"),
    ],
)
def test_what_the_service_cannot_express_is_an_error(changes: dict, at: tuple, text: str) -> None:
    with pytest.raises(UserError, match=text) as raised:
        parity.check_recipe(recipe(**changes))
    assert raised.value.at == at


@pytest.mark.parametrize(
    ("targets", "trained"),
    [
        ("all-linear", (True, True)),
        (["q_proj", "k_proj", "v_proj", "o_proj"], (True, False)),
        (["gate_proj", "up_proj", "down_proj"], (False, True)),
    ],
)
def test_targets_the_service_knows(targets: object, trained: tuple) -> None:
    made = recipe(lora={"target_modules": targets})
    parity.check_recipe(made)
    assert stage_run.parts_trained(made) == trained


def test_parity_is_stated() -> None:
    made = recipe(stages=[{**GRPO, "temperature": 0.8, "beta": 0.03}])
    table = {d.what: d for d in parity.differences(made)}
    assert not table["LoRA alpha"].same
    assert table["LoRA alpha"].local == "64"
    assert "k1" in table["1-grpo KL"].hosted
    assert not table["1-grpo temperature 0.8"].same
    assert table["1-grpo advantages"].same
    said = " ".join(parity.notes(made))
    assert "LoRA alpha: 32 (the service's) (local: 64)" in said
    assert "computed again at 1" in said
    assert "computed again" not in " ".join(parity.notes(recipe()))


@pytest.mark.slow
def test_a_check_without_the_service_shows_all_that_can_be_known_here(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from adapters.cli.main import app

    monkeypatch.setenv("TINKER_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "chain.yaml").write_text(chain_recipe(tmp_path, tiny_model).replace("alpha: 8", "alpha: 32"))
    arguments = ["check", str(tmp_path / "chain.yaml"), "trainer=tinker", "stages.1.trl={}", "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    found = json.loads(done.stdout)
    assert any("nothing answers at http://127.0.0.1:9" in e for e in found["errors"])
    table = {d["what"]: d for d in found["parity"]}
    assert table["LoRA alpha"]["same"]
    assert table["2-grpo KL"]["local"] == "0.05 x k3 in the loss, ratio-corrected"
    assert not any(one["different"] for one in found["prompts"]["shown"]), "the prompts are the local trainer's"
    assert found["lengths"]["1-sft"]
    refused = CliRunner().invoke(app, [*arguments[:-2]])
    assert "TRL's options do not reach the service" in refused.stdout
    assert "attention and MLP layers, no LM head" in refused.stdout, "the table stands beside the error"


def test_a_launcher_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="one process"):
        TinkerBackend(recipe())


def test_the_backend_without_its_sdk_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from adapters import backends

    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[tinker\]'"):
        backends.backend(recipe())


def test_an_adapter_from_elsewhere_cannot_go_on_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot load adapters from elsewhere"):
        stage_run.service_copy(tmp_path)


def test_the_shipped_recipe_has_the_cards_constants() -> None:
    made = load_recipe(ROOT / "recipes" / "funding_tinker.yaml").recipe
    parity.check_recipe(made)
    sft, grpo = made.stages
    assert made.trainer == "tinker"
    assert (made.model.base, made.model.thinking, made.lora.rank) == ("Qwen/Qwen3.5-9B", False, 128)
    assert (sft.epochs, grpo.group_size, grpo.temperature, grpo.learning_rate) == (2, 8, 0.8, 3e-5)
    assert (grpo.beta, grpo.reference, grpo.scale_rewards, made.tinker.loss) == (
        0.03,
        "start",
        "none",
        "importance_sampling",
    )


# --- errors, waiting, secrets -----------------------------------------------------------------------------------


def refused(kind: type, status: int, text: str) -> Exception:
    import httpx

    return kind(text, response=httpx.Response(status, request=httpx.Request("GET", "http://x")), body=None)


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (refused(tinker.AuthenticationError, 401, "bad key"), UserError, "refuses the API key"),
        (refused(tinker.PermissionDeniedError, 403, "no"), UserError, "refuses the API key"),
        (refused(tinker.BillingError, 402, "set up billing"), Refused, "asks for payment"),
        (tinker.TinkerError("The api_key must start with the 'tml-' prefix"), UserError, "malformed"),
        (tinker.TinkerError("The api_key client option must be set by"), UserError, "no API key"),
        (RuntimeError("this TrainingClient is poisoned"), service.ServiceError, "unusable after a failed request"),
        (ValueError("Error retrieving result: gone with status 404"), service.ServiceError, "did not find"),
        (RuntimeError("anything"), service.ServiceError, "failed while it trained: anything"),
    ],
)
def test_every_failure_is_one_sentence(error: Exception, kind: type, text: str) -> None:
    found = service.explain(error, "while it trained")
    assert type(found) is kind
    assert text in str(found)
    assert "\n" not in str(found)


def test_a_refusal_for_payment_is_seen_behind_what_the_sdk_makes_of_it() -> None:
    try:
        try:
            raise refused(tinker.BillingError, 402, "set up billing")
        except tinker.BillingError:
            raise AttributeError("'InternalClientHolder' object has no attribute '_last'")  # noqa: B904
    except AttributeError as error:
        found = service.explain(error, "at the start")
    assert type(found) is Refused
    assert "asks for payment at the start: set up billing" in str(found)


def test_secrets_are_never_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINKER_API_KEY", "my-very-own-secret")
    text = "key my-very-own-secret, tml-abcdef123 and https://host/file?signature=abc eyJhbGciOi.x.y"
    assert service.redact(text) == "key ***, *** and https://host/file?*** ***"


@pytest.mark.parametrize(("asked", "on"), [(None, False), ("1", True), ("0", False)])
def test_telemetry_is_off_unless_asked(asked: str | None, on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from tinker.lib import telemetry

    monkeypatch.setattr(logging.getLogger("tinker"), "handlers", [])
    monkeypatch.delenv("TINKER_TELEMETRY", raising=False)
    if asked:
        monkeypatch.setenv("TINKER_TELEMETRY", asked)
    runpy.run_path(service.__file__)  # as when it is first imported
    assert telemetry._is_telemetry_enabled() is on


def test_a_pause_of_the_sdk_is_shown(capsys: pytest.CaptureFixture) -> None:
    log = logging.getLogger("tinker.lib.internal_client_holder")
    log.warning("The job is paused due to billing status. Error: 402 for tml-abcdef123")
    log.warning("something else")
    said = " ".join(capsys.readouterr().err.split())
    assert said == "waiting for the service: The job is paused due to billing status. Error: 402 for ***"


def test_a_silent_service_is_given_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "alive", lambda: False)
    session = SimpleNamespace(hosted=Hosted(timeout_minutes=0.001), idle=IdleTimer())
    pending = service.Pending(session, Future(), "while it trained")
    with pytest.raises(service.ServiceError, match=r"not answered for 0.001 minutes while it trained"):
        pending.result()


def test_a_slow_service_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "alive", lambda: True)
    session = SimpleNamespace(hosted=Hosted(timeout_minutes=0.0005), idle=IdleTimer())
    future: Future = Future()
    threading.Timer(0.2, future.set_result, ["done"]).start()
    assert service.Pending(session, future, "while it trained").result() == "done"


def test_idle_time_is_that_without_open_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    idle = IdleTimer()
    for at, call in ((100, idle.sent), (101, idle.sent), (104, idle.answered), (106, idle.answered), (109, idle.sent)):
        now[0] = at
        call()
    now[0] = 110
    idle.answered()
    assert idle.share() == pytest.approx(3 / 10)


def test_only_one_module_imports_the_sdk() -> None:
    found = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            if any(name.split(".")[0] == "tinker" for name in names):
                found.add(path.name)
    assert found == {"service.py"}


SIGNATURES = {
    tinker.ServiceClient: ["user_metadata", "display_name"],
    tinker.ServiceClient.close: ["status"],
    tinker.ServiceClient.create_lora_training_client: [
        "base_model",
        "rank",
        "seed",
        "train_mlp",
        "train_attn",
        "train_unembed",
    ],
    tinker.ServiceClient.create_training_client_from_state: ["path"],
    tinker.ServiceClient.create_training_client_from_state_with_optimizer: ["path"],
    tinker.ServiceClient.create_sampling_client: ["model_path", "base_model"],
    tinker.TrainingClient.forward: ["data", "loss_fn"],
    tinker.TrainingClient.forward_backward: ["data", "loss_fn", "loss_fn_config"],
    tinker.TrainingClient.forward_backward_custom: ["data", "loss_fn"],
    tinker.TrainingClient.optim_step: ["optim_params"],
    tinker.TrainingClient.save_state: ["name", "ttl_seconds", "overwrite"],
    tinker.TrainingClient.save_weights_for_sampler: ["name", "ttl_seconds"],
    tinker.TrainingClient.save_weights_external: ["name", "ttl_seconds"],
    tinker.TrainingClient.save_weights_and_get_sampling_client: [],
    tinker.SamplingClient.sample: ["prompt", "num_samples", "sampling_params"],
    tinker.SamplingClient.compute_logprobs: ["prompt"],
    tinker.RestClient: ["base_url"],
    tinker.RestClient.get_server_capabilities: [],
    tinker.RestClient.get_external_weights_urls: ["tinker_path"],
}


@pytest.mark.parametrize("used", SIGNATURES, ids=lambda u: u.__qualname__)
def test_the_sdk_has_the_form_we_use(used: object) -> None:
    names = [n for n in inspect.signature(used).parameters if n != "self"]
    wanted = SIGNATURES[used]
    assert [n for n in names if n in wanted] == wanted
    positional = wanted if used not in (tinker.ServiceClient, tinker.RestClient) else []
    if used is not tinker.ServiceClient.create_sampling_client:
        assert names[: len(positional)] == positional, "these are passed by position"


def test_the_sdk_takes_our_rows() -> None:
    row = objectives.answer_row([1, 2], [3], {"logprobs": [-0.5], "advantages": [1.0]})
    made = service.datum(row)
    assert made.model_input.to_ints() == [1, 2]
    assert made.loss_fn_inputs["target_tokens"].dtype == "int64"
    assert made.loss_fn_inputs["advantages"].tolist() == [0.0, 1.0]


# --- the way home -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("base_model.model.model.layers.0.mlp.up_proj.lora_A.weight", None),
        ("model.layers.3.attn.q_proj.lora_B.weight", "base_model.model.model.layers.3.self_attn.q_proj.lora_B.weight"),
        (
            "base_model.model.model.language_model.layers.0.mlp.up_proj.lora_A.weight",
            "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight",
        ),
        ("base_model.model.model.unembed_tokens.lora_A.weight", "base_model.model.model.lm_head.lora_A.weight"),
    ],
)
def test_tensor_names(theirs: str, ours: str | None) -> None:
    assert convert_adapter.peft_name(theirs) == (ours or theirs)


def test_thirds_of_one_projection_become_one_adapter_that_computes_the_same() -> None:
    torch.manual_seed(0)
    stem, rank = "base_model.model.model.layers.0.linear_attn.in_proj_", 2
    tensors = {f"{stem}{p}.lora_A.weight": torch.randn(rank, 5) for p in "qkv"}
    tensors |= {f"{stem}{p}.lora_B.weight": torch.randn(3 + n, rank) for n, p in enumerate("qkv")}
    plain = "base_model.model.model.layers.1.self_attn.q_proj"
    tensors |= {f"{plain}.lora_A.weight": torch.randn(rank, 5), f"{plain}.lora_B.weight": torch.randn(4, rank)}
    made, modules, new_rank, grown = convert_adapter.convert(tensors)
    assert modules == ["model.layers.0.linear_attn.in_proj_qkv", "model.layers.1.self_attn.q_proj"]
    x = torch.randn(5)
    apart = torch.cat([tensors[f"{stem}{p}.lora_B.weight"] @ tensors[f"{stem}{p}.lora_A.weight"] @ x for p in "qkv"])
    assert torch.allclose(made[f"{stem}qkv.lora_B.weight"] @ made[f"{stem}qkv.lora_A.weight"] @ x, apart, atol=1e-5)
    base = base_model.Base("x", "org/x")
    was, now = (t[f"{plain}.lora_B.weight"] @ t[f"{plain}.lora_A.weight"] @ x for t in (tensors, made))
    assert torch.allclose(now, was, atol=1e-5), "zeros up to the one rank change nothing"
    config = convert_adapter.rebuild_config({"lora_alpha": 32}, new_rank, grown, ["q_proj"], base)
    assert {len(t) for name, t in made.items() if "lora_A" in name} == {config.r} == {new_rank}
    assert config.lora_alpha / config.r == 32 / rank, "the scale it was trained with"
    assert not config.rank_pattern, "which vLLM does not serve, and the gate refuses"


@pytest.mark.parametrize(
    ("tensors", "text"),
    [
        ({"model.layers.0.experts.w1.lora_A.weight": torch.ones(2, 2, 2)}, "no LoRA pair"),
        ({"model.layers.0.mlp.up_proj.weight": torch.ones(2, 2)}, "no LoRA pair"),
        ({"model.layers.0.mlp.up_proj.lora_A.weight": torch.ones(2, 2)}, "one half only"),
        (
            {f"model.layers.{n}.mlp.up_proj.lora_{s}.weight": torch.ones(2 + n, 2 + n) for n in (0, 1) for s in "AB"},
            r"ranks \[2, 3\]; one rank was asked for",
        ),
    ],
)
def test_what_is_no_adapter_of_a_linear_layer_is_refused(tensors: dict, text: str) -> None:
    with pytest.raises(service.ServiceError, match=text):
        convert_adapter.convert(tensors)


@pytest.fixture
def trained(tiny_model: Path, tmp_path: Path) -> tuple[Path, base_model.Base]:
    """A local adapter with B matrices that do something, saved as a service would: no target_modules."""
    torch.manual_seed(1)
    base = base_model.resolve(str(tiny_model))
    made = recipe(model={"base": str(tiny_model)}, lora={"rank": 4, "alpha": 32})
    peft = model.new_adapter(model.load_base(base, made.model), made.lora, base)
    for name, parameter in peft.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.05)
    peft.save_pretrained(str(tmp_path / "raw"))
    config = tmp_path / "raw" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "target_modules": None}))
    return tmp_path / "raw", base


def test_target_modules_are_rebuilt_from_the_tensors(trained: tuple, tmp_path: Path) -> None:
    raw, base = trained
    figures = convert_adapter.write_adapter(raw, tmp_path / "out", base)
    assert figures["rank"] == 4
    assert figures["lora_alpha"] == 32
    assert set(figures["target_modules"]) == stage_run.ATTENTION | stage_run.MLP
    held = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert held["base_model_name_or_path"] == "tiny-llama", "a published adapter names no local path"
    before, after = (load_file(p / "adapter_model.safetensors") for p in (raw, tmp_path / "out"))
    assert before.keys() == after.keys()
    made = recipe(model={"base": base.load})
    model.load_adapter(model.load_base(base, made.model), tmp_path / "out", base, trainable=False)


def test_an_adapter_on_some_layers_only_names_them_in_full(trained: tuple, tmp_path: Path) -> None:
    raw, base = trained
    file = raw / "adapter_model.safetensors"
    save_file({k: v for k, v in load_file(file).items() if ".layers.1." in k}, file)
    convert_adapter.write_adapter(raw, tmp_path / "out", base)
    held = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert all(".layers.1." in module or module.startswith("model.layers.1.") for module in held["target_modules"])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda k, v: (k.replace("layers.1", "layers.7"), v), "does not fit"),
        (lambda k, v: (k, v[:, :3] if "lora_A" in k else v), "does not fit"),
        (lambda k, v: (k, v * 0 if "lora_B" in k else v), "every B matrix at zero"),
        (lambda k, v: (k, v * math.nan), "not finite"),
    ],
)
def test_an_adapter_that_would_do_nothing_is_refused(trained: tuple, tmp_path: Path, change: object, text: str) -> None:
    raw, base = trained
    file = raw / "adapter_model.safetensors"
    save_file({k: v.contiguous() for k, v in (change(k, v) for k, v in load_file(file).items())}, file)
    with pytest.raises(service.ServiceError, match=text):
        convert_adapter.write_adapter(raw, tmp_path / "out", base)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("right", [True, False])
def test_an_adapter_is_compared_with_the_service_by_numbers(trained: tuple, tmp_path: Path, right: bool) -> None:
    raw, base = trained
    convert_adapter.write_adapter(raw, tmp_path / "out", base)
    made = recipe(model={"base": base.load})
    bare = model.load_base(base, made.model)
    there = model.load_adapter(bare, tmp_path / "out", base, trainable=False).eval() if right else bare.eval()
    answers = [[None, *convert_adapter._logprobs(there, text).tolist()] for text in ([5, 6, 7, 8], [9, 3, 30])]
    sampler = SimpleNamespace(logprobs=lambda text: SimpleNamespace(result=lambda: answers[0 if len(text) == 4 else 1]))
    if right:
        figures = convert_adapter.compare(tmp_path / "out", base, made.model, sampler, [[5, 6, 7, 8], [9, 3, 30]])
        assert figures["logprob_difference_max"] < 1e-4 < figures["base_difference"]
    else:
        # The service serves the base: what came home is not what it samples from.
        save_file({k: v * 30 for k, v in load_file(raw / "adapter_model.safetensors").items()}, raw / "x.safetensors")
        os.replace(raw / "x.safetensors", tmp_path / "out" / "adapter_model.safetensors")
        with pytest.raises(service.ServiceError, match="not what the service trained"):
            convert_adapter.compare(tmp_path / "out", base, made.model, sampler, [[5, 6, 7, 8], [9, 3, 30]])


# --- state ------------------------------------------------------------------------------------------------------


def test_a_sick_training_is_stopped_before_its_checkpoint_counts(capsys: pytest.CaptureFixture) -> None:
    run = SimpleNamespace(monitor=HealthMonitor(Health(no_signal_steps=2)), stored=4)
    stage_run.HostedStage._judge(run, 5, {"loss": 0.1, "kl": 1.0, "frac_reward_zero_std": 1.0})
    assert "warning: for 1 steps no group" in capsys.readouterr().err
    with pytest.raises(
        HealthError, match=r"stopped automatically at step 6: the KL .* is 11, above 10.* keeps the weights of step 4"
    ):
        stage_run.HostedStage._judge(run, 6, {"loss": 0.1, "kl": 11.0})
    with pytest.raises(HealthError, match="loss is nan"):
        stage_run.HostedStage._judge(run, 6, {"loss": math.nan})


@pytest.mark.parametrize(
    ("temperature", "beta", "loss", "twice"),
    [
        (1.0, 0.03, "importance_sampling", False),
        (0.8, 0.0, "importance_sampling", False),
        (0.8, 0.03, "importance_sampling", True),
        (0.8, 0.0, "ppo", True),
    ],
)
def test_a_second_pass_is_counted_where_one_is_made(temperature: float, beta: float, loss: str, twice: bool) -> None:
    stage = Grpo.model_validate(
        {
            "kind": "grpo",
            "data": [{"path": "rows.jsonl"}],
            "rewards": ["funding"],
            "learning_rate": 1e-5,
            "temperature": temperature,
            "beta": beta,
        }
    )
    assert needs_plain(stage, Hosted(loss=loss)) is twice
