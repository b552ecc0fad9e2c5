"""`adapters env`: what a bug report needs to know of this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer import Typer

from adapters.cli.options import AsJson

app = Typer()


@app.command()
def env(as_json: AsJson = False) -> None:
    """Print versions, devices and settings of this machine, for a bug report.

    It holds no token, no secret and no home folder. Read it before you paste it all the same.
    """
    from adapters.console import console, quiet
    from adapters.environment import describe

    with quiet(None):
        found = _shareable(describe())
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        console().print("\n".join(_lines(found)), markup=False, highlight=False, soft_wrap=True)


def _shareable(value: Any) -> Any:
    """The value with secrets as *** and the home folder as ~."""
    from adapters.secrets import redact

    if isinstance(value, dict):
        return {key: _shareable(inner) for key, inner in value.items()}
    return redact(value).replace(str(Path.home()), "~") if isinstance(value, str) else value


def _lines(found: dict[str, Any]) -> Iterator[str]:
    for name, value in found.items():
        if isinstance(value, dict):
            yield f"{name}:"
            yield from (f"  {key}: {'unknown' if inner is None else inner}" for key, inner in value.items())
        else:
            yield f"{name}: {value}"
