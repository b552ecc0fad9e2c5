"""`adapters publish-data`: rows as a dataset repository, each source with its licence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hub_server import HubServer
from test_hub import server as server
from tiny import funding_rows, write_jsonl
from typer.testing import CliRunner

from adapters.cli.main import app

pytest.importorskip("huggingface_hub")
REPO = "me/statements"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    made = [{**row, "source": "synthetic-funding"} for row in funding_rows(4)]
    own = [{**row, "source": "ours", "license": "cc-by-4.0", "note": "x"} for row in funding_rows(3)]
    write_jsonl(tmp_path / "made.jsonl", made)
    write_jsonl(tmp_path / "mixed.jsonl", [*own, *({**row, "source": "theirs"} for row in funding_rows(2))])
    write_jsonl(tmp_path / "pairs.jsonl", [{"id": "1", "prompt": "a", "chosen": "b", "rejected": "c"}])
    return tmp_path


def call(*words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["publish-data", *words, "--repo", REPO])
    return result.exit_code, result.stdout, " ".join(result.stderr.split())


ALL = ["made.jsonl", "mixed.jsonl", "pairs.jsonl"]
LICENSED = ["--license", "pairs.jsonl=mit", "--without", "theirs", "--without", "note"]


def test_a_dry_run_writes_what_the_library_reads_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import load_dataset
    from huggingface_hub import DatasetCard

    code, stdout, stderr = call(*ALL, *LICENSED, "--about", "Rows of ours.", "--dry-run", "--json")
    assert code == 0, stderr
    made = folder / "statements"
    assert sorted(p.relative_to(made).as_posix() for p in made.rglob("*.*")) == [
        "README.md", "data/made.jsonl", "data/mixed.jsonl", "data/pairs.jsonl",
    ]  # fmt: skip
    assert json.loads(stdout)["left_out"] == {"note": 3, "theirs": 2}
    data = DatasetCard((made / "README.md").read_text()).data
    assert data.license == ["apache-2.0", "cc-by-4.0", "mit"]
    assert data.size_categories == ["n<1K"]
    text = (made / "README.md").read_text()
    for wanted in (
        "| mixed.jsonl | ours | 3 | cc-by-4.0 |", "ours is under cc-by-4.0, which asks for credit.", "Rows of ours.",
        "| made.jsonl | synthetic-funding | 4 | apache-2.0 |", "- `theirs`: 2 rows", "8 rows, made with",
    ):  # fmt: skip
        assert wanted in text, wanted
    monkeypatch.setenv("HF_DATASETS_CACHE", str(folder / "cache"))
    rows = load_dataset(str(made), "mixed", split="train", cache_dir=str(folder / "cache"))
    assert (len(rows), "note" in rows.column_names, set(rows["source"])) == (3, False, {"ours"})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (ALL, "the licence of pairs.jsonl, theirs is not known"),
        ([*ALL, *LICENSED, "--license", "theirz=mit"], "Did you mean theirs?"),
        ([*ALL, *LICENSED, "--without", "nothing"], "--without nothing: no row has that source or column"),
        (["mixed.jsonl", "--license", "theirs=cc-by-nd-4.0"], "allows no changed copies to be shared"),
        (["mixed.jsonl", "--license", "ours=mit", "--license", "theirs=mit"], "say license: cc-by-4.0"),
        (["mixed.jsonl", "--license", "theirs=apache2.0"], "Did you mean apache-2.0?"),
        (["mixed.jsonl", "--license", "mit"], "write SOURCE=ID"),
        (["made.jsonl", "made.jsonl"], "two of the files are called 'made'"),
        (["none.jsonl"], "none.jsonl"),
        (["mixed.jsonl", "--without", "ours", "--without", "theirs"], "no row is left"),
        (["made.jsonl", "--language", "english"], "no ISO 639 code"),
    ],
)
def test_mistakes_are_a_sentence_and_write_nothing(folder: Path, words: list[str], said: str) -> None:
    code, _, stderr = call(*words, "--dry-run")
    assert (code, said in stderr) == (2, True), stderr
    assert not [p for p in folder.iterdir() if p.is_dir() and p.name.startswith("statements")]


@pytest.mark.parametrize(
    ("licence", "said"),
    [
        ("cc-by-nd-4.0", "rows.jsonl is under cc-by-nd-4.0, which allows no changed copies"),
        ("proprietary", "rows.jsonl is under proprietary, which allows no copies"),
        ("All rights reserved", "allows no copies"),
        ("apache2.0", "Did you mean apache-2.0?"),
    ],
)
def test_a_rows_own_licence_counts_also_where_its_column_is_left_out(folder: Path, licence: str, said: str) -> None:
    write_jsonl(folder / "rows.jsonl", [{**row, "license": licence} for row in funding_rows(2)])
    for words in ([], ["--without", "license"]):
        code, _, stderr = call("rows.jsonl", *words, "--dry-run")
        assert (code, said in stderr) == (2, True), stderr


def test_rows_that_only_look_like_made_ones_need_a_licence(folder: Path) -> None:
    write_jsonl(folder / "rows.jsonl", [{**row, "source": "made"} for row in funding_rows(2)])
    code, _, stderr = call("rows.jsonl", "--dry-run")
    assert (code, "the licence of made is not known" in stderr) == (2, True), stderr


def test_a_token_in_a_row_is_named_and_not_shown(folder: Path) -> None:
    token = "hf_" + "aB3" * 12
    write_jsonl(folder / "made.jsonl", [*funding_rows(1), {"id": "2", "text": f"see {token}"}])
    code, _, stderr = call("made.jsonl", "--license", "made.jsonl=mit", "--dry-run")
    assert (code, "holds what looks like an access token" in stderr, token in stderr) == (2, True, False)


def test_it_is_pushed_private_once_and_a_reader_is_refused_before(server: HubServer, folder: Path) -> None:
    code, stdout, stderr = call(*ALL, *LICENSED, "--json")
    assert code == 0, stderr
    pushed = json.loads(stdout)["pushed"]
    repo = server.repos[REPO]
    assert (pushed["new"], pushed["url"], repo.private) == (True, f"{server.url}/datasets/{REPO}", True)
    assert set(repo.files) == {".gitattributes", "README.md", *(f"data/{name}" for name in ALL)}
    assert b"theirs" not in repo.files["data/mixed.jsonl"]
    assert server.sent("POST /api/datasets/.*/commit/") == 1
    assert json.loads(call(*ALL, *LICENSED, "--json")[1])["pushed"]["new"] is False
    assert len(repo.commits) == 2
    server.readonly.add(REPO)
    code, _, stderr = call(*ALL, *LICENSED)
    assert (code, "may not write to me/statements" in stderr) == (2, True)
    assert not (folder / "statements").exists()


def test_a_failed_push_can_be_repeated(server: HubServer) -> None:
    server.fail("POST", "/commit/", 400)
    code, _, stderr = call("made.jsonl")
    assert (code, "The same command repeats the push" in stderr) == (1, True)
    assert call("made.jsonl")[0] == 0


def test_a_row_that_cannot_be_read_is_named(folder: Path) -> None:
    with (folder / "made.jsonl").open("a") as file:
        file.write('{"id": \n')
    code, _, stderr = call("made.jsonl", "--license", "made.jsonl=mit", "--dry-run")
    assert code == 2
    assert "made.jsonl, line 5:" in stderr
    assert not (folder / "statements").exists()
