"""The Piper node: the robot interface of ROS around the process that owns the arm. A lifecycle node: configure starts
that process and opens the bus, activate starts its control loop."""

from __future__ import annotations

import math
import sys
import threading
import time
from array import array
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from alam_msgs.action import RunTask
from alam_msgs.msg import ActionChunk, ArmStatus, StateVector
from rclpy.action import ActionServer, CancelResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from sensor_msgs.msg import CameraInfo, JointState
from std_msgs.msg import Bool, String
from std_srvs.srv import SetBool, Trigger

from alam_common import topics
from alam_common.base_node import Diagnostics, declare, publisher, refuse_twin, run_node, subscribe
from alam_common.convert import fill_stamp, fill_state, read_chunk, stamp_ns
from alam_common.diagnostics import ERROR, OK, WARN, Rate, Status
from alam_common.refusal import Refusal
from alam_control.arm_gate import HOLDING, MOVING, STOPPED
from alam_control.chunk_buffer import TimedChunk
from alam_models.contract import Contract, disagreements
from alam_piper import arm
from alam_piper.arm_client_io import ArmClient
from alam_piper.driver import DOWN
from alam_piper.settings import PARAMETERS
from alam_piper.shared_io import CHANGES, COMMANDS, FEEDBACK
from alam_piper.snapshot import Snapshot

PERIOD_S = 0.005
POLL_S = 0.02  # between two looks at what the arm does, where a caller waits for it
DISCOVERY_S = 1.0  # how long a twin on the same domain may take to show itself
STATUS_S = 0.1
DONE, FAILED = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
INSTRUCTION = "move"  # what a policy is told while no task runs
NO_LOOP = "the control loop is not running: activate the node"


class PiperNode(LifecycleNode):
    """`ArmClient` behind ROS. One thread publishes; callbacks only pass things on."""

    def __init__(self) -> None:
        super().__init__("piper")
        self._started = time.monotonic()
        self.failure = ""
        self._refused = ""
        self._settings = declare(self, PARAMETERS)
        self._contract = arm.piper_contract()
        self._check_contract()
        self._arm: ArmClient | None = None
        self._loop_warnings: list[str] = []
        self._over = threading.Event()
        self._publishing: threading.Thread | None = None
        self._observations = 0
        self._instruction = INSTRUCTION
        self._busy = threading.Lock()
        self._chunks, self._feedback_rate = Rate(), Rate()
        self._measured, self._commanded = JointState(name=list(arm.NAMES)), JointState(name=list(arm.NAMES))
        self._state = StateVector()
        used = (topics.JOINT_STATES, topics.COMMAND, topics.STATE, topics.CONTRACT, topics.ARM_STATUS)
        self._topics = {topic.name: publisher(self, topic) for topic in used}
        self._diagnostics = Diagnostics(self, "piper", self._status)
        self._broken: BaseException | None = None  # what ended a thread that must not end
        self.create_timer(0.2, self._check_process)

    def open(self) -> None:
        """With autostart: configure and activate. Raises Refusal for a twin, or a bus that does not exist."""
        refuse_twin(self, self._started + DISCOVERY_S)
        if self._settings["autostart"]:
            if self.trigger_configure() != DONE:
                raise Refusal(self._refused or "configuring failed")
            self.trigger_activate()
        self._offer_interface()

    def close(self) -> bool:
        """Brake, and end the arm's process -> whether everything ended. The arm keeps its power, and its place."""
        self._over.set()
        if self._publishing is not None:
            self._publishing.join(0.5)
        ended = self._arm is None or self._arm.end()
        return ended and not (self._publishing and self._publishing.is_alive())

    # Lifecycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._arm = ArmClient(self._settings)
        try:
            self._refused = self._arm.ask("open")
        except (ConnectionError, RuntimeError) as error:
            self._refused = str(error)
        if not self._refused:
            return DONE
        self.get_logger().error(self._refused)
        self._arm.end()
        self._arm = None
        return FAILED

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        if self._arm is None and self.on_configure(state) != DONE:
            return FAILED
        assert self._arm is not None
        self._loop_warnings = self._arm.ask("start")
        for warning in self._loop_warnings:
            self.get_logger().warning(warning)
        self._over.clear()
        self._publishing = threading.Thread(
            target=self._run, args=(partial(self._publish, self._arm),), name="publish", daemon=True
        )
        self._publishing.start()
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.close()
        self._arm = None
        return super().on_deactivate(state)

    # The publishing thread

    def _publish(self, arm_: ArmClient) -> None:
        shared, next_status = arm_.shared, 0.0
        feedback_seen, commands_seen, changes_seen = shared.count(FEEDBACK), shared.count(COMMANDS), -1
        while not self._over.wait(PERIOD_S):
            now = time.monotonic()
            rows, feedback_seen = shared.since(FEEDBACK, feedback_seen)
            for row in rows:
                self._feedback_rate.tick(now)
                self._publish_feedback(row, now)
            rows, commands_seen = shared.since(COMMANDS, commands_seen)
            for row in rows:
                self._publish_command(row, now)
            if now >= next_status or shared.count(CHANGES) != changes_seen:
                next_status, changes_seen = now + STATUS_S, shared.count(CHANGES)
                self._topics[topics.ARM_STATUS.name].publish(_arm_status(arm_.snapshot(), now))

    def _publish_feedback(self, row: np.ndarray, now: float) -> None:
        time_ns = time.time_ns() - int((now - row[0]) * 1e9)
        message = self._measured  # filled anew each time: making one costs more than sending it
        fill_stamp(message.header.stamp, time_ns)
        message.position = array("d", row[1:8].tobytes())
        message.velocity = array("d", row[8:15].tobytes())
        message.effort = array("d", row[15:22].tobytes())
        self._topics[topics.JOINT_STATES.name].publish(message)
        self._observations += 1
        fill_state(self._state, arm.NAMES, row[1:8], self._instruction, self._observations, time_ns)
        self._topics[topics.STATE.name].publish(self._state)

    def _publish_command(self, row: np.ndarray, now: float) -> None:
        message = self._commanded
        fill_stamp(message.header.stamp, time.time_ns() - int((now - row[0]) * 1e9))
        message.position = array("d", row[1:8].tobytes())
        message.velocity = array("d", row[8:15].tobytes())
        self._topics[topics.COMMAND.name].publish(message)

    # Timers

    def _check_process(self) -> None:
        """Without the process that owns the arm, or deaf, this node cannot go on; launch starts both anew."""
        if self._broken is not None:
            raise self._broken
        if self._arm is not None and self._arm.gone and not self._over.is_set():
            raise RuntimeError("the arm's control process has ended")

    def _status(self, now: float) -> Status:
        try:
            said = self._said(figures=True)
        except ConnectionError as error:
            return Status(ERROR, str(error), {})
        level = ERROR if said.mode == STOPPED or said.phase == DOWN else OK if said.mode == MOVING else WARN
        if said.failure and not self._over.is_set():
            self.get_logger().error(said.failure)
            raise RuntimeError(said.failure)
        values = {
            "mode": said.mode,
            "reason": said.reason,
            "phase": said.phase,
            "firmware": said.firmware,
            "faults": "; ".join(said.faults),
            "feedback_rate_hz": f"{self._feedback_rate.rate_hz(now):.1f}",
            "chunk_rate_hz": f"{self._chunks.rate_hz(now):.1f}",
            **said.figures,
        }
        words = f"{said.mode}: {said.reason}" if said.reason else said.mode
        return Status(level, "; ".join(filter(None, (words, *said.faults, *self._loop_warnings))), values)

    # Callbacks

    def _offer_interface(self) -> None:
        self._listen()
        group = ReentrantCallbackGroup()
        subscribe(self, topics.OPERATOR_STOP, self._on_operator_stop)  # here: no chunk keeps it waiting
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

    def _listen(self) -> None:
        """What comes often has a node and an executor of its own, /piper_inputs: the multi-threaded one, which the
        services need, looks at thirty entities for each message."""
        inputs = rclpy.create_node("piper_inputs", start_parameter_services=False, enable_rosout=False)
        subscribe(inputs, topics.CHUNK, self._on_chunk)
        for index, role in enumerate(self._contract.roles):
            subscribe(inputs, topics.CAMERA_INFOS[role], partial(self._on_camera, index))
        self._hearing = SingleThreadedExecutor()
        self._hearing.add_node(inputs)
        threading.Thread(target=self._run, args=(self._hearing.spin,), name="inputs", daemon=True).start()

    def _run(self, body: Callable[[], None]) -> None:
        """The body of a thread: what ends it ends the node."""
        try:
            body()
        except (ExternalShutdownException, ConnectionError):
            return  # the node ends, or `_check_process` sees that the arm's process has
        except BaseException as error:
            self._broken = error

    def _on_chunk(self, message: ActionChunk) -> None:
        if self._arm is None:
            return
        try:
            actions = read_chunk(message)
        except ValueError as error:
            self._arm.ask("refuse", str(error))
            self.get_logger().warning(str(error), throttle_duration_sec=5.0)
            return
        now = time.monotonic()
        seen = _monotonic(stamp_ns(message.observation_stamp), now)
        chunk = TimedChunk(actions, seen, message.observation_id, message.dt, message.policy_id)
        if not self._arm.offer(chunk, tuple(message.names)):
            self._chunks.tick(now)

    def _on_camera(self, index: int, message: CameraInfo) -> None:
        now = time.monotonic()
        if self._arm is not None:
            self._arm.shared.camera_stamps[index] = min(_monotonic(stamp_ns(message.header.stamp), now), now)

    def _on_operator_stop(self, message: Bool) -> None:
        if message.data and self._arm is not None:
            self._arm.ask("stop", "the operator's stop; call /robot/reset to go on")

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        if self._arm is None:
            return _answer(response, False, NO_LOOP)
        if not request.data and self._busy.locked():
            return _answer(response, False, "wanted no task to run, got one; cancel it first, or call /robot/stop")
        self._arm.ask("enable" if request.data else "disable")
        patience_s = self._settings["enable_timeout"] + 2.0 if request.data else 60.0
        said = self._wait(lambda said: bool(said.answer), patience_s)
        if said.answer == "ok":
            return _answer(response, True, "enabled" if request.data else "at rest, without power")
        return _answer(response, False, said.answer or "no answer of the control loop: is the bus up?")

    def _on_stop(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._arm is None:
            return _answer(response, False, NO_LOOP)
        self._arm.ask("stop", "/robot/stop was called; call /robot/reset to go on")
        return _answer(response, True, "stopping; the arm keeps its power and its place")

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._arm is None:
            return _answer(response, False, NO_LOOP)
        if self._busy.locked():
            return _answer(response, False, "wanted no task to run during a reset, got one; cancel it first")
        sags = self._arm.ask("reset")
        said = self._wait(lambda said: said.mode != STOPPED, 1.0)
        if said.mode == STOPPED:
            return _answer(response, False, f"still stopped: {said.reason}")
        warning = "the arm's own error was cleared: it has no power and SAGS, hold it; " if sags else ""
        return _answer(response, True, warning + "call /robot/enable to go on")

    def _on_home(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._arm is None:
            return _answer(response, False, NO_LOOP)
        if self._busy.locked():
            return _answer(response, False, "wanted no task to run, got one; cancel it first")
        self._arm.ask("home")
        time.sleep(4 * PERIOD_S)  # until the loop has taken it up
        said = self._wait(lambda said: not said.moving_itself, math.inf)
        there = float(np.abs(said.commanded - arm.HOME)[:6].max()) < 1e-3
        return _answer(response, there, "home" if there else f"not home: {said.reason}")

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
            if self._arm is None:
                return _aborted(handle, f"rejected: {NO_LOOP}")
            if (said := self._said()).mode not in (HOLDING, MOVING):
                return _aborted(handle, f"rejected: {said.mode}: {said.reason}")
            try:
                instruction = request.instruction or request.task or INSTRUCTION
                return self._follow(self._arm, handle, instruction, request.timeout or math.inf)
            finally:
                if not self._arm.gone:
                    self._arm.ask("task", False)
        finally:
            self._instruction = INSTRUCTION
            self._busy.release()

    def _follow(self, arm_: ArmClient, handle: ServerGoalHandle, instruction: str, timeout_s: float) -> RunTask.Result:
        began = time.monotonic()
        self._instruction = instruction
        arm_.ask("task", True)
        step = 0
        while True:
            time.sleep(1 / arm.CONTROL_RATE_HZ)
            step = int((time.monotonic() - began) * arm.CONTROL_RATE_HZ)
            if self._over.is_set() or not rclpy.ok() or arm_.gone:
                return _aborted(handle, "the driver is shutting down", step)
            said = arm_.snapshot()
            if step % 15 == 0:
                doing = "running" if said.mode == MOVING else "holding"
                handle.publish_feedback(RunTask.Feedback(step=step, mode=doing))
            if handle.is_cancel_requested:
                handle.canceled()
                return RunTask.Result(success=False, steps=step, reason="cancelled by the client")
            if said.mode not in (HOLDING, MOVING):
                return _aborted(handle, f"{said.mode}: {said.reason}", step)
            if time.monotonic() - began > timeout_s:
                handle.succeed()
                return RunTask.Result(success=False, steps=step, reason="the time is up; a person must judge success")

    # Helpers

    def _said(self, figures: bool = False) -> Snapshot:
        """Raises ConnectionError when there is nobody to ask."""
        if self._arm is None:
            raise ConnectionError(NO_LOOP)
        return self._arm.snapshot(figures)

    def _wait(self, condition: Callable[[Snapshot], bool], patience_s: float) -> Snapshot:
        """-> the newest word of the arm: once the condition holds, the patience is over, or the node ends."""
        end = time.monotonic() + patience_s
        while not condition(said := self._said()) and time.monotonic() < end and not self._over.is_set():
            time.sleep(POLL_S)
        return said

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


def _arm_status(said: Snapshot, now: float) -> ArmStatus:
    message = ArmStatus(mode=said.mode, reason=said.reason, firmware=said.firmware)
    fill_stamp(message.header.stamp, time.time_ns())
    message.connected = said.phase != DOWN
    message.leader_mode = said.leader
    message.faults = list(said.faults)
    follows = said.mode == MOVING and not math.isnan(said.observation_time)
    message.chunk_age = now - said.observation_time if follows else math.inf
    if not math.isnan(said.feedback_stamp):
        message.feedback_age = now - said.feedback_stamp
        message.enabled = said.powered
        message.motor_temperature = list(said.motor_temperature)
        message.driver_temperature = list(said.driver_temperature)
        message.motor_voltage = list(said.voltage)
        message.following_error = said.following_error
    else:
        message.feedback_age = math.inf
    return message


def _answer(response: Any, success: bool, words: str) -> Any:
    response.success, response.message = success, words
    return response


def _aborted(handle: ServerGoalHandle, reason: str, steps: int = 0) -> RunTask.Result:
    handle.abort()
    return RunTask.Result(success=False, steps=steps, reason=reason)


def main() -> None:
    sys.exit(run_node("piper", PiperNode, threads=4))


if __name__ == "__main__":
    main()
