"""Which steps of a dataset make a training sample. Each sampler's state is its numpy generator, nothing else."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from training.data.lerobot import LeRobotDataset


def split_episodes(count: int, seed: int, held_out: float = 0.05) -> tuple[list[int], list[int]]:
    """-> (training, held-out) episode numbers, at least one held out when there are two or more."""
    order = np.random.default_rng([seed, 95]).permutation(count)
    size = max(1, round(count * held_out)) if count > 1 else 0
    return sorted(order[size:].tolist()), sorted(order[:size].tolist())


class TripletSampler:
    """Frame triplets a < b < c of one episode, both gaps uniform on 1..max_gap times the stride (paper, A.1)."""

    def __init__(self, dataset: LeRobotDataset, episodes: list[int], stride: int, max_gap: int) -> None:
        """Raises ValueError when no episode is long enough for the shortest triplet."""
        rows = [dataset.episodes[i] for i in episodes]
        rows = [row for row in rows if row["length"] > 2 * stride]
        if not rows:
            raise ValueError(f"{dataset.path}: wanted an episode of more than {2 * stride} frames, got none")
        self.start = np.array([row["dataset_from_index"] for row in rows])
        self.length = np.array([row["length"] for row in rows])
        self.stride, self.max_gap = stride, max_gap

    def draw(self, batch: int, generator: np.random.Generator) -> np.ndarray:
        """-> (batch, 3) int64 step numbers. Gaps that do not fit into the episode are drawn again."""
        share = self.length / self.length.sum()
        out = np.empty((batch, 3), np.int64)
        todo = np.arange(batch)
        while len(todo):
            episode = generator.choice(len(self.start), len(todo), p=share)
            gaps = generator.integers(1, self.max_gap + 1, (len(todo), 2)) * self.stride
            free = self.length[episode] - gaps.sum(1)
            fits = free > 0
            first = self.start[episode] + (generator.random(len(todo)) * np.maximum(free, 1)).astype(np.int64)
            out[todo] = np.stack([first, first + gaps[:, 0], first + gaps.sum(1)], 1)
            todo = todo[~fits]
        return out


def chunk_starts(dataset: LeRobotDataset, episodes: list[int], horizon: int) -> np.ndarray:
    """-> step numbers from which a whole chunk (H actions and H + 1 frames) lies inside the episode.

    Raises ValueError when there is none: nothing is padded, since padding would teach the dataset mean."""
    starts = [
        np.arange(row["dataset_from_index"], row["dataset_to_index"] - horizon)
        for row in (dataset.episodes[i] for i in episodes)
        if row["length"] > horizon
    ]
    if not starts:
        longest = max((dataset.episodes[i]["length"] for i in episodes), default=0)
        raise ValueError(f"{dataset.path}: wanted episodes longer than the horizon {horizon}, longest is {longest}")
    return np.concatenate(starts)


def generator_state(generator: np.random.Generator) -> str:
    """-> JSON; with set_generator_state a stopped run draws the samples it would have drawn."""
    return json.dumps(generator.bit_generator.state)


def set_generator_state(generator: np.random.Generator, state: str) -> None:
    loaded: dict[str, Any] = json.loads(state)
    generator.bit_generator.state = loaded
