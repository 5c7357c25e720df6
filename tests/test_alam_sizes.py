"""The named sizes, built without memory: shapes, and parameters counted by hand."""

import pytest
import torch
from torch import Tensor

from alam_models.latent_action import ALAM, ALAMConfig
from training.configs import PRETRAIN

MILLIONS = {"mini": 1.478, "base": 52.613, "paper": 174.517, "release": 174.326}


def counted_by_hand(config: ALAMConfig) -> int:
    """Weights and biases, from Tab. 5's numbers alone."""
    d, patches, pixels = config.width, (config.image_size // config.patch) ** 2, 3 * config.patch**2
    attention = 4 * (d * d + d)
    block = 2 * 2 * d + attention + (4 * d * d + 4 * d) + (4 * d * d + d)
    encoder = pixels * d + d + patches * d + 2 * d + config.queries * d + config.depth * block
    encoder += 2 * d + d * config.latent_width + config.latent_width
    decoder = config.latent_width * d + d + d * d + d + 2 * d + attention + config.depth * block
    decoder += 2 * d + d * pixels + pixels
    return encoder + decoder


@pytest.mark.parametrize("name", sorted(PRETRAIN))
def test_parameters_and_shapes(name: str) -> None:
    config = PRETRAIN[name].model
    with torch.device("meta"):
        model = ALAM(config).eval()
        triplet = torch.empty(2, 3, 3, config.image_size, config.image_size)
        terms = model(triplet, lambda a, b: (a - b).flatten(1).mean(1))
    count = sum(p.numel() for p in model.parameters())
    assert count == counted_by_hand(config)
    assert count / 1e6 == pytest.approx(MILLIONS[name], abs=5e-4)
    side = config.grid * config.patch
    assert terms["prediction"].shape == (3, 2, 3, side, side)
    assert terms["codes"].shape == (8, config.queries)
    z: Tensor = model.encoder(triplet[:, 0], triplet[:, 1])
    assert z.shape == (2, config.queries, config.latent_width)


def test_paper_and_release_are_table_5_and_the_authors_bottleneck() -> None:
    paper, release = PRETRAIN["paper"].model, PRETRAIN["release"].model
    for config in (paper, release):
        assert (config.image_size, config.patch, config.width, config.heads, config.depth) == (200, 14, 768, 12, 12)
        assert config.latent_width == 128 and config.scale == "free" and not config.source_skip and not config.fade_in
        assert set(vars(config.weights).values()) == {1.0}
    assert (paper.queries, paper.codes) == (256, 7)
    assert (release.queries, release.codes) == (7, 256)
