"""Chunks at the policy's rate -> setpoints at the bus's rate: continuous in position, velocity and acceleration. Pure.

A chunk takes over from the state that will really have been commanded then (`splice`). The table of setpoints is made
when the chunk is offered, in the thread that offers it; the loop reads it row by row. Braking is the ruckig library's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import ruckig

from alam_control.chunk_buffer import TimedChunk
from alam_control.joint_limits import JointLimits
from alam_control.splice import State, splice

AHEAD = 3  # periods between an offer and its take-over while another plan is followed: time to make the table


@dataclass(frozen=True)
class Setpoint:
    """One period's command: position, velocity, acceleration (J,); how it came about ("follow", "move", "brake",
    "rest") and the observation time [robot s] behind it (NaN: none)."""

    position: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray
    kind: str
    observation_time: float


@dataclass(frozen=True)
class _Plan:
    """`state(k)` is to be commanded k periods after it takes over, from 1 to count."""

    state: Callable[[int], State]
    count: int
    kind: str
    observation_time: float
    limited: bool = False


@dataclass(frozen=True)
class _Offer:
    """A chunk, and the plan made for it: it continues `start`, commanded at `begin` [robot s]; None: none yet."""

    chunk: TimedChunk
    begin: float
    start: State
    plan: _Plan | None


class JointTrajectory:
    """The commanded state and the plan that it follows. `offer` may be called from another thread than the rest: what
    it reads and what it leaves are one reference each."""

    def __init__(self, limits: JointLimits, period_s: float) -> None:
        self.limits, self.period_s = limits, period_s
        width = len(limits.low)
        zero = np.zeros(width)
        # What was committed last, when, and the plan with its place in it: replaced as one, for `offer` to read.
        self._now: tuple[State, float, _Plan | None, int] = ((zero, zero, zero), float("nan"), None, 0)
        self._offered: _Offer | None = None
        self._taken: _Offer | None = None  # the offer that the loop has dealt with
        self._otg = ruckig.Ruckig(width, period_s)
        self._brake_in, self._out = ruckig.InputParameter(width), ruckig.OutputParameter(width)
        self._brake_in.control_interface = ruckig.ControlInterface.Velocity
        self._brake_in.synchronization = ruckig.Synchronization.No
        self._brake_in.target_velocity = self._brake_in.target_acceleration = [0.0] * width
        self._brake_in.max_velocity = limits.velocity.tolist()
        self._brake_in.max_acceleration = limits.acceleration.tolist()
        self._brake_in.max_jerk = limits.jerk.tolist()
        self.spliced = 0  # chunks taken over
        self.limited = 0  # of them, those with rows that the limits did not allow
        self.remade = 0  # of them, those made anew in the loop: the motion was not what they were made for

    @property
    def state(self) -> State:
        """-> the position, velocity and acceleration last committed."""
        return self._now[0]

    @property
    def at_rest(self) -> bool:
        _, velocity, acceleration = self._now[0]
        return bool(np.abs(velocity).max() < 1e-9 and np.abs(acceleration).max() < 1e-9)

    def start(self, position: np.ndarray) -> None:
        """Begin at rest at a measured position (J,); what was planned is forgotten."""
        zero = np.zeros_like(self.limits.low)
        self._now = ((np.array(position, np.float64), zero, zero), float("nan"), None, 0)
        self._taken = self._offered

    def forget(self) -> None:
        """Drop the plan; the arm brakes."""
        self._now = (*self._now[:2], None, 0)
        self._taken = self._offered

    def offer(self, chunk: TimedChunk) -> None:
        """Take this chunk over as soon as possible; a newer one that comes before takes its place."""
        state, at, plan, place = self._now
        if not np.isfinite(at):
            self._offered = _Offer(chunk, float("nan"), state, None)
            return
        if plan is not None and place + AHEAD <= plan.count:
            begin, start = at + AHEAD * self.period_s, plan.state(place + AHEAD)
        else:
            begin, start = at, state
        self._offered = _Offer(chunk, begin, start, self._plan(chunk, start, begin))

    def move_to(self, target: np.ndarray, now: float, speed: float) -> None:
        """target (J,): go there and rest, at a fraction of the limits. Raises ValueError when ruckig finds no way."""
        way = self._way(self._now[0], np.asarray(target, np.float64), self.limits.scaled(speed))
        if way is None:
            raise ValueError(f"wanted a position inside the limits, got {np.round(target, 3)}")
        self._taken = self._offered
        count = int(np.ceil(way.duration / self.period_s)) + 1
        plan = _Plan(_ruckig_state(way, self.period_s), count, "move", float("nan"))
        self._now = (*self._now[:2], plan, 0)

    @property
    def has_plan(self) -> bool:
        return self._now[2] is not None or self._offered is not self._taken

    def propose(self, now: float) -> Setpoint | None:
        """now [robot s]: time of this period -> where the plan wants the joints; None when it has none or is over."""
        offer = self._offered
        if offer is not None and offer is not self._taken and not now < offer.begin + self.period_s / 2:
            self._taken = offer
            self._take_over(offer, now)
        state, _, plan, place = self._now
        if plan is None:
            return None
        if place >= plan.count:
            self._now = (state, now, None, 0)
            return None
        return Setpoint(*plan.state(place + 1), plan.kind, plan.observation_time)

    def brake(self) -> Setpoint:
        """-> one period of the fastest stop inside the limits, or rest."""
        if self.at_rest:
            zero = np.zeros_like(self.limits.low)
            return Setpoint(self._now[0][0], zero, zero, "rest", float("nan"))
        take = self._brake_in
        take.current_position, take.current_velocity, take.current_acceleration = (x.tolist() for x in self._now[0])
        self._otg.reset()
        self._otg.update(take, self._out)
        out = self._out
        position = np.array(out.new_position)
        velocity, acceleration = np.array(out.new_velocity), np.array(out.new_acceleration)
        if (np.abs(velocity) < 1e-9).all() and (np.abs(acceleration) < 1e-7).all():
            velocity[:], acceleration[:] = 0.0, 0.0
        return Setpoint(position, velocity, acceleration, "brake", float("nan"))

    def commit(self, setpoint: Setpoint, now: float) -> None:
        """The setpoint goes to the bus at now [robot s]: it is the state that the next period starts from."""
        _, _, plan, place = self._now
        state = (setpoint.position, setpoint.velocity, setpoint.acceleration)
        if setpoint.kind in ("brake", "rest"):
            self._now = (state, now, None, 0)
        else:
            self._now = (state, now, plan, place + 1)

    # Helpers

    def _take_over(self, offer: _Offer, now: float) -> None:
        state = self._now[0]
        plan = offer.plan
        late = not now < offer.begin + 1.5 * self.period_s
        if late or not all(np.array_equal(is_, was) for is_, was in zip(state, offer.start, strict=True)):
            plan = self._plan(offer.chunk, state, now - self.period_s)
            self.remade += 1
        if plan is None:
            return  # its time is over
        self.spliced += 1
        self.limited += plan.limited
        self._now = (state, self._now[1], plan, 0)

    def _plan(self, chunk: TimedChunk, start: State, begin: float) -> _Plan | None:
        rows = np.asarray(chunk.actions, np.float64)
        times = chunk.observation_time + chunk.dt * np.arange(1, len(rows) + 1)
        table = splice(start, begin, times, rows, self.limits, self.period_s)
        if table is None:
            return None
        p, v, a = table.states
        limited = bool((table.smoothed | table.pursued).any())

        def state(k: int) -> State:
            return p[k - 1], v[k - 1], a[k - 1]

        return _Plan(state, len(p), "follow", chunk.observation_time, limited)

    def _way(self, start: State, target: np.ndarray, limits: JointLimits) -> ruckig.Trajectory | None:
        """-> ruckig's trajectory from the state to rest at the target (J,); None when it finds none."""
        width = len(limits.low)
        take = ruckig.InputParameter(width)
        take.current_position, take.current_velocity, take.current_acceleration = (x.tolist() for x in start)
        take.target_position = target.tolist()
        take.target_velocity = take.target_acceleration = [0.0] * width
        take.max_velocity, take.max_acceleration = limits.velocity.tolist(), limits.acceleration.tolist()
        take.max_jerk = limits.jerk.tolist()
        way = ruckig.Trajectory(width)
        result = self._otg.calculate(take, way)
        return way if result in (ruckig.Result.Working, ruckig.Result.Finished) else None


def _ruckig_state(way: ruckig.Trajectory, period_s: float) -> Callable[[int], State]:
    def state(k: int) -> State:
        position, velocity, acceleration = way.at_time(k * period_s)[:3]
        return np.array(position), np.array(velocity), np.array(acceleration)

    return state
