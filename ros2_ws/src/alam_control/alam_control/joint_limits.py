"""How far, how fast and how abruptly each joint may be moved."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np


@dataclass(frozen=True)
class JointLimits:
    """Each (J,), in rad or m and their derivatives by time: position from low to high, and the largest magnitudes of
    velocity [/s], acceleration [/s^2] and jerk [/s^3]."""

    low: np.ndarray
    high: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray
    jerk: np.ndarray

    def __post_init__(self) -> None:
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        shapes = {np.shape(array) for array in arrays.values()}
        if len(shapes) != 1 or len(next(iter(shapes))) != 1:
            raise ValueError(f"joint limits: wanted arrays of one shape (J,), got {shapes}")
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise ValueError(f"joint limits: wanted finite numbers for {name}, got {array}")
        if not (self.low < self.high).all():
            raise ValueError(f"joint limits: wanted low < high, got {self.low} and {self.high}")
        for name in ("velocity", "acceleration", "jerk"):
            if not (arrays[name] > 0).all():
                raise ValueError(f"joint limits: wanted a {name} above 0, got {arrays[name]}")

    def scaled(self, speed: float) -> JointLimits:
        """speed in (0, 1]: the same path at this fraction of the speed. Raises ValueError for another number."""
        if not 0 < speed <= 1:
            raise ValueError(f"joint limits: wanted a speed in (0, 1], got {speed}")
        return JointLimits(
            self.low, self.high, self.velocity * speed, self.acceleration * speed**2, self.jerk * speed**3
        )


def velocity_peak(velocity: np.ndarray, acceleration: np.ndarray, limits: JointLimits) -> np.ndarray:
    """Each (..., J) -> (..., J): the velocity that each joint has when its acceleration has been taken back as fast as
    its jerk allows: no stop can keep it from getting there."""
    return velocity + acceleration * np.abs(acceleration) / (2 * limits.jerk)


def stopping_point(
    position: np.ndarray, velocity: np.ndarray, acceleration: np.ndarray, limits: JointLimits
) -> np.ndarray:
    """Each (..., J) -> (..., J): where each joint comes to rest when it brakes as hard as its limits allow.

    The time-optimal stop of a jerk-limited joint, in closed form: the acceleration falls to the largest braking (or to
    what is needed of it), stays there, and returns to zero."""
    j, most = limits.jerk, limits.acceleration
    side = np.where(velocity + acceleration * np.abs(acceleration) / (2 * j) >= 0, 1.0, -1.0)
    v, a = velocity * side, acceleration * side
    peak = np.minimum(np.sqrt(np.maximum(j * v + a**2 / 2, 0.0)), np.maximum(most, np.abs(np.minimum(a, 0.0))))
    fall, back = np.maximum((a + peak) / j, 0.0), peak / j
    hold = np.where(peak > 1e-12, (v + a**2 / (2 * j) - peak**2 / j) / np.maximum(peak, 1e-12), 0.0)
    hold = np.maximum(hold, 0.0)
    way = v * fall + a * fall**2 / 2 - j * fall**3 / 6
    v = v + a * fall - j * fall**2 / 2
    way = way + v * hold - peak * hold**2 / 2
    v = v - peak * hold
    way = way + v * back - peak * back**2 / 2 + j * back**3 / 6
    return position + side * way
