"""The whole graph of the arm under test: `ros2 launch ... robot:=piper emulate:=true`, a tap on its bus, an
operator."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import can
import numpy as np
import rclpy
from alam_msgs.action import RunTask
from alam_msgs.msg import ArmStatus
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.action import ActionClient
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions
from std_srvs.srv import SetBool, Trigger

from alam_common import topics
from alam_common.base_node import subscribe
from alam_common.graph import Graph
from alam_piper import arm
from alam_piper.emulator_node import tell

PERIOD_S = 0.005
REST_S = 0.2  # without a command that moves: the arm holds
PROCESSES = {  # what a person would call each process -> what its command line holds
    "policy": "policy_node",
    "driver": "piper_node",
    "control process": "arm_process_io",
    "emulator": "piper_emulator",
    "third-person camera": "camera_third_person",
    "wrist camera": "camera_wrist",
    "launcher": "ros2 launch",
}
JOINT_FRAMES = {0x155: 0, 0x156: 2, 0x157: 4}


@dataclass
class Commands:
    """Joint commands as they went over the bus: times [s] (N,), positions (N, 6) [rad], from whole triplets."""

    times: np.ndarray
    positions: np.ndarray


class Tap:
    """One more client of the bus: keeps every command frame with its time."""

    def __init__(self, channel: Path) -> None:
        self._channel = channel
        self._frames: list[tuple[float, int, bytes]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="tap", daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while not self._over.is_set():
            try:
                with can.Bus(interface="alam_socket", channel=str(self._channel)) as bus:
                    while not self._over.is_set():
                        frame = bus.recv(0.1)
                        if frame is not None and frame.arbitration_id in JOINT_FRAMES:
                            self._frames.append((time.monotonic(), frame.arbitration_id, bytes(frame.data)))
            except can.CanError:  # the bus is down: the emulator was ended, or is not up yet
                self._over.wait(0.05)

    def commands(self, since_s: float) -> Commands:
        """-> the whole triplets since a time (time.monotonic())."""
        times, positions, row = [], [], np.full(6, np.nan)
        for at, number, data in list(self._frames):
            if at < since_s:
                continue
            first = JOINT_FRAMES[number]
            if first == 0:
                row = np.full(6, np.nan)
            pair = np.frombuffer(data, ">i4").astype(np.float64)
            row[first : first + 2] = np.radians(pair / 1000.0)
            if first == 4 and np.isfinite(row).all():
                times.append(at)
                positions.append(row.copy())
        return Commands(np.array(times), np.array(positions).reshape(-1, 6))

    def close(self) -> None:
        self._over.set()
        self._thread.join(2.0)


@dataclass
class Heard:
    """Everything the graph said, with the time of hearing."""

    status: list[tuple[float, ArmStatus]] = field(default_factory=list)
    words: list[tuple[float, str, str]] = field(default_factory=list)  # time, node, message


class Rig:
    """A graph that runs, with the arm enabled and a task under way once `begin` has returned. A context manager."""

    def __init__(self, bundle: Path, folder: Path) -> None:
        self.channel = Path(tempfile.mkdtemp(prefix="alam-faults-")) / "piper.sock"
        self._bundle, self._folder = bundle, folder
        self._graphs: list[Graph] = []
        self.heard = Heard()
        self._context = rclpy.Context()
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self.node = rclpy.create_node("fault_operator", context=self._context)
        subscribe(self.node, topics.ARM_STATUS, lambda m: self.heard.status.append((time.monotonic(), m)))
        subscribe(self.node, topics.DIAGNOSTICS, self._on_diagnostics)
        self._action = ActionClient(self.node, RunTask, topics.RUN_TASK[0])
        self._services: dict[str, Any] = {}
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()
        self.tap = Tap(self.channel)
        self._goal: Any = None

    def launch(self) -> None:
        log = self._folder / f"graph-{len(self._graphs)}.log"
        arguments = {"robot": "piper", "emulate": "true", "bundle": str(self._bundle), "can": str(self.channel)}
        self._graphs.append(Graph(arguments, log))

    @property
    def graph(self) -> Graph:
        return self._graphs[-1]

    def begin(self) -> None:
        """Enable the arm and start a task; returns once the arm moves. Fails the test when it does not."""
        self.until(self._action.server_is_ready, 60, "/run_task")
        self.until(lambda: self.mode() in ("disabled", "holding", "moving", "stopped"), 60, "a mode of the arm")
        if self.mode() == "stopped":
            self.reset()
        if self.mode() == "disabled":
            self.until(lambda: self.call("/robot/enable", True).success, 15, "the arm to take power")
        self.until(lambda: self.mode() in ("holding", "moving"), 30, "an arm that is enabled")
        self.start_task()
        self.until(self.moving, 60, "an arm that moves")
        began = time.monotonic()
        self.until(lambda: time.monotonic() - began > 0.7, 5, "")  # well away from its beginning, where power came

    def start_task(self) -> None:
        """Send a goal that lasts; a graph started anew has forgotten the last one."""
        goal = RunTask.Goal(task="", instruction="move", seed=0, timeout=3600.0)
        answered = threading.Event()

        def ask() -> None:
            def done(future: Any) -> None:
                self._goal = future.result()
                answered.set()

            self._action.send_goal_async(goal).add_done_callback(done)

        self._executor.create_task(ask)
        assert answered.wait(20), "wanted an answer of /run_task"

    def cancel_task(self) -> None:
        if self._goal is not None:
            self._executor.create_task(self._goal.cancel_goal_async)
            self._goal = None

    def call(self, service: str, request: Any = None) -> Any:
        """Call a std_srvs service -> its response. Fails the test when nobody answers."""
        kind = SetBool if isinstance(request, bool) else Trigger
        client = self._services.setdefault(service, self.node.create_client(kind, service))
        self.until(client.service_is_ready, 20, f"the service {service}")
        message = SetBool.Request(data=request) if isinstance(request, bool) else Trigger.Request()
        answer: list[Any] = []
        answered = threading.Event()

        def ask() -> None:
            def done(future: Any) -> None:
                answer.append(future.result())
                answered.set()

            client.call_async(message).add_done_callback(done)

        self._executor.create_task(ask)
        assert answered.wait(30), f"wanted an answer of {service}"
        return answer[0]

    def reset(self) -> None:
        response = self.call("/robot/reset")
        assert response.success, response.message

    def tell(self, text: str) -> None:
        """A fault, by the emulator's own control."""
        assert tell(str(self.channel), text) == 0

    def mode(self) -> str:
        return self.heard.status[-1][1].mode if self.heard.status else ""

    def moving(self) -> bool:
        """Has the bus got commands that differ, in the last half second?"""
        commands = self.tap.commands(time.monotonic() - 0.5)
        return self.mode() == "moving" and len(commands.times) > 10 and np.ptp(commands.positions, 0).max() > 1e-4

    def said(self, since_s: float) -> str:
        """-> every mode, reason, fault and diagnostic since a time, one line each, no line twice."""
        lines = [f"{m.mode}: {m.reason}" for at, m in list(self.heard.status) if at >= since_s]
        lines += [word for at, m in list(self.heard.status) if at >= since_s for word in m.faults]
        lines += [f"{node}: {word}" for at, node, word in list(self.heard.words) if at >= since_s]
        return "\n".join(dict.fromkeys(lines))

    def pids(self, process: str) -> list[int]:
        """-> the processes of this graph by what a person calls them."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                environment = (entry / "environ").read_bytes()
            except OSError:
                continue
            ours = f"ROS_DOMAIN_ID={os.environ['ROS_DOMAIN_ID']}".encode() in environment.split(b"\0")
            if ours and PROCESSES[process] in command and int(entry.name) != os.getpid():
                found.append(int(entry.name))
        return found

    def kill(self, process: str) -> None:
        """SIGKILL. Fails the test when there is no such process."""
        pids = self.pids(process)
        assert pids, f"wanted a process {process}, got none"
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

    def until(self, condition: Callable[[], Any], patience_s: float, what: str) -> float:
        """Wait -> seconds waited. Fails the test, with the end of the graph's log, when it does not come."""
        began = time.monotonic()
        while not condition():
            waited = time.monotonic() - began
            tail = self.graph.log.read_text(errors="replace")[-3000:]
            assert waited < patience_s, f"waited {waited:.0f} s for {what}; said: {self.said(began)}\nlog:\n{tail}"
            time.sleep(0.02)
        return time.monotonic() - began

    def close(self) -> None:
        for graph in self._graphs:
            graph.stop()
        self.tap.close()
        self._executor.shutdown(timeout_sec=1.0)
        self._thread.join(1.0)
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        now = time.monotonic()
        self.heard.words += [(now, status.name, status.message) for status in message.status]

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            pass
        except Exception as error:
            print(f"fault_operator: {error}", file=sys.stderr)


def broken_limits(commands: Commands) -> list[str]:
    """Commands as the bus got them -> every limit of the arm they broke, in words.

    The bus rounds to 0.001 deg, so a difference over one period has an error of that order; a pause of the bus starts
    anew. Jerk is left to the gate's own tests: two roundings over a period cubed are as large as its limit."""
    found = []
    low, high = arm.LOW[:6] - 2e-5, arm.HIGH[:6] + 2e-5
    if len(commands.positions) and ((commands.positions < low) | (commands.positions > high)).any():
        found.append("position")
    step = np.diff(commands.positions, axis=0)
    paused = np.diff(commands.times) > 4 * PERIOD_S
    rounding = np.radians(0.001)
    velocity = np.abs(step) / PERIOD_S
    if (velocity[~paused] > arm.VELOCITY[:6] + rounding / PERIOD_S).any():
        found.append(f"velocity {velocity[~paused].max():.2f} rad/s")
    both = ~paused[1:] & ~paused[:-1]
    acceleration = np.abs(np.diff(step, axis=0))[both] / PERIOD_S**2
    if (acceleration > arm.ACCELERATION[:6] + 2 * rounding / PERIOD_S**2).any():
        found.append(f"acceleration {acceleration.max():.2f} rad/s^2")
    return found


def moved_at(commands: Commands) -> np.ndarray:
    """-> times [s] of the commands that moved any joint by more than the bus' rounding."""
    if len(commands.times) < 2:
        return np.zeros(0)
    return commands.times[1:][np.abs(np.diff(commands.positions, axis=0)).max(1) > np.radians(0.0015)]


def seconds_to_hold(commands: Commands, since_s: float, now_s: float) -> float | None:
    """-> seconds from a time to the first rest of at least REST_S; None when there has been none yet."""
    times = np.concatenate([[since_s], moved_at(commands), [now_s]])
    rests = np.flatnonzero(np.diff(times) >= REST_S)
    return float(times[rests[0]] - since_s) if len(rests) else None
