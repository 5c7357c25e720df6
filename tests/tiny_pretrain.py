"""A pretraining of seconds: some videos, a model of a few thousand weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from clip_folders import HEIGHT, WIDTH

from alam_models.latent_action import ALAMConfig, LossWeights
from training.data.loader import DataConfig
from training.data.video import write_video
from training.settings import PretrainConfig

MODEL = ALAMConfig(
    image_size=32,
    width=32,
    heads=2,
    depth=2,
    queries=2,
    latent_width=4,
    codes=4,
    scale="whitened",
    weights=LossWeights(perc=0.0),
)


def videos(folder: Path, count: int = 8, length: int = 30) -> Path:
    """Squares that wander over noise, one mp4 each."""
    folder.mkdir(parents=True)
    for number in range(count):
        random = np.random.default_rng(number)
        frames = np.repeat(random.integers(0, 90, (1, HEIGHT, WIDTH, 3), dtype=np.uint8), length, 0)
        path = np.cumsum(random.integers(-2, 3, (length, 2)), 0)
        for frame, (y, x) in zip(frames, path % (HEIGHT - 8, WIDTH - 8), strict=True):
            frame[y : y + 8, x : x + 8] = 255
        write_video(folder / f"{number:02d}.mp4", frames, 30)
    return folder


def tiny(data: Path, out: Path, **changes: Any) -> PretrainConfig:
    """Six steps of four triplets, a checkpoint after three; 7 of the 8 videos are an epoch."""
    values: dict[str, Any] = {
        "data": DataConfig(data, stride=1, max_gap=4, workers=0),
        "model": MODEL,
        "steps": 6,
        "batch": 4,
        "warm_up": 2,
        "learning_rate": 1e-3,
        "log_every": 2,
        "save_every": 3,
    }
    return PretrainConfig(out=out, **{**values, **changes})


def options(config: PretrainConfig) -> list[str]:
    """-> the same, as a person types it."""
    model = config.model
    values = {
        "data": config.data.mixture,
        "out": config.out,
        "stride": config.data.stride,
        "max-gap": config.data.max_gap,
        "workers": config.data.workers,
        **{name: getattr(config, name) for name in ("steps", "batch", "ema", "variant", "parallel")},
        **{name.replace("_", "-"): getattr(config, name) for name in ("warm_up", "learning_rate", "save_every")},
        **{
            f"model.{name.replace('_', '-')}": getattr(model, name)
            for name in ("image_size", "width", "heads", "depth", "queries", "latent_width", "codes", "fade_in")
        },
        "model.weights.perc": model.weights.perc,
    }
    return [word for name, value in values.items() for word in (f"--{name}", str(value))] + ["--no-cache-frames"]
