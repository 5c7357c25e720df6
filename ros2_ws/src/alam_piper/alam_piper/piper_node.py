"""The executable of the Piper node (`robot_node.py`). It loads ROS only once Ctrl-C can end it without a traceback."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

INTERRUPTED = 130


def main() -> None:
    signal.signal(signal.SIGINT, _leave)  # `run_node` puts its own in place
    from alam_common.base_node import run_node
    from alam_piper.robot_node import THREADS, PiperNode

    sys.exit(run_node("piper", PiperNode, THREADS))


def _leave(number: int, frame: Any) -> None:
    """Nothing has been started yet: an exception would only surface in the middle of somebody's import."""
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    main()
