"""A RealSense colour stream through pyrealsense2. The context comes in, so that software devices stand in for
cameras."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import numpy as np
import pyrealsense2 as rs

from alam_cameras.frame import Frame, Gone, Intrinsics, Settings

HOST_DOMAINS = (rs.timestamp_domain.global_time, rs.timestamp_domain.system_time)
POWER_LINE = {0: 0, 50: 1, 60: 2}  # Hz -> value of the option


def serials(context: Any) -> dict[str, str]:
    """-> serial number: name, of every device that is plugged in."""
    found = {}
    for device in context.query_devices():
        name = device.get_info(rs.camera_info.name) if device.supports(rs.camera_info.name) else "RealSense"
        found[device.get_info(rs.camera_info.serial_number)] = name
    return found


def choose(context: Any, serial: str) -> str:
    """-> the serial number of the camera that is meant. Raises ValueError when it is not there or not unique."""
    found = serials(context)
    listed = ", ".join(f"{number} ({name})" for number, name in sorted(found.items())) or "none"
    if serial and serial not in found:
        raise ValueError(f"wanted the RealSense camera {serial}, got: {listed}; is it plugged in?")
    if not serial and len(found) != 1:
        raise ValueError(f"wanted one RealSense camera, or `serial` to name one; got: {listed}")
    return serial or next(iter(found))


class RealSense:
    """The colour stream of one device: D435 and alike from their RGB sensor, D405 from its stereo module."""

    def __init__(self, context: Any, serial: str, settings: Settings) -> None:
        """Raises ValueError for a device, profile or option that is not there."""
        self._context, self._settings = context, settings
        self.serial = choose(context, serial)
        self._pipeline: Any = None
        self.intrinsics: Intrinsics | None = None
        self.domain = ""
        self._check_profile()

    def start(self) -> None:
        """Open the stream. Raises Gone when the device is not there, ValueError for an option it has not."""
        s = self._settings
        if self.serial not in serials(self._context):
            raise Gone(f"the camera {self.serial} is not plugged in")
        config = rs.config()
        config.enable_device(self.serial)
        config.enable_stream(rs.stream.color, s.width, s.height, rs.format.rgb8, s.fps)
        pipeline = rs.pipeline(self._context)
        try:
            profile = pipeline.start(config)
        except RuntimeError as error:
            raise Gone(f"the camera {self.serial} does not start: {error}") from None
        self._pipeline = pipeline
        self._set_options(profile.get_device())
        found = profile.get_stream(rs.stream.color).as_video_stream_profile().get_intrinsics()
        coefficients = tuple(float(value) for value in found.coeffs)
        self.intrinsics = Intrinsics(found.width, found.height, found.fx, found.fy, found.ppx, found.ppy, coefficients)

    def read(self, timeout_s: float) -> Frame | None:
        """-> the next frame, None when none came in time. Raises Gone when the stream broke."""
        try:
            came, frames = self._pipeline.try_wait_for_frames(max(1, int(timeout_s * 1000)))
        except RuntimeError as error:
            raise Gone(str(error)) from None
        color = frames.get_color_frame() if came else None
        if not color:
            return None
        domain = color.get_frame_timestamp_domain()
        self.domain = domain.name
        stamp_s = color.get_timestamp() / 1e3
        if domain not in HOST_DOMAINS:  # a device clock says nothing about the host's: the arrival does, a little late
            stamp_s = time.time()
        return Frame(np.asanyarray(color.get_data()), stamp_s, int(color.get_frame_number()))

    def stop(self) -> None:
        if self._pipeline is not None:
            with suppress(RuntimeError):
                self._pipeline.stop()
            self._pipeline = None

    def reset(self) -> None:
        """Reset the hardware. Raises Gone when the device is not there or cannot."""
        self.stop()
        for device in self._context.query_devices():
            if device.get_info(rs.camera_info.serial_number) == self.serial:
                try:
                    device.hardware_reset()
                except RuntimeError as error:
                    raise Gone(f"the camera {self.serial} cannot be reset: {error}") from None
                return
        raise Gone(f"the camera {self.serial} is not plugged in")

    @property
    def present(self) -> bool:
        return self.serial in serials(self._context)

    def about(self) -> dict[str, str]:
        """-> what /diagnostics says of the device: model, USB type, temperature, the clock of its stamps."""
        words = {"serial": self.serial, "timestamp_domain": self.domain}
        for device in self._context.query_devices():
            if device.get_info(rs.camera_info.serial_number) != self.serial:
                continue
            for name, info in (("model", rs.camera_info.name), ("usb_type", rs.camera_info.usb_type_descriptor)):
                if device.supports(info):
                    words[name] = device.get_info(info)
            for sensor in device.query_sensors():
                if sensor.supports(rs.option.asic_temperature):
                    with suppress(RuntimeError):
                        words["temperature_degc"] = f"{sensor.get_option(rs.option.asic_temperature):.0f}"
        return words

    def _check_profile(self) -> None:
        s, offered = self._settings, set()
        for device in self._context.query_devices():
            if device.get_info(rs.camera_info.serial_number) != self.serial:
                continue
            for sensor in device.query_sensors():
                for profile in sensor.get_stream_profiles():
                    if profile.stream_type() == rs.stream.color and profile.format() == rs.format.rgb8:
                        video = profile.as_video_stream_profile()
                        offered.add((video.width(), video.height(), profile.fps()))
        if (s.width, s.height, s.fps) not in offered:
            listed = ", ".join(f"{w}x{h}@{fps}" for w, h, fps in sorted(offered)) or "none"
            wanted = f"{s.width}x{s.height}@{s.fps}"
            raise ValueError(f"camera {self.serial}: wanted the colour profile {wanted}, got: {listed}")

    def _set_options(self, device: Any) -> None:
        """Exposure, white balance and power line where the colour's sensor has them; asked for and missing is an
        error."""
        s = self._settings
        for sensor in device.query_sensors():
            kinds = {profile.stream_type() for profile in sensor.get_stream_profiles()}
            if rs.stream.color not in kinds:
                continue
            self._set(sensor, rs.option.enable_auto_exposure, 0.0 if s.exposure_us else 1.0, needed=bool(s.exposure_us))
            if s.exposure_us:
                scale = 100.0 if rs.stream.depth not in kinds else 1.0  # RGB sensors count in 100 us, stereo ones in 1
                self._set(sensor, rs.option.exposure, s.exposure_us / scale, needed=True)
            auto = 0.0 if s.white_balance_k else 1.0
            self._set(sensor, rs.option.enable_auto_white_balance, auto, needed=bool(s.white_balance_k))
            if s.white_balance_k:
                self._set(sensor, rs.option.white_balance, float(s.white_balance_k), needed=True)
            self._set(sensor, rs.option.power_line_frequency, float(POWER_LINE[s.power_line_hz]), needed=False)
            return

    def _set(self, sensor: Any, option: Any, value: float, needed: bool) -> None:
        if not sensor.supports(option):
            if needed:
                raise ValueError(f"camera {self.serial}: wanted the option {option.name}, got a sensor without it")
            return
        bounds = sensor.get_option_range(option)
        if not bounds.min <= value <= bounds.max:
            raise ValueError(
                f"camera {self.serial}: wanted {option.name} from {bounds.min:g} to {bounds.max:g}, got {value:g}"
            )
        sensor.set_option(option, value)
