"""The graph as a subprocess: `ros2 launch` started, watched and ended from a program."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from alam_common.refusal import Refusal

PATIENCE_S = ((signal.SIGINT, 7.0), (signal.SIGTERM, 3.0), (signal.SIGKILL, 3.0))
WORDS_OF_FAILURE = ("wanted", "ended with exit code", "error", "not found")


class Graph:
    """`ros2 launch alam_bringup piper.launch.py name:=value ...` with its output in a log file.

    A context manager: whatever happens inside, no process of the graph outlives it."""

    def __init__(self, arguments: dict[str, str], log: Path, launch_file: str = "piper.launch.py") -> None:
        """Raises Refusal when there is no `ros2`."""
        if shutil.which("ros2") is None:
            raise Refusal("wanted a `ros2` command, got none; run `source tools/env.sh` (after `make setup`)")
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log = log
        self._output = log.open("wb")
        command = ["ros2", "launch", "alam_bringup", launch_file]
        command += [f"{name}:={value}" for name, value in arguments.items()]
        # A session of its own: Ctrl-C reaches the caller alone, who then ends the graph in order.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )

    def failure(self) -> str:
        """-> "" while the launch runs, else what its log says about the end."""
        code = self._process.poll()
        if code is None:
            return ""
        lines = self.log.read_text(errors="replace").splitlines()
        telling = [line for line in lines if any(word in line.lower() for word in WORDS_OF_FAILURE)]
        return (
            f"the graph ended with exit code {code}: {(telling or lines or ['no output'])[0].strip()} (log: {self.log})"
        )

    def stop(self) -> int:
        """End every process: SIGINT, then SIGTERM, then SIGKILL -> the exit code of the launch."""
        for number, patience_s in PATIENCE_S:
            if self._process.poll() is not None:
                break
            with suppress(ProcessLookupError):
                if number == signal.SIGINT:
                    self._process.send_signal(number)  # the launch passes it on in its order
                else:
                    os.killpg(self._process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(patience_s)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)  # whatever the launch left in its group
        self._output.close()
        return self._process.returncode

    def __enter__(self) -> Graph:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
