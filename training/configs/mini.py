"""`mini`: trains on two CPU cores, the encoder in minutes and the policy in half an hour.

Where it leaves the paper: LOG.md tells what happens at this size without. The shipped checkpoint's settings are in its
card; its encoder is of before."""

from pathlib import Path

from alam_models.flow_policy import FlowPolicyConfig, FlowWeights
from alam_models.latent_action import ALAMConfig, LossWeights
from training.data.loader import DataConfig
from training.settings import PretrainConfig, TransferConfig

PRETRAIN = PretrainConfig(
    # Frames are decoded once, 12 KB each; the training process reads them faster than workers could hand them over.
    data=DataConfig(stride=1, workers=0, cache=Path("data/cache"), cache_frames=True),
    model=ALAMConfig(
        scale="whitened",
        fade_in=150,
        source_skip=True,
        # LPIPS is off by name: its backbone is a download, and at 64 px it costs more than everything else together.
        # Whitened latents make the other three terms of order 1 beside a pixel error of order 0.01.
        weights=LossWeights(rec=1.0, perc=0.0, add=0.3, rev=0.3, vq=0.03),
    ),
    learning_rate=1e-3,
    steps=600,
    batch=64,
)

# Trained from scratch, so the learning rate is far above that of the paper, which fine-tunes pi0. The latents' share of
# the loss is lower than the paper's: at this width they would take capacity from the actions.
TRANSFER = TransferConfig(
    model=FlowPolicyConfig(weights=FlowWeights(third_person=0.25, wrist=0.25, action=1.0)),
    learning_rate=1e-3,
    steps=2400,
    draws=2,
)
