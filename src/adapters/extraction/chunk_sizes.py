"""How the engines count tokens: by a tokenizer, or by an estimate where a server has it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from adapters.extraction.adapter_source import Source
from adapters.extraction.chunks import Prompt, Sizes
from adapters.extraction.engine import Options

BYTES: int = 3
"""Bytes of UTF-8 that an estimate takes for a token. English has about four, ids and other scripts fewer."""


def load(name: str, source: Source, options: Options) -> Sizes:
    """The sizes of an engine by its name. Raises UserError."""
    if name == "endpoint":
        return _estimated(_context(options))
    if source.echo or source.tags_words:  # an encoder reads a long text in windows of its own
        return _sizes(lambda text: len(text.split()), None)
    from adapters.extraction.local_engines import sizes

    return sizes(source)


def _estimated(context: int | None) -> Sizes:
    return _sizes(lambda text: -(-len(text.encode(errors="replace")) // BYTES), context)


def _sizes(count: Callable[[str], int], context: int | None) -> Sizes:
    def prompt(turns: Prompt) -> int:
        return sum(count(turn["content"] or "") for turn in turns)

    def texts(given: Sequence[str]) -> list[int]:
        return [count(text) for text in given]

    return Sizes(texts, prompt, context)


def _context(options: Options) -> int | None:
    """The context of a server's model, where the server says it: vLLM and SGLang do, of an adapter with its base."""
    from adapters.chat_client import Connection

    connection = Connection.open(options.endpoint or "", options.model, options.api_key_env, options.concurrency)
    models: Mapping[str, Mapping[str, Any]] = {str(m["id"]): m for m in connection.served}
    own = models.get(connection.model, {})
    length = own.get("max_model_len") or models.get(str(own.get("parent")), {}).get("max_model_len")
    return length if isinstance(length, int) else None
