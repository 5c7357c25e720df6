"""A client of /run_task that also measures: used by the demo, by evaluation through the graph and by tests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import rclpy
from action_msgs.msg import GoalStatus
from alam_msgs.action import RunTask
from alam_msgs.msg import ActionChunk, LatentChunk, StateVector
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.action import ActionClient
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from alam_common import topics
from alam_common.base_node import subscribe
from alam_common.convert import read_latents, stamp_ns
from alam_common.diagnostics import Status
from alam_common.refusal import Refusal
from alam_common.scores import Attempt, Latents

POLL_S = 0.1
SETTLE_S = 0.5


def _every(topic: topics.Topic) -> topics.Topic:
    qos = topics.Qos("reliable", "volatile", 200, "who measures must miss none")
    return replace(topic, qos=qos)


class TaskClient:
    """Sends goals and listens to the graph on a thread of its own. A context manager."""

    def __init__(self, name: str = "task_client", alive: Callable[[], str] = lambda: "") -> None:
        """alive: -> "" or the sentence why waiting is pointless (the graph has ended)."""
        self._alive = alive
        self._context = rclpy.Context()
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self.node = rclpy.create_node(name, context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._action = ActionClient(self.node, RunTask, topics.RUN_TASK[0])
        self.statuses: dict[str, Status] = {}  # node name -> what it last said in /diagnostics
        self.views: tuple[str, ...] = ()
        self._seen: dict[tuple[int, int], float] = {}  # id and stamp of an observation -> wall time [s]
        self._answered: dict[tuple[int, int], float] = {}
        self._paired: set[tuple[int, int]] = set()
        self._latencies: list[float] = []
        self._inference: list[float] = []
        self._latents: list[Latents] = []
        self._handle: Any = None
        subscribe(self.node, topics.DIAGNOSTICS, self._on_diagnostics)
        subscribe(self.node, _every(topics.STATE), self._on_state)
        subscribe(self.node, _every(topics.CHUNK), self._on_chunk)
        subscribe(self.node, _every(topics.LATENTS), self._on_latents)
        self._thread = threading.Thread(target=self._spin, name="ros", daemon=True)
        self._thread.start()

    def wait_ready(self, timeout_s: float, policy: bool = True) -> None:
        """Wait for the robot and (policy=True) for a policy that serves. Raises Refusal when one does not come."""
        self._until(self._action.server_is_ready, timeout_s, f"a robot that serves {topics.RUN_TASK[0]}")
        if policy:
            self._until(lambda: self.says("policy", "mode") == "serving", timeout_s, "a policy node that serves")

    def says(self, node: str, key: str) -> str:
        """-> what a node last said under a key in /diagnostics, "" when it said nothing."""
        status = self.statuses.get(node)
        return status.values.get(key, "") if status else ""

    def run(
        self,
        task: str,
        seed: int,
        instruction: str = "",
        timeout_s: float = 0.0,
        feedback: Callable[[int, str], None] = lambda step, mode: None,
    ) -> Attempt:
        """One goal to its end; an interrupt cancels it. timeout_s: robot time; feedback: step and mode.

        Raises Refusal when the graph goes away."""
        for record in (self._latencies, self._inference, self._latents, self._seen, self._answered, self._paired):
            record.clear()
        goal = RunTask.Goal(task=task, instruction=instruction, seed=seed, timeout=timeout_s)
        told = lambda message: feedback(message.feedback.step, message.feedback.mode)  # noqa: E731
        handle = self._ask(self._action.send_goal_async, goal, told)
        if not handle.accepted:
            raise Refusal(f"{topics.RUN_TASK[0]} did not accept the goal {task!r}")
        self._handle = handle
        try:
            response = self._ask(handle.get_result_async)
        except KeyboardInterrupt:
            self.cancel()
            raise
        finally:
            self._handle = None
        status = {GoalStatus.STATUS_SUCCEEDED: "succeeded", GoalStatus.STATUS_CANCELED: "canceled"}
        result = response.result
        self._settle()
        return Attempt(
            task,
            seed,
            result.success,
            result.steps,
            result.reason,
            status.get(response.status, "aborted"),
            tuple(self._latencies),
            tuple(self._inference),
            tuple(self._latents),
        )

    def cancel(self) -> None:
        """Ask the robot to end the goal that runs, if one does."""
        if handle := self._handle:
            self._executor.create_task(handle.cancel_goal_async)

    def close(self) -> None:
        self._executor.shutdown(timeout_sec=1.0)
        self._thread.join(1.0)
        self.node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def __enter__(self) -> TaskClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            pass

    def _ask(self, request: Callable[..., Any], *arguments: Any) -> Any:
        """Send a request from the executor's thread and wait for its answer.

        From any other thread the answer can come before rclpy has noted the request, and is then lost."""
        return self._wait(self._wait(self._executor.create_task(request, *arguments)))

    def _settle(self) -> None:
        """The result may overtake the last chunk: give what is on its way a moment."""
        deadline = time.monotonic() + SETTLE_S
        while (
            self._seen or self._answered or len(self._latents) < len(self._inference)
        ) and time.monotonic() < deadline:
            time.sleep(0.01)

    def _until(self, condition: Callable[[], bool], timeout_s: float, wanted: str) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            if reason := self._alive():
                raise Refusal(reason)
            if time.monotonic() >= deadline:
                raise Refusal(
                    f"wanted {wanted}, got none within {timeout_s:.0f} s; is the graph launched on this domain?"
                )
            time.sleep(POLL_S)

    def _wait(self, future: Any) -> Any:
        done = threading.Event()
        future.add_done_callback(lambda _: done.set())
        while not done.wait(POLL_S):
            if reason := self._alive():
                raise Refusal(reason)
            if not self._action.server_is_ready():
                raise Refusal(f"wanted the robot to finish its task, got a robot that left {topics.RUN_TASK[0]}")
        return future.result()

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            values = {pair.key: pair.value for pair in status.values}
            self.statuses[status.name] = Status(int.from_bytes(status.level, "little"), status.message, values)

    def _on_state(self, message: StateVector) -> None:
        self._pair(self._seen, (message.observation_id, stamp_ns(message.header.stamp)))

    def _on_chunk(self, message: ActionChunk) -> None:
        self._inference.append(message.inference_time)
        self._pair(self._answered, (message.observation_id, stamp_ns(message.observation_stamp)))

    def _pair(self, mine: dict[tuple[int, int], float], key: tuple[int, int]) -> None:
        """An observation or its answer is here; on this side either may come first, and a robot that waited long gives
        the same observation again, which gets the same answer again: that counts once."""
        if key in self._paired:
            return
        mine.setdefault(key, time.monotonic())
        if key in self._seen and key in self._answered:
            self._paired.add(key)
            self._latencies.append(max(0.0, self._answered.pop(key) - self._seen.pop(key)))

    def _on_latents(self, message: LatentChunk) -> None:
        self.views = tuple(message.views)
        time_s = stamp_ns(message.observation_stamp) / 1e9
        if not self._latents or self._latents[-1].time_s != time_s:
            self._latents.append(Latents(time_s, message.dt, read_latents(message)))
