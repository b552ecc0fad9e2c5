"""From the name of a plug-in to a configured instance.

A plug-in is a frozen dataclass whose fields are its YAML parameters, or a function. It is written `name`,
`package:name`, `module:Class` or `./file.py:Class`. Names come from the entry-point groups `adapters.tasks`,
`adapters.rewards`, `adapters.noise`, `adapters.formats` and `adapters.environments`, and from the noise presets and
families of `adapters.data_aug`. What stands before a colon is a package if an installed one of that (normalised) name
offers such a plug-in, else a module.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import json
import re
import sys
import typing
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from adapters.environment import versions
from adapters.errors import KeyPath, UserError, first_line, hint
from adapters.plugins.own_files import FILE_MODULE as FILE_MODULE
from adapters.plugins.own_files import find, import_file
from adapters.plugins.own_files import load_file as load_file
from adapters.types import JSON_SCHEMA

if TYPE_CHECKING:
    from adapters.recipe.fields import PluginSpec
    from adapters.types import OldParameters

Kind = Literal["tasks", "rewards", "noise", "formats", "environments"]

OWN = "extraction-adapters"
PRESET = "a preset"
"""What stands for `module:Class` of a noise preset."""

OLD_NAMES: dict[str, dict[str, str]] = {
    "tasks": {"valid": "is_well_formed", "nothing": "empty_answer"},
    "rewards": {"exempt": "blind_to"},
}
"""Attributes of plug-ins that were renamed: kind -> old name -> new name. The old name still works."""


class Offer(NamedTuple):
    """A plug-in that an installed package offers by name."""

    package: str
    """The distribution's name, normalised as package indexes do."""
    version: str
    name: str
    target: str
    """`module:Class`."""

    def __str__(self) -> str:
        return f"{self.package}:{self.name} ({f'{self.version}, ' if self.version else ''}{self.target})"


def names(kind: Kind) -> dict[str, str]:
    """Installed plug-ins of a kind: name -> module:Class; `package:name` where several packages use one name."""
    known: dict[str, list[Offer]] = {}
    for offer in _offers(kind, tuple(sys.path)):
        if offer.target != PRESET:
            known.setdefault(offer.name, []).append(offer)
    return {
        f"{offer.package}:{name}" if several else name: offer.target
        for name, offers in sorted(known.items())
        for several in [len(_meanings(kind, name)) > 1]
        for offer in offers
    }


def offered(kind: Kind, use: str, at: KeyPath = ()) -> Offer | None:
    """What an installed package offers under `name` or `package:name`; None for nothing.

    Raises UserError, which lists them, when several packages offer different plug-ins under the name.
    """
    found = _meanings(kind, use)
    if len(found) > 1:
        one = kind.removesuffix("s")
        choices = " and ".join(str(offer) for offer in found)
        fault = f"{len(found)} packages offer the {one} {use!r}: {choices}. Write {found[0].package}:{use}"
        others = "".join(f" or {offer.package}:{use}" for offer in found[1:])
        raise UserError(f"{fault}{others} for the one you mean.", at=at)
    return found[0] if found else None


def preset_of(use: str, at: KeyPath = ()) -> str | None:
    """The noise preset that `name` or `package:name` means; None for other noise. Raises UserError as `offered`."""
    offer = offered("noise", use, at)
    return offer.name if offer and offer.target == PRESET else None


def _meanings(kind: Kind, use: str) -> list[Offer]:
    package, colon, name = use.rpartition(":")
    offers = [offer for offer in _offers(kind, tuple(sys.path)) if offer.name == name]
    offers = [offer for offer in offers if not colon or offer.package == normalised(package)]
    return list({offer.target: offer for offer in reversed(offers)}.values())[::-1]


@functools.cache
def _offers(kind: Kind, path: tuple[str, ...]) -> tuple[Offer, ...]:
    # Reading the metadata of every package takes ten milliseconds, and a plan asks a dozen times.
    own = _built_in_noise() if kind == "noise" else []
    installed = [(point, point.dist) for point in entry_points(group=f"adapters.{kind}")]
    return (
        *own,
        *(Offer(normalised(d.name), d.version, point.name, point.value) for point, d in installed if d is not None),
    )


def _built_in_noise() -> list[Offer]:
    from adapters.data_aug.noise import FAMILIES, PRESETS

    release = versions().get(OWN, "")
    targets = dict.fromkeys(PRESETS, PRESET)  # a preset comes before a family of its name
    targets = {name: f"{family.__module__}:{family.__qualname__}" for name, family in FAMILIES.items()} | targets
    return [Offer(OWN, release, name, target) for name, target in targets.items()]


def normalised(package: str) -> str:
    """A distribution's name, spelt as package indexes compare names."""
    return re.sub(r"[-_.]+", "-", package).lower()  # as PEP 503 has it


def resolve(kind: Kind, plug: PluginSpec, *, folder: Path = Path(), at: KeyPath = ()) -> Any:
    """The plug-in as an instance; `./file.py` starts at `folder`. Raises UserError, which names the key under `at`."""
    target = _target(kind, plug.use, folder, (*at, "use"))
    if isinstance(target, type) and dataclasses.is_dataclass(target):
        return _configure(target, plug, folder, at)
    is_class = isinstance(target, type)
    if plug.params:
        fault = "must be a dataclass to take parameters" if is_class else "is a function and takes no parameters"
        raise UserError(f"{plug.use} {fault}.", at=(*at, next(iter(plug.params))))
    return _made(target, plug, at) if is_class else target


def _made(cls: type, plug: PluginSpec, at: KeyPath) -> Any:
    try:
        return cls()
    except UserError:
        raise
    except Exception as error:  # anyone's code
        raise UserError(f"{plug.use} cannot be made without arguments: {error}", at=at) from None


def _target(kind: Kind, use: str, folder: Path, at: KeyPath) -> Any:
    module_name, colon, attribute = use.rpartition(":")
    if (offer := offered(kind, use, at)) is not None and offer.target != PRESET:
        module_name, _, attribute = offer.target.partition(":")
    elif not colon or _is_package(kind, module_name):
        known = [offer.name for offer in _offers(kind, tuple(sys.path)) if offer.package == normalised(module_name)]
        whose, known = (f" in {module_name}", known) if colon else ("", list(names(kind)))
        raise UserError(
            f"no {kind.removesuffix('s')} is called {attribute!r}{whose}.{hint(attribute, known)} "
            "A plug-in of your own is written module:Class or ./file.py:Class.",
            at=at,
        )
    module = _module(module_name, folder, at)
    target: Any = module
    for name in attribute.split("."):
        target = getattr(target, name, None)
        if target is None:
            public = [name for name in vars(module) if not name.startswith("_")]
            raise UserError(f"{module_name} has no {attribute}.{hint(attribute, public)}", at=at)
    if offer is not None and colon:
        _refuse_second_reading(use, offer, target, at)
    if not callable(target):
        raise UserError(f"{use} is not a class or function.", at=at)
    take_old_names(kind, target, use)
    return target


def _is_package(kind: Kind, name: str) -> bool:
    """Whether a name before a colon is that of a package with plug-ins, and of no module."""
    packages = {offer.package for offer in _offers(kind, tuple(sys.path))}
    return normalised(name) in packages and not name.endswith(".py") and find(name.partition(".")[0]) is None


def _refuse_second_reading(use: str, offer: Offer, target: Any, at: KeyPath) -> None:
    """Raise UserError where `package:name` is also `module:Class` of something else."""
    module, _, attribute = use.rpartition(":")
    if find(module.partition(".")[0]) is None:
        return
    try:
        other = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError):
        return
    if other is not target:
        raise UserError(
            f"{use} means two things: {attribute} of the module {module}, and what the package {offer.package} offers "
            f"under the name {offer.name}. Write {offer.target} for the second; rename one for the first.",
            at=at,
        )


def take_old_names(kind: Kind, target: Any, use: str) -> None:
    """Give a plug-in that defines attributes under their old names the new names too, and say them once."""
    for old, new in OLD_NAMES.get(kind, {}).items():
        owners = getattr(target, "__mro__", (target,))
        # The one that is defined first in the method resolution order counts: a subclass may override an old name.
        named = next((name for owner in owners for name in (new, old) if name in getattr(owner, "__dict__", ())), new)
        if named == old:
            setattr(target, new, getattr(target, old))
            _print_once(f"{use}: the attribute `{old}` is now `{new}`; please rename it.")


def _module(name: str, folder: Path, at: KeyPath) -> Any:
    try:
        if not name.endswith(".py"):
            return importlib.import_module(name)
        path = (folder / name).resolve()
        if not path.is_file():
            near = [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
            raise UserError(f"there is no file {path}.{hint(path.name, near)}", at=at)
        return import_file(path)
    except UserError:
        raise
    except Exception as error:
        here = Path(*name.split(".")).with_suffix(".py")
        remedy = f". There is {here} in this folder: write ./{here}:CLASS." if here.is_file() else ""
        raise UserError(f"importing {name} failed: {type(error).__name__}: {error}{remedy}", at=at) from error


def _renamed(cls: type, plug: PluginSpec, at: KeyPath) -> dict[str, Any]:
    params = dict(plug.params)
    old_parameters: OldParameters = getattr(cls, "old_parameters", {})
    for old, (new, values) in old_parameters.items():
        if old not in params:
            continue
        if new in params:
            raise UserError(f"the old name of {new}, which is given too; remove it.", at=(*at, old))
        value = params.pop(old)
        params[new] = values.get(value, value) if isinstance(value, str) else value
        shown = f"{new}: {params[new]}" if params[new] != value else new
        _print_once(f"{plug.use}: the parameter `{old}` is now `{shown}`; please rename it.")
    return params


@functools.cache
def _print_once(text: str) -> None:
    print(text, file=sys.stderr)


def _configure(cls: type, plug: PluginSpec, folder: Path, at: KeyPath) -> Any:
    from pydantic import TypeAdapter, ValidationError

    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    hints = typing.get_type_hints(cls, include_extras=True)
    schemas: dict[str, Path] = {}
    values: dict[str, Any] = {}
    for name, value in _renamed(cls, plug, at).items():
        if name not in fields:
            raise UserError(f"{plug.use} has no parameter {name!r}.{hint(name, list(fields))}", at=(*at, name))
        if _is_schema(hints[name]) and isinstance(value, str):
            schemas[name], value = folder / value, _schema(value, folder, (*at, name))
        try:
            # YAML has lists only, so a tuple field takes a list; everything else is strict.
            values[name] = TypeAdapter(hints[name]).validate_python(value, strict=not isinstance(value, list | dict))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            key = "" if at else f"{name}: "  # `at` names it, too
            raise UserError(f"{key}{first['msg'].lower()}, not {first['input']!r}.", at=(*at, name)) from None
    for name, field in fields.items():
        if name not in values and dataclasses.MISSING is field.default is field.default_factory:
            raise UserError(f"{plug.use} needs the parameter {name}.", at=at)
    try:
        return cls(**values)
    except (ValueError, TypeError) as error:
        # An error may say in `at` which parameter it is about, and which place in it.
        place: KeyPath = getattr(error, "at", ())
        if place and place[0] in schemas:
            file = schemas[str(place[0])]
            raise UserError(f"{_line_of(file, place[1:])}: {error}", at=(*at, place[0])) from None
        raise UserError(f"{plug.use}: {error}", at=(*at, *place)) from None


def _is_schema(hint: Any) -> bool:
    return JSON_SCHEMA in getattr(hint, "__metadata__", ())


def _schema(given: str, folder: Path, at: KeyPath) -> Any:
    """The JSON Schema of a file, or of a class (`./file.py:Class`, `module:Class`) that pydantic can describe."""
    if ":" in given and not (folder / given).is_file():
        from pydantic import PydanticUserError, TypeAdapter
        from pydantic.errors import PydanticInvalidForJsonSchema

        cls = _target("tasks", given, folder, at)
        try:
            return TypeAdapter(cls).json_schema()
        except (PydanticUserError, PydanticInvalidForJsonSchema) as error:
            reason = first_line(error)
            raise UserError(f"{given} has no JSON Schema: {reason}", at=at) from None
    path = folder / Path(given).expanduser()
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        near = [p.name for p in path.parent.glob("*.json")] if path.parent.is_dir() else []
        raise UserError(f"there is no file {path}.{hint(path.name, sorted(near)[:30])}", at=at) from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: not valid JSON: {error.msg}.", at=at) from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read: {error}", at=at) from None


def _line_of(path: Path, inside: Sequence[str | int]) -> str:
    """A JSON file, and the line on which a place in it begins, where that can be told."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    line = None
    with contextlib.suppress(OSError, ValueError, YAMLError, RecursionError, LookupError, TypeError, AttributeError):
        node = YAML(typ="rt", pure=True).load(path.read_text(encoding="utf-8-sig"))
        for part in inside:
            line = node.lc.data[part][0] + 1
            node = node[part]
    return f"{path}, line {line}" if line else str(path)


def self_contained(plug: Any, instance: Any) -> Any:
    """What a recipe says of a plug-in, with the schemas themselves instead of the files or classes that it names."""
    if not isinstance(plug, dict) or not dataclasses.is_dataclass(instance):
        return plug
    hints = typing.get_type_hints(type(instance), include_extras=True)
    return {
        name: getattr(instance, name) if isinstance(value, str) and _is_schema(hints.get(name)) else value
        for name, value in plug.items()
    }
