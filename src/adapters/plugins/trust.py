"""Consent to plug-in code of a run folder or adapter that was not made here.

`run` gives its run folder a random token and records, in the user's state folder, which code it imported. Code of a
folder whose token is unknown there, or that is not the recorded code, is imported only after a yes. The state folder is
`$XDG_STATE_HOME/extraction-adapters` (XDG Base Directory Specification), by default below `~/.local/state`:

runs/TOKEN.json      the recipe's folder, and for each plug-in its files with their hashes
allowed/HASH.json    the files that a person allowed, with their hashes
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.errors import Refused, UserError, visible
from adapters.files import read_json, sha256, write_json
from adapters.plugins.registry import names, offered
from adapters.plugins.source_files import PluginFiles

ORIGIN = "origin.json"
"""File of a run folder: the folder of its recipe, and its token."""
SHOWN = 16
"""Digits of a hash that a list shows."""


@dataclass(frozen=True)
class Consent:
    """What a person says about code that was not run here. By default it is refused."""

    given: bool = False
    ask: Callable[[str], bool] | None = None
    """Shows the list of files and returns the answer; None where nobody can be asked."""


def admit(plugins: Iterable[PluginFiles], folder: Path, consent: Consent) -> None:
    """Return if the plug-ins of a run folder or adapter may be imported. Raises Refused, with the list, if not."""
    if not _is_known(folder):
        os.environ["PYTHONSAFEPATH"] = "1"  # the folder may be the working directory, where processes would look first
    _ask(unknown_here(plugins, folder), folder, consent)


def admit_recipe(plugins: Iterable[PluginFiles], folder: Path, consent: Consent) -> None:
    """The same for a recipe that is only read: code in its own folder needs no yes."""
    root = folder.resolve()
    outside = [p for p in plugins if not all(f.resolve().is_relative_to(root) for f in _first_files(p))]
    _ask(unknown_here(outside, folder), folder, consent)


def _ask(unknown: Sequence[PluginFiles], folder: Path, consent: Consent) -> None:
    if unknown and not consent.given:
        title = f"{visible(folder.resolve())} names code that was not run on this machine, or that has changed since:"
        question = "\n".join([title, *listing(unknown)])
        if consent.ask is None:
            raise Refused(f"{question}\nNothing of it was imported. Read it first; --trust imports it.")
        if not consent.ask(question):
            raise Refused("Nothing was imported.")
        for plugin in unknown:
            _write(state_folder() / "allowed" / f"{_key(plugin)}.json", {"use": plugin.use, "files": _hashes(plugin)})
    for plugin in unknown:
        _remove_compiled(_code(plugin))


def unknown_here(plugins: Iterable[PluginFiles], folder: Path) -> list[PluginFiles]:
    """The plug-ins whose code neither `run` imported for this folder nor a person allowed."""
    recorded = _recorded(folder)
    named = [p for p in plugins if not is_registered(p) and not _is_absent(p)]
    return [p for p in named if not _was_run(p, recorded, folder) and not _is_allowed(p)]


def is_registered(plugin: PluginFiles) -> bool:
    """Whether all of its code belongs to this project or to an entry point of an installed package."""
    return not plugin.schema_files and _name_is_registered(plugin)


def _name_is_registered(plugin: PluginFiles) -> bool:
    _, colon, attribute = plugin.use.rpartition(":")
    if not colon or offered(plugin.kind, plugin.use, plugin.at):
        return True
    return plugin.module is not None and f"{plugin.module}:{attribute}" in names(plugin.kind).values()


def _first_files(plugin: PluginFiles) -> list[Path]:
    """The files that its names lead to; none where nothing was found."""
    own = [] if _name_is_registered(plugin) else list(plugin.files[:1]) or [Path(plugin.use)]
    return [*own, *plugin.schema_files]


def _code(plugin: PluginFiles) -> list[Path]:
    return [*(() if _name_is_registered(plugin) else plugin.files), *plugin.schema_files]


def sign(folder: Path, recipe_folder: Path, plugins: Iterable[PluginFiles]) -> bool:
    """Write a run folder's origin and token, and record its code in the state folder. Returns whether that worked."""
    # A folder that came with a token of elsewhere gets its own.
    token = (_token(folder) if _is_known(folder) else None) or secrets.token_hex(16)
    write_json(folder / ORIGIN, {"folder": str(recipe_folder.resolve()), "token": token})
    own = {_name(p): _hashes(p) for p in plugins if not is_registered(p)}
    return _write(_record_file(token), {"folder": str(recipe_folder.resolve()), "plugins": own}) or not own


def listing(plugins: Iterable[PluginFiles]) -> Iterator[str]:
    """Lines that name each plug-in, its files with their hashes, and the packages that these import."""
    for p in plugins:
        yield f"  {'.'.join(map(str, p.at)) or p.kind}: {visible(p.use)}"
        yield from (f"    {visible(file)}  sha256 {digest[:SHOWN]}" for file, digest in _hashes(p).items())
        if not _code(p):
            yield f"    the module {visible(p.use.rpartition(':')[0])}, which has no Python source"
        if p.libraries:
            yield f"    and the packages {visible(', '.join(p.libraries))}"


def own_code(plugins: Sequence[PluginFiles]) -> list[PluginFiles]:
    """The plug-ins that are neither built in nor registered by an installed package."""
    return [p for p in plugins if p.found and not is_registered(p)]


def state_folder() -> Path:
    """Where this user's records are."""
    given = os.environ.get("XDG_STATE_HOME", "")  # the specification says to ignore relative paths
    root = Path(given) if os.path.isabs(given) else Path(os.path.expanduser("~")) / ".local" / "state"
    return root / "extraction-adapters"


def _token(folder: Path) -> str | None:
    token = read_json(folder / ORIGIN).get("token")
    return token if isinstance(token, str) and re.fullmatch("[0-9a-f]{32}", token) else None


def _record_file(token: str) -> Path:
    return state_folder() / "runs" / f"{token}.json"


def _is_known(folder: Path) -> bool:
    token = _token(folder)
    return token is not None and _record_file(token).is_file()


def _recorded(folder: Path) -> Mapping[str, Any]:
    token = _token(folder)
    plugins = read_json(_record_file(token)).get("plugins") if token else None
    return plugins if isinstance(plugins, dict) else {}


def _was_run(plugin: PluginFiles, recorded: Mapping[str, Any], folder: Path) -> bool:
    # A file outside the run folder is the user's own, and may be edited. One inside may have come with the folder.
    if (held := recorded.get(_name(plugin))) is None:
        return False
    inside = any(file.resolve().is_relative_to(folder.resolve()) for file in _code(plugin))
    return not inside or bool(_hashes(plugin) == held)


def _is_allowed(plugin: PluginFiles) -> bool:
    return (state_folder() / "allowed" / f"{_key(plugin)}.json").is_file()


def _is_absent(plugin: PluginFiles) -> bool:
    # What does not exist cannot run; resolving it gives a message of its own.
    where, colon, _ = plugin.use.rpartition(":")
    if plugin.found or not colon:
        return False
    try:
        return where.endswith(".py") or importlib.util.find_spec(where.partition(".")[0]) is None
    except (ImportError, ValueError):
        return False


def _name(plugin: PluginFiles) -> str:
    where = plugin.files[0].resolve() if plugin.files else plugin.module or plugin.use.rpartition(":")[0]
    schemas = "".join(f" {file.resolve()}" for file in plugin.schema_files)
    return f"{where}:{plugin.use.rpartition(':')[2]}{schemas}"


def _key(plugin: PluginFiles) -> str:
    return hashlib.sha256(json.dumps([_name(plugin), _hashes(plugin)], sort_keys=True).encode()).hexdigest()


def _hashes(plugin: PluginFiles) -> dict[str, str]:
    hashes = {}
    for file in _code(plugin):
        try:
            hashes[str(file)] = sha256(file)
        except OSError:
            hashes[str(file)] = "unreadable"
    return hashes


def _write(path: Path, value: Any) -> bool:
    # One file for each record: processes that write at the same time cannot damage each other's.
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_json(path, value)
    except OSError:
        return False
    return True


def _remove_compiled(files: Iterable[Path]) -> None:
    # Python would run a compiled copy that came along instead of the file that was listed.
    for file in files:
        compiled = Path(importlib.util.cache_from_source(str(file)))
        with suppress(OSError):
            compiled.unlink()
        if compiled.exists():
            raise UserError(f"{compiled} would be run in place of {file} and cannot be removed. Copy the folder.")
