"""A RealSense colour stream through pyrealsense2, from a device or a recording of one. The context comes in, so that
software devices stand in for cameras."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import Any

import numpy as np
import pyrealsense2 as rs

from alam_cameras.frame import Frame, Gone, Intrinsics, Settings
from alam_cameras.realsense_options import plan, shares_depth
from alam_cameras.stamps import Restamp

HOST_DOMAINS = (rs.timestamp_domain.global_time, rs.timestamp_domain.system_time)
QUEUE = 8  # frames that wait while this process is kept from reading; the library alone keeps one


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


def load_recording(path: str, serial: str) -> Any:
    """-> the device that was recorded in a .db3 file. Raises ValueError for no file, another file or another camera."""
    if not os.path.isfile(path):
        raise ValueError(f"wanted a .db3 recording as `playback_file`, got {path!r}: there is no such file")
    try:
        device = rs.context().load_device(path)
        number = device.get_info(rs.camera_info.serial_number)
    except RuntimeError as error:
        raise ValueError(f"wanted a .db3 recording as `playback_file`, got {path!r}: {error}") from None
    if serial and serial != number:
        raise ValueError(f"{path}: wanted a recording of the camera {serial}, got one of {number}")
    return device


def colour_sensor(name: str, device: Any, settings: Settings) -> Any:
    """-> the sensor that gives the colour profile asked for: the RGB camera, or a D405's stereo module.

    name: the camera's, for sentences. Raises ValueError that lists the profiles there are."""
    s, offered = settings, set()
    for sensor in device.query_sensors():
        for profile in sensor.get_stream_profiles():
            if profile.stream_type() == rs.stream.color and profile.format() == rs.format.rgb8:
                video = profile.as_video_stream_profile()
                if (video.width(), video.height(), profile.fps()) == (s.width, s.height, s.fps):
                    return sensor
                offered.add((video.width(), video.height(), profile.fps()))
    listed = ", ".join(f"{w}x{h}@{fps}" for w, h, fps in sorted(offered)) or "no colour stream in rgb8"
    raise ValueError(f"{name}: wanted the colour profile {s.width}x{s.height}@{s.fps}, got: {listed}")


class RealSense:
    """The colour stream of one device or recording: a `stream.Source`."""

    def __init__(self, context: Any, serial: str, settings: Settings, playback_file: str = "") -> None:
        """playback_file: a .db3 recording, played in a loop in place of a device. Raises ValueError for a device,
        recording, profile or option that is not there."""
        self._context, self._settings, self._file = context, settings, playback_file
        if playback_file:
            device = load_recording(playback_file, serial)
            self.serial = device.get_info(rs.camera_info.serial_number)
            self.name = f"the recording {playback_file} of camera {self.serial}"
        else:
            self.serial = choose(context, serial)
            self.name = f"camera {self.serial}"
            device = self._find()
        sensor = colour_sensor(self.name, device, settings)
        if not playback_file:
            plan(self.name, sensor, settings)
        self._pipeline: Any = None
        self._queue: Any = None
        self._sensors: list[Any] = []  # of the device that streams; a reference kept longer would hide an unplug
        self._fixed: dict[str, str] = {}
        self._restamp = Restamp()
        self.intrinsics: Intrinsics | None = None
        self.domain = ""

    def start(self) -> None:
        """Open the stream. Raises Gone when the device is not there or does not start, ValueError for its options."""
        s = self._settings
        config = rs.config()
        if self._file:
            config.enable_device_from_file(self._file, True)
        else:
            self._find()  # the library itself would wait 15 s for a device to come
            config.enable_device(self.serial)
        config.enable_stream(rs.stream.color, s.width, s.height, rs.format.rgb8, s.fps)
        pipeline, queue = rs.pipeline(self._context), rs.frame_queue(QUEUE, True)
        try:
            profile = pipeline.start(config, queue)
        except RuntimeError as error:
            raise Gone(f"{self.name} does not start: {error}") from None
        self._pipeline, self._queue = pipeline, queue
        device = profile.get_device()
        sensor = colour_sensor(self.name, device, s)
        if not self._file:
            for option, value in plan(self.name, sensor, s):
                sensor.set_option(option, value)
        lens = profile.get_stream(rs.stream.color).as_video_stream_profile().get_intrinsics()
        coefficients = tuple(float(value) for value in lens.coeffs)
        self.intrinsics = Intrinsics(lens.width, lens.height, lens.fx, lens.fy, lens.ppx, lens.ppy, coefficients)
        self._fixed = self._describe(device, sensor, lens)
        self._sensors = [each for each in device.query_sensors() if each.supports(rs.option.asic_temperature)]

    def read(self, timeout_s: float) -> Frame | None:
        """-> the next frame, None when none came in time. Raises Gone when the stream broke."""
        try:
            came, frames = self._queue.try_wait_for_frame(max(1, int(timeout_s * 1000)))
        except RuntimeError as error:
            raise Gone(str(error)) from None
        color = frames.as_frameset().get_color_frame() if came else None
        if not color:
            return None
        domain = color.get_frame_timestamp_domain()
        self.domain, stamp_s, now_s = domain.name, color.get_timestamp() / 1e3, time.time()
        if self._file:
            stamp_s = self._restamp(stamp_s, now_s)
        elif domain not in HOST_DOMAINS:  # a device's clock says nothing about the host's: the arrival does, a bit late
            stamp_s = now_s
        return Frame(np.asanyarray(color.get_data()), stamp_s, int(color.get_frame_number()))

    def stop(self) -> None:
        self._sensors = []
        if self._pipeline is not None:
            with suppress(RuntimeError):
                self._pipeline.stop()
            self._pipeline = self._queue = None

    def reset(self) -> None:
        """Reset the hardware. Raises Gone when the device is not there or cannot."""
        self.stop()
        if self._file:
            raise Gone(f"{self.name} cannot be reset")
        try:
            self._find().hardware_reset()
        except RuntimeError as error:
            raise Gone(f"{self.name} cannot be reset: {error}") from None

    @property
    def present(self) -> bool:
        return os.path.isfile(self._file) if self._file else self.serial in serials(self._context)

    @property
    def host_stamps(self) -> bool:
        """-> whether stamps are capture times on the host's clock; false: times of arrival."""
        return bool(self._file) or self.domain in ("", *(domain.name for domain in HOST_DOMAINS))

    def about(self) -> dict[str, str]:
        """-> what /diagnostics says of the device: model, sensor, temperature, the clock of its stamps."""
        words = {"serial": self.serial, **self._fixed, "timestamp_domain": self.domain}
        if self._file:
            words["timestamp_domain"] = f"playback of {self.domain}, restamped"
            words["playback_file"], words["loops"] = self._file, str(max(0, self._restamp.loops))
        elif not self.host_stamps:
            words["timestamp_domain"] = f"{self.domain}: not the host's; stamped on arrival"
        for sensor in self._sensors:
            try:
                words["temperature_degc"] = f"{sensor.get_option(rs.option.asic_temperature):.0f}"
            except RuntimeError:  # a D400 measures it only while its stereo module streams
                words["temperature_degc"] = "not measured while the stereo module is idle"
        return words

    def _find(self) -> Any:
        """-> the device. Raises Gone when it is not plugged in."""
        for device in self._context.query_devices():
            if device.get_info(rs.camera_info.serial_number) == self.serial:
                return device
        raise Gone(f"{self.name} is not plugged in")

    def _describe(self, device: Any, sensor: Any, lens: Any) -> dict[str, str]:
        words = {"distortion": lens.model.name}
        for name, info in (
            ("model", rs.camera_info.name),
            ("firmware", rs.camera_info.firmware_version),
            ("usb_type", rs.camera_info.usb_type_descriptor),
        ):
            if device.supports(info):
                words[name] = device.get_info(info)
        if sensor.supports(rs.camera_info.name):
            words["colour_sensor"] = sensor.get_info(rs.camera_info.name)
        if shares_depth(sensor):
            words["exposure_shared_with"] = "depth"
        return words
