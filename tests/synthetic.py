"""A small LeRobot dataset of moving squares, made without a simulator."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from alam_sim.metaworld_env import FRAME_SIZE, metaworld_contract
from training.data.lerobot import Episode, join_episodes, stage_episode


def make_episode(seed: int, length: int = 24) -> Episode:
    """A bright square moves with the action; the state follows it."""
    random = np.random.default_rng(seed)
    action = random.uniform(-1, 1, (length, 4)).astype(np.float32)
    path = np.cumsum(np.vstack([np.zeros(4), action[:-1]]), 0)
    frames = {role: np.full((length, FRAME_SIZE, FRAME_SIZE, 3), 40, np.uint8) for role in ("third_person", "wrist")}
    for i, (x, y) in enumerate(np.clip(60 + 4 * path[:, :2], 16, 100).astype(int)):
        frames["third_person"][i, y : y + 12, x : x + 12] = (200, 30, random.integers(256))
        frames["wrist"][i, x : x + 12, y : y + 12] = (30, 200, random.integers(256))
    state = np.array([0.0, 0.6, 0.2, 0.5]) + 0.01 * path
    success = np.arange(length) > length - 4
    words = f"push the square {seed % 2}"
    return Episode(frames, state, action, success, words, f"square-{seed % 2}", seed)


def make_dataset(folder: Path, episodes: int = 6, length: int = 24) -> Path:
    """-> folder, holding a complete dataset."""
    contract = metaworld_contract()
    staging = folder / "staging"
    staging.mkdir(parents=True)
    for seed in range(episodes):
        stage_episode(staging, make_episode(seed, length), contract.control_rate_hz)
    join_episodes(folder, sorted(staging.glob("*.npz")), contract)
    return folder
