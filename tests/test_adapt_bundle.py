"""A policy transferred from public pi0 weights, with adapters or without, is served as PyTorch computes it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_adapt import SIZE, config_of, data, pi0, pieces  # noqa: F401
from test_export import by_pytorch, look
from test_training import ALAM_SIZE

from alam_models.export import main
from alam_models.latent_action import ALAM
from alam_models.runtime import load_policy
from alam_models.weights import load_policy_weights, save_weights
from training.transfer import transfer

JOINT = replace(SIZE, coupling="joint", mask="paper", projected_width=8, latent_projection="learned")


@pytest.mark.parametrize("lora_rank", [4, 0])
def test_a_transfer_from_pi0_is_exported_with_its_tokenizer_and_is_pytorchs(
    lora_rank: int,
    data: Path,  # noqa: F811
    pi0: Path,  # noqa: F811
    pieces: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    save_weights(tmp_path / "alam", "alam", ALAM(ALAM_SIZE).state_dict(), ALAM_SIZE)
    given: dict[str, Any] = {"pi0": pi0, "tokenizer": pieces, "encoder": tmp_path / "alam", "lora_rank": lora_rank}
    config = config_of(data, tmp_path / "run", model=JOINT, steps=2, learning_rate=1e-2, **given)
    transfer(config)
    monkeypatch.setattr(sys, "argv", ["export", "--weights", str(config.out), "--out", str(tmp_path / "bundle")])
    main()
    bundle = (tmp_path / "bundle").rename(tmp_path / "moved")

    served, policy = load_policy(bundle, threads=1), load_policy_weights(config.out)
    assert served.contract.tokenizer is not None
    assert served.contract.tokenizer.path == str(bundle / "tokenizer.model")
    assert served.contract.tokenizer.vocabulary == policy.config.backbone.vocabulary == 300
    assert (bundle / "tokenizer.model").read_bytes() == pieces.read_bytes()
    chunks = []
    for number, words in enumerate(("push the red button", "open")):  # of different lengths
        one = look(served, number, words)
        chunk, (latents, actions) = served.infer(one, 3), by_pytorch(policy, served, one, 3)
        statistics = served.contract.normalisation
        assert statistics is not None
        got = (chunk.actions - np.array(statistics.action_mean)) / np.array(statistics.action_std)
        np.testing.assert_allclose(got, actions, atol=1e-4)
        np.testing.assert_allclose(chunk.latents, latents, atol=1e-4)
        chunks.append(chunk.actions)
    assert np.abs(chunks[0] - chunks[1]).max() > 1e-3
