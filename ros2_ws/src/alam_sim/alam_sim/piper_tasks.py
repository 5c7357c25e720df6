"""The four tasks of the real arm (paper, appendix D) on the simulated table: names, instructions, points and time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PiperTask:
    """points: what the protocol gives for all of it; max_steps: control steps until an attempt counts as failed."""

    instruction: str
    points: int
    max_steps: int


TASKS: dict[str, PiperTask] = {
    "insert-cylinder": PiperTask("insert the cylinder into the socket", 5, 900),
    "insert-cube": PiperTask("insert the cube into the socket", 5, 900),
    "stack-cups": PiperTask("stack the cups onto the one in the middle", 10, 1200),
    "fold-towel": PiperTask("fold the towel in half twice", 10, 1200),
}


def check_task(task: str) -> None:
    """Raises ValueError, naming the choices, for a task that is not there."""
    if task not in TASKS:
        raise ValueError(f"task: wanted one of {', '.join(TASKS)}, got {task!r}")
