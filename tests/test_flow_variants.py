"""What the joint flow is compared with (Tab. 3) and intervened in (Tab. 11): each does exactly what it says."""

from typing import Any

import pytest
import torch
from flow_rig import blank, inputs, small_policy, targets, trained
from torch import Tensor

from alam_models.flow_policy import FlowPolicy, Intervention, mix, sample_times, shuffled
from alam_models.runtime.sampler import Sampler


def sample(policy: FlowPolicy, context: dict[str, Any], noise: tuple[Tensor, Tensor], **options: Any) -> Any:
    return policy.sample(**context, noise_latents=noise[0], noise_actions=noise[1], **options)


def watch(policy: FlowPolicy, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """-> the arguments of every call of policy.velocity from now on."""
    seen: list[tuple[Any, ...]] = []
    original = policy.velocity

    def velocity(*given: Any) -> tuple[Tensor, Tensor]:
        seen.append(given)
        return original(*given)

    monkeypatch.setattr(policy, "velocity", velocity)
    return seen


@pytest.mark.parametrize("coupling", ["joint", "two_stage"])
@pytest.mark.parametrize("objective", ["flow", "diffusion"])
@pytest.mark.parametrize("steps", [1, 5])
def test_the_sampler_recovers_the_data_under_an_exact_network(coupling: str, objective: str, steps: int) -> None:
    shapes = (2, 4, 2, 6), (2, 4, 4)
    data = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    noise = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    # Diffusion starts where a little of the signal is left; flow starts from noise alone.
    start = [mix(eps, y, torch.ones(2), objective) for eps, y in zip(noise, data, strict=True)]
    said = [eps if objective == "diffusion" else eps - y for eps, y in zip(noise, data, strict=True)]
    got = Sampler(objective, coupling).generate(lambda *_: tuple(said), *start, steps)
    for mine, wanted in zip(got, data, strict=True):
        assert torch.allclose(mine, wanted, atol=1e-6)


def test_the_cosine_schedule_keeps_the_variance_and_ends_at_the_data() -> None:
    one, none = torch.ones(5), torch.zeros(5)
    tau = torch.linspace(0, 1, 5)
    power = mix(one, none, tau, "diffusion") ** 2 + mix(none, one, tau, "diffusion") ** 2
    assert torch.allclose(power, one, atol=1e-6)
    signal = mix(none, one, tau, "diffusion")
    assert signal[0] == 1 and signal[-1].item() == pytest.approx(0.1)
    times = sample_times(100_000, torch.Generator().manual_seed(0), "diffusion")
    assert times.mean().item() == pytest.approx(0.5005, abs=3e-3)


@pytest.mark.parametrize("objective", ["flow", "diffusion"])
def test_the_loss_is_least_where_the_network_says_what_the_sampler_takes(
    objective: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With zero targets the noise can be read from the input: what Sampler wants said has no loss, all else has."""
    policy, one = small_policy(objective=objective), torch.ones(1)
    zero = {name: torch.zeros_like(value) for name, value in targets().items()}

    def exact(latents: Tensor, actions: Tensor, tau: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        share = mix(torch.ones_like(tau), torch.zeros_like(tau), tau, objective)
        return latents / share[:, :, None, None], actions / share[:, :, None]

    monkeypatch.setattr(policy, "velocity", exact)
    assert policy.loss(**inputs(), **zero)["total"].item() < 1e-5
    monkeypatch.setattr(policy, "velocity", lambda *given: tuple(said + one for said in exact(*given)))
    assert policy.loss(**inputs(), **zero)["action"].item() == pytest.approx(1, abs=1e-4)


def test_two_stages_train_the_actions_on_the_true_latents(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, wanted = small_policy(coupling="two_stage"), targets()
    seen = watch(policy, monkeypatch)
    policy.loss(**inputs(), **wanted)
    (noisy, _, tau, _), (true, _, tau_actions, _, tau_latents) = seen
    assert torch.allclose(true, wanted["latents"] @ policy.projection) and not torch.allclose(noisy, true, atol=0.1)
    assert (tau_latents == 0).all() and torch.equal(tau, tau_actions) and (tau > 0).all()


def test_two_stages_generate_latents_first_and_then_the_actions_from_them(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, context = small_policy(coupling="two_stage"), inputs(1)
    one, other = policy.noise(1), policy.noise(1)
    latents, actions = sample(policy, context, one)
    same_latents, other_actions = sample(policy, context, (one[0], other[1]))
    assert torch.equal(latents, same_latents) and not torch.allclose(actions, other_actions, atol=1e-3)
    _, moved = sample(policy, context, (other[0], one[1]))
    assert not torch.allclose(actions, moved, atol=1e-3)
    seen = watch(policy, monkeypatch)
    final, _ = sample(policy, context, one, steps=3)
    assert [round(given[4][0, 0].item(), 3) for given in seen] == [1, 0.667, 0.333, 0, 0, 0]  # of the latents
    assert [round(given[2][0, 0].item(), 3) for given in seen][3:] == [1, 0.667, 0.333]
    assert all(torch.allclose(given[0], final @ policy.projection, atol=1e-5) for given in seen[3:])


def test_actions_alone_have_no_latent_stream() -> None:
    alone, joint = small_policy(coupling="none"), small_policy()
    assert len(alone.stream_in) == 1 and len(joint.stream_in) == 3
    latents, actions = sample(alone, inputs(), alone.noise(2))
    assert latents.shape == (2, 4, 0, 8) and actions.shape == (2, 4, 4)
    terms = alone.loss(**inputs(), **targets(2, alone.config))
    assert set(terms) == {"action", "total"} and terms["total"] == terms["action"]


@pytest.mark.parametrize("coupling", ["joint", "two_stage", "none"])
def test_the_loss_reaches_every_parameter_that_is_trained(coupling: str) -> None:
    """Processes that train together wait for the gradient of each."""
    policy = small_policy(coupling=coupling, latent_projection="learned", state_dropout=0.5).train()
    policy.loss(**inputs(), **targets(2, policy.config))["total"].backward()
    missing = {name for name, p in policy.named_parameters() if p.requires_grad and p.grad is None}
    frozen = {name for name, p in policy.named_parameters() if not p.requires_grad}
    assert not missing
    unread = {"attention.out", "norm2", "mlp.0", "mlp.2"}  # of the last layer of the prefix
    wanted = {f"backbone.prefix_blocks.1.{part}.{leaf}" for part in unread for leaf in ("weight", "bias")}
    assert frozen == wanted | ({"projection"} if coupling == "none" else set())


def test_bfloat16_is_for_products_and_not_for_targets() -> None:
    policy, context, wanted = small_policy(), inputs(), targets()
    chance, seen = policy.chance(2), []
    policy.backbone.expert_blocks[0].mlp[0].register_forward_hook(lambda *given: seen.append(given[2].dtype))
    exact = policy.loss(**context, **wanted, chance=chance)
    original, given = policy.velocity, []
    policy.velocity = lambda *arguments: (given.append(arguments), original(*arguments))[1]  # type: ignore[method-assign]
    with torch.autocast("cpu", torch.bfloat16):
        rounded = policy.loss(**context, **wanted, chance=chance)
    assert seen == [torch.float32, torch.bfloat16]
    noise, tau = chance.latents[0], chance.tau[0, :, :, None, None]
    assert torch.equal(given[0][0], tau * noise + (1 - tau) * (wanted["latents"] @ policy.projection))
    for term, value in rounded.items():
        assert value.dtype == torch.float32 and 0 < abs(value - exact[term]) < 0.02


def test_frozen_latents_stay_at_their_noise() -> None:
    policy, context = small_policy(), inputs()
    noise = policy.noise(2)
    latents, actions = sample(policy, context, noise, intervention=Intervention(freeze=True))
    assert torch.equal(latents, policy.unproject(noise[0]))
    assert not torch.allclose(actions, sample(policy, context, noise)[1], atol=1e-4)


def test_frozen_latents_are_seen_as_ever_and_only_they_stand_still() -> None:
    policy, context, steps = small_policy(), inputs(), 4
    latents, x = policy.noise(2)
    prefix, freeze = policy.prefix(**context), Intervention(freeze=True)
    tau = torch.rand(2)
    moved, acted = policy.velocity(latents, x, tau, prefix, None, freeze)
    assert not moved.any() and torch.equal(acted, policy.velocity(latents, x, tau, prefix)[1])
    _, actions = sample(policy, context, (latents, x), steps=steps, intervention=freeze)
    for step in range(steps):  # by hand: the flow time goes on, for both
        _, velocity = policy.velocity(latents, x, torch.full((2,), 1 - step / steps), prefix)
        x = x - velocity / steps
    torch.testing.assert_close(actions, x, atol=1e-6, rtol=1e-5)


def test_a_block_changes_actions_and_leaves_the_papers_latents() -> None:
    policy, context, noise = small_policy(), inputs(), small_policy().noise(2)
    latents, actions = sample(policy, context, noise)
    same, others = sample(policy, context, noise, intervention=Intervention(block=True))
    assert torch.equal(latents, same) and not torch.allclose(actions, others, atol=1e-4)


def test_freezing_a_diffusion_is_refused() -> None:
    policy = small_policy(objective="diffusion")
    with pytest.raises(ValueError, match="freeze: wanted objective 'flow'"):
        sample(policy, inputs(), policy.noise(2), intervention=Intervention(freeze=True))


@pytest.mark.parametrize("mask", ["paper", "release", "full"])
def test_blocked_actions_depend_on_no_latent(mask: str) -> None:
    policy, context = small_policy(mask=mask), inputs()
    one, other = policy.noise(2), policy.noise(2)
    block = Intervention(block=True)
    prefix, tau = policy.prefix(**context), torch.rand(2)
    _, first = policy.velocity(one[0], one[1], tau, prefix, None, block)
    _, second = policy.velocity(other[0], one[1], tau, prefix, None, block)
    assert torch.equal(first, second)
    _, first = sample(policy, context, one, intervention=block)
    _, second = sample(policy, context, (other[0], one[1]), intervention=block)
    assert torch.equal(first, second)
    assert not torch.allclose(first, sample(policy, context, one)[1], atol=1e-4)


def test_a_shuffle_in_order_changes_nothing() -> None:
    policy, context, noise = small_policy(), inputs(), small_policy().noise(2)
    wanted = sample(policy, context, noise)
    got = sample(policy, context, noise, intervention=Intervention(order=(0, 1, 2, 3)))
    assert torch.equal(wanted[0], got[0]) and torch.equal(wanted[1], got[1])


def test_a_shuffle_moves_actions_and_keeps_the_latents() -> None:
    policy, context, noise = small_policy(), inputs(), small_policy().noise(2)
    latents, actions = sample(policy, context, noise)
    same, moved = sample(policy, context, noise, intervention=Intervention(order=(3, 1, 0, 2)))
    assert torch.equal(latents, same) and not torch.allclose(actions, moved, atol=1e-4)
    # The last step's velocity is that of latents in the other order, by hand.
    prefix, tau = policy.prefix(**context), torch.rand(2)
    _, by_hand = policy.velocity(noise[0][:, [3, 1, 0, 2]], noise[1], tau, prefix)
    _, mine = policy.velocity(*noise, tau, prefix, None, Intervention(order=(3, 1, 0, 2)))
    assert torch.equal(by_hand, mine)


def test_orders_are_permutations_by_seed() -> None:
    orders = [shuffled(16, seed) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2] and all(sorted(order) == list(range(16)) for order in orders)
    policy = small_policy()
    with pytest.raises(ValueError, match=r"permutation of 0 to 3, got \(0, 1, 1, 2\)"):
        sample(policy, inputs(), policy.noise(2), intervention=Intervention(order=(0, 1, 1, 2)))


def test_the_state_is_dropped_in_training_only() -> None:
    policy = small_policy(state_dropout=0.999999)
    context, wanted = inputs(), targets()
    other = {**context, "state": context["state"] + 1}

    def loss(context: dict[str, Any]) -> Tensor:
        return policy.loss(**context, **wanted, chance=policy.chance(2, 1, torch.Generator().manual_seed(0)))["total"]

    assert loss(context) != loss(other)
    policy.train()
    assert loss(context) == loss(other)
    loss(context).backward()
    assert policy.no_state.grad is not None and policy.no_state.grad.abs().max() > 0
    assert not hasattr(small_policy(), "no_state")


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"objective": "diffusion"}, {"coupling": "two_stage"}, {"coupling": "none"}])
def test_each_variant_learns_both_ways(changes: dict[str, Any]) -> None:
    policy = trained(**changes)
    noise = policy.noise(256, torch.Generator().manual_seed(1))
    latents, actions = sample(policy, blank(256, policy.config), noise, steps=10)
    way = actions.mean((1, 2)).sign()
    assert 0.25 < (way > 0).float().mean() < 0.75
    assert (actions - way[:, None, None]).abs().mean() < 0.4
    if policy.config.views:  # the actions go the way of their latents
        assert (latents.mean((1, 2, 3)).sign() == way).float().mean() > 0.85
