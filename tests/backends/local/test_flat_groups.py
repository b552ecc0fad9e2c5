"""Groups of equal rewards in a GRPO step: left out, or replaced by groups of fresh prompts."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from launching import accelerate, lines, run, two_processes
from tiny import funding_rows, save_lively_model, write_jsonl

from adapters.errors import UserError

torch = pytest.importorskip("torch")

from test_updates_per_generation import Run, Stop, stage  # noqa: E402
from trl import GRPOConfig, GRPOTrainer  # noqa: E402

from adapters.backends.local import trainer_args  # noqa: E402
from adapters.backends.local.flat_groups import FlatGroups  # noqa: E402

HALF = """
class Half:
    def __call__(self, completion, example):
        if completion == example.completion:
            return 1.0
        if int(example.id[1:]) % 2:
            return 0.25
        return sum(c in "aeiou" for c in completion) / (len(completion) + 1)
"""
"""A reward that is flat on the rows with an odd number."""


def generation(
    rewards: list[float], *, rank: int = 0, world: int = 1, **settings: object
) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """One process's part of a generation in groups of two, completions of three tokens; and the figures."""
    size = len(rewards) // world
    everyone = torch.tensor(rewards)
    mine = slice(rank * size, (rank + 1) * size)
    centred = everyone.view(-1, 2) - everyone.view(-1, 2).mean(dim=1, keepdim=True)
    output = {
        "advantages": centred.view(-1)[mine],
        "completion_mask": torch.tensor([[1, 1, 1], [1, 1, 0]] * (size // 2) or [[1, 1, 1]] * size),
        "num_items_in_batch": torch.tensor(99),
    }
    figures: dict[str, list[float]] = defaultdict(lambda: [0.0])
    trainer: Any = SimpleNamespace(
        accelerator=SimpleNamespace(process_index=rank, gather=lambda t: t.repeat(world)),
        num_generations=2,
        reward_weights=torch.ones(1),
        reward_func_names=["half"],
        multi_objective_aggregation="sum_then_normalize",
        _metrics={"train": figures},
        _generate=lambda prompts: ([], [], None, [], None, {}),
        _calculate_rewards=lambda *_: everyone[:, None],
        _generate_and_score_completions=lambda inputs: trainer._generate([]) and output,
    )
    FlatGroups(trainer, stage(**{"flat_groups": "leave_out", **settings}), None, None)
    return trainer._generate_and_score_completions([{}] * size), figures


def test_a_flat_group_leaves_mask_and_count() -> None:
    made, figures = generation([0.5, 0.5, 0.7, 0.0])
    assert made["completion_mask"].tolist() == [[0, 0, 0], [0, 0, 0], [1, 1, 1], [1, 1, 0]]
    assert made["num_items_in_batch"] == 5
    assert figures["frac_reward_zero_std"] == [0.5]
    assert not [name for name in figures if name.startswith("flat_groups")]


@pytest.mark.parametrize("rewards", [[0.5] * 4, [0.5, -0.5, 0.7, -0.7]])
def test_nothing_changes_where_all_or_none_are_flat(rewards: list[float]) -> None:
    assert generation(rewards)[0]["num_items_in_batch"] == 99


def test_a_process_masks_its_own_part() -> None:
    second, _ = generation([0.7, -0.7, 0.5, 0.5], rank=1, world=2)
    assert second["completion_mask"].sum() == 0
    first, _ = generation([0.7, -0.7, 0.5, 0.5], rank=0, world=2)
    assert first["completion_mask"].sum() == 5


def test_a_small_spread_is_noise_below_the_limit() -> None:
    made, figures = generation([0.50, 0.51, 0.7, 0.0], flat_below=0.02)
    assert made["advantages"].tolist() == pytest.approx([0, 0, 0.35, -0.35])
    assert (made["num_items_in_batch"], figures["frac_reward_zero_std"]) == (5, [0.5])
    kept, _ = generation([0.50, 0.51, 0.7, 0.0], flat_below=0.02, flat_groups="keep")
    assert kept["advantages"].tolist() == pytest.approx([0, 0, 0.35, -0.35])
    assert kept["num_items_in_batch"] == 99, "they count in the denominator"
    alone, _ = generation([0.50, 0.51], flat_below=0.02)
    assert (alone["advantages"].tolist(), alone["num_items_in_batch"]) == ([0, 0], 99)


def policy_loss(name: str, mask: list[list[int]]) -> float:
    """The loss that TRL computes of a flat group and one that is not, two completions each, with a mask."""
    logps, completions = torch.full((4, 3), -0.5), torch.tensor(mask)
    trainer: Any = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (logps, logps * 0, None),
        accelerator=SimpleNamespace(num_processes=1, gather=lambda t: t, reduce=lambda t, **_: t),
        args=GRPOConfig(bf16=False, loss_type=name, per_device_train_batch_size=8, report_to="none"),
        model=SimpleNamespace(training=True),
        get_gamma_weights=GRPOTrainer.get_gamma_weights,
        current_gradient_accumulation_steps=1,
        importance_sampling_level="token",
        max_completion_length=3,
        loss_type=name,
        _metrics={"train": defaultdict(list)},
        **dict.fromkeys(("epsilon_low", "epsilon_high"), 0.2),
        **dict.fromkeys(("aux_loss_enabled", "_entropy_bonus_enabled", "use_vllm"), False),
        **{"beta": 0.0, "off_policy_mask_threshold": None, "top_entropy_quantile": 1.0},
    )
    ids = dict.fromkeys(("prompt_ids", "prompt_mask", "completion_ids", "completion_mask"), completions)
    more = {"advantages": torch.tensor([0.0, 0.0, 1.0, 0.5]), "num_items_in_batch": completions.sum()}
    return float(GRPOTrainer._compute_loss(trainer, None, ids | more))


@pytest.mark.parametrize("loss", trainer_args.LOSSES["grpo"])
def test_which_losses_a_masked_group_leaves(loss: str) -> None:
    whole, masked = policy_loss(loss, [[1, 1, 1]] * 4), policy_loss(loss, [[0, 0, 0]] * 2 + [[1, 1, 1]] * 2)
    assert whole
    assert masked == pytest.approx(whole if loss in trainer_args.BY_ROWS else 2 * whole)


def test_leaving_out_must_change_something(tmp_path: Path, tiny_model: Path) -> None:
    given = [f"stages.0.{key}" for key in ("trl.loss_type=dr_grpo", "flat_groups=leave_out", "beta=0")]
    with pytest.raises(UserError, match="dr_grpo does not count tokens, so leaving flat groups out changes") as raised:
        Run(tmp_path / "nothing", tiny_model, *given)
    assert raised.value.at == ("stages", 0, "flat_groups")
    note = "stage 1: the loss dr_grpo does not count tokens, so flat groups that are left out stay in its denominator"
    few = ["stages.0.batch_size=1", "stages.0.updates_per_generation=1"]
    for n, more in enumerate(["beta=0.1", "trl.entropy_coef=0.01", "flat_groups=replace"]):
        assert note in Run(tmp_path / str(n), tiny_model, *given, *few, f"stages.0.{more}").notes
    for n, more in enumerate(["flat_groups=keep", "trl.loss_type=bnpo"]):
        assert note not in Run(tmp_path / f"all {n}", tiny_model, *given, f"stages.0.{more}").notes


def test_rounds_without_replacing_and_a_negative_limit_are_refused() -> None:
    with pytest.raises(ValueError, match="replace_rounds goes with flat_groups: replace"):
        stage(flat_groups="leave_out", replace_rounds=3)
    with pytest.raises(ValueError, match="flat_below"):
        stage(flat_below=-0.1)


def test_fresh_prompts_need_rows_and_cost_samples(tmp_path: Path, tiny_model: Path) -> None:
    replace = ["stages.0.flat_groups=replace", "stages.0.updates_per_generation=1", "stages.0.max_steps=2"]
    replace.append("stages.0.save_every=null")
    with pytest.raises(UserError, match=r"rows of two generations \(2 x 6\), and 11 are left; use leave_out") as raised:
        Run(tmp_path / "few", tiny_model, *replace, "stages.0.batch_size=6")
    assert raised.value.at == ("stages", 0, "flat_groups")
    enough = Run(tmp_path / "enough", tiny_model, *replace, "stages.0.batch_size=5")
    assert [note for note in enough.notes if "replaced" in note] == [
        "stage 1: with flat groups replaced, a step samples up to 3 times as many completions (where half of the "
        "groups are flat about 1.75 times as many)"
    ]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    folder = tmp_path_factory.mktemp("flat")
    save_lively_model(tiny_model, folder / "lively")
    write_jsonl(folder / "more.jsonl", funding_rows(40))
    (folder / "half.py").write_text(HALF)
    return folder


def replacing(place: Path) -> list[str]:
    keys = (f"data.0.path={place / 'more.jsonl'}", f"rewards.0.use={place / 'half.py'}:Half", "flat_groups=replace")
    return [f"stages.0.{key}" for key in keys]


def groups_of(rollouts: list[dict[str, Any]], size: int = 4) -> list[tuple[str, list[float], list[str]]]:
    parts = [rollouts[n : n + size] for n in range(0, len(rollouts), size)]
    assert all(len({r["id"] for r in part}) == 1 for part in parts)
    return [(part[0]["id"], [r["score"] for r in part], [r["completion"] for r in part]) for part in parts]


def expected(groups: list[Any], scheduled: int, rounds: int) -> tuple[list[Any], list[int], int]:
    """What is learned from by the rollouts of a step, how many groups each round sampled and how many it put in."""
    learned, rest, sampled, replaced = groups[:scheduled], groups[scheduled:], [], 0
    for _ in range(rounds):
        flat = [n for n, group in enumerate(learned) if len(set(group[1])) == 1]
        drawn, rest = rest[: len(flat)], rest[len(flat) :]
        varied = [group for group in drawn if len(set(group[1])) > 1]
        for place, group in zip(flat, varied, strict=False):
            learned[place] = group
        sampled += [len(drawn)] if drawn else []
        replaced += len(varied)
    assert not rest
    return learned, sampled, replaced


@pytest.mark.slow
def test_fresh_groups_are_learned_from_and_drawn_again_after_a_kill(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[dict[str, Any]] = []
    whole = FlatGroups._generation

    def kept(self: FlatGroups, inputs: Any) -> dict[str, Any]:
        out = whole(self, inputs)
        texts = self.trainer.processing_class.batch_decode(out["completion_ids"], skip_special_tokens=True)
        prompts = self.trainer.processing_class.batch_decode(out["prompt_ids"])
        made.append({**out, "texts": texts, "prompts": prompts, "rows": [row["row"] for row in inputs]})
        return out

    monkeypatch.setattr(FlatGroups, "_generation", kept)
    whole_run, stopped = (Run(tmp_path / name, place / "lively", *replacing(place)) for name in ("whole", "stopped"))
    figures = whole_run.train()
    rollouts, log = whole_run.lines("rollouts-0.jsonl"), [e for e in whole_run.lines("log.jsonl") if "loss" in e]
    assert len(made) == 4
    statements = {e.id: e.meta["text"] for e in whole_run.job.examples}
    for n, out in enumerate(made):
        groups = groups_of([r for r in rollouts if r["step"] == 2 * n])
        entry = log[2 * n]
        learned, sampled, replaced = expected(groups, 4, 2)
        assert replaced > 0, "half of the rows are flat"
        assert (entry["flat_groups/rounds"], entry["flat_groups/replaced"]) == (len(sampled), replaced)
        flat = [len(set(scores)) == 1 for _, scores, _ in learned]
        assert entry["flat_groups/left"] == sum(flat) / 4
        own = [score for _, scores, _ in groups[:4] for score in scores]
        assert entry["reward"] == pytest.approx(sum(own) / 16), "of the step's own prompts"
        assert entry["frac_reward_zero_std"] == sum(len(set(scores)) == 1 for _, scores, _ in groups[:4]) / 4
        assert out["texts"] == [text for _, _, texts in learned for text in texts]
        assert all(statements[i] in out["prompts"][4 * k] for k, (i, _, _) in enumerate(learned))
        scores = torch.tensor([scores for _, scores, _ in learned])
        centred = scores - scores.mean(dim=1, keepdim=True)
        torch.testing.assert_close(out["advantages"].view(4, 4), centred / (scores.std(dim=1, keepdim=True) + 1e-4))
        assert out["ref_per_token_logps"].shape == out["completion_mask"].shape == out["completion_ids"].shape
        used = out["completion_mask"].view(4, 4, -1).sum((1, 2))
        assert [not tokens for tokens in used.tolist()] == flat, "what is still flat is left out"
        assert out["num_items_in_batch"] == used.sum()
    assert any(len(expected(groups_of([r for r in rollouts if r["step"] == s]), 4, 2)[1]) == 2 for s in (0, 2, 4, 6))
    assert log[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert figures["groups_replaced"] == sum(e.get("flat_groups/replaced", 0) for e in log)
    assert figures["zero_variance_share"] > figures["flat_left_share"]

    with pytest.raises(Stop):
        stopped.train(stop_after=7)
    stopped.train()
    assert stopped.lines("rollouts-0.jsonl") == rollouts
    weights = whole_run.weights()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in stopped.weights().items())
    for one, other in zip(log, [e for e in stopped.lines("log.jsonl") if "loss" in e], strict=True):
        assert {k: v for k, v in one.items() if "time" not in k} == {k: v for k, v in other.items() if "time" not in k}


PROCESS = """
import json, os, sys
from pathlib import Path
from adapters.backends.local.flat_groups import FlatGroups
from adapters.cli.main import app

whole = FlatGroups._generation

def kept(self, inputs):
    out = whole(self, inputs)
    texts = self.trainer.processing_class.batch_decode(out["completion_ids"], skip_special_tokens=True)
    line = {"texts": texts, "rows": [row["row"] for row in inputs], "advantages": out["advantages"].tolist(),
            "used": out["completion_mask"].sum(1).tolist(), "items": out["num_items_in_batch"].item(),
            "kind": self.trainer.num_generations}
    with Path(f"learned-{os.environ['RANK']}.jsonl").open("a") as file:
        file.write(json.dumps(line) + chr(10))
    return out

FlatGroups._generation = kept
app(["run", *sys.argv[1:]])
"""
TWO = """name: two
task: {{use: funding, target: compact, system: Extract., user: "{{statement}}"}}
model: {{base: {base}, precision: fp32, speedups: {speedups}}}
lora: {{rank: 4, alpha: 8}}
stages:
  - {{kind: grpo, group_size: 4, batch_size: 3, max_steps: 3, {common}}}
  - {{kind: grpo, group_size: 3, batch_size: 4, max_steps: 3, beta: 0.1, scale_rewards: batch, {common}}}
"""
COMMON = (
    'data: [{path: more.jsonl}], learning_rate: 1e-2, rewards: [{use: "./half.py:Half"}], flat_groups: replace, '
    "max_completion_length: 160, trl: {generation_kwargs: {max_new_tokens: 8}}, save_every: 3"
)


@pytest.mark.slow
def test_two_processes_replace_the_same_groups(place: Path) -> None:
    """Groups of four that both processes share; and of three, of which two at a time can be shared out."""
    (place / "kept.py").write_text(PROCESS)
    (place / "two.yaml").write_text(TWO.format(base=place / "lively", speedups="true", common=COMMON))
    done = run(accelerate(two_processes(place, "cpu"), "kept.py", "two.yaml"), place)
    assert done.returncode == 0, done.stderr[-3000:]
    learned = [lines(place / f"learned-{rank}.jsonl") for rank in (0, 1)]
    for index, (size, scheduled) in enumerate([(4, 3), (3, 4)]):
        folder = place / "runs" / "two" / f"{index + 1}-grpo"
        rollouts = [lines(folder / f"rollouts-{rank}.jsonl") for rank in (0, 1)]
        log = [e for e in lines(folder / "log.jsonl") if "reward" in e]
        assert sum(e["flat_groups/replaced"] for e in log) > 0
        for step in range(3):
            score = {}
            calls = [[r for r in of_rank if r["step"] == step] for of_rank in rollouts]
            assert len(calls[0]) == len(calls[1]), "both sample and score as many"
            for r in [*calls[0], *calls[1]]:
                score[r["id"], r["completion"]] = r["score"]
            parts = [of_rank[3 * index + step] for of_rank in learned]
            rows, texts, advantages, used = (
                [value for part in parts for value in part[key]] for key in ("rows", "texts", "advantages", "used")
            )
            assert all(len(set(rows[n : n + size])) == 1 for n in range(0, len(rows), size)), "whole groups"
            scores = torch.tensor([score[f"r{row}", text] for row, text in zip(rows, texts, strict=True)])
            groups = scores.view(scheduled, size)
            by = scores.std() if index else groups.std(dim=1, keepdim=True)
            advantage = (groups - groups.mean(dim=1, keepdim=True)) / (by + 1e-4)
            torch.testing.assert_close(torch.tensor(advantages).view(scheduled, size), advantage, rtol=1e-4, atol=1e-5)
            flat = [len(set(group)) == 1 for group in groups.tolist()]
            assert log[step]["flat_groups/left"] == pytest.approx(sum(flat) / scheduled)
            assert [not sum(used[n * size : (n + 1) * size]) for n in range(scheduled)] == flat or all(flat)
            assert {part["items"] for part in parts} == {sum(used)}
            assert Counter(rows).most_common(1)[0][1] == size, "no prompt twice"


@pytest.mark.slow
def test_replacements_bring_vllms_log_probabilities(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM cannot run here: in its place answers of several lengths, whose log-probabilities tell their tokens."""
    made: list[dict[str, Any]] = []
    begin, whole = FlatGroups.__init__, FlatGroups._generation

    def generate(prompts: list[list[int]], **_: Any) -> tuple[Any, ...]:
        answers = [[int(n) for n in torch.randint(40, 400, (1 + k % 7,))] for k in range(len(prompts))]
        return prompts, answers, [[[-n / 1000] for n in answer] for answer in answers], None

    def with_vllm(self: FlatGroups, trainer: Any, *args: Any) -> None:
        trainer.use_vllm, trainer._last_loaded_step = True, -1
        trainer.vllm_generation = SimpleNamespace(generate=generate, sync_weights=lambda: None)
        begin(self, trainer, *args)

    monkeypatch.setattr(FlatGroups, "__init__", with_vllm)
    monkeypatch.setattr(FlatGroups, "_generation", lambda self, inputs: made.append(whole(self, inputs)) or made[-1])
    one = ["updates_per_generation=1", "max_steps=2", "save_every=2", "health.max_sampling_gap=null", "batch_size=4"]
    run = Run(tmp_path / "vllm", place / "lively", *replacing(place), *(f"stages.0.{key}" for key in one))
    figures = run.train()
    assert figures["groups_replaced"] > 0
    for out in made:
        ids, sampled = out["completion_ids"], out["sampling_per_token_logps"]
        torch.testing.assert_close(sampled, (-ids / 1000).masked_fill(ids < 40, 0.0))  # padding is below
        ratio = ((out["old_per_token_logps"] - sampled) * (ids >= 40)).sum(1, keepdim=True).exp()
        torch.testing.assert_close(out["importance_sampling_ratio"], ratio.masked_fill(ratio > 3, 0.0))
