"""One chunk, and the state in motion when it takes over -> a table of setpoints inside every limit. Pure.

Each channel on its own: a cubic spline through its rows, joined by a quintic blend. A spline that asks for more than
the limits (a policy's noise, at its rate, is mostly jerk) goes through smoothed rows. One that swings over a position
limit between its rows is drawn in by as much; rows that stay at a limit give a spline that stays there, too. Where all
that does not help (a jump) the channel pursues its rows as fast as the limits allow, by the ruckig library.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import ruckig
from scipy.interpolate import CubicSpline

from alam_control.joint_limits import JointLimits, stopping_point, velocity_peak

State = tuple[np.ndarray, np.ndarray, np.ndarray]  # position, velocity, acceleration, each (J,)
SMOOTHING = (0.3, 3.0, 30.0, 300.0)  # weights of the squared third differences
MOVED = 0.01  # part of a channel's range by which its rows may be moved, by smoothing and by drawing in
BLENDS = (4, 6, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96)  # [periods] that a blend may last
GENTLE, NEARLY = 0.3, 1.2  # the shortest blend that asks for this part of the limits, or nearly the least that one can
MARGIN = 0.98  # of the limits, for what is sampled rather than solved
_SAMPLES = np.linspace(0.0, 1.0, 13)[:, None, None]
_TINY = 1e-10  # [rad], [m] of rounding at a position limit


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
    """start: commanded at `begin` [s]; rows (H, J) inside the limits, to be reached at times (H,) [s], evenly spaced ->
    setpoints until the last row; None when that is past."""
    count = int(np.floor((times[-1] - begin) / period_s + 1e-6))
    if count < 1:
        return None
    ticks = begin + period_s * np.arange(count + 1)
    if len(rows) == 1:
        rows, times = np.repeat(rows, 2, 0), np.array([times[0], times[0] + period_s])
    first = int(np.searchsorted(ticks, times[0]))  # from here on there is a spline; before it, only its continuation
    states, follows, smoothed = _through(times, rows, ticks, first, limits)
    follows &= _join(states, start, first, limits, period_s)
    states = states[:, 1:]
    # The gate asks that every setpoint can be stopped inside the limits: where a path turns at a limit it could not.
    low, high = _reach(start, limits)
    stops = stopping_point(states[0], states[1], states[2], limits)
    follows &= ((stops >= low - _TINY) & (stops <= high + _TINY)).all(0)
    follows &= (np.abs(velocity_peak(states[1], states[2], limits)) <= limits.velocity).all(0)
    for channel in np.flatnonzero(~follows):
        goals = np.interp(ticks[1:], times, rows[:, channel])
        states[:, :, channel] = _pursue([float(x[channel]) for x in start], goals, limits, int(channel), period_s)
    inside = states[0].clip(low, high)
    states[0] = np.where(np.abs(inside - states[0]) < _TINY, inside, states[0])  # rounding alone
    return Table(states, smoothed & follows, ~follows)


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


def _through(
    times: np.ndarray, rows: np.ndarray, ticks: np.ndarray, first: int, limits: JointLimits
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """-> position, velocity, acceleration (3, N, J) at the ticks of splines through the rows; (J,) bool: which of them
    keep the limits from tick `first` on, and which go through smoothed rows.

    How much is smoothed is what generalised cross-validation (Craven and Wahba 1978) makes of the noise, or more."""
    spacing = (times[-1] - times[0]) / (len(times) - 1)
    at = (ticks - times[0]) / spacing
    piece = at.astype(int).clip(0, len(rows) - 2)
    u = (at - piece)[:, None]
    span, most = limits.high - limits.low, MARGIN * _limits_of_motion(limits) * spacing ** np.arange(1, 4)[:, None]
    smoothers, freedom = _smoothers(len(rows))
    candidates = np.concatenate([rows[None], smoothers @ rows])  # (1 + W, H, J)
    channels = np.arange(rows.shape[1])
    level = np.zeros_like(channels)  # of each channel, which candidate
    while True:
        tried = candidates[level, :, channels].T
        spline = _motion((_cubics(len(rows)) @ tried)[:, piece], u)
        position = spline[0, first:]
        swing = np.maximum(limits.low - position, position - limits.high).max(0, initial=0.0)
        spline *= 1 - 2 * swing / span
        spline[0] += 2 * swing / span * limits.low + swing
        near = np.abs(tried - rows).max(0) + swing <= MOVED * span
        able = near & (np.abs(spline[1:, first:]).max(1, initial=0.0) <= most).all(0)
        more = near & ~able & (level < len(smoothers))
        if not more.any():
            return spline[:3] / spacing ** np.arange(3)[:, None, None], able, level > 0
        likely = (((candidates[1:] - rows) ** 2).sum(1) / freedom[:, None] ** 2).argmin(0) + 1
        level = np.where(more, np.maximum(level + 1, likely), level)


def _join(states: np.ndarray, start: State, first: int, limits: JointLimits, period_s: float) -> np.ndarray:
    """Overwrite the beginning of `states` (3, N, J), the first of them when `start` is commanded, by quintics from
    `start` that end after one of BLENDS, at tick `first` or later -> (J,) bool: which have one inside the limits."""
    ends = np.array([blend for blend in BLENDS if first <= blend < states.shape[1]])
    if not len(ends):
        return np.zeros(len(limits.low), bool)
    # In units of each blend's duration: one set of samples serves all.
    per = (period_s * ends[:, None]) ** np.arange(4)[:, None, None]  # (4, M, 1)
    p, v, a = states[:, ends] * per[:3]
    c = quintic((start[0], start[1] * per[1], start[2] * per[2]), (p, v, a), 1.0)  # (6, M, J)
    blends = _motion(c[::-1], _SAMPLES)
    low, high = _reach(start, limits)
    able = ((blends[0] >= low - _TINY) & (blends[0] <= high + _TINY)).all(0)  # (M, J)
    peak = (np.abs(blends[1:]).max(1) / (_limits_of_motion(limits)[:, None] * per[1:])).max(0) / MARGIN
    peak[~able] = np.inf
    best = (peak <= np.clip(NEARLY * peak.min(0), GENTLE, 1.0)).argmax(0)
    c = np.take_along_axis(c, best[None, None], 1)[:, 0]  # (6, J)
    tick = np.arange(ends[best].max())[:, None]
    joined = _motion(c[::-1], tick / ends[best])[:3] / (period_s * ends[best]) ** np.arange(3)[:, None, None]
    np.copyto(states[:, : len(tick)], joined, where=tick < ends[best])
    return peak.min(0) <= 1.0


def _motion(c: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Coefficients c (K, ...) of polynomials, highest power first, at u -> (4, ...): value and three derivatives."""
    found = []
    for _ in range(4):
        value = c[0]
        for coefficient in c[1:]:
            value = value * u + coefficient
        found.append(value)
        c = c[:-1] * np.arange(len(c) - 1, 0, -1).reshape(-1, *(1,) * (c.ndim - 1))
    return np.stack(np.broadcast_arrays(*found))


def _limits_of_motion(limits: JointLimits) -> np.ndarray:
    """-> (3, J): velocity, acceleration, jerk."""
    return np.stack([limits.velocity, limits.acceleration, limits.jerk])


def _reach(start: State, limits: JointLimits) -> tuple[np.ndarray, np.ndarray]:
    """-> the lowest and highest positions (J,): the limits, or where it starts (it may lie outside, and come back)."""
    return np.minimum(limits.low, start[0]), np.maximum(limits.high, start[0])


@lru_cache(maxsize=64)
def _cubics(count: int) -> np.ndarray:
    """-> (4, count - 1, count): times rows, the coefficients of each piece of their spline, highest power first.

    The ends go on as the rows do: one at rest in acceleration would ask a moving joint for a jolt."""
    return CubicSpline(np.arange(count), np.eye(count), bc_type="not-a-knot" if count >= 4 else "natural").c


@lru_cache(maxsize=64)
def _smoothers(count: int) -> tuple[np.ndarray, np.ndarray]:
    """-> (W, count, count): times rows, those that minimise their squared distances from the rows plus weighted third
    differences, for each weight; (W,): the part of the rows' freedom that each takes."""
    if count < 4:
        return np.empty((0, count, count)), np.empty(0)
    third = np.diff(np.eye(count), n=3, axis=0)
    found = np.linalg.inv(np.eye(count) + np.multiply.outer(SMOOTHING, third.T @ third))
    return found, 1 - np.trace(found, axis1=1, axis2=2) / count


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
