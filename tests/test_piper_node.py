"""The Piper node on an emulated arm: bad messages change nothing, a stop waits for nobody, its end lets the arm go."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("alam_msgs")
pytest.importorskip("mujoco")

from alam_msgs.msg import ActionChunk
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from piper_rig import Emulator
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Bool
from std_srvs.srv import SetBool, Trigger

from alam_common import topics
from alam_common.base_node import publisher, subscribe
from alam_common.convert import fill_chunk
from alam_common.task_client_node import TaskClient
from alam_piper import arm
from alam_piper.arm_client_io import ArmClient
from alam_piper.settings import PARAMETERS

pytestmark = [pytest.mark.ros, pytest.mark.sim]
ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 60.0
AT_ONCE_S = 2.0  # on a loaded machine; nothing that waits for the arm is as fast
ROWS, DT_S = 30, 1 / arm.CONTROL_RATE_HZ
STAY = np.tile([*arm.HOME[:6], 0.035], (ROWS, 1))  # where the arm is: following this it keeps still
AWAY = STAY + np.array([0.3, 0, 0, 0, 0, 0, 0.01])
SECOND_NS = 1_000_000_000
SENT = 100  # commands after which a message has had its effect, half a second


class LiveArm:
    """An emulated arm, its node as a process, and a client that feeds and calls it. A context manager."""

    def __init__(self, **parameters):
        self.folder = Path(tempfile.mkdtemp(prefix="alam-"))  # the path of a socket must be short
        self.emulator = Emulator(self.folder, "--home", "--enable-delay", "0.05")
        self.settings = {"can_interface": "alam_socket", "can_channel": self.emulator.channel, "priority": 0}
        loose = {"max_feedback_age": 0.5, "max_camera_age": 2.0, "max_chunk_age": 5.0, "following_error": 1.0}
        self._parameters = {**self.settings, **loose, **parameters}  # a loaded machine is late, and that is not tested
        self.log = self.folder / "node.log"
        self.commands, self.status = [], []
        self._over, self._id, self.feeding = threading.Event(), 0, threading.Lock()

    def __enter__(self):
        self.emulator.start()
        self.process = start_node(self.log, **self._parameters)
        self.client = TaskClient("test_client")
        node = self.client.node
        subscribe(node, topics.COMMAND, lambda message: self.commands.append(np.array(message.position)))
        subscribe(node, topics.ARM_STATUS, self.status.append)
        self.chunks, self.stops = publisher(node, topics.CHUNK), publisher(node, topics.OPERATOR_STOP)
        self.cameras = {role: publisher(node, topic) for role, topic in topics.CAMERA_INFOS.items()}
        self.until(lambda: "ready: call" in self.log.read_text(), "a node that is ready")
        self._feeder = threading.Thread(target=self._feed, daemon=True)
        self._feeder.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._feeder.join()
        self.client.close()
        for pid in children(self.process.pid):
            os.kill(pid, signal.SIGCONT)
        self.process.send_signal(signal.SIGINT)
        try:
            code = self.process.wait(PATIENCE_S)
        finally:
            self.process.kill()
            self.emulator.kill()
        assert (code, "Traceback" in self.log.read_text()) == (0, False), self.log.read_text()[-3000:]

    def _feed(self):
        """Images at 30 Hz, and chunks that keep the arm where it is; not while a test holds `feeding`."""
        count = 0
        while not self._over.wait(DT_S):
            with self.feeding:
                count += 1
                for role in self.cameras:
                    self.image(role, time.time_ns())
                if count % 3 == 0:
                    self.chunks.publish(self.chunk())

    def image(self, role, time_ns):
        message = CameraInfo()
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(time_ns, SECOND_NS)
        self.cameras[role].publish(message)

    def chunk(self, actions=STAY, names=arm.NAMES, ago_s=0.0, dt_s=DT_S):
        self._id += 1
        message, now = ActionChunk(), time.time_ns()
        fill_chunk(message, actions, names, dt_s, self._id, now - int(ago_s * 1e9), now, "test", 0.01)
        return message

    def until(self, condition, what):
        end = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < end, f"waited {PATIENCE_S} s for {what}: {self.log.read_text()[-2000:]}"
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            time.sleep(0.02)

    def call(self, name, request=None):
        """-> the answer of a service under /robot, and the seconds it took."""
        future = self.call_async(name, request)
        began = time.monotonic()
        self.until(future.done, name)
        return future.result(), time.monotonic() - began

    def call_async(self, name, request=None):
        kind = Trigger if request is None else SetBool
        return self.service(kind, f"/robot/{name}").call_async(Trigger.Request() if request is None else request)

    def service(self, kind, name):
        service = self.client.node.create_client(kind, name)
        assert service.wait_for_service(PATIENCE_S)
        return service

    def reach(self, mode):
        self.until(lambda: self.status and self.status[-1].mode == mode, f"the mode {mode}")

    def enable(self):
        """From whatever a test before left behind."""
        self.until(lambda: self.status and self.status[-1].connected, "feedback")
        if self.status[-1].mode == "stopped":
            self.until(lambda: self.call("reset")[0].success, "a reset")
        answer, _ = self.call("enable", SetBool.Request(data=True))
        assert answer.success, answer.message

    def still(self):
        """-> the command that the arm gets since a while, once it has stopped to change."""

        def rests():
            last = self.commands[-SENT:]
            return len(last) == SENT and np.ptp(last, axis=0).max() < 1e-9

        self.until(rests, "an arm that keeps still")
        return self.commands[-1]

    def stays(self, command):
        """The next commands are still this one."""
        begin = len(self.commands)
        self.until(lambda: len(self.commands) >= begin + SENT, "more commands")
        assert np.abs(np.array(self.commands[begin:]) - command).max() < 1e-6


def start_node(log, **parameters):
    options = [text for name, value in parameters.items() for text in ("-p", f"{name}:={value}")]
    command = [sys.executable, "-m", "alam_piper.piper_node", "--ros-args", *options]
    with log.open("wb") as output:
        return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)


def children(pid):
    """-> the processes that a process has started and that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
        except OSError:  # it has ended meanwhile
            continue
        if int(parent) == pid and state != "Z":
            found.append(int(path.parent.name))
    return found


@pytest.fixture(scope="module")
def live():
    with LiveArm() as made:
        yield made


@pytest.fixture
def moving(live):
    """The arm follows chunks that keep it where it is -> it, and its command."""
    live.enable()
    task = threading.Thread(target=lambda: live.client.run("", 0, "move", 3600.0), daemon=True)
    task.start()
    live.reach("moving")
    yield live, live.still()
    assert live.status[-1].mode == "moving", "nothing of this was a reason to stop"
    live.client.cancel()
    task.join(PATIENCE_S)
    assert not task.is_alive()


def nan_row():
    return np.where(np.arange(ROWS)[:, None] == 7, np.nan, AWAY)


def cut(message, **fields):
    for name, value in fields.items():
        setattr(message, name, value)
    return message


BAD = {
    "missing names": (lambda a: a.chunk(AWAY[:, :6], arm.NAMES[:6]), "wanted channels"),
    "no names": (lambda a: cut(a.chunk(AWAY), names=[]), f"wanted {ROWS} x 0 actions"),
    "wrong order": (lambda a: a.chunk(AWAY, arm.NAMES[::-1]), "got ['gripper', 'joint6'"),
    "degrees": (lambda a: a.chunk(AWAY * [*[180 / np.pi] * 6, 1]), "looks like degrees"),
    "outside of the limits": (
        lambda a: a.chunk(AWAY + np.array([0, 0, 0, 3, 0, 0, 0])),
        "joint4: wanted a position in",
    ),
    "NaN": (lambda a: a.chunk(nan_row()), "wanted finite actions"),
    "infinite": (lambda a: a.chunk(AWAY + np.inf), f"got {ROWS * 7} of"),
    "empty": (lambda a: cut(a.chunk(AWAY), horizon=0, actions=[]), "wanted 0 x 7 actions"),
    "too short": (lambda a: cut(a.chunk(AWAY), horizon=ROWS + 1), f"wanted {ROWS + 1} x 7 actions, got {ROWS * 7}"),
    "too long": (lambda a: cut(a.chunk(AWAY), horizon=ROWS - 1), f"wanted {ROWS - 1} x 7 actions, got {ROWS * 7}"),
    "late": (lambda a: a.chunk(AWAY, ago_s=60.5), "out of order: observation is 60."),
    "of the future": (lambda a: a.chunk(AWAY, ago_s=-30.0), "in the future"),
    "dt of 0": (lambda a: a.chunk(AWAY, dt_s=0.0), "each 0 s"),
    "dt NaN": (lambda a: a.chunk(AWAY, dt_s=np.nan), "each nan s"),
}


def refused(live, words):
    live.until(lambda: words in live.client.says("piper", "last_rejection"), f"the refusal: {words}")


@pytest.mark.parametrize(("make", "words"), BAD.values(), ids=BAD)
def test_a_bad_chunk_is_refused_with_its_reason_and_changes_no_command(moving, make, words):
    live, command = moving
    live.chunks.publish(make(live))
    refused(live, words)
    live.stays(command)


def test_a_chunk_that_comes_again_is_refused_and_changes_no_command(moving):
    live, command = moving
    with live.feeding:
        first, second = live.chunk(), live.chunk()
        live.chunks.publish(first)
        live.chunks.publish(second)
        again = cut(first, actions=live.chunk(AWAY).actions)  # so that obeying it would show
        live.chunks.publish(again)
        refused(live, "out of order: observation is 0.0")
    live.reach("moving")
    with live.feeding:
        newest = live.chunk()
        live.chunks.publish(newest)
        live.chunks.publish(cut(newest, actions=live.chunk(AWAY).actions))
        refused(live, f"duplicate of observation {newest.observation_id}")
    live.stays(command)


def test_other_messages_that_ask_for_nothing_change_nothing(moving):
    live, command = moving
    for _ in range(5):
        live.stops.publish(Bool(data=False))
        for role in live.cameras:
            for time_ns in (0, time.time_ns() + 3600 * SECOND_NS, -(2**31) * SECOND_NS, (2**31 - 1) * SECOND_NS):
                live.image(role, time_ns)
    live.stays(command)


def test_images_of_the_future_do_not_hide_a_dead_camera(moving):
    live, command = moving
    with live.feeding:
        began = time.monotonic()
        while "last image" not in live.status[-1].reason:
            assert time.monotonic() < began + PATIENCE_S, live.status[-1]
            live.image("wrist", time.time_ns())
            live.image("third_person", time.time_ns() + 3600 * SECOND_NS)
            live.chunks.publish(live.chunk())
            time.sleep(DT_S)
        assert live.status[-1].mode == "holding" and "camera third_person" in live.status[-1].reason
    live.reach("moving")
    live.stays(command)


def test_a_chunk_without_a_task_is_refused(live):
    live.enable()
    command = live.still()
    live.chunks.publish(live.chunk(AWAY))
    refused(live, "no task runs")
    live.stays(command)


@pytest.fixture
def going(live):
    """The arm is far from home and on its way there -> it, and the answer to come."""
    live.enable()
    task = threading.Thread(target=lambda: live.client.run("", 0, "move", 3600.0), daemon=True)
    away = STAY + np.array([1.5, 0, 0, 0, 0, 0, 0])
    with live.feeding:
        task.start()
        began = time.monotonic()
        while not live.commands or live.commands[-1][0] < 1.4:
            assert time.monotonic() < began + PATIENCE_S, live.status[-1]
            for role in live.cameras:
                live.image(role, time.time_ns())
            live.chunks.publish(live.chunk(away))
            time.sleep(DT_S)
        live.client.cancel()
        task.join(PATIENCE_S)
    begin = live.commands[-1][0]
    answer = live.call_async("home")
    live.until(lambda: live.commands[-1][0] < begin - 0.05, "an arm on its way home")
    return live, answer


def test_while_one_request_waits_others_are_refused_and_a_stop_is_not(going):
    live, home = going
    for name, request in (("home", None), ("enable", True), ("enable", False), ("reset", None)):
        answer, took_s = live.call(name, None if request is None else SetBool.Request(data=request))
        assert not answer.success and "another request is under way" in answer.message
        assert took_s < AT_ONCE_S
    refusal = live.client.run("", 0, "move")
    assert refusal.status == "aborted" and "under way" in refusal.reason
    assert not home.done()
    answer, took_s = live.call("stop")
    assert answer.success and took_s < AT_ONCE_S
    live.until(home.done, "the end of the way home")
    assert not home.result().success and "/robot/stop was called" in home.result().message
    live.reach("stopped")
    assert live.still()[0] > 0.1, "it stopped on its way"


def test_the_operators_stop_needs_no_answer(going):
    live, home = going
    live.stops.publish(Bool(data=True))
    live.reach("stopped")
    assert "the operator's stop" in live.status[-1].reason
    live.until(home.done, "the end of the way home")
    assert not home.result().success


def test_a_stop_that_nobody_takes_up_says_so_at_once_and_counts_later(going):
    live, _ = going
    (process,) = children(live.process.pid)
    os.kill(process, signal.SIGSTOP)  # now every question to the arm's process waits
    try:
        for _ in range(2):
            answer, took_s = live.call("stop")
            assert not answer.success and "did not take it up" in answer.message and took_s < AT_ONCE_S
    finally:
        os.kill(process, signal.SIGCONT)
    live.reach("stopped")


def robot_tool(*words):
    command = [sys.executable, ROOT / "tools/robot.py", *words]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE_S)


def test_a_reset_that_sags_is_asked_for_twice(live):
    live.enable()
    live.emulator.tell("collision for=3")
    live.reach("stopped")
    live.until(lambda: live.status[-1].reset_sags, "the warning")
    asked = robot_tool("reset")
    assert (asked.returncode, asked.stdout) == (1, "") and "--yes" in asked.stderr and "SAGS" in asked.stderr
    assert live.status[-1].mode == "stopped"
    live.until(lambda: robot_tool("reset", "--yes").returncode == 0, "a reset")
    live.reach("disabled")
    assert not live.status[-1].reset_sags


def transition(live, number):
    request = ChangeState.Request(transition=Transition(id=number))
    future = live.service(ChangeState, "/piper/change_state").call_async(request)
    live.until(future.done, "the transition")
    assert future.result().success


def is_free(live):
    """The arm's process has ended, and another one may drive the arm."""
    assert children(live.process.pid) == []
    defaults = {parameter.name: parameter.default for parameter in PARAMETERS}
    other = ArmClient(defaults | live.settings)
    try:
        return other.ask("open") == ""
    finally:
        assert other.end()


def test_shutdown_from_active_lets_the_arm_go():
    with LiveArm() as live:
        live.enable()
        transition(live, Transition.TRANSITION_ACTIVE_SHUTDOWN)
        assert is_free(live)
        answer, took_s = live.call("enable", SetBool.Request(data=True))
        assert not answer.success and "not running" in answer.message and took_s < AT_ONCE_S


def test_cleanup_lets_the_arm_go_and_it_can_be_had_again():
    with LiveArm(autostart=False) as live:
        transition(live, Transition.TRANSITION_CONFIGURE)
        assert len(children(live.process.pid)) == 1
        answer, _ = live.call("enable", SetBool.Request(data=True))
        assert not answer.success and "not running" in answer.message
        transition(live, Transition.TRANSITION_CLEANUP)
        assert is_free(live)
        transition(live, Transition.TRANSITION_CONFIGURE)
        transition(live, Transition.TRANSITION_ACTIVATE)
        live.enable()
        transition(live, Transition.TRANSITION_DEACTIVATE)
        assert is_free(live)
        transition(live, Transition.TRANSITION_ACTIVATE)
        live.status.clear()
        live.enable()
        answer, _ = live.call("stop")
        assert answer.success, "and it still hears its stop"


def test_a_hardware_stop_that_is_not_there_ends_it_with_one_sentence(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        process = start_node(tmp_path / "log", hardware_stop=path)
        assert process.wait(PATIENCE_S) == 2
        said = (tmp_path / "log").read_text()
        assert "hardware_stop: wanted a file" in said and "Traceback" not in said
