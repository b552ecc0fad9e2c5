"""What installed packages offer as plug-ins, from where, and whether it can be imported."""

from __future__ import annotations

import json
import typing
from importlib.metadata import Distribution, EntryPoint, entry_points
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import url2pathname

from adapters.errors import UserError
from adapters.plugins.registry import Kind, normalised, offered
from adapters.secrets import redact


class Installed(NamedTuple):
    """A plug-in of an installed package."""

    kind: str
    name: str
    """As a recipe writes it: `package:name` where several packages use one name."""
    package: str
    version: str
    target: str
    """`module:Class`."""
    origin: str
    """The folder or the address that pip installed the package from, else the folder that it lies in."""
    error: str | None
    """Why it cannot be imported, in one line."""


def installed() -> list[Installed]:
    """The plug-ins that entry points of installed packages name, by kind, package and name. Imports each."""
    kinds: tuple[Kind, ...] = typing.get_args(Kind)
    found = [
        Installed(
            kind, _spelling(kind, point, dist), dist.name, dist.version, point.value, _origin(dist), _fault(point)
        )
        for kind in kinds
        for point in entry_points(group=f"adapters.{kind}")
        if (dist := point.dist) is not None
    ]
    return sorted(found, key=lambda plugin: (kinds.index(typing.cast(Kind, plugin.kind)), plugin.package, plugin.name))


def _spelling(kind: Kind, point: EntryPoint, dist: Distribution) -> str:
    try:
        offered(kind, point.name)
    except UserError:
        return f"{normalised(dist.name)}:{point.name}"
    return point.name


def _origin(dist: Distribution) -> str:
    """What pip recorded (PEP 610), secrets left out; else the folder."""
    try:
        record = json.loads(dist.read_text("direct_url.json") or "")
        url = str(record["url"])
        commit = record.get("vcs_info", {}).get("commit_id")
    except (ValueError, LookupError, TypeError, AttributeError):
        return str(dist.locate_file(""))
    parts = urlsplit(url)
    if parts.scheme == "file":
        return url2pathname(parts.path)
    address = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    return redact(f"{address}@{commit}" if commit else address)


def _fault(point: EntryPoint) -> str | None:
    try:
        target = point.load()
    except (Exception, SystemExit) as error:
        lines = str(error).splitlines()
        return redact(f"importing {point.value} failed: {type(error).__name__}: {lines[0] if lines else ''}".rstrip())
    return None if callable(target) else f"{point.value} is not a class or function"
