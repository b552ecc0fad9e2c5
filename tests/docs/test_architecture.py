"""docs/architecture.md: every file and function exists, and steps stand in the order in which a run calls them."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType

import pytest
from docs_blocks import ROOT
from tiny import echo_recipe, funding_rows, write_jsonl
from typer.testing import CliRunner

from adapters.cli.main import app

PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PACKAGE = ROOT / "src" / "adapters"


def steps(verb: str) -> list[tuple[str, str]]:
    """File and function of each step in the table marked with the verb."""
    table = PAGE.partition(f"<!-- traced: {verb} -->\n")[2].partition("\n\n")[0]
    return re.findall(r"\| `([\w/]+\.py)` \| `(\w+)` \|$", table, re.MULTILINE)


def calls(verb: str, folder: Path) -> Iterator[tuple[str, str]]:
    """The functions of the package that a verb calls, in the order of their first calls."""
    seen: dict[CodeType, None] = {}

    def trace(frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            seen.setdefault(frame.f_code)

    sys.setprofile(trace)
    try:
        done = CliRunner().invoke(app, [verb, str(folder / "traced.yaml")])
    finally:
        sys.setprofile(None)
    assert done.exit_code == 0, done.output
    files = ((Path(code.co_filename), code.co_name) for code in seen)
    yield from dict.fromkeys((str(p.relative_to(PACKAGE)), name) for p, name in files if p.is_relative_to(PACKAGE))


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["run", "check"])
def test_the_steps_exist_and_stand_in_the_order_of_the_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "funding.jsonl", funding_rows(16))
    (tmp_path / "traced.yaml").write_text(echo_recipe("traced") + "publish: {repo: me/traced}\n")
    documented = steps(verb)
    assert len(documented) > 5
    for file, function in documented:
        module = importlib.import_module(
            "adapters." + file.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        )
        assert hasattr(module, function) or function == "train", f"{file} has no {function}"
    called = list(calls(verb, tmp_path))
    assert [step for step in called if step in documented] == documented


def test_every_file_and_package_that_the_page_names_exists() -> None:
    for name in re.findall(r"`((?:[a-z_]+/)+[a-z_]*(?:\.py)?)`", PAGE):
        places = (PACKAGE / name, PACKAGE / "backends" / name, ROOT / name)
        assert any(place.exists() for place in places), name
    packages = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert packages <= {name.rstrip("/") for name in re.findall(r"`([a-z_]+/)`", PAGE)}
