"""From chunks that arrive late, twice or out of order to the one action that is due now. Pure: time is an argument."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

_EDGE = 1e-6  # [steps] a time this close below a step's start counts as that step (rounding of float seconds)


@dataclass(frozen=True)
class TimedChunk:
    """actions (H, A) in contract units, row 0 due at `observation_time` [robot s], then one row each `dt` [s]."""

    actions: np.ndarray
    observation_time: float
    observation_id: int
    dt: float
    policy_id: str = ""

    @property
    def end_time(self) -> float:
        """-> robot time [s] at which the last row ends."""
        return self.observation_time + len(self.actions) * self.dt


@dataclass(frozen=True)
class Pick:
    """The action (A,) that is due, its row and the age [s] of the observation behind it; or None and why."""

    action: np.ndarray | None
    row: int
    age: float
    reason: str


class ChunkBuffer:
    """Holds the newest chunk. A late one is spliced in: the rows whose time has passed are never executed."""

    def __init__(self, width: int, max_age: float = math.inf) -> None:
        """width: A; max_age [s]: actions of an observation older than this are not given out."""
        if width < 1 or not max_age > 0:
            raise ValueError(f"chunk buffer: wanted width >= 1 and max_age > 0, got {width} and {max_age}")
        self._width, self._max_age = width, max_age
        self._chunk: TimedChunk | None = None
        self._newest = -math.inf  # observation time of the newest chunk ever taken
        self._newest_id = -1
        self.accepted = 0
        self.rejected = 0
        self.rejection = ""  # why the last rejected one was

    @property
    def chunk(self) -> TimedChunk | None:
        return self._chunk

    def push(self, chunk: TimedChunk, now: float) -> str:
        """now: robot time [s] -> "" when taken, else the reason; a rejected chunk changes nothing."""
        reason = self._objection(chunk, now)
        if reason:
            self.rejected += 1
            self.rejection = reason
            return reason
        self._chunk, self._newest, self._newest_id = (chunk, chunk.observation_time, chunk.observation_id)
        self.accepted += 1
        return ""

    def pick(self, now: float) -> Pick:
        """now: robot time [s] -> the row whose time it is, or None when there is no chunk, it ran out or is too old."""
        if self._chunk is None:
            return Pick(None, -1, math.inf, "no chunk")
        age = now - self._chunk.observation_time
        row = math.floor(age / self._chunk.dt + _EDGE)
        if row < 0:
            return Pick(None, row, age, "the chunk begins later")
        if row >= len(self._chunk.actions):
            return Pick(None, row, age, f"the chunk ran out {now - self._chunk.end_time:.2f} s ago")
        if age > self._max_age:
            return Pick(None, row, age, f"the observation is {age:.2f} s old, limit {self._max_age:.2f} s")
        return Pick(self._chunk.actions[row], row, max(age, 0.0), "")

    def replan_due(self, now: float, replan: int) -> bool:
        """-> True when `replan` rows or more have passed, or nothing is left: time for a new observation."""
        pick = self.pick(now)
        return pick.action is None or pick.row >= replan

    def clear(self) -> None:
        """Forget the chunk. The order of chunks stays, so that one from before cannot come back, and the counts."""
        self._chunk = None

    def _objection(self, chunk: TimedChunk, now: float) -> str:
        shape = np.shape(chunk.actions)
        if len(shape) != 2 or shape[0] < 1 or shape[1] != self._width:
            return f"wanted (H, {self._width}) actions, got shape {shape}"
        if not (math.isfinite(chunk.dt) and chunk.dt > 0 and math.isfinite(chunk.observation_time)):
            return f"wanted finite times and dt > 0, got observation time {chunk.observation_time}, dt {chunk.dt}"
        if chunk.observation_time == self._newest and chunk.observation_id == self._newest_id:
            return f"duplicate of observation {chunk.observation_id}"
        if chunk.observation_time <= self._newest:
            return f"out of order: observation is {self._newest - chunk.observation_time:.3f} s older than the last one"
        if chunk.observation_time > now + _EDGE * chunk.dt:
            return f"observation is {chunk.observation_time - now:.3f} s in the future"
        if chunk.end_time <= now:
            return f"too late: its last action was due {now - chunk.end_time:.3f} s ago"
        return ""
