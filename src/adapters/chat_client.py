"""Client for OpenAI-compatible servers: hosted services, vLLM, SGLang, llama.cpp, Ollama, `transformers serve`."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import urllib3

from adapters import parallel
from adapters.errors import UserError, hint
from adapters.files import append_jsonl, read_jsonl
from adapters.types import Message, Progress, Row

CONCURRENCY = 16
RETRIED = (408, 409, 429, *range(500, 600))
TRIES = 10
TIMEOUT = urllib3.Timeout(connect=30, read=600)
ROW_ERRORS = (400, 413, 422)
"""Statuses that refuse one request (text too long, filtered). Any other refusal stops the work."""


EMPTY = (
    "A server that keeps thoughts apart may take whole answers for thoughts: start it without a reasoning parser "
    "(vLLM, SGLang: no --reasoning-parser; Ollama: think off), or raise the limit of tokens if the model thinks"
)
"""What to do about empty answers."""
REASONING = ("reasoning_content", "reasoning", "thinking")
"""Where servers put what their reasoning parser takes for a thought: SGLang and vLLM, vLLM and Ollama, Ollama."""


class ServerError(RuntimeError):
    """The server does not answer, refuses the work, or does not speak chat completions."""


class KeyRefused(ServerError):  # noqa: N818 - like a refused prompt, the user's to mend
    """The server wants a key, or refuses the one that it got."""


class PromptRefused(ServerError):  # noqa: N818 - a refusal is an answer, not a defect
    """The server refuses this prompt, however often it is asked. `reason` is what it said."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class Completion(NamedTuple):
    """One choice: its text, whether the length limit cut it, and tokens of its whole reply and prompt; 0: not said."""

    text: str
    cut: bool
    tokens: int
    prompt_tokens: int = 0


@dataclass
class Connection:
    """A server, its model and the key. `url` ends before `/chat/completions`."""

    url: str
    model: str
    api_key_env: str | None = None
    concurrency: int = CONCURRENCY
    served: tuple[Mapping[str, Any], ...] = ()
    """What the server says about its models."""
    pool: urllib3.PoolManager = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Make the pool of connections. Raises UserError for a bad address or a missing key."""
        if not self.url.startswith(("http://", "https://")):
            raise UserError(f"--endpoint {self.url!r}: give the server's address, such as http://localhost:8000/v1.")
        headers = {"Content-Type": "application/json"}
        if self.api_key_env:
            if not (key := os.environ.get(self.api_key_env, "").strip()):
                raise UserError(f"--api-key-env: the environment has no {self.api_key_env}.")
            headers["Authorization"] = f"Bearer {key}"
        self.pool = urllib3.PoolManager(maxsize=self.concurrency, timeout=TIMEOUT, headers=headers)
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # a line for each retry, across the bar

    @classmethod
    def open(
        cls, url: str, model: str | None = None, api_key_env: str | None = None, concurrency: int | None = None
    ) -> Connection:
        """Reach a server, add a missing /v1 to its address, and choose the only model it serves.

        Raises UserError when the server cannot be reached, wants a key, or serves several models and none is named.
        """
        url = url.rstrip("/")
        for address in dict.fromkeys((url, f"{url.removesuffix('/v1')}/v1")):
            connection = cls(address, model or "", api_key_env, concurrency or CONCURRENCY)
            try:
                status, value = connection._request("GET", "models", retried=())
            except ServerError as error:
                raise UserError(f"--endpoint: {error}") from None
            if status == 200:
                rows = value.get("data") if isinstance(value, dict) else None
                served = tuple(m for m in rows or [] if isinstance(m, dict) and "id" in m)
                break
        else:
            address, served = url, ()
        names = [str(m["id"]) for m in served]
        if not model and len(names) != 1:
            raise UserError(f"name the server's model with --model.{hint('', names)}")
        return cls(address, model or names[0], api_key_env, concurrency or CONCURRENCY, served)

    def complete(
        self,
        prompt: Sequence[Message],
        *,
        temperature: float,
        max_tokens: int,
        n: int = 1,
        extra: Mapping[str, Any] = {},
        thinking: bool = False,
        retried: Collection[int] = RETRIED,
    ) -> list[Completion]:
        """N completions of a prompt. Raises PromptRefused, or ServerError where asking again cannot help.

        `thinking` says that a thought is no answer; see `_said`. `retried` are the statuses after which it asks again.
        """
        body = {"model": self.model, **_spoken(prompt), "temperature": temperature, "max_tokens": max_tokens}
        completions: list[Completion] = []
        while (missing := n - len(completions)) > 0:  # some servers give one choice whatever `n` says
            count = {"n": missing} if missing > 1 else {}
            sent = {**body, "stream": False, **count, **extra}
            status, value = self._request("POST", "chat/completions", sent, retried)
            if status != 200:
                reason = f"HTTP {status}: {_reason(value)}"
                message = f"{self.url} refuses the request for model {self.model!r}: {reason}"
                raise PromptRefused(message, reason) if status in ROW_ERRORS else ServerError(message)
            completions += self._choices(value, thinking)[:missing]
        return completions

    def log_probabilities(self, prompt: Sequence[Message], model: str, tokens: int) -> list[tuple[str, float]]:
        """Tokens of a model's greedy answer with their log-probabilities in nats; empty if the server gives none.

        Raises ServerError.
        """
        body = {"model": model, **_spoken(prompt), "temperature": 0, "max_tokens": tokens, "logprobs": True}
        status, value = self._request("POST", "chat/completions", {**body, "stream": False})
        try:
            steps = value["choices"][0]["logprobs"]["content"] if status == 200 else []
            return [(str(step["token"]), float(step["logprob"])) for step in steps]
        except (LookupError, TypeError, ValueError):
            return []

    def _choices(self, value: Any, thinking: bool) -> list[Completion]:
        try:
            usage = value.get("usage") or {}
            tokens, asked = (int(usage.get(f"{part}_tokens") or 0) for part in ("completion", "prompt"))
            texts = [(_said(c["message"], thinking), c.get("finish_reason") == "length") for c in value["choices"]]
        except (LookupError, TypeError, AttributeError, ValueError):
            texts = []
        if not texts:
            raise ServerError(f"{self.url} does not speak chat completions; it answers: {_reason(value)}")
        return [Completion(text, cut, tokens, asked) for text, cut in texts]

    def _request(self, method: str, path: str, body: Any = None, retried: Collection[int] = RETRIED) -> tuple[int, Any]:
        """Status and decoded content of a reply. Raises ServerError when there is none, or a key is missing.

        Without `retried` it asks once, whatever fails.
        """
        # Waits 0.5 s, 1 s, 2 s … up to a minute, or what a Retry-After header asks for.
        retry = urllib3.Retry(
            total=TRIES - 1,
            status_forcelist=retried,
            allowed_methods=None,
            backoff_factor=0.25,
            backoff_max=60,
            backoff_jitter=0.25,
            raise_on_status=False,
        )
        data = None if body is None else json.dumps(body).encode()
        try:
            reply = self.pool.request(method, f"{self.url}/{path}", body=data, retries=retry if retried else False)
        except urllib3.exceptions.HTTPError as error:
            cause = " ".join(str(getattr(error, "reason", None) or error).split())[:300]
            raise ServerError(f"{self.url} does not answer: {cause}") from None
        value = _decoded(reply.data)
        failure = f"HTTP {reply.status}: {_reason(value)}"
        if reply.status in (401, 403):
            what = f"refuses the key in {self.api_key_env}" if self.api_key_env else "wants a key"
            flag = "" if self.api_key_env else "; name the environment variable that holds it: --api-key-env VARIABLE"
            raise KeyRefused(f"{self.url} {what} ({failure}){flag}")
        if reply.status in retried:
            raise ServerError(f"{self.url} failed in {TRIES} tries, the last with {failure}")
        return reply.status, value


def sample(
    connection: Connection,
    prompts: Mapping[str, Sequence[Message]],
    n: int,
    store: Path,
    progress: Progress,
    *,
    temperature: float,
    max_tokens: int,
) -> list[Row]:
    """N completions of each prompt, as rows with id, completion and model, without those that the limit cut.

    Completions and refusals of single prompts are appended to `store`; what it holds already is not asked for again.
    Raises UserError where asking again cannot help, and when the server refuses the first prompts, or answers them
    with nothing, and completed none.
    """
    records: list[Row] = [row for row in read_jsonl(store) if row.get("id") in prompts]
    stored = [row for row in records if row.get("model") == connection.model]
    counts = Counter(str(row["id"]) for row in stored)
    refused = {str(row["id"]) for row in stored if row.get("refused")}
    missing = [(i, n - counts[i]) for i in prompts if counts[i] < n and i not in refused]

    def complete(item: tuple[str, int]) -> list[Row]:
        i, count = item
        return _rows(connection, i, prompts[i], n=count, temperature=temperature, max_tokens=max_tokens)

    replies = parallel.each(complete, missing, threads=connection.concurrency, window=len(missing))
    try:
        with closing(replies):
            for done, rows in after_a_completion(replies, bool(stored), min(connection.concurrency, len(missing))):
                append_jsonl(store, rows)
                stored += rows
                refused |= {row["id"] for row in rows if "refused" in row}
                progress(done, len(missing), {"refused": len(refused)})
    except ServerError as error:
        kept = f" {len(stored):,} answers are kept in {store}; the same command continues." if stored else ""
        raise UserError(f"{error}.{kept}") from None
    place = {i: number for number, i in enumerate(prompts)}
    whole = (row for row in stored if not row.get("cut") and not row.get("refused"))
    return sorted(whole, key=lambda row: place[row["id"]])


def _rows(connection: Connection, i: str, prompt: Sequence[Message], **options: Any) -> list[Row]:
    """A prompt's completions as rows, or one row that says why the server refuses it."""
    try:
        completions = connection.complete(prompt, **options)
    except PromptRefused as error:
        return [{"id": i, "refused": str(error), "model": connection.model}]
    return [{"id": i, "completion": c.text, "model": connection.model, "cut": c.cut} for c in completions]


def after_a_completion(replies: Iterator[list[Row]], completed: bool, first: int) -> Iterator[tuple[int, list[Row]]]:
    """Numbered replies; refusals and empty ones wait for a completion, as the request itself may be wrong.

    Raises ServerError when the `first` replies are all refused or empty.
    """
    waiting: list[Row] = []
    for done, rows in enumerate(replies, 1):
        waiting += rows
        completed = completed or any(row.get("completion", "").strip() for row in rows)
        if completed:
            yield done, waiting
            waiting = []
        elif done == first:
            refusals = [row["refused"] for row in waiting if "refused" in row]
            raise ServerError(refusals[-1] if refusals else f"the first {done} answers are all empty. {EMPTY}")


def _spoken(prompt: Sequence[Message]) -> dict[str, Any]:
    """Messages and tools as OpenAI's requests have them: arguments as JSON, an id for each call, tools beside."""
    turns: list[dict[str, Any]] = []
    for turn in prompt:
        spoken: dict[str, Any] = {key: value for key, value in turn.items() if key != "tools"}
        if calls := turn.get("tool_calls"):
            spoken["tool_calls"] = [
                {
                    "id": f"call_{len(turns)}_{n}",
                    **c,
                    "function": {**c["function"], "arguments": json.dumps(c["function"]["arguments"])},
                }
                for n, c in enumerate(calls)
            ]
        turns.append(spoken)
    tools = prompt[0].get("tools") if prompt else None
    # An answer is wanted as text, whatever it calls.
    return {"messages": turns} | ({"tools": tools, "tool_choice": "none"} if tools else {})


def _said(message: Mapping[str, Any], thinking: bool) -> str:
    """A choice's text. What a reasoning parser takes for the thought of a model that does not think is its answer."""
    thoughts = [_text_of(message[key]) for key in REASONING if message.get(key)]
    text = _text_of((message.get("content") if thoughts else message["content"]) or "")
    return thoughts[0] if thoughts and not thinking and not text.strip() else text


def _text_of(content: Any) -> str:
    """A text, also from the parts of text that some servers give."""
    parts = content if isinstance(content, list) else [content]
    return "".join(str(part.get("text") or "") if isinstance(part, dict) else str(part) for part in parts)


def _decoded(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return data[:500].decode("utf-8", "replace")


def _reason(value: Any) -> str:
    """The server's own words for an error, in whichever shape it sends them."""
    if isinstance(value, dict):
        inner = value.get("error", value.get("detail", value))
        value = inner.get("message", inner) if isinstance(inner, dict) else inner
    return " ".join(str(value).split())[:300]
