"""The frozen encoder's transitions between neighbouring frames (paper, Eq. 10), computed once and kept on disk."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from alam_models.latent_action import RelationalEncoder
from training.data.frames import to_frames
from training.data.lerobot import LeRobotDataset

BATCH = 256


def transitions_hash(encoder: RelationalEncoder) -> str:
    """-> 12 hex digits over the encoder's sizes and weights."""
    digest = hashlib.sha256(repr(encoder.config).encode())
    for name, value in sorted(encoder.state_dict().items()):
        digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest()[:12]


@torch.no_grad()
def transition_cache(dataset: LeRobotDataset, role: str, frames: np.ndarray, encoder: RelationalEncoder) -> np.ndarray:
    """frames (N, h, w, 3) uint8 -> (N, Q*Z) float32: row t is E(frame t, frame t + 1), continuous.

    An episode's last row is meaningless (its neighbour is another episode's) and never sampled. The file is named by
    the frames' and the encoder's hash."""
    source = Path(str(getattr(frames, "filename", role))).stem  # the frame cache's name carries the frames' hash
    path = dataset.path / "cache" / f"transitions_{source}_{transitions_hash(encoder)}.npy"
    if not path.exists():
        width = encoder.config.queries * encoder.config.latent_width
        out = np.zeros((len(frames), width), np.float32)
        for start in tqdm(range(0, len(frames) - 1, BATCH), desc=f"encode {role}", unit="batch"):
            images = torch.from_numpy(np.array(frames[start : start + BATCH + 1]))  # a copy: the map is read-only
            patches = encoder.embed(to_frames(images))
            out[start : start + len(patches) - 1] = encoder.transition(patches[:-1], patches[1:]).flatten(1).numpy()
        temporary = path.with_suffix(f".{os.getpid()}.part.npy")
        np.save(temporary, out)
        temporary.rename(path)
    return np.load(path)
