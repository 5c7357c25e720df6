"""One running process: its output line by line with a prefix in front, and its process group."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from typing import IO

from ros2_standin.context import Process
from ros2_standin.refusal import Refused
from ros2_standin.system import MARK, leave_with_parent, send_group

CHUNK = 65536  # [bytes] read at once, and the longest line that is kept together
MOST_CHUNKS = 64  # read after the end of a process: something that it left behind may write for ever


class Child:
    """A started `Process`. Its leader's pid is also the id of its process group."""

    def __init__(self, process: Process, mark: str, say: Callable[[str], None]) -> None:
        """Start it, with this mark in its environment. Raises Refused when it cannot be started."""
        self.process = process
        self._say = say
        self._rest: dict[int, bytes] = {}
        marks = ":".join(filter(None, (process.environment.get(MARK), mark)))
        environment = {"PYTHONUNBUFFERED": "1", **process.environment, MARK: marks}
        try:
            self._popen = subprocess.Popen(
                process.command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=process.cwd,
                env=environment,
                preexec_fn=leave_with_parent(),
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise Refused(f"{process.label}: {process.command[0]} cannot be started: {error}.") from None
        self.pid = self._popen.pid
        self.pipes: list[IO[bytes]] = [pipe for pipe in (self._popen.stdout, self._popen.stderr) if pipe is not None]
        for pipe in self.pipes:
            os.set_blocking(pipe.fileno(), False)

    def read(self, pipe: IO[bytes]) -> int | None:
        """Say the complete lines that have come; -> bytes read: 0 at the end of the pipe, None when it is empty."""
        try:
            data = os.read(pipe.fileno(), CHUNK)
        except BlockingIOError:
            return None
        lines = (self._rest.pop(pipe.fileno(), b"") + data).split(b"\n")
        if lines[-1] and data and len(lines[-1]) < CHUNK:
            self._rest[pipe.fileno()] = lines.pop()
        elif not lines[-1]:
            lines.pop()
        for line in lines:
            self._say(f"[{self.process.label}] {line.decode(errors='replace')}")
        return len(data)

    def finish(self, returncode: int) -> None:
        """Its leader has been reaped: say what is left in the pipes, and end what it left in its group."""
        self._popen.returncode = returncode  # reaped by the supervisor; Popen must not wait for it again
        for pipe in self.pipes:
            for _ in range(MOST_CHUNKS):
                if not self.read(pipe):
                    break
            rest = self._rest.pop(pipe.fileno(), b"")
            if rest:
                self._say(f"[{self.process.label}] {rest.decode(errors='replace')}")
            pipe.close()
        send_group(self.pid, signal.SIGTERM)
