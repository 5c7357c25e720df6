"""Which ROS 2 the set-up uses: a sourced installation when there is one, else the wheels from PyPI.

Everything that decides is a pure function of an environment, so the tests cover it without a ROS installation.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from setup_run import SetupError

DISTROS = ("jazzy",)  # on Python 3.12, for which constraints.txt was resolved too
WHEELS = "wheels"  # what stands in place of a distribution's name when none is sourced
WHEEL_PYTHONS = ((3, 11), (3, 13))  # first and last CPython that constraints.txt was resolved for

# A ROS installation whose messages were compiled against numpy 1 (Ubuntu 24.04: 1.26) cannot run beside numpy 2. These
# pins take the place of those in constraints.txt there: the newest releases that run beside numpy 1.26 (pyarrow's
# metadata does not say so; it refuses when imported). The rest of constraints.txt resolves and runs with them as it is.
NUMPY_1_PINS = {
    "numpy": "1.26.4",
    "ml-dtypes": "0.5.4",
    "opencv-python-headless": "4.11.0.86",
    "pyarrow": "25.0.1",
}


@dataclass(frozen=True)
class Ros:
    """The ROS 2 in use. `ros2` is the sourced installation's command, None with the wheels."""

    distro: str
    ros2: Path | None = None

    @property
    def sourced(self) -> bool:
        """Whether an installation is used in place of the wheels."""
        return self.ros2 is not None

    @property
    def extras(self) -> tuple[str, ...]:
        """The extras of pyproject.toml that the set-up installs."""
        return ("colcon" if self.sourced else "ros", "robot", "sim", "train", "export", "dev")


def choose_ros(environ: Mapping[str, str], root: Path) -> tuple[Ros, str]:
    """Environment and repository root -> the ROS 2 to use, and a remark for the user ("" when there is none).

    A `ros2` inside the repository is the stand-in and counts for nothing. Raises SetupError for a sourced distribution
    that this repository does not know.
    """
    distro = environ.get("ROS_DISTRO", "")
    ros2 = genuine_ros2(environ.get("PATH", ""), root)
    if not distro or ros2 is None:
        remark = ""
        if distro:
            remark = (
                f"ROS_DISTRO is {distro} but no ros2 is on the PATH: using the ROS 2 wheels from PyPI "
                f"(to use the installation: source /opt/ros/{distro}/setup.bash)"
            )
        return Ros(WHEELS), remark
    if distro not in DISTROS:
        raise SetupError(
            f"ROS {distro} is sourced (ROS_DISTRO), wanted one of {', '.join(DISTROS)}: source one of those, "
            "or run this from a shell without ROS to use the ROS 2 wheels from PyPI"
        )
    return Ros(distro, ros2), ""


def genuine_ros2(path: str, root: Path) -> Path | None:
    """The first `ros2` on a PATH that is not inside the repository."""
    folders = [folder for folder in path.split(":") if folder]
    for folder in folders:
        found = shutil.which("ros2", path=folder)
        if found and not Path(found).resolve().is_relative_to(root.resolve()):
            return Path(found)
    return None


def interpreter_of(script: Path, path: str) -> str:
    """The Python that a ROS installation was made for: the one in the first line of its `ros2`; else python3."""
    with script.open("rb") as file:
        words = file.readline(200).decode(errors="replace").removeprefix("#!").split()
    if words and Path(words[0]).name == "env":
        words = words[1:]
    name = words[0] if words and Path(words[0]).name.startswith("python") else "python3"
    return shutil.which(name, path=path) or name


def ask_installation(ros: Ros, python: str, environ: Mapping[str, str]) -> str:
    """-> the version of numpy that a sourced installation's Python has. Raises SetupError when a piece is missing."""
    question = (
        "import importlib.metadata as m, importlib.util as u\n"
        "print('rclpy' if u.find_spec('rclpy') else '-', m.version('numpy') if u.find_spec('numpy') else '-')"
    )
    try:
        asked = subprocess.run([python, "-c", question], env=dict(environ), capture_output=True, text=True, check=True)
        rclpy, numpy = asked.stdout.split()
    except (OSError, ValueError, subprocess.CalledProcessError):
        raise SetupError(f"ROS {ros.distro} is sourced, but its Python ({python}) does not run") from None
    if rclpy == "-":
        raise SetupError(
            f"ROS {ros.distro} is sourced, but its Python ({python}) finds no rclpy: install ros-{ros.distro}-ros-base"
        )
    if numpy == "-":
        raise SetupError(f"ROS {ros.distro} is sourced, but its Python ({python}) has no numpy: install python3-numpy")
    return numpy


def check_wheels_fit(python: tuple[int, int], system: str, machine: str) -> None:
    """Raises SetupError where there are no ROS 2 wheels: they are made for x86-64 Linux and some CPythons."""
    first, last = WHEEL_PYTHONS
    if (system, machine) != ("Linux", "x86_64"):
        raise SetupError(
            f"the ROS 2 wheels exist for Linux on x86_64, got {system} on {machine}: "
            "install ROS 2 Jazzy there, source its setup.bash and run this again"
        )
    if not first <= python <= last:
        raise SetupError(
            f"wanted Python {first[0]}.{first[1]} to {last[0]}.{last[1]}, got {python[0]}.{python[1]}: "
            "name another one with `make PYTHON=python3.12 ...`"
        )


def constraints_for(text: str, numpy: str | None) -> str:
    """constraints.txt -> the same, fit for a sourced installation with that numpy (None: the wheels, unchanged)."""
    if numpy is None or not numpy.startswith("1."):
        return text
    for name, version in NUMPY_1_PINS.items():
        text, found = re.subn(rf"(?m)^{re.escape(name)}==.*$", f"{name}=={version}", text)
        if found != 1:
            raise ValueError(f"constraints.txt: wanted one pin of {name}, got {found}")
    return text
