"""ActionGate: nothing non-finite or out of limits ever leaves; a stop stays until it is reset."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from alam_control.action_gate import ActionGate, GateLimits
from alam_models.contract import Channel

CHANNELS = (Channel("dx", "1", -1.0, 1.0), Channel("dy", "1", -0.1, 0.3), Channel("grip", "1", 0.1, 0.7))
LIMITS = GateLimits.of(CHANNELS, keep=("grip",), max_age=1.0)
ANYTHING = hnp.arrays(
    st.sampled_from((np.float32, np.float64)), st.integers(0, 5), elements={"allow_nan": True, "allow_infinity": True}
)
COMMANDS = st.one_of(
    st.tuples(st.just("check"), st.one_of(st.none(), ANYTHING, hnp.arrays(np.float32, 3)), st.floats()),
    st.tuples(st.sampled_from(("stop", "reset", "enable", "disable", "forget")), st.none(), st.none()),
)


@settings(max_examples=300)
@given(st.lists(COMMANDS, max_size=25))
def test_only_finite_actions_inside_the_limits_leave_whatever_comes_in(commands):
    gate = ActionGate(LIMITS)
    stopped, enabled = False, True
    for command, action, age in commands:
        if command == "check":
            verdict = gate.check(action, age)
            assert verdict.action.shape == (3,)
            assert verdict.action.dtype == np.float32
            assert np.isfinite(verdict.action).all()
            for value, channel in zip(verdict.action.astype(np.float64), CHANNELS, strict=True):
                assert channel.low <= value <= channel.high
            if stopped or not enabled or not 0 <= age <= 1.0:
                assert verdict.held
            assert bool(verdict.reason) == verdict.held
            if verdict.held:
                assert verdict.action[:2].tolist() == [0.0, 0.0]
        else:
            {"stop": lambda: gate.stop("test"), "reset": gate.reset, "forget": gate.forget}.get(
                command,
                lambda: gate.enable(command == "enable"),  # noqa: B023
            )()
            stopped = command == "stop" or (stopped and command != "reset")
            enabled = {"enable": True, "disable": False}.get(command, enabled)


def test_good_actions_pass_unchanged():
    gate = ActionGate(LIMITS)
    action = np.array([0.5, 0.2, 0.6], np.float32)
    verdict = gate.check(action, 0.0)
    assert not verdict.held
    assert verdict.action.tobytes() == action.tobytes()
    assert (gate.clipped, gate.held) == (0, 0)


def test_an_overshoot_is_clipped_and_counted():
    gate = ActionGate(LIMITS)
    assert gate.check(np.array([1.5, 0.2, 0.6]), 0.0).action[0] == 1.0
    assert gate.clipped == 1


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        (np.array([math.nan, 0, 0.5]), "wanted finite actions, got 1 of 3"),
        (np.array([0, math.inf, 0.5]), "wanted finite actions"),
        (np.array([40.0, 0, 0.5]), "too far outside"),
        (np.zeros(2), "wanted actions"),
        (np.zeros((2, 3)), "wanted one action"),
        (None, "no action"),
    ],
)
def test_anything_wrong_is_a_hold_with_its_reason(action, reason):
    gate = ActionGate(LIMITS)
    gate.check(np.array([0.5, 0.2, 0.6]), 0.0)
    verdict = gate.check(action, 0.0)
    assert verdict.held
    assert reason in verdict.reason
    assert verdict.action.tolist() == pytest.approx([0.0, 0.0, 0.6])  # motion rests, the grip keeps its hold


def test_a_stale_observation_is_a_hold():
    gate = ActionGate(LIMITS)
    for age in (1.1, -0.1, math.nan, math.inf):
        assert "wanted an observation at most 1.00 s old" in gate.check(np.array([0.0, 0.0, 0.5]), age).reason


def test_stop_is_latched_until_reset_and_enable_does_not_clear_it():
    gate = ActionGate(LIMITS)
    action = np.array([0.5, 0.2, 0.6])
    gate.stop("button")
    gate.stop("later reason")
    gate.enable(True)
    assert gate.check(action, 0.0).reason == "button"
    gate.enable(False)
    gate.reset()
    assert "disabled" in gate.check(action, 0.0).reason
    gate.enable(True)
    assert not gate.check(action, 0.0).held


def test_a_fault_anywhere_in_a_chunk_is_found():
    gate = ActionGate(LIMITS)
    chunk = np.tile(np.array([0.5, 0.2, 0.6], np.float32), (8, 1))
    assert gate.fault(chunk) == ""
    chunk[6, 1] = 3.0
    assert "wanted action 1 in [-0.1, 0.3], got 3" in gate.fault(chunk)
    chunk[7, 0] = np.nan
    assert "1 of 24" in gate.fault(chunk)


def test_limits_are_checked():
    with pytest.raises(ValueError, match="to keep"):
        GateLimits.of(CHANNELS, keep=("thumb",))
    zeros, ones = np.zeros(2), np.ones(2)
    for low, high in ((ones, zeros), (zeros, np.array([1, np.nan])), (zeros, np.ones(3))):
        with pytest.raises(ValueError, match="gate: wanted"):
            GateLimits(low, high, keep=zeros.astype(bool), rest=zeros)
