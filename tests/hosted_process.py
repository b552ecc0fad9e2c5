"""The test server of the hosted trainer as a process, for tests and scripts that run against it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

KEY = "tml-for-tests-only"


class Server:
    """A server process on a port of its own; it can be killed and started again on the same records."""

    def __init__(self, models: list[Path], root: Path) -> None:
        self.models, self.root = models, root
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log = root / "server.log"
        root.mkdir(parents=True)
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it answers. Raises RuntimeError with the end of its log when it does not."""
        command = [sys.executable, str(Path(__file__).with_name("hosted_server.py"))]
        command += [f"--model={model.name}={model}" for model in self.models]
        command += ["--root", str(self.root), "--port", str(self.port), "--key", KEY]
        command += ["--alpha-ratio", "8"]  # rank 4 with the public service's alpha of 32
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        until = time.monotonic() + 180
        while time.monotonic() < until:
            if self.process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(f"{self.url}/api/v1/healthz", timeout=5):
                    return
            except OSError:
                time.sleep(0.3)
        self.kill()
        raise RuntimeError(f"the server did not start:\n{self.log.read_text()[-3000:]}")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
