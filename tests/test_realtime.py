"""Real-time chunking: the next chunk goes on with what is committed, by guidance or by training."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from flow_rig import TWO_WAYS, blank, inputs, small_policy, targets, trained, two_ways
from torch import Tensor

from alam_models.flow_policy import FlowPolicy
from alam_models.realtime import guidance_weight, guided, soft_mask

DELAY, OVERLAP, BATCH = 3, 6, 256


@pytest.fixture(scope="module")
def plain() -> FlowPolicy:
    return trained()


@pytest.fixture(scope="module")
def conditioned() -> FlowPolicy:
    return trained(prefix_conditioning=DELAY)


def committed() -> dict[str, Tensor]:
    """-> the rest of previous chunks of either way."""
    made = two_ways(BATCH, TWO_WAYS, torch.Generator().manual_seed(5))
    return {f"committed_{name}": rows[:, :OVERLAP] for name, rows in made.items()}


def sample(policy: FlowPolicy, **options: Any) -> tuple[Tensor, Tensor]:
    noise = policy.noise(BATCH, torch.Generator().manual_seed(1))
    return policy.sample(**blank(BATCH, policy.config), noise_latents=noise[0], noise_actions=noise[1], **options)


def share(actions: Tensor, wanted: Tensor) -> float:
    """-> how many chunks have every step on the side of what was committed."""
    way = wanted.mean((1, 2)).sign()[:, None]
    return ((actions.mean(2) * way) > 0).all(1).float().mean().item()


def test_the_soft_mask_is_that_of_the_paper() -> None:
    mask = soft_mask(8, 6, 2)
    c = [4 / 5, 3 / 5, 2 / 5, 1 / 5]  # (H - s - i) / (H - s - d + 1) with H - s = 6, d = 2
    wanted = [1, 1, *(x * (math.exp(x) - 1) / (math.e - 1) for x in c), 0, 0]
    assert torch.allclose(mask, torch.tensor(wanted))
    assert (soft_mask(8, 8, 8) == 1).all() and (soft_mask(8, 0, 0) == 0).all()


def test_the_weight_is_clipped_and_the_same_on_both_sides_of_half_way() -> None:
    assert guidance_weight(0.5, 5) == pytest.approx(2)
    assert guidance_weight(0.3, 5) == pytest.approx(guidance_weight(0.7, 5)) == pytest.approx(0.58 / 0.21)
    assert guidance_weight(1.0, 5) == guidance_weight(0.01, 5) == 5


def test_guidance_leaves_alone_what_agrees_already() -> None:
    policy, tau = small_policy(), 0.6
    prefix, (latents, actions) = policy.prefix(**inputs()), policy.noise(2)

    def network(z: Tensor, u: Tensor, tau_z: float, tau_u: float | None) -> tuple[Tensor, Tensor]:
        return policy.velocity(z, u, torch.full((2,), tau_z), prefix)

    with torch.no_grad():
        v_latents, v_actions = network(latents, actions, tau, tau)
    heading = actions - tau * v_actions
    same = guided(network, None, heading, 1, 4, 5)(latents, actions, tau, tau)
    assert torch.allclose(same[0], v_latents, atol=1e-6) and torch.allclose(same[1], v_actions, atol=1e-6)
    other = guided(network, None, heading[:, :2] + 1, 1, 4, 5)(latents, actions, tau, tau)
    assert not torch.allclose(other[0], v_latents, atol=1e-4) and not torch.allclose(other[1], v_actions, atol=1e-4)


def test_guidance_is_the_gradient_of_the_masked_distance() -> None:
    """By finite differences: the guided velocity differs from the plain one by the slope of half the masked square."""
    policy, tau, wanted, step = small_policy().double(), 0.6, torch.zeros(1, 3, 4, dtype=torch.float64), 1e-4
    context = {name: value.double() if name == "state" else value for name, value in inputs(1).items()}
    context["images"] = {role: image.double() for role, image in context["images"].items()}
    prefix, (latents, actions) = policy.prefix(**context), [part.double() for part in policy.noise(1)]

    def network(z: Tensor, u: Tensor, tau_z: float, tau_u: float | None) -> tuple[Tensor, Tensor]:
        return policy.velocity(z, u, torch.full((1,), tau_z, dtype=torch.float64), prefix)

    def distance(z: Tensor, u: Tensor) -> Tensor:
        heading = (u - tau * network(z, u, tau, tau)[1])[:, :3]
        return 0.5 * (soft_mask(4, 3, 1).double()[:3, None] * (heading - wanted).square()).sum()

    got = guided(network, None, wanted, 1, 4, 5)(latents, actions, tau, tau)
    plain = network(latents, actions, tau, tau)
    weight = guidance_weight(tau, 5)
    for part, index in ((0, (0, 1, 1, 2)), (1, (0, 2, 3)), (1, (0, 3, 0))):
        moved = [latents.clone(), actions.clone()]
        moved[part][index] += step
        back = [latents.clone(), actions.clone()]
        back[part][index] -= step
        slope = (distance(*moved) - distance(*back)) / (2 * step)
        assert (got[part][index] - plain[part][index]).item() == pytest.approx(weight * slope.item(), abs=1e-6)


def test_without_it_the_next_chunk_takes_either_way(plain: FlowPolicy) -> None:
    actions = sample(plain)[1]
    assert 0.25 < share(actions, committed()["committed_actions"]) < 0.65  # it cannot know


@pytest.mark.parametrize("with_latents", [False, True])
def test_inpainting_goes_on_as_committed(plain: FlowPolicy, with_latents: bool) -> None:
    rest = committed()
    if not with_latents:
        del rest["committed_latents"]
    wanted = rest["committed_actions"]
    assert share(sample(plain, **rest, delay=DELAY)[1], wanted) > 0.9  # at the published weight, in five steps

    # As many steps and as much weight as it takes to agree within a tenth, which is the spread of the data.
    latents, actions = sample(plain, **rest, delay=DELAY, steps=20, guidance=20)
    assert share(actions, wanted) > 0.97
    assert (latents.mean((1, 2, 3)).sign() == wanted.mean((1, 2)).sign()).float().mean() > 0.97
    error = (actions[:, :DELAY] - wanted[:, :DELAY]).abs()
    assert error.quantile(0.95) < 0.1 and error.mean() < 0.05


def test_a_trained_prefix_is_kept_to_the_bit_and_gone_on_with(conditioned: FlowPolicy) -> None:
    rest = committed()
    latents, actions = sample(conditioned, **rest, delay=DELAY)
    assert torch.equal(actions[:, :DELAY], rest["committed_actions"][:, :DELAY])
    assert torch.allclose(latents[:, :DELAY], rest["committed_latents"][:, :DELAY], atol=1e-5)
    assert share(actions, rest["committed_actions"]) > 0.98
    assert 0.25 < share(sample(conditioned)[1], rest["committed_actions"]) < 0.65


def test_given_steps_are_clean_in_training_and_their_loss_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, wanted = small_policy(prefix_conditioning=2), targets()
    given = torch.tensor([[True, True, False, False], [False] * 4])
    chance = policy.chance(2)._replace(tau=torch.where(given, 0, torch.tensor([[0.3], [0.7]]))[None])
    chance = chance._replace(weight=(~given)[None] / (~given).float().mean())
    original, seen = policy.velocity, []
    off = 0.0

    def velocity(latents: Tensor, actions: Tensor, tau: Tensor, prefix: Any) -> tuple[Tensor, Tensor]:
        seen.append((latents, actions, tau))
        v_latents, v_actions = original(latents, actions, tau, prefix)
        return v_latents + off * given[:, :, None, None], v_actions + off * given[:, :, None]

    monkeypatch.setattr(policy, "velocity", velocity)
    context = inputs()
    losses = []
    for each in (0.0, 100.0):
        off = each
        losses.append(policy.loss(**context, **wanted, chance=chance)["total"].item())
    assert losses[0] == losses[1]
    latents, actions, tau = seen[0]
    assert (tau[given] == 0).all() and (tau[~given] > 0).all() and tau[1].unique().numel() == 1
    assert torch.equal(actions[given], wanted["actions"][given])
    assert torch.allclose(latents[given], (wanted["latents"] @ policy.projection)[given])


def test_given_steps_are_data_to_the_network_when_it_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, seen = small_policy(prefix_conditioning=2), []
    original = policy.velocity
    monkeypatch.setattr(policy, "velocity", lambda *given: (seen.append((given[2], given[4])), original(*given))[1])
    latents, actions = policy.noise(2)
    rest = {"committed_actions": torch.zeros(2, 3, 4), "committed_latents": torch.zeros(2, 3, 2, 8)}
    policy.sample(**inputs(), noise_latents=latents, noise_actions=actions, **rest, delay=2)
    assert len(seen) == policy.config.steps
    assert all((tau[:, :2] == 0).all() and (tau[:, 2:] > 0).all() for taus in seen for tau in taus)


def test_given_steps_are_first_and_evenly_many() -> None:
    chance = small_policy(prefix_conditioning=3).chance(4000, 1, torch.Generator().manual_seed(0))
    given = chance.tau[0] == 0
    assert not (given[:, 1:] & ~given[:, :-1]).any()
    counts = torch.bincount(given.sum(1), minlength=4) / 4000
    assert len(counts) == 4 and (counts - 0.25).abs().max() < 0.03
    assert torch.equal(chance.weight[0] == 0, given) and chance.weight.mean().item() == pytest.approx(1)
    assert (chance.weight[0][~given] == chance.weight.max()).all()
    assert (small_policy().chance(5).tau > 0).all()


@pytest.mark.parametrize(
    ("changes", "options", "said"),
    [
        ({}, {"delay": 1}, "committed_actions: wanted them"),
        ({}, {"committed_actions": torch.zeros(2, 5, 4)}, "horizon 4"),
        ({}, {"committed_actions": torch.zeros(2, 2, 4), "delay": 3}, "delay 3, 2 steps"),
        ({}, {"committed_actions": torch.zeros(2, 3, 5)}, r"wanted shape \(2, 3, 4\)"),
        (
            {},
            {"committed_actions": torch.zeros(2, 3, 4), "committed_latents": torch.zeros(2, 3, 2, 6)},
            r"committed_latents: wanted shape \(2, 3, 2, 8\)",
        ),
        ({"objective": "diffusion"}, {"committed_actions": torch.zeros(2, 3, 4)}, "objective 'flow'"),
        ({"prefix_conditioning": 2}, {"committed_actions": torch.zeros(2, 3, 4), "delay": 1}, "committed_latents"),
        (
            {"prefix_conditioning": 1},
            {"committed_actions": torch.zeros(2, 3, 4), "committed_latents": torch.zeros(2, 3, 2, 8), "delay": 2},
            "prefix_conditioning 1",
        ),
    ],
)
def test_what_cannot_be_gone_on_with_is_refused(changes: dict[str, Any], options: dict[str, Any], said: str) -> None:
    policy = small_policy(**changes)
    latents, actions = policy.noise(2)
    with pytest.raises(ValueError, match=said):
        policy.sample(**inputs(), noise_latents=latents, noise_actions=actions, **options)


@pytest.mark.slow
def test_actions_alone_go_on_as_committed() -> None:
    wanted = committed()["committed_actions"]
    actions = sample(trained(coupling="none"), committed_actions=wanted, delay=DELAY, steps=10)[1]
    assert share(actions, wanted) > 0.85


def test_of_two_stages_only_the_second_is_led_by_actions(plain: FlowPolicy) -> None:
    rest = committed()
    stages = FlowPolicy(replace(TWO_WAYS, coupling="two_stage"))
    stages.load_state_dict(plain.state_dict())
    free = sample(stages)
    led = sample(stages, committed_actions=rest["committed_actions"], delay=DELAY)
    assert torch.equal(free[0], led[0]) and not torch.allclose(free[1], led[1], atol=1e-3)
