"""The contract: round trip, strictness, and the one way from a camera to a network."""

from dataclasses import replace

import numpy as np
import pytest

from alam_models.contract import (
    Camera,
    Contract,
    Latent,
    Normalisation,
    Tokenizer,
    disagreements,
    encode_instruction,
    policy_contract,
    prepare_frame,
    standardise,
    unstandardise,
)
from alam_sim.metaworld_env import metaworld_contract


def full_contract() -> Contract:
    numbers = tuple(np.random.default_rng(0).normal(size=4).astype(np.float32).tolist())
    ones, latent = (1.0,) * 4, {"wrist": (0.1, 0.2)}
    statistics = Normalisation(numbers, ones, numbers, ones, latent, latent)
    return policy_contract(metaworld_contract(), 8, Latent(1, 2), Tokenizer("bytes", 48), statistics)


def test_yaml_round_trip_keeps_everything() -> None:
    for contract in (metaworld_contract(), full_contract()):
        assert Contract.from_yaml(contract.to_yaml()) == contract


def test_edited_statistics_are_refused() -> None:
    contract = full_contract()
    assert contract.normalisation is not None
    text = contract.to_yaml().replace(repr(contract.normalisation.state_mean[0]), "0.123")
    with pytest.raises(ValueError, match="hash"):
        Contract.from_yaml(text)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("robot: metaworld", "robots: metaworld", "robots"),
        ("control_rate_hz: 80.0", "control_rate_hz: -1", "control_rate_hz"),
        ("schema_version: 1", "schema_version: 99", "99"),
        ("role: wrist", "role: elbow", "elbow"),
        ("crop: 0.75", "crop: 1.5", "crop"),
        ("source_width: 128", "source_width: abc", "source_width"),
        ("width: 96", "width: 0", "width"),
        ("name: hand_x", "name: 5", "name"),
        ("name: hand_y", "name: hand_x", "hand_x"),
        ("low: -0.7", "low: .nan", "low"),
    ],
)
def test_bad_field_is_named(old: str, new: str, said: str) -> None:
    text = metaworld_contract().to_yaml()
    assert old in text
    with pytest.raises(ValueError, match=said):
        Contract.from_yaml(text.replace(old, new))


@pytest.mark.parametrize("text", ["", "- 1", "{", "robot: metaworld"])
def test_no_contract_is_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r"wanted|lacks"):
        Contract.from_yaml(text)


def test_disagreement_names_field_wanted_and_got() -> None:
    contract = metaworld_contract()
    assert disagreements(contract, full_contract()) == []
    (sentence,) = disagreements(contract, replace(contract, control_rate_hz=20.0))
    assert "control_rate_hz" in sentence and "80.0" in sentence and "20.0" in sentence


def test_prepare_frame_crops_the_centre_and_rotates() -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    camera = Camera("wrist", 12, 8, 4, 4, crop=0.5)
    assert np.array_equal(prepare_frame(image, camera), image[2:6, 4:8])
    turned = prepare_frame(image, replace(camera, rotate_180=True))
    assert np.array_equal(turned, image[2:6, 4:8][::-1, ::-1])
    assert prepare_frame(image, replace(camera, crop=1.0)).shape == (4, 4, 3)


@pytest.mark.parametrize("image", [np.zeros((8, 8, 3), np.uint8), np.zeros((8, 12, 3), np.float32)])
def test_prepare_frame_refuses_other_sizes_and_types(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="wanted uint8"):
        prepare_frame(image, Camera("wrist", 12, 8, 4, 4))


def test_instruction_tokens() -> None:
    tokens = encode_instruction("hé", Tokenizer("bytes", 6))
    assert tokens.tolist() == [ord("h") + 1, 0xC3 + 1, 0xA9 + 1, 0, 0, 0]
    for text in ("", "x" * 7):
        with pytest.raises(ValueError, match="1 to 6 bytes"):
            encode_instruction(text, Tokenizer("bytes", 6))


def test_standardise_inverts() -> None:
    values = np.random.default_rng(0).normal(3, 2, (5, 3))
    mean, std = (1.0, 2.0, 3.0), (0.5, 2.0, 1.0)
    assert np.allclose(unstandardise(standardise(values, mean, std), mean, std), values, atol=1e-5)
