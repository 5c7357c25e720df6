"""The executables."""

from functools import partial

from alam_common.start import start

piper_node = partial(start, "alam_piper.robot_node")
piper_emulator = partial(start, "alam_piper.emulator_node")
