"""Reading a recipe: YAML text and command-line overrides in, a `Recipe` or one clear message out."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from adapters import secrets
from adapters.errors import KeyPath, UserError, first_line, hint
from adapters.recipe.aliases import long_form, present_name
from adapters.recipe.first_line import HEADER, check_first_line
from adapters.recipe.recipe import Recipe
from adapters.recipe.sentences import sentences, where

LONGEST_FILE = 256 * 1024
"""Bytes of a recipe, at most: a long one has two per cent of that."""
MOST_VALUES = 50_000
"""Values and sections of a recipe, at most, each alias written out."""
MOST_OPEN_BRACKETS = 100


@dataclass(frozen=True, slots=True)
class RecipeFile:
    """A recipe and its file, so that any later message can name file, line and key."""

    path: Path
    recipe: Recipe
    tree: dict[str, Any]
    lines: Mapping[KeyPath, int]
    overrides: tuple[str, ...] = ()
    origin: Path | None = None
    """Folder of the recipe that this file is a run's copy of."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Old keys that the recipe uses -> their present names."""

    @property
    def folder(self) -> Path:
        """Where `./plugin.py` and, without a data_root, data paths start."""
        return self.origin or self.path.parent

    def locate(self, error: UserError) -> str:
        """The error's text, led by `file:line: key.path:` if it has a key."""
        return where(self.path, self.lines, error.at) + str(error) if error.at else str(error)

    @property
    def data_root(self) -> Path:
        """Folder that relative data paths start from."""
        root = self.recipe.data_root
        return Path(root).expanduser() if root else self.folder


def load_recipe(path: str | Path, overrides: Sequence[str] = (), *, origin: Path | None = None) -> RecipeFile:
    """Read a recipe and apply `key.path=value` overrides. Raises one UserError for all mistakes."""
    path = Path(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        raise UserError(f"{path} is no ordinary file; save the recipe as one.")
    if path.is_file() and path.stat().st_size > LONGEST_FILE:
        raise UserError(f"{path}: longer than {LONGEST_FILE // 1024} kB, which no recipe is. Is it a data file?")
    try:
        text = path.read_text(encoding="utf-8-sig")  # Python too reads a file with one byte-order mark
    except FileNotFoundError:
        near = sorted(p.name for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        shipped = (
            "" if near else " `adapters new --list` shows the shipped recipes, `adapters new NAME --from …` copies one."
        )
        raise UserError(f"{path}: no such recipe.{hint(path.name, near)}{shipped}") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder; give the recipe file itself.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({error}).") from None
    _check_size(str(path), text)
    _refuse_secrets((text,), str(path))
    _refuse_secrets(overrides, "an override of the command line")
    check_first_line(path, text)
    tree = _parse(path, text)
    for override in overrides:
        tree.override(override)
    _make_base_absolute(tree.root)
    try:
        recipe = Recipe.model_validate(tree.root)
    except ValidationError as error:
        raise UserError("\n".join(sentences(path, tree.root, tree.lines, error))) from None
    except RecursionError:
        raise UserError(f"{path}: nested too deeply to be a recipe.") from None
    return RecipeFile(path, recipe, tree.root, tree.lines, tuple(overrides), origin, tree.renamed)


def _make_base_absolute(root: dict[str, Any]) -> None:
    """Write the base's folder, given from the working directory, so that the run can be used from anywhere."""
    model = root.get("model")
    if not isinstance(model, dict) or not isinstance(base := model.get("base"), str):
        return
    with suppress(OSError, ValueError, RuntimeError):  # what is no path is told later
        if base.strip() and Path(base).expanduser().is_dir():
            model["base"] = str(Path(base).expanduser().absolute())


def read_mapping(path: Path, text: str, what: str) -> tuple[dict[str, Any], Mapping[KeyPath, int]]:
    """Keys and values of the YAML text of another file than a recipe, and their lines. Raises UserError.

    `what` names the file in messages, such as "a program".
    """
    _check_size(str(path), text, what)
    tree = _parse(path, text, what, aliases=False)
    return tree.root, tree.lines


def as_overrides(tree: Mapping[str, Any]) -> list[str]:
    """A recipe's keys as overrides, without the header that makes its file runnable."""
    return [f"{key}={json.dumps(value)}" for key, value in tree.items() if key != HEADER]


def _refuse_secrets(texts: Sequence[str], where: str) -> None:
    if secret := secrets.find(texts):
        raise UserError(
            f"{where}: it holds {secret}, which would be copied into the run's files. Take it out, and give it in "
            "the environment (HF_TOKEN, WANDB_API_KEY, TINKER_API_KEY), or log in with: hf auth login"
        )


def _check_size(where: str, text: str, what: str = "a recipe") -> None:
    # Before the parser, which takes seconds for what nobody has written by hand.
    if len(text) > LONGEST_FILE:
        raise UserError(f"{where}: longer than {LONGEST_FILE // 1024} kB, which nothing in {what} is.")
    steps = ((c in "[{") - (c in "]}") for c in re.findall(r"[\[\]{}]", text))
    if max(accumulate(steps), default=0) > MOST_OPEN_BRACKETS:
        raise UserError(f"{where}: nested too deeply to be {what}.")


def _parse(path: Path, text: str, what: str = "a recipe", *, aliases: bool = True) -> _Tree:
    yaml = YAML(typ="rt", pure=True)  # YAML 1.2: 1e-5 is a number, `no` is a word
    try:
        node = yaml.load(text)
    except DuplicateKeyError as error:
        line = error.problem_mark.line + 1
        raise UserError(f"{path}:{line}: {str(error.problem).split(' with value')[0]}: a key may stand once.") from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise UserError(f"{path}{at}: not valid YAML: {error.problem or error.context}.") from None
    except (YAMLError, ValueError, RecursionError, OverflowError, AttributeError, TypeError, AssertionError) as error:
        raise UserError(f"{path}: not valid YAML: {first_line(error)}.") from None
    if not isinstance(node, CommentedMap):
        start = ", starting with name: and task:" if what == "a recipe" else ""
        raise UserError(f"{path}: {what} is a mapping of keys to values{start}.")
    tree = _Tree(aliases=aliases)
    try:
        tree.root = tree.plain(node)
    except RecursionError:
        raise UserError(f"{path}: an alias refers to its own anchor.") from None
    except UserError as error:
        raise UserError(where(path, tree.lines, error.at) + str(error)) from None
    return tree


class _Tree:
    """Keys and values of a recipe: old keys under their present names, short forms written out."""

    def __init__(self, *, aliases: bool = True) -> None:
        self.root: dict[str, Any] = {}
        self.lines: dict[KeyPath, int] = {}
        self.renamed: dict[str, str] = {}
        self.aliases = aliases
        self.values = 0
        self._open: set[int] = set()

    def plain(self, node: Any, path: KeyPath = ()) -> Any:
        """A node of YAML or JSON at a path as dicts, lists and scalars."""
        self.values += 1
        if self.values > MOST_VALUES:
            raise UserError(f"more than {MOST_VALUES:,} values, which no recipe has; its aliases repeat each other.")
        if isinstance(node, dict | list):
            if id(node) in self._open:
                raise RecursionError
            self._open.add(id(node))
            out = self._mapping(node, path) if isinstance(node, dict) else self._list(node, path)
            self._open.discard(id(node))
            return out
        # ruamel keeps the spelling of scalars in subclasses; strict validation wants the plain types.
        kind = next((kind for kind in (bool, int, float, str) if isinstance(node, kind)), None)
        value = kind(node) if kind else node if node is None else str(node)
        return long_form(path, value) if self.aliases else value

    def _mapping(self, node: dict[Any, Any], path: KeyPath) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for key, value in node.items():
            name = self._name((*path, str(key)), value, node)
            self._note_line(node, key, (*path, name))
            if name in out:
                old = next(k for k in node if k != name and self._name((*path, str(k)), node[k], node) == name)
                raise UserError(f"{old} is the old name of {name}, which is given too; remove it.", at=(*path, name))
            out[name] = self.plain(value, (*path, name))
        return out

    def _list(self, node: list[Any], path: KeyPath) -> list[Any]:
        for n in range(len(node)):
            self._note_line(node, n, (*path, n))
        return [self.plain(value, (*path, n)) for n, value in enumerate(node)]

    def _name(self, path: KeyPath, value: Any, beside: Mapping[Any, Any]) -> str:
        key = str(path[-1])
        name = present_name(path, value, beside) if self.aliases else key
        if name != key:
            self.renamed[".".join(map(str, path))] = name
        return name

    def _note_line(self, node: Any, key: Any, path: KeyPath) -> None:
        known = getattr(getattr(node, "lc", None), "data", None) or {}
        if key in known:
            self.lines[path] = known[key][0] + 1

    def override(self, text: str) -> None:
        """Apply `key.path=value`; a value may be any YAML. Raises UserError."""
        dotted, yaml = split_assignment(text)
        _check_size(dotted, yaml)
        try:
            value = YAML(typ="rt", pure=True).load(yaml)
        except (YAMLError, ValueError, RecursionError, OverflowError):
            raise UserError(f"{text!r}: the value is not valid YAML; quote it if it is text.") from None
        *parents, last = dotted.split(".")
        node, path = self._section(parents, text)
        key: str | int
        if isinstance(node, list):
            key = len(node) if last == str(len(node)) else _index(node, last, text)
            node += [None] * (key == len(node))
        else:
            key = self._name((*path, last), value, node)
        try:
            node[key] = self.plain(value, (*path, key))
        except RecursionError:
            raise UserError(f"{text!r}: an alias refers to its own anchor.") from None
        except UserError as error:
            raise UserError(f"{text!r}: {error}") from None
        # Neither the lines of the replaced value nor those of the override's own text are the file's.
        self.lines = {at: line for at, line in self.lines.items() if at[: len(path) + 1] != (*path, key)}

    def _section(self, parents: Sequence[str], text: str) -> tuple[Any, KeyPath]:
        node: Any = self.root
        path: KeyPath = ()
        for part in parents:
            if isinstance(node, list):
                key: str | int = _index(node, part, text)
            else:
                key = self._name((*path, part), None, node)
                node.setdefault(key, {})
            node, path = node[key], (*path, key)
            if not isinstance(node, dict | list):
                raise UserError(f"{text!r}: {'.'.join(map(str, path))} is a value, not a section.")
        return node, path


def parse_assignments(texts: Sequence[str]) -> dict[str, Any]:
    """Parameters from KEY=VALUE texts, the values read as YAML. Raises UserError."""
    tree = _Tree(aliases=False)
    for text in texts:
        tree.override(text)
    return tree.root


def split_assignment(text: str) -> tuple[str, str]:
    """Key and value of a KEY=VALUE text. Raises UserError."""
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise UserError(f"{text!r} is not KEY=VALUE, such as seed=7 or stages.0.learning_rate=1e-4.")
    return key, value


def present_keys(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe.json, of any age, with the keys that recipes have now. Raises UserError."""
    keys: dict[str, Any] = _Tree().plain(dict(recipe))
    return keys


def _index(node: list[Any], part: str, override: str) -> int:
    if not part.isdigit() or int(part) >= len(node):
        raise UserError(f"{override!r}: {part!r} is not an index of this list of {len(node)} (they start at 0).")
    return int(part)


def run_folder(recipe: Recipe) -> Path:
    """`<run_dir>/<name>`, relative to the working directory."""
    return Path(recipe.run_dir).expanduser() / recipe.name
