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
    0x8: "the arm was dragged too fast while it was taught",
    0x9: "a joint reports an error",
    0xA: "the arm reports an error that it does not name",
    0xE: "over-temperature: the arm's main board",
    0xF: "over-temperature: a motor",
}
WAITS = {  # and that forbids it for now
    0x2: "the arm finds no solution",
    0x3: "singularity",
    0x4: "the arm says the target is over its limit",
    0xB: "the arm records a taught motion",
    0xC: "the arm plays a taught motion",
    0xD: "the arm pauses a taught motion",
}
CONTROLS = {  # who commands the arm, by frame 2A1
    0x0: "nobody (standby)",
    0x1: "CAN",
    0x2: "its teach button",
    0x3: "Ethernet",
    0x4: "wifi",
    0x5: "a remote control",
    0x6: "a leader arm",
    0x7: "a stored trajectory",
}
PERSISTS_S = 0.03  # a code must stay this long: one frame may be corrupted
MOTOR_PERSISTS_S = 0.1  # and what a motor says, at 40 Hz, this long
CONTROL_PERSISTS_S = 0.5  # and that the arm listens to somebody else, this long
SILENT_S = 0.5  # feedback older than this: the bus or the arm is gone
FROZEN_S, FROZEN_RAD = 0.3, 0.08  # feedback that stays the same for so long while a joint is sent this far, to and fro
ASK_FIRMWARE_S = 2.0  # between two questions
RESTS_RAD = 0.15  # an arm this near to its rest lies on its stops: without power it stays there
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
        self.passed: Passed | None = None  # what this period sent
        self.feedback_age_s = float("inf")
        self.camera_stamps: dict[str, float] = {}  # role -> time [s] of its newest image
        self.faults: tuple[str, ...] = ()
        self.leader = False
        self.firmware = ""  # as the arm tells it; "" while it has not
        self.wrong_since: dict[str, float] = {}
        self._wants_power: bool | None = None
        self._wants_reset = False
        self._power_since = 0.0
        self._last_enable = self._last_mode = self._last_gripper = -1.0
        self._had_power = self._gripper_had_power = False
        self._clears_gripper = False  # the next command of the gripper clears an error of its drive
        self._still, self._still_since = np.zeros(0), 0.0  # feedback that has not changed, and since when [s]
        self._sent, self._way = np.zeros(7), np.zeros(7)  # where it was sent last; how far in all since then
        self._silent_at = -1.0  # time [s] of the end of the last gap in the feedback
        self.waits: tuple[str, ...] = ()
        self._asked = -ASK_FIRMWARE_S  # time [s] of the last question for the firmware
        self._back_since = -1.0  # time [s] since which there is feedback again; negative: there is none
        self._powered_before: tuple[bool, ...] = ()  # the motors that had power when it was asked for

    # Requests, from any thread: taken up by the next period; -> "" or why that cannot be

    def enable(self) -> str:
        if self.phase == DOWN:
            return f"{self._why_down()}; ask again once it is there"
        self.answer, self._wants_power = "", True
        return ""

    def disable(self) -> str:
        if self.phase == DOWN:
            return f"{self._why_down()}; ask again once it is there"
        self.answer, self._wants_power = "", False
        return ""

    def reset(self) -> str:
        """Clear a latched stop; where the arm itself reports an error its own reset is sent, and it sags."""
        objection = self._reset_objection()
        self._wants_reset = not objection
        return objection

    def home(self) -> str:
        """Go home, slowly."""
        if self.phase != READY or self.executor.mode not in (HOLDING, MOVING):
            return f"wanted an arm with power, got one that is {self.executor.mode}: {self.executor.reason}"
        self.executor.move_to(arm.HOME, self.config.park_speed)
        return ""

    @property
    def reset_sags(self) -> bool:
        """-> whether a reset would take the arm's power now."""
        bus = self.bus
        feedback = bus.feedback if bus is not None else None
        return feedback is not None and _needs_clearing(bus, feedback) and any(feedback.motors)

    def _reset_objection(self) -> str:
        if self.executor.mode != STOPPED:
            return f"wanted a stopped arm, got one that is {self.executor.mode}: there is nothing to reset"
        if self.phase == DOWN:
            return f"{self._why_down()}; reset once it is there"
        if not self.executor.trajectory.at_rest:
            return "wanted an arm at rest, got one that still brakes; ask again in a moment"
        return ""

    def _why_down(self) -> str:
        return self.faults[0] if self.faults else "no feedback from the arm yet; is it on?"

    # Once a period

    def tick(self, now: float) -> None:
        """now [s] of time.monotonic(): look, decide, send."""
        bus, self.passed = self.bus, None
        feedback = bus.feedback if bus is not None else None
        if bus is None or feedback is None or bus.check():
            self._gone(now, (bus.check() if bus is not None else "") or "no feedback from the arm yet; is it on?")
            return
        self.feedback_age_s = now - feedback.stamp_s
        waits = self._look(bus, feedback, now)
        self._take_requests(bus, feedback, now)
        if self.phase == DOWN:
            self._ask_firmware(bus, now)
            self._come_back(feedback, now)
            return
        if self.phase == POWERING:
            self._power(bus, feedback, now)
            return
        if self.phase == ASLEEP:
            self._ask_firmware(bus, now)
        passed = self.executor.tick(now, self._sensed(feedback, now, waits))
        if self.phase == PARKING:
            self._park(bus)
        if passed is not None and self.phase in (READY, PARKING) and not self.leader:
            self.passed = passed
            self._send(bus, passed, now)

    def _look(self, bus: Any, feedback: Any, now: float) -> list[str]:
        """Faults and waits of this period, each only once it persists."""
        (state, control, teach, errors), status_s = bus.status, bus.status_s
        found = []
        if state and state not in WAITS:
            found.append(STATES.get(state, f"the arm reports the unknown state {state:X}"))
        found += [f"no communication with motor {joint}" for joint in _bits(errors & 0xFF)]
        of_motors = list(feedback.alarms)
        if self.phase in (READY, PARKING):  # before power nothing could clear them
            of_motors += feedback.gripper_alarms
        off = [k + 1 for k, on in enumerate(feedback.motors) if not on]
        if self.phase in (READY, PARKING) and self._had_power and off:
            of_motors.append(f"motor {', '.join(map(str, off))} lost its power")
        self._gripper_had_power = self.phase == READY and (feedback.gripper or self._gripper_had_power)
        if self._gripper_had_power and not feedback.gripper:
            of_motors.append("the gripper's motor lost its power")
        sent = self.executor.trajectory.state[0]
        current = self.feedback_age_s < SILENT_S / 10
        if self.phase != READY or not current or not np.array_equal(feedback.position, self._still):
            self._still, self._still_since, self._way[:] = feedback.position, now, 0.0
        else:
            self._way += np.abs(sent - self._sent)
        self._sent = sent.copy()
        if self.phase == READY and self._way[:6].max() > FROZEN_RAD and now - self._still_since > FROZEN_S:
            found.append("feedback is frozen: it does not change though the arm is moved")
        leader = teach == 1 or control in (2, 6)
        if leader:
            found.append("leader")
        others = []
        if self.phase == READY and control != 1 and not leader:
            who = CONTROLS.get(control, f"mode {control:X}")
            others.append(f"wanted an arm that listens to CAN, got one that listens to {who}")
        self.wrong_since = {words: self.wrong_since.get(words, now) for words in found + of_motors + others}
        enough = dict.fromkeys(of_motors, MOTOR_PERSISTS_S) | dict.fromkeys(others, CONTROL_PERSISTS_S)
        lasting = [words for words, since in self.wrong_since.items() if now - since >= enough.get(words, PERSISTS_S)]
        self.leader = "leader" in lasting and now - status_s < SILENT_S
        faults = [words for words in lasting if words != "leader"]
        if (words := self._hardware_stop()) and words:
            faults.append(words)
        self.faults = tuple(faults)
        waits = [WAITS[state]] if state in WAITS else []
        waits += [f"joint {joint} is at its limit, says the arm" for joint in _bits(errors >> 8)]
        if self.feedback_age_s > GAP_S:
            self._silent_at = now
        if self.feedback_age_s > SILENT_S:
            waits.append(f"feedback is {self.feedback_age_s:.1f} s old: cable, power, or leader (teach) mode")
        elif now - self._silent_at < NEWS_S + MOTOR_PERSISTS_S and self._silent_at >= 0:
            waits.append(f"feedback is {self.feedback_age_s:.2f} s old, or has just come back")
        if self.leader:
            waits.append("leader (teach) mode: the arm takes no commands; switch it off at the arm")
            if self.executor.mode in (HOLDING, MOVING):
                self.executor.disable(f"disabled: it was in {waits[-1].split(':')[0]}; call /robot/enable")
                if self.phase == PARKING:
                    self.answer = f"could not move to rest: {waits[-1]}"
                self.phase = ASLEEP
        self.waits = tuple(waits)
        return waits

    def _sensed(self, feedback: Any, now: float, waits: list[str]) -> Sensed:
        ages: Mapping[str, float] = {role: now - stamp for role, stamp in self.camera_stamps.items()}
        faults = self.faults if self.phase != ASLEEP else ()  # without power nothing moves, and nothing is sent
        return Sensed(feedback.position, feedback.effort, self.feedback_age_s, ages, faults, tuple(waits))

    def _gone(self, now: float, why: str) -> None:
        """No bus: nothing can be sent, and what was asked for meanwhile is not done later."""
        self.faults, self.waits = (why,), ()
        self.feedback_age_s = float("inf")
        self._forget_requests(why)
        self.phase, self._back_since = DOWN, -1.0
        self._think(now, (), why)

    def _think(self, now: float, faults: tuple[str, ...], why: str) -> None:
        """A period in which nothing is sent: requests are taken up, a motion is braked in thought."""
        zero = np.zeros_like(self.executor.limits.low)
        self.executor.tick(now, Sensed(zero, zero, float("inf"), {}, faults, (why,)))

    def _ask_firmware(self, bus: Any, now: float) -> None:
        self.firmware = bus.firmware() or self.firmware
        if not self.firmware and now - self._asked > ASK_FIRMWARE_S:
            self._asked = now
            bus.ask_firmware()

    def _come_back(self, feedback: Any, now: float) -> None:
        """The bus is there (again), and what was commanded meanwhile was never sent: once the motors have spoken and
        the arm is still, go on from where it is, if it kept its power. Until then nothing is sent."""
        mode = self.executor.mode
        self._think(
            now, self.faults if mode != DISABLED else (), "the bus has come back, the motors have not spoken yet"
        )
        if self.feedback_age_s > SILENT_S:
            self._back_since = -1.0
            return
        self._back_since = now if self._back_since < 0 else self._back_since
        still = mode == DISABLED or np.abs(feedback.velocity[:6]).max() < STILL_RAD_S
        if now - self._back_since < NEWS_S + MOTOR_PERSISTS_S or not still:
            return
        off = [k + 1 for k, on in enumerate(feedback.motors) if not on]
        self.executor.start(feedback.position)
        self._sent = feedback.position
        if mode in (HOLDING, MOVING) and off:
            self.executor.stop(f"motor {', '.join(map(str, off))} lost its power")
        self.phase = ASLEEP if mode == DISABLED or off else READY
        self._had_power = self.phase == READY

    def _forget_requests(self, why: str) -> None:
        if self._wants_power is not None or self.phase in (POWERING, PARKING):
            self.answer = f"{why}; ask again once it is there"
        self._wants_power, self._wants_reset = None, False

    def _take_requests(self, bus: Any, feedback: Any, now: float) -> None:
        if self._wants_reset and not self._reset_objection():
            if _needs_clearing(bus, feedback):
                bus.drop_power_and_clear()
            self.executor.reset()
            self.phase, self._had_power = ASLEEP, False
            self.wrong_since.clear()
        self._wants_reset = False
        wants, self._wants_power = self._wants_power, None
        if wants is True:
            self._begin_power(feedback, now)
        elif wants is False:
            self._begin_parking(feedback)

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
        elif self.phase == PARKING:
            self.answer = "it is on its way to rest: wait until it is there"
        elif objection := arm.firmware_objection(self.firmware):
            self.answer = objection
        elif self.faults:
            self.executor.stop(self.faults[0])  # so that a person may reset
            self.answer = f"stopped: {self.faults[0]}; call /robot/reset first"
        else:
            self.phase, self._power_since, self._last_enable = POWERING, now, -1.0
            self._powered_before = feedback.motors
            self.executor.start(feedback.position)

    def _power(self, bus: Any, feedback: Any, now: float) -> None:
        """Slowly, from where the arm is: its own old target must not make it rush when the power comes."""
        self.executor.take_requests()
        if self.executor.mode != STOPPED and self.faults:
            self.executor.stop(self.faults[0])
            self.executor.take_requests()
        if self.executor.mode == STOPPED or self.leader:
            self._give_up(bus, self.executor.reason if not self.leader else "it is in leader (teach) mode")
            return
        # An arm that falls, or is moved by hand, gets none: where it is would be old news by the time that power comes.
        fresh = self.feedback_age_s < self.executor.gate.config.max_feedback_age_s
        still = fresh and np.abs(feedback.velocity[:6]).max() < STILL_RAD_S
        ready = all(feedback.motors) and now - self._power_since > NEWS_S and still
        if not ready:
            self.executor.start(feedback.position)
        self.passed = self.executor.hold_here() if still else None
        if self.passed is not None:
            bus.joint_mode(SLOW_PERCENT)
            bus.send_joints(self.passed)
            if now - self._last_enable >= ENABLE_EVERY_S:
                self._last_enable = now
                bus.enable()
        if ready:
            self.phase, self._had_power, self._clears_gripper, self.answer = READY, True, True, "ok"
            self.executor.enable()
        elif now - self._power_since > self.config.enable_timeout_s:
            off = [k + 1 for k, on in enumerate(feedback.motors) if not on]
            what = f"no power on motor {off}" if off else "the arm did not come to rest"
            what = f"{what} within {self.config.enable_timeout_s:.0f} s"
            self._give_up(bus, "; ".join((what, *self.faults)))

    def _give_up(self, bus: Any, why: str) -> None:
        """No power after all: motors that had it before keep it, for the arm may hang in the air."""
        self.phase, self.answer = ASLEEP, why
        bus.disable([k + 1 for k, had in enumerate(self._powered_before) if not had])

    def _begin_parking(self, feedback: Any) -> None:
        mode = self.executor.mode
        if self.phase == POWERING:
            self._give_up(self.bus, "disabled again before every motor had power")
        elif mode == STOPPED:
            self.answer = "stopped: it keeps its power; call /robot/reset"
        elif mode in (HOLDING, MOVING):
            self.executor.task(False)
            self.executor.move_to(arm.REST, self.config.park_speed)
            self.phase = PARKING
        elif any(feedback.motors) and np.abs(feedback.position - arm.REST)[:6].max() > RESTS_RAD:
            self.answer = (
                "it has power and is away from its rest, without power it would fall: enable it first, then disabling "
                "moves it to rest; or support it and switch it off at the arm"
            )
        else:
            self.bus.disable()
            self.answer = "ok"

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
            bus.send_gripper(passed, passed.gripper_effort_nm, self._clears_gripper)
            self._clears_gripper = False


def _needs_clearing(bus: Any, feedback: Any) -> bool:
    """-> whether only the arm's own reset, which takes its power, ends what it reports."""
    return bus.status[0] in STATES or bool(feedback.alarms)


def _bits(byte: int) -> list[int]:
    """-> the joints, from 1, whose bits are set."""
    return [joint for joint in range(1, 7) if byte >> (joint - 1) & 1]
