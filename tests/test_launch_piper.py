"""`ros2 launch ... robot:=piper emulate:=true`, and robot:=piper_mujoco: the same graph, from its start to Ctrl-C."""

import tempfile
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("alam_msgs")

from std_srvs.srv import SetBool, Trigger

from alam_common.graph import Graph
from alam_common.task_client_node import TaskClient

pytestmark = [pytest.mark.ros, pytest.mark.sim]
PATIENCE_S = 120.0  # a loaded machine is slow; nothing here waits longer than it must


class Operator:
    """A launched graph with a client that listens, calls services and runs a task meanwhile. A context manager."""

    def __init__(self, folder: Path, **arguments: str) -> None:
        self.graph = Graph(arguments, folder / "graph.log")  # without bundle:=, as the README has it
        self.client = TaskClient("test_operator", self.graph.failure)
        self.attempt = None
        self._task: threading.Thread | None = None

    def until(self, condition, what):
        """Wait for it. Fails the test when the graph ends or it does not come."""
        end = time.monotonic() + PATIENCE_S
        while not condition():
            assert not self.graph.failure()
            assert time.monotonic() < end, f"waited {PATIENCE_S} s for {what}: {self.client.statuses}"
            time.sleep(0.02)

    def call(self, kind, name, request):
        service = self.client.node.create_client(kind, name)
        assert service.wait_for_service(PATIENCE_S)
        future = service.call_async(request)
        self.until(future.done, name)
        return future.result()

    def begin(self, task):
        def follow():
            self.attempt = self.client.run(task, 0, "move", timeout_s=3600.0)

        self._task = threading.Thread(target=follow, daemon=True)
        self._task.start()

    def end_of_task(self):
        self._task.join(PATIENCE_S)
        assert self.attempt is not None
        return self.attempt

    def interrupt(self):
        """Ctrl-C -> the exit code of the launch, and its log."""
        code = self.graph.stop()
        return code, self.graph.log.read_text(errors="replace")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.close()
        self.graph.stop()


def number(client, node, key):
    return float(client.says(node, key) or "nan")


def test_the_arm_with_emulated_devices(tmp_path):
    with tempfile.TemporaryDirectory(prefix="alam-") as folder:  # the path of a socket must be short
        arguments = {"robot": "piper", "emulate": "true", "can": f"{folder}/can.sock"}
        with Operator(tmp_path, **arguments) as operator:
            client, says = operator.client, operator.client.says
            client.wait_ready(PATIENCE_S)
            for role in ("third_person", "wrist"):
                operator.until(lambda role=role: number(client, f"camera_{role}", "images") > 30, f"the {role} camera")
            operator.until(lambda: number(client, "policy", "pairs") > 30, "pairs of images")
            assert number(client, "policy", "wrist_skew_max_ms") <= 20
            assert number(client, "policy", "state_skew_max_ms") <= 20
            operator.until(lambda: says("piper", "mode"), "a mode of the arm")
            assert says("piper", "mode") == "disabled", "no motion before a person allows it"
            answer = operator.call(SetBool, "/robot/enable", SetBool.Request(data=True))
            assert answer.success, answer.message
            operator.begin("")
            operator.until(lambda: says("piper", "mode") == "moving", "an arm that moves")
            assert operator.call(Trigger, "/robot/stop", Trigger.Request()).success
            attempt = operator.end_of_task()
            assert attempt.status == "aborted" and "/robot/stop was called" in attempt.reason
            operator.until(lambda: says("piper", "mode") == "stopped", "the latched stop")
            again = client.run("", 0, "move")
            assert again.status == "aborted" and "rejected: stopped" in again.reason
            assert operator.call(Trigger, "/robot/reset", Trigger.Request()).success
            operator.until(lambda: says("piper", "mode") == "disabled", "the end of the stop")
            code, log = operator.interrupt()
            assert code == 0 and "Traceback" not in log, log[-3000:]


def test_the_twin_in_real_time(tmp_path):
    with Operator(tmp_path, robot="piper_mujoco", mode="realtime") as operator:
        client, says = operator.client, operator.client.says
        client.wait_ready(PATIENCE_S)
        operator.begin("")
        operator.until(lambda: number(client, "policy", "chunk_rate_hz") > 0, "chunks")
        operator.until(lambda: says("piper_mujoco", "mode") == "running", "a twin that moves")
        client.cancel()
        attempt = operator.end_of_task()
        assert attempt.status == "canceled" and attempt.task == "" and attempt.steps > 0
        code, log = operator.interrupt()
        assert code == 0 and "Traceback" not in log, log[-3000:]
