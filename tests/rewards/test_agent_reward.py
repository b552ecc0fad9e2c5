"""Discipline: the checks, the reward made of them, and what tries to earn it without discipline."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.evaluation import metrics
from adapters.rewards.agent import CHECKS, Agent, examine, same_action, tokens
from adapters.rewards.agent_formats import ENVS, read, write
from adapters.rewards.agent_sql import SqlError, execute, same_effect
from adapters.types import Example

TABLE = {"name": "t", "columns": ["Name", "Beds"], "rows": [["a", 3], ["b", 5], ["c", 8]]}
SQL = "SELECT COUNT(*) FROM `t` WHERE `Beds` > 4;"
OPERATE = write("dbbench", "I count.", "operate", SQL)
ANSWER = write("dbbench", "It is 2.", "answer", '["2"]')
CALL = write("fc", "I count.", "operate", SQL)
ACT = write("alfworld", "The desk may hold it.", "act", "go to desk 1")


def example(env: str, text: str, **gold: object) -> Example:
    turn = read(env, text)
    held = {"env": env, "action": {"kind": turn.kind, "argument": turn.argument}, **gold}
    return Example("x", "", ({"role": "user", "content": "?"},), completion=text, gold=held)


CASES = {
    OPERATE: example("dbbench", OPERATE, table=TABLE),
    ANSWER: example("dbbench", ANSWER),
    CALL: example("fc", CALL, table=TABLE),
    ACT: example("alfworld", ACT, actions=["go to desk 1", "look"]),
    "Thought: why\nAction: search[x]": example("react", "Thought: why\nAction: search[x]"),
}


@pytest.mark.parametrize("text", CASES)
def test_a_disciplined_turn_earns_everything(text: str) -> None:
    for reward in (Agent(), Agent(outcome=0.5), Agent(available=True)):
        scored = reward(text, CASES[text])
        assert scored.score == 1.0
        assert all(value == 1 for name, value in scored.parts.items() if name in CHECKS)
        assert scored.parts["same_action"] == 1


LONG = " ".join(["word"] * 90)
UNDISCIPLINED = [
    (OPERATE, "Certainly! I can help with that.\n" + OPERATE, "no_filler", 0.8),
    (OPERATE, OPERATE + "\nHave a nice day!", "action_is_last", 0.6),
    (OPERATE, OPERATE + "\nObservation: [(2,)]", "no_invented_observation", 0.6),
    (OPERATE, OPERATE + "\n" + OPERATE, "exactly_one_action", 0.8),
    (OPERATE, OPERATE.replace(";\n", "; DELETE FROM t;\n"), "exactly_one_action", 0.8),
    (OPERATE, f"{LONG}\n{OPERATE}", "short_thought", 0.945),
    (OPERATE, f"{LONG} {LONG}\n{OPERATE}", "short_thought", 0.9),
    (OPERATE, OPERATE.replace("```sql", "```SQL"), "parse_ok", 0.0),
    (ANSWER, ANSWER.replace('["2"]', "2"), "answer_is_json_list", 1.0),
    (ACT, ACT.replace("desk 1", "desk 7"), "in_available_actions", 1.0),
    (ACT, ACT.replace("ACTION", "Action"), "parse_ok", 0.0),
    (ACT, ACT + "\n ACTION: look", "exactly_one_action", 0.8),
    (ACT, "承知いたしました。\n" + ACT, "no_filler", 0.8),
    (ACT, ACT + "\nAVAILABLE ACTIONS: look", "no_invented_observation", 0.6),
]


@pytest.mark.parametrize(("text", "bad", "check", "score"), UNDISCIPLINED)
def test_each_lapse_is_seen_by_its_check(text: str, bad: str, check: str, score: float) -> None:
    turn = read(CASES[text].gold["env"], bad)
    assert examine(bad, turn, CASES[text].gold)[check] is False
    assert Agent()(bad, CASES[text]).score == pytest.approx(score)
    assert Agent()(bad, CASES[text]).score <= Agent()(text, CASES[text]).score


def test_three_times_the_same_is_a_loop() -> None:
    turn = read("alfworld", ACT)
    assert examine(ACT, turn, {"env": "alfworld", "previous": [ACT, ACT + "\n"]})["no_repeat3"] is False
    assert examine(ACT, turn, {"env": "alfworld", "previous": [ACT]})["no_repeat3"] is True
    assert examine(ACT, turn, {"env": "alfworld", "previous": [ACT, "ACTION: look"]})["no_repeat3"] is True


@pytest.mark.parametrize(
    "text", ["I make sure that certainly-named columns match.", "SURE!", "**Certainly**, yes", "ｃｅｒｔａｉｎｌｙ"]
)
def test_filler_in_other_clothes(text: str) -> None:
    turn = read("alfworld", f"{text}\n{ACT}")
    assert examine(f"{text}\n{ACT}", turn, {"env": "alfworld"})["no_filler"] is False


@pytest.mark.parametrize(
    "text", ["I am sure of it.", "The uncertainty remains.", "One must ensure order.", "Pressure, sure"]
)
def test_words_that_only_contain_filler(text: str) -> None:
    turn = read("alfworld", f"{text}\n{ACT}")
    assert examine(f"{text}\n{ACT}", turn, {"env": "alfworld"})["no_filler"] is True


def test_filler_inside_the_query_is_data() -> None:
    text = write("dbbench", "I look.", "operate", "SELECT * FROM `t` WHERE `Name` = 'Certainly! Observation: x';")
    held = examine(text, read("dbbench", text), {"env": "dbbench"})
    assert all(value is not False for value in held.values())


def test_a_constant_action_does_not_earn_the_outcome() -> None:
    """Format alone pays any well-formed action; `outcome` is what a constant policy cannot have."""
    constant = "ACTION: look"
    assert Agent()(constant, CASES[ACT]).score == 1.0
    assert Agent(outcome=0.5)(constant, CASES[ACT]).score == 0.5
    assert Agent(outcome=1.0)(constant, CASES[ACT]).score == 0.0


def test_an_action_that_was_not_listed() -> None:
    """By default form is all; with `available` it counts as one that cannot be read."""
    invented = ACT.replace("desk 1", "window 1")
    reward = Agent(available=True)
    assert Agent()(invented, CASES[ACT]).score == 1.0
    assert reward(invented, CASES[ACT]).score == 0.0
    assert reward(invented, CASES[ACT]).parts["in_available_actions"] == 0
    assert Agent(available=True, outcome=0.2)("ACTION: look", CASES[ACT]).score == 0.8
    assert reward(OPERATE, CASES[OPERATE]).score == 1.0, "a turn without a list"
    unlisted = example("alfworld", ACT)
    assert reward(invented, unlisted).score == 1.0
    assert reward.blind_to == ("another action",)


@pytest.mark.parametrize(
    "text", ["", " ", "\0", "Action:", "ACTION:", "Final Answer:", "```sql\n```", "I will do it now."]
)
def test_nothing_that_cannot_be_read_earns(text: str) -> None:
    for case in CASES.values():
        assert Agent()(text, case).score == 0


@given(st.text(max_size=300) | st.sampled_from([*CASES]).flatmap(lambda t: st.just(t) | st.text().map(lambda x: t + x)))
def test_scores_stay_in_range_and_follow_the_formula(text: str) -> None:
    for case in CASES.values():
        scored = Agent()(text, case)
        assert 0 <= scored.score <= 1
        turn = read(case.gold["env"], text)
        held = examine(text, turn, case.gold)
        length = tokens(turn.thought)
        expected = 0.5 * held["parse_ok"] + held["parse_ok"] * (
            0.2 * (held["exactly_one_action"] and held["action_is_last"])
            + 0.2 * (held["no_filler"] and held["no_invented_observation"])
            + 0.1 * max(0, 1 - max(0, length - 60) / 60)
        )
        assert scored.score == pytest.approx(expected)


@given(st.text(max_size=100), st.sampled_from(ENVS))
def test_adding_words_after_the_action_never_pays(extra: str, env: str) -> None:
    text = {"dbbench": OPERATE, "alfworld": ACT, "fc": CALL, "react": "Thought: why\nAction: search[x]"}[env]
    case = CASES[text]
    assert Agent()(f"{text}\n{extra}", case).score <= 1.0
    if extra.strip():
        assert Agent()(f"{text}\nx{extra}", case).score < 1.0


def test_tokens_cannot_be_hidden_by_leaving_out_spaces() -> None:
    assert tokens("I look at the desk.") == 6
    assert tokens("Ithinkaboutthisforaverylongtime" * 10) > 50
    assert tokens("長い考えをここに書き続けることはできない" * 5) > 15
    assert tokens("") == 0


def test_examples_without_gold_are_not_graded() -> None:
    bare = Example("x", "", ({"role": "user", "content": "?"},))
    assert Agent()(OPERATE, bare).score is None


@pytest.mark.parametrize(
    "settings_",
    [{"thought": 0}, {"thought": True}, {"filler": ("",)}, {"filler": ("**",)}, {"outcome": 1.5}, {"available": 1}],
)
def test_settings_are_checked(settings_: dict) -> None:
    with pytest.raises(ValueError, match=r"thought|filler|outcome|available"):
        Agent(**settings_)


def test_the_reward_goes_to_other_processes() -> None:
    reward = Agent(thought=30, filler=("well",))
    assert pickle.loads(pickle.dumps(reward)) == reward


def test_sql_is_compared_by_what_it_does() -> None:
    gold = CASES[OPERATE].gold
    for sql, same in (
        ("SELECT COUNT(`Name`) FROM t WHERE NOT Beds <= 4", True),
        ("select  count(*) from `t` where `beds` > 4", True),
        ("SELECT COUNT(*) FROM t", False),
        ("SELECT 2; DELETE FROM t", False),
        ("UPDATE t SET Beds = 0", False),
        ("SELEKT", False),
    ):
        turn = read("dbbench", write("dbbench", "I count.", "operate", sql))
        assert same_action(turn, gold) is same, sql
    assert same_effect(TABLE, "DELETE FROM t WHERE Name = 'a'", "DELETE FROM t WHERE Beds < 4")


@pytest.mark.parametrize(
    "sql",
    [
        "ATTACH DATABASE '{path}' AS x",
        "PRAGMA writable_schema = 1",
        "CREATE TABLE u (a)",
        "DROP TABLE t",
        "SELECT load_extension('x')",
        "SELECT * FROM sqlite_master",
        "VACUUM INTO '{path}'",
        "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT SUM(n) FROM r",
        "SELECT COUNT(*) FROM t a, t b, t c, t d, t e, t f, t g, t h, t i, t j, t k, t l, t m, t n, t o, t p",
        "SELECT hex(zeroblob(100000000))",
        "INSERT INTO t SELECT hex(zeroblob(4900)), 1 FROM t a, t b, t c, t d, t e, t f, t g, t h",
        "SELECT 1; SELECT 2",
        "",
        "\0",
    ],
)
def test_sql_that_is_more_than_a_query_fails(sql: str, tmp_path: Path) -> None:
    if sql.strip("\0"):
        with pytest.raises(SqlError):
            execute(TABLE, sql.format(path=tmp_path / "out.db"))
    assert not same_effect(TABLE, "SELECT 1", sql.format(path=tmp_path / "out.db"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("said", "gold", "same"),
    [
        ('["2"]', '["2.0"]', True),
        ('["2"]', '["3"]', False),
        ('["a", "b"]', '["b", "a"]', True),
        ('["a"]', '["a", "b"]', False),
        ("cor", '["a"]', False),
        ("[]", '["0"]', False),
        ("['2']", '["2"]', True),
    ],
)
def test_answers_are_compared_as_the_environment_does_without_running_them(said: str, gold: str, same: bool) -> None:
    turn = read("dbbench", write("dbbench", "So.", "answer", said))
    assert same_action(turn, {"env": "dbbench", "action": {"kind": "answer", "argument": gold}}) is same


def test_metric_and_reward_are_one() -> None:
    from adapters.tasks.agent import AgentTask

    task = AgentTask()
    counts = [task.counts(CASES[text].gold, bad) for text, bad, _, _ in UNDISCIPLINED]
    assert all(c["turn"]["discipline"] == (1, 1, 0) for c in counts)
    parts = [Agent()(bad, CASES[text]).parts for text, bad, _, _ in UNDISCIPLINED]
    figures = metrics.corpus(counts, intervals=False)["turn"]
    for name in (*CHECKS, "same_action"):
        held = [p[name] for p in parts if name in p]
        assert figures[name]["recall"] == pytest.approx(sum(held) / len(held)), name
    assert task.counts([], "x")["turn"]["discipline"] == (0, 0, 0)
