"""A bundle -> actions: numpy in, numpy out, no torch.

A bundle is a folder with `prefix.onnx`, `step.onnx`, `contract.yaml` and `card.yaml` (see alam_models/export.py)."""

from alam_models.runtime.bundle import load_policy
from alam_models.runtime.policy import Chunk, Observation, Policy

__all__ = ["Chunk", "Observation", "Policy", "load_policy"]
