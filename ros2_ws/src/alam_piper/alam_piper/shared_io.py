"""Memory that the arm's process and the ROS node share: rings of feedback and commands, the cameras' newest stamps, and
the stops that are asked for.

Writing a row takes microseconds, waits for nobody and wakes nobody: the control loop does it each period. Each ring has
one writer; its count is written after the row. Times are of time.monotonic(), which is one clock for all processes.

A stop goes this way, not as a question over a pipe, because whoever answers questions may be busy and a stop must not
wait for that."""

from __future__ import annotations

import mmap
import os
from threading import Lock

import numpy as np

ROWS = 512  # 2.5 s at 200 Hz: a reader later than this loses the oldest
JOINTS = 7
FEEDBACK, COMMANDS, CHANGES = 0, 1, 2  # places in `_counts`
_STOPS, _STOPS_TAKEN = 3, 4  # and these: stops asked for, and those that the loop has taken up
_COUNTS, _CAMERAS = 8, 8
_FEEDBACK_WIDTH, _COMMAND_WIDTH = 1 + 3 * JOINTS, 1 + 2 * JOINTS
_NUMBERS = _COUNTS + _CAMERAS + ROWS * (_FEEDBACK_WIDTH + _COMMAND_WIDTH)
_REASONS, _REASON_BYTES = 8, 256  # stops that may wait for one period of the loop; length of a reason in UTF-8
_NO_REASON = "a stop was asked for"
_BYTES = _NUMBERS * 8 + _REASONS * _REASON_BYTES


class SharedArm:
    """fd: of the same memory in another process; None makes it anew."""

    def __init__(self, fd: int | None = None) -> None:
        self.fd = os.memfd_create("alam-arm", 0) if fd is None else fd
        if fd is None:
            os.ftruncate(self.fd, _BYTES)
        memory = mmap.mmap(self.fd, _BYTES)
        self._counts = np.frombuffer(memory, np.int64, _COUNTS)
        rest = np.frombuffer(memory, np.float64, _NUMBERS - _COUNTS, offset=_COUNTS * 8)
        self.camera_stamps = rest[:_CAMERAS]  # [s], in the order of the contract's roles
        end = _CAMERAS + ROWS * _FEEDBACK_WIDTH
        self._rings = {
            FEEDBACK: rest[_CAMERAS:end].reshape(ROWS, _FEEDBACK_WIDTH),
            COMMANDS: rest[end:].reshape(ROWS, _COMMAND_WIDTH),
        }
        self._words = memoryview(memory)[: _COUNTS * 8].cast("q")  # `_counts`, read without making a scalar
        self._reasons = memoryview(memory)[_NUMBERS * 8 :]
        self._asking = Lock()
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

    def ask_stop(self, reason: str) -> int:
        """Ask the loop to stop the arm -> the request's number. At once, from any thread of the one process that asks.

        A reason longer than its place is cut; more than eight requests in one period of the loop become eight."""
        text = (reason or _NO_REASON).encode(errors="replace")[:_REASON_BYTES].ljust(_REASON_BYTES, b"\0")
        with self._asking:
            number = self._words[_STOPS]
            first = number % _REASONS * _REASON_BYTES
            self._reasons[first : first + _REASON_BYTES] = text
            self._words[_STOPS] = number + 1
        return number + 1

    def stop_asked(self) -> str:
        """-> why the arm is to stop, once for each request, the oldest first; "" when nobody asks. For the loop alone:
        it never waits."""
        asked, taken = self._words[_STOPS], self._words[_STOPS_TAKEN]
        if asked == taken:
            return ""
        taken = max(taken, asked - _REASONS)
        first = taken % _REASONS * _REASON_BYTES
        text = bytes(self._reasons[first : first + _REASON_BYTES])
        self._words[_STOPS_TAKEN] = taken + 1
        return text.rstrip(b"\0").decode(errors="ignore") or _NO_REASON

    def stop_taken(self, number: int) -> bool:
        """-> whether the loop has taken up the request of this number."""
        return self._words[_STOPS_TAKEN] >= number
