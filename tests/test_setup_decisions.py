"""What the set-up decides: which ROS, which Python, which pins, which packages; and what it says when it cannot."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import setup_ros
import setup_system
from setup_ros import Ros, choose_ros
from setup_run import SetupError

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def installation(tmp_path):
    """A make-believe ROS installation: a `ros2` whose first line names a Python."""
    folder = tmp_path / "opt" / "bin"
    folder.mkdir(parents=True)
    ros2 = folder / "ros2"
    ros2.write_text(f"#!{sys.executable}\n")
    ros2.chmod(0o755)
    return ros2


def environment(ros2: Path, distro: str = "jazzy") -> dict[str, str]:
    return {"PATH": f"/nowhere:{ros2.parent}", "ROS_DISTRO": distro}


def test_without_ros_the_wheels_are_used():
    ros, remark = choose_ros({"PATH": "/nowhere"}, ROOT)
    assert ros == Ros("wheels") and not ros.sourced and remark == "" and "ros" in ros.extras


@pytest.mark.parametrize("distro", setup_ros.DISTROS)
def test_a_sourced_installation_takes_the_place_of_the_wheels(installation, distro):
    ros, remark = choose_ros(environment(installation, distro), ROOT)
    assert ros == Ros(distro, installation) and ros.sourced and remark == ""
    assert "ros" not in ros.extras and "colcon" in ros.extras


def test_a_distro_without_its_command_means_the_wheels_and_a_remark():
    ros, remark = choose_ros({"PATH": "/nowhere", "ROS_DISTRO": "jazzy"}, ROOT)
    assert not ros.sourced and "source /opt/ros/jazzy/setup.bash" in remark


@pytest.mark.parametrize("distro", ["humble", "noetic", "nonsense"])
def test_an_unknown_distro_is_refused_with_the_choices(installation, distro):
    with pytest.raises(SetupError, match=f"ROS {distro} is sourced.*jazzy"):
        choose_ros(environment(installation, distro), ROOT)


def test_the_stand_in_is_no_installation(installation):
    inside = installation.parent.parent
    assert not choose_ros(environment(installation), inside)[0].sourced
    assert setup_ros.genuine_ros2(f"{ROOT}/tools/bin", ROOT) is None


@pytest.mark.parametrize(
    ("line", "python"),
    [
        (f"#!{sys.executable}", sys.executable),
        ("#!/usr/bin/env python3", "python3"),
        ("#!/bin/sh", "python3"),
        ("", "python3"),
    ],
)
def test_the_python_of_an_installation_is_that_of_its_command(tmp_path, line, python):
    (tmp_path / "ros2").write_text(line + "\n")
    assert setup_ros.interpreter_of(tmp_path / "ros2", path="/nowhere") == python


def site(tmp_path: Path, *modules: str, numpy: str = "") -> dict[str, str]:
    """A PYTHONPATH on which exactly these modules are found (besides the standard library)."""
    for name in modules:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    if numpy:
        (tmp_path / f"numpy-{numpy}.dist-info").mkdir()
        (tmp_path / f"numpy-{numpy}.dist-info" / "METADATA").write_text(f"Name: numpy\nVersion: {numpy}\n")
    return {"PYTHONPATH": str(tmp_path), "PATH": os.environ["PATH"], "_ROS_WHEELS_BOOTSTRAP_COMPLETE": "1"}


@pytest.fixture
def bare_python(tmp_path):
    """This Python without its site-packages."""
    script = tmp_path / "python3"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    script.chmod(0o755)
    return str(script)


def test_an_installation_is_asked_for_its_numpy(tmp_path, bare_python):
    environ = site(tmp_path, "rclpy", "numpy", numpy="1.26.4")
    assert setup_ros.ask_installation(Ros("jazzy"), bare_python, environ) == "1.26.4"


def test_an_installation_without_a_piece_is_refused_with_its_name(tmp_path, bare_python):
    with pytest.raises(SetupError, match="ros-jazzy-ros-base"):
        setup_ros.ask_installation(Ros("jazzy"), bare_python, site(tmp_path))
    with pytest.raises(SetupError, match="python3-numpy"):
        setup_ros.ask_installation(Ros("jazzy"), bare_python, site(tmp_path, "rclpy"))
    with pytest.raises(SetupError, match="does not run"):
        setup_ros.ask_installation(Ros("jazzy"), str(tmp_path / "no-python"), {})


def test_pins_follow_the_numpy_of_an_installation():
    text = (ROOT / "constraints.txt").read_text()
    assert setup_ros.constraints_for(text, None) == text
    assert setup_ros.constraints_for(text, "2.3.4") == text
    old, new = text.splitlines(), setup_ros.constraints_for(text, "1.26.4").splitlines()
    changed = {after for before, after in zip(old, new, strict=True) if before != after}
    assert changed == {f"{name}=={version}" for name, version in setup_ros.NUMPY_1_PINS.items()}
    with pytest.raises(ValueError, match="numpy"):
        setup_ros.constraints_for("torch==1\n", "1.26.4")


def test_the_wheels_fit_some_machines():
    for python in ((3, 11), (3, 12), (3, 13)):
        setup_ros.check_wheels_fit(python, "Linux", "x86_64")
    for python, system, machine, word in (
        ((3, 10), "Linux", "x86_64", "PYTHON="),
        ((3, 14), "Linux", "x86_64", "got 3.14"),
        ((3, 12), "Linux", "aarch64", "source its setup.bash"),
        ((3, 12), "Darwin", "x86_64", "got Darwin"),
    ):
        with pytest.raises(SetupError, match=word):
            setup_ros.check_wheels_fit(python, system, machine)


def test_apt_is_used_where_it_needs_no_password():
    command = setup_system.install_command(["cmake"], user=0, has_apt=True, has_sudo=False)
    assert command is not None and "sudo" not in command and command[-2:] == ("install", "cmake")
    assert "DEBIAN_FRONTEND=noninteractive" in command
    command = setup_system.install_command(["cmake"], user=1000, has_apt=True, has_sudo=True)
    assert command is not None and command[:2] == ("sudo", "-n")
    assert setup_system.install_command(["cmake"], user=1000, has_apt=True, has_sudo=False) is None
    assert setup_system.install_command(["cmake"], user=0, has_apt=False, has_sudo=False) is None


def missing(monkeypatch, *packages: str) -> None:
    there = [setup_system.Piece(name, name, lambda: False) for name in packages]
    monkeypatch.setattr(setup_system, "pieces", lambda python: tuple(there))


def test_nothing_missing_runs_nothing(monkeypatch):
    missing(monkeypatch)
    monkeypatch.setattr(subprocess, "run", None)
    setup_system.ensure_system(sys.executable)


def test_what_a_person_has_to_install_is_one_line(monkeypatch):
    missing(monkeypatch, "cmake", "libosmesa6")
    monkeypatch.setattr(setup_system, "install_command", lambda *_: None)
    with pytest.raises(SetupError) as error:
        setup_system.ensure_system(sys.executable)
    assert "sudo apt-get install -y cmake libosmesa6" in str(error.value) and "\n" not in str(error.value)


def test_apt_that_fails_is_tried_after_an_update_and_then_reported(monkeypatch):
    missing(monkeypatch, "cmake")
    asked = []
    monkeypatch.setattr(setup_system, "_quiet", lambda command: asked.append(command) or "E: no network")
    monkeypatch.setattr(setup_system, "install_command", lambda *_: ("apt-get", "install", "cmake"))
    with pytest.raises(SetupError, match="apt-get said: E: no network"):
        setup_system.ensure_system(sys.executable)
    assert [command[-1] for command in asked if "apt-get" in command] == ["cmake", "update", "cmake"]


def test_pieces_are_looked_for_on_the_machine():
    seen = {piece.package: piece.present() for piece in setup_system.pieces(sys.executable)}
    assert set(seen) >= {"make", "cmake", "g++", "python3-venv", "python3-dev", "libosmesa6"}
    assert seen["python3-venv"]
