"""The ROS node's end of the arm's process: start it, ask it, read what it shares."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from threading import Lock
from typing import Any

from alam_piper.shared_io import SharedArm
from alam_piper.snapshot import Snapshot

END_S = 3.0  # the arm's brake and the end of its process


class ArmClient:
    """Safe from any thread. Chunks have a pipe of their own: nothing else waits for them."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        """settings: the parameters of `settings.PARAMETERS` by name. The process is there on return."""
        self.shared = SharedArm()
        self._chunks, theirs_chunks = Pipe()
        self._requests, theirs = Pipe()
        fds = (self.shared.fd, theirs_chunks.fileno(), theirs.fileno())
        command = [sys.executable, "-m", "alam_piper.arm_process_io", *map(str, fds)]
        one = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # its matrices are of seven joints
        # Not in the terminal's process group: Ctrl-C is for the node, which says when to end.
        self._process = subprocess.Popen(command, pass_fds=fds, env=os.environ | one, process_group=0)
        theirs_chunks.close()
        theirs.close()
        self._locks = {self._chunks: Lock(), self._requests: Lock()}
        self._requests.send(dict(settings))

    @property
    def gone(self) -> bool:
        return self._process.poll() is not None

    def offer(self, chunk: Any, names: tuple[str, ...]) -> str:
        """-> "" or why the chunk is refused. Raises ConnectionError when the process has gone."""
        return str(self._ask(self._chunks, "offer", chunk, names))

    def ask(self, method: str, *arguments: Any) -> Any:
        """A public method of `arm_process_io.ArmProcess` -> its result.

        Raises RuntimeError with the words of what it raised, ConnectionError when the process has gone."""
        return self._ask(self._requests, method, *arguments)

    def snapshot(self, figures: bool = False) -> Snapshot:
        """figures: with those for /diagnostics, which take a while to make."""
        got = self.ask("snapshot", figures)
        assert isinstance(got, Snapshot)
        return got

    def end(self) -> bool:
        """Brake the arm and end the process -> whether it ended by itself in time."""
        try:
            self.ask("end")
        except (ConnectionError, RuntimeError):
            pass  # it has gone, or goes now
        self._requests.close()
        self._chunks.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return False
        return True

    def _ask(self, connection: Connection, method: str, *arguments: Any) -> Any:
        with self._locks[connection]:
            try:
                connection.send((method, arguments))
                good, result = connection.recv()
            except (EOFError, OSError) as error:
                raise ConnectionError("the control process has gone") from error
        if not good:
            raise RuntimeError(result)
        return result
