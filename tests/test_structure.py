"""Figures of structure on latents whose answer is known, and their blindness to scale."""

import math

import pytest
import torch
from torch import Tensor

from alam_models.structure import codebook_use, effective_rank, relative_error, structure


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
    assert math.isnan(effective_rank(torch.tensor([[1.0, math.nan], [0.0, 1.0]])))
    # Singular values 3 : 1, entropy by hand.
    two = torch.diag(torch.tensor([3.0, 1.0]))
    wanted = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert effective_rank(torch.cat([two, -two])) == pytest.approx(wanted, rel=1e-5)


def test_codebook_use_by_hand() -> None:
    assert codebook_use(torch.tensor([[0, 0], [3, 3]]), 8) == (2, pytest.approx(2.0))
    assert codebook_use(torch.arange(8), 8) == (8, pytest.approx(8.0))
    assert codebook_use(torch.zeros(5, dtype=torch.int64), 8) == (1, pytest.approx(1.0))
