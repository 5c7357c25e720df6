"""Reading a launch file, and what its arguments are."""

from __future__ import annotations

import traceback
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ros2_standin.context import Argument
from ros2_standin.refusal import Refused, choices, listed, refuse


def load(path: Path) -> Any:
    """-> the LaunchDescription of a Python launch file. Raises Refused with the file and line of what went wrong."""
    if not path.is_file():
        there = sorted(other.name for other in path.parent.glob("*.launch.py")) if path.parent.is_dir() else []
        raise Refused(f"There is no launch file {path}; launch files beside it: {listed(there)}.")
    if path.suffix != ".py":
        raise refuse(f"Launch file {path.name} (not Python)")
    module = types.ModuleType(path.name.replace(".", "_"))
    module.__file__ = str(path)
    try:
        exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), module.__dict__)
        if not hasattr(module, "generate_launch_description"):
            raise Refused(f"Launch file {path} does not define generate_launch_description().")
        return module.generate_launch_description()
    except Refused as refusal:
        raise Refused(f"{_place(refusal, path)}{refusal}") from None
    except Exception as error:
        raise Refused(f"{_place(error, path) or f'{path}: '}{type(error).__name__}: {error}") from None


def _place(error: Exception, path: Path) -> str:
    """-> "FILE:LINE: " of the last step of the traceback inside the file, or ""."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"{path.name}:{lines[-1]}: " if lines else ""


def parse_arguments(texts: Iterable[str]) -> dict[str, str]:
    """["name:=value", ...] -> {name: value}, the last one wins. Raises Refused for anything else."""
    arguments = {}
    for text in texts:
        name, separator, value = text.partition(":=")
        if not separator or not name:
            raise Refused(f"Launch argument: wanted NAME:=VALUE, got {text!r}.")
        arguments[name] = value
    return arguments


def show(arguments: Iterable[Argument]) -> str:
    """Arguments -> what --show-args prints; of two declarations of one name the first is told."""
    lines = ["Arguments (pass arguments as '<name>:=<value>'):"]
    unique = {argument.name: argument for argument in reversed(list(arguments))}
    for argument in reversed(list(unique.values())):
        lines += ["", f"    '{argument.name}':{'*' if argument.conditional else ''}"]
        one_of = f"; one of: {choices(argument.choices)}" if argument.choices else ""
        lines.append(f"        {argument.description}{one_of}")
        if argument.default is not None:
            lines.append(f"        (default: {argument.default!r})")
    if not unique:
        lines += ["", "  No arguments."]
    if any(argument.conditional for argument in unique.values()):
        lines += ["", "* argument(s) which are only used if specific conditions occur"]
    return "\n".join(lines)
