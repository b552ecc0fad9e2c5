"""All that a task promises is tried before anything is trained, and a fault names the task, the method and the row."""

from __future__ import annotations

import json
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tiny import funding_rows, ie_rows, write_jsonl
from typer.testing import CliRunner

from adapters.cli.main import app
from adapters.data.noise import NoiseStats, make_row_noiser
from adapters.plugins import task_bench, task_calls
from adapters.plugins.registry import resolve
from adapters.plugins.task_bench import METHODS, check_is_task, try_task
from adapters.recipe.fields import NoiseSpec, PluginSpec
from adapters.testing import check_task, task_rows

runner = CliRunner()
HEAD = (Path(__file__).parents[2] / "src/adapters/cli/templates/task.txt").read_text()
GOOD = HEAD.replace("{{", "{").replace("}}", "}").replace("{cls}", "Good")
ROWS = [
    {"id": "m1", "text": "A lamp and a book.", "items": ["lamp", "book"]},
    {"id": "m2", "text": "A key.", "items": ["key"]},
    {"id": "m3", "text": "Nothing.", "items": []},
]
RECIPE = """name: mine
task: ./mine.py:Mine
model: {base: none}
trainer: echo
stages:
  - {kind: sft, data: [{path: rows.jsonl}], learning_rate: 1e-4, validation: 0, batch_size: 1}
evaluate:
  - {name: test, data: [{path: rows.jsonl}]}
"""
EXTRACTING = """    def request(self, row):
        return ({"role": "user", "content": row["text"]},)
    def record(self, answer):
        if not isinstance(answer, list):
            raise ValueError("not a list")
        return answer
    def answer_schema(self):
        return None
    def record_schema(self):
        return {"type": "array"}
"""
FAULTS = {
    "counts missing": ("    counts = None\n", "the task ./mine.py:Mine has no counts(gold, completion)"),
    "is_well_formed missing": ("    is_well_formed = None\n", "has no is_well_formed(completion)"),
    "counts fails on other types than texts": (
        "    def counts(self, gold, completion):\n"
        "        words = json.loads(completion) if read(completion) or completion[:5] == '[null' else []\n"
        "        said = {word.casefold() for word in words}\n"
        "        return {'exact': {'item': Counts(len(gold), len(said), len({*gold} & said))}}\n",
        "counts fails on JSON of other types of row 'm1': AttributeError: 'NoneType' object has no",
    ),
    "counts fails where text is no JSON": (
        "    def counts(self, gold, completion):\n"
        "        n = len(json.loads(completion)) if completion else 0\n"
        "        return {'exact': {'item': Counts(len(gold), n, min(n, len(gold)))}}\n",
        "counts fails on garbage of row 'm1': JSONDecodeError: Expecting value",
    ),
    "gold scores less than 1": (
        "    def counts(self, gold, completion):\n"
        "        said = read(completion) or set()\n"
        "        return {'exact': {'item': Counts(len(gold), len(said), len({*gold} & {s.upper() for s in said}))}}\n",
        "counts gives gold of row 'm1' less than F = 1: 2 labelled, 2 predicted, 0 matched in item (exact)",
    ),
    "the empty answer scores": (
        "    def counts(self, gold, completion):\n"
        "        return {'exact': {'item': Counts(len(gold), len(gold), len(gold))}}\n",
        "counts finds something in the empty answer of row 'm1': 2 labelled, 2 predicted, 2 matched in item (exact)",
    ),
    "something is found where nothing is": (
        "    def counts(self, gold, completion):\n"
        "        said = read(completion) or set()\n"
        "        return {'exact': {'item': Counts(len(gold), len(said) or not completion, len({*gold} & said))}}\n",
        "counts finds something in empty text of row 'm3': 0 labelled, 1 predicted, 0 matched in item (exact)",
    ),
    "counts of another shape": (
        "    def counts(self, gold, completion):\n        return {'item': Counts(1, 1, 1)}\n",
        "counts gives {'item': Counts(gold=1, pred=1, matched=1)} for gold of row 'm1', not {mode: {field: Counts}}",
    ),
    "counts of not-a-number": (
        "    def counts(self, gold, completion):\n        return {'exact': {'item': Counts(1, float('nan'), 0)}}\n",
        "for gold of row 'm1', not {mode: {field: Counts}} of finite numbers",
    ),
    "fields differ from row to row": (
        "    def counts(self, gold, completion):\n"
        "        said = read(completion) or set()\n"
        "        found = {g: Counts(1, g in said, g in said) for g in gold}\n"
        "        return {'exact': found or {'item': Counts(0, len(said), 0)}}\n",
        "counts has other modes or fields for gold of row 'm2' than before: exact: key",
    ),
    "is_well_formed refuses gold": (
        "    def is_well_formed(self, completion):\n        return completion == ''\n",
        "is_well_formed is False for gold of row 'm1'",
    ),
    "is_well_formed fails": (
        "    def is_well_formed(self, completion):\n        return bool(json.loads(completion)) or True\n",
        "is_well_formed fails on empty text of row 'm1': JSONDecodeError",
    ),
    "example raises something else": (
        "    def example(self, row, *, source='', id=''):\n        raise KeyError('words')\n",
        "the task Mine: example fails on row 'm1': KeyError: 'words'. For a row that cannot be used it must raise",
    ),
    "example fails on a row without text": (
        "    def example(self, row, *, source='', id=''):\n"
        "        return super().example(row | {'text': row['text'].strip() or '-'}, source=source, id=id)\n",
        "example fails on no text in text of row 'm1': AttributeError: 'NoneType' object has no attribute 'strip'",
    ),
    "gold differs from example's": (
        "    def gold(self, row):\n"
        "        return super().gold(row) if row.get('text') is None else [*super().gold(row)]\n"
        "    def example(self, row, **names):\n"
        "        made = super().example(row, **names)\n"
        "        return Example(made.id, made.source, made.prompt, made.completion, gold=[*made.gold, 'x'])\n",
        "gold returns another value than example's gold for row 'm1'",
    ),
    "gold fails": (
        "    def gold(self, row):\n        raise TypeError('no')\n",
        "example fails on row 'm1': TypeError: no",
    ),
    "labels fail": (
        "    def labels(self, row):\n        return [Label(('items', 0), 'exact', row['items'][0])]\n",
        "labels fails on the labels of row 'm3': IndexError: list index out of range",
    ),
    "labels are no labels": (
        "    def labels(self, row):\n        return row['items']\n",
        "labels gives 'lamp' for row 'm1', not Label(path, kind, text)",
    ),
    "empty_answer fails": (
        "    def empty_answer(self, example):\n        return example.meta['none']\n",
        "empty_answer fails on the example of row 'm1': KeyError: 'none'",
    ),
    "empty_answer is no text": (
        "    def empty_answer(self, example):\n        return []\n",
        "empty_answer returns list for row 'm1', not a text",
    ),
    "decode raises something else": (
        EXTRACTING + "    def decode(self, completion):\n        return json.loads(completion)['items']\n",
        "decode fails on gold of row 'm1': TypeError: list indices must be integers or slices, not str",
    ),
    "record refuses gold": (
        EXTRACTING + "    def record(self, answer):\n        raise ValueError('not an object')\n",
        "record fails on gold of row 'm1': ValueError: not an object",
    ),
    "record raises something else on other types": (
        EXTRACTING + "    def record(self, answer):\n        return [text.strip() for text in answer]\n",
        "record fails on NaN of row 'm1': AttributeError: 'float' object has no attribute 'strip'",
    ),
    "no schema of a record": (
        EXTRACTING + "    def record_schema(self):\n        return None\n",
        "record_schema returns NoneType, not a JSON schema",
    ),
    "adversarial fails": (
        "    def adversarial(self, example):\n        return {'first': example.gold[0]}\n",
        "adversarial fails on the example of row 'm3': IndexError",
    ),
}


def changed(**parts: str) -> str:
    """An `example` with other parts."""
    named = ", ".join(f"{part}={value}" for part, value in parts.items())
    return f"""    def example(self, row, **names):
        from dataclasses import replace
        e = super().example(row, **names)
        return replace(e, {named})
"""


EXAMPLES = {
    "a dict": (
        "    def example(self, row, **names):\n        return {'prompt': row['text']}\n",
        "returns dict, and must return adapters.types.Example(…),",
    ),
    "a prompt that is a text": (changed(prompt="row['text']"), "gives str as prompt, not a tuple of messages"),
    "no messages": (changed(prompt="()"), "gives a prompt without messages"),
    "messages that are texts": (changed(prompt="('x',)"), "gives str as message 1 of the prompt, not an object"),
    "no content": (changed(prompt="({'role': 'user'},)"), "gives message 1 of the prompt no content"),
    "content is None": (
        changed(prompt="(*e.prompt, {'role': 'user', 'content': None})"),
        "gives None as content of message 3 of the prompt, which only a message with tool_calls may have,",
    ),
    "content is a list": (
        changed(prompt="({'role': 'user', 'content': ['x']},)"),
        "gives list as content of message 1 of the prompt, not a text,",
    ),
    "an unknown role": (
        changed(prompt="({'role': 'human', 'content': 'x'},)"),
        "gives the role 'human' to message 1 of the prompt (known: system, developer, user, ",
    ),
    "completion is a dict": (changed(completion="{}"), "gives dict as completion, not a text,"),
    "rejected is a list": (changed(rejected="[]"), "gives list as rejected, not a text,"),
    "id is a number": (changed(id="1"), "gives int as id, not a text,"),
    "meta is None": (changed(meta="None"), "gives None as meta, not a mapping"),
    "meta is a list": (changed(meta="[1]"), "gives list as meta, not a mapping"),
}
TRIED = {
    "no completion": (
        changed(completion="None"),
        "example gives no completion, which SFT trains on, for row 'm1' with 2 labelled values",
    ),
    "an unknown kind": (
        "    def labels(self, row):\n        return [Label(('items', 0), 'fuzzy', 'lamp')][: len(row['items'])]\n",
        "labels gives the unknown kind 'fuzzy' for row 'm1'. Known: exact, fixed, id, name, scheme, title",
    ),
    "a path that is not there": (
        "    def labels(self, row):\n        return [Label(('items', 7), 'exact', 'lamp')]\n",
        "labels gives the path ('items', 7) for row 'm1', which has nothing there",
    ),
    "a path through a text": (
        "    def labels(self, row):\n        return [Label(('text', 'x'), 'exact', 'lamp')]\n",
        "labels gives the path ('text', 'x') for row 'm1', which has nothing there",
    ),
    "another text": (
        "    def labels(self, row):\n        return [Label(('items', 0), 'exact', 'book')]\n",
        "labels gives the text 'book' for row 'm1', which has 'lamp' at ('items', 0)",
    ),
}
LOOP = (
    "        while True:\n            try:\n                pass\n            except Exception:\n                pass\n"
)
HANGS = {
    "is_well_formed": (
        f"    def is_well_formed(self, completion):\n        if completion:\n            return True\n{LOOP}",
        "is_well_formed does not end on empty text of row 'm1': a timer (SIGALRM) stopped it after 0.2 s in mine.py, ",
    ),
    "counts": (
        f"    def counts(self, gold, completion):\n{LOOP}",
        "counts does not end on gold of row 'm1': a timer (SIGALRM) stopped it after 0.2 s in mine.py, line ",
    ),
    "labels": (
        "    def labels(self, row):\n        import re\n        re.match('(a*)*b', 'a' * 40)\n        return []\n",
        "labels does not end on the labels of row 'm1': a timer (SIGALRM) stopped it after 0.2 s in __init__.py, line ",
    ),
    "example": (
        f"    def example(self, row, **names):\n{LOOP}",
        "example does not end on row 'm1': a timer (SIGALRM) stopped it after 0.2 s in mine.py, line ",
    ),
}
COMMANDS = (["check", "mine.yaml"], ["run", "mine.yaml", "--dry-run"], ["run", "mine.yaml"])
TEST = ["tasks", "test", "./mine.py:Mine"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.py").write_text(GOOD)
    (tmp_path / "mine.yaml").write_text(RECIPE)
    write_jsonl(tmp_path / "rows.jsonl", ROWS)
    return tmp_path


def write_task(folder: Path, body: str) -> None:
    (folder / "mine.py").write_text(
        "import json\nfrom good import Counts, Example, Good, Label, read\n\n\nclass Mine(Good):\n" + body
    )


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_sentence_before_anything_starts(fault: str, folder: Path) -> None:
    body, text = FAULTS[fault]
    write_task(folder, body)
    run = runner.invoke(app, ["run", "mine.yaml"])
    assert (run.exit_code, run.exception.__class__) == (2, SystemExit)
    assert run.stderr.startswith("mine.yaml:2: task: ")
    assert run.stderr.count("\n") == 1
    assert text in run.stderr
    assert not (folder / "runs").exists()


def test_the_same_sentence_comes_from_check_dry_run_run_and_test(folder: Path) -> None:
    body, text = FAULTS["gold scores less than 1"]
    write_task(folder, body)
    for command in (["check", "mine.yaml"], ["run", "mine.yaml", "--dry-run"], ["run", "mine.yaml"]):
        done = runner.invoke(app, command)
        assert done.exit_code == 2
        assert f"mine.yaml:2: task: the task ./mine.py:Mine: {text}." in " ".join(done.output.split())
    tested = runner.invoke(app, ["tasks", "test", "./mine.py:Mine", "--data", "rows.jsonl"])
    assert tested.exit_code == 1
    assert f"error: the task ./mine.py:Mine: {text}" in tested.stdout
    assert "not fit to train on, tried on 3 rows" in tested.stdout
    with pytest.raises(AssertionError, match=r"is not fit to train on:\n.*less than F = 1"):
        check_task("./mine.py:Mine", "rows.jsonl")


def test_labels_that_fail_on_a_later_row_are_a_sentence_too(folder: Path) -> None:
    rows = [{"id": f"r{n}", "text": f"Key {n}.", "items": ["Key"]} for n in range(30)]
    write_jsonl(folder / "rows.jsonl", [*rows, {"id": "last", "text": "None.", "items": []}])
    write_task(folder, FAULTS["labels fail"][0])
    done = runner.invoke(app, ["run", "mine.yaml", "stages.0.noise=dashes"])
    assert done.exit_code == 2
    assert "the task Mine: labels fails on row 'last': IndexError: list index out of range." in done.stderr


def test_noise_that_fails_is_a_sentence(folder: Path) -> None:
    write_task(folder, "    pass\n")
    (folder / "bad.py").write_text("def noise(text, rng, protected):\n    return [(0, 1, 'x')]\n")
    done = runner.invoke(app, ["run", "mine.yaml", "stages.0.noise={use: './bad.py:noise', share: 1.0}"])
    assert done.exit_code == 2
    assert "the noise ./bad.py:noise fails on row 'm1': " in done.stderr


@pytest.mark.parametrize("policy", ["protect", "follow", "clean"])
def test_noise_leaves_labels_that_are_json_text_alone(policy: str, tmp_path: Path) -> None:
    row = {"id": "a", "funding_statement": "Paid by the Wellcome Trust, AB 1.", "funders": json.dumps([
        {"funder_name": "Wellcome Trust", "awards": [{"award_ids": ["AB 1"]}]}
    ])}  # fmt: skip
    task = resolve("tasks", PluginSpec(use="funding"))
    noiser = make_row_noiser(
        NoiseSpec(use="case", share=1.0, policy=policy, **{"rate": 1.0}), seed=0, folder=tmp_path, at=()
    )
    noisy = noiser.apply(row, task, epoch=0, variant=0, stats=NoiseStats())
    assert noisy["funding_statement"] != row["funding_statement"]
    assert "Wellcome Trust, AB 1." in noisy["funding_statement"]
    assert noisy["funders"] == row["funders"]


def test_what_a_training_survives_is_a_note(folder: Path) -> None:
    write_task(
        folder,
        "    def align(self, gold, completion):\n        return [(1, 2, 3)] if completion else [][0]\n"
        "    def counts(self, gold, completion):\n        gold[:0] or gold.index\n"
        "        return super().counts(gold, completion) if gold is not None else 1 / 0\n"
        "    modes = {}\n",
    )
    done = runner.invoke(app, ["run", "mine.yaml", "--dry-run"])
    assert done.exit_code == 0, done.output
    notes = " ".join(done.output.split())
    assert "align fails on empty text of row 'm1': IndexError" in notes
    assert "modes says nothing about the matching mode 'exact' of counts" in notes


@pytest.mark.parametrize("command", ["check", "run"])
@pytest.mark.parametrize(
    ("task", "text"),
    [
        ("./mine.py:Reward", "./mine.py:Reward is a reward and no task: it has no text_field, example(row), gold(row)"),
        ("./mine.py:function", "./mine.py:function is a function and no task: it has no text_field"),
        ("./mine.py:Nothing", "./mine.py:Nothing is no task: it has no text_field"),
        ("./mine.py:NoField", "the task ./mine.py:NoField has no text_field."),
    ],
)
def test_what_is_no_task_is_said_before_the_libraries_load(
    command: str, task: str, text: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_task(folder, "    pass\n")
    with (folder / "mine.py").open("a") as file:
        file.write(
            "\n\nclass Reward:\n    def __call__(self, completion, example):\n        return 1.0\n\n\n"
            "def function(completion, example):\n    return 1.0\n\n\nclass Nothing:\n    pass\n\n\n"
            "class NoField(Good):\n    text_field = None\n    __init__ = object.__init__\n"
        )
    monkeypatch.setattr("adapters.backends.backend", lambda recipe: pytest.fail("the libraries are loaded"))
    arguments = [command, "mine.yaml", f"task={task}", *(["--dry-run"] if command == "run" else [])]
    done = runner.invoke(app, arguments)
    assert done.exit_code == 2
    assert text in " ".join(done.output.split())


@pytest.mark.slow
@pytest.mark.parametrize("task", ["funding", "ie", "agent"])
def test_the_built_in_tasks_keep_what_they_promise(task: str, tmp_path: Path) -> None:
    reader = resolve("tasks", PluginSpec(use=task))
    check_is_task(reader, task)
    rows = task_rows(reader, name=task)
    if task != "agent":
        made = {"funding": funding_rows, "ie": ie_rows}[task](20)
        rows = task_rows(reader, write_jsonl(tmp_path / "rows.jsonl", made))
    start = time.perf_counter()
    result = try_task(reader, task, rows)
    assert (result.rows, result.errors, result.warnings) == (20, [], [])
    assert time.perf_counter() - start < 5, "well below a second on a machine of its own"


@pytest.mark.slow
def test_a_check_of_form_may_fail_on_gold() -> None:
    """The target of an agent's turn may be undisciplined; its action must still be found."""
    task = resolve("tasks", PluginSpec(use="agent", thought=1))
    rows = task_rows(task, name="agent")
    assert not task.counts(rows[0][1].gold, rows[0][1].completion)["turn"]["discipline"].matched
    assert check_task("agent").errors == []
    assert try_task(task, "agent", rows).errors == []


def test_new_writes_a_task_whose_test_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = runner.invoke(app, ["tasks", "new", "my_items"])
    assert done.exit_code == 0, done.output
    assert "task: ./my_items.py:MyItems" in done.stdout
    monkeypatch.syspath_prepend(str(tmp_path))
    written: dict = {}
    exec(compile((tmp_path / "test_my_items.py").read_text(), "test_my_items.py", "exec"), written)
    tests = [name for name in written if name.startswith("test_")]
    assert len(tests) == 2
    for name in tests:
        written[name]()
    del sys.modules["my_items"]
    tested = runner.invoke(app, ["tasks", "test", "./my_items.py:MyItems", "--json"])
    assert json.loads(tested.stdout) == {"name": "./my_items.py:MyItems", "rows": 3, "errors": [], "warnings": []}
    for again in (["new", "my_items"], ["new", "json"], ["new", "_x"]):
        refused = runner.invoke(app, ["tasks", *again])
        assert refused.exit_code == 2
    (tmp_path / "run.yaml").write_text(RECIPE.replace("./mine.py:Mine", "./my_items.py:MyItems"))
    write_jsonl(tmp_path / "rows.jsonl", ROWS)
    assert runner.invoke(app, ["run", "run.yaml"]).exit_code == 0


def test_list_show_and_a_reward_for_no_task(folder: Path) -> None:
    assert json.loads(runner.invoke(app, ["tasks", "list", "--json"]).stdout)["ie"] == "adapters.tasks.ie:IeTask"
    write_task(folder, "    '''What it finds.'''\n")
    shown = json.loads(runner.invoke(app, ["tasks", "show", "./mine.py:Mine", "--json"]).stdout)
    assert shown["doc"] == "What it finds."
    assert [Path(file).name for file in shown["files"]] == ["mine.py", "good.py"]
    assert "system" in shown["parameters"]
    wrong = runner.invoke(app, ["tasks", "test", "./mine.py:Mine", "--set", "sytem=x"])
    assert "Did you mean system?" in wrong.stderr
    (folder / "bare.py").write_text("from good import Good\n\n\nclass Bare(Good):\n    example_rows = ()\n")
    assert "--data FILE" in runner.invoke(app, ["tasks", "test", "./bare.py:Bare"]).stderr
    refused = runner.invoke(app, ["rewards", "new", "my_reward"])
    assert refused.exit_code == 2
    assert "Give one with --task (agent, chat, funding, ie, " in refused.stderr
    refused = runner.invoke(app, ["rewards", "new", "my_reward", "--task", "./bare.py:Bare"])
    assert "needs rows to be tested on" in refused.stderr
    assert not (folder / "my_reward.py").exists()


def test_every_required_method_is_one_of_the_protocol() -> None:
    from adapters.types import Task

    assert all(hasattr(Task, method) for method in METHODS)


@pytest.mark.parametrize("fault", EXAMPLES)
@pytest.mark.parametrize("arguments", [*COMMANDS, [*TEST, "--data", "rows.jsonl"]], ids=" ".join)
def test_an_example_that_no_trainer_can_read_is_a_sentence(fault: str, arguments: list[str], folder: Path) -> None:
    body, text = EXAMPLES[fault]
    write_task(folder, body)
    done = runner.invoke(app, arguments)
    assert (done.exit_code, done.exception.__class__) == (2, SystemExit), done.output
    said = " ".join(done.output.split())
    assert f"the task Mine: example {text}" in said
    assert said.count("for row 'm1'.") == 1
    assert not (folder / "runs").exists()


def test_an_example_of_the_tasks_own_rows_is_checked_too(folder: Path) -> None:
    write_task(folder, EXAMPLES["a dict"][0])
    done = runner.invoke(app, TEST)
    assert done.exit_code == 2
    assert "the task ./mine.py:Mine: example returns dict, and must return adapters.types.Example(…), for row '1'." in (
        " ".join(done.stderr.split())
    )


@pytest.mark.parametrize("fault", TRIED)
def test_targets_and_labels_are_held_against_the_row(fault: str, folder: Path) -> None:
    body, text = TRIED[fault]
    write_task(folder, body)
    for arguments in COMMANDS:
        done = runner.invoke(app, arguments)
        assert done.exit_code == 2, done.output
        assert f"mine.yaml:2: task: the task ./mine.py:Mine: {text}" in " ".join(done.output.split())
    tested = runner.invoke(app, [*TEST, "--data", "rows.jsonl"])
    assert tested.exit_code == 1
    assert f"error: the task ./mine.py:Mine: {text}\n" in tested.stdout


def test_rows_without_labels_need_no_target_and_a_tool_call_no_content(folder: Path) -> None:
    calls = [{"type": "function", "function": {"name": "look", "arguments": {}}}]
    prompt = f"(*e.prompt, {{'role': 'assistant', 'content': None, 'tool_calls': {calls}}}, *e.prompt[1:])"
    write_task(folder, changed(prompt=prompt, meta="{}", completion="e.completion if e.gold else None"))
    for arguments in COMMANDS:
        done = runner.invoke(app, arguments)
        assert done.exit_code == 2
        said = " ".join(done.output.split())
        assert "SFT trains on completions, and the task ./mine.py:Mine: example gives none for row 'm3'." in said
    write_jsonl(folder / "train.jsonl", ROWS[:2])
    (folder / "mine.yaml").write_text(RECIPE.replace("rows.jsonl", "train.jsonl", 1))
    for arguments in (*COMMANDS, [*TEST, "--data", "rows.jsonl"]):
        done = runner.invoke(app, arguments)
        assert done.exit_code == 0, done.output


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="the system has no timers")
@pytest.mark.parametrize("method", HANGS)
def test_a_method_that_does_not_end_is_named(method: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_calls, "LIMIT", 0.2)
    handler = signal.getsignal(signal.SIGALRM)
    body, text = HANGS[method]
    write_task(folder, body)
    for arguments in (["run", "mine.yaml", "--dry-run"], [*TEST, "--data", "rows.jsonl"]):
        done = runner.invoke(app, arguments)
        assert done.exit_code == 2, done.output
        assert text in " ".join(done.stderr.split())
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert signal.getsignal(signal.SIGALRM) is handler


def test_a_call_in_another_thread_has_no_limit(folder: Path) -> None:
    write_task(folder, "    pass\n")
    task = resolve("tasks", PluginSpec(use="./mine.py:Mine"))
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(check_task, task, "rows.jsonl").result().errors == []


def test_a_slow_task_is_tried_on_fewer_rows(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_bench, "SECONDS", 1e-4)
    result = check_task(resolve("tasks", PluginSpec(use="funding")), write_jsonl(folder / "f.jsonl", funding_rows(2)))
    assert result.rows == 1
    assert result.warnings == ["the task FundingTask: tried on 1 of 2 rows, which took 0 s"]


def test_an_agents_row_without_a_target_has_no_labels() -> None:
    task = resolve("tasks", PluginSpec(use="agent"))
    row = {k: v for k, v in task_rows(task, name="agent")[0][0].items() if k not in ("completion", "chosen")}
    example = task.example(row, id="a")
    assert example.completion is None
    assert try_task(task, "agent", [(row, example)]).errors == []
