"""The robot interface (topics, services, /run_task) around a simulated world, whichever it is."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from alam_msgs.action import RunTask
from alam_msgs.msg import ActionChunk, StateVector
from rclpy.action import ActionServer, CancelResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

from alam_common import topics
from alam_common.base_node import Diagnostics, declare, publisher, refuse_twin, subscribe
from alam_common.convert import fill_camera_info, fill_image, fill_stamp, fill_state, read_chunk, stamp_ns
from alam_common.parameters import Parameter
from alam_common.refusal import Refusal
from alam_control.chunk_buffer import TimedChunk
from alam_models.contract import Contract, disagreements
from alam_sim.actuator import Period
from alam_sim.episode import Env, EpisodeResult, Goal, Observed, Patience
from alam_sim.settings import bundle_replan
from alam_sim.world import World, WorldConfig

DISCOVERY_S = 1.0  # how long a twin on the same domain may take to show itself


class RenderedEnv(Env, Protocol):
    """An environment whose cameras are known."""

    def field_of_view_rad(self, role: str) -> float: ...


@dataclass(frozen=True)
class SimulatedRobot:
    """What makes one simulated robot another. make_env raises RuntimeError where the simulator cannot run.

    tasks: {name: (what one says to the robot, control steps until an attempt has failed)}. check_task raises ValueError
    for a name that is not among them."""

    name: str  # of the ROS node
    contract: Contract
    make_env: Callable[[str], RenderedEnv]
    tasks: dict[str, tuple[str, int]]
    check_task: Callable[[str], None]
    parameters: Sequence[Parameter]


class SimulatedRobotNode(Node):
    """`World` behind ROS. Simulation and rendering have a thread of their own; the callbacks only pass things on."""

    def __init__(self, robot: SimulatedRobot) -> None:
        super().__init__(robot.name)
        self._robot = robot
        self._started = time.monotonic()
        self.failure = ""
        self._closing = False
        self._settings = declare(self, robot.parameters)
        self._contract = robot.contract
        self._busy = threading.Lock()
        self._thread = ThreadPoolExecutor(1, "world")
        self._config = self._checked_config()
        self._world = World(robot.make_env, self._contract, self._config, self, time.monotonic)
        self._topics = {topic.name: publisher(self, topic) for topic in (topics.STATE, topics.CONTRACT, topics.CLOCK)}
        self._images = {role: publisher(self, topics.IMAGES[role]) for role in self._contract.roles}
        self._infos = {role: publisher(self, topics.CAMERA_INFOS[role]) for role in self._contract.roles}
        self._diagnostics = Diagnostics(self, self._contract.robot, self._world.status)

    def open(self) -> None:
        """Make the world, then offer the interface: whoever sees /run_task sees a robot that is ready."""
        self._fovy_rad = self._open_world()
        refuse_twin(self, self._started + DISCOVERY_S)
        subscribe(self, topics.CHUNK, self._on_chunk)
        self._offer_services()
        self._topics[topics.CONTRACT.name].publish(String(data=self._contract.to_yaml()))
        self._action = ActionServer(
            self,
            RunTask,
            topics.RUN_TASK[0],
            self._execute,
            callback_group=ReentrantCallbackGroup(),
            cancel_callback=self._on_cancel,
        )
        self.get_logger().info(f"ready: {self._config.mode}, waiting for goals on {topics.RUN_TASK[0]}")

    def close(self) -> bool:
        """End the episode and the world's thread -> whether it ended in time."""
        self._closing = True
        self._world.wake()
        closed = self._thread.submit(self._world.close)
        self._thread.shutdown(wait=False)
        try:
            closed.result(timeout=1.0)
        except NotYet:
            return False
        return self._busy.acquire(timeout=0.5)  # the last goal's client has been told

    # What the world says (called from its thread)

    def observation(self, observed: Observed) -> None:
        for camera in self._contract.cameras:
            image, info = Image(), CameraInfo()
            frame = f"camera_{camera.role}_color_optical_frame"
            fill_image(image, observed.images[camera.role], frame, observed.stamp_ns)
            fovy = self._fovy_rad[camera.role]
            fill_camera_info(info, camera.source_width, camera.source_height, fovy, frame, observed.stamp_ns)
            self._infos[camera.role].publish(info)
            self._images[camera.role].publish(image)
        state = StateVector()
        names = self._contract.state_names
        about = (observed.instruction, observed.id, observed.stamp_ns, observed.under_way)
        fill_state(state, names, observed.state, *about)
        self._topics[topics.STATE.name].publish(state)

    def clock(self, time_ns: int) -> None:
        message = Clock()
        fill_stamp(message.clock, time_ns)
        self._topics[topics.CLOCK.name].publish(message)

    def moved(self, periods: tuple[Period, ...], start_ns: int) -> None:
        """An arm's node publishes them."""

    def changed(self) -> None:
        self._diagnostics.publish()

    # Callbacks

    def _offer_services(self) -> None:
        self.create_service(SetBool, "/robot/enable", self._on_enable)
        self.create_service(Trigger, "/robot/stop", self._on_stop)
        self.create_service(Trigger, "/robot/reset", self._on_reset)

    def _on_chunk(self, message: ActionChunk) -> None:
        try:
            actions = read_chunk(message)
        except ValueError as error:
            self.get_logger().warning(str(error), throttle_duration_sec=5.0)
            return
        seconds = stamp_ns(message.observation_stamp) / 1e9
        chunk = TimedChunk(actions, seconds, message.observation_id, message.dt, message.policy_id)
        self._world.offer(chunk, tuple(message.names))

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self._world.actuator.enable(request.data)
        response.success, response.message = True, self._world.actuator.closed or "enabled"
        self._world.wake()
        return response

    def _on_stop(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._world.actuator.stop("/robot/stop was called; call /robot/reset to go on")
        response.success, response.message = (True, f"stopped: {self._world.actuator.stopped}")
        self._world.wake()
        self._diagnostics.publish()
        return response

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._busy.locked():
            response.success, response.message = (
                False,
                "wanted no task to run during a reset, got one; cancel it first",
            )
            return response
        self._world.actuator.reset()
        response.success, response.message = True, self._world.actuator.closed or "ready"
        self._diagnostics.publish()
        return response

    def _on_cancel(self, handle: Any) -> CancelResponse:
        self._world.wake()
        return CancelResponse.ACCEPT

    def _execute(self, handle: ServerGoalHandle) -> RunTask.Result:
        """Run a goal to its end. A goal that cannot start is aborted at once: ROS has no reason in a rejection."""
        if not self._busy.acquire(blocking=False):
            return _aborted(
                handle, "rejected: another task is running and there is one robot; wait for it or cancel it"
            )
        try:
            task = handle.request.task or self._settings["task"]
            goal = self._checked_goal(task, handle.request)
            running = self._thread.submit(self._world.run, task, goal, lambda: self._cancelled(handle), _teller(handle))
            return _finished(handle, running.result())
        except (ValueError, RuntimeError) as error:
            return _aborted(handle, f"rejected: {error}")
        finally:
            self._busy.release()

    # Helpers

    def _checked_goal(self, task: str, request: RunTask.Goal) -> Goal:
        self._robot.check_task(task)
        if reason := self._refusal():
            raise ValueError(reason)
        if not (math.isfinite(request.timeout) and request.timeout >= 0):
            raise ValueError(f"timeout: wanted seconds of robot time, 0 or more, got {request.timeout}")
        instruction, most = self._robot.tasks[task]
        steps = max(1, round(request.timeout * self._contract.control_rate_hz)) if request.timeout else most
        return Goal(int(request.seed), request.instruction or instruction, min(steps, most))

    def _refusal(self) -> str:
        """-> why no task can start now; "" when one can."""
        stopped = self._world.actuator.stopped
        return f"the robot is stopped: {stopped}" if stopped else ""

    def _cancelled(self, handle: ServerGoalHandle) -> str:
        if self._closing:
            return "the robot node is shutting down"
        return "cancelled by the client" if handle.is_cancel_requested else ""

    def _checked_config(self) -> WorldConfig:
        values = self._settings
        try:
            self._robot.check_task(values["task"])
            if values["contract"]:
                bundle = Contract.load(values["contract"])
                if sentences := disagreements(wanted=bundle, got=self._contract):
                    raise ValueError(f"{values['contract']} was made for another robot: {'; '.join(sentences)}")
            replan = values["replan"] or bundle_replan(values["contract"])
        except ValueError as error:
            raise Refusal(str(error)) from None
        patience = Patience(hold_after_s=values["hold_after"], give_up_s=values["policy_timeout"])
        return WorldConfig(values["mode"], replan, patience, Path(values["video_dir"]) if values["video_dir"] else None)

    def _open_world(self) -> dict[str, float]:
        """Make the first environment on the world's thread -> {role: vertical field of view [rad]}."""

        def prepare() -> dict[str, float]:
            env = cast(RenderedEnv, self._world.open(self._settings["task"]))
            env.reset(0)
            env.render()
            self._world.ready()
            return {role: env.field_of_view_rad(role) for role in self._contract.roles}

        try:
            return self._thread.submit(prepare).result()
        except RuntimeError as error:
            raise Refusal(str(error)) from None


def _teller(handle: ServerGoalHandle) -> Any:
    return lambda step, mode: handle.publish_feedback(RunTask.Feedback(step=step, mode=mode))


def _aborted(handle: ServerGoalHandle, reason: str) -> RunTask.Result:
    handle.abort()
    return RunTask.Result(success=False, steps=0, reason=reason)


def _finished(handle: ServerGoalHandle, result: EpisodeResult) -> RunTask.Result:
    if handle.is_cancel_requested:
        handle.canceled()
    elif result.completed:
        handle.succeed()
    else:
        handle.abort()
    return RunTask.Result(success=result.success, steps=result.steps, reason=result.reason)
