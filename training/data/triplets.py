"""Which frames a training sees: sample number -> clip and frames, a pure function of settings, lengths and seed.

So a stopped training goes on from a number, ranks take every R-th number, and workers need no shared state.

An epoch is a seeded permutation of clip visits. Each source has visits in proportion to its weight; within a source
every clip is visited equally often, up to one. A visit number counts on through the epochs: visit v is place v % visits
of epoch v // visits.

No two ranks share a visit. They may share a clip: a source with more visits in an epoch than clips has each of them
several times, in any order, on any rank. None comes twice in an epoch where a source has no more visits than clips:
with one source, or weights in proportion to the numbers of clips, and `visits` at most that of the clips."""

from __future__ import annotations

import numpy as np


class Triplets:
    """Frame triplets a < b < c of one clip (paper, A.1): gaps b - a and c - b uniform on 1..max_gap times the stride.

    In a clip too short for the largest two gaps, all pairs of gaps that fit are equally likely: to take long clips only
    would leave most short episodes unseen. The first frame is uniform over those from which the pair fits."""

    def __init__(
        self,
        frames: np.ndarray,
        source: np.ndarray,
        weights: np.ndarray,
        strides: np.ndarray,
        max_gap: int,
        seed: int,
        per_visit: int = 1,
        visits: int = 0,
    ) -> None:
        """frames (C,) of each clip, source (C,) its number; weights (S,), strides (S,) of the sources.

        visits: clip visits in an epoch, 0 for as many as there are clips. Raises ValueError when a weighted source has
        no clip, or a clip is shorter than the shortest triplet."""
        if max_gap < 1 or per_visit < 1 or visits < 0:
            got = f"{max_gap}, {per_visit}, {visits}"
            raise ValueError(f"triplets: wanted max_gap >= 1, per_visit >= 1 and visits >= 0, got {got}")
        self.members = [np.nonzero(source == s)[0] for s in range(len(weights))]
        for s, members in enumerate(self.members):
            if weights[s] > 0 and not len(members):
                raise ValueError(f"triplets: wanted a clip of source {s}, which has weight {weights[s]}, got none")
        self.reach = (frames - 1) // strides[source]  # longest span inside each clip, in strides
        if len(frames) == 0 or self.reach.min() < 2:
            raise ValueError(f"triplets: wanted clips of more than 2 strides, got {frames.min(initial=0)} frames")
        self.frames, self.stride = frames, strides[source]
        self.max_gap, self.seed, self.per_visit = max_gap, seed, per_visit
        share = weights / weights.sum() * (visits or len(frames))
        # Every source with a weight is visited, however small its share.
        self.source_visits = np.maximum(np.round(share), weights > 0).astype(np.int64)
        self.visits = int(self.source_visits.sum())
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def order(self, epoch: int) -> np.ndarray:
        """-> (visits,) the clips of an epoch in the order of its visits."""
        if epoch != self._epoch:
            parts = []
            for s, (members, wanted) in enumerate(zip(self.members, self.source_visits.tolist(), strict=True)):
                if not wanted:
                    continue
                whole, rest = divmod(wanted, len(members))
                chosen = np.random.default_rng([self.seed, epoch, 1, s]).permutation(members)[:rest]
                parts += [np.tile(members, whole), chosen]
            self._order = np.random.default_rng([self.seed, epoch, 2]).permutation(np.concatenate(parts))
            self._epoch = epoch
        return self._order

    def clip(self, visit: int) -> int:
        """-> the clip of a visit, as its place in `frames`."""
        return int(self.order(visit // self.visits)[visit % self.visits])

    def draw(self, visit: int, attempt: int = 0) -> np.ndarray:
        """-> (per_visit, 3) int64 frame numbers of that visit's clip; another attempt draws others."""
        clip = self.clip(visit)
        random = np.random.default_rng([self.seed, *divmod(visit, self.visits), 3, attempt])
        reach = int(self.reach[clip])
        largest = min(self.max_gap, reach - 1)
        gaps = random.integers(1, largest + 1, (self.per_visit, 2))
        while (over := gaps.sum(1) > reach).any():
            gaps[over] = random.integers(1, largest + 1, (int(over.sum()), 2))
        gaps *= int(self.stride[clip])
        first = random.integers(0, int(self.frames[clip]) - gaps.sum(1))
        return np.stack([first, first + gaps[:, 0], first + gaps.sum(1)], 1)
