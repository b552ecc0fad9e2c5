"""The first line of a recipe, which Python executes when `accelerate launch` or `python` starts the file."""

from __future__ import annotations

import ast
import io
import tokenize
from pathlib import Path
from typing import Final

from adapters.errors import UserError

HEADER: Final = 'if __name__ == "__main__"'
"""The YAML key that the first line of a runnable recipe makes (to Python it is an `if`)."""
FIRST_LINE: Final = f'{HEADER}: from adapters import main; main(__file__); r"""'
LAST_LINE: Final = '# """'
INERT: Final = (
    *(ast.Module, ast.AnnAssign, ast.Expr, ast.Name, ast.Constant, ast.Attribute, ast.expr_context),
    *(ast.List, ast.Tuple, ast.Dict, ast.Set, ast.UnaryOp, ast.BinOp, ast.unaryop, ast.operator),
)
"""Python's reading of short YAML without a first line; nothing of it calls or imports anything."""


def check_first_line(path: Path, text: str) -> None:
    """Refuse a recipe that, as a Python program, would do anything but run itself. Raises UserError.

    The first line must be the stock one, or there is none and the rest does nothing in Python.
    """
    if text.startswith("\ufeff"):
        raise UserError(f"{path}:1: the file starts with a byte-order mark; save it as UTF-8 without BOM.")
    _check_encoding(path, text)
    first, _, body = text.partition("\n")
    if text.startswith(HEADER):
        if first != FIRST_LINE:
            raise UserError(_difference(path, first))
        _check_body(path, body)
    elif line := _line_of_code(text):
        raise UserError(_difference(path, text.splitlines()[line - 1], line))


def _check_body(path: Path, body: str) -> None:
    # The first line turns the rest into a Python raw string, which three things would end or hide.
    lines = body.rstrip().split("\n")
    for number, line in enumerate(lines, 2):
        if '"""' in line and not (line.strip() == LAST_LINE and number == len(lines) + 1):
            raise UserError(f'{path}:{number}: """ inside a runnable recipe ends it for Python; use other quotes.')
        if line.startswith("---"):
            raise UserError(f"{path}:{number}: a runnable recipe is one YAML document; remove the --- line.")
    if lines[-1].strip() != LAST_LINE:
        raise UserError(f"{path}:{len(lines) + 1}: a runnable recipe must end with the line {LAST_LINE}")


def _check_encoding(path: Path, text: str) -> None:
    """Refuse a comment by which Python would read other characters than YAML does."""
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(text.encode()).readline)
    except SyntaxError as error:
        encoding = str(error)
    if encoding != "utf-8":
        raise UserError(f"{path}: a comment of its first two lines gives Python another encoding ({encoding}).")


def _line_of_code(text: str) -> int | None:
    """The line at which the text as a Python program would do something; None for harmless or no Python."""
    try:
        program = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None  # Python compiles a file as a whole, before it executes anything
    active = (node for node in ast.walk(program) if not isinstance(node, INERT))
    return next((getattr(node, "lineno", 1) for node in active), None)


def _difference(path: Path, found: str, line: int = 1) -> str:
    return (
        f"{path}:{line}: Python would execute this line if `accelerate launch` or `python` started the file, and it "
        f"is not the first line of a recipe.\n  found:    {found[:200]!a}\n  expected: {FIRST_LINE!a} as line 1\n"
        "Nothing was executed. Ask who sent the file; with the expected line, or without one, adapters run runs it."
    )
