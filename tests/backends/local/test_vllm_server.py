"""A vLLM server is asked before anything trains; what would fail later is one sentence now."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from adapters.backends.local.base_model import resolve
from adapters.backends.local.vllm_server import check_server
from adapters.errors import UserError

# Replies of vLLM 0.30.0 (`vllm serve FOLDER --weight-transfer-config '{"backend": "nccl"}' …`), shortened.
MODEL = {"id": "FOLDER", "object": "model", "owned_by": "vllm", "root": "FOLDER", "parent": None, "max_model_len": 1024}
MODEL_CONFIG = {
    "model": "FOLDER", "dtype": "torch.bfloat16", "revision": None, "max_model_len": 1024, "quantization": None,
    "max_logprobs": -1, "logprobs_mode": "processed_logprobs", "multimodal_config": None,
}  # fmt: skip
CONFIG = {"model_config": MODEL_CONFIG, "lora_config": None, "weight_transfer_config": {"backend": "nccl"}}
REPLIES: dict[str, tuple[int, Any]] = {
    "/health": (200, None),
    "/v1/models": (200, {"object": "list", "data": [MODEL]}),
    "/version": (200, {"version": "0.30.0"}),
    "/server_info": (200, {"vllm_config": CONFIG, "vllm_env": {}, "system_env": {}}),
}


@contextmanager
def server(replies: dict[str, tuple[int, Any]]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = replies.get(self.path.partition("?")[0], (404, {"detail": "Not Found"}))
            data = b"" if body is None else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def replies(folder: Path, **changes: Any) -> dict[str, tuple[int, Any]]:
    """The right answers for a folder; `changes` name a path's reply, or values of the configuration."""
    made = json.loads(json.dumps(copy.deepcopy(REPLIES)).replace("FOLDER", str(folder)))
    config = made["/server_info"][1]["vllm_config"]
    for name, value in changes.items():
        path = "/v1/models" if name == "models" else f"/{name}"
        place = made if path in made else config["model_config"] if name in MODEL_CONFIG else config
        place[path if path in made else name] = value
    return made


def check(url: str, folder: Path) -> None:
    check_server(url, resolve(str(folder)), 512, "0.30.0")


def served(name: str) -> tuple[int, Any]:
    return 200, {"data": [MODEL | {"id": name, "root": name}]}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"models": served("acme/other")}, "serves acme/other, and the recipe trains"),
        ({"models": (401, {"error": "Unauthorized"})}, "is no vLLM server .*HTTP 401"),
        ({"models": (200, ["a list"])}, "is no vLLM server"),
        ({"models": (200, {"data": []})}, "is no vLLM server"),
        ({"health": (503, None)}, "is not healthy .*HTTP 503"),
        ({"version": (200, {"version": "0.26.1"})}, "is version 0.26.1, and vLLM here is 0.30.0"),
        ({"server_info": (404, {"detail": "Not Found"})}, "VLLM_SERVER_DEV_MODE=1 is not set"),
        ({"server_info": (500, None)}, "does not say how it runs .*HTTP 500"),
        ({"weight_transfer_config": None}, "takes no weights over NCCL"),
        ({"weight_transfer_config": {"backend": "ipc"}}, "takes no weights over NCCL"),
        ({"logprobs_mode": "raw_logprobs"}, "reports raw_logprobs"),
        ({"max_model_len": 500}, "reads 500 tokens, and the stage's prompt and completion may have 512"),
        ({"multimodal_config": {"limit_per_prompt": {}}}, "as a vision-language model"),
        ({"lora_config": {"max_loras": 1}}, "--enable-lora"),
        ({"quantization": "fp8"}, "quantised weights .fp8."),
    ],
)
def test_each_wrong_server_is_one_sentence(tiny_model: Path, changes: dict, said: str) -> None:
    with server(replies(tiny_model, **changes)) as url, pytest.raises(UserError, match=said) as raised:
        check(url, tiny_model)
    assert url in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_right_server_passes(tiny_model: Path) -> None:
    with server(replies(tiny_model)) as url:
        check(url, tiny_model)
        check(f"{url}/v1/", tiny_model)


def test_a_server_may_name_the_base_by_its_hub_id(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "text-only"
    folder.symlink_to(tiny_model)
    with server(replies(tiny_model, models=served(resolve(str(folder)).hub_id))) as url:
        check(url, folder)
    with server(replies(tiny_model)) as url:
        check(url, folder)  # another path of the same folder


def test_nothing_listens(tiny_model: Path) -> None:
    with server({}) as url:
        pass
    with pytest.raises(UserError, match=f"no vLLM server answers at {url} .*Connection refused") as raised:
        check(url, tiny_model)
    text = str(raised.value)
    for part in (f"vllm serve {tiny_model}", "VLLM_SERVER_DEV_MODE=1", "--max-model-len 512", "processed_logprobs"):
        assert part in text, "the command that would be right"


def test_something_else_listens(tiny_model: Path) -> None:
    with server({"/health": (200, {"ok": True})}) as url, pytest.raises(UserError, match="is no vLLM server"):
        check(url, tiny_model)
