"""The simulated Piper as a process, driven by the practice policy: the same interface, the same bits as in process."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy")
pytest.importorskip("alam_msgs")

from std_msgs.msg import Bool  # noqa: E402
from std_srvs.srv import SetBool, Trigger  # noqa: E402
from test_nodes_ros import PATIENCE_S, call, until  # noqa: E402

from alam_common import topics  # noqa: E402
from alam_common.base_node import publisher, subscribe  # noqa: E402
from alam_common.convert import stamp_ns  # noqa: E402
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

        assert call(client, Trigger, "/robot/stop", Trigger.Request()).success
        assert "the robot is stopped" in client.run(TASK, 1).reason
        assert call(client, Trigger, "/robot/reset", Trigger.Request()).success
        assert "disabled: call /robot/enable" in client.run(TASK, 1).reason
        assert call(client, SetBool, "/robot/enable", SetBool.Request(data=True)).message == "enabled"
        again = client.run(TASK, 5, timeout_s=1.0)
        until(lambda: "seed 5" in client.says("piper_mujoco", "last_episode"), "the digest")
        assert again.steps == 30
        assert client.says("piper_mujoco", "last_episode").rpartition(" ")[2] == digest_in_process(5, 30)
    robot.send_signal(signal.SIGINT)
    assert robot.wait(PATIENCE_S) == 0


def test_a_person_has_the_same_hands_on_the_twin_as_on_the_arm(start):
    start("alam_sim.piper_mujoco_node", contract=BUNDLE / "contract.yaml", mode="realtime")
    start("alam_policy.policy_node", bundle=BUNDLE)
    joints, commands, said = [], [], []
    with TaskClient("test_client") as client, ThreadPoolExecutor(1) as pool:

        def ask(action):
            kind = SetBool if action in ("enable", "disable") else Trigger
            request = SetBool.Request(data=action == "enable") if kind is SetBool else Trigger.Request()
            return call(client, kind, f"/robot/{'enable' if kind is SetBool else action}", request)

        def is_said(mode, reason):
            return lambda: said and said[-1].mode == mode and reason in said[-1].reason

        every = topics.Qos("best_effort", "volatile", 100, "the periods of a control step come together")
        subscribe(client.node, replace(topics.JOINT_STATES, qos=every), joints.append)
        subscribe(client.node, topics.COMMAND, commands.append)
        subscribe(client.node, topics.ARM_STATUS, said.append)
        stop = publisher(client.node, topics.OPERATOR_STOP)
        client.wait_ready(PATIENCE_S)
        until(is_said("holding", "no task runs: call /run_task"), "the arm's status")
        assert said[-1].enabled and said[-1].connected and said[-1].feedback_age == 0.0

        task = pool.submit(client.run, TASK, 1)
        until(is_said("moving", ""), "motion")
        begun = len(joints)
        until(lambda: len(joints) > begun + 100, "joint states")
        stamps = np.array([stamp_ns(message.header.stamp) for message in joints[begun:]])
        periods = np.diff(stamps) / 5e6
        assert (periods >= 1 - 1e-9).all() and np.median(periods) == 1.0  # of simulated time; a few may be lost
        assert tuple(commands[-1].name) == arm.NAMES and len(commands[-1].velocity) == 7
        assert 0 <= said[-1].chunk_age < 1 and said[-1].following_error < 0.5
        assert not ask("reset").success and not ask("home").success and not ask("disable").success

        stop.publish(Bool(data=False))
        stop.publish(Bool(data=True))
        ended = task.result(PATIENCE_S)
        assert ended.status == "aborted" and ended.reason.startswith("stopped: the operator's stop")
        until(is_said("stopped", "the operator's stop; call /robot/reset to go on"), "the latched stop")
        assert "the robot is stopped" in client.run(TASK, 1).reason
        assert not ask("enable").success and "not home: the operator's stop" in ask("home").message

        assert ask("reset").message == "call /robot/enable to go on"
        until(is_said("disabled", "call /robot/enable"), "the end of the stop")
        assert ask("enable").success and ask("home").message == "home"
        assert np.abs(np.array(commands[-1].position) - arm.HOME)[:6].max() < 0.01
        home = pool.submit(ask, "disable")  # it moves to rest; a stop does not wait for that
        until(is_said("moving", ""), "the way to rest")
        assert ask("stop").success
        assert home.result(PATIENCE_S).message.startswith("could not move to rest: /robot/stop was called")


def test_settings_that_cannot_work_end_it_with_one_sentence(start, tiny_bundle):
    for parameters, words in (
        ({"task": "insert-ball"}, "task: wanted one of insert-cylinder"),
        ({"contract": tiny_bundle / "contract.yaml"}, "was made for another robot"),
    ):
        robot, log = start("alam_sim.piper_mujoco_node", **parameters)
        assert robot.wait(PATIENCE_S) == 2
        assert words in log.read_text() and "Traceback" not in log.read_text()
