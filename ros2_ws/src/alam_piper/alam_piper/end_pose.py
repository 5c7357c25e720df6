"""The tool's pose as the arm's frames give it, place and three angles, and the joints that reach it. Pure.

Closed form: joints 4 to 6 of this arm meet in one point, and joints 1 to 3 have no sideways offset (Pieper's case)."""

from __future__ import annotations

import math

import numpy as np

from alam_control.kinematics import ArmGeometry, frames

REACH = 1e-5  # how far the elbow's cosine may be beyond 1: the frames round a stretched arm's pose
STRAIGHT = 1e-6  # sine of joint 5 below which joints 4 and 6 have the same axis
_FLIP = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])  # Rx(-90 deg)


def euler(rotation: np.ndarray) -> tuple[float, float, float]:
    """(3, 3) -> roll, pitch, yaw [rad] (x, y, z, fixed axes), as the end pose frames give them."""
    pitch = math.atan2(-rotation[2, 0], math.hypot(rotation[0, 0], rotation[1, 0]))
    return math.atan2(rotation[2, 1], rotation[2, 2]), pitch, math.atan2(rotation[1, 0], rotation[0, 0])


def rotation(roll: float, pitch: float, yaw: float) -> np.ndarray:
    """The inverse of euler: angles [rad] -> (3, 3)."""
    cr, sr, cp, sp = math.cos(roll), math.sin(roll), math.cos(pitch), math.sin(pitch)
    cy, sy = math.cos(yaw), math.sin(yaw)
    return np.array(
        [
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
            [-sp, cp * sr, cp * cr],
        ]
    )


def solve_pose(
    geometry: ArmGeometry, place: np.ndarray, turned: np.ndarray, low: np.ndarray, high: np.ndarray, near: np.ndarray
) -> np.ndarray | None:
    """place (3,) [m] and rotation (3, 3) of joint 6's frame; low, high, near (6,) [rad] -> the joints (6,) [rad] inside
    the limits that reach it, of up to eight those nearest to `near`; None: it cannot be reached."""
    middle, best = (low + high) / 2, None
    for shoulder in _shoulders(geometry, place - geometry.d[5] * turned[:, 2]):
        hand = _FLIP @ frames(geometry, np.array([*shoulder, 0, 0, 0]))[3, :3, :3].T @ turned
        for wrist in _wrists(hand, near[3]):
            q = np.array([*shoulder, *wrist])
            q = middle + (q - middle + math.pi) % (2 * math.pi) - math.pi
            inside = (q >= low - 1e-6).all() and (q <= high + 1e-6).all()
            if inside and (best is None or np.abs(q - near).max() < np.abs(best - near).max()):
                best = q
    return best


def _shoulders(geometry: ArmGeometry, wrist: np.ndarray) -> list[tuple[float, float, float]]:
    """Where joints 4 to 6 meet (3,) [m] -> joints 1 to 3 [rad] that bring it there: either side, elbow up or down."""
    upper, back, fore = geometry.a[2], geometry.a[3], geometry.d[3]
    lower, bend = math.hypot(back, fore), math.atan2(-fore, back)
    found = []
    for side in (1.0, -1.0):
        x, y = side * math.hypot(wrist[0], wrist[1]), geometry.d[0] - wrist[2]
        cosine = (x * x + y * y - upper**2 - lower**2) / (2 * upper * lower)
        if abs(cosine) > 1 + REACH:
            continue
        for elbow in (1.0, -1.0):
            angle = elbow * math.acos(min(max(cosine, -1.0), 1.0))
            second = math.atan2(y, x) - math.atan2(lower * math.sin(angle), upper + lower * math.cos(angle))
            first = math.atan2(side * wrist[1], side * wrist[0])
            found.append((first, second - geometry.offset[1], angle - bend - geometry.offset[2]))
    return found


def _wrists(hand: np.ndarray, near: float) -> list[tuple[float, float, float]]:
    """Rotation (3, 3) = Rz(joint 4) Ry(joint 5) Rz(joint 6) -> both triples [rad]; one with joint 4 at `near` when
    joint 5 is straight."""
    sine = math.hypot(hand[0, 2], hand[1, 2])
    if sine < STRAIGHT:
        return [(near, math.atan2(sine, hand[2, 2]), math.atan2(hand[1, 0], hand[0, 0]) - near)]
    fourth, sixth = math.atan2(hand[1, 2], hand[0, 2]), math.atan2(hand[2, 1], -hand[2, 0])
    fifth = math.atan2(sine, hand[2, 2])
    return [(fourth, fifth, sixth), (fourth + math.pi, -fifth, sixth + math.pi)]
