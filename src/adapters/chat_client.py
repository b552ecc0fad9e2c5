"""Completions of a model behind an OpenAI-compatible endpoint: hosted services, vLLM, llama.cpp, Ollama."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3

from adapters import parallel
from adapters.data.rows import BAD_ROW, read_file
from adapters.errors import UserError
from adapters.types import Message, Progress, Row

TRIES = 5
RETRIED = (408, 409, 429, *range(500, 600))
TIMEOUT = 120.0
ROW_ERRORS = (400, 413, 422)
"""This one request is refused (its text too long, filtered): an error of its row. Any other refusal stops the work."""


class PromptRefused(UserError):  # noqa: N818 - a refusal is an answer, not a defect
    """The server will not complete this prompt, however often it is asked."""


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
    """Seconds before the third try, the second being at once; doubled each time."""

    def ask(self, prompts: Mapping[str, Sequence[Message]], n: int, store: Path, progress: Progress) -> list[Row]:
        """N completions of each prompt, as rows with id, completion and model; cut ones are not among them.

        They are appended to `store` as they come, refusals of single prompts too, and what stands there already is not
        asked for again, so an interrupted call costs nothing twice. Raises UserError for what asking again cannot mend,
        and when the server refuses the first prompts and has completed none.
        """
        if not self.url.startswith(("http://", "https://")):
            raise UserError(f"{self.url!r} is no address: give the server's, such as http://localhost:8000/v1.")
        held = [row for _, row in read_file(store) if BAD_ROW not in row] if store.is_file() else []
        held = [row for row in held if row.get("model") == self.model and row.get("id") in prompts]
        counts = Counter(str(row["id"]) for row in held)
        refused = {str(row["id"]) for row in held if row.get("refused")}
        missing = [(i, n - counts[i]) for i in prompts if counts[i] < n and i not in refused]
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # a line for each retry, across the bar
        pool = urllib3.PoolManager(maxsize=self.parallel, timeout=TIMEOUT, headers=self._headers())
        place = {i: n for n, i in enumerate(prompts)}

        def complete(item: tuple[str, int]) -> list[Row]:
            i, count = item
            try:
                choices = self._complete(pool, prompts[i], count)
            except PromptRefused as error:
                return [{"id": i, "refused": str(error), "model": self.model}]
            return [{"id": i, "completion": c["text"], "model": self.model, "cut": c["cut"]} for c in choices]

        asked = parallel.each(complete, missing, threads=self.parallel, window=len(missing))
        try:
            with store.open("a", encoding="utf-8") as file, closing(asked) as answers:
                if file.tell() and not store.read_bytes().endswith(b"\n"):
                    file.write("\n")  # a kill in the middle of a line must not cost the next one too
                fresh: list[Row] = []  # refusals wait until something is completed: before, the request may be wrong
                for done, rows in enumerate(answers, 1):
                    fresh += rows
                    if not held and "refused" in rows[0]:
                        if len(fresh) == min(self.parallel, len(missing)):
                            raise UserError(rows[0]["refused"])
                        continue
                    file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in fresh)
                    file.flush()
                    held += fresh
                    refused |= {row["id"] for row in fresh if "refused" in row}
                    fresh = []
                    progress(done, len(missing), {"refused": len(refused)})
        except UserError as error:
            kept = f" {len(held):,} answers are kept in {store}; the same command continues." if held else ""
            raise UserError(f"{error}{kept}") from None
        whole = (row for row in held if not row.get("cut") and not row.get("refused"))
        return sorted(whole, key=lambda row: place[row["id"]])

    def _headers(self) -> dict[str, str]:
        key = os.environ.get(self.key_variable)
        return {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})

    def _complete(self, pool: urllib3.PoolManager, prompt: Sequence[Message], n: int) -> list[dict[str, Any]]:
        out: list[dict[str, Any]] = []
        while len(out) < n:  # some servers give one choice whatever `n` says
            body = {"model": self.model, "messages": list(prompt), "n": n - len(out), "temperature": self.temperature}
            value = self._post(pool, {**body, "max_tokens": self.max_tokens})
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

    def _post(self, pool: urllib3.PoolManager, body: Mapping[str, Any]) -> Any:
        # Waits `wait` seconds, twice, four times …, or what a Retry-After header asks for.
        retry = urllib3.Retry(
            total=TRIES - 1,
            status_forcelist=RETRIED,
            allowed_methods=None,
            backoff_factor=self.wait / 2,
            raise_on_status=False,
        )
        address = f"{self.url.rstrip('/')}/chat/completions"
        try:
            reply = pool.request("POST", address, body=json.dumps(body).encode(), retries=retry)
        except urllib3.exceptions.LocationValueError as error:
            raise UserError(f"{self.url!r} is no address: {error}.") from None
        except urllib3.exceptions.HTTPError as error:
            why = getattr(error, "reason", None) or error
            raise UserError(f"{self.url} did not answer in {TRIES} tries; the last said: {why}") from None
        said = reply.data.decode("utf-8", "replace")
        if reply.status in RETRIED:
            raise UserError(
                f"{self.url} did not answer in {TRIES} tries; the last said: status {reply.status}: {said[:200]}"
            )
        if reply.status in (401, 403):
            state = "is refused" if os.environ.get(self.key_variable) else "is not set"
            raise UserError(f"{self.url} wants a key ({reply.status}); {self.key_variable} {state}.")
        if reply.status >= 400:
            kind = PromptRefused if reply.status in ROW_ERRORS else UserError
            raise kind(f"{self.url} refused model {self.model!r} ({reply.status}): {said[:200]}")
        try:
            return json.loads(said)
        except ValueError:
            raise UserError(f"{self.url} answered with something that is not JSON: {said[:200]}") from None
