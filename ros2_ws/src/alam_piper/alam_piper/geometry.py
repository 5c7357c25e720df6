"""The Piper's links as capsules, its workspace, and its limits, for the safety gate. Base frame, SI units.

Link radii are read off the vendor's drawings and rounded up. The table is the plane that the base stands on."""

from __future__ import annotations

import numpy as np

from alam_control.joint_limits import JointLimits
from alam_control.kinematics import ArmGeometry, Capsule
from alam_piper import arm

CAPSULES = (
    Capsule("base", 0, (0.0, 0.0, 0.0), (0.0, 0.0, 0.09), 0.05),
    Capsule("upper arm", 2, (0.0, 0.0, 0.0), (float(arm.DH_A[2]), 0.0, 0.0), 0.04),
    Capsule("forearm", 3, (float(arm.DH_A[3]), 0.0, 0.0), (float(arm.DH_A[3]), -float(arm.DH_D[3]), 0.0), 0.035),
    Capsule("hand", 6, (0.0, 0.0, -0.02), (0.0, 0.0, 0.06), 0.04),
    Capsule("fingers", 6, (0.0, 0.0, 0.06), (0.0, 0.0, arm.FINGER_OFFSET_M - 0.012), 0.012),
)
PAIRS = ((0, 2), (0, 3), (0, 4), (1, 3), (1, 4))  # neighbours touch by design
BOX_LOW = np.array([-0.45, -0.70, 0.0])
BOX_HIGH = np.array([0.75, 0.70, 1.00])


def piper_geometry(margin_m: float = 0.01, table_clearance_m: float = 0.0) -> ArmGeometry:
    """margin_m: kept between links; table_clearance_m: kept above the plane that the base stands on."""
    low = BOX_LOW + np.array([0.0, 0.0, table_clearance_m])
    return ArmGeometry(
        arm.DH_ALPHA, arm.DH_A, arm.DH_D, arm.DH_OFFSET, CAPSULES, PAIRS, margin_m, (2, 3, 4), low, BOX_HIGH
    )


def piper_limits(speed: float = 1.0) -> JointLimits:
    """speed in (0, 1]: fraction of the arm's own limits of motion."""
    return JointLimits(arm.LOW, arm.HIGH, arm.VELOCITY, arm.ACCELERATION, arm.JERK).scaled(speed)
