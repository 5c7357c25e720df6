"""The whole graph of the arm under test: `ros2 launch ... robot:=piper emulate:=true` on an emulated arm that outlives
it, a watch on the bus, one on the memory of the arm's process, an operator."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
import yaml
from alam_msgs.action import RunTask
from alam_msgs.msg import ArmStatus
from arm_memory import MemoryWatch
from bus_watch import BusWatch, Frame, forbidden, kind, unexplained
from diagnostic_msgs.msg import DiagnosticArray
from judge import broken_limits, jumps, powering, triplets
from piper_rig import Emulator
from rclpy.action import ActionClient
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions
from std_srvs.srv import SetBool, Trigger

from alam_common import topics
from alam_common.base_node import subscribe
from alam_common.graph import Graph
from alam_piper.emulator_node import tell
from alam_piper.geometry import piper_geometry, piper_limits

CONFIG = Path(__file__).resolve().parents[2] / "ros2_ws/src/alam_bringup/config/piper/robot.yaml"
PROCESSES = {  # what a person would call each process -> what its command line holds
    "policy": "policy_node",
    "driver": "piper_node",
    "control process": "arm_process_io",
    "third-person camera": "camera_third_person",
    "wrist camera": "camera_wrist",
    "launcher": "ros2 launch",
}
LAST_S = 0.02  # of the last command of a process that is killed


def without_emulator(folder: Path) -> Path:
    """-> a prefix for AMENT_PREFIX_PATH whose alam_bringup starts no emulator: the rig has one that outlives a launch
    that is killed. Everything else in it is the installed one's."""
    prefixes = [Path(prefix) / "share/alam_bringup" for prefix in os.environ["AMENT_PREFIX_PATH"].split(":")]
    share = next(path for path in prefixes if path.is_dir())
    made = folder / "share/alam_bringup"
    (folder / "share/ament_index/resource_index/packages").mkdir(parents=True)
    (folder / "share/ament_index/resource_index/packages/alam_bringup").touch()
    shutil.copytree(share / "launch", made / "launch")
    for name in ("config", "checkpoints"):
        (made / name).symlink_to(share / name)
    file = made / "launch/robot_piper.launch.py"
    text = file.read_text()
    assert text.count("IfCondition(emulate)") == 1, f"wanted one emulator in {file}"
    file.write_text(text.replace("IfCondition(emulate)", 'IfCondition("false")'))
    return folder


@dataclass
class Heard:
    """Everything the graph said, with the time of hearing."""

    status: list[tuple[float, ArmStatus]] = field(default_factory=list)
    words: list[tuple[float, str, str]] = field(default_factory=list)  # time, node, message
    figures: list[tuple[float, dict[str, str]]] = field(default_factory=list)  # time, values of the arm's diagnostics


class Rig:
    """A graph that runs, with the arm enabled and a task under way once `begin` has returned. A context manager."""

    def __init__(self, bundle: Path, folder: Path) -> None:
        self._sockets = tempfile.TemporaryDirectory(prefix="alam-faults-")  # the path of a socket must be short
        self.emulator = Emulator(Path(self._sockets.name))
        self.emulator.start()
        self.channel = self.emulator.channel
        self._bundle, self._folder = bundle, folder
        self._prefix = without_emulator(folder / "prefix")
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
        self.watch = BusWatch(self.channel)
        self.watch.wait()
        self.memory = MemoryWatch(lambda: self.pids("control process"))
        self.killed: list[tuple[float, str]] = []  # time, process
        self.resets: list[float] = []  # times at which a person called /robot/reset
        self._launched = 0.0
        self._goal: Any = None

    def launch(self) -> None:
        log = self._folder / f"graph-{len(self._graphs)}.log"
        arguments = {"robot": "piper", "emulate": "true", "bundle": str(self._bundle), "can": self.channel}
        self._launched = time.monotonic()
        path = os.environ["AMENT_PREFIX_PATH"]
        os.environ["AMENT_PREFIX_PATH"] = f"{self._prefix}:{path}"
        try:
            self._graphs.append(Graph(arguments, log))
        finally:
            os.environ["AMENT_PREFIX_PATH"] = path

    @property
    def graph(self) -> Graph:
        return self._graphs[-1]

    def begin(self) -> None:
        """Enable the arm, send it home, start a task; returns once the arm moves. Fails the test when it does not."""
        self.until(self._action.server_is_ready, 60, "/run_task")
        self.until(lambda: self.mode() in ("disabled", "holding", "moving", "stopped"), 60, "a mode of the arm")
        self.until(self._powered, 40, "the arm to take power")
        self.until(lambda: self.mode() in ("holding", "moving"), 30, "an arm that is enabled")
        self.until(self._home, 70, "the arm at home")  # from where it may have fallen
        self.start_task()
        self.until(self.moving, 60, "an arm that moves")
        began = time.monotonic()
        self.until(lambda: time.monotonic() - began > 0.7, 5, "")  # well away from its beginning, where power came

    def _home(self) -> bool:
        answer = self.call("/robot/home")
        return answer.success or "task" in answer.message  # the one of the row before goes on

    def _powered(self) -> bool:
        """What a person does until it has power: reset what is stopped, enable what is disabled."""
        if self.mode() == "stopped":
            self.resets.append(time.monotonic())
            self.call("/robot/reset")  # refused while it brakes
        return self.mode() in ("holding", "moving") or self.call("/robot/enable", True).success

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
        self.resets.append(time.monotonic())
        response = self.call("/robot/reset")
        assert response.success, response.message

    def tell(self, text: str) -> None:
        """A fault, by the emulator's own control."""
        assert tell(self.channel, text) == 0

    def mode(self) -> str:
        """-> what the graph that was launched last has said last; "" before."""
        if not self.heard.status or self.heard.status[-1][0] < self._launched:
            return ""
        return self.heard.status[-1][1].mode

    def moving(self) -> bool:
        """Has the bus got commands that differ, in the last half second?"""
        _, positions = self.sent(time.monotonic() - 0.5)
        return self.mode() == "moving" and len(positions) > 10 and np.ptp(positions, 0).max() > 1e-4

    def frames(self, since_s: float) -> list[Frame]:
        """-> what the bus has got since a time (time.monotonic())."""
        return [frame for frame in list(self.watch.frames) if frame.at_s >= since_s]

    def sent(self, since_s: float) -> tuple[np.ndarray, np.ndarray]:
        """-> times (N,) and positions (N, 6) [rad] of the joint commands that the bus has got since a time."""
        return triplets(self.frames(since_s))

    def figure(self, name: str) -> int:
        """-> a counter of the arm's diagnostics, as last heard; 0 before."""
        return int(self.heard.figures[-1][1].get(name, "0")) if self.heard.figures else 0

    def broken(self, since_s: float) -> list[str]:
        """-> what went over the bus since a time and should not have, in words: motion that the gate has not passed,
        frames that take power (but for a reset that a person asked for), broken limits, motions that begin away from
        the arm."""
        frames = self.frames(since_s)
        time.sleep(0.05)  # a command is shared just after it is sent
        commands, measured = self.memory.commands(since_s - 1.0), self.memory.measured(since_s - 1.0)
        # Killed between sending a command and sharing it, the process takes its last one with it.
        ends = [at for at, process in self.killed if process == "control process"]
        shared = [f for f in frames if not any(at - LAST_S < f.at_s < at + LAST_S for at in ends)]
        passed = [(row[1:8], row[8:15]) for row in commands]
        assert len(passed) > 100 and len(frames) > 300, "wanted an arm that was driven and watched"
        found = forbidden(frames, ("reset",))
        found += [f"reset before a person asked: {f.at_s}" for f in frames if kind(f) == "reset" and not self._asked(f)]
        found += [f"not passed by the gate: {words}" for words in unexplained(shared, passed)]
        power = powering([frame.at_s for frame in self.frames(since_s - 1.0) if kind(frame) == "enable"])
        limits = piper_limits(self._speed)
        found += broken_limits(commands[commands[:, 0] >= since_s], measured, power, limits, piper_geometry())
        return found + jumps(*triplets(frames), measured)

    def _asked(self, frame: Frame) -> bool:
        return any(at < frame.at_s < at + 2.0 for at in self.resets)

    @property
    def _speed(self) -> float:
        return float(yaml.safe_load(CONFIG.read_text())["piper"]["ros__parameters"]["speed"])

    def said(self, since_s: float) -> str:
        """-> every mode, reason, fault and diagnostic since a time, one line each, no line twice."""
        status = [m for at, m in list(self.heard.status) if at >= since_s]
        lines = [m.reason if m.reason.startswith(m.mode) else f"{m.mode}: {m.reason}" for m in status]
        lines += [word for m in status for word in m.faults]
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
        self.killed.append((time.monotonic(), process))
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
        self.watch.close()
        self.memory.close()
        self.emulator.kill()
        self._sockets.cleanup()
        self._executor.shutdown(timeout_sec=1.0)
        self._thread.join(1.0)
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        now = time.monotonic()
        self.heard.words += [(now, status.name, status.message) for status in message.status]
        for status in message.status:
            if status.name == "piper":
                self.heard.figures.append((now, {pair.key: pair.value for pair in status.values}))

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            pass
        except Exception as error:
            print(f"fault_operator: {error}", file=sys.stderr)
