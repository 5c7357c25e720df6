"""The joint flow's laws: what sees what, what is learned, and that noise becomes data."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from flow_rig import SMALL, inputs, small_policy, targets
from torch import Tensor

from alam_models.flow_policy import FlowPolicy, Intervention, attention_mask, mix, sample_times
from alam_models.pi0 import SIZES

ROLES = {
    "none": ("third_person",),
    "one": ("third_person",),
    "two": ("third_person", "wrist"),
    "three": ("a", "b", "c"),
}


def test_mask_is_that_of_the_paper() -> None:
    mask = attention_mask("paper", 2, 2)  # order: z_th z_wr u, z_th z_wr u
    wanted = [
        [1, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 0, 1, 1, 0],
        [1, 1, 0, 1, 1, 0],
        [1, 1, 1, 1, 1, 1],
    ]
    assert mask.int().tolist() == wanted


def test_mask_is_that_of_the_release() -> None:
    wanted = [
        [1, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1, 1],
    ]
    assert attention_mask("release", 2, 2).int().tolist() == wanted


def policy_with(views: str, mask: str, **changes: Any) -> FlowPolicy:
    roles, coupling = ROLES[views], "none" if views == "none" else "joint"
    return small_policy(roles=roles, image_sizes=(16,) * len(roles), mask=mask, **{"coupling": coupling, **changes})


def law(mask: str, policy: FlowPolicy, block: bool = False) -> Tensor:
    """-> (T, T) bool: whom (row) each token (column) may move."""
    streams = policy.config.views + 1
    token = torch.arange(policy.config.horizon * streams)
    step, is_action = token // streams, token % streams == policy.config.views
    moves = step[:, None] >= step[None, :]
    if mask == "paper":
        moves &= is_action[:, None] | ~is_action[None, :]
    elif mask == "release":
        moves &= ~((step[:, None] == step[None, :]) & ~is_action[:, None] & is_action[None, :])
    else:
        moves = torch.ones_like(moves)
    return moves & ~(is_action[:, None] & ~is_action[None, :]) if block else moves


def moved_one_by_one(policy: FlowPolicy, compute: Callable[[dict[str, Any], Tensor, Tensor], Any]) -> Tensor:
    """-> (T, T) bool: whose result (row) moves when the noise of one token (column) does. compute: observations and
    noise of T + 1 chunks -> latents and actions."""
    config = policy.config
    streams = config.views + 1
    tokens = config.horizon * streams
    one = inputs(1, config)
    images = {role: image.expand(tokens + 1, -1, -1, -1) for role, image in one["images"].items()}
    context = {"images": images, **{name: one[name].expand(tokens + 1, -1) for name in ("text", "state")}}
    latents, actions = (part.repeat(tokens + 1, *[1] * (part.dim() - 1)) for part in policy.noise(1))
    places = [divmod(token, streams) for token in range(tokens)]
    for token, (step, stream) in enumerate(places):  # the batch's last row stays as it is
        (latents[token, step, stream] if stream < config.views else actions[token, step]).add_(1)
    z, u = compute(context, latents, actions)
    results = [z[:, step, stream] if stream < config.views else u[:, step] for step, stream in places]
    return torch.stack([(values[:-1] - values[-1]).abs().amax(1) > 2e-6 for values in results])


@pytest.mark.parametrize("block", [False, True])
@pytest.mark.parametrize("views", [*ROLES, "two on pi0"])
@pytest.mark.parametrize("mask", ["paper", "release", "full"])
def test_what_moves_what_in_the_real_network(mask: str, views: str, block: bool) -> None:
    """Each token is moved by itself; whose velocity moves must be what the law says, for every pair of tokens."""
    on_pi0 = {"image_sizes": (28, 28), "backbone": SIZES["tiny"]}
    policy = small_policy(mask=mask, **on_pi0) if views == "two on pi0" else policy_with(views, mask)

    def velocity(context: dict[str, Any], latents: Tensor, actions: Tensor) -> Any:
        tau, prefix = torch.full((len(actions),), 0.7), policy.prefix(**context)
        return policy.velocity(latents, actions, tau, prefix, None, Intervention(block=block))

    assert torch.equal(moved_one_by_one(policy, velocity), law(mask, policy, block))


@pytest.mark.parametrize("mask", ["paper", "release"])
def test_what_moves_what_in_a_whole_chunk(mask: str) -> None:
    """No step of the sampler brings in by a detour what the mask leaves out."""
    policy = policy_with("two", mask)

    def sample(context: dict[str, Any], latents: Tensor, actions: Tensor) -> Any:
        return policy.sample(**context, noise_latents=latents, noise_actions=actions, steps=3)

    assert torch.equal(moved_one_by_one(policy, sample), law(mask, policy))


def test_two_stages_keep_the_papers_law_in_a_whole_chunk() -> None:
    policy = policy_with("two", "paper", coupling="two_stage")

    def sample(context: dict[str, Any], latents: Tensor, actions: Tensor) -> Any:
        return policy.sample(**context, noise_latents=latents, noise_actions=actions, steps=2)

    assert torch.equal(moved_one_by_one(policy, sample), law("paper", policy))


@pytest.mark.parametrize("part", ["images", "text", "state"])
def test_the_action_depends_on_every_part_of_the_context(part: str) -> None:
    policy = small_policy()
    one, two = inputs(1), inputs(1)
    latents, actions, tau = torch.randn(1, 4, 2, 6), torch.randn(1, 4, 4), torch.rand(1)
    _, first = policy.velocity(latents, actions, tau, policy.prefix(**one))
    _, second = policy.velocity(latents, actions, tau, policy.prefix(**{**one, part: two[part]}))
    assert not torch.allclose(first, second, atol=1e-6)


def test_padding_of_the_prefix_is_not_seen() -> None:
    policy = small_policy()
    prefix, (latents, actions), tau = policy.prefix(**inputs(1)), policy.noise(1), torch.rand(1)
    keys_values = [(torch.cat([k, k + 1], 2), torch.cat([v, v + 1], 2)) for k, v in prefix.keys_values]
    padded = prefix._replace(keys_values=keys_values, valid=torch.cat([prefix.valid, ~prefix.valid], 1))
    _, wanted = policy.velocity(latents, actions, tau, prefix)
    _, got = policy.velocity(latents, actions, tau, padded)
    assert torch.allclose(wanted, got, atol=1e-5)


def test_a_time_for_each_step_is_a_time_for_all_where_they_agree() -> None:
    policy = small_policy()
    prefix, (latents, actions), tau = policy.prefix(**inputs(2)), policy.noise(2), torch.rand(2)
    one = policy.velocity(latents, actions, tau, prefix)
    each = policy.velocity(latents, actions, tau[:, None].expand(-1, 4), prefix)
    assert torch.equal(one[0], each[0]) and torch.equal(one[1], each[1])
    own = policy.velocity(latents, actions, tau, prefix, tau_latents=tau / 2)
    assert not torch.allclose(one[0], own[0], atol=1e-5)


def test_flow_time_one_is_noise_and_zero_is_data() -> None:
    noise, data = torch.randn(2, 3), torch.randn(2, 3)
    assert torch.equal(mix(noise, data, torch.ones(2)), noise)
    assert torch.equal(mix(noise, data, torch.zeros(2)), data)


def test_times_follow_beta() -> None:
    tau = sample_times(200_000, torch.Generator().manual_seed(0))
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
    policy.loss(**inputs(), **targets())["total"].backward()
    assert policy.projection.grad is not None and policy.projection.grad.abs().max() > 0
    x = torch.randn(1, 4, 2, 6)
    assert torch.allclose(policy.unproject(x) @ policy.projection, x, atol=1e-4)


def test_streams_share_the_time_and_not_the_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, seen = small_policy(), []
    original = policy.velocity
    monkeypatch.setattr(policy, "velocity", lambda *given: (seen.append(given), original(*given))[1])
    zero = {name: torch.zeros_like(value) for name, value in targets().items()}
    policy.loss(**inputs(), **zero)
    ((latents, actions, tau, _),) = seen
    assert len(tau[0].unique()) == 1
    noise = latents / tau[:, :, None, None]  # the targets are zero
    assert (noise[:, :, 0] - noise[:, :, 1]).abs().min() > 0
    assert (noise[:, :, 0, :4] - actions / tau[:, :, None]).abs().min() > 0


def test_weights_scale_their_own_stream() -> None:
    context, wanted = inputs(), targets()
    chance = small_policy().chance(2)
    terms = small_policy().loss(**context, **wanted, chance=chance)
    weights = type(SMALL.weights)(third_person=0.5, wrist=0.0, action=3.0)
    policy = small_policy(weights=weights)
    total = policy.loss(**context, **wanted, chance=chance)["total"]
    assert total.item() == pytest.approx((0.5 * terms["third_person"] + 3 * terms["action"]).item(), rel=1e-6)
    assert weights.of("third camera") == 1.0


def test_draws_share_the_prefix_and_average_the_loss() -> None:
    policy = small_policy()
    context, wanted = inputs(2), targets(2)
    wide = policy.loss(**context, **wanted, chance=policy.chance(2, 3, torch.Generator().manual_seed(0)))
    tripled = {k: v.repeat(3, *[1] * (v.dim() - 1)) for k, v in wanted.items()}
    images = {role: image.repeat(3, 1, 1, 1) for role, image in context["images"].items()}
    text, state = context["text"].repeat(3, 1), context["state"].repeat(3, 1)
    same = policy.loss(images, text, state, **tripled, chance=policy.chance(6, 1, torch.Generator().manual_seed(0)))
    assert wide["total"].item() == pytest.approx(same["total"].item(), rel=1e-5)


def test_a_small_policy_learns_its_one_batch() -> None:
    policy = small_policy().train()
    context, wanted = inputs(4), targets(4)
    optimiser = torch.optim.AdamW(policy.parameters(), 3e-3)
    losses = []
    for _ in range(60):
        loss = policy.loss(**context, **wanted, chance=policy.chance(4, draws=4))["total"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_the_same_seed_gives_the_same_chunk() -> None:
    policy, context = small_policy(), inputs(2)
    chunks = [
        policy.sample(**context, **dict(zip(("noise_latents", "noise_actions"), noise, strict=True)))
        for noise in (policy.noise(2, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    ]
    assert torch.equal(chunks[0][0], chunks[1][0]) and torch.equal(chunks[0][1], chunks[1][1])
    assert not torch.allclose(chunks[0][1], chunks[2][1], atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"latent_projection": "none"}, "fixed"),
        ({"projected_width": 9}, "projected_width"),
        ({"image_sizes": (33, 16)}, "image_sizes"),
        ({"image_sizes": (32,)}, "image_sizes"),
        ({"text_length": 10}, "text_length"),
        ({"coupling": "loose"}, "two_stage"),
        ({"objective": "regression"}, "diffusion"),
        ({"mask": "causal"}, "release"),
        ({"coupling": "two_stage", "mask": "release"}, "two_stage"),
        ({"state_dropout": 1.0}, "state_dropout"),
        ({"prefix_conditioning": 4}, "prefix_conditioning"),
    ],
)
def test_impossible_configurations_are_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        small_policy(**changes)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (
            "images",
            {"wrist": torch.rand(2, 3, 16, 16)},
            r"wanted the roles \('third_person', 'wrist'\), got \('wrist',\)",
        ),
        ("images", {"third_person": torch.rand(2, 3, 32, 16), "wrist": torch.rand(2, 3, 16, 16)}, r"\(2, 3, 32, 32\)"),
        (
            "images",
            {"third_person": torch.zeros(2, 3, 32, 32, dtype=torch.uint8), "wrist": torch.rand(2, 3, 16, 16)},
            "floats in .0, 1., got torch.uint8",
        ),
        ("text", torch.zeros(2, 17, dtype=torch.int64), r"text: wanted shape \(2, 16\), got \(2, 17\)"),
        ("text", torch.zeros(2, 16), "int64"),
        ("text", torch.full((2, 16), 257), "text: wanted tokens from 0 to 256, got 257 to 257"),
        ("text", torch.arange(32).view(2, 16) - 1, "got -1 to 30"),
        ("state", torch.zeros(2, 5), r"state: wanted shape \(2, 4\), got \(2, 5\)"),
        ("latents", torch.randn(2, 4, 1, 8), r"latents: wanted shape \(2, 4, 2, 8\), got \(2, 4, 1, 8\)"),
        ("actions", torch.randn(2, 6, 4), r"actions: wanted shape \(2, 4, 4\), got \(2, 6, 4\)"),  # another horizon
    ],
)
def test_what_does_not_fit_is_refused(name: str, value: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        small_policy().loss(**{**inputs(), **targets(), name: value})


def test_noise_of_another_horizon_is_refused() -> None:
    policy = small_policy()
    with pytest.raises(ValueError, match=r"latents: wanted shape \(2, 4, 2, 6\), got \(2, 3, 2, 6\)"):
        policy.sample(**inputs(), noise_latents=torch.randn(2, 3, 2, 6), noise_actions=torch.randn(2, 3, 4))
