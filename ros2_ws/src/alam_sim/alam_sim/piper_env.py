"""The Piper's twin at a table as a robot: joint positions in, two views and joint positions out. Pure Python.

Its drives get a set point 200 times a second, as the real ones do. A control step is six and two thirds of these
periods, so the physics counts in 600ths of a second: a period has three of them, a control step twenty, and a view is
of the very moment that its stamp says."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from alam_piper import arm
from alam_piper.twin import TwinDynamics
from alam_sim.arm_actuator import PERIOD_S, ArmActuator
from alam_sim.piper_scene import ASSETS, TABLE, CupsScene, InsertScene, Scene
from alam_sim.piper_tasks import TASKS, check_task
from alam_sim.piper_towel import TowelScene
from alam_sim.rendering import SceneRenderer, refuse_second_world

STEP_TICKS, PERIOD_TICKS = 20, 3  # steps of the physics in a control step, and in PERIOD_S
TIMESTEP_S = 1 / arm.CONTROL_RATE_HZ / STEP_TICKS
STABLE_STEPS = 15  # control steps for which points must stand before they count: half a second
START = np.array([0.0, 0.859, -0.862, 0.0, 1.061, 0.0, 0.07])  # looks down on the table, gripper open
START_SPREAD_RAD = 0.03

SCENES: dict[str, Callable[[], Scene]] = {
    "insert-cylinder": lambda: InsertScene("cylinder"),
    "insert-cube": lambda: InsertScene("cube"),
    "stack-cups": CupsScene,
    "fold-towel": TowelScene,
}
_ENABLED = np.ones(len(arm.NAMES), bool)


class PiperEnv:
    """A task of piper_tasks, observed without privileged state. One may be alive per process (see close)."""

    def __init__(self, task: str) -> None:
        """Raises ValueError for an unknown task, RuntimeError when another world is open or there is no display
        library."""
        check_task(task)
        refuse_second_world()
        self.task = task
        self.instruction, self.max_steps = TASKS[task].instruction, TASKS[task].max_steps
        self.contract = arm.piper_contract()
        self.scene = SCENES[task]()
        world, assets = TABLE + self.scene.world, ASSETS + self.scene.assets
        self.dynamics = TwinDynamics(TIMESTEP_S, world, assets, self.scene.sections)
        camera = self.contract.cameras[0]
        self._renderer = SceneRenderer(self.dynamics.model, camera.source_width, camera.source_height)
        self.steps = 0
        self.reset(0)

    def reset(self, seed: int) -> None:
        """The same seed gives the same episode to the bit, in any process."""
        random = np.random.default_rng(seed)
        start = START.copy()
        start[:6] += random.uniform(-START_SPREAD_RAD, START_SPREAD_RAD, 6)
        self.dynamics.reset(start)
        self.scene.place(random, self.dynamics.model, self.dynamics.data)
        self.dynamics.step(start, _ENABLED, 0.1)  # what stands on the table settles
        self._set_point = start
        self._ticks = 0  # of the physics
        self.points, self._candidate, self._since, self.steps = 0, 0, 0, 0

    def state(self) -> np.ndarray:
        """-> (7,) float64: joint positions [rad] and the gripper's opening [m]; nothing about objects."""
        return self.dynamics.position

    def joints(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """-> position, velocity, effort (7,) of the joints [rad], [rad/s], [N*m] and the gripper [m], [m/s], [N*m]."""
        effort = self.dynamics.effort
        effort[6] *= arm.GRIPPER_LEVER_M
        return self.dynamics.position, self.dynamics.velocity, effort

    def step(self, action: np.ndarray) -> bool:
        """action (7,): joint positions [rad] and opening [m] for the end of this step -> whether all points are made.

        The drives get a line to it, no faster than arm.VELOCITY; what is left of the way stays undone. For scripted
        experts: what a policy wants goes through `actuator`. Raises ValueError unless it is seven finite numbers."""
        action = np.asarray(action, np.float64)
        if action.shape != (len(arm.NAMES),) or not np.isfinite(action).all():
            raise ValueError(f"action: wanted 7 finite numbers, got {np.array2string(action, precision=3)}")
        target, most = np.clip(action, arm.LOW, arm.HIGH), arm.VELOCITY * PERIOD_S
        end = (self.steps + 1) * STEP_TICKS

        def line(period: int) -> np.ndarray:
            left = math.ceil(end / PERIOD_TICKS - period)  # periods that begin in this step
            return self._set_point + np.clip((target - self._set_point) / left, -most, most)

        return self.follow(line)

    def follow(self, set_point: Callable[[int], np.ndarray]) -> bool:
        """One control step; for each period that begins in it `set_point` gets its number (counted from the reset, each
        PERIOD_S) and says where the joints (7,) are to be from then on -> whether all points are made."""
        end = (self.steps + 1) * STEP_TICKS
        while self._ticks < end:
            period, into = divmod(self._ticks, PERIOD_TICKS)
            if into == 0:
                self._set_point = set_point(period)
            ticks = min(PERIOD_TICKS - into, end - self._ticks)
            self.dynamics.step(self._set_point, _ENABLED, ticks * TIMESTEP_S)
            self._ticks += ticks
        self.steps += 1
        self._count_points()
        return self.points == TASKS[self.task].points

    def render(self) -> dict[str, np.ndarray]:
        """-> both views, (480, 640, 3) uint8 RGB."""
        return {role: self._renderer.frame(self.dynamics.data, role).copy() for role in self.contract.roles}

    def field_of_view_rad(self, role: str) -> float:
        """-> vertical field of view [rad] of the camera behind a role."""
        return math.radians(float(self.dynamics.model.camera(role).fovy[0]))

    def actuator(self, max_age_s: float = math.inf) -> ArmActuator:
        """-> what executes chunks here: the real arm's trajectories and gate; max_age_s: of an observation."""
        return ArmActuator(max_age_s)

    def close(self) -> None:
        self._renderer.close()

    def _count_points(self) -> None:
        """Points count once they have stood for STABLE_STEPS."""
        points = self.scene.points(self.dynamics.model, self.dynamics.data)
        self._since = self._since + 1 if points == self._candidate else 0
        self._candidate = points
        if self._since >= STABLE_STEPS:
            self.points = points
