"""Field of view of MetaWorld's cameras, for CameraInfo."""

from __future__ import annotations

import math

from alam_sim.metaworld_env import _CAMERAS, MetaWorldEnv


def field_of_view(env: MetaWorldEnv, role: str) -> float:
    """-> vertical field of view [rad] of the camera behind a role."""
    model = env._env.model
    camera = env._mujoco.mj_name2id(model, env._mujoco.mjtObj.mjOBJ_CAMERA, _CAMERAS[role])
    return math.radians(float(model.cam_fovy[camera]))
