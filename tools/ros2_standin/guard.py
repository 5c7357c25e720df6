"""A second process that ends the launched ones when the launcher itself is killed with SIGKILL.

It reads from a pipe whose other end only the launcher has. However the launcher ends, the kernel closes that end; what
is then still running of the launch gets SIGTERM and later SIGKILL. (SIGINT it got from the kernel.)
"""

from __future__ import annotations

import os
import signal
import time

from ros2_standin.system import marked, send

PATIENCE_S = 2.0  # after SIGINT, and again after SIGTERM
STEP_S = 0.1
TRIES = 5  # rounds of SIGKILL, for what starts new processes meanwhile


def start_guard(mark: str) -> int:
    """Start the guard of everything that carries this mark -> the file to close at an orderly end."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(write)
            _guard(read, mark)
        finally:
            os._exit(0)
    os.close(read)
    return write


def _guard(read: int, mark: str) -> None:
    os.setsid()  # Ctrl-C is for the launcher
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    while os.read(read, 1):
        pass
    for number in (signal.SIGTERM, *[signal.SIGKILL] * TRIES):
        until = time.monotonic() + PATIENCE_S
        while marked(mark) and time.monotonic() < until:
            time.sleep(STEP_S)
        for pid in marked(mark):
            send(pid, number)
