"""Which actions a robot executes until the next chunk can come: what that chunk has to go on from. Pure.

Times are robot time [ns]. As in `ChunkBuffer` (alam_control), row k of a chunk begins k control steps after the
observation it answers, and a chunk takes over with its first row that begins after it has come."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import replace
from typing import Any

import numpy as np

EDGE = 1e-6  # [steps] of rounding, as in ChunkBuffer
RECENT = 10  # chunks: the slowest of them says how long the next one may take
PARTS = ("actions", "latents")  # of an alam_models.runtime.Chunk, a row for each step


class OnTheWay:
    """What was sent to the robot, row by row: of the chunk that each step was, or will be, executed from."""

    def __init__(self, rate_hz: float, most: int) -> None:
        """rate_hz: control steps a second; most: committed steps that the policy was trained with."""
        self._step_ns, self._most = 1e9 / rate_hz, most
        self._took_ns: deque[int] = deque(maxlen=RECENT)  # observation to sent chunk
        self._rows: Any = None  # a Chunk whose row 0 begins at _start_ns
        self._start_ns, self._newest_ns, self._instruction = 0.0, -1, ""

    def at(self, observation_ns: int, instruction: str, under_way: bool) -> tuple[Any, str]:
        """-> Chunk of the steps from this observation on that will have been executed before the answer comes, at most
        `most`; or None, and why. under_way: the robot says that it follows the chunks sent."""
        if not self._most:
            return None, "the policy was not trained for it"
        if instruction != self._instruction:
            self._rows, self._instruction = None, instruction
        if not under_way:
            return None, "the robot follows no chunk"
        if observation_ns <= self._newest_ns:
            return None, "the observation is not newer than the last one"
        row = round((observation_ns - self._start_ns) / self._step_ns)
        if self._rows is None or not 0 <= row < len(self._rows.actions):
            return None, "no chunk reaches there"
        delay = min(self._steps(max(self._took_ns)), self._most)
        return (_part(self._rows, row, row + delay), "") if delay > 0 else (None, "answers take no time")

    def sent(self, chunk: Any, observation_ns: int, sent_ns: int) -> None:
        """The answer to the observation that `at` was last asked about has gone out."""
        if not self._most or observation_ns <= self._newest_ns:  # the robot refuses an older one
            return
        self._newest_ns = observation_ns
        self._took_ns.append(sent_ns - observation_ns)
        first = max(0, self._steps(sent_ns - observation_ns))  # those before it came too late to be executed
        start_ns = observation_ns + first * self._step_ns
        rows = _part(chunk, first, None)
        if self._rows is not None:
            begin, end = (round((time - self._start_ns) / self._step_ns) for time in (observation_ns, start_ns))
            if 0 <= end <= len(self._rows.actions):
                before = _part(self._rows, max(0, begin), end)
                rows = replace(rows, **{n: np.concatenate([getattr(p, n) for p in (before, rows)]) for n in PARTS})
                start_ns -= len(before.actions) * self._step_ns
        self._rows, self._start_ns = rows, start_ns

    def _steps(self, duration_ns: float) -> int:
        """-> control steps that have begun within a duration."""
        return math.ceil(duration_ns / self._step_ns - EDGE)


def _part(chunk: Any, begin: int, end: int | None) -> Any:
    return replace(chunk, **{name: getattr(chunk, name)[begin:end] for name in PARTS})
