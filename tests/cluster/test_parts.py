"""A corpus in parts, without Ray: how it is split, stored, filled and continued."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import astuple, replace
from pathlib import Path

import fsspec
import pytest
from filelock import FileLock
from test_extract import echo_adapter
from tiny import funding_rows, write_jsonl
from typer.testing import CliRunner

from adapters.cli import main
from adapters.cluster import job, ray_data
from adapters.cluster.job import PartsJob
from adapters.cluster.parts import MANIFEST, Part, Store, split, url_of
from adapters.cluster.ray_data import Cluster
from adapters.cluster.work import Conversion, Extraction, Noise
from adapters.data_aug.ie import Options as ConvertOptions
from adapters.errors import UserError
from adapters.extraction import adapter_source
from adapters.extraction.engine import Options
from adapters.extraction.merge_shards import summed

CLUSTER = Cluster(1, 1, 0)
COLUMNS = {"text": None, "normalise": False, "registry": None, "grounded": "flag", "keep": ()}


def call(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main.app, [*map(str, arguments)])
    return result.exit_code, result.output


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    rows = funding_rows(10)
    echo_adapter(tmp_path / "adapter", rows)
    write_jsonl(tmp_path / "corpus.jsonl", [{k: r[k] for k in ("id", "funding_statement")} for r in rows])
    return tmp_path / "corpus.jsonl"


def extraction(folder: Path, **more: object) -> Extraction:
    picks, cut = {"samples": 1, "pick": "vote", "temperature": 0.8}, {"window": None, "passes": 1}
    weights = adapter_source.find(str(folder / "adapter")).weights
    adapter = str(folder / "adapter"), weights, {}
    return Extraction(*adapter, "transformers", Options(), picks, cut, {**COLUMNS, **more})


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Parts are done here, one after the other, as a worker of Ray would; the names of those that were."""
    done: list[str] = []

    def run(task: ray_data.Task, parts: list[Part], cluster: Cluster) -> object:
        worker = type("Worker", (ray_data._Worker,), {"task": task})()
        for part in parts:
            done.append(part.name)
            result = json.loads(worker({"part": [json.dumps(astuple(part))]})["done"][0])
            if "fault" in result:
                raise UserError(result["fault"])
            assert "failed" not in result, result
            yield result

    monkeypatch.setattr(job.ray_data, "run", run)
    return done


def test_one_file_is_cut_and_a_folder_is_not(corpus: Path, tmp_path: Path) -> None:
    parts = split(str(corpus), 4).parts
    assert [(p.name, p.rows, p.surveyed and p.surveyed[0]) for p in parts] == [
        ("00000", (1, 5), 10),
        ("00001", (5, 9), 10),
        ("00002", (9, 11), 10),
    ]
    folder = tmp_path / "many"
    (folder / "deep").mkdir(parents=True)
    for name in ("b.jsonl", "deep/a.csv", "_SUCCESS", "notes.txt", ".hidden.jsonl"):
        (folder / name).write_text("{}")
    found = split(str(folder), 4)
    assert [(p.name, p.file, p.rows) for p in found.parts] == [
        ("00000-b", f"{folder}/b.jsonl", None),
        ("00001-a", f"{folder}/deep/a.csv", None),
    ]
    (folder / "b.jsonl").write_text('{"changed": 1}')
    assert split(str(folder), 4).digest != found.digest


@pytest.mark.parametrize(
    ("given", "url"), [("s3://bucket/x", "s3://bucket/x"), ("hf://datasets/a/b", "hf://datasets/a/b")]
)
def test_an_address_survives_being_a_path(given: str, url: str) -> None:
    assert url_of(Path(given)) == url
    assert url_of(Path("x")) == str(Path("x").resolve())


def test_what_cannot_be_reached_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no"):
        split(str(tmp_path / "none"), 4)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no data file"):
        split(str(tmp_path / "empty"), 4)
    with pytest.raises(UserError, match="nowhere://x cannot be opened: Protocol not known: nowhere"):
        split("nowhere://x", 4)


def test_the_parts_are_what_one_process_writes(corpus: Path, tmp_path: Path, in_process: list[str]) -> None:
    assert call("extract", tmp_path / "adapter", corpus, "-o", tmp_path / "one.jsonl")[0] == 0
    done = PartsJob(split(str(corpus), 4).parts, Store(str(tmp_path / "out")), ".jsonl", {})
    done.begin(fresh=False)
    counts = done.run(extraction(tmp_path), CLUSTER, lambda *_: None)
    files = sorted((tmp_path / "out").glob("0*.jsonl"))
    assert b"".join(f.read_bytes() for f in files) == (tmp_path / "one.jsonl").read_bytes()
    assert (counts["rows"], counts["records"], counts["parts"], counts["resumed"]) == (10, 10, 3, 0)
    own = json.loads((tmp_path / "out" / "00001.jsonl.manifest.json").read_text())
    assert own["settings"]["shard"] == "5-8"
    assert own["paths"]["input"] == str(corpus)
    assert call("view", files[1], "-o", tmp_path / "page.html")[0] == 0  # a part is an output like any other


def test_a_restart_does_what_is_missing(corpus: Path, tmp_path: Path, in_process: list[str]) -> None:
    out = tmp_path / "out"
    settings = {"input": split(str(corpus), 4).digest}
    work = PartsJob(split(str(corpus), 4).parts, Store(str(out)), ".jsonl", settings)
    work.begin(fresh=False)
    work.run(extraction(tmp_path), CLUSTER, lambda *_: None)
    whole = work.finished()
    (out / "00001.jsonl").unlink()
    assert work.finished() is None
    in_process.clear()
    work.begin(fresh=False)
    counts = work.run(extraction(tmp_path), CLUSTER, lambda *_: None)
    assert in_process == ["00001"]
    assert (counts["rows"], counts["resumed"], counts["matches"]) == (10, 6, whole and whole["matches"])
    other = PartsJob(work.parts, work.out, ".jsonl", {"input": "other"})
    with pytest.raises(UserError, match=r"out was made with other settings: input was .*--fresh"):
        other.begin(fresh=False)
    other.begin(fresh=True)
    assert sorted(f.name for f in out.iterdir()) == [MANIFEST]
    (out / "theirs.txt").write_text("x")
    for fresh in (False, True):
        with pytest.raises(UserError, match=r"holds theirs\.txt, which is no part of an output"):
            other.begin(fresh=fresh)
    (out / "theirs.txt").unlink()
    (out / MANIFEST).unlink()
    (out / "20240101.jsonl").write_text("{}")  # the name of a part, and not ours
    for fresh in (False, True):
        with pytest.raises(UserError, match=r"holds 20240101\.jsonl, which is no part of an output"):
            other.begin(fresh=fresh)
    assert (out / "20240101.jsonl").is_file()


def test_a_part_that_is_there_is_not_done_again(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    task = ray_data.Task(extraction(tmp_path), str(out), ".jsonl", "this")
    worker = type("Worker", (ray_data._Worker,), {"task": task})()
    asked = {"part": [json.dumps(astuple(split(str(corpus), 20).parts[0]))]}
    worker(asked)
    (out / "00000.jsonl").write_text("kept")
    assert json.loads(worker(asked)["done"][0])["counts"]["rows"] == 10
    assert (out / "00000.jsonl").read_text() == "kept"
    worker.__class__.task = task._replace(job="another")
    worker(asked)
    assert (out / "00000.jsonl").read_text() != "kept", "a part of another job is done again"


def test_from_and_to_a_store_that_is_no_disk(corpus: Path, tmp_path: Path, in_process: list[str]) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/corpora/a.jsonl", corpus.read_bytes())
    parts = split("memory://corpora/a.jsonl", 6).parts
    work = PartsJob(parts, Store("memory://out"), ".parquet", {})
    work.begin(fresh=True)
    work.run(extraction(tmp_path), CLUSTER, lambda *_: None)
    assert sorted(work.out.files()) == [
        "00000.parquet",
        "00000.parquet.manifest.json",
        "00001.parquet",
        "00001.parquet.manifest.json",
        "manifest.json",
    ]
    assert json.loads(memory.cat_file("/out/00000.parquet.manifest.json"))["paths"]["input"] == parts[0].file
    assert work.finished() is not None


def test_an_empty_file_is_an_empty_part(corpus: Path, tmp_path: Path, in_process: list[str]) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    (folder / "a.jsonl").touch()
    (folder / "b.jsonl").write_bytes(corpus.read_bytes())
    (folder / "deep").mkdir()
    (folder / "deep" / ".c.jsonl").write_text("broken")
    work = PartsJob(split(str(folder), 4).parts, Store(str(tmp_path / "out")), ".jsonl", {})
    work.begin(fresh=False)
    assert work.run(extraction(tmp_path), CLUSTER, lambda *_: None)["rows"] == 10
    again = split(str(tmp_path / "out"), 4).parts
    assert [part.name for part in again] == ["00000-00000-a", "00001-00001-b"], "outputs are a corpus, manifests not"


def test_files_of_any_kind_are_converted_and_continued(tmp_path: Path, in_process: list[str]) -> None:
    (tmp_path / "a.conll").write_text("Bob B-PER\nsleeps O\n\n")
    work = Conversion(ConvertOptions(source="x"), None, None)
    parts = split(str(tmp_path), None).parts
    told = json.loads(json.dumps(work.settings(parts[0], tmp_path / "a.conll"), default=str))
    made = PartsJob(parts, Store(str(tmp_path / "out")), ".jsonl", told)
    for _ in range(2):
        made.begin(fresh=False)
        assert made.run(work, CLUSTER, lambda *_: None)["rows"] == 1
    assert in_process == ["00000-a"]
    (tmp_path / "b.conll.gz").write_bytes(b"\x1f\x8b damaged")
    broken = PartsJob(split(str(tmp_path / "b.conll.gz"), None).parts, Store(str(tmp_path / "o2")), ".jsonl", told)
    broken.begin(fresh=False)
    with pytest.raises(UserError, match=r"b\.conll\.gz: "):
        broken.run(work, CLUSTER, lambda *_: None)


def test_a_part_that_ends_its_workers_is_given_up(corpus: Path, tmp_path: Path) -> None:
    class Deadly:
        def start(self) -> None:
            raise SystemExit  # as a worker that is killed: nothing after it runs

    parts, out = split(str(corpus), 20).parts, tmp_path / "out"
    task = ray_data.Task(Deadly(), str(out), ".jsonl", "this")
    asked = {"part": [json.dumps(astuple(parts[0]))]}
    for _ in range(ray_data.TRIES):
        with pytest.raises(SystemExit):
            type("Worker", (ray_data._Worker,), {"task": task})()(asked)
    [said] = type("Worker", (ray_data._Worker,), {"task": task})()(asked)["done"]
    assert "part 00000 ended its worker 3 times" in json.loads(said)["failed"]
    work = PartsJob(parts, Store(str(out)), ".jsonl", {})
    Store(str(out)).put_json({"settings": {}}, MANIFEST)
    work.begin(fresh=False)
    assert sorted(f.name for f in out.iterdir()) == [MANIFEST], "the same command tries anew"


def test_another_adapter_on_a_worker_is_refused(corpus: Path, tmp_path: Path) -> None:
    other = replace(extraction(tmp_path), weights="0" * 64)
    with pytest.raises(UserError, match="finds another adapter than the one that was checked"):
        other.start()


def test_a_fault_of_a_worker_is_the_users(corpus: Path, tmp_path: Path, in_process: list[str]) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [*funding_rows(2), {"id": "x", "funding_statement": "x"}])
    given = {"use": "document", "level": "medium", "policy": "protect", "seed": 0, "variants": 1}
    work = PartsJob(split(str(tmp_path / "rows.jsonl"), 1).parts, Store(str(tmp_path / "out")), ".jsonl", {})
    work.begin(fresh=False)
    with pytest.raises(UserError, match=r"rows\.jsonl, line 3: "):
        work.run(Noise(given, "funding"), CLUSTER, lambda *_: None)
    assert len(list((tmp_path / "out").glob("0*.jsonl"))) == 2  # those before it are kept


@pytest.fixture
def on_ray(in_process: list[str], monkeypatch: pytest.MonkeyPatch, corpus: Path) -> Callable[..., tuple[int, str]]:
    """Calls a command with --engine ray, whose parts are done here; the second of the two files has the rows."""
    monkeypatch.setattr(ray_data, "connected", lambda *_, **__: nullcontext(CLUSTER))
    monkeypatch.chdir(corpus.parent)
    Path("many").mkdir()
    Path("many", "a.jsonl").touch()
    write_jsonl(Path("many", "b.jsonl"), funding_rows(6))

    def called(*arguments: object) -> tuple[int, str]:
        in_process.clear()
        code, said = call(*arguments, "--engine", "ray")
        return code, said.replace("\n", " ")

    return called


def test_a_folder_may_begin_with_an_empty_file(on_ray: Callable[..., tuple[int, str]]) -> None:
    for verb in (["extract", "adapter", "many"], ["data", "noise", "many"]):
        code, said = on_ray(*verb, "-o", "-".join(verb[:2]))
        assert code == 0, said
        assert "6 rows" in said
    Path("many", "b.jsonl").write_text("")
    code, said = on_ray("extract", "adapter", "many", "-o", "none")
    assert (code, "no file of the corpus holds a row" in said) == (2, True)


def test_counts_of_steps_are_of_the_parts_that_have_rows() -> None:
    steps = {"rows": 2, "steps": {"start": {"rows": 2}}}
    assert summed([{"rows": 0}, steps, steps])["steps"] == {"start": {"rows": 4}}


def test_a_finished_output_outlives_a_new_version_and_a_look_at_it(
    on_ray: Callable[..., tuple[int, str]], in_process: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = ("extract", "adapter", "corpus.jsonl", "-o", "out", "--part-rows", 4)
    assert on_ray(*told)[0] == 0
    assert call("view", "out/00000.jsonl")[0] == 0
    assert Path("out", "00000.jsonl.html").is_file()
    versions = adapter_source.versions
    monkeypatch.setattr(adapter_source, "versions", lambda: {**versions(), "trl": "99"})
    code, said = on_ray(*told)
    assert (code, in_process, "out is complete already" in said) == (0, [], True), said


def test_messages_name_what_was_given(on_ray: Callable[..., tuple[int, str]], corpus: Path) -> None:
    fsspec.filesystem("memory").pipe_file("/named/a.jsonl", corpus.read_bytes())
    code, said = on_ray("extract", "adapter", "memory://named/a.jsonl", "-o", "memory://told", "--text", "nope")
    assert (code, "memory://named/a.jsonl has no column" in said) == (2, True), said
    code, said = on_ray("extract", "adapter", "many", "-o", "x", "--part-rows", 2)
    assert (code, "--part-rows cuts one file" in said) == (2, True), said
    with FileLock(f"{Path('x').resolve()}.lock"):
        code, said = on_ray("extract", "adapter", "corpus.jsonl", "-o", "x")
    assert (code, "another process is writing x" in said) == (2, True), said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["corpus.jsonl", "-o", "x.jsonl", "--workers", 2], "--workers needs --engine ray."),
        (["corpus.jsonl", "-o", "-", "--engine", "ray"], "--engine ray: give a corpus in files"),
        (["corpus.jsonl", "-o", "x", "--engine", "ray", "--shard", "1/2"], "--engine ray divides the corpus itself."),
        (["corpus.jsonl", "-o", "corpus.jsonl", "--engine", "ray"], "the output would overwrite the input."),
        (["corpus.jsonl", "-o", "adapter/adapter_config.json", "--engine", "ray"], "is a file; --engine ray writes a"),
        (["none.jsonl", "-o", "x", "--engine", "ray"], "there is no "),
        (["folder/a.jsonl", "-o", "folder", "--engine", "ray"], "holds the corpus; choose a folder of its own"),
        (["corpus.jsonl", "-o", "hf://datasets/me/x", "--engine", "ray"], "every part would be a commit there"),
        (["folder", "-o", "folder/out", "--engine", "ray"], "lies in the corpus, whose files it would become"),
    ],
)
def test_wrong_options(corpus: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[object], message: str) -> None:
    monkeypatch.chdir(corpus.parent)
    code, said = call("extract", "adapter", *arguments)
    assert (code, message in said.replace("\n", " ")) == (2, True), said


def test_what_fits_a_cluster() -> None:
    sized, gpu = ray_data.sized, {"CPU": 16, "GPU": 8}
    assert sized([{"CPU": 17}], None, None, gpus=True) == Cluster(4, 4, 0)
    assert sized([{"CPU": 2}], None, None, gpus=True) == Cluster(1, 1, 0)
    assert sized([{"CPU": 2}] * 8, None, None, gpus=False) == Cluster(7, 2, 0)
    assert sized([{"CPU": 2}] * 2, None, 1, gpus=False) == Cluster(3, 1, 0)
    assert sized([gpu, {"CPU": 4}], None, None, gpus=True) == Cluster(8, 1, 1)
    assert sized([gpu], None, None, gpus=False) == Cluster(5, 3, 0)
    assert sized([{"CPU": 8}], None, None, gpus=False) == Cluster(2, 3, 0)
    assert sized([{"CPU": 4, "GPU": 4}], None, None, gpus=True) == Cluster(4, 0.5, 1), "a CPU is left for reading"
    assert sized([{"CPU": 4, "GPU": 4}], None, 1, gpus=True) == Cluster(3, 1, 1)
    assert sized([gpu], 2, 3, gpus=True).engine == "vllm"
    for nodes, workers, cpus in (
        ([gpu], 9, None),
        ([gpu], None, 17),
        ([{"CPU": 1}], None, None),
        ([{"CPU": 2}] * 8, 1, 4),
    ):
        with pytest.raises(UserError, match="the cluster has"):
            sized(nodes, workers, cpus, gpus=True)
    with pytest.raises(UserError, match=r"^no worker fits, each with 4 CPUs: the cluster has 1 machines"):
        sized([{"CPU": 1}], None, None, gpus=False)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "nothing answers"),
        ("somewhere", "write HOST:PORT, as `ray start --head` prints it"),
        ("ray://a:1", "run the command on a machine of the cluster"),
    ],
)
def test_an_address_is_asked_before_ray_tries_for_minutes(address: str, message: str) -> None:
    with pytest.raises(UserError, match=f"--address {address}: {message}"):
        ray_data._check_answers(address)
