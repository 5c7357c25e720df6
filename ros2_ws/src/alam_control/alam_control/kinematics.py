"""Where the links of an arm are, and how close to each other and to the table. Pure geometry, any serial arm."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


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


def frames(geometry: ArmGeometry, q: np.ndarray) -> np.ndarray:
    """q (..., K) [rad] -> (..., K + 1, 4, 4): the pose of the base and of each joint's frame, in the base frame."""
    q = np.asarray(q, np.float64)
    count = len(geometry.a)
    poses = np.zeros((*q.shape[:-1], count + 1, 4, 4))
    poses[..., 0, :, :] = np.eye(4)
    link = np.zeros((*q.shape[:-1], 4, 4))
    link[..., 3, 3] = 1.0
    for k in range(count):
        ca, sa = math.cos(geometry.alpha[k]), math.sin(geometry.alpha[k])
        c, s = np.cos(q[..., k] + geometry.offset[k]), np.sin(q[..., k] + geometry.offset[k])
        link[..., 0, 0], link[..., 0, 1], link[..., 0, 3] = c, -s, geometry.a[k]
        link[..., 1, 0], link[..., 1, 1], link[..., 1, 2], link[..., 1, 3] = s * ca, c * ca, -sa, -sa * geometry.d[k]
        link[..., 2, 0], link[..., 2, 1], link[..., 2, 2], link[..., 2, 3] = s * sa, c * sa, ca, ca * geometry.d[k]
        poses[..., k + 1, :, :] = poses[..., k, :, :] @ link
    return poses


def segments(geometry: ArmGeometry, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """q (..., K) [rad] -> starts and ends (..., C, 3) [m] of the capsules' segments, in the base frame."""
    poses = frames(geometry, q)[..., [capsule.frame for capsule in geometry.capsules], :, :]
    rotation, origin = poses[..., :3, :3], poses[..., :3, 3]
    starts = np.array([capsule.start for capsule in geometry.capsules])
    ends = np.array([capsule.end for capsule in geometry.capsules])
    return (
        np.einsum("...cij,cj->...ci", rotation, starts) + origin,
        np.einsum("...cij,cj->...ci", rotation, ends) + origin,
    )


def clearance(geometry: ArmGeometry, q: np.ndarray) -> np.ndarray:
    """q (..., K) [rad] -> (...,) [m]: the least of all distances minus what is wanted; negative: too close or outside.

    Over the pairs of capsules (self-collision) and the ends of the watched ones (workspace box, table plane)."""
    starts, ends = segments(geometry, q)
    radii = np.array([capsule.radius for capsule in geometry.capsules])
    watched = list(geometry.watched)
    points = np.concatenate([starts[..., watched, :], ends[..., watched, :]], axis=-2)
    reach = np.concatenate([radii[watched], radii[watched]])[:, None]
    inside = np.minimum(points - reach - geometry.box_low, geometry.box_high - points - reach).min((-1, -2))
    first, second = [pair[0] for pair in geometry.pairs], [pair[1] for pair in geometry.pairs]
    apart = segment_distance(
        starts[..., first, :], ends[..., first, :], starts[..., second, :], ends[..., second, :]
    ) - (radii[first] + radii[second] + geometry.margin)
    return np.minimum(inside, apart.min(-1))


def segment_distance(p: np.ndarray, p_end: np.ndarray, q: np.ndarray, q_end: np.ndarray) -> np.ndarray:
    """Two segments by their ends, each (..., 3) -> their distance (...,) (Ericson, Real-Time Collision Detection,
    5.1.9)."""
    u, v, w = p_end - p, q_end - q, p - q
    uu, vv, uv = (u * u).sum(-1), (v * v).sum(-1), (u * v).sum(-1)
    uw, vw = (u * w).sum(-1), (v * w).sum(-1)
    tiny = 1e-12
    across = uu * vv - uv * uv
    s = np.where(across > tiny, np.clip((uv * vw - uw * vv) / np.maximum(across, tiny), 0, 1), 0.0)
    t = np.where(vv > tiny, (uv * s + vw) / np.maximum(vv, tiny), 0.0)
    clamped = np.clip(t, 0, 1)
    s = np.where(
        (t != clamped) | (vv <= tiny),
        np.where(uu > tiny, np.clip((uv * clamped - uw) / np.maximum(uu, tiny), 0, 1), 0.0),
        s,
    )
    gap = w + s[..., None] * u - clamped[..., None] * v
    return np.sqrt((gap * gap).sum(-1))
