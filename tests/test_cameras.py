"""The real RealSense library on software devices and recordings; the file source."""

import sqlite3
import time

import cv2
import numpy as np
import pytest

rs = pytest.importorskip("pyrealsense2")

from camera_rig import SIZE, frames  # noqa: E402

from alam_cameras.frame import Gone, Settings  # noqa: E402
from alam_cameras.opencv_io import OpenCvCamera  # noqa: E402
from alam_cameras.pattern import read_number  # noqa: E402
from alam_cameras.realsense_io import RealSense, choose, colour_sensor, serials  # noqa: E402
from alam_cameras.realsense_options import plan  # noqa: E402
from alam_cameras.software_io import wall_minus_monotonic  # noqa: E402

# Devices


def test_two_cameras_at_once_are_in_step_and_lose_nothing(software):
    software("one"), software("two")
    cameras = [RealSense(software.context, serial, SIZE) for serial in ("one", "two")]
    stamps = []
    for camera in cameras:
        camera.start()
    for camera in cameras:
        seen = frames(camera, 15)
        numbers = [frame.number for frame in seen]
        assert [read_number(frame.image) for frame in seen] == [number % 2**16 for number in numbers]
        assert (np.diff(numbers) == 1).all()
        assert np.allclose(np.diff([frame.stamp_s for frame in seen]), 1 / 30, atol=1e-3)
        assert abs(seen[-1].stamp_s - time.time()) < 5
        assert camera.domain == "system_time" and camera.host_stamps
        assert (camera.intrinsics.width, camera.intrinsics.height) == (320, 240)
        stamps.append({frame.number: frame.stamp_s for frame in seen})
    common = stamps[0].keys() & stamps[1].keys()
    assert len(common) > 5
    assert max(abs(stamps[0][number] - stamps[1][number]) for number in common) < 1e-3
    for camera in cameras:
        camera.stop()


def test_a_phase_delays_every_capture_by_as_much(software):
    software("one"), software("two", phase_s=0.012)
    moments = []
    for serial in ("one", "two"):
        camera = RealSense(software.context, serial, SIZE)
        camera.start()
        moments += [frame.stamp_s - wall_minus_monotonic() - frame.number / 30 for frame in frames(camera, 5)[-1:]]
        camera.stop()
    assert moments == pytest.approx([0.0, 0.012], abs=2e-3)


def test_a_reader_that_is_held_up_loses_no_frame(software):
    software("one")
    camera = RealSense(software.context, "one", SIZE)
    camera.start()
    frames(camera, 2)
    end = time.monotonic() + 0.15
    while time.monotonic() < end:  # what a busy machine does to a thread
        pass
    assert (np.diff([frame.number for frame in frames(camera, 8)]) == 1).all()
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
    software("one"), software("two", model="D405")
    assert serials(software.context) == {"one": "Software D435", "two": "Software D405"}
    with pytest.raises(ValueError, match=r"one \(Software D435\), two \(Software D405\)"):
        choose(software.context, "three")
    with pytest.raises(ValueError, match="or `serial` to name one"):
        choose(software.context, "")
    with pytest.raises(ValueError, match=r"wanted a model of D435, D405, got 'D999'"):
        software("four", model="D999")


def test_a_camera_that_streams_already_is_said_to(software):
    software("one")
    first, second = (RealSense(software.context, "one", SIZE) for _ in range(2))
    first.start()
    with pytest.raises(Gone, match=r"camera one does not start: .*streaming"):
        second.start()
    first.stop()


@pytest.mark.parametrize("model", ["D435", "D405"])
def test_a_bad_profile_lists_the_good_ones(software, model):
    software("one", model=model)
    listed = ", ".join(f"320x240@{fps}" for fps in (5, 15, 30, 60, 90))
    with pytest.raises(ValueError, match=rf"camera one: wanted the colour profile 640x480@30, got: {listed}$"):
        RealSense(software.context, "one", Settings(640, 480, 30))


# The two models: where colour comes from, and what exposure means there


def sensors(context):
    return {each.get_info(rs.camera_info.name): each for each in context.query_devices()[0].query_sensors()}


@pytest.mark.parametrize(
    ("model", "name", "value", "shared"),
    [("D435", "RGB Camera", 50.0, None), ("D405", "Stereo Module", 5000.0, "depth")],
)
def test_options_go_to_the_sensor_that_gives_colour_in_its_own_units(software, model, name, value, shared):
    software("one", model=model)
    asked = Settings(320, 240, 30, exposure_us=5000, white_balance_k=5000, power_line_hz=60)
    camera = RealSense(software.context, "one", asked)
    camera.start()
    frames(camera, 2)
    found = sensors(software.context)
    assert found[name].get_option(rs.option.exposure) == value
    assert found[name].get_option(rs.option.enable_auto_exposure) == 0
    assert found[name].get_option(rs.option.enable_auto_white_balance) == 0
    assert found[name].get_option(rs.option.white_balance) == 5000
    assert found[name].get_option(rs.option.power_line_frequency) == 2
    for other in found.keys() - {name}:
        assert found[other].get_option(rs.option.exposure) == 33000, "the stereo module's own exposure was touched"
    about = camera.about()
    assert (about["colour_sensor"], about["model"], about["temperature_degc"]) == (name, f"Software {model}", "41")
    assert about.get("exposure_shared_with") == shared
    camera.stop()


def test_an_option_out_of_range_or_missing_is_named_before_anything_streams(software):
    software("one")
    with pytest.raises(ValueError, match=r"camera one: wanted white_balance from 2800 to 6500, got 9000"):
        RealSense(software.context, "one", Settings(320, 240, 30, white_balance_k=9000))

    class Bare:
        def supports(self, option):
            return False

        def get_stream_profiles(self):
            return []

    assert plan("camera x", Bare(), Settings(320, 240, 30)) == []
    with pytest.raises(ValueError, match="camera x: wanted the option enable_auto_exposure, got a sensor without it"):
        plan("camera x", Bare(), Settings(320, 240, 30, exposure_us=5000))


def test_a_device_without_colour_is_refused(software):
    software("one")
    device = software.context.query_devices()[0]

    class StereoOnly:
        def query_sensors(self):
            return [sensors(software.context)["Stereo Module"]]

    assert colour_sensor("x", device, SIZE).get_info(rs.camera_info.name) == "RGB Camera"
    with pytest.raises(ValueError, match=r"x: wanted the colour profile 320x240@30, got: no colour stream in rgb8"):
        colour_sensor("x", StereoOnly(), SIZE)


# Recordings


def record(software, serial, path, count=20):
    """Record with the library -> {number: image} of what was seen meanwhile."""
    config = rs.config()
    config.enable_device(serial)
    config.enable_stream(rs.stream.color, SIZE.width, SIZE.height, rs.format.rgb8, SIZE.fps)
    config.enable_record_to_file(str(path))
    pipeline = rs.pipeline(software.context)
    pipeline.start(config)
    seen = {}
    while len(seen) < count:
        color = pipeline.wait_for_frames().get_color_frame()
        seen[int(color.get_frame_number())] = np.array(color.get_data())
    pipeline.stop()
    return seen


@pytest.fixture
def recordings(software, tmp_path):
    """-> {path: what was recorded} of two cameras."""
    made = {}
    for serial, model in (("one", "D435"), ("two", "D405")):
        device = software(serial, model=model)
        made[tmp_path / f"{serial}.db3"] = record(software, serial, tmp_path / f"{serial}.db3")
        device.close()
    return made


def test_two_recordings_play_as_two_cameras_bit_for_bit_and_in_a_loop(recordings):
    context = rs.context()
    cameras = {path: RealSense(context, path.stem, SIZE, str(path)) for path in recordings}
    for camera in cameras.values():
        camera.start()
    for path, camera in cameras.items():
        recorded = recordings[path]
        played = frames(camera, 2 * len(recorded) + 5)
        now = time.time()
        for frame in played:
            if frame.number in recorded:  # the recorder may have one more at either end than its reader saw
                assert np.array_equal(frame.image, recorded[frame.number])
        assert recorded.keys() <= {frame.number for frame in played}
        stamps = np.array([frame.stamp_s for frame in played])
        assert (np.diff(stamps) > 0).all() and stamps[-1] <= now and now - stamps[0] < 20
        about = camera.about()
        assert int(about["loops"]) >= 1 and about["playback_file"] == str(path)
        assert about["timestamp_domain"] == "playback of system_time, restamped" and camera.host_stamps
        assert (camera.intrinsics.fx, camera.intrinsics.cx) == pytest.approx((0.95 * 320, 159.5))
    for camera in cameras.values():
        camera.stop()


def test_what_is_no_recording_of_this_camera_is_refused(recordings, tmp_path):
    good = next(iter(recordings))
    text, empty = tmp_path / "text.db3", tmp_path / "empty.db3"
    text.write_text("no database")
    sqlite3.connect(empty).execute("create table other (a)").connection.close()
    (tmp_path / "short.db3").write_bytes(good.read_bytes()[:20_000])
    for path, serial, size, sentence in (
        (tmp_path / "none.db3", "", SIZE, "there is no such file"),
        (text, "", SIZE, r"wanted a \.db3 recording as `playback_file`, got .*text\.db3"),
        (empty, "", SIZE, r"wanted a \.db3 recording"),
        (tmp_path / "short.db3", "", SIZE, r"wanted a \.db3 recording"),
        (good, "three", SIZE, "wanted a recording of the camera three, got one of one"),
        (good, "", Settings(640, 480, 30), r"wanted the colour profile 640x480@30, got: 320x240@30$"),
    ):
        with pytest.raises(ValueError, match=sentence):
            RealSense(rs.context(), serial, size, str(path))


def test_a_recording_that_is_deleted_is_a_camera_that_is_gone(recordings):
    path = next(iter(recordings))
    camera = RealSense(rs.context(), "", SIZE, str(path))
    path.unlink()
    with pytest.raises(Gone, match="does not start"):
        camera.start()
    assert not camera.present


# Files through OpenCV


def film(path, values=(40, 120, 200)):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 30, (320, 240))
    for value in values:
        writer.write(np.full((240, 320, 3), value, np.uint8))
    writer.release()
    return str(path)


def test_a_video_file_plays_in_a_loop(tmp_path):
    camera = OpenCvCamera(film(tmp_path / "film.avi"), SIZE)
    camera.start()
    seen = frames(camera, 7)
    assert np.allclose([frame.image.mean() for frame in seen], [40, 120, 200, 40, 120, 200, 40], atol=8)
    assert camera.about()["loops"] == "2"
    assert np.diff([frame.stamp_s for frame in seen]).mean() == pytest.approx(1 / 30, abs=0.01)
    camera.stop()
    camera.stop()


def test_what_is_no_video_of_this_size_is_refused_at_once(tmp_path):
    path = film(tmp_path / "film.avi")
    (tmp_path / "text.avi").write_text("no video")
    for name, size, sentence in (
        (path, Settings(640, 480, 30), r"wanted images of 640x480, got 320x240"),
        (str(tmp_path / "none.avi"), SIZE, "there is none"),
        (str(tmp_path / "text.avi"), SIZE, "does not open"),
        ("", SIZE, "there is none"),
    ):
        with pytest.raises(ValueError, match=sentence):
            OpenCvCamera(name, size)
