"""A small text grammar: templates with choices and named slots.

`<a|b|c>` picks one part, and may nest; `{name}` is filled from the values of the call, else from a rule.
A rule is a sequence of templates, of which one is picked, or a function of the random generator.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from random import Random

from adapters.data_aug.data_files import read_lines

Maker = Callable[[Random], str]
Node = str | tuple[str] | list["Template"]
"""Literal text, a one-element tuple holding a slot name, or the alternatives of a choice."""
Template = Sequence[Node]


def parse(template: str) -> Template:
    """Compile one template; an unbalanced bracket raises ValueError."""
    # The outermost level, with one alternative, then a level of alternatives for each choice that is open.
    levels: list[list[list[Node]]] = [[[]]]
    for piece in re.split(r"([<|>]|\{[^}]*\})", template):
        if piece == "<":
            levels.append([[]])
        elif piece == "|" and len(levels) > 1:
            levels[-1].append([])
        elif piece == ">" and len(levels) > 1:
            choice: list[Template] = [*levels.pop()]
            levels[-1][-1].append(choice)
        elif piece:
            levels[-1][-1].append((piece[1:-1],) if piece[0] == "{" and piece[-1] == "}" else piece)
    if len(levels) > 1 or template.count("{") != template.count("}"):
        raise ValueError(f"unbalanced template: {template!r}")
    return levels[0][0]


def pick(rng: Random, options: Sequence[Template]) -> Template:
    """One of the options, uniformly; faster than Random.choice in this hot loop."""
    return options[int(rng.random() * len(options))]


@cache
def read_rules(name: str) -> Mapping[str, Sequence[str]]:
    """Rules of a text file: `name = template ; 3 * template`, continued if indented."""
    lines: list[str] = []
    for line in read_lines(f"funding_statements/{name}"):
        if line.startswith(" "):
            lines[-1] += " " + line.strip()
        else:
            lines.append(line)
    rules: dict[str, list[str]] = {}
    for line in lines:
        rule, _, body = line.partition(" = ")
        rules[rule] = []
        for entry in body.split(" ; "):
            count, star, template = entry.partition(" * ")
            rules[rule] += [template] * int(count) if star else [entry]
    return rules


class Grammar:
    """Rules that call each other by name; each is compiled when it is first used."""

    def __init__(self, rules: Mapping[str, Sequence[str] | Maker]) -> None:
        self.rules = rules
        self._compiled: dict[str, list[Template] | Maker] = {}

    def say(self, rng: Random, rule: str, **values: str) -> str:
        """Expand a rule by name; an unknown name raises KeyError."""
        options = self._rule(rule)
        return options(rng) if callable(options) else self._render(rng, pick(rng, options), values)

    def _rule(self, name: str) -> list[Template] | Maker:
        options = self._compiled.get(name)
        if options is None:
            rule = self.rules[name]
            options = rule if callable(rule) else [parse(template) for template in rule]
            self._compiled[name] = options
        return options

    def _render(self, rng: Random, template: Template, values: Mapping[str, str]) -> str:
        pieces: list[str] = []
        for node in template:
            if isinstance(node, str):
                pieces.append(node)
            elif isinstance(node, tuple):
                name = node[0]
                if name in values:
                    pieces.append(values[name])
                    continue
                options = self._rule(name)
                pieces.append(options(rng) if callable(options) else self._render(rng, pick(rng, options), values))
            else:
                pieces.append(self._render(rng, pick(rng, node), values))
        return "".join(pieces)
