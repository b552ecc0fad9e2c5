"""`accelerate launch -m adapters recipe.yaml [key=value …]`, and `python -m adapters VERB …`."""

from __future__ import annotations

import sys
from pathlib import Path

from adapters.cli.main import app, run_file

if __name__ == "__main__":
    if len(sys.argv) > 1 and Path(sys.argv[1]).suffix in (".yaml", ".yml"):
        recipe = sys.argv.pop(1)
        run_file(recipe)
    else:
        app(prog_name="adapters")
