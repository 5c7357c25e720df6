"""Figures of structure on latents whose answer is known, and their blindness to scale."""

import math

import pytest
import torch
from torch import Tensor

from alam_models.structure import codebook_use, effective_rank, linear_probe, relative_error, structure


def differences(noise: float = 0.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Transitions f(j) - f(i) of three random states, (n, Q, Z) each, plus noise."""
    torch.manual_seed(0)
    a, b, c = torch.randn(3, 256, 2, 4)
    pairs = torch.stack([b - a, c - b, c - a, a - b])
    return tuple(pairs + noise * torch.randn_like(pairs))  # type: ignore[return-value]


def test_differences_are_structured_and_constants_are_not() -> None:
    exact = structure(*differences())
    assert exact["relative_add"] < 1e-6 and exact["relative_rev"] < 1e-6
    constant = structure(*[torch.ones(16, 2, 4)] * 4)
    assert constant == {"relative_add": pytest.approx(1), "relative_rev": pytest.approx(2), "effective_rank": 0.0}


@pytest.mark.parametrize("factor", [1e-6, 1e4])
def test_scale_changes_nothing(factor: float) -> None:
    latents = differences(noise=0.3)
    assert structure(*[factor * z for z in latents]) == pytest.approx(structure(*latents), rel=1e-4)


def test_still_clips_do_not_spoil_the_relative_error() -> None:
    error, reference = torch.full((4, 3), 0.1), torch.ones(4, 3)
    reference[0] = 0.0
    assert relative_error(error, reference).item() == pytest.approx(0.1 / 0.75)


def test_effective_rank_counts_equal_directions() -> None:
    torch.manual_seed(0)
    directions = torch.linalg.qr(torch.randn(8, 8))[0][:3]
    assert effective_rank(torch.cat([directions, -directions])) == pytest.approx(3.0, rel=1e-4)
    assert effective_rank(torch.cat([directions, -directions]) + 5.0) == pytest.approx(
        3.0, rel=1e-4
    )  # no offset counts
    # Singular values 3 : 1, entropy by hand.
    two = torch.diag(torch.tensor([3.0, 1.0]))
    wanted = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert effective_rank(torch.cat([two, -two])) == pytest.approx(wanted, rel=1e-5)


def test_codebook_use_by_hand() -> None:
    assert codebook_use(torch.tensor([[0, 0], [3, 3]]), 8) == (2, pytest.approx(2.0))
    assert codebook_use(torch.arange(8), 8) == (8, pytest.approx(8.0))
    assert codebook_use(torch.zeros(5, dtype=torch.int64), 8) == (1, pytest.approx(1.0))


def test_probe_finds_what_is_linear_and_nothing_else() -> None:
    torch.manual_seed(0)
    latents, episodes = torch.randn(2000, 2, 4), torch.arange(2000) // 50
    linear = latents.flatten(1) @ torch.randn(8, 3) + 7.0
    assert linear_probe(latents, linear, episodes) > 0.999
    assert linear_probe(1e-6 * latents, linear, episodes) > 0.999
    noisy = linear / linear.std(0) + torch.randn(2000, 3)  # half of the variance can be known
    assert linear_probe(latents, noisy, episodes) == pytest.approx(0.5, abs=0.05)
    assert abs(linear_probe(latents, torch.randn(2000, 3), episodes)) < 0.05
    assert abs(linear_probe(torch.ones(2000, 8), linear, episodes)) < 0.05


def test_probe_is_tested_on_other_episodes() -> None:
    """A latent that only names its episode explains its own half and nothing of the other."""
    torch.manual_seed(0)
    episodes = torch.arange(400) // 20
    latents = torch.eye(20)[episodes]
    assert linear_probe(latents, torch.randn(20, 2)[episodes], episodes) < 0.05


def test_probe_refuses_what_says_nothing() -> None:
    with pytest.raises(ValueError, match="two episodes"):
        linear_probe(torch.randn(5, 2), torch.randn(5, 1), torch.zeros(5, dtype=torch.int64))
    with pytest.raises(ValueError, match="constant"):
        linear_probe(torch.randn(6, 2), torch.ones(6, 1), torch.arange(6))
