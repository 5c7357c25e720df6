"""Begins an executable so that Ctrl-C ends it without a traceback from its first line on."""

from __future__ import annotations

import os
import signal
from importlib import import_module
from typing import Any

INTERRUPTED = 130


def start(module: str) -> None:
    """Import a module, which takes a second where it loads ROS, and call its `main`, which puts its own signal handlers
    in place."""
    signal.signal(signal.SIGINT, _leave)
    import_module(module).main()


def _leave(number: int, frame: Any) -> None:
    """Nothing has been started yet: an exception would only surface in the middle of somebody's import."""
    os._exit(INTERRUPTED)
