"""One MetaWorld task as a robot: two views, 4-D proprioception, 4-D actions. Pure Python; used by training,
evaluation and the ROS node alike.

MetaWorld's own rendering and seeding are bypassed: `SceneRenderer` (10x faster in software), and `seeded_rand_vec` for
exact episodes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from alam_models.contract import Camera, Channel, Contract
from alam_sim.actuator import ActionActuator
from alam_sim.metaworld_tasks import INSTRUCTIONS, TASKS, check_task
from alam_sim.rendering import SceneRenderer, no_display, refuse_second_world

__all__ = ["INSTRUCTIONS", "TASKS", "MetaWorldEnv", "metaworld_contract"]

CONTROL_RATE_HZ = 80.0
MAX_STEPS = 500  # MetaWorld's own max_path_length
FRAME_SIZE = 128  # [px] of both views
THIRD_PERSON_POSITION = (0.75, 0.075, 0.7)  # [m] of corner2, as in common MetaWorld VLA protocols

_CAMERAS = {"third_person": "corner2", "wrist": "gripperPOV"}


def metaworld_contract() -> Contract:
    """The robot side of the contract: workspace [m] of the hand, gripper opening [1], motion and grip commands [1]."""
    return Contract(
        robot="metaworld",
        state=(
            Channel("hand_x", "m", -0.7, 0.7),
            Channel("hand_y", "m", 0.2, 1.2),
            Channel("hand_z", "m", -0.05, 0.8),
            Channel("gripper_opening", "1", 0.0, 1.0),
        ),
        action=tuple(Channel(name, "1", -1.0, 1.0) for name in ("delta_x", "delta_y", "delta_z", "grip")),
        control_rate_hz=CONTROL_RATE_HZ,
        cameras=(
            Camera("third_person", FRAME_SIZE, FRAME_SIZE, 96, 96, crop=0.75),
            Camera("wrist", FRAME_SIZE, FRAME_SIZE, 64, 64),
        ),
    )


class MetaWorldEnv:
    """A task of MT50, observed without privileged state. One may be alive per process (see close)."""

    _alive: MetaWorldEnv | None = None

    def __init__(self, task: str) -> None:
        """Raises ValueError for an unknown task, RuntimeError when another is open or no display library is there."""
        check_task(task)
        refuse_second_world()
        mujoco, metaworld = _import_simulator()
        self._mujoco = mujoco
        self.task = task
        self.instruction = INSTRUCTIONS[task]
        self.contract = metaworld_contract()
        benchmark = metaworld.MT1(task, seed=0)
        self._env: Any = benchmark.train_classes[task]()
        self._env.set_task(benchmark.train_tasks[0])
        self._env._freeze_rand_vec = False
        self._env.seeded_rand_vec = True
        model = self._env.model
        corner2 = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, _CAMERAS["third_person"])
        model.cam_pos[corner2] = THIRD_PERSON_POSITION
        self._renderer = SceneRenderer(model, FRAME_SIZE, FRAME_SIZE)
        MetaWorldEnv._alive = self
        self.steps = 0
        self._observation = np.zeros(39)

    @classmethod
    def alive(cls) -> MetaWorldEnv | None:
        """-> the environment that is open in this process."""
        return cls._alive

    def reset(self, seed: int) -> None:
        """The same seed gives the same episode to the bit, in any process."""
        self._env.seed(int(seed))
        self._observation = self._env.reset()[0]
        self._mujoco.mj_forward(self._env.model, self._env.data)
        self.steps = 0

    def state(self) -> np.ndarray:
        """-> (4,) float64: hand x, y, z [m] and gripper opening [0, 1]; nothing about objects or goals."""
        return np.array(self._observation[:4], np.float64)

    def expert_observation(self) -> np.ndarray:
        """-> (39,) float64, privileged: for the scripted experts that make demonstrations, never for a policy."""
        return np.array(self._observation, np.float64)

    def step(self, action: np.ndarray) -> bool:
        """action (4,) in [-1, 1] -> whether the task's success flag is up after this step.

        Raises ValueError on another shape or a non-finite value, RuntimeError past MetaWorld's 500 steps."""
        action = np.asarray(action, np.float32)
        if action.shape != (4,) or not np.isfinite(action).all():
            raise ValueError(f"action: wanted 4 finite numbers, got {np.array2string(action, precision=3)}")
        if self.steps >= MAX_STEPS:
            raise RuntimeError(f"episode over: MetaWorld allows {MAX_STEPS} steps, call reset")
        self._observation, _, _, _, info = self._env.step(np.clip(action, -1.0, 1.0))
        self.steps += 1
        return bool(info["success"])

    def render(self) -> dict[str, np.ndarray]:
        """-> both views, (128, 128, 3) uint8 RGB, upright."""
        frames = {}
        for role, camera in _CAMERAS.items():
            frame = self._renderer.frame(self._env.data, camera)
            frames[role] = np.ascontiguousarray(frame[::-1, ::-1] if role == "third_person" else frame)
        return frames

    def field_of_view_rad(self, role: str) -> float:
        """-> vertical field of view [rad] of the camera behind a role."""
        model = self._env.model
        camera = self._mujoco.mj_name2id(model, self._mujoco.mjtObj.mjOBJ_CAMERA, _CAMERAS[role])
        return math.radians(float(model.cam_fovy[camera]))

    def actuator(self, max_age_s: float = math.inf) -> ActionActuator:
        """-> what executes chunks here; max_age_s: of the observation behind an action."""
        return ActionActuator(self.contract, max_age_s)

    def close(self) -> None:
        if MetaWorldEnv._alive is self:
            self._renderer.close()
            self._env.close()
            MetaWorldEnv._alive = None


def _import_simulator() -> tuple[Any, Any]:
    """-> (mujoco, metaworld). A missing package or library is named."""
    try:
        import metaworld
        import mujoco
    except ImportError as error:
        raise RuntimeError(
            f"MetaWorld: wanted the packages of the `sim` extra, got: {error}; run `make setup`"
        ) from None
    except AttributeError as error:  # PyOpenGL without libOSMesa fails inside its loader
        raise RuntimeError(no_display(str(error))) from None
    return mujoco, metaworld
