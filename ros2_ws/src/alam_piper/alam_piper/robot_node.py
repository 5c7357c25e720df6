"""The Piper node: the robot interface of ROS around the process that owns the arm. A lifecycle node: configure starts
that process and opens the bus, activate starts its control loop."""

from __future__ import annotations

import math
import sys
import threading
import time
from array import array
from collections.abc import Callable
from contextlib import suppress
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
from rclpy.node import Node
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
from alam_piper import arm, words
from alam_piper.arm_client_io import ArmClient
from alam_piper.driver import DOWN
from alam_piper.requests_io import Requests
from alam_piper.settings import PARAMETERS
from alam_piper.shared_io import CHANGES, COMMANDS, FEEDBACK
from alam_piper.stamps_io import MonotonicStamps

PERIOD_S = 0.005
DISCOVERY_S = 1.0  # how long a twin on the same domain may take to show itself
STATUS_S = 0.1
STOP_S = 0.5  # within which the control loop takes up a stop; it looks each period
FUTURE_S = 0.02  # that an image's stamp may lie ahead: less than from one image to the next
THREADS = 4  # a task, a person's request and a lifecycle transition may wait at one time; one more refuses the others
DONE, FAILED = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
INSTRUCTION = "move"  # what a policy is told while no task runs
NO_LOOP = "the control loop is not running: activate the node"


class PiperNode(LifecycleNode):
    """`ArmClient` behind ROS. One thread publishes; callbacks only pass things on.

    A stop has a thread of its own and takes no lock."""

    def __init__(self) -> None:
        super().__init__("piper")
        self._started = time.monotonic()
        self.failure = ""
        self._refused = ""
        self._settings = declare(self, PARAMETERS)
        self._contract = arm.piper_contract()
        self._check_files()
        self._arm: ArmClient | None = None
        self._loop_warnings: list[str] = []
        self._over = threading.Event()
        self._stamps = MonotonicStamps()  # of the inputs' thread
        self._requests = Requests(self._settings, self._over)
        self._publishing: threading.Thread | None = None
        self._observations = 0
        self._instruction = INSTRUCTION
        self._busy = threading.Lock()  # a task runs
        self._took = False  # the newest chunk was accepted
        self._chunks, self._feedback_rate = Rate(), Rate()
        self._measured, self._commanded = JointState(name=list(arm.NAMES)), JointState(name=list(arm.NAMES))
        self._state, self._arm_status = StateVector(), ArmStatus()
        used = (topics.JOINT_STATES, topics.COMMAND, topics.STATE, topics.CONTRACT, topics.ARM_STATUS)
        self._topics = {topic.name: publisher(self, topic) for topic in used}
        self._diagnostics = Diagnostics(self, "piper", self._status)
        self._apart: list[SingleThreadedExecutor] = []
        self._broken: BaseException | None = None  # what ended a thread that must not end
        self.create_timer(0.2, self._check_process)

    def open(self) -> None:
        """With autostart: configure and activate. Raises Refusal for a twin, or a bus that does not exist."""
        refuse_twin(self, self._started + DISCOVERY_S)
        if self._settings["autostart"]:
            for transition in (self.trigger_configure, self.trigger_activate):
                if transition() != DONE:
                    raise Refusal(self._refused or "the control loop could not be started")
        self._offer_interface()

    def close(self) -> bool:
        """Brake, and end the arm's process -> whether everything ended. The arm keeps its power, and its place."""
        self._over.set()
        publishing, self._publishing = self._publishing, None
        if publishing is not None:
            publishing.join(0.5)
        arm_, self._arm = self._arm, None
        ended = arm_ is None or arm_.end()
        return ended and not (publishing and publishing.is_alive())

    def destroy_node(self) -> None:
        """Also what spins apart from it: an executor that is left to the end of the interpreter complains there."""
        for executor in self._apart:
            nodes = executor.get_nodes()
            executor.shutdown(timeout_sec=1.0)
            for node in nodes:
                node.destroy_node()
        super().destroy_node()

    # Lifecycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._over.clear()
        self._arm = ArmClient(self._settings)
        try:
            self._refused = self._arm.ask("open")
        except (ConnectionError, RuntimeError) as error:
            self._refused = str(error)
        if not self._refused:
            return DONE
        self.get_logger().error(self._refused)
        self.close()
        return FAILED

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        if self._arm is None and self.on_configure(state) != DONE:
            return FAILED
        assert self._arm is not None
        self._loop_warnings = self._arm.ask("start")
        for warning in self._loop_warnings:
            self.get_logger().warning(warning)
        self._publishing = threading.Thread(
            target=self._run, args=(partial(self._publish, self._arm),), name="publish", daemon=True
        )
        self._publishing.start()
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._release()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._release()

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._release()

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._release()

    def _release(self) -> TransitionCallbackReturn:
        """Whatever the state: the arm brakes, its process ends, and the bus and its lock are free."""
        if not self.close():
            self.get_logger().error("the arm's process did not end by itself and was killed")
        return DONE

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
                words.fill_arm_status(self._arm_status, arm_.snapshot(), now, time.time_ns())
                self._topics[topics.ARM_STATUS.name].publish(self._arm_status)

    def _publish_feedback(self, row: np.ndarray, now: float) -> None:
        time_ns = time.time_ns() - int((now - row[0]) * 1e9)
        message = self._measured  # filled anew each time: making one costs more than sending it
        fill_stamp(message.header.stamp, time_ns)
        message.position = array("d", row[1:8].tobytes())
        message.velocity = array("d", row[8:15].tobytes())
        message.effort = array("d", row[15:22].tobytes())
        self._topics[topics.JOINT_STATES.name].publish(message)
        self._observations += 1
        under_way = self._busy.locked() and self._took and self._arm_status.mode == MOVING
        fill_state(self._state, arm.NAMES, row[1:8], self._instruction, self._observations, time_ns, under_way)
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
        arm_ = self._arm
        if arm_ is not None and arm_.gone and not self._over.is_set():
            raise RuntimeError("the arm's control process has ended")

    def _status(self, now: float) -> Status:
        try:
            said = self._running().snapshot(figures=True)
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
        sentence = said.reason if said.reason.startswith(said.mode) else f"{said.mode}: {said.reason}".rstrip(": ")
        return Status(level, "; ".join(filter(None, (sentence, *said.faults, *self._loop_warnings))), values)

    # Callbacks

    def _offer_interface(self) -> None:
        self._listen()
        group = ReentrantCallbackGroup()
        self.create_service(SetBool, "/robot/enable", self._on_enable, callback_group=group)
        for name in ("reset", "home"):
            self.create_service(Trigger, f"/robot/{name}", partial(self._on_request, name), callback_group=group)
        self._action = ActionServer(
            self, RunTask, topics.RUN_TASK[0], self._execute, callback_group=group, cancel_callback=self._on_cancel
        )
        self._topics[topics.CONTRACT.name].publish(String(data=self._contract.to_yaml()))
        self.get_logger().info("ready: call /robot/enable, then send a goal to /run_task")

    def _listen(self) -> None:
        """Nodes, executors and threads apart from the node's own, which looks at thirty entities for each message:
        /piper_inputs for what comes often, /piper_stop for what must not wait for anything."""
        inputs, stop = (
            rclpy.create_node(name, start_parameter_services=False, enable_rosout=False)
            for name in ("piper_inputs", "piper_stop")
        )
        subscribe(inputs, topics.CHUNK, self._on_chunk)
        for index, role in enumerate(self._contract.roles):
            subscribe(inputs, topics.CAMERA_INFOS[role], partial(self._on_camera, index))
        subscribe(stop, topics.OPERATOR_STOP, self._on_operator_stop)
        stop.create_service(Trigger, "/robot/stop", self._on_stop)
        self._apart = [self._spin_apart(node) for node in (stop, inputs)]

    def _spin_apart(self, node: Node) -> SingleThreadedExecutor:
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        threading.Thread(target=self._run, args=(executor.spin,), name=node.get_name(), daemon=True).start()
        return executor

    def _run(self, body: Callable[[], None]) -> None:
        """The body of a thread: what ends it ends the node."""
        try:
            body()
        except (ExternalShutdownException, ConnectionError):
            return  # the node ends, or `_check_process` sees that the arm's process has
        except BaseException as error:
            self._broken = error

    def _on_chunk(self, message: ActionChunk) -> None:
        arm_ = self._arm
        if arm_ is None:
            return
        try:
            actions = read_chunk(message)
        except ValueError as error:
            self.get_logger().warning(str(error), throttle_duration_sec=5.0)
            with suppress(ConnectionError):  # the arm's process ends: nobody is left who would execute it
                arm_.ask("refuse", str(error))
            return
        seen = self._stamps.seconds(stamp_ns(message.observation_stamp))
        chunk = TimedChunk(actions, seen, message.observation_id, message.dt, message.policy_id)
        with suppress(ConnectionError):
            self._took = not arm_.offer(chunk, tuple(message.names))
            if self._took:
                self._chunks.tick(time.monotonic())

    def _on_camera(self, index: int, message: CameraInfo) -> None:
        """A stamp counts if it is newer than those before it, not of the future: that would hide a dead camera."""
        arm_, seen = self._arm, self._stamps.seconds(stamp_ns(message.header.stamp))
        if arm_ is not None and arm_.shared.camera_stamps[index] < seen <= time.monotonic() + FUTURE_S:
            arm_.shared.camera_stamps[index] = seen

    def _on_operator_stop(self, message: Bool) -> None:
        arm_ = self._arm
        if message.data and arm_ is not None:
            arm_.shared.ask_stop(words.OPERATOR_STOP)

    def _on_stop(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        arm_ = self._arm
        if arm_ is None:
            return _answer(response, False, NO_LOOP)
        number = arm_.shared.ask_stop(words.SERVICE_STOP)
        end = time.monotonic() + STOP_S
        while not arm_.shared.stop_taken(number):
            if time.monotonic() > end:
                sentence = f"the control loop did not take it up within {STOP_S} s: use another stop, or hold the arm"
                return _answer(response, False, sentence)
            time.sleep(PERIOD_S / 5)
        return _answer(response, True, words.STOPPING)

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        return self._on_request("enable" if request.data else "disable", request, response)

    def _on_request(self, name: str, request: Any, response: Any) -> Any:
        return _answer(response, *self._requests.answer(name, self._running, self._busy.locked))

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
            if self._requests.under_way:
                return _aborted(handle, "rejected: enable, disable, reset or home is under way; wait for its end")
            try:
                arm_ = self._running()
                if (said := arm_.snapshot()).mode not in (HOLDING, MOVING):
                    return _aborted(handle, f"rejected: {said.mode}: {said.reason}")
            except ConnectionError as error:
                return _aborted(handle, f"rejected: {error}")
            try:
                instruction = request.instruction or request.task or INSTRUCTION
                return self._follow(arm_, handle, instruction, request.timeout or math.inf)
            except ConnectionError as error:
                return _aborted(handle, str(error))
            finally:
                with suppress(ConnectionError):
                    arm_.ask("task", False)
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

    def _running(self) -> ArmClient:
        """-> the arm whose control loop runs. Raises ConnectionError when there is none."""
        arm_ = self._arm
        if arm_ is None or self._publishing is None:
            raise ConnectionError(NO_LOOP)
        return arm_

    def _check_files(self) -> None:
        """Raises Refusal when a file among the settings is not there, or was made for another robot."""
        stop, path = self._settings["hardware_stop"], self._settings["contract"]
        if stop and not Path(stop).is_file():
            raise Refusal(f"hardware_stop: wanted a file, got none at {stop}")
        if not path:
            return
        try:
            sentences = disagreements(wanted=Contract.load(path), got=self._contract)
        except ValueError as error:
            raise Refusal(str(error)) from None
        if sentences:
            raise Refusal(f"{path} was made for another robot: {'; '.join(sentences)}")


def _answer(response: Any, success: bool, sentence: str) -> Any:
    response.success, response.message = success, sentence
    return response


def _aborted(handle: ServerGoalHandle, reason: str, steps: int = 0) -> RunTask.Result:
    handle.abort()
    return RunTask.Result(success=False, steps=steps, reason=reason)


def main() -> None:
    sys.exit(run_node("piper", PiperNode, THREADS))


if __name__ == "__main__":
    main()
