"""Help pages: verbs under headings, plain option values, an example at the end. Also old names."""

from __future__ import annotations

import re
import sys
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

HEADINGS = {
    "Start": ("new", "check", "env", "plugins", "schema"),
    "Train": ("run", "eval", "report", "sample"),
    "Use": (
        *("extract", "calibrate", "view", "plan", "annotate", "mine", "graph", "export", "score"),
        *("merge", "publish", "publish-data"),
    ),
    "Data": ("data", "pairs", "rewards", "tasks", "noise", "base"),
}
FIRST_STEPS = (
    ("adapters new --list", "The shipped recipes, and what each needs."),
    ("adapters new mine --from quickstart", "Write mine.yaml, a copy to change."),
    ("adapters run mine.yaml", "Train and evaluate; about five minutes on two CPU cores."),
)
EXAMPLES = {
    "new": "adapters new mine --from quickstart",
    "schema": "adapters schema > schema.json",
    "check": "adapters check mine.yaml stages.1.beta=0.01",
    "env": "adapters env",
    "plugins": "adapters plugins",
    "run": "adapters run mine.yaml stages.0.epochs=2",
    "eval": "adapters eval runs/mine --data test.jsonl",
    "report": "adapters report runs/mine --open",
    "sample": "adapters sample runs/mine train.jsonl -k 8 -o samples.jsonl",
    "calibrate": "adapters calibrate runs/mine held-out.jsonl --test test",
    "extract": "adapters extract runs/mine corpus.parquet -o records.jsonl",
    "plan": "adapters plan 'Prices of laptops' -o program.yaml --endpoint http://localhost:8000/v1 --model large",
    "annotate": "adapters annotate corpus.jsonl -o labelled.jsonl --program program.yaml --endpoint http://localhost:8000/v1",
    "mine": "adapters mine program.yaml runs/proxy corpus.jsonl -o records.jsonl",
    "export": "adapters export records.jsonl --as datacite -o deposit.jsonl --registry ror-data.json",
    "view": "adapters view out.jsonl --open",
    "graph": "adapters graph out.jsonl --corpus corpus.jsonl -o graph",
    "score": "adapters score predictions.jsonl gold.jsonl --scorer corrected",
    "publish": "adapters publish runs/mine --repo owner/name --dry-run",
    "publish-data": "adapters publish-data rows.jsonl --repo owner/name --license statements=cc-by-4.0 --dry-run",
    "merge": "adapters merge runs/mine -o merged",
    "base": "adapters base text-only Qwen/Qwen3.5-9B -o qwen-text",
    "base text-only": "adapters base text-only Qwen/Qwen3.5-9B -o qwen-text",
    "data": "adapters data noise rows.jsonl --preset ocr",
    "data convert": "adapters data convert export.json -o rows.jsonl --rename PER=person",
    "data build-ie": "adapters data build-ie rows.jsonl -o mix --exclude test.jsonl",
    "data build-nte": "adapters data build-nte rows.jsonl -o mine.jsonl --exclude test.jsonl",
    "data noise": "adapters data noise rows.jsonl --preset ocr --level heavy -o degraded.jsonl",
    "data synthesize": "adapters data synthesize funding -n 500 -o rows.jsonl",
    "data score-spans": "adapters data score-spans samples.jsonl rows.jsonl",
    "data merge-shards": "adapters data merge-shards 1.jsonl 2.jsonl -o records.jsonl",
    "pairs": "adapters pairs corrupt -o pairs.jsonl",
    "pairs corrupt": "adapters pairs corrupt -n 200 -o pairs.jsonl",
    "pairs mine": "adapters pairs mine runs/mine -o pairs.jsonl",
    "pairs teach": "adapters pairs teach rows.jsonl --endpoint http://localhost:8000/v1 -o pairs.jsonl",
    "rewards": "adapters rewards list",
    "rewards list": "adapters rewards list",
    "rewards show": "adapters rewards show funding",
    "rewards test": "adapters rewards test ./mine.py:Mine --data rows.jsonl",
    "rewards score": "adapters rewards score funding completions.jsonl",
    "rewards new": "adapters rewards new mine --task funding",
    "tasks": "adapters tasks list",
    "tasks list": "adapters tasks list",
    "tasks show": "adapters tasks show funding",
    "tasks test": "adapters tasks test ./mine.py:Mine --data rows.jsonl",
    "tasks new": "adapters tasks new mine",
    "noise": "adapters noise list",
    "noise list": "adapters noise list",
    "noise new": "adapters noise new mine --package",
}
"""One example for each verb and group."""
OLD_VERBS = {"noise": "data noise", "synthesize": "data synthesize", "extract-merge": "data merge-shards"}
OLD_OPTIONS = {
    "--key": "--api-key-env",
    "--parallel": "--concurrency",
    "--max-new-tokens": "--max-tokens",
    "--reading": "--scorer",
    "--cap": "--max-rows",
}
"""Applied where a verb has the new option."""
SERVER_OPTIONS = ("endpoint", "model", "api_key_env", "concurrency", "temperature")
VALUES = {"path": "PATH", "str": "NAME", "text": "NAME", "int": "N", "integer": "N", "float": "X"}
"""How the help names the type of an option's value that has no name of its own."""


def _write_example(_: Any, ctx: Any, formatter: Any) -> None:
    example = EXAMPLES.get(" ".join(ctx.command_path.split()[1:]))
    if example:
        with formatter.section("Example"):
            formatter.write(f"{'':>{formatter.current_indent}}{example}\n")


class Command(TyperCommand):
    """A verb. Its help names no Python types, and it still takes the old names of its options."""

    format_epilog = _write_example

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments, old option names replaced by the new ones."""
        known = {option for parameter in self.params for option in parameter.opts}
        for n, argument in enumerate(args[: args.index("--")] if "--" in args else args):
            option, sign, value = argument.partition("=")
            if (new := OLD_OPTIONS.get(option)) in known and option not in known:
                print(f"{option} is now {new}.", file=sys.stderr)
                args[n] = f"{new}{sign}{value}"
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The arguments by their names, optional ones in brackets."""
        arguments = [p for p in self.params if p.param_type_name == "argument" and not getattr(p, "hidden", False)]
        return ["[OPTIONS]", *(_argument_name(a) if a.required else f"[{_argument_name(a)}]" for a in arguments)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments and options, the options of a server apart."""
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": [], "Server": []}
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is None:
                continue
            if parameter.param_type_name == "argument":
                heading, name = "Arguments", _argument_name(parameter)
            else:
                heading = "Server" if parameter.name in SERVER_OPTIONS else "Options"
                name = _option_name(record[0])
            sections[heading].append((name, _plain_help(record[1])))
        for heading, rows in sections.items():
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)


class Group(TyperGroup):
    """Verbs under headings. Without arguments it prints its help, and the exit code is 0."""

    format_epilog = _write_example

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; none at all asks for help."""
        return super().parse_args(ctx, args or ([] if ctx.resilient_parsing else ["--help"]))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The verb to run, old names replaced by the new ones."""
        group = getattr(self.get_command(ctx, args[0]), "commands", {})  # `noise` was a verb and is a group
        asked = group and {*args[1:2]} <= {*group, "--help", "-h"}
        if ctx.parent is None and not asked and (new := OLD_VERBS.get(args[0])):
            print(f"adapters {args[0]} is now adapters {new}.", file=sys.stderr)
            args = [*new.split(), *args[1:]]
        return super().resolve_command(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the first steps, the verbs under their headings, and the options."""
        root = ctx.parent is None
        if root:
            with formatter.section("First steps"):
                formatter.write_dl(FIRST_STEPS, col_max=40)
        for heading, names in (HEADINGS if root else {"Verbs": self.list_commands(ctx)}).items():
            helps = {name: str(getattr(self.get_command(ctx, name), "help", None) or "") for name in names}
            with formatter.section(heading):
                formatter.write_dl([(name, text.strip().split("\n")[0]) for name, text in helps.items()])
        records = [parameter.get_help_record(ctx) for parameter in self.get_params(ctx)]
        with formatter.section("Options"):
            formatter.write_dl([record for record in records if record])


def dress(app: typer.Typer) -> None:
    """Give every verb of an app these help pages."""
    for command in app.registered_commands:
        command.cls = Command
    for group in app.registered_groups:
        if group.typer_instance is not None:
            group.cls = Group
            dress(group.typer_instance)


def _argument_name(argument: Any) -> str:
    name = str(argument.metavar or argument.name.upper())
    return name if argument.nargs == 1 or name.endswith(("...", "…")) else f"{name}..."


def _option_name(record: str) -> str:
    """An option with the name of its value: `--data <list[path]>` becomes `--data PATH`."""
    match = re.fullmatch(r"(.* )(<.+>|[A-Z ]+)", record)
    if match is None:
        return record
    kind = re.sub(r"^list\[(.*)\]$", r"\1", match[2].strip("<>").lower()).removesuffix(" range")
    return match[1] + VALUES.get(kind, match[2].strip("<>"))


def _plain_help(text: str) -> str:
    """A help text without the bounds of a number, such as `x>=1`, which only an error needs."""
    words, sign, extra = text.rpartition("  [")
    if not sign:
        return text
    items = [re.sub(r"^default: \((.*)\)$", r"default: \1", item) for item in extra[:-1].split("; ")]
    kept = "; ".join(item for item in items if not re.search(r"[<>]=?x|x[<>]", item))
    return f"{words}  [{kept}]" if kept else words
