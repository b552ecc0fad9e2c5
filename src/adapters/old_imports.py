"""Old import names of this project's modules, for plug-ins written before the modules moved."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

MOVED = {"rewards": "adapters.rewards", "data_aug": "adapters.data_aug", "adapters.outside": "adapters.integrations"}


class OldImports(MetaPathFinder, Loader):
    """Finds the old names, where no module of the user has such a name.

    First in `sys.meta_path`: Python's own finder takes every folder for a module, also one without code, such as
    `rewards/` with tables.
    """

    def __init__(self) -> None:
        self.said: set[str] = set()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of an old name whose new module exists; None for every other name."""
        old = next((key for key in MOVED if name == key or name.startswith(f"{key}.")), None)
        if old is None or (old != name and not isinstance(sys.modules.get(old), _Renamed)):
            return None  # or a module that is missing in the user's own package of that name
        if old == name and _has_code(PathFinder.find_spec(name, path)):
            return None
        try:
            spec = importlib.util.find_spec(MOVED[old] + name[len(old) :])
        except ModuleNotFoundError:
            return None
        return spec and ModuleSpec(name, self, origin=spec.name, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """A module that takes every attribute from the new one: both names give the same classes."""
        old = next(key for key in MOVED if spec.name == key or spec.name.startswith(f"{key}."))
        # A bare `rewards` may be a folder of the user's that is not on the path: only a module of ours is worth a word.
        if old not in self.said and (spec.name != old or "." in old):
            self.said.add(old)
            print(f"{old} is now {MOVED[old]}: please import it from there.", file=sys.stderr)
        return _Renamed(spec.name, importlib.import_module(str(spec.origin)))

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run: the new module has run already."""


def _has_code(found: ModuleSpec | None) -> bool:
    if found is None or found.origin is not None:
        return found is not None
    folders = [Path(folder) for folder in found.submodule_search_locations or ()]
    return any(next(folder.glob(files), None) for folder in folders for files in ("*.py", "*/*.py"))


class _Renamed(ModuleType):
    def __init__(self, name: str, new: ModuleType) -> None:
        super().__init__(name, new.__doc__)
        self._new, self.__path__ = new, []  # no folder: every submodule is found here again

    def __getattr__(self, name: str) -> object:
        return getattr(self._new, name)
