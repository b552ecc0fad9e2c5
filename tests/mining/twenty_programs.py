"""Twenty instructions with the programs that they mean, in four groups of five, and when two programs are the same."""

from __future__ import annotations

import itertools
from typing import Any

from adapters.mining import program
from adapters.mining.expression import Expression, holds, names

STEPS = {
    "one span": [
        ("Mark the drugs.", "[{span: drug, instruction: drug}]"),
        ("Find every gene.", "[{span: gene, instruction: gene}]"),
        ("Which vehicles are named?", "[{span: vehicle, instruction: vehicle}]"),
        ("Mark software.", "[{span: software, instruction: software}]"),
        ("Find the funders.", "[{span: funder, instruction: 'Who gave money?'}]"),
    ],
    "labels": [
        ("Reviews that are positive.", "[{label: good, instruction: This review is positive}, {keep: good}]"),
        ("Texts on health.", "[{label: health, instruction: health}, {keep: health}]"),
        (
            "Negative reviews of the delivery.",
            "[{label: bad, instruction: It is negative}, {label: late, instruction: delivery}, {keep: bad and late}]",
        ),
        (
            "Sport or music, no politics.",
            "[{label: a, instruction: sport}, {label: b, instruction: music}, {label: c, instruction: politics}, "
            "{keep: (a or b) and not c}]",
        ),
        ("Not spam.", "[{label: spam, instruction: This text is spam}, {keep: not spam}]"),
    ],
    "labels and spans": [
        (
            "Drugs in texts on cancer.",
            "[{label: c, instruction: cancer}, {keep: c}, {span: drug, instruction: drug}]",
        ),
        (
            "People and places in news on sport.",
            "[{label: s, instruction: sport}, {keep: s}, {span: p, instruction: person}, "
            "{span: q, instruction: place}]",
        ),
        (
            "The first date in a contract.",
            "[{label: c, instruction: This is a contract}, {keep: c}, {span: d, instruction: date}, {first: d}]",
        ),
        (
            "Texts with a grant number and a funder.",
            "[{span: g, instruction: grant number}, {span: f, instruction: funder}, {keep: g and f}]",
        ),
        (
            "Products in complaints that name no price.",
            "[{label: c, instruction: complaint}, {span: price, instruction: price}, {keep: c and not price}, "
            "{span: product, instruction: product}]",
        ),
    ],
    "each": [
        (
            "Price of each laptop.",
            "[{span: l, instruction: laptop}, {each: l, steps: [{span: p, instruction: 'Price of {l}?'}, {first: p}]}]",
        ),
        (
            "Founder of each company.",
            "[{span: c, instruction: company}, {each: c, steps: [{span: f, instruction: 'Who founded {c}?'}]}]",
        ),
        (
            "Companies that made a profit.",
            "[{span: c, instruction: company}, "
            "{each: c, steps: [{label: p, instruction: '{c} made a profit'}, {keep: p}]}]",
        ),
        (
            "Awards of each funder, and their years.",
            "[{span: f, instruction: funder}, {each: f, steps: [{span: a, instruction: 'Awards of {f}?'}, "
            "{each: a, steps: [{span: y, instruction: 'Year of {a} of {f}?'}, {first: y}]}]}]",
        ),
        (
            "Doses of drugs in trials.",
            "[{label: t, instruction: This is a trial}, {keep: t}, {span: d, instruction: drug}, "
            "{each: d, steps: [{span: m, instruction: 'Dose of {d}?'}]}]",
        ),
    ],
}
PAIRS = [(group, *pair) for group, pairs in STEPS.items() for pair in pairs]


def renamed(found: program.Program, *, worded: bool = True) -> list[Any]:
    """A program with its names in order and `keep` as a truth table; without its instructions where not `worded`."""
    numbers: dict[str, int] = {}

    def table(test: Expression) -> tuple[Any, ...]:
        used = sorted(set(names(test)), key=numbers.__getitem__)
        rows = itertools.product([False, True], repeat=len(used))
        return tuple(map(numbers.__getitem__, used)), tuple(
            holds(test, dict(zip(used, row, strict=True))) for row in rows
        )

    def steps(given: tuple[program.Step, ...]) -> list[Any]:
        out: list[Any] = []
        for step in given:
            if isinstance(step, program.Ask):
                numbers[step.name] = len(numbers)
                wording = program.rendered(step.instruction, {n: f"<{k}>" for n, k in numbers.items()})
                out.append((step.kind, wording if worded else ""))
            elif isinstance(step, program.Keep):
                out.append(("keep", table(step.test)))
            elif isinstance(step, program.First):
                out.append(("first", numbers[step.name]))
            else:
                out.append(("each", numbers[step.name], steps(step.steps)))
        return out

    return steps(found.steps)
