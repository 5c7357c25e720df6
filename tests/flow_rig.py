"""Tiny policies and observations for tests of the flow."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from alam_models.flow_policy import FlowPolicy, FlowPolicyConfig
from alam_models.small_backbone import SmallConfig

SMALL = FlowPolicyConfig(
    image_sizes=(32, 16),
    latent_width=8,
    projected_width=6,
    horizon=4,
    text_length=16,
    backbone=SmallConfig(width=32, heads=2, depth=2),
)


def small_policy(**changes: Any) -> FlowPolicy:
    torch.manual_seed(0)
    return FlowPolicy(replace(SMALL, **changes)).eval()


def inputs(batch: int = 2, config: FlowPolicyConfig = SMALL) -> dict[str, Any]:
    """-> an observation as FlowPolicy.prefix, loss and sample take it."""
    sizes = zip(config.roles, config.image_sizes, strict=True)
    return {
        "images": {role: torch.rand(batch, 3, size, size) for role, size in sizes},
        "text": torch.randint(0, 257, (batch, config.text_length)),
        "state": torch.randn(batch, config.state_width),
    }


def targets(batch: int = 2, config: FlowPolicyConfig = SMALL) -> dict[str, Tensor]:
    """-> latents and actions as FlowPolicy.loss takes them."""
    return {
        "latents": torch.randn(batch, config.horizon, config.views, config.latent_width),
        "actions": torch.randn(batch, config.horizon, config.action_width),
    }


# Two ways of doing the same, which nothing in the observation tells apart: all of a chunk goes up, or all goes down.
TWO_WAYS = FlowPolicyConfig(
    roles=("third_person",),
    image_sizes=(16,),
    latent_width=4,
    projected_width=4,
    action_width=2,
    horizon=8,
    text_length=8,
    backbone=SmallConfig(width=32, heads=2, depth=1),
)
SPREAD = 0.1  # of actions and latents about each way


def two_ways(batch: int, config: FlowPolicyConfig, random: torch.Generator) -> dict[str, Tensor]:
    """-> latents and actions of chunks, half of which are all 1, and half all -1, give or take SPREAD."""
    way = torch.randint(0, 2, (batch, 1, 1), generator=random) * 2.0 - 1
    shapes = {"latents": (batch, config.horizon, config.views, config.latent_width)}
    shapes["actions"] = (batch, config.horizon, config.action_width)
    return {
        name: way.view(-1, *[1] * (len(shape) - 1)) + SPREAD * torch.randn(shape, generator=random)
        for name, shape in shapes.items()
    }


def blank(batch: int, config: FlowPolicyConfig) -> dict[str, Any]:
    """-> observations that are all alike."""
    sizes = zip(config.roles, config.image_sizes, strict=True)
    return {
        "images": {role: torch.zeros(batch, 3, size, size) for role, size in sizes},
        "text": torch.zeros(batch, config.text_length, dtype=torch.int64),
        "state": torch.zeros(batch, config.state_width),
    }


def trained(steps: int = 300, **changes: Any) -> FlowPolicy:
    """-> a policy that knows both ways."""
    torch.manual_seed(0)
    policy = FlowPolicy(replace(TWO_WAYS, **changes)).train()
    random = torch.Generator().manual_seed(0)
    optimiser = torch.optim.AdamW(policy.parameters(), 3e-3, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
    for _ in range(steps):
        batch = two_ways(16, policy.config, random)
        loss = policy.loss(**blank(16, policy.config), **batch, chance=policy.chance(16, 8, random))["total"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return policy.eval()
