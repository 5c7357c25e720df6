"""Which episodes and steps of a dataset make a training sample of the policy; the state of drawing them."""

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
