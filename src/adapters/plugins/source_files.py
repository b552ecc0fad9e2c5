"""The source files of a plug-in, and hashes over them. Nothing is imported: a plug-in may be anybody's code."""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from adapters.errors import KeyPath
from adapters.files import sha256
from adapters.old_imports import MOVED, OldImports
from adapters.plugins.own_files import INSTALLED, find, is_neighbour
from adapters.plugins.registry import Kind, offered, preset_of
from adapters.recipe.fields import EnvironmentSpec, NoiseSpec, PluginSpec, RewardSpec

SCORING_PACKAGES = ("adapters.rewards", "adapters.tasks")
"""Of this project's own packages, those whose code decides a score."""


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
    """Other packages that these files import, without the standard library."""
    found: bool = True
    built_in_files: tuple[Path, ...] = ()
    """Scoring code of this project that a plug-in from elsewhere imports."""
    schema_files: tuple[Path, ...] = ()
    """Files of classes that its parameters name (`schema: ./models.py:Invoice`), which using it imports too."""

    @property
    def built_in(self) -> bool:
        """Whether it comes with this project."""
        return self.module is not None and _is_in(self.module, "adapters")

    def as_json(self) -> dict[str, Any]:
        """The same as a JSON object."""
        plain = {name: getattr(self, name) for name in ("kind", "use", "module", "built_in", "found")}
        files = [*self.files, *self.schema_files]
        lists = {"files": [str(f) for f in files], "libraries": list(self.libraries)}
        return {"at": ".".join(map(str, self.at)), **plain, **lists}


def of_recipe(recipe: BaseModel, folder: Path) -> list[PluginFiles]:
    """Every plug-in that a recipe names, in its order."""
    return [files_of_plugin(kind, spec, folder, at) for at, kind, spec in _specs(recipe, ())]


def files_of_plugin(kind: Kind, spec: PluginSpec, folder: Path, at: KeyPath = ()) -> PluginFiles:
    """The files of one plug-in."""
    where = spec.use.rpartition(":")[0]
    if (offer := offered(kind, spec.use, (*at, "use"))) is not None:
        where = offer.target.partition(":")[0]
    module, imported, neighbours = None, list[Module](), None
    if where.endswith(".py"):
        path = (folder / where).resolve()
        imported, neighbours = [Module(path.stem, path)], path.parent
    elif where:
        module = _new_name(where)
        imported = _modules(module)
    modules, libraries = _closure(imported[-1:], neighbours)
    modules += [m for m in imported[:-1] if m not in modules and m.name != "adapters"]
    built_in = [m for m in modules if _is_in(m.name, "adapters") and not _is_in(module or "", "adapters")]
    own = tuple(m.path for m in modules if m not in built_in)
    found = bool(imported) and imported[-1].path.is_file()
    files = tuple(m.path for m in built_in)
    return PluginFiles(at, kind, spec.use, module, own, libraries, found, files, tuple(_schema_files(spec, folder)))


def _schema_files(spec: PluginSpec, folder: Path) -> Iterator[Path]:
    """The code of classes that parameters name (`./models.py:Invoice`, `module:Class`), whose schemas are wanted."""
    for value in spec.params.values():
        name = value.rpartition(":")[0] if isinstance(value, str) and re.fullmatch(r"[\w./~-]+:\w+", value) else ""
        path = (folder / name).resolve() if name.endswith(".py") else None
        start = [Module(path.stem, path)] if path else _modules(name)[-1:] if name else []
        yield from (m.path for m in _closure(start, path and path.parent)[0])


def identity(kind: Kind, spec: PluginSpec, instance: Any, folder: Path, *, built_in_code: bool = False) -> str:
    """What a plug-in computes, as text: its name, its parameters and a hash of its code.

    The code is its own file and those that it imports: neighbours, members of its package, and with `built_in_code`
    this project's rewards and tasks. A parameter that is given its default is as one that is left out. `weight`,
    `on_error`, `timeout` and `max_errors` do not count: they change no score.

    A stage's fingerprint has no built-in code, so that an upgrade of this project does not train again.
    """
    files = files_of_plugin(kind, spec, folder)
    # `package:name` is as `name`: whoever must qualify a name one day trains nothing again.
    plain = offered(kind, spec.use) is not None or not files.built_in
    name = spec.use.rpartition(":")[2] if plain else spec.use
    text = json.dumps({"use": name, **_parameters(instance)}, sort_keys=True, default=str)
    own = () if files.built_in and not built_in_code else files.files
    counted = [path for path in (*own, *(files.built_in_files if built_in_code else ())) if path.is_file()]
    code = sorted((path.name, sha256(path)) for path in counted)
    return f"{text} {hashlib.sha256(json.dumps(code).encode()).hexdigest()}" if code else text


def score_hash(kind: Kind, spec: PluginSpec, instance: Any, folder: Path) -> str:
    """Hash of a plug-in's parameters and of all code that decides its scores."""
    text = identity(kind, spec, instance, folder, built_in_code=True)
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def _parameters(instance: Any) -> dict[str, Any]:
    given = {}
    for f in fields(instance) if is_dataclass(instance) else ():
        default = f.default if f.default_factory is MISSING else f.default_factory()
        if f.init and (value := getattr(instance, f.name)) != default:
            given[f.name] = sorted(value, key=repr) if isinstance(value, set | frozenset) else value
    return given


def _specs(value: Any, at: KeyPath) -> Iterator[tuple[KeyPath, Kind, PluginSpec]]:
    if isinstance(value, RewardSpec):
        yield at, "rewards", value
    elif isinstance(value, EnvironmentSpec):
        yield at, "environments", value
    elif isinstance(value, NoiseSpec):
        if preset_of(value.use, (*at, "use")) is None:
            yield at, "noise", value
    elif isinstance(value, PluginSpec):
        yield at, "tasks", value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _specs(getattr(value, name), (*at, name))
    elif isinstance(value, list | tuple):
        for n, item in enumerate(value):
            yield from _specs(item, (*at, n))


class Module(NamedTuple):
    """A Python module and its file."""

    name: str
    path: Path


def _modules(name: str, folder: Path | None = None) -> list[Module]:
    """The modules that an import (found in `folder`, or on the path) runs, packages first; empty for none."""
    out: list[Module] = []
    search = [str(folder)] if folder else None
    for whole in accumulate(name.split("."), "{}.{}".format):
        spec = find(whole, search)
        if spec is None:
            return []
        search = list(spec.submodule_search_locations or ())
        if spec.origin and spec.origin.endswith(".py"):
            out.append(Module(whole, Path(spec.origin)))
        elif whole == name:
            return []
    return out


@functools.cache
def _own_modules(name: str) -> tuple[Module, ...]:
    """`_modules` of this project's own; they are asked for hundreds of times a plan, and stay where they are."""
    return tuple(_modules(name))


def _new_name(name: str) -> str:
    """The present name of a module of this project; the user's own of an old name stays."""
    root = name.partition(".")[0]
    spec = find(root, None) if root in MOVED else None
    return MOVED[root] + name[len(root) :] if spec and isinstance(spec.loader, OldImports) else name


def _is_in(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def _closure(start: list[Module], neighbours: Path | None) -> tuple[list[Module], tuple[str, ...]]:
    """A module and those of its package, local, in `neighbours` or scoring that it imports; and names of libraries."""
    # Of this project itself, whose parts all lead to each other, only the plug-ins beside it belong to a plug-in.
    packages = [m.name.rpartition(".")[0] if _is_in(m.name, "adapters") else m.name.partition(".")[0] for m in start]
    counted = (*packages, *SCORING_PACKAGES)
    todo, libraries = list(start), set[str]()
    modules: list[Module] = []
    while todo:
        module = todo.pop(0)
        if module.path in [m.path for m in modules]:
            continue
        modules.append(module)
        beside = neighbours if neighbours in module.path.parents else None
        for written in _imports(module.path, module.name):
            folder = beside if beside and is_neighbour(written.partition(".")[0], beside) else None
            wanted = written if folder else _new_name(written)
            root = wanted.partition(".")[0]
            if root in sys.stdlib_module_names:
                continue
            if root == "adapters":
                imported = _own_modules(wanted) if _is_in(wanted, *counted) else ()
            else:
                imported = tuple(_modules(wanted, folder))
            followed = [m for m in imported if _is_in(m.name, *counted) or INSTALLED.isdisjoint(m.path.parts)]
            todo += [m for m in followed if m.name != "adapters"]
            # `from package.module import name` also arrives here as package.module.name.
            if not followed and not _is_in(wanted, *counted):
                libraries.add(root)
    # `from near import NAME` also arrives as near.NAME, which is no module.
    local = {m.name.partition(".")[0] for m in modules}
    return modules, tuple(sorted(libraries - local - {"adapters"}))


def _imports(path: Path, module: str) -> tuple[str, ...]:
    try:
        return _imports_of(path.read_bytes(), path.name, module)
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):  # the last two: nested too deeply
        return ()


@functools.cache
def _imports_of(source: bytes, name: str, module: str) -> tuple[str, ...]:
    return tuple(_imported(ast.parse(source), name, module))


def _imported(tree: ast.AST, name: str, module: str) -> Iterator[str]:
    package = module if name == "__init__.py" else module.rpartition(".")[0]
    for node in _executed(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                base = ".".join([*filter(None, parents[: len(parents) - node.level + 1]), *([base] if base else [])])
            if base:
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names)


def _executed(tree: ast.AST) -> Iterator[ast.AST]:
    """All statements but those that only a type checker sees."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from _executed(ast.Module(node.orelse, []))
        elif isinstance(node, ast.stmt | ast.excepthandler | ast.match_case):
            yield node
            yield from _executed(node)
