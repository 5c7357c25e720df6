"""Normalisation statistics of a dataset's training split, and the doubts that stop a training on them."""

from __future__ import annotations

import numpy as np

from alam_models.contract import Channel, Normalisation
from training.data.lerobot import LeRobotDataset

# A channel that hardly moves would make a small sensor error huge: its deviation is at least this share of its range.
SMALLEST_SHARE = 0.01


def measure(dataset: LeRobotDataset, episodes: list[int], latents: dict[str, np.ndarray]) -> Normalisation:
    """Over the training episodes' steps; latents {role: (N, Q*Z)}, each episode's last step left out.

    Raises ValueError when an action leaves the contract's limits or the encoder's latents do not vary."""
    rows = [dataset.episodes[i] for i in episodes]
    steps = np.concatenate([np.arange(row["dataset_from_index"], row["dataset_to_index"]) for row in rows])
    pairs = np.concatenate([np.arange(row["dataset_from_index"], row["dataset_to_index"] - 1) for row in rows])
    check_limits(dataset.action, dataset.contract.action, f"{dataset.path}: action")
    state_mean, state_std = _moments(dataset.state[steps], dataset.contract.state)
    action_mean, action_std = _moments(dataset.action[steps], dataset.contract.action)
    latent_mean, latent_std = {}, {}
    for role, values in latents.items():
        mean, std = values[pairs].mean(0, dtype=np.float64), values[pairs].std(0, dtype=np.float64)
        if not (np.isfinite(std).all() and (std > 1e-6).all()):
            flat = int((~(std > 1e-6)).sum())
            raise ValueError(
                f"{role} latents: wanted every dimension to vary, {flat} of {len(std)} are constant or NaN"
            )
        latent_mean[role], latent_std[role] = _floats(mean), _floats(std)
    return Normalisation(state_mean, state_std, action_mean, action_std, latent_mean, latent_std)


def check_limits(values: np.ndarray, channels: tuple[Channel, ...], what: str) -> None:
    """values (N, C). Raises ValueError naming the first channel that leaves its limits."""
    for i, channel in enumerate(channels):
        low, high = float(values[:, i].min()), float(values[:, i].max())
        if low < channel.low - 1e-6 or high > channel.high + 1e-6:
            raise ValueError(
                f"{what} {channel.name}: wanted {channel.low} to {channel.high} {channel.unit} by the contract, "
                f"got {low:.4g} to {high:.4g}"
            )


def _moments(values: np.ndarray, channels: tuple[Channel, ...]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    smallest = np.array([SMALLEST_SHARE * (channel.high - channel.low) for channel in channels])
    std = np.maximum(values.std(0, dtype=np.float64), smallest)
    return _floats(values.mean(0, dtype=np.float64)), _floats(std)


def _floats(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(np.float32(v)) for v in values)
