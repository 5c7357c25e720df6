"""Fast software rendering, the same for every simulated robot: one renderer a process, no shadows, no multisampling."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

# MuJoCo reads it once, at its first import. Software rendering also where there is a display: the same pixels
# everywhere, and on any thread.
os.environ.setdefault("MUJOCO_GL", "osmesa")


class SceneRenderer:
    """Views of a model's cameras. One may be alive a process: a second OSMesa renderer shows stale memory, silently."""

    _alive: SceneRenderer | None = None

    def __init__(self, model: Any, width: int, height: int) -> None:
        """Raises RuntimeError when another is open or no display library is there."""
        import mujoco

        refuse_second_world()
        model.vis.quality.offsamples = 0
        mujoco.Renderer._gl_context = mujoco.Renderer._mjr_context = None  # its __del__ misses them after a failure
        try:
            self._renderer = mujoco.Renderer(model, height, width)
        except Exception as error:
            raise RuntimeError(no_display(str(error))) from None
        self._off = (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION)
        SceneRenderer._alive = self

    def frame(self, data: Any, camera: str) -> np.ndarray:
        """-> (height, width, 3) uint8 RGB as a camera of the model sees it."""
        self._renderer.update_scene(data, camera=camera)
        for flag in self._off:
            self._renderer.scene.flags[flag] = 0
        return self._renderer.render()

    def close(self) -> None:
        if SceneRenderer._alive is self:
            self._renderer.close()
            SceneRenderer._alive = None


def refuse_second_world() -> None:
    """Raises RuntimeError when a world is open in this process."""
    if SceneRenderer._alive is not None:
        raise RuntimeError("one simulated world a process: close() the other before making the next")


def no_display(error: str) -> str:
    """-> a sentence that names the missing display library."""
    package = {"osmesa": "libosmesa6", "egl": "libegl1 and libgl1-mesa-dri"}.get(
        os.environ.get("MUJOCO_GL", ""), "libgl1"
    )
    return (
        f"rendering with MUJOCO_GL={os.environ.get('MUJOCO_GL', '(unset)')}: wanted its display library, got: "
        f"{error.splitlines()[0] if error else 'no context'}; install the apt package {package}"
    )
