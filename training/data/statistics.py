"""Normalisation statistics of a dataset's training split, and the doubts that stop a training on them."""

from __future__ import annotations

import numpy as np

from alam_models.contract import Channel, Normalisation
from training.data.lerobot import LeRobotDataset

# A channel that hardly moves would make a small sensor error huge: its deviation is at least this share of its range.
SMALLEST_SHARE = 0.01

CONSTANT = 1e-3  # deviation over range (of a latent: over the median deviation of its view) below which nothing varies
CLIPPED = 0.5  # share of the steps at one end value above which a dimension was cut off there
NOT_FINITE = "is NaN or infinite"
SAID = 12  # dimensions that a message lists
FEW = 8  # distinct values up to which a dimension is a switch, as many a gripper's command, that rests at its ends


def measure(
    dataset: LeRobotDataset, episodes: list[int], latents: dict[str, np.ndarray], accepted: tuple[str, ...] = ()
) -> Normalisation:
    """Over the training episodes' steps; latents {role: (N, Q*Z)}, each episode's last step left out.

    Raises ValueError when an action leaves the contract's limits, and with the report of `doubts`, which passes over
    dimensions that are accepted by name."""
    rows = [dataset.episodes[i] for i in episodes]
    steps = np.concatenate([np.arange(row["dataset_from_index"], row["dataset_to_index"]) for row in rows])
    pairs = np.concatenate([np.arange(row["dataset_from_index"], row["dataset_to_index"] - 1) for row in rows])
    contract = dataset.contract
    channels = {"state": contract.state, "action": contract.action}
    values = {"state": dataset.state[steps], "action": dataset.action[steps]}
    names = {stream: [f"{stream}.{channel.name}" for channel in channels[stream]] for stream in channels}
    scales = {stream: np.array([c.high - c.low for c in channels[stream]]) for stream in channels}
    smallest = {stream: SMALLEST_SHARE * scales[stream] for stream in channels}
    for role, latent in latents.items():
        stream, latent = f"latent.{role}", latent[pairs]
        usual = np.full(latent.shape[1], np.nanmedian(latent.std(0, dtype=np.float64)))
        values[stream], names[stream] = latent, [f"{stream}.{i}" for i in range(latent.shape[1])]
        scales[stream], smallest[stream] = usual, np.maximum(CONSTANT * usual, 1e-6)
    found = {k: v for stream in values for k, v in doubts(names[stream], values[stream], scales[stream]).items()}
    stop_on(found, accepted, [name for stream in names.values() for name in stream], f"{dataset.path}")
    check_limits(dataset.action, contract.action, f"{dataset.path}: action")

    mean = {stream: _floats(x.mean(0, dtype=np.float64)) for stream, x in values.items()}
    std = {s: _floats(np.maximum(x.std(0, dtype=np.float64), smallest[s])) for s, x in values.items()}
    latent_mean, latent_std = ({role: moment[f"latent.{role}"] for role in latents} for moment in (mean, std))
    return Normalisation(mean["state"], std["state"], mean["action"], std["action"], latent_mean, latent_std)


def stop_on(found: dict[str, str], accepted: tuple[str, ...], known: list[str], where: str) -> None:
    """Raises ValueError with what was found, but for what is accepted, and for an accepted name that is not known.

    What is not finite cannot be accepted."""
    if unknown := sorted(set(accepted) - set(known)):
        raise ValueError(
            f"--accept: wanted names of dimensions, got {unknown}; choose from {', '.join(known[:SAID])} ..."
        )
    left = [f"{name} {doubt}" for name, doubt in found.items() if name not in accepted or doubt.startswith(NOT_FINITE)]
    if left:
        more = f"; and {len(left) - SAID} more" if len(left) > SAID else ""
        raise ValueError(
            f"{where}: wanted dimensions worth learning from, but {'; '.join(left[:SAID])}{more}; mend the data (of "
            "latents, the encoder), or train on finite ones as they are with --accept and their names"
        )


def doubts(names: list[str], values: np.ndarray, scale: np.ndarray) -> dict[str, str]:
    """values (N, C), scale (C,) of what they may be expected to span -> {name: what is wrong with it}, with the figure.

    Wrong is what is not finite, hardly varies (CONSTANT), or lies at its lowest or its highest value in more than a
    share CLIPPED of the steps, as what a recorder or a controller cut off does; switches (FEW) may."""
    found = {}
    for name, column, span in zip(names, values.T, scale, strict=True):
        if not (finite := np.isfinite(column)).all():
            found[name] = f"{NOT_FINITE} in {(~finite).sum()} of {len(column)} steps"
            continue
        low, high, deviation = column.min(), column.max(), column.std(dtype=np.float64)
        if not deviation > CONSTANT * span:
            found[name] = f"is nearly constant (deviation {deviation:.2g} about {column.mean():.4g}, scale {span:.4g})"
            continue
        end = max((low, high), key=lambda value: (column == value).mean())
        if (share := (column == end).mean()) > CLIPPED and len(np.unique(column)) > FEW:
            found[name] = f"is clipped (exactly {end:.4g} in {100 * share:.0f} % of {len(column)} steps)"
    return found


def check_limits(values: np.ndarray, channels: tuple[Channel, ...], what: str) -> None:
    """values (N, C). Raises ValueError naming the first channel that leaves its limits."""
    for i, channel in enumerate(channels):
        low, high = float(values[:, i].min()), float(values[:, i].max())
        if low < channel.low - 1e-6 or high > channel.high + 1e-6:
            raise ValueError(
                f"{what} {channel.name}: wanted {channel.low} to {channel.high} {channel.unit} by the contract, "
                f"got {low:.4g} to {high:.4g}"
            )


def _floats(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(np.float32(v)) for v in values)
