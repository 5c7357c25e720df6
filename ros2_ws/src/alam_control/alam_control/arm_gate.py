"""The safety gate of an arm: last before the bus. What it passes is finite, inside every limit, and can be stopped.
Pure.

It judges positions by their own differences, not by what a setpoint says of its velocity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from alam_control.joint_limits import JointLimits, stopping_point
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
BRAKE_SLACK = 1e-3  # [rad], [m] by which a stop may come to rest beyond the limit of what was judged
_ROUNDING = 1e-6  # relative: sums of float64 over a period


@dataclass(frozen=True)
class GateConfig:
    """Ages [s] beyond which the arm holds; following error [rad] (joints only) that, when it lasts, is a stop."""

    max_chunk_age_s: float = 1.0
    max_camera_age_s: float = 0.25
    max_feedback_age_s: float = 0.05
    following_error_rad: float = 0.25
    following_error_s: float = 0.1
    max_gripper_force_n: float = 20.0


@dataclass(frozen=True)
class Sensed:
    """What is known at this period: measured position, velocity (J,) and effort (J,), and ages [s] of the feedback and
    of each camera. `faults`: what the arm or a person says that forbids motion until reset; `waits`: what forbids it
    for
    now."""

    position: np.ndarray
    velocity: np.ndarray
    effort: np.ndarray
    feedback_age_s: float
    camera_ages_s: Mapping[str, float] = field(default_factory=dict)
    faults: tuple[str, ...] = ()
    waits: tuple[str, ...] = ()


_KEY = object()


class Passed:
    """A command that the gate has passed: position, velocity (J,), a running number. Only the gate makes one."""

    __slots__ = ("acceleration", "number", "position", "velocity")

    def __init__(self, key: object, setpoint: Setpoint, number: int) -> None:
        if key is not _KEY:
            raise TypeError("wanted a command that the gate has passed; only ArmGate.check makes one")
        self.position, self.velocity = setpoint.position.copy(), setpoint.velocity.copy()
        self.acceleration, self.number = setpoint.acceleration.copy(), number


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
        self._apart_since: float | None = None
        self._clearance = np.inf
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
        self._apart_since = None
        self._clearance = float(clearance(self.geometry, self._last[: self._joints]))

    @property
    def _joints(self) -> int:
        return len(self.geometry.a)

    def stop_reason(self, sensed: Sensed, now: float) -> str:
        """-> why the arm must stop until a person resets it; "" when it need not. Call once a period."""
        if sensed.faults:
            return sensed.faults[0]
        if self._last is None or self.mode == DISABLED or not sensed.feedback_age_s <= self.config.max_feedback_age_s:
            self._apart_since = None
            return ""
        apart = np.abs(self._last[: self._joints] - sensed.position[: self._joints])
        if not apart.max() > self.config.following_error_rad:
            self._apart_since = None
            return ""
        self._apart_since = now if self._apart_since is None else self._apart_since
        if now - self._apart_since < self.config.following_error_s:
            return ""
        joint = int(apart.argmax()) + 1
        return f"following error: joint{joint} is {apart.max():.2f} rad from where it was sent; is it blocked?"

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

    def check(self, setpoint: Setpoint) -> Passed | None:
        """The setpoint of this period -> what may go to the bus; None: nothing may, `refusal` says why."""
        reason = self.objection(setpoint.position, braking=setpoint.kind in ("brake", "rest"))
        if reason:
            self.refused += 1
            self.refusal = reason
            return None
        assert self._last is not None
        step = setpoint.position - self._last
        self._bend = step - self._step
        self._step = step
        self._last = setpoint.position.copy()
        self._number += 1
        return Passed(_KEY, setpoint, self._number)

    def objection(self, position: np.ndarray, braking: bool = False) -> str:
        """position (J,): the next command -> "" when it may follow what was passed before, else why not.

        braking: the limits of motion hold, but where a brake leads was judged when the motion before it was passed."""
        last, limits, dt = self._last, self.limits, self.period_s
        if last is None:
            return "wanted a measured start, got none"
        if np.shape(position) != last.shape:
            return f"wanted {last.shape} positions, got shape {np.shape(position)}"
        if not np.isfinite(position).all():
            return "wanted finite positions, got some that are not"
        step = position - last
        bend = step - self._step
        slack = 1 + _ROUNDING
        if (np.abs(step) > limits.velocity * dt * slack + 1e-9).any():
            return f"{_worst('velocity', np.abs(step) / dt, limits.velocity)}"
        if (np.abs(bend) > limits.acceleration * dt**2 * slack + 1e-9).any():
            return f"{_worst('acceleration', np.abs(bend) / dt**2, limits.acceleration)}"
        if (np.abs(bend - self._bend) > limits.jerk * dt**3 * slack + 1e-9).any():
            return f"{_worst('jerk', np.abs(bend - self._bend) / dt**3, limits.jerk)}"
        outside, was_outside = _outside(position, limits), np.maximum(_outside(last, limits), 0.0)
        if (outside > was_outside + (BRAKE_SLACK if braking else 1e-9)).any():
            return f"joint {int((outside - was_outside).argmax()) + 1} beyond its position limit"
        if braking or not step.any():
            return ""
        # Where would it come to rest? Checked at the position, half way there, and there: a hold is always possible.
        rest = stopping_point(position, step / dt + bend / (2 * dt), bend / dt**2, limits)
        beyond = _outside(rest, limits) - was_outside
        if (beyond > BRAKE_SLACK).any():
            return f"joint {int(beyond.argmax()) + 1} could not stop before its position limit"
        k = self._joints
        clear = clearance(self.geometry, np.stack([position[:k], (position[:k] + rest[:k]) / 2, rest[:k]]))
        if clear.min() < min(0.0, self._clearance) - 1e-6:
            return f"{-clear.min() * 1e3:.0f} mm too close to the table, to the edge of the workspace or to itself"
        self._clearance = float(clear[0])
        return ""


def _outside(position: np.ndarray, limits: JointLimits) -> np.ndarray:
    """-> (J,) how far beyond its limits each joint is; negative inside."""
    return np.maximum(limits.low - position, position - limits.high)


def _worst(what: str, values: np.ndarray, limits: np.ndarray) -> str:
    joint = int((values / limits).argmax())
    return f"joint {joint + 1} {what} {values[joint]:.3g}, limit {limits[joint]:.3g}"
