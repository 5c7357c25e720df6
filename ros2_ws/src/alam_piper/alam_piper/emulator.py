"""The Piper's firmware, as far as the bus shows it: command frames in, feedback frames out, time as an argument.
Pure."""

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

FIRMWARE = "S-V1.8-2"
REPLY_S = 0.004  # the SDK loses an answer that comes within 2 ms of the question
FAST_S, SLOW_S = 1 / 200, 1 / 40
ARM_ACCELERATION = 5.0  # [rad/s^2] of the drives' own profile
TORQUE_CONSTANT = 1.18  # [N*m/A], so that effort shows as a current
STANDBY, CAN_CONTROL, TEACH = 0, 1, 2
NORMAL, EMERGENCY, NO_SOLUTION, OVER_LIMIT, JOINT_COMMS, COLLISION, JOINT_ERROR, HOT_MOTOR = 0, 1, 2, 4, 5, 7, 9, 0xF
MOVE_P, MOVE_J, MOVE_L, MOVE_MIT = 0, 1, 2, 4


class PiperEmulator:
    """One arm. `on_frame` for each command, `tick` every 5 ms; both give what is to be sent with `due`."""

    def __init__(self, dynamics: Any, geometry: ArmGeometry, enable_delay_s: float = 0.5, seed: int = 0) -> None:
        """dynamics: alam_piper.twin.TwinDynamics; enable_delay_s: from a motor's enable command to its power."""
        self._dynamics, self._geometry, self._enable_delay_s = dynamics, geometry, enable_delay_s
        self._random = np.random.default_rng(seed)
        self.faults: list[Fault] = []
        self.control, self.move, self.speed_percent, self.mit = STANDBY, MOVE_J, 50, False
        self.emergency = False
        self.leader = False
        self.collision = 0  # the motor that reports one
        self._enable_at = [math.inf] * 7  # when each motor gets power; 0 to 5 joints, 6 gripper
        self._enabled = np.zeros(7, bool)
        self._target = dynamics.position.copy()
        self._reference = dynamics.position.copy()  # of the drives' own motion profile
        self._reference_velocity = np.zeros(6)
        self._half: dict[int, tuple[int, int]] = {}
        self._pose: dict[int, tuple[int, int]] = {}
        self._mit: dict[int, tuple[float, float, float, float, float]] = {}
        self._state = NORMAL
        self._queue: list[tuple[float, int, wire.Frame]] = []
        self._count = 0
        self._next_slow = 0.0
        self._frozen: list[wire.Frame] | None = None
        self._was_powered = True
        self.received = 0

    @property
    def enabled(self) -> np.ndarray:
        """-> (7,) bool: which motors have power; the last is the gripper's."""
        return self._enabled.copy()

    @property
    def target(self) -> np.ndarray:
        return self._target.copy()

    # Commands

    def on_frame(self, number: int, data: bytes, now: float) -> None:
        """A frame of a client; what is not for the arm, or not of 8 bytes, is ignored."""
        if len(data) != 8 or not self._powered(now):
            return
        self.received += 1
        if number == wire.STOP:
            self._on_stop(data)
        elif number == wire.CONTROL:
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
        elif number == wire.LEADER:
            self.leader = data[0] == 0xFA
        elif number == wire.ENABLE:
            self._on_enable(data, now)
        elif number == wire.QUERY:
            self._on_query(data, now)
        elif number == wire.FIRMWARE and data[0] == 1:
            for k, frame in enumerate(wire.firmware(FIRMWARE)):
                self._send(frame, now + REPLY_S + k * 0.0005)

    def _on_stop(self, data: bytes) -> None:
        if data[0] == 1:
            self.emergency, self._state = True, EMERGENCY
            self._drop_power()
        elif data[0] == 2:  # "resume": also what the SDK's reset sends
            self.emergency, self._state, self.collision = False, NORMAL, 0
            self.control = STANDBY
            self._drop_power()

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
        if (joints < arm.LOW[:6] - 1e-3).any() or (joints > arm.HIGH[:6] + 1e-3).any():
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
        joints = solve_pose(
            self._geometry, numbers[:3] / 1e6, np.radians(numbers[3:] / 1e3), self._dynamics.position[:6]
        )
        if joints is None:
            self._state = NO_SOLUTION
        else:
            self._aim(joints)

    def _on_gripper(self, data: bytes, now: float) -> None:
        stroke, _effort, code, _zero = wire.read_gripper(data)
        self._target[6] = np.clip(stroke / 1e6, arm.LOW[6], arm.HIGH[6])
        if code & 1 and not self._enabled[6]:
            self._enable_at[6] = min(self._enable_at[6], now)
        elif not code & 1:
            self._enabled[6], self._enable_at[6] = False, math.inf

    def _on_enable(self, data: bytes, now: float) -> None:
        motors = range(7) if data[0] in (7, 0xFF) else [data[0] - 1] if 1 <= data[0] <= 6 else []
        for motor in motors:
            if data[1] == 2 and not self.emergency and not self._enabled[motor]:
                self._enable_at[motor] = min(self._enable_at[motor], now + self._enable_delay_s)
            elif data[1] == 1:
                self._enabled[motor], self._enable_at[motor] = False, math.inf

    def _on_query(self, data: bytes, now: float) -> None:
        motor, what = data[0], data[1]
        if not 1 <= motor <= 6:
            return
        if what == 1:
            high, low = (round(math.degrees(limit[motor - 1]) * 10) for limit in (arm.HIGH, arm.LOW))
            reply = bytes([motor]) + high.to_bytes(2, "big", signed=True) + low.to_bytes(2, "big", signed=True)
            self._send((wire.QUERY_LIMITS, reply + (3000).to_bytes(2, "big") + b"\0"), now + REPLY_S)
        elif what == 2:
            self._send((wire.QUERY_ACCELERATION, bytes([motor]) + (500).to_bytes(2, "big") + bytes(5)), now + REPLY_S)

    # Time

    def tick(self, now: float, dt_s: float = FAST_S) -> None:
        """Move the arm by dt_s and queue the feedback that is due."""
        self._apply_faults(now)
        if not self._powered(now):
            self._dynamics.step(self._target, np.zeros(7, bool), dt_s, damped=False)
            self._was_powered = False
            return
        if not self._was_powered:  # it comes back as after a power-up
            self._was_powered, self.control, self._state, self.emergency, self.collision = (
                True,
                STANDBY,
                NORMAL,
                False,
                0,
            )
            self._drop_power()
        for motor in range(7):
            if self._enable_at[motor] <= now:
                self._enable_at[motor] = math.inf
                if not self._enabled[motor]:
                    self._enabled[motor] = True
                    if motor < 6:
                        self._reference[motor] = self._dynamics.position[motor]
                        self._reference_velocity[motor] = 0.0
        self._move(dt_s)
        self._feed_back(now)

    def due(self, now: float) -> list[wire.Frame]:
        """-> the frames whose time has come, in order."""
        ready = []
        while self._queue and self._queue[0][0] <= now:
            ready.append(heapq.heappop(self._queue)[2])
        return ready

    def down(self, now: float) -> bool:
        """-> whether the bus is down."""
        return self._fault("bus-off", now) is not None

    def _move(self, dt_s: float) -> None:
        """The drives' own profile: a speed cap by the percentage, their acceleration; then the servos."""
        follows = self.control == CAN_CONTROL and not self.leader and not self.collision and not self.emergency
        if self.mit and follows and self._mit:
            torque, kp, kd, target = np.zeros(6), np.zeros(6), np.zeros(6), self._dynamics.position.copy()
            target[6] = self._target[6]
            for joint, (position, velocity, p, d, feed) in self._mit.items():
                target[joint], kp[joint], kd[joint], torque[joint] = position, p, d, feed + d * velocity
            self._dynamics.step(target, self._enabled, dt_s, torque=torque, gains=(kp, kd))
            self._reference[:6] = self._dynamics.position[:6]
            self._reference_velocity[:] = 0.0
            return
        goal = self._target[:6] if follows else self._reference[:6]
        cap = arm_speed(self.speed_percent)
        gap = goal - self._reference[:6]
        wanted = np.clip(gap / dt_s, -cap, cap)
        brake = np.sqrt(2 * ARM_ACCELERATION * np.abs(gap))
        wanted = np.clip(wanted, -brake, brake)
        most = 4 * ARM_ACCELERATION * dt_s  # the drives follow 200 Hz setpoints more tightly than their own long moves
        self._reference_velocity += np.clip(wanted - self._reference_velocity, -most, most)
        self._reference[:6] += self._reference_velocity * dt_s
        self._reference[6] = self._target[6]
        self._dynamics.step(self._reference, self._enabled & (not self.leader), dt_s, damped=True)
        limp = ~self._enabled[:6]
        self._reference[:6][limp] = self._dynamics.position[:6][limp]

    def _feed_back(self, now: float) -> None:
        position, velocity, effort = self._dynamics.position, self._dynamics.velocity, self._dynamics.effort
        joints = [round(math.degrees(value) * 1000) for value in position[:6]]
        slow = now >= self._next_slow
        out = self._fast_frames(position, velocity, effort, joints, now)
        if slow:
            self._next_slow = max(self._next_slow + SLOW_S, now)
            out += self._slow_frames(effort, now)
        if self._fault("frozen", now):
            self._frozen = self._frozen or out
            out = self._frozen
        else:
            self._frozen = None
        if torn := self._fault("torn", now):
            if self._random.random() < torn.values["p"]:
                first = next(k for k, frame in enumerate(out) if frame[0] == wire.JOINT_FEEDBACK[0])
                order = self._random.permutation(3)
                out[first : first + 3] = [out[first + int(k)] for k in order]
        for frame in out:
            self._send(frame, now)

    def _fast_frames(
        self, position: np.ndarray, velocity: np.ndarray, effort: np.ndarray, joints: Sequence[int], now: float
    ) -> list[wire.Frame]:
        if self.leader:
            return [wire.status(TEACH, self._state, self.move, 1, 0, 0, 0)]
        apart = np.abs(self._target[:6] - position[:6]).max() > 0.01
        limits = sum(1 << joint for joint in range(6) if self._state == OVER_LIMIT)
        state = HOT_MOTOR if self._fault("over-temperature", now) else COLLISION if self.collision else self._state
        out = [wire.status(self.control, state, self.move, 0, int(apart), 0, limits << 8)]
        out += wire.pairs(wire.JOINT_FEEDBACK, joints)
        pose = frames(self._geometry, position[:6])[6]
        place = [round(value * 1e6) for value in pose[:3, 3]]
        out += wire.pairs(wire.END_POSE, place + [round(math.degrees(value) * 1e3) for value in euler(pose[:3, :3])])
        bits = (1 << 6 if self._enabled[6] else 0) | 1 << 7
        out.append(wire.gripper_feedback(round(position[6] * 1e6), _int16(effort[6] * 100), bits))
        for joint in range(6):
            current = _int16(effort[joint] / TORQUE_CONSTANT * 1000)
            out.append(wire.high_speed(joint, _int16(velocity[joint] * 1000), current, joints[joint]))
        return out

    def _slow_frames(self, effort: np.ndarray, now: float) -> list[wire.Frame]:
        hot, out = self._fault("over-temperature", now), []
        for joint in range(6):
            temperature = 100 if hot and hot.values["motor"] == joint + 1 else 38
            bits = (1 << 6 if self._enabled[joint] else 0) | (1 << 4 if self.collision == joint + 1 else 0)
            bits |= 1 << 3 if temperature >= 100 else 0
            current = min(round(abs(effort[joint]) / TORQUE_CONSTANT * 100), 65535)
            out.append(wire.low_speed(joint, 240, 41, temperature, bits, current))
        return out

    # Faults

    def _fault(self, kind: str, now: float) -> Fault | None:
        return next((fault for fault in self.faults if fault.kind == kind and fault.active(now)), None)

    def _apply_faults(self, now: float) -> None:
        self.faults = [fault for fault in self.faults if now < fault.end]
        for fault in self.faults:
            if not fault.active(now):
                continue
            if fault.kind == "motor-off":
                motor = int(fault.values["motor"]) - 1
                self._enabled[motor], self._enable_at[motor] = False, math.inf
            elif fault.kind == "collision":
                self.collision = int(fault.values["motor"])
        self.faults = [fault for fault in self.faults if not (fault.kind == "motor-off" and fault.active(now))]
        self.leader = self._fault("leader", now) is not None or (self.leader and not self._left_leader(now))

    def _left_leader(self, now: float) -> bool:
        return not any(fault.kind == "leader" for fault in self.faults)

    def _powered(self, now: float) -> bool:
        return self._fault("power-drop", now) is None

    def _drop_power(self) -> None:
        self._enabled[:] = False
        self._enable_at = [math.inf] * 7

    def _send(self, frame: wire.Frame, at: float) -> None:
        """Queue a frame, as the faults of the bus let it through."""
        if self._fault("silence", at) or not self._powered(at):
            return
        if (loss := self._fault("loss", at)) and self._random.random() < loss.values["p"]:
            return
        if (corruption := self._fault("corruption", at)) and self._random.random() < corruption.values["p"]:
            data = bytearray(frame[1])
            data[int(self._random.integers(8))] ^= 1 << int(self._random.integers(8))
            frame = frame[0], bytes(data)
        late = self._fault("delay", at)
        self._count += 1
        heapq.heappush(self._queue, (at + (late.values["by"] if late else 0.0), self._count, frame))


def arm_speed(percent: int) -> float:
    """Speed percentage of frame 151 -> [rad/s] that the drives move at most."""
    return 3.0 * percent / 100.0


def euler(rotation: np.ndarray) -> tuple[float, float, float]:
    """(3, 3) -> roll, pitch, yaw [rad] (x, y, z, fixed axes), as the end pose frames give them."""
    pitch = math.atan2(-rotation[2, 0], math.hypot(rotation[0, 0], rotation[1, 0]))
    return math.atan2(rotation[2, 1], rotation[2, 2]), pitch, math.atan2(rotation[1, 0], rotation[0, 0])


def solve_pose(
    geometry: ArmGeometry, place: np.ndarray, angles: np.ndarray, start: np.ndarray, tolerance: float = 1e-4
) -> np.ndarray | None:
    """place (3,) [m], angles (3,) [rad] roll, pitch, yaw, start (6,) [rad] -> joints (6,) [rad], or None: not reached.

    Damped least squares on a numeric Jacobian."""
    r, p, y = angles
    cr, sr, cp, sp, cy, sy = math.cos(r), math.sin(r), math.cos(p), math.sin(p), math.cos(y), math.sin(y)
    wanted = np.array(
        [
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
            [-sp, cp * sr, cp * cr],
        ]
    )

    def error(q: np.ndarray) -> np.ndarray:
        poses = frames(geometry, q)[..., 6, :, :]
        turn = np.cross(poses[..., :3, :3], wanted, axisa=-2, axisb=-2, axisc=-2).sum(-1) / 2
        return np.concatenate([place - poses[..., :3, 3], turn], axis=-1)

    q = start.copy()
    for _ in range(100):
        gap = error(q)
        if np.abs(gap).max() < tolerance:
            return q
        jacobian = -(error(q + 1e-6 * np.eye(6)) - gap).T / 1e-6
        q = q + jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + 1e-5 * np.eye(6), gap)
        q = np.clip(q, arm.LOW[:6], arm.HIGH[:6])
    return None


def _int16(value: float) -> int:
    return int(min(max(round(value), -32768), 32767))
