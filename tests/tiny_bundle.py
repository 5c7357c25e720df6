"""A bundle of random weights in MetaWorld's shape, made by the real exporter: what tests of serving run on."""

from __future__ import annotations

from pathlib import Path

from alam_models.flow_policy import FlowPolicyConfig
from alam_models.small_backbone import SmallConfig
from alam_sim.metaworld_env import metaworld_contract
from untrained_bundle import HAND_NOISE, export_random

TASKS = ["reach-v3", "drawer-close-v3"]


def make_tiny_bundle(folder: Path) -> Path:
    """-> a bundle in folder/bundle."""
    config = FlowPolicyConfig(backbone=SmallConfig(32, 2, 1), latent_width=8, projected_width=8)
    card = {"tasks": TASKS, "replan": 4}
    return export_random(folder / "bundle", metaworld_contract(), config, (0.0,) * 4, HAND_NOISE, card, queries=2)
