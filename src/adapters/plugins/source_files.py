"""Which files a plug-in is made of, found by reading, not by importing: plug-ins are other people's code."""

from __future__ import annotations

import ast
import hashlib
import importlib.machinery
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from adapters.errors import KeyPath
from adapters.plugins.registry import Kind, names
from adapters.recipe.fields import NoiseSpec, PluginSpec, RewardSpec

BUILT_IN_PACKAGES = ("adapters", "rewards", "data_aug")


@dataclass(frozen=True)
class PluginFiles:
    """A plug-in of a recipe and the Python files that using it imports."""

    at: KeyPath
    kind: Kind
    use: str
    module: str | None
    """Dotted name; None for a `./file.py`, and for names that nothing provides."""
    files: tuple[Path, ...]
    """Its own file first, then local files and members of its package that it imports, directly or not."""
    libraries: tuple[str, ...]
    """Other packages these files import, the standard library left out."""
    found: bool = True

    @property
    def ours(self) -> bool:
        """Whether it comes with this project."""
        return self.module is not None and self.module.partition(".")[0] in BUILT_IN_PACKAGES

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "at": ".".join(map(str, self.at)),
            "kind": self.kind,
            "use": self.use,
            "module": self.module,
            "built_in": self.ours,
            "found": self.found,
            "files": [str(f) for f in self.files],
            "libraries": list(self.libraries),
        }


def of_recipe(recipe: BaseModel, folder: Path) -> list[PluginFiles]:
    """Every plug-in a recipe names, in its order. Imports none of them."""
    return [files_of_plugin(kind, plug, folder, at) for at, kind, plug in _plugs(recipe, ())]


def files_of_plugin(kind: Kind, plug: PluginSpec, folder: Path, at: KeyPath = ()) -> PluginFiles:
    """The files of one plug-in."""
    where, colon, _ = plug.use.rpartition(":")
    if not colon:
        where = names(kind).get(plug.use, "").partition(":")[0]
    if where.endswith(".py"):
        path = (folder / where).resolve()
        files, libraries = _closure([path], path.stem)
        return PluginFiles(at, kind, plug.use, None, files, libraries, path.is_file())
    start = _module_files(where) if where else []
    files, libraries = _closure(start[-1:], where)
    packages = [f for f in start[:-1] if f not in files]
    return PluginFiles(at, kind, plug.use, where or None, (*files, *packages), libraries, bool(start))


def score_hash(kind: Kind, plug: PluginSpec, instance: Any, folder: Path) -> str:
    """Hash of a plug-in's own code, of the code of its package it uses, and of every parameter, defaults included."""
    found = files_of_plugin(kind, plug, folder)
    digest = hashlib.sha256()
    for path in sorted(found.files, key=lambda p: (p.name, str(p))):
        if path.is_file():
            digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    parameters = asdict(instance) if is_dataclass(instance) and not isinstance(instance, type) else plug.params
    digest.update(json.dumps([plug.use.rpartition(":")[2], parameters], sort_keys=True, default=str).encode())
    return digest.hexdigest()


def _plugs(value: Any, at: KeyPath) -> Iterator[tuple[KeyPath, Kind, PluginSpec]]:
    if isinstance(value, RewardSpec):
        yield at, "rewards", value
    elif isinstance(value, NoiseSpec):
        from adapters.data_aug.noise import PRESETS

        if value.use not in PRESETS:
            yield at, "noise", value
    elif isinstance(value, PluginSpec):
        yield at, "tasks", value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _plugs(getattr(value, name), (*at, name))
    elif isinstance(value, list | tuple):
        for n, item in enumerate(value):
            yield from _plugs(item, (*at, n))


def _module_files(name: str) -> list[Path]:
    """Files that importing a dotted module runs, packages first; empty when it is not found or not Python."""
    out: list[Path] = []
    search: list[str] | None = None
    parts = name.split(".")
    for n in range(len(parts)):
        spec = _find(".".join(parts[: n + 1]), search)
        if spec is None:
            return []
        search = list(spec.submodule_search_locations) if spec.submodule_search_locations is not None else []
        if spec.origin and spec.origin.endswith(".py"):
            out.append(Path(spec.origin))
        elif n == len(parts) - 1:
            return []
    return out


def _find(name: str, search: list[str] | None) -> importlib.machinery.ModuleSpec | None:
    # Not importlib.util.find_spec: for a.b it would import a.
    for finder in sys.meta_path:
        if (find := getattr(finder, "find_spec", None)) is not None:
            try:
                spec: importlib.machinery.ModuleSpec | None = find(name, search)
            except (ImportError, ValueError, AttributeError):
                continue
            if spec is not None:
                return spec
    return None


def _closure(start: list[Path], module: str) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """Files reached from `start` by import statements that are local or of the same package, and other packages."""
    # Of this package itself, whose parts all lead to each other, only the plug-ins beside it belong to a plug-in.
    own = module.rpartition(".")[0] if module.startswith("adapters.") else module.partition(".")[0]
    todo, files, libraries = [(path, module) for path in start], [], set()
    while todo:
        path, name = todo.pop(0)
        if path in files:
            continue
        files.append(path)
        for wanted in _imports(path, name):
            root = wanted.partition(".")[0]
            if root in sys.stdlib_module_names:
                continue
            mine = wanted == own or wanted.startswith(f"{own}.")
            found = [] if root in BUILT_IN_PACKAGES and not mine else _module_files(wanted)
            # `from package.module import name` also arrives here as package.module.name.
            if not found and mine:
                continue
            if found and (mine or not _installed(found[-1])):
                todo += [(f, wanted) for f in found if f not in files]
            else:
                libraries.add(root)
    return tuple(files), tuple(sorted(libraries))


def _installed(path: Path) -> bool:
    return bool({"site-packages", "dist-packages"} & set(path.parts))


def _imports(path: Path, module: str) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in _executed(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                base = ".".join([*parents[: len(parents) - node.level + 1], *([base] if base else [])])
            if base:
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names)


_HOLDS_STATEMENTS = (ast.stmt, ast.excepthandler, ast.match_case)


def _executed(tree: ast.AST) -> Iterator[ast.AST]:
    """All statements but those that only a type checker sees."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, _HOLDS_STATEMENTS):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for other in node.orelse:
                yield other
                yield from _executed(other)
            continue
        yield node
        yield from _executed(node)
