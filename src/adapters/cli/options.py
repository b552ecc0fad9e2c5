"""Options that several verbs share, each spelled and explained once."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from adapters.errors import UserError

if TYPE_CHECKING:
    from adapters.chat_client import Connection

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe file.")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or one of its stage folders.")]
TrustCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code", help="Agree that the model's own Python code runs, where the recipe asks for it."
    ),
]
AllTables = Annotated[
    bool, typer.Option("--all", help="Print every table: all matching modes, precision, recall, outputs, rewards.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Replace what OUT holds.")]
Seed = Annotated[int, typer.Option("--seed", help="Same seed, same result.")]
TaskName = Annotated[str | None, typer.Option("--task", help="The task of the rows; default: found from the file.")]
Params = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A parameter of the task, as in a recipe; may be repeated."),
]
Temperature = Annotated[float, typer.Option("--temperature", min=0, help="Sampling temperature.")]
MaxTokens = Annotated[int, typer.Option("--max-tokens", min=1, help="Longest completion, in tokens.")]


@dataclass(frozen=True)
class Server:
    """The options that name an OpenAI-compatible server."""

    endpoint: Annotated[
        str | None,
        typer.Option(
            "--endpoint", metavar="URL", help="An OpenAI-compatible server, such as http://localhost:8000/v1."
        ),
    ] = None
    model: Annotated[
        str | None, typer.Option("--model", help="The model's name there; default: the only one it serves.")
    ] = None
    api_key_env: Annotated[
        str | None,
        typer.Option("--api-key-env", metavar="VARIABLE", help="The variable that holds the key; default: no key."),
    ] = None
    concurrency: Annotated[
        int | None, typer.Option("--concurrency", min=1, help="Requests at a time.", show_default="16")
    ] = None

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
    for parameter in inspect.signature(verb).parameters.values():
        named = parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[parameter.name])
        if (group := groups.get(parameter.name)) is None:
            parameters.append(named)
            continue
        field_hints = get_type_hints(group, include_extras=True)
        parameters += [
            named.replace(name=f.name, annotation=field_hints[f.name], default=f.default) for f in fields(group)
        ]

    @functools.wraps(verb)
    def with_groups(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{f.name: values.pop(f.name) for f in fields(group)})
        verb(**values)

    del with_groups.__wrapped__  # typer would read the parameters of the verb itself
    with_groups.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_groups.__annotations__ = {p.name: p.annotation for p in parameters}
    return with_groups


def consent(given: bool) -> None:
    """Remember that the model's own code may run, for this process and those it starts."""
    if given:
        os.environ["ADAPTERS_TRUST_REMOTE_CODE"] = "1"  # a launcher's processes inherit it
