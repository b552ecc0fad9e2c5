"""Several graded completions of each row: what a line holds, restarts, and what the figures mean."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_extract import echo_adapter
from tiny import chain_recipe, echo_recipe, funding_rows, save_lively_model, train_stage, write_jsonl
from typer.testing import CliRunner

from adapters.cli import main
from adapters.errors import UserError
from adapters.evaluation import best_of, graded
from adapters.evaluation.best_of import Scores, TaskF1
from adapters.extraction import adapter_source, engines, resumable, sampling
from adapters.extraction.engine import DrawEngine, Drawing, Group, Options
from adapters.files import read_json, read_jsonl
from adapters.plugins.trust import Consent
from adapters.recipe.fields import RewardSpec
from adapters.tasks.agent import AgentTask
from adapters.tasks.funding import FundingTask
from adapters.types import Drawn, Example

TASK = FundingTask(target="compact")
ANSWER = {"completion": "[]", "tokens": 1, "truncated": False}


def invoke(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main.app, ["sample", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


@pytest.fixture
def rows() -> list[dict]:
    return funding_rows(20)


@pytest.fixture
def known(tmp_path: Path, rows: list[dict]) -> Path:
    """Knows ten of the twenty rows."""
    return echo_adapter(tmp_path / "adapter", rows[:10])


@pytest.fixture
def file(tmp_path: Path, rows: list[dict]) -> Path:
    return write_jsonl(tmp_path / "rows.jsonl", rows)


# ------------------------------------------------------------------------------------------------- lines and rewards


def test_every_row_has_its_answers_in_order(tmp_path: Path, known: Path, file: Path, rows: list[dict]) -> None:
    out = tmp_path / "s.jsonl"
    code, said = invoke(known, file, "-k", 2, "-o", out, "--reward", "funding")
    assert code == 0, said
    lines = read_jsonl(out)
    assert [(x["row"], x["id"], x["sample"]) for x in lines] == [
        (n, row["id"], i) for n, row in enumerate(rows, 1) for i in (0, 1, 2)
    ]
    assert [x["greedy"] for x in lines[:3]] == [True, False, False]
    assert {x["reward"] for x in lines[:30]} == {1.0}
    assert lines[0]["completion"] == TASK.example(rows[0], id="r0").completion
    assert set(lines[0]["parts"]["funding"]) >= {"funder", "flat"}
    assert "60 completions of 20 rows" in said
    assert "groups without variance" in said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter", "rows.jsonl", "s.jsonl", "s.jsonl.manifest.json"]
    code, again = invoke(known, file, "-k", 2, "-o", out, "--reward", "funding")
    assert "complete already" in again
    assert "best of 2" in again
    code, said = invoke(known, file, "-k", 3, "-o", out, "--reward", "funding")
    assert code == 2
    assert "k was 2, is 3" in said


def test_without_greedy_there_is_no_greedy_figure(tmp_path: Path, known: Path, file: Path) -> None:
    code, said = invoke(known, file, "-k", 2, "-o", tmp_path / "s.jsonl", "--no-greedy", "--json")
    assert code == 0, said
    assert {x["sample"] for x in read_jsonl(tmp_path / "s.jsonl")} == {1, 2}
    figures = json.loads(said[said.index("{") :])["figures"]
    assert set(figures) == {"one sample", "best of 2", "groups without variance"}


def test_a_reward_takes_parameters(tmp_path: Path, known: Path, file: Path) -> None:
    given = [known, file, "-o", tmp_path / "s.jsonl", "--reward", "funding"]
    code, said = invoke(*given, "--reward-set", "mode=strict", "--reward-set", "beta=1.0")
    assert code == 0, said
    [reward] = read_json(tmp_path / "s.jsonl.manifest.json")["settings"]["rewards"]
    assert "mode='strict'" in reward["reward"]
    code, said = invoke(*given, "--reward-set", "mode=balanced")
    assert code == 2
    assert "rewards was" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--reward-set", "mode=strict"], "--reward-set needs a --reward"),
        (["--reward", "fundin"], "fundin"),
        (["--reward", "funding", "--reward-set", "mod=strict"], "no parameter 'mod'"),
        (["--reward", "funding", "--reward-set", "max_errors=2"], "--reward-set max_errors"),
        (["--model", "x"], "--model needs an --endpoint"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path: Path, known: Path, file: Path, arguments: list, message: str) -> None:
    code, said = invoke(known, file, "-o", tmp_path / "s.jsonl", *arguments)
    assert code == 2
    assert message in said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter", "rows.jsonl"]


def test_files_that_cannot_be_used_are_refused(tmp_path: Path, known: Path, file: Path, rows: list[dict]) -> None:
    assert "written as .jsonl" in invoke(known, file, "-o", tmp_path / "s.parquet")[1]
    assert "overwrite" in invoke(known, file, "-o", file)[1]
    write_jsonl(file, [*rows, {**rows[1], "id": "r0"}])
    assert "the id 'r0' is repeated" in invoke(known, file, "-o", tmp_path / "s.jsonl")[1]
    write_jsonl(file, [*rows, {"id": "x"}])
    assert "row 21" in invoke(known, file, "-o", tmp_path / "s.jsonl")[1]


@pytest.mark.slow
def test_a_run_is_graded_by_the_rewards_of_its_grpo_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_jsonl(tmp_path / "funding.jsonl", funding_rows(6))
    (tmp_path / "r.yaml").write_text(
        echo_recipe("run").replace("rewards: [funding]", "rewards: [{use: funding, mode: strict}]")
    )
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(main.app, ["run", "r.yaml"]).exit_code == 0
    for folder in ("runs/run", "runs/run/1-sft"):
        source = adapter_source.find_any(folder)
        [reward] = sampling.rewards_of(source, None, Consent())
        assert "strict" in repr(reward.reward)
        [given] = sampling.rewards_of(source, RewardSpec(use="funding"), Consent())
        assert "balanced" in repr(given.reward)
    assert invoke("runs/run", "funding.jsonl", "-o", "s.jsonl")[0] == 0


def test_without_a_reward_the_task_counts(tmp_path: Path, known: Path, file: Path, rows: list[dict]) -> None:
    [reward] = sampling.rewards_of(adapter_source.find_any(str(known)), None, Consent())
    assert reward.name == "f1"
    examples = [TASK.example(row, id=row["id"]) for row in rows[:5]]
    f1 = TaskF1(TASK)
    assert [f1(e.completion or "", e).score for e in examples] == [1.0] * 5
    assert [f1("[]", e).score for e in examples] == [0.0] * 4 + [1.0], "there is nothing to find in the fifth"
    assert f1(examples[1].completion or "", examples[1]).parts["award_id"] == 1.0


def test_a_task_that_does_not_extract_can_be_sampled(tmp_path: Path) -> None:
    from adapters.data_aug.agent import synthesize

    rows = [dict(row) for row in synthesize(4, 0)]
    example = AgentTask().example(rows[0], id="a")
    assert TaskF1(AgentTask())(example.completion or "", example).score == 1.0
    adapter = echo_adapter(tmp_path / "adapter", [], task={"use": "agent"})
    with pytest.raises(UserError, match="does not extract"):
        adapter_source.find(str(adapter))
    code, said = invoke(adapter, write_jsonl(tmp_path / "rows.jsonl", rows), "-k", 2, "-o", tmp_path / "s.jsonl")
    assert code == 0, said


# ----------------------------------------------------------------------------------------------------------- figures


def test_the_figures_are_means_over_rows() -> None:
    groups = [Scores([0.0, 1.0], 0.5, 1.0), Scores([0.2, 0.2], 0.4, 0.2), Scores([0.6, 0.8], 0.1, 0.6)]
    found = {name: figure["mean"] for name, figure in best_of.figures(groups).items()}
    assert found == pytest.approx(
        {
            "one sample": (0.5 + 0.2 + 0.7) / 3,
            "greedy": 1.0 / 3,
            "likeliest sample": 1.8 / 3,
            "best of 2": 2.0 / 3,
            "best of 2 and greedy": 2.2 / 3,
            "best of 2 and greedy - greedy": 1.2 / 3,
            "groups without variance": 1 / 3,
        }
    )
    assert best_of.figures([]) == {}


def test_rows_without_a_reward_are_left_out_of_the_figures() -> None:
    line = {"row": 1, "greedy": False, "reward": 0.5, "logprob": -1.0, **ANSWER}
    lines = [
        line,
        {**line, "greedy": True, "reward": 0.25},
        {**line, "logprob": -0.5, "reward": 0.75},
        {**line, "row": 2, "reward": None},
        {"row": 3, "error": "too long: x"},
    ]
    assert graded.scores(lines, TASK) == [Scores([0.5, 0.75], 0.25, 0.75)]


def test_the_likeliest_sample_is_whole_and_can_be_read() -> None:
    line = {"row": 1, "greedy": False, "reward": 0.5, "logprob": -1.0, **ANSWER}
    cut = {**line, "reward": 0.0, "logprob": -0.001, "truncated": True}
    broken = {**line, "reward": 0.0, "logprob": -0.002, "completion": "not JSON"}
    assert graded.scores([cut, broken, line], TASK) == [Scores([0.0, 0.0, 0.5], None, 0.5)]


# ------------------------------------------------------------------------------------------------------- restarting


def counted(engine: DrawEngine, asked: list[int], stop_after: int | None = None) -> DrawEngine:
    def draw(examples, wanted):
        for n, group in enumerate(engine(examples, wanted)):
            if n == stop_after:
                raise RuntimeError("pulled the plug")
            asked.append(group.row)
            yield group

    return draw


def test_a_stopped_sampling_goes_on_where_it_was(tmp_path: Path, known: Path, file: Path) -> None:
    source, out, asked = adapter_source.find_any(str(known)), tmp_path / "s.jsonl", list[int]()
    drawing, rewards = Drawing(2, 1.0), sampling.rewards_of(source, None, Consent())
    work = sampling.prepare(source, file, out, drawing, rewards, engine={})
    engine = engines.make_draws("transformers", source, drawing, Options(), print)
    for stop in (7, 7, None):
        with resumable.open_or_resume(work, fresh=False):
            if stop is None:
                counts = sampling.run(work, lambda: counted(engine, asked), lambda *_: None)
            else:
                with pytest.raises(RuntimeError, match="plug"):
                    sampling.run(work, lambda: counted(engine, asked, 7), lambda *_: None)
                assert not out.exists()
    assert sorted(asked) == list(range(20)), "nothing is drawn twice"
    assert counts["resumed"] == 14
    assert [x["row"] for x in read_jsonl(out)] == [n for n in range(1, 21) for _ in range(3)]


def test_a_row_without_an_answer_says_why(tmp_path: Path, known: Path, file: Path) -> None:
    source, out = adapter_source.find_any(str(known)), tmp_path / "s.jsonl"
    drawing = Drawing(1, 1.0, greedy=False)
    work = sampling.prepare(source, file, out, drawing, sampling.rewards_of(source, None, Consent()), engine={})

    def draw(examples, wanted):
        yield Group(0, error="too long: 9 tokens")
        yield from (Group(n, [Drawn("[]", 1, False, -0.5)]) for n in range(1, len(examples)))

    with resumable.open_or_resume(work, fresh=False):
        counts = sampling.run(work, lambda: draw, lambda *_: None)
    assert read_jsonl(out)[0] == {"row": 1, "id": "r0", "completion": None, "error": "too long: 9 tokens"}
    assert counts["errors"] == {"too long": 1}
    assert counts["figures"]["one sample"]["n"] == 19


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """An adapter of the tiny model, with its manifest."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = chain_recipe(folder, save_lively_model(tiny_model, folder / "lively"))
    adapter, _ = train_stage(folder, recipe)
    spec = {"use": "funding", "target": "compact", "system": "Extract.", "user": "{statement}"}
    (adapter / "manifest.json").write_text(json.dumps({"task": spec, "model": {"base": str(folder / "lively")}}))
    return adapter


COMMAND = [sys.executable, "-m", "adapters", "sample"]


@pytest.mark.slow
def test_killed_and_repeated_gives_the_same_bytes(tmp_path: Path, trained: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", funding_rows(24))
    given = [str(trained), str(file), "-k", "3", "--max-tokens", "150", "--batch-size", "8", "--temperature", "1.2"]
    subprocess.run([*COMMAND, *given, "-o", str(tmp_path / "whole.jsonl")], check=True, capture_output=True)
    out, journal = tmp_path / "out.jsonl", tmp_path / "out.jsonl.partial"
    process = subprocess.Popen([*COMMAND, *given, "-o", str(out)], stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < until:
        if journal.is_file() and journal.stat().st_size:
            break
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not out.exists(), "it was killed before its end"
    subprocess.run([*COMMAND, *given, "-o", str(out)], check=True, capture_output=True)
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert read_json(tmp_path / "out.jsonl.manifest.json")["counts"]["resumed"] > 0
    texts = {x["completion"] for x in read_jsonl(out) if x["row"] == 1}
    assert len(texts) > 2, "the samples of a row differ"
    assert all(-9 < x["logprob"] < 0 for x in read_jsonl(out))


def test_a_row_without_a_gold_answer_is_not_cut_by_those_of_others() -> None:
    from adapters.extraction import local_engines

    words: Any = SimpleNamespace(completions=lambda texts: [text.split() for text in texts])
    source: Any = SimpleNamespace(model=SimpleNamespace(thinking=False))
    rows = [Example("a", "", (), "one two"), Example("b", "", ())]
    limits = [local_engines._limit(source, Drawing(2, 0.8), words, rows[:n]) for n in (1, 2)]
    assert limits == [32, 2048]


@pytest.mark.slow
def test_the_limit_is_by_the_gold_answers(tmp_path: Path, trained: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", funding_rows(4))
    assert invoke(trained, file, "-k", 1, "-o", tmp_path / "s.jsonl", "--temperature", 2)[0] == 0
    from adapters.backends.local import base_model
    from adapters.backends.local.encoder import Encoder
    from adapters.backends.local.tokenizer import load_tokenizer

    encoder = Encoder(load_tokenizer(base_model.resolve(str(trained.parent / "lively"))), thinking=False)
    golds = [TASK.example(row, id="x").completion or "" for row in funding_rows(4)]
    longest = max(map(len, encoder.completions(golds)))
    assert longest < max(x["tokens"] for x in read_jsonl(tmp_path / "s.jsonl")) <= 1.5 * longest + 16
