"""The MetaWorld node: MetaWorld's 50 tasks behind the robot interface."""

from __future__ import annotations

import sys

from alam_common.base_node import run_node
from alam_sim.metaworld_env import MAX_STEPS, MetaWorldEnv, metaworld_contract
from alam_sim.metaworld_tasks import INSTRUCTIONS, check_task
from alam_sim.settings import PARAMETERS
from alam_sim.sim_node import SimulatedRobot, SimulatedRobotNode

NAME = "metaworld"


def make() -> SimulatedRobotNode:
    tasks = {task: (instruction, MAX_STEPS) for task, instruction in INSTRUCTIONS.items()}
    robot = SimulatedRobot(NAME, metaworld_contract(), MetaWorldEnv, tasks, check_task, PARAMETERS)
    return SimulatedRobotNode(robot)


def main() -> None:
    sys.exit(run_node(NAME, make, threads=3))


if __name__ == "__main__":
    main()
