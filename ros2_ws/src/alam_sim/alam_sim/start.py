"""The executables."""

from functools import partial

from alam_common.start import start

metaworld_node = partial(start, "alam_sim.metaworld_node")
piper_mujoco_node = partial(start, "alam_sim.piper_mujoco_node")
