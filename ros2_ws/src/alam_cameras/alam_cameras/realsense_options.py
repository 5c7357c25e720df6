"""Exposure, white balance and mains frequency as options of a RealSense colour sensor."""

from __future__ import annotations

from typing import Any

import pyrealsense2 as rs

from alam_cameras.frame import Settings

POWER_LINE = {0: 0, 50: 1, 60: 2}  # Hz -> value of the option
RGB_EXPOSURE_UNIT_US, STEREO_EXPOSURE_UNIT_US = 100.0, 1.0  # what one step of `exposure` is on an RGB, a stereo sensor


def shares_depth(sensor: Any) -> bool:
    """-> whether the sensor gives depth too (a D405's colour comes from its stereo module): one exposure for both."""
    return any(profile.stream_type() == rs.stream.depth for profile in sensor.get_stream_profiles())


def plan(name: str, sensor: Any, settings: Settings) -> list[tuple[Any, float]]:
    """Settings -> [(option, value)] in the order in which to set them. name: the camera's, for sentences.

    What is automatic or a mere wish is left out where the sensor has no such option. Raises ValueError for an option
    that was asked for and is not there, and for a value outside its range."""
    unit_us = STEREO_EXPOSURE_UNIT_US if shares_depth(sensor) else RGB_EXPOSURE_UNIT_US
    exposure, balance = settings.exposure_us, settings.white_balance_k
    wanted = [
        (rs.option.global_time_enabled, 1.0, False),  # stamps on the host's clock
        (rs.option.auto_exposure_priority, 0.0, False),  # the rate stays as asked in a dark room
        (rs.option.enable_auto_exposure, 0.0 if exposure else 1.0, bool(exposure)),
        (rs.option.exposure, exposure / unit_us, bool(exposure)),
        (rs.option.enable_auto_white_balance, 0.0 if balance else 1.0, bool(balance)),
        (rs.option.white_balance, float(balance), bool(balance)),
        (rs.option.power_line_frequency, float(POWER_LINE[settings.power_line_hz]), False),
    ]
    planned = []
    for option, value, needed in wanted:
        if option in (rs.option.exposure, rs.option.white_balance) and not needed:
            continue
        if not sensor.supports(option):
            if needed:
                raise ValueError(f"{name}: wanted the option {option.name}, got a sensor without it")
            continue
        bounds = sensor.get_option_range(option)
        if not bounds.min <= value <= bounds.max:
            raise ValueError(f"{name}: wanted {option.name} from {bounds.min:g} to {bounds.max:g}, got {value:g}")
        planned.append((option, value))
    return planned
