"""A V4L2 camera or a video file through OpenCV, with the interface of a RealSense, for people without one."""

from __future__ import annotations

import os
import time

os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", "1")  # [s]; 10 otherwise: longer than any watchdog here
import cv2

from alam_cameras.frame import Frame, Gone, Intrinsics, Settings
from alam_cameras.stamps import from_monotonic

V4L2_MANUAL_EXPOSURE, V4L2_EXPOSURE_UNIT_US = 1, 100


class OpenCvCamera:
    """A `stream.Source`. path: of a device (/dev/video0) or of a video file, which is played in a loop at `fps`."""

    def __init__(self, path: str, settings: Settings) -> None:
        """Opens it once. Raises ValueError when there is nothing at the path, it is no video, or does not give what is
        asked."""
        if not path or not os.path.exists(path):
            raise ValueError(f"wanted a V4L2 device or a video file as `path`, got {path!r}: there is none")
        self.name, self._path, self._settings = path, path, settings
        self._file = os.path.isfile(path)
        self._capture: cv2.VideoCapture | None = None
        self._number, self._begin = 0, 0.0
        self._loops, self._domain = 0, "playback, stamped when shown" if self._file else ""
        focal = 0.95 * settings.width  # not calibrated: about the field of view of a web camera
        centre = (settings.width - 1) / 2, (settings.height - 1) / 2
        self.intrinsics: Intrinsics | None = Intrinsics(settings.width, settings.height, focal, focal, *centre)
        try:
            self.start()
        except Gone as error:
            raise ValueError(f"wanted a V4L2 device or a video file as `path`, got {path!r}: {error}") from None
        finally:
            self.stop()

    def start(self) -> None:
        """Raises Gone when it does not open, ValueError when it refuses a setting or its images have another size."""
        capture = cv2.VideoCapture(self._path) if self._file else cv2.VideoCapture(self._path, cv2.CAP_V4L2)
        if not capture.isOpened():
            raise Gone(f"{self._path} does not open")
        try:
            if not self._file:
                self._set_up(capture)
            s = self._settings
            size = (int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)))
            if size != (s.width, s.height):
                raise ValueError(f"{self._path}: wanted images of {s.width}x{s.height}, got {size[0]}x{size[1]}")
        except ValueError:
            capture.release()
            raise
        self._capture, self._begin, self._number = capture, time.monotonic(), 0

    def read(self, timeout_s: float) -> Frame | None:
        """-> the next frame; None when it cannot come in time. Raises Gone when the device is gone."""
        if self._capture is None:
            raise Gone(f"{self._path} is not open")
        if self._file:
            wait_s = self._begin + self._number / self._settings.fps - time.monotonic()
            if wait_s > timeout_s:
                time.sleep(timeout_s)
                return None
            time.sleep(max(0.0, wait_s))
        try:
            came, image = self._capture.read()
            if not came and self._file:
                self._loops += 1
                self._capture.set(cv2.CAP_PROP_POS_FRAMES, 0)
                came, image = self._capture.read()
        except cv2.error as error:
            raise Gone(f"{self._path}: {error}") from None
        if not came:
            raise Gone(f"{self._path} gives no image")
        stamp_s = time.time()
        if not self._file:  # OpenCV hands the driver's stamp on as the position
            driver_s = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3
            stamp_s, self._domain = from_monotonic(driver_s, time.monotonic(), stamp_s)
        self._number += 1
        return Frame(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), stamp_s, self._number)

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

    @property
    def host_stamps(self) -> bool:
        """-> whether stamps are capture times on the host's clock; false: times of arrival."""
        return self._domain != "arrival"

    def about(self) -> dict[str, str]:
        """-> what /diagnostics says of it."""
        words = {"path": self._path, "timestamp_domain": self._domain}
        if self._file:
            words["loops"] = str(self._loops)
        return words

    def _set_up(self, capture: cv2.VideoCapture) -> None:
        """Raises ValueError for an exposure or a white balance that the driver does not take."""
        s = self._settings
        for key, value in (
            (cv2.CAP_PROP_FRAME_WIDTH, s.width),
            (cv2.CAP_PROP_FRAME_HEIGHT, s.height),
            (cv2.CAP_PROP_FPS, s.fps),
            (cv2.CAP_PROP_BUFFERSIZE, 1),
        ):
            capture.set(key, value)
        for name, wanted, switch, manual, key, setting in (
            (
                "exposure",
                s.exposure_us,
                cv2.CAP_PROP_AUTO_EXPOSURE,
                V4L2_MANUAL_EXPOSURE,
                cv2.CAP_PROP_EXPOSURE,
                s.exposure_us / V4L2_EXPOSURE_UNIT_US,
            ),
            (
                "white_balance",
                s.white_balance_k,
                cv2.CAP_PROP_AUTO_WB,
                0,
                cv2.CAP_PROP_WB_TEMPERATURE,
                s.white_balance_k,
            ),
        ):
            if wanted and not (capture.set(switch, manual) and capture.set(key, setting)):
                raise ValueError(f"{self._path}: wanted {name} {wanted}, got a driver that does not take it")
