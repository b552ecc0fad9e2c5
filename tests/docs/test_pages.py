"""The documentation: links lead somewhere, commands exist and run."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pandas as pd
import pytest
import typer
from docs_blocks import PAGES, ROOT, blocks, named_files
from tiny import echo_recipe, funding_rows, ie_rows, write_jsonl
from typer.testing import CliRunner

from adapters.cli.main import app
from adapters.data.formats import FORMATS

ELSEWHERE = (
    "--endpoint",
    "trainer=tinker",
    "data_root=FOLDER",
    "recipes/quickstart.yaml --seeds",
    "_smollm2.yaml --seeds",
    "publish",
    "merge",
    "--engine",
    "--constrain",
    "me/",
    "--launch",
    "build-ie",
    "qwen-text",
    "adapters sample",
    "adapters mine ",
    "adapters graph records.jsonl",
    "adapters calibrate",
    "--min-confidence",
    "mine s.jsonl",
    "mine samples.jsonl -o",
)
"""What a command needs that is not here: a server, a GPU, the Hub, its models, trained weights, corpora."""
OWN_TESTS = ("tutorial.md", "new_task.md", "noise_and_metrics.md", "records.md", "chat.md", "environments.md")
SPERT = """[{"tokens": ["Ada", "lived", "in", "Rome"], "relations": [{"type": "Live_In", "head": 0, "tail": 1}],
"entities": [{"type": "Peop", "start": 0, "end": 1}, {"type": "Loc", "start": 3, "end": 4}]}]"""
IEPILE = {"task": "NER", "source": "x", "output": '{"person": ["Ada"]}',
          "instruction": '{"instruction": "Extract.", "schema": ["person"], "input": "Ada ."}'}  # fmt: skip


def commands(page: Path) -> Iterator[str]:
    """The `adapters …` commands of a page's shell blocks, without comments and optional parts."""
    for block in blocks(page):
        if block.language not in ("", "bash", "console"):
            continue
        for line in re.sub(r"\\\n\s*", " ", block.text).splitlines():
            line = line.strip().removeprefix("$ ").partition(" #")[0]
            for command in re.split(r"\s{3,}(?=adapters )", line):
                if command.startswith("adapters "):
                    yield re.sub(r"\s*(\[[^\]'=]*(?:=[^\]']*)?\]|…)(?!')", "", command).strip()


EVERY = sorted({(page.name, command) for page in PAGES for command in commands(page)})
RUN = [c for page, c in EVERY if page not in OWN_TESTS and not any(word in c for word in ELSEWHERE)]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_a_page_and_a_heading_of_it(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text(encoding="utf-8")):
        name, _, anchor = target.partition("#")
        file = page if not name else (page.parent / name).resolve()
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def test_every_page_is_in_the_index_and_in_the_site() -> None:
    pages = {page.name for page in (ROOT / "docs").glob("*.md")}
    index = set(re.findall(r"\]\(([a-z_]+\.md)\)", (ROOT / "docs" / "README.md").read_text()))
    site = set(re.findall(r": (\w+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    assert index == pages - {"README.md"}
    assert site == pages


@pytest.mark.parametrize(("page", "command"), EVERY, ids=lambda text: text[:60])
def test_a_command_of_the_docs_has_a_verb_and_options_that_exist(page: str, command: str) -> None:
    arguments = shlex.split(command)[1:]
    current: Any = typer.main.get_command(app)
    context = click.Context(current)
    # Not isinstance(…, click.Group): typer has a copy of click of its own.
    while hasattr(current, "commands") and arguments and not arguments[0].startswith("-"):
        name, current, arguments = current.resolve_command(context, arguments)
        assert current is not None
        assert not current.hidden, f"{command}: {name} is an old name"
        context = click.Context(current, parent=context)
    if arguments != ["--version"] and not hasattr(current, "commands"):
        current.make_context("adapters", arguments, parent=context)
        old = {name for option in current.params if getattr(option, "hidden", False) for name in option.opts}
        assert not old & {argument.partition("=")[0] for argument in arguments}, f"{command}: an old option"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the files that the pages speak of lie, and runs of the echo trainer under their names."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "FOLDER").mkdir()
    rows = [{**row, "completion": "[]"} for row in funding_rows(24)]
    for name in ("funding", "rows", "statements", "corpus", "predictions", "gold", "FOLDER/grobid_test"):
        write_jsonl(folder / f"{name}.jsonl", rows)
    for name in ("ie", "abstracts", "news.test"):
        write_jsonl(folder / f"{name}.jsonl", [{**row, "spans": []} for row in ie_rows(24)])
    answers = [(row["id"], text) for row in rows for text in (json.dumps(row["funders"]), "?")]
    write_jsonl(folder / "samples.jsonl", [{"id": i, "completion": text} for i, text in answers])
    write_jsonl(folder / "funders.jsonl", [{"funder_id": "10.1/1", "name": "Wellcome Trust", "aliases": []}])
    write_jsonl(folder / "iepile_test.jsonl", [IEPILE])
    pd.DataFrame(funding_rows(24)).to_parquet(folder / "corpus.parquet")
    (folder / "eng.train").write_text("Ada NNP B-PER\nsleeps VBZ O\n")
    (folder / "scierc_test.json").write_text(SPERT)
    (folder / "annotations").mkdir()
    (folder / "annotations" / "a.txt").write_text("Ada sleeps.")
    (folder / "annotations" / "a.ann").write_text("T1\tPerson 0 3\tAda\n")
    for name, text in named_files(ROOT / "docs" / "formats.md").items():
        (folder / name).write_text(text)
    (folder / "export.json").write_text(FORMATS["labelstudio"].example)
    (folder / "sharegpt.json").write_text(FORMATS["sharegpt"].example)
    (folder / "ror.json").write_text('[{"funder_id": "10.1/1", "name": "Wellcome Trust", "aliases": []}]')
    (folder / "papers").mkdir()
    doi, known = "<article-id pub-id-type='doi'>10.5555/1</article-id>", rows[0]["funding_statement"]
    paper = f"<article><article-meta>{doi}</article-meta><back><ack><p>{known}</p></ack></back></article>"
    (folder / "papers" / "a.xml").write_text(paper)
    (folder / "articles").mkdir()
    (folder / "articles" / "a.xml").write_text(FORMATS["jats"].example)
    brevity = next(block.text for block in blocks(ROOT / "docs" / "rewards.md") if block.language == "python")
    (folder / "brevity.py").write_text(brevity)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        names = {"funding": ("NAME", "x", "mine", "recipe", "funding_smollm2"), "ie": ("R", "ie_smollm2")}
        for task, name in [(task, name) for task, several in names.items() for name in several]:
            (folder / f"{name}.yaml").write_text(echo_recipe(name, task))
            done = CliRunner().invoke(app, ["run", f"{name}.yaml"])
            assert done.exit_code == 0, done.output
        done = CliRunner().invoke(app, ["data", "synthesize", "agent", "-n", "60", "-o", "turns.jsonl"])
        assert done.exit_code == 0, done.output
        done = CliRunner().invoke(app, ["extract", "runs/funding_smollm2", "statements.jsonl", "-o", "out.jsonl"])
        assert done.exit_code == 0, done.output
    graded = {"step": 0, "id": "r0", "reward": "funding"}
    rollouts = [{**graded, "completion": "[]", "score": 1.0}, {**graded, "completion": "[[]]", "score": 0.0}]
    write_jsonl(folder / "runs" / "x" / "2-grpo" / "rollouts-0.jsonl", rollouts)
    shutil.copytree(
        folder / "runs" / "R" / "eval" / "2-grpo" / "test", folder / "runs" / "R" / "eval" / "2-grpo" / "news"
    )
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("command", dict.fromkeys(RUN), ids=lambda text: text[:60])
def test_a_command_of_the_docs_runs(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """Those that need no GPU, no server, no Hub and no training; three pages have tests of their own."""
    arguments = [argument.replace("RUN", "runs/NAME") for argument in shlex.split(command)[1:]]
    shutil.copytree(workplace, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    if arguments[:1] == ["new"]:
        Path("mine.yaml").unlink()
    if arguments[:2] == ["pairs", "corrupt"]:
        Path("turns.jsonl").rename("mine.jsonl")
    if arguments[:1] == ["export"]:
        assert CliRunner().invoke(app, ["extract", "runs/NAME", "papers/", "-o", "found.jsonl"]).exit_code == 0
    if arguments[:2] == ["rewards", "new"]:
        Path("brevity.py").unlink()
    monkeypatch.setattr("webbrowser.open", lambda url: True)
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output[-3000:]
