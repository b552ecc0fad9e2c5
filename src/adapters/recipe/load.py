"""Reading a recipe: YAML text and command-line overrides in, a `Recipe` or one clear message out."""

from __future__ import annotations

import json
import math
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from adapters.errors import KeyPath, UserError, hint
from adapters.recipe import secrets
from adapters.recipe.fields import HubSource, PathSource, SynthesizedSource
from adapters.recipe.recipe import HEADER, Recipe
from adapters.recipe.stages import Dpo, Grpo, Sft

# What people of this field type first, and what it is called here.


@dataclass(frozen=True, slots=True)
class RecipeFile:
    """A recipe with the place it came from, so that any later message can name file, line and key."""

    path: Path
    recipe: Recipe
    tree: dict[str, Any]
    lines: Mapping[KeyPath, int]
    overrides: tuple[str, ...] = ()
    origin: Path | None = None
    """Folder of the recipe that this file is a run's copy of."""

    @property
    def folder(self) -> Path:
        """Where `./plugin.py` and, without a data_root, data paths start."""
        return self.origin or self.path.parent

    def locate(self, error: UserError) -> str:
        """The error's text, led by `file:line: key.path:` when the error knows its key."""
        return _where(self.path, self.lines, error.at) + str(error) if error.at else str(error)

    @property
    def data_root(self) -> Path:
        """Folder that relative data paths start from."""
        root = self.recipe.data_root
        return Path(root).expanduser() if root else self.folder


def load_recipe(path: str | Path, overrides: Sequence[str] = (), *, origin: Path | None = None) -> RecipeFile:
    """Read a recipe file and apply `key.path=value` overrides.

    Raises UserError, in one message, for everything that can be wrong with the text.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = sorted(str(p) for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        raise UserError(f"{path}: no such recipe.{hint(str(path), near)}") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder; give the recipe file itself.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({error}).") from None
    secrets.refuse_in((text,), str(path))
    secrets.refuse_in(overrides, "an override of the command line")
    _check_header(path, text)
    tree, lines = _parse(path, text)
    for override in overrides:
        _override(tree, lines, override)
    try:
        recipe = Recipe.model_validate(tree)
    except ValidationError as error:
        raise UserError("\n".join(_sentences(path, tree, lines, error))) from None
    except RecursionError:
        raise UserError(f"{path}: nested too deeply to be a recipe.") from None
    return RecipeFile(path, recipe, tree, lines, tuple(overrides), origin)


def as_overrides(tree: Mapping[str, Any]) -> list[str]:
    """A recipe's keys as overrides, without the one that makes its file runnable."""
    return [f"{key}={json.dumps(value)}" for key, value in tree.items() if not key.startswith("if ")]


def _check_header(path: Path, text: str) -> None:
    # The header turns the body into a Python raw string, which three things would end or hide.
    if text.startswith("\ufeff"):
        raise UserError(f"{path}:1: the file starts with a byte-order mark; save it as UTF-8 without BOM.")
    if text.startswith(HEADER):
        body = text.split("\n")
        for number, line in enumerate(body[1:], 2):
            if '"""' in line and line.strip() != '# """':
                raise UserError(f'{path}:{number}: """ inside a runnable recipe ends it for Python; use other quotes.')
            if line.startswith("---"):
                raise UserError(f"{path}:{number}: a runnable recipe is one YAML document; remove the --- line.")
        if not text.rstrip().endswith('# """'):
            raise UserError(f'{path}:{len(body)}: a runnable recipe must end with the line # """')


def _parse(path: Path, text: str) -> tuple[dict[str, Any], dict[KeyPath, int]]:
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
        raise UserError(f"{path}: not valid YAML: {str(error).splitlines()[0] if str(error) else error!r}.") from None
    if not isinstance(node, CommentedMap):
        raise UserError(f"{path}: a recipe is a mapping of keys to values, starting with name: and task:.")
    lines: dict[KeyPath, int] = {}
    try:
        tree = _plain(node, (), lines, set())
    except (_CyclicError, RecursionError):
        raise UserError(f"{path}: an alias refers to its own anchor.") from None
    return tree, lines


class _CyclicError(Exception):
    pass


def _plain(node: Any, path: KeyPath, lines: dict[KeyPath, int], open_nodes: set[int]) -> Any:
    if isinstance(node, CommentedMap | CommentedSeq):
        if id(node) in open_nodes:
            raise _CyclicError
        open_nodes.add(id(node))
        mapping = isinstance(node, CommentedMap)
        out: dict[Any, Any] = {}
        for key, value in node.items() if mapping else enumerate(node):
            name = str(key) if mapping else key
            if node.lc.data and key in node.lc.data:
                lines[(*path, name)] = node.lc.data[key][0] + 1
            out[name] = _plain(value, (*path, name), lines, open_nodes)
        open_nodes.discard(id(node))
        return out if mapping else list(out.values())
    # ruamel keeps the spelling of scalars in subclasses; strict validation wants the plain types.
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return node if node is None else str(node)


def parse_assignments(texts: Sequence[str]) -> dict[str, Any]:
    """Parameters from KEY=VALUE texts, the values read as YAML. Raises UserError."""
    tree: dict[str, Any] = {}
    for text in texts:
        _override(tree, {}, text)
    return tree


def split_assignment(text: str) -> tuple[str, str]:
    """Key and value of a KEY=VALUE text. Raises UserError."""
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise UserError(f"{text!r} is not KEY=VALUE, such as seed=7 or stages.0.learning_rate=1e-4.")
    return key, value


def _override(tree: dict[str, Any], lines: dict[KeyPath, int], override: str) -> None:
    key, text = split_assignment(override)
    try:
        value = _plain(YAML(typ="rt", pure=True).load(text), (), {}, set())
    except (YAMLError, ValueError, RecursionError, OverflowError):
        raise UserError(f"{override!r}: the value is not valid YAML; quote it if it is text.") from None
    *parents, last = key.split(".")
    node: Any = tree
    for depth, part in enumerate(parents):
        inside = _index(node, part, override) if isinstance(node, list) else part
        # A plug-in given by its name alone is short for {use: name}; an override may go inside.
        named = part == "task" if depth == 0 else parents[depth - 1] == "rewards"
        if isinstance(node, dict):
            node.setdefault(part, {})
        if named and isinstance(node[inside], str):
            node[inside] = {"use": node[inside]}
        node = node[inside]
        if not isinstance(node, dict | list):
            raise UserError(f"{override!r}: {'.'.join(parents[: depth + 1])} is a value, not a section.")
    if isinstance(node, list):
        if last == str(len(node)):
            node.append(value)
        else:
            node[_index(node, last, override)] = value
    else:
        node[last] = value
    lines.pop(tuple(int(p) if p.isdigit() else p for p in (*parents, last)), None)


def _index(node: list[Any], part: str, override: str) -> int:
    if not part.isdigit() or int(part) >= len(node):
        raise UserError(f"{override!r}: {part!r} is not an index of this list of {len(node)} (they start at 0).")
    return int(part)


# --- wording ----------------------------------------------------------------------------------------------------


def _sentences(path: Path, tree: Any, lines: Mapping[KeyPath, int], error: ValidationError) -> list[str]:
    out = []
    items = error.errors(include_url=False)
    for item in items:
        if item["type"] == "too_short" and any(
            o is not item and o["loc"][: len(item["loc"])] == item["loc"] for o in items
        ):
            continue  # pydantic counts the items that are valid; the invalid ones have their own sentences
        at = _real_path(tree, item["loc"])
        kind, text = item["type"], item["msg"]
        if kind == "extra_forbidden":
            known = [name for name in _model_at(item["loc"][:-1]).model_fields if name != "header"]
            text = f"unknown key.{hint(str(at[-1]), known)}"
        elif kind == "missing":
            text = "this key is required."
        elif kind in ("union_tag_not_found", "union_tag_invalid"):
            at = (*at, "kind")
            given = item.get("ctx", {}).get("tag")
            text = f"a stage's kind is sft, grpo or dpo{f', not {str(given)[:80]!r}' if given else ''}."
        elif kind == "too_short":
            text = "needs at least one entry."
        elif kind == "value_error":
            text = text.removeprefix("Value error, ") + "."
        else:
            given = json.dumps(item["input"], default=str, ensure_ascii=False)
            text = text.replace("tuple", "list").replace("dictionary", "mapping").replace("Input", "this")
            text = f"{text[0].lower()}{text[1:]}, not {given[:80]}{'…' if len(given) > 80 else ''}."
            if isinstance(item["input"], str) and kind in ("int_type", "float_type", "bool_type"):
                text += " Remove the quotes?" if _number(item["input"]) else ""
        sentence = _where(path, lines, at) + text
        if sentence not in out:
            out.append(sentence)
    return out


def _where(path: Path, lines: Mapping[KeyPath, int], at: Sequence[str | int]) -> str:
    line = next((lines[tuple(at[:n])] for n in range(len(at), 0, -1) if tuple(at[:n]) in lines), None)
    name = ".".join(str(part) for part in at)
    return f"{path}{f':{line}' if line else ''}: {name + ': ' if name else ''}"


def _real_path(tree: Any, loc: Sequence[str | int]) -> KeyPath:
    """The path in the person's file: pydantic's own location without the tags of unions it passed through."""
    out: list[str | int] = []
    node = tree
    for n, part in enumerate(loc):
        inside = isinstance(node, dict) and part in node
        if isinstance(node, list):
            inside = isinstance(part, int) and part < len(node)
        if inside and (n == len(loc) - 1 or isinstance(node[part], dict | list)):
            node = node[part]
            out.append(part)
        elif n == len(loc) - 1 and isinstance(node, dict):
            out.append(part)
    return tuple(out)


def _model_at(loc: Sequence[str | int]) -> type[BaseModel]:
    """The model that validated the mapping at a location, tags of unions included."""
    tags: dict[str, type[BaseModel]] = {
        "sft": Sft, "grpo": Grpo, "dpo": Dpo, "path": PathSource, "hub": HubSource, "synthesize": SynthesizedSource,
    }  # fmt: skip
    model: type[BaseModel] = Recipe
    for part in loc:
        if not isinstance(part, str):
            continue
        if part in model.model_fields:
            model = next(_models(model.model_fields[part].annotation), model)
        elif part in tags:
            model = tags[part]
    return model


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _models(argument)


def _number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return text in ("true", "false")


def run_folder(recipe: Recipe) -> Path:
    """`<run_dir>/<name>`, relative to the working directory."""
    return Path(recipe.run_dir).expanduser() / recipe.name
