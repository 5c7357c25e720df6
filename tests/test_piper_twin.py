"""The arm in MuJoCo: the vendor's kinematics, drives that lag and settle, joints that sag without power."""

import math

import numpy as np
import pytest

from alam_control.kinematics import frames
from alam_piper import arm
from alam_piper.geometry import piper_geometry

pytestmark = pytest.mark.sim
ON, OFF = np.ones(7, bool), np.zeros(7, bool)


@pytest.fixture
def twin():
    from alam_piper.twin import TwinDynamics

    return TwinDynamics()


def rotation(euler_deg):
    """The SDK's roll, pitch, yaw (..., 3) [deg] about fixed axes x, y, z -> (..., 3, 3)."""
    (cr, cp, cy), (sr, sp, sy) = (np.moveaxis(f(np.radians(euler_deg)), -1, 0) for f in (np.cos, np.sin))
    rows = (
        (cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr),
        (sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr),
        (-sp, cp * sr, cp * cr),
    )
    return np.stack([np.stack(row, -1) for row in rows], -2)


def angle_deg(a, b):
    """Rotations (..., 3, 3) -> the angle between them [deg], exact for small ones too."""
    sine = np.linalg.norm(a - b, axis=(-2, -1)) / math.sqrt(8)
    return np.degrees(2 * np.arcsin(np.clip(sine, 0, 1)))


def test_ten_thousand_poses_are_the_sdks(twin):
    import mujoco
    from piper_sdk import C_PiperForwardKinematics

    sdk = C_PiperForwardKinematics(1)
    poses = np.random.default_rng(0).uniform(arm.LOW[:6], arm.HIGH[:6], (10_000, 6))
    body = twin.model.body("link6").id
    ours_mm, ours_r, theirs = np.empty((10_000, 3)), np.empty((10_000, 3, 3)), np.empty((10_000, 6))
    for index, pose in enumerate(poses):
        twin.data.qpos[:6] = pose
        mujoco.mj_kinematics(twin.model, twin.data)
        ours_mm[index], ours_r[index] = twin.data.xpos[body] * 1e3, twin.data.xmat[body].reshape(3, 3)
        theirs[index] = sdk.CalFK(pose.tolist())[-1]
    assert np.linalg.norm(ours_mm - theirs[:, :3], axis=1).max() < 0.1
    assert angle_deg(ours_r, rotation(theirs[:, 3:])).max() < 0.01
    gate = frames(piper_geometry(), poses)[:, 6]  # the safety gate's own
    assert np.abs(gate[:, :3, 3] * 1e3 - ours_mm).max() < 1e-6 and angle_deg(gate[:, :3, :3], ours_r).max() < 1e-6


def test_all_links_and_the_fingertips_are_where_the_numbers_say(twin):
    pose = np.append(np.random.default_rng(1).uniform(arm.LOW[:6], arm.HIGH[:6]), 0.05)
    twin.reset(pose)
    wanted = frames(piper_geometry(), pose[:6])
    for number in range(1, 7):
        position, turned = twin.link_pose(f"link{number}")
        assert np.allclose(position, wanted[number, :3, 3]) and np.allclose(turned, wanted[number, :3, :3])
    tip = wanted[6] @ [0, 0, arm.FINGER_OFFSET_M, 1]
    assert np.allclose(twin.data.site("fingertips").xpos, tip[:3])
    fingers = [twin.link_pose(f"finger_{side}")[0] for side in ("left", "right")]
    assert np.linalg.norm(fingers[0] - fingers[1]) == pytest.approx(0.05)
    assert np.allclose(twin.position, pose)


def test_the_drives_lag_then_settle(twin):
    twin.reset(arm.HOME)
    target = arm.HOME + np.array([0.3, 0.3, -0.3, 0.3, 0.3, 0.3, 0.05])
    twin.step(target, ON, 0.05)
    assert (np.abs(twin.position - arm.HOME)[:6] < 0.2).all() and (np.abs(twin.velocity)[:6] > 0.5).all()
    for _ in range(600):
        twin.step(target, ON, 0.005)
    assert np.abs(twin.position - target)[:6].max() < 0.005 and abs(twin.position[6] - target[6]) < 0.001
    assert np.abs(twin.velocity).max() < 0.01
    assert 1.0 < np.abs(twin.effort[:3]).max() < 20.0  # it carries its own weight


def test_joints_without_power_sag_slower_when_damped(twin):
    def fall(damped, seconds=0.5):
        twin.reset(arm.HOME + np.array([0, 0.5, 0, 0, 0, 0, 0]))
        start = twin.position
        for _ in range(round(seconds / 0.005)):
            twin.step(start, OFF, 0.005, damped=damped)
        return np.abs(twin.position - start)[:3].max()

    assert 0.005 < fall(damped=True) < fall(damped=False)


def test_torque_takes_the_place_of_the_drives(twin):
    none = np.zeros(6), np.zeros(6)
    for pushed, low, high in ((0.0, -0.001, 0.001), (2.0, 0.03, 0.5)):
        twin.reset(arm.HOME)
        for _ in range(20):
            twin.step(arm.HOME, ON, 0.005, torque=np.array([pushed, 0, 0, 0, 0, 0]), gains=none)
        assert low < twin.position[0] < high
        assert np.abs(twin.position - arm.HOME)[1:3].max() < 0.02  # weightless, held by friction


def test_the_same_motion_gives_the_same_bits(twin):
    def run():
        twin.reset(arm.HOME)
        for index in range(100):
            twin.step(arm.HOME + 0.1 * math.sin(index / 10), ON, 0.005)
        return twin.position.tobytes() + twin.effort.tobytes()

    assert run() == run()
