"""The driver of the arm: what a person asks for, what the arm says, and once a period what goes to the bus. Pure.

The bus comes in as an object with the commands of `sdk_io.SdkBus`; time [s] as an argument. `tick` belongs to one
thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from alam_control.arm_executor import ArmExecutor
from alam_control.arm_gate import DISABLED, HOLDING, MOVING, STOPPED, Passed, Sensed
from alam_piper import arm

STATES = {  # arm status of frame 2A1 that forbids motion until a person resets
    0x1: "the arm is in emergency stop",
    0x5: "joint communication lost inside the arm",
    0x6: "a joint's brake has not opened",
    0x7: "the arm reports a collision",
    0x9: "a joint reports an error",
    0xE: "over-temperature: the arm's main board",
    0xF: "over-temperature: a motor",
}
WAITS = {0x2: "the arm finds no solution", 0x3: "singularity", 0x4: "the arm says the target is over its limit"}
PERSISTS_S = 0.03  # a code must stay this long: one frame may be corrupted
MOTOR_PERSISTS_S = 0.1  # and what a motor says, at 40 Hz, this long
SILENT_S = 0.5  # feedback older than this: the bus or the arm is gone
FROZEN_S, FROZEN_RAD = 0.3, 0.08  # feedback that stays the same for so long while a joint is sent this far, to and fro
GAP_S = 0.2  # after such a silence nothing moves until the motors have said whether they have power
ENABLE_EVERY_S, MODE_EVERY_S, GRIPPER_EVERY_S = 0.01, 0.1, 0.02
STILL_RAD_S = 0.1  # an arm that is faster has not come to rest under its power
NEWS_S = 0.1  # what the motors said before is old: they report at 40 Hz
SLOW_PERCENT = 10  # speed of the arm's own drives while it gets power
DOWN, ASLEEP, POWERING, READY, PARKING = "down", "asleep", "powering", "ready", "parking"


@dataclass(frozen=True)
class DriverConfig:
    """mit: control mode; speed_percent: cap of the arm's own drives in position mode; enable_timeout_s: for power.

    mit_kp [N*m/rad], mit_kd [N*m*s/rad]; park_speed: share of the limits at which the arm moves home and to rest."""

    mit: bool = False
    speed_percent: int = 100
    enable_timeout_s: float = 10.0
    mit_kp: float = 40.0
    mit_kd: float = 2.0
    park_speed: float = 0.2


class PiperDriver:
    """Phases: down (no feedback), asleep (no power), powering, ready, parking (moving to rest, then asleep)."""

    def __init__(
        self,
        executor: ArmExecutor,
        config: DriverConfig,
        hardware_stop: Callable[[], str] = lambda: "",
    ) -> None:
        """hardware_stop: -> why a stop input outside of this process forbids motion, "" when it does not."""
        self.executor, self.config, self._hardware_stop = executor, config, hardware_stop
        self.bus: Any = None
        self.phase = DOWN
        self.answer = ""  # of the last enable or disable: "" under way, "ok", or why not
        self.passed: Passed | None = None
        self.feedback_age_s = float("inf")
        self.camera_stamps: dict[str, float] = {}  # role -> time [s] of its newest image
        self.faults: tuple[str, ...] = ()
        self.leader = False
        self.wrong_since: dict[str, float] = {}
        self._wants_power: bool | None = None
        self._wants_reset = False
        self._power_since = 0.0
        self._last_enable = self._last_mode = self._last_gripper = -1.0
        self._had_power = False
        self._still, self._still_since = np.zeros(0), 0.0  # feedback that has not changed, and since when [s]
        self._sent, self._way = np.zeros(7), np.zeros(7)  # where it was sent last; how far in all since then
        self._silent_at = -1.0  # time [s] of the end of the last gap in the feedback
        self._latched = ""  # a fault of the driver's own

    # Requests, from any thread

    def enable(self) -> None:
        self.answer, self._wants_power = "", True

    def disable(self) -> None:
        self.answer, self._wants_power = "", False

    def reset(self) -> None:
        """Clear a latched stop; where the arm itself reports an error its own reset is sent, and it sags."""
        self._wants_reset = True

    @property
    def reset_sags(self) -> bool:
        """-> whether a reset would take the arm's power now."""
        return bool(self.bus is not None and self.bus.feedback is not None and self.bus.status[0] in STATES)

    # Once a period

    def tick(self, now: float) -> None:
        """now [s] of time.monotonic(): look, decide, send."""
        bus = self.bus
        feedback = bus.feedback if bus is not None else None
        if bus is None or feedback is None or bus.check():
            self._gone(now, (bus.check() if bus is not None else "") or "no feedback from the arm yet")
            return
        self.feedback_age_s = now - feedback.stamp_s
        self._take_requests(bus, feedback, now)
        waits = self._look(bus, feedback, now)
        if self.phase == DOWN and self.feedback_age_s < SILENT_S:
            self._come_back(feedback)
        sensed = self._sensed(feedback, now, waits)
        if self.phase == POWERING:
            self._power(bus, feedback, now, sensed)
            return
        self.passed = self.executor.tick(now, sensed)
        if self.phase == PARKING:
            self._park(bus)
        if self.passed is not None and self.phase in (READY, PARKING) and not self.leader:
            self._send(bus, self.passed, now)

    def _look(self, bus: Any, feedback: Any, now: float) -> list[str]:
        """Faults and waits of this period, each only once it persists."""
        (state, control, teach), status_s = bus.status, bus.status_s
        found = []
        if words := STATES.get(state):
            found.append(words)
        of_motors = list(feedback.alarms)
        off = [k + 1 for k, on in enumerate(feedback.motors) if not on]
        if self.phase in (READY, PARKING) and self._had_power and off:
            of_motors.append(f"motor {', '.join(map(str, off))} lost its power")
        sent = self.executor.trajectory.state[0]
        current = self.feedback_age_s < SILENT_S / 10
        if self.phase != READY or not current or not np.array_equal(feedback.position, self._still):
            self._still, self._still_since, self._way[:] = feedback.position, now, 0.0
        else:
            self._way += np.abs(sent - self._sent)
        self._sent = sent.copy()
        if self.phase == READY and self._way[:6].max() > FROZEN_RAD and now - self._still_since > FROZEN_S:
            found.append("feedback is frozen: it does not change though the arm is moved")
        leader = teach == 1 or control == 2
        if leader:
            found.append("leader")
        self.wrong_since = {words: self.wrong_since.get(words, now) for words in found + of_motors}
        enough = dict.fromkeys(of_motors, MOTOR_PERSISTS_S)
        lasting = [words for words, since in self.wrong_since.items() if now - since >= enough.get(words, PERSISTS_S)]
        self.leader = "leader" in lasting and now - status_s < SILENT_S
        faults = [words for words in lasting if words != "leader"]
        if (words := self._hardware_stop()) and words:
            faults.append(words)
        if self._latched:
            faults.append(self._latched)
        self.faults = tuple(faults)
        waits = [WAITS[state]] if state in WAITS else []
        if self.feedback_age_s > GAP_S:
            self._silent_at = now
        if now - self._silent_at < NEWS_S + MOTOR_PERSISTS_S and self._silent_at >= 0:
            waits.append(f"feedback is {self.feedback_age_s:.2f} s old, or has just come back")
        if self.leader:
            waits.append("leader (teach) mode: the arm takes no commands; switch it off at the arm")
            if self.executor.mode in (HOLDING, MOVING):
                self.executor.disable(f"disabled: it was in {waits[-1].split(':')[0]}; call /robot/enable")
                self.phase = ASLEEP
        return waits

    def _sensed(self, feedback: Any, now: float, waits: list[str]) -> Sensed:
        ages: Mapping[str, float] = {role: now - stamp for role, stamp in self.camera_stamps.items()}
        faults = self.faults if self.phase != ASLEEP else ()  # without power nothing moves, and nothing is sent
        return Sensed(
            feedback.position, feedback.velocity, feedback.effort, self.feedback_age_s, ages, faults, tuple(waits)
        )

    def _gone(self, now: float, why: str) -> None:
        """No bus: the motion is braked in thought, nothing can be sent."""
        self.faults = (why,)
        self.feedback_age_s = float("inf")
        zero = np.zeros_like(self.executor.limits.low)
        if self.phase != DOWN:
            self.passed = self.executor.tick(now, Sensed(zero, zero, zero, float("inf"), {}, (), (why,)))
            if self.executor.trajectory.at_rest:
                self.phase = DOWN
        self.passed = None

    def _come_back(self, feedback: Any) -> None:
        """The bus is there (again): go on only if every motor kept its power and the arm is where it was sent."""
        mode = self.executor.mode
        if mode in (HOLDING, MOVING) and all(feedback.motors):
            self.phase = READY
            self.executor.start(feedback.position)
        elif mode in (HOLDING, MOVING):
            self.phase = READY  # the lost power is reported, and latched, by the next look
        else:
            self.phase = ASLEEP
            self._had_power = False

    def _take_requests(self, bus: Any, feedback: Any, now: float) -> None:
        if self._wants_reset:
            self._wants_reset, self._latched = False, ""
            if bus.status[0] in STATES or feedback.alarms:
                bus.drop_power_and_clear()
            self.executor.reset()
            self.phase, self._had_power = ASLEEP, False
            self.wrong_since.clear()
        wants, self._wants_power = self._wants_power, None
        if wants is True:
            self._begin_power(feedback, now)
        elif wants is False:
            self._begin_parking()

    def _begin_power(self, feedback: Any, now: float) -> None:
        mode = self.executor.mode
        if mode == STOPPED:
            self.answer = f"stopped: {self.executor.reason}; call /robot/reset first"
        elif mode in (HOLDING, MOVING) and self.phase == READY:
            self.answer = "ok"
        elif self.leader:
            self.answer = "leader (teach) mode: switch it off at the arm first"
        elif self.feedback_age_s > SILENT_S:
            self.answer = f"no feedback for {self.feedback_age_s:.1f} s: is the arm on, and the bus up?"
        else:
            self.phase, self._power_since, self._last_enable = POWERING, now, -1.0
            self.executor.start(feedback.position)

    def _power(self, bus: Any, feedback: Any, now: float, sensed: Sensed) -> None:
        """Slowly, from where the arm is: its own old target must not make it rush when the power comes."""
        still = np.abs(feedback.velocity[:6]).max() < STILL_RAD_S
        ready = all(feedback.motors) and now - self._power_since > NEWS_S and still
        if not ready:
            self.executor.start(feedback.position)  # it may be moved by hand, or sag, until then
        self.passed = self.executor.hold_here()
        if self.passed is not None:
            bus.joint_mode(SLOW_PERCENT)
            bus.send_joints(self.passed)
        if now - self._last_enable >= ENABLE_EVERY_S:
            self._last_enable = now
            bus.enable()
        if ready:
            self.phase, self._had_power, self.answer = READY, True, "ok"
            self.executor.enable()
        elif now - self._power_since > self.config.enable_timeout_s:
            off = [k + 1 for k, on in enumerate(feedback.motors) if not on]
            self.phase = ASLEEP
            bus.disable()
            what = f"no power on motor {off}" if off else "the arm did not come to rest"
            self.answer = f"{what} within {self.config.enable_timeout_s:.0f} s: {'; '.join(self.faults)}"

    def _begin_parking(self) -> None:
        if self.executor.mode not in (HOLDING, MOVING):
            self.phase = ASLEEP if self.phase != DOWN else DOWN
            if self.bus is not None and self.executor.mode == DISABLED:
                self.bus.disable()
            self.answer = "ok" if self.executor.mode == DISABLED else "stopped: it keeps its power; call /robot/reset"
            return
        self.executor.task(False)
        self.executor.move_to(arm.REST, self.config.park_speed)
        self.phase = PARKING

    def _park(self, bus: Any) -> None:
        if self.executor.moving_itself:
            return
        there = np.abs(self.executor.trajectory.state[0] - arm.REST)[:6].max() < 1e-3
        if there and self.executor.trajectory.at_rest:
            self.executor.disable("disabled: call /robot/enable")
            bus.disable()
            self.phase, self._had_power, self.answer = ASLEEP, False, "ok"
        elif self.executor.mode in (HOLDING, STOPPED):
            self.phase = READY
            self.answer = f"could not move to rest: {self.executor.reason}; the arm keeps its power"

    def _send(self, bus: Any, passed: Passed, now: float) -> None:
        if now - self._last_mode >= MODE_EVERY_S:
            self._last_mode = now
            if self.config.mit:
                bus.mit_mode()
            else:
                bus.joint_mode(self.config.speed_percent)
        if self.config.mit:
            bus.send_mit(passed, self.config.mit_kp, self.config.mit_kd, np.zeros(6))
        else:
            bus.send_joints(passed)
        if now - self._last_gripper >= GRIPPER_EVERY_S:
            self._last_gripper = now
            bus.send_gripper(passed, passed.gripper_effort_nm)
