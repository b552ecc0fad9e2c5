"""Import of plug-in files: the files of a folder are a package of their own.

`from materials import …` in a plug-in file means the `materials.py` beside it, whatever another folder or the search
path has under that name. Python's own modules and installed libraries come first. The package's name depends on the
folder's path alone, so that any process can unpickle what its modules define.
"""

from __future__ import annotations

import builtins
import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Sequence
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType
from typing import Any

FILE_MODULE = "adapters_plugin_"
"""Prefix of the packages' names."""
INSTALLED = {"site-packages", "dist-packages"}


def package_of(folder: Path) -> str:
    """Name of the package that the files of a folder are imported in."""
    path = str(folder)
    name = f"{FILE_MODULE}{re.sub(r'[^A-Za-z0-9]', '_', folder.name)}_{hashlib.sha256(path.encode()).hexdigest()[:8]}"
    if name not in sys.modules:
        if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
            sys.meta_path.insert(0, _Finder())
        spec = ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [path]
        sys.modules[name] = module_from_spec(spec)
    return name


def import_file(path: Path) -> ModuleType:
    """Import a plug-in file, given by its resolved path. Raises ImportError, and what its code raises."""
    module = importlib.import_module(f"{package_of(path.parent)}.{path.stem.replace('.', '_')}")
    if module.__file__ != str(path):
        raise ImportError(f"{module.__file__} has the same module name; rename one of them")
    return module


def load_file(path: Path) -> None:
    """Make what a plug-in file, or a file that it imported, defines known to pickle in this process."""
    for folder in path.parents:  # which of them the plug-in file lies in stands in the pickled names
        package_of(folder)


def is_neighbour(module: str, folder: Path) -> bool:
    """Whether a plug-in file in a folder that imports a module of this name (without dots) means one of the folder."""
    if module in sys.stdlib_module_names or module == "adapters":
        return False
    own = PathFinder.find_spec(module, [str(folder)])
    if own is None:
        return False
    other = find(module)
    if other is None:
        return True
    places = [other.origin or "", *(other.submodule_search_locations or ())]
    installed = any(not INSTALLED.isdisjoint(Path(place).parts) for place in places)
    # A folder without Python files of its own, such as `data/`, is a module to Python too: any other comes before it.
    return not installed and (own.origin is not None or other.origin is None)


def find(name: str, search: Sequence[str] | None = None) -> ModuleSpec | None:
    """The spec of a module, found without importing the packages above it."""
    # Not importlib.util.find_spec: for a.b it would import a.
    for finder in sys.meta_path:
        if (find_spec := getattr(finder, "find_spec", None)) is not None:
            try:
                spec: ModuleSpec | None = find_spec(name, search)
            except (ImportError, ValueError, AttributeError):
                continue
            if spec is not None:
                return spec
    return None


class _Finder(MetaPathFinder):
    """Finds the modules of these packages. First in `sys.meta_path`: the standard finder would find them too."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not name.startswith(FILE_MODULE) or path is None:
            return None
        spec = PathFinder.find_spec(name, path) or _dotted(name, path)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


def _dotted(name: str, path: Sequence[str]) -> ModuleSpec | None:
    """The spec of a file with dots in its name, such as `judge.v2.py`, for which the module has `_`."""
    wanted = name.rpartition(".")[2]
    files = [file for folder in path for file in Path(folder).glob("*.*.py")]
    file = next((str(file) for file in files if file.stem.replace(".", "_") == wanted), None)
    return importlib.util.spec_from_file_location(name, file) if file else None


class _Loader(SourceFileLoader):
    """Runs a module whose import statements, those inside its functions too, find its folder's modules."""

    def exec_module(self, module: ModuleType) -> None:
        package = module.__name__.partition(".")[0]
        folder = sys.modules[package].__path__[0]
        # An import statement calls the `__import__` of its own module's builtins.
        imports = partial(_import, package, Path(folder))
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": imports}
        if folder not in sys.path:  # for importlib.import_module; last, so that it hides no library
            sys.path.append(folder)
        super().exec_module(module)


def _import(
    package: str,
    folder: Path,
    name: str,
    globals: Any = None,
    locals: Any = None,
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> Any:
    root = name.partition(".")[0]
    own = f"{package}.{root}"
    if level or not (own in sys.modules or is_neighbour(root, folder)):
        return builtins.__import__(name, globals, locals, fromlist or (), level)
    if fromlist:
        return builtins.__import__(f"{package}.{name}", globals, locals, fromlist)
    importlib.import_module(f"{package}.{name}")
    return sys.modules[own]
