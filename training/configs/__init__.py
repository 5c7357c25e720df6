"""Named settings of `training/train.py`, one module a size."""

from training.configs import base, mini, paper, release

PRETRAIN = {"mini": mini.PRETRAIN, "base": base.PRETRAIN, "paper": paper.PRETRAIN, "release": release.PRETRAIN}
TRANSFER = {"mini": mini.TRANSFER, "paper": paper.TRANSFER}
