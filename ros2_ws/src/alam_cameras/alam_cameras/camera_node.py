"""A camera node: one lifecycle node a camera, whatever its source. It does not end when the camera is unplugged."""

from __future__ import annotations

import sys
import threading
import time
from typing import IO, Any

import numpy as np
import rclpy
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from sensor_msgs.msg import CameraInfo, Image
from std_srvs.srv import SetBool

from alam_cameras.frame import Frame, Gone, Intrinsics, Settings
from alam_cameras.settings import PARAMETERS
from alam_cameras.stream import Source, Stream
from alam_common import topics
from alam_common.base_node import Diagnostics, claim, declare, publisher, refuse_twin, run_node
from alam_common.convert import fill_image, fill_stamp
from alam_common.cores_io import leave_loop_core
from alam_common.diagnostics import ERROR, OK, WARN, Durations, Rate, Status
from alam_common.refusal import Refusal

DISCOVERY_S = 1.0  # how long a twin on the same domain may take to show itself
SOFTWARE_MODELS = {"third_person": "D435", "wrist": "D405"}  # what each role's software camera presents itself as
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
        self._stream: Stream | None = None
        self._software: Any = None
        self._claimed: IO[bytes] | None = None
        self._role_claimed: IO[bytes] | None = None  # for the life of the process
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._rate, self._latency = Rate(), Durations()
        self._frame_id = f"camera_{self._role}_color_optical_frame"
        self._messages: tuple[Image, CameraInfo] | None = None
        self._image = publisher(self, topics.IMAGES[self._role])
        self._info = publisher(self, topics.CAMERA_INFOS[self._role])
        self._diagnostics = Diagnostics(self, f"camera {self._role}", self._status)
        if values["source"] == "software":
            self.create_service(SetBool, "~/emulate_unplug", self._on_unplug)
            self.create_service(SetBool, "~/emulate_stall", self._on_stall)

    def open(self) -> None:
        """With autostart: configure and activate. Raises Refusal for a twin or a camera that is not there."""
        if self._settings["power_line"] not in (0, 50, 60):
            raise Refusal(f"parameter power_line: wanted 0, 50 or 60, got {self._settings['power_line']}")
        topic = topics.IMAGES[self._role].name
        twin = Refusal(f"wanted to be the only camera of role {self._role}, got another publisher of {topic}")
        try:
            self._role_claimed = claim(f"role-{self._role}")
        except Refusal:
            raise twin from None
        refuse_twin(self, self._started + DISCOVERY_S)
        if self.count_publishers(topic) > 1:  # on another host
            raise twin
        if self._settings["autostart"]:
            if self.trigger_configure() != DONE:
                raise Refusal(self._refused or "configuring failed")
            self.trigger_activate()

    def close(self) -> bool:
        """-> whether the capturing thread ended."""
        ended = self._halt()
        self._release()
        return ended

    # Lifecycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            self._stream = Stream(self._open_source(), self._settings["timeout"], time.monotonic, self._over.wait)
        except (ValueError, ImportError, Gone, Refusal, RuntimeError) as error:
            self._refused = str(error)
            self.get_logger().error(self._refused)
            self._release()
            return FAILED
        return DONE

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._over.clear()
        self._thread = threading.Thread(target=self._capture, args=(self._stream,), name="capture", daemon=True)
        self._thread.start()
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._halt()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._release()
        return DONE

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._halt()
        self._release()
        return DONE

    def _halt(self) -> bool:
        """-> whether the capturing thread ended."""
        self._over.set()
        thread = self._thread
        if thread is None:
            return True
        thread.join(1.5)
        if not thread.is_alive():
            self._thread = None
        return not thread.is_alive()

    def _release(self) -> None:
        self._stream = self._messages = None
        if self._software is not None:
            self._software.close()
            self._software = None
        if self._claimed is not None:
            self._claimed.close()
            self._claimed = None

    def _open_source(self) -> Source:
        """Raises ValueError, Gone or Refusal for a source that cannot give what is asked."""
        values, asked = self._settings, self._asked
        if values["source"] == "opencv":
            from alam_cameras.opencv_io import OpenCvCamera

            return OpenCvCamera(values["path"], asked)
        import pyrealsense2 as rs

        from alam_cameras.realsense_io import RealSense

        context = rs.context()
        serial, playback = values["serial"], values["playback_file"]
        if values["source"] == "software":
            from alam_cameras.software_io import SoftwareCamera

            serial, playback = serial or f"software-{self._role}", ""
            size = asked.width, asked.height, asked.fps
            model = SOFTWARE_MODELS[self._role]
            self._software = SoftwareCamera(context, serial, *size, phase_s=values["phase"], model=model)
        source = RealSense(context, serial, asked, playback)
        if not playback:
            self._claimed = claim(f"camera-{source.serial}")  # one camera cannot serve two roles
        return source

    # The capturing thread

    def _capture(self, stream: Stream) -> None:
        failing = ""
        try:
            while not self._over.is_set():
                frame = stream.step()
                if frame is not None:
                    self._publish(frame, stream.source.intrinsics)
                if failing != (failing := stream.why and f"{stream.why}; {stream.recovery.doing}"):
                    self.get_logger().warning(failing) if failing else self.get_logger().info("images again")
                    self._diagnostics.publish()
        except Exception as error:  # nobody would see a thread end
            if not self._over.is_set():
                self.failure = f"capturing ended: {error!r}"
                rclpy.try_shutdown()
        finally:
            stream.stop()

    def _publish(self, frame: Frame, lens: Intrinsics | None) -> None:
        self._rate.tick(time.monotonic())
        self._latency.add(time.time() - frame.stamp_s)
        stamp_ns = int((frame.stamp_s + self._settings["stamp_offset"]) * 1e9)
        assert lens is not None
        if (
            self._messages is None
            or self._messages[0].data.itemsize * len(self._messages[0].data) != frame.image.nbytes
        ):
            self._messages = self._make_messages(frame, lens)
        image, info = self._messages
        # Publishing serialises before it returns, so the same messages and the same bytes serve every frame.
        np.copyto(np.frombuffer(image.data, np.uint8).reshape(frame.image.shape), frame.image)
        fill_stamp(image.header.stamp, stamp_ns)
        fill_stamp(info.header.stamp, stamp_ns)
        self._image.publish(image)
        self._info.publish(info)

    def _make_messages(self, frame: Frame, lens: Intrinsics) -> tuple[Image, CameraInfo]:
        image, info = Image(), CameraInfo()
        fill_image(image, frame.image, self._frame_id, 0)
        info.header.frame_id = self._frame_id
        info.width, info.height = lens.width, lens.height
        info.distortion_model, info.d = "plumb_bob", list(lens.distortion)
        info.k = [lens.fx, 0.0, lens.cx, 0.0, lens.fy, lens.cy, 0.0, 0.0, 1.0]
        info.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
        info.p = [lens.fx, 0.0, lens.cx, 0.0, 0.0, lens.fy, lens.cy, 0.0, 0.0, 0.0, 1.0, 0.0]
        return image, info

    # Diagnostics, and the faults of a software camera

    def _status(self, now: float) -> Status:
        stream = self._stream
        if stream is None or self._thread is None:
            return Status(WARN, "not active: wants the lifecycle transitions configure and activate")
        recovery = stream.recovery
        values = {
            "mode": recovery.doing,
            "reason": stream.why,
            "image_rate_hz": f"{self._rate.rate_hz(now):.1f}",
            "image_age_s": f"{self._rate.age_s(now):.2f}",
            "images": str(self._rate.count),
            "frames_dropped": str(stream.dropped),
            "frames_repeated": str(stream.repeated),
            "latency_p50_ms": f"{self._latency.percentile_ms(50):.1f}",
            "latency_p99_ms": f"{self._latency.percentile_ms(99):.1f}",
            "losses": str(recovery.losses),
            "restarts": str(recovery.restarts),
            "resets": str(recovery.resets),
            "stamp_offset_s": f"{self._settings['stamp_offset']:g}",
            **stream.source.about(),
        }
        if stream.why or recovery.step:
            return Status(ERROR, f"camera {self._role}: {stream.why}; {recovery.doing}", values)
        if not self._rate.count:
            return Status(WARN, "waiting for the first image", values)
        if not stream.source.host_stamps:
            return Status(WARN, "streaming; stamped on arrival: the device's clock is not the host's", values)
        return Status(OK, recovery.doing, values)

    def _on_unplug(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        response.success, response.message = self._software is not None, "not configured"
        if self._software is not None:
            self._software.unplug() if request.data else self._software.plug()
            response.message = "unplugged" if request.data else "plugged in"
        return response

    def _on_stall(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        response.success, response.message = self._software is not None, "not configured"
        if self._software is not None:
            self._software.stalled = request.data
            response.message = "stalled" if request.data else "streaming"
        return response


def main() -> None:
    leave_loop_core()  # before there are other threads, which inherit it
    name = next((a.split(":=")[1] for a in sys.argv if a.startswith("__node:=")), "camera")
    sys.exit(run_node(name, lambda: CameraNode(name)))


if __name__ == "__main__":
    main()
