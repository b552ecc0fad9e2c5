"""The view of an extraction in a real Chromium: what is marked, what a key does, how long it takes, how it looks."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Page, chromium
from PIL import Image
from test_report import HOSTILE
from test_view import extraction, funder
from tiny import write_jsonl

from adapters.data.load import load_examples
from adapters.data.rows import survey
from adapters.files import manifest_path, read_json, read_jsonl, write_json
from adapters.recipe.fields import PathSource
from adapters.report import write_view
from adapters.tasks.funding import FundingTask
from adapters.tasks.ie import IeTask

pytestmark = pytest.mark.slow

ARABIC, CJK, NESTED = "مؤسسة المثال للعلوم", "日本見本学術振興会", "Institute of the University of Example"
TEXTS = {
    "plain": ("Funded by the Sample Trust (ST-1). The Sample Trust had no say.", [funder("Sample Trust", "ST-1")]),
    "arabic": (f"تم تمويل هذا العمل من قبل {ARABIC} بموجب المنحة رقم ES-2041.", [funder(ARABIC, "ES-2041")]),
    "cjk": (f"本研究は{CJK}科研費 JP19K00001 の助成を受けた。", [funder(CJK, "JP19K00001")]),
    "emoji": ("😀👩\u200d🔬 Thanks to the e\u0301cole Exemple 😀 (A😀1).", [funder("e\u0301cole Exemple", "A😀1")]),
    "overlap": (
        f"By the {NESTED} Fund Council.",
        [funder(NESTED), funder("University of Example"), funder("Example Fund Council")],
    ),
    "hostile": (f"By {HOSTILE} and \u202eevil\u202c Sample Trust.", [funder(HOSTILE), funder("Sample Trust")]),
    "wrong": ("Funded by the Example Fund (EF-1).", [funder("Agency for Unfounded Claims", "EF-1")]),
    "failed": ("Funded by nobody.", None),
}


def rows() -> list[dict[str, Any]]:
    gold = {"wrong": [funder("Example Fund", "EF-1")], "failed": []}
    return [
        {"id": name, "funding_statement": text, "funders": gold.get(name, record)}
        for name, (text, record) in TEXTS.items()
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("view")
    return write_view(extraction(folder, rows(), [record for _, record in TEXTS.values()]))


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("browser")) as page:
        yield page


@pytest.fixture
def page(tab: Page, made: Path) -> Page:
    tab.look(width=1280, height=800)
    tab.open(made)
    tab.evaluate("localStorage.clear()")
    tab.open(made)
    tab.wait_for("document.querySelector('.item')")
    return tab


def shown(page: Page) -> str:
    return page.evaluate("document.querySelector('#title bdi').textContent")


MARKED = """(() => {
  const found = {};
  for (const mark of document.querySelectorAll("#text mark:not(.also)")) {
    const own = mark.parentElement.closest(`[data-path="${mark.dataset.path}"]`) ? "" : mark.textContent;
    found[mark.dataset.path] = (found[mark.dataset.path] ?? "") + own;
  }
  return found;
})()"""


def test_every_value_is_marked_where_it_stands(page: Page) -> None:
    """Offsets are code points, marks may nest and cross, and text is neither lost nor run."""
    for name, (text, record) in TEXTS.items():
        assert shown(page) == name
        spelt = text.replace("\u202e", "⟨202E⟩").replace("\u202c", "⟨202C⟩")
        assert page.text("#text") == spelt
        values = {f"{n}.funder_name": each["funder_name"] for n, each in enumerate(record or [])}
        values |= {f"{n}.awards.0.award_ids.0": each["awards"][0]["award_ids"] for n, each in enumerate(record or [])}
        wanted = {path: value if isinstance(value, str) else value[0] for path, value in values.items() if value}
        assert page.evaluate(MARKED) == {path: value for path, value in wanted.items() if value in text}
        page.press("j")
    assert page.evaluate("document.title") == "out.jsonl: extracted records"
    assert page.evaluate("document.querySelectorAll('script:not([type]), img').length") == 1
    assert page.evaluate("getComputedStyle(document.querySelector('#text')).unicodeBidi") == "plaintext"


def test_other_mentions_and_absent_values_are_told_apart(page: Page) -> None:
    assert page.evaluate("document.querySelectorAll('#text mark.also').length") == 1
    page.press("End", "k")
    assert shown(page) == "wrong"
    assert "not in the text" in page.text("#record")
    assert "✗ missed" in page.text("#gold")
    page.press("v")
    assert page.evaluate("document.activeElement.dataset.path") == "0.funder_name"
    page.press("Tab")
    assert page.evaluate("document.querySelector('#text mark.on').textContent") == "EF-1"


def choose(page: Page, select: str, value: object) -> str:
    event = "e.dispatchEvent(new Event('input', {bubbles: true}))"
    page.evaluate(f"{{ const e = document.getElementById('{select}'); e.value = {json.dumps(value)}; {event}; 0 }}")
    return page.evaluate("[...document.querySelectorAll('.item .id')].map((item) => item.textContent).join()")


def test_rows_are_filtered(page: Page) -> None:
    assert choose(page, "match", 3) == "wrong"
    assert choose(page, "label", 1) == ""
    assert page.text("#title") == "No row fits these filters"
    page.evaluate("document.getElementById('clear').click()")
    page.wait_for("document.querySelectorAll('.item').length === 8")
    assert choose(page, "label", 1) == "plain,arabic,cjk,emoji,wrong"
    choose(page, "label", "")
    assert choose(page, "which", "differs") == "wrong"
    assert choose(page, "which", "error") == "failed"
    page.evaluate("document.getElementById('rows').focus()")
    page.press("a")
    assert "no record to accept" in page.text("#problem")
    assert choose(page, "which", "open").count(",") == 7


def downloaded(page: Page, folder: Path, count: int) -> Path:
    page.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
    page.press("x")
    file = folder / "out.jsonl.corrected.jsonl"
    for _ in range(400):
        if file.is_file() and len(read_jsonl(file)) == count:
            return file
        page.evaluate("new Promise((done) => setTimeout(done, 50))")
    raise AssertionError("nothing was downloaded")


def test_decisions_survive_a_reload_and_become_training_rows(page: Page, made: Path, tmp_path: Path) -> None:
    page.press("a", "r", "a")
    assert shown(page) == "emoji"
    page.press("v", "Enter")
    page.press("a", modifiers=2)
    page.write("Lycée Exemple")
    page.press("Enter")
    assert "corrected" in page.text("#title")
    assert "not in the text" in page.text("#record .leaf")
    page.press("Escape", "n", "n", "n")
    assert shown(page) == "wrong"
    page.press("e")
    page.evaluate("document.getElementById('json').select()")
    page.write("[")
    page.press("Enter", modifiers=2)
    assert "not JSON" in page.text("#problem")
    page.evaluate("document.getElementById('json').select()")
    page.write(json.dumps([funder("Example Fund", "EF-1")]))
    page.press("Enter", modifiers=2)
    assert page.evaluate(MARKED) == {"0.funder_name": "Example Fund", "0.awards.0.award_ids.0": "EF-1"}
    page.open(made)
    page.wait_for("document.querySelector('.item')")
    assert page.text("#tally") == "2 accepted, 2 corrected, 1 rejected"
    file = downloaded(page, tmp_path, 4)
    read = load_examples([PathSource(path=str(file))], FundingTask(), root=tmp_path, seed=0, max_bad_rows=0.0).examples
    assert {example.id: example.gold for example in read} == {
        "plain": TEXTS["plain"][1],
        "cjk": TEXTS["cjk"][1],
        "emoji": [funder("Lycée Exemple", "A😀1")],
        "wrong": [funder("Example Fund", "EF-1")],
    }
    assert {example.meta["text"] for example in read} == {TEXTS[example.id][0] for example in read}
    page.press("Home", "u")
    assert page.text("#tally") == "1 accepted, 2 corrected, 1 rejected"


def test_an_emptied_value_is_removed(page: Page) -> None:
    page.press("v", "Tab", "Enter")
    page.evaluate("document.activeElement.value = ''; 0")
    page.press("Enter")
    assert page.evaluate("JSON.parse(Object.entries(localStorage)[0][1]).record") == [funder("Sample Trust")]


def test_entities_become_training_rows_by_label(tab: Page, tmp_path: Path) -> None:
    row = {"id": "1", "text": "Zeolite cracks oil", "schema": ["material", "method"], "task": "NER"}
    record = [{"label": "material", "text": "Zeolite", "head": None, "tail": None}]
    relations = [{"label": "cracks", "text": None, "head": "Zeolite", "tail": "oil"}]
    bare = {"id": "2", "text": "Zeolite cracks oil"}
    spec = {"use": "ie", "kind": None, "schema": []}
    tab.open(write_view(extraction(tmp_path, [row, bare], [record, relations], text="text", task=spec)))
    tab.wait_for("document.querySelector('.item')")
    assert tab.text("#text mark").startswith("Zeolite")
    tab.press("a", "a")
    file = downloaded(tab, tmp_path / "down", 2)
    read = load_examples([PathSource(path=str(file))], IeTask(), root=tmp_path, seed=0, max_bad_rows=0.0).examples
    assert [example.gold for example in read] == [
        {"material": ["Zeolite"], "method": []},
        {"cracks": [{"head": "Zeolite", "tail": "oil"}]},
    ]


# The least ratio of contrast (WCAG 2.2) of the texts that carry meaning to what is painted behind them.
CONTRAST = """(() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgb = (...layers) => {
    for (const layer of layers) { canvas.fillStyle = layer; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (c) => c.map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
  const behind = (element) =>
    element ? [...behind(element.parentElement), getComputedStyle(element).backgroundColor] : [];
  const seen = document.querySelectorAll(
    "mark, .leaf, .leaf .badge, .word, .item span, .item, .note, .facts, label, #gold td");
  return Math.min(...[...seen].filter((e) => e.textContent.trim()).map((element) => {
    const back = behind(element);
    const [a, b] = [light(rgb(...back)), light(rgb(...back, getComputedStyle(element).color))].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
  }));
})()"""


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 400])
def test_it_can_be_read(page: Page, tmp_path: Path, width: int, dark: bool) -> None:
    """Light and dark, wide and narrow: enough contrast, nothing beyond the window's edge, and no blank picture."""
    page.look(width=width, height=900, dark=dark)
    page.press("End", "k")
    assert page.evaluate(CONTRAST) >= 4.5
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    pixels = np.asarray(Image.open(page.picture(tmp_path / "page.png")).convert("RGB")) / 255
    assert pixels.shape[:2] == (900, width)
    assert pixels.std() > 0.02
    assert (pixels.mean() < 0.4) == dark


def test_a_hundred_thousand_rows_open_in_two_seconds_and_answer_a_key_in_a_tenth(tab: Page, tmp_path: Path) -> None:
    kinds = rows()
    many = [{**kinds[n % len(kinds)], "id": f"{n}"} for n in range(len(kinds))]
    out = extraction(tmp_path, many, [record for _, record in TEXTS.values()])
    lines, corpus = read_jsonl(out), read_jsonl(tmp_path / "corpus.jsonl")
    total = 100_000
    for row in corpus:
        row["funding_statement"] += " The funders had no role in the design of the study." * 7
    write_jsonl(tmp_path / "corpus.jsonl", ({**corpus[n % 8], "id": str(n)} for n in range(total)))
    write_jsonl(out, ({**lines[n % 8], "row": n + 1, "id": str(n)} for n in range(total)))
    value = read_json(manifest_path(out))
    value["settings"]["input"] = survey(tmp_path / "corpus.jsonl")[1]
    write_json(manifest_path(out), value)
    tab.look(width=1280, height=800)
    tab.open(write_view(out))
    first = tab.evaluate("performance.getEntriesByName('shown')[0].startTime")
    whole = tab.evaluate("performance.timing.loadEventEnd - performance.timing.navigationStart")
    assert first < 2000
    tab.evaluate(
        "window.times = []; document.addEventListener('keydown', (event) => { const began = event.timeStamp; "
        "requestAnimationFrame(() => setTimeout(() => times.push(performance.now() - began))); }, true)"
    )
    pressed = ["j", "j", "End", "k", "a", "r", "u", "Home", "ArrowDown", "n"] * 3
    for n, key in enumerate(pressed, 1):
        tab.press(key)
        tab.wait_for(f"times.length === {n}")
    times = tab.evaluate("times")
    size = out.with_name("out.jsonl.html").stat().st_size / 1e6
    print(f"{size:.0f} MB; first row {first:.0f} ms, whole page {whole:.0f} ms; {len(times)} keys: ", end="")
    print(f"median {statistics.median(times):.0f} ms, longest {max(times):.0f} ms")
    assert statistics.median(times) < 100, times
    assert sorted(times)[int(0.9 * len(times))] < 100, times
    assert tab.evaluate("document.querySelectorAll('.item').length") < 50, "only the rows in sight are elements"
    assert choose(tab, "which", "error").split(",")[0] == "7"
    assert tab.text("#found") == "12,500 of 100,000 rows"
