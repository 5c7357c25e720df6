"""An emulated arm, the Piper node on it as a process, and somebody who feeds and calls it, for tests."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from alam_msgs.msg import ActionChunk
from piper_rig import Emulator
from sensor_msgs.msg import CameraInfo
from std_srvs.srv import SetBool, Trigger

from alam_common import topics
from alam_common.base_node import publisher, subscribe
from alam_common.convert import fill_chunk
from alam_common.task_client_node import TaskClient
from alam_piper import arm

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
        self.commands, self.status, self.under_way = [], [], []
        self._over, self._id, self.feeding = threading.Event(), 0, threading.Lock()

    def __enter__(self):
        self.emulator.start()
        self.process = start_node(self.log, **self._parameters)
        self.client = TaskClient("test_client")
        node = self.client.node
        subscribe(node, topics.COMMAND, lambda message: self.commands.append(np.array(message.position)))
        subscribe(node, topics.ARM_STATUS, self.status.append)
        subscribe(node, topics.STATE, lambda message: self.under_way.append(message.under_way))
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
    command = [sys.executable, "-m", "alam_piper.robot_node", "--ros-args", *options]
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
