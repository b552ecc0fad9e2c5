"""The HTML page of a run: whole, honest about what is missing, and deaf to hostile text."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from browser import browser_path
from tiny import funding_rows, write_jsonl
from typer.testing import CliRunner

from adapters.backends import adapter_folder
from adapters.backends.echo import EchoBackend
from adapters.cli import main
from adapters.data import on_disk
from adapters.errors import UserError
from adapters.pipeline.plan import make_plan
from adapters.pipeline.run import run_plan
from adapters.pipeline.run_folder import RunFolder
from adapters.recipe.load import load_recipe
from adapters.report import page, write_report
from adapters.report.text import seen

RECIPE = """name: mine
task: funding
model: {base: none}
trainer: echo
run_dir: RUNS
stages:
  - kind: sft
    data: [{path: train.jsonl, name: real}, {synthesize: funding, n: 5, name: synthetic}]
    learning_rate: 1e-4
    noise: {use: document}
  - kind: grpo
    data: [{path: train.jsonl}]
    batch_size: 4
    learning_rate: 1e-5
    beta: 0.1
    rewards: [funding]
evaluate:
  - {name: seen, data: [{path: train.jsonl, name: real}, {path: new.jsonl, name: new}]}
"""
SECTIONS = ("pipeline", "curves", "results", "samples", "rollouts", "data", "versions")
HOSTILE = "</pre></script><script>alert(1)</script><img src=x onerror=alert(2)>\"' onload='x' {{ 7*7 }} {% raw %}<!--"
GRPO_LOG = {"reward": 0.5, "reward_std": 0.2, "kl": 0.0, "frac_reward_zero_std": 0.5, "completions/mean_length": 9.0}
VOID = {"meta", "img", "br", "hr", "input", "link"}


class Elements(HTMLParser):
    """Tags with their attributes, the text of scripts, and whether every element is closed where it should be."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict]] = []
        self.text: list[str] = []
        self.script: list[str] = []
        self.open: list[str] = []
        self.unbalanced: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.script.append(data)
        elif not self.open or self.open[-1] != "style":
            self.text.append(data)


def elements(path: Path) -> Elements:
    parser = Elements()
    parser.feed(path.read_text(encoding="utf-8"))
    parser.close()
    assert not parser.unbalanced
    assert not parser.open
    return parser


def ids(parsed: Elements) -> set[str]:
    return {attributes["id"] for _, attributes in parsed.seen if "id" in attributes}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the echo backend, with the logs and rollouts that a real trainer leaves."""
    folder = tmp_path_factory.mktemp("report")
    write_jsonl(folder / "train.jsonl", funding_rows(30))
    write_jsonl(folder / "new.jsonl", funding_rows(10, "n"))
    path = folder / "mine.yaml"
    path.write_text(RECIPE.replace("RUNS", str(folder / "runs")))
    file = load_recipe(path, ())
    backend = EchoBackend(file.recipe)
    made = make_plan(file, backend)
    run_plan(made, backend)
    write_jsonl(made.folder / "1-sft/log.jsonl", [{"step": n, "loss": 1 / n, "epoch": n / 60} for n in range(1, 61)])
    steps = [{"step": n, **GRPO_LOG, "parts/funding/flat": n / 9, "rewards/funding/mean": 0.5} for n in range(1, 9)]
    write_jsonl(made.folder / "2-grpo/log.jsonl", steps)
    rollouts = [
        {"step": step, "id": f"r{n}", "reward": "funding", "score": score, "parts": {"flat": score}, "completion": text}
        for step, n in ((0, 1), (1, 2), (4, 1), (7, 1))
        for score, text in ((1.0, f"[right {step}]"), (0.25 * step / 7, "[wrong]"), (0.25 * step / 7, "[wrong]"))
    ]
    rollouts[0] |= {"text": "Supported by a prompt that was kept.", "gold": [{"funder_name": "Gold Trust"}]}
    write_jsonl(made.folder / "2-grpo/rollouts-0.jsonl", rollouts)
    return made.folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "runs" / "mine"))


def test_a_finished_run_is_shown_whole(run: Path) -> None:
    path = write_report(run)
    assert path == run / "report.html"
    parsed = elements(path)
    assert set(SECTIONS) <= ids(parsed)
    text = " ".join(parsed.text)
    for wanted in (
        "all stages trained",
        "1-sft",
        "2-grpo",
        "hashes agree",
        "document (level medium",
        "Groups without variance",
        "KL to the reference",
        "part of the reward funding",
        "balanced",
        "permissive",
        "strict",
        "95 % paired bootstrap interval",
        "Worst of 2-grpo",
        "National Science Foundation",
        "also in the training data",
        "synthetic",
        "extraction-adapters",
        "Supported by a prompt that was kept.",
        "Gold Trust",
    ):
        assert wanted in text, wanted
    assert (adapter_folder.weights_hash(run / "2-grpo") or "?") in path.read_text()


def test_the_page_needs_nothing_else(run: Path) -> None:
    parsed = elements(write_report(run))
    for tag, attributes in parsed.seen:
        assert tag not in {"link", "img", "iframe", "object", "embed", "base", "form", "audio", "video"}
        assert "src" not in attributes
        assert attributes.get("href", "#").startswith("#")
    assert "url(" not in (run / "report.html").read_text().lower()


def test_figures_on_the_page_are_those_of_the_files(run: Path) -> None:
    figures = json.loads((run / "eval/2-grpo/seen/metrics.json").read_text())["metrics"]["strict"]["award_id"]
    text = " ".join(elements(write_report(run)).text)
    for wanted in ("precision", "recall", "f1", "f0.5", "f1.5"):
        assert f"{figures[wanted]:.3f}" in text
    assert "{:.3f}–{:.3f}".format(*figures["f1_ci"]) in text


def planted(run: Path) -> Path:
    """Hostile text wherever a model, a data set or a log could put it."""
    for path in (run / "eval").rglob("samples.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for n, row in enumerate(rows):
            row["completion"] = json.dumps([{"funder_name": HOSTILE, "award_ids": [HOSTILE]}]) if n % 2 else HOSTILE
            row |= {"text": HOSTILE, "source": HOSTILE, "id": f"{n}{HOSTILE}", "rewards": {HOSTILE: n / 100}}
            row["gold"] = [{"funder_name": HOSTILE + "!", "awards": [{"award_ids": [HOSTILE], HOSTILE: HOSTILE}]}]
            row["parts"] = {HOSTILE: {HOSTILE: 0.5}}
            row["aligned"] = [[HOSTILE, HOSTILE, HOSTILE + "?", False, 1], [HOSTILE, None, HOSTILE, False, 9]]
        write_jsonl(path, rows)
    for path in run.rglob("metrics.json"):
        held = json.loads(path.read_text())
        held["metrics"][HOSTILE] = {HOSTILE: held["metrics"]["balanced"]["funder"]}
        held |= {"rewards": {HOSTILE: {"mean": 0.5}}, "by_source": {HOSTILE: {"n": 1, "metrics": held["metrics"]}}}
        path.write_text(json.dumps(held))
    log = [
        {"step": n, HOSTILE: n, f"parts/{HOSTILE}/{HOSTILE}": n, f"{HOSTILE}/chosen": 1, f"{HOSTILE}/rejected": 2}
        for n in range(5)
    ]
    write_jsonl(run / "1-sft/log.jsonl", log)
    rollout = {"step": 1, "id": HOSTILE, "reward": HOSTILE, "score": 1.0, "parts": {HOSTILE: HOSTILE}}
    rows = [rollout | {"completion": HOSTILE, "text": HOSTILE, "gold": {HOSTILE: HOSTILE}}]
    write_jsonl(run / "2-grpo/rollouts-0.jsonl", rows)
    manifest = json.loads((run / "1-sft/manifest.json").read_text())
    manifest |= {"versions": {HOSTILE: HOSTILE}, "model": {HOSTILE: HOSTILE}, "figures": {HOSTILE: 1}}
    manifest["stage"] |= {"trl": {HOSTILE: HOSTILE}, "noise": {"use": HOSTILE, HOSTILE: HOSTILE}, "reference": HOSTILE}
    manifest["files"] |= {HOSTILE: HOSTILE}
    (run / "1-sft/manifest.json").write_text(json.dumps(manifest))
    ledger = json.loads((run / "ledger.json").read_text())
    source = {
        "source": HOSTILE,
        "rows": 1,
        "noise": {"rows": 1, "by_family": {HOSTILE: {"rows": 1}}},
        "unread": {HOSTILE: 1},
    }
    ledger["stages"][HOSTILE] = {"sources": [source], "rows": 1, "tokens": {HOSTILE: 1}}
    (run / "ledger.json").write_text(json.dumps(ledger))
    write_jsonl(run / "rejected.jsonl", [{"for": HOSTILE, "source": HOSTILE, "row": HOSTILE, "reason": HOSTILE}])
    recipe = json.loads((run / "recipe.json").read_text())
    recipe |= {"name": HOSTILE, "lora": {HOSTILE: HOSTILE}, "model": {"base": HOSTILE}}
    (run / "recipe.json").write_text(json.dumps(recipe))
    (run / "recipe.yaml").write_text(HOSTILE)
    return run


def test_hostile_text_stays_text(run: Path) -> None:
    path = write_report(planted(run))
    parsed = elements(path)  # an early </pre> or </script> would leave the elements unbalanced
    tags = [tag for tag, _ in parsed.seen]
    assert tags.count("script") == 1
    assert "img" not in tags
    for _, attributes in parsed.seen:
        assert not [name for name in attributes if name.startswith("on")]
    text = "".join(parsed.text)
    assert text.count("<script>alert(1)</script>") > 30, "it is shown, as text"
    assert "{{ 7*7 }}" in text, "templates in the text are not run"
    assert "alert" not in "".join(parsed.script)


def test_only_the_pages_own_script_may_run(run: Path) -> None:
    parsed = elements(write_report(run))
    [policy] = [a["content"] for tag, a in parsed.seen if a.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256("".join(parsed.script).encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_hidden_characters_are_spelt_out(run: Path) -> None:
    rollout = {"step": 0, "id": "r", "reward": "funding", "score": 0.0}
    rollout["completion"] = "a\u202eb\u200bc\x00d\ud800e\x1b[31m"
    (run / "2-grpo/rollouts-0.jsonl").write_text(json.dumps(rollout) + "\n")
    text = write_report(run).read_text(encoding="utf-8")
    assert "a⟨202E⟩b⟨200B⟩c⟨0000⟩d⟨D800⟩e⟨001B⟩[31m" in text
    assert text == seen(text)


def test_a_run_at_work_is_shown_so_far(run: Path) -> None:
    (run / "2-grpo").rename(run / "2-grpo.partial")
    (run / "2-grpo.partial/manifest.json").unlink()
    with (run / "2-grpo.partial/log.jsonl").open("a") as file:
        file.write('{"step": 9, "rewa')
    shutil.rmtree(run / "eval/2-grpo")
    (run / "report.json").unlink()
    text = " ".join(elements(write_report(run)).text)
    assert "in progress" in text
    assert "not finished" in text
    assert "8 logged steps" in text
    assert "Worst of 1-sft" in text
    assert "[right 4]" in text


def test_a_run_that_has_only_begun(run: Path) -> None:
    for entry in run.iterdir():
        if entry.name != "recipe.json":
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    parsed = elements(write_report(run))
    assert set(SECTIONS) <= ids(parsed)
    text = " ".join(parsed.text)
    assert text.count("waiting") == 2
    assert "No test set is evaluated yet" in text


def test_weights_that_changed_are_named(run: Path) -> None:
    manifest = json.loads((run / "1-sft/manifest.json").read_text())
    manifest["files"][adapter_folder.WEIGHTS] = "f" * 64
    (run / "1-sft/manifest.json").write_text(json.dumps(manifest))
    text = " ".join(elements(write_report(run)).text)
    assert "starts from weights that 1-sft no longer holds" in text
    assert "1-sft was measured on other weights" in text


def test_many_answers_are_read_from_disk_and_the_page_is_the_same(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = write_report(run).read_text()
    monkeypatch.setattr(on_disk, "HELD", 1)
    [model, *_] = next(iter(RunFolder.open(run).sets.values()))
    assert isinstance(model.samples, on_disk.Taken)
    assert write_report(run).read_text() == page


def without_alignment(run: Path) -> None:
    """Make the samples those of an older version."""
    for path in (run / "eval").rglob("samples.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        write_jsonl(path, [{k: v for k, v in row.items() if k != "aligned"} for row in rows])


def name_task(run: Path, use: str) -> None:
    recipe = json.loads((run / "recipe.json").read_text())
    (run / "recipe.json").write_text(json.dumps(recipe | {"task": {"use": use}}))


def samples_of(run: Path) -> str:
    """The page's samples, as HTML."""
    return write_report(run).read_text().partition('<section id="samples">')[2].partition("</section>")[0]


def test_the_stored_alignment_is_what_the_task_compares(run: Path) -> None:
    stored = samples_of(run)
    assert stored.count("<tr>") > 20
    without_alignment(run)
    assert samples_of(run) == stored, "this project's own task may be imported"


def test_a_page_imports_no_code_of_a_run(run: Path) -> None:
    stored = samples_of(run)
    (run / "evil.py").write_text(f"open({str(run / 'ran')!r}, 'w')\n")
    (run / "origin.json").write_text(json.dumps({"folder": str(run)}))
    name_task(run, "./evil.py:Task")
    assert samples_of(run) == stored
    without_alignment(run)
    for use in ("./evil.py:Task", "gone:Task", "evil:Task"):
        name_task(run, use)
        text = samples_of(run)
        assert "evaluated by an older version" in text
        assert "National Science Foundation" in text
    assert not (run / "ran").exists()


def test_an_evaluation_adds_the_alignment_to_samples_of_older_versions(run: Path, finished: Path) -> None:
    stored = samples_of(run)
    without_alignment(run)
    name_task(run, "gone:Task")
    assert samples_of(run) != stored
    name_task(run, "funding")
    done = CliRunner().invoke(main.app, ["eval", str(run)])
    assert done.exit_code == 0, done.output
    for path in (run / "eval").rglob("samples.jsonl"):
        assert path.parts[-3] == "1-sft" or '"aligned": [[' in path.read_text()


@pytest.mark.parametrize(
    "rows", ["text", [1, None, {}], [["a"]], [["f", 1, 2, 3, 4]], [["f", "g", None, False, 10**9]]]
)
def test_a_stored_alignment_of_any_form_is_shown_as_far_as_it_goes(run: Path, rows: object) -> None:
    for path in (run / "eval").rglob("samples.jsonl"):
        samples = [json.loads(line) for line in path.read_text().splitlines()]
        write_jsonl(path, [{**sample, "aligned": rows} for sample in samples])
    assert "Worst of 2-grpo" in samples_of(run)
    elements(run / "report.html")


def test_the_command(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda url: opened.append(url) or True)
    done = CliRunner().invoke(main.app, ["report", str(run / "2-grpo"), "-o", str(tmp_path / "x.html"), "--open"])
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(tmp_path / "x.html")
    assert opened == [(tmp_path / "x.html").as_uri()]
    assert not (run / "report.html").exists()


def test_what_is_no_run_or_no_place_is_refused(run: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(main.app, ["report", str(tmp_path)])
    assert done.exit_code == 2
    assert "no run folder" in done.stderr
    with pytest.raises(UserError, match=r"cannot be written: .* -o FILE"):
        write_report(run, tmp_path / "nowhere" / "x.html")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.slow
def test_a_run_ends_with_its_page_and_never_fails_for_it(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, override = str(finished.parents[1] / "mine.yaml"), f"run_dir={tmp_path}"
    done = CliRunner().invoke(main.app, ["run", recipe, override])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "mine/report.html").is_file()
    assert "report.html" in done.stdout.replace("\n", "")

    def fail(run: object) -> str:
        raise ZeroDivisionError("a page that cannot be")

    monkeypatch.setattr(page, "render", fail)
    done = CliRunner().invoke(main.app, ["run", recipe, override])
    assert done.exit_code == 0, done.output
    assert "a page that cannot be" in done.stdout.replace("\n", "")
    assert "ZeroDivisionError" in (tmp_path / "mine/run.log").read_text()


@pytest.mark.slow
def test_a_browser_shows_it(run: Path, tmp_path: Path) -> None:
    """Chromium draws it wide and narrow, light and dark; a planted script does not run."""
    browser = browser_path()
    import numpy as np
    from PIL import Image

    write_report(run)
    shown = write_report(planted(Path(shutil.copytree(run, tmp_path / "hostile"))))
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]

    def browse(*arguments: str) -> str:
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        done = subprocess.run(
            [browser, *flags, profile, *arguments], capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    dom = browse("--dump-dom", (run / "report.html").as_uri())
    for section in SECTIONS:
        assert f'id="{section}"' in dom
    assert 'role="tablist"' in dom, "the page's own script ran"
    assert '<mark class="hit">National Science Foundation</mark>' in dom, "samples are marked as in `adapters view`"
    assert "<script>alert(1)</script>" not in browse("--dump-dom", shown.as_uri())
    brightness = {}
    for look, size, scheme in (("wide", "1280,2400", 1), ("narrow", "500,2400", 1), ("dark", "1280,2400", 0)):
        picture = tmp_path / f"{look}.png"
        setting = f"--blink-settings=preferredColorScheme={scheme}"
        browse(setting, f"--window-size={size}", f"--screenshot={picture}", (run / "report.html").as_uri())
        pixels = np.asarray(Image.open(picture).convert("RGB")) / 255
        assert pixels.shape[:2] == tuple(int(n) for n in reversed(size.split(",")))
        assert pixels.reshape(-1, 3).std(axis=0).min() > 0.02, "the page is not blank"
        for part in range(4):  # every quarter of the picture shows something
            quarter = pixels[part * len(pixels) // 4 : (part + 1) * len(pixels) // 4]
            assert quarter.std() > 0.01
        brightness[look] = pixels.mean()
    assert brightness["dark"] < 0.4 < 0.8 < brightness["wide"]
