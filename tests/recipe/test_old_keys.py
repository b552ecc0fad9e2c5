"""Old keys and short forms of a recipe: the same run under either spelling, and the new name said once."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from tiny import funding_rows, write_jsonl
from typer.testing import CliRunner

from adapters.backends.echo import EchoBackend
from adapters.cli.main import app
from adapters.errors import UserError
from adapters.pipeline.plan import make_plan
from adapters.pipeline.run import run_plan
from adapters.pipeline.run_folder import RunFolder
from adapters.plugins import registry
from adapters.recipe.aliases import RENAMED, SHORT_FORMS
from adapters.recipe.fields import PluginSpec
from adapters.recipe.load import load_recipe
from adapters.recipe.recipe import Recipe
from adapters.recipe.tinker import Hosted

NEW = """name: mine
task: {use: funding, target: compact, scorer: corrected}
model: {base: none}
trainer: TRAINER
run_dir: RUNS
max_bad_rows: 0.5
tinker: {loss: ppo, clip_range: [0.7, 1.5], checkpoint_ttl_days: 7, timeout_minutes: 3, verify_adapter: shapes}
stages:
  - kind: sft
    data:
      - {path: train.jsonl, max_rows: 9, split: {name: a, fractions: {a: 0.5, b: 0.5}, key: id, seed: 3}}
      - {hub: rows, hub_split: test, split: {name: a, fractions: {a: 1.0}}}
    learning_rate: 1e-4
    max_too_long: 0.4
    health: {no_signal_steps: 5}
  - kind: grpo
    data: [{path: train.jsonl, max_rows: 8}]
    learning_rate: 1e-5
    batch_size: 4
    scale_rewards: batch
    rewards: [{use: funding, scorer: corrected}]
evaluate:
  - name: test
    data: [{path: train.jsonl, max_rows: 5, split: {name: b, fractions: {a: 0.5, b: 0.5}}}]
    prompt_variants: 1
"""
SPELLINGS = {
    "max_bad_rows": "max_rejected", "clip_range": "clip", "checkpoint_ttl_days": "keep_days",
    "timeout_minutes": "patience", "verify_adapter": "verify", "max_rows": "cap", " split:": " subset:",
    "{name: a,": "{take: a,", "{name: b,": "{take: b,", "fractions": "of", "key: id": "by: id", "hub_split": "split",
    "max_too_long": "max_dropped", "no_signal_steps": "stuck_steps", "scale_rewards": "advantage",
    "prompt_variants": "variants", "scorer: corrected": "reading: fixed",
}  # fmt: skip


def old_spelling(text: str) -> str:
    for new, old in SPELLINGS.items():
        assert new in text
        text = text.replace(new, old)
    return text


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "train.jsonl", funding_rows(40))
    (tmp_path / "rows").mkdir()
    write_jsonl(tmp_path / "rows" / "test.jsonl", funding_rows(6, "h"))
    path = tmp_path / "mine.yaml"
    path.write_text(NEW.replace("TRAINER", "echo").replace("RUNS", str(tmp_path / "runs")))
    return path


def settings(path: Path, *overrides: str) -> dict[str, Any]:
    dump = load_recipe(path, overrides).recipe.model_dump()
    for plug in (dump["task"], *dump["stages"][1]["rewards"]):  # the plug-in's class renames its parameters
        if plug.pop("reading", None) == "fixed":
            plug["scorer"] = "corrected"
    return dump


def test_a_recipe_of_old_keys_is_the_same_recipe(mine: Path) -> None:
    new = settings(mine)
    assert load_recipe(mine).renamed == {}
    mine.write_text(old_spelling(mine.read_text()))
    assert settings(mine) == new
    file = load_recipe(mine)
    assert {path.rpartition(".")[2] for path in file.renamed} == {pattern.rpartition(".")[2] for pattern in RENAMED} | {
        "split"
    }
    made = make_plan(file, EchoBackend(file.recipe))
    [note] = [note for note in made.notes if "renamed" in note]
    assert note.count("is now max_rows") == 1
    assert "stages.0.data.0.cap" in note
    assert made.task.scorer == "corrected"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("stages.1.advantage=none", "stages.1.scale_rewards=none"),
        ("stages.0.data.0.cap=10", "stages.0.data.0.max_rows=10"),
        ("stages.0.data.0.subset.take=b", "stages.0.data.0.split.name=b"),
        ("stages.0.data.1.split=train", "stages.0.data.1.hub_split=train"),
        ("evaluate.0.variants=3", "evaluate.0.prompt_variants=3"),
        ("tinker.patience=1", "tinker.timeout_minutes=1"),
        ("stages.0.health={stuck_steps: 9}", "stages.0.health={no_signal_steps: 9}"),
        (
            "stages.0.data=[{path: a, cap: 2, subset: {take: x, of: {x: 1.0}, by: k}}]",
            "stages.0.data=[{path: a, max_rows: 2, split: {name: x, fractions: {x: 1.0}, key: k}}]",
        ),
    ],
)
@pytest.mark.parametrize("text_is_old", [False, True])
def test_overrides_of_old_keys(mine: Path, old: str, new: str, text_is_old: bool) -> None:
    wanted, unchanged = settings(mine, new), settings(mine)
    if text_is_old:
        mine.write_text(old_spelling(mine.read_text()))
    assert settings(mine, old) == settings(mine, new) == wanted != unchanged


def test_both_names_are_one_too_many(mine: Path) -> None:
    text = mine.read_text()
    line = 1 + text[: text.index("scale_rewards")].count("\n")
    for given in ("scale_rewards: batch\n    advantage: none", "advantage: none\n    scale_rewards: batch"):
        mine.write_text(text.replace("scale_rewards: batch", given))
        with pytest.raises(UserError, match=r"advantage is the old name of scale_rewards") as error:
            load_recipe(mine)
        assert str(error.value).startswith((f"{mine}:{line}: stages.1", f"{mine}:{line + 1}: stages.1"))
    mine.write_text(text)
    with pytest.raises(UserError, match="cap is the old name of max_rows"):
        load_recipe(mine, ["stages.0.data=[{path: a, cap: 1, max_rows: 1}]"])


def test_errors_and_the_editor_schema_show_new_names_only(mine: Path) -> None:
    with pytest.raises(UserError, match=r"stages\.1\.scale_rewards: this should be 'group', 'batch' or 'none'"):
        load_recipe(mine, ["stages.1.advantage=sometimes"])
    names = set(_keys(Recipe.model_json_schema()))
    old = {pattern.rpartition(".")[2] for pattern in RENAMED}
    assert set(RENAMED.values()) <= names
    assert names & old == {"patience"}, "a key of `select`"
    assert "patience" not in Hosted.model_fields


def _keys(node: Any) -> list[str]:
    if isinstance(node, list):
        return [key for inner in node for key in _keys(inner)]
    if not isinstance(node, dict):
        return []
    return [*node.get("properties", {}), *(key for inner in node.values() for key in _keys(inner))]


@pytest.mark.slow
def test_an_old_run_folder_is_read_as_it_stands(mine: Path, tmp_path: Path) -> None:
    file = load_recipe(mine, ["stages.0.data=[train.jsonl]"])
    backend = EchoBackend(file.recipe)
    run_plan(make_plan(file, backend), backend)
    folder = tmp_path / "runs" / "mine"
    for name in ("recipe.yaml", "recipe.json"):  # as they were written before the keys had their present names
        text = (folder / name).read_text()
        for new, old in (("scale_rewards", "advantage"), ("max_rows", "cap"), ("prompt_variants", "variants")):
            text = text.replace(new, old)
        (folder / name).write_text(text)
    again = RunFolder.open(folder).recipe_file()
    assert again.recipe == file.recipe
    assert all(job.is_complete(None) for job in make_plan(again, backend).jobs[:1])
    assert RunFolder.open(folder).recipe["stages"][1]["scale_rewards"] == "batch"
    changed = CliRunner().invoke(app, ["run", str(mine), "stages.0.data=[train.jsonl]", "stages.0.max_steps=1"])
    assert changed.exit_code == 2
    assert "Changed: stages.0.max_steps was null, is 1." in changed.stderr, "a new name alone is no change"


@pytest.mark.parametrize(
    ("kind", "use"), [("tasks", "funding"), ("rewards", "funding"), ("tasks", "ie"), ("rewards", "ie")]
)
def test_old_parameters_of_the_shipped_plugins(kind: Any, use: str, capsys: pytest.CaptureFixture[str]) -> None:
    target = type(registry.resolve(kind, PluginSpec(use=use)))
    assert target.old_parameters
    for old, (new, values) in target.old_parameters.items():
        assert {f.name for f in fields(target)} & {old, new} == {new}
        default = getattr(target, new)
        pairs = list(values.items()) or [(value, value) for value in ("strict", "whole", 3)]
        for old_value, new_value in pairs:
            try:
                configured = registry.resolve(kind, PluginSpec.model_validate({"use": use, old: old_value}))
            except UserError:
                assert not values, f"every old value of {old} works"
                continue
            assert getattr(configured, new) == new_value
        registry._print_once.cache_clear()
        capsys.readouterr()
        some = pairs[0][0] if values else default
        for _ in range(3):
            registry.resolve(kind, PluginSpec.model_validate({"use": use, old: some}))
        assert capsys.readouterr().err.count(f"{use}: the parameter `{old}` is now `{new}") == 1
        with pytest.raises(UserError, match=f"the old name of {new}"):
            registry.resolve(kind, PluginSpec.model_validate({"use": use, old: some, new: default}))


# --- short forms -------------------------------------------------------------------------------------------------


def short_forms(schema: dict[str, Any]) -> set[str]:
    """Paths at which the schema allows a text or a mapping."""
    found: set[str] = set()

    def walk(node: Any, path: tuple[str, ...]) -> None:
        while "$ref" in node:
            node = schema["$defs"][node["$ref"].rpartition("/")[2]]
        options = [*node.get("anyOf", ()), *node.get("oneOf", ())]
        if {"string", "object"} <= {option.get("type") for option in options}:
            found.add(".".join(path))
        for option in options:
            walk(option, path)
        for key, inner in node.get("properties", {}).items():
            walk(inner, (*path, key))
        if isinstance(node.get("items"), dict):
            walk(node["items"], (*path, "*"))

    walk(schema, ())
    return found


def test_the_table_holds_every_short_form_of_the_schema() -> None:
    assert short_forms(Recipe.model_json_schema()) == set(SHORT_FORMS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("short", "inside", "value"),
    [
        ("task=funding", "task.target=compact", "compact"),
        ("stages.0.noise=ocr", "stages.0.noise.level=heavy", "heavy"),
        ("stages.1.rewards=[funding]", "stages.1.rewards.0.weight=0.5", 0.5),
        ("stages.1.rewards.0=funding", "stages.1.rewards.0.soft_ids=false", False),
        ("stages.0.data=[train.jsonl]", "stages.0.data.0.max_rows=3", 3),
        ("evaluate.0.data=[train.jsonl]", "evaluate.0.data.0.repeat=2", 2),
    ],
)
def test_overrides_reach_into_short_forms(mine: Path, short: str, inside: str, value: Any) -> None:
    key, _, form = short.partition("=")
    path, _, name = inside.partition("=")[0].rpartition(".")
    as_override = load_recipe(mine, [short, inside]).tree
    node = as_override
    for part in path.split("."):
        node = node[int(part) if part.isdigit() else part]
    assert node[name] == value
    assert {"use", "path"} & node.keys()
    tree = load_recipe(mine, [short]).tree
    target = json.loads(json.dumps(tree))
    node = target
    *parents, last = key.split(".")
    for part in parents:
        node = node[int(part) if part.isdigit() else part]
    node[int(last) if last.isdigit() else last] = json.loads(json.dumps([form[1:-1]] if form[0] == "[" else form))
    mine.write_text(json.dumps(target))  # JSON is YAML: the short form stands in the file itself
    assert load_recipe(mine, [inside]).tree == as_override
    assert make_plan(load_recipe(mine, [inside]), EchoBackend(load_recipe(mine).recipe)).jobs
