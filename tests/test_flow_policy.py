"""The joint flow's laws: what sees what, what is learned, and that noise becomes data."""

from dataclasses import replace

import pytest
import torch

from alam_models.flow_policy import FlowPolicy, FlowPolicyConfig, integrate, interleaved_mask, mix, sample_times
from alam_models.small_backbone import SmallConfig

SMALL = FlowPolicyConfig(
    image_sizes=(32, 16),
    latent_width=8,
    projected_width=6,
    horizon=4,
    text_length=16,
    backbone=SmallConfig(width=32, heads=2, depth=2),
)


def small_policy(**changes: object) -> FlowPolicy:
    torch.manual_seed(0)
    return FlowPolicy(replace(SMALL, **changes)).eval()  # type: ignore[arg-type]


def inputs(batch: int = 2) -> dict[str, object]:
    return {
        "images": {"third_person": torch.rand(batch, 3, 32, 32), "wrist": torch.rand(batch, 3, 16, 16)},
        "text": torch.randint(0, 257, (batch, 16)),
        "state": torch.randn(batch, 4),
    }


def test_mask_is_that_of_the_paper() -> None:
    mask = interleaved_mask(2, 2)  # order: z_th z_wr u, z_th z_wr u
    wanted = [
        [1, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 0, 1, 1, 0],
        [1, 1, 0, 1, 1, 0],
        [1, 1, 1, 1, 1, 1],
    ]
    assert mask.int().tolist() == wanted


def test_actions_never_move_latents_and_later_steps_never_move_earlier_ones() -> None:
    policy = small_policy()
    prefix = policy.prefix(**inputs())  # type: ignore[arg-type]
    latents, actions, tau = torch.randn(2, 4, 2, 6), torch.randn(2, 4, 4), torch.rand(2)
    v_latents, v_actions = policy.velocity(latents, actions, tau, prefix)

    other_latents, _ = policy.velocity(latents, actions + torch.randn_like(actions), tau, prefix)
    assert torch.equal(v_latents, other_latents)

    moved = latents.clone()
    moved[:, 2] += 1
    other_latents, other_actions = policy.velocity(moved, actions, tau, prefix)
    assert torch.allclose(v_actions[:, :2], other_actions[:, :2], atol=1e-6)
    assert torch.allclose(v_latents[:, :2], other_latents[:, :2], atol=1e-6)
    assert not torch.allclose(v_actions[:, 2:], other_actions[:, 2:], atol=1e-4)


@pytest.mark.parametrize("part", ["images", "text", "state"])
def test_the_action_depends_on_every_part_of_the_context(part: str) -> None:
    policy = small_policy()
    one, two = inputs(1), inputs(1)
    latents, actions, tau = torch.randn(1, 4, 2, 6), torch.randn(1, 4, 4), torch.rand(1)
    _, first = policy.velocity(latents, actions, tau, policy.prefix(**one))  # type: ignore[arg-type]
    _, second = policy.velocity(latents, actions, tau, policy.prefix(**{**one, part: two[part]}))  # type: ignore[arg-type]
    assert not torch.allclose(first, second, atol=1e-6)


def test_euler_recovers_the_data_under_the_exact_velocity() -> None:
    noise, data = torch.randn(2, 4, 2, 6), torch.randn(2, 4, 2, 6)
    latents, _ = integrate(lambda x, u, tau: (noise - data, torch.zeros_like(u)), noise, torch.zeros(2, 4, 4), 5)
    assert torch.allclose(latents, data, atol=1e-5)


def test_flow_time_one_is_noise_and_zero_is_data() -> None:
    noise, data = torch.randn(2, 3), torch.randn(2, 3)
    assert torch.equal(mix(noise, data, torch.ones(2)), noise)
    assert torch.equal(mix(noise, data, torch.zeros(2)), data)


def test_times_follow_beta() -> None:
    tau = sample_times(200_000, torch.Generator().manual_seed(0), torch.device("cpu"))
    assert tau.min() >= 0.001 and tau.max() <= 1.0
    xi = (tau - 0.001) / 0.999
    assert xi.mean().item() == pytest.approx(1.5 / 2.5, abs=2e-3)  # Beta(a, b): a / (a + b)
    assert xi.var().item() == pytest.approx(1.5 / (2.5**2 * 3.5), abs=1e-3)  # ab / ((a + b)^2 (a + b + 1))


def test_fixed_projection_is_orthonormal_frozen_and_undone() -> None:
    policy = small_policy()
    assert torch.allclose(policy.projection.T @ policy.projection, torch.eye(6), atol=1e-5)
    assert not policy.projection.requires_grad
    x = torch.randn(1, 4, 2, 6)
    assert torch.allclose(policy.unproject(x) @ policy.projection, x, atol=1e-5)


def test_learned_projection_is_trained_but_cannot_shrink_its_target() -> None:
    policy = small_policy(latent_projection="learned")
    torch.manual_seed(1)
    targets = {"latents": torch.randn(2, 4, 2, 8), "actions": torch.randn(2, 4, 4)}
    policy.loss(**inputs(), **targets)["total"].backward()  # type: ignore[arg-type]
    assert policy.projection.grad is not None and policy.projection.grad.abs().max() > 0
    x = torch.randn(1, 4, 2, 6)
    assert torch.allclose(policy.unproject(x) @ policy.projection, x, atol=1e-4)


def test_draws_share_the_prefix_and_average_the_loss() -> None:
    policy = small_policy()
    context, targets = inputs(2), {"latents": torch.randn(2, 4, 2, 8), "actions": torch.randn(2, 4, 4)}
    wide = policy.loss(**context, **targets, generator=torch.Generator().manual_seed(0), draws=3)  # type: ignore[arg-type]
    tripled = {k: v.repeat(3, *[1] * (v.dim() - 1)) for k, v in targets.items()}
    images = {role: image.repeat(3, 1, 1, 1) for role, image in context["images"].items()}  # type: ignore[attr-defined]
    text, state = context["text"].repeat(3, 1), context["state"].repeat(3, 1)  # type: ignore[attr-defined]
    same = policy.loss(images, text, state, **tripled, generator=torch.Generator().manual_seed(0))
    assert wide["total"].item() == pytest.approx(same["total"].item(), rel=1e-5)


def test_a_small_policy_learns_its_one_batch() -> None:
    policy = small_policy().train()
    context, targets = inputs(4), {"latents": torch.randn(4, 4, 2, 8), "actions": torch.randn(4, 4, 4)}
    optimiser = torch.optim.AdamW(policy.parameters(), 3e-3)
    losses = []
    for _ in range(60):
        loss = policy.loss(**context, **targets, draws=4)["total"]  # type: ignore[arg-type]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"latent_projection": "none"}, "fixed"),
        ({"projected_width": 9}, "projected_width"),
        ({"image_sizes": (33, 16)}, "image_sizes"),
        ({"image_sizes": (32,)}, "image_sizes"),
        ({"text_length": 10}, "text_length"),
    ],
)
def test_impossible_sizes_are_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        small_policy(**changes)
