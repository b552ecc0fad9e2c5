"""Programs: the questions that are asked of every text, and what is done with the answers.

A program is YAML that is read as data. Nothing in it is executed, and `{name}` is its only template.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from adapters.errors import KeyPath, UserError, hint
from adapters.mining.expression import OPERATORS, Expression, names, parse
from adapters.recipe.load import read_mapping

MOST_STEPS: Final = 32
MOST_ITEMS: Final = 50
"""Spans, at most, whose steps an `each` runs."""
DEEPEST_EACH: Final = 2
STEPS: Final = ("label", "span", "keep", "each", "first")
RESERVED: Final = ("text", "start", "end", "kept", *OPERATORS)
_KEYS: Final = {"label": ("instruction",), "span": ("instruction",), "each": ("steps",), "keep": (), "first": ()}
_NAME: Final = re.compile(r"[a-z][a-z0-9_]*")
_BRACES: Final = re.compile(r"\{([^{}]*)\}|[{}]")

Kind = Literal["label", "span"]


@dataclass(frozen=True, slots=True)
class Ask:
    """A question. Its answer is true or false (`label`), or places in the text (`span`)."""

    kind: Kind
    name: str
    instruction: str


@dataclass(frozen=True, slots=True)
class Keep:
    """Drops a text, or a span of an `each`, for which the expression is false."""

    test: Expression


@dataclass(frozen=True, slots=True)
class First:
    """Keeps the span with the smallest start, or null."""

    name: str


@dataclass(frozen=True, slots=True)
class Each:
    """Runs steps for every span of a name."""

    name: str
    steps: tuple[Step, ...]


Step = Ask | Keep | First | Each


@dataclass(frozen=True, slots=True)
class Program:
    """A checked program. `digest` is the SHA-256 of its text."""

    steps: tuple[Step, ...]
    task: str = ""
    scores: bool = False
    digest: str = ""

    @property
    def asks(self) -> list[tuple[str, int, Ask]]:
        """All questions in order: dotted path of the name, how many `each` they stand in, and the step."""
        return list(_asks(self.steps, ()))


def _asks(steps: Sequence[Step], path: tuple[str, ...]) -> Iterator[tuple[str, int, Ask]]:
    for step in steps:
        if isinstance(step, Ask):
            yield ".".join((*path, step.name)), len(path), step
        elif isinstance(step, Each):
            yield from _asks(step.steps, (*path, step.name))


def rendered(instruction: str, given: Mapping[str, str]) -> str:
    """An instruction with the texts of the spans that it names."""
    return _BRACES.sub(lambda match: given[match[1]], instruction)


def load(path: Path) -> Program:
    """Read a program file. Raises UserError with the line of the first mistake."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        near = sorted(p.name for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        raise UserError(f"{path}: no such program.{hint(path.name, near)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({error}).") from None
    return read(path, text)


def read(path: Path, text: str) -> Program:
    """Read a program's text; `path` is for messages. Raises UserError."""
    try:
        tree, lines = read_mapping(path, text, "a program")
        return _Reader(path, lines).program(tree, hashlib.sha256(text.encode()).hexdigest())
    except RecursionError:
        raise UserError(f"{path}: nested too deeply to be a program.") from None


@dataclass(slots=True)
class _Scope:
    """The names that a list of steps has made, and whether each is a `label`, a `span` or a `first` one."""

    kinds: dict[str, str] = field(default_factory=dict)
    outer: _Scope | None = None
    each: tuple[str, ...] = ()
    """The names of the `each` steps around."""

    def visible(self) -> list[str]:
        return [*self.kinds, *(self.outer.visible() if self.outer else ())]


class _Reader:
    """Reads a program, and says file, line and key of the first mistake."""

    def __init__(self, path: Path, lines: Mapping[KeyPath, int]) -> None:
        self.path, self.lines, self.count, self.scores = path, lines, 0, False

    def fail(self, at: KeyPath, sentence: str) -> UserError:
        line = next((self.lines[at[:n]] for n in range(len(at), 0, -1) if at[:n] in self.lines), None)
        key = next((part for part in reversed(at) if isinstance(part, str)), "")
        return UserError(f"{self.path}{f':{line}' if line else ''}{f' {key}' if key else ''}: {sentence}")

    def program(self, tree: Mapping[str, Any], digest: str) -> Program:
        for key in tree:
            if key not in (known := ("version", "task", "scores", "steps")):
                raise self.fail((key,), f"a program has no key {key!r}.{_near(key, known)}")
        if tree.get("version") != 1 or isinstance(tree.get("version"), bool):
            raise self.fail(("version",), "write version: 1, the only one that there is.")
        task, self.scores = tree.get("task", ""), tree.get("scores", False)
        if not isinstance(task, str):
            raise self.fail(("task",), "the task is a text.")
        if not isinstance(self.scores, bool):
            raise self.fail(("scores",), "scores is true or false.")
        program = Program(self.steps(tree.get("steps"), ("steps",), _Scope()), task, self.scores, digest)
        if not program.asks:
            raise self.fail(("steps",), "no step asks anything; a program needs a label or a span.")
        return program

    def steps(self, given: Any, at: KeyPath, scope: _Scope) -> tuple[Step, ...]:
        if not isinstance(given, list) or not given:
            raise self.fail(at, "steps is a list with at least one step.")
        return tuple(self.step(item, (*at, n), scope) for n, item in enumerate(given))

    def step(self, given: Any, at: KeyPath, scope: _Scope) -> Step:
        self.count += 1
        if self.count > MOST_STEPS:
            raise self.fail(at, f"a program has at most {MOST_STEPS} steps.")
        if not isinstance(given, dict) or not given:
            raise self.fail(at, f"a step is a mapping that begins with one of {', '.join(STEPS)}.")
        kinds = [key for key in given if key in STEPS]
        if not kinds:
            key = next(iter(given))
            raise self.fail((*at, key), f"no step is called {key!r}. Steps: {', '.join(STEPS)}.")
        kind = kinds[0]
        if len(kinds) > 1:
            raise self.fail((*at, kinds[1]), f"{kinds[0]} and {kinds[1]} are two steps; write each as an item.")
        for key in given:
            if key not in (known := (kind, *_KEYS[kind])):
                raise self.fail((*at, key), f"a {kind} step has no key {key!r}.{_near(key, known)}")
        if not isinstance(given[kind], str):
            what = "an expression of names" if kind == "keep" else "a name"
            raise self.fail((*at, kind), f"{kind} takes {what}, not {given[kind]!r:.40}.")
        if kind == "keep":
            return self.keep(given[kind], (*at, kind), scope)
        if kind == "first":
            return self.first(given[kind], (*at, kind), scope)
        return self.each(given, at, scope) if kind == "each" else self.ask(kind, given, at, scope)

    def ask(self, kind: str, given: Mapping[str, Any], at: KeyPath, scope: _Scope) -> Ask:
        name, instruction = given[kind], given.get("instruction")
        if not _NAME.fullmatch(name):
            raise self.fail((*at, kind), f"{name!r:.60} is no name: small letters, digits and _, a letter first.")
        if name in RESERVED:
            raise self.fail((*at, kind), f"{name!r} has a meaning of its own; choose another name.")
        for made in (name, *([f"{name}_score"] if kind == "label" and self.scores else ())):
            if made in scope.kinds:
                raise self.fail((*at, kind), f"the name {made!r} is taken by a step before this one.")
            scope.kinds[made] = kind if made == name else "score"
        if not isinstance(instruction, str) or not instruction.strip():
            raise self.fail((*at, "instruction"), "the instruction is missing or empty.")
        for match in _BRACES.finditer(instruction):
            inner = match[1]
            if inner is None or not _NAME.fullmatch(inner):
                raise self.fail((*at, "instruction"), f"{match[0]!r:.60}: braces hold one name, such as {{laptop}}.")
            if inner not in scope.each:
                raise self.fail((*at, "instruction"), f"{{{inner}}} can be used only inside each: {inner}.")
        return Ask("label" if kind == "label" else "span", name, instruction)

    def keep(self, given: str, at: KeyPath, scope: _Scope) -> Keep:
        try:
            test = parse(given)
        except ValueError as error:
            raise self.fail(at, str(error)) from None
        for name in names(test):
            self.known(name, scope.visible(), at)
        return Keep(test)

    def first(self, name: str, at: KeyPath, scope: _Scope) -> First:
        self.spans(name, at, scope)
        if scope.kinds[name] == "first":
            raise self.fail(at, f"{name!r} is one span already.")
        scope.kinds[name] = "first"
        return First(name)

    def each(self, given: Mapping[str, Any], at: KeyPath, scope: _Scope) -> Each:
        name = given["each"]
        self.spans(name, (*at, "each"), scope)
        if len(scope.each) >= DEEPEST_EACH:
            raise self.fail((*at, "each"), f"each stands at most {DEEPEST_EACH} deep.")
        if f"each {name}" in scope.kinds:
            raise self.fail((*at, "each"), f"each: {name} stands twice; write its steps into one.")
        scope.kinds[f"each {name}"] = "each"
        if name in scope.each:
            raise self.fail((*at, "each"), f"{name!r} is the name of an each around this one; choose another.")
        return Each(name, self.steps(given.get("steps"), (*at, "steps"), _Scope({}, scope, (*scope.each, name))))

    def spans(self, name: str, at: KeyPath, scope: _Scope) -> None:
        """Raise UserError unless the name is a span of the same list of steps."""
        self.known(name, [made for made in scope.kinds if " " not in made], at)
        if scope.kinds[name] not in ("span", "first"):
            raise self.fail(at, f"{name!r} is a label; this takes a span.")

    def known(self, name: str, made: Sequence[str], at: KeyPath) -> None:
        if name not in made or " " in name:
            near = [other for other in made if " " not in other]
            raise self.fail(at, f"there is no step {name!r:.60} before this one.{_near(name, near)}")


def _near(given: str, known: Sequence[str]) -> str:
    return hint(repr(given), [repr(name) for name in known])
