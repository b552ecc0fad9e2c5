"""Texts beyond a model's limit: cut at sentence ends with overlap, asked about in parts, and put together again."""

from __future__ import annotations

import json
import random
import tracemalloc
from functools import partial
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import pytest
from test_extract import echo_adapter, finish, invoke, lines, work_on
from tiny import funding_rows, store_calibration, write_jsonl

from adapters.backends.echo import EchoSampler
from adapters.extraction import chunk_sizes, extract, long_texts
from adapters.extraction.chunks import Cutter, Sizes, cut
from adapters.extraction.engine import Answer
from adapters.files import read_json
from adapters.types import Sample

FILLER = "The samples were kept in a cold room and weighed once a day by two people who did not know their origin."


def words(texts: Any) -> list[int]:
    return [len(text.split()) for text in texts]


def parts(text: str, size: int) -> list[str]:
    return [text[start:end] for start, end in cut(text, size, words)]


# --------------------------------------------------------------------------------------------------------------- cuts


def test_windows_are_whole_sentences_and_overlap() -> None:
    text = " ".join(f"Sentence number {n} stands here." for n in range(20))
    found = parts(text, 20)
    assert all(part.startswith("Sentence number") and part.endswith("here.") for part in found)
    assert all(words([part])[0] <= 20 for part in found)
    assert all(part.rpartition("Sentence")[2] in after for part, after in pairwise(found))
    assert {f"number {n} " in " ".join(found) for n in range(20)} == {True}


def test_a_text_that_fits_is_whole() -> None:
    assert list(cut("  One sentence. Another one. ", 5, words)) == [(0, 29)]
    assert list(cut("", 5, words)) == [(0, 0)]


def test_abbreviations_and_initials_end_no_sentence() -> None:
    text = "We thank Dr. A. Bell of the Trust, grant No. 12 and Nos. 13. The rest was ours alone. " * 4
    assert all(part.startswith(("We thank", "The rest")) for part in parts(text, 40))


def test_sentences_of_other_scripts() -> None:
    count = lambda texts: [len(text) for text in texts]  # noqa: E731
    text = "本研究得到样本基金会资助。编号一二三。" * 20
    assert all(text[end - 1] == "。" for _, end in cut(text, 60, count))
    text = "Работа выполнена при поддержке Фонда образцов. Номер двенадцать. " * 5
    assert all(part.endswith(("образцов.", "двенадцать.")) for part in parts(text, 20))


def test_long_sentences_are_cut_at_lines_then_blanks_then_between_characters() -> None:
    lined = "\n".join(f"entry {n} of a table" for n in range(40))
    assert all(part.startswith("entry") and part.endswith("table") for part in parts(lined, 40))
    assert all(word == "word" for part in parts("word " * 300, 30) for word in part.split())
    letters = lambda texts: [len(text) for text in texts]  # noqa: E731
    family = "👩‍👩‍👧‍👦" * 30
    found = [family[start:end] for start, end in cut(family, 60, letters)]
    assert len(found) > 3
    assert all(part.startswith("👩") and part.endswith("👦") for part in found)


def test_a_word_that_half_a_window_holds_is_not_cut() -> None:
    letters = lambda texts: [len(text) for text in texts]  # noqa: E731
    text = "grants 201506010331 and also 201506010332 of the first kind " * 9
    found = [text[start:end] for start, end in cut(text, 60, letters)]
    assert len(found) > 9
    assert {word for part in found for word in part.split() if word.isdigit()} == {"201506010331", "201506010332"}


def test_any_text_is_covered_in_order_and_no_window_repeats_another() -> None:
    draw = random.Random(4)
    for _ in range(150):
        text = "".join(
            draw.choice(["a", "Ab", " ", "  ", "\n", ". ", "。", "é", "x" * 9, "! ", "\n\n"]) for _ in range(200)
        )
        size = draw.randint(1, 40)
        places = list(cut(text, size, words))
        covered = {n for start, end in places for n in range(start, end)}
        assert all(text[n].isspace() for n in range(len(text)) if n not in covered)
        assert all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(places))
        assert len(places) == 1 or all(words([text[slice(*place)]])[0] <= size for place in places)


# ------------------------------------------------------------------------------------------------------------ the limit


def ask(text: str) -> list[dict]:
    return [{"role": "system", "content": "Find all."}, {"role": "user", "content": text}]


def sizes(context: int | None) -> Sizes:
    return Sizes(lambda texts: words(texts), lambda prompt: sum(words([turn["content"] for turn in prompt])), context)


def test_the_limit_is_the_context_or_the_window() -> None:
    text = f"{FILLER} " * 20
    load = partial(sizes, 200)
    [places] = Cutter(load, 64).places(text, ask)
    assert len(places) > 1
    assert all(len(text[slice(*p)].split()) <= 0.95 * (200 - 3 - 50) for p in places)
    assert Cutter(load, 64).places(FILLER, ask) == [[(0, len(FILLER))]]
    assert Cutter(lambda: sizes(None), 64).places(text, ask) == [[(0, len(text))]], "nobody knows the limit"
    [small] = Cutter(load, 64, window=50).places(text, ask)
    assert all(len(text[slice(*p)].split()) <= 50 for p in small)
    [capped] = Cutter(load, 64, window=5000).places(text, ask)
    assert capped == places, "a window is no larger than the context"


def test_short_texts_are_not_counted() -> None:
    def refuse(_: Any) -> Any:
        raise AssertionError("counted")

    for window in (None, 500):
        assert Cutter(lambda: Sizes(refuse, refuse, 1024), 64, window).places("short", ask) == [[(0, 5)]]


def test_a_context_without_room_leaves_the_text_to_the_engine() -> None:
    assert Cutter(lambda: sizes(20), 64).places(f"{FILLER} " * 9, ask) == [[(0, 9 * len(FILLER) + 9)]]


def test_a_second_pass_has_other_borders_and_asks_nothing_twice() -> None:
    text = f"{FILLER} " * 8
    first, second = Cutter(lambda: sizes(None), 64, window=84, passes=2).places(text, ask)
    assert len(second) > len(first)
    assert not {*first} & {*second}
    assert all(len(text[slice(*p)].split()) <= 42 for p in second)
    short = " ".join(FILLER.split()[:40])
    assert Cutter(lambda: sizes(None), 64, window=84, passes=2).places(short, ask) == [[(0, len(short))], []]


# ----------------------------------------------------------------------------------------------------------- extraction


class Quoting(EchoSampler):
    """Knows statements, and answers with those that stand in its prompt, each a record of its own."""

    def __call__(self, prompts: Any, **options: Any) -> list[Sample]:
        texts = [prompt[-1]["content"] for prompt in prompts]
        found = [[json.loads(answer) for text, answer in self.known.items() if text in asked] for asked in texts]
        answers = [
            "broken" if "@@" in text else json.dumps(list(chain(*f))) for text, f in zip(texts, found, strict=True)
        ]
        return [Sample(answer, len(answer.split()), False) for answer in answers]


def statement(name: str, *ids: str) -> tuple[str, list[dict]]:
    listed = f" under {' and '.join(ids)}" if ids else ""
    awards = [{"funding_scheme": [], "award_ids": list(ids), "award_title": []}]
    return f"It was paid by the {name}{listed}.", [{"funder_name": name, "awards": awards}]


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An adapter that finds made-up statements in any text, and a corpus of long documents that hide them."""
    from adapters.backends.echo import EchoBackend

    facts = dict(statement(f"Fund of Samples {n}", f"S-{n}00") for n in range(6))
    facts |= dict([statement("Twice Trust", "T-1"), statement("Twice Trust", "T-2")])
    answers = {text: json.dumps(record) for text, record in facts.items()}
    monkeypatch.setattr(EchoBackend, "sampler", staticmethod(lambda _: Quoting(answers)))
    texts = list(facts)
    hidden = [texts[:3], texts[3:6], texts[6:], []]
    documents = [" ".join(f"{FILLER} {FILLER} {text} {FILLER}" for text in held) or f"{FILLER} " * 9 for held in hidden]
    rows = [{"id": f"d{n}", "funding_statement": text} for n, text in enumerate(documents)]
    write_jsonl(tmp_path / "in.jsonl", [*rows, {"id": "short", "funding_statement": texts[0]}])
    return echo_adapter(tmp_path / "adapter", funding_rows(1))


def test_statements_hidden_in_long_documents_are_found_and_placed(tmp_path: Path, known: Path) -> None:
    code, said = invoke(known, tmp_path / "in.jsonl", "-o", tmp_path / "out.jsonl", "--window", 60)
    assert code == 0, said
    out, texts = lines(tmp_path / "out.jsonl"), [r["funding_statement"] for r in lines(tmp_path / "in.jsonl")]
    names = [[f["funder_name"] for f in row["record"]] for row in out]
    assert names == [[f"Fund of Samples {n}" for n in range(3)], [f"Fund of Samples {n}" for n in range(3, 6)],
                     ["Twice Trust"], [], ["Fund of Samples 0"]]  # fmt: skip
    assert out[2]["record"][0]["awards"][0]["award_ids"] == ["T-1", "T-2"], "a record cut in two is joined"
    for row, text in zip(out, texts, strict=True):
        assert all(text[span["start"] : span["end"]] == span["value"] for span in row["spans"])
        assert all(span["match"] == "exact" for span in row["spans"])
    assert [row["chunks"] > 1 for row in out] == [True, True, True, True, False]
    counts = json.loads((tmp_path / "out.jsonl.manifest.json").read_text())["counts"]
    assert counts["chunks"] == sum(row["chunks"] for row in out)
    assert counts["cut"] == 4
    assert counts["tokens"] == sum(row["tokens"] for row in out) > 0
    assert (
        f"4 rows were asked about in parts; {counts['chunks']} prompts in all, {counts['tokens']} tokens of answers"
        in said
    )


def test_a_part_without_a_record_leaves_the_others(tmp_path: Path, known: Path) -> None:
    rows = lines(tmp_path / "in.jsonl")
    broken = f"{rows[0]['funding_statement']} {FILLER} @@ {FILLER}"
    source = write_jsonl(
        tmp_path / "two.jsonl", [{"funding_statement": broken}, {"funding_statement": f"@@. {FILLER} " * 4}]
    )
    code, said = invoke(known, source, "-o", tmp_path / "out.jsonl", "--window", 60)
    assert code == 0, said
    first, second = lines(tmp_path / "out.jsonl")
    assert len(first["record"]) == 3
    assert first["error"].startswith(f"incomplete: 2 of {first['chunks']} parts have no record, first characters ")
    assert "not JSON" in first["error"]
    assert (first["completion"], second["record"]) == ("broken", None)
    assert second["error"].startswith("not JSON")
    assert "1 rows have a record of some of their parts" in said
    assert "1 rows have no record, and say why in `error`: 1 not JSON" in said
    refused = tmp_path / "strict.jsonl"
    assert invoke(known, tmp_path / "in.jsonl", "-o", refused, "--window", 60, "--grounded", "strict")[0] == 0
    assert [row["error"] for row in lines(refused)] == [None] * 5


def test_strict_refuses_a_single_part(tmp_path: Path, known: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quote = Quoting.__call__

    def answer(self: Quoting, prompts: Any, **options: Any) -> list[Sample]:
        samples = quote(self, prompts, **options)
        return [s._replace(text=s.text.replace("S-100", "S-999")) for s in samples]

    monkeypatch.setattr(Quoting, "__call__", answer)
    source = write_jsonl(tmp_path / "one.jsonl", lines(tmp_path / "in.jsonl")[:1])
    for out, mode in (("flag.jsonl", "flag"), ("strict.jsonl", "strict")):
        assert invoke(known, source, "-o", tmp_path / out, "--window", 60, "--grounded", mode)[0] == 0
    [flagged], [strict] = lines(tmp_path / "flag.jsonl"), lines(tmp_path / "strict.jsonl")
    assert [span["value"] for span in flagged["spans"] if span["match"] == "absent"] == ["S-999"]
    assert [f["funder_name"] for f in strict["record"]] == ["Fund of Samples 0", "Fund of Samples 2"]
    assert "not grounded: 0.awards.0.award_ids.0: 'S-999' is not in the text" in strict["error"]
    assert strict["error"].startswith("incomplete: ")


def test_strict_leaves_out_a_piece_of_a_word_at_an_edge(
    tmp_path: Path, known: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(self: Quoting, prompts: Any, **_: Any) -> list[Sample]:
        said = [[{"funder_name": prompt[-1]["content"].split("\n\n")[-1], "awards": []}] for prompt in prompts]
        return [Sample(json.dumps(record), 1, False) for record in said]

    monkeypatch.setattr(Quoting, "__call__", answer)
    source = write_jsonl(tmp_path / "one.jsonl", [{"funding_statement": f"Trust {'Organisation' * 60}"}])
    for out, mode in (("flag.jsonl", "flag"), ("strict.jsonl", "strict")):
        assert invoke(known, source, "-o", tmp_path / out, "--window", 16, "--grounded", mode)[0] == 0
    [flagged], [strict] = lines(tmp_path / "flag.jsonl"), lines(tmp_path / "strict.jsonl")
    absent = [span["value"] for span in flagged["spans"] if span["match"] == "absent"]
    assert absent, "pieces of a word stand nowhere"
    assert [f["funder_name"] for f in strict["record"]] == [
        f["funder_name"] for f in flagged["record"] if f["funder_name"] not in absent
    ]
    assert strict["error"] == "incomplete: a value at the edge of a part stands in no whole word"


def test_a_later_pass_adds_only_what_stands_in_its_part(
    tmp_path: Path, known: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(self: Quoting, prompts: Any, **_: Any) -> list[Sample]:
        small = [len(prompt[-1]["content"].split()) < 50 for prompt in prompts]
        invented = json.dumps(statement("Fund of Samples 1")[1] + statement("Nobody's Trust")[1])
        return [Sample(invented if short else "[]", 1, False) for short in small]

    monkeypatch.setattr(Quoting, "__call__", answer)
    two = ["--window", "80", "--passes", "2"]
    source = write_jsonl(tmp_path / "one.jsonl", lines(tmp_path / "in.jsonl")[:1])
    for out, options in (("once.jsonl", two[:2]), ("twice.jsonl", two)):
        assert invoke(known, source, "-o", tmp_path / out, *options)[0] == 0
    assert lines(tmp_path / "once.jsonl")[0]["record"] == []
    assert lines(tmp_path / "twice.jsonl")[0]["record"] == statement("Fund of Samples 1")[1]
    code, said = invoke(known, source, "-o", tmp_path / "once.jsonl", *two)
    assert code == 2
    assert "passes was null, is 2" in " ".join(said.split())


def test_a_text_whose_only_part_begins_behind_blanks_is_placed_as_a_whole() -> None:
    text = " \n" * 50 + "Paid by NSF."
    asked = long_texts.Asked({"row": 1}, text, [(0, (100, 112))], {0: Answer(1, "NSF")})
    seen = []

    def grounded(line: dict, within: Any, _: str | None) -> dict:
        seen.append(within)
        return line

    assert long_texts.line(asked, None, lambda start, _: start, grounded) == {"row": 1, "chunks": 1}
    assert seen == [text]


def test_values_of_parts_have_a_confidence_where_records_have_none(tmp_path: Path, known: Path) -> None:
    """Of a calibration with too few rows of one kind; with passes, and with a threshold."""
    store_calibration(known)
    assert read_json(known / "calibration.json")["ways"]["tokens"]["rows"] is None
    source = write_jsonl(tmp_path / "one.jsonl", lines(tmp_path / "in.jsonl")[:1])
    given = (known, source, "--window", 60, "--passes", 2, "--min-confidence")
    for least in (0.1, 0.999):
        code, said = invoke(*given, least, "-o", tmp_path / f"{least}.jsonl")
        assert code == 0, said
    [low], [high] = lines(tmp_path / "0.1.jsonl"), lines(tmp_path / "0.999.jsonl")
    assert low["chunks"] > 1
    assert (len(low["record"]), low["confidence"], low["unsure"]) == (3, None, [])
    assert all(0.1 < span["confidence"] < 0.999 for span in low["spans"])
    assert (high["record"], high["error"].partition(":")[0]) == (None, "unsure")
    assert [lost["value"] for lost in high["unsure"]] == [span["value"] for span in low["spans"]]


def test_passes_without_a_window_are_refused(tmp_path: Path, known: Path) -> None:
    code, said = invoke(known, tmp_path / "in.jsonl", "-o", tmp_path / "out.jsonl", "--passes", 2)
    assert code == 2
    assert "say with --window how large" in " ".join(said.split())


@pytest.mark.parametrize("out", ["out.jsonl", "out.parquet"])
def test_a_stopped_run_of_long_texts_goes_on(tmp_path: Path, known: Path, out: str) -> None:
    from adapters.extraction import adapter_source

    source = adapter_source.find(str(known))
    cutter = Cutter(lambda: chunk_sizes.load("transformers", source, cli_options()), 64, window=60)
    work = work_on(known, tmp_path / "in.jsonl", tmp_path / out)
    run = extract.run
    whole = tmp_path / f"whole-{out}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extract, "run", lambda *given: run(*given, cutter))
        finish(work_on(known, tmp_path / "in.jsonl", whole))
        for stop in (3, 9):
            with pytest.raises(RuntimeError, match="plug"):
                finish(work, stop_after=stop)
        finish(work)
    assert (tmp_path / out).read_bytes() == whole.read_bytes()


def cli_options() -> Any:
    from adapters.extraction.engine import Options

    return Options()


def test_shards_of_long_texts_merge_to_the_whole(tmp_path: Path, known: Path) -> None:
    from adapters.extraction.merge_shards import merge

    given = (known, tmp_path / "in.jsonl", "--window", 60, "-o")
    assert invoke(*given, tmp_path / "out.jsonl")[0] == 0
    for n in (1, 2):
        assert invoke(*given, tmp_path / f"{n}.jsonl", "--shard", f"{n}/2")[0] == 0
    counts = merge([tmp_path / "1.jsonl", tmp_path / "2.jsonl"], tmp_path / "all.jsonl")
    assert (tmp_path / "all.jsonl").read_bytes() == (tmp_path / "out.jsonl").read_bytes()
    assert counts["cut"] == 4


@pytest.mark.slow
def test_a_document_of_a_megabyte_needs_memory_for_its_text_alone(tmp_path: Path, known: Path) -> None:
    peaks = []
    for n, copies in enumerate((1, 10)):
        text = (f"{FILLER} " * 900)[: 100_000 * copies - 60] if copies == 1 else f"{FILLER} " * 9400
        source = write_jsonl(tmp_path / f"{n}.jsonl", [{"funding_statement": text}])
        tracemalloc.start()
        assert invoke(known, source, "-o", tmp_path / f"out{n}.jsonl", "--window", 400)[0] == 0
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    [row] = lines(tmp_path / "out1.jsonl")
    assert row["chunks"] > 400
    assert peaks[1] - peaks[0] < 20 * 1_000_000, peaks
