"""What constrains the answers of an extraction, and whether its engine can do that."""

from __future__ import annotations

from collections.abc import Callable

from adapters.backends.constraint import Constrain, Constraint, constraint, needs_llguidance
from adapters.chat_client import RETRIED, Connection, PromptRefused, ServerError
from adapters.errors import UserError
from adapters.extraction.adapter_source import Source
from adapters.extraction.engine import Options

_PROBE = r"""%llguidance {}
start: "\"" PLACE "\""
PLACE: CHUNKS & /.+/
CHUNKS: %regex {"substring_chunks": ["constrained"]}"""
_PROBED = '"constrained"'
_FAILURE = 500
"""What vLLM answers where its library for the grammars of all requests is another one."""


def default(engine: str, source: Source, *, several: bool = False) -> Constrain:
    """The word where the user says none: `schema` where vLLM or a server constrains single answers, else `off`."""
    # A server's reasoning parser knows where the answer begins.
    builtin = engine == "endpoint" or (engine == "vllm" and not source.echo and not source.model.thinking)
    builtin = builtin and not several and not source.tags_words
    return "schema" if builtin and source.task.answer_schema() is not None else "off"


def constraint_of(engine: str, source: Source, given: Constrain | None, *, several: bool = False) -> Constraint | None:
    """The constraint of an extraction. Raises UserError before a model is loaded for one that cannot be."""
    how = given or default(engine, source, several=several)
    if how == "off":
        return None
    if source.echo and engine != "endpoint":
        raise UserError(f"constrain: {how} is for models, and an echo run has none. Say off.")
    if source.tags_words:
        raise UserError(f"constrain: {how} is for models that write, and an encoder tags words of the text. Say off.")
    local = engine == "transformers"
    if local:
        needs_llguidance()
    thinking = source.model.thinking and engine != "endpoint"
    return constraint(source.task, how, thinking=thinking, local=local)


def takes_grammars(connection: Connection, note: Callable[[str], None]) -> bool:
    """Whether a server holds answers to a grammar, as vLLM does; told by an answer that no model would give.

    Raises ServerError where the server fails on the grammar.
    """
    fields = {"structured_outputs": {"grammar": _PROBE}}
    try:
        [probed] = connection.complete(
            [{"role": "user", "content": "[]"}],
            temperature=0,
            max_tokens=16,
            extra=fields,
            retried=[status for status in RETRIED if status != _FAILURE],
        )
    except PromptRefused:
        probed = None
    except ServerError as error:
        if f"HTTP {_FAILURE}" not in str(error):
            raise
        raise ServerError(
            f"{connection.url} fails on the grammar of constrain: source. vLLM constrains all answers by the library "
            "that its first constrained request chose, and may have another one: start it again with "
            "--structured-outputs-config.backend guidance, or say --constrain schema"
        ) from None
    if probed is not None and probed.text.strip() == _PROBED:
        return True
    note(
        "the server takes no grammar (vLLM does, by its backend guidance), so constrain: source is not kept to: "
        "answers are constrained by the schema, and strings that are not in the text are counted as absent"
    )
    return False


def held_to(options: Options) -> Constrain:
    """What a server's answers are held to: `schema` where `source` needs a grammar that it does not take.

    Raises UserError where it cannot be asked.
    """
    if options.constrain != "source":
        return options.constrain or "off"
    connection = Connection.open(options.endpoint or "", options.model, options.api_key_env, options.concurrency)
    try:
        return "source" if takes_grammars(connection, lambda _: None) else "schema"
    except ServerError as error:
        raise UserError(f"--endpoint: {error}.") from None
