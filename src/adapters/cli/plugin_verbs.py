"""What the verbs of `adapters rewards`, `adapters tasks` and `adapters noise` share."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import json
import keyword
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from typer import Argument, Option

from adapters.errors import UserError

if TYPE_CHECKING:
    from adapters.plugins.registry import Kind

TEMPLATES = Path(__file__).parent / "templates"

NewName = Annotated[str, Argument(metavar="NAME", help="A Python name; the files are NAME.py and test_NAME.py.")]
AsPackage = Annotated[
    bool, Option("--package", help="A folder that pip can install: pyproject.toml with the entry point, README, test.")
]


def print_names(kind: Kind, *, as_json: bool) -> None:
    """Print the installed plug-ins of a kind, and where they come from."""
    from adapters.plugins.registry import names

    known = names(kind)
    print(json.dumps(known) if as_json else "\n".join(f"{name:<20} {where}" for name, where in known.items()))


def print_plugin(kind: Kind, name: str, plugin: Any, score_hash: str, *, as_json: bool) -> None:
    """Print a plug-in's documentation, parameters and source files."""
    from adapters.console import console
    from adapters.plugins.source_files import files_of_plugin
    from adapters.recipe.fields import PluginSpec

    files = files_of_plugin(kind, PluginSpec(use=name), Path())
    fields = dataclasses.fields(plugin) if dataclasses.is_dataclass(plugin) else ()
    parameters = {f.name: {"type": str(f.type), "default": getattr(plugin, f.name)} for f in fields}
    text = inspect.getdoc(plugin if inspect.isfunction(plugin) else type(plugin)) or "(no docstring)"
    if as_json:
        print(json.dumps({"doc": text, "parameters": parameters, "score_hash": score_hash, **files.as_json()}))
        return
    lines = [f"{name}: {type(plugin).__module__}", "", text, ""]
    lines += [f"  {key}: {p['type']} = {p['default']!r}" for key, p in parameters.items()]
    lines += ["", f"files: {', '.join(map(str, files.files))}"]
    lines += [f"score hash: {score_hash}  (code and parameters)"]
    console().print("\n".join(lines), markup=False, soft_wrap=True)


def check_module_name(name: str) -> None:
    """Raise UserError for what cannot be a plug-in file's name."""
    if not name.isidentifier() or name.startswith("_"):
        raise UserError(f"{name!r} is not a Python name; use letters, digits and _.")


class Written(NamedTuple):
    """The files of a new plug-in, and its class."""

    file: Path
    test: Path
    cls: str
    package: str | None = None
    """Name of the package, which is its folder, too."""

    def use(self, name: str) -> str:
        """How a recipe names the plug-in."""
        return name if self.package else f"./{self.file}:{self.cls}"

    def next_steps(self, *commands: Sequence[str]) -> str:
        """What to do with the files, as lines to print."""
        first = [["python", "-m", "pytest", self.package or str(self.test)]]
        installed = [["python", "-m", "pip", "install", "-e", f"./{self.package}"]] if self.package else []
        return "\n".join(["Next:", *(f"  {shlex.join(command)}" for command in (*first, *installed, *commands))])


def write_templates(name: str, kind: str, group: Kind, *, package: bool, in_recipe: str, **values: str) -> Written:
    """Write a plug-in and its test from `KIND.txt` and `KIND_test.txt`, alone or as a package that pip can install.

    `in_recipe`: the key of a recipe that names it, with {} for its name. Raises UserError, and then nothing is written.
    """
    check_module_name(name)
    cls, distribution = "".join(word.capitalize() for word in name.split("_")), name.replace("_", "-")
    root = Path(distribution) if package else Path()
    source, test = f"{name}.py", f"test_{name}.py"
    if package:
        source, test = f"src/{name}/__init__.py", f"tests/{test}"
    files = {root / source: f"{kind}.txt", root / test: f"{kind}_test.txt"}
    if package:
        files |= {root / "pyproject.toml": "pyproject.txt", root / "README.md": "package_readme.txt"}
        values |= {"package": distribution, "kind": kind, "group": group, "use": in_recipe.format(name)}
    if existing := [path for path in ((root,) if package else files) if path.exists()]:
        raise UserError(f"{existing[0]} exists already; nothing was written.")
    module = importlib.util.find_spec(name)  # a folder of that name has no origin
    if keyword.iskeyword(name) or name in sys.stdlib_module_names or (module and module.origin):
        raise UserError(f"{name!r} is taken: a file {name}.py would hide a module of Python or of a package.")
    if package:
        _check_new(group, kind, name)
    for path, template in files.items():
        text = (TEMPLATES / template).read_text(encoding="utf-8")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.format(name=name, cls=cls, **values), encoding="utf-8")
    return Written(root / source, root / test, cls, distribution if package else None)


def _check_new(group: Kind, kind: str, name: str) -> None:
    from adapters.plugins.registry import offered

    if offer := offered(group, name):
        raise UserError(f"the {kind} {name!r} exists already, as {offer}: choose a name that recipes can tell apart.")
