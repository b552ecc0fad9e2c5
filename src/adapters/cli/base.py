"""`adapters base`: folders of base models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from typer import Argument, Option, Typer

from adapters.cli.errors import errors
from adapters.cli.options import AsJson

app = Typer(help="Folders of base models.")


@app.command("text-only")
def text_only(
    base: Annotated[str, Argument(metavar="BASE", help="Hub id or folder of a vision-language model.")],
    out: Annotated[Path, Option("-o", "--out", help="The text model's new folder; it must not exist.")],
    revision: Annotated[str | None, Option(help="Branch, tag or commit on the Hub.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write the text model of a vision-language checkpoint, for vLLM and as model.base.

    Both models are compared on a text before anything is written.
    """
    from adapters.console import console, quiet

    with errors():
        screen = console(stderr=True)
        with quiet(None), screen.status("reading the base model"):
            from adapters.backends.local import text_only
            from adapters.backends.local.base_model import resolve

            facts = text_only.make(resolve(base, revision), out)
        if as_json:
            print(json.dumps({"folder": str(out), **facts}))
            return
        outer = facts["wrapper"]["architecture"]
        screen.print(
            f"{out}: {facts['class']}, {facts['parameters']:,} parameters; on text its logits are those of {outer} "
            f"(largest difference {facts['difference']:.1g}).\nTrain on it with model.base={out}.",
            soft_wrap=True,
        )
