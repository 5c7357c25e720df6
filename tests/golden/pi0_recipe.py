"""The golden cases of pi0: sizes, and weights and inputs that numpy draws anew, the same wherever they are needed.

Both sides use it: make_pi0_golden.py in LeRobot's environment, and test_pi0_golden.py in this project's."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from alam_models.gemma import GemmaConfig
from alam_models.pi0 import Pi0Config
from alam_models.siglip import SiglipConfig

ROLES = ("third_person", "wrist", "left")
TAUS = (1.0, 0.37)  # flow times of the velocities


@dataclass(frozen=True)
class Case:
    """`lengths`: words of each row of the batch, padded to the longest. LeRobot wants 8 heads."""

    name: str
    roles: tuple[str, ...]
    config: Pi0Config
    horizon: int
    action_width: int
    lengths: tuple[int, ...]
    absent_image: bool = False  # LeRobot is given one image more, masked out


CASES = (
    Case(
        "one_image",
        ROLES[:1],
        Pi0Config(
            GemmaConfig(32, 64, depth=2, head_width=8),
            GemmaConfig(24, 48, depth=2, head_width=8),
            SiglipConfig(16, 2, 2, 40),
            image_size=28,
            vocabulary=300,
            state_width=6,
        ),
        horizon=5,
        action_width=7,
        lengths=(6, 3),
    ),
    Case(
        "two_images",
        ROLES[:2],
        Pi0Config(
            GemmaConfig(64, 128, depth=4, head_width=16),
            GemmaConfig(32, 64, depth=4, head_width=16),
            SiglipConfig(32, 3, 4, 64),
            image_size=56,
            vocabulary=300,
        ),
        horizon=16,
        action_width=32,
        lengths=(9, 1, 4),
    ),
    Case(
        "three_images",
        ROLES,
        Pi0Config(
            GemmaConfig(48, 96, depth=3, kv_heads=2, head_width=8),
            GemmaConfig(48, 96, depth=3, kv_heads=2, head_width=8),
            SiglipConfig(24, 2, 3, 48),
            image_size=42,
            vocabulary=300,
            state_width=8,
        ),
        horizon=50,
        action_width=8,
        lengths=(12, 12),
    ),
    Case(
        "an_image_absent",
        ROLES[:2],
        Pi0Config(
            GemmaConfig(32, 64, depth=3, head_width=8),
            GemmaConfig(24, 48, depth=3, head_width=8),
            SiglipConfig(16, 2, 2, 40),
            image_size=28,
            vocabulary=300,
        ),
        horizon=8,
        action_width=32,
        lengths=(5, 7),
        absent_image=True,
    ),
)


def weight(case: Case, key: str, shape: tuple[int, ...]) -> np.ndarray:
    """A random parameter (shape) float32 by its key: sums of its products have deviation one, norms are near one."""
    random = np.random.default_rng([zlib.crc32(case.name.encode()), zlib.crc32(key.encode())])
    values = random.standard_normal(shape)
    if len(shape) > 1:
        return (values / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
    scaled_from_one = "layer_norm" in key or "post_layernorm" in key  # SigLIP's norms; Gemma's add the one themselves
    return (0.2 * values + (scaled_from_one and key.endswith("weight"))).astype(np.float32)


def inputs(case: Case) -> dict[str, np.ndarray]:
    """Images (count, B, 3, s, s) in [0, 1], the absent one last, text (B, L), state, actions, noise, times (B,)."""
    random = np.random.default_rng(zlib.crc32(f"{case.name} inputs".encode()))
    config, batch, side = case.config, len(case.lengths), case.config.image_size
    count = len(case.roles) + case.absent_image
    text = random.integers(1, config.vocabulary, (batch, max(case.lengths)))
    text[np.arange(text.shape[1])[None] >= np.array(case.lengths)[:, None]] = 0
    chunk = (batch, case.horizon, case.action_width)
    return {
        "images": random.random((count, batch, 3, side, side)).astype(np.float32),
        "text": text,
        "state": random.standard_normal((batch, config.state_width)).astype(np.float32),
        "actions": random.standard_normal(chunk).astype(np.float32),
        "noise": random.standard_normal(chunk).astype(np.float32),
        "times": random.uniform(0.001, 1, batch).astype(np.float32),
    }
