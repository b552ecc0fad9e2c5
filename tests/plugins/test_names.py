"""Names that several packages use: nothing is decided in silence, and `package:name` chooses."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import echo_recipe, funding_rows, write_jsonl
from typer.testing import CliRunner

from adapters.backends.echo import EchoBackend
from adapters.cli.main import app
from adapters.data.noise import make_row_noiser
from adapters.errors import UserError
from adapters.integrations import trl_reward
from adapters.pipeline.plan import Plan, make_plan
from adapters.plugins.registry import names, offered, resolve
from adapters.plugins.source_files import identity, of_recipe
from adapters.publish.bundle import without_paths
from adapters.recipe.fields import NoiseSpec, PluginSpec
from adapters.recipe.load import load_recipe
from adapters.testing import examples

CODE = '''from adapters.data_aug.noise import Edit
from adapters.tasks.funding import FundingTask


class Formula:
    """A reward."""

    def __call__(self, completion, example):
        return float(completion == example.completion)


def bars(text, rng, protected):
    return [Edit(0, 0, "|", "bars")]


class Task(FundingTask):
    pass
'''
GROUPS = {
    "rewards": {"formula": "Formula", "funding": "Formula"},
    "tasks": {"funding": "Task"},
    "noise": {"dashes": "bars", "ocr": "bars"},
}
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a package with these plug-ins on the path, as pip would leave it."""

    def installed(package: str, module: str, groups: dict[str, dict[str, str]], code: str = CODE) -> None:
        site = tmp_path / "site" / package
        (site / module).mkdir(parents=True)
        (site / module / "__init__.py").write_text("")
        (site / module / "plugs.py").write_text(code)
        info = site / f"{package.replace('-', '_')}-1.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.5\n")
        lines = []
        for group, points in groups.items():
            lines += [f"[adapters.{group}]", *(f"{name} = {module}.plugs:{cls}" for name, cls in points.items())]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
        monkeypatch.syspath_prepend(str(site))

    yield installed
    for name in [n for n in sys.modules if n.split(".")[0] in ("matsci_plugs", "other_plugs", "twice")]:
        del sys.modules[name]


@pytest.fixture
def matsci(install: Install) -> None:
    install("MatSci-Plugs", "matsci_plugs", GROUPS)


@pytest.mark.parametrize(
    ("kind", "name", "ours"),
    [("rewards", "funding", "adapters.rewards.funding:Funding"), ("tasks", "funding", "adapters.tasks.funding:Fun"),
     ("noise", "dashes", "adapters.data_aug.noise.typography:Dashes"), ("noise", "ocr", "a preset")],
)  # fmt: skip
def test_a_name_of_two_packages_is_an_error_that_lists_both(kind: str, name: str, ours: str, matsci: None) -> None:
    with pytest.raises(UserError) as raised:
        resolve(kind, PluginSpec(use=name), at=("here",))
    text = str(raised.value)
    assert f"2 packages offer the {kind.removesuffix('s')} {name!r}: " in text
    assert f"extraction-adapters:{name} (" in text
    assert f", {ours}" in text
    assert f"matsci-plugs:{name} (1.5, matsci_plugs.plugs:" in text
    assert (
        f"Write extraction-adapters:{name} or matsci-plugs:{name}" in text or f"or extraction-adapters:{name}" in text
    )
    assert raised.value.at == ("here", "use")


def test_the_names_with_their_packages_choose(matsci: None) -> None:
    theirs = resolve("rewards", PluginSpec(use="matsci-plugs:funding"))
    assert type(theirs).__module__ == "matsci_plugs.plugs"
    assert resolve("rewards", PluginSpec(use="MatSci_Plugs:funding")).__class__ is type(theirs), "normalised"
    assert type(resolve("rewards", PluginSpec(use="extraction-adapters:funding"))).__name__ == "Funding"
    assert resolve("rewards", PluginSpec(use="matsci-plugs:formula")).__class__ is type(theirs)
    row = {"id": "1", **funding_rows(1)[0]}
    task = resolve("tasks", PluginSpec(use="extraction-adapters:funding"))
    for use, first in (("matsci-plugs:dashes", "|"), ("extraction-adapters:ocr", None)):
        noiser = make_row_noiser(NoiseSpec(use=use, share=1.0), seed=0, folder=Path(), at=())
        text = noiser.noise.families[0](row["funding_statement"], None, ()) if first else None
        assert noiser.noise.name == ("ocr/medium" if first is None else use)
        assert first is None or text[0].after == first
    assert task.text_field == "funding_statement"


def test_what_nobody_else_offers_stays_usable_and_lists_work(matsci: None) -> None:
    assert resolve("rewards", PluginSpec(use="formula"))
    assert resolve("rewards", PluginSpec(use="ie"))
    known = names("rewards")
    assert {"ie", "formula", "matsci-plugs:funding", "extraction-adapters:funding"} <= set(known)
    assert "funding" not in known
    listed = CliRunner().invoke(app, ["rewards", "list"])
    assert listed.exit_code == 0
    assert "matsci-plugs:funding" in listed.output
    assert CliRunner().invoke(app, ["rewards", "show", "extraction-adapters:funding"]).exit_code == 0
    refused = CliRunner().invoke(app, ["rewards", "show", "funding"])
    assert refused.exit_code == 2
    assert "2 packages offer the reward 'funding'" in refused.stderr
    assert examples("extraction-adapters:funding", n=2)[0].prompt
    with pytest.raises(UserError, match="2 packages offer the task 'funding'"):
        trl_reward("extraction-adapters:funding")
    assert trl_reward("extraction-adapters:funding", task="extraction-adapters:funding")(["[]"], funders=[[]]) == [1.0]


def test_a_wrong_name_of_a_package_is_a_sentence(matsci: None) -> None:
    with pytest.raises(UserError, match=r"no reward is called 'formulla' in matsci-plugs\. Did you mean formula\?"):
        resolve("rewards", PluginSpec(use="matsci-plugs:formulla"))


def test_the_same_class_under_one_name_of_two_packages_is_no_conflict(matsci: None, install: Install) -> None:
    install("meta-package", "other_plugs", {})
    info = next(Path(p) for p in sys.path if p.endswith("meta-package")) / "meta_package-1.5.dist-info"
    (info / "entry_points.txt").write_text("[adapters.rewards]\nformula = matsci_plugs.plugs:Formula\n")
    sys.path.append(sys.path.pop(0))  # another path: the metadata is read anew
    assert offered("rewards", "formula") is not None
    assert resolve("rewards", PluginSpec(use="formula"))


def test_a_package_name_that_is_a_module_too_must_mean_one_thing(install: Install) -> None:
    """`twice:same` is the very class; `twice:other` is a class of the module and another one of the package."""
    install("twice", "twice", {"rewards": {"same": "Same", "other": "Same"}}, "class Same:\n    pass\n")
    package = next(Path(p) for p in sys.path if p.endswith("/twice"))
    (package / "twice" / "__init__.py").write_text("from twice.plugs import Same as same\n\n\nclass other:\n    pass\n")
    assert resolve("rewards", PluginSpec(use="twice:same")).__class__.__name__ == "Same"
    with pytest.raises(UserError, match=r"twice:other means two things: other of the module twice, and what the pack"):
        resolve("rewards", PluginSpec(use="twice:other"))
    assert resolve("rewards", PluginSpec(use="other")).__class__.__name__ == "Same"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "funding.jsonl", funding_rows(12))
    (tmp_path / "mine.yaml").write_text(echo_recipe("mine"))
    return tmp_path


def planned(*overrides: str) -> Plan:
    file = load_recipe("mine.yaml", overrides)
    return make_plan(file, EchoBackend(file.recipe))


@pytest.mark.slow
def test_a_name_that_must_be_qualified_one_day_trains_nothing_again(place: Path, install: Install) -> None:
    noise = "stages.0.noise={{use: {}dashes, share: 1.0}}"
    before = planned(noise.format(""))
    done = CliRunner().invoke(app, ["run", "mine.yaml", noise.format("")])
    assert done.exit_code == 0, done.output
    install("matsci-plugs", "matsci_plugs", GROUPS)
    with pytest.raises(UserError, match="2 packages offer the task 'funding'"):
        planned(noise.format(""))
    own = "extraction-adapters:"
    qualified = [f"task={own}funding", noise.format(own), f"stages.1.rewards=['{own}funding']"]
    after = planned(*qualified)
    assert [job.fingerprint for job in after.jobs] == [job.fingerprint for job in before.jobs]
    assert [test.fingerprint for test in after.evaluations] == [test.fingerprint for test in before.evaluations]
    manifest = place / "runs" / "mine" / "2-grpo" / "manifest.json"
    trained = manifest.stat().st_mtime_ns
    for command in (["run", "mine.yaml", *qualified], ["eval", "runs/mine"], ["report", "runs/mine"]):
        again = CliRunner().invoke(app, command)
        assert again.exit_code == 0, again.output
    assert manifest.stat().st_mtime_ns == trained
    theirs = planned(*qualified[:2], "stages.1.rewards=['matsci-plugs:funding']")
    assert theirs.jobs[0].fingerprint == before.jobs[0].fingerprint
    assert theirs.jobs[1].fingerprint != before.jobs[1].fingerprint
    reward = PluginSpec(use="formula")
    plain = identity("rewards", reward, resolve("rewards", reward), Path())
    assert plain == identity("rewards", PluginSpec(use="matsci-plugs:formula"), resolve("rewards", reward), Path())


def test_check_lists_a_qualified_name_and_refuses_an_ambiguous_one(place: Path, matsci: None) -> None:
    own = "extraction-adapters:"
    tail = [f"task={own}funding", "stages.1.rewards=['matsci-plugs:funding']", f"stages.0.noise={own}ocr"]
    file = load_recipe("mine.yaml", tail)
    assert [(p.use, p.built_in, p.found) for p in of_recipe(file.recipe, file.folder)] == [
        (f"{own}funding", True, True),
        ("matsci-plugs:funding", False, True),
    ]
    listed = CliRunner().invoke(app, ["check", "mine.yaml", "--no-import", "--json", *tail])
    assert json.loads(listed.stdout)["plugins"][1]["module"] == "matsci_plugs.plugs"
    refused = CliRunner().invoke(app, ["check", "mine.yaml", "--no-import"])
    assert refused.exit_code == 2
    assert "mine.yaml:" in refused.stderr
    assert "2 packages offer the task 'funding'" in refused.stderr


def test_a_published_recipe_keeps_the_qualified_name() -> None:
    recipe = {"task": "extraction-adapters:funding", "stages": [{"rewards": [{"use": "matsci-plugs:funding"}]}]}
    assert without_paths(recipe) == recipe


def test_noise_on_a_file_takes_a_qualified_name(place: Path, matsci: None) -> None:
    command = [
        "data",
        "noise",
        "funding.jsonl",
        "-o",
        "noisy.jsonl",
        "--task",
        "extraction-adapters:funding",
        "--preset",
    ]
    assert CliRunner().invoke(app, [*command, "dashes"]).exit_code == 2
    done = CliRunner().invoke(app, [*command, "matsci-plugs:dashes"])
    assert done.exit_code == 0, done.output
    assert json.loads((place / "noisy.jsonl").read_text().splitlines()[0])["funding_statement"].startswith("|")
