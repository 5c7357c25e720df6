"""The perceptual term runs the real lpips library; only its backbone's weights are random here."""

from pathlib import Path

import pytest
import torch

from alam_models.latent_action import ALAM, ALAMConfig, LossWeights
from alam_models.lpips import PerceptualDistance, backbone_path, define_torchvision_operators


@pytest.fixture
def backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PerceptualDistance:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ValueError, match="squeezenet"):  # says where the file belongs
        PerceptualDistance("squeeze")
    define_torchvision_operators()
    from torchvision.models import squeezenet1_1

    torch.manual_seed(0)
    path = backbone_path("squeeze")
    path.parent.mkdir(parents=True)
    torch.save(squeezenet1_1().state_dict(), path)
    return PerceptualDistance("squeeze")


def test_distance_is_zero_only_at_equality_and_moves_the_frames(backbone: PerceptualDistance) -> None:
    frames = torch.rand(2, 3, 64, 64)
    assert backbone(frames, frames).abs().max() < 1e-6
    other = torch.rand(2, 3, 64, 64, requires_grad=True)
    distance = backbone(other, frames)
    assert distance.shape == (2,) and (distance > 0).all()
    distance.sum().backward()
    assert other.grad is not None and other.grad.abs().max() > 0
    assert not any(p.requires_grad for p in backbone.parameters())
    assert not backbone.train().distance.training  # dropout would make the distance random


def test_the_perceptual_term_moves_the_encoder(backbone: PerceptualDistance) -> None:
    weights = LossWeights(rec=0.0, perc=1.0, add=0.0, rev=0.0, vq=0.0)
    model = ALAM(ALAMConfig(image_size=64, width=32, heads=2, depth=2, queries=2, latent_width=4, weights=weights))
    terms = model(torch.rand(2, 3, 3, 64, 64), backbone)
    assert torch.equal(terms["total"], terms["perc"])
    terms["total"].backward()
    for parameter in (model.encoder.head.weight, model.encoder.query, model.encoder.patchify.weight):
        assert parameter.grad is not None and parameter.grad.abs().max() > 0
    assert all(p.grad is None for p in backbone.parameters())


def test_unknown_backbone_is_named() -> None:
    with pytest.raises(ValueError, match="resnet"):
        PerceptualDistance("resnet")
