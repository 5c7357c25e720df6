"""The Piper's firmware, as far as the bus shows it: command frames in, feedback frames out, time as an argument.
Pure.

Where the vendor's documents are silent: a led arm is limp, a disabled joint sags as slowly as after an emergency stop,
a reported error holds the arm where it is, and an end pose is approached joint by joint in both of its modes. Not
there: trajectories (byte 1 of frame 150), move C, offset ids."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from alam_control.kinematics import ArmGeometry, frames
from alam_piper import arm
from alam_piper import can_frames as wire
from alam_piper.emulator_faults import Fault
from alam_piper.end_pose import euler, rotation, solve_pose

FIRMWARE = "S-V1.8-2"
REPLY_S = 0.004  # the SDK loses an answer that comes within 2 ms of the question
FAST_S, SLOW_S = 1 / 200, 1 / 40
ARM_SPEED, ARM_ACCELERATION = 3.0, 5.0  # [rad/s], [rad/s^2] of the drives' own profile
LOW, HIGH = (np.radians(np.round(np.degrees(limit[:6]))) for limit in (arm.LOW, arm.HIGH))  # in whole degrees
TORQUE_CONSTANT = 1.18  # [N*m/A], so that effort shows as a current
GRIPPER_EFFORT = 5.0  # [N*m], the most that a frame may ask for
STANDBY, CAN_CONTROL, TEACH, LINKED = 0, 1, 2, 6  # control modes; the last is the leader of a pair of arms
NORMAL, EMERGENCY, NO_SOLUTION, OVER_LIMIT = 0, 1, 2, 4
MOVE_P, MOVE_J, MOVE_L, MOVE_MIT = 0, 1, 2, 4
REPORTS = {  # what a motor can suffer: the arm's status code, and the bit in the motor's own status
    "over-temperature": (0xF, 1 << 1),
    "collision": (0x7, 1 << 4),
    "joint-comms": (0x5, 0),
    "brake": (0x6, 0),
    "joint-error": (0x9, 1 << 5),
    "stall": (NORMAL, 1 << 7),
}
HOT = "over-temperature"  # the one that passes by itself, and that does not halt the arm
ENABLED, HOMED = 1 << 6, 1 << 7
REACHED_RAD = 0.02  # the friction of a joint leaves up to this much right after a motion


class PiperEmulator:
    """One arm. `on_frame` for each command, `tick` every 5 ms; both give what is to be sent with `due`."""

    def __init__(
        self,
        dynamics: Any,
        geometry: ArmGeometry,
        enable_delay_s: float = 0.5,
        seed: int = 0,
        firmware: str = FIRMWARE,
    ) -> None:
        """dynamics: alam_piper.twin.TwinDynamics; enable_delay_s: from a motor's enable command to its power."""
        self._dynamics, self._geometry, self._enable_delay_s = dynamics, geometry, enable_delay_s
        self._firmware, self._random = firmware, np.random.default_rng(seed)
        self.faults: list[Fault] = []
        self.errors: set[tuple[str, int]] = set()  # kind of REPORTS and motor: what only a reset clears
        self.control, self.move, self.speed_percent, self.mit = STANDBY, MOVE_J, 50, False
        self.emergency = False
        self._linked = self._teaching = self._switched = False  # leader mode by frame 470, by 150, and as a fault
        self._going_home = False
        self._falls = False  # joints without power fall freely
        self._taken_over = self._halted = False  # it takes no commands; it does not follow them
        self._enable_at = [math.inf] * 7  # when each motor gets power; 0 to 5 joints, 6 gripper
        self._enabled = np.zeros(7, bool)
        self._after_reset = np.zeros(7, bool)  # motors that do not hear the first enable
        self._target = dynamics.position.copy()
        self._reference = dynamics.position.copy()  # of the drives' own motion profile
        self._reference_velocity = np.zeros(6)
        self._half: dict[int, tuple[int, int]] = {}
        self._pose: dict[int, tuple[int, int]] = {}
        self._mit: dict[int, tuple[float, float, float, float, float]] = {}
        self._grip_effort, self._grip_zero = GRIPPER_EFFORT, 0.0  # [N*m], [m]
        self._state = NORMAL
        self._over = np.zeros(6, bool)  # joints whose target was over the limit
        self._late: list[tuple[float, int, wire.Frame]] = []  # commands that are still on their way
        self._queue: list[tuple[float, int, wire.Frame]] = []
        self._count = 0
        self._next_slow = 0.0
        self._frozen: dict[int, bytes] = {}
        self._was_powered = True
        self.received = 0

    @property
    def enabled(self) -> np.ndarray:
        """-> (7,) bool: which motors have power; the last is the gripper's."""
        return self._enabled.copy()

    @property
    def target(self) -> np.ndarray:
        return self._target.copy()

    @property
    def leader(self) -> bool:
        """-> whether a hand leads the arm (leader or teach mode): it takes no commands of motion."""
        return self._linked or self._teaching or self._switched

    # Commands

    def on_frame(self, number: int, data: bytes, now: float) -> None:
        """A frame of a client; what is not for the arm, or not of 8 bytes, is ignored."""
        if len(data) != 8 or self.down(now):
            return
        arrives = self._over_the_bus("commands", data, now)
        if arrives is None:
            return
        data, at = arrives
        if at > now:
            self._count += 1
            heapq.heappush(self._late, (at, self._count, (number, data)))
        else:
            self._obey(number, data, now)

    def _obey(self, number: int, data: bytes, now: float) -> None:
        if not self._powered(now):
            return
        self.received += 1
        if number == wire.STOP:
            self._on_stop(data)
        elif number == wire.LEADER:
            self._on_leader(data)
        elif number == wire.LEADER_HOME:
            self._going_home = self._linked and data[0] == 1 and data[2] == 1
        elif number == wire.ENABLE:
            self._on_enable(data, now)
        elif number == wire.QUERY:
            self._on_query(data, now)
        elif number == wire.FIRMWARE and data[0] == 1:
            for k, frame in enumerate(wire.firmware(self._firmware)):
                self._send(frame, now + REPLY_S + k * 0.0005)
        elif not self.leader and not self._taken_over:
            self._on_motion(number, data, now)

    def _on_motion(self, number: int, data: bytes, now: float) -> None:
        if number == wire.CONTROL:
            self._on_control(data)
        elif number in wire.JOINTS:
            self._on_joints(number, data)
        elif number in wire.POSE:
            self._on_pose(number, data)
        elif number == wire.GRIPPER:
            self._on_gripper(data, now)
        elif number in wire.MIT:
            if (command := wire.read_mit(data)) is not None:
                self._mit[number - wire.MIT[0]] = command

    def _on_stop(self, data: bytes) -> None:
        if data[0] == 1:
            self.emergency, self._falls, self._state = True, False, EMERGENCY
            self._drop_power()
        elif data[0] == 2:  # "resume": also what the SDK's reset sends
            self._start_anew()
            self._after_reset[:] = True
        elif data[2] == 1:
            self._teaching = True
        elif data[2] == 2:
            self._teaching = False

    def _start_anew(self) -> None:
        """No power at once, no errors, nothing commanded: a reset, and power that comes back."""
        self._falls = True
        self.emergency, self._state, self._teaching, self.control = False, NORMAL, False, STANDBY
        self.errors.clear()
        self._over[:] = False
        self._drop_power()

    def _on_leader(self, data: bytes) -> None:
        if data[0] == 0xFA:
            self._linked = True
        elif data[0] == 0xFC:  # at once; the vendor's demo says that a real arm must be restarted
            self._linked = self._going_home = False

    def _on_control(self, data: bytes) -> None:
        self.control, self.move = data[0], data[1]
        self.speed_percent = min(int(data[2]), 100)
        self.mit = data[1] == MOVE_MIT and data[3] == 0xAD
        if not self.mit:
            self._mit.clear()

    def _on_joints(self, number: int, data: bytes) -> None:
        self._half[number] = wire.read_pair(data)
        if number == wire.JOINTS[2] and len(self._half) == 3:
            values = np.radians(np.array([value for key in wire.JOINTS for value in self._half[key]]) / 1000.0)
            self._aim(values)

    def _aim(self, joints: np.ndarray) -> None:
        self._over = (joints < LOW - 1e-6) | (joints > HIGH + 1e-6)
        if self._over.any():
            self._state = OVER_LIMIT
            return
        if self._state in (OVER_LIMIT, NO_SOLUTION):
            self._state = NORMAL
        self._target[:6] = joints

    def _on_pose(self, number: int, data: bytes) -> None:
        self._pose[number] = wire.read_pair(data)
        if number != wire.POSE[2] or len(self._pose) != 3 or self.move not in (MOVE_P, MOVE_L):
            return
        numbers = np.array([value for key in wire.POSE for value in self._pose[key]])
        turned = rotation(*np.radians(numbers[3:] / 1e3))
        joints = solve_pose(self._geometry, numbers[:3] / 1e6, turned, LOW, HIGH, self._dynamics.position[:6])
        if joints is None:
            self._state = NO_SOLUTION
        else:
            self._aim(joints)

    def _on_gripper(self, data: bytes, now: float) -> None:
        stroke, effort, code, zero = wire.read_gripper(data)
        if zero == 0xAE:
            self._grip_zero = float(self._dynamics.position[6])
        self._target[6] = np.clip(stroke / 1e6 + self._grip_zero, arm.LOW[6], arm.HIGH[6])
        self._grip_effort = min(effort / 1e3, GRIPPER_EFFORT)
        if code & 2:
            self.errors.discard(("joint-error", 7))
        if code & 1:
            self._power_up(6, now)
        else:
            self._power_off(6)

    def _on_enable(self, data: bytes, now: float) -> None:
        motors = range(7) if data[0] in (7, 0xFF) else [data[0] - 1] if 1 <= data[0] <= 6 else []
        for motor in motors:
            if data[1] == 2:
                self._power_up(motor, now)
            elif data[1] == 1:
                self._power_off(motor)

    def _power_up(self, motor: int, now: float) -> None:
        if self.emergency or self._enabled[motor]:
            return
        if self._after_reset[motor]:
            self._after_reset[motor] = False
        else:
            self._enable_at[motor] = min(self._enable_at[motor], now + self._enable_delay_s)

    def _power_off(self, motor: int) -> None:
        self._enabled[motor], self._enable_at[motor] = False, math.inf

    def _on_query(self, data: bytes, now: float) -> None:
        motor, what = data[0], data[1]
        if not 1 <= motor <= 6:
            return
        if what == 1:
            high, low = (round(math.degrees(limit[motor - 1]) * 10) for limit in (HIGH, LOW))
            self._send(wire.limits(motor, high, low, round(ARM_SPEED * 1e3)), now + REPLY_S)
        elif what == 2:
            self._send(wire.acceleration(motor, round(ARM_ACCELERATION * 1e3)), now + REPLY_S)

    # Time

    def tick(self, now: float, dt_s: float = FAST_S) -> None:
        """Move the arm by dt_s and queue the feedback that is due."""
        self._apply_faults(now)
        if not self._powered(now):
            self._drop_power()
            self._dynamics.step(self._target, np.zeros(7, bool), dt_s, damped=False)
            self._was_powered = False
            return
        if not self._was_powered:
            self._was_powered = True
            self._start_anew()
        while self._late and self._late[0][0] <= now:
            self._obey(*heapq.heappop(self._late)[2], now)
        for motor in range(7):
            if self._enable_at[motor] <= now:
                self._enable_at[motor] = math.inf
                if not self._enabled[motor]:
                    self._enabled[motor], self._falls = True, False
                    if motor < 6:
                        self._reference[motor] = self._dynamics.position[motor]
                        self._reference_velocity[motor] = 0.0
        self._move(dt_s)
        self._feed_back(now)

    def due(self, now: float) -> list[wire.Frame]:
        """-> the frames whose time has come, in order; none, and they are lost, while the bus is down."""
        ready = []
        while self._queue and self._queue[0][0] <= now:
            ready.append(heapq.heappop(self._queue)[2])
        return [] if self.down(now) else ready

    def down(self, now: float) -> bool:
        """-> whether the bus is down."""
        return self._fault("bus-off", now) is not None

    def _move(self, dt_s: float) -> None:
        """The drives' own profile: a speed cap by the percentage, their acceleration; then the servos."""
        led = self.leader and not self._going_home
        power = self._enabled & (not led)
        follows = self.control == CAN_CONTROL and not self._halted and not self.emergency
        grip_n = self._grip_effort / arm.GRIPPER_LEVER_M
        if self.mit and follows and self._mit:
            torque, kp, kd, target = np.zeros(6), np.zeros(6), np.zeros(6), self._dynamics.position.copy()
            target[6] = self._target[6]
            for joint, (position, velocity, p, d, feed) in self._mit.items():
                target[joint], kp[joint], kd[joint], torque[joint] = position, p, d, feed + d * velocity
            self._dynamics.step(target, power, dt_s, not self._falls, torque, (kp, kd), grip_n)
            self._reference[:6] = self._dynamics.position[:6]
            self._reference_velocity[:] = 0.0
            return
        stays = self.mit or not follows
        goal = np.zeros(6) if self._going_home else self._reference[:6] if stays else self._target[:6]
        cap = arm_speed(self.speed_percent)
        gap = goal - self._reference[:6]
        wanted = np.clip(gap / dt_s, -cap, cap)
        brake = np.sqrt(2 * ARM_ACCELERATION * np.abs(gap))
        wanted = np.clip(wanted, -brake, brake)
        most = 4 * ARM_ACCELERATION * dt_s  # the drives follow 200 Hz setpoints more tightly than their own long moves
        self._reference_velocity += np.clip(wanted - self._reference_velocity, -most, most)
        self._reference[:6] += self._reference_velocity * dt_s
        self._reference[6] = self._target[6]
        self._dynamics.step(self._reference, power, dt_s, not self._falls, grip_n=grip_n)
        limp = ~power[:6]
        self._reference[:6][limp] = self._dynamics.position[:6][limp]
        self._reference_velocity[limp] = 0.0

    def _feed_back(self, now: float) -> None:
        position, velocity, effort = self._dynamics.position, self._dynamics.velocity, self._dynamics.effort
        joints = [round(math.degrees(value) * 1000) for value in position[:6]]
        reported = self._reported(now)
        out = [self._status(position, reported, now)]
        if not self.leader:
            out += self._fast_frames(position, velocity, effort, joints, reported)
        if now > self._next_slow - FAST_S / 2:
            self._next_slow = max(self._next_slow, now - SLOW_S) + SLOW_S
            out += self._slow_frames(effort, reported)
        if self._fault("frozen", now):
            out = [(number, self._frozen.setdefault(number, data)) for number, data in out]
        else:
            self._frozen.clear()
        torn = self._fault("torn", now)
        if torn and not self.leader and self._random.random() < torn.values["p"]:
            first = next(k for k, frame in enumerate(out) if frame[0] == wire.JOINT_FEEDBACK[0])
            order = self._random.permutation(3)
            out[first : first + 3] = [out[first + int(k)] for k in order]
        for frame in out:
            self._send(frame, now)

    def _reported(self, now: float) -> set[tuple[str, int]]:
        """-> the errors that show now: kind of REPORTS, motor."""
        hot = {(HOT, int(f.values["motor"])) for f in self.faults if f.kind == HOT and f.active(now)}
        return self.errors | hot

    def _status(self, position: np.ndarray, reported: set[tuple[str, int]], now: float) -> wire.Frame:
        kinds = {kind for kind, motor in reported if motor <= 6}
        state = next((code for kind, (code, _) in REPORTS.items() if code and kind in kinds), self._state)
        if other := self._fault("status", now):
            state = int(other.values["code"])
        errors = sum(1 << (8 + joint) for joint in range(6) if self._over[joint])
        errors |= sum(1 << (motor - 1) for kind, motor in reported if kind == "joint-comms")
        if self.leader:
            return wire.status(LINKED if self._linked else TEACH, state, self.move, not self._linked, 0, 0, errors)
        apart = np.abs(self._target[:6] - position[:6]).max() > REACHED_RAD
        return wire.status(self.control, state, self.move, 0, int(apart), 0, errors)

    def _fast_frames(
        self,
        position: np.ndarray,
        velocity: np.ndarray,
        effort: np.ndarray,
        joints: Sequence[int],
        reported: set[tuple[str, int]],
    ) -> list[wire.Frame]:
        out = wire.pairs(wire.JOINT_FEEDBACK, joints)
        pose = frames(self._geometry, position[:6])[6]
        place = [round(value * 1e6) for value in pose[:3, 3]]
        out += wire.pairs(wire.END_POSE, place + [round(math.degrees(value) * 1e3) for value in euler(pose[:3, :3])])
        stroke, grip_effort = position[6] - self._grip_zero, effort[6] * arm.GRIPPER_LEVER_M
        bits = self._motor_bits(6, reported) | HOMED
        out.append(wire.gripper_feedback(round(stroke * 1e6), _int16(grip_effort * 1e3), bits))
        for joint in range(6):
            current = _int16(effort[joint] / TORQUE_CONSTANT * 1000)
            out.append(wire.high_speed(joint, _int16(velocity[joint] * 1000), current, joints[joint]))
        return out

    def _slow_frames(self, effort: np.ndarray, reported: set[tuple[str, int]]) -> list[wire.Frame]:
        out = []
        for joint in range(6):
            temperature = 100 if (HOT, joint + 1) in reported else 38
            current = min(round(abs(effort[joint]) / TORQUE_CONSTANT * 100), 65535)
            bits = self._motor_bits(joint, reported)
            out.append(wire.low_speed(joint, 240, 41, temperature, bits, current))
        return out

    def _motor_bits(self, motor: int, reported: set[tuple[str, int]]) -> int:
        """motor 0 to 6 -> its status byte."""
        errors = sum(REPORTS[kind][1] for kind, number in reported if number == motor + 1)
        return errors | (ENABLED if self._enabled[motor] else 0)

    # Faults

    def _fault(self, kind: str, now: float) -> Fault | None:
        return next((fault for fault in self.faults if fault.kind == kind and fault.active(now)), None)

    def _apply_faults(self, now: float) -> None:
        self.faults = [fault for fault in self.faults if now < fault.end]
        active = [fault for fault in self.faults if fault.active(now)]
        for fault in active:
            if fault.kind == "motor-off":
                self._power_off(int(fault.values["motor"]) - 1)
            elif fault.kind in REPORTS and fault.kind != HOT:
                self.errors.add((fault.kind, int(fault.values["motor"])))
            elif fault.kind == "taken-over":
                self.control = int(fault.values["mode"])
        self.faults = [fault for fault in self.faults if fault.kind != "motor-off" or fault not in active]
        kinds = {fault.kind for fault in active}
        self._switched, self._taken_over = "leader" in kinds, "taken-over" in kinds
        self._halted = "status" in kinds or any(motor <= 6 for _, motor in self.errors)
        if self.leader:  # what was commanded before does not go on after it
            self.control, self.mit = STANDBY, False
            self._mit.clear()

    def _powered(self, now: float) -> bool:
        return self._fault("power-drop", now) is None

    def _drop_power(self) -> None:
        self._enabled[:] = False
        self._enable_at = [math.inf] * 7

    def _send(self, frame: wire.Frame, at: float) -> None:
        """Queue a frame, as the faults of the bus let it through."""
        if self.faults and (self._fault("silence", at) or not self._powered(at)):
            return
        arrives = self._over_the_bus("feedback", frame[1], at)
        if arrives is not None:
            self._count += 1
            heapq.heappush(self._queue, (arrives[1], self._count, (frame[0], arrives[0])))

    def _over_the_bus(self, way: str, data: bytes, at: float) -> tuple[bytes, float] | None:
        """way: "feedback" or "commands" -> what corruption leaves of a frame and when it arrives; None: it is lost."""
        if not self.faults:
            return data, at
        active = {f.kind: f.values for f in self.faults if f.of in (way, "both") and f.active(at)}
        if "loss" in active and self._random.random() < active["loss"]["p"]:
            return None
        if "corruption" in active and self._random.random() < active["corruption"]["p"]:
            turned = bytearray(data)
            turned[int(self._random.integers(8))] ^= 1 << int(self._random.integers(8))
            data = bytes(turned)
        return data, at + (active["delay"]["by"] if "delay" in active else 0.0)


def arm_speed(percent: int) -> float:
    """Speed percentage of frame 151 -> [rad/s] that the drives move at most."""
    return ARM_SPEED * percent / 100.0


def _int16(value: float) -> int:
    return int(min(max(round(value), -32768), 32767))
