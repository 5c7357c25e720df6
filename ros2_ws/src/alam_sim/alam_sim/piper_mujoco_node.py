"""The Piper's MuJoCo twin at a table, behind the same robot interface as the real arm."""

from __future__ import annotations

import sys
import time
from array import array
from collections.abc import Callable
from typing import Any, cast

import numpy as np
from alam_msgs.msg import ArmStatus
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool
from std_srvs.srv import SetBool, Trigger

from alam_common import topics
from alam_common.base_node import publisher, run_node, subscribe
from alam_common.convert import fill_stamp
from alam_control.arm_gate import DISABLED
from alam_piper import arm, words
from alam_sim.actuator import Period
from alam_sim.arm_actuator import ArmActuator
from alam_sim.piper_tasks import TASKS, check_task
from alam_sim.settings import PIPER_PARAMETERS
from alam_sim.sim_node import RenderedEnv, SimulatedRobot, SimulatedRobotNode

NAME = "piper_mujoco"
STATUS_S = 0.1
THREADS = 3  # one waits for a task's end, one for a motion's, one is there for a stop


class PiperMujocoNode(SimulatedRobotNode):
    """What the real arm's node serves beside a simulated robot's interface, with the same meaning and words."""

    def __init__(self, robot: SimulatedRobot) -> None:
        super().__init__(robot)
        self._said = ("", "")  # mode and reason, last published
        used = (topics.JOINT_STATES, topics.COMMAND, topics.ARM_STATUS)
        self._of_arm = {topic.name: publisher(self, topic) for topic in used}

    @property
    def _arm(self) -> ArmActuator:
        return cast(ArmActuator, self._world.actuator)

    # What the world says (called from its thread)

    def moved(self, periods: tuple[Period, ...], start_ns: int) -> None:
        """Every period in realtime; in lockstep, where the world may run at many times life speed, a step's last."""
        for period in periods if self._settings["mode"] == "realtime" else periods[-1:]:
            stamp_ns = start_ns + period.time_ns
            self._publish_joints(topics.JOINT_STATES.name, stamp_ns, *period.measured)
            if period.commanded is not None:
                self._publish_joints(topics.COMMAND.name, stamp_ns, *period.commanded)
        said = self._arm.snapshot()[0]
        if (said.mode, said.reason) != self._said:
            self._publish_status()

    def _publish_joints(self, topic: str, stamp_ns: int, *values: np.ndarray) -> None:
        message = JointState(name=list(arm.NAMES))
        fill_stamp(message.header.stamp, stamp_ns)
        for name, each in zip(("position", "velocity", "effort"), values, strict=False):
            setattr(message, name, array("d", each.tobytes()))
        self._of_arm[topic].publish(message)

    def _publish_status(self) -> None:
        said, now = self._arm.snapshot()
        self._said = (said.mode, said.reason)
        message = ArmStatus()
        words.fill_arm_status(message, said, now, time.time_ns())
        self._of_arm[topics.ARM_STATUS.name].publish(message)

    # Callbacks

    def _offer_services(self) -> None:
        slow = MutuallyExclusiveCallbackGroup()  # these wait for a motion; a stop never waits for them
        self.create_service(SetBool, "/robot/enable", self._on_enable, callback_group=slow)
        self.create_service(Trigger, "/robot/reset", self._on_reset, callback_group=slow)
        self.create_service(Trigger, "/robot/home", self._on_home, callback_group=slow)
        self.create_service(Trigger, "/robot/stop", self._on_stop)
        subscribe(self, topics.OPERATOR_STOP, self._on_operator_stop)
        self.create_timer(STATUS_S, self._publish_status, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _on_operator_stop(self, message: Bool) -> None:
        if message.data:
            self._stop(words.OPERATOR_STOP)

    def _on_stop(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._stop(words.SERVICE_STOP)
        response.success, response.message = True, words.STOPPING
        return response

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        if request.data and not self._arm.closed:
            response.success, response.message = True, words.ENABLED
        else:
            response.success, response.message = self._alone(self._enable if request.data else self._disable)
        return response

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success, response.message = self._alone(self._reset)
        return response

    def _on_home(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success, response.message = self._alone(self._home)
        return response

    # Helpers

    def _stop(self, reason: str) -> None:
        self._arm.stop(reason)
        self._world.wake()
        if not self._closing:
            self._thread.submit(self._world.idle)  # where a task runs it has taken the stop up by then
        self._diagnostics.publish()

    def _enable(self) -> tuple[bool, str]:
        if self._arm.stopped:
            return False, f"stopped: {self._arm.stopped}; call /robot/reset first"
        self._arm.enable(True)
        self._idle()
        return True, words.ENABLED

    def _disable(self) -> tuple[bool, str]:
        said = self._arm.snapshot()[0]
        if self._arm.stopped:
            return False, "stopped: it keeps its power; call /robot/reset"
        if said.mode == DISABLED:
            there = words.is_at(said.commanded, arm.REST)
            return (True, words.AT_REST) if there else (False, "disabled away from rest: enable, then disable again")
        self._arm.park()
        self._idle()
        said = self._arm.snapshot()[0]
        there, sentence = words.park_answer(said.commanded, said.reason)
        if there:
            self._arm.enable(False)
            self._idle()
        return there, sentence

    def _reset(self) -> tuple[bool, str]:
        self._idle()  # a stop that has just been asked for is taken up first
        if not self._arm.stopped:
            return False, "wanted a stopped arm, got one that is not: there is nothing to reset"
        self._arm.reset()
        self._idle()
        return True, words.WAS_RESET

    def _home(self) -> tuple[bool, str]:
        self._arm.home()
        self._idle()
        said = self._arm.snapshot()[0]
        return words.home_answer(said.commanded, said.reason)

    def _alone(self, do: Callable[[], tuple[bool, str]]) -> tuple[bool, str]:
        """-> what it answers; refused while a task runs."""
        if not self._busy.acquire(blocking=False):
            return False, words.TASK_RUNS
        try:
            return do()
        finally:
            self._busy.release()
            self._diagnostics.publish()

    def _idle(self) -> None:
        """Return when the arm has done what it was asked, or the node ends."""
        if not self._closing:
            self._thread.submit(self._world.idle, lambda: self._closing).result()

    def _refusal(self) -> str:
        said = self._arm.snapshot()[0]
        return super()._refusal() or (said.reason if said.mode == DISABLED else "")


def make_env(task: str) -> RenderedEnv:
    """Raises RuntimeError where MuJoCo or its display library is missing."""
    try:
        from alam_sim.piper_env import PiperEnv
    except (ImportError, AttributeError) as error:  # PyOpenGL without libOSMesa fails inside its loader
        raise RuntimeError(
            f"MuJoCo: wanted the packages of the `sim` extra and libosmesa6, got: {error}; run `make setup`"
        ) from None
    return PiperEnv(task)


def make() -> Any:
    tasks = {name: (task.instruction, task.max_steps) for name, task in TASKS.items()}
    return PiperMujocoNode(SimulatedRobot(NAME, arm.piper_contract(), make_env, tasks, check_task, PIPER_PARAMETERS))


def main() -> None:
    sys.exit(run_node(NAME, make, threads=THREADS))


if __name__ == "__main__":
    main()
