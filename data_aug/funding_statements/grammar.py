"""A very small text grammar: templates with choices and named slots, compiled once.

``<a|b|c>`` picks one part, and may nest; ``{name}`` is filled from the values of the call, else from a rule.
A rule is a sequence of templates (one is picked) or a function of the random generator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from random import Random

Maker = Callable[[Random], str]
Node = str | tuple[str] | list["Parts"]
"""Literal text, a one-element tuple holding a slot name, or the alternatives of a choice."""
Parts = Sequence[Node]


def parse(template: str) -> Parts:
    """Compile one template; an unbalanced bracket raises ValueError."""
    parts, end = _alternatives(template, 0)
    if end != len(template) or len(parts) != 1:
        raise ValueError(f"unbalanced template: {template!r}")
    return parts[0]


def _alternatives(template: str, at: int) -> tuple[list[Parts], int]:
    options: list[Parts] = []
    now: list[Node] = []
    text: list[str] = []
    depth_zero = at == 0

    def flush() -> None:
        if text:
            now.append("".join(text))
            text.clear()

    while at < len(template):
        char = template[at]
        if char == "<":
            flush()
            inner, at = _alternatives(template, at + 1)
            if at >= len(template):
                raise ValueError(f"unbalanced template: {template!r}")
            now.append(inner)
        elif char == "{":
            flush()
            close = template.index("}", at)
            now.append((template[at + 1 : close],))
            at = close
        elif char == "|" and not depth_zero:
            flush()
            options.append(now)
            now = []
        elif char == ">" and not depth_zero:
            break
        else:
            text.append(char)
        at += 1
    flush()
    options.append(now)
    return options, at


def pick(rng: Random, options: Sequence[Parts]) -> Parts:
    """One of the options, uniformly; cheaper than Random.choice, which this module calls millions of times."""
    return options[int(rng.random() * len(options))]


@cache
def read_rules(name: str) -> Mapping[str, Sequence[str]]:
    """Rules of a text file of this package: ``name = template ; 3 * template``.

    An indented line continues the one above, "#" in the first column begins a comment.
    """
    lines: list[str] = []
    for line in Path(__file__).with_name(name).read_text(encoding="utf-8").splitlines():
        if line.startswith(" "):
            lines[-1] += " " + line.strip()
        elif line.strip() and not line.startswith("#"):
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
        self._compiled: dict[str, list[Parts] | Maker] = {}

    def say(self, rng: Random, rule: str, **values: str) -> str:
        """Expand a rule by name; an unknown name raises KeyError."""
        found = self._rule(rule)
        return found(rng) if callable(found) else self._render(rng, pick(rng, found), values)

    def _rule(self, name: str) -> list[Parts] | Maker:
        found = self._compiled.get(name)
        if found is None:
            rule = self.rules[name]
            found = rule if callable(rule) else [parse(template) for template in rule]
            self._compiled[name] = found
        return found

    def _render(self, rng: Random, parts: Parts, values: Mapping[str, str]) -> str:
        out: list[str] = []
        for node in parts:
            if isinstance(node, str):
                out.append(node)
            elif isinstance(node, tuple):
                name = node[0]
                if name in values:
                    out.append(values[name])
                    continue
                found = self._rule(name)
                out.append(found(rng) if callable(found) else self._render(rng, pick(rng, found), values))
            else:
                out.append(self._render(rng, pick(rng, node), values))
        return "".join(out)
