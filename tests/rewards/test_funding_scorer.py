"""The funding scorer against golden values, against a plain implementation, and against anything that parses or not."""

from __future__ import annotations

import importlib.util
import json
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from adapters.rewards.funding import Funding
from adapters.rewards.funding_assignment import merge_similar
from adapters.rewards.funding_matching import (
    FIELDS,
    MODES,
    SCORERS,
    counts,
    counts_in,
    match_ids,
    normalise_award_id,
    normalise_text,
    parse,
    read_funders,
    similarity,
)
from adapters.rewards.funding_records import MAX_CHARS, Award, Funder
from adapters.types import Counts, Example, Scored

HERE = Path(__file__).parents[1]
VECTORS = json.loads((HERE / "vectors" / "funding.json").read_text(encoding="utf-8"))
CASES = VECTORS["cases"]

_spec = importlib.util.spec_from_file_location("bench_rewards", HERE.parent / "scripts" / "bench" / "bench_rewards.py")
assert _spec
assert _spec.loader
bench = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(bench)


def example(gold) -> Example:
    return Example("1", "test", (), gold=gold)


def grade(reward: Funding, pred, gold) -> Scored:
    return reward(pred if isinstance(pred, str) else json.dumps(pred), example(gold))


def funder(name, ids=(), schemes=(), titles=()) -> dict:
    award = {"funding_scheme": list(schemes), "award_ids": list(ids), "award_title": list(titles)}
    return {"funder_name": name, "awards": [award]}


# --------------------------------------------------------------------------------------------------- golden values


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", CASES)
def test_counts_of_worked_cases(name, mode):
    found = counts(read_funders(CASES[name]["gold"]), read_funders(CASES[name]["pred"]), mode)
    assert {field: list(found[field]) for field in FIELDS} == CASES[name]["modes"][mode]


@pytest.mark.parametrize("name", CASES)
def test_rewards_of_worked_cases(name):
    case = CASES[name]
    shaped = grade(Funding(), case["pred"], case["gold"])
    assert shaped.score == pytest.approx(case["shaped_reward"], abs=1e-6)
    terms = [shaped.parts[term] for term in ("funder", "hierarchical", "flat")]
    assert terms == pytest.approx(case["terms"], abs=1e-6)
    assert shaped.parts["association_gap"] == terms[2] - terms[1]
    binary = Funding(hierarchical=0.5, flat=0, soft_ids=False)
    assert grade(binary, case["pred"], case["gold"]).score == pytest.approx(case["binary_reward"], abs=1e-6)


def test_every_vector_is_there():
    assert (len(CASES), len(VECTORS["similarity"]), len(VECTORS["soft_award_id"])) == (27, 21, 7)


@pytest.mark.parametrize(("a", "b", "permissive", "balanced", "strict"), VECTORS["similarity"])
def test_similarity_pairs(a, b, permissive, balanced, strict):
    assert [similarity(a, b, mode) for mode in MODES] == pytest.approx([permissive, balanced, strict], abs=1e-6)


@pytest.mark.parametrize(
    ("a", "b", "balanced"),
    [
        ("ten of 200", "the ten of 200 others!", 0.85),  # 10 of 22 characters, above 0.45
        ("abcd efgh", "abcd efgh ijklmnopqr", 0.85),  # 9 of 20, exactly 0.45
        ("abcd efgh", "abcd efgh ijklmnopqrs", 18 / 30),  # 9 of 21
        ("abcdefghix", "Another Body of Great Length (ABCDEFGHIJ)", 0.9),  # acronym of ten, nine letters equal
        ("abcdefghijk", "Another Body of Great Length (ABCDEFGHIJK)", None),  # acronym of eleven
        ("NSF", "National Science Foundation (Nsf)", None),  # not upper case
        ("-", "- -", None),  # no tokens to contain
    ],
)
def test_balanced_at_its_limits(a, b, balanced):
    expected = similarity(a, b, "strict") if balanced is None else balanced
    assert similarity(a, b) == similarity(b, a) == pytest.approx(expected)


@pytest.mark.parametrize(("gold", "pred", "score"), VECTORS["soft_award_id"])
def test_soft_award_ids(gold, pred, score):
    ids = [normalise_award_id(gold)], [normalise_award_id(pred)]
    assert match_ids(*ids, soft=True) == score
    assert match_ids(*ids) == (score == 1)


@pytest.mark.parametrize("mode", MODES)
def test_corpus_arithmetic(mode):
    for figures in VECTORS["aggregate_1316"][mode].values():
        total = Counts(figures["gold"], figures["pred"], figures["matched"])
        found = [total.precision, total.recall, total.f(1), total.f(0.5), total.f(1.5)]
        assert found == pytest.approx([figures[k] for k in ("precision", "recall", "f1", "f0_5", "f1_5")], abs=5.1e-5)


# matched, pred, gold -> P R F1 F0.5 F1.5 as the card prints them; in the order permissive, balanced, strict.
# The five figures of a funder row sometimes admit two triples; both must give them.
CARD = """
arxiv_test funder   396,422,423;411,438,439  0.9384 0.9362 0.9373 0.9379 0.9369
arxiv_test funder   405,456,452  0.8882 0.8960 0.8921 0.8897 0.8936
arxiv_test funder   402,457,453  0.8796 0.8874 0.8835 0.8812 0.8850
arxiv_test award_id 302,333,339  0.9069 0.8909 0.8988 0.9037 0.8957
arxiv_test award_id 296,333,339  0.8889 0.8732 0.8810 0.8857 0.8779
arxiv_test award_id 295,333,339  0.8859 0.8702 0.8780 0.8827 0.8750
arxiv_test scheme   100,135,121  0.7407 0.8264 0.7812 0.7564 0.7980
arxiv_test scheme   93,135,121   0.6889 0.7686 0.7266 0.7035 0.7422
arxiv_test scheme   90,135,121   0.6667 0.7438 0.7031 0.6808 0.7182
arxiv_test title    19,21,48     0.9048 0.3958 0.5507 0.7197 0.4787
arxiv_test title    19,21,48     0.9048 0.3958 0.5507 0.7197 0.4787
arxiv_test title    17,21,48     0.8095 0.3542 0.4928 0.6439 0.4283
test funder   812,866,910  0.9376 0.8923 0.9144 0.9282 0.9058
test funder   817,907,955  0.9008 0.8555 0.8776 0.8913 0.8689
test funder   792,908,957  0.8722 0.8276 0.8493 0.8629 0.8408
test award_id 718,854,861  0.8407 0.8339 0.8373 0.8394 0.8360
test award_id 695,854,861  0.8138 0.8072 0.8105 0.8125 0.8092
test award_id 680,854,861  0.7963 0.7898 0.7930 0.7949 0.7918
test scheme   147,357,248  0.4118 0.5927 0.4860 0.4385 0.5221
test scheme   133,357,248  0.3725 0.5363 0.4397 0.3968 0.4724
test scheme   119,357,248  0.3333 0.4798 0.3934 0.3550 0.4227
test title    3,29,176     0.1034 0.0170 0.0293 0.0514 0.0229
test title    2,29,176     0.0690 0.0114 0.0195 0.0342 0.0153
test title    2,29,176     0.0690 0.0114 0.0195 0.0342 0.0153
test_with_context funder   760,813,810  0.9348 0.9383 0.9365 0.9355 0.9372
test_with_context funder   772,851,852  0.9072 0.9061 0.9066 0.9070 0.9064
test_with_context funder   756,853,855  0.8863 0.8842 0.8852 0.8859 0.8848
test_with_context award_id 703,807,809  0.8711 0.8690 0.8700 0.8707 0.8696
test_with_context award_id 689,807,809  0.8538 0.8517 0.8527 0.8534 0.8523
test_with_context award_id 681,807,809  0.8439 0.8418 0.8428 0.8434 0.8424
test_with_context scheme   245,326,358  0.7515 0.6844 0.7164 0.7371 0.7037
test_with_context scheme   224,326,358  0.6871 0.6257 0.6550 0.6739 0.6434
test_with_context scheme   198,326,358  0.6074 0.5531 0.5789 0.5957 0.5687
test_with_context title    21,24,86     0.8750 0.2442 0.3818 0.5769 0.3138
test_with_context title    18,24,86     0.7500 0.2093 0.3273 0.4945 0.2690
test_with_context title    17,24,86     0.7083 0.1977 0.3091 0.4670 0.2540
""".strip().splitlines()


@pytest.mark.parametrize("row", CARD)
def test_card_figures(row):
    _, _, triples, *printed = row.split()
    for triple in triples.split(";"):
        matched, pred, gold = map(int, triple.split(","))
        total = Counts(gold, pred, matched)
        found = total.precision, total.recall, total.f(1), total.f(0.5), total.f(1.5)
        assert [f"{figure:.4f}" for figure in found] == printed


# ------------------------------------------------------------------------------- against the plain implementation

ALIKE = (
    None,
    "NSF",
    "nsf",
    "National Science Foundation",
    "National Natural Science Foundation of China",
    "National Science Foundation (NSF)",
    "Natural Science Foundation of China (NSFC)",
    "Ministry of Science and Technology",
    "Ministry of Science and Technology of China",
    "Ministry of Science & Technology",
    "JSPS",
    "MEXT/JSPS",
    "Alzheimer’s Research UK",
    "Alzheimer''s Research UK",
    "University of Leeds",
    "Leeds University",
    "*",
)
APART = (None, "NSF", "Wellcome Trust", "Deutsche Krebshilfe", "日本学術振興会", "European Commission", "Gates")
IDS = (
    "R01NS082338",
    "R01-NS 082338",
    "R01NS082339",
    "R01NS08233",
    "A1",
    "A2",
    "1613002",
    "1613003",
    "N01–AG–12100",
    "-",
)


def funders(names, texts=APART[1:]):
    award = st.fixed_dictionaries(
        {
            "award_ids": st.lists(st.sampled_from(IDS), max_size=4),
            "funding_scheme": st.lists(st.sampled_from(texts), max_size=2),
            "award_title": st.lists(st.sampled_from(texts), max_size=1),
        }
    )
    one = st.fixed_dictionaries({"funder_name": st.sampled_from(names), "awards": st.lists(award, max_size=2)})
    return st.lists(one, max_size=7)


@pytest.mark.slow
@given(funders(ALIKE, ALIKE[1:]), funders(ALIKE, ALIKE[1:]), st.booleans())
def test_counts_and_reward_equal_the_plain_ones(gold, pred, ids_only):
    if ids_only:  # the modes share more work then
        for one in pred:
            one["awards"] = [{**award, "funding_scheme": [], "award_title": []} for award in one["awards"]]
    found = counts_in(MODES, read_funders(gold), read_funders(pred))
    for mode in MODES:
        assert {field: tuple(found[mode][field]) for field in FIELDS} == bench.plain_counts(gold, pred, mode)
        assert grade(Funding(mode=mode), pred, gold).score == bench.plain_reward(json.dumps(pred), gold, mode)
    for scorer in SCORERS:
        alone = {mode: counts(read_funders(gold), read_funders(pred), mode, scorer) for mode in MODES}
        assert counts_in(MODES, read_funders(gold), read_funders(pred), scorer) == alone


@given(st.lists(st.text("ab", min_size=10, max_size=11), min_size=2, max_size=8))
def test_merging_equals_the_plain_one(names):
    merged = bench.merge([funder(name, [str(i)]) for i, name in enumerate(names)], "strict")
    expected = [tuple(int(award["award_ids"][0]) for award in awards) for _, awards in merged]
    assert list(merge_similar(tuple(names), 0.8)["strict"]) == expected


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_bench_pairs_equal_the_plain_reward(seed):
    for completion, gold in bench.make_pairs(160, seed):
        assert grade(Funding(), completion, gold).score == bench.plain_reward(completion, gold)


any_text = st.text(st.characters(exclude_categories=()), max_size=60)
messy_text = st.lists(
    st.sampled_from(["*", "&amp;", "''", "``", "\\", "\n", "\u00a0", "â€™", "ﬁ", "a", "B", " ", "(X)"])
)


@given(st.one_of(any_text, messy_text.map("".join)), any_text)
def test_strings_compare_as_the_plain_ones(a, b):
    assert normalise_text(a) == bench.normalise(a)
    assert normalise_award_id(a) == bench.normalise_id(a)
    for mode in MODES:
        assert similarity(a, b, mode) == bench.similarity(a, b, mode)


# -------------------------------------------------------------------------------------------------------- properties


def shuffled(funders, random):
    copy = json.loads(json.dumps(funders))
    random.shuffle(copy)
    for one in copy:
        random.shuffle(one["awards"])
        for award in one["awards"]:
            for texts in award.values():
                random.shuffle(texts)
    return copy


@given(funders(APART), funders(APART), st.randoms(use_true_random=False))
def test_order_is_irrelevant_where_names_are_equal_or_apart(gold, pred, random):
    names = [name for name in APART if name]
    assert max(similarity(a, b, "permissive") for a in names for b in names if a != b) < 0.8
    other_gold, other_pred = shuffled(gold, random), shuffled(pred, random)
    for mode in MODES:
        for scorer in SCORERS:
            first = counts(read_funders(gold), read_funders(pred), mode, scorer)
            assert first == counts(read_funders(other_gold), read_funders(other_pred), mode, scorer)
            swapped = counts(read_funders(pred), read_funders(gold), mode, scorer)
            assert first == {field: Counts(n.pred, n.gold, n.matched) for field, n in swapped.items()}
            reward = Funding(mode=mode, scorer=scorer)
            assert grade(reward, pred, gold).score == grade(reward, other_pred, other_gold).score


def test_order_decides_a_chain_of_similar_names_of_the_published_scorer():
    a, b, c = "a" * 20, "a" * 16 + "b" * 4, "a" * 13 + "b" * 7
    assert [similarity(*pair, "strict") >= 0.8 for pair in ((a, b), (b, c), (a, c))] == [True, True, False]

    def groups(names, scorer):
        return counts(read_funders([funder(name) for name in names]), (), "strict", scorer)["funder"].gold

    assert groups((a, b, c), "published") == 1
    assert groups((a, c, b), "published") == 2
    assert groups((a, b, c), "corrected") == groups((a, c, b), "corrected") == 3


@given(any_text, any_text)
def test_similarity_is_symmetric(a, b):
    assert similarity(a, b, "strict") == similarity(b, a, "strict")
    assert similarity(a, b, "permissive") == similarity(b, a, "permissive")
    assume(len(normalise_text(a)) != len(normalise_text(b)))
    assert similarity(a, b, "balanced") == similarity(b, a, "balanced")


@given(funders([name for name in ALIKE if name != "*"]))
def test_gold_against_itself_is_perfect(gold):
    for mode, scorer in (("balanced", "published"), ("strict", "published"), *((mode, "corrected") for mode in MODES)):
        assert grade(Funding(mode=mode, scorer=scorer), gold, gold).score == 1
        found = counts(read_funders(gold), read_funders(gold), mode, scorer)
        assert all(n.gold == n.pred == n.matched for n in found.values())


keys = st.sampled_from(["funders", "funder_name", "awards", "award_ids", "funding_scheme", "award_title"])
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), any_text),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.one_of(keys, any_text), inner, max_size=4)),
    max_leaves=20,
)
records = st.lists(st.dictionaries(keys, json_values, max_size=4), max_size=4)


@given(st.one_of(json_values, records), st.one_of(json_values, records), any_text, st.sampled_from(SCORERS))
def test_nothing_raises_and_scores_stay_in_range(gold, pred, text, scorer):
    reward = Funding(scorer=scorer)
    for completion in (json.dumps(pred), text, f"```json\n{json.dumps(pred)}\n```", "```json" + text):
        score, parts = grade(reward, completion, gold)
        if gold is None:
            assert score is None
            continue
        assert 0 <= score <= 1
        assert all(0 <= parts[name] <= 1 for name in ("funder", "hierarchical", "flat", "format_valid"))
        assert parts["id_ratio"] >= 0
    counts(read_funders(gold), read_funders(pred), "permissive", scorer)


# ------------------------------------------------------------------------------------------------------- adversarial

GOLD = [funder("National Science Foundation", ["DMS-1613002", "1613003"]), funder("NIH", ["R01NS082338"])]
ATTACKS = {
    "brackets": "[" * 100_000,
    "objects": '{"a":' * 100_000,
    "closed brackets": "[" * 50_000 + "]" * 50_000,
    "huge integer": '[{"funder_name": "NIH", "awards": [{"award_ids": [' + "9" * 5000 + "]}]}]",
    "nan": '[{"funder_name": NaN, "awards": [{"award_ids": [NaN, Infinity, -Infinity, 1e999, true]}]}]',
    "duplicate keys": '[{"funder_name": "A", "funder_name": "NIH", "awards": [], "awards": null, "award_ids": "R01"}]',
    "1 MB of text": "x" * 10**6,
    "10 MB of text": "x" * 10**7,
    "1 MB name": json.dumps([funder("N" * 999_000)]),
    "1 MB id": json.dumps([funder("NIH", ["9" * 999_000])]),
    "open fences": "```json" * 100_000,
    "backticks": "`" * 10**6,
    "spaces in a fence": "```json" + " " * 10**6,
    "surrogates": '[{"funder_name": "\\ud800\\udfff", "awards": [{"award_ids": ["\\udc00"]}]}] \ud800',
    "entities": json.dumps([funder("&" + "amp;" * 250 + str(i)) for i in range(90)]),
    "parentheses": json.dumps([funder("(" * 900 + str(i)) for i in range(100)]),
    "300 funders": json.dumps([funder(f"Fund {i:03} {i * 7919 % 1000}", [str(i)]) for i in range(300)]),
    "5,000 funders": json.dumps([funder(str(i)) for i in range(5000)]),
    "20,000 near ids": json.dumps([funder("NIH", [str(1613000 + i) for i in range(20_000)])]),
    "100,000 empty records": "[" + ",".join(["{}"] * 100_000) + "]",
}


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_are_graded_in_bounded_time(name, mode):
    start = time.process_time()
    score = grade(Funding(mode=mode), ATTACKS[name], GOLD).score
    assert 0 <= score < 0.6
    assert time.process_time() - start < 10


def test_cyclic_and_deep_values_are_read():
    loop: dict = {"funder_name": "NIH"}
    loop["awards"] = [loop]
    loop["award_ids"] = [loop, loop["awards"]]
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    assert read_funders([loop])[0].funder_name == "NIH"
    assert read_funders([{"funder_name": deep, "awards": deep}])[0].funder_name == "<list>"
    assert 0 <= grade(Funding(), "[]", [loop]).score <= 1


def test_repetition_costs_nothing_beyond_the_bound():
    repeated = [funder("NIH") for _ in range(1000)]
    assert counts(read_funders([funder("NIH")]), read_funders(repeated))["funder"] == Counts(1, 1, 1)


# ----------------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (None, ()),
        ("not json", ()),
        (7, ()),
        ([None, 1, "x", []], ()),
        ({"funder_name": "NIH"}, (Funder("NIH"),)),
        ('[{"funder_name": "NIH"}]', (Funder("NIH"),)),
        ({"funders": [{"funder_name": "NIH"}]}, (Funder("NIH"),)),
        ([{"funder_name": "", "awards": []}], (Funder(),)),
        ([{"funder_name": "X", "award_ids": "1", "funding_scheme": None}], (Funder("X", (Award(("1",)),)),)),
        ([{"funder_name": "X", "award_ids": ["1"], "awards": []}], (Funder("X"),)),
        ([{"award_ids": [1613002, None, "", 1.5, True]}], (Funder(None, (Award(("1613002", "1.5", "True")),)),)),
        ([{"award_ids": [["A"], {}], "award_title": 0}], (Funder(None, (Award(("<list>", "<dict>"), (), ("0",)),)),)),
        (np.array([{"award_ids": np.array(["1", "2"], object)}], object), (Funder(None, (Award(("1", "2")),)),)),
        ((Funder("NIH"),), (Funder("NIH"),)),
    ],
)  # fmt: skip
def test_read_funders(value, read):
    assert read_funders(value) == read


NIH = (Funder("NIH"),)


@pytest.mark.parametrize(
    ("text", "read", "valid"),
    [
        ("[]", (), True),
        (' \n[{"funder_name": "NIH"}]\n', NIH, True),
        ('{"funder_name": "NIH"}', NIH, True),
        ('{"funders": [{"funder_name": "NIH"}]}', NIH, True),
        ('Here:\n```json\n[{"funder_name": "NIH"}]\n```\nDone. ```json\n[]\n```', NIH, True),
        ('[{"funder_name": "NIH"}, 3]', NIH, True),
        ('```json\n[{"funder_name": "NIH"}]', (), False),
        ('```\n[{"funder_name": "NIH"}]\n```', (), False),
        ('"[]"', (), False),
        ("null", (), False),
        ("", (), False),
        ('{"answer": 1}', (Funder(),), False),
        ('[{"funder_name": "NIH"}', (), False),
    ],
)
def test_parse(text, read, valid):
    parsed = parse(text)
    assert (parsed.funders, parsed.valid) == (read, valid)
    assert valid or parsed.problem


def test_dropped_records_are_reported():
    assert parse("[1, {}]").problem == "1 of 2 records are not objects"
    assert parse("[{}]").problem is None


def test_normalise_text_order():
    assert normalise_text(" A*STAR\u2022  \\url ``x'' ﬁn “q” R&amp;D\n") == 'ASTAR url "x" fin "q" R&D'
    assert len(normalise_text("x" * 5000)) == MAX_CHARS


# ---------------------------------------------------------------------------------------------- the corrected scorer


@pytest.mark.parametrize(
    ("gold", "pred", "published", "corrected"),
    [
        ([funder("X", ["7", "7-"])], [funder("X", ["7"])], 0.5 + 0.5 / 1.2, 1),
        ([funder("X", ["7"])], [funder("X", ["7", "-"])], 0.5 + 0.5 / 1.8, 1),
        ([funder("X", ["URF\\R1\\2"])], [funder("X", ["URF/R1/2"])], 0.5, 1),
        ([funder("X", ["N01–AG"])], [funder("X", ["N01-AG"])], 0.5, 1),
        ([], "no funding", 1, 0),
        ([], "[]", 1, 1),
        ([funder("X")], [funder("Wellcome")], 0.5, 0),
        ([funder(None, ["7"])], [funder("*", ["7"])], 0.1, 1),
    ],
)  # fmt: skip
def test_scorers_differ_as_documented(gold, pred, published, corrected):
    assert grade(Funding(), pred, gold).score == pytest.approx(published)
    assert grade(Funding(scorer="corrected"), pred, gold).score == pytest.approx(corrected)


def test_fixed_keeps_similar_gold_funders_apart():
    gold, pred = [funder("NSF Grants", ["1"]), funder("NSF Grant", ["2"])], [funder("NSF Grants", ["1", "2"])]
    assert grade(Funding(), pred, gold).score == 1
    parts = grade(Funding(scorer="corrected"), pred, gold).parts
    assert (parts["funder"], parts["hierarchical"], parts["flat"]) == (Counts(2, 1, 1).f(0.5), 0.5, 1)


def test_fixed_pairs_equal_names_first():
    gold = [funder("National Science Foundation", ["1"]), funder("National Natural Science Foundation of China", ["2"])]
    found = counts(read_funders(gold), read_funders(gold[::-1]), "permissive", "corrected")
    assert found["funder"] == found["award_id"] == Counts(2, 2, 2)


# ------------------------------------------------------------------------------------------------------- the plug-in


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"funder": 0.6}, "sum to 1"),
        ({"funder": -0.1, "hierarchical": 1.0}, "funder is a weight"),
        ({"funder": float("nan")}, "funder is a weight"),
        ({"flat": "0.1"}, "flat must be a number"),
        ({"beta": 0}, "beta must be above 0"),
        ({"beta": True}, "beta must be a number"),
        ({"threshold": 80}, "threshold must be above 0 and at most 1"),
        ({"soft_ids": 1}, "soft_ids must be true or false"),
        ({"mode": "loose"}, "mode must be one of permissive, balanced, strict"),
        ({"scorer": "old"}, "scorer must be one of published, corrected"),
        ({"full_size": -1}, "full_size must be a whole number"),
        ({"full_size": 2.5}, "full_size must be a whole number"),
        ({"full_size": True}, "full_size must be a whole number"),
    ],
)
def test_parameters_are_checked(parameters, message):
    with pytest.raises(ValueError, match=message):
        Funding(**parameters)


def test_custom_weights():
    swapped = [funder("NSF", ["222"]), funder("NIH", ["111"])], [funder("NSF", ["111"]), funder("NIH", ["222"])]
    assert grade(Funding(funder=0.2, hierarchical=0.7, flat=0.1), *swapped).score == pytest.approx(0.3)
    assert grade(Funding(), *swapped).parts["association_gap"] == 1


@pytest.mark.parametrize("scorer", SCORERS)
def test_the_highest_threshold_pays_for_exact_boundaries(scorer):
    exact = Funding(mode="strict", threshold=1.0, soft_ids=False, scorer=scorer)
    usual = Funding(mode="strict", scorer=scorer)
    gold = [funder("Research Council of Norway", ["RCN-228107"])]
    for name in ("The Research Council of Norway", "Research Council of Norway (RCN", "Research Council of Norwa"):
        assert grade(usual, [funder(name, ["RCN-228107"])], gold).score == 1.0
        found = grade(exact, [funder(name, ["RCN-228107"])], gold)
        assert (found.parts["funder"], found.parts["hierarchical"]) == (0.0, 0.0)
    assert grade(exact, [funder("Norway Research Council of", ["rcn 228107"])], gold).score == 1.0
    near = [funder("Research Council of Norway", ["RCN-22810"])]
    assert grade(exact, near, gold).parts["flat"] == 0.0 < grade(usual, near, gold).parts["flat"]


@pytest.mark.parametrize(("values", "score"), [(0, 0.25), (1, 0.25), (2, 0.5), (4, 1.0), (9, 1.0)])
def test_short_statements_earn_in_proportion(values, score):
    gold = [funder("X", [f"{n}00" for n in range(values - 1)])] if values else []
    assert grade(Funding(full_size=4), gold, gold).score == score
    assert grade(Funding(full_size=4), "none", gold).score == (score if not gold else 0)
    assert "min(1, labelled values / 4)" in Funding(full_size=4).formula()
    assert "min" not in Funding().formula()


def test_format_and_id_ratio():
    assert grade(Funding(), "[]", []).parts["format_valid"] == 1
    assert grade(Funding(), "none", []).parts["format_valid"] == 0
    assert grade(Funding(), [funder("X", ["1", "2", "3"])], [funder("X", ["1", "2"])]).parts["id_ratio"] == 1.5
    assert grade(Funding(), [funder("X", ["1", "2", "3"])], [funder("X")]).parts["id_ratio"] == 3
    assert grade(Funding(), [funder("X")], [funder("X")]).parts["id_ratio"] == 1


def test_unlabelled_example_does_not_apply():
    assert Funding()("[]", example(None)).score is None


def test_reward_is_picklable_and_sees_a_changed_gold():
    reward = pickle.loads(pickle.dumps(Funding(scorer="corrected")))
    assert reward == Funding(scorer="corrected")
    gold = [funder("NIH", ["1"])]
    completion = json.dumps(gold)
    assert reward(completion, example(gold)).score == 1
    gold[0]["awards"][0]["award_ids"].append("2")
    assert reward(completion, example(gold)).score < 1
    assert gold == [funder("NIH", ["1", "2"])]


def test_importing_the_reward_is_light():
    code = "import sys, adapters.rewards.funding; print(*sorted({'torch', 'trl', 'scipy', 'numpy'} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == ""


def test_canonically_equal_ids_are_one_id_for_the_corrected_scorer() -> None:
    apart, composed = "E\u0301-12", "\u00c9-12"
    assert normalise_award_id(apart, "corrected") == normalise_award_id(composed, "corrected")
    assert normalise_award_id(apart) != normalise_award_id(composed), "the published scorer stays as published"
    assert normalise_text("Zu\u0308rich") == normalise_text("Z\u00fcrich"), "ftfy composes names, in both scorers"
