"""Options that several verbs share, each spelled and explained once."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

from typer import Argument, Option, confirm

from adapters.errors import UserError

if TYPE_CHECKING:
    from adapters.chat_client import Connection
    from adapters.plugins.trust import Consent
    from adapters.recipe.fields import RewardSpec

RecipePath = Annotated[Path, Argument(metavar="RECIPE", help="A recipe file.")]
Overrides = Annotated[list[str] | None, Argument(metavar="KEY=VALUE", help="stages.1.beta=0.01 …")]
RunPath = Annotated[Path, Argument(metavar="RUN", help="A run folder, or one of its stage folders.")]
OutFile = Annotated[Path | None, Option("-o", "--out", help="JSONL file; default: standard output.")]
TrustCode = Annotated[
    bool, Option("--trust-remote-code", help="Run the code of the base model's repository, if the recipe asks.")
]
Trust = Annotated[bool, Option("--trust", help="Import plug-in files that were not run on this machine, unasked.")]
AllTables = Annotated[bool, Option("--all", help="Print every table: all matching modes, P, R, outputs, rewards.")]
AsJson = Annotated[bool, Option("--json", help="Print JSON for programs.")]
Fresh = Annotated[bool, Option("--fresh", help="Replace what OUT holds.")]
Seed = Annotated[int, Option(help="Same seed, same result.")]
TaskName = Annotated[str | None, Option(help="The task of the rows; default: found from the file.")]
Params = Annotated[list[str] | None, Option("--set", metavar="KEY=VALUE", help="A task parameter; may be repeated.")]
RewardParams = Annotated[
    list[str] | None, Option("--reward-set", metavar="KEY=VALUE", help="A parameter of --reward; may be repeated.")
]
HowConstrained = Annotated[
    Literal["schema", "source", "off"] | None,
    Option(
        "--constrain", help="Allow only the task's JSON, or also only the text's strings. Default: docs/extraction.md."
    ),
]
Temperature = Annotated[float, Option(min=0, help="Sampling temperature.")]
MaxTokens = Annotated[int, Option(min=1, help="Longest completion, in tokens.")]


@dataclass(frozen=True)
class Server:
    """The options that name an OpenAI-compatible server."""

    endpoint: Annotated[
        str | None, Option(metavar="URL", help="An OpenAI-compatible server, such as http://localhost:8000/v1.")
    ] = None
    model: Annotated[str | None, Option(help="The model's name there; default: the only one it serves.")] = None
    api_key_env: Annotated[str | None, Option(metavar="VARIABLE", help="The variable that holds the key.")] = None
    concurrency: Annotated[int | None, Option(min=1, help="Requests at a time.", show_default="16")] = None

    def refuse_without_endpoint(self) -> None:
        """Raise UserError for an option that means nothing without --endpoint."""
        given = next((f.name for f in fields(self) if getattr(self, f.name) is not None), None)
        if self.endpoint is None and given:
            raise UserError(f"--{given.replace('_', '-')} needs an --endpoint.")

    def connect(self) -> Connection:
        """Reach the server and choose its model."""
        from adapters.chat_client import Connection

        return Connection.open(self.endpoint or "", self.model, self.api_key_env, self.concurrency)


def grouped(verb: Callable[..., None]) -> Callable[..., None]:
    """Make every field of a verb's dataclass parameters an option of its own."""
    hints = get_type_hints(verb, include_extras=True)
    groups: dict[str, Any] = {name: kind for name, kind in hints.items() if is_dataclass(kind)}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(verb).parameters.items():
        named = parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[name])
        if name not in groups:
            parameters.append(named)
            continue
        kinds = get_type_hints(groups[name], include_extras=True)
        options = fields(groups[name])
        parameters += [named.replace(name=f.name, annotation=kinds[f.name], default=f.default) for f in options]

    @functools.wraps(verb)
    def with_groups(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{f.name: values.pop(f.name) for f in fields(group)})
        verb(**values)

    del with_groups.__wrapped__  # typer would read the parameters of the verb itself
    with_groups.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_groups.__annotations__ = {p.name: p.annotation for p in parameters}
    return with_groups


def reward_spec(name: str | None, parameters: list[str] | None) -> RewardSpec | None:
    """The reward of `--reward` with its parameters; None without one. Raises UserError."""
    from pydantic import ValidationError

    from adapters.recipe.fields import RewardSpec
    from adapters.recipe.load import parse_assignments

    if name is None:
        if parameters:
            raise UserError("--reward-set needs a --reward.")
        return None
    try:
        return RewardSpec.model_validate({**parse_assignments(parameters or []), "use": name})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UserError(f"--reward-set {'.'.join(map(str, first['loc']))}: {first['msg'].lower()}.") from None


def plugin_consent(given: bool) -> Consent:
    """Consent to plug-in code of elsewhere: `--trust`, else a question, where a person sits at the terminal."""
    from adapters.plugins.trust import Consent

    # One of several processes cannot ask: each would, and only one has the terminal.
    alone = os.environ.get("WORLD_SIZE", "1") == "1"
    return Consent(given, _ask if alone and sys.stdin.isatty() and sys.stderr.isatty() else None)


def _ask(question: str) -> bool:
    print(question, file=sys.stderr)
    return confirm("Import these files? The answer yes is remembered for them.", err=True)


def consent(given: bool) -> None:
    """Remember that the model's own code may run, for this process and those it starts."""
    if given:
        os.environ["ADAPTERS_TRUST_REMOTE_CODE"] = "1"  # a launcher's processes inherit it
