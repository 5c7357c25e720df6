"""What Linux has for leaving no process behind: parent-death signals, adopted orphans, and a mark that is inherited."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable
from pathlib import Path

PR_SET_PDEATHSIG = 1  # prctl(2)
PR_SET_CHILD_SUBREAPER = 36
MARK = "ROS2_STANDIN_LAUNCH"  # environment variable of everything that is launched; nested launches add theirs
_libc = ctypes.CDLL(None, use_errno=True)  # loaded now: nothing may be loaded between fork and exec


def adopt_orphans() -> None:
    """From now on, what a child leaves behind becomes a child of this process, which can then reap it."""
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def leave_with_parent() -> Callable[[], None]:
    """-> what a child does between fork and exec: own session, default signals, SIGINT when its parent dies."""
    parent = os.getpid()

    def prepare() -> None:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)  # a shell that starts us in the background had SIGINT ignored
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGINT, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return prepare


def marked(mark: str) -> list[int]:
    """-> every living process (zombies are not) whose environment carries this mark, wherever it has gone."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # it has ended, or belongs to somebody else
        for variable in variables:
            if variable.startswith(f"{MARK}=".encode()) and mark.encode() in variable.partition(b"=")[2].split(b":"):
                found.append(int(entry.name))
    return found


def send(pid: int, number: int) -> None:
    """Signal a process; one that has ended meanwhile is fine."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def send_group(group: int, number: int) -> None:
    """Signal a process group; one that nobody is in any more is fine."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return
