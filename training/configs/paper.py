"""`paper`: ALAM with the sizes and settings of Tab. 5 and 6 and appendix A.1, 174.5 M parameters; the policy with those
of Tab. 8 on the backbone of the public pi0.

The paper trains ALAM for 39 epochs, of a length it does not say, with 32 triplets on each of 128 GPUs, the policy with
32 observations on each of 8. Warm-up and ALAM's steps are chosen here."""

from pathlib import Path

from alam_models.flow_policy import FlowPolicyConfig
from alam_models.latent_action import ALAMConfig
from alam_models.pi0 import SIZES
from training.data.loader import DataConfig
from training.settings import PretrainConfig, TransferConfig

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

TRANSFER = TransferConfig(
    model=FlowPolicyConfig(
        image_sizes=(224, 224), horizon=16, backbone=SIZES["paper"], steps=10, latent_projection="learned"
    ),
    steps=30_000,
    batch=32,
    learning_rate=5e-5,
    weight_decay=1e-4,
    warm_up=1000,
    save_every=1000,
)
