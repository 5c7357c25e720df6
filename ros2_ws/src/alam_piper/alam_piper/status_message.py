"""What an arm says of itself, as alam_msgs/ArmStatus: for the real arm's node and for the simulated one's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from alam_common.convert import fill_stamp


def fill_arm_status(
    message: Any,
    time_ns: int,
    mode: str,
    reason: str,
    *,
    connected: bool,
    enabled: bool,
    faults: Sequence[str] = (),
    leader_mode: bool = False,
    reset_sags: bool = False,
    motor_temperature: Sequence[float] = (),
    driver_temperature: Sequence[float] = (),
    motor_voltage: Sequence[float] = (),
    feedback_age: float = math.inf,
    chunk_age: float = math.inf,
    following_error: float = math.nan,
    firmware: str = "",
) -> None:
    """time_ns [ns] and the message's own fields, in its units, into an alam_msgs/ArmStatus. What is left out is
    unknown: ages infinite, the following error NaN, lists empty. Raises ValueError for a negative time."""
    fill_stamp(message.header.stamp, time_ns)
    message.mode, message.reason, message.firmware = mode, reason, firmware
    message.connected, message.enabled, message.leader_mode = bool(connected), bool(enabled), bool(leader_mode)
    message.reset_sags = bool(reset_sags)
    message.faults = list(faults)
    message.motor_temperature = [float(value) for value in motor_temperature]
    message.driver_temperature = [float(value) for value in driver_temperature]
    message.motor_voltage = [float(value) for value in motor_voltage]
    message.feedback_age, message.chunk_age = float(feedback_age), float(chunk_age)
    message.following_error = float(following_error)
