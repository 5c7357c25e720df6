"""The simulated Piper as a process, driven by the practice policy: the same interface, the same bits as in process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

rclpy = pytest.importorskip("rclpy")
pytest.importorskip("alam_msgs")

from test_nodes_ros import PATIENCE_S, call, until  # noqa: E402

from alam_common import topics  # noqa: E402
from alam_common.base_node import subscribe  # noqa: E402
from alam_common.task_client_node import TaskClient  # noqa: E402
from alam_piper import arm  # noqa: E402

pytestmark = [pytest.mark.ros, pytest.mark.sim]
ROOT = Path(__file__).resolve().parent.parent
BUNDLE = ROOT / "checkpoints/piper-practice"
PROFILE = ROOT / "ros2_ws/src/alam_bringup/config/fastdds.xml"  # as the launch file sets it: large images arrive
TASK = "insert-cube"


@pytest.fixture
def start(tmp_path):
    started = []

    def start_node(module, **parameters):
        options = [text for name, value in parameters.items() for text in ("-p", f"{name}:={value}")]
        with (tmp_path / f"{len(started)}.log").open("wb") as log:
            command = [sys.executable, "-m", module, "--ros-args", *options]
            environment = {**os.environ, "FASTRTPS_DEFAULT_PROFILES_FILE": str(PROFILE)}
            started.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment))
        return started[-1], tmp_path / f"{len(started) - 1}.log"

    yield start_node
    for process in started:
        process.kill()
        process.wait(PATIENCE_S)


def digest_in_process(seed, max_steps):
    from alam_models.runtime import load_policy
    from alam_sim.episode import run_episode
    from alam_sim.piper_env import PiperEnv

    env = PiperEnv(TASK)
    try:
        return run_episode(env, load_policy(BUNDLE), TASK, seed, max_steps=max_steps).digest
    finally:
        env.close()


def test_the_graph_runs_the_twin_with_the_same_bits_and_says_its_joints(start):
    robot, _ = start("alam_sim.piper_mujoco_node", contract=BUNDLE / "contract.yaml")
    start("alam_policy.policy_node", bundle=BUNDLE)
    joints = []
    with TaskClient("test_client") as client:
        subscribe(client.node, topics.JOINT_STATES, joints.append)
        client.wait_ready(PATIENCE_S)
        attempt = client.run(TASK, 5, timeout_s=1.0)
        assert (attempt.steps, attempt.status, attempt.success) == (30, "succeeded", False)
        assert attempt.reason.startswith("time limit: 30 steps (1.00 s)")
        until(lambda: "seed 5" in client.says("piper_mujoco", "last_episode"), "the digest")
        assert client.says("piper_mujoco", "last_episode").rpartition(" ")[2] == digest_in_process(5, 30)
        until(lambda: joints, "joint states")
        assert tuple(joints[-1].name) == arm.NAMES
        assert len(joints[-1].position) == len(joints[-1].velocity) == len(joints[-1].effort) == 7

        wrong = client.run("reach-v3", 1)
        assert wrong.status == "aborted"
        assert "rejected: task: wanted one of insert-cylinder, insert-cube, stack-cups" in wrong.reason

        from std_srvs.srv import Trigger

        assert call(client, Trigger, "/robot/stop", Trigger.Request()).success
        assert "the robot is stopped" in client.run(TASK, 1).reason
        assert call(client, Trigger, "/robot/reset", Trigger.Request()).success
    robot.send_signal(signal.SIGINT)
    assert robot.wait(PATIENCE_S) == 0


def test_settings_that_cannot_work_end_it_with_one_sentence(start, tiny_bundle):
    for parameters, words in (
        ({"task": "insert-ball"}, "task: wanted one of insert-cylinder"),
        ({"contract": tiny_bundle / "contract.yaml"}, "was made for another robot"),
    ):
        robot, log = start("alam_sim.piper_mujoco_node", **parameters)
        assert robot.wait(PATIENCE_S) == 2
        assert words in log.read_text() and "Traceback" not in log.read_text()
