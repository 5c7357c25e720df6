"""Which actions a robot executes until the next chunk can come: what that chunk has to go on from. Pure.

Times are robot time [ns]. As in `ChunkBuffer` (alam_control), row k of a chunk begins k control steps after the
observation it answers, and a chunk takes over with its first row that begins after it has come."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace
from typing import Any

EDGE = 1e-6  # [steps] of rounding, as in ChunkBuffer
RECENT = 10  # chunks: the slowest of them says how long the next one may take
PARTS = ("actions", "latents")  # of an alam_models.runtime.Chunk, a row for each step


@dataclass(frozen=True)
class _Sent:
    """A chunk that went out. The robot executes its rows from `begin` on, if it takes it; before `own` it executes the
    same whether it takes it or not."""

    chunk: Any
    observation_ns: int
    sent_ns: int
    begin: int
    own: int


class OnTheWay:
    """The chunks sent to a robot since it started. Not for two threads; for another start, make another one."""

    def __init__(self, rate_hz: float, most: int) -> None:
        """rate_hz: control steps a second; most: committed steps that the policy was trained with."""
        self._step_ns, self._most = 1e9 / rate_hz, most
        self._took_ns: deque[int] = deque(maxlen=RECENT)  # observation to sent chunk
        self._sent: deque[_Sent] = deque(maxlen=RECENT)  # the oldest first
        self._newest_ns, self._instruction = -1, ""

    def at(self, observation_ns: int, instruction: str, under_way: bool) -> tuple[Any, str]:
        """-> Chunk of the steps from this observation on that will have been executed before the answer comes, at most
        `most`; or None, and why. under_way: the robot says that it follows the newest chunk.

        That is the newest one sent before the observation was made. Of a later one nobody knows yet whether the robot
        takes it, so the steps end where it would take over."""
        if not self._most:
            return None, "the policy was not trained for it"
        if instruction != self._instruction:
            self._sent.clear()
            self._instruction = instruction
        while len(self._sent) > 1 and self._sent[1].sent_ns < observation_ns:
            self._sent.popleft()
        if not under_way:
            return None, "the robot follows no chunk"
        if observation_ns <= self._newest_ns:
            return None, "the observation is not newer than the last one"
        if not self._sent or observation_ns <= self._sent[0].sent_ns:
            return None, "no chunk was sent before the observation"
        followed = self._sent[0]
        row = round((observation_ns - followed.observation_ns) / self._step_ns)
        left = len(followed.chunk.actions) - row
        if row < followed.begin or left < 1:
            return None, "no chunk reaches there"
        if len(self._sent) > 1:
            later = self._sent[1]
            left = min(left, round((later.observation_ns - observation_ns) / self._step_ns) + later.own)
        if left < 1:
            return None, "whether the robot takes the newest chunk is not known yet"
        delay = min(self._steps(max(self._took_ns)), self._most, left)
        return (_part(followed.chunk, row, row + delay), "") if delay > 0 else (None, "answers take no time")

    def sent(self, chunk: Any, committed: int, observation_ns: int, sent_ns: int) -> None:
        """The answer to an observation has gone out; committed: how many of its first rows `at` had given."""
        if not self._most or observation_ns <= self._newest_ns:  # the robot refuses an older one
            return
        self._newest_ns = observation_ns
        self._took_ns.append(sent_ns - observation_ns)
        late = max(0, self._steps(sent_ns - observation_ns))  # rows before it came too late to be executed
        begin = late if committed < late else 0  # the committed ones are executed, from the chunk before
        self._sent.append(_Sent(chunk, observation_ns, sent_ns, begin, max(late, committed)))

    def _steps(self, duration_ns: float) -> int:
        """-> control steps that have begun within a duration."""
        return math.ceil(duration_ns / self._step_ns - EDGE)


def _part(chunk: Any, begin: int, end: int) -> Any:
    return replace(chunk, **{name: getattr(chunk, name)[begin:end] for name in PARTS})
