"""From chunks to commands, once a period: the trajectory proposes, the gate disposes. Pure: time is an argument.

`tick` belongs to the loop's thread; `offer`, `stop` and the other requests may come from any thread: each hands over
one reference, which the next tick takes up, and offers exclude each other by a lock that the loop never takes."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from threading import Lock

import numpy as np

from alam_control.arm_gate import DISABLED, HOLDING, MOVING, STOPPED, ArmGate, GateConfig, Passed, Sensed
from alam_control.chunk_buffer import ChunkBuffer, TimedChunk
from alam_control.joint_limits import JointLimits
from alam_control.joint_trajectory import JointTrajectory
from alam_control.kinematics import ArmGeometry

CLIP = 0.02  # rows outside the position limits by up to this part of the range are clipped, beyond it refused
SAG = 0.03  # [rad], [m] that an arm may be measured beyond a limit and still begin at it
SLOWEST_S, LONGEST_S, MOST_ROWS = 0.5, 10.0, 500  # [s] from row to row of a chunk, all of it: its table is made at once


class ArmExecutor:
    """One arm's chunk buffer, trajectory and gate."""

    def __init__(
        self,
        names: Sequence[str],
        limits: JointLimits,
        geometry: ArmGeometry,
        config: GateConfig,
        period_s: float,
    ) -> None:
        self.names, self.limits = tuple(names), limits
        self.gate = ArmGate(limits, geometry, config, period_s)
        self.trajectory = JointTrajectory(limits, period_s)
        self._buffer = ChunkBuffer(len(self.names))
        self._offering = Lock()
        self._requests: deque[tuple[str, str]] = deque()
        self._task = False
        self._move: tuple[np.ndarray, float] | None = None
        self._own_motion = False  # the motion under way is a move_to, not a policy's
        self.observation_time = float("nan")  # [robot s] behind the command last passed
        self.clipped = 0
        self.held = 0
        self.why_refused = ""

    @property
    def mode(self) -> str:
        return self.gate.mode

    @property
    def reason(self) -> str:
        return self.gate.reason

    @property
    def rejected(self) -> int:
        return self._buffer.rejected

    @property
    def moving_itself(self) -> bool:
        """-> whether a `move_to` is under way."""
        return self._own_motion or self._move is not None

    # Requests, from any thread

    def offer(self, chunk: TimedChunk, names: Sequence[str], now: float) -> str:
        """A chunk has arrived; now [robot s] -> "" when it will be executed, else why not (and nothing has changed)."""
        with self._offering:
            reason = self._objection(chunk, names)
            if reason:
                self._buffer.rejected += 1
                self._buffer.rejection = reason
            else:
                rows = np.asarray(chunk.actions, np.float64)
                safe = np.clip(rows, self.limits.low, self.limits.high)  # rows inside stay as they are, to the bit
                timed = TimedChunk(safe, chunk.observation_time, chunk.observation_id, chunk.dt, chunk.policy_id)
                reason = self._buffer.push(timed, now)
                if not reason:
                    self.clipped += int((safe != rows).any())
                    self.trajectory.offer(timed)
            self.why_refused = reason or self.why_refused
        return reason

    def task(self, runs: bool) -> None:
        """Chunks are executed only while a task runs."""
        with self._offering:
            self._task = runs
            if not runs:
                self._buffer.clear()
                self._requests.append(("forget", ""))

    def enable(self) -> None:
        self._requests.append(("enable", ""))

    def disable(self, reason: str) -> None:
        self._requests.append(("disable", reason))

    def stop(self, reason: str) -> None:
        self._requests.append(("stop", reason))

    def reset(self) -> None:
        self._requests.append(("reset", "disabled: call /robot/enable"))

    def move_to(self, target: np.ndarray, speed: float) -> None:
        """target (J,): go there at a fraction of the limits, through the same gate. Raises ValueError for a target that
        is not finite or outside the limits."""
        target = np.asarray(target, np.float64)
        if target.shape != self.limits.low.shape or not np.isfinite(target).all():
            raise ValueError(f"move: wanted {self.limits.low.shape} finite positions, got {target}")
        if (target < self.limits.low - 1e-9).any() or (target > self.limits.high + 1e-9).any():
            raise ValueError(f"move: wanted a position inside the limits, got {np.round(target, 3)}")
        with self._offering:
            self._move = (np.clip(target, self.limits.low, self.limits.high), speed)

    # Once a period

    def start(self, position: np.ndarray) -> None:
        """The arm rests at this measured position (J,): motion begins here, or at the limit that it lies just beyond (a
        folded arm rests on its stops)."""
        inside = np.clip(position, self.limits.low, self.limits.high)
        position = inside if np.abs(inside - position).max() <= SAG else np.array(position)
        self.trajectory.start(position)
        self.gate.start(position)
        self._own_motion, self._move = False, None

    def tick(self, now: float, sensed: Sensed) -> Passed | None:
        """One period; now [robot s] -> what goes to the bus; None: nothing (disabled, or the gate refused even a
        stop)."""
        self.take_requests()
        gate, trajectory = self.gate, self.trajectory
        if gate.mode != STOPPED and (reason := gate.stop_reason(sensed, now)):
            gate.change("stop", reason)
        if self._move is not None and gate.mode not in (HOLDING, MOVING):
            self._move = None
        if self._move is not None and trajectory.at_rest:
            trajectory.move_to(self._move[0], now, self._move[1])
            self._own_motion, self._move = True, None
        setpoint = None
        reason = gate.hold_reason(sensed, cameras=self._task and not self._own_motion)
        if not reason and (self._task or self._own_motion):
            setpoint = trajectory.propose(now)
            if setpoint is None:
                self._own_motion = False
                reason = "chunk: none, or it ran out" if self._task else ""
            elif not self._own_motion:
                reason = gate.chunk_reason(now - setpoint.observation_time)
        elif not reason:
            reason = "no task runs: call /run_task"
        if gate.mode == DISABLED and trajectory.at_rest:
            return None
        if reason and gate.mode in (HOLDING, MOVING):
            gate.change("hold", reason)
            gate.reason = reason
            if self._own_motion:
                self._own_motion = False
                trajectory.forget()
        if setpoint is not None and not reason:
            gate.change("move", "")
            passed = gate.check(setpoint)
            if passed is not None:
                trajectory.commit(setpoint, now)
                self.observation_time = setpoint.observation_time
                return passed
            self.held += 1
            gate.change("hold", f"gate: {gate.refusal}")
            gate.reason = f"gate: {gate.refusal}"
            trajectory.forget()
            self._own_motion = False
        self.held += bool(reason) and self._task
        setpoint = trajectory.brake()
        passed = gate.check(setpoint)
        if passed is None:
            if gate.mode != STOPPED:
                gate.change("stop", f"the gate refused even a stop: {gate.refusal}")
            trajectory.start(trajectory.state[0])
            gate.start(trajectory.state[0])
            return None
        trajectory.commit(setpoint, now)
        return passed

    def hold_here(self) -> Passed | None:
        """The position it rests at, passed by the gate though the arm is disabled: the target for when power comes."""
        return self.gate.check(self.trajectory.brake()) if self.trajectory.at_rest else None

    # Helpers

    def take_requests(self) -> None:
        while self._requests:
            event, reason = self._requests.popleft()
            if event == "forget":
                if not self._own_motion:
                    self.trajectory.forget()
                continue
            if self.gate.change(event, reason) and event in ("stop", "disable"):
                self.trajectory.forget()
                self._own_motion = False

    def _objection(self, chunk: TimedChunk, names: Sequence[str]) -> str:
        if not self._task:
            return "no task runs: call /run_task"
        if self.moving_itself:
            return "the arm is on its way home or to rest"
        if tuple(names) != self.names:
            return f"wanted channels {list(self.names)} in this order, got {list(names)}"
        rows = np.asarray(chunk.actions)
        if rows.ndim != 2 or rows.shape[0] < 1 or rows.shape[1] != len(self.names) or rows.dtype.kind not in "fiu":
            return f"wanted (H, {len(self.names)}) actions, got shape {rows.shape} {rows.dtype}"
        if not (finite := np.isfinite(rows)).all():
            return f"wanted finite actions, got {int((~finite).sum())} of {finite.size} numbers that are not"
        spaced = self.gate.period_s <= chunk.dt <= SLOWEST_S  # false for NaN
        if not spaced or len(rows) > MOST_ROWS or len(rows) * chunk.dt > LONGEST_S:
            return (
                f"wanted a row each {self.gate.period_s:g} to {SLOWEST_S:g} s, at most {MOST_ROWS} and {LONGEST_S:g} s "
                f"of them, got {len(rows)} each {chunk.dt:g} s"
            )
        span = self.limits.high - self.limits.low
        outside = np.maximum(self.limits.low - rows, rows - self.limits.high).max(0)
        if (outside > CLIP * span).any():
            joint = int(outside.argmax())
            value = float(rows[np.abs(rows[:, joint]).argmax(), joint])
            low, high = self.limits.low[joint], self.limits.high[joint]
            likely = "; this looks like degrees" if abs(value) > 2 * np.pi else ""
            return f"{self.names[joint]}: wanted a position in [{low:.3f}, {high:.3f}], got {value:.3f}{likely}"
        return ""
