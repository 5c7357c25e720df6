"""The executable."""

from functools import partial

from alam_common.start import start

camera_node = partial(start, "alam_cameras.camera_node")
