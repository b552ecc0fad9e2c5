"""A server that speaks OpenAI's chat completions: vLLM, SGLang, llama.cpp, `transformers serve`, or a hosted one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import urllib3

from adapters import parallel
from adapters.chat_client import ROW_ERRORS
from adapters.errors import UserError, hint
from adapters.extraction.adapter_source import Source
from adapters.extraction.engine import WINDOW, Answer, Options, Request
from adapters.types import Message

RETRIED = (408, 429, 500, 502, 503, 504)
TIMEOUT = 600.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An engine. See `adapters.extract_engines.Engine`."""

    url: str
    model: str
    extra: dict[str, Any]
    """What the server took of the optional parts of a request: constrained output, the thinking switch."""
    options: Options
    headers: dict[str, str]
    pool: urllib3.PoolManager

    @classmethod
    def connect(cls, source: Source, options: Options, note: Callable[[str], None]) -> Endpoint:
        """Reach the server, choose the model, and find out which optional parts of a request it takes."""
        url = (options.endpoint or "").rstrip("/")
        if not url.startswith(("http://", "https://")):
            raise UserError(f"--endpoint {url!r}: give the server's address, such as http://localhost:8000/v1.")
        headers = {"Content-Type": "application/json"}
        if options.api_key_env:
            if not (key := os.environ.get(options.api_key_env)):
                raise UserError(f"--api-key-env: the environment has no {options.api_key_env}.")
            headers["Authorization"] = f"Bearer {key}"
        pool = urllib3.PoolManager(maxsize=options.concurrency, block=False, timeout=TIMEOUT)
        url, models = _models(pool, url, headers)
        schema = {"name": "answer", "schema": source.task.answer_schema()}
        extra = {
            "response_format": {"type": "json_schema", "json_schema": schema},
            "chat_template_kwargs": {"enable_thinking": source.model.thinking},
        }
        if not options.constrain or schema["schema"] is None:
            del extra["response_format"]
        found = cls(url, _model(options.model, models), extra, options, headers, pool)
        return found._agreed(note)

    def __call__(self, requests: Iterable[Request]) -> Iterator[Answer]:
        """Answers as they come. Raises RuntimeError when the server stops answering."""
        return parallel.each(self._answer, requests, threads=self.options.concurrency, window=WINDOW)

    def _answer(self, request: Request) -> Answer:
        status, value = self._post(request.prompt, self.options.max_new_tokens)
        if status in ROW_ERRORS:
            return Answer(request.row, error=f"refused: HTTP {status}: {_error_text(value)}")
        if status != 200:
            raise RuntimeError(f"{self.url} answers HTTP {status}: {_error_text(value)}")
        try:
            choice = value["choices"][0]
            text = choice["message"]["content"] or ""
            tokens = int((value.get("usage") or {}).get("completion_tokens") or 0)
            return Answer(request.row, text, tokens, choice.get("finish_reason") == "length")
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            raise RuntimeError(f"{self.url} does not speak chat completions: {_error_text(value)}") from error

    def _post(self, prompt: Iterable[Message], max_tokens: int) -> tuple[int, Any]:
        body = {
            "model": self.model,
            "messages": list(prompt),
            "temperature": 0,
            "max_tokens": max_tokens,
            "stream": False,
            **self.extra,
        }
        # Waits 0.5 s, 1 s, 2 s … up to a minute, or what a Retry-After header asks for.
        retry = urllib3.Retry(
            total=9,
            status_forcelist=RETRIED,
            allowed_methods=None,
            backoff_factor=0.25,
            backoff_max=60,
            backoff_jitter=0.25,
            raise_on_status=False,
        )
        data = json.dumps(body).encode()
        try:
            reply = self.pool.request(
                "POST", f"{self.url}/chat/completions", body=data, headers=self.headers, retries=retry
            )
        except urllib3.exceptions.HTTPError as error:
            raise RuntimeError(f"{self.url} does not answer: {_cause(error)}") from None
        return reply.status, _decoded(reply)

    def _agreed(self, note: Callable[[str], None]) -> Endpoint:
        prompt: list[Message] = [{"role": "user", "content": "[]"}]
        refused = {
            "response_format": "the server does not take response_format: its output is checked, not constrained",
            "chat_template_kwargs": "the server does not take chat_template_kwargs: see that it serves the model with "
            f"thinking {'on' if self.extra['chat_template_kwargs']['enable_thinking'] else 'off'}",
        }
        endpoint = self
        try:
            status, value = endpoint._post(prompt, 8)
            for name, text in refused.items():
                if status in ROW_ERRORS and name in endpoint.extra:
                    without = replace(endpoint, extra={k: v for k, v in endpoint.extra.items() if k != name})
                    retried, value_without = without._post(prompt, 8)
                    if retried == 200 or _error_text(value_without) != _error_text(value):
                        endpoint, status, value = without, retried, value_without
                        note(text)
        except RuntimeError as error:
            raise UserError(f"--endpoint: {error}") from None
        if status != 200:
            raise UserError(f"--endpoint: {self.url} refuses a first request for {self.model!r}: {_error_text(value)}")
        return endpoint


def _models(pool: urllib3.PoolManager, url: str, headers: dict[str, str]) -> tuple[str, list[str]]:
    for place in dict.fromkeys((url, f"{url.removesuffix('/v1')}/v1")):
        try:
            reply = pool.request("GET", f"{place}/models", headers=headers, retries=False, timeout=30)
        except urllib3.exceptions.HTTPError as error:
            raise UserError(f"--endpoint: {url} cannot be reached: {_cause(error)}") from None
        if reply.status in (401, 403):
            raise UserError(f"--endpoint: {url} wants a key: name the variable that holds it with --api-key-env.")
        if reply.status == 200:
            value = _decoded(reply)
            rows = value.get("data") if isinstance(value, dict) else None
            return place, [str(m["id"]) for m in rows or [] if isinstance(m, dict) and "id" in m]
    return url, []


def _model(given: str | None, served: list[str]) -> str:
    if given:
        return given
    if len(served) == 1:
        return served[0]
    raise UserError(f"name the server's model with --model.{hint('', served)}")


def _decoded(reply: Any) -> Any:
    try:
        return json.loads(reply.data)
    except ValueError:
        return reply.data[:500].decode("utf-8", "replace")


def _error_text(value: Any) -> str:
    if isinstance(value, dict):
        inner = value.get("error", value.get("detail", value))
        value = inner.get("message", inner) if isinstance(inner, dict) else inner
    return " ".join(str(value).split())[:300]


def _cause(error: BaseException) -> str:
    reason = getattr(error, "reason", None) or error
    return " ".join(str(reason).split())[:300]
