"""Noise: labels stay exact, spans translate both ways, and the same seed gives the same text."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.data_aug import noise as noise_package
from adapters.data_aug.noise import (
    FAMILIES,
    LEVELS,
    POLICIES,
    PRESETS,
    Edit,
    Emphasis,
    FormedFamily,
    Label,
    Ligatures,
    LineNumbers,
    Noise,
    NoiseFamily,
    Ocr,
    RunningHeads,
    Span,
    find_spans,
    funding_labels,
    hits,
    noise_row,
    noise_text,
    preset,
    relabel,
)
from adapters.rewards.funding_records import normalise_award_id, normalise_text
from adapters.tasks.ie import IeTask

ROOT = Path(__file__).parents[2]

NAMES = [
    "National Office for Scientific Affairs",
    "R&D Council",
    "A*STAR",
    "Fundação de Ciência",
    "Conseil “Été”",
    "Agence de l'Île-de-France",
    "Müller & Søn's Trust (MST)",
    'Stiftung "Wald und Feld"',
    "École d’été",
    "Trust ''Nord''",
    "Office`s Fund",
    "KAKENHI",
    "Council <North>",
    "Węgierski Fundusz Łąki",
    "Offering flow",
    "\u57fa\u91d1",
]
IDS = [
    "AB-12-3456/7",
    "998877",
    "U21B2001",
    "R01 CA 012345",
    "EP/V04902X/1",
    "N00014-17-1-2875",
    "straße-1",
    "MC_UU_1/9",
    "7",
]
FILLERS = [
    " gratefully acknowledged; 35% of the costs, efficient office help and field work by Dr. Åsa Öhman (2012–2015) ",
    'Acknowledgments. This research, i.e. "first of all", was supported in part by ',
    ", under grant No. ",
    " and the FUNDING body's R&D unit, with ",
    ", see section 4.2 for the ",
]
NOISED = "b02828661867970de3a0bad7e4407221b105d6641c2c83ceff3023fed2cda7f7"
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=80)
NOISES = st.builds(preset, st.sampled_from(PRESETS), st.sampled_from(list(LEVELS)))
SEEDS = st.integers(0, 10**6)

TEXT = (
    'Acknowledgments. We thank Dr. Åsa Öhman for 12 efficient field offices in "R&D" – the FUNDING of 35% came from'
    " the Office of Scientific Affairs, the Nordic Council's flow programme and the Trust for Quiet Rooms, grant"
    " AB-12-3456/7 and contract 998877 (see [4] and item_2); modern windows clearly will minimise illness and all cold."
)


@st.composite
def rows(draw: st.DrawFn) -> dict[str, object]:
    """A funding row whose labels stand in its text, sometimes more than once, with made-up neighbours."""
    text, funders = "", []
    for _ in range(draw(st.integers(0, 4))):
        name = draw(st.sampled_from(NAMES))
        ids = draw(st.lists(st.sampled_from(IDS), max_size=2))
        schemes = draw(st.lists(st.sampled_from(NAMES), max_size=1))
        for part in (name, *ids, *schemes):
            text += draw(st.sampled_from(FILLERS)) + part
        funders.append(
            {
                "funder_name": draw(st.sampled_from([name, None])),
                "awards": [{"award_ids": ids, "funding_scheme": schemes, "award_title": ["not in the text"]}],
            }
        )
    return {
        "id": draw(st.text(max_size=4)),
        "funding_statement": text + draw(st.sampled_from(FILLERS)),
        "funders": funders,
    }


@given(row=rows(), noise=NOISES, seed=SEEDS)
def test_protected_labels_are_equal_for_the_scorer(row, noise, seed):
    before = json.dumps(row)
    result = noise_row(row, noise, seed=seed)
    assert json.dumps(row) == before
    assert result.row["funders"] == row["funders"]
    for span in find_spans(row["funding_statement"], funding_labels(row)):
        start, end = result.noised.to_noisy(span.start, span.end)
        clean, noisy = row["funding_statement"][span.start : span.end], result.noised.text[start:end]
        normalise = normalise_award_id if span.kind == "id" else normalise_text
        assert normalise(noisy) == normalise(clean)


@given(row=rows(), noise=NOISES, seed=SEEDS)
def test_followed_labels_stay_verbatim(row, noise, seed):
    result = noise_row(row, noise, seed=seed, policy="follow")
    text, noisy = row["funding_statement"], result.row["funding_statement"]
    old = {label.path: label.value for label in funding_labels(row)}
    new = {label.path: label.value for label in funding_labels(result.row)}
    assert old.keys() == new.keys()
    for path, value in old.items():
        if value in text:
            assert new[path] in noisy
            assert new[path].strip()
        else:
            assert new[path] == value
    assert {path for path in old if old[path] != new[path]} <= set(result.touched)
    assert all(path[-2] == "award_ids" for path in result.touched_ids)


@given(row=rows(), noise=NOISES, seed=SEEDS, policy=st.sampled_from(POLICIES))
def test_edits_round_trip_and_spans_translate_exactly(row, noise, seed, policy):
    result = noise_row(row, noise, seed=seed, policy=policy)
    noised = result.noised
    assert noised.undo() == row["funding_statement"]
    assert noised.replay() == noised.text == result.row["funding_statement"]
    for edits in noised.passes:
        assert all(left.end <= right.start for left, right in itertools.pairwise(edits))
    for span in find_spans(row["funding_statement"], funding_labels(row)):
        assert noised.to_source(*noised.to_noisy(span.start, span.end)) == (span.start, span.end)


@given(text=ANY_TEXT, noise=NOISES, seed=SEEDS, policy=st.sampled_from(POLICIES), data=st.data())
def test_any_text_survives(text, noise, seed, policy, data):
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=6, unique=True).map(sorted))
    kinds = st.sampled_from(["name", "id", "fixed"])
    spans = [Span(start, end, data.draw(kinds)) for start, end in itertools.pairwise(cuts)]
    noised = noise_text(text, random.Random(seed), spans, noise, policy)
    assert noised.undo() == text
    for span in spans:
        start, end = noised.to_noisy(span.start, span.end)
        assert start < end
        assert noised.to_source(start, end) == (span.start, span.end)
        if span.kind == "fixed":
            assert noised.text[start:end] == text[span.start : span.end]


@pytest.mark.parametrize("text", ["", "a", " ", "-", "é", "😀", "\ud800", "fi", "👩‍🔬 for 🇸🇪"])
@pytest.mark.parametrize("name", PRESETS)
def test_tiny_texts(text, name):
    for seed in range(30):
        row = {"id": text, "funding_statement": text, "funders": []}
        result = noise_row(row, preset(name, "heavy"), seed=seed)
        assert result.noised.undo() == text


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_fires_and_names_its_edits(name):
    noise = Noise((FAMILIES[name](rate=0.9),))
    families = {family for seed in range(40) for family in noise_text(TEXT, random.Random(seed), (), noise).families}
    assert families == {name}


@pytest.mark.parametrize("name", FAMILIES)
def test_families_are_silent_at_zero_and_check_their_rates(name):
    silent = {"rate": 0.0} | {
        field.name: 0.0
        for field in dataclasses.fields(FAMILIES[name])
        if field.name in ("whole", "blanks", "stray", "bullet")
    }
    edits = FAMILIES[name](**silent)(TEXT, random.Random(0), ())
    assert all(edit.start in (0, len(TEXT)) for edit in edits)  # a table still has its outer borders
    for rate in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="rate must lie in"):
            FAMILIES[name](rate=rate)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="forms must be a non-empty choice of char, dropped"):
        Ligatures(forms=("chra",))
    with pytest.raises(ValueError, match="unknown noise preset 'orc'"):
        preset("orc")
    with pytest.raises(ValueError, match="unknown noise level"):
        preset("ocr", "extreme")
    with pytest.raises(ValueError, match="unknown label policy"):
        noise_text("a", random.Random(0), (), preset("ocr"), "protekt")
    with pytest.raises(ValueError, match="does not fit"):
        noise_text("a", random.Random(0), [Span(0, 2)], preset("ocr"))


@pytest.mark.parametrize("name", PRESETS)
def test_levels_are_ordered(name):
    counts = [
        sum(len(noise_text(TEXT, random.Random(seed), (), preset(name, level)).edits) for seed in range(300))
        for level in LEVELS
    ]
    assert counts[0] * 1.3 < counts[1] < counts[2] / 1.3


@pytest.mark.parametrize("rate", [0.002, 0.01, 0.05])
def test_ocr_rate_is_the_character_error_rate(rate):
    text = "the offices of science and education support many students in their first year, as stated in no. 1984/7. "
    noised = noise_text(text * 2000, random.Random(3), (), Noise((Ocr(rate=rate, pairs=0.0),)))
    assert len(noised.edits) / len(text * 2000) == pytest.approx(rate, rel=0.3)


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.9])
def test_hits_have_the_asked_rate(rate):
    struck = hits(random.Random(1), 200_000, rate)
    assert len(struck) / 200_000 == pytest.approx(rate, rel=0.15)
    assert struck == sorted(set(struck))
    assert hits(random.Random(1), 5, 1.0) == [0, 1, 2, 3, 4]
    assert hits(random.Random(1), 5, 0.0) == hits(random.Random(1), 5, 1e-300) == []


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_share_is_the_share_of_rows_that_change(share):
    rows = [{"id": f"r{i}", "funding_statement": TEXT, "funders": []} for i in range(1000)]
    results = [noise_row(row, preset("document"), seed=7, share=share) for row in rows]
    assert sum(bool(result.edits) for result in results) / 1000 == pytest.approx(share, abs=0.05)
    assert all(result.row is row for result, row in zip(results, rows, strict=True) if not result.edits)


def test_seed_epoch_id_and_variant_each_matter():
    row = {"id": "a", "funding_statement": TEXT, "funders": []}
    noise = preset("document", "heavy")
    texts = [
        noise_row(row, noise, seed=1).noised.text,
        noise_row(row, noise, seed=2).noised.text,
        noise_row(row, noise, seed=1, epoch=1).noised.text,
        noise_row(row, noise, seed=1, variant=1).noised.text,
        noise_row(row | {"id": "b"}, noise, seed=1).noised.text,
    ]
    assert len(set(texts)) == 5
    assert noise_row(row, noise, seed=1).noised.text == texts[0]


def test_same_text_in_another_process():
    program = (
        "import hashlib; from adapters.data_aug.noise import PRESETS, noise_row, preset\n"
        f"row = {{'id': 'a', 'funding_statement': {TEXT!r}, 'funders': [{{'funder_name': 'Nordic Council'}}]}}\n"
        "texts = [noise_row(row, preset(p, 'heavy'), variant=v).noised.text for p in PRESETS for v in range(20)]\n"
        "print(hashlib.sha256('|'.join(texts).encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(digests) == 1


@pytest.mark.slow
def test_noised_texts_and_edits_stay_what_they_were():
    row = {"id": "a", "funding_statement": TEXT, "funders": [{"funder_name": "Nordic Council", "awards": []}]}
    noises = [preset(name, level) for name in PRESETS for level in LEVELS]
    noises += [Noise((FAMILIES[name](rate=0.5),)) for name in sorted(FAMILIES)]
    results = [
        noise_row(row, noise, seed=1, epoch=epoch, policy=policy)
        for noise in noises
        for policy in POLICIES
        for epoch in range(20)
    ]
    outputs = repr([(result.row, result.noised.passes) for result in results])
    assert hashlib.sha256(outputs.encode()).hexdigest() == NOISED


def test_every_exported_family_has_a_name_in_recipes():
    exported = [value for value in vars(noise_package).values() if isinstance(value, type)]
    families = {family for family in exported if issubclass(family, NoiseFamily)} - {NoiseFamily, FormedFamily}
    assert families == set(FAMILIES.values())


def test_a_family_is_its_sites_and_its_choices():
    class Vowels(NoiseFamily):
        NAME = "vowels"
        SITES = re.compile("[aeiou]")
        CHOICES = ("*", "_")

    assert set(noise_text("banana", random.Random(0), (), Noise((Vowels(rate=1.0),))).text) == set("bn*_")
    assert noise_text("banana", random.Random(0), (), Noise((Vowels(rate=1.0, chance=0.0),))).edits == ()


def test_import_is_light():
    program = (
        "import sys, adapters.data_aug.noise;"
        "print([m for m in ('torch', 'numpy', 'ftfy', 'adapters.rewards') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_free_standing_occurrences_come_first():
    labels = [Label(("a",), "id", "20"), Label(("b",), "name", "NSFC")]
    assert find_spans("in 2024, 20 NSFCX", labels) == [Span(9, 11, "id", ("a",)), Span(12, 16, "name", ("b",))]


def test_a_label_broken_by_blanks_is_left_alone():
    row = {
        "funding_statement": "grant N00014-17- 12875, thanks to all",
        "funders": [{"funder_name": None, "awards": [{"award_ids": ["N00014-17-12875"]}]}],
    }
    noise = Noise((Ocr(rate=0.2), FAMILIES["glued_words"](rate=0.9)))
    for policy in POLICIES:
        for seed in range(20):
            result = noise_row(row, noise, seed=seed, policy=policy)
            assert "N00014-17- 12875" in result.row["funding_statement"]
            assert result.row["funders"] == row["funders"]


def test_clean_keeps_the_label_and_breaks_the_text():
    row = {"id": "x", "funding_statement": "By the Office.", "funders": [{"funder_name": "Office", "awards": []}]}
    results = [noise_row(row, Noise((Ocr(rate=0.5),)), seed=seed, policy="clean") for seed in range(20)]
    assert any("Office" not in result.row["funding_statement"] for result in results)
    assert all(result.row["funders"] == row["funders"] for result in results)


@pytest.mark.parametrize("policy", POLICIES)
def test_page_furniture_and_tags_stay_out_of_labels(policy):
    name = "a long name that runs over several lines of the page and does not end soon, as names of this kind do"
    text = f"{name} and then some more words, {name}, and the rest of it"
    noise = Noise((RunningHeads(rate=1.0), LineNumbers(), FAMILIES["tags"](rate=0.9), Emphasis(rate=0.9, stray=0.0)))
    spans = find_spans(text, [Label(("n",), "name", name)])
    for seed in range(30):
        noised = noise_text(text, random.Random(seed), spans, noise, policy)
        for span in spans:
            start, end = noised.to_noisy(span.start, span.end)
            assert noised.text[start:end] == name


def test_another_task_brings_its_own_labels():
    row = {"id": 1, "text": "We study graph kernels for efficient search.", "gold": {"Method": ["graph kernels"]}}

    def labels(row):
        for label, values in row["gold"].items():
            for index, value in enumerate(values):
                yield Label(("gold", label, index), "name", value)

    for seed in range(50):
        result = noise_row(row, preset("document", "heavy"), seed=seed, policy="follow", field="text", labels=labels)
        assert result.row["gold"]["Method"][0] in result.row["text"]
    assert row["gold"] == {"Method": ["graph kernels"]}


@given(noise=NOISES, seed=SEEDS, policy=st.sampled_from(POLICIES))
def test_annotated_spans_follow_the_edits(noise, seed, policy):
    text = "😀 Mira Holt flew from Ulm to Lima, and Mira Holt wrote from Lima."
    places = [(m.start(), m.end(), label) for label, name in (("PER", "Mira Holt"), ("LOC", "Lima"), ("LOC", "Ulm"))
              for m in re.finditer(name, text)]  # fmt: skip
    row = {"id": "x", "task": "NER", "text": text, "spans": [list(place) for place in places]}
    row["gold"] = {"PER": ["Mira Holt"], "LOC": ["Ulm", "Lima"]}
    task = IeTask()
    out = noise_row(row, noise, seed=seed, policy=policy, field="text", labels=task.labels).row
    for start, end, label in out.get("spans", ()):
        assert task.items({label: [out["text"][start:end]]}) <= task.items(out["gold"])
    if policy == "protect":
        assert len(out["spans"]) == len(places)
    objects = {**row, "spans": [{"start": a, "end": b, "label": c, "text": text[a:b]} for a, b, c in places]}
    again = noise_row(objects, noise, seed=seed, policy=policy, field="text", labels=task.labels).row
    assert [[s["start"], s["end"], s["label"]] for s in again.get("spans", ())] == [
        list(s) for s in out.get("spans", ())
    ]
    assert all(s["text"] == again["text"][s["start"] : s["end"]] for s in again.get("spans", ()))


def test_relabel_copies_only_what_it_changes():
    row = {"a": {"b": ["x", "y"]}, "c": {"d": 1}}
    new = relabel(row, {("a", "b", 1): "z"})
    assert new == {"a": {"b": ["x", "z"]}, "c": {"d": 1}}
    assert row["a"]["b"] == ["x", "y"]
    assert new["c"] is row["c"]


def test_a_plug_in_cannot_break_the_rules():
    def shout(text, rng, protected):
        return [Edit(0, len(text), text.upper(), "shout"), Edit(4, 7, "ABC", "shout"), Edit(2, 5, "?", "shout")]

    noised = noise_text("the abc end", random.Random(0), [Span(4, 7, "name")], Noise((shout,)))
    assert noised.text == "the abc end"
    noised = noise_text("the abc end", random.Random(0), [Span(4, 7, "id")], Noise((shout,)))
    assert noised.text == "the ABC end"
    with pytest.raises(ValueError, match="family 'far' proposed"):
        noise_text("short", random.Random(0), (), Noise((lambda *_: [Edit(3, 99, "", "far")],)))
