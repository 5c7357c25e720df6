"""The offset between two cameras: known ones are found in synthetic signals and, through ROS, in software cameras."""

import os
import re
import signal as signals
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from alam_cameras.offset import Signal, brightness, correlate, edges, find_offset
from alam_cameras.pattern import DARK, lamp

ROOT = Path(__file__).resolve().parent.parent
TOOL = ROOT / "tools/camera_offset.py"


def watch(name, fps, offset_s, phase_s=0.0, seconds=20, noise=0.0, exposure_s=0.010, height=60.0, lost=0.0, seed=0):
    """-> what a camera whose stamps are offset_s too late sees of the lamp of the software cameras."""
    random = np.random.default_rng([seed, fps, round(phase_s * 1e6)])
    captured = 1000.0 + phase_s + np.arange(seconds * fps) / fps
    captured = captured[random.random(len(captured)) >= lost]
    levels = 80.0 + height * np.array([lamp(moment, exposure_s) for moment in captured])
    levels += random.normal(0, noise, len(levels)) if noise else 0.0
    return Signal(name, captured + offset_s, levels, np.zeros(len(levels)))


@pytest.mark.parametrize("rates", [(30, 30), (60, 60), (30, 60)])
@pytest.mark.parametrize("offset_ms", [0.0, 12.0, -7.5, 45.0, -120.0])
@pytest.mark.parametrize("noise", [0.0, 2.0])
def test_a_known_offset_is_found_inside_its_interval(rates, offset_ms, noise):
    first = watch("first", rates[0], 0.0, noise=noise)
    second = watch("second", rates[1], offset_ms / 1e3, phase_s=0.0073, noise=noise)
    found = find_offset(first, second)
    assert found.offset_s * 1e3 == pytest.approx(offset_ms, abs=3.0)
    assert found.low_s - 1e-3 <= offset_ms / 1e3 <= found.high_s + 1e-3
    assert found.high_s - found.low_s < 0.012 and found.edges > 30 and found.correlation > 0.8


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    random, held, errors = np.random.default_rng(1), 0, []
    for trial in range(60):
        phase, offset, exposure = random.uniform(0, 1 / 30), random.uniform(-0.05, 0.05), random.uniform(0.001, 0.03)
        first = watch("first", 30, 0.0, random.uniform(0, 1 / 30), 15, 1.0, exposure, seed=trial)
        found = find_offset(first, watch("second", 30, offset, phase, 15, 1.0, exposure, seed=trial))
        held += found.low_s <= offset <= found.high_s
        errors.append(abs(found.offset_s - offset))
    assert held >= 54 and np.percentile(errors, 95) < 0.005


def test_more_edges_make_a_narrower_interval():
    widths = []
    for seconds in (6, 60):
        found = find_offset(watch("first", 30, 0, 0, seconds, 1.0), watch("second", 30, 0.01, 0.011, seconds, 1.0))
        widths.append(found.high_s - found.low_s)
    assert widths[1] < widths[0] / 1.8


def test_lost_frames_cost_edges_not_truth():
    found = find_offset(watch("first", 30, 0.0, lost=0.05), watch("second", 30, 0.02, 0.01, lost=0.05))
    assert found.offset_s == pytest.approx(0.02, abs=0.005)


def test_an_edge_is_found_between_frames():
    times = np.arange(0.0, 2.0, 1 / 30)
    for on in np.linspace(0.9, 1.0, 23):
        lit = np.clip((times + 1 / 60 - on) * 30, 0, 1)  # shutter open all the time: every frame tells
        found = edges(Signal("x", times, 50 + 100 * lit, np.zeros(len(times))))
        assert found == [(pytest.approx(on, abs=1e-6), 1)]


def test_swapped_cameras_swap_the_sign():
    first, second = watch("first", 30, 0.0, noise=1.0), watch("second", 30, 0.02, 0.013, noise=1.0)
    assert find_offset(first, second).offset_s == pytest.approx(-find_offset(second, first).offset_s, abs=2e-3)


def flat(level, clipped=0.0, noise=1.0):
    times = np.arange(0, 20, 1 / 30)
    levels = level + np.random.default_rng(0).normal(0, noise, len(times)) if noise else np.full(len(times), level)
    return Signal("wrist", times + 1000.0, levels, np.full(len(times), clipped))


@pytest.mark.parametrize(
    ("second", "sentence"),
    [
        (flat(80.0), "wrist: wanted a lamp going on and off, got brightness from"),
        (flat(80.0, noise=30.0), "wrist: wanted a lamp going on and off"),
        (flat(80.0, noise=0.0), "wrist: wanted a lamp going on and off"),
        (watch("wrist", 30, 0.0, height=172.0), "neither white nor black, got 252 with the lamp on"),
        (watch("wrist", 30, 0.0, seconds=1), "wanted images of first and wrist of the same seconds|6 edges"),
        (watch("wrist", 30, 50.0), "of the same seconds"),
        (watch("wrist", 30, 0.433), "correlates by|6 edges"),
    ],
)
def test_what_tells_nothing_is_refused(second, sentence):
    with pytest.raises(ValueError, match=sentence):
        find_offset(watch("first", 30, 0.0), second)


def test_clipped_pixels_are_refused_and_too_few_flashes_too():
    clipped = watch("wrist", 30, 0.0)
    with pytest.raises(ValueError, match="neither white nor black"):
        find_offset(
            watch("first", 30, 0.0), Signal("wrist", clipped.times_s, clipped.levels, np.ones(len(clipped.levels)))
        )
    with pytest.raises(ValueError, match=r"wanted 6 edges .* got [0-5]; switch it more often"):
        find_offset(watch("first", 30, 0.0, seconds=3), watch("wrist", 30, 0.0, seconds=3))


def test_brightness_and_correlation():
    image = np.full((48, 64, 3), 100, np.uint8)
    assert brightness(image) == (100.0, 0.0)
    image[:24] = 255
    assert brightness(image) == (177.5, 0.5)
    lag, correlation = correlate(watch("a", 60, 0.0), watch("b", 60, 0.1), 0.3)
    assert lag == pytest.approx(0.1, abs=0.01) and correlation > 0.9


# The command


def tool(*arguments, **options):
    """-> the tool's exit code and what it said."""
    done = subprocess.run(
        [sys.executable, str(TOOL), *arguments], capture_output=True, text=True, timeout=120, check=False, **options
    )
    return done.returncode, done.stdout + done.stderr


def measured(text):
    """-> (offset, low, high) [ms] in what the tool said."""
    match = re.search(r"wrist - third_person: ([-+.\d]+) ms \(95 % interval ([-+.\d]+) to ([-+.\d]+)\)", text)
    assert match, text
    return tuple(float(part) for part in match.groups())


def film(path, offset_s, seconds=12):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 30, (64, 48))
    for number in range(seconds * 30):
        level = DARK + round(100 * lamp(1000.0 + number / 30 - offset_s))
        writer.write(np.full((48, 64, 3), level, np.uint8))
    writer.release()
    return str(path)


def test_two_films_give_their_offset_and_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    films = film(tmp_path / "first.avi", 0.0), film(tmp_path / "second.avi", 0.05)
    code, text = tool("--videos", *films, "--out", str(tmp_path / "curves.png"))
    assert code == 0, text
    assert measured(text)[0] == pytest.approx(50.0, abs=4.0)
    assert "stamp_offset: -0.05" in text or "stamp_offset: -0.04" in text
    picture = cv2.imread(str(tmp_path / "curves.png"))
    assert picture is not None and picture.std() > 5


def test_films_that_tell_nothing_are_refused_with_one_sentence(tmp_path):
    dark = tmp_path / "dark.avi"
    writer = cv2.VideoWriter(str(dark), cv2.VideoWriter.fourcc(*"MJPG"), 30, (64, 48))
    for _ in range(300):
        writer.write(np.full((48, 64, 3), 60, np.uint8))
    writer.release()
    for other, sentence in ((dark, "wanted a lamp going on and off"), (tmp_path / "none.avi", "wanted a video file")):
        code, text = tool("--videos", film(tmp_path / "film.avi", 0.0), str(other), "--out", str(tmp_path / "x.png"))
        assert code == 1 and sentence in text and "Traceback" not in text
        assert text.startswith("camera_offset: ") and text.strip().count("\n") == 0, text
    assert not (tmp_path / "x.png").exists()


@pytest.fixture
def cameras(tmp_path):
    """-> starts software cameras: role, parameters."""
    pytest.importorskip("rclpy")
    pytest.importorskip("pyrealsense2")
    started = []

    def start(role, **parameters):
        parameters = {"role": role, "source": "software", "width": 320, "height": 240, **parameters}
        options = [text for name, value in parameters.items() for text in ("-p", f"{name}:={value}")]
        command = [sys.executable, "-m", "alam_cameras.camera_node", "--ros-args", "-r", f"__node:=camera_{role}"]
        with (tmp_path / f"{role}.log").open("wb") as log:
            started.append(subprocess.Popen([*command, *options], stdout=log, stderr=subprocess.STDOUT))

    yield start
    for process in started:
        process.send_signal(signals.SIGINT)
    for process in started:
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


@pytest.mark.ros
def test_a_stamp_offset_between_two_camera_nodes_is_found_and_a_phase_is_none(cameras, tmp_path):
    cameras("third_person")
    cameras("wrist", phase=0.0123, stamp_offset=0.012)
    began = time.monotonic()
    code, text = tool("--seconds", "14", "--out", str(tmp_path / "curves.png"), env={**os.environ})
    assert code == 0, text
    offset, low, high = measured(text)
    assert offset == pytest.approx(12.0, abs=4.0) and low <= offset <= high and high - low < 12
    wanted = re.search(r"camera_wrist:\n  ros__parameters:\n    stamp_offset: ([-\d.]+) # was 0.012", text)
    assert wanted and float(wanted.group(1)) == pytest.approx(0.0, abs=0.004), text
    assert (tmp_path / "curves.png").exists() and time.monotonic() - began < 60


@pytest.mark.ros
def test_one_camera_alone_is_refused(cameras, tmp_path):
    cameras("third_person")
    code, text = tool("--seconds", "3", "--patience", "4", "--out", str(tmp_path / "curves.png"))
    assert code == 1 and "wanted images of both cameras" in text and "wrist" in text and "Traceback" not in text
