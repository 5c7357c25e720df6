"""Software cameras of the RealSense library: the real library on synthetic frames, for machines without a camera.

Frame k is captured at k periods of CLOCK_MONOTONIC (plus `phase_s`), whoever runs it and since when: the cameras of one
host are in step as if a wire triggered them, which real D435 and D405 are not. A frame is stamped with that moment, not
with the one at which its thread was woken, and one that is late is still delivered."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass
from typing import Any

import pyrealsense2 as rs

from alam_cameras.pattern import Pattern, lamp

READ_WITHIN_S = 20e-6  # two clocks read further apart than this were interrupted in between
CATCH_UP_S = 1.0  # what is later than this was not captured: the process was stopped
OTHER_FPS = (5, 15, 30, 60, 90)  # other profiles that are listed, as a real device lists many
RANGES = {  # option: minimum, maximum, step, default, as the devices say
    rs.option.enable_auto_exposure: (0, 1, 1, 1),
    rs.option.enable_auto_white_balance: (0, 1, 1, 1),
    rs.option.white_balance: (2800, 6500, 10, 4600),
    rs.option.power_line_frequency: (0, 2, 1, 1),
}
RGB_EXPOSURE, STEREO_EXPOSURE = (1, 10000, 1, 156), (1, 165000, 1, 33000)  # [100 us], [us]


def wall_minus_monotonic() -> float:
    """-> time.time() - time.monotonic() [s], read at one moment also on a loaded machine."""
    best, offset = float("inf"), 0.0
    for _ in range(5):
        before = time.monotonic()
        wall = time.time()
        after = time.monotonic()
        if after - before < best:
            best, offset = after - before, wall - (before + after) / 2
        if best < READ_WITHIN_S:
            break
    return offset


@dataclass(frozen=True)
class Model:
    """A camera that a software device presents itself as: name, USB product id, and whether colour has a sensor of its
    own (else it comes from the stereo module, as depth does)."""

    name: str
    product_id: str
    rgb_sensor: bool


MODELS = {"D435": Model("Software D435", "0B07", True), "D405": Model("Software D405", "0B5B", False)}


class SoftwareCamera:
    """One software device, fed by a thread. `unplug`, `plug` and `stalled` are its faults."""

    def __init__(
        self,
        context: Any,
        serial: str,
        width: int,
        height: int,
        fps: int,
        phase_s: float = 0.0,
        model: str = "D435",
    ) -> None:
        """phase_s: of its captures against whole periods of CLOCK_MONOTONIC [s].

        Raises ValueError for a model that is not one of MODELS."""
        if model not in MODELS:
            raise ValueError(f"software camera: wanted a model of {', '.join(MODELS)}, got {model!r}")
        self._context, self._serial, self._model = context, serial, MODELS[model]
        self._size, self._fps, self._phase_s = (width, height), fps, phase_s
        self._pattern = Pattern(width, height)
        self._kept: list[Any] = []  # the context itself keeps only weak references
        self._device: Any = None
        self._over = threading.Event()
        self.stalled = False
        self.worst_lateness_s = 0.0
        self._lock = threading.Lock()
        self.plug()
        self._thread = threading.Thread(target=self._feed, name="software camera", daemon=True)
        self._thread.start()

    def plug(self) -> None:
        """Appear on the context."""
        with self._lock:
            if self._device is not None:
                return
            device = rs.software_device()
            device.register_info(rs.camera_info.serial_number, self._serial)
            device.register_info(rs.camera_info.name, self._model.name)
            device.register_info(rs.camera_info.product_id, self._model.product_id)
            device.register_info(rs.camera_info.product_line, "D400")
            stereo = device.add_sensor("Stereo Module")
            stereo.add_video_stream(self._stream(rs.stream.depth, rs.format.z16, 2, self._fps, 1))
            self._add_exposure(stereo, STEREO_EXPOSURE)
            stereo.add_read_only_option(rs.option.asic_temperature, 41.0)
            colour = device.add_sensor("RGB Camera") if self._model.rgb_sensor else stereo
            if self._model.rgb_sensor:
                self._add_exposure(colour, RGB_EXPOSURE)
            for option in RANGES.keys() - {rs.option.enable_auto_exposure}:
                colour.add_option(option, _bounds(*RANGES[option]))
            for number, fps in enumerate({*OTHER_FPS} - {self._fps}):
                colour.add_video_stream(self._stream(rs.stream.color, rs.format.rgb8, 3, fps, 10 + number))
            self._profile = colour.add_video_stream(
                self._stream(rs.stream.color, rs.format.rgb8, 3, self._fps, 2)
            ).as_video_stream_profile()
            self._context.set_devices_changed_callback(self._keep)
            device.add_to(self._context)
            self._colour, self._device = colour, device

    def unplug(self) -> None:
        """Vanish: every reference goes."""
        with self._lock:
            self._device = self._colour = self._profile = None
            self._kept.clear()

    def _capture(self, number: int, at_s: float, wall_offset_s: float) -> None:
        """Deliver one frame. at_s: time.monotonic() of its capture [s]; wall_offset_s: what makes wall time of it."""
        with self._lock:
            if self._device is None or self.stalled:
                return
            frame = rs.software_video_frame()
            frame.pixels = self._pattern.draw(number, lamp(at_s))
            frame.stride, frame.bpp = self._size[0] * 3, 3
            frame.timestamp, frame.domain = (at_s + wall_offset_s) * 1e3, rs.timestamp_domain.system_time
            frame.frame_number, frame.profile = number, self._profile
            self._colour.on_video_frame(frame)

    def close(self) -> None:
        self._over.set()
        self._thread.join(1.0)
        self.unplug()

    def _feed(self) -> None:
        number = self._next()
        while not self._over.wait(max(0.0, self._moment(number) - time.monotonic())):
            late_s = time.monotonic() - self._moment(number)
            self.worst_lateness_s = max(self.worst_lateness_s, late_s)
            if late_s > CATCH_UP_S:
                number = self._next()
                continue
            self._capture(number, self._moment(number), wall_minus_monotonic())
            number += 1

    def _moment(self, number: int) -> float:
        """-> time.monotonic() [s] of a capture."""
        return number / self._fps + self._phase_s

    def _next(self) -> int:
        return math.floor((time.monotonic() - self._phase_s) * self._fps) + 1

    def _stream(self, kind: Any, form: Any, bytes_a_pixel: int, fps: int, uid: int) -> Any:
        width, height = self._size
        stream = rs.video_stream()
        stream.type, stream.index, stream.uid, stream.fmt = kind, 0, uid, form
        stream.width, stream.height, stream.fps, stream.bpp = width, height, fps, bytes_a_pixel
        lens = rs.intrinsics()
        lens.width, lens.height, lens.fx, lens.fy = width, height, 0.95 * width, 0.95 * width
        lens.ppx, lens.ppy, lens.model = (width - 1) / 2, (height - 1) / 2, rs.distortion.none
        stream.intrinsics = lens
        return stream

    def _add_exposure(self, sensor: Any, exposure: tuple[int, int, int, int]) -> None:
        sensor.add_option(rs.option.enable_auto_exposure, _bounds(*RANGES[rs.option.enable_auto_exposure]))
        sensor.add_option(rs.option.exposure, _bounds(*exposure))

    def _keep(self, event: Any) -> None:
        self._kept.append(event.get_new_devices())


def _bounds(low: float, high: float, step: float, default: float) -> Any:
    bounds = rs.option_range()
    bounds.min, bounds.max, bounds.step, bounds.default = low, high, step, default
    return bounds
