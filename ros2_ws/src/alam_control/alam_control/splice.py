"""One chunk, and the state in motion when it takes over -> a table of setpoints inside every limit. Pure.

Each channel on its own: a cubic spline through its rows, joined by a quintic blend. A spline that asks for more than
the limits (a policy's noise, at its rate, is mostly jerk) goes through rows that are smoothed as little as will do.
Where even that does not help (a jump) the channel pursues its rows as fast as the limits allow, by the ruckig library.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import ruckig
from scipy.interpolate import CubicSpline

from alam_control.joint_limits import JointLimits, stopping_point, velocity_peak

State = tuple[np.ndarray, np.ndarray, np.ndarray]  # position, velocity, acceleration, each (J,)
SMOOTHING = (0.0, 0.3, 3.0, 30.0, 300.0)  # weights of the squared third differences, tried in this order
MOVED = 0.01  # part of a channel's range that smoothing may move a row by
KNOTS = 15  # how many rows ahead a blend may end
GENTLE = (0.3, 0.6, 1.0)  # parts of the limits: the earliest blend within the first that any is within
MARGIN = 0.98  # of the limits, for what is sampled rather than solved
_SAMPLES = np.linspace(0.0, 1.0, 13)
_POWERS = np.stack([_SAMPLES**k for k in range(6)])


@dataclass(frozen=True)
class Table:
    """states (3, N, J): position, velocity, acceleration after 1 to N periods. `smoothed`, `pursued` (J,) bool:
    channels whose rows were more than the limits allow."""

    states: np.ndarray
    smoothed: np.ndarray
    pursued: np.ndarray


def splice(
    start: State, begin: float, times: np.ndarray, rows: np.ndarray, limits: JointLimits, period_s: float
) -> Table | None:
    """start: commanded at `begin` [s]; rows (H, J) inside the limits, to be reached at times (H,) [s] -> setpoints
    until the last row; None when that is past."""
    count = int(np.floor((times[-1] - begin) / period_s + 1e-6))
    if count < 1:
        return None
    ticks = begin + period_s * np.arange(1, count + 1)
    if len(rows) == 1:
        rows, times = np.repeat(rows, 2, 0), np.array([times[0], times[0] + period_s])
    spline, follows, smoothed = _splines(begin, times, rows, ticks, limits)
    states = np.stack([spline(ticks), spline(ticks, 1), spline(ticks, 2)])
    pursued = ~follows
    knots = np.flatnonzero(times > begin + 2 * period_s)[:KNOTS]
    if len(knots):
        ends = np.stack([spline(times[knots]), spline(times[knots], 1), spline(times[knots], 2)])
        pursued |= ~_blend(states, start, ends, times[knots] - begin, ticks - begin, limits)
    else:
        pursued[:] = True
    # The gate asks that every setpoint can be stopped inside the limits: where a path turns at a limit it could not.
    beyond = np.maximum(limits.low - start[0], start[0] - limits.high).clip(0.0)  # it may lie outside, and come back
    stops = stopping_point(states[0], states[1], states[2], limits)
    pursued |= ((stops < limits.low - beyond) | (stops > limits.high + beyond)).any(0)
    pursued |= (np.abs(velocity_peak(states[1], states[2], limits)) > limits.velocity).any(0)
    for channel in np.flatnonzero(pursued):
        goals = np.interp(ticks, times, rows[:, channel])
        states[:, :, channel] = _pursue([float(x[channel]) for x in start], goals, limits, int(channel), period_s)
    return Table(states, smoothed & ~pursued, pursued)


def quintic(start: State, end: State, duration: np.ndarray | float) -> np.ndarray:
    """-> coefficients (6, ...), lowest power first, of the quintic from one state to another in `duration` [s]."""
    (p0, v0, a0), (p1, v1, a1), t = start, end, duration
    h = p1 - p0 - v0 * t - a0 * t**2 / 2
    dv = v1 - v0 - a0 * t
    da = a1 - a0
    c3 = (10 * h - 4 * dv * t + da * t**2 / 2) / t**3
    c4 = (-15 * h + 7 * dv * t - da * t**2) / t**4
    c5 = (6 * h - 3 * dv * t + da * t**2 / 2) / t**5
    return np.stack(np.broadcast_arrays(p0, v0, a0 / 2, c3, c4, c5))


def _splines(
    begin: float, times: np.ndarray, rows: np.ndarray, ticks: np.ndarray, limits: JointLimits
) -> tuple[CubicSpline, np.ndarray, np.ndarray]:
    """-> cubic splines (J channels), which of them keep the limits, which go through smoothed rows."""
    used = np.array(rows, np.float64)
    follows = np.zeros(rows.shape[1], bool)
    smoothed = np.zeros(rows.shape[1], bool)
    for weight in SMOOTHING if len(rows) >= 4 else SMOOTHING[:1]:
        tried = _smoother(len(rows), weight) @ rows if weight else rows
        spline = _spline(times, tried)
        good = _keeps(spline, begin, ticks, limits)
        good &= np.abs(tried - rows).max(0) <= MOVED * (limits.high - limits.low)
        new = good & ~follows
        used[:, new] = tried[:, new]
        smoothed |= new & (weight > 0)
        follows |= good
        if new.all():
            return spline, follows, smoothed
        if follows.all():
            break
    return _spline(times, used), follows, smoothed


def _spline(times: np.ndarray, rows: np.ndarray) -> CubicSpline:
    """The ends go on as the rows do: one at rest in acceleration would ask a moving joint for a jolt."""
    return CubicSpline(times, rows, bc_type="not-a-knot" if len(rows) >= 4 else "natural")


@lru_cache(maxsize=64)
def _smoother(count: int, weight: float) -> np.ndarray:
    """-> (count, count): rows times this minimise squared distances from the rows plus weighted third differences."""
    third = np.diff(np.eye(count), n=3, axis=0)
    return np.linalg.inv(np.eye(count) + weight * third.T @ third)


def _keeps(spline: CubicSpline, begin: float, ticks: np.ndarray, limits: JointLimits) -> np.ndarray:
    """-> (J,) bool: inside every limit from `begin` on. The acceleration of a cubic is largest at its knots."""
    ahead = spline.x[1:] > begin
    jerk = 6 * np.abs(spline.c[0, ahead])
    acceleration = 2 * np.abs(spline.c[1, ahead])
    position, velocity = spline(ticks), np.abs(spline(ticks, 1))
    return (
        (jerk <= MARGIN * limits.jerk).all(0)
        & (acceleration <= MARGIN * limits.acceleration).all(0)
        & (velocity <= MARGIN * limits.velocity).all(0)
        & (position >= limits.low).all(0)
        & (position <= limits.high).all(0)
    )


def _blend(
    states: np.ndarray, start: State, ends: np.ndarray, durations: np.ndarray, since: np.ndarray, limits: JointLimits
) -> np.ndarray:
    """Overwrite the beginning of `states` (3, N, J) by quintics from `start` to one of `ends` (3, M, J) after durations
    (M,) [s]; since (N,) [s] of each state -> (J,) bool: which channels have such a blend."""
    t = durations[:, None]
    coefficients = quintic(start, (ends[0], ends[1], ends[2]), t)  # (6, M, J)
    powers = _POWERS[:, :, None, None]
    scaled = coefficients * np.stack([t**k for k in range(6)])  # of time in units of the duration
    first = np.stack([k * scaled[k] for k in range(1, 6)])
    second = np.stack([k * first[k] for k in range(1, 5)])
    third = np.stack([k * second[k] for k in range(1, 4)])
    position, velocity, acceleration, jerk = (
        (c[:, None] * powers[: len(c)]).sum(0) / t**k for k, c in enumerate((scaled, first, second, third))
    )
    peak = np.maximum(np.abs(velocity).max(0) / limits.velocity, np.abs(acceleration).max(0) / limits.acceleration)
    peak = np.maximum(peak, np.abs(jerk).max(0) / limits.jerk)  # (M, J)
    beyond = np.maximum(limits.low - start[0], start[0] - limits.high).clip(0.0)  # it may lie outside, and come back
    inside = (position >= limits.low - beyond).all(0) & (position <= limits.high + beyond).all(0)
    found = np.zeros(len(beyond), bool)
    for channel in range(len(found)):
        for part in GENTLE:
            able = np.flatnonzero((peak[:, channel] <= MARGIN * part) & inside[:, channel])
            if len(able):
                found[channel] = True
                knot = able[0]
                ticks = int(np.searchsorted(since, durations[knot]))
                c = coefficients[::-1, knot, channel]
                for order in range(3):
                    states[order, :ticks, channel] = np.polyval(np.polyder(c, order), since[:ticks])
                break
    return found


def _pursue(start: list[float], goals: np.ndarray, limits: JointLimits, channel: int, period_s: float) -> np.ndarray:
    """start: position, velocity, acceleration; goals (N,) -> (3, N): each period on the fastest way to rest at its
    goal."""
    otg, take, out = ruckig.Ruckig(1, period_s), ruckig.InputParameter(1), ruckig.OutputParameter(1)
    take.current_position, take.current_velocity, take.current_acceleration = ([x] for x in start)
    take.target_velocity = take.target_acceleration = [0.0]
    take.max_velocity = [float(limits.velocity[channel])]
    take.max_acceleration = [float(limits.acceleration[channel])]
    take.max_jerk = [float(limits.jerk[channel])]
    states = np.empty((3, len(goals)))
    for tick, goal in enumerate(goals.tolist()):
        take.target_position = [goal]
        otg.update(take, out)
        out.pass_to_input(take)
        states[:, tick] = out.new_position[0], out.new_velocity[0], out.new_acceleration[0]
    return states
