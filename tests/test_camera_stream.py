"""Stamps, recovery and the stream: on a clock of their own, and with the real library."""

import itertools
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

rs = pytest.importorskip("pyrealsense2")

from camera_rig import SIZE, frames  # noqa: E402

from alam_cameras.frame import Frame, Gone  # noqa: E402
from alam_cameras.pattern import Pattern, lamp, read_number  # noqa: E402
from alam_cameras.realsense_io import RealSense  # noqa: E402
from alam_cameras.recovery import AFTER_RESET_S, FIRST_FRAME_S, Recovery  # noqa: E402
from alam_cameras.software_io import wall_minus_monotonic  # noqa: E402
from alam_cameras.stamps import Restamp, from_monotonic  # noqa: E402
from alam_cameras.stream import Stream  # noqa: E402

# Stamps


@given(st.lists(st.floats(0.001, 0.1), min_size=2, max_size=30), st.lists(st.floats(0, 0.2), min_size=90, max_size=90))
def test_playback_stamps_rise_keep_intervals_and_never_lie_in_the_future(intervals, delays):
    restamp, recorded = Restamp(), 1000.0 + np.cumsum([0.0, *intervals])
    now, last, played = 5000.0, 0.0, 0
    for _ in range(3):
        begin, offsets = now, []
        for moment in recorded:
            now = max(now, begin + moment - recorded[0] + delays[played % 90])
            played += 1
            stamp = restamp(moment, now)
            assert last <= stamp + 1e-9 and stamp <= now + 1e-9
            last = stamp
            offsets.append(stamp - moment)
        assert (np.diff(offsets) <= 1e-9).all()
        now += 0.01
    assert restamp.loops == 2


def test_a_device_clock_is_not_taken_for_the_hosts(software, monkeypatch):
    monkeypatch.setattr("alam_cameras.realsense_io.HOST_DOMAINS", (rs.timestamp_domain.global_time,))
    software("one")
    camera = RealSense(software.context, "one", SIZE)
    camera.start()
    before = time.time()
    stamps = [frame.stamp_s for frame in frames(camera, 3)]
    assert before <= stamps[0] <= stamps[-1] <= time.time(), "stamped on arrival"
    assert not camera.host_stamps
    assert camera.about()["timestamp_domain"] == "system_time: not the host's; stamped on arrival"
    camera.stop()


def test_drivers_that_stamp_on_another_clock_are_stamped_on_arrival():
    assert from_monotonic(99.99, 100.0, 5000.0) == (pytest.approx(4999.99), "v4l2_monotonic")
    for driver_s in (0.0, 100.5, 5000.0):
        assert from_monotonic(driver_s, 100.0, 5000.0) == (5000.0, "arrival")
    assert wall_minus_monotonic() == pytest.approx(time.time() - time.monotonic(), abs=0.05)


def test_the_running_number_survives():
    pattern = Pattern(320, 240)
    for number in (0, 1, 255, 256, 40_000, 65_535, 65_536 + 7):
        for lit in (0.0, 0.4, 1.0):
            assert read_number(pattern.draw(number, lit)) == number % 2**16
    assert read_number(np.zeros((240, 320, 3), np.uint8)) is None


def test_only_what_changes_is_drawn_but_all_of_it():
    kept = Pattern(320, 240)
    for number, lit in ((1, 0.0), (2, 0.0), (900, 0.3), (901, 0.3), (902, 0.0), (76, 0.0)):
        assert np.array_equal(kept.draw(number, lit), Pattern(320, 240).draw(number, lit))


def test_the_lamp_flashes_once_a_second_at_moments_spread_over_the_frame_period():
    times = np.arange(1000.0, 1060.0, 0.001)
    lit = np.array([lamp(t, 0.002) for t in times])
    assert lit.mean() == pytest.approx(0.15, abs=0.003) and lit.min() == 0 and lit.max() == pytest.approx(1)
    onsets = times[1:][np.diff((lit > 0.5).astype(int)) == 1]
    assert len(onsets) == 60
    phases = np.sort(onsets % (1 / 30) * 30)
    assert np.diff(phases).max() < 0.15, "flashes all at the same phase tell little"


# Recovery and the stream, on a clock of their own


def test_recovery_takes_three_steps_and_starts_over():
    recovery = Recovery(0.5)
    recovery.started(0.0)
    assert not recovery.late(FIRST_FRAME_S - 0.1) and recovery.late(FIRST_FRAME_S + 0.1)
    recovery.frame(0.5)
    assert not recovery.late(0.9) and recovery.late(1.1)
    steps = []
    for now in (1.0, 2.0, 3.0, 4.0):
        recovery.failed(now, gone=False)
        steps.append(recovery.step)
        assert not recovery.due(now) and recovery.due(now + 1.1)
    assert steps == [1, 2, 3, 3] and (recovery.restarts, recovery.losses) == (1, 1)
    recovery.frame(5.0)
    assert recovery.step == 0
    recovery.failed(6.0, gone=True)
    assert recovery.doing.startswith("wait for the camera")
    recovery.frame(7.0)
    recovery.failed(8.0, gone=False), recovery.failed(9.0, gone=False)
    assert recovery.wants_reset
    recovery.reset(10.0)
    assert not recovery.wants_reset and recovery.resets == 1
    assert not recovery.due(10.0 + AFTER_RESET_S - 0.1) and recovery.due(10.0 + AFTER_RESET_S)


class Clock:
    """Time that passes only when somebody waits."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class Scripted:
    """A source that does what a test wants: mute until so many starts and resets, or gone."""

    name, intrinsics, host_stamps = "camera x", None, True

    def __init__(self, clock, mute_until=""):
        self._clock, self._mute_until = clock, mute_until
        self.present, self.did, self.numbers, self.error = True, [], iter(range(10**6)), None
        self.stamp = clock

    def start(self):
        self.did.append("start")
        if not self.present:
            raise Gone("camera x is not plugged in")

    def read(self, timeout_s):
        self._clock.sleep(timeout_s)
        if self.error:
            raise self.error
        if not self.present or (self._mute_until and self._mute_until not in self.did):
            return None
        return Frame(np.zeros((2, 2, 3), np.uint8), self.stamp(), next(self.numbers))

    def stop(self):
        pass

    def reset(self):
        self.did.append("reset")

    def about(self):
        return {}


def scripted(**options):
    clock = Clock()
    source = Scripted(clock, **options)
    return clock, source, Stream(source, 0.5, clock, clock.sleep)


def until(stream, clock, condition, patience_s=60.0):
    end = clock() + patience_s
    while not condition(stream.step()):
        assert clock() < end
    return clock()


def test_a_camera_that_starts_mute_gets_three_starts_with_a_reset_before_the_last():
    clock, source, stream = scripted(mute_until="reset")
    until(stream, clock, lambda frame: frame is not None)
    assert source.did == ["start", "start", "reset", "start"]
    assert (stream.why, stream.recovery.step, stream.recovery.resets) == ("", 0, 1)


def test_the_same_with_the_real_library(software):
    """A software device refuses a reset, so the test's own reset wakes it, as the hardware's would."""
    device, did = software("one", model="D405"), []

    class Wakes(RealSense):
        def start(self):
            did.append("start")
            super().start()

        def reset(self):
            did.append("reset")
            with pytest.raises(Gone, match="cannot be reset"):
                super().reset()
            device.stalled = False

    device.stalled = True
    clock = Clock()
    camera = Wakes(software.context, "one", SIZE)
    stream = Stream(camera, 0.5, clock, clock.sleep)
    read = camera.read
    camera.read = lambda timeout_s: (clock.sleep(timeout_s), read(timeout_s))[1]
    until(stream, clock, lambda frame: frame is not None)
    assert did == ["start", "start", "reset", "start"]
    stream.stop()


def test_unplugged_is_said_and_every_second_it_is_tried_again_until_it_is_back():
    clock, source, stream = scripted()
    until(stream, clock, lambda frame: frame is not None)
    source.present = False
    until(stream, clock, lambda frame: bool(stream.why))
    assert stream.why == "camera x is unplugged" and "plugged in again" in stream.recovery.doing
    began, tries = clock(), len(source.did)
    until(stream, clock, lambda frame: clock() > began + 10)
    assert 8 <= len(source.did) - tries <= 10 and "reset" not in source.did
    source.present = True
    assert until(stream, clock, lambda frame: frame is not None) < clock() + 1.5
    assert stream.why == "" and stream.recovery.losses == 1


def test_a_library_that_raises_is_trouble_not_the_end():
    clock, source, stream = scripted()
    until(stream, clock, lambda frame: frame is not None)
    source.error = RuntimeError("failed to set power state")
    assert stream.step() is None and stream.why == "failed to set power state"
    source.error = None
    until(stream, clock, lambda frame: frame is not None)


def test_gaps_are_counted_within_a_stream_not_across_a_restart():
    clock, source, stream = scripted()
    source.numbers = iter((1, 2, 5, 6, 900, 901, 903))
    until(stream, clock, lambda frame: frame is not None and frame.number == 6)
    assert stream.dropped == 2
    source.error = RuntimeError("a glitch")
    stream.step()
    source.error = None
    until(stream, clock, lambda frame: frame is not None and frame.number == 903)
    assert stream.dropped == 3


@pytest.mark.parametrize("what", ["number", "stamp", "both"])
def test_a_camera_that_shows_the_same_frame_again_and_again_has_stalled(what):
    clock, source, stream = scripted()
    until(stream, clock, lambda frame: frame is not None)
    last = clock() + 0.1
    if what != "stamp":
        source.numbers = itertools.repeat(1)
    if what != "number":
        source.stamp = lambda: last
    frames, began = [], clock()
    until(stream, clock, lambda frame: (frames.append(frame), stream.why)[1])
    assert stream.why == "no new image for 0.5 s" and clock() - began < 1.0
    assert sum(frame is not None for frame in frames) == 1 and stream.repeated >= 4
    until(stream, clock, lambda frame: len(source.did) > 2)
    assert stream.recovery.restarts >= 1
    source.numbers, source.stamp = iter(range(10, 10**6)), clock
    until(stream, clock, lambda frame: frame is not None)
    assert stream.why == ""


def test_a_camera_that_hangs_with_one_stamp_is_reset_however_often_it_starts():
    clock, source, stream = scripted()
    until(stream, clock, lambda frame: frame is not None)
    source.stamp, source.numbers = (lambda: 7.0), iter(range(10**6))
    until(stream, clock, lambda frame: "reset" in source.did)


def test_a_wall_clock_that_is_set_back_stops_no_camera():
    clock, source, stream = scripted()
    until(stream, clock, lambda frame: frame is not None)
    source.stamp = lambda: clock() - 3600.0
    for _ in range(20):
        assert stream.step() is not None
    assert stream.recovery.losses == 0
