"""A vLLM server for GRPO: is it the right one, and started as TRL's weight transfer needs it?"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import urllib3

from adapters.backends.local.base_model import Base
from adapters.errors import UserError

SECONDS = 60.0
"""Time-out. A server collects facts about its machine for the first `/server_info`."""
FLAGS = ("--weight-transfer-config", '{"backend": "nccl"}', "--logprobs-mode", "processed_logprobs")


def check_server(url: str, base: Base, tokens: int, version: str) -> None:
    """Ask a server for what would stop the stage later. Raises UserError, in one sentence, for the first fault.

    `tokens` are the longest prompt and completion together, `version` is that of vLLM in this process.
    """
    url = address(url)
    start = f"start it with: {command(base, tokens)}"
    health, _ = _ask(url, "health", start)
    if health != 200:
        raise UserError(f"the vLLM server at {url} is not healthy (/health gives HTTP {health}); start it again.")
    model = _model(url, start)
    names, mine = (
        {str(model.get("id")), str(model.get("root"))},
        {base.load, str(Path(base.load).resolve()), base.hub_id},
    )
    if not names & mine:
        raise UserError(
            f"the vLLM server at {url} serves {model.get('id')}, and the recipe trains {base.load}; {start} (for the "
            f"same model in another place, add --served-model-name {base.hub_id})."
        )
    _, content = _ask(url, "version", start)
    theirs = str(content.get("version", "unknown")).partition("+")[0]
    if theirs != version:
        raise UserError(
            f"the vLLM server at {url} is version {theirs}, and vLLM here is {version}: weights go from one to the "
            "other, so install the same version on both sides."
        )
    if fault := _config_fault(_config(url, start), tokens):
        raise UserError(f"the vLLM server at {url} {fault}; {start}.")


def command(base: Base, tokens: int) -> str:
    """The command line of a server that passes the check."""
    words = ["vllm", "serve", base.load, *(("--revision", base.revision) if base.revision else ())]
    return f"VLLM_SERVER_DEV_MODE=1 {shlex.join([*words, '--max-model-len', str(tokens), *FLAGS])}"


def address(url: str) -> str:
    """A server's address as TRL wants it, without a `/v1` behind it."""
    return url.rstrip("/").removesuffix("/v1")


def _config_fault(config: dict[str, Any], tokens: int) -> str | None:
    """What is wrong with a server's configuration; None if nothing is."""
    model, transfer = config.get("model_config") or {}, config.get("weight_transfer_config") or {}
    context = model.get("max_model_len")
    if transfer.get("backend") != "nccl":
        return "takes no weights over NCCL"
    if model.get("logprobs_mode") != "processed_logprobs":
        return f"reports {model.get('logprobs_mode')}, which biases the importance weights"
    if isinstance(context, int) and context < tokens:
        return f"reads {context:,} tokens, and the stage's prompt and completion may have {tokens:,}"
    if model.get("multimodal_config"):
        return "runs its model as a vision-language model, whose weights have other names than those that are trained"
    if config.get("lora_config"):
        return "was started with --enable-lora, under which its weights have other names than those that are sent"
    if quantization := model.get("quantization"):
        return f"holds quantised weights ({quantization}), and whole ones are sent"
    return None


def _model(url: str, start: str) -> dict[str, Any]:
    """The entry of the model that TRL would ask: the first that the server lists."""
    status, content = _ask(url, "v1/models", start)
    models = content.get("data")
    if status != 200 or not isinstance(models, list) or not models or not isinstance(models[0], dict):
        raise UserError(f"what listens at {url} is no vLLM server (/v1/models gives HTTP {status}); {start}.")
    return models[0]


def _config(url: str, start: str) -> dict[str, Any]:
    status, content = _ask(url, "server_info?config_format=json", start)
    config = content.get("vllm_config")
    if status == 404:
        raise UserError(
            f"the vLLM server at {url} takes no weights, because VLLM_SERVER_DEV_MODE=1 is not set in its "
            f"environment; {start}."
        )
    if status != 200 or not isinstance(config, dict):
        raise UserError(f"the vLLM server at {url} does not say how it runs (/server_info gives HTTP {status}).")
    return config


def _ask(url: str, path: str, start: str) -> tuple[int, dict[str, Any]]:
    """Status and JSON object (empty if there is none) of a reply."""
    try:
        reply = urllib3.request(
            "GET", f"{url}/{path}", timeout=urllib3.Timeout(connect=10, read=SECONDS), retries=False
        )
    except (urllib3.exceptions.HTTPError, ValueError) as error:
        cause = " ".join(str(getattr(error, "reason", None) or error).split())[:200]
        raise UserError(f"no vLLM server answers at {url} ({cause}); {start}.") from None
    try:
        content = json.loads(reply.data)
    except ValueError:
        content = {}
    return reply.status, content if isinstance(content, dict) else {}
