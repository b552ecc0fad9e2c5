"""Own trajectories, their corruptions, and the sets of pairs made of them, of rollouts and of a teacher's samples."""

from __future__ import annotations

import io
import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from chat_server import ChatServer
from tiny import write_jsonl
from typer.testing import CliRunner

from adapters.backends.echo import EchoBackend
from adapters.cli.main import app
from adapters.data import source_rows
from adapters.data.examples import prompt_key
from adapters.data_aug.agent import pairs as building
from adapters.data_aug.agent import synthesize, trajectory, turns
from adapters.data_aug.agent.corruptions import KINDS
from adapters.data_aug.agent.tables import domains
from adapters.errors import UserError
from adapters.pipeline.plan import make_plan
from adapters.pipeline.run import run_plan
from adapters.recipe.fields import SynthesizedSource
from adapters.recipe.load import load_recipe
from adapters.rewards.agent import Agent, tokens
from adapters.rewards.agent_formats import available, read
from adapters.rewards.agent_sql import execute
from adapters.tasks.agent import AgentTask


def cli(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    return done.exit_code, done.stdout, done.stderr


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# --- trajectories ---------------------------------------------------------------------------------------------------


def test_every_statement_runs_and_every_answer_is_what_came_back() -> None:
    kinds: Counter[str] = Counter()
    for i in range(0, 600, 2):
        held = trajectory(5, i)
        said = [m["content"] for m in held["messages"] if m["role"] == "assistant"]
        replies = [m["content"] for m in held["messages"] if m["role"] == "user"][1:]
        *operations, answer = [read("dbbench", text) for text in said]
        assert [o.kind for o in operations] == ["operate"] * len(operations)
        rows, after = execute(held["table"], operations[-1].argument)
        kinds[operations[-1].argument.split()[0]] += 1
        assert replies[-1] == str(rows)
        if operations[-1].argument.startswith("SELECT"):
            assert rows, "a question has an answer"
            assert json.loads(answer.argument) == [str(value) for row in rows for value in row]
        else:
            assert sorted(map(str, after)) != sorted(map(str, map(tuple, held["table"]["rows"]))), "the table changed"
    assert min(kinds[k] for k in ("SELECT", "INSERT", "UPDATE", "DELETE")) > 5


def test_every_household_action_is_available_and_the_plan_ends_the_task() -> None:
    for i in range(1, 601, 2):
        messages = trajectory(5, i)["messages"]
        for asked, said in zip(messages[::2], messages[1::2], strict=True):
            assert read("alfworld", said["content"]).argument in available(asked["content"])
        goal = messages[0]["content"].partition("Your task is to: ")[2].partition(".")[0]
        last = read("alfworld", messages[-1]["content"]).argument
        if goal.startswith("put a"):
            *_, thing, _, _, place = goal.split()
            assert last.startswith(f"put {thing} ")
            assert f" in/on {place} " in last
        else:
            assert last.startswith("use lamp")


def test_every_turn_is_disciplined_and_a_function_of_its_seed() -> None:
    rows = list(synthesize(300, 7))
    assert rows == list(synthesize(300, 7))
    assert rows[:20] == list(synthesize(20, 7))
    assert rows != list(synthesize(300, 8))
    task = AgentTask()
    for row in rows:
        example = task.example(row, id=row["id"])
        assert Agent(outcome=0.5)(example.completion, example).score == 1.0
        assert task.counts(example.gold, example.completion)["turn"]["discipline"] == (1, 1, 1)
    assert len({json.dumps([row["messages"], row["completion"]]) for row in rows}) > 290


def test_unseen_tasks_share_no_table_and_no_room() -> None:
    assert len(domains()["seen"]) >= 10
    assert not {d.table for d in domains()["seen"]} & {d.table for d in domains()["unseen"]}
    seen, unseen = (
        {prompt_key(AgentTask().example(row)) for row in data_rows(name)} for name in ("agent", "agent_unseen")
    )
    assert not seen & unseen
    text = json.dumps(data_rows("agent_unseen"))
    assert not any(f"`{d.table}`" in text for d in domains()["seen"])
    assert "kitchen" not in text


def data_rows(name: str, n: int = 200) -> list[dict]:
    return [row for _, row in source_rows.read(SynthesizedSource(synthesize=name, n=n, seed=3), Path())]


def test_only_the_last_turn_of_the_user_lists_actions() -> None:
    rows = turns(trajectory(5, 1))
    assert len(rows) > 3
    for row in rows:
        listed = [available(m["content"]) is not None for m in row["messages"] if m["role"] == "user"]
        assert listed == [False] * (len(listed) - 1) + [True]
        assert row["actions"] == available(row["messages"][-1]["content"])


def test_a_wrong_turn_is_context_and_never_a_target() -> None:
    held = next(t for i in range(0, 200, 2) if len((t := trajectory(5, i))["messages"]) == 6)
    assert "no such table" in held["messages"][2]["content"]
    rows = turns(held)
    assert [row["completion"] for row in rows] == [m["content"] for m in held["messages"][3::2]]
    assert all(set(m) == {"role", "content"} for row in rows for m in row["messages"])


def test_greetings_are_context() -> None:
    messages = [{"role": "user", "content": "Rules."}, {"role": "assistant", "content": "OK."}]
    messages += [{"role": "user", "content": "Go."}, {"role": "assistant", "content": "ACTION: look"}]
    [row] = turns({"env": "alfworld", "messages": messages}, prompt="prompt")
    assert [m["content"] for m in row["prompt"]] == ["Rules.", "OK.", "Go."]
    for bad in ({"env": "web", "messages": messages}, {"env": "alfworld"}, {"env": "alfworld", "messages": ["x"]}):
        with pytest.raises(ValueError, match=r"env|messages"):
            turns(bad)


# --- corruptions ----------------------------------------------------------------------------------------------------

LAPSE = {
    "filler": {"no_filler", "action_is_last"},
    "delayed": {"short_thought"},
    "recursive": {"short_thought"},
    "two_actions": {"exactly_one_action"},
    "observation": {"no_invented_observation"},
    "wrong_format": {"parse_ok"},
    "no_action": {"parse_ok"},
    "unavailable": {"in_available_actions"},
}
KEEPS = {"filler", "delayed", "recursive", "two_actions", "observation"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_breaks_what_it_says_and_keeps_what_it_should(kind: str) -> None:
    made = 0
    for n, row in enumerate(synthesize(120, 11)):
        pair = building.pair(row, kind, random.Random(n))
        if pair is None:
            continue
        made += 1
        chosen, rejected = pair["chosen"][0]["content"], pair["rejected"][0]["content"]
        assert chosen == row["completion"] != rejected
        example = AgentTask().example(row)
        good, bad = Agent()(chosen, example), Agent()(rejected, example)
        assert good.score == 1.0
        assert pair["meta"]["same_action"] == (kind in KEEPS)
        assert pair["meta"]["readable"] == (bad.parts["parse_ok"] == 1)
        if kind == "loop":
            assert rejected in [m["content"] for m in row["messages"]]
        else:
            assert any(bad.parts[check] == 0 for check in LAPSE[kind]), rejected
            assert (bad.score < 1.0) == (kind != "unavailable"), "the reward knows no list of actions"
    assert made >= {"loop": 40, "unavailable": 50}.get(kind, 115)


def test_control_pairs_have_the_longer_side_chosen() -> None:
    made = data_rows("agent_control", 60)
    figures = building.audit(made)
    assert figures["shorter_is_chosen"] == 0
    assert figures["control"] == 1
    for pair in made:
        example = AgentTask().example(pair)
        assert Agent()(example.completion, example).score == 1.0
        assert tokens(read(pair["env"], example.completion).thought) <= 60


def test_the_card_s_scale_and_balance() -> None:
    made = data_rows("agent_pairs", building.CARD)
    figures = building.audit(made, building.Rules())
    assert figures["pairs"] == 157
    assert sorted(figures["domains"].values()) == [78, 79]
    assert set(figures["kinds"]) == set(KINDS)
    assert figures["kinds"].pop("unavailable") >= 8, "only in households"
    assert min(figures["kinds"].values()) >= 12
    assert made == data_rows("agent_pairs", 157)
    assert made[:10] == data_rows("agent_pairs", 10), "row i is a function of seed and i"


def test_sets_that_would_teach_something_else_are_refused() -> None:
    made = data_rows("agent_pairs", 157)

    def only(keep: object) -> list[dict]:
        return [p for p in made if keep(p)]  # type: ignore[operator]

    for rows, text in (
        ([], "no pair is left"),
        (only(lambda p: p["meta"]["task"] == "dbbench"), "100% of the pairs are dbbench"),
        (only(lambda p: p["meta"]["kind"] in ("no_action", "wrong_format")), "are no shorter"),
        (only(lambda p: not p["meta"]["same_action"]), "keep the action"),
        (only(lambda p: p["meta"]["readable"]), "cannot be read"),
    ):
        with pytest.raises(building.PairsError, match=text):
            building.audit(rows, building.Rules())


def test_an_undisciplined_turn_is_no_chosen_side() -> None:
    row = next(iter(synthesize(1, 1)))
    for text in (
        f"Certainly!\n{row['completion']}",
        f"{row['completion']}\nBye",
        "word " * 90 + row["completion"],
        "x",
    ):
        assert building.pair({**row, "completion": text}, "filler", random.Random(1)) is None


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_corrupt_writes_pairs_that_dpo_reads(tmp_path: Path) -> None:
    code, shown, _ = cli("pairs", "corrupt", "-o", tmp_path / "p.jsonl", "--json")
    assert code == 0
    figures = json.loads(shown)
    assert (figures["pairs"], figures["too_long"], figures["duplicates"]) == (157, 0, 0)
    held = lines(tmp_path / "p.jsonl")
    assert {*held[0]} == {"id", "prompt", "chosen", "rejected", "gold", "meta"}
    assert held[0]["prompt"][0]["role"] == "user"
    assert held[0]["prompt"][-1]["role"] == "user"
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        f"name: r\ntask: agent\nmodel: {{base: x}}\ntrainer: echo\nrun_dir: {tmp_path}/runs\n"
        "stages: [{kind: dpo, data: [{path: p.jsonl}], learning_rate: 1e-5, max_length: 400}]\n"
    )
    file = load_recipe(recipe)
    job = make_plan(file, EchoBackend(file.recipe)).jobs[0]
    assert len(job.examples) + len(job.validation) + job.too_long == 157
    assert job.examples[0].gold["env"] in ("dbbench", "alfworld")
    # The recipe's tokens decide what is too long.
    recipe.write_text(recipe.read_text().replace("max_length: 400", "max_length: 260"))
    code, shown, _ = cli("pairs", "corrupt", "-o", tmp_path / "q.jsonl", "--recipe", recipe, "--json")
    assert code == 0
    assert json.loads(shown)["too_long"] > 0


def test_corrupt_reads_trajectories_and_turns(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "t.jsonl", [trajectory(2, i) for i in range(60)])
    code, shown, _ = cli("pairs", "corrupt", tmp_path / "t.jsonl", "-o", tmp_path / "p.jsonl", "-n", 80, "--json")
    assert (code, json.loads(shown)["pairs"]) == (0, 80)
    held = lines(tmp_path / "p.jsonl")
    assert all("You answer questions" not in p["prompt"][0]["content"] for p in held), "a trajectory is complete"
    rows = [
        {"env": "react", "prompt": f"Find {n}.", "completion": f"Thought: hm\nAction: find[{n}]"} for n in range(20)
    ]
    write_jsonl(tmp_path / "t.jsonl", [*rows, *synthesize(20, 5)])
    code, shown, said = cli("pairs", "corrupt", tmp_path / "t.jsonl", "-o", tmp_path / "p.jsonl", "--json")
    assert code == 0, said
    assert json.loads(shown)["domains"] == {"react": 20, "dbbench": 10, "alfworld": 10}


def test_corrupt_refuses_and_explains(tmp_path: Path) -> None:
    out = tmp_path / "p.jsonl"
    code, _, said = cli("pairs", "corrupt", "-o", out, "--kinds", "no_action,wrong_format")
    assert code == 3
    assert "refused: " in said
    assert "add kinds such as filler" in said
    code, _, said = cli("pairs", "corrupt", "-o", out, "--kinds", "filer")
    assert (code, "Did you mean filler?" in said) == (2, True)
    code, _, said = cli("pairs", "corrupt", "-o", out, "--preset", "crad")
    assert (code, "Did you mean card?" in said) == (2, True)
    for row, text in (
        ({"env": "web", "messages": []}, "env must be one of"),
        ({"env": "web", "prompt": "Go.", "completion": "ACTION: look"}, "env must be one of"),
        ({"env": "alfworld", "completion": "ACTION: look"}, "needs its conversation"),
        ({"env": "alfworld", "prompt": "Go.", "completion": "look"}, "finds no action"),
    ):
        write_jsonl(tmp_path / "t.jsonl", [row])
        code, _, said = cli("pairs", "corrupt", tmp_path / "t.jsonl", "-o", out)
        assert code == 2
        assert "line 1: " in said
        assert text in said
    assert not out.exists()


# --- mining ---------------------------------------------------------------------------------------------------------

GRPO = """name: g
task: agent
model: {base: x}
trainer: echo
run_dir: RUNS
stages:
  - kind: grpo
    data: [{synthesize: agent, n: 12, seed: 3}]
    batch_size: 4
    learning_rate: 1e-5
    rewards: [{use: agent, weight: 2.0}, {use: ./odd.py:odd, weight: -1.0}]
"""


@pytest.fixture
def graded_run(tmp_path: Path) -> Path:
    (tmp_path / "odd.py").write_text("def odd(completion, example):\n    return 0.0\n")
    path = tmp_path / "g.yaml"
    path.write_text(GRPO.replace("RUNS", str(tmp_path / "runs")))
    file = load_recipe(path)
    made = make_plan(file, EchoBackend(file.recipe))
    run_plan(made, EchoBackend(file.recipe))
    stage = made.folder / "1-grpo"
    entries = []
    for e in made.jobs[0].examples[:6]:
        for text, score in ((e.completion, 1.0), (f"Sure! {e.completion}", 0.8), ("I will act.", 0.0), ("", 0.0)):
            for name, value in (("agent", score), ("odd", 0.5 * (text == "I will act."))):
                entries.append({"step": 1, "id": e.id, "reward": name, "score": value, "completion": text})
    write_jsonl(stage / "rollouts-0.jsonl", entries[::2])
    write_jsonl(stage / "rollouts-1.jsonl", entries[1::2])
    return made.folder


@pytest.mark.slow
def test_mined_pairs_are_best_against_worst(graded_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.jsonl"
    for source in (graded_run, graded_run / "1-grpo"):
        code, shown, said = cli("pairs", "mine", source, "-o", out, "--json")
        assert code == 0, said
        assert json.loads(shown)["pairs"] == 6
    for row in lines(out):
        assert row["rejected"][0]["content"] == "I will act."
        assert row["meta"]["chosen_score"] == pytest.approx(2 / 3)
        assert row["meta"]["rejected_score"] == pytest.approx(-0.5 / 3)
        assert row["gold"]["action"]["argument"] in row["chosen"][0]["content"].lower() + row["chosen"][0]["content"]
    code, shown, _ = cli("pairs", "mine", graded_run, "-o", out, "--per-prompt", 2, "--margin", 0.05, "--json")
    assert (code, json.loads(shown)["pairs"]) == (0, 6), "a third text is left alone"
    code, _, said = cli("pairs", "mine", graded_run, "-o", tmp_path / "none.jsonl", "--margin", 0.9)
    assert (code, "no pair is left" in said) == (3, True)
    assert not (tmp_path / "none.jsonl").exists()


def test_samples_of_any_model_are_graded_here(tmp_path: Path) -> None:
    rows = list(synthesize(8, 4))
    write_jsonl(tmp_path / "rows.jsonl", rows)
    samples = [{"id": r["id"], "completion": text} for r in rows for text in (r["completion"], "I think so.")]
    write_jsonl(tmp_path / "samples.jsonl", samples)
    code, _, said = cli("pairs", "mine", tmp_path / "samples.jsonl", "-o", tmp_path / "p.jsonl")
    assert (code, "--rows" in said) == (2, True)
    arguments = ("pairs", "mine", tmp_path / "samples.jsonl", "--rows", tmp_path / "rows.jsonl", "--json")
    code, shown, _ = cli(*arguments, "-o", tmp_path / "p.jsonl")
    assert (code, json.loads(shown)["pairs"]) == (0, 8)
    assert {p["rejected"][0]["content"] for p in lines(tmp_path / "p.jsonl")} == {"I think so."}
    write_jsonl(tmp_path / "samples.jsonl", [{"id": "nobody", "completion": "x"}])
    code, _, said = cli(*arguments, "-o", tmp_path / "p.jsonl")
    assert (code, "'nobody'" in said) == (2, True)


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    code, _, said = cli("pairs", "mine", tmp_path, "-o", tmp_path / "p.jsonl")
    assert (code, "no run folder" in said) == (2, True)


# --- a teacher ------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    rows = list(synthesize(8, 4))
    write_jsonl(tmp_path / "rows.jsonl", rows)
    monkeypatch.setattr("urllib3.util.retry.time.sleep", lambda _: None)
    monkeypatch.setenv("TEACHER_KEY", "s3cret")
    with ChatServer({r["messages"][-1]["content"]: r["completion"] for r in rows}) as held:
        yield held


def teach(server: ChatServer, tmp_path: Path, *more: object) -> tuple[int, str, str]:
    fixed = ("--endpoint", server.url, "--model", "big", "--key", "TEACHER_KEY", "--json", "-o", tmp_path / "p.jsonl")
    return cli("pairs", "teach", tmp_path / "rows.jsonl", *fixed, *more)


@pytest.mark.slow
def test_a_teacher_s_best_against_its_worst(server: ChatServer, tmp_path: Path) -> None:
    server.script = [429, 200, 503]
    code, shown, said = teach(server, tmp_path, "-n", 2, "--margin", 0.1)
    assert code == 0, said
    assert json.loads(shown)["pairs"] == 8
    assert {c["key"] for c in server.calls} == {"Bearer s3cret"}
    assert {(c["path"], c["model"], c["n"], c["max_tokens"]) for c in server.calls} == {
        ("/v1/chat/completions", "big", 2, 256)
    }
    assert len(server.calls) == 10, "two were asked again"
    held = lines(tmp_path / "p.jsonl")
    assert all(p["rejected"][0]["content"].startswith("Certainly!") for p in held)
    assert {p["meta"]["teacher"] for p in held} == {"big"}
    assert "s3cret" not in (tmp_path / "p.samples.jsonl").read_text()
    again = len(server.calls)
    assert teach(server, tmp_path, "-n", 2, "--margin", 0.1)[0] == 0
    assert len(server.calls) == again, "what is there is not asked for again"
    server.one_choice = True
    assert teach(server, tmp_path, "-n", 4, "--margin", 0.1)[0] == 0
    assert len(server.calls) == again + 16, "a server may give one choice at a time"


@pytest.mark.slow
def test_a_good_teacher_s_turns_are_corrupted(server: ChatServer, tmp_path: Path) -> None:
    code, shown, said = teach(server, tmp_path, "-n", 1)
    assert code == 0, said
    figures = json.loads(shown)
    assert figures["pairs"] == 8
    assert set(figures["kinds"]) <= set(KINDS)
    assert teach(server, tmp_path, "-n", 1, "--no-corrupt")[0] == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "text"),
    [
        (400, "refuses the request for model 'big': HTTP 400: busy"),
        (401, "refuses the key in TEACHER_KEY (HTTP 401: busy)"),
        (404, "refuses the request for model 'big': HTTP 404: busy"),
        (500, "failed in 10 tries, the last with HTTP 500: busy"),
    ],
)
def test_what_a_server_refuses_is_said_once(server: ChatServer, tmp_path: Path, status: int, text: str) -> None:
    server.script = [status] * 100
    code, _, said = teach(server, tmp_path, "-n", 1)
    assert code == 2
    assert text in said
    assert "s3cret" not in said
    assert not (tmp_path / "p.jsonl").exists()


def test_a_prompt_that_a_server_refuses_costs_itself(server: ChatServer, tmp_path: Path) -> None:
    server.script = [400]
    code, shown, said = teach(server, tmp_path, "-n", 1)
    assert code == 0, said
    assert json.loads(shown)["pairs"] == 7
    held = lines(tmp_path / "p.samples.jsonl")
    assert [row["refused"] for row in held if "refused" in row] == [
        f"{server.url} refuses the request for model 'big': HTTP 400: busy"
    ]
    assert teach(server, tmp_path, "-n", 1)[0] == 0
    assert len(server.calls) == 8, "it is not asked again"


def test_a_server_that_is_not_there(server: ChatServer, tmp_path: Path) -> None:
    server.url = "http://127.0.0.1:9/v1"
    code, _, said = teach(server, tmp_path, "-n", 1)
    assert (code, "does not answer" in said) == (2, True)
    server.url = "nonsense"
    code, _, said = teach(server, tmp_path, "-n", 1)
    assert (code, "give the server's address" in said) == (2, True)


@pytest.mark.slow
def test_shares_are_one_figure_in_the_table(tmp_path: Path) -> None:
    from rich.console import Console

    from adapters.cli import tables

    path = tmp_path / "g.yaml"
    text = GRPO.replace("RUNS", str(tmp_path / "runs")).partition("  - kind: grpo")[0]
    path.write_text(
        text + "  - {kind: sft, data: [{synthesize: agent, n: 12, seed: 3}], batch_size: 4, learning_rate: 1e-5}\n"
        "evaluate: [{name: seen, data: [{synthesize: agent, n: 12, seed: 3}]}]\n"
    )
    file = load_recipe(path)
    backend = EchoBackend(file.recipe)
    report = run_plan(make_plan(file, backend), backend)
    shown = io.StringIO()
    for table in tables.result_tables(report):
        Console(width=80, file=shown).print(table)
    assert "discipline" in shown.getvalue()
    assert "1.000 (1.00-1.00)" in shown.getvalue()
    assert "…" not in shown.getvalue()
    assert report["sets"]["seen"]["1-sft"]["metrics"]["turn"]["same_action"]["recall"] == 1
    assert report["sets"]["seen"]["base"]["metrics"]["turn"]["discipline"]["recall"] == 0


# --- the task -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"env": "web"}, "env must be one of"),
        ({"completion": "I will look."}, "finds no action in the target"),
        ({"messages": []}, "prompt must be"),
        ({"messages": None}, "needs its conversation"),
        ({"actions": "look"}, "actions must be a list"),
        ({"table": {"name": "t", "columns": ["a"], "rows": [[1, 2]]}}, "table must have"),
    ],
)
def test_bad_rows_are_refused_with_a_reason(change: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        AgentTask().example({**next(iter(synthesize(1, 1))), **change})


def test_prompts_of_one_s_own_are_left_alone() -> None:
    row = {"env": "alfworld", "prompt": "Go. AVAILABLE ACTIONS: look\ninventory", "completion": "ACTION: look"}
    example = AgentTask().example(row)
    assert example.prompt == ({"role": "user", "content": row["prompt"]},)
    assert example.gold["actions"] == ["look", "inventory"]
    unlabelled = AgentTask(env="alfworld").example({"prompt": "Go."})
    assert (unlabelled.completion, unlabelled.gold["action"]) == (None, None)
    with pytest.raises(ValueError, match="phrases"):
        AgentTask(filler=("",))


def test_unknown_generators_are_named() -> None:
    with pytest.raises(UserError, match="Did you mean agent"):
        source_rows.read(SynthesizedSource(synthesize="agnt", n=1), Path())
