"""A V4L2 camera or a video file through OpenCV, with the interface of a RealSense, for people without one."""

from __future__ import annotations

import os
import time

import cv2

from alam_cameras.frame import Frame, Gone, Intrinsics, Settings


class OpenCvCamera:
    """path: of a device (/dev/video0) or of a video file, which is played in a loop at `fps`."""

    def __init__(self, path: str, settings: Settings) -> None:
        """Raises ValueError when there is nothing at the path."""
        if not path or not os.path.exists(path):
            raise ValueError(f"wanted a V4L2 device or a video file as `path`, got {path!r}: there is none")
        self._path, self._settings = path, settings
        self._file = os.path.isfile(path)
        self._capture: cv2.VideoCapture | None = None
        self.intrinsics: Intrinsics | None = None
        self._number, self._begin = 0, 0.0

    def start(self) -> None:
        """Raises Gone when it does not open, ValueError when its images have another size."""
        s = self._settings
        capture = cv2.VideoCapture(self._path) if self._file else cv2.VideoCapture(self._path, cv2.CAP_V4L2)
        if not capture.isOpened():
            raise Gone(f"{self._path} does not open")
        if not self._file:
            for key, value in (
                (cv2.CAP_PROP_FRAME_WIDTH, s.width),
                (cv2.CAP_PROP_FRAME_HEIGHT, s.height),
                (cv2.CAP_PROP_FPS, s.fps),
                (cv2.CAP_PROP_BUFFERSIZE, 1),
            ):
                capture.set(key, value)
            if s.exposure_us:
                capture.set(cv2.CAP_PROP_AUTO_EXPOSURE, 1)
                capture.set(cv2.CAP_PROP_EXPOSURE, s.exposure_us / 100)
        size = (int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)))
        if size != (s.width, s.height):
            capture.release()
            raise ValueError(f"{self._path}: wanted images of {s.width}x{s.height}, got {size[0]}x{size[1]}")
        self._capture, self._begin, self._number = capture, time.monotonic(), 0
        focal = 0.95 * s.width  # not calibrated: about the field of view of a web camera
        self.intrinsics = Intrinsics(s.width, s.height, focal, focal, (s.width - 1) / 2, (s.height - 1) / 2)

    def read(self, timeout_s: float) -> Frame | None:
        """-> the next frame; None when it cannot come in time. Raises Gone when the device is gone."""
        assert self._capture is not None
        if self._file:
            wait_s = self._begin + self._number / self._settings.fps - time.monotonic()
            if wait_s > timeout_s:
                time.sleep(timeout_s)
                return None
            time.sleep(max(0.0, wait_s))
        came, image = self._capture.read()
        if not came and self._file:
            self._capture.set(cv2.CAP_PROP_POS_FRAMES, 0)
            came, image = self._capture.read()
        if not came:
            raise Gone(f"{self._path} gives no image")
        self._number += 1
        return Frame(image[:, :, ::-1].copy(), time.time(), self._number)

    def stop(self) -> None:
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    def reset(self) -> None:
        """There is no reset of such a device: opening it anew is all there is."""
        self.stop()
        if not self.present:
            raise Gone(f"{self._path} is not there")

    @property
    def present(self) -> bool:
        return os.path.exists(self._path)

    def about(self) -> dict[str, str]:
        return {"path": self._path}
