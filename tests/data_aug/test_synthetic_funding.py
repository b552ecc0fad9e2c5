"""The generator of synthetic funding statements: exact labels, reproducible rows, realistic figures, no copied text."""

import json
import os
import re
import statistics
import subprocess
import sys
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from adapters.data_aug.funding_statements import synthesize
from adapters.data_aug.funding_statements.grammar import Grammar, parse, read_rules
from adapters.data_aug.funding_statements.identifiers import identifier
from adapters.data_aug.funding_statements.names import KNOWN, REGISTRY

ROOT = Path(__file__).parents[2]
AWARD_KEYS = ["funding_scheme", "award_ids", "award_title"]
EMPTY = {key: [] for key in AWARD_KEYS}


@pytest.fixture(scope="module")
def rows():
    return list(synthesize(4000, seed=11))


@pytest.fixture(scope="module")
def funders(rows):
    return [funder for row in rows for funder in row["funders"]]


def ids_of(funder):
    return [i for award in funder["awards"] for i in award["award_ids"]]


def share(items, test):
    items = list(items)
    return sum(map(bool, map(test, items))) / len(items)


def test_every_label_is_a_literal_part_of_its_text(rows):
    for row in rows:
        for funder in row["funders"]:
            parts = [part for award in funder["awards"] for key in AWARD_KEYS for part in award[key]]
            parts += [funder["funder_name"]] if funder["funder_name"] is not None else []
            for part in parts:
                assert part
                assert part == part.strip()
                assert part in row["funding_statement"], (part, row)


def test_funders_come_in_the_order_of_the_text(rows):
    apart = 0
    for row in rows:
        # A short name may also stand inside a longer one, so only the last possible place can be compared.
        places = [row["funding_statement"].rfind(f["funder_name"]) for f in row["funders"] if f["funder_name"]]
        first = [row["funding_statement"].find(f["funder_name"]) for f in row["funders"] if f["funder_name"]]
        apart += any(one > two for one, two in zip(first, places[1:], strict=False))
    assert apart == 0


def test_structure(rows):
    for row in rows:
        assert list(row) == ["id", "funding_statement", "funders", "source"]
        assert row["source"] == "synthetic-funding"
        names = [funder["funder_name"] for funder in row["funders"] if funder["funder_name"] is not None]
        assert len(names) == len(set(names)), "one object a funder"
        for funder in row["funders"]:
            awards = funder["awards"]
            assert awards
            assert all(list(award) == AWARD_KEYS for award in awards)
            assert EMPTY not in awards or awards == [EMPTY]
            groups = [(tuple(award["funding_scheme"]), tuple(award["award_title"])) for award in awards]
            assert len(groups) == len(set(groups)), "one award object a scheme or title"
            assert len(ids_of(funder)) == len(set(ids_of(funder)))
            if funder["funder_name"] is None:
                assert any(award["funding_scheme"] for award in awards), "only programmes go without a funder"


def test_identifiers_and_names_come_bare(funders):
    for funder in funders:
        for i in ids_of(funder):
            assert not re.match(r"(?i)(grant|award|contract|project|no\.|nos\.|#|\()", i), i
        name = funder["funder_name"] or ""
        assert not name.startswith("the ")
        if name.isalpha() and name.isupper():
            assert not any(i.startswith(name + " ") for i in ids_of(funder)), funder


def test_rows_depend_on_seed_and_index_only(rows):
    assert list(synthesize(300, seed=11)) == rows[:300]
    assert list(islice(synthesize(10**9, seed=11), 5)) == rows[:5]
    assert [row["id"] for row in rows[:2]] == ["synth-11-0", "synth-11-1"]
    assert next(synthesize(1, seed=12))["funding_statement"] != rows[0]["funding_statement"]
    assert list(synthesize(0)) == []


def test_same_rows_in_another_process(rows):
    code = (
        "import json; from adapters.data_aug.funding_statements import synthesize;"
        "print(json.dumps(list(synthesize(40, 11))))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == rows[:40]


def test_texts_differ(rows):
    assert len({row["funding_statement"] for row in rows}) > 0.97 * len(rows)
    # Openings of the funding sentences with names and numbers cut out: many surfaces, no template dominates.
    surfaces = Counter()
    for row in rows:
        text = row["funding_statement"]
        for funder in row["funders"]:
            for part in [*ids_of(funder), funder["funder_name"] or ""]:
                text = text.replace(part, "@") if part else text
        if row["funders"]:
            surfaces[text[:90]] += 1
    assert len(surfaces) > 2000
    assert surfaces.most_common(1)[0][1] < 25


# Figures of real acknowledgements (a public corpus of 1,115 statements and 1,061 gold structures): low, high.
def between(value, low, high):
    assert low <= value <= high, value


def test_lengths(rows):
    lengths = sorted(len(row["funding_statement"]) for row in rows)
    between(statistics.median(lengths), 200, 290)
    between(lengths[int(0.25 * len(lengths))], 105, 170)
    between(lengths[int(0.9 * len(lengths))], 540, 720)
    between(lengths[int(0.99 * len(lengths))], 900, 1400)
    assert lengths[0] >= 4


def test_funders_per_statement(rows):
    counts = Counter(len(row["funders"]) for row in rows)
    between(counts[0] / len(rows), 0.33, 0.40)
    some = len(rows) - counts[0]
    for number, low, high in ((1, 0.36, 0.48), (2, 0.21, 0.31), (3, 0.11, 0.19), (4, 0.06, 0.12), (5, 0.03, 0.075)):
        between(counts[number] / some, low, high)
    assert max(counts) >= 10


def test_awards_per_funder(funders):
    counts = Counter(len(ids_of(funder)) for funder in funders)
    for number, low, high in ((0, 0.44, 0.57), (1, 0.28, 0.42), (2, 0.07, 0.13), (3, 0.02, 0.05)):
        between(counts[number] / len(funders), low, high)
    assert max(counts) >= 8
    between(share(funders, lambda f: f["funder_name"] is None), 0.01, 0.035)
    between(share(funders, lambda f: any(a["funding_scheme"] for a in f["awards"])), 0.12, 0.20)
    between(share(funders, lambda f: any(a["award_title"] for a in f["awards"])), 0.02, 0.07)
    between(share(funders, lambda f: len(f["awards"]) > 1), 0.01, 0.04)


def test_names(funders):
    names = [funder["funder_name"] for funder in funders if funder["funder_name"]]
    between(share(names, lambda n: re.fullmatch(r"(?=\S*[A-Z]\S*[A-Z])\S{2,10}", n)), 0.12, 0.24)
    between(share(names, lambda n: re.search(r"\([A-Za-z&.\- ]{2,12}\)", n)), 0.08, 0.17)
    between(share(names, lambda n: not n.isascii()), 0.03, 0.08)
    between(share(names, lambda n: "niversi" in n), 0.05, 0.13)
    assert len(set(names)) > 0.35 * len(names)


def test_shapes_of_identifiers(funders):
    ids = [i for funder in funders for i in ids_of(funder)]
    for pattern, low, high in (
        ("-", 0.30, 0.42),
        (" ", 0.09, 0.19),
        (r"^\d+$", 0.12, 0.22),
        ("/", 0.09, 0.19),
        ("[a-z]", 0.01, 0.05),
        (r"\.", 0.02, 0.05),
        ("_", 0.008, 0.03),
        (r"^.{1,5}$", 0.01, 0.035),
    ):
        between(share(ids, lambda i, pattern=pattern: re.search(pattern, i)), low, high)
    of = {f["funder_name"]: ids_of(f) for f in funders}
    assert all(re.search(r"ANR|-", i) for i in of["Agence Nationale de la Recherche"])


def test_hard_cases_are_there(rows):
    texts = [row["funding_statement"] for row in rows]
    with_funders = [row["funding_statement"] for row in rows if row["funders"]]
    assert share(texts, lambda t: "respectively" in t) > 0.003
    assert share(with_funders, lambda t: re.search(r"to [A-Z]\. ?[A-Z]\.|\([A-Z]\.[A-Z]\.\)", t)) > 0.02
    assert share(texts, lambda t: re.match(r"\W*(\d+\W+)?(?i:acknowl|fund|financ|source)", t)) > 0.1
    assert share(with_funders, lambda t: re.search("thank|grateful", t)) > 0.3
    assert any("open access" in t.casefold() for t in with_funders)
    assert any("Grant/Award Number" in t for t in with_funders)
    empty = [row["funding_statement"] for row in rows if not row["funders"]]
    assert any("interest" in t for t in empty)
    assert any(re.search("(?i)no (?:external |outside |specific |dedicated )?funding", t) for t in empty)


def test_all_templates_compile_and_all_shapes_fill():
    from random import Random

    for name in ("wording.txt", "id_shapes.txt"):
        for templates in read_rules(name).values():
            for template in templates:
                parse(template)
    rng = Random(3)
    for known in KNOWN:
        assert re.fullmatch(r"[^<>{}#%?]+", identifier(rng, known.shape)), known.shape
    assert 4000 < len(REGISTRY) < 9000
    with pytest.raises(ValueError, match="unbalanced"):
        parse("<a|b")
    with pytest.raises(KeyError):
        Grammar({"a": ["{b}"]}).say(rng, "a")


def test_import_needs_no_training_stack():
    code = (
        "import sys, adapters.data_aug.funding_statements;"
        "print(sorted({'torch', 'numpy', 'scipy', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_run_of_eight_words_is_copied(rows):
    folder = os.environ.get("ADAPTERS_DATA")
    if not folder:
        pytest.skip("ADAPTERS_DATA is unset: it names the folder that holds funding/grobid_train.jsonl")
    path = Path(folder) / "funding" / "grobid_train.jsonl"
    if not path.exists():
        pytest.skip(f"{path} does not exist")
    from compare_synthetic import copies

    real = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    found, longest = copies([dict(row) for row in rows], real)
    # Formulas such as "... of interest. This work was supported by the" meet by chance; text that is copied would not
    # stop at eight or nine words.
    assert len(found) <= len(rows) / 1000, found
    assert longest <= 9, found
