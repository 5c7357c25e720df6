"""R2 of linear probes on latents whose answer is known: what is linear, other episodes, within tasks, its interval."""

import pytest
import torch
from torch import Tensor

from training.probing.linear import r2

EPISODES = torch.arange(2000) // 50
FIT = EPISODES % 2 == 0


def value(latents: Tensor, targets: Tensor, tasks: Tensor | None = None) -> float:
    found, low, high = r2(latents, targets, FIT, EPISODES, tasks)
    assert found is not None and low is not None and high is not None and low <= found <= high
    return found


def test_what_is_linear_is_found_and_nothing_else() -> None:
    torch.manual_seed(0)
    latents = torch.randn(2000, 2, 4)
    linear = latents.flatten(1) @ torch.randn(8, 3) + 7.0
    assert value(latents, linear) > 0.999
    assert value(1e-6 * latents, linear) > 0.999
    noisy = linear / linear.std(0) + torch.randn(2000, 3)  # half of the variance can be known
    assert value(latents, noisy) == pytest.approx(0.5, abs=0.05)
    assert abs(value(latents, torch.randn(2000, 3))) < 0.05
    assert abs(value(torch.ones(2000, 8), linear)) < 0.05


def test_more_features_than_rows_give_the_same_regression() -> None:
    torch.manual_seed(0)
    few = torch.arange(2000) < 60
    latents, targets = torch.randn(2000, 40), torch.randn(2000, 2)
    wide, _, _ = r2(
        latents.repeat(1, 3), targets, few, EPISODES
    )  # by the matrix of rows, the other by that of features
    narrow, _, _ = r2(3**0.5 * latents, targets, few, EPISODES)
    assert wide == pytest.approx(narrow, abs=0.05)


def test_a_latent_that_names_its_episode_explains_nothing_of_the_others() -> None:
    torch.manual_seed(0)
    assert value(torch.eye(40)[EPISODES], torch.randn(40, 2)[EPISODES]) < 0.05


def test_a_latent_that_names_its_task_explains_nothing_within_tasks() -> None:
    """Ten tasks, each with episodes on both sides; the motion is the task's own and some that a latent may tell."""
    torch.manual_seed(0)
    tasks = EPISODES // 4
    motion, own = torch.randn(2000, 2), 5 * torch.randn(10, 2)[tasks]
    named, told = torch.eye(10)[tasks], torch.cat([torch.eye(10)[tasks], motion], 1)
    assert value(named, own + motion) > 0.9
    assert value(named, own + motion, tasks) == pytest.approx(0, abs=1e-3)
    assert value(told, own + motion, tasks) > 0.999
    shifted = motion + 10 * (~FIT)[:, None]  # the sides are centred by themselves
    assert value(told, own + shifted, tasks) > 0.999
    assert r2(named, own, FIT, EPISODES, tasks) == (None, None, None)  # nothing varies within a task


def test_the_interval_counts_episodes_not_rows() -> None:
    torch.manual_seed(0)
    latents, tested = torch.randn(2000, 4), ~FIT
    targets = latents @ torch.randn(4, 2) + 2 * torch.randn(2000, 2)
    once = r2(latents, targets, FIT, EPISODES)
    rows = torch.cat([torch.nonzero(FIT)[:, 0], torch.nonzero(tested)[:, 0].repeat_interleave(9)])
    again = r2(latents[rows], targets[rows], FIT[rows], EPISODES[rows])
    assert again == pytest.approx(once, rel=1e-6)
    finer = r2(latents, targets, FIT, torch.arange(2000))
    assert finer[0] == once[0] and once[1] < once[0] < once[2]  # type: ignore[operator]


def test_what_says_nothing_has_no_figure() -> None:
    latents, some = torch.randn(2000, 2), torch.ones(2000, dtype=torch.bool)
    none = (None, None, None)
    assert r2(latents, latents, some, EPISODES) == r2(latents, latents, ~some, EPISODES) == none
    assert r2(latents, torch.ones(2000, 1), FIT, EPISODES) == none
    one_varies = torch.cat([latents[:, :1], torch.ones(2000, 1)], 1)
    assert value(latents, one_varies) > 0.999
    assert r2(latents, latents, FIT, torch.zeros(2000, dtype=torch.int64))[1:] == (None, None)  # one episode
