"""A bundle of random weights in MetaWorld's shape, made by the real exporter: what tests of serving run on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from alam_models.flow_policy import FlowPolicyConfig
from alam_models.small_backbone import SmallConfig
from alam_sim.metaworld_env import metaworld_contract
from untrained_bundle import HAND_NOISE, export_random

TASKS = ["reach-v3", "drawer-close-v3"]


def make_tiny_bundle(folder: Path, **changes: Any) -> Path:
    """-> a bundle in folder/bundle; changes: of its FlowPolicyConfig."""
    config = replace(FlowPolicyConfig(backbone=SmallConfig(32, 2, 1), latent_width=8, projected_width=8), **changes)
    card = {"tasks": TASKS, "replan": 4}
    return export_random(folder / "bundle", metaworld_contract(), config, (0.0,) * 4, HAND_NOISE, card, queries=2)
