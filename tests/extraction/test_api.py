"""`run`, `check` and `load` in Python: the same results as the commands, as objects."""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest
from test_extract import echo_adapter
from tiny import SMALL_RECIPE, funding_rows, small_run, write_jsonl
from transformers.utils import logging as bars
from typer.testing import CliRunner

import adapters
from adapters.api import Extractor
from adapters.cli.main import app
from adapters.console import bars_as_before, quiet, quiet_libraries
from adapters.errors import UserError
from adapters.extraction import extractor as extractor_module


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return small_run(tmp_path)


def test_importing_the_package_loads_no_library() -> None:
    code = "import sys; from adapters import check, load, run; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_a_run_has_stages_metrics_samples_and_a_report(folder: Path) -> None:
    datasets.enable_progress_bars()
    bars.enable_progress_bar()
    done = adapters.run("small.yaml", {"stages.0.batch_size": 4})
    assert [stage.name for stage in done.stages] == ["1-sft"]
    report = json.loads((folder / "runs/small/report.json").read_text())
    figures = report["sets"]["seen"]["1-sft"]["metrics"]["balanced"]["funder"]
    assert done.metrics["seen"]["1-sft"]["balanced"]["funder"] == figures
    assert len(done.samples("seen")) == 30
    assert done.samples("seen", "base") != done.samples("seen")
    assert done.report(folder / "page.html").read_text().startswith("<!doctype html>")
    assert done.load().extract(funding_rows(1)[0])[0]["record"]
    assert not datasets.are_progress_bars_disabled()
    assert bars.is_progress_bar_enabled()


def test_bars_that_were_off_stay_off() -> None:
    for show in (True, False):
        (datasets.enable_progress_bars if show else datasets.disable_progress_bars)()
        (bars.enable_progress_bar if show else bars.disable_progress_bar)()
        with bars_as_before():
            quiet_libraries()
            assert datasets.are_progress_bars_disabled()
        assert datasets.are_progress_bars_disabled() is not show
        assert bars.is_progress_bar_enabled() is show


def test_logs_and_bars_of_the_caller_are_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    logger, handler = logging.getLogger("transformers"), logging.NullHandler()
    logger.addHandler(handler)
    before = logger.handlers[:]
    with bars_as_before(), quiet(None):
        quiet_libraries()
        assert logger.handlers == []
    assert (logger.handlers, "TQDM_DISABLE" in os.environ) == (before, False)
    logger.removeHandler(handler)


def test_a_recipe_is_checked(folder: Path) -> None:
    assert adapters.check("small.yaml").errors == []
    with pytest.raises(UserError, match="learning_rat"):
        adapters.run("small.yaml", {"stages.0.learning_rat": 1})
    assert not (folder / "runs").exists()


def test_records_are_those_of_the_command(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter, rows = echo_adapter(folder / "adapter", funding_rows(20)), funding_rows(25)
    write_jsonl(folder / "corpus.jsonl", rows)
    shown = CliRunner().invoke(app, ["extract", str(adapter), "corpus.jsonl", "-o", "out.jsonl"])
    assert shown.exit_code == 0, shown.output
    wanted = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    extractor = adapters.load(adapter)
    monkeypatch.setattr("adapters.extraction.engine.WINDOW", 10)
    prepared = []
    real = extractor_module.prepare
    monkeypatch.setattr(extractor_module, "prepare", lambda *a, **k: prepared.append(a) or real(*a, **k))
    assert list(extractor.stream(rows)) == wanted
    assert len(prepared) == 1, "a registry would be read for every block"
    texts = [row["funding_statement"] for row in rows]
    assert [line["record"] for line in extractor.extract(texts)] == [line["record"] for line in wanted]
    assert extractor.extract(texts[0])[0]["record"] == wanted[0]["record"]
    assert extractor.extract([]) == []
    assert [line["record"] for line in extractor.stream(texts[0])] == [wanted[0]["record"]]
    assert repr(extractor) == f"Extractor({str(adapter)!r}, engine='transformers')"


def test_it_maps_a_data_set(folder: Path) -> None:
    from datasets import Dataset

    extractor = adapters.load(echo_adapter(folder / "adapter", funding_rows(20)))
    mapped = Dataset.from_list([*funding_rows(4), {"id": "x", "funding_statement": None}]).map(extractor, batched=True)
    assert json.loads(mapped[0]["record"]) == extractor.extract(funding_rows(1)[0])[0]["record"]
    assert (mapped[4]["record"], mapped[4]["error"][:7]) == ("", "no text")
    one = Dataset.from_list(funding_rows(2)).map(extractor)  # a row at a time
    assert one["record"] == mapped["record"][:2]
    assert extractor({"funding_statement": None})["error"] == mapped[4]["error"]
    with pytest.raises(UserError, match="has a column 'error', which would be replaced"):
        extractor({"funding_statement": ["x"], "error": ["mine"]})
    assert set(extractor({"funding_statement": ["x"]})) == set(extractor.extract("x")[0]) - {"row", "id"}


def test_a_data_set_whose_first_error_comes_late_is_mapped(folder: Path) -> None:
    from datasets import Dataset

    texts = [*(row["funding_statement"] for row in funding_rows(4)), None]
    extractor = adapters.load(echo_adapter(folder / "adapter", funding_rows(20)))
    rows = Dataset.from_dict({"funding_statement": texts})
    for batched in (True, False):
        mapped = rows.map(extractor, batched=batched, batch_size=2, writer_batch_size=2)
        assert [bool(error) for error in mapped["error"]] == [False, False, False, False, True]


def test_what_is_no_text_is_said(folder: Path) -> None:
    extractor = adapters.load(echo_adapter(folder / "adapter", funding_rows(20)))
    for given, said in (
        ([None], "text 1 is no text and no row, but None"),
        (["x", 3], "text 2 is no text"),
        (5, "a text, a row, or several of them are read here, not 5"),
        (b"x", "a text, a row, or several of them"),
        ([{"body": "x"}], "row 1 has no column 'funding_statement' with the text, only body; name it with text="),
    ):
        with pytest.raises(UserError, match=said):
            extractor.extract(given)  # type: ignore[arg-type]


def test_many_texts_show_progress(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    extractor = adapters.load(echo_adapter(folder / "adapter", funding_rows(20)))
    extractor.extract(funding_rows(3))
    assert capsys.readouterr().err == ""
    extractor.extract(funding_rows(20))
    assert "extracting texts 1 to 20: 20 of 20" in capsys.readouterr().err


def test_a_run_that_is_interrupted_says_so_and_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("adapters.pipeline.run._train", stopped)
        with pytest.raises(KeyboardInterrupt, match="small was stopped; run again, it continues where it stopped"):
            adapters.run("small.yaml", {"trainer": "echo", "run_dir": folder / "runs"})
    done = adapters.run("small.yaml", {"trainer": "echo", "run_dir": folder / "runs"})
    assert [stage.state for stage in done.stages] == ["done"]
    for call, said in (
        (lambda: done.samples("sen"), "there is no test set sen. Did you mean seen?"),
        (lambda: done.samples("seen", "2-grpo"), "there is no model of seen 2-grpo"),
        (lambda: adapters.run("small.yaml", fresh=True, fork=True), "give one of them"),
        (lambda: adapters.check("small.yaml", trust="yes"), "check: trust"),
    ):
        with pytest.raises(UserError, match=re.escape(said)):
            call()


def test_the_page_runs_as_it_stands(folder: Path) -> None:
    text = SMALL_RECIPE.replace("name: small", "name: mine").replace("name: seen", "name: test")
    (folder / "recipe.yaml").write_text(text)
    page = (Path(__file__).parents[2] / "docs" / "python.md").read_text()
    names: dict[str, object] = {}
    for code in re.findall(r"```python\n(.*?)```", page, flags=re.S):
        exec(code, names)
    assert (folder / "runs/mine/report.html").is_file()


def test_what_cannot_be_loaded_says_so(folder: Path) -> None:
    with pytest.raises(UserError, match="neither a folder nor the Hub id"):
        adapters.load("./nothing")
    with pytest.raises(UserError, match="--window"):
        adapters.load(echo_adapter(folder / "adapter", funding_rows(2)), passes=2)
    assert isinstance(adapters.load(folder / "adapter"), Extractor)
    with pytest.raises(UserError, match=r"the base of .*adapter: '/models/gone' is neither .* \(base=\) names another"):
        adapters.load(folder / "adapter", base="/models/gone")


def extracted(*words: str, stdin: str | bytes = "") -> tuple[int, list[dict], str]:
    done = CliRunner().invoke(app, ["extract", "adapter", *words], input=stdin)
    return done.exit_code, [json.loads(line) for line in done.stdout.splitlines()], " ".join(done.stderr.split())


@pytest.mark.slow
def test_one_text_and_standard_input(folder: Path) -> None:
    rows = funding_rows(3)
    extractor = adapters.load(echo_adapter(folder / "adapter", rows))
    text = rows[0]["funding_statement"]
    code, [line], _ = extracted("--input", text)
    assert (code, line) == (0, extractor.extract(text)[0])
    given = "\n".join([json.dumps(rows[1]), "", rows[2]["funding_statement"], "{no row"])
    code, lines, _ = extracted("-", stdin=given)
    assert [line["id"] for line in lines] == [rows[1]["id"], "2", "3"]
    assert [line["record"] for line in lines[:2]] == [extractor.extract(row)[0]["record"] for row in rows[1:]]
    good = rows[1]["funding_statement"].encode()
    code, lines, _ = extracted("-", stdin=good + b'\ncaf\xe9\n{"x": 1}\n' + good)
    assert [line["record"] for line in lines] == [lines[0]["record"], None, None, lines[0]["record"]]
    assert "not UTF-8 at byte 4 of its line" in lines[1]["error"]
    assert lines[2]["error"].startswith("no text: funding_statement is missing")
    write_jsonl(folder / "corpus.jsonl", rows)
    assert extracted("corpus.jsonl", "-o", "-")[1] == extractor.extract(rows)
    code, lines, _ = extracted("-", "-o", "out.jsonl", stdin=given)
    assert (code, lines) == (0, [])
    assert len((folder / "out.jsonl").read_text().splitlines()) == 3
    assert extracted("-", "-o", "out.parquet", stdin=given)[0] == 0
    assert [row["id"] for row in pq.read_table(folder / "out.parquet").to_pylist()] == [rows[1]["id"], "2", "3"]
    code, _, told = extracted("-", "-o", "out.jsonl", stdin=given)
    assert (code, told) == (2, "out.jsonl exists. Choose another name, or replace it with --fresh.")
    Path("out.jsonl.manifest.json").write_text("{}")  # of another corpus
    assert extracted("-", "-o", "out.jsonl", "--fresh", stdin=given)[0] == 0
    assert len(Path("out.jsonl").read_text().splitlines()) == 3
    assert not Path("out.jsonl.manifest.json").exists()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "give a corpus"),
        (["corpus.jsonl", "--input", "x"], "give a corpus"),
        (["corpus.jsonl"], "say where the records go"),
        (["-", "--shard", "1/2"], "--shard is for a corpus in a file"),
        (["-", "-o", "out.txt"], "out.txt"),
        (["--input", "-"], "Standard input is named by - alone"),
    ],
)
def test_places_that_do_not_fit_are_one_sentence(folder: Path, words: list[str], text: str) -> None:
    echo_adapter(folder / "adapter", funding_rows(2))
    write_jsonl(folder / "corpus.jsonl", funding_rows(2))
    code, _, stderr = extracted(*words)
    assert code == 2
    assert text in stderr


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"engine": "vlm"}, "load: engine: input should be 'transformers' or 'vllm', not 'vlm'"),
        ({"grounded": "stict"}, "grounded: input should be"),
        ({"samples": 0}, "samples: input should be greater than or equal to 1, not 0"),
        ({"samples": 5, "temperature": 0}, "temperature 0 gives the same answer each time"),
        ({"pick": "likelihood"}, "--pick likelihood chooses among --samples, of which there is one; give --samples 8."),
        ({"min_confidence": 80}, "min_confidence: input should be less than or equal to 1"),
        ({"model": "x"}, "--model needs an --endpoint"),
        ({"windw": 3}, "windw: unexpected keyword argument"),
    ],
)
def test_wrong_options_are_told(folder: Path, options: dict, sentence: str) -> None:
    adapter = echo_adapter(folder / "adapter", funding_rows(2))
    with pytest.raises(UserError, match=re.escape(sentence)):
        adapters.load(adapter, **options)


def test_mistakes_in_a_recipe_are_told_with_their_place(folder: Path) -> None:
    with pytest.raises(UserError, match=r"small\.yaml:\d+: stages\.0\.data"):
        adapters.run("small.yaml", {"stages.0.data.0.path": "absent.jsonl"})


def test_a_used_extractor_maps_another_column_and_is_hashed_without_its_model(folder: Path) -> None:
    from datasets import Dataset

    adapter = echo_adapter(folder / "adapter", funding_rows(20))
    rows = [{"id": row["id"], "abstract": row["funding_statement"]} for row in funding_rows(3)]
    extractor = adapters.load(adapter, text="abstract")
    [first, *_] = extractor.extract(rows)
    assert first["record"]
    assert extractor.loaded is not None
    assert pickle.loads(pickle.dumps(extractor)).loaded is None
    assert json.loads(Dataset.from_list(rows).map(extractor, batched=True)[0]["record"]) == first["record"]


@pytest.mark.slow
def test_samples_of_a_run_are_its_own_beside_a_compared_adapter(folder: Path) -> None:
    done = adapters.run("small.yaml")
    other = adapters.run("small.yaml", {"name": "other", "seed": 7})
    compared = CliRunner().invoke(app, ["eval", "runs/small", "--compare", str(other.path)])
    assert compared.exit_code == 0, compared.output
    again = adapters.api.Run.open(done.path)
    assert len(again.sets["seen"]) == 3
    assert again.samples("seen") == done.samples("seen", "1-sft")
