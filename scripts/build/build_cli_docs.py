"""Write docs/cli.md, the reference of the command, from the help of every verb.

python scripts/build/build_cli_docs.py
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command
from typer.testing import CliRunner

from adapters.cli.help import EXAMPLES
from adapters.cli.main import app

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
WIDTH = 110
HEAD = """# The command

The help of every verb, as `adapters VERB --help` prints it. This page is generated: `make cli-docs` writes it again.

Parameters of a task or a reward are given by `--set KEY=VALUE`, recipe keys by `stages.1.beta=0.01` after the recipe.
`adapters --install-completion` installs completion for your shell. Exit codes: 0 done, 1 failed work, 2 wrong input,
3 refused by a budget or a gate.
"""


def page() -> str:
    """The whole page."""
    return HEAD + "".join(_sections(get_command(app), ()))


def _sections(command: Any, path: tuple[str, ...]) -> Iterator[str]:
    result = CliRunner().invoke(app, [*path, "--help"], prog_name="adapters", terminal_width=WIDTH)
    heading = f"{'##' if len(path) < 2 else '###'} {' '.join(('adapters', *path))}"
    yield f"\n{heading}\n\n```text\n{result.stdout.strip()}\n```\n"
    verbs = {name: verb for name, verb in getattr(command, "commands", {}).items() if not verb.hidden}
    for name in sorted(verbs, key=lambda name: list(EXAMPLES).index(" ".join((*path, name)))):
        yield from _sections(verbs[name], (*path, name))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
