"""Named settings of `training/train.py`, one module a size."""

from training.configs import mini

PRETRAIN = {"mini": mini.PRETRAIN}
TRANSFER = {"mini": mini.TRANSFER}
