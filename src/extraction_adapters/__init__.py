"""The project under a second name, beside AdapterHub's package `adapters`.

`extraction_adapters.X` is the module `adapters.X` of this project, the same object. Once this is imported, `adapters`
means this project in the process and in those that it starts, also where AdapterHub's package is installed. A process
uses one of the two: after AdapterHub's `adapters` has been imported, this raises ImportError.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

_HERE = Path(__file__).resolve().parent
# A wheel holds a copy of the package, which no other package overwrites; a checkout has it beside this folder.
_CODE = str(_HERE / "code" if (_HERE / "code").is_dir() else _HERE.parent)
BESIDE = "ADAPTERS_BESIDE_ADAPTERHUB"
"""Environment variable that tells this process and its children that `adapters` is this project's."""


class _Same(MetaPathFinder, Loader):
    """Gives `extraction_adapters.X` the module `adapters.X`."""

    def __init__(self) -> None:
        self.specs: dict[str, ModuleSpec | None] = {}

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not name.startswith(f"{__name__}."):
            return None
        found = importlib.util.find_spec(f"adapters{name.removeprefix(__name__)}")
        return found and ModuleSpec(name, self, origin=found.name)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(str(spec.origin))
        self.specs[spec.name] = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # The import system has put the second name's spec in its place.
        module.__spec__ = self.specs[str(module.__spec__ and module.__spec__.name)]


def _prefer_own() -> ModuleType:
    loaded = getattr(sys.modules.get("adapters"), "__file__", None)
    if "adapters" in sys.modules and not hasattr(sys.modules["adapters"], "OldImports"):
        raise ImportError(
            f"AdapterHub's `adapters` ({loaded}) is imported in this process already: import extraction_adapters "
            "before it and leave it out, or use another process.",
            name=__name__,
        )
    if loaded is None:
        sys.path.insert(0, _CODE)
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [_CODE, os.environ.get("PYTHONPATH")]))
    os.environ[BESIDE] = "1"
    return importlib.import_module("adapters")


_adapters = _prefer_own()
sys.meta_path.insert(0, _Same())


def __getattr__(name: str) -> object:
    return getattr(_adapters, name)


def command() -> None:
    """The command `extraction-adapters`, which is `adapters` where AdapterHub's package is installed, too."""
    from adapters.cli.main import app

    app(prog_name="extraction-adapters")
