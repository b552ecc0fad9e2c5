"""Extraction through a server that speaks OpenAI's chat completions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from adapters import parallel
from adapters.chat_client import Completion, Connection, PromptRefused, ServerError
from adapters.errors import UserError
from adapters.extraction.adapter_source import Source
from adapters.extraction.engine import WINDOW, Answer, Options, Request
from adapters.types import Message


@dataclass(frozen=True, slots=True)
class EndpointEngine:
    """An engine. See `adapters.extraction.engine.Engine`."""

    connection: Connection
    max_new_tokens: int
    extra: dict[str, Any]
    """The optional fields of a request that the server takes: constrained output, the thinking switch."""

    @classmethod
    def connect(cls, source: Source, options: Options, note: Callable[[str], None]) -> EndpointEngine:
        """Reach the server, choose the model, and test which optional fields it takes."""
        url = options.endpoint or ""
        connection = Connection.open(url, options.model, options.api_key_env, options.concurrency)
        schema = {"name": "answer", "schema": source.task.answer_schema()}
        extra: dict[str, Any] = {"chat_template_kwargs": {"enable_thinking": source.model.thinking}}
        if options.constrain and schema["schema"] is not None:
            extra = {"response_format": {"type": "json_schema", "json_schema": schema}, **extra}
        try:
            return cls(connection, options.max_new_tokens, _accepted(connection, extra, note))
        except ServerError as error:
            raise UserError(f"--endpoint: {error}") from None

    def __call__(self, requests: Iterable[Request]) -> Iterator[Answer]:
        """Answers as they come. Raises RuntimeError when the server stops answering."""
        return parallel.each(self._answer, requests, threads=self.connection.concurrency, window=WINDOW)

    def _answer(self, request: Request) -> Answer:
        try:
            completion = _complete(self.connection, request.prompt, self.max_new_tokens, self.extra)
        except PromptRefused as refusal:
            return Answer(request.row, error=f"refused: {refusal.reason}")
        return Answer(request.row, completion.text, completion.tokens, completion.cut)


def _complete(connection: Connection, prompt: Iterable[Message], max_tokens: int, extra: dict[str, Any]) -> Completion:
    [completion] = connection.complete(list(prompt), temperature=0, max_tokens=max_tokens, extra=extra)
    return completion


def _accepted(connection: Connection, extra: dict[str, Any], note: Callable[[str], None]) -> dict[str, Any]:
    """The fields of `extra` that the server takes, found with short requests. Raises ServerError for other refusals."""
    thinking = "on" if extra["chat_template_kwargs"]["enable_thinking"] else "off"
    notes = {
        "response_format": "the server does not take response_format: its output is checked, not constrained",
        "chat_template_kwargs": "the server does not take chat_template_kwargs: see that it serves the model with "
        f"thinking {thinking}",
    }

    def refusal_of(fields: dict[str, Any]) -> PromptRefused | None:
        try:
            _complete(connection, [{"role": "user", "content": "[]"}], 8, fields)
        except PromptRefused as refusal:
            return refusal
        return None

    refusal = refusal_of(extra)
    for name, text in notes.items():
        if refusal is not None and name in extra:
            fewer = {key: value for key, value in extra.items() if key != name}
            refusal_of_fewer = refusal_of(fewer)
            if refusal_of_fewer is None or refusal_of_fewer.reason != refusal.reason:
                extra, refusal = fewer, refusal_of_fewer
                note(text)
    if refusal is not None:
        raise refusal
    return extra
