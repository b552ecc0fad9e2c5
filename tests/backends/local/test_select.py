"""`select:` in real trainings of the tiny model: what is measured, kept, resumed, and the same in two processes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tiny import chain_recipe, funding_rows, save_lively_model, write_jsonl

torch = pytest.importorskip("torch")

from launching import AS_ON_A_GPU, accelerate, difference, figures, lines, run, two_processes  # noqa: E402
from peft import get_peft_model_state_dict  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from adapters.backends import backend as make_backend  # noqa: E402
from adapters.backends.local import select  # noqa: E402
from adapters.backends.local.speedups import merged  # noqa: E402
from adapters.backends.selection import FILE  # noqa: E402
from adapters.errors import UserError  # noqa: E402
from adapters.pipeline.plan import Plan, make_plan  # noqa: E402
from adapters.pipeline.run import run_plan  # noqa: E402
from adapters.recipe.load import load_recipe  # noqa: E402

SFT = ["stages.0.max_steps=6", "stages.0.save_every=3", "stages.0.validation=0.3", "evaluate=[]"]
SFT += ["stages.1.max_steps=1"]
SFT += ["stages.0.select={metric: reward, every: 2}", "stages.0.learning_rate=0.1"]
REWARDS = "stages.1.rewards=[./digest.py:Digest]"
# A random model earns nothing; by this no two answers are alike, and every state has a figure of its own.
DIGEST = """
from hashlib import sha256
class Digest:
    def __call__(self, completion, example):
        return 1.0 if completion == example.completion else sha256(completion.encode()).digest()[3] / 300
"""


@pytest.fixture(scope="module")
def recipe(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("select")
    (folder / "digest.py").write_text(DIGEST)
    path = folder / "chain.yaml"
    path.write_text(chain_recipe(folder, save_lively_model(tiny_model, folder / "lively")))
    return path


def planned(path: Path, *overrides: str) -> tuple[Plan, Any]:
    file = load_recipe(path, [REWARDS, *overrides])
    backend = make_backend(file.recipe)
    return make_plan(file, backend), backend


@pytest.mark.slow
def test_a_killed_stage_chooses_what_an_unbroken_one_does(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []
    answers = select._answers

    def counted(*args: Any) -> Sequence[str]:
        measured.append(1)
        return answers(*args)

    monkeypatch.setattr(select, "_answers", counted)
    whole, backend = planned(recipe, *SFT, "name=whole")
    run_plan(whole, backend)
    assert len(measured) == 4, "the start, steps 2 and 4, and the end"
    broken, backend = planned(recipe, *SFT, "name=broken")
    step_end = select.Selecting.on_step_end

    def killed(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step_end(self, args, state, control, **kwargs)
        if state.global_step == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(select.Selecting, "on_step_end", killed)
        with pytest.raises(KeyboardInterrupt):
            run_plan(broken, backend)
    assert len(measured) == 7
    run_plan(broken, backend)
    assert len(measured) == 8, "step 4 comes again, from the checkpoint of step 3, and is not measured again"
    folders = [p.folder / "1-sft" for p in (whole, broken)]
    first, second = (lines(f / FILE) for f in folders)
    assert first == second
    assert [r["step"] for r in first] == [0, 2, 4, 6]
    logs = [[r for r in lines(f / "log.jsonl") if "held_out/reward" in r] for f in folders]
    assert logs[0] == logs[1]
    assert figures(whole.folder, "1-sft")["select"] == figures(broken.folder, "1-sft")["select"]
    assert difference(*folders) == 0
    chosen = figures(whole.folder, "1-sft")["select"]
    assert chosen["value"] == max(r["value"] for r in first)
    assert len({r["value"] for r in first}) == 4
    assert not list(folders[0].rglob("state-*")), "the trainer's folder goes"


@pytest.mark.slow
def test_measuring_changes_no_step_of_the_training(recipe: Path) -> None:
    with_it, backend = planned(recipe, *SFT, "name=measured", "stages.0.select.keep=last")
    run_plan(with_it, backend)
    without, backend = planned(recipe, *SFT, "name=plain", "stages.0.select=null")
    run_plan(without, backend)
    assert difference(with_it.folder / "1-sft", without.folder / "1-sft") == 0


@pytest.mark.slow
def test_a_killed_grpo_stage_samples_and_chooses_as_an_unbroken_one(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grpo = ["stages.1.select={metric: reward, every: 1}", "stages.1.validation=0.3", "stages.1.save_every=1"]
    grpo += ["stages.0.max_steps=1", "stages.1.max_steps=3", "stages.1.learning_rate=0.5", "evaluate=[]"]
    grpo += ["stages.1.health.max_kl=null"]
    step_end = select.Selecting.on_step_end

    def killed(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step_end(self, args, state, control, **kwargs)
        if state.global_step == 2:
            raise KeyboardInterrupt

    folders = []
    for name in ("grpo-whole", "grpo-broken"):
        made, backend = planned(recipe, *grpo, f"name={name}")
        if name == "grpo-broken":
            with monkeypatch.context() as patch:
                patch.setattr(select.Selecting, "on_step_end", killed)
                with pytest.raises(KeyboardInterrupt):
                    run_plan(made, backend)
        run_plan(made, backend)
        folders.append(made.folder / "2-grpo")
    first, second = (lines(f / FILE) for f in folders)
    assert first == second
    assert len({r["value"] for r in first}) > 1
    answers = [[(r["step"], r["completion"]) for r in lines(f / "rollouts-0.jsonl")] for f in folders]
    assert answers[0] == answers[1]
    assert difference(*folders) == 0


@pytest.mark.slow
def test_a_measurement_answers_as_an_evaluation_of_the_kept_state(recipe: Path) -> None:
    made, backend = planned(recipe, *SFT, "name=exact", "model.precision=fp32")
    run_plan(made, backend)
    selected, chosen = made.jobs[0].select, figures(made.folder, "1-sft")["select"]
    assert selected is not None
    prompts = [e.prompt for e in selected.judge.examples]
    sample, limit = backend.sampler(made.folder / "1-sft"), selected.max_new_tokens
    answers = sample(prompts, max_new_tokens=limit, batch_size=None, progress=lambda *_: None)
    [stored] = [r for r in lines(made.folder / "1-sft" / FILE) if r["step"] == chosen["step"]]
    assert selected.judge.rows([answer.text for answer in answers]) == stored["rows"]


def test_weights_are_rounded_for_the_answers_only() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    model[0].requires_grad_(False)
    before = [p.data for p in model.parameters()]
    with merged.in_16_bits(model):
        assert [p.dtype for p in model.parameters()] == [torch.bfloat16] * 2 + [torch.float32] * 2, "trained ones stay"
    assert all(p.data is data or p.data.equal(data) for p, data in zip(model.parameters(), before, strict=True))
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def by_step(values: dict[int, bool]) -> Callable[..., Sequence[str]]:
    """Stands in for the answers: right ones at the steps of `values` that say so, none at the others."""
    steps = iter(values.values())

    def answers(run: Any, selected: Any, progress: Any) -> Sequence[str]:
        right = next(steps)
        return [e.completion if right else "" for e in selected.judge.examples]

    return answers


@pytest.mark.slow
def test_the_folder_gets_the_best_state_also_when_killed_at_the_end(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Patience runs out at step 6 of 9, where a checkpoint is; what goes on from there must train no step more."""
    made, backend = planned(recipe, *SFT, "name=best", "stages.0.max_steps=9", "stages.0.select.patience=2")
    monkeypatch.setattr(select, "_answers", by_step({0: False, 2: True, 4: False, 6: False}))
    states: list[dict] = []
    finish = select.Selecting.finish

    def killed_once(self: Any, last: int) -> dict[str, Any]:
        states.extend([weights_in_memory(self.run.model), load_file(self._file(2))])
        if len(states) == 2:
            raise KeyboardInterrupt
        return finish(self, last)

    monkeypatch.setattr(select.Selecting, "finish", killed_once)
    with pytest.raises(KeyboardInterrupt):
        run_plan(made, backend)
    run_plan(made, backend)
    last, best, last_again, best_again = states
    assert same(last, last_again)
    assert same(best, best_again)
    assert not same(last, best)
    assert same(best, load_file(made.folder / "1-sft" / "adapter_model.safetensors"))
    found = figures(made.folder, "1-sft")
    assert (found["steps"], found["select"]["step"], found["select"]["stopped_early"]) == (6, 2, True)


def weights_in_memory(model: Any) -> dict:
    return {name: t.clone() for name, t in get_peft_model_state_dict(model, adapter_name="default").items()}


def same(one: dict, two: dict) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.slow
def test_grpo_that_gets_worse_keeps_the_bytes_of_its_start(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, backend = planned(
        recipe, "name=kept", "evaluate=[]", "stages.0.max_steps=1", "stages.1.select={every: 1}",
        "stages.1.batch_size=2", "stages.1.validation=0.3",
    )  # fmt: skip
    monkeypatch.setattr(select, "_answers", by_step({0: True, 1: False, 2: False}))
    run_plan(made, backend)
    files = [made.folder / stage / "adapter_model.safetensors" for stage in ("1-sft", "2-grpo")]
    assert files[0].read_bytes() == files[1].read_bytes()
    found = figures(made.folder, "2-grpo")["select"]
    assert (found["kept"], found["step"], found["end_step"], found["value"]) == ("start", 0, 2, 1.0)


@pytest.mark.slow
def test_a_first_stage_may_keep_the_untrained_adapter(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, backend = planned(recipe, *SFT, "name=untrained")
    monkeypatch.setattr(select, "_answers", by_step({0: True, 2: False, 4: False, 6: False}))
    run_plan(made, backend)
    weights = load_file(made.folder / "1-sft" / "adapter_model.safetensors")
    assert not any(t.any() for name, t in weights.items() if "lora_B" in name)


@pytest.mark.slow
def test_dpo_on_pairs_of_the_task_is_measured_by_a_field(recipe: Path) -> None:
    rows = [{**row, "rejected": "[]"} for row in funding_rows(30) if row["funders"]]
    write_jsonl(recipe.parent / "pairs.jsonl", rows)
    stage = "{kind: dpo, data: [{path: pairs.jsonl}], batch_size: 4, max_steps: 2, learning_rate: 1e-3"
    dpo = f"stages=[{stage}, validation: 0.2, select: {{metric: funder, every: 1}}}}]"
    file = load_recipe(recipe, [dpo, "name=dpo", "evaluate=[]"])
    backend = make_backend(file.recipe)
    made = make_plan(file, backend)
    run_plan(made, backend)
    assert [r["step"] for r in lines(made.folder / "1-dpo" / FILE)] == [0, 1, 2]
    found = figures(made.folder, "1-dpo")
    assert (found["select"]["metric"], found["select"]["rows"]) == ("funder", 4)
    assert "accuracy_held_out" in found


def test_sharded_weights_are_refused(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = load_recipe(recipe, SFT).recipe.stages
    select.check(stages[0], ("stages", 0, "select"))
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO3_INIT", "false")
    pytest.importorskip("deepspeed")
    select.check(stages[1], ("stages", 1, "select"))
    with pytest.raises(UserError, match="this launch shards them") as raised:
        select.check(stages[0], ("stages", 0, "select"))
    assert raised.value.at == ("stages", 0, "select")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "zero2"])
def test_two_processes_measure_and_stop_together(recipe: Path, kind: str) -> None:
    """With a GPU's defaults: 16-bit weights, gradient checkpointing, and transformers' own `generate`."""
    if kind == "zero2":
        pytest.importorskip("deepspeed")
    config = two_processes(recipe.parent, kind)
    overrides = [
        *SFT,
        *AS_ON_A_GPU,
        "stages.0.select.patience=1",
        "stages.0.learning_rate=1e-9",
        REWARDS,
        f"name={kind}",
    ]
    overrides += ["stages.1.select={metric: reward}", "stages.1.validation=0.3"]
    ended = run(accelerate(config, str(recipe), *overrides), recipe.parent)
    assert ended.returncode == 0, ended.stderr[-3000:]
    folder = recipe.parent / "runs" / kind
    assert [r["step"] for r in lines(folder / "1-sft" / FILE)] == [0, 2, 4], "no better one after the first"
    found = figures(folder, "1-sft")
    assert (found["steps"], found["select"]["step"], found["select"]["stopped_early"]) == (4, 2, True)
    assert [r["step"] for r in lines(folder / "2-grpo" / FILE)] == [0, 1]
    assert json.loads((folder / "2-grpo/manifest.json").read_text())["figures"]["select"]["rows"] == 7
    assert "1-sft: step 0, held-out reward" in ended.stderr
