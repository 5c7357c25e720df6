"""Pairs of unequal stamps: never beyond the gate, each image once, the nearest, and none missed that is there."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alam_common.pairing import Pairing

MS = 1_000_000
PERIOD = 33 * MS


def make(skew_ms=16):
    return Pairing("third_person", ("wrist", "state"), skew_ms * MS, shared=("state",))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.floats(0, 0.4), st.floats(0, 12))
def test_pairs_hold_their_laws_under_jitter_drops_and_reordering(seed, drop, jitter_ms):
    random = np.random.default_rng(seed)
    pairing, events = make(), []
    for k in range(60):
        for stream, offset in (("third_person", 0), ("wrist", 3 * MS)):
            if random.random() >= drop:
                stamp = k * PERIOD + offset + int(random.uniform(0, jitter_ms) * MS) + 10 * MS
                events.append((stamp + int(random.uniform(0, 20) * MS), stream, stamp))
    for k in range(60 * 33 // 5):
        events.append((k * 5 * MS + 12 * MS, "state", k * 5 * MS + 1))
    used, given_out = {"third_person": set(), "wrist": set()}, []
    for _, stream, stamp in sorted(events):
        paired = pairing.add(stream, stamp, stamp)
        if paired is None:
            continue
        lead, wrist, state = paired.stamp_ns, paired.items["wrist"], paired.items["state"]
        assert paired.items["third_person"] == lead
        assert abs(wrist - lead) <= 16 * MS and abs(state - lead) <= 16 * MS
        assert lead not in used["third_person"] and wrist not in used["wrist"]
        used["third_person"].add(lead), used["wrist"].add(wrist)
        given_out.append(lead)
    assert given_out == sorted(given_out)
    assert pairing.complete == len(given_out)


def test_every_pair_is_found_when_the_cameras_are_steady():
    pairing, pairs = make(), 0
    for k in range(1, 200):
        pairing.add("state", k * PERIOD, "s")
        pairing.add("third_person", k * PERIOD + MS, "t")
        pairs += pairing.add("wrist", k * PERIOD + 9 * MS, "w") is not None
    assert pairs == 199 and pairing.rejected == 0
    assert pairing.skew["wrist"].percentile_ms(99) == pytest.approx(8.0)


def test_repeated_and_late_images_are_rejected():
    pairing = make()
    for stream in ("third_person", "state", "wrist"):
        made = pairing.add(stream, 100 * MS, stream)
    assert made is not None
    for stamp in (100 * MS, 50 * MS):
        assert pairing.add("wrist", stamp, "again") is None
        assert pairing.add("third_person", stamp, "again") is None
    assert pairing.rejected == 4


def test_nonsense_is_refused():
    for arguments in (("a", ("a",), 1), ("a", (), 1), ("a", ("b",), 0)):
        with pytest.raises(ValueError, match="pairing: wanted"):
            Pairing(*arguments)
