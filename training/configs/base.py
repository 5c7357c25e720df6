"""`base`: one GPU. ALAM with 52.6 M parameters; mini's remedies against collapse, add and rev weighted lower; LPIPS
as in the paper.

Chosen, not measured: nothing of this size has been trained yet."""

from pathlib import Path

from alam_models.latent_action import ALAMConfig, LossWeights
from training.data.loader import DataConfig
from training.settings import PretrainConfig

PRETRAIN = PretrainConfig(
    data=DataConfig(stride=5, max_gap=16, held_out=0.05, workers=8, cache=Path("data/cache")),
    model=ALAMConfig(
        image_size=128,
        patch=16,
        width=512,
        heads=8,
        depth=8,
        queries=8,
        latent_width=32,
        codes=64,
        scale="whitened",
        fade_in=2000,
        weights=LossWeights(add=0.03, rev=0.03, vq=0.03),
    ),
    steps=100_000,
    batch=64,
    learning_rate=3e-4,
    warm_up=1000,
    precision="bfloat16",
    save_every=2000,
)
