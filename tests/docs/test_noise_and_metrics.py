"""docs/noise_and_metrics.md is followed to the letter: its files are written, its commands run, its figures hold."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from docs_blocks import ROOT, blocks, named_files
from typer.testing import CliRunner

from adapters.cli.main import app
from adapters.testing import check_task

PAGE = ROOT / "docs" / "noise_and_metrics.md"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    files = named_files(PAGE)
    assert sorted(files) == ["gaps.py", "gaps.yaml", "lost_bars.py", "test.jsonl", "train.jsonl"]
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_of_the_page_and_what_it_says_of_their_figures(folder: Path) -> None:
    text = PAGE.read_text(encoding="utf-8")
    lines = [line for block in blocks(PAGE) for line in block.text.splitlines() if line.startswith("adapters ")]
    lines += re.findall(r"`(adapters data noise [^`]+)`", text)
    assert len(lines) == 3
    for line in lines:
        done = CliRunner().invoke(app, line.split()[1:], env={"COLUMNS": "100"})
        assert done.exit_code == 0, done.output
        assert "warning" not in done.output
    report = json.loads((folder / "runs" / "gaps" / "report.json").read_text())
    metrics = report["sets"]["test"]["1-sft"]["metrics"]
    assert list(metrics) == ["near", "exact", "form"]
    assert round(metrics["near"]["band_gap"]["f1"], 3) == 0.667
    assert "F1 is\n0.667" in text
    assert metrics["exact"]["band_gap"]["f1"] == 0
    assert round(metrics["form"]["both"]["precision"], 3) == round(metrics["form"]["both"]["f1"], 3) == 0.333
    for figure in ("gold", "pred", "matched", "precision", "recall", "f1", "f1_ci"):
        assert figure in metrics["near"]["formula"]
    noise = json.loads((folder / "runs" / "gaps" / "ledger.json").read_text())["stages"]["1-sft"]["sources"][0]["noise"]
    assert noise["by_family"]["lost bars"]["rows"] > 0


def test_gold_may_fail_a_check_of_form_alone(folder: Path) -> None:
    assert check_task("./gaps.py:Gaps", "train.jsonl").errors == []
    source = (folder / "gaps.py").read_text()
    (folder / "strict.py").write_text(source.replace('= ("both",)', "= ()"))
    with pytest.raises(AssertionError, match=r"gold of row '3' less than F = 1: 1 labelled, 1 predicted, 0 matched"):
        check_task("./strict.py:Gaps", "train.jsonl")
