"""What a person asks of the arm, without ROS: one thing at a time, never for ever; and what the answers say."""

import re
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import robot
from alam_common.refusal import Refusal
from alam_piper import arm, requests_io, stamps_io
from alam_piper.requests_io import LONGEST_S, Requests
from alam_piper.settings import PARAMETERS
from alam_piper.snapshot import Snapshot
from alam_piper.words import fill_arm_status

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = {parameter.name: parameter.default for parameter in PARAMETERS}
NAMES = ("enable", "disable", "reset", "home")


class FakeClient:
    """An arm that answers with one snapshot for ever."""

    def __init__(self, refusal="", **said):
        self.asked, self.refusal, self.was_asked = [], refusal, threading.Event()
        self.said = SimpleNamespace(
            **{
                "mode": "stopped",
                "reason": "because",
                "answer": "",
                "moving_itself": True,
                "commanded": arm.REST,
                "reset_sags": False,
                **said,
            }
        )

    def ask(self, name):
        self.asked.append(name)
        self.was_asked.set()
        return self.refusal

    def snapshot(self):
        return self.said


@pytest.fixture
def clock(monkeypatch):
    """A clock that only sleeping moves."""
    fake = SimpleNamespace(now=0.0)
    monkeypatch.setattr(
        requests_io,
        "time",
        SimpleNamespace(monotonic=lambda: fake.now, sleep=lambda s: setattr(fake, "now", fake.now + s)),
    )
    return fake


def answer(client, name, over=None, task_runs=False, **settings):
    requests = Requests(SETTINGS | settings, over or threading.Event())
    return requests.answer(name, lambda: client, lambda: task_runs)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("speed", [1.0, 0.05])
def test_no_request_waits_for_ever(clock, name, speed):
    client = FakeClient()
    good, words = answer(client, name, speed=speed)
    assert not good and client.asked == [name]
    assert 0 < clock.now <= LONGEST_S + 1 and re.search("not done within|still stopped", words)


@pytest.mark.parametrize("name", NAMES)
def test_what_the_arm_refuses_is_answered_at_once_in_its_words(clock, name):
    assert answer(FakeClient(refusal="the arm still brakes"), name) == (False, "the arm still brakes")
    assert clock.now == 0


@pytest.mark.parametrize("name", NAMES)
def test_an_arm_that_is_let_go_ends_the_wait(clock, name):
    over = threading.Event()
    over.set()
    assert not answer(FakeClient(), name, over)[0] and clock.now == 0


@pytest.mark.parametrize("name", ["disable", "reset", "home"])
def test_a_task_keeps_requests_from_the_arm(clock, name):
    client = FakeClient()
    good, words = answer(client, name, task_runs=True)
    assert not good and not client.asked and "wanted no task to run" in words


def test_without_a_loop_the_answer_says_so():
    def nobody():
        raise ConnectionError("the control loop is not running")

    requests = Requests(SETTINGS, threading.Event())
    for _ in range(2):  # and the first one leaves nothing locked
        assert requests.answer("home", nobody, lambda: False) == (False, "the control loop is not running")


def test_a_second_request_is_refused_at_once():
    over, client = threading.Event(), FakeClient()
    requests, first = Requests(SETTINGS, over), []
    waiting = threading.Thread(
        target=lambda: first.append(requests.answer("home", lambda: client, lambda: False)), daemon=True
    )
    waiting.start()
    assert client.was_asked.wait(10) and requests.under_way
    for name in NAMES:
        good, words = requests.answer(name, lambda: client, lambda: False)
        assert not good and "another request is under way" in words
    assert client.asked == ["home"]
    over.set()
    waiting.join(10)
    assert first and not requests.under_way


def test_what_was_done_is_said():
    there = arm.HOME + np.array([0, 0, 0, 0, 0, 0, 0.02])
    assert answer(FakeClient(moving_itself=False, commanded=there), "home") == (True, "home")
    assert answer(FakeClient(moving_itself=False), "home") == (False, "not home: because")
    assert answer(FakeClient(answer="ok"), "enable") == (True, "enabled")
    assert answer(FakeClient(answer="ok"), "disable") == (True, "at rest, without power")
    assert answer(FakeClient(answer="no power on motor [3]"), "enable") == (False, "no power on motor [3]")
    good, words = answer(FakeClient(mode="disabled", reset_sags=True), "reset")
    assert good and "SAGS" in words
    good, words = answer(FakeClient(mode="disabled"), "reset")
    assert good and "SAGS" not in words


def test_the_status_fills_every_field_of_its_message():
    text = (ROOT / "ros2_ws/src/alam_msgs/msg/ArmStatus.msg").read_text()
    fields = set(re.findall(r"^[\w/\[\]]+ +(\w+) +#", text, re.MULTILINE))
    assert {"mode", "reset_sags", "motor_voltage"} <= fields
    message = SimpleNamespace(header=SimpleNamespace(stamp=SimpleNamespace()))
    none = (np.nan,) * 6
    said = Snapshot(
        "holding", "why", "asleep", "", (), False, "", False, arm.REST, np.nan, np.nan, True, np.nan, *[none] * 3
    )
    fill_arm_status(message, replace(said, reset_sags=True), 0.0, 1_500_000_000)
    assert set(vars(message)) == fields
    assert (message.header.stamp.sec, message.mode, message.enabled, message.reset_sags) == (1, "holding", False, True)
    assert message.chunk_age == message.feedback_age == np.inf and message.faults == []


def test_a_reset_that_sags_needs_somebody_who_holds_the_arm():
    def never(prompt):
        raise AssertionError(prompt)

    def gone(prompt):
        raise EOFError

    assert robot.allowed("", yes=False, terminal=False, ask=never)
    assert robot.allowed(robot.SAGS, yes=True, terminal=False, ask=never)
    with pytest.raises(Refusal, match="--yes"):
        robot.allowed(robot.SAGS, yes=False, terminal=False, ask=never)
    for said, wanted in (("yes", True), (" yes\n", True), ("y", False), ("", False), ("no", False)):
        assert robot.allowed(robot.SAGS, yes=False, terminal=True, ask=lambda prompt: said) is wanted  # noqa: B023
    assert not robot.allowed(robot.SAGS, yes=False, terminal=True, ask=gone)


def test_the_same_stamp_is_the_same_time_until_the_clock_is_set(monkeypatch):
    system, own, random = SimpleNamespace(ahead=10**18), SimpleNamespace(now=0), np.random.default_rng(0)

    def read():  # each reading takes a while
        own.now += int(random.integers(1, 20_000))
        return own.now

    fake = SimpleNamespace(monotonic_ns=read, time_ns=lambda: read() + system.ahead)
    monkeypatch.setattr(stamps_io, "time", fake)
    stamps = stamps_io.MonotonicStamps()
    assert len({stamps.seconds(10**18 + 5 * 10**9) for _ in range(1000)}) == 1
    assert stamps.seconds(10**18 + 5 * 10**9) == pytest.approx(5.0, abs=1e-4)
    for ahead in (10**18 + 10**6, 10**18 - 3600 * 10**9, 10**18):
        system.ahead = ahead
        assert stamps.seconds(10**18 + 5 * 10**9) == pytest.approx((10**18 + 5 * 10**9 - ahead) / 1e9, abs=1e-4)
