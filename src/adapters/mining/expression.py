"""Expressions of `keep`: names, `not`, `and`, `or` and parentheses. Parsed by hand; nothing is evaluated as code."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

Expression = str | tuple[str, tuple[Any, ...]]
"""A name, or an operator with its parts."""
OPERATORS: Final = ("not", "and", "or")
LONGEST: Final = 500
"""Characters."""
DEEPEST: Final = 16
"""Parentheses inside each other."""
_TOKEN: Final = re.compile(r"\s*(?:([a-z][a-z0-9_]*)|([()])|(\S))")


def parse(text: str) -> Expression:
    """Read an expression; `not` binds before `and`, `and` before `or`. Raises ValueError with a sentence."""
    if len(text) > LONGEST:
        raise ValueError(f"the expression is longer than {LONGEST} characters.")
    tokens = []
    for name, bracket, other in _TOKEN.findall(text):
        if other:
            raise ValueError(f"the expression has {other!r}; it is made of names, not, and, or, ( and ).")
        tokens.append(name or bracket)
    if not tokens:
        raise ValueError("the expression is empty.")
    return _Parser(tokens).whole()


def names(expression: Expression) -> Iterator[str]:
    """The names in an expression, in order."""
    if isinstance(expression, str):
        yield expression
    else:
        for part in expression[1]:
            yield from names(part)


def holds(expression: Expression, values: Mapping[str, Any]) -> bool:
    """Whether an expression is true. A list is true when it is not empty, a span always, null never."""
    if isinstance(expression, str):
        return bool(values.get(expression))
    operator, parts = expression
    if operator == "not":
        return not holds(parts[0], values)
    return (all if operator == "and" else any)(holds(part, values) for part in parts)


class _Parser:
    def __init__(self, tokens: list[str]) -> None:
        self.tokens, self.at, self.depth = tokens, 0, 0

    def whole(self) -> Expression:
        found = self._joined("or")
        if self._next():
            raise ValueError("')' has no '('." if self._next() == ")" else self._unexpected())
        return found

    def _joined(self, operator: str) -> Expression:
        read = self._negated if operator == "and" else lambda: self._joined("and")
        parts = [read()]
        while self._next() == operator:
            self.at += 1
            parts.append(read())
        return (operator, tuple(parts)) if len(parts) > 1 else parts[0]

    def _negated(self) -> Expression:
        count = 0
        while self._next() == "not":
            self.at += 1
            count += 1
        inner = self._atom()
        return ("not", (inner,)) if count % 2 else inner

    def _atom(self) -> Expression:
        piece = self._next()
        if not piece:
            raise ValueError(f"the expression ends after {self.tokens[-1]!r}.")
        if piece == ")" or piece in OPERATORS:
            raise ValueError(self._unexpected())
        self.at += 1
        if piece != "(":
            return piece
        self.depth += 1
        if self.depth > DEEPEST:
            raise ValueError(f"more than {DEEPEST} parentheses stand inside each other.")
        inner = self._joined("or")
        if self._next() != ")":
            raise ValueError(self._unexpected() if self._next() else "'(' is not closed.")
        self.at += 1
        self.depth -= 1
        return inner

    def _next(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def _unexpected(self) -> str:
        token = self.tokens[self.at]
        before = f"follow {self.tokens[self.at - 1]!r}" if self.at else "begin the expression"
        return f"{token!r} cannot {before}."
