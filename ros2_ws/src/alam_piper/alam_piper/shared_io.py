"""Memory that the arm's process and the ROS node share: rings of feedback and commands, and the cameras' newest stamps.

Writing a row takes microseconds, waits for nobody and wakes nobody: the control loop does it each period. Each ring has
one writer; its count is written after the row. Times are of time.monotonic(), which is one clock for all processes."""

from __future__ import annotations

import mmap
import os

import numpy as np

ROWS = 512  # 2.5 s at 200 Hz: a reader later than this loses the oldest
JOINTS = 7
FEEDBACK, COMMANDS, CHANGES = 0, 1, 2  # places in `_counts`
_COUNTS, _CAMERAS = 8, 8
_FEEDBACK_WIDTH, _COMMAND_WIDTH = 1 + 3 * JOINTS, 1 + 2 * JOINTS
_NUMBERS = _COUNTS + _CAMERAS + ROWS * (_FEEDBACK_WIDTH + _COMMAND_WIDTH)


class SharedArm:
    """fd: of the same memory in another process; None makes it anew."""

    def __init__(self, fd: int | None = None) -> None:
        self.fd = os.memfd_create("alam-arm", 0) if fd is None else fd
        if fd is None:
            os.ftruncate(self.fd, _NUMBERS * 8)
        memory = mmap.mmap(self.fd, _NUMBERS * 8)
        self._counts = np.frombuffer(memory, np.int64, _COUNTS)
        rest = np.frombuffer(memory, np.float64, offset=_COUNTS * 8)
        self.camera_stamps = rest[:_CAMERAS]  # [s], in the order of the contract's roles
        end = _CAMERAS + ROWS * _FEEDBACK_WIDTH
        self._rings = {
            FEEDBACK: rest[_CAMERAS:end].reshape(ROWS, _FEEDBACK_WIDTH),
            COMMANDS: rest[end:].reshape(ROWS, _COMMAND_WIDTH),
        }
        if fd is None:
            self.camera_stamps[:] = -np.inf

    def put(self, ring: int, stamp_s: float, *parts: np.ndarray) -> None:
        """A row: its time, then position, velocity (and effort), each (7,)."""
        count = int(self._counts[ring])
        row = self._rings[ring][count % ROWS]
        row[0] = stamp_s
        for index, part in enumerate(parts):
            row[1 + index * JOINTS : 1 + (index + 1) * JOINTS] = part
        self._counts[ring] = count + 1

    def count(self, ring: int) -> int:
        return int(self._counts[ring])

    def since(self, ring: int, seen: int) -> tuple[np.ndarray, int]:
        """Rows after the first `seen` -> copies (N, 1 + parts * 7), and how many there are by now."""
        count = int(self._counts[ring])
        first = max(seen, count - ROWS + 1)  # the oldest may be in the middle of being written
        return self._rings[ring][np.arange(first, count) % ROWS].copy(), count

    def changed(self) -> None:
        """Say that the mode or its reason has changed."""
        self._counts[CHANGES] += 1
