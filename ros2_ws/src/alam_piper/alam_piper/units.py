"""The one place of the vendor's units: 0.001 deg, 0.001 mm, 0.001 N*m, 0.001 rad/s, 0.1 V <-> SI. Exact both ways."""

from __future__ import annotations

import math

MILLIDEGREES = 180_000.0 / math.pi  # in a radian
MICROMETRES = 1e6  # the gripper's unit, 0.001 mm, in a metre
INT32 = 2**31 - 1


def to_millidegrees(angle_rad: float) -> int:
    """[rad] -> [0.001 deg]. Raises ValueError for an angle that is not finite or does not fit 32 bits."""
    return _whole(angle_rad * MILLIDEGREES, "angle", angle_rad)


def from_millidegrees(value: int) -> float:
    """[0.001 deg] -> [rad]."""
    return value / MILLIDEGREES


def to_micrometres(length_m: float) -> int:
    """[m] -> [0.001 mm]. Raises ValueError for a length that is not finite or does not fit 32 bits."""
    return _whole(length_m * MICROMETRES, "length", length_m)


def from_micrometres(value: int) -> float:
    """[0.001 mm] -> [m]."""
    return value / MICROMETRES


def from_thousandths(value: int) -> float:
    """[0.001 rad/s], [0.001 N*m], [0.001 A] -> their SI unit."""
    return value / 1000.0


def to_thousandths(value: float) -> int:
    """[rad/s], [N*m], [A] -> thousandths. Raises ValueError as above."""
    return _whole(value * 1000.0, "value", value)


def from_decivolts(value: int) -> float:
    """[0.1 V] -> [V]."""
    return value / 10.0


def _whole(value: float, what: str, original: float) -> int:
    if not math.isfinite(value) or abs(value) > INT32:
        raise ValueError(f"{what}: wanted a finite number that fits 32 bits of the vendor's unit, got {original}")
    return round(value)
