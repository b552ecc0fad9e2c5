"""Shipped recipes with something wrong in them: a plan, or one message that says where. Nothing else, and no file.

pytest --hypothesis-profile=thorough tests/test_recipe_fuzz.py
"""

from __future__ import annotations

import copy
import itertools
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML
from tiny import funding_rows, ie_rows, write_jsonl

from adapters.backends.echo import EchoBackend
from adapters.errors import UserError
from adapters.pipeline.plan import Plan, make_plan
from adapters.recipe.fields import HubSource
from adapters.recipe.first_line import HEADER
from adapters.recipe.load import load_recipe

RECIPES = Path(__file__).parents[2] / "recipes"
SHIPPED = sorted(p.name for p in RECIPES.glob("*.yaml"))
TREES = {name: load_recipe(RECIPES / name).tree for name in SHIPPED}
TEXTS = {name: (RECIPES / name).read_text(encoding="utf-8") for name in SHIPPED}
FIRST = re.compile(r"^mutant\.yaml(:\d+|: [^ ]+: |: .*(mapping|deep|alias|YAML))")
"""How a message begins: file and line, or key. A text that is no recipe at all has neither."""

NUMBERS = st.sampled_from(
    [0, -1, 1, 2, 2**31, 10**18, -(10**400), 0.0, -0.5, 1e-320, 1e308, *map(float, ("inf", "nan"))]
)
WORDS = st.sampled_from(
    [
        "",
        " ",
        "no",
        "true",
        "~",
        "1e-4",
        "0x1f",
        "2026-01-01",
        "../up",
        "/",
        "/dev/null",
        "~nobody/x",
        "a" * 300,
        "\0",
        "\x07",
        "./nowhere.py:A",
        "json:nope",
        "nowhere:A",
        ":",
        "funding",
        "agent_pairs",
        "{statement}",
        "{",
        "é\u0301",
        "\u202e",
        "\U0001f600",
        "pypi:x",
        "a/b",
        "train.jsonl",
        ".jsonl",
        "null",
        '"""',
        "---",
        "# x",
    ]
)
SCALARS = st.none() | st.booleans() | NUMBERS | WORDS | st.text(max_size=6)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows under the names that the shipped recipes read."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("statements", "grobid_train", "grobid_test"):
        rows = [{**row, "origin": "real" if n % 2 else "synthetic"} for n, row in enumerate(funding_rows(40, name))]
        write_jsonl(folder / f"{name}.jsonl", rows)
    for name, tree in TREES.items():
        lists = [part["data"] for part in (*tree["stages"], *tree.get("evaluate", ()))]
        for source in itertools.chain(*lists):
            if name.startswith("ie") and "path" in source:
                write_jsonl(folder / source["path"], ie_rows(40, source["path"]))
    return folder


@pytest.fixture(scope="module", autouse=True)
def nowhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty working folder, which must stay empty."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("nowhere")
        patch.chdir(folder)
        yield folder


def places(node: Any) -> Iterator[tuple[Any, Any]]:
    for key, value in list(node.items() if isinstance(node, dict) else enumerate(node)):
        yield node, key
        if isinstance(value, dict | list):
            yield from places(value)


def mutate(tree: dict[str, Any], draw: Any) -> None:
    node, key = draw(st.sampled_from(list(places(tree))))
    how = draw(st.sampled_from(["replace", "replace", "replace", "delete", "rename", "add", "wrap", "deepen", "swap"]))
    if how == "delete":
        del node[key]
    elif how == "rename" and isinstance(node, dict):
        others = st.sampled_from(sorted({str(k) for _, k in places(tree)}))
        node[draw(others | st.text(max_size=8))] = node.pop(key)
    elif how == "add" and isinstance(node, dict):
        node[draw(WORDS | st.text(max_size=8))] = draw(VALUES)
    elif how == "wrap":
        node[key] = draw(st.sampled_from([[node[key]], {"use": node[key]}, [node[key]] * 2]))
    elif how == "deepen":
        for _ in range(draw(st.sampled_from([5, 150]))):
            node[key] = [node[key]]
    elif how == "swap":
        other, there = draw(st.sampled_from(list(places(tree))))
        node[key] = copy.deepcopy(other[there])
    else:
        node[key] = draw(VALUES)


def dump(tree: dict[str, Any]) -> str:
    out = StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.dump(tree, out)
    return out.getvalue()


@contextmanager
def promptly(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise AssertionError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(text: str, *overrides: str, planned: bool) -> Plan | str | None:
    """The plan, or the message a person would read; None where there is a recipe and no plan was wanted."""
    path, read = Path("mutant.yaml"), Path.read_text
    file = None
    with pytest.MonkeyPatch.context() as patch, promptly(20):
        patch.setattr(Path, "read_text", lambda self, **k: text if self == path else read(self, **k))
        try:
            file = load_recipe(path, overrides)
            parts = (*file.recipe.stages, *file.recipe.evaluate)
            if not planned or any(isinstance(source, HubSource) for part in parts for source in part.data):
                return None
            return make_plan(file, EchoBackend(file.recipe))
        except UserError as error:
            return file.locate(error) if file else str(error)


def check(said: Plan | str | None, nowhere: Path, data: Path, before: list[Path]) -> None:
    if isinstance(said, str):
        assert FIRST.match(said), said
        assert "Traceback" not in said
        assert len(said) < 4000, said
    assert not list(nowhere.iterdir())
    assert sorted(data.iterdir()) == before


ONCE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@ONCE
@given(st.data())
def test_mutated_text(data: Path, nowhere: Path, draws: st.DataObject) -> None:
    text = TEXTS[draws.draw(st.sampled_from(SHIPPED))]
    before = sorted(data.iterdir())
    for _ in range(draws.draw(st.integers(1, 3))):
        cut = draws.draw(st.integers(0, len(text)))
        junk = draws.draw(
            st.text(max_size=8)
            | WORDS
            | st.sampled_from(["{", "]", ": ", "\t", "- ", "&a ", "*a", "!!python/object:os.system ", "\n", "<<: "])
        )
        text = text[:cut] + junk + text[cut + draws.draw(st.integers(0, 12)) :]
    check(outcome(text, planned=False), nowhere, data, before)


@pytest.mark.slow
@ONCE
@given(st.data())
def test_mutated_trees(data: Path, nowhere: Path, draws: st.DataObject) -> None:
    name = draws.draw(st.sampled_from(SHIPPED))
    tree = {k: copy.deepcopy(v) for k, v in TREES[name].items() if k != HEADER}
    tree["data_root"] = str(data)
    for part in (*tree["stages"], *tree.get("evaluate", ())):
        for source in part["data"]:  # few rows, so that thousands of plans can be made
            source |= {"n": 12} if "synthesize" in source else {}
    before = sorted(data.iterdir())
    for _ in range(draws.draw(st.integers(0, 3))):
        mutate(tree, draws.draw)
        if not tree:
            break
    said = outcome(dump(tree), planned=True)
    check(said, nowhere, data, before)


def test_data_that_is_not_there_is_one_message(nowhere: Path) -> None:
    for name in SHIPPED:
        said = outcome(TEXTS[name], f"data_root={nowhere}", planned=name.startswith(("funding", "ie")))
        assert said is None or re.match(r"^mutant\.yaml:\d+: stages\.0\.data\.0\.path: there is no file ", str(said))
