"""What `training/train.py` can be told: one frozen dataclass a stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import tyro

from alam_models.flow_policy import FlowPolicyConfig
from alam_models.latent_action import ALAMConfig


@dataclass(frozen=True)
class PretrainConfig:
    """ALAM from action-free video."""

    data: Path = tyro.MISSING
    """LeRobot dataset; only its frames are read."""
    out: Path = tyro.MISSING
    """Folder for checkpoints, logs and the trained encoder; an interrupted run there is resumed."""
    model: ALAMConfig = field(default_factory=ALAMConfig)
    backbone: str = "vgg"
    """LPIPS backbone: vgg, alex or squeeze (used while model.weights.perc is above 0)."""
    stride: int = 1
    """Frame-skip: frames between two neighbours of the effective rate (paper: 5, CALVIN 10)."""
    max_gap: int = 16
    """Largest gap between two frames of a triplet, in strides (paper: 16)."""
    steps: int = 4000
    """Optimiser steps."""
    batch: int = 32
    """Triplets per step (paper: 32 per GPU)."""
    learning_rate: float = 1e-4
    """Peak learning rate (paper: 1e-4)."""
    weight_decay: float = 1e-4
    """AdamW weight decay (paper: 1e-4)."""
    warm_up: int = 100
    """Steps of linear warm-up, then cosine decay to 0."""
    clip: float = 1.0
    """Largest gradient norm."""
    seed: int = 0
    """Of weights, split and sampling."""
    log_every: int = 50
    """Steps between TensorBoard scalars."""
    save_every: int = 500
    """Steps between checkpoints, held-out scores and sample reconstructions."""


@dataclass(frozen=True)
class TransferConfig:
    """The joint flow-matching policy on demonstrations, with the encoder frozen."""

    data: Path = tyro.MISSING
    """LeRobot dataset with contract.yaml."""
    encoder: Path | None = None
    """Output folder of `pretrain`; none with --model.coupling none."""
    out: Path = tyro.MISSING
    """Folder for checkpoints, logs and the trained policy; an interrupted run there is resumed."""
    model: FlowPolicyConfig = field(default_factory=FlowPolicyConfig)
    """Sizes that the contract and the encoder decide are taken from them."""
    steps: int = 8000
    """Optimiser steps (paper: 30000)."""
    batch: int = 64
    """Observations per step (paper: 32 per GPU)."""
    draws: int = 1
    """Noise and time draws per observation; they share its prefix."""
    learning_rate: float = 5e-5
    """Peak learning rate (paper: 5e-5)."""
    weight_decay: float = 1e-4
    """AdamW weight decay (paper: 1e-4)."""
    warm_up: int = 200
    """Steps of linear warm-up, then cosine decay to 0."""
    clip: float = 1.0
    """Largest gradient norm."""
    ema: float = 0.999
    """Decay of the averaged weights that are exported, once past warm-up."""
    shift: int = 2
    """Largest random shift of each frame [px]."""
    replan: int = 4
    """Actions of a chunk that are executed before the next one (goes into the bundle's card)."""
    seed: int = 0
    """Of weights, split and sampling."""
    log_every: int = 50
    """Steps between TensorBoard scalars."""
    save_every: int = 500
    """Steps between checkpoints and held-out scores."""
