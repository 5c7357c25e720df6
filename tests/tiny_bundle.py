"""A bundle of random weights in MetaWorld's shape, made by the real exporter: what tests of serving run on."""

from __future__ import annotations

from pathlib import Path

import torch
import yaml

from alam_models.contract import Latent, Normalisation, Tokenizer, policy_contract
from alam_models.export import export
from alam_models.flow_policy import FlowPolicy, FlowPolicyConfig
from alam_models.weights import save_weights
from alam_sim.metaworld_env import metaworld_contract

TASKS = ["reach-v3", "drawer-close-v3"]


def make_tiny_bundle(folder: Path) -> Path:
    """-> a bundle in folder/bundle."""
    torch.manual_seed(0)
    config = FlowPolicyConfig(width=32, heads=2, depth=1, latent_width=8, projected_width=8)
    weights = folder / "weights"
    save_weights(weights, "policy", FlowPolicy(config).state_dict(), config)
    one, zero = (1.0,) * 4, (0.0,) * 4
    latent = dict.fromkeys(config.roles, (0.0,) * 8), dict.fromkeys(config.roles, (1.0,) * 8)
    small = (0.3,) * 4  # random weights must not look like a fault to the gate
    statistics = Normalisation(zero, one, zero, small, *latent)
    tokenizer = Tokenizer("bytes", config.text_length)
    contract = policy_contract(metaworld_contract(), config.horizon, Latent(2, 4), tokenizer, statistics)
    contract.save(weights / "contract.yaml")
    (weights / "card.yaml").write_text(yaml.safe_dump({"tasks": TASKS, "replan": 4}))
    return export(weights, folder / "bundle")
