"""`samples:` of best_of and dpo stages: what is picked, what is refused, and real trainings that are killed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from tiny import chain_recipe, funding_rows, save_lively_model, write_jsonl
from typer.testing import CliRunner

from adapters.backends import backend as make_backend
from adapters.backends.echo import EchoBackend, EchoSampler
from adapters.backends.jobs import Job
from adapters.cli.main import app
from adapters.errors import UserError
from adapters.files import read_json, read_jsonl
from adapters.pipeline import own_answers, selecting
from adapters.pipeline.plan import Plan, make_plan
from adapters.pipeline.run import run_plan
from adapters.plugins.rewards import once_each
from adapters.recipe.load import load_recipe
from adapters.recipe.stages import Samples
from adapters.tasks.funding import FundingTask
from adapters.types import Drawn

RECIPE = """name: own
task: {use: funding, target: compact}
model: {base: none}
trainer: echo
stages:
  - {kind: sft, data: [{path: rows.jsonl}], learning_rate: 1e-4, validation: 0}
  - kind: best_of
    data: [{path: rows.jsonl}]
    rewards: [{use: funding, scorer: corrected}]
    samples: {k: 2, margin: 0}
    learning_rate: 1e-5
    batch_size: 4
"""


def planned(path: Path, *overrides: str) -> tuple[Plan, Any]:
    file = load_recipe(path, [f"run_dir={path.parent / 'runs'}", *overrides])
    backend = make_backend(file.recipe)
    return make_plan(file, backend), backend


@pytest.fixture
def echo(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "rows.jsonl", funding_rows(20))
    (tmp_path / "own.yaml").write_text(RECIPE)
    return tmp_path / "own.yaml"


def lines(*answers: tuple[str, float, bool]) -> list[dict[str, Any]]:
    return [
        {"completion": text, "reward": reward, "truncated": cut, "greedy": not n}
        for n, (text, reward, cut) in enumerate(answers)
    ]


def test_best_of_takes_a_sample_that_beats_the_greedy_answer() -> None:
    group = lines(("greedy", 0.5, False), ("worse", 0.25, False), ("better", 0.75, False), ("cut", 1.0, True))
    whole = [line for line in group if not line["truncated"]]
    assert own_answers._best(whole, group, Samples(margin=0.25)) == ("better", None)
    assert own_answers._best(whole, group, Samples(margin=0.26)) is None
    assert own_answers._best(whole, group, Samples(margin=0, floor=0.8)) is None
    assert own_answers._best(whole[:1], group, Samples(margin=0)) is None, "no sample is whole"
    assert own_answers._best(whole, group, Samples(pick="first")) == ("worse", None), "a control"
    cut = lines(("greedy", 0.5, True), ("better", 0.6, False))
    assert own_answers._best(cut[1:], cut, Samples(margin=0.05)) == ("better", None)


def test_a_pair_is_the_best_and_the_worst_answer() -> None:
    group = lines(("greedy", 0.5, False), ("worse", 0.25, False), ("better", 0.75, False))
    assert own_answers._pair(group, group, Samples(margin=0.5)) == ("better", "worse")
    assert own_answers._pair(group, group, Samples(margin=0.51)) is None
    assert own_answers._pair(group[:1], group[:1], Samples(margin=0)) is None, "both sides would be the same answer"
    assert own_answers._pair(group[:1], group, Samples(margin=0)) == ("greedy", "worse"), "the worst may be unreadable"
    assert own_answers._pair([], group, Samples(margin=0)) is None


def test_rows_and_steps_are_those_of_what_is_learned(echo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan, backend = planned(echo)
    run_plan(plan, backend)
    manifest = read_json(plan.folder / "2-best_of" / "manifest.json")
    figures = manifest["figures"]["samples"]
    assert (figures["rows"], figures["learned"], figures["greedy"]) == (19, 19, 1.0)
    assert manifest["steps"] == plan.jobs[1].steps == 4
    stored = read_jsonl(plan.folder / "2-best_of" / own_answers.FILE)
    assert len(stored) == 19 * 3
    assert stored[0].keys() >= {"row", "id", "sample", "completion", "reward"}
    told = "2 answers to each of 19 rows earn greedy 1.000, one sample 1.000, best of 2 1.000; 19 answers are learned"
    assert told in capsys.readouterr().err.replace("\n", " ")


def test_nothing_to_learn_is_said_with_the_figures(echo: Path) -> None:
    plan, backend = planned(echo, "stages.1.samples.margin=0.1")
    with pytest.raises(UserError, match=r"nothing to learn: 2 answers .* 0 answers are learned. Lower margin or floor"):
        run_plan(plan, backend)


def test_rows_that_no_reward_grades_are_no_crash(echo: Path) -> None:
    (echo.parent / "silent.py").write_text(
        "class Silent:\n    def __call__(self, text, example):\n        return None\n"
    )
    plan, backend = planned(echo, "stages.1.rewards=[./silent.py:Silent]")
    with pytest.raises(UserError, match="nothing to learn: 2 answers to each of 19 rows earn nothing: none is graded"):
        run_plan(plan, backend)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stages.1.kind=dpo"], None),
        (["stages.1.kind=dpo", "stages.1.rewards=[]"], "samples and rewards go together"),
        (["stages.1.kind=dpo", "stages.1.samples=null"], "samples and rewards go together"),
        (["stages.1.rewards=[]"], "rewards"),
        (["stages.1.samples={k: 1}"], "k"),
        (["stages.1.kind=dpo", "stages.1.samples={pick: first}"], "samples.pick is for best_of"),
        (["stages.1.samples.marginn=1"], "margin"),
        (
            ["stages.1.samples={pick: first, floor: 0.5}"],
            "floor chooses among samples, and pick: first",
        ),
    ],
)
def test_what_a_stage_needs(echo: Path, overrides: list[str], message: str | None) -> None:
    if message is None:
        assert planned(echo, *overrides)[0].jobs[1].rewards
        return
    with pytest.raises(UserError, match=message):
        planned(echo, *overrides)


def test_a_backend_that_cannot_draw_is_refused(echo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.backends.echo.EchoBackend.draws", False)
    with pytest.raises(UserError, match="does not learn from samples that are drawn first"):
        planned(echo)


@pytest.mark.slow
def test_pairs_of_own_answers_hold_out_rows_for_select_alone(echo: Path) -> None:
    held_out = {}
    for given in ("", "validation=0.1", "select={metric: reward}", "select=null"):
        changed = ["stages.1.kind=dpo", *([f"stages.1.{given}"] if given else [])]
        job = planned(echo, *changed)[0].jobs[1]
        held_out[given] = len(job.validation)
        assert len(job.examples) + len(job.validation) == 20
    assert held_out == {"": 0, "validation=0.1": 2, "select={metric: reward}": 1, "select=null": 0}
    assert planned(echo)[0].jobs[1].stage.validation == 0.05, "best_of measures their loss"


SURE = """
class Sure:
    def __call__(self, completion, example):
        return min(1.0, completion.count("sure") / 9)
"""


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A first stage on conversations of which every second ends without an answer."""
    rows = list[Any]()
    for n in range(20):
        question, answer = {"role": "user", "content": f"{n} and {n}?"}, {"role": "assistant", "content": "I am sure."}
        rows.append({"id": f"r{n}", "messages": [question, answer] if n % 2 else [question]})
    write_jsonl(tmp_path / "rows.jsonl", rows)
    (tmp_path / "sure.py").write_text(SURE)
    tree = YAML(typ="safe").load(RECIPE)
    tree |= {"task": "chat", "stages": tree["stages"][1:]}
    tree["stages"][0] |= {"rewards": ["./sure.py:Sure"], "max_length": 400}
    (tmp_path / "bare.yaml").write_text(json.dumps(tree))
    return tmp_path / "bare.yaml"


@pytest.mark.parametrize("kind", ["best_of", "dpo"])
def test_rows_without_a_gold_answer_are_sampled_whole(bare: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[int]()

    def several(self: Any, prompts: Any, k: int, *, max_new_tokens: int, **_: Any) -> list[list[Drawn]]:
        asked.append(max_new_tokens)
        return [[Drawn("sure " * (n + 1), 1, False) for n in range(k)] for _ in prompts]

    monkeypatch.setattr("adapters.backends.echo.EchoSampler.several", several)
    plan, backend = planned(bare, f"stages.0.kind={kind}", "stages.0.validation=0.2")
    run_plan(plan, backend)
    shortest = min(sum(len((m["content"] or "").split()) for m in e.prompt) for e in plan.jobs[0].examples)
    assert set(asked) == {400 - shortest}, "what is longer could not be learned"
    assert read_json(plan.folder / f"1-{kind}" / "manifest.json")["figures"]["samples"]["learned"] == 16


def test_held_out_rows_without_a_gold_answer_have_no_loss_and_a_reward(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = list[Job]()
    real = EchoBackend.train
    monkeypatch.setattr(EchoBackend, "train", lambda *given: trained.append(given[1]) or real(*given))
    plan, backend = planned(bare, "stages.0.validation=0.4", "stages.0.select={metric: reward}")
    held_out = plan.jobs[0].validation
    assert {e.completion is None for e in held_out} == {True, False}
    assert plan.jobs[0].select is not None
    assert plan.jobs[0].select.max_new_tokens > 300
    run_plan(plan, backend)
    assert [*trained[0].validation] == [e for e in held_out if e.completion is not None]


def test_of_equal_rewards_the_likelier_answer_is_taken() -> None:
    group = lines(("greedy", 0.5, False), ("rare", 0.75, False), ("usual", 0.75, False), ("odd", 0.5, False))
    group = [line | {"logprob": p} for line, p in zip(group, (-0.1, -2.0, -0.2, -3.0), strict=True)]
    assert own_answers._best(group, group, Samples()) == ("usual", None)
    assert own_answers._pair(group, group, Samples()) == ("usual", "greedy")


def test_an_unreadable_answer_of_equal_reward_is_not_in_the_way(echo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def several(self: EchoSampler, prompts: Any, k: int, *, temperature: float, seed: str, **options: Any) -> Any:
        usual = [Drawn(s.text, 1, False, -0.5) for s in self(prompts, **options)]
        return [[answer, Drawn("not JSON", 1, False, -0.1), answer] for answer in usual]

    monkeypatch.setattr(EchoSampler, "several", several)
    (echo.parent / "one.py").write_text("def one(completion, example):\n    return 1.0\n")
    plan, backend = planned(echo, "stages.1.rewards=[./one.py:one]")
    run_plan(plan, backend)
    assert read_json(plan.folder / "2-best_of" / "manifest.json")["figures"]["samples"]["learned"] == 19


@pytest.mark.slow
def test_a_stage_of_fewer_steps_is_measured_all_the_same(echo: Path) -> None:
    held = ["stages.1.validation=0.2", "stages.1.batch_size=1"]
    for every, steps, expected in ((None, 30, 3), (None, 5, 1), (5, 30, 5), (5, 3, 3)):
        [_, job] = planned(echo, *held, f"stages.1.select={json.dumps({'metric': 'reward', 'every': every})}")[0].jobs
        changed = selecting.with_steps(job, steps)
        assert (changed.steps, changed.select.every) == (steps, expected)  # type: ignore[union-attr]


@pytest.fixture
def stored(echo: Path) -> Path:
    """A recipe that learns from stored samples of a finished run."""
    run_plan(*planned(echo, "stages=[{kind: sft, data: [{path: rows.jsonl}], learning_rate: 1e-4}]", "name=begun"))
    begun, out = echo.parent / "runs" / "begun", echo.parent / "samples.jsonl"
    drawn = CliRunner().invoke(app, ["sample", str(begun), str(echo.parent / "rows.jsonl"), "-k", "3", "-o", str(out)])
    assert drawn.exit_code == 0, drawn.output
    tree = YAML(typ="safe").load(RECIPE)
    tree |= {"start": str(begun), "stages": tree["stages"][1:]}
    tree["stages"][0]["samples"] = {"path": "samples.jsonl", "margin": 0}
    (echo.parent / "stored.yaml").write_text(json.dumps(tree))
    return echo.parent / "stored.yaml"


@pytest.mark.slow
def test_a_stage_learns_from_stored_samples(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.backends.echo.EchoSampler.several", None)  # nothing is drawn
    plan, backend = planned(stored)
    run_plan(plan, backend)
    figures = read_json(plan.folder / "1-best_of" / "manifest.json")["figures"]["samples"]
    assert figures["rows"] == figures["learned"] > 0
    assert len(read_jsonl(plan.folder / "1-best_of" / own_answers.FILE)) == 4 * figures["rows"]
    path = stored.parent / "samples.jsonl"
    path.write_text(path.read_text().replace("null", "-1.0"))
    assert planned(stored)[0].jobs[0].fingerprint != plan.jobs[0].fingerprint


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["stages.0.samples.k=4"], "k is that of the stored samples"),
        (["stages.0.samples.path=rows.jsonl"], "no finished output of `adapters sample`"),
        (["start=null"], "only a first stage, with `start`"),
        (["task.user=Funders? {statement}"], "answers another prompt than the stage has for row 'r"),
        (["stages.0.noise={use: pdf, share: 1.0}"], "answers another prompt than the stage has for row 'r"),
        (["model.thinking=true"], "all rows: model.thinking was another"),
        (["stages.0.data=[{path: more.jsonl}]"], "has no answer to row 'r20' and 9 more"),
        (["lora.rank=4", "start=runs/other"], "answers of other weights"),
    ],
)
def test_stored_samples_must_be_those_of_the_start(
    stored: Path, change: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(stored.parent)
    write_jsonl(stored.parent / "more.jsonl", funding_rows(30))
    if "start=runs/other" in change:
        run_plan(*planned(stored.parent / "own.yaml", "name=other", "seed=3"))
    with pytest.raises(UserError, match=re.escape(message)):
        planned(stored, *change)


def test_rows_that_are_not_sampled_need_no_stored_answer(stored: Path) -> None:
    def unanswered(id: str, text: str | None = None) -> None:
        """Let the row be one that `adapters sample` could not answer, with another text if one is given."""
        failed = {"row": 1, "id": id, "completion": None, "error": "too long: 500 tokens"}
        lines = [line for line in answered if line["id"] != id]
        write_jsonl(stored.parent / "samples.jsonl", [failed, *lines])
        more = {"funding_statement": text, "funders": []} if text else {}
        write_jsonl(stored.parent / "rows.jsonl", [row | (more if row["id"] == id else {}) for row in funding_rows(20)])

    answered = read_jsonl(stored.parent / "samples.jsonl")
    [job] = planned(stored)[0].jobs
    unanswered(job.validation[0].id)
    planned(stored)
    unanswered(job.examples[0].id)
    with pytest.raises(UserError, match=f"has no answer to row '{job.examples[0].id}'"):
        planned(stored)
    unanswered(job.examples[0].id, "thanks " * 500)
    [without] = planned(stored, "stages.0.max_length=400")[0].jobs
    assert (without.too_long, len(without.examples)) == (1, 19)


def test_two_rewards_of_one_name_are_both_shown(echo: Path) -> None:
    more = {"rewards": [{"use": "funding", "scorer": "corrected", "beta": 1}], "kind": "grpo", "learning_rate": 1e-5}
    same = {**more, "rewards": [{"use": "funding", "scorer": "corrected"}]}
    stages = [{"data": [{"path": "rows.jsonl"}], **stage} for stage in (more, same)]
    plan, _ = planned(echo, *(f"stages.{n}={json.dumps(stage)}" for n, stage in enumerate(stages, 2)))
    every = [(job.name, job.rewards) for job in plan.jobs]
    assert [r.name for r in once_each(every)] == ["funding", "funding (3-grpo)"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["best_of", "dpo"])
def test_a_real_stage_samples_once_and_goes_on_after_a_kill(
    kind: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from adapters.backends.local.generate import LocalSampler

    path = tmp_path / "chain.yaml"
    path.write_text(chain_recipe(tmp_path, save_lively_model(tiny_model, tmp_path / "lively")))
    own = {
        "kind": kind,
        "data": [{"path": "train.jsonl"}],
        "rewards": ["./vowels.py:Vowels"],
        "samples": {"k": 3, "margin": 0.0},
        "learning_rate": 1e-3,
        "batch_size": 4,
        "validation": 0.2,
        "select": {"metric": "reward", "every": 1, "rows": 4},
        "max_steps": 2,
    }
    overrides = [f"stages.1={json.dumps(own)}", "evaluate=[]"]
    # A random model writes no JSON.
    monkeypatch.setattr(FundingTask, "is_well_formed", lambda self, text: True)
    monkeypatch.setattr(own_answers, "BLOCK", 8)
    several, asked = LocalSampler.several, list[int]()

    def counted(self: Any, prompts: Any, *args: Any, **options: Any) -> list[list[Drawn]]:
        asked.append(len(prompts))
        if asked == [8, 8]:
            raise KeyboardInterrupt
        drawn = several(self, prompts, *args, **options)
        return [[answer._replace(truncated=False) for answer in group] for group in drawn]  # it never ends one

    monkeypatch.setattr(LocalSampler, "several", counted)
    plan, backend = planned(path, *overrides)
    with pytest.raises(KeyboardInterrupt):
        run_plan(plan, backend)
    run_plan(plan, backend)
    rows = len(plan.jobs[1].examples)
    assert sum(asked) == rows + 8, "the block that was stopped is sampled again, the one before it is not"
    whole, backend = planned(path, *overrides, "name=whole")
    run_plan(whole, backend)
    first, second = (read_jsonl(p.folder / f"2-{kind}" / own_answers.FILE) for p in (plan, whole))
    assert first == second
    assert len(first) == rows * 4
    figures = [read_json(p.folder / f"2-{kind}" / "manifest.json")["figures"] for p in (plan, whole)]
    assert figures[0] == figures[1]
    assert figures[0]["samples"]["learned"] > 0
    assert figures[0]["select"]["rows"] == 4
