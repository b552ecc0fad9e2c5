"""What the verbs of `adapters rewards` and `adapters tasks` share."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import json
import keyword
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters.errors import UserError

if TYPE_CHECKING:
    from adapters.plugins.registry import Kind

TEMPLATES = Path(__file__).parent / "templates"


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


def write_templates(name: str, template: str, **values: str) -> tuple[Path, Path, str]:
    """Write NAME.py and test_NAME.py from `TEMPLATE.txt` and `TEMPLATE_test.txt`; also returns the class's name."""
    paths = Path(f"{name}.py"), Path(f"test_{name}.py")
    if existing := [p for p in paths if p.exists()]:
        raise UserError(f"{existing[0]} exists already; nothing was written.")
    module = importlib.util.find_spec(name)  # a folder of that name has no origin
    if keyword.iskeyword(name) or name in sys.stdlib_module_names or (module and module.origin):
        raise UserError(f"{name!r} is taken: a file {name}.py would hide a module of Python or of a package.")
    cls = "".join(word.capitalize() for word in name.split("_"))
    for path, file in zip(paths, (f"{template}.txt", f"{template}_test.txt"), strict=True):
        text = (TEMPLATES / file).read_text(encoding="utf-8")
        path.write_text(text.format(name=name, cls=cls, **values), encoding="utf-8")
    return *paths, cls
