"""Pairs of unequal stamps: never beyond the gate, each image once, the nearest, and none missed that is there."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alam_common.pairing import Pairing

MS = 1_000_000
PERIOD = 33 * MS
IMAGES = ("third_person", "wrist")
GATE = 16 * MS


def make(**depths):
    return Pairing("third_person", ("wrist", "state"), GATE, shared=("state",), **depths)


def arrivals(seed, drop, jitter_ms, delay_ms, burst_ms, count=40):
    """-> [(stream, stamp)] in order of arrival: two cameras at 30 Hz and a state at 200 Hz; images are lost, shaken,
    delayed past one another, and come in bursts."""
    random = np.random.default_rng(seed)
    events = []
    phase = int(random.integers(0, PERIOD))
    for k in range(count):
        for stream, offset in (("third_person", 0), ("wrist", phase)):
            if random.random() >= drop:
                stamp = k * PERIOD + offset + int(random.uniform(0, jitter_ms) * MS) + MS
                at = stamp + int(random.uniform(0, delay_ms) * MS)
                events.append((-(-at // max(1, burst_ms * MS)), random.random(), stream, stamp))
    for k in range(count * 7):
        stamp = k * 5 * MS + 1
        events.append((-(-stamp // max(1, burst_ms * MS)), random.random(), "state", stamp))
    return [(stream, stamp) for _, _, stream, stamp in sorted(events)]


SCENES = st.tuples(
    st.integers(0, 2**32 - 1), st.floats(0, 0.5), st.floats(0, 30), st.floats(0, 120), st.sampled_from((0, 10, 50, 200))
)


@settings(deadline=None, max_examples=150)
@given(SCENES)
def test_pairs_hold_their_laws_under_jitter_drops_reordering_and_bursts(scene):
    pairing = make(depth=1000, shared_depth=1000)
    unused, states, leads, came = {stream: set() for stream in IMAGES}, set(), [], 0
    for stream, stamp in arrivals(*scene):
        if stream == "state":
            states.add(stamp)
        else:
            unused[stream].add(stamp)
            came += 1
        paired = pairing.add(stream, stamp, stamp)
        if paired is None:
            continue
        lead, wrist, state = paired.stamp_ns, paired.items["wrist"], paired.items["state"]
        assert paired.items["third_person"] == lead
        assert abs(wrist - lead) <= GATE and abs(state - lead) <= GATE
        assert lead in unused["third_person"] and wrist in unused["wrist"], "an image was used twice"
        assert abs(wrist - lead) == min(abs(other - lead) for other in unused["wrist"])
        assert abs(state - lead) == min(abs(other - lead) for other in states)
        for name, used in (("third_person", lead), ("wrist", wrist)):  # what is older can never be paired any more
            unused[name] = {other for other in unused[name] if other > used}
        leads.append(lead)
    assert leads == sorted(set(leads)) and len(leads) == pairing.complete
    waiting = sum(pairing.waiting(stream) for stream in IMAGES)
    assert came == 2 * pairing.complete + sum(pairing.rejected.values()) + waiting, "an image went uncounted"


@settings(deadline=None, max_examples=80)
@given(SCENES)
def test_what_is_replayed_changes_nothing(scene):
    events = arrivals(*scene)
    random = np.random.default_rng(scene[0])
    clean, replayed, wanted, got = make(), make(), [], []
    for index, (stream, stamp) in enumerate(events):
        wanted.append(clean.add(stream, stamp, stamp))
        got.append(replayed.add(stream, stamp, stamp))
        old = int(random.integers(0, index + 1))
        again = replayed.add(*events[old], "replayed") if events[old][0] in IMAGES else None
        if again is not None:  # it had been pushed out unused: new to whoever has forgotten it
            return
    assert got == wanted


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 2**32 - 1), st.floats(0, 8))
def test_no_pair_is_missed_while_the_jitter_is_below_half_a_period(seed, jitter_ms):
    random, pairing = np.random.default_rng(seed), make()
    pairs = 0
    for k in range(1, 100):
        for number in range(-4, 5):
            pairing.add("state", k * PERIOD + number * 3 * MS, "state")
        for stream in random.permutation(IMAGES):
            stamp = k * PERIOD + int(random.uniform(-jitter_ms, jitter_ms) * MS)
            pairs += pairing.add(str(stream), stamp, stream) is not None
    assert pairs == 99 and pairing.rejected == {"late": 0, "repeated": 0, "alone": 0}


def test_skew_is_measured():
    pairing = make()
    for k in range(1, 200):
        pairing.add("state", k * PERIOD, "s")
        pairing.add("third_person", k * PERIOD + MS, "t")
        pairing.add("wrist", k * PERIOD + 9 * MS, "w")
    assert pairing.skew["wrist"].percentile_ms(99) == pytest.approx(8.0)
    assert pairing.skew["state"].percentile_ms(50) == pytest.approx(1.0)


def test_each_reason_is_counted():
    pairing = make(depth=3)
    for stream in ("third_person", "state", "wrist"):
        made = pairing.add(stream, 100 * MS, stream)
    assert made is not None
    for stream in IMAGES:
        assert pairing.add(stream, 100 * MS, "again") is None
        assert pairing.add(stream, 50 * MS, "before") is None
    assert pairing.rejected == {"late": 4, "repeated": 0, "alone": 0}
    for stamp in (200, 300, 300, 400, 500):  # no wrist image comes
        pairing.add("third_person", stamp * MS, "t")
    assert pairing.rejected == {"late": 4, "repeated": 1, "alone": 1} and pairing.waiting("third_person") == 3


def test_old_states_do_not_push_out_new_ones():
    pairing = make(shared_depth=4)
    for k in range(10, 14):
        pairing.add("state", k * 5 * MS, k)
    for k in range(5):
        pairing.add("state", k * MS, "replayed")
    pairing.add("wrist", 62 * MS, "w")
    assert pairing.add("third_person", 61 * MS, "t").items["state"] == 12


def test_a_restarted_robot_starts_its_time_anew():
    pairing = make()
    for start in (1000 * MS, 5 * MS):
        made = [pairing.add(stream, start, stream) for stream in ("state", *IMAGES)][-1]
        assert made is not None
        pairing.clear()


def test_nonsense_is_refused():
    for arguments in (
        ("a", ("a",), 1),
        ("a", (), 1),
        ("a", ("b",), 0),
        ("a", ("b",), 1, ("c",)),
        ("a", ("b",), 1, (), 0),
    ):
        with pytest.raises(ValueError, match="pairing: wanted"):
            Pairing(*arguments)
