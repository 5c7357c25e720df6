"""`paper`: ALAM with the sizes and settings of Tab. 5 and 6 and appendix A.1, 174.5 M parameters.

The paper trains 39 epochs, of a length it does not say, with 32 triplets on each of 128 GPUs. Steps and
warm-up are chosen here."""

from pathlib import Path

from alam_models.latent_action import ALAMConfig
from training.data.loader import DataConfig
from training.settings import PretrainConfig

PRETRAIN = PretrainConfig(
    data=DataConfig(stride=5, max_gap=16, held_out=0.05, workers=8, cache=Path("data/cache")),
    model=ALAMConfig(
        image_size=200,
        patch=14,
        width=768,
        heads=12,
        depth=12,
        queries=256,
        latent_width=128,
        codes=7,
    ),
    steps=400_000,
    batch=32,
    learning_rate=1e-4,
    weight_decay=1e-4,
    warm_up=2000,
    precision="bfloat16",
    save_every=5000,
)
