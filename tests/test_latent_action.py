"""ALAM's laws: the quantizer by hand, every term moves the encoder, batches permute, the encoder is what is frozen."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from alam_models.latent_action import ALAM, ALAMConfig, LossWeights, VectorQuantizer
from alam_models.weights import load_encoder, save_weights

SMALL = ALAMConfig(image_size=32, patch=16, width=32, heads=2, depth=1, queries=2, latent_width=4, codes=4)


def distance(prediction: Tensor, target: Tensor) -> Tensor:
    """Stands where LPIPS does: its backbone is a download (tests/test_lpips.py runs the real library)."""
    return (prediction - target).square().flatten(1).mean(1)


def small_alam(**changes: object) -> ALAM:
    torch.manual_seed(0)
    return ALAM(replace(SMALL, **changes))  # type: ignore[arg-type]


def test_shapes_and_terms() -> None:
    terms = small_alam()(torch.rand(3, 3, 3, 32, 32), distance)
    assert terms["prediction"].shape == (3, 3, 3, 32, 32)
    assert terms["codes"].shape == (12, 2)
    assert {"rec", "perc", "add", "rev", "vq"} <= set(terms)


@pytest.mark.parametrize("term", ["rec", "perc", "add", "rev", "vq"])
def test_every_term_moves_the_encoder(term: str) -> None:
    weights = LossWeights(**dict.fromkeys(["rec", "perc", "add", "rev", "vq"], 0.0) | {term: 1.0})
    model = small_alam(weights=weights)
    model(torch.rand(4, 3, 3, 32, 32), distance)["total"].backward()
    assert model.encoder.head.weight.grad is not None
    assert model.encoder.head.weight.grad.abs().max() > 0
    assert model.encoder.patchify.weight.grad.abs().max() > 0  # type: ignore[union-attr]


def test_total_is_the_weighted_sum() -> None:
    weights = LossWeights(rec=2.0, perc=0.5, add=3.0, rev=0.0, vq=0.25)
    terms = small_alam(weights=weights)(torch.rand(2, 3, 3, 32, 32), distance)
    wanted = 2 * terms["rec"] + 0.5 * terms["perc"] + 3 * terms["add"] + 0.25 * terms["vq"]
    assert torch.allclose(terms["total"], wanted)


def test_algebra_is_that_of_equation_7() -> None:
    model = small_alam().eval()
    triplet = torch.rand(2, 3, 3, 32, 32)
    a, b, c = triplet.unbind(1)
    encode = model.encoder
    terms = model(triplet, distance)
    assert torch.allclose(terms["add"], (encode(a, c) - encode(a, b) - encode(b, c)).square().mean(), atol=1e-6)
    assert torch.allclose(terms["rev"], (encode(a, b) + encode(b, a)).square().mean(), atol=1e-6)


def test_permuting_the_batch_permutes_the_latents() -> None:
    encoder = small_alam().encoder.eval()
    first, second = torch.rand(5, 3, 32, 32), torch.rand(5, 3, 32, 32)
    order = torch.tensor([3, 0, 4, 1, 2])
    assert torch.allclose(encoder(first, second)[order], encoder(first[order], second[order]), atol=1e-6)


def test_order_of_the_pair_matters() -> None:
    encoder = small_alam().encoder.eval()
    first, second = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
    assert not torch.allclose(encoder(first, second), encoder(second, first), atol=1e-3)


def test_standardised_latents_have_unit_scale() -> None:
    encoder = small_alam(scale="standardised").encoder.train()
    z = encoder(torch.rand(64, 3, 32, 32), torch.rand(64, 3, 32, 32)).flatten(1)
    assert torch.allclose(z.mean(0), torch.zeros(8), atol=1e-4)
    assert torch.allclose(z.std(0, correction=0), torch.ones(8), atol=1e-2)


def test_perceptual_term_wants_its_distance() -> None:
    with pytest.raises(ValueError, match="perceptual"):
        small_alam()(torch.rand(1, 3, 3, 32, 32))
    small_alam(weights=LossWeights(perc=0.0))(torch.rand(1, 3, 3, 32, 32))


def test_quantizer_is_nearest_straight_through_and_committed() -> None:
    quantizer = VectorQuantizer(2, 2).eval()
    quantizer.codebook.copy_(torch.tensor([[0.0, 0.0], [4.0, 0.0]]))
    z = torch.tensor([[1.0, 0.0], [3.0, 0.0]], requires_grad=True)
    quantised, codes, commitment = quantizer(z)
    assert codes.tolist() == [0, 1]
    assert quantised.tolist() == [[0.0, 0.0], [4.0, 0.0]]
    assert commitment.item() == pytest.approx(0.5)  # mean of 1, 0, 1, 0
    quantised.sum().backward()
    assert z.grad is not None and z.grad.tolist() == [[1.0, 1.0], [1.0, 1.0]]


def test_codebook_moves_as_by_hand() -> None:
    quantizer = VectorQuantizer(2, 1, decay=0.5)
    quantizer.codebook.copy_(torch.tensor([[0.0], [10.0]]))
    quantizer.total.copy_(torch.tensor([[0.0], [20.0]]))
    quantizer.usage.copy_(torch.tensor([2.0, 2.0]))
    quantizer.steps.fill_(1)
    quantizer(torch.tensor([[1.0], [3.0], [9.0]]))
    # usage: (2 + 2) / 2, (2 + 1) / 2; sums: (0 + 4) / 2, (20 + 9) / 2
    assert quantizer.usage.tolist() == [2.0, 1.5]
    assert quantizer.codebook.flatten().tolist() == pytest.approx([1.0, 14.5 / 1.5])


def test_dead_codes_restart_from_the_batch() -> None:
    quantizer = VectorQuantizer(3, 1)
    for _ in range(100):
        quantizer(torch.tensor([[5.0], [5.1], [4.9], [5.2]]))
    assert ((quantizer.codebook > 4.5) & (quantizer.codebook < 5.5)).all()


def test_encoder_loads_by_folder_alone(tmp_path) -> None:  # type: ignore[no-untyped-def]
    model = small_alam(scale="standardised").eval()
    save_weights(tmp_path, "alam", model.state_dict(), model.config)
    encoder = load_encoder(tmp_path)
    first, second = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
    assert torch.equal(encoder(first, second), model.encoder(first, second))
    assert not any(p.requires_grad for p in encoder.parameters())
    with pytest.raises(ValueError, match=r"alam\.yaml"):
        load_encoder(tmp_path / "elsewhere")
