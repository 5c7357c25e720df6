"""ALAM's laws: the quantizer by hand, every term moves the encoder, batches permute, one pass equals four."""

import copy
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import yaml
from four_pass import four_passes
from safetensors.torch import save_file
from torch import Tensor

from alam_models.latent_action import (
    ALAM,
    VARIANTS,
    ALAMConfig,
    LastBlock,
    LossWeights,
    VectorQuantizer,
    Whiten,
    variant,
)
from alam_models.transformer import Block
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


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("scale", ["free", "whitened", "standardised"])
def test_one_pass_is_four_passes(scale: str, training: bool) -> None:
    """The same terms, gradients and codebook as the straightforward implementation, to rounding."""
    model = small_alam(scale=scale, depth=2, source_skip=True, image_size=36).double().train(training)
    model.quantizer.steps.fill_(1)  # a codebook is there: it does not start from this batch
    other, triplet = copy.deepcopy(model), torch.rand(5, 3, 3, 36, 36).double()
    ours, plain = model(triplet, distance), four_passes(other, triplet, distance, textbook=True)
    for term in ("rec", "perc", "add", "rev", "vq", "total", "codes", "prediction"):
        torch.testing.assert_close(ours[term], plain[term], rtol=1e-8, atol=1e-8)
    ours["total"].backward()
    plain["total"].backward()
    for (name, one), two in zip(model.named_parameters(), other.parameters(), strict=True):
        assert one.grad is not None, name
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-8, atol=1e-8, msg=name)
    torch.testing.assert_close(model.state_dict(), other.state_dict(), rtol=1e-8, atol=1e-8)


def test_last_block_gives_the_first_rows_of_a_block() -> None:
    torch.manual_seed(0)
    block, last, x = Block(32, 2), LastBlock(32, 2, rows=3), torch.randn(2, 7, 32)
    last.load_state_dict(block.state_dict())
    for all_rows, first_rows in zip((block(x)[0][:, :3], *block(x)[1]), (last(x)[0], *last(x)[1]), strict=True):
        torch.testing.assert_close(first_rows, all_rows, rtol=1e-5, atol=1e-6)


def test_variants_are_the_rows_of_table_4() -> None:
    full = replace(SMALL, weights=LossWeights(add=0.5, rev=0.25))
    off = {name: [t for t in ("add", "rev") if not getattr(variant(full, name).weights, t)] for name in VARIANTS}
    assert off == {
        "lam": ["add", "rev"],
        "without_both": ["add", "rev"],
        "without_rev": ["rev"],
        "without_add": ["add"],
        "alam": [],
    }
    assert variant(full, "alam") == full
    assert [name for name in VARIANTS if variant(full, name).pairs == "pair"] == ["lam"]
    with pytest.raises(ValueError, match="without_add"):
        variant(full, "other")


def test_lam_trains_on_the_pair_a_b_alone() -> None:
    model = ALAM(variant(replace(SMALL, scale="whitened"), "lam")).train()
    model.quantizer.steps.fill_(1)
    other, triplet = copy.deepcopy(model), torch.rand(4, 3, 3, 32, 32)
    changed = triplet.clone()
    changed[:, 2] = 0.0
    terms, same = model(triplet, distance), other(changed, distance)
    assert terms["prediction"].shape == (1, 4, 3, 32, 32) and terms["codes"].shape == (4, 2)
    assert torch.equal(terms["target"][0], triplet[:, 1])
    assert torch.equal(terms["total"], same["total"])
    assert "add" not in terms and "rev" not in terms
    terms["total"].backward()
    assert all(p.grad is not None for p in model.parameters())


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


def linearly_mapped(model: ALAM, matrix: Tensor) -> ALAM:
    """The model with another linear map behind its head."""
    mapped = copy.deepcopy(model)
    with torch.no_grad():
        mapped.encoder.head.weight.copy_(matrix @ model.encoder.head.weight)
        mapped.encoder.head.bias.copy_(matrix @ model.encoder.head.bias)
    return mapped


def test_published_terms_reward_shrinking_and_whitened_ones_do_not() -> None:
    triplet = torch.rand(16, 3, 3, 32, 32).double()
    free, whitened = small_alam().double(), small_alam(scale="whitened").double()
    smaller = 1e-3 * torch.eye(4).double()

    def terms(model: ALAM) -> dict[str, Tensor]:
        torch.manual_seed(3)  # of the codebook's start
        return model(triplet, distance)  # type: ignore[no-any-return]

    shrunk = linearly_mapped(free, smaller)
    before, after = terms(free), terms(shrunk)
    assert after["add"] < 1.1e-6 * before["add"] and after["rev"] < 1.1e-6 * before["rev"]
    shrunk = linearly_mapped(whitened, smaller)
    before, after = terms(whitened), terms(shrunk)
    for term in ("rec", "perc", "add", "rev"):
        torch.testing.assert_close(after[term], before[term], rtol=1e-6, atol=1e-8)


def test_whitened_latents_have_covariance_one_whatever_the_head() -> None:
    model = small_alam(scale="whitened", queries=4)
    tilted = torch.eye(4) + 0.3 * torch.ones(4, 4)
    for encoder in (model.encoder, linearly_mapped(model, tilted).encoder):
        z = encoder(torch.rand(128, 3, 32, 32), torch.rand(128, 3, 32, 32))
        assert torch.allclose(z.mean(0), torch.zeros(4, 4), atol=1e-3)
        flat = z.flatten(0, 1)
        assert torch.allclose(flat.T @ flat / len(flat), torch.eye(4), atol=0.1)


def test_whitening_keeps_the_algebra_of_drifting_video() -> None:
    """Latents that obey Eq. 2 obey it afterwards. Batch normalisation, with the mean over all pairs, breaks it."""
    torch.manual_seed(0)
    z_ab, z_bc = torch.randn(2, 32, 3, 4) + 2.0  # everything drifts
    latents = torch.cat([z_ab, z_bc, z_ab + z_bc, -z_ab])

    def errors(z: Tensor) -> tuple[Tensor, Tensor]:
        ab, bc, ac, ba = z.chunk(4)
        return (ac - ab - bc).abs().max(), (ab + ba).abs().max()

    both_ways = torch.cat([torch.arange(32), torch.arange(96, 128)])
    assert max(errors(Whiten(3, 4)(latents, both_ways))) < 1e-5
    normalised = torch.nn.BatchNorm1d(12, affine=False)(latents.flatten(1))
    assert min(errors(normalised)) > 0.5


def test_whitening_is_a_fixed_affine_map_at_inference() -> None:
    torch.manual_seed(0)
    whiten = Whiten(2, 3, momentum=1.0)
    z = torch.randn(64, 2, 3) * 3 + 1
    training = whiten(z)
    whiten.eval()
    torch.testing.assert_close(whiten(z), training)
    one, two = torch.randn(2, 4, 2, 3)
    torch.testing.assert_close(whiten(0.3 * one + 0.7 * two), 0.3 * whiten(one) + 0.7 * whiten(two))


def test_whitening_lets_nan_through_and_bears_latents_that_are_all_the_same() -> None:
    z = torch.randn(8, 2, 3)
    z[0, 0, 0] = torch.nan
    assert Whiten(2, 3)(z).isnan().any()
    assert torch.equal(Whiten(2, 3)(torch.ones(8, 2, 3)), torch.zeros(8, 2, 3))


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
    model = small_alam(scale="whitened").eval()
    save_weights(tmp_path, "alam", model.state_dict(), model.config)
    encoder = load_encoder(tmp_path)
    first, second = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
    assert torch.equal(encoder(first, second), model.encoder(first, second))
    assert not any(p.requires_grad for p in encoder.parameters())
    with pytest.raises(ValueError, match=r"alam\.yaml"):
        load_encoder(tmp_path / "elsewhere")


def test_encoders_from_before_pairs_and_scale_load(tmp_path: Path) -> None:
    model = small_alam(scale="standardised")
    model(torch.rand(8, 3, 3, 32, 32), distance)  # running statistics
    config = asdict(model.eval().config)
    del config["pairs"], config["scale"]
    (tmp_path / "alam.yaml").write_text(yaml.safe_dump({**config, "standardise": True}))
    save_file(model.state_dict(), tmp_path / "alam.safetensors")
    first, second = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
    assert torch.equal(load_encoder(tmp_path)(first, second), model.encoder(first, second))


@pytest.mark.parametrize(("name", "value"), [("pairs", "quadruplet"), ("scale", "small"), ("patch", 64)])
def test_a_config_that_cannot_be_is_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{value}"):
        replace(SMALL, **{name: value})  # type: ignore[arg-type]
