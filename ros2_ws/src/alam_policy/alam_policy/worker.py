"""Inference on a thread of its own, so that a node's callbacks never wait for it. The newest request wins."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class NewestWins:
    """Calls `work(request)` for the newest request; one that was overtaken before its turn is never worked on."""

    def __init__(self, work: Callable[[Any], None]) -> None:
        """work: must not raise; runs on this object's thread."""
        self._work = work
        self._waiting: Any = None
        self._stopping = False
        self._changed = threading.Condition()
        self.superseded = 0
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)
        self._thread.start()

    def offer(self, request: Any) -> None:
        """request: anything but None; returns at once."""
        with self._changed:
            self.superseded += self._waiting is not None
            self._waiting = request
            self._changed.notify()

    def stop(self, timeout_s: float) -> bool:
        """-> whether the thread ended in time; a request in work is finished, one that waits is not begun."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._waiting is None and not self._stopping:
                    self._changed.wait()
                if self._stopping:
                    return
                request, self._waiting = self._waiting, None
            self._work(request)
