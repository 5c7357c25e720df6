"""The AgileX Piper in numbers: joints, limits, kinematics, the volume of its links, and its contract. SI units.

Sources: the vendor SDK (piper_sdk 0.6.2: limits, Denavit-Hartenberg parameters of firmware S-V1.6-3 and later) and the
vendor's user manual. Everything else that knows a number of this arm takes it from here.
"""

from __future__ import annotations

import math

import numpy as np

from alam_models.contract import Camera, Channel, Contract

JOINTS = tuple(f"joint{number}" for number in range(1, 7))
GRIPPER = "gripper"
NAMES = (*JOINTS, GRIPPER)

# Limits of position [rad], and of the gripper's opening [m].
LOW = np.array([-2.6179, 0.0, -2.967, -1.745, -1.22, -2.0944, 0.0])
HIGH = np.array([2.6179, 3.14, 0.0, 1.745, 1.22, 2.0944, 0.07])
# The most that a command may ask for: [rad/s], [rad/s^2], [rad/s^3], and the gripper in metres. The arm itself allows
# 3 rad/s and 5 rad/s^2.
VELOCITY = np.array([2.5] * 6 + [0.2])
ACCELERATION = np.array([5.0] * 6 + [1.0])
JERK = np.array([100.0] * 6 + [20.0])

REST = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])  # folded onto its own stop: safe without power
HOME = np.array([0.0, 1.57, -1.3485, 0.0, 0.0, 0.0, 0.0])  # upright, clear of the table

# Modified Denavit-Hartenberg parameters (Craig): Rx(alpha) Tx(a) Rz(theta + offset) Tz(d) for each joint.
DH_ALPHA = np.array([0.0, -math.pi / 2, 0.0, math.pi / 2, -math.pi / 2, math.pi / 2])
DH_A = np.array([0.0, 0.0, 0.28503, -0.02198, 0.0, 0.0])
DH_D = np.array([0.123, 0.0, 0.0, 0.25075, 0.0, 0.091])
DH_OFFSET = np.radians([0.0, -172.22, -102.78, 0.0, 0.0, 0.0])
FINGER_OFFSET_M = 0.135  # from the frame of link 6 to that of the fingers, along its z axis
FINGER_TRAVEL_M = 0.035  # of each of the two fingers

GRIPPER_LEVER_M = 0.1  # an estimate: between the effort of the gripper's drive [N*m] and the force of its fingers [N]
DH_FIRMWARE = (1, 6, 3)  # from here on joints 2 and 3 have the zero of DH_OFFSET

CONTROL_RATE_HZ = 30.0  # of a policy's actions; the bus gets 200 Hz


def piper_contract() -> Contract:
    """-> what the arm senses and takes: joint positions [rad] and the gripper's opening [m], two cameras.

    An action is the position that each joint is to have at the end of its step."""
    channels = tuple(
        Channel(name, "m" if name == GRIPPER else "rad", float(low), float(high))
        for name, low, high in zip(NAMES, LOW, HIGH, strict=True)
    )
    cameras = (Camera("third_person", 640, 480, 96, 96), Camera("wrist", 640, 480, 64, 64))
    return Contract("piper", channels, channels, CONTROL_RATE_HZ, cameras)


def firmware_objection(version: str) -> str:
    """version as the arm tells it, "S-Vx.y-z" -> why it must not be moved with it; "" when it may."""
    digits = version.removeprefix("S-V").replace("-", ".").split(".")
    if not version:
        return "the arm has not told its firmware yet: ask again in a few seconds; is it on, and not in leader mode?"
    if len(digits) != 3 or not all(part.isdigit() for part in digits):
        return f"firmware: wanted a version of the form S-Vx.y-z, got {version}"
    if tuple(map(int, digits)) < DH_FIRMWARE:
        return f"firmware: wanted S-V1.6-3 or newer, got {version}: its joints 2 and 3 have another zero; update it"
    return ""
