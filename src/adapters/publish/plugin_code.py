"""The code that a recipe names: local files for the bundle, packages that it needs, and what stays behind."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import packages_distributions, requires, version
from pathlib import Path, PurePosixPath
from typing import Final

from adapters.errors import KeyPath
from adapters.plugins import source_files
from adapters.plugins.own_files import INSTALLED
from adapters.plugins.registry import OWN, normalised
from adapters.plugins.source_files import PluginFiles
from adapters.publish.finished_run import Finished

FOLDER: Final = "code"
"""Folder of the bundle for the files of plug-ins."""


@dataclass(frozen=True)
class PluginCode:
    """What a recipe's own code needs, seen from the bundle."""

    files: Mapping[str, Path]
    """Name in the bundle -> the file."""
    uses: Mapping[KeyPath, str]
    """Key of the recipe -> its `./file.py:Class` in the bundle."""
    requirements: tuple[str, ...]
    """Packages beside those of this project, with their versions, as pip takes them."""
    missing: tuple[str, ...]
    """Why the bundle's recipe cannot be run as it is, a sentence each."""


def of_run(finished: Finished) -> PluginCode:
    """The code of a run's task, rewards and noise. Imports nothing."""
    plugins = [p for p in source_files.of_recipe(finished.recipe, finished.file.folder) if not p.built_in]
    local = [p for p in plugins if p.module is None and p.files]
    places = _places((p.files[0].parent for p in local), finished.file.folder.resolve())
    files: dict[str, Path] = {}
    uses: dict[KeyPath, str] = {}
    missing: list[str] = []
    for plugin in local:
        parent = plugin.files[0].parent
        if not finished.settings.code:
            missing.append(f"the publisher left out the code of `{_class_name(plugin)}` (`publish.code: false`)")
            continue
        for path in plugin.files:
            if path.is_relative_to(parent):
                files[str(places[parent] / path.relative_to(parent).as_posix())] = path
            else:
                missing.append(f"`{_class_name(plugin)}` imports `{path.name}`, which lies outside its folder")
        uses[plugin.at] = f"./{places[parent] / plugin.files[0].name}:{_class_name(plugin)}"
    elsewhere = [p for p in plugins if p.module is not None]
    names = {name for p in plugins for name in p.libraries}
    names |= {str(p.module).partition(".")[0] for p in elsewhere}
    known = _packages()
    ours = _installed_with_us()
    requirements = {f"{d}=={version(d)}" for name in names for d in known.get(name, ()) if normalised(d) not in ours}
    for p in elsewhere:
        root = str(p.module).partition(".")[0]
        if root not in known and not (p.files and not INSTALLED.isdisjoint(p.files[0].parts)):
            missing.append(f"`{p.use}` is a module that is neither in this repository nor in a package")
    return PluginCode(files, uses, tuple(sorted(requirements)), tuple(dict.fromkeys(missing)))


@cache
def _packages() -> Mapping[str, list[str]]:
    # Reading the metadata of every package takes a good part of a second.
    return packages_distributions()


def _installed_with_us() -> set[str]:
    """The packages that installing this project brings, and itself."""
    needed = [line for line in requires(OWN) or () if "extra ==" not in line]
    return {normalised(OWN), *(normalised(re.split(r"[^\w.-]", line)[0]) for line in needed)}


def _class_name(plugin: PluginFiles) -> str:
    return plugin.use.rpartition(":")[2]


def _places(parents: Iterable[Path], root: Path) -> dict[Path, PurePosixPath]:
    """The folder in the bundle of each folder with a plug-in; those under `root` keep their places."""
    out: dict[Path, PurePosixPath] = {}
    for parent in dict.fromkeys(parents):
        if parent.is_relative_to(root):
            out[parent] = PurePosixPath(FOLDER, parent.relative_to(root).as_posix())
            continue
        name, n = PurePosixPath(FOLDER, parent.name or "plugin"), 1
        while name in out.values():
            n += 1
            name = PurePosixPath(FOLDER, f"{parent.name}-{n}")
        out[parent] = name
    return out
