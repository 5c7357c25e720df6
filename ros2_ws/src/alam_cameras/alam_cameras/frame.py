"""What every source of images gives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Frame:
    """image (h, w, 3) uint8 RGB, the host's system time [s] at capture, and the source's own running number."""

    image: np.ndarray
    stamp_s: float
    number: int


@dataclass(frozen=True)
class Intrinsics:
    """A pinhole camera: size, focal lengths and centre [px], distortion in the order of ROS's plumb_bob."""

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    distortion: tuple[float, ...] = (0.0,) * 5


@dataclass(frozen=True)
class Settings:
    """What is asked of a camera; exposure [us] and white balance [K] 0: automatic, power line [Hz] 0: off."""

    width: int
    height: int
    fps: int
    exposure_us: int = 0
    white_balance_k: int = 0
    power_line_hz: int = 50


class Gone(Exception):
    """The device is not there (any more), or gives no frames: what recovery is for."""
