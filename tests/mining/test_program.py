"""Programs are data: what they say when they are wrong, what they mean when they are right."""

from __future__ import annotations

import itertools
import random
import string
from pathlib import Path
from typing import Any

import pytest

from adapters.errors import UserError
from adapters.mining import program
from adapters.mining.expression import holds, names, parse
from adapters.mining.program import Ask, Each, First, Keep

LAPTOPS = """version: 1
task: Prices of all laptops in positive reviews
steps:
  - {label: positive, instruction: "This review is positive"}
  - {keep: positive}
  - {span: laptop, instruction: "What is the laptop model mentioned?"}
  - each: laptop
    steps:
      - {span: price, instruction: "What is the price of {laptop}?"}
      - {first: price}
"""


def read(text: str) -> program.Program:
    return program.read(Path("program.yaml"), text)


def test_a_program_is_read() -> None:
    found = read(LAPTOPS)
    price = Ask("span", "price", "What is the price of {laptop}?")
    assert found.steps == (
        Ask("label", "positive", "This review is positive"),
        Keep("positive"),
        Ask("span", "laptop", "What is the laptop model mentioned?"),
        Each("laptop", (price, First("price"))),
    )
    assert [(path, depth) for path, depth, _ in found.asks] == [("positive", 0), ("laptop", 0), ("laptop.price", 1)]
    assert found.task == "Prices of all laptops in positive reviews"
    assert not found.scores


def test_only_the_text_of_a_span_is_put_in_and_only_once() -> None:
    assert program.rendered("Price of {laptop}?", {"laptop": "the {price} 3"}) == "Price of the {price} 3?"


STEP = "  - {{label: positive, instruction: x y z}}\n  - {}\n"
WRONG = {
    "{keep: postive}": "5 keep: there is no step 'postive' before this one. Did you mean 'positive'?",
    "{keep: positive and}": "5 keep: the expression ends after 'and'.",
    "{keep: 'positive positive'}": "5 keep: 'positive' cannot follow 'positive'.",
    "{keep: (positive}": "5 keep: '(' is not closed.",
    "{keep: positive)}": "5 keep: ')' has no '('.",
    "{keep: or positive}": "5 keep: 'or' cannot begin the expression.",
    "{keep: ''}": "5 keep: the expression is empty.",
    "{keep: positive + 1}": "5 keep: the expression has '+'; it is made of names, not, and, or, ( and ).",
    "{keep: true}": "5 keep: keep takes an expression of names, not True.",
    "{span: price, instruction: 'Price of {laptop}?'}": (
        "5 instruction: {laptop} can be used only inside each: laptop."
    ),
    "{span: price, instruction: '{laptop.text!r}'}": (
        "5 instruction: '{laptop.text!r}': braces hold one name, such as {laptop}."
    ),
    "{python: 'import os'}": "5 python: no step is called 'python'. Steps: label, span, keep, each, first.",
    "{span: a, instrution: b}": "5 instrution: a span step has no key 'instrution'. Did you mean 'instruction'?",
    "{span: a}": "5 instruction: the instruction is missing or empty.",
    "{span: positive, instruction: b}": "5 span: the name 'positive' is taken by a step before this one.",
    "{span: kept, instruction: b}": "5 span: 'kept' has a meaning of its own; choose another name.",
    "{span: Price, instruction: b}": "5 span: 'Price' is no name: small letters, digits and _, a letter first.",
    "{first: positive}": "5 first: 'positive' is a label; this takes a span.",
    "{each: laptop, steps: []}": "5 each: there is no step 'laptop' before this one. Known: 'positive'.",
    "{span: a, label: b}": "5 label: span and label are two steps; write each as an item.",
    "[]": "5 steps: a step is a mapping that begins with one of label, span, keep, each, first.",
}


@pytest.mark.parametrize("step", WRONG)
def test_a_wrong_step_is_named_with_its_line(step: str) -> None:
    with pytest.raises(UserError) as error:
        read("version: 1\ntask: x\nsteps:\n" + STEP.format(step.replace("}}", "}")))
    assert str(error.value) == f"program.yaml:{WRONG[step]}"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("version: 2\nsteps: []", "program.yaml:1 version: write version: 1, the only one that there is."),
        ("steps: []", "program.yaml version: write version: 1, the only one that there is."),
        ("version: 1\nsteps: []", "program.yaml:2 steps: steps is a list with at least one step."),
        ("version: 1\nstep: []", "program.yaml:2 step: a program has no key 'step'. Did you mean 'steps'?"),
        ("version: 1\nversion: 1", 'program.yaml:2: found duplicate key "version": a key may stand once.'),
        ("- 1", "program.yaml: a program is a mapping of keys to values."),
        ("version: 1\nscores: 1\nsteps: [{}]", "program.yaml:2 scores: scores is true or false."),
        ("[" * 200, "program.yaml: nested too deeply to be a program."),
    ],
)
def test_a_wrong_program_is_named(text: str, sentence: str) -> None:
    with pytest.raises(UserError) as error:
        read(text)
    assert str(error.value) == sentence


def test_the_limits_of_a_program() -> None:
    steps = [f"  - {{span: s{n}, instruction: x}}\n" for n in range(33)]
    assert len(read("version: 1\nsteps:\n" + "".join(steps[:32])).steps) == 32
    with pytest.raises(UserError, match=r"program.yaml:35 steps: a program has at most 32 steps\."):
        read("version: 1\nsteps:\n" + "".join(steps))
    deep = "[{span: a, instruction: x}, {each: a, steps: [{span: b, instruction: x}, {each: b, steps: INNER}]}]"
    inner = "[{span: c, instruction: '{a} {b}'}]"
    assert read(f"version: 1\nsteps: {deep.replace('INNER', inner)}").asks[-1][:2] == ("a.b.c", 2)
    with pytest.raises(UserError, match="each stands at most 2 deep"):
        read(f"version: 1\nsteps: {deep.replace('INNER', inner[:-1] + ', {each: c, steps: []}]')}")
    with pytest.raises(UserError, match="each: a stands twice"):
        read("version: 1\nsteps: [{span: a, instruction: x}, {each: a, steps: [{span: b, instruction: x}]}, "
             "{each: a, steps: []}]")  # fmt: skip
    with pytest.raises(UserError, match="the name 'a_score' is taken"):
        read("version: 1\nscores: true\nsteps: [{label: a, instruction: x}, {span: a_score, instruction: x}]")


def test_expressions_mean_what_python_says() -> None:
    """`eval` is right about these by definition, and stays in this test."""
    rng = random.Random(0)

    def made(depth: int) -> str:
        kind = rng.choice(["name", "not", "and", "or", "()"]) if depth else "name"
        if kind == "name":
            return rng.choice("abc")
        if kind == "not":
            return f"not {made(depth - 1)}"
        return f"({made(depth - 1)})" if kind == "()" else f"{made(depth - 1)} {kind} {made(depth - 1)}"

    for _ in range(200):
        text = made(4)
        for values in itertools.product([False, True], repeat=3):
            named: dict[str, Any] = dict(zip("abc", values, strict=True))
            assert holds(parse(text), named) == bool(eval(text, {}, named)), text
    assert list(names(parse("a and not (b or c)"))) == ["a", "b", "c"]
    assert holds(parse("a or b"), {"a": [], "b": {"text": ""}})
    with pytest.raises(ValueError, match="more than 16 parentheses"):
        parse("(" * 40 + "a" + ")" * 40)
    with pytest.raises(ValueError, match="longer than 500"):
        parse("not " * 200 + "a")


@pytest.mark.slow
def test_mutated_programs_give_sentences_only() -> None:
    rng = random.Random(0)
    pieces = [*LAPTOPS.split(), *string.punctuation, "\n", "\t", "  ", "&a", "*a", "!!python/object:os.system", "<<:"]
    refused = 0
    for _ in range(2000):
        text = LAPTOPS
        for _ in range(rng.randint(1, 4)):
            at, length = rng.randrange(len(text)), rng.choice([0, 1, 1, 5, 20])
            text = text[:at] + rng.choice([*pieces, "", chr(rng.randrange(0x3000))]) + text[at + length :]
        try:
            assert read(text).asks
        except UserError as error:
            refused += 1
            assert str(error).startswith("program.yaml"), text
    assert refused > 1000
