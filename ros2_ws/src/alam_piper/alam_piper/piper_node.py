"""The Piper node: the robot interface around the driver of the arm. A lifecycle node: configure opens the bus, activate
starts the control loop."""

from __future__ import annotations

import math
import sys
import threading
import time
from array import array
from collections import deque
from functools import partial
from pathlib import Path
from typing import Any

import rclpy
from alam_msgs.action import RunTask
from alam_msgs.msg import ActionChunk, ArmStatus, StateVector
from rclpy.action import ActionServer, CancelResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from sensor_msgs.msg import CameraInfo, JointState
from std_msgs.msg import Bool, String
from std_srvs.srv import SetBool, Trigger

from alam_common import topics
from alam_common.base_node import Diagnostics, declare, publisher, refuse_twin, run_node, subscribe
from alam_common.convert import fill_stamp, fill_state, read_chunk, stamp_ns
from alam_common.diagnostics import ERROR, OK, WARN, Rate, Status
from alam_common.refusal import Refusal
from alam_control.arm_executor import ArmExecutor
from alam_control.arm_gate import MOVING, STOPPED, GateConfig, Passed
from alam_control.chunk_buffer import TimedChunk
from alam_models.contract import Contract, disagreements
from alam_piper import arm
from alam_piper.driver import DOWN, DriverConfig, PiperDriver
from alam_piper.geometry import piper_geometry, piper_limits
from alam_piper.loop_io import Histogram, RealTimeLoop, prioritise_others
from alam_piper.sdk_io import SdkBus
from alam_piper.settings import PARAMETERS

PERIOD_S = 0.005
DISCOVERY_S = 1.0  # how long a twin on the same domain may take to show itself
RETRY_S = 0.5  # between two attempts to open the bus again
FIRMWARE_S = 2.0  # between two questions for the firmware
STATUS_S = 0.1
HELPERS_PRIORITY = 40  # of this process' other threads, below the loop's
DONE, FAILED = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
INSTRUCTION = "move"  # what a policy is told while no task runs


class PiperNode(LifecycleNode):
    """`PiperDriver` behind ROS. The loop has a thread of its own; another one publishes; callbacks only pass things
    on."""

    def __init__(self) -> None:
        super().__init__("piper")
        self._started = time.monotonic()
        self.failure = ""
        self._refused = ""
        self._settings = declare(self, PARAMETERS)
        self._contract = arm.piper_contract()
        values = self._settings
        self._check_contract()
        config = GateConfig(
            values["max_chunk_age"], values["max_camera_age"], values["max_feedback_age"], values["following_error"]
        )
        geometry = piper_geometry(values["link_margin"], values["table_clearance"])
        self._executor_ = ArmExecutor(arm.NAMES, piper_limits(values["speed"]), geometry, config, PERIOD_S)
        driver = DriverConfig(
            values["mode"] == "mit",
            values["speed_percent"],
            values["enable_timeout"],
            values["mit_kp"],
            values["mit_kd"],
            values["park_speed"],
        )
        self._driver = PiperDriver(self._executor_, driver, self._hardware_stop)
        self._loop: RealTimeLoop | None = None
        self._loop_warnings: list[str] = []
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._commands: deque[tuple[float, Passed]] = deque(maxlen=256)
        self._command_age = Histogram()
        self._firmware = ""
        self._observations = 0
        self._instruction = INSTRUCTION
        self._task_until = math.inf
        self._busy = threading.Lock()
        self._chunks, self._feedback_rate = Rate(), Rate()
        self._missed_feedback = 0
        self._said = ("", "")
        used = (topics.JOINT_STATES, topics.COMMAND, topics.STATE, topics.CONTRACT, topics.ARM_STATUS)
        self._topics = {topic.name: publisher(self, topic) for topic in used}
        self._diagnostics = Diagnostics(self, "piper", self._status)

    def open(self) -> None:
        """With autostart: configure and activate. Raises Refusal for a twin, or a bus that does not exist."""
        refuse_twin(self, self._started + DISCOVERY_S)
        if self._settings["autostart"]:
            if self.trigger_configure() != DONE:
                raise Refusal(self._refused or "configuring failed")
            self.trigger_activate()
        self._offer_interface()

    def close(self) -> bool:
        """Brake, stop the loop, let the bus go -> whether every thread ended. The arm keeps its power, and its
        place."""
        self._executor_.stop("the driver is shutting down")
        end = time.monotonic() + 1.0
        while self._loop and self._loop.alive and not self._executor_.trajectory.at_rest and time.monotonic() < end:
            time.sleep(0.01)
        ended = self._loop is None or self._loop.stop()
        self._over.set()
        for thread in self._threads:
            thread.join(0.5)
        if self._driver.bus is not None:
            self._driver.bus.close()
        return ended and not any(thread.is_alive() for thread in self._threads)

    # Lifecycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            self._driver.bus = SdkBus(self._settings["can_interface"], self._settings["can_channel"])
        except ValueError as error:
            self._refused = str(error)
            self.get_logger().error(self._refused)
            return FAILED
        return DONE

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._loop = RealTimeLoop(self._tick, PERIOD_S, self._settings["priority"], self._settings["cpu"])
        self._loop_warnings = self._loop.start()
        for warning in self._loop_warnings:
            self.get_logger().warning(warning)
        self._threads = [
            threading.Thread(target=self._keep_bus, name="bus", daemon=True),
            threading.Thread(target=self._publish, name="publish", daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        if self._settings["priority"] and not self._loop_warnings:
            prioritise_others(HELPERS_PRIORITY)
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._executor_.disable("the driver was deactivated")
        if self._loop:
            self._loop.stop()
        self._over.set()
        return super().on_deactivate(state)

    # The loop's thread

    def _tick(self, now: float) -> None:
        driver = self._driver
        driver.tick(now)
        if driver.passed is not None:
            self._commands.append((now, driver.passed))
            if self._executor_.mode == MOVING and not math.isnan(self._executor_.observation_time):
                self._command_age.add((now - self._executor_.observation_time) / 100)  # bins of 1 ms

    # Other threads

    def _keep_bus(self) -> None:
        """Ask for the firmware until it is known; open a lost bus again, as often as it takes."""
        asked = 0.0
        while not self._over.wait(RETRY_S / 5):
            bus, now = self._driver.bus, time.monotonic()
            if bus is None or bus.check():
                if bus is not None:
                    self.get_logger().warning(bus.check(), throttle_duration_sec=10.0)
                    self._driver.bus = None
                    bus.close()
                self._over.wait(RETRY_S)
                try:
                    self._driver.bus = SdkBus(self._settings["can_interface"], self._settings["can_channel"])
                except ValueError:
                    continue
                if self._settings["priority"] and not self._loop_warnings:
                    prioritise_others(HELPERS_PRIORITY)
            elif not self._firmware and now - asked > FIRMWARE_S:
                asked = now
                bus.ask_firmware()
            elif not self._firmware and (version := bus.firmware()):
                self._firmware = version
                self.get_logger().info(f"firmware {version} on {self._settings['can_channel']}")
            if self._loop is not None and self._loop.error is not None:
                self.failure = f"the control loop ended: {type(self._loop.error).__name__}: {self._loop.error}"
                rclpy.try_shutdown()
                return

    def _publish(self) -> None:
        seen, next_status, last_triplets = None, 0.0, 0
        while not self._over.wait(PERIOD_S / 2):
            bus, now = self._driver.bus, time.monotonic()
            feedback = bus.feedback if bus is not None else None
            if feedback is not None and feedback is not seen:
                if seen is not None and bus.counters.triplets > last_triplets + 1:
                    self._missed_feedback += bus.counters.triplets - last_triplets - 1
                seen, last_triplets = feedback, bus.counters.triplets
                self._feedback_rate.tick(now)
                self._publish_feedback(feedback, now)
            while self._commands:
                self._publish_command(*self._commands.popleft(), now)
            mode = (self._executor_.mode, self._executor_.reason.split(" is ")[0])
            if now >= next_status or mode != self._said:
                next_status, self._said = now + STATUS_S, mode
                self._topics[topics.ARM_STATUS.name].publish(self._arm_status(feedback, now))

    def _publish_feedback(self, feedback: Any, now: float) -> None:
        time_ns = time.time_ns() - int((now - feedback.stamp_s) * 1e9)
        message = JointState(name=list(arm.NAMES))
        fill_stamp(message.header.stamp, time_ns)
        message.position = array("d", feedback.position.tobytes())
        message.velocity = array("d", feedback.velocity.tobytes())
        message.effort = array("d", feedback.effort.tobytes())
        self._topics[topics.JOINT_STATES.name].publish(message)
        self._observations += 1
        state = StateVector()
        fill_state(state, arm.NAMES, feedback.position, self._instruction, self._observations, time_ns)
        self._topics[topics.STATE.name].publish(state)

    def _publish_command(self, at: float, passed: Passed, now: float) -> None:
        message = JointState(name=list(arm.NAMES))
        fill_stamp(message.header.stamp, time.time_ns() - int((now - at) * 1e9))
        message.position = array("d", passed.position.tobytes())
        message.velocity = array("d", passed.velocity.tobytes())
        self._topics[topics.COMMAND.name].publish(message)

    def _arm_status(self, feedback: Any, now: float) -> ArmStatus:
        driver, executor = self._driver, self._executor_
        message = ArmStatus(mode=executor.mode, reason=executor.reason, firmware=self._firmware)
        fill_stamp(message.header.stamp, time.time_ns())
        message.connected = driver.phase != DOWN
        message.leader_mode = driver.leader
        message.faults = list(driver.faults)
        age = executor.observation_time
        message.chunk_age = math.inf if math.isnan(age) or executor.mode != MOVING else now - age
        message.feedback_age = math.inf if feedback is None else now - feedback.stamp_s
        if feedback is not None:
            message.enabled = all(feedback.motors)
            message.motor_temperature = list(feedback.motor_temperature)
            message.driver_temperature = list(feedback.driver_temperature)
            message.motor_voltage = list(feedback.voltage)
            message.following_error = float(abs(executor.trajectory.state[0] - feedback.position)[:6].max())
        return message

    def _status(self, now: float) -> Status:
        driver, executor, loop = self._driver, self._executor_, self._loop
        mode, reason = executor.mode, executor.reason
        level = ERROR if mode == STOPPED or driver.phase == DOWN else OK if mode == MOVING else WARN
        values = {
            "mode": mode,
            "reason": reason,
            "phase": driver.phase,
            "firmware": self._firmware,
            "faults": "; ".join(driver.faults),
            "feedback_rate_hz": f"{self._feedback_rate.rate_hz(now):.1f}",
            "feedback_missed": str(self._missed_feedback),
            "chunk_rate_hz": f"{self._chunks.rate_hz(now):.1f}",
            "chunks_accepted": str(self._chunks.count),
            "chunks_rejected": str(executor.rejected),
            "last_rejection": executor.why_refused,
            "chunks_clipped": str(executor.clipped),
            "splices_limited": str(executor.trajectory.limited),
            "gate_refused": str(executor.gate.refused),
            "last_refusal": executor.gate.refusal,
            "periods_held": str(executor.held),
        }
        if loop is not None:
            for name, histogram in (("wake_error", loop.figures.wake), ("tick", loop.figures.work)):
                for percent in (50, 99, 99.9):
                    values[f"{name}_p{percent:g}_ms"] = f"{histogram.percentile_ms(percent):.2f}"
                values[f"{name}_max_ms"] = f"{histogram.most_s * 1e3:.2f}"
            values["ticks"] = str(loop.figures.wake.count)
            values["ticks_missed"] = str(loop.figures.missed)
            values["command_age_p50_ms"] = f"{self._command_age.percentile_ms(50) * 100:.0f}"
            values["command_age_p99_ms"] = f"{self._command_age.percentile_ms(99) * 100:.0f}"
        if (bus := driver.bus) is not None:
            values["frames_sent"] = str(bus.counters.sent)
            values["feedback_torn"] = str(bus.counters.torn)
            values["feedback_implausible"] = str(bus.counters.implausible)
        message = "; ".join(
            filter(None, (f"{mode}: {reason}" if reason else mode, *driver.faults, *self._loop_warnings))
        )
        return Status(level, message, values)

    # Callbacks

    def _offer_interface(self) -> None:
        subscribe(self, topics.CHUNK, self._on_chunk)
        subscribe(self, topics.OPERATOR_STOP, self._on_operator_stop)
        for role in self._contract.roles:
            self._driver.camera_stamps[role] = -math.inf
            subscribe(self, topics.CAMERA_INFOS[role], partial(self._on_camera, role))
        group = ReentrantCallbackGroup()
        for name, kind, callback in (
            ("/robot/enable", SetBool, self._on_enable),
            ("/robot/stop", Trigger, self._on_stop),
            ("/robot/reset", Trigger, self._on_reset),
            ("/robot/home", Trigger, self._on_home),
        ):
            self.create_service(kind, name, callback, callback_group=group)
        self._action = ActionServer(
            self, RunTask, topics.RUN_TASK[0], self._execute, callback_group=group, cancel_callback=self._on_cancel
        )
        self._topics[topics.CONTRACT.name].publish(String(data=self._contract.to_yaml()))
        self.get_logger().info("ready: call /robot/enable, then send a goal to /run_task")

    def _on_chunk(self, message: ActionChunk) -> None:
        try:
            actions = read_chunk(message)
        except ValueError as error:
            self._executor_.why_refused = str(error)
            self.get_logger().warning(str(error), throttle_duration_sec=5.0)
            return
        now = time.monotonic()
        seen = _monotonic(stamp_ns(message.observation_stamp), now)
        chunk = TimedChunk(actions, seen, message.observation_id, message.dt, message.policy_id)
        if not self._executor_.offer(chunk, tuple(message.names), now):
            self._chunks.tick(now)

    def _on_camera(self, role: str, message: CameraInfo) -> None:
        now = time.monotonic()
        self._driver.camera_stamps[role] = min(_monotonic(stamp_ns(message.header.stamp), now), now)

    def _on_operator_stop(self, message: Bool) -> None:
        if message.data:
            self._executor_.stop("the operator's stop; call /robot/reset to go on")

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        driver = self._driver
        if not request.data and self._busy.locked():
            response.success, response.message = (
                False,
                "wanted no task to run, got one; cancel it first, or call /robot/stop",
            )
            return response
        driver.enable() if request.data else driver.disable()
        patience_s = self._settings["enable_timeout"] + 2.0 if request.data else 60.0
        end = time.monotonic() + patience_s
        while not driver.answer and time.monotonic() < end and not self._over.is_set():
            time.sleep(0.01)
        response.success = driver.answer == "ok"
        done = "enabled" if request.data else "at rest, without power"
        response.message = (
            done if response.success else driver.answer or "no answer of the control loop: is the bus up?"
        )
        return response

    def _on_stop(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._executor_.stop("/robot/stop was called; call /robot/reset to go on")
        response.success, response.message = True, "stopping; the arm keeps its power and its place"
        return response

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._busy.locked():
            response.success, response.message = False, "wanted no task to run during a reset, got one; cancel it first"
            return response
        sags = self._driver.reset_sags
        self._driver.reset()
        end = time.monotonic() + 1.0
        while self._executor_.mode == STOPPED and time.monotonic() < end:
            time.sleep(PERIOD_S)
        if self._executor_.mode == STOPPED:
            response.success, response.message = False, f"still stopped: {self._executor_.reason}"
            return response
        warning = "the arm's own error was cleared: it has no power and SAGS, hold it; " if sags else ""
        response.success, response.message = True, warning + "call /robot/enable to go on"
        return response

    def _on_home(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        executor = self._executor_
        if self._busy.locked():
            response.success, response.message = False, "wanted no task to run, got one; cancel it first"
            return response
        executor.move_to(arm.HOME, self._settings["park_speed"])
        time.sleep(4 * PERIOD_S)
        while executor.moving_itself and not self._over.is_set():
            time.sleep(0.02)
        away = float(abs(executor.trajectory.state[0] - arm.HOME)[:6].max())
        response.success = away < 1e-3
        response.message = "home" if response.success else f"not home: {executor.reason}"
        return response

    def _on_cancel(self, handle: Any) -> CancelResponse:
        return CancelResponse.ACCEPT

    def _execute(self, handle: ServerGoalHandle) -> RunTask.Result:
        """Follow chunks until the time is up, a person ends it, or the arm is stopped. The arm cannot judge success."""
        request = handle.request
        if not self._busy.acquire(blocking=False):
            return _aborted(handle, "rejected: another task is running and there is one arm; wait for it or cancel it")
        try:
            if not (math.isfinite(request.timeout) and request.timeout >= 0):
                return _aborted(handle, f"rejected: timeout: wanted seconds, 0 or more, got {request.timeout}")
            if self._executor_.mode not in ("holding", "moving"):
                return _aborted(handle, f"rejected: {self._executor_.mode}: {self._executor_.reason}")
            return self._follow(handle, request.instruction or request.task or INSTRUCTION, request.timeout or math.inf)
        finally:
            self._executor_.task(False)
            self._instruction = INSTRUCTION
            self._busy.release()

    def _follow(self, handle: ServerGoalHandle, instruction: str, timeout_s: float) -> RunTask.Result:
        began = time.monotonic()
        self._instruction = instruction
        self._executor_.task(True)
        step = 0
        while True:
            time.sleep(1 / arm.CONTROL_RATE_HZ)
            step = int((time.monotonic() - began) * arm.CONTROL_RATE_HZ)
            mode = self._executor_.mode
            if step % 15 == 0:
                handle.publish_feedback(RunTask.Feedback(step=step, mode="running" if mode == MOVING else "holding"))
            if self._over.is_set() or not rclpy.ok():
                return _aborted(handle, "the driver is shutting down", step)
            if handle.is_cancel_requested:
                handle.canceled()
                return RunTask.Result(success=False, steps=step, reason="cancelled by the client")
            if mode not in ("holding", MOVING):
                return _aborted(handle, f"{mode}: {self._executor_.reason}", step)
            if time.monotonic() - began > timeout_s:
                handle.succeed()
                return RunTask.Result(success=False, steps=step, reason="the time is up; a person must judge success")

    # Helpers

    def _hardware_stop(self) -> str:
        path = self._settings["hardware_stop"]
        if not path:
            return ""
        try:
            with open(path, encoding="ascii") as file:
                return "" if file.read(1) == "1" else f"the hardware stop is pressed ({path})"
        except OSError as error:
            return f"the hardware stop cannot be read ({path}: {error.strerror})"

    def _check_contract(self) -> None:
        path = self._settings["contract"]
        if not path:
            return
        try:
            sentences = disagreements(wanted=Contract.load(path), got=self._contract)
        except ValueError as error:
            raise Refusal(str(error)) from None
        if sentences:
            raise Refusal(f"{path} was made for another robot: {'; '.join(sentences)}")
        if self._settings["hardware_stop"] and not Path(self._settings["hardware_stop"]).exists():
            raise Refusal(f"hardware_stop: wanted a file, got none at {self._settings['hardware_stop']}")


def _monotonic(time_ns: int, now: float) -> float:
    """A stamp of the system clock [ns] -> time.monotonic() [s] at that moment; now: of time.monotonic()."""
    return now - (time.time_ns() - time_ns) / 1e9


def _aborted(handle: ServerGoalHandle, reason: str, steps: int = 0) -> RunTask.Result:
    handle.abort()
    return RunTask.Result(success=False, steps=steps, reason=reason)


def main() -> None:
    sys.exit(run_node("piper", PiperNode, threads=4))


if __name__ == "__main__":
    main()
