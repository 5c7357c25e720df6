"""Parameters and topics of a camera node."""

from __future__ import annotations

from alam_common.parameters import Parameter
from alam_common.topics import CAMERA_INFOS, DIAGNOSTICS, IMAGES

PARAMETERS = (
    Parameter("role", "third_person", "the view that this camera gives", choices=("third_person", "wrist")),
    Parameter("source", "realsense", "where images come from", choices=("realsense", "opencv", "software")),
    Parameter("serial", "", "serial number of the RealSense", form="number, empty: the only one"),
    Parameter("playback_file", "", "source realsense: a recording in place of a device", form="path of a .db3 file"),
    Parameter("path", "", "source opencv: V4L2 device or video file", form="path"),
    Parameter("width", 640, "of the colour image", unit="px", low=64, high=4096),
    Parameter("height", 480, "of the colour image", unit="px", low=64, high=4096),
    Parameter("fps", 30, "images a second", unit="Hz", low=1, high=120),
    Parameter("exposure", 0, "exposure time; 0: automatic", unit="us", low=0, high=200000),
    Parameter("white_balance", 0, "colour temperature; 0: automatic", unit="K", low=0, high=10000),
    Parameter("power_line", 50, "frequency of the mains that lamps flicker with; 0: ignore", unit="Hz", low=0, high=60),
    Parameter(
        "stamp_offset", 0.0, "added to every stamp; tools/camera_offset.py measures it", unit="s", low=-1.0, high=1.0
    ),
    Parameter("phase", 0.0, "source software: captures this long after whole periods", unit="s", low=0.0, high=0.1),
    Parameter("timeout", 0.5, "without an image for this long the stream is restarted", unit="s", low=0.1, high=10.0),
    Parameter("autostart", True, "configure and activate at start; false: wait for lifecycle commands"),
)
PUBLISHED = (*IMAGES.values(), *CAMERA_INFOS.values(), DIAGNOSTICS)
SUBSCRIBED = ()
