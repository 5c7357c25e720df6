"""The real RealSense library on software devices and a recording; recovery; the file source."""

import time

import cv2
import numpy as np
import pytest

rs = pytest.importorskip("pyrealsense2")

from alam_cameras.frame import Gone, Settings  # noqa: E402
from alam_cameras.opencv_io import OpenCvCamera  # noqa: E402
from alam_cameras.realsense_io import RealSense, choose, serials  # noqa: E402
from alam_cameras.recovery import Recovery  # noqa: E402
from alam_cameras.software_io import SoftwareCamera, draw, read_number  # noqa: E402

SIZE = Settings(320, 240, 30)


def frames(camera, count, patience_s=20.0):
    """-> the next `count` frames. Fails the test when they do not come."""
    found, end = [], time.monotonic() + patience_s
    while len(found) < count:
        assert time.monotonic() < end, f"waited for {count} frames, got {len(found)}"
        if (frame := camera.read(0.2)) is not None:
            found.append(frame)
    return found


@pytest.fixture
def software():
    context, made = rs.context(), []

    def make(serial):
        made.append(SoftwareCamera(context, serial, SIZE.width, SIZE.height, SIZE.fps))
        return made[-1]

    make.context = context
    yield make
    for camera in made:
        camera.close()


def test_two_cameras_at_once(software):
    software("one"), software("two")
    cameras = [RealSense(software.context, serial, SIZE) for serial in ("one", "two")]
    for camera in cameras:
        camera.start()
    for camera in cameras:
        seen = frames(camera, 15)
        numbers = [read_number(frame.image) for frame in seen]
        assert numbers == [frame.number for frame in seen]
        assert (np.diff(numbers) >= 1).all()
        assert abs(seen[-1].stamp_s - time.time()) < 5
        assert camera.domain == "system_time"
        assert (camera.intrinsics.width, camera.intrinsics.height) == (320, 240)
    for camera in cameras:
        camera.stop()


def test_unplug_and_plug(software):
    device = software("one")
    camera = RealSense(software.context, "one", SIZE)
    camera.start()
    frames(camera, 3)
    device.unplug()
    camera.stop()
    assert not camera.present
    with pytest.raises(Gone, match="not plugged in"):
        camera.start()
    device.plug()
    camera.start()
    frames(camera, 3)
    camera.stop()


def test_a_stall_is_silence_not_an_error(software):
    device = software("one")
    camera = RealSense(software.context, "one", SIZE)
    camera.start()
    frames(camera, 3)
    device.stalled = True
    end = time.monotonic() + 10
    while camera.read(0.3) is not None:
        assert time.monotonic() < end
    with pytest.raises(Gone, match="cannot be reset"):
        camera.reset()
    device.stalled = False
    camera.start()
    frames(camera, 3)
    camera.stop()


def test_who_is_not_there_is_named(software):
    with pytest.raises(ValueError, match=r"wanted one RealSense camera.*got: none"):
        choose(software.context, "")
    software("one"), software("two")
    assert set(serials(software.context)) == {"one", "two"}
    with pytest.raises(ValueError, match=r"one \(Software camera\), two"):
        choose(software.context, "three")
    with pytest.raises(ValueError, match="or `serial` to name one"):
        choose(software.context, "")


def test_a_bad_profile_lists_the_good_ones(software):
    software("one")
    with pytest.raises(ValueError, match=r"wanted the colour profile 640x480@30, got: 320x240@30"):
        RealSense(software.context, "one", Settings(640, 480, 30))


def test_an_option_that_the_sensor_lacks_is_named(software):
    software("one")
    camera = RealSense(software.context, "one", Settings(320, 240, 30, exposure_us=5000))
    with pytest.raises(ValueError, match="wanted the option"):
        camera.start()
    camera.stop()


def test_the_running_number_survives():
    for number in (0, 1, 255, 256, 40_000, 65_535):
        assert read_number(draw(number, 30, 320, 240)) == number
    assert read_number(np.zeros((240, 320, 3), np.uint8)) is None


def test_recovery_takes_three_steps_and_starts_over():
    recovery = Recovery(0.5)
    recovery.started(0.0)
    assert not recovery.late(0.4) and recovery.late(0.6)
    steps = []
    for now in (1.0, 2.0, 3.0, 4.0):
        recovery.failed(now, gone=False)
        steps.append(recovery.step)
        assert not recovery.due(now)
    assert steps == [1, 2, 3, 3] and (recovery.restarts, recovery.resets, recovery.losses) == (1, 1, 1)
    recovery.frame(5.0)
    assert recovery.step == 0
    recovery.failed(6.0, gone=True)
    assert recovery.doing.startswith("wait for the camera")


def test_a_video_file_plays_in_a_loop(tmp_path):
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 30, (320, 240))
    for value in (40, 120, 200):
        writer.write(np.full((240, 320, 3), value, np.uint8))
    writer.release()
    camera = OpenCvCamera(str(path), SIZE)
    camera.start()
    means = [frame.image.mean() for frame in frames(camera, 7)]
    assert np.allclose(means, [40, 120, 200, 40, 120, 200, 40], atol=8)
    camera.stop()
    with pytest.raises(ValueError, match="wanted images of 640x480"):
        OpenCvCamera(str(path), Settings(640, 480, 30)).start()
    with pytest.raises(ValueError, match="there is none"):
        OpenCvCamera(str(tmp_path / "none.avi"), SIZE)
