"""An emulated arm at made-up times, for tests: frames in, frames out, no process and no clock."""

from __future__ import annotations

import struct

import numpy as np

from alam_piper import arm
from alam_piper import can_frames as wire
from alam_piper.emulator import PiperEmulator
from alam_piper.emulator_faults import parse_fault
from alam_piper.geometry import piper_geometry

TICK_S, SLOW_S = 0.005, 0.025  # of the two rates of feedback
DELAY_S = 0.1  # from a motor's enable to its power
GEOMETRY = piper_geometry()
JOINT_IDS = (0x155, 0x156, 0x157)
FAST_IDS = (0x2A1, 0x2A2, 0x2A3, 0x2A4, 0x2A5, 0x2A6, 0x2A7, 0x2A8, *range(0x251, 0x257))
SLOW_IDS = tuple(range(0x261, 0x267))
STICKS = 0.02  # [rad] that friction leaves of a motion
AWAY = arm.HOME[:6] + np.array([0.4, 0.2, -0.2, 0.2, 0.2, 0.2])


class Arm:
    """An emulated arm and all that it has said: `heard` is (time, id, data)."""

    def __init__(self, dynamics, pose=arm.HOME, faults=(), delay_s=DELAY_S):
        dynamics.reset(pose)
        self.dynamics, self.delay_s, self.now, self.heard = dynamics, delay_s, 0.0, []
        self.emulator = PiperEmulator(dynamics, GEOMETRY, delay_s)
        self.emulator.faults = [parse_fault(text) for text in faults]
        self.fastest = np.zeros(7)  # speed of each joint since `run` was called

    def send(self, number, *data):
        self.emulator.on_frame(number, bytes(data).ljust(8, b"\0"), self.now)

    def tick(self):
        self.now = round(self.now + TICK_S, 6)
        self.emulator.tick(self.now)
        self.heard += [(self.now, number, data) for number, data in self.emulator.due(self.now)]

    def run(self, seconds, each=lambda: None):
        self.fastest[:] = 0
        for _ in range(round(seconds / TICK_S)):
            each()
            self.tick()
            self.fastest = np.maximum(self.fastest, np.abs(self.dynamics.velocity))
        return self

    def power(self):
        """Enable every motor, and wait until they have power if they were enabled often enough."""
        self.send(0x471, 0xFF, 2)
        return self.run(self.delay_s + TICK_S)

    def control(self, move=1, percent=100, mit=0):
        self.send(0x151, 1, move, percent, mit)

    def joints(self, values):
        for number, data in wire.pairs(JOINT_IDS, [round(float(v) * 1000) for v in np.degrees(values)]):
            self.send(number, *data)

    def gripper(self, opening_m, effort_nm=1.0, code=1, zero=0):
        self.send(0x159, *struct.pack(">iHBB", round(opening_m * 1e6), round(effort_nm * 1e3), code, zero))

    def last(self, number):
        return next((data for _, heard, data in reversed(self.heard) if heard == number), None)

    def count(self, number, since=0.0):
        return sum(heard == number and time > since for time, heard, _ in self.heard)

    @property
    def status(self):
        """-> control, state, move, teach, motion, limits, comms of the newest frame 2A1."""
        control, state, move, teach, motion, _, limits, comms = self.last(0x2A1)
        return control, state, move, teach, motion, limits, comms

    @property
    def powered(self):
        """-> motors 1 to 6: the enabled bits as the newest low-speed frames have them."""
        return [bool(self.last(number)[5] & 1 << 6) for number in SLOW_IDS]

    @property
    def position(self):
        return self.dynamics.position[:6]


def driven_arm(dynamics):
    """-> an Arm with power at once, at home, under CAN control."""
    piper = Arm(dynamics, delay_s=0.0).power()
    piper.control()
    return piper
