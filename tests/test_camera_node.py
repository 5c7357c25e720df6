"""Camera nodes as processes: images with capture stamps, what /diagnostics says, faults and their end, refusals."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from launch_files.harness import Running

rclpy = pytest.importorskip("rclpy")
rs = pytest.importorskip("pyrealsense2")

from lifecycle_msgs.msg import Transition  # noqa: E402
from lifecycle_msgs.srv import ChangeState  # noqa: E402
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor  # noqa: E402
from rclpy.signals import SignalHandlerOptions  # noqa: E402
from std_srvs.srv import SetBool  # noqa: E402

from alam_cameras.pattern import read_number  # noqa: E402
from alam_cameras.software_io import SoftwareCamera  # noqa: E402
from alam_common import topics  # noqa: E402
from alam_common.base_node import subscribe  # noqa: E402
from alam_common.convert import read_image, stamp_ns  # noqa: E402

pytestmark = pytest.mark.ros

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 60.0
OK, WARN, ERROR = b"\0", b"\1", b"\2"
SMALL = {"width": 320, "height": 240}  # fits the shared memory that a process has without the launch file's profile


class Camera:
    """A camera node as a process."""

    def __init__(self, log, name, parameters):
        self.name, self.log = name, log
        options = [text for key, value in parameters.items() for text in ("-p", f"{key}:={value}")]
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "alam_cameras.camera_node", "--ros-args", "-r", f"__node:={name}", *options],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ,
            )
        self.began = time.monotonic()

    def alive(self):
        return self.process.poll() is None

    def end(self):
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(PATIENCE_S)

    def refused(self):
        """Wait for it to end by itself -> its last words; they are one sentence, and the exit code says so."""
        assert self.process.wait(PATIENCE_S) == 2, self.log.read_text()
        text = self.log.read_text()
        assert "Traceback" not in text
        said = [line for line in text.splitlines() if line.startswith(f"{self.name}: ")]
        assert len(said) == 1, text
        return said[0]


@pytest.fixture
def start(tmp_path):
    started = []

    def start_camera(name="camera_third_person", **parameters):
        started.append(Camera(tmp_path / f"{len(started)}.log", name, {"role": "third_person", **SMALL, **parameters}))
        return started[-1]

    yield start_camera
    for camera in started:
        if camera.alive():
            camera.process.kill()
        camera.process.wait(PATIENCE_S)


class Listener:
    """Hears images, camera_info and diagnostics of one role."""

    def __init__(self):
        self.images, self.infos, self.said = [], [], {}
        self._context = rclpy.Context()
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self.node = rclpy.create_node("listener", context=self._context)
        for role in topics.IMAGES:
            subscribe(self.node, topics.IMAGES[role], lambda m: self.images.append((time.time(), m)))
            subscribe(self.node, topics.CAMERA_INFOS[role], self.infos.append)
        subscribe(self.node, topics.DIAGNOSTICS, lambda m: self.said.update({s.name: s for s in m.status}))
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self):
        try:
            self._executor.spin()
        except ExternalShutdownException:
            pass

    def values(self, name):
        status = self.said.get(name)
        return {value.key: value.value for value in status.values} if status else {}

    def message(self, name):
        """-> the last words of a node; "" when it has not spoken yet."""
        return self.said[name].message if name in self.said else ""

    def call(self, kind, name, request):
        client = self.node.create_client(kind, name)
        assert client.wait_for_service(PATIENCE_S)
        future = client.call_async(request)
        until(future.done, name)
        return future.result()

    def switch(self, camera, what, on):
        assert self.call(SetBool, f"/{camera.name}/emulate_{what}", SetBool.Request(data=on)).success

    def close(self):
        self._executor.shutdown(timeout_sec=1.0)
        self.node.destroy_node()
        rclpy.try_shutdown(context=self._context)


@pytest.fixture
def listener():
    made = Listener()
    yield made
    made.close()


def until(condition, what, patience_s=PATIENCE_S):
    end, pause = time.monotonic() + patience_s, threading.Event()
    while not condition():
        assert time.monotonic() < end, f"waited {patience_s} s for: {what}"
        pause.wait(0.02)


def images_again(listener, count=5):
    seen = len(listener.images)
    until(lambda: len(listener.images) >= seen + count, "images")


def test_images_at_their_rate_with_capture_stamps_and_what_is_said_of_them(start, listener):
    camera = start(source="software", fps=30)
    images_again(listener, 60)
    images, infos = list(listener.images), list(listener.infos)
    stamps = np.array([stamp_ns(message.header.stamp) for _, message in images]) / 1e9
    assert np.median(np.diff(stamps)) == pytest.approx(1 / 30, abs=1e-3)
    delays = np.array([heard for heard, _ in images]) - stamps
    assert delays.min() > -1e-3 and np.median(delays) < 0.1
    message = images[-1][1]
    assert (message.encoding, message.width, message.height, message.step) == ("rgb8", 320, 240, 960)
    assert message.header.frame_id == "camera_third_person_color_optical_frame"
    numbers = np.array([read_number(read_image(message)) for _, message in images])
    assert np.allclose((numbers - numbers[0]) % 2**16, np.round((stamps - stamps[0]) * 30))
    assert (infos[-1].k[0], infos[-1].k[2], infos[-1].width) == (pytest.approx(304), 159.5, 320)
    by_stamp = {stamp_ns(info.header.stamp) for info in infos}
    assert len(by_stamp & {stamp_ns(message.header.stamp) for _, message in images}) > 50
    until(lambda: listener.values(camera.name).get("images", "0") > "60", "diagnostics")
    until(lambda: float(listener.values(camera.name)["image_rate_hz"]) == pytest.approx(30, abs=2), "the rate")
    values = listener.values(camera.name)
    assert listener.said[camera.name].level == OK
    assert (values["temperature_degc"], values["frames_dropped"]) == ("41", "0")
    assert (values["model"], values["timestamp_domain"], values["colour_sensor"]) == (
        "Software D435",
        "system_time",
        "RGB Camera",
    )
    assert camera.end() == 0


def test_unplugged_is_said_and_the_node_goes_on_when_it_is_plugged_in(start, listener):
    camera = start(source="software")
    images_again(listener)
    listener.switch(camera, "unplug", True)
    until(lambda: "is unplugged; wait for the camera" in listener.message(camera.name), "the sentence")
    assert listener.said[camera.name].level == ERROR and listener.values(camera.name)["losses"] == "1"
    assert camera.alive()
    listener.switch(camera, "unplug", False)
    images_again(listener)
    until(lambda: listener.said[camera.name].level == OK, "all is well")
    assert camera.alive() and listener.values(camera.name)["frames_dropped"] == "0"


def test_a_stall_takes_the_steps_of_recovery(start, listener):
    camera = start(source="software", role="wrist", timeout=0.2)
    images_again(listener)
    listener.switch(camera, "stall", True)
    until(lambda: "no image for 0.2 s; restart the stream" in listener.message(camera.name), "the first step")
    assert listener.said[camera.name].level == ERROR
    until(lambda: "reset the device" in listener.message(camera.name), "the second step")
    until(lambda: "cannot be reset" in listener.message(camera.name), "the third step")
    listener.switch(camera, "stall", False)
    images_again(listener)
    until(lambda: listener.said[camera.name].level == OK, "all is well")
    assert listener.values(camera.name)["restarts"] == "1" and listener.values(camera.name)["colour_sensor"] == (
        "Stereo Module"
    )


def test_lifecycle_commands_stop_and_start_it(start, listener):
    camera = start(source="software", autostart="false")
    until(lambda: camera.name in listener.said, "diagnostics")
    assert "not active" in listener.message(camera.name) and not listener.images

    def change(transition):
        request = ChangeState.Request(transition=Transition(id=transition))
        assert listener.call(ChangeState, f"/{camera.name}/change_state", request).success

    for _ in range(2):  # configured twice: nothing of the first time is left
        change(Transition.TRANSITION_CONFIGURE)
        change(Transition.TRANSITION_ACTIVATE)
        images_again(listener)
        change(Transition.TRANSITION_DEACTIVATE)
        change(Transition.TRANSITION_CLEANUP)
    until(lambda: "not active" in listener.message(camera.name), "not active")
    assert camera.end() == 0


def test_a_recording_is_a_camera(start, listener, tmp_path):
    path, context = tmp_path / "take.db3", rs.context()
    device = SoftwareCamera(context, "recorded", 320, 240, 30, model="D405")
    config, pipeline = rs.config(), rs.pipeline(context)
    config.enable_device("recorded")
    config.enable_stream(rs.stream.color, 320, 240, rs.format.rgb8, 30)
    config.enable_record_to_file(str(path))
    pipeline.start(config)
    recorded = {}
    while len(recorded) < 20:
        color = pipeline.wait_for_frames().get_color_frame()
        image = np.array(color.get_data())
        recorded[read_number(image)] = image
    pipeline.stop()
    device.close()
    camera = start(role="wrist", playback_file=path)
    until(lambda: int(listener.values(camera.name).get("loops", "0")) >= 2, "the third round")
    # A subscriber in Python misses images on a loaded machine: the rounds that follow bring them.
    until(lambda: {read_number(read_image(m)) for _, m in list(listener.images)} >= recorded.keys(), "every image")
    for _, message in listener.images:
        image = read_image(message)
        assert np.array_equal(image, recorded.get(read_number(image), image))
    stamps = np.array([stamp_ns(message.header.stamp) for _, message in listener.images])
    assert (np.diff(stamps) > 0).all() and abs(stamps[-1] / 1e9 - time.time()) < 10
    values = listener.values(camera.name)
    assert (values["serial"], values["timestamp_domain"]) == ("recorded", "playback of system_time, restamped")
    assert values["losses"] == "0" and camera.end() == 0


def make_film(path):
    """Three grey images as a video file."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 30, (320, 240))
    for value in (40, 120, 200):
        writer.write(np.full((240, 320, 3), value, np.uint8))
    writer.release()
    return path


def test_a_video_file_is_a_camera(start, listener, tmp_path):
    path = make_film(tmp_path / "film.avi")
    camera = start(source="opencv", path=path)
    images_again(listener, 30)
    means = {round(float(read_image(message).mean()), -1) for _, message in listener.images}
    assert means == {40, 120, 200}
    assert listener.infos[-1].width == 320
    until(lambda: int(listener.values(camera.name).get("loops", "0")) > 0, "a loop")
    assert camera.end() == 0


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"source": "software", "fps": 29}, None),  # a software camera gives whatever is asked
        ({"source": "realsense"}, "wanted one RealSense camera, or `serial` to name one; got: none"),
        ({"source": "realsense", "serial": "'0123'"}, "wanted the RealSense camera 0123, got: none; is it plugged in?"),
        (
            {"source": "realsense", "playback_file": "none.db3"},
            "wanted a .db3 recording as `playback_file`, got 'none.db3'",
        ),
        ({"source": "software", "white_balance": 9000}, "wanted white_balance from 2800 to 6500, got 9000"),
        ({"source": "software", "power_line": 55}, "parameter power_line: wanted 0, 50 or 60, got 55"),
        ({"source": "opencv", "path": "none.avi"}, "wanted a V4L2 device or a video file as `path`, got 'none.avi'"),
        ({"source": "software", "phase": 0.5}, "parameter phase: wanted float, 0 to 0.1"),
    ],
)
def test_what_cannot_work_is_refused_at_once_with_one_sentence(start, listener, parameters, sentence):
    camera = start(**parameters)
    if sentence is None:
        images_again(listener)
        return
    assert sentence in camera.refused()
    assert time.monotonic() - camera.began < 15, "the library waits 15 s for a device; the node must not"


def test_a_bad_profile_is_refused_with_the_good_ones(start, tmp_path):
    path, context = tmp_path / "take.db3", rs.context()
    device = SoftwareCamera(context, "recorded", 320, 240, 30)
    config, pipeline = rs.config(), rs.pipeline(context)
    config.enable_device("recorded")
    config.enable_record_to_file(str(path))
    config.enable_stream(rs.stream.color, 320, 240, rs.format.rgb8, 30)
    pipeline.start(config)
    for _ in range(5):
        pipeline.wait_for_frames()
    pipeline.stop()
    device.close()
    camera = start(playback_file=path, width=640, height=480)
    assert "wanted the colour profile 640x480@30, got: 320x240@30" in camera.refused()


def test_two_nodes_do_not_share_a_role_or_a_camera(start, listener):
    start(source="software", serial="one")
    images_again(listener)
    assert "wanted to be the only camera of role third_person" in start("other", source="software").refused()
    assert "camera-one" in start("camera_wrist", source="software", role="wrist", serial="one").refused()
    images_again(listener)


LAUNCH = """
import runpy
from launch import LaunchDescription, actions
from launch.event_handlers import OnProcessExit
from launch_ros.actions import Node

when_one_ends = runpy.run_path({door!r})["when_one_ends"]


def generate_launch_description():
    node = Node(package="alam_cameras", executable="camera_node", name="camera_third_person", output="screen",
                parameters=[{parameters!r}], respawn=True, respawn_delay=0.2)
    return LaunchDescription([actions.RegisterEventHandler(OnProcessExit(on_exit=when_one_ends)), node])
"""


@pytest.fixture
def launched(tmp_path):
    """A camera node in a launch that treats the ends of processes as launch/piper.launch.py does; its device is `film`,
    which can be taken away."""
    film, file = tmp_path / "film.avi", tmp_path / "camera.launch.py"
    parameters = {"source": "opencv", "path": str(film), **SMALL}
    file.write_text(LAUNCH.format(door=str(ROOT / "launch/piper.launch.py"), parameters=parameters))
    started = []

    def launch():
        started.append(Running([shutil.which("ros2"), "launch", str(file)], dict(os.environ), tmp_path))
        return started[-1]

    launch.film = film
    yield launch
    for running in started:
        running.process.kill()  # of the launch; its guard ends the rest
        running.process.wait(PATIENCE_S)


def test_a_camera_that_is_killed_while_it_is_unplugged_is_waited_for(launched, listener):
    make_film(launched.film)
    running = launched()
    images_again(listener)
    hidden = launched.film.rename(launched.film.with_suffix(".hidden"))
    os.kill(running.pid_of("camera_node-1"), signal.SIGKILL)
    refusal = "wanted a V4L2 device or a video file as `path`"
    until(lambda: running.text.count(f"camera_third_person: {refusal}") >= 2, f"two refusals in:\n{running.text}")
    assert running.process.poll() is None, "the graph lives on"
    hidden.rename(launched.film)
    images_again(listener)
    assert running.interrupt() == 0 and "Traceback" not in running.text


def test_a_camera_that_is_not_there_at_the_first_start_ends_the_launch_at_once(launched):
    running = launched()
    assert running.end(PATIENCE_S) == 1
    assert running.text.count("process started") == 1 and "got" in running.line("camera_third_person: wanted a V4L2")
