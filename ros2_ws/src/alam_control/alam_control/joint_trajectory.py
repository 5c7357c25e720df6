"""Chunks at the policy's rate -> setpoints at the bus's rate: continuous in position, velocity and acceleration. Pure.

A chunk becomes a cubic spline through its rows (row k is reached at the end of its step). It is spliced in from the
state that was really commanded, by a quintic polynomial onto the spline or, where that breaks a limit, by the
time-optimal jerk-limited motion of the ruckig library. Braking is ruckig's too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import ruckig
from scipy.interpolate import CubicSpline

from alam_control.chunk_buffer import TimedChunk
from alam_control.joint_limits import JointLimits

State = tuple[np.ndarray, np.ndarray, np.ndarray]  # position, velocity, acceleration, each (J,)
BLEND_KNOTS = 6  # how many rows ahead a blend may end
SAMPLES = np.linspace(0.0, 1.0, 13)[1:-1]  # of a quintic, where its limits are checked


@dataclass(frozen=True)
class Setpoint:
    """One period's command: position, velocity, acceleration (J,); how it came about ("follow", "blend", "brake",
    "rest") and the observation time [robot s] behind it (NaN: none)."""

    position: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray
    kind: str
    observation_time: float


@dataclass(frozen=True)
class _Plan:
    """Positions over time from `begin` to `end` [s]; before `join` the blend, then the spline."""

    begin: float
    join: float
    end: float
    blend: Callable[[float], State]
    spline: Callable[[float], State]
    observation_time: float


class JointTrajectory:
    """The commanded state and the plan it follows. `offer` may be called from another thread than the rest."""

    def __init__(self, limits: JointLimits, period_s: float) -> None:
        self.limits, self.period_s = limits, period_s
        width = len(limits.low)
        self._state: State = (np.zeros(width), np.zeros(width), np.zeros(width))
        self._plan: _Plan | None = None
        self._offered: TimedChunk | None = None
        self._otg = ruckig.Ruckig(width, period_s)
        self._brake_in, self._out = ruckig.InputParameter(width), ruckig.OutputParameter(width)
        self._brake_in.control_interface = ruckig.ControlInterface.Velocity
        self._brake_in.synchronization = ruckig.Synchronization.No
        self._brake_in.target_velocity = self._brake_in.target_acceleration = [0.0] * width
        self._brake_in.max_velocity = limits.velocity.tolist()
        self._brake_in.max_acceleration = limits.acceleration.tolist()
        self._brake_in.max_jerk = limits.jerk.tolist()
        self.spliced = 0  # chunks
        self.limited = 0  # splices that needed the limiter

    @property
    def state(self) -> State:
        """-> the position, velocity and acceleration last committed."""
        return self._state

    @property
    def at_rest(self) -> bool:
        return bool((np.abs(self._state[1]) < 1e-9).all() and (np.abs(self._state[2]) < 1e-9).all())

    def start(self, position: np.ndarray) -> None:
        """Begin at rest at a measured position (J,); what was planned is forgotten."""
        zero = np.zeros_like(self.limits.low)
        self._state = (np.array(position, np.float64), zero, zero.copy())
        self.forget()

    def forget(self) -> None:
        """Drop the plan; the arm brakes."""
        self._plan = self._offered = None

    def offer(self, chunk: TimedChunk) -> None:
        """Splice this chunk in at the next period; a newer one that comes before takes its place."""
        self._offered = chunk

    def move_to(self, target: np.ndarray, now: float, speed: float) -> None:
        """target (J,): go there and rest, at a fraction of the limits. Raises ValueError when ruckig finds no way."""
        end = (np.asarray(target, np.float64), np.zeros_like(self.limits.low), np.zeros_like(self.limits.low))
        way = self._way(self._state, end, self.limits.scaled(speed), 0.0)
        if way is None:
            raise ValueError(f"wanted a position inside the limits, got {np.round(target, 3)}")
        self._offered = None
        begin = now - self.period_s  # the next period is its first step
        self._plan = _Plan(begin, np.inf, begin + way.duration, _ruckig_state(way, begin), _rest(end[0]), float("nan"))

    @property
    def has_plan(self) -> bool:
        return self._plan is not None or self._offered is not None

    def propose(self, now: float) -> Setpoint | None:
        """now [robot s]: time of this period -> where the plan wants the joints; None when it has none or is over."""
        if (chunk := self._offered) is not None:
            self._offered = None
            self._plan = self._splice(chunk, now)
        plan = self._plan
        if plan is None:
            return None
        if now > plan.end:
            self._plan = None
            return None
        state = plan.blend(now) if now < plan.join else plan.spline(now)
        if self._reachable(state):
            return Setpoint(*state, "blend" if now < plan.join else "follow", plan.observation_time)
        # The plan asks for more than the limits, or a period was missed: go back onto it as the limits allow.
        if np.isinf(plan.join):
            self._plan = None
            return None
        begin = now - self.period_s
        self._plan = plan = self._limited_plan(plan.spline, plan.end, now, begin, plan.observation_time)
        return Setpoint(*plan.blend(now), "blend", plan.observation_time)

    def brake(self) -> Setpoint:
        """-> one period of the fastest stop inside the limits, or rest."""
        if self.at_rest:
            zero = np.zeros_like(self.limits.low)
            return Setpoint(self._state[0], zero, zero, "rest", float("nan"))
        take = self._brake_in
        take.current_position, take.current_velocity, take.current_acceleration = (x.tolist() for x in self._state)
        self._otg.reset()
        self._otg.update(take, self._out)
        out = self._out
        position = np.array(out.new_position)
        velocity, acceleration = np.array(out.new_velocity), np.array(out.new_acceleration)
        if (np.abs(velocity) < 1e-9).all() and (np.abs(acceleration) < 1e-7).all():
            velocity[:], acceleration[:] = 0.0, 0.0
        return Setpoint(position, velocity, acceleration, "brake", float("nan"))

    def commit(self, setpoint: Setpoint) -> None:
        """The setpoint goes to the bus: it is the state that the next period starts from."""
        self._state = (setpoint.position, setpoint.velocity, setpoint.acceleration)

    # Helpers

    def _splice(self, chunk: TimedChunk, now: float) -> _Plan:
        count = len(chunk.actions)
        times = chunk.observation_time + chunk.dt * np.arange(1, count + 1)
        rows = np.asarray(chunk.actions, np.float64)
        begin = now - self.period_s
        self.spliced += 1
        spline = _spline_state(times, rows)
        ahead = np.flatnonzero(times > now + chunk.dt / 2)
        for knot in ahead[:BLEND_KNOTS]:
            end = spline(times[knot])
            duration = float(times[knot] - begin)
            coefficients = quintic(self._state, end, duration)
            if self._quintic_inside(coefficients, duration):
                blend = _quintic_state(coefficients, begin)
                return _Plan(begin, float(times[knot]), float(times[-1]), blend, spline, chunk.observation_time)
        self.limited += 1
        return self._limited_plan(spline, float(times[-1]), now, begin, chunk.observation_time, times[ahead])

    def _limited_plan(
        self,
        spline: Callable[[float], State],
        end: float,
        now: float,
        begin: float,
        observation_time: float,
        times: np.ndarray | None = None,
    ) -> _Plan:
        """The earliest point of the spline that the limits let us meet in time; none: its end, at rest, when we can."""
        if times is None:
            times = np.arange(now + 0.05, end, 0.05)
        for time in times:
            way = self._way(self._state, spline(float(time)), self.limits, float(time) - begin)
            if way is not None and abs(way.duration - (time - begin)) < 1e-6:
                return _Plan(begin, float(time), end, _ruckig_state(way, begin), spline, observation_time)
        last = spline(end)[0]
        rest = (last, np.zeros_like(last), np.zeros_like(last))
        way = self._way(self._state, rest, self.limits, 0.0)
        assert way is not None, "a rest position can always be reached"
        return _Plan(begin, np.inf, begin + way.duration, _ruckig_state(way, begin), _rest(last), observation_time)

    def _way(self, start: State, end: State, limits: JointLimits, duration: float) -> ruckig.Trajectory | None:
        """-> ruckig's trajectory from state to state in at least `duration` [s]; None when it refuses the end state."""
        width = len(limits.low)
        take = ruckig.InputParameter(width)
        take.current_position, take.current_velocity, take.current_acceleration = (x.tolist() for x in start)
        take.target_position, take.target_velocity, take.target_acceleration = (x.tolist() for x in end)
        take.max_velocity, take.max_acceleration = limits.velocity.tolist(), limits.acceleration.tolist()
        take.max_jerk = limits.jerk.tolist()
        if duration > 0:
            take.minimum_duration = duration
        way = ruckig.Trajectory(width)
        try:
            result = self._otg.calculate(take, way)
        except ruckig.RuckigError:
            return None
        return way if result in (ruckig.Result.Working, ruckig.Result.Finished) else None

    def _quintic_inside(self, coefficients: np.ndarray, duration: float) -> bool:
        t = (SAMPLES * duration)[:, None]
        _, c1, c2, c3, c4, c5 = coefficients
        velocity = c1 + t * (2 * c2 + t * (3 * c3 + t * (4 * c4 + t * 5 * c5)))
        acceleration = 2 * c2 + t * (6 * c3 + t * (12 * c4 + t * 20 * c5))
        ends = np.array([[0.0], [duration]])
        t = np.vstack([t, ends])
        jerk = 6 * c3 + t * (24 * c4 + t * 60 * c5)
        limits = self.limits
        return bool(
            (np.abs(velocity) <= limits.velocity).all()
            and (np.abs(acceleration) <= limits.acceleration).all()
            and (np.abs(jerk) <= limits.jerk).all()
        )

    def _reachable(self, state: State) -> bool:
        """Is the state one period of limited jerk away from the commanded one?"""
        p, v, a = self._state
        limits, dt = self.limits, self.period_s
        jerk = limits.jerk * 1.001
        return bool(
            (np.abs(state[1]) <= limits.velocity * 1.0001).all()
            and (np.abs(state[2]) <= limits.acceleration * 1.0001).all()
            and (np.abs(state[2] - a) <= jerk * dt + 1e-9).all()
            and (np.abs(state[1] - v - a * dt) <= jerk * dt**2 / 2 + 1e-9).all()
            and (np.abs(state[0] - p - v * dt - a * dt**2 / 2) <= jerk * dt**3 / 6 + 1e-9).all()
        )


def quintic(start: State, end: State, duration: float) -> np.ndarray:
    """-> coefficients (6, J), lowest power first, of the quintic from one state to another in `duration` [s]."""
    (p0, v0, a0), (p1, v1, a1), t = start, end, duration
    h = p1 - p0 - v0 * t - a0 * t**2 / 2
    dv = v1 - v0 - a0 * t
    da = a1 - a0
    return np.stack(
        [
            p0,
            v0,
            a0 / 2,
            (10 * h - 4 * dv * t + da * t**2 / 2) / t**3,
            (-15 * h + 7 * dv * t - da * t**2) / t**4,
            (6 * h - 3 * dv * t + da * t**2 / 2) / t**5,
        ]
    )


def _quintic_state(coefficients: np.ndarray, begin: float) -> Callable[[float], State]:
    c0, c1, c2, c3, c4, c5 = coefficients

    def state(now: float) -> State:
        t = now - begin
        return (
            c0 + t * (c1 + t * (c2 + t * (c3 + t * (c4 + t * c5)))),
            c1 + t * (2 * c2 + t * (3 * c3 + t * (4 * c4 + t * 5 * c5))),
            2 * c2 + t * (6 * c3 + t * (12 * c4 + t * 20 * c5)),
        )

    return state


def _spline_state(times: np.ndarray, rows: np.ndarray) -> Callable[[float], State]:
    """times (N,) [s], rows (N, J) -> the natural cubic spline through them; one row: rest there."""
    if len(rows) == 1:
        return _rest(rows[0])
    cubic = CubicSpline(times, rows, bc_type="natural")
    knots, coefficients = times, cubic.c

    def state(now: float) -> State:
        index = min(max(int(np.searchsorted(knots, now, "right")) - 1, 0), len(knots) - 2)
        t = now - knots[index]
        a, b, c, d = coefficients[:, index]
        return d + t * (c + t * (b + t * a)), c + t * (2 * b + t * 3 * a), 2 * b + t * 6 * a

    return state


def _ruckig_state(way: ruckig.Trajectory, begin: float) -> Callable[[float], State]:
    def state(now: float) -> State:
        position, velocity, acceleration = way.at_time(now - begin)[:3]
        return np.array(position), np.array(velocity), np.array(acceleration)

    return state


def _rest(position: np.ndarray) -> Callable[[float], State]:
    zero = np.zeros_like(position)
    return lambda now: (position, zero, zero)
