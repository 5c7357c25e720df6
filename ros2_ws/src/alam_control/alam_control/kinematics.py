"""Where the links of an arm are, and how close to each other and to the table. Pure geometry, any serial arm."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

_UNIT = np.eye(4)
_POINT = 1e-12  # [m^2], [m^4]: below it a segment is a point, or two are parallel


@dataclass(frozen=True)
class Capsule:
    """A line segment with a radius [m], fixed to a frame: 0 is the base, k the frame of joint k. Ends in that frame."""

    name: str
    frame: int
    start: tuple[float, float, float]
    end: tuple[float, float, float]
    radius: float


@dataclass(frozen=True)
class ArmGeometry:
    """A serial arm in modified Denavit-Hartenberg parameters (Craig), each (K,) [rad], [m], and the volume of its
    links.

    `pairs` are the capsules (by index) that must keep `margin` [m] between their surfaces. `box_low`, `box_high` (3,)
    [m] in the base frame: where the ends of the `watched` capsules may be; box_low[2] is the table plane with its
    clearance."""

    alpha: np.ndarray
    a: np.ndarray
    d: np.ndarray
    offset: np.ndarray
    capsules: tuple[Capsule, ...]
    pairs: tuple[tuple[int, int], ...]
    margin: float
    watched: tuple[int, ...]
    box_low: np.ndarray
    box_high: np.ndarray

    @cached_property
    def fixed(self) -> _Fixed:
        """-> what does not depend on the pose, as arrays: the loop asks for distances every period."""
        capsules, watched = self.capsules, list(self.watched)
        radii = np.array([capsule.radius for capsule in capsules])
        first, second = (np.array([pair[k] for pair in self.pairs]) for k in (0, 1))
        reach = np.concatenate([radii[watched], radii[watched]])[:, None]
        return _Fixed(
            np.array([capsule.frame for capsule in capsules]),
            np.array([np.transpose([[*capsule.start, 1.0], [*capsule.end, 1.0]]) for capsule in capsules]),
            np.array(watched),
            self.box_low + reach,
            self.box_high - reach,
            first,
            second,
            radii[first] + radii[second] + self.margin,
        )


@dataclass(frozen=True)
class _Fixed:
    """Of C capsules, W watched, P pairs: frames (C,), ends (C, 4, 2) as homogeneous columns, the box (2 W, 3) for the
    ends of the watched ones, first and second (P,) of the pairs and the distance (P,) [m] they keep."""

    frames: np.ndarray
    ends: np.ndarray
    watched: np.ndarray
    box_low: np.ndarray
    box_high: np.ndarray
    first: np.ndarray
    second: np.ndarray
    keep: np.ndarray


def frames(geometry: ArmGeometry, q: np.ndarray) -> np.ndarray:
    """q (..., K) [rad] -> (..., K + 1, 4, 4): the pose of the base and of each joint's frame, in the base frame."""
    q = np.asarray(q, np.float64)
    count = len(geometry.a)
    alpha, d = geometry.alpha, geometry.d
    links = np.zeros((*q.shape[:-1], count, 4, 4))
    c, s = np.cos(q + geometry.offset), np.sin(q + geometry.offset)
    ca, sa = np.cos(alpha), np.sin(alpha)
    links[..., 0, 0], links[..., 0, 1], links[..., 0, 3] = c, -s, geometry.a
    links[..., 1, 0], links[..., 1, 1], links[..., 1, 2], links[..., 1, 3] = s * ca, c * ca, -sa, -sa * d
    links[..., 2, 0], links[..., 2, 1], links[..., 2, 2], links[..., 2, 3] = s * sa, c * sa, ca, ca * d
    links[..., 3, 3] = 1.0
    poses = np.empty((*q.shape[:-1], count + 1, 4, 4))
    poses[..., 0, :, :] = _UNIT
    for k in range(count):
        np.matmul(poses[..., k, :, :], links[..., k, :, :], out=poses[..., k + 1, :, :])
    return poses


def segments(geometry: ArmGeometry, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """q (..., K) [rad] -> starts and ends (..., C, 3) [m] of the capsules' segments, in the base frame."""
    fixed = geometry.fixed
    poses = frames(geometry, q)[..., fixed.frames, :3, :]
    ends = np.matmul(poses, fixed.ends)  # (..., C, 3, 2)
    return ends[..., 0], ends[..., 1]


def clearance(geometry: ArmGeometry, q: np.ndarray) -> np.ndarray:
    """q (..., K) [rad] -> (...,) [m]: the least of all distances minus what is wanted; negative: too close or outside.

    Over the pairs of capsules (self-collision) and the ends of the watched ones (workspace box, table plane)."""
    fixed = geometry.fixed
    starts, ends = segments(geometry, q)
    points = np.concatenate([starts[..., fixed.watched, :], ends[..., fixed.watched, :]], axis=-2)
    inside = np.minimum(points - fixed.box_low, fixed.box_high - points).min((-1, -2))
    first, second = fixed.first, fixed.second
    apart = segment_distance(starts[..., first, :], ends[..., first, :], starts[..., second, :], ends[..., second, :])
    return np.minimum(inside, (apart - fixed.keep).min(-1))


def segment_distance(p: np.ndarray, p_end: np.ndarray, q: np.ndarray, q_end: np.ndarray) -> np.ndarray:
    """Two segments by their ends, each (..., 3) -> their distance (...,) (Ericson, Real-Time Collision Detection,
    5.1.9)."""
    u, v, w = p_end - p, q_end - q, p - q
    uu, vv, uv, uw, vw = _dot(u, u), _dot(v, v), _dot(u, v), _dot(u, w), _dot(v, w)
    u_long, v_long = (
        np.maximum(uu, _POINT),
        np.maximum(vv, _POINT),
    )  # of a point: its dots are all 0
    across = uu * vv - uv * uv
    s = _unit((uv * vw - uw * vv) / np.maximum(across, _POINT)) * (across > _POINT)
    t = _unit((uv * s + vw) / v_long)
    s = _unit((uv * t - uw) / u_long)
    gap = w + s[..., None] * u - t[..., None] * v
    return np.sqrt(_dot(gap, gap))


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.add.reduce(a * b, axis=-1)


def _unit(x: np.ndarray) -> np.ndarray:
    return np.minimum(np.maximum(x, 0.0), 1.0)
