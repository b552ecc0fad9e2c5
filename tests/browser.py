"""A real Chromium, driven over a pipe by its DevTools protocol: pages opened, keys pressed, pictures taken."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

REQUIRED = "ADAPTERS_REQUIRE_BROWSER"
"""With this variable a missing browser fails a test, as in `make browser`; without it the test is skipped."""
NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")
KEYS = {"Enter": 13, "Escape": 27, "Tab": 9, "ArrowDown": 40, "ArrowUp": 38, "End": 35, "Home": 36}


def browser_path() -> str:
    """The browser's program; skips the test where there is none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        missing = "no Chromium on PATH: `make browser` installs Debian's"
        pytest.fail(missing) if os.environ.get(REQUIRED) else pytest.skip(missing)
    return str(found)


class Page:
    """One tab."""

    def __init__(self, commands: int, replies: int) -> None:
        self._commands, self._replies = os.fdopen(commands, "wb", 0), os.fdopen(replies, "rb")
        self._session: str | None = None
        self._number, self._rest, self._events = 0, b"", list[dict]()
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.enable")
        self.call("Runtime.enable")

    def call(self, method: str, **params: Any) -> dict:
        """One command and its result."""
        self._number += 1
        session = {"sessionId": self._session} if self._session else {}
        command = {"id": self._number, "method": method, "params": params, **session}
        self._commands.write(json.dumps(command).encode() + b"\0")
        while (reply := self._read()).get("id") != self._number:
            self._events.append(reply)
        assert "error" not in reply, reply
        return reply["result"]

    def _read(self) -> dict:
        while b"\0" not in self._rest:
            part = os.read(self._replies.fileno(), 1 << 20)
            assert part, "the browser has ended"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def open(self, file: Path) -> None:
        """Load a page, and wait for all of it."""
        self._events.clear()
        self.call("Page.navigate", url=file.resolve().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self._events):
            self._events.append(self._read())

    def evaluate(self, expression: str) -> Any:
        """The value of an expression of the page's own world."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def text(self, selector: str) -> str:
        """The text of the first element that fits."""
        return self.evaluate(f"document.querySelector({json.dumps(selector)})?.textContent ?? ''")

    def press(self, *keys: str, modifiers: int = 0) -> None:
        """Press keys, by their names or letters."""
        for key in keys:
            code = {"windowsVirtualKeyCode": KEYS.get(key) or ord(key.upper())}
            text = {} if len(key) > 1 else {"text": key}
            text = {"text": "\r"} if key == "Enter" else text
            self.call("Input.dispatchKeyEvent", type="keyDown", key=key, modifiers=modifiers, **code, **text)
            self.call("Input.dispatchKeyEvent", type="keyUp", key=key, modifiers=modifiers, **code)

    def write(self, text: str) -> None:
        """Type a text where the focus is."""
        self.call("Input.insertText", text=text)

    def look(self, *, width: int, height: int, dark: bool = False) -> None:
        """Set the size of the window and the colours that the user prefers."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self, file: Path) -> Path:
        """A PNG of what is in sight."""
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))
        return file

    def wait_for(self, expression: str, seconds: float = 20) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while not self.evaluate(f"Boolean({expression})"):
            assert time.monotonic() < end, f"still false: {expression}"
            time.sleep(0.02)


@contextmanager
def chromium(folder: Path) -> Iterator[Page]:
    """A browser with a new profile in `folder`, which downloads to `folder`/downloads."""
    (from_test, commands), (replies, to_test) = os.pipe(), os.pipe()
    words = [browser_path(), *FLAGS, "--remote-debugging-pipe", f"--user-data-dir={folder / 'profile'}"]
    # Chromium reads commands from descriptor 3 and writes replies to 4.
    started = ["bash", "-c", f'exec "$0" "$@" 3<&{from_test} 4>&{to_test}', *words]
    with (folder / "chromium.log").open("wb") as log:
        process = subprocess.Popen(started, pass_fds=(from_test, to_test), stdout=log, stderr=log)
    os.close(from_test)
    os.close(to_test)
    try:
        page = Page(commands, replies)
        page.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder / "downloads"))
        yield page
    finally:
        process.kill()
        process.wait()
