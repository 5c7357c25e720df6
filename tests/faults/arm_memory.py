"""What the arm's processes share, read from outside: every command that the gate passed and every measured pose, also
of processes that have ended."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from alam_piper.shared_io import COMMANDS, FEEDBACK, ROWS, SharedArm

READ_S, SEARCH_S = 0.1, 0.5  # a ring holds 2.5 s; a process gets no power sooner than this
NAME = "memfd:alam-arm"


class ArmMemory:
    """One process' rings. `lost`: rows of commands that were read too late."""

    def __init__(self, pid: int, path: Path) -> None:
        """Raises OSError when the process has gone."""
        fd = os.open(path, os.O_RDWR)
        try:
            self._shared = SharedArm(fd)
        finally:
            os.close(fd)
        self.pid, self.lost = pid, 0
        self._seen = {COMMANDS: 0, FEEDBACK: 0}
        self._rows: dict[int, list[np.ndarray]] = {COMMANDS: [], FEEDBACK: []}

    def read(self) -> None:
        for ring, before in self._seen.items():
            rows, self._seen[ring] = self._shared.since(ring, before)
            self._rows[ring].append(rows)
            if ring == COMMANDS:
                self.lost += max(0, self._seen[ring] - before - (ROWS - 1))

    def rows(self, ring: int) -> list[np.ndarray]:
        return self._rows[ring]


class MemoryWatch:
    """Finds the memory of each control process that `pids` names, and reads it before it is overwritten."""

    def __init__(self, pids: Callable[[], list[int]]) -> None:
        self._pids = pids
        self._memories: list[ArmMemory] = []
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memories", daemon=True)
        self._thread.start()

    def commands(self, since_s: float) -> np.ndarray:
        """-> (N, 15): time [s] of time.monotonic(), position, velocity of each command passed since then, in order."""
        with self._lock:
            lost = sum(memory.lost for memory in self._memories)
        assert lost == 0, f"{lost} commands were not read in time: nothing can be said about them"
        return self._all(COMMANDS, 15, since_s)

    def measured(self, since_s: float) -> np.ndarray:
        """-> (M, 22): time, position, velocity, effort of each whole feedback since then, in order."""
        return self._all(FEEDBACK, 22, since_s)

    def close(self) -> None:
        self._over.set()
        self._thread.join()

    def _all(self, ring: int, width: int, since_s: float) -> np.ndarray:
        with self._lock:
            for memory in self._memories:
                memory.read()
            parts = [rows for memory in self._memories for rows in memory.rows(ring)]
        table = np.concatenate([np.zeros((0, width)), *parts])
        table = table[table[:, 0] >= since_s]
        return table[np.argsort(table[:, 0], kind="stable")]

    def _run(self) -> None:
        searched = 0.0
        while not self._over.wait(READ_S):
            if time.monotonic() - searched > SEARCH_S:
                searched = time.monotonic()
                self._search()
            with self._lock:
                for memory in self._memories:
                    memory.read()

    def _search(self) -> None:
        known = {memory.pid for memory in self._memories}
        for pid in self._pids():
            if pid in known:
                continue
            try:
                places = [path for path in Path(f"/proc/{pid}/fd").iterdir() if NAME in os.readlink(path)]
                found = [ArmMemory(pid, path) for path in places[:1]]
            except OSError:
                continue  # it has ended meanwhile
            with self._lock:
                self._memories += found
