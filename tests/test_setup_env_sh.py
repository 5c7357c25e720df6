"""tools/env.sh, sourced in a make-believe checkout: paths, order, what wins, and what is left alone."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ENV = Path(__file__).resolve().parent.parent / "tools" / "env.sh"


@pytest.fixture
def tree(tmp_path):
    """A checkout in a folder with a space in its name: set-up done, one package built."""
    root = tmp_path / "my checkout"
    for folder in (
        *(".venv/bin", ".venv/lib/python3.12/site-packages/ros_rcl.libs", "tools/bin"),
        *("ros2_ws/install/one/share/one", "ros2_ws/install/one/lib/python3.12/site-packages", "ros2_ws/src/one/one"),
    ):
        (root / folder).mkdir(parents=True)
    for file in (".venv/bin/python", "tools/bin/ros2"):
        (root / file).write_text("#!/bin/sh\n")
        (root / file).chmod(0o755)
    (root / "ros2_ws/src/one/one/__init__.py").touch()
    shutil.copy(ENV, root / "tools" / "env.sh")
    return root


def source(tree: Path, times: int = 1, folder: Path = Path("/"), **environ: str) -> dict[str, str]:
    """Source env.sh under `set -eu` in a clean environment; -> the environment afterwards."""
    script = "set -eu; " + 'source "$0"; ' * times + "env -0"
    bash = ["bash", "-c", script, str(tree / "tools" / "env.sh")]
    clean = {"PATH": "/usr/bin:/bin", "HOME": "/"} | environ
    done = subprocess.run(bash, env=clean, cwd=folder, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return dict(entry.split("=", 1) for entry in done.stdout.split("\0") if "=" in entry)


def test_with_the_wheels_everything_is_on_the_paths(tree):
    got = source(tree)
    assert got["PATH"].split(":") == [f"{tree}/.venv/bin", "/usr/bin", "/bin", f"{tree}/tools/bin"]
    assert got["AMENT_PREFIX_PATH"].split(":") == [f"{tree}/ros2_ws/install/one", f"{tree}/.venv"]
    assert got["CMAKE_PREFIX_PATH"] == f"{tree}/.venv"
    assert got["LD_LIBRARY_PATH"].split(":") == [
        f"{tree}/ros2_ws/install/one/lib",
        f"{tree}/.venv/lib",
        f"{tree}/.venv/lib/python3.12/site-packages/ros_rcl.libs",
    ]
    sources = [f"{tree}/ros2_ws/src/one", f"{tree}/ros2_ws/install/one/lib/python3.12/site-packages"]
    assert got["PYTHONPATH"].split(":") == sources
    assert got["_ROS_WHEELS_BOOTSTRAP_COMPLETE"] == "1" and got["VIRTUAL_ENV"] == f"{tree}/.venv"
    assert got["MUJOCO_GL"] == "osmesa" and got["LP_NUM_THREADS"] == "1"
    assert got["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST" and got["ALAM_CHECKPOINTS"] == f"{tree}/checkpoints"


def test_sourcing_again_and_from_elsewhere_changes_nothing(tree, tmp_path):
    once = source(tree)
    assert source(tree, times=2) | {"PWD": "/"} == once
    assert source(tree, folder=tmp_path) | {"PWD": "/"} == once


def test_what_the_user_has_set_stays(tree):
    own = {
        "MUJOCO_GL": "egl",
        "LP_NUM_THREADS": "4",
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET",
        "ROS_DOMAIN_ID": "42",
        "ALAM_CHECKPOINTS": "/mine",
    }
    got = source(tree, **own, LD_LIBRARY_PATH="/mine/lib", PYTHONPATH="/mine/python")
    assert {name: got[name] for name in own} == own
    assert got["LD_LIBRARY_PATH"].endswith(":/mine/lib") and got["PYTHONPATH"].endswith(":/mine/python")


@pytest.mark.parametrize("display", ["DISPLAY", "WAYLAND_DISPLAY"])
def test_a_display_changes_no_pixel(tree, display):
    assert source(tree, **{display: ":0"})["MUJOCO_GL"] == "osmesa"


def test_a_sourced_installation_is_used_and_its_ros2_called(tree, tmp_path):
    genuine = tmp_path / "opt" / "ros" / "bin"
    genuine.mkdir(parents=True)
    (genuine / "ros2").write_text("#!/bin/sh\n")
    (genuine / "ros2").chmod(0o755)
    got = source(
        tree,
        ROS_DISTRO="jazzy",
        PATH=f"{genuine}:/usr/bin:/bin",
        AMENT_PREFIX_PATH="/opt/ros",
        PYTHONPATH="/opt/ros/python",
    )
    assert got["PATH"].split(":") == [f"{tree}/.venv/bin", str(genuine), "/usr/bin", "/bin"]
    assert got["AMENT_PREFIX_PATH"].split(":") == [f"{tree}/ros2_ws/install/one", "/opt/ros"]
    assert got["PYTHONPATH"].split(":")[-1] == "/opt/ros/python"
    assert "_ROS_WHEELS_BOOTSTRAP_COMPLETE" not in got and "CMAKE_PREFIX_PATH" not in got
    assert got["LD_LIBRARY_PATH"] == f"{tree}/ros2_ws/install/one/lib"


def test_the_stand_in_does_not_pass_for_an_installation(tree):
    again = source(tree, ROS_DISTRO="jazzy", PATH=f"/usr/bin:/bin:{tree}/tools/bin")
    assert again["_ROS_WHEELS_BOOTSTRAP_COMPLETE"] == "1"


def test_without_a_set_up_it_says_what_to_run(tree):
    os.remove(tree / ".venv/bin/python")
    bash = ["bash", "-c", 'source "$0"; echo "status $?"', str(tree / "tools" / "env.sh")]
    done = subprocess.run(bash, capture_output=True, text=True)
    assert done.stdout == "status 1\n" and "make setup" in done.stderr and done.stderr.count("\n") == 1
