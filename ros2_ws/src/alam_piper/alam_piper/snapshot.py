"""What the arm's process says of itself when it is asked."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Snapshot:
    """Times [s] of time.monotonic(); temperatures [degC], voltages [V] by motor."""

    mode: str
    reason: str
    phase: str  # of the driver
    answer: str  # of the last enable or disable: "" under way, "ok", or why not
    faults: tuple[str, ...]
    leader: bool
    firmware: str
    moving_itself: bool
    commanded: np.ndarray  # (7,) position [rad], [m]
    observation_time: float  # of the observation behind the newest command; NaN: none
    feedback_stamp: float  # NaN: none yet
    powered: bool
    following_error: float  # [rad]
    motor_temperature: tuple[float, ...]
    driver_temperature: tuple[float, ...]
    voltage: tuple[float, ...]
    figures: dict[str, str] = field(default_factory=dict)  # for /diagnostics
    failure: str = ""  # why the process cannot go on
    reset_sags: bool = False  # a reset would take the arm's power now
