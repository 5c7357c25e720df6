"""Forward kinematics against the vendor's, distances against brute force, and which poses are legal."""

import numpy as np
import pytest

from alam_control.kinematics import clearance, frames, segment_distance
from alam_piper import arm
from alam_piper.geometry import piper_geometry

GEOMETRY = piper_geometry()


def test_kinematics_equal_the_vendors():
    piper_sdk = pytest.importorskip("piper_sdk")
    vendor = piper_sdk.C_PiperForwardKinematics(1)
    rng = np.random.default_rng(0)
    q = rng.uniform(arm.LOW[:6], arm.HIGH[:6], (10_000, 6))
    mine = frames(GEOMETRY, q)[:, 6, :3, 3] * 1e3
    theirs = np.array([vendor.CalFK(list(row))[-1][:3] for row in q])
    assert np.abs(mine - theirs).max() < 0.1


def test_distance_of_segments_against_brute_force():
    rng = np.random.default_rng(0)
    ends = rng.normal(size=(4, 300, 3))
    s = np.linspace(0, 1, 101)
    first = ends[0][:, None] + (ends[1] - ends[0])[:, None] * s[:, None]
    second = ends[2][:, None] + (ends[3] - ends[2])[:, None] * s[:, None]
    brute = np.linalg.norm(first[:, :, None] - second[:, None], axis=-1).min((1, 2))
    exact = segment_distance(*ends)
    assert (exact <= brute + 1e-9).all() and (brute - exact).max() < 0.05


def test_rest_and_home_are_legal():
    assert clearance(GEOMETRY, arm.HOME[:6]) > 0
    assert clearance(GEOMETRY, arm.REST[:6]) > 0


def test_one_pose_is_judged_like_many():
    poses = np.random.default_rng(0).uniform(arm.LOW[:6], arm.HIGH[:6], (500, 6))
    assert np.allclose(clearance(GEOMETRY, poses), [clearance(GEOMETRY, pose) for pose in poses], rtol=0, atol=1e-14)


def test_work_at_the_table_is_legal():
    """Of poses whose fingertips point down at 1 to 30 cm above the table, in front of the arm, nearly all are legal."""
    rng = np.random.default_rng(0)
    q = rng.uniform(arm.LOW[:6], arm.HIGH[:6], (400_000, 6))
    q[:, [0, 3, 5]] *= 0.3
    hand = frames(GEOMETRY, q)[:, 6]
    tip = hand[:, :3, 3] + arm.FINGER_OFFSET_M * hand[:, :3, 2]
    work = (hand[:, 2, 2] < -0.9) & (tip[:, 2] > 0.01) & (tip[:, 2] < 0.3) & (tip[:, 0] > 0.2) & (tip[:, 0] < 0.5)
    assert work.sum() > 500
    assert (clearance(GEOMETRY, q[work]) > 0).mean() > 0.95
