"""The safety gate of an arm, last before the bus. What passes is finite, inside every limit, and can be stopped. Pure.

It judges positions by their own differences; the velocity and acceleration that a setpoint states must agree with
them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from alam_control.joint_limits import JointLimits, stopping_point, velocity_peak
from alam_control.joint_trajectory import Setpoint
from alam_control.kinematics import ArmGeometry, clearance

DISABLED, HOLDING, MOVING, STOPPED = "disabled", "holding", "moving", "stopped"
TRANSITIONS = {
    ("enable", DISABLED): HOLDING,
    ("disable", HOLDING): DISABLED,
    ("disable", MOVING): DISABLED,
    ("move", HOLDING): MOVING,
    ("hold", MOVING): HOLDING,
    ("stop", DISABLED): STOPPED,
    ("stop", HOLDING): STOPPED,
    ("stop", MOVING): STOPPED,
    ("reset", STOPPED): DISABLED,
}
STOP_CLEARANCE_M = 1e-4  # by which a stop may end closer: its way is judged at three points
STOP_SLACK = 1e-5  # [rad], [m] by which a stop may end beyond where it was judged to: rounding
_ROUNDING = 1e-6  # relative: sums of float64 over a period
_TINY = 1e-9  # [rad], [m]
_GRAIN = 1e-12  # [rad], [m] of rounding in a difference of positions
_MOTION = ("velocity", "acceleration", "jerk", "stated velocity's error", "stated acceleration's error")


@dataclass(frozen=True)
class GateConfig:
    """Ages [s] beyond which the arm holds; following error [rad] (joints only) that, when it lasts, is a stop: how far
    a joint is from everywhere that it was sent during the last `following_lag_s`, for every drive lags.

    `max_gripper_effort_nm` [N*m]: the most that a command lets the gripper's drive use. A grasp presses with just that
    for as long as it lasts, so a measured effort at the limit is no reason to stop closing. One beyond
    `gripper_excess` times the limit, for `gripper_excess_s`, says that the drive does not keep it: a stop, for a hold
    would end by itself and squeeze on."""

    max_chunk_age_s: float = 1.0
    max_camera_age_s: float = 0.25
    max_feedback_age_s: float = 0.05
    following_error_rad: float = 0.25
    following_error_s: float = 0.1
    following_lag_s: float = 0.15
    max_gripper_effort_nm: float = 1.0
    gripper_excess: float = 1.5
    gripper_excess_s: float = 0.3


@dataclass(frozen=True)
class Sensed:
    """What is known at this period: measured position and effort (J,), and ages [s] of the feedback and of each
    camera. `faults`: what the arm or a person says that forbids motion until reset; `waits`: what forbids it for
    now."""

    position: np.ndarray
    effort: np.ndarray
    feedback_age_s: float
    camera_ages_s: Mapping[str, float] = field(default_factory=dict)
    faults: tuple[str, ...] = ()
    waits: tuple[str, ...] = ()


_KEY = object()


class Passed:
    """A command that the gate has passed: position, velocity, acceleration (J,), the gripper's effort [N*m], a running
    number. Only the gate makes one."""

    __slots__ = ("acceleration", "gripper_effort_nm", "number", "position", "velocity")

    def __init__(self, key: object, setpoint: Setpoint, gripper_effort_nm: float, number: int) -> None:
        if key is not _KEY:
            raise TypeError("wanted a command that the gate has passed; only ArmGate.check makes one")
        self.position, self.velocity = setpoint.position.copy(), setpoint.velocity.copy()
        self.acceleration, self.gripper_effort_nm = setpoint.acceleration.copy(), gripper_effort_nm
        self.number = number


class ArmGate:
    """Modes, ages, limits. `check` is called once a period with the setpoint that is to go out."""

    def __init__(self, limits: JointLimits, geometry: ArmGeometry, config: GateConfig, period_s: float) -> None:
        self.limits, self.geometry, self.config, self.period_s = limits, geometry, config, period_s
        self.mode = DISABLED
        self.reason = "disabled: call /robot/enable"
        self._last: np.ndarray | None = None  # position last passed
        self._step = np.zeros_like(limits.low)  # last difference of positions
        self._bend = np.zeros_like(limits.low)  # last difference of differences
        self._number = 0
        dt, jerk = period_s, limits.jerk
        most = np.stack([limits.velocity, limits.acceleration, jerk, jerk * dt**2, jerk * dt])
        noise = _GRAIN / np.array([[dt], [dt**2], [dt**3], [dt], [dt**2]])  # of differences of rounded positions
        self._most = most * (1 + _ROUNDING) + noise
        self._apart_since: float | None = None
        self._squeezes_since: float | None = None
        self._sent = np.zeros((max(1, round(config.following_lag_s / period_s)), len(limits.low)))  # commands, a ring
        self._beyond = np.zeros_like(limits.low)  # how far outside its limits each joint may still be: where it began
        self._judged = -np.inf  # [m] the clearance of the command judged last
        self._floor = 0.0  # [m] the clearance that may still be: 0, or where it began; both only ever improve
        self.refused = 0
        self.refusal = ""

    # Modes

    def change(self, event: str, reason: str) -> bool:
        """One of TRANSITIONS' events -> whether it changed the mode."""
        mode = TRANSITIONS.get((event, self.mode))
        if mode is None:
            return False
        self.mode, self.reason = mode, reason
        return True

    def start(self, position: np.ndarray) -> None:
        """The arm is at rest at this measured position (J,)."""
        self._last = np.array(position, np.float64)
        self._step = np.zeros_like(self._last)
        self._bend = np.zeros_like(self._last)
        self._apart_since = self._squeezes_since = None
        self._sent[:] = self._last
        self._beyond = np.maximum(_outside(self._last, self.limits), 0.0)
        self._floor = min(0.0, float(clearance(self.geometry, self._last[: self._joints])))

    @property
    def _joints(self) -> int:
        return len(self.geometry.a)

    def stop_reason(self, sensed: Sensed, now: float) -> str:
        """-> why the arm must stop until a person resets it; "" when it need not. Call once a period."""
        if sensed.faults:
            return sensed.faults[0]
        if self._last is None or self.mode == DISABLED or not sensed.feedback_age_s <= self.config.max_feedback_age_s:
            self._apart_since = self._squeezes_since = None
            return ""
        if reason := self._squeezes(sensed, now):
            return reason
        at, sent = sensed.position[: self._joints], self._sent[:, : self._joints]
        apart = np.maximum(np.maximum(sent.min(0) - at, at - sent.max(0)), 0.0)
        if apart.max() <= self.config.following_error_rad:  # false for NaN
            self._apart_since = None
            return ""
        self._apart_since = now if self._apart_since is None else self._apart_since
        if now - self._apart_since < self.config.following_error_s:
            return ""
        joint = int(apart.argmax()) + 1
        return f"following error: joint{joint} is {apart.max():.2f} rad from where it was sent; is it blocked?"

    def _squeezes(self, sensed: Sensed, now: float) -> str:
        """-> why the gripper's measured effort is a stop; "" when it is none. All channels but the joints grip."""
        effort = float(np.abs(sensed.effort[self._joints :]).max(initial=0.0))
        most = self.config.max_gripper_effort_nm
        if effort <= self.config.gripper_excess * most:  # false for NaN
            self._squeezes_since = None
            return ""
        self._squeezes_since = now if self._squeezes_since is None else self._squeezes_since
        if now - self._squeezes_since < self.config.gripper_excess_s:
            return ""
        return f"the gripper presses with {effort:.2f} N*m, limit {most:.2f}: its drive does not keep the limit"

    def hold_reason(self, sensed: Sensed, cameras: bool) -> str:
        """-> why the arm may not move on now; "" when it may. cameras: the motion is a policy's, who must see."""
        config = self.config
        if self.mode in (DISABLED, STOPPED):
            return self.reason
        if sensed.waits:
            return sensed.waits[0]
        if not sensed.feedback_age_s <= config.max_feedback_age_s:
            return f"feedback is {sensed.feedback_age_s:.2f} s old, limit {config.max_feedback_age_s:.2f} s"
        for role, age in sensed.camera_ages_s.items() if cameras else ():
            if not age <= config.max_camera_age_s:
                return f"camera {role}: the last image is {age:.2f} s old, limit {config.max_camera_age_s:.2f} s"
        return ""

    def chunk_reason(self, age_s: float) -> str:
        """age_s of the observation behind a setpoint -> why it is not to be followed; "" when it is."""
        limit = self.config.max_chunk_age_s
        return "" if 0 <= age_s <= limit else f"chunk: its observation is {age_s:.2f} s old, limit {limit:.2f} s"

    # The check

    def check(self, setpoint: Setpoint, gripper_effort_nm: float = np.inf) -> Passed | None:
        """The setpoint of this period and the effort that the gripper may use -> what may go to the bus, the effort
        clamped; None: nothing may, `refusal` says why."""
        braking = setpoint.kind in ("brake", "rest")
        reason = "" if braking or self.mode == MOVING else f"{self.mode}: only a stop may pass"
        reason = reason or self.objection(setpoint.position, setpoint.velocity, setpoint.acceleration, braking)
        if reason:
            self.refused += 1
            self.refusal = reason
            return None
        assert self._last is not None
        step = setpoint.position - self._last
        self._bend = step - self._step
        self._step = step
        self._last = setpoint.position.copy()
        self._beyond = np.minimum(self._beyond, np.maximum(_outside(self._last, self.limits), 0.0))
        self._floor = min(0.0, max(self._floor, self._judged))
        self._number += 1
        self._sent[self._number % len(self._sent)] = self._last
        effort = min(max(0.0, gripper_effort_nm), self.config.max_gripper_effort_nm)  # NaN becomes 0
        return Passed(_KEY, setpoint, effort, self._number)

    def objection(
        self, position: np.ndarray, velocity: np.ndarray, acceleration: np.ndarray, braking: bool = False
    ) -> str:
        """Each (J,): the next command -> "" when it may follow what was passed before, else why not.

        braking: the limits of motion hold, but where a brake leads was judged when the motion before it was passed."""
        last, self._judged = self._last, -np.inf
        if last is None:
            return "wanted a measured start, got none"
        for name, value in (("positions", position), ("velocities", velocity), ("accelerations", acceleration)):
            if np.shape(value) != last.shape:
                return f"wanted {last.shape} {name}, got shape {np.shape(value)}"
            if not np.isfinite(value).all():
                return f"wanted finite {name}, got some that are not"
        limits = self.limits
        values, most = self._motion(position, velocity, acceleration)
        if (np.abs(values) > most).any():
            which = int((np.abs(values) / most).max(-1).argmax())
            return _worst(_MOTION[which], np.abs(values[which]), most[which])
        beyond = self._beyond + STOP_SLACK if braking else self._most_outside()
        outside = _outside(position, limits) - beyond
        if (outside > 0).any():
            return f"joint {int(outside.argmax()) + 1} beyond its position limit"
        if braking or not values[0].any():
            return ""
        peak = np.abs(velocity_peak(velocity, acceleration, limits))
        if (peak > limits.velocity * (1 + _ROUNDING) + _TINY).any():
            return f"{_worst('velocity, once the acceleration has ended,', peak, limits.velocity)}"
        # Where would it come to rest? Checked at the position, half way there, and there: a hold is always possible.
        rest = stopping_point(position, velocity, acceleration, limits)
        outside = _outside(rest, limits) - beyond
        if (outside > 0).any():
            return f"joint {int(outside.argmax()) + 1} could not stop before its position limit"
        k = self._joints
        way = np.stack([position[:k], (position[:k] + rest[:k]) / 2, rest[:k]])
        self._judged = float(clearance(self.geometry, way).min())
        if self._judged < self._floor and self._judged < self._least_clearance():
            return f"{-self._judged * 1e3:.0f} mm too close to the table, to the edge of the workspace or to itself"
        return ""

    def allowed(self, position: np.ndarray, velocity: np.ndarray, acceleration: np.ndarray) -> np.ndarray:
        """Each (N, J) -> (N,) bool: which of many candidates for the next command of a motion `objection` has nothing
        against. Changes nothing."""
        values, most = self._motion(position, velocity, acceleration)
        with np.errstate(invalid="ignore", over="ignore"):
            rest = stopping_point(position, velocity, acceleration, self.limits)
            good = (np.abs(values) <= most).all((0, -1))  # false for NaN
            peak = np.abs(velocity_peak(velocity, acceleration, self.limits))
            moves = (values[0] != 0).any(-1)
            good &= (peak <= self.limits.velocity * (1 + _ROUNDING) + _TINY).all(-1) | ~moves
            good &= (_outside(position, self.limits) <= self._most_outside()).all(-1)
            good &= (_outside(rest, self.limits) <= self._most_outside()).all(-1) | ~moves
        judged, k = good & moves, self._joints
        at, end = position[judged][:, :k], rest[judged][:, :k]
        clear = clearance(self.geometry, np.stack([at, (at + end) / 2, end], axis=-2)).min(-1)
        good[judged] = clear >= self._least_clearance()
        return good

    def _most_outside(self) -> np.ndarray:
        """-> (J,) how far outside its limits each joint may go: no farther than it began, or than a stop has just
        brought it (by rounding)."""
        assert self._last is not None
        now = np.minimum(_outside(self._last, self.limits), self._beyond + STOP_SLACK)
        return np.maximum(now, self._beyond + _TINY)

    def _least_clearance(self) -> float:
        """-> [m]: as good as it was ever since it began, or as a stop has just left it (by rounding)."""
        assert self._last is not None
        now = max(float(clearance(self.geometry, self._last[: self._joints])), self._floor - STOP_CLEARANCE_M)
        return min(now, self._floor - _TINY)

    def _motion(
        self, position: np.ndarray, velocity: np.ndarray, acceleration: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Each (..., J) -> the `_MOTION` (5, ..., J) that a command is judged by, and the most of each (5, ..., J).

        By differences over periods of length dt, and how far the stated velocity and acceleration are from them: with
        the jerk j limited, at most j dt^2 and j dt."""
        last, dt, limits = self._last, self.period_s, self.limits
        step = position - last
        bend = step - self._step
        stated_v = velocity - (step / dt + bend / (2 * dt))
        stated_a = acceleration - bend / dt**2
        values = np.stack([step / dt, bend / dt**2, (bend - self._bend) / dt**3, stated_v, stated_a])
        shape = (5, *(1,) * (np.ndim(position) - 1), len(limits.low))
        return values, self._most.reshape(shape)


def _outside(position: np.ndarray, limits: JointLimits) -> np.ndarray:
    """-> (J,) how far beyond its limits each joint is; negative inside."""
    return np.maximum(limits.low - position, position - limits.high)


def _worst(what: str, values: np.ndarray, limits: np.ndarray) -> str:
    joint = int((values / limits).argmax())
    return f"joint {joint + 1} {what} {values[joint]:.3g}, limit {limits[joint]:.3g}"
