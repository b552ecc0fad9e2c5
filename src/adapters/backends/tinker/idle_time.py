"""Share of a run in which the service waits for this process."""

from __future__ import annotations

import threading
import time
from typing import Any


class IdleTimer:
    """Measures the fraction of the run during which no request is in flight."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.open = 0
        self.idle = 0.0
        self.first = self.free_since = 0.0

    def sent(self) -> None:
        """Record that a request was sent."""
        with self.lock:
            now = time.monotonic()
            if not self.first:
                self.first = now
            elif self.open == 0:
                self.idle += now - self.free_since
            self.open += 1

    def answered(self, _: Any = None) -> None:
        """Record that a request was answered."""
        with self.lock:
            self.open -= 1
            self.free_since = time.monotonic()

    def share(self) -> float:
        """Idle seconds over seconds between the first request and the last answer."""
        with self.lock:
            wall = self.free_since - self.first
            return self.idle / wall if wall > 0 else 0.0
