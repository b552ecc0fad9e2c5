"""Extraction through a server that speaks OpenAI's chat completions."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from adapters import parallel
from adapters.backends.adapter_folder import CONFIG
from adapters.backends.constraint import Constraint
from adapters.chat_client import Connection, PromptRefused, ServerError
from adapters.errors import UserError
from adapters.extraction.adapter_source import Source
from adapters.extraction.constraining import constraint_of, takes_grammars
from adapters.extraction.engine import WINDOW, Answer, DrawEngine, Drawing, Group, Options, Request
from adapters.extraction.vllm_probe import PROBE, PROBE_TOKENS, Greedy, has_effect
from adapters.files import read_json
from adapters.types import Drawn, Example


@dataclass(frozen=True, slots=True)
class EndpointEngine:
    """An engine. See `adapters.extraction.engine.Engine`."""

    connection: Connection
    max_new_tokens: int
    extra: dict[str, Any]
    """The optional fields of a request that the server takes: constrained output, the thinking switch."""
    thinking: bool = False
    source: Constraint | None = None
    """The constraint whose grammar each request carries."""

    @classmethod
    def connect(
        cls, source: Source, options: Options, note: Callable[[str], None], *, several: bool = False
    ) -> EndpointEngine:
        """Reach the server, choose the model, and test which optional fields it takes."""
        constraint = constraint_of("endpoint", source, options.constrain, several=several)
        url = options.endpoint or ""
        connection = Connection.open(url, options.model, options.api_key_env, options.concurrency)
        extra: dict[str, Any] = {"chat_template_kwargs": {"enable_thinking": source.model.thinking}}
        try:
            _check_adapter(connection, _names_of_base(source), note)
            held = constraint is not None and constraint.how == "source" and takes_grammars(connection, note)
            if constraint is not None and not held:
                named = {"name": "answer", "schema": source.task.answer_schema()}
                extra = {"response_format": {"type": "json_schema", "json_schema": named}, **extra}
            extra = _accepted(connection, extra, note)
            return cls(connection, options.max_new_tokens, extra, source.model.thinking, constraint if held else None)
        except ServerError as error:
            raise UserError(f"--endpoint: {error}") from None

    def __call__(self, requests: Iterable[Request]) -> Iterator[Answer]:
        """Answers as they come. Raises RuntimeError when the server stops answering."""
        return parallel.each(self._answer, requests, threads=self.connection.concurrency, window=WINDOW)

    def fields(self, text: str | None) -> dict[str, Any]:
        """The optional fields of a request about a text."""
        if self.source is None:
            return self.extra
        # vLLM's own field, which servers without it refuse or ignore.
        return {"structured_outputs": {"grammar": self.source.grammar(text)}, **self.extra}

    def _answer(self, request: Request) -> Answer:
        try:
            [completion] = self.connection.complete(
                request.prompt,
                temperature=0,
                max_tokens=self.max_new_tokens,
                extra=self.fields(request.text),
                thinking=self.thinking,
            )
        except PromptRefused as refusal:
            return Answer(request.row, error=f"refused: {refusal.reason}")
        return Answer(request.row, completion.text, completion.tokens, completion.cut)


def endpoint_draws(source: Source, drawing: Drawing, options: Options, note: Callable[[str], None]) -> DrawEngine:
    """Several answers to each prompt, one request each, so that a server's tokens and seed are of one answer."""
    engine = EndpointEngine.connect(source, options, note, several=True)
    connection = engine.connection

    def answer(item: tuple[int, Example]) -> Group:
        row, example = item
        answers: list[Drawn] = []
        fields = engine.fields(example.meta.get("text"))
        for seed in drawing.seeds(example.id):
            try:
                [completion] = connection.complete(
                    example.prompt,
                    temperature=0 if seed is None else drawing.temperature,
                    max_tokens=engine.max_new_tokens,
                    extra=fields | ({} if seed is None else {"seed": zlib.crc32(seed.encode())}),
                    thinking=engine.thinking,
                )
            except PromptRefused as refusal:
                return Group(row, error=f"refused: {refusal.reason}")
            answers.append(Drawn(completion.text, completion.tokens, completion.cut))
        return Group(row, answers)

    def draw(examples: Sequence[Example], wanted: Callable[[int], bool]) -> Iterator[Group]:
        rows = ((n, example) for n, example in enumerate(examples) if wanted(n))
        return parallel.each(answer, rows, threads=connection.concurrency, window=WINDOW)

    return draw


def _names_of_base(source: Source) -> set[str]:
    return {source.model.base, str(read_json(source.adapter / CONFIG).get("base_model_name_or_path"))}


def _check_adapter(connection: Connection, base: set[str], note: Callable[[str], None]) -> None:
    """Raise UserError when the server's model is the base, or is an adapter that changes nothing of its base."""
    name, models = connection.model, {str(m["id"]): m for m in connection.served}
    chosen = models.get(name, {})
    parent = str(chosen.get("parent") or "")
    if not parent and base & {name, str(chosen.get("root"))}:
        others = [other for other, model in models.items() if model.get("parent")]
        raise UserError(
            f"--endpoint: {name} on {connection.url} is the base model, without the adapter. "
            + (f"Name the adapter: --model {others[0]}." if others else "Start vLLM with --enable-lora --lora-modules.")
        )
    if parent not in models:
        note(f"the server does not say that {name} is an adapter on a base; that it has an effect was not checked")
        return
    asked = [
        Greedy(*(zip(*steps, strict=True) if steps else ((), ())))
        for steps in (connection.log_probabilities(PROBE, model, PROBE_TOKENS) for model in (parent, parent, name))
    ]
    if not all(answer.tokens for answer in asked):
        note(f"the server gives no log-probabilities; that {name} changes {parent} was not checked")
    elif not has_effect(*asked):
        raise UserError(
            f"--endpoint: {connection.url} loads {name} and does not apply it: the answer to a probe has the same "
            f"log-probabilities as that of {parent}. Its file may lack the names of the class that the server runs "
            "(adapters publish writes both)."
        )


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
            connection.complete([{"role": "user", "content": "[]"}], temperature=0, max_tokens=8, extra=fields)
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
