"""The policy node: a lifecycle node that serves one exported bundle."""

from __future__ import annotations

import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import rclpy
from alam_msgs.msg import ActionChunk, LatentChunk, StateVector
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.subscription import Subscription
from sensor_msgs.msg import Image
from std_msgs.msg import String

from alam_common import topics
from alam_common.base_node import Diagnostics, declare, publisher, refuse_twin, run_node, subscribe
from alam_common.convert import fill_chunk, fill_latents, read_image, read_state, stamp_ns
from alam_common.cores_io import leave_loop_core
from alam_common.diagnostics import OK, Status
from alam_common.refusal import Refusal
from alam_policy.server import STATE_STREAM, Answer, PolicyServer, Proprioception
from alam_policy.settings import PARAMETERS

DISCOVERY_S = 1.0  # how long a twin on the same domain may take to show itself
IMAGE_QUEUE = 4  # images of one camera: 0.13 s at 30 Hz
NO_BUNDLE = "; to try a graph without a trained one, tools/practice_bundle.py and tools/untrained_bundle.py make some"
DONE, FAILED = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


class PolicyNode(LifecycleNode):
    """`PolicyServer` behind ROS: configure loads and warms up, activate serves, cleanup lets the memory go."""

    def __init__(self) -> None:
        super().__init__("policy")
        self._started = time.monotonic()
        self.failure = ""
        self._refused = ""  # why configuring failed
        self._settings = declare(self, PARAMETERS)
        self._server: PolicyServer | None = None
        self._policy: Any = None
        self._sources: list[Subscription] = []
        self._chunks = publisher(self, topics.CHUNK)
        self._latents = publisher(self, topics.LATENTS)
        self._diagnostics = Diagnostics(self, "policy", self._status)
        self._starter = ThreadPoolExecutor(1, "start")
        self._starting: Future[TransitionCallbackReturn] | None = None

    def open(self) -> None:
        """With autostart: configure and activate. Raises Refusal for a twin or a bundle that cannot be served."""
        if self._settings["autostart"]:
            self._starting = self._starter.submit(self.trigger_configure)  # so that a signal need not wait for it
            if self._starting.result() != DONE:
                raise Refusal(self._refused or "configuring failed")
        refuse_twin(self, self._started + DISCOVERY_S)
        if self._settings["autostart"]:
            self.trigger_activate()

    def close(self) -> bool:
        """-> whether every thread ended."""
        self._starter.shutdown(wait=False)
        started = self._starting is None or self._starting.done()
        return (self._server is None or self._server.stop()) and started

    # Lifecycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        values = self._settings
        bundle, steps = Path(values["bundle"]), values["steps"] or None
        try:
            from alam_models.runtime import Observation, load_policy

            self._policy = load_policy(bundle, values["runtime"], values["threads"], steps, values["provider"])
            warm_up_s = self._policy.warm_up()
        except Exception as error:  # rclpy would swallow it and say nothing but "failed"
            self._refused = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            if not (bundle / "card.yaml").exists():
                self._refused += NO_BUNDLE
            self.get_logger().error(self._refused)
            return FAILED
        self._server = PolicyServer(
            self._policy, Observation, values["seed"], self._publish, time.monotonic, values["max_skew"]
        )
        for role in self._policy.contract.roles:
            self._sources.append(subscribe(self, _queued(topics.IMAGES[role]), partial(self._on_image, role)))
        self._sources.append(subscribe(self, topics.STATE, self._on_state))
        self._sources.append(subscribe(self, topics.CONTRACT, self._on_contract))
        self.get_logger().info(f"loaded {self._policy.id} from {bundle}, warm after {warm_up_s:.2f} s")
        return DONE

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        if self._server:
            self._server.activate(True)
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        if self._server:
            self._server.activate(False)
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        if self._server:
            self._server.stop()
        self._server = self._policy = None
        for source in self._sources:
            self.destroy_subscription(source)
        self._sources.clear()
        return DONE

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self.on_cleanup(state)

    # Callbacks

    def _on_image(self, role: str, message: Image) -> None:
        self._take(role, message, lambda: read_image(message))

    def _on_state(self, message: StateVector) -> None:
        names = self._policy.contract.state_names
        self._take(
            STATE_STREAM,
            message,
            lambda: Proprioception(
                read_state(message, names), message.instruction, message.observation_id, message.under_way
            ),
        )

    def _on_contract(self, message: String) -> None:
        sentence = self._server.robot(message.data) if self._server else ""
        if sentence:
            self.failure = sentence
            rclpy.try_shutdown()

    def _take(self, stream: str, message: Any, read: Any) -> None:
        try:
            item = read()
        except ValueError as error:
            self.get_logger().error(str(error), throttle_duration_sec=5.0)
            return
        if self._server:
            self._server.add(stream, stamp_ns(message.header.stamp), item)

    # What the server says (called from its thread)

    def _publish(self, answer: Answer) -> int:
        """-> robot time [ns] at which it went out."""
        contract, chunk = self._policy.contract, answer.chunk
        time.sleep(self._settings["delay"])
        about = (1 / contract.control_rate_hz, answer.observation_id, answer.observation_ns)
        sent_ns = self.get_clock().now().nanoseconds
        actions, latents = ActionChunk(), LatentChunk()
        fill_chunk(
            actions, chunk.actions, contract.action_names, *about, sent_ns, self._policy.id, chunk.inference_time_s
        )
        self._chunks.publish(actions)
        fill_latents(latents, chunk.latents, contract.roles, *about, sent_ns, self._policy.id)
        self._latents.publish(latents)
        return sent_ns

    def _status(self, now: float) -> Status:
        return self._server.status(now) if self._server else Status(OK, "unconfigured", {"mode": "unconfigured"})


def _queued(topic: topics.Topic) -> topics.Topic:
    """-> the topic with a queue on this side: an image that is overwritten while a callback runs costs its partner."""
    reason = "while a callback runs the next image waits instead of overwriting one that has a partner"
    return replace(topic, qos=replace(topic.qos, depth=IMAGE_QUEUE, reason=reason))


def main() -> None:
    leave_loop_core()  # before there are other threads, which inherit it
    sys.exit(run_node("policy", PolicyNode))


if __name__ == "__main__":
    main()
