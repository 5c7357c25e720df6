"""A made-up ament prefix in a temporary folder, and a running `ros2` of tools/bin whose output can be waited for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROS2 = ROOT / "tools" / "bin" / "ros2"
PATIENCE_S = 20.0
IMPORTS = """\
from launch import LaunchDescription
from launch.actions import *
from launch.conditions import *
from launch.event_handlers import *
from launch.launch_description_sources import *
from launch.substitutions import *
from launch_ros.actions import *
from launch_ros.parameter_descriptions import *
from launch_ros.substitutions import *
"""


def until(condition, what: str, patience_s: float = PATIENCE_S):
    """-> the first true value of condition(). Fails the test when there is none in time."""
    end = time.monotonic() + patience_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"waited {patience_s} s for {what}"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Is there a process of this id that is not a zombie?"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


class Prefix:
    """<folder> as an ament prefix with packages, executables and launch files. On exit, what still runs is ended."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[Running] = []
        self.env = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(folder),
            "TMPDIR": str(folder),
            "AMENT_PREFIX_PATH": str(folder),
            "_ROS_WHEELS_BOOTSTRAP_COMPLETE": "1",
            "LD_LIBRARY_PATH": os.environ.get("LD_LIBRARY_PATH", str(folder)),
        }
        self.package("demo")

    def package(self, name: str) -> None:
        marker = self.folder / "share/ament_index/resource_index/packages" / name
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
        (self.folder / "share" / name).mkdir(exist_ok=True)
        (self.folder / "lib" / name).mkdir(parents=True, exist_ok=True)

    def executable(self, name: str, code: str, package: str = "demo") -> None:
        """A Python script; it starts without site packages, so quickly."""
        path = self.folder / "lib" / package / name
        path.write_text(f"#!{sys.executable} -S\n{textwrap.dedent(code)}")
        path.chmod(0o755)

    def launch_file(self, *entities: str, name: str = "demo.launch.py", before: str = "") -> Path:
        """A launch file whose description holds these entities, written as Python expressions."""
        body = ",\n        ".join(entities)
        text = (
            f"{IMPORTS}{before}\ndef generate_launch_description():\n    return LaunchDescription([\n        {body}])\n"
        )
        path = self.folder / "share/demo" / name
        path.write_text(text)
        return path

    def start(self, *arguments: str, **env: str) -> Running:
        """Start `ros2 ARGUMENTS`."""
        self.started.append(Running([sys.executable, str(ROS2), *arguments], {**self.env, **env}, self.folder))
        return self.started[-1]

    def ros2(self, *arguments: str, **env: str) -> Running:
        """Run `ros2 ARGUMENTS` to its end."""
        running = self.start(*arguments, **env)
        running.end()
        return running

    def launch(self, *arguments: str, **env: str) -> Running:
        """Run `ros2 launch demo demo.launch.py ARGUMENTS` to its end."""
        return self.ros2("launch", "demo", "demo.launch.py", *arguments, **env)

    def __enter__(self) -> Prefix:
        return self

    def __exit__(self, *_: object) -> None:
        for running in self.started:
            running.process.kill()  # nothing to do for one that has ended; of the others the guard ends the rest
            running.process.wait()


class Running:
    """A started command: its lines as they come, its exit code."""

    def __init__(self, command: list[str], env: dict[str, str], folder: Path) -> None:
        self.process = subprocess.Popen(
            command,
            env=env,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.pid = self.process.pid
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def line(self, part: str) -> str:
        """-> the first line with `part` in it, as soon as it comes."""
        return until(
            lambda: next((line for line in list(self.lines) if part in line), None), f"{part!r} in:\n{self.text}"
        )

    def pid_of(self, label: str) -> int:
        return int(self.line(f"[{label}]: process started with pid").rpartition("[")[2].rstrip("]"))

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self, patience_s: float = PATIENCE_S) -> int:
        """-> the exit code, once it has ended and all output is here."""
        try:
            self.process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"still running after {patience_s} s:\n{self.text}") from None
        self._reader.join(patience_s)
        return self.process.returncode

    def interrupt(self) -> int:
        """Ctrl-C; -> the exit code."""
        self.signal(signal.SIGINT)
        return self.end()
