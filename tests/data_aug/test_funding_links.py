"""Guessed links of ids to funders: what the text says is mended, the rest is marked; programmes are no funders."""

from collections import Counter

import pytest

from adapters.data_aug.funding_links import Mended, mend
from adapters.data_aug.funding_statements import synthesize
from adapters.data_aug.funding_statements.names import BODIES
from adapters.data_aug.funding_statements.programmes import is_programme


def row(text, *funders):
    awards = [{"award_ids": list(ids), "funding_scheme": [], "award_title": []} for _, *ids in funders]
    labelled = [{"funder_name": f[0], "awards": [award]} for f, award in zip(funders, awards, strict=True)]
    return {"id": "1", "funding_statement": text, "funders": labelled}


def ids_of(made):
    return {f["funder_name"]: [i for a in f["awards"] for i in a["award_ids"]] for f in made["funders"]}


@pytest.mark.parametrize(
    ("text", "funders", "wanted"),
    [
        ("By grants A-1 and A-2 from the Elm Fund and B-7 from the Fir Fund.",
         [("Elm Fund", "A-1", "A-2", "B-7"), ("Fir Fund",)], {"Elm Fund": ["A-1", "A-2"], "Fir Fund": ["B-7"]}),
        ("By the Elm Fund, grant B-7 of the Fir Fund.",
         [("Elm Fund", "B-7"), ("Fir Fund",)], {"Elm Fund": [], "Fir Fund": ["B-7"]}),
        ("By the Elm Fund and a grant (B-7) to M.D. awarded by the Fir Fund.",
         [("Elm Fund", "B-7"), ("Fir Fund",)], {"Elm Fund": [], "Fir Fund": ["B-7"]}),
        ("By the Elm Fund (A-1) of the Fir Fund.",
         [("Elm Fund", "A-1"), ("Fir Fund",)], {"Elm Fund": ["A-1"], "Fir Fund": []}),
        ("By the Elm Fund under grant A-1, by the Fir Fund.",
         [("Elm Fund", "A-1"), ("Fir Fund",)], {"Elm Fund": ["A-1"], "Fir Fund": []}),
        ("By the Elm Fund (EF) and the Fir Fund (FF) under grants A-1 and B-7, respectively.",
         [("Elm Fund",), ("Fir Fund", "A-1", "B-7")], {"Elm Fund": ["A-1"], "Fir Fund": ["B-7"]}),
        ("By the Elm Fund, the Fir Fund, and by Oak (A-1, B-7 and C-3, respectively).",
         [("Elm Fund",), ("Fir Fund",), ("Oak", "A-1", "B-7", "C-3")],
         {"Elm Fund": ["A-1"], "Fir Fund": ["B-7"], "Oak": ["C-3"]}),
        ("By grants A-1 and B-7 from the Elm Fund and the Fir Fund, respectively.",
         [("Elm Fund", "A-1", "B-7"), ("Fir Fund",)], {"Elm Fund": ["A-1"], "Fir Fund": ["B-7"]}),
        ("By the Elm Fund (A-1, A-1) and the Fir Fund.",
         [("Elm Fund",), ("Fir Fund", "A-1")], {"Elm Fund": ["A-1"], "Fir Fund": []}),
        ("By the Elm Fund and the Fir Fund under grants A-1 and B-7.",
         [("Elm Fund", "A-1"), ("Fir Fund", "B-7")], {"Elm Fund": ["A-1"], "Fir Fund": ["B-7"]}),
        ("By the Elm Fund and the Fir Fund under grant A-1.",
         [("Elm Fund", "A-1"), ("Fir Fund", "A-1")], {"Elm Fund": ["A-1"], "Fir Fund": ["A-1"]}),
        ("By the Elm Fund and the Fir Fund (grants A-1 and B-7).",
         [("Elm Fund",), ("Fir Fund", "A-1", "B-7")], {"Elm Fund": [], "Fir Fund": ["A-1", "B-7"]}),
        ("By the Elm Fund, Fir Fund under grants A-1 and B-7.",
         [("Elm Fund",), ("Fir Fund", "A-1", "B-7")], {"Elm Fund": [], "Fir Fund": ["A-1", "B-7"]}),
    ],
)  # fmt: skip
def test_what_the_text_says(text, funders, wanted):
    made = mend(row(text, *funders))
    assert ids_of(made) == wanted
    assert "uncertain" not in made
    assert mend(made) == made


@pytest.mark.parametrize(
    "text",
    [
        "By the Elm Fund and the Fir Fund under grants A-1 and B-7.",
        "By the Elm Fund and Fir Fund, through A-1, B-7 and C-3, respectively.",
        "By grants A-1, B-7 and C-3 of the Fir Fund and the Elm Fund, respectively.",
    ],
)
def test_ids_of_a_list_of_funders_are_uncertain(text):
    ids = [i for i in ("A-1", "B-7", "C-3") if i in text]
    given = row(text, ("Elm Fund",), ("Fir Fund", *ids))
    made = mend(given)
    assert ids_of(made) == ids_of(given)
    of_ids = {f"funders.1.awards.0.award_ids.{n}" for n in range(len(ids))}
    assert set(made["uncertain"]) == {"funders.0.awards.0.award_ids", *of_ids}


def test_what_it_does_not_say_is_marked():
    given = row(
        "By the Elm Fund and, for work on soils with the Fir Fund and others, A-1.", ("Elm Fund",), ("Fir Fund", "A-1")
    )
    made = mend(given)
    assert ids_of(made) == ids_of(given)
    assert made["uncertain"] == ["funders.1.awards.0.award_ids.0", "funders.0.awards.0.award_ids"]
    alone = mend(
        row(
            "By the Elm Fund, for work on soils and seas, A-1. We thank the Fir Fund.",
            ("Elm Fund", "A-1"),
            ("Fir Fund",),
        )
    )
    assert "uncertain" not in alone, "no other funder in its clause"


def test_rows_of_another_column_and_awards_of_ids_alone_are_mended():
    given = row("By the Elm Fund, grant B-7 of the Fir Fund.", ("Elm Fund", "B-7"), ("Fir Fund",))
    other = {"text": given.pop("funding_statement"), **given}
    other["funders"][0]["awards"] = [{"award_ids": ["B-7"]}]
    assert ids_of(mend(other, text_field="text")) == {"Elm Fund": [], "Fir Fund": ["B-7"]}


def test_a_row_that_says_what_is_uncertain_keeps_it():
    given = row("By the Elm Fund, grant B-7 of the Fir Fund.", ("Elm Fund", "B-7"), ("Fir Fund",))
    given["uncertain"] = ["funders.0.awards.0.award_ids.0"]
    assert mend(given) == given


def test_programmes_are_no_funders():
    made = mend(row("By the National Key Plan for Soils (A-1) and JSPS KAKENHI (B-1).",
                    ("National Key Plan for Soils", "A-1"), ("JSPS KAKENHI", "B-1")))  # fmt: skip
    first, second = made["funders"]
    assert first["funder_name"] is None
    assert first["awards"] == [
        {"award_ids": ["A-1"], "funding_scheme": ["National Key Plan for Soils"], "award_title": []}
    ]
    assert second["funder_name"] == "JSPS KAKENHI"
    for body in (
        "Human Frontier Science Program",
        "Simons Foundation Autism Research Initiative",
        "NSF",
        "Chan Zuckerberg Initiative",
    ):
        assert not is_programme(body, BODIES)


def test_rows_in_other_shapes_stay_as_they_are():
    for other in (
        {},
        {"funding_statement": "x", "funders": "[]"},
        {"funding_statement": "x", "funders": [{"funder_name": "A"}]},
    ):
        assert mend(other) == other


def test_a_name_that_is_an_id_or_a_letter_decides_nothing():
    for text, name in (("We thank A < A 1.", "A"), ("We thank AB-1, NSF AB-1, 77.", "AB-1")):
        given = row(text, (name,), ("NSF", name, "77"))
        assert mend(given) == given


@pytest.mark.slow
def test_links_that_are_exact_stay():
    """The generator knows which id it wrote for whom: the patterns may contradict it in few rows only."""
    rows = list(synthesize(2000, seed=5))
    count = Mended()
    changed = sum(mend(made, count)["funders"] != made["funders"] for made in rows)
    assert count.programmes == 0, "the generator and the converter have one convention"
    assert count.confirmed > 1500
    assert count.moved <= 0.01 * count.ids
    assert changed <= 0.01 * len(rows)
    names = Counter(f["funder_name"] for made in rows for f in made["funders"] if f["funder_name"])
    assert not [name for name in names if is_programme(name, BODIES)]
