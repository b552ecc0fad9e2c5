"""What counts as an edit of a plug-in: its own file and all code that it imports, and nothing else."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from tiny import funding_rows, write_jsonl

from adapters.backends.echo import EchoBackend
from adapters.errors import UserError
from adapters.pipeline.plan import Plan, make_plan
from adapters.pipeline.run import fork, run_plan
from adapters.plugins import source_files
from adapters.plugins.registry import resolve
from adapters.plugins.source_files import files_of_plugin, identity, score_hash
from adapters.recipe.fields import PluginSpec, RewardSpec
from adapters.recipe.load import load_recipe

SCORER = '''from dataclasses import dataclass
{imports}
@dataclass(frozen=True)
class Scorer:
    """A reward."""

    weights: tuple[float, ...] = (1.0,)
    level: float = LEVEL

    def __call__(self, completion, example):
        return self.level * float(completion == example.completion)
'''
RECIPE = """name: mine
task: funding
model: {base: none}
trainer: echo
evaluate_base: true
stages:
  - {kind: sft, data: [{path: train.jsonl}], learning_rate: 1e-4}
  - kind: grpo
    data: [{path: train.jsonl}]
    batch_size: 4
    learning_rate: 1e-5
    rewards: ["USE"]
evaluate:
  - {name: seen, data: [{path: train.jsonl}]}
"""
LAYOUTS: dict[str, tuple[str, dict[str, str], str]] = {
    "a file beside a file": (
        "./scorer_a.py:Scorer",
        {"scorer_a.py": SCORER.format(imports="from levels_a import LEVEL"), "levels_a.py": "LEVEL = 0.5\n"},
        "levels_a.py",
    ),
    "a module's neighbour, two imports away": (
        "scorer_b:Scorer",
        {
            "scorer_b.py": SCORER.format(imports="from levels_b import LEVEL"),
            "levels_b.py": "def _level():\n    from constants_b import HALF\n    return HALF\n\nLEVEL = _level()\n",
            "constants_b.py": "HALF = 0.5\n",
        },
        "constants_b.py",
    ),
    "a package that passes names on": (
        "pack_c.scorers.scorer:Scorer",
        {
            "pack_c/__init__.py": "from .levels import LEVEL\n",
            "pack_c/levels.py": "LEVEL = 0.5\n",
            "pack_c/scorers/__init__.py": "",
            "pack_c/scorers/scorer.py": SCORER.format(imports="from .. import LEVEL"),
        },
        "pack_c/levels.py",
    ),
    "a package that a file imports": (
        "./scorer_d.py:Scorer",
        {
            "scorer_d.py": SCORER.format(imports="import pack_d.scoring\nLEVEL = pack_d.scoring.LEVEL"),
            "pack_d/__init__.py": "",
            "pack_d/scoring.py": "from pack_d.levels import LEVEL\n",
            "pack_d/levels.py": "LEVEL = 0.5\n",
        },
        "pack_d/levels.py",
    ),
    "a user's own folder called rewards": (
        "rewards.scorer:Scorer",
        {
            "rewards/__init__.py": "",
            "rewards/scorer.py": SCORER.format(imports="from rewards.levels import LEVEL"),
            "rewards/levels.py": "LEVEL = 0.5\n",
        },
        "rewards/levels.py",
    ),
}  # fmt: skip


def forget_modules(folder: Path) -> None:
    """As in a new process: nothing of the folder is imported."""
    for name in [n for n, m in sys.modules.items() if str(folder) in str(getattr(m, "__file__", ""))]:
        del sys.modules[name]


def write_layout(folder: Path, layout: str) -> tuple[str, Path]:
    """A reward's name and the helper file that it depends on."""
    use, files, helper = LAYOUTS[layout]
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "unrelated.py").write_text('"""A docstring."""\n')
    return use, folder / helper


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """The test's folder, on the import path."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # edits within one second would go unseen
    monkeypatch.delitem(sys.modules, "rewards", raising=False)
    yield tmp_path
    forget_modules(tmp_path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_code_that_a_reward_imports_counts(layout: str, on_path: Path) -> None:
    use, helper = write_layout(on_path, layout)
    spec = PluginSpec(use=use)
    reward = resolve("rewards", spec, folder=on_path)

    def hashes() -> tuple[str, str]:
        return identity("rewards", spec, reward, on_path), score_hash("rewards", spec, reward, on_path)

    before = hashes()
    (on_path / "unrelated.py").write_text('"""Another docstring."""\n')
    assert hashes() == before
    own = next(on_path.rglob("scorer*.py"))
    for path in (helper, own):
        text = path.read_text()
        path.write_text(text + "# edited\n")
        assert not set(hashes()) & set(before), path.name
        path.write_text(text)
    assert hashes() == before


@pytest.fixture
def start(on_path: Path):  # type: ignore[no-untyped-def]
    """Plan and run a recipe with the reward of the first layout."""
    use, _ = write_layout(on_path, next(iter(LAYOUTS)))
    write_jsonl(on_path / "train.jsonl", funding_rows(12))
    (on_path / "mine.yaml").write_text(RECIPE.replace("USE", use) + f"run_dir: {on_path / 'runs'}\n")

    def started(*overrides: str, run: bool = True) -> tuple[Plan, dict]:
        forget_modules(on_path)
        file = load_recipe(on_path / "mine.yaml", overrides)
        backend = EchoBackend(file.recipe)
        plan = make_plan(file, backend)
        return plan, run_plan(plan, backend) if run else {}

    return started


def complete(plan: Plan) -> list[bool]:
    return [job.is_complete(plan.jobs[n - 1].folder if n else None) for n, job in enumerate(plan.jobs)]


@pytest.mark.slow
def test_an_edited_helper_repeats_training_and_evaluation(start, on_path: Path) -> None:  # type: ignore[no-untyped-def]
    _, report = start()
    assert report["sets"]["seen"]["2-grpo"]["rewards"]["Scorer"]["mean"] == 0.5
    (on_path / "levels_a.py").write_text("LEVEL = 0.25\n")
    edited, _ = start(run=False)
    assert complete(edited) == [True, False]
    with pytest.raises(UserError, match=r"2-grpo differs. Changed: the training data or a plug-in file"):
        start()
    assert fork(edited)[1] == ["1-sft"]
    _, again = start()
    for label in ("1-sft", "2-grpo"):
        old, new = (r["sets"]["seen"][label] for r in (report, again))
        assert new["rewards"]["Scorer"]["mean"] == 0.25, "the old figures are not reused"
        assert new["key"] != old["key"]


@pytest.mark.slow
def test_other_files_and_the_fault_policy_repeat_nothing(start, on_path: Path) -> None:  # type: ignore[no-untyped-def]
    _, report = start()
    (on_path / "unrelated.py").write_text('"""Another docstring."""\n')
    reward = "stages.1.rewards=[{{use: './scorer_a.py:Scorer', {}}}]"
    for change in ([], [reward.format("on_error: skip, max_errors: 0.5")]):
        plan, again = start(*change)
        assert complete(plan) == [True, True]
        assert again["sets"] == report["sets"]
    written_out, _ = start(reward.format("weights: [1.0], level: 0.5"), run=False)
    assert complete(written_out) == [True, True], "a default that is written out changes nothing"
    for change in ("level: 0.75", "weights: [2.0]", "weight: 0.5"):
        assert complete(start(reward.format(change), run=False)[0]) == [True, False], change


@pytest.mark.slow
def test_an_edited_task_repeats_evaluations(start, on_path: Path) -> None:  # type: ignore[no-untyped-def]
    """The rows stay as they are: the code that counts is another."""
    (on_path / "my_task.py").write_text(
        "from dataclasses import dataclass\n"
        "from adapters.tasks.funding import FundingTask\n"
        "from my_counts import MODE\n"
        "@dataclass(frozen=True)\nclass Mine(FundingTask):\n    pass\n"
    )
    fingerprints = []
    for text in ("MODE = 1\n", "MODE = 1\n", "MODE = 2\n"):
        (on_path / "my_counts.py").write_text(text)
        fingerprints.append(start("task=./my_task.py:Mine", run=False)[0].evaluations[0].fingerprint)
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def test_the_hash_does_not_depend_on_the_place(tmp_path: Path) -> None:
    hashes = set()
    for name in ("here", "there"):
        use, _ = write_layout(tmp_path / name, "a package that a file imports")
        hashes.add(score_hash("rewards", PluginSpec(use=use), None, tmp_path / name))
    assert len(hashes) == 1


@pytest.mark.parametrize(
    ("kind", "use", "file"),
    [("rewards", "funding", "funding_matching.py"), ("tasks", "funding", "funding_matching.py"),
     ("tasks", "funding", "funding.py"), ("tasks", "ie", "ie_records.py"), ("rewards", "agent", "agent_formats.py"),
     ("rewards", "./wraps.py:Wraps", "funding_matching.py")],
)  # fmt: skip
def test_built_in_code_counts_for_evaluations_alone(
    kind: source_files.Kind, use: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upgrade that changes a scorer repeats evaluations and trains nothing again."""
    (tmp_path / "wraps.py").write_text(
        "from adapters.rewards.funding import Funding\n\nclass Wraps(Funding):\n    pass\n"
    )
    spec = PluginSpec(use=use)
    plugin = resolve(kind, spec, folder=tmp_path)
    before = [identity(kind, spec, plugin, tmp_path), score_hash(kind, spec, plugin, tmp_path)]
    read = source_files.sha256
    monkeypatch.setattr(source_files, "sha256", lambda path: "edited" if path.name == file else read(path))
    after = [identity(kind, spec, plugin, tmp_path), score_hash(kind, spec, plugin, tmp_path)]
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_a_built_in_plugin_is_its_name_and_parameters(tmp_path: Path) -> None:
    def of(**parameters: object) -> str:
        spec = RewardSpec.model_validate({"use": "funding", **parameters})
        return identity("rewards", spec, resolve("rewards", spec), tmp_path)

    assert json.loads(of(beta=1.0, soft_ids=True, weight=2.0, timeout=3.0)) == {"use": "funding", "beta": 1.0}
    assert of() != of(beta=1.0)


def test_the_package_itself_is_no_part_of_a_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise every release would repeat every evaluation."""
    monkeypatch.setattr(sys, "path", [p for p in sys.path if not (Path(p) / "rewards").is_dir()])
    old, new = (
        files_of_plugin("rewards", PluginSpec(use=f"{package}.funding:Funding"), tmp_path)
        for package in ("rewards", "adapters.rewards")
    )
    assert (old.files, old.module, old.built_in) == (new.files, new.module, True), "the old import name is the same"
    assert {p.parent.name for p in new.files} == {"rewards"}
