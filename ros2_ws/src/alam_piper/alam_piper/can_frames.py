"""The Piper's CAN frames as the arm sees them: commands in, feedback out. Vendor units, big-endian, 8 bytes.

Source: the vendor's SDK (piper_sdk 0.6.2). Only the emulator needs this; the driver talks through the SDK itself."""

from __future__ import annotations

import struct
from collections.abc import Sequence

STOP, CONTROL, GRIPPER, LEADER_HOME, LEADER, ENABLE = 0x150, 0x151, 0x159, 0x191, 0x470, 0x471
POSE = (0x152, 0x153, 0x154)
JOINTS = (0x155, 0x156, 0x157)
MIT = tuple(range(0x15A, 0x160))
QUERY, QUERY_LIMITS, QUERY_ACCELERATION = 0x472, 0x473, 0x47C
FIRMWARE = 0x4AF
STATUS, END_POSE, JOINT_FEEDBACK, GRIPPER_FEEDBACK = 0x2A1, (0x2A2, 0x2A3, 0x2A4), (0x2A5, 0x2A6, 0x2A7), 0x2A8
HIGH_SPEED, LOW_SPEED = tuple(range(0x251, 0x257)), tuple(range(0x261, 0x267))
MIT_RANGES = {"position": (12.5, 16), "velocity": (45.0, 12), "kp": (500.0, 12), "kd": (5.0, 12), "torque": (8.0, 8)}

Frame = tuple[int, bytes]


def pairs(numbers: Sequence[int], values: Sequence[int]) -> list[Frame]:
    """Three ids and six int32 -> three frames of two values each."""
    return [(number, struct.pack(">ii", *values[2 * k : 2 * k + 2])) for k, number in enumerate(numbers)]


def read_pair(data: bytes) -> tuple[int, int]:
    """-> two int32."""
    first, second = struct.unpack(">ii", data)
    return first, second


def status(control: int, state: int, move: int, teach: int, motion: int, trajectory: int, errors: int) -> Frame:
    """errors: 16 bits, limits in the high byte, communication in the low one."""
    return STATUS, struct.pack(">BBBBBBH", control, state, move, teach, motion, trajectory, errors)


def gripper_feedback(stroke: int, effort: int, bits: int) -> Frame:
    """stroke [0.001 mm], effort [0.001 N*m]."""
    return GRIPPER_FEEDBACK, struct.pack(">ihBx", stroke, effort, bits)


def high_speed(joint: int, speed: int, current: int, position: int) -> Frame:
    """joint 0 to 5; speed [0.001 rad/s], current [0.001 A]."""
    return HIGH_SPEED[joint], struct.pack(">hhi", speed, current, position)


def low_speed(
    joint: int, voltage: int, driver_temperature: int, motor_temperature: int, bits: int, current: int
) -> Frame:
    """voltage [0.1 V], temperatures [degC], current [0.001 A]."""
    return LOW_SPEED[joint], struct.pack(">HhbBH", voltage, driver_temperature, motor_temperature, bits, current)


def limits(motor: int, high: int, low: int, speed: int) -> Frame:
    """motor 1 to 6; limits of its angle [0.1 deg] and speed [0.001 rad/s]."""
    return QUERY_LIMITS, struct.pack(">BhhHx", motor, high, low, speed)


def acceleration(motor: int, most: int) -> Frame:
    """motor 1 to 6; its limit [0.001 rad/s^2]."""
    return QUERY_ACCELERATION, struct.pack(">BH5x", motor, most)


def firmware(version: str) -> list[Frame]:
    """version "S-V1.6-3" -> the answer to the firmware query in pieces of 8 characters."""
    text = version.encode().ljust(-(-len(version) // 8) * 8, b"\0")
    return [(FIRMWARE, text[k : k + 8]) for k in range(0, len(text), 8)]


def read_gripper(data: bytes) -> tuple[int, int, int, int]:
    """-> stroke [0.001 mm], effort [0.001 N*m], code (bit 0 on, bit 1 clear errors), set-zero."""
    stroke, effort, code, zero = struct.unpack(">iHBB", data)
    return stroke, effort, code, zero


def read_mit(data: bytes) -> tuple[float, float, float, float, float] | None:
    """-> position [rad], velocity [rad/s], kp, kd, torque [N*m]; None when the check sum is wrong."""
    number = int.from_bytes(data, "big")
    check = 0
    for byte in data[:7]:
        check ^= byte
    if (check & 0xF) != (number & 0xF):
        return None
    raw = {
        "position": number >> 48 & 0xFFFF,
        "velocity": number >> 36 & 0xFFF,
        "kp": number >> 24 & 0xFFF,
        "kd": number >> 12 & 0xFFF,
        "torque": number >> 4 & 0xFF,
    }
    value = {name: raw[name] / (2**bits - 1) * 2 * most - most for name, (most, bits) in MIT_RANGES.items()}
    value["kp"] = raw["kp"] / (2**12 - 1) * 500.0
    return value["position"], value["velocity"], value["kp"], value["kd"], value["torque"]
