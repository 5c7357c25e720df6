"""Software cameras of the RealSense library: the real library on synthetic frames, for machines without a camera.

A frame carries its running number as two rows of 16 black or white squares in its upper left corner (most significant
first, the second row inverted), a bar that moves, and a white flash of three frames once a second."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pyrealsense2 as rs

SQUARE, BITS = 8, 16


def draw(number: int, fps: int, width: int, height: int) -> np.ndarray:
    """-> (height, width, 3) uint8: frame `number` of the pattern."""
    image = np.full((height, width, 3), 200 if number % fps < 3 else 60, np.uint8)
    left = number * 4 % width
    image[:, left : left + 24] = (40, 160, 220)
    bits = np.array([number >> (BITS - 1 - k) & 1 for k in range(BITS)], np.uint8) * 255
    row = np.repeat(bits, SQUARE)
    image[:SQUARE, : len(row)] = row[None, :, None]
    image[SQUARE : 2 * SQUARE, : len(row)] = 255 - row[None, :, None]
    return image


def read_number(image: np.ndarray) -> int | None:
    """-> the running number (16 bits) in a frame; None when there is none to be read."""
    centres = np.arange(BITS) * SQUARE + SQUARE // 2
    first, second = (image[row, centres, 0] > 127 for row in (SQUARE // 2, SQUARE + SQUARE // 2))
    if (first == second).any():
        return None
    return int((first.astype(int) << np.arange(BITS - 1, -1, -1)).sum())


class SoftwareCamera:
    """One software device with a colour sensor, fed by a thread. `unplug`, `plug` and `stall` are its faults."""

    def __init__(self, context: Any, serial: str, width: int, height: int, fps: int) -> None:
        self._context, self._serial = context, serial
        self._size, self._fps = (width, height), fps
        self._kept: list[Any] = []  # the context itself keeps only weak references
        self._device: Any = None
        self._over = threading.Event()
        self.stalled = False
        self._number = 0
        self._lock = threading.Lock()
        self.plug()
        self._thread = threading.Thread(target=self._feed, name="software camera", daemon=True)
        self._thread.start()

    def plug(self) -> None:
        """Appear on the context."""
        with self._lock:
            if self._device is not None:
                return
            width, height = self._size
            device = rs.software_device()
            device.register_info(rs.camera_info.serial_number, self._serial)
            device.register_info(rs.camera_info.name, "Software camera")
            sensor = device.add_sensor("RGB Camera")
            stream = rs.video_stream()
            stream.type, stream.index, stream.uid = rs.stream.color, 0, 1
            stream.width, stream.height, stream.fps, stream.bpp = width, height, self._fps, 3
            stream.fmt = rs.format.rgb8
            lens = rs.intrinsics()
            lens.width, lens.height, lens.fx, lens.fy = width, height, 0.95 * width, 0.95 * width
            lens.ppx, lens.ppy, lens.model = (width - 1) / 2, (height - 1) / 2, rs.distortion.none
            stream.intrinsics = lens
            self._profile = sensor.add_video_stream(stream)
            self._context.set_devices_changed_callback(self._keep)
            device.add_to(self._context)
            self._sensor, self._device = sensor, device

    def _keep(self, event: Any) -> None:
        self._kept.append(event.get_new_devices())

    def unplug(self) -> None:
        """Vanish: every reference goes."""
        with self._lock:
            self._device = self._sensor = self._profile = None
            self._kept.clear()

    def close(self) -> None:
        self._over.set()
        self._thread.join(1.0)
        self.unplug()

    def _feed(self) -> None:
        begin, width = time.monotonic(), self._size[0]
        while not self._over.wait(max(0.0, begin + self._number / self._fps - time.monotonic())):
            self._number += 1
            with self._lock:
                if self._device is None or self.stalled:
                    continue
                frame = rs.software_video_frame()
                frame.pixels = draw(self._number, self._fps, *self._size)
                frame.stride, frame.bpp = width * 3, 3
                frame.timestamp, frame.domain = time.time() * 1e3, rs.timestamp_domain.system_time
                frame.frame_number, frame.profile = self._number, self._profile.as_video_stream_profile()
                self._sensor.on_video_frame(frame)
