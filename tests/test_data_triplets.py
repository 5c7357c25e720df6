"""Triplets: uniform gaps inside their clip, shares by weight, and numbers that mean the same whoever asks."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from training.data.triplets import Triplets


def triplets(
    frames: list[int], source: list[int] | None = None, weights: list[float] | None = None, **options: int
) -> Triplets:
    weights = weights or [1.0]
    settings = {"max_gap": 16, "seed": 0, **options}
    stride = settings.pop("stride", 1)
    places = np.array(source or [0] * len(frames))
    return Triplets(np.array(frames), places, np.array(weights), np.full(len(weights), stride), **settings)


def drawn(sampler: Triplets, visits: int) -> np.ndarray:
    return np.concatenate([sampler.draw(visit) for visit in range(visits)])


def chi_square(values: np.ndarray, cells: int) -> float:
    """values in 0..cells-1, expected to be equally likely."""
    counts = np.bincount(values, minlength=cells)
    assert len(counts) == cells
    return float(((counts - len(values) / cells) ** 2 / (len(values) / cells)).sum())


def test_gaps_are_uniform_on_1_to_16_strides_and_independent() -> None:
    sampler = triplets([321, 400, 1000], stride=10, per_visit=8)
    gaps = np.diff(drawn(sampler, 2000), axis=1)
    assert (gaps % 10 == 0).all()
    gaps = gaps // 10 - 1
    assert chi_square(gaps[:, 0], 16) < 37.7 and chi_square(gaps[:, 1], 16) < 37.7  # 99.9 % of 15 degrees of freedom
    assert chi_square(gaps[:, 0] * 16 + gaps[:, 1], 256) < 330.6  # 99.9 % of 255


def test_in_a_short_clip_all_pairs_of_gaps_that_fit_are_equally_likely() -> None:
    sampler = triplets([38], stride=5, per_visit=16)  # 7 strides: 1 + 1 to 6 + 1
    gaps = np.diff(drawn(sampler, 500), axis=1) // 5
    pairs = Counter(map(tuple, gaps.tolist()))
    assert set(pairs) == {(a, b) for a in range(1, 7) for b in range(1, 7) if a + b <= 7}
    expected = len(gaps) / len(pairs)
    assert sum((n - expected) ** 2 / expected for n in pairs.values()) < 45.3  # 99.9 % of 20


def test_triplets_lie_inside_their_clip_and_reach_both_ends() -> None:
    frames = [3, 5, 21, 40]
    sampler = triplets(frames, max_gap=2)
    first, last = {}, {}
    for visit in range(3000):
        a, b, c = sampler.draw(visit)[0].tolist()
        clip = sampler.clip(visit)
        assert 0 <= a < b < c < frames[clip]
        first[clip], last[clip] = min(a, first.get(clip, a)), max(c, last.get(clip, c))
    assert first == dict.fromkeys(range(4), 0) and last == {i: n - 1 for i, n in enumerate(frames)}


def test_visits_follow_the_weights_and_spread_evenly_over_clips() -> None:
    source = [0] * 10 + [1] * 40 + [2] * 3
    sampler = triplets([50] * 53, source, [150.0, 50.0, 1e-6], visits=400)
    assert sampler.source_visits.tolist() == [300, 100, 1]  # every source with a weight is visited
    counts = np.bincount(sampler.order(0), minlength=53)
    assert set(counts[:10]) == {30} and set(counts[10:50]) == {2, 3} and counts[50:].sum() == 1
    assert sorted(sampler.order(1)) != sorted(sampler.order(0))  # who is visited once more differs
    assert sampler.visits == 401


def test_epochs_differ_and_are_the_same_again() -> None:
    sampler, again = triplets([50] * 30), triplets([50] * 30)
    orders = [sampler.order(epoch) for epoch in range(3)]
    assert all(sorted(order) == list(range(30)) for order in orders)
    assert not np.array_equal(orders[0], orders[1])
    assert all(np.array_equal(again.order(epoch), orders[epoch]) for epoch in (2, 0, 1))
    assert not np.array_equal(triplets([50] * 30, seed=1).order(0), orders[0])
    assert np.array_equal(again.draw(77), sampler.draw(77))
    assert not np.array_equal(again.draw(77), again.draw(77, attempt=1))


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_ranks_share_no_clip_within_an_epoch(world: int) -> None:
    sampler = triplets([50] * 60)
    seen = [[sampler.clip(visit) for visit in range(rank, sampler.visits, world)] for rank in range(world)]
    assert sorted(clip for clips in seen for clip in clips) == list(range(60))


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_share_no_visit_and_a_source_goes_round_its_clips_evenly(world: int) -> None:
    source = np.array([0] * 4 + [1] * 56)
    sampler = triplets([50] * 60, source.tolist(), [1.0, 2.0])  # 20 visits of 4 clips, 40 of 56
    for epoch in range(3):
        first = epoch * sampler.visits
        shares = [range(first + rank, first + sampler.visits, world) for rank in range(world)]
        assert sorted(visit for share in shares for visit in share) == list(range(first, first + sampler.visits))
        clips = [sampler.clip(visit) for share in shares for visit in share]
        counts = np.bincount(clips, minlength=60)
        assert set(counts[source == 0]) == {5}  # more visits than clips: each comes again
        assert set(counts[source == 1]) == {0, 1} and counts[source == 1].sum() == 40  # fewer: none comes twice


@pytest.mark.parametrize(
    ("frames", "options", "said"),
    [([], {}, "a clip of source 0"), ([50, 2], {}, "more than 2 strides"), ([50], {"max_gap": 0}, "max_gap >= 1")],
)
def test_what_has_no_triplets_is_refused(frames: list[int], options: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        triplets(frames, **options)
    with pytest.raises(ValueError, match="source 1"):
        triplets([50], [0], [1.0, 1.0])
