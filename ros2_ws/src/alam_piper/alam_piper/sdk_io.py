"""The arm through the vendor's SDK (piper_sdk): commands that the gate has passed go out, whole feedback comes in.

What the SDK leaves to its user is done here: a bus that did not open, a send that failed and a reader that ended are
noticed, joint feedback is taken only in whole triplets, frames are read by a thread that ends with the connection, and
every connection gets an interface of its own (the SDK keeps one for each name for ever)."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import can
import numpy as np
from piper_sdk import C_PiperInterface_V2

from alam_control.arm_gate import Passed
from alam_piper.units import (
    from_decivolts,
    from_micrometres,
    from_millidegrees,
    from_thousandths,
    to_micrometres,
    to_millidegrees,
    to_thousandths,
)

FIRST_JOINT_FRAME, STATUS_FRAME = 0x2A5, 0x2A1
HEARD = (  # status, joints, gripper; high-speed and low-speed news of the motors; firmware. Not the end pose.
    *(0x2A1, 0x2A5, 0x2A6, 0x2A7, 0x2A8),
    *range(0x251, 0x257),
    *range(0x261, 0x267),
    0x4AF,
)
TRIPLET_S = 0.003  # the three frames of one joint feedback come within this
PLAUSIBLE_RAD_S, PLAUSIBLE_RAD = 6.0, 0.02  # twice the arm's top speed: more is a corrupted frame
MIT_MAX_KP, MIT_MAX_KD, MIT_MAX_TORQUE = 60.0, 4.0, 7.5  # the SDK wraps a torque beyond 8 N*m around
_numbers = itertools.count(1)
logging.getLogger("can").setLevel(logging.ERROR)
logging.getLogger("PIPER").setLevel(logging.CRITICAL)  # it would write three lines a period once the bus is down


@dataclass(frozen=True)
class Feedback:
    """The newest whole feedback: position, velocity, effort (7,) in SI, `stamp_s` of time.monotonic() at its arrival.

    motors (6,) bool: enabled; alarms: what the motors report, in words; the gripper's drive by itself."""

    stamp_s: float
    position: np.ndarray
    velocity: np.ndarray
    effort: np.ndarray
    motors: tuple[bool, ...]
    gripper: bool
    alarms: tuple[str, ...]
    gripper_alarms: tuple[str, ...]
    motor_temperature: tuple[float, ...]
    driver_temperature: tuple[float, ...]
    voltage: tuple[float, ...]


@dataclass
class Counters:
    """What the bus has seen."""

    triplets: int = 0
    torn: int = 0
    implausible: int = 0
    sent: int = 0


class _Interface(C_PiperInterface_V2):
    """The SDK's interface, telling each frame after it has been parsed."""

    parsed: Any = None

    def ParseCANFrame(self, rx_message: can.Message | None) -> None:
        super().ParseCANFrame(rx_message)
        if self.parsed is not None and rx_message is not None:
            self.parsed(rx_message.arbitration_id)


class SdkBus:
    """One connection. Commands belong to one thread; `feedback` and `lost` may be read from any."""

    def __init__(self, interface: str, channel: str) -> None:
        """interface: of python-can ("socketcan", "alam_socket"). Raises ValueError when the bus cannot be opened."""
        self._where = f"{interface}:{channel}"
        try:  # before an interface is made, which the SDK keeps for ever
            can.Bus(interface=interface, channel=channel).shutdown()
        except (OSError, can.CanError) as error:
            raise ValueError(f"wanted the CAN bus {self._where}, got: {error}") from None
        self.counters = Counters()
        self.feedback: Feedback | None = None
        self.on_feedback: Callable[[Feedback], None] | None = None  # called on the reader's thread
        self.before_read: Callable[[], None] | None = None  # the same
        self.lost = ""  # why the bus is gone
        self._next_frame, self._frame_s = 0, 0.0
        self.status = (0, 1, 0, 0)  # codes of the newest frame 2A1: state, control, teach, errors (16 bit)
        self.status_s = 0.0  # time.monotonic() of its arrival
        self._sdk = _Interface(f"{channel}#{next(_numbers)}", judge_flag=False, can_auto_init=False)
        try:
            self._sdk.CreateCanBus(channel, bustype=interface, judge_flag=False)
        except (ConnectionError, OSError, can.CanError) as error:
            raise ValueError(f"wanted the CAN bus {self._where}, got: {error}") from None
        self._can = self._sdk.GetCanBus()
        if (
            self._can is None
            or getattr(self._can, "recv_bus", None) is None
            or getattr(self._can, "send_bus", None) is None
        ):
            raise ValueError(f"wanted the CAN bus {self._where}, got none that opens; is it there and up?")
        self._bus_send = self._can.send_bus.send
        self._can.send_bus.send = self._send
        self._bus_receive = self._can.recv_bus.recv
        self._can.recv_bus.recv = self._receive
        self._sdk.parsed = self._on_frame
        self._can.recv_bus.set_filters([{"can_id": number, "can_mask": 0x7FF} for number in HEARD])
        self._can.send_bus.set_filters([{"can_id": 0, "can_mask": 0x7FF}])  # nobody reads what it would hear
        # The SDK's own threads are not started: two of the three would outlive the connection.
        self._sdk.ConnectPort(piper_init=False, start_thread=False)
        self._reader = threading.Thread(target=self._read, name="reader", daemon=True)
        self._reader.start()

    def close(self) -> None:
        """Let the bus go; its thread ends within a second."""
        self.lost = self.lost or "closed"
        self._sdk.parsed = None
        with suppress(OSError, AttributeError, can.CanError):  # of a bus that is down already
            self._sdk.DisconnectPort()

    # Commands

    def ask_firmware(self) -> None:
        self._sdk.SearchPiperFirmwareVersion()

    def firmware(self) -> str:
        """-> the version that the arm told, "" while it has not."""
        version = self._sdk.GetPiperFirmwareVersion()
        return version if isinstance(version, str) else ""

    def enable(self) -> None:
        """Ask every motor, the gripper's too, for power."""
        self._sdk.EnableArm(7)

    def disable(self, motors: Sequence[int] | None = None) -> None:
        """Take power from these motors (1 to 6), or from all. An arm that is not at rest sags."""
        for motor in (7,) if motors is None else motors:
            self._sdk.DisableArm(motor)

    def drop_power_and_clear(self) -> None:
        """The vendor's reset: clears errors, and power is gone at once: the arm sags."""
        self._sdk.ResetPiper()

    def joint_mode(self, speed_percent: int) -> None:
        """CAN control, joint position mode at a share of the arm's top speed."""
        self._sdk.MotionCtrl_2(0x01, 0x01, int(speed_percent), 0x00)

    def mit_mode(self) -> None:
        self._sdk.MotionCtrl_2(0x01, 0x04, 0, 0xAD)

    def send_joints(self, command: Passed) -> None:
        """The six joints in position mode. Raises TypeError for what the gate has not passed."""
        _only_passed(command)
        self._sdk.JointCtrl(*(to_millidegrees(float(value)) for value in command.position[:6]))

    def send_mit(self, command: Passed, kp: float, kd: float, torque: np.ndarray) -> None:
        """The six joints in MIT mode; gains and torque (6,) [N*m] are clamped to what the frame can carry."""
        _only_passed(command)
        kp, kd = min(max(kp, 0.0), MIT_MAX_KP), min(max(kd, 0.0), MIT_MAX_KD)
        for joint in range(6):
            feed = min(max(float(torque[joint]), -MIT_MAX_TORQUE), MIT_MAX_TORQUE)
            position, velocity = float(command.position[joint]), float(command.velocity[joint])
            self._sdk.JointMitCtrl(joint + 1, position, velocity, kp, kd, feed)

    def send_gripper(self, command: Passed, effort_nm: float, clear: bool = False) -> None:
        """The gripper's opening with at most this effort [N*m]. clear: forget an error of its drive, too."""
        _only_passed(command)
        opening = to_micrometres(float(command.position[6]))
        self._sdk.GripperCtrl(opening, to_thousandths(min(max(effort_nm, 0.0), 5.0)), 0x03 if clear else 0x01, 0)

    # The bus

    def check(self) -> str:
        """-> why the bus is gone, "" while it works."""
        if not self.lost and not self._reader.is_alive():
            self.lost = "the CAN bus is down: reading ended"
        return self.lost

    def _send(self, message: can.Message, timeout: float | None = None) -> None:
        try:
            self._bus_send(message, timeout)
        except can.CanError as error:
            self.lost = self.lost or f"the CAN bus is down: {error}"
            raise
        self.counters.sent += 1

    def _read(self) -> None:
        read = {self._can.CAN_STATUS[f"READ_CAN_MSG_{how}"] for how in ("OK", "TIMEOUT", "FAILED")}
        while not self.lost:
            status = self._can.ReadCanMessage()  # one frame, or none within a second
            if status not in read:  # it did not even try, and would not the next time either
                self.lost = self.lost or f"the CAN bus is down: {status.name}"

    def _receive(self, timeout: float | None = None) -> can.Message | None:
        """The SDK swallows a bus that goes down while it reads."""
        if self.before_read is not None:
            self.before_read()
        try:
            return self._bus_receive(timeout)
        except (can.CanError, OSError) as error:
            self.lost = self.lost or f"the CAN bus is down: {error}"
            raise

    def _on_frame(self, number: int) -> None:
        """On the SDK's reader thread, after each frame."""
        now = time.monotonic()
        if number == STATUS_FRAME:
            said = self._sdk.GetArmStatus().arm_status
            codes = said.arm_status, said.ctrl_mode, said.teach_status, said.err_code
            self.status = int(codes[0]), int(codes[1]), int(codes[2]), int(codes[3])
            self.status_s = now
        index = number - FIRST_JOINT_FRAME
        if not 0 <= index < 3:
            return
        if index == 0:
            self._next_frame, self._frame_s = 1, now
        elif index == self._next_frame and now - self._frame_s < TRIPLET_S:
            self._next_frame += 1
        else:
            self.counters.torn += 1
            self._next_frame = 0
        if self._next_frame == 3:
            self._next_frame = 0
            self._take(now)

    def _take(self, now: float) -> None:
        sdk, last = self._sdk, self.feedback
        joints = sdk.GetArmJointMsgs().joint_state
        raw = [getattr(joints, f"joint_{k}") for k in range(1, 7)]
        grip = sdk.GetArmGripperMsgs().gripper_state
        position = np.array([*map(from_millidegrees, raw), from_micrometres(grip.grippers_angle)])
        if last is not None:
            apart = np.abs(position[:6] - last.position[:6]).max()
            if apart > PLAUSIBLE_RAD + PLAUSIBLE_RAD_S * (now - last.stamp_s):
                self.counters.implausible += 1
                return
        fast, slow = sdk.GetArmHighSpdInfoMsgs(), sdk.GetArmLowSpdInfoMsgs()
        motors = [getattr(fast, f"motor_{k}") for k in range(1, 7)]
        drivers = [getattr(slow, f"motor_{k}") for k in range(1, 7)]
        velocity = np.array([*(from_thousandths(m.motor_speed) for m in motors), 0.0])
        if last is not None and now > last.stamp_s:
            velocity[6] = (position[6] - last.position[6]) / (now - last.stamp_s)
        effort = np.array([*(from_thousandths(m.effort) for m in motors), from_thousandths(grip.grippers_effort)])
        self.feedback = Feedback(
            now,
            position,
            velocity,
            effort,
            tuple(bool(d.foc_status.driver_enable_status) for d in drivers),
            bool(grip.foc_status.driver_enable_status),
            tuple(f"motor {number}: {words}" for number, d in enumerate(drivers, 1) for words in _alarms(d)),
            tuple(f"gripper: {words}" for words in _alarms(grip)),
            tuple(float(d.motor_temp) for d in drivers),
            tuple(float(d.foc_temp) for d in drivers),
            tuple(from_decivolts(d.vol) for d in drivers),
        )
        self.counters.triplets += 1
        if self.on_feedback is not None:
            self.on_feedback(self.feedback)


WORDS = {
    "voltage_too_low": "voltage too low",
    "motor_overheating": "motor over-temperature",
    "driver_overcurrent": "over-current",
    "driver_overheating": "driver over-temperature",
    "collision_status": "collision detected",
    "driver_error_status": "driver error",
    "stall_status": "stalled",
    "sensor_status": "sensor error",
}


def _alarms(drive: Any) -> list[str]:
    """The SDK's status of a drive -> what it reports, in words."""
    return [words for name, words in WORDS.items() if getattr(drive.foc_status, name, False)]


def _only_passed(command: Passed) -> None:
    if type(command) is not Passed:
        raise TypeError(f"wanted a command that the gate has passed, got {type(command).__name__}")
