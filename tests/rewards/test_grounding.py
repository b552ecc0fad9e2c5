"""Where a value stands in a text."""

from __future__ import annotations

import json
import os
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from adapters.rewards.grounding import LEAST, Text, fold, free_places

NSF = "National Science Foundation"


def found(text: str, value: str) -> tuple[str, list[str]]:
    match, _, mentions = Text(text).find(value)
    return match, [text[start:end] for start, end in mentions]


@pytest.mark.parametrize(
    ("text", "value", "as_written"),
    [
        (f"by the {NSF.upper()}.", NSF, NSF.upper()),
        ("the National  Science\n\tFoundation", NSF, "National  Science\n\tFoundation"),
        ("the Na-\ntional Sci- ence Foundation", NSF, "Na-\ntional Sci- ence Foundation"),
        ("the Na\u00adtional Science Foun\u200bdation", NSF, "Na\u00adtional Science Foun\u200bdation"),
        ("the O\ufb03ce of Naval Research", "Office of Naval Research", "O\ufb03ce of Naval Research"),
        ("by \uff2e\uff33\uff26.", "NSF", "\uff2e\uff33\uff26"),
        ("grant AB\u201312\u22123,", "AB-12-3", "AB\u201312\u22123"),
        ("grant AB-12 3,", "AB-123", "AB-12 3"),
        ("the \u201cFuture\u201d of O\u2019Neil", '"Future" of O\'Neil', "\u201cFuture\u201d of O\u2019Neil"),
        ("the ``Future'' fund", '"Future" fund', "``Future'' fund"),
        ("the Universite\u0301 de Lie\u0300ge", "Université de Liège", "Universite\u0301 de Lie\u0300ge"),
        ("die STRASSENBAU AG", "Straßenbau AG", "STRASSENBAU AG"),
        ("by \u1112\u1161\u11ab\u1100\u116e\u11a8.", "한국", "\u1112\u1161\u11ab\u1100\u116e\u11a8"),
    ],
)
def test_what_normalisation_leaves_out(text: str, value: str, as_written: str) -> None:
    assert found(text, value) == ("normalised", [as_written])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("本研究得到国家自然科学基金资助", "国家自然科学基金"),
        ("科研費の助成を受けた", "科研費"),
        ("ได้รับทุนจากสำนักงานวิจัย", "สำนักงานวิจัย"),
        ("본 연구는 한국연구재단의 지원", "한국연구재단"),
        ("بدعم من مؤسسة الكويت للتقدم العلمي والمؤسسة", "مؤسسة الكويت للتقدم العلمي"),
        ("مُؤَسَّسَة الكويت", "مُؤَسَّسَة"),
        ("by 👩‍🔬🇩🇪 fund 👍🏽", "👩‍🔬🇩🇪"),
        ("by 👍🏽", "👍🏽"),
        ("the Universite\u0301 X", "Universite\u0301"),
        ("d'Universités", "Universités"),
    ],
)
def test_other_scripts_are_exact(text: str, value: str) -> None:
    assert found(text, value) == ("exact", [value])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("the Cafe\u0301 X", "Cafe"),
        ("by 👩‍🔬", "👩"),
        ("by 👍🏽", "👍"),
        ("🇩🇪🇫🇷", "🇪🇫"),
        ("a\u0301", "\u0301"),
        ("the o\ufb03ce", "ice"),
        ("한글", "\u1112\u1161"),
        ("by the NSFC", "NSF"),
        ("grant 12345", "1234"),
        ("grant 12345", "2345"),
        ("grant R01CA12", "R01"),
        ("grant 2031qk7712", "2031"),
        ("grant 2031qk7712", "7712"),
        ("the unfounded Award", "found"),
        ("they told us about it", "US"),
        ("grant AB-1235", "AB-1234"),
        ("grant CCR-8811954", "CCR-8811955"),
        ("under EP/T032398/1.", "EP/S032398/1"),
        ("the grant K23HL126211", "K23MH126211"),
        ("the grant ANR-19-CF30-0012", "ANR-19-CE30-0012"),
        ("awards 12 34 and 5", "1234"),
        ("pages 20-19 of it", "2019"),
        (NSF, ""),
        (NSF, " \n"),
        (NSF, "\u00ad"),
        ("", NSF),
        ("the Wellcome Trust", NSF),
        ("the Natural Science Foundation", NSF),
        ("National Parks, Science Museum and a Foundation", NSF),
    ],
)
def test_what_does_not_stand_there(text: str, value: str) -> None:
    assert found(text, value) == ("absent", [])


@pytest.mark.parametrize(
    ("text", "value"), [("no. 12\u201334", "12-34"), ("no. 20\u00ad19", "2019"), ("7\u22123", "7-3")]
)
def test_a_short_number_in_the_values_own_groups_is_found(text: str, value: str) -> None:
    assert found(text, value)[0] == "normalised"


def test_whole_tokens_come_first() -> None:
    assert found("NSFC, NSF-funded, NSF", "NSF") == ("exact", ["NSF", "NSF"])
    assert Text("AB-77-1 and 77").find("77").mentions == ((12, 14),), "one that stands alone"
    assert Text("AB-77-1").find("77").mentions == ((3, 5),), "a part, where no other is"
    assert Text("GrantsGR10131 and").find("GR10131").mentions == ((6, 13),), "glued to a word"
    assert Text("GrantsGR10131, GR10131").find("GR10131").mentions == ((15, 22),)
    assert Text("grants 123and 4").find("123").mentions == ((7, 10),)


@pytest.mark.parametrize(
    ("text", "value", "as_written"),
    [
        ("the Nationl Science Foundation and", NSF, "Nationl Science Foundation"),
        ("the Natiional Science Foundation's", NSF, "Natiional Science Foundation"),
        ("Universit´e de Strasbourg", "Université de Strasbourg", "Universit´e de Strasbourg"),
        ("the Horizont 2020 Programme", "Horizon 2020 Programme", "Horizont 2020 Programme"),
        ("the Wellcom Trust (WT)", "Wellcome Trust", "Wellcom Trust"),
        ("the Deutsche Forschungsgemeinshaft (DFG) paid", "Deutsche Forschungsgemeinschaft", None),
    ],
)
def test_other_spellings(text: str, value: str, as_written: str | None) -> None:
    match, score, ((start, end), *more) = Text(text).find(value)
    assert match == "fuzzy"
    assert LEAST <= score < 1
    assert text[start:end] == (as_written or "Deutsche Forschungsgemeinshaft")
    assert not more


def test_a_spelling_that_recurs_is_found_each_time() -> None:
    text = "the Nationl Science Foundation, and the Nationl\nScience Foundation"
    assert len(Text(text).find(NSF).mentions) == 2


LETTERS = st.text(st.sampled_from("abAB1- é\u0301ß\ufb01\u00ad\n\r(国ق👩\u200d🔬🇩🇪\u1112\u1161"), max_size=30)


@given(LETTERS, LETTERS)
def test_places_are_whole_clusters_that_hold_the_value(text: str, value: str) -> None:
    match, score, mentions = Text(text).find(value)
    edges = {0, *(cluster.end() for cluster in regex.finditer(r"\X", text))}
    assert (match == "absent") == (not mentions) == (score == 0)
    assert list(mentions) == sorted(set(mentions))
    for start, end in mentions:
        assert 0 <= start < end <= len(text)
        assert {start, end} <= edges
        place = text[start:end]
        assert (place == value) == (match == "exact")
        if match == "normalised":
            assert fold(place) == fold(value)
        if match == "fuzzy":
            assert len(fold(place)) <= len(fold(value)) * (2 - LEAST) / LEAST


WORDS = st.lists(st.sampled_from(["National", "Fund", "AB-12", "77/3", "é\u0301té", "国家", "(x)", "for"]), max_size=5)


@given(WORDS, st.lists(st.sampled_from(["Fund", "AB-12", "77/3", "ﬁn", "国家"]), min_size=1, max_size=3), WORDS)
def test_a_value_between_blanks_is_found_however_it_is_written(a: list[str], inside: list[str], b: list[str]) -> None:
    value = " ".join(inside)
    assert Text(" ".join([*a, value, *b])).find(value).match == "exact"
    written = (value.upper(), value.replace(" ", "\n "), value.replace("-", "\u2010"))
    for other in (*written, unicodedata.normalize("NFKC", value)):
        text = " ".join([*a, other, *b])
        match, _, mentions = Text(text).find(value)
        assert match in ("exact", "normalised")
        assert all(fold(text[start:end]) == fold(value) for start, end in mentions)


@pytest.mark.slow
@pytest.mark.parametrize("letter", ["a", "é", "a ", "\u0301", "-", "👩\u200d", "\r\n", "1", "\ud800"])
def test_the_time_is_linear_in_the_text(letter: str) -> None:
    began = time.process_time()
    text = Text(letter * (30_000 // len(letter)))
    for value in (letter, letter * 10 + "b", "b" * 400, "x" + letter * 300, NSF):
        text.find(value)
    assert time.process_time() - began < 5


def test_every_value_of_the_real_sets_is_found() -> None:
    folder = os.environ.get("ADAPTERS_DATA")
    if not folder:
        pytest.skip("ADAPTERS_DATA is unset: it names the folder that holds funding/grobid_train.jsonl and ie/*.jsonl")
    count = 0
    for path in (*Path(folder, "funding").glob("grobid_*.jsonl"), *Path(folder, "ie").glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            text = Text(row["funding_statement"] if "funders" in row else row["text"])
            for value in filter(text.text.__contains__, _strings(row["funders"] if "funders" in row else row["gold"])):
                match, _, mentions = text.find(value)
                assert match == "exact", value
                assert all(text.text[start:end] == value for start, end in mentions)
                count += 1
    assert count > 70_000


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str) and value:
        yield value
    elif isinstance(value, list | dict):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)


def test_words_stand_free_where_no_token_is_cut() -> None:
    text = "NSF, NSFC and the  Sample\nInstitute; e\u0301tat e"
    assert free_places(text, ["NSF"]) == [(0, 3)]
    assert free_places(text, ["Sample", "Institute"]) == [(19, 35)]
    assert free_places(text, ["e"]) == [(43, 44)], "a combining mark belongs to its letter"
    assert free_places("在北京的大学", ["北京"]) == [(1, 3)], "no blanks part names there"
    assert free_places(text, []) == free_places(text, [" "]) == []
