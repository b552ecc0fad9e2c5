"""A small OpenAI-compatible server on loopback, of whose choices every second one is chatty.

with ChatServer({"question": "answer"}) as server: ...
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class ChatServer:
    """Answers by the last message of a request; `script` holds the statuses of the next replies."""

    def __init__(self, answers: dict[str, str]) -> None:
        self.calls: list[dict] = []
        self.script: list[int] = []
        self.one_choice = False
        self.before: Callable[[int], object] = lambda _: None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.calls.append({"path": self.path, "key": self.headers.get("Authorization"), **body})
                status = outer.script.pop(0) if outer.script else 200
                outer.before(len(outer.calls))
                good = answers[body["messages"][-1]["content"]]
                texts = [good if n % 2 == 0 else f"Certainly! {good} Bye!" for n in range(body.get("n", 1))]
                texts = texts[:1] if outer.one_choice else texts
                reply = {"choices": [{"message": {"content": t}, "finish_reason": "stop"} for t in texts]}
                content = json.dumps(reply if status == 200 else {"error": "busy"}).encode()
                self.send_response(status)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def __enter__(self) -> ChatServer:
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self.http.server_close()
