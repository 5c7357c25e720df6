"""A policy on the pi0 backbone is trained, saved, exported and served as any other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("onnxruntime")

from alam_models.flow_policy import FlowPolicy, FlowPolicyConfig
from alam_models.pi0 import SIZES
from alam_models.runtime import Observation, load_policy
from alam_models.weights import load_policy_weights, save_weights
from alam_sim.metaworld_env import metaworld_contract
from untrained_bundle import export_random

CONFIG = FlowPolicyConfig(
    image_sizes=(28, 28), text_length=24, latent_width=8, projected_width=8, horizon=4, backbone=SIZES["tiny"]
)


def test_the_loss_reaches_every_parameter() -> None:
    """Ranks that train together wait for the gradient of each."""
    torch.manual_seed(0)
    policy = FlowPolicy(CONFIG).train()
    images = {role: torch.rand(2, 3, 28, 28) for role in CONFIG.roles}
    text, state = torch.randint(0, 257, (2, 24)), torch.randn(2, CONFIG.state_width)
    chance = policy.chance(2, draws=2)
    policy.loss(images, text, state, torch.randn(2, 4, 2, 8), torch.randn(2, 4, 4), chance)["total"].backward()
    for name, parameter in policy.named_parameters():
        assert not parameter.requires_grad or (parameter.grad is not None and parameter.grad.any()), name


def test_weights_and_their_sizes_survive_the_disk(tmp_path: Path) -> None:
    torch.manual_seed(0)
    policy = FlowPolicy(CONFIG)
    save_weights(tmp_path, "policy", policy.state_dict(), CONFIG)
    loaded = load_policy_weights(tmp_path)
    assert loaded.config == CONFIG
    for name, value in policy.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name


def test_a_policy_on_pi0_is_exported_and_served(tmp_path: Path) -> None:
    robot = metaworld_contract()
    robot = replace(robot, cameras=tuple(replace(camera, width=28, height=28) for camera in robot.cameras))
    # The exporter itself holds the bundle's chunks to PyTorch's.
    bundle = export_random(tmp_path / "bundle", robot, CONFIG, (0.0,) * 4, 1.0, {}, queries=2)
    policy = load_policy(bundle, threads=1)
    random = np.random.default_rng(0)
    images = {role: random.integers(0, 256, (128, 128, 3), dtype=np.uint8) for role in robot.roles}
    state = np.array([0.0, 0.6, 0.2, 1.0])
    one, again, other = (policy.infer(Observation(images, state, text)) for text in ("push", "push", "open the drawer"))
    assert one.actions.shape == (4, 4) and np.isfinite(one.actions).all()
    assert np.array_equal(one.actions, again.actions)
    assert np.abs(one.actions - other.actions).max() > 1e-4
