"""Completions of a model behind an OpenAI-compatible endpoint: hosted services, vLLM, llama.cpp, Ollama."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx

from adapters.rows import BAD_ROW, read_file
from adapters.types import Message, Progress, Row, UserError

TRIES = 5


@dataclass(frozen=True)
class Endpoint:
    """Where to ask, whom and how. `url` ends before `/chat/completions`; the key is read from the environment."""

    url: str
    model: str
    key_variable: str = "OPENAI_API_KEY"
    temperature: float = 0.8
    max_tokens: int = 256
    parallel: int = 8
    wait: float = 1.0
    """Seconds before the second try; doubled each time."""

    def ask(self, prompts: Mapping[str, Sequence[Message]], n: int, store: Path, progress: Progress) -> list[Row]:
        """N completions of each prompt, as rows with id, completion and model; cut ones are not among them.

        They are appended to `store` as they come, and what stands there already is not asked for again, so an
        interrupted call costs nothing twice. Raises UserError for what asking again cannot mend.
        """
        held = [row for _, row in read_file(store) if BAD_ROW not in row] if store.is_file() else []
        held = [row for row in held if row.get("model") == self.model and row.get("id") in prompts]
        counts = Counter(str(row["id"]) for row in held)
        missing = [(i, n - counts[i]) for i in prompts if counts[i] < n]
        headers = {"Authorization": f"Bearer {key}"} if (key := os.environ.get(self.key_variable)) else {}
        with (
            httpx.Client(headers=headers, timeout=120) as client,
            store.open("a", encoding="utf-8") as file,
            ThreadPoolExecutor(self.parallel) as pool,
        ):
            answers = pool.map(lambda item: self._complete(client, prompts[item[0]], item[1]), missing)
            try:
                for done, ((i, _), choices) in enumerate(zip(missing, answers, strict=True), 1):
                    for choice in choices:
                        row = {"id": i, "completion": choice["text"], "model": self.model, "cut": choice["cut"]}
                        file.write(json.dumps(row, ensure_ascii=False) + "\n")
                        held.append(row)
                    file.flush()
                    progress(done, len(missing), {})
            except BaseException:  # Ctrl-C too: what was not sent yet should not be
                pool.shutdown(cancel_futures=True)
                raise
        return [row for row in held if not row.get("cut")]

    def _complete(self, client: httpx.Client, prompt: Sequence[Message], n: int) -> list[dict[str, Any]]:
        out: list[dict[str, Any]] = []
        while len(out) < n:  # some servers give one choice whatever `n` says
            body = {"model": self.model, "messages": list(prompt), "n": n - len(out), "temperature": self.temperature}
            value = self._post(client, {**body, "max_tokens": self.max_tokens})
            try:
                choices = [
                    {"text": str(c["message"]["content"] or ""), "cut": c.get("finish_reason") == "length"}
                    for c in value["choices"]
                ]
            except (KeyError, TypeError):
                choices = []
            if not choices:
                raise UserError(f"{self.url} answered, but not as an OpenAI-compatible chat server: {str(value)[:200]}")
            out += choices[: n - len(out)]
        return out

    def _post(self, client: httpx.Client, body: Mapping[str, Any]) -> Any:
        problem = ""
        for attempt in range(TRIES):
            if attempt:
                time.sleep(self.wait * 2 ** (attempt - 1))
            try:
                reply = client.post(f"{self.url.rstrip('/')}/chat/completions", json=body)
            except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
                raise UserError(f"{self.url!r} is no address: {error}.") from None
            except httpx.TransportError as error:
                problem = f"{type(error).__name__}: {error}"
                continue
            if reply.status_code in (408, 409, 429) or reply.status_code >= 500:
                problem = f"status {reply.status_code}: {reply.text[:200]}"
                continue
            if reply.status_code in (401, 403):
                state = "is refused" if os.environ.get(self.key_variable) else "is not set"
                raise UserError(f"{self.url} wants a key ({reply.status_code}); {self.key_variable} {state}.")
            if reply.is_error:
                raise UserError(f"{self.url} refused model {self.model!r} ({reply.status_code}): {reply.text[:200]}")
            try:
                return reply.json()
            except ValueError:
                raise UserError(f"{self.url} answered with something that is not JSON: {reply.text[:200]}") from None
        raise UserError(f"{self.url} did not answer in {TRIES} tries; the last said: {problem}")
