"""Every shipped recipe is read and planned, and a person's mistakes get one clear message."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from tiny import funding_rows, ie_rows, mine_rows, save_adapter, write_jsonl

from adapters.backends.echo import EchoBackend
from adapters.errors import UserError
from adapters.pipeline.plan import make_plan
from adapters.recipe.fields import PathSource
from adapters.recipe.load import load_recipe
from adapters.recipe.recipe import Recipe

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "recipes").glob("*.yaml"))


def test_the_shipped_recipes_are_all_here() -> None:
    funding = ["funding_grpo", "funding_grpo_llama", "funding_noise", "funding_smollm2", "funding_tinker"]
    others = [
        *("agent_dpo", "agent_environment", "agent_smollm2", "chat_smollm2", "ie_grpo", "ie_smollm2", "mine_minilm")
    ]
    others += ["quickstart", "records_smollm2", "distill_domains", "distill_teacher"]
    assert [p.stem for p in SHIPPED] == sorted([*funding, *others])


@pytest.mark.slow
@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_recipe_is_planned(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("statements", "grobid_train", "grobid_test", "grobid_test_degraded"):
        rows = funding_rows(240, name)
        rows = [{**row, "origin": "real" if n % 2 else "synthetic"} for n, row in enumerate(rows)]
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    file = load_recipe(path, [f"data_root={tmp_path}", f"run_dir={tmp_path}/runs"])
    if file.recipe.task.use in ("ie", "mine"):
        stages = [stage.data for stage in file.recipe.stages]
        sources = itertools.chain(*stages, *(test.data for test in file.recipe.evaluate))
        for source in (source for source in sources if isinstance(source, PathSource)):
            rows = ie_rows if file.recipe.task.use == "ie" else mine_rows
            write_jsonl(tmp_path / source.path, rows(90, source.path))
    for path_of in (teacher for stage in file.recipe.stages for teacher in getattr(stage, "teachers", {}).values()):
        save_adapter(tmp_path / path_of, file.recipe.model.base)
    made = make_plan(file, EchoBackend(file.recipe))
    kinds = {
        "agent_dpo": ["1-dpo"],
        "agent_environment": ["1-sft", "2-grpo"],
        "agent_smollm2": ["1-sft", "2-dpo"],
        "ie_grpo": ["1-grpo"],
        "funding_noise": ["1-sft"],
        "funding_smollm2": ["1-sft", "2-best_of"],
        "chat_smollm2": ["1-sft"],
        "mine_minilm": ["1-token_classification"],
        "distill_teacher": ["1-sft"],
        "distill_domains": ["1-sft", "2-distill"],
    }
    assert [job.name for job in made.jobs] == kinds.get(path.stem, ["1-sft", "2-grpo"])
    assert all(job.examples and job.steps for job in made.jobs)
    assert file.recipe.name == path.stem
    assert path.read_text().splitlines()[1] == "# yaml-language-server: $schema=schema.json"
    assert f"recipes/{path.name}" in path.read_text(), "the comment on top shows the command"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_editors_accept_the_shipped_recipes(path: Path) -> None:
    tree = load_recipe(path).tree
    accepts = jsonschema.Draft202012Validator(json.loads((ROOT / "recipes/schema.json").read_text())).is_valid
    assert accepts(tree)
    assert not accepts({**tree, "stagse": []})


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads((ROOT / "recipes/schema.json").read_text()))


def test_the_published_constants() -> None:
    recipe = load_recipe(ROOT / "recipes/funding_grpo.yaml").recipe
    sft, grpo = recipe.stages
    assert (recipe.lora.rank, sft.epochs, sft.batch_size, sft.data[1].repeat) == (128, 2, 128, 2)
    assert (grpo.batch_size, grpo.group_size, grpo.temperature, grpo.learning_rate, grpo.beta) == (
        16,
        8,
        0.8,
        3e-5,
        0.03,
    )


def differing(one: Any, other: Any, at: str = "") -> set[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        pairs = {key: (one.get(key), other.get(key)) for key in {**one, **other}}
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = dict(enumerate(zip(one, other, strict=True)))
    else:
        return set() if one == other else {at}
    return {path for key, pair in pairs.items() for path in differing(*pair, f"{at}.{key}".lstrip("."))}


@pytest.mark.parametrize(
    ("twin", "apart"),
    [
        # The hosted trainer refuses `trl`: what loss_type decides is the normalisation, a row of its parity table.
        ("funding_tinker", {"name", "trainer", "tinker", "stages.1.trl"}),
        ("funding_grpo_llama", {"name", "model.base", "model.thinking", "stages.0.learning_rate"}),
    ],
)
def test_twins_of_the_published_recipe_differ_in_what_they_must(twin: str, apart: set[str]) -> None:
    published, other = (load_recipe(ROOT / f"recipes/{name}.yaml") for name in ("funding_grpo", twin))
    assert differing(published.tree, other.tree) == apart
    noise = published.recipe.stages[0].noise
    assert noise is not None
    assert (noise.share, published.recipe.stages[1].noise) == (0.5, None), "the card noises half of the SFT examples"
    if twin == "funding_tinker":
        pytest.importorskip("httpx", reason="needs the hosted trainer's SDK: scripts/build/install_tuft.sh")
        from adapters.backends.tinker.parity import differences

        rows = {d.what for d in differences(other.recipe)}
        assert {"2-grpo normalisation", "2-grpo loss", "LoRA alpha"} <= rows


def test_the_editor_schema_is_up_to_date() -> None:
    assert json.loads((ROOT / "recipes/schema.json").read_text()) == Recipe.model_json_schema(), "run: make schema"


BASE = """name: mine
task: funding
model: {base: tiny}
trainer: echo
stages:
  - kind: sft
    data: [{path: train.jsonl}]
    learning_rate: 1e-4
  - kind: grpo
    data: [{path: train.jsonl}]
    learning_rate: 1e-5
    rewards: [funding]
evaluate:
  - {name: test, data: [{path: train.jsonl}]}
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "train.jsonl", funding_rows(40))
    path = tmp_path / "mine.yaml"
    path.write_text(BASE)
    return path


def complaint(path: Path, *overrides: str) -> str:
    file = None
    try:
        file = load_recipe(path, overrides)
        make_plan(file, EchoBackend(file.recipe))
    except UserError as error:
        return file.locate(error) if file else str(error)
    raise AssertionError("no complaint")


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ("learning_rate: 1e-4", "learnin_rate: 1e-4", ["mine.yaml:8", "stages.0.learnin_rate", "mean learning_rate"]),
        ("learning_rate: 1e-4", "lr: 1e-4", ["stages.0.lr", "mean learning_rate", "required"]),
        ("learning_rate: 1e-4", "learning_rate: '1e-4'", ["mine.yaml:8", "valid number", "Remove the quotes?"]),
        ("learning_rate: 1e-4", "kind: sft", ["mine.yaml:8", "kind", "once"]),
        ("kind: sft", "kind: stf", ["mine.yaml:6", "stages.0.kind", "best_of, distill or token_classification"]),
        ("[{path: train.jsonl}]\n    learning_rate: 1e-4", "[]\n    learning_rate: 1", ["data", "at least one"]),
        ("train.jsonl}]", "trian.jsonl}]", ["mine.yaml:7", "train.jsonl?"]),
        ("rewards: [funding]", "rewards: [fundign]", ["mine.yaml:12", "stages.1.rewards.0.use", "mean funding"]),
        ("rewards: [funding]", "rewards: [{use: funding, sof_ids: true}]", ["rewards.0.sof_ids", "mean soft_ids"]),
        ("rewards: [funding]", "rewards: [{use: funding, soft_ids: 3}]", ["rewards.0.soft_ids", "boolean"]),
        ("rewards: [funding]", "rewards: [./nowhere.py:A]", ["no file", "nowhere.py"]),
        ("rewards: [funding]", "rewards: [json:nope]", ["json has no nope"]),
        ("rewards: [funding]", "rewards: [funding]\n    group_size: 1", ["group_size", "greater than or equal to 2"]),
        ("task: funding", "task: {use: funding, target: flat}", ["task.target", "'nested' or 'compact'"]),
        ("learning_rate: 1e-4", "learning_rate: .inf", ["stages.0.learning_rate", "finite number"]),
        ("learning_rate: 1e-4", "learning_rate: 1e-4\n    epochs: 1e308", ["stages.0.epochs", "or equal to 1000000"]),
        ("learning_rate: 1e-4", "learning_rate: 1\n    batch_size: 9999999999", ["batch_size", "must be below"]),
        ("{path: train.jsonl}", "{synthesize: funding, n: 1000000000}", ["stages.0.data.0.n", "or equal to 10000000"]),
        ("{path: train.jsonl}", "{path: train.jsonl, repeat: 999999999}", ["stages.0.data.0", "held in memory"]),
        ("rewards: [funding]", "rewards: [{use: funding, weight: .nan}]", ["rewards.0.weight", "finite number"]),
        ("name: mine", "name: mine\nseed: -1", ["mine.yaml:2", "seed"]),
        ("name: mine", "name: ../up", ["mine.yaml:1", "name", "letters, digits, '-', '_' and '.'", "'../up'"]),
        ("{name: test,", "{name: $,", ["mine.yaml:14", "evaluate.0.name", "begins with a letter or a digit"]),
        ("name: mine", "name: mine\nlora: {target_modules: 3}", ["target_modules", "be 'all-linear' or a valid list"]),
        ("name: mine", "name: mine\nlora: {use_dora: true}", ["mine.yaml:2: lora.use_dora", "vLLM cannot serve DoRA"]),
        ("name: mine", "name: mine\nlora: {init_lora_weights: pissa}", ["lora.init_lora_weights", "equals the base"]),
        ("name: mine", "name: mine\nlora: {layers_to_transform: [0]}", ["exclude_modules leaves layers out"]),
        ("name: mine", "name: mine\nlora: {rank_pattern: {'q)': 4}}", ["lora.rank_pattern", "no regular expression"]),
        ("name: mine", "name: mine\nlora: {rank_pattern: {q_proj: 0}}", ["lora.rank_pattern.q_proj", "or equal to 1"]),
        ("{path: train.jsonl}", "{path: train.jsonl, where: {a: {b: 1}}}", ["where.a: this should be a valid string"]),
        ("model: {base: tiny}", "model: tiny", ["mine.yaml:3", "model: this should be a valid mapping, not \"tiny\"."]),
        ("evaluate:", "evalaute:", ["evalaute", "mean evaluate"]),
        ("stages:", "stages: [\n", ["mine.yaml", "YAML"]),
        ("{base: tiny}", "&a {base: *a}", ["model.base"]),
        (BASE, "- a list", ["mapping"]),
        (BASE, "", ["mapping"]),
        ("name: mine", "\ufeff\ufeffname: mine", ["byte-order mark"]),
    ],
)  # fmt: skip
def test_mistakes_are_named(mine: Path, old: str, new: str, wanted: list[str]) -> None:
    assert old in BASE
    mine.write_text(BASE.replace(old, new, 1))
    text = complaint(mine)
    for part in wanted:
        assert part in text, text
    sentences = [line for line in text.splitlines() if line.startswith(str(mine))]
    keys = [re.sub(r"^.*?yaml(:\d+)*: ", "", line).partition(": ")[0] for line in sentences]
    assert len(set(keys)) == len(keys), "one sentence a key"
    assert not re.search(r"(?<!_)pattern|pydantic|instance of|Input|literal\[|tuple|\[\^", text), text


def test_a_missing_recipe_is_not_confused_with_one_of_another_name(mine: Path) -> None:
    with pytest.raises(UserError, match=r"no such recipe\. Did you mean mine\.yaml\?"):
        load_recipe(mine.parent / "mien.yaml")
    with pytest.raises(UserError, match=r"no such recipe\. Known: mine\.yaml\.$"):
        load_recipe(mine.parent / "something_else.txt")


def test_override_mistakes_are_named(mine: Path) -> None:
    assert "KEY=VALUE" in complaint(mine, "nonsense")
    assert "index" in complaint(mine, "stages.7.beta=1")
    assert "stages.1.beta" in complaint(mine, "stages.1.beta=high")
    assert "stages.0.group_size" in complaint(mine, "stages.0.group_size=4")


def test_overrides_reach_everywhere(mine: Path) -> None:
    recipe = load_recipe(
        mine,
        [
            "stages.1.beta=1e-2",
            "lora.rank=4",
            "task.target=compact",
            "stages.1.rewards.0.soft_ids=false",
            "evaluate=[]",
        ],
    ).recipe
    assert (recipe.stages[1].beta, recipe.lora.rank, recipe.task.params) == (0.01, 4, {"target": "compact"})
    assert recipe.stages[1].rewards[0].params == {"soft_ids": False}
    assert recipe.evaluate == ()
    with pytest.raises(ValueError, match="frozen"):
        recipe.name = "other"


def test_yaml_follows_1_2(mine: Path) -> None:
    mine.write_text(BASE.replace("name: mine", "name: no"))
    assert load_recipe(mine).recipe.name == "no"
    assert load_recipe(mine).recipe.stages[0].learning_rate == 1e-4


def test_header_limits_are_named(mine: Path) -> None:
    header = 'if __name__ == "__main__": from adapters import main; main(__file__); r"""\n'
    mine.write_text(header + BASE)
    assert 'must end with the line # """' in complaint(mine)
    mine.write_text(header + BASE + '# a """ quote\n# """\n')
    assert "ends it for Python" in complaint(mine)
    mine.write_text(header + BASE + '---\n# """\n')
    assert "--- line" in complaint(mine)
    mine.write_text(header + BASE + '# """\n')
    assert load_recipe(mine).recipe.name == "mine"


@pytest.mark.slow
def test_a_reward_that_pays_broken_text_is_noted(mine: Path) -> None:
    def notes(*overrides: str) -> tuple[str, ...]:
        file = load_recipe(mine, overrides)
        return make_plan(file, EchoBackend(file.recipe)).notes

    assert any("scores broken text as high as gold on 4 of 20 rows" in note for note in notes())
    assert not any("broken" in note for note in notes("stages.1.rewards=[{use: funding, scorer: corrected}]"))


def test_a_reward_that_prefers_garbage_is_refused(mine: Path) -> None:
    (mine.parent / "odd.py").write_text("def length(completion, example):\n    return 1 / (1 + len(completion))\n")
    text = complaint(mine, "stages.1.rewards=[./odd.py:length]")
    assert "scores empty or broken text" in text
    assert "stages.1.rewards" in text
    (mine.parent / "bad.py").write_text("def crash(completion, example):\n    return {}['x']\n")
    assert "failed on row" in complaint(mine, "stages.1.rewards=[./bad.py:crash]")
    (mine.parent / "high.py").write_text("def high(completion, example):\n    return 7\n")
    assert "outside [0, 1]" in complaint(mine, "stages.1.rewards=[./high.py:high]")


def test_the_command_exits_with_2_and_one_message(mine: Path) -> None:
    mine.write_text(BASE.replace("task: funding", "tsak: funding"))
    done = subprocess.run(
        [sys.executable, "-m", "adapters", str(mine)], capture_output=True, text=True, check=False, cwd=mine.parent
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "tsak: unknown key. Did you mean task?" in done.stderr
    assert not (mine.parent / "runs").exists()
