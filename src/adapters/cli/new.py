"""`adapters new`: the shipped recipes, and copies of them to change."""

from __future__ import annotations

import difflib
import json
import re
import textwrap
from pathlib import Path
from typing import Annotated, NamedTuple

from typer import Argument, Option, Typer

from adapters.cli.errors import errors
from adapters.cli.options import AsJson
from adapters.errors import UserError

app = Typer()
HEADER = re.compile(r"(?m)^# yaml-language-server: .*\n((?:#.*\n)*)")
"""The editor's line of a shipped recipe, which names a schema beside it, and the comment below."""
COMMAND = re.compile(r"(make \w+ +or +)?(accelerate launch|adapters run) recipes/\w+\.yaml")
"""How a comment in the repository starts its recipe."""


class Shipped(NamedTuple):
    """A shipped recipe: what its first comment and its keys say."""

    path: Path
    text: str

    @property
    def comment(self) -> list[str]:
        """The paragraphs of its first comment, their lines without the number sign."""
        match = HEADER.search(self.text)
        lines = [line.removeprefix("#").removeprefix(" ") for line in match[1].splitlines()] if match else []
        return [paragraph for paragraph in "\n".join(lines).strip("\n").split("\n\n") if paragraph]

    @property
    def summary(self) -> str:
        """The first sentence of its comment."""
        return re.split(r"(?<=\.)\s", " ".join(" ".join(self.comment[:1]).split()))[0]

    @property
    def files(self) -> list[str]:
        """The data files that it reads, below `data_root`."""
        return sorted(set(re.findall(r"\bpath: *([^\s,}]+)", re.sub(r"(?m)(^| )#.*", "", self.text))))

    @property
    def needs(self) -> str:
        """Its base model and where that comes from, the service it trains on, and its data files."""
        base = re.search(r"\bbase: *\"?([^\s,}\"]+)", self.text)
        name = base[1] if base else ""
        model = f"{name[5:]} from a package index" if name.startswith("pypi:") else f"{name} from the Hub"
        service = ["a Tinker API key"] if re.search(r"(?m)^trainer: tinker", self.text) else []
        return ", ".join([model, *service, *([f"data ({_few(self.files)})"] if self.files else [])])


@app.command()
@errors()
def new(
    name: Annotated[str | None, Argument(help="Of your recipe; the file is NAME.yaml.")] = None,
    source: Annotated[str, Option("--from", help="The shipped recipe to copy.")] = "quickstart",
    listed: Annotated[bool, Option("--list", help="List the shipped recipes and what each needs.")] = False,
    as_json: AsJson = False,
) -> None:
    """Copy a shipped recipe to start one of your own, or list them."""
    recipes = shipped()
    overview = "\n".join(f"{key}: {r.summary}\n    Needs {r.needs}." for key, r in recipes.items())
    if listed and as_json:
        print(json.dumps({key: {"summary": r.summary, "needs": r.needs} for key, r in recipes.items()}))
    elif listed:
        print(overview)
    elif name is None:
        raise UserError("name your recipe, such as adapters new mine --from quickstart; --list shows all.")
    elif source not in recipes:
        near = difflib.get_close_matches(source, recipes, 1)
        suggestion = f" Did you mean {near[0]}?" if near else ""
        raise UserError(f"no shipped recipe is called {source!r}.{suggestion} There are:\n{overview}")
    else:
        print(_write(recipes, source, name))


def shipped() -> dict[str, Shipped]:
    """The shipped recipes by name, from the package or the checkout."""
    inside = Path(__file__).parents[1] / "recipes"
    folder = inside if inside.is_dir() else Path(__file__).parents[3] / "recipes"
    paths = sorted(folder.glob("*.yaml"), key=lambda path: (path.stem != "quickstart", path.stem))
    return {path.stem: Shipped(path, path.read_text(encoding="utf-8")) for path in paths}


def _write(recipes: dict[str, Shipped], source: str, name: str) -> str:
    """Write the copy NAME.yaml; returns what to do next. Raises UserError, and then nothing is written."""
    target = Path(f"{name}.yaml")
    if target.exists():
        raise UserError(f"{target} exists already; nothing was written.")
    recipe = recipes[source]
    text = HEADER.sub(lambda _: _comment(recipe, target), recipe.text, count=1)
    # The copy stands elsewhere: files of the repository are named as such.
    text = re.sub(r"(?<![\w/])docs/\w+\.md", r"the project's \g<0>", text)
    text = re.sub(rf"(?<![\w/])({'|'.join(recipes)})\.yaml(?! )", r"the shipped recipe \1", text)
    try:
        target.write_text(text.replace(f"\nname: {source}\n", f"\nname: {name}\n"), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error.strerror}.") from None
    missing = [file for file in recipe.files if not target.with_name(file).exists()]
    if not missing:
        return f"{target} written. Try: adapters run {target} --dry-run"
    return (
        f"{target} written. It reads data files that are not here: {_few(missing)}. Its comment says what they hold.\n"
        f"Try: adapters run {target} data_root=FOLDER --dry-run"
    )


def _comment(recipe: Shipped, target: Path) -> str:
    lines: list[str] = []
    for paragraph in recipe.comment:
        if paragraph.startswith("  "):
            commands = [COMMAND.sub(f"adapters run {target}", c) for c in paragraph.split("\n") if "--launch" not in c]
            lines += ["", *dict.fromkeys(commands)]
        else:
            lines += ["", *textwrap.wrap(" ".join(paragraph.split()), 104, break_on_hyphens=False)]
    return "".join(f"# {line}".rstrip() + "\n" for line in lines[1:])


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
