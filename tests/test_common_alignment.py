"""Synchroniser: whole observations only, the newest, and every item either delivered or counted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alam_common.alignment import Synchroniser

STREAMS = ("third_person", "wrist", "state")


def test_equal_stamps_make_one_observation():
    align = Synchroniser(STREAMS)
    assert align.add("third_person", 10, "a") is None
    assert align.add("wrist", 10, "b") is None
    assert align.add("state", 10, "c") == {"third_person": "a", "wrist": "b", "state": "c"}
    assert (align.complete, align.dropped) == (1, 0)


def test_a_lost_frame_drops_its_companions_when_the_next_observation_is_whole():
    align = Synchroniser(STREAMS)
    align.add("third_person", 10, "lost partner")
    align.add("state", 10, "lost partner")
    for stream in STREAMS:
        whole = align.add(stream, 20, stream)
    assert whole == {stream: stream for stream in STREAMS}
    assert align.dropped == 2


def test_the_same_observation_again_is_delivered_again():
    align = Synchroniser(STREAMS)
    for _ in range(2):
        whole = [align.add(stream, 10, stream) for stream in STREAMS][-1]
        assert whole is not None


def test_a_restarted_robot_starts_its_time_anew():
    align = Synchroniser(STREAMS)
    for stamp in (1_000_000, 5):
        whole = [align.add(stream, stamp, stamp) for stream in STREAMS][-1]
        assert whole == dict.fromkeys(STREAMS, stamp)


def test_skew_gate():
    align = Synchroniser(("image", "state"), max_skew_ns=3)
    align.add("state", 5, "early")
    align.add("state", 9, "near")
    assert align.add("image", 11, "frame") == {"image": "frame", "state": "near"}
    assert align.dropped == 1
    assert align.add("image", 20, "frame") is None


@given(
    st.lists(st.tuples(st.sampled_from(STREAMS), st.integers(0, 6)), max_size=80),
    st.integers(0, 2),
    st.integers(1, 4),
)
def test_stamps_of_an_observation_lie_within_the_skew_and_nothing_waits_without_bound(arrivals, skew, depth):
    align = Synchroniser(STREAMS, max_skew_ns=skew, depth=depth)
    for stream, stamp in arrivals:
        whole = align.add(stream, stamp, (stream, stamp))
        if whole is not None:
            assert set(whole) == set(STREAMS)
            assert all(whole[name][0] == name for name in STREAMS)
            assert all(abs(item[1] - stamp) <= skew for item in whole.values())
    assert all(len(queue) <= depth for queue in align._waiting.values())


def test_bad_settings_are_refused():
    for arguments in ((), -1, 8), (STREAMS, -1, 8), (STREAMS, 0, 0):
        with pytest.raises(ValueError, match="synchroniser"):
            Synchroniser(*arguments)
