"""One answer out of several: by the model's own probability, or by agreement; in evaluations and extraction."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from test_extract import echo_adapter
from tiny import chain_recipe, echo_recipe, funding_rows, ie_rows, save_lively_model, save_tiny_model, write_jsonl
from typer.testing import CliRunner

from adapters.backends import backend
from adapters.backends.echo import EchoSampler
from adapters.cli import tables
from adapters.cli.main import app
from adapters.errors import UserError
from adapters.evaluation import comparison
from adapters.evaluation.picking import can_vote, pick
from adapters.extraction import adapter_source, engines
from adapters.extraction.engine import Answer, Drawing, Group, Options, Request
from adapters.pipeline.plan import make_plan
from adapters.pipeline.run import run_plan
from adapters.pipeline.run_folder import RunFolder
from adapters.recipe.load import load_recipe
from adapters.report.page import render
from adapters.tasks.agent import AgentTask
from adapters.tasks.funding import FundingTask
from adapters.tasks.ie import IeTask
from adapters.types import Counts, Drawn

TASK = FundingTask(target="compact")


def answers(*texts: str, logprobs: tuple[float, ...] = ()) -> list[Drawn]:
    return [Drawn(text, 1, False, logprobs[n] if logprobs else None) for n, text in enumerate(texts)]


def funders(*names: str) -> str:
    return json.dumps([{"funder_name": name, "awards": []} for name in names])


def test_likelihood_picks_the_likeliest() -> None:
    assert pick(TASK, answers("a", "b", "c", logprobs=(-0.5, -0.1, -0.1)), "likelihood") == 1
    assert pick(TASK, answers("a", "b"), "likelihood") == 0, "unknown ones are equal"


def test_likelihood_prefers_whole_answers_that_can_be_read() -> None:
    loop = Drawn('[{"funder_name": "NSF"}' * 20, 99, True, -0.001)
    group = [loop, *answers("not JSON", funders("NSF"), funders("NIH"), logprobs=(-0.1, -0.9, -0.8))]
    assert pick(TASK, group, "likelihood") == 3
    assert pick(TASK, [group[2]._replace(truncated=True), group[1]], "likelihood") == 1, "none is, so all are compared"
    no_record = '[{"funder_name": "NSF", "awards": 5}]'
    assert TASK.is_well_formed(no_record)
    assert pick(TASK, answers(no_record, "[]", logprobs=(-0.1, -0.9)), "likelihood") == 1
    turn = AgentTask().example(AgentTask.example_row, id="a").completion or ""
    assert pick(AgentTask(), answers("?", turn, logprobs=(-0.1, -0.9)), "likelihood") == 1, "it has no records"


@pytest.mark.parametrize(
    ("texts", "picked"),
    [
        ((funders("Wellcome Trust"), funders("Simons Foundation"), funders("Simons Foundation")), 1),
        ((funders("NSF"), funders("NSF", "NIH"), funders("NSF", "NIH", "ERC")), 1),
        ((funders("NSF"), "[]", "[]", "not JSON", "not JSON", "not JSON"), 1),
        ((funders("NSF"), funders("NIH")), 0),
        (("broken", "not JSON"), 0),
        (("broken", "[]"), 1),
    ],
    ids=["majority", "the middle one", "what cannot be read has no vote", "a tie", "nothing readable", "one readable"],
)
def test_the_vote_is_for_what_agrees_most(texts: tuple[str, ...], picked: int) -> None:
    assert pick(TASK, answers(*texts), "vote") == picked


def test_answers_of_a_grounded_task_are_compared_with_each_other_not_with_the_text() -> None:
    task = FundingTask(target="compact", grounded=True)
    assert pick(task, answers(funders("NSF"), funders("ERC"), funders("ERC")), "vote") == 1


def test_entities_and_relations_vote_too() -> None:
    task = IeTask()
    for row in ie_rows(5):
        example = task.example(row, id="x")
        counts = task.counts(task.as_gold(example.completion or ""), example.completion or "")
        assert counts == task.counts(example.gold, example.completion or "")
    task = IeTask(target="compact", missing_answer="whole")
    related = json.dumps({"works for": [{"head": "Ada", "tail": "Acme"}]})
    assert task.counts(task.as_gold(related), related)["labelled"]["relation"] == Counts(1, 1, 1)
    one, two = '{"person": ["Ada"]}', '{"person": ["Ada", "Bob"]}'
    assert pick(task, answers(one, two, two), "vote") == 1
    assert not can_vote(AgentTask())


# -------------------------------------------------------------------------------------------------------- evaluations


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "funding.jsonl", funding_rows(12))
    (tmp_path / "r.yaml").write_text(echo_recipe("run"))
    return tmp_path / "r.yaml"


def run(path: Path, *overrides: str) -> dict:
    file = load_recipe(path, overrides)
    trainer = backend(file.recipe)
    return run_plan(make_plan(file, trainer), trainer)


@pytest.mark.slow
def test_picked_answers_stand_beside_the_single_ones(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def several(self: EchoSampler, prompts: list, k: int, *, temperature: float, **options: object) -> list:
        return [
            [Drawn("[]", 1, False), Drawn(s.text, 2, False), Drawn(s.text, 2, False)] for s in self(prompts, **options)
        ]

    monkeypatch.setattr(EchoSampler, "several", several)
    report = run(recipe, "evaluate.0.samples=3")
    assert list(report["sets"]) == ["test", "test+vote3"]
    assert list(report["sets"]["test+vote3"]) == ["1-sft", "2-grpo"], "not of the base, which is not trained"
    picked = report["sets"]["test+vote3"]["1-sft"]
    assert picked["metrics"]["balanced"]["funder"]["f1"] == 1
    assert picked["cost"]["tokens"] == 12 * 5
    assert "test+vote3 (1-sft): 0 s, 60 tokens; single answers: 0 s, " in "\n".join(tables._costs(report["sets"]))
    assert [line["set"] for line in comparison.deltas(report["sets"])] == ["test", "test"]
    folder = RunFolder.open(Path("runs/run"))
    assert list(folder.sets) == ["test"]
    assert "answers picked from several" in render(folder)
    monkeypatch.setattr(EchoSampler, "several", None)
    assert run(recipe, "evaluate.0.samples=3") == report, "stored"
    with pytest.raises(TypeError):
        run(recipe, "evaluate.0.samples=3", "evaluate.0.temperature=0.5")


@pytest.mark.slow
def test_several_answers_may_be_wanted_later(recipe: Path) -> None:
    run(recipe)
    report = run(recipe, "evaluate.0.samples=2", "evaluate.0.pick=likelihood")
    assert list(report["sets"]) == ["test", "test+likelihood2"]
    [first, _] = tables._costs(report["sets"])
    assert first.endswith("single answers: 201 tokens")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["evaluate.0.pick=vote"], "set samples too"),
        (
            ["evaluate.0.samples=2", "task=./own.py:Mute", "stages.1.rewards=[./own.py:one]"],
            "cannot compare two answers",
        ),
    ],
)
def test_what_cannot_be_picked_is_refused(recipe: Path, overrides: list[str], message: str) -> None:
    Path("own.py").write_text(
        "from adapters.tasks.funding import FundingTask\n\n\ndef one(completion, example):\n    return 1.0\n\n\n"
        "class Mute(FundingTask):\n    record = None\n\n    def __getattribute__(self, name):\n"
        "        if name in ('record', 'request'):\n            raise AttributeError(name)\n"
        "        return super().__getattribute__(name)\n"
    )
    file = load_recipe(recipe, overrides)
    with pytest.raises(UserError, match=message) as error:
        make_plan(file, backend(file.recipe))
    assert "evaluate.0.pick" in file.locate(error.value)


@pytest.mark.slow
def test_a_real_model_is_evaluated_by_picking(tmp_path: Path) -> None:
    model = save_lively_model(save_tiny_model(tmp_path / "tiny-llama"), tmp_path / "lively")
    (tmp_path / "chain.yaml").write_text(chain_recipe(tmp_path, model))
    sft = "stages=[{kind: sft, data: [train.jsonl], batch_size: 8, max_steps: 2, learning_rate: 1e-2}]"
    report = run(tmp_path / "chain.yaml", sft, "evaluate.0.samples=3", "evaluate.0.pick=likelihood")
    picked, single = (report["sets"][name]["1-sft"] for name in ("test+likelihood3", "test"))
    assert picked["cost"]["tokens"] > 2 * single["tokens"]
    greedy, chosen = (
        [json.loads(line)["completion"] for line in (tmp_path / f"runs/chain/eval/1-sft/{name}/samples.jsonl").open()]
        for name in ("test", "test+likelihood3")
    )
    assert len(greedy) == len(chosen) == 6


# --------------------------------------------------------------------------------------------------------- extraction


def test_extraction_picks_one_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = funding_rows(4)
    known, corpus = echo_adapter(tmp_path / "adapter", rows), write_jsonl(tmp_path / "in.jsonl", rows)
    given = ["extract", str(known), str(corpus), "-o", str(tmp_path / "out.jsonl")]
    done = CliRunner().invoke(app, [*given, "--pick", "likelihood"])
    assert (done.exit_code, "--pick likelihood chooses among --samples" in done.output) == (2, True)
    done = CliRunner().invoke(app, [*given, "--samples", "3"])
    assert done.exit_code == 0, done.output
    out = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["record"] for row in out] == [TASK.gold(row) for row in rows]
    done = CliRunner().invoke(app, [*given, "--samples", "4"])
    assert (done.exit_code, "samples was 3, is 4" in done.output) == (2, True)
    done = CliRunner().invoke(app, given)
    assert (done.exit_code, "other settings" in done.output) == (2, True)


def test_the_tokens_of_a_record_are_those_of_all_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = adapter_source.find(str(echo_adapter(tmp_path / "adapter", funding_rows(1))))
    agreed = [Drawn(funders("NSF"), 5, False), Drawn("[]", 1, True), Drawn("[]", 1, True)]
    groups = [Group(0, agreed), Group(1, error="too long: x")]
    monkeypatch.setattr(engines, "make_draws", lambda *_: lambda examples, wanted: iter(groups))
    engine = engines.make_picked("transformers", source, Drawing(2, 1.0), "vote", Options(), print)
    found = list(engine([Request(7, TASK.prompt("a")), Request(9, TASK.prompt("b"))]))
    assert found[0] == Answer(7, "[]", 7, True, samples=(funders("NSF"), "[]", "[]"))
    assert (found[1].row, found[1].error) == (9, "too long: x")
    with pytest.raises(UserError, match="gives no log-probabilities"):
        engines.make_picked("endpoint", source, Drawing(2, 1.0), "likelihood", Options(), print)


def test_an_extraction_of_before_goes_on(tmp_path: Path) -> None:
    """The settings of one answer a row are those of the manifests that were written before there were several."""
    rows = funding_rows(2)
    known, corpus = echo_adapter(tmp_path / "adapter", rows), write_jsonl(tmp_path / "in.jsonl", rows)
    assert CliRunner().invoke(app, ["extract", str(known), str(corpus), "-o", str(tmp_path / "o.jsonl")]).exit_code == 0
    manifest = json.loads((tmp_path / "o.jsonl.manifest.json").read_text())
    assert not {"samples", "pick", "temperature"} & set(manifest["settings"])
    shutil.rmtree(known)
