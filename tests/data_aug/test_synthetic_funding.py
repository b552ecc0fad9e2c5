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
from funding_rates import label_rates, text_rates

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
                assert EMPTY not in awards, "what has no funder is a programme, a fellowship, or ids alone"


def test_identifiers_and_names_come_bare(funders):
    for funder in funders:
        for i in ids_of(funder):
            assert not re.match(r"(?i)(grant|award|contract|project(?! \w+-\d$)|no\.|nos\.|#|\()", i), i
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
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT / "src")}
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


# Rates of 1,061 published records (labels alone) that the generator follows, in the bins of `funding_rates`. Rows with
# seven or more funders or ids are the hard ones, so that there may be more of them.
PUBLISHED = {
    "funders per statement 1 / 2 / 3 / 4 / 5 / 6-8 / 9-12 / 13+": (
        0.275,
        0.289,
        0.165,
        0.105,
        0.070,
        0.066,
        0.020,
        0.010,
    ),
    "ids per funder 0 / 1 / 2 / 3 / 4-5 / 6+": (0.402, 0.448, 0.095, 0.033, 0.014, 0.007),
    "ids per statement 0 / 1 / 2 / 3 / 4-5 / 6-9 / 10+": (0.154, 0.266, 0.184, 0.158, 0.139, 0.079, 0.020),
    "id: digits / letters and digits / hyphen / slash / space": (0.208, 0.299, 0.298, 0.133, 0.125),
    "id with lower case / 3+ words / letters only": (0.044, 0.024, 0.005),
    "unnamed funder among funders": (0.068,),
    "an id under two or more funders": (0.038,),
    "a scheme / a title in the labels": (0.477, 0.265),
    "statements with 7 or more names / ids": (0.067, 0.065),
}


def test_rates_of_published_records(rows):
    rates = label_rates(rows)
    between(rates["statements without funder"][0], 0.33, 0.40)
    between(rates["mean; share of all funders in statements with more than 5"][0], 2.8, 3.2)
    between(rates["mean; share of all funders in statements with more than 5"][1], 0.25, 0.36)
    for name, published in PUBLISHED.items():
        for made, wanted in zip(rates[name], published, strict=True):
            # Two standard errors of a rate in the sample, and a tenth of it or half a point.
            slack = 2 * (wanted * (1 - wanted) / 2500) ** 0.5 + max(0.1 * wanted, 0.005)
            more = max(slack, 0.5 * wanted + 0.01) if wanted < 0.07 and "statement" in name else slack
            assert wanted - slack <= made <= wanted + more, (name, made, wanted)


@pytest.mark.slow
def test_rates_of_the_wording(rows):
    rates = text_rates(rows)
    preceding, following, neither = rates["nearest preceding name is the funder / following / neither"]
    between(preceding, 0.76, 0.88)
    between(following, 0.10, 0.19)
    between(neither, 0.02, 0.07)
    between(rates["three or more content words between funder and id"][0], 0.12, 0.26)
    thanks, through, under, number = rates['thanks; "through / via / within"; "under"; "No."']
    between(thanks, 0.25, 0.36)
    between(through, 0.08, 0.17)
    between(under, 0.10, 0.24)
    between(number, 0.18, 0.26)


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
        (r"\.", 0.02, 0.05),
        ("_", 0.008, 0.03),
        (r"^.{1,5}$", 0.01, 0.045),
        (r"[\[(]", 0.01, 0.04),
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
