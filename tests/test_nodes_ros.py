"""The two nodes as processes: same bits as in process, holds, stops, bad input, orderly ends."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

rclpy = pytest.importorskip("rclpy")
pytest.importorskip("alam_msgs")

import numpy as np  # noqa: E402
from alam_msgs.msg import ActionChunk  # noqa: E402
from std_msgs.msg import String  # noqa: E402
from std_srvs.srv import SetBool, Trigger  # noqa: E402
from tiny_bundle import make_tiny_bundle  # noqa: E402

from alam_common import topics  # noqa: E402
from alam_common.base_node import publisher, subscribe  # noqa: E402
from alam_common.convert import fill_chunk, read_chunk, stamp_ns  # noqa: E402
from alam_common.task_client_node import TaskClient  # noqa: E402
from alam_models.contract import Contract  # noqa: E402

pytestmark = [pytest.mark.ros, pytest.mark.sim]

PATIENCE_S = 120.0  # a loaded machine is slow; nothing here waits longer than it must
TASK = "reach-v3"
MODULES = {"robot": "alam_sim.metaworld_node", "policy": "alam_policy.policy_node"}


class NodeProcess:
    """A node as `python -m`, with parameters and a log; ended at the latest when the test is."""

    def __init__(self, kind, log, environment=None, **parameters):
        options = [text for name, value in parameters.items() for text in ("-p", f"{name}:={value}")]
        self.log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", MODULES[kind], "--ros-args", *options],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
            )

    def end(self, number=signal.SIGINT):
        """-> (exit code, seconds it took)."""
        began = time.monotonic()
        self._process.send_signal(number)
        return self._process.wait(PATIENCE_S), time.monotonic() - began

    def exit(self):
        """Wait for it to end by itself -> (exit code, what it said)."""
        code = self._process.wait(PATIENCE_S)
        return code, self.log.read_text()

    def kill(self):
        self._process.kill()
        self._process.wait(PATIENCE_S)


@pytest.fixture
def start(tmp_path):
    started = []

    def start_node(kind, environment=None, **parameters):
        started.append(NodeProcess(kind, tmp_path / f"{len(started)}.log", environment, **parameters))
        return started[-1]

    yield start_node
    for process in started:
        process.kill()


@pytest.fixture
def client():
    with TaskClient("test_client") as made:
        yield made


@pytest.fixture
def pair(start, client, tiny_bundle):
    """A robot and a policy that are ready."""
    robot = start("robot", contract=tiny_bundle / "contract.yaml")
    policy = start("policy", bundle=tiny_bundle)
    client.wait_ready(PATIENCE_S)
    return robot, policy


@pytest.fixture
def in_background():
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit


def until(condition, what):
    deadline = time.monotonic() + PATIENCE_S
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE_S} s for: {what}"
        pause.wait(0.05)


def call(client, kind, name, request):
    service = client.node.create_client(kind, name)
    assert service.wait_for_service(PATIENCE_S)
    future = service.call_async(request)
    until(future.done, name)
    return future.result()


def digest_in_process(bundle, seed, max_steps):
    from alam_models.runtime import load_policy
    from alam_sim.episode import run_episode
    from alam_sim.metaworld_env import MetaWorldEnv

    env = MetaWorldEnv(TASK)
    try:
        return run_episode(env, load_policy(bundle), TASK, seed, max_steps=max_steps).digest
    finally:
        env.close()


def test_same_seed_same_bits_twice_through_ros_and_in_process(pair, client, tiny_bundle):
    digests = []
    for seed in (5, 5, 6):
        attempt = client.run(TASK, seed, timeout_s=0.5)
        assert (attempt.steps, attempt.status) == (40, "succeeded")
        assert attempt.reason.startswith("time limit: 40 steps (0.50 s)")
        assert len(attempt.latencies) == len(attempt.latents) == 10
        until(lambda: f"seed {seed}" in client.says("metaworld", "last_episode"), "the digest")  # noqa: B023
        digests.append(client.says("metaworld", "last_episode").rpartition(" ")[2])
    assert digests[0] == digests[1] != digests[2]
    assert digests[0] == digest_in_process(tiny_bundle, 5, 40)


def test_a_killed_policy_is_a_hold_and_its_return_continues_the_very_same_episode(
    start,
    client,
    pair,
    in_background,
    tiny_bundle,
):
    _, policy = pair
    steps = []
    episode = in_background(client.run, TASK, 9, feedback=lambda step, mode: steps.append(step))
    until(lambda: steps and steps[-1] >= 40, "the episode to be under way")
    policy.kill()
    until(lambda: "holding: no chunk for" in client.statuses["metaworld"].message, "the hold in /diagnostics")
    assert not episode.done()
    held_at = steps[-1]
    start("policy", bundle=tiny_bundle)
    until(lambda: steps[-1] > held_at, "the episode to go on")
    assert episode.result(PATIENCE_S).steps == 500
    until(lambda: "seed 9" in client.says("metaworld", "last_episode"), "the digest")
    assert client.says("metaworld", "last_episode").rpartition(" ")[2] == digest_in_process(tiny_bundle, 9, 500)


def test_goals_that_cannot_start_are_told_why(pair, client, in_background):
    wrong = client.run("reach-v9", 1)
    assert wrong.status == "aborted"
    assert "rejected: task: wanted one of the 50 MetaWorld tasks" in wrong.reason
    assert "got 'reach-v9'" in wrong.reason
    assert "timeout: wanted seconds" in client.run(TASK, 1, timeout_s=-1.0).reason
    steps = []
    first = in_background(client.run, TASK, 1, feedback=lambda step, mode: steps.append(step))
    until(lambda: steps, "the first goal to run")
    with TaskClient("second_client") as second:
        second.wait_ready(PATIENCE_S)
        rejected = second.run(TASK, 2)
    assert (rejected.status, rejected.steps) == ("aborted", 0)
    assert rejected.reason.startswith("rejected: another task is running")
    client.cancel()
    assert first.result(PATIENCE_S).status == "canceled"
    assert first.result().reason == "cancelled by the client"


def test_stop_is_latched_until_reset(pair, client, in_background):
    steps = []
    running = in_background(client.run, TASK, 1, feedback=lambda step, mode: steps.append(step))
    until(lambda: steps and steps[-1] > 0, "the robot to move")
    assert call(client, Trigger, "/robot/stop", Trigger.Request()).success
    stopped = running.result(PATIENCE_S)
    assert stopped.status == "aborted"
    assert stopped.reason.startswith("stopped: /robot/stop was called")
    assert call(client, SetBool, "/robot/enable", SetBool.Request(data=True)).success
    assert "the robot is stopped" in client.run(TASK, 1).reason
    until(lambda: client.statuses["metaworld"].level == 2, "an error in /diagnostics")
    assert call(client, Trigger, "/robot/reset", Trigger.Request()).success
    assert client.run(TASK, 1, timeout_s=0.1).steps == 8


def test_a_nan_chunk_is_a_hold_with_its_reason(start, client):
    start("robot", policy_timeout=4.0)
    chunks = publisher(client.node, topics.CHUNK)

    def spoil(state):
        message, stamp = ActionChunk(), stamp_ns(state.header.stamp)
        names = ("delta_x", "delta_y", "delta_z", "grip")
        fill_chunk(message, np.full((8, 4), np.nan), names, 0.0125, state.observation_id, stamp, stamp, "spoilt", 0.0)
        chunks.publish(message)

    subscribe(client.node, topics.STATE, spoil)
    client.wait_ready(PATIENCE_S, policy=False)
    with ThreadPoolExecutor(1) as pool:
        episode = pool.submit(client.run, TASK, 1)
        until(lambda: "wanted finite actions, got 32 of 32" in client.says("metaworld", "reason"), "the reason")
        assert client.says("metaworld", "mode") == "holding"
        attempt = episode.result(PATIENCE_S)
    assert (attempt.status, attempt.steps) == ("aborted", 0)
    assert attempt.reason.startswith("given up: no usable chunk for")


def test_realtime_runs_against_the_clock(start, client, tiny_bundle):
    start("robot", mode="realtime", contract=tiny_bundle / "contract.yaml")
    start("policy", bundle=tiny_bundle)
    client.wait_ready(PATIENCE_S)
    began = time.monotonic()
    attempt = client.run(TASK, 1, timeout_s=2.0)
    assert attempt.status == "succeeded"
    assert attempt.steps == 160
    assert time.monotonic() - began > 1.9
    assert attempt.latencies


def test_chunks_go_on_with_what_is_on_its_way_but_never_where_the_world_waits(start, client, tmp_path):
    bundle = make_tiny_bundle(tmp_path, horizon=24, prefix_conditioning=8)  # so long that a loaded machine is in time
    chunks = []
    subscribe(client.node, topics.CHUNK, chunks.append)
    policy = start("policy", bundle=bundle, delay=0.02, use_sim_time="true")
    robot = start("robot", mode="realtime", contract=bundle / "contract.yaml")
    client.wait_ready(PATIENCE_S)
    attempt = client.run(TASK, 1, timeout_s=2.0)
    assert attempt.status == "succeeded"
    until(lambda: client.says("policy", "committed_steps").partition(":")[0] in map(str, range(9)), "the diagnostics")
    assert robot.end()[0] == 0
    step_ns, earlier, going_on = 12_500_000, {}, 0
    for chunk in chunks:
        rows, began_ns = read_chunk(chunk), stamp_ns(chunk.observation_stamp)
        going_on += rows[0].tobytes() in earlier.get(began_ns, ())
        for k, row in enumerate(rows):
            earlier.setdefault(began_ns + k * step_ns, set()).add(row.tobytes())
    assert len(chunks) > 8 and going_on > len(chunks) / 8  # not those whose observation waited while a chunk was made

    start("robot", contract=bundle / "contract.yaml")
    client.wait_ready(PATIENCE_S)
    client.run(TASK, 5, timeout_s=0.5)
    until(lambda: "seed 5" in client.says("metaworld", "last_episode"), "the digest")
    assert client.says("metaworld", "last_episode").rpartition(" ")[2] == digest_in_process(bundle, 5, 40)
    assert policy.end()[0] == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_both_end_in_time_and_without_a_traceback(pair, client, in_background, number):
    steps = []
    in_background(client.run, TASK, 1, feedback=lambda *_: steps.append(1))
    until(lambda: steps, "the episode to be under way")
    for process in pair:
        code, seconds = process.end(number)
        assert code == 0, process.log.read_text()
        assert seconds < 5.0
        assert "Traceback" not in process.log.read_text()


def test_a_twin_is_refused_by_name_and_domain(pair, start, tiny_bundle):
    for kind, name, parameters in (("robot", "/metaworld", {}), ("policy", "/policy", {"bundle": tiny_bundle})):
        code, said = start(kind, **parameters).exit()
        assert code == 2
        assert (
            f"wanted to be the only {name} on ROS domain {os.environ['ROS_DOMAIN_ID']}, got another one there already"
            in said
        )
        assert "Traceback" not in said


def changed_contract(bundle, path):
    contract = Contract.load(bundle / "contract.yaml").to_yaml()
    path.write_text(contract.replace("control_rate_hz: 80.0", "control_rate_hz: 30.0"))
    return path


def test_a_robot_refuses_the_contract_of_another(start, tiny_bundle, tmp_path):
    code, said = start("robot", contract=changed_contract(tiny_bundle, tmp_path / "contract.yaml")).exit()
    assert code == 2
    assert "contract field 'control_rate_hz': wanted 30.0, got 80.0" in said
    assert "Traceback" not in said


def test_a_policy_refuses_a_robot_with_another_contract(start, client, tiny_bundle, tmp_path):
    contract = changed_contract(tiny_bundle, tmp_path / "contract.yaml").read_text()
    publisher(client.node, topics.CONTRACT).publish(String(data=contract))
    code, said = start("policy", bundle=tiny_bundle).exit()
    assert code == 2
    assert "contract field 'control_rate_hz': wanted 80.0, got 30.0" in said
    assert "Traceback" not in said


def spoil_bundle(bundle, copy, file, change):
    shutil.copytree(bundle, copy)
    if change is None:
        (copy / file).unlink()
    else:
        (copy / file).write_bytes(change((copy / file).read_bytes()))
    return copy


@pytest.mark.parametrize(
    ("file", "change", "sentence"),
    [
        ("step.onnx", lambda data: data[: len(data) // 2], "step.onnx: wanted sha256"),
        ("prefix.onnx", None, "wanted prefix.onnx, got no such file"),
        ("contract.yaml", lambda data: b"robot: [", "contract.yaml"),
        ("card.yaml", None, "wanted a bundle at"),
    ],
)
def test_a_bad_bundle_is_refused_with_a_sentence(start, tiny_bundle, tmp_path, file, change, sentence):
    code, said = start("policy", bundle=spoil_bundle(tiny_bundle, tmp_path / "bad", file, change)).exit()
    assert code == 2
    assert sentence in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("environment", "parameters", "sentence"),
    [
        ({}, {"task": "reach-v9"}, "wanted one of the 50 MetaWorld tasks"),
        ({}, {"mode": "slow"}, "parameter mode: wanted str, `lockstep`, `realtime`; got 'slow'"),
        ({}, {"replan": -3}, "parameter replan: wanted int, 0 to 1000"),
        ({}, {"contract": "no/such/contract.yaml"}, "wanted a contract at no/such/contract.yaml, got no such file"),
    ],
)
def test_a_robot_with_bad_settings_ends_with_a_sentence(start, environment, parameters, sentence):
    code, said = start("robot", environment, **parameters).exit()
    assert code == 2, said
    assert sentence in said
    assert "Traceback" not in said


# Runs at the start of the child's interpreter: as if the machine had no OSMesa.
WITHOUT_OSMESA = """
import ctypes, ctypes.util
find, load = ctypes.util.find_library, ctypes.CDLL.__init__
def init(self, name, *arguments, **options):
    if name and "OSMesa" in str(name):
        raise OSError(f"{name}: cannot open shared object file")
    load(self, name, *arguments, **options)
ctypes.util.find_library = lambda name: None if "OSMesa" in name else find(name)
ctypes.CDLL.__init__ = init
"""


def test_a_missing_display_library_is_named_with_its_package(start, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_OSMESA)
    path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    code, said = start("robot", {"MUJOCO_GL": "osmesa", "PYTHONPATH": path}).exit()
    assert code == 2, said
    assert "wanted its display library" in said
    assert "install the apt package libosmesa6" in said
    assert "Traceback" not in said
