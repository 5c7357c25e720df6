"""`ros2 launch` and `ros2 run`, and one sentence for every other verb."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ros2_standin import ament
from ros2_standin.refusal import INSTALL, Refused, listed, refuse

USAGE = """usage: ros2 launch PACKAGE FILE [NAME:=VALUE ...] [--show-args]
       ros2 launch PATH [NAME:=VALUE ...] [--show-args]
       ros2 run PACKAGE EXECUTABLE [ARGUMENT ...]

A small stand-in for machines without a ROS 2 installation; it knows these two verbs only."""
API = Path(__file__).parent / "api"
SHOW = ("-s", "--show-args", "--show-arguments")


def main(arguments: Sequence[str]) -> int:
    """-> the exit code. Hands over to a genuine `ros2` when there is one."""
    try:
        hand_over(arguments)
        if not arguments or arguments[0] in ("-h", "--help"):
            print(USAGE)
            return 0 if arguments else 1
        verb, *rest = arguments
        if verb not in ("launch", "run"):
            raise Refused(
                f"ros2 {verb}: only `ros2 launch` and `ros2 run` are here; for the full ros2 install ROS 2 ({INSTALL}) "
                "and source its setup file."
            )
        if "-h" in rest[:1] or "--help" in rest[:1]:
            print(USAGE)
            return 0
        return launch(rest) if verb == "launch" else run(rest)
    except Refused as refusal:
        print(f"ros2: {refusal}", file=sys.stderr)
        return 1


def hand_over(arguments: Sequence[str]) -> None:
    """Become the genuine `ros2` if it is on PATH. Raises Refused when only its Python package is there."""
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        other = Path(folder or ".") / "ros2"
        if other.is_file() and os.access(other, os.X_OK) and not _is_stand_in(other):
            os.execv(other, [str(other), *arguments])
    elsewhere = [entry for entry in sys.path if Path(entry or ".").resolve() != API]
    spec = importlib.machinery.PathFinder.find_spec("launch", elsewhere)
    if spec is not None and spec.origin and Path(spec.origin).with_name("launch_service.py").is_file():
        raise Refused(
            f"A genuine `launch` is installed ({Path(spec.origin).parent}) but no genuine `ros2` is on PATH: "
            "source the setup file of that ROS 2 installation."
        )


def _is_stand_in(program: Path) -> bool:
    """Is it this script, or that of another checkout?"""
    with program.open("rb") as file:
        return b"ros2_standin" in file.read(2000)


def launch(arguments: Sequence[str]) -> int:
    """ros2 launch: visit the whole description, and only then start its processes."""
    for option in arguments:
        if option.startswith("-") and option not in SHOW:
            raise refuse(f"ros2 launch {option}", ["--show-args"])
    places = [argument for argument in arguments if argument not in SHOW and ":=" not in argument]
    if len(places) == 2:
        path = ament.launch_file(*places)
    elif len(places) == 1:
        path = Path(places[0])
    else:
        raise Refused(f"ros2 launch: wanted PACKAGE FILE or PATH, and NAME:=VALUE; got {' '.join(places) or 'none'!r}.")

    offer_api()
    try:
        from launch.actions import IncludeLaunchDescription

        from ros2_standin import launch_file
        from ros2_standin.context import Argument, LaunchContext, Plan
        from ros2_standin.supervisor import Supervisor
    except ModuleNotFoundError as error:
        raise Refused(f"{error} for {sys.executable}: run `source tools/env.sh` (after `make setup`) first.") from None

    given = launch_file.parse_arguments(argument for argument in arguments if ":=" in argument)
    plan = Plan(log=lambda level, text: print(f"[{level}] [launch]: {text}", flush=True))
    context = LaunchContext(plan)
    door: Any = IncludeLaunchDescription(str(path), launch_arguments=given.items())
    if any(option in arguments for option in SHOW):
        found: list[Argument] = []
        door.declare(context, found, False)
        print(launch_file.show(found))
        return 0
    try:
        door.visit(context)
        for name in given:
            if name not in plan.declared:
                raise Refused(f"{path.name} has no argument {name!r}; it has: {listed(plan.declared)}.")
        return Supervisor(plan, context).run()
    finally:
        context._clean()


def run(arguments: Sequence[str]) -> int:
    """ros2 run: become the executable."""
    if len(arguments) < 2 or arguments[0].startswith("-"):
        raise Refused(f"ros2 run: wanted PACKAGE EXECUTABLE [ARGUMENT ...], got {' '.join(arguments) or 'nothing'!r}.")
    program = ament.executable(arguments[0], arguments[1])
    try:
        os.execv(program, [str(program), *arguments[2:]])
    except OSError as error:
        raise Refused(f"{program} cannot be started: {error}.") from None


def offer_api() -> None:
    """Make the stand-in's `launch` and `launch_ros` importable, in this process only."""
    sys.path.insert(0, str(API))
    sys.meta_path.append(_Rest())


class _Rest(importlib.abc.MetaPathFinder):
    """Asked last: a module of the launch family that is not here is refused by name."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        family = fullname.split(".")[0]
        if family in ("launch", "launch_ros", "launch_xml", "launch_yaml", "launch_testing", "launch_testing_ros"):
            raise refuse(f"import {fullname}")
