"""The Piper's MuJoCo twin at a table, behind the same robot interface as the real arm."""

from __future__ import annotations

import sys

from alam_common.base_node import run_node
from alam_piper.arm import piper_contract
from alam_sim.piper_tasks import TASKS, check_task
from alam_sim.settings import PIPER_PARAMETERS
from alam_sim.sim_node import RenderedEnv, SimulatedRobot, SimulatedRobotNode

NAME = "piper_mujoco"


def make_env(task: str) -> RenderedEnv:
    """Raises RuntimeError where MuJoCo or its display library is missing."""
    try:
        from alam_sim.piper_env import PiperEnv
    except (ImportError, AttributeError) as error:  # PyOpenGL without libOSMesa fails inside its loader
        raise RuntimeError(
            f"MuJoCo: wanted the packages of the `sim` extra and libosmesa6, got: {error}; run `make setup`"
        ) from None
    return PiperEnv(task)


def make() -> SimulatedRobotNode:
    tasks = {name: (task.instruction, task.max_steps) for name, task in TASKS.items()}
    robot = SimulatedRobot(NAME, piper_contract(), make_env, tasks, check_task, PIPER_PARAMETERS, jointed=True)
    return SimulatedRobotNode(robot)


def main() -> None:
    sys.exit(run_node(NAME, make, threads=3))


if __name__ == "__main__":
    main()
