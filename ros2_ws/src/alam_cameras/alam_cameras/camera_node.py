"""A camera node: one lifecycle node a camera, whatever its source. It does not end when the camera is unplugged."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from sensor_msgs.msg import CameraInfo, Image
from std_srvs.srv import SetBool

from alam_cameras.frame import Frame, Gone, Settings
from alam_cameras.recovery import Recovery
from alam_cameras.settings import PARAMETERS
from alam_common import topics
from alam_common.base_node import Diagnostics, declare, publisher, refuse_twin, run_node
from alam_common.convert import fill_image, fill_stamp
from alam_common.diagnostics import ERROR, OK, WARN, Durations, Rate, Status
from alam_common.refusal import Refusal

DISCOVERY_S = 1.0  # how long a twin on the same domain may take to show itself
WAIT_S = 0.1  # for one frame; how fast an end is noticed
DONE, FAILED = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


class CameraNode(LifecycleNode):
    """Configure opens the camera, activate streams. Capturing has a thread of its own, which publishes too."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._started = time.monotonic()
        self.failure = ""
        self._refused = ""
        self._settings = declare(self, PARAMETERS)
        values = self._settings
        self._role = values["role"]
        self._asked = Settings(
            values["width"],
            values["height"],
            values["fps"],
            values["exposure"],
            values["white_balance"],
            values["power_line"],
        )
        self._source: Any = None
        self._software: Any = None
        self._recovery = Recovery(values["timeout"])
        self._why = ""
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._rate, self._latency = Rate(), Durations()
        self._dropped, self._number = 0, -1
        self._about: dict[str, str] = {}
        self._frame_id = f"camera_{self._role}_color_optical_frame"
        self._image = publisher(self, topics.IMAGES[self._role])
        self._info = publisher(self, topics.CAMERA_INFOS[self._role])
        self._diagnostics = Diagnostics(self, f"camera {self._role}", self._status)

    def open(self) -> None:
        """With autostart: configure and activate. Raises Refusal for a twin or a camera that is not there."""
        if self._settings["power_line"] not in (0, 50, 60):
            raise Refusal(f"parameter power_line: wanted 0, 50 or 60, got {self._settings['power_line']}")
        refuse_twin(self, self._started + DISCOVERY_S)
        if self._settings["autostart"]:
            if self.trigger_configure() != DONE:
                raise Refusal(self._refused or "configuring failed")
            self.trigger_activate()

    def close(self) -> bool:
        """-> whether the capturing thread ended."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(1.5)
        if self._software is not None:
            self._software.close()
        return self._thread is None or not self._thread.is_alive()

    # Lifecycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            self._source = self._open_source()
        except (ValueError, ImportError) as error:
            self._refused = str(error)
            self.get_logger().error(self._refused)
            return FAILED
        return DONE

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._over.clear()
        self._thread = threading.Thread(target=self._capture, name="capture", daemon=True)
        self._thread.start()
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._over.set()
        if self._thread is not None:
            self._thread.join(1.5)
        return super().on_deactivate(state)

    def _open_source(self) -> Any:
        values, asked = self._settings, self._asked
        if values["source"] == "opencv":
            from alam_cameras.opencv_io import OpenCvCamera

            return OpenCvCamera(values["path"], asked)
        import pyrealsense2 as rs

        from alam_cameras.realsense_io import RealSense

        context = rs.context()
        serial = values["serial"]
        if values["source"] == "software":
            from alam_cameras.software_io import SoftwareCamera

            serial = serial or f"software-{self._role}"
            self._software = SoftwareCamera(context, serial, asked.width, asked.height, asked.fps)
            self.create_service(SetBool, "~/emulate_unplug", self._on_unplug)
            self.create_service(SetBool, "~/emulate_stall", self._on_stall)
        return RealSense(context, serial, asked)

    # The capturing thread

    def _capture(self) -> None:
        source, recovery = self._source, self._recovery
        streaming = False
        while not self._over.is_set():
            now = time.monotonic()
            try:
                if not streaming:
                    if not recovery.due(now):
                        self._over.wait(0.05)
                        continue
                    if recovery.step == 2:
                        source.reset()
                    source.start()
                    streaming = True
                    self._about = source.about()
                    recovery.started(time.monotonic())
                frame = source.read(WAIT_S)
                now = time.monotonic()
                if frame is not None:
                    if recovery.step:
                        self.get_logger().info(f"images again after: {recovery.doing}")
                    recovery.frame(now)
                    self._why = ""
                    self._publish(frame, now)
                elif recovery.late(now):
                    raise Gone(f"no image for {self._settings['timeout']:.1f} s")
            except (Gone, ValueError) as error:
                streaming = False
                source.stop()
                self._why = str(error)
                recovery.failed(time.monotonic(), gone=not source.present)
                self.get_logger().warning(f"{error}; next: {recovery.doing}", throttle_duration_sec=5.0)
                self._diagnostics.publish()
        source.stop()

    def _publish(self, frame: Frame, now: float) -> None:
        if frame.number > self._number + 1 > 0:
            self._dropped += frame.number - self._number - 1
        self._number = frame.number
        self._rate.tick(now)
        self._latency.add(time.time() - frame.stamp_s)
        stamp_ns = int((frame.stamp_s + self._settings["stamp_offset"]) * 1e9)
        info, image = CameraInfo(), Image()
        lens = self._source.intrinsics
        fill_stamp(info.header.stamp, stamp_ns)
        info.header.frame_id = self._frame_id
        info.width, info.height = lens.width, lens.height
        info.distortion_model, info.d = "plumb_bob", list(lens.distortion)
        info.k = [lens.fx, 0.0, lens.cx, 0.0, lens.fy, lens.cy, 0.0, 0.0, 1.0]
        info.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
        info.p = [lens.fx, 0.0, lens.cx, 0.0, 0.0, lens.fy, lens.cy, 0.0, 0.0, 0.0, 1.0, 0.0]
        fill_image(image, frame.image, self._frame_id, stamp_ns)
        self._image.publish(image)
        self._info.publish(info)

    # Diagnostics, and the faults of a software camera

    def _status(self, now: float) -> Status:
        recovery = self._recovery
        streaming = recovery.step == 0 and not self._why
        values = {
            "mode": recovery.doing,
            "reason": self._why,
            "image_rate_hz": f"{self._rate.rate_hz(now):.1f}",
            "image_age_s": f"{self._rate.age_s(now):.2f}",
            "images": str(self._rate.count),
            "frames_dropped": str(self._dropped),
            "latency_p50_ms": f"{self._latency.percentile_ms(50):.1f}",
            "latency_p99_ms": f"{self._latency.percentile_ms(99):.1f}",
            "losses": str(recovery.losses),
            "restarts": str(recovery.restarts),
            "resets": str(recovery.resets),
            **self._about,
        }
        if not streaming:
            return Status(ERROR, f"camera {self._role}: {self._why}; {recovery.doing}", values)
        return Status(OK if self._rate.count else WARN, recovery.doing, values)

    def _on_unplug(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self._software.unplug() if request.data else self._software.plug()
        response.success, response.message = True, "unplugged" if request.data else "plugged in"
        return response

    def _on_stall(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self._software.stalled = request.data
        response.success, response.message = True, "stalled" if request.data else "streaming"
        return response


def main() -> None:
    name = next((a.split(":=")[1] for a in sys.argv if a.startswith("__node:=")), "camera")
    sys.exit(run_node(name, lambda: CameraNode(name)))


if __name__ == "__main__":
    main()
