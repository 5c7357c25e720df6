"""`release`: `paper` with the bottleneck that the authors' released model has, 174.3 M parameters."""

from dataclasses import replace

from training.configs import paper

PRETRAIN = replace(paper.PRETRAIN, model=replace(paper.PRETRAIN.model, queries=7, codes=256))
