"""Transfer behind a pretraining, on a toy dataset: exact resume, export, serving; what the runtime refuses."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from synthetic import make_dataset

from alam_models.contract import Contract, Normalisation
from alam_models.export import export
from alam_models.flow_policy import FlowPolicyConfig
from alam_models.latent_action import ALAMConfig, LossWeights
from alam_models.runtime import Observation, load_policy
from alam_models.runtime.sampler import Sampler
from alam_models.small_backbone import SmallConfig
from training.configs import TRANSFER
from training.data.frames import shifted
from training.data.loader import DataConfig
from training.pretrain import pretrain
from training.settings import PretrainConfig, TransferConfig
from training.train import main
from training.transfer import transfer

ALAM_SIZE = ALAMConfig(
    image_size=32,
    width=32,
    heads=2,
    depth=1,
    queries=2,
    latent_width=4,
    scale="whitened",
    weights=LossWeights(perc=0),
)
POLICY_SIZE = FlowPolicyConfig(backbone=SmallConfig(32, 2, 1), projected_width=8, horizon=4)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "squares")


@pytest.fixture(scope="module")
def encoder(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alam") / "run"
    pretrain(pretrain_config(data, out))
    return out


def pretrain_config(data: Path, out: Path) -> PretrainConfig:
    frames = DataConfig(data, stride=1, max_gap=4, workers=0)
    return PretrainConfig(data=frames, out=out, model=ALAM_SIZE, steps=6, batch=4, warm_up=2)


def transfer_config(data: Path, encoder: Path, out: Path) -> TransferConfig:
    return TransferConfig(
        data=data, encoder=encoder, out=out, model=POLICY_SIZE, steps=6, batch=4, warm_up=2, log_every=2, save_every=3
    )


class Stop(Exception):
    """Stands for a Ctrl-C."""


def interrupt_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """The training loop breaks off once `steps` optimiser steps have begun."""
    import training.transfer as module

    original, count = module.optimise, iter(range(1000))

    def optimise(*arguments: object) -> None:
        if next(count) == steps:
            raise Stop
        original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "optimise", optimise)


def same_weights(first: Path, second: Path) -> bool:
    one, two = load_file(first), load_file(second)
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def test_transfer_resumes_to_the_bit_exports_and_serves(
    data: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    transfer(transfer_config(data, encoder, whole))
    with monkeypatch.context() as patch, pytest.raises(Stop):
        interrupt_after(patch, 5)
        transfer(transfer_config(data, encoder, broken))
    transfer(transfer_config(data, encoder, broken))
    assert same_weights(whole / "policy.safetensors", broken / "policy.safetensors")

    bundle = export(whole, tmp_path / "bundle")
    policy = load_policy(bundle)
    assert policy.contract.horizon == 4
    black = {role: np.zeros((128, 128, 3), np.uint8) for role in policy.contract.roles}
    chunk = policy.infer(Observation(black, np.zeros(4), "push the square 0", 5))
    assert chunk.actions.shape == (4, 4) and chunk.latents.shape == (4, 2, 8)


def test_a_run_with_other_statistics_is_not_gone_on_with(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import training.data.demonstrations as module

    model = replace(POLICY_SIZE, coupling="none")
    config = TransferConfig(data=data, out=tmp_path / "run", model=model, steps=1, batch=4, warm_up=1)
    transfer(config)
    saved = Contract.load(config.out / "contract.yaml").normalisation
    record = json.loads((config.out / "step-00000001" / "state.json").read_text())
    assert saved is not None and record["identity"]["statistics"] == saved.hash == saved.compute_hash()
    original = module.measure

    def other(*arguments: Any) -> Normalisation:
        statistics = original(*arguments)
        return replace(statistics, action_std=(*statistics.action_std[:-1], statistics.action_std[-1] * 1.01))

    monkeypatch.setattr(module, "measure", other)
    with pytest.raises(ValueError, match=f"holds a run with statistics '{saved.hash}', got '"):
        transfer(replace(config, steps=2))


@pytest.mark.parametrize("coupling", ["none", "two_stage"])
def test_variants_are_options_of_transfer(
    coupling: str, data: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = transfer_config(data, encoder, tmp_path / "run")
    monkeypatch.setitem(TRANSFER, "mini", replace(config, encoder=None if coupling == "none" else encoder))
    options = ["--model.coupling", coupling, "--model.prefix-conditioning", "2", "--model.state-dropout", "0.1"]
    monkeypatch.setattr(sys, "argv", ["train.py", "transfer", *options])
    main()
    policy = load_policy(export(tmp_path / "run", tmp_path / "bundle"))
    assert policy.sampler == Sampler("flow", coupling, 2)
    assert (policy.contract.latent is None) == (coupling == "none")


def test_a_lerobot_dataset_gives_both_views_to_the_pretraining(data: Path, encoder: Path) -> None:
    said = yaml.safe_load((encoder / "card.yaml").read_text())["data"]["sources"]["squares"]
    assert said["views"] == "all" and (said["clips"], said["episodes"]) == (12, 6)


def test_nan_stops_the_transfer(data: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import training.data.demonstrations as module

    original = module.to_frames
    monkeypatch.setattr(module, "to_frames", lambda images: original(images) * torch.nan)
    with pytest.raises(ValueError, match=r"loss became nan at step 0; there is no checkpoint in"):
        transfer(transfer_config(data, encoder, tmp_path / "run"))


def test_shift_moves_and_repeats_edges() -> None:
    images = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    assert np.array_equal(shifted(images, np.zeros((2, 1), int)), images)
    first, second = shifted(images, np.array([[1, 0], [0, -1]]))  # down by one; to the left by minus one
    assert np.array_equal(first[:-1], images[0, 1:]) and np.array_equal(first[-1], images[0, -1])
    assert np.array_equal(second[:, 1:], images[1, :, :-1]) and np.array_equal(second[:, 0], images[1, :, 0])


def test_runtime_agrees_with_itself_and_refuses_rubbish(tiny_bundle: Path) -> None:
    policy = load_policy(tiny_bundle)
    random = np.random.default_rng(0)
    images = {role: random.integers(0, 256, (128, 128, 3), dtype=np.uint8) for role in policy.contract.roles}
    observation = Observation(images, np.array([0.0, 0.6, 0.2, 1.0]), "reach the red goal", 7)
    first, again = policy.infer(observation, 3), load_policy(tiny_bundle).infer(observation, 3)
    assert np.array_equal(first.actions, again.actions) and np.array_equal(first.latents, again.latents)
    assert not np.array_equal(first.actions, policy.infer(observation, 4).actions)
    assert not np.array_equal(first.actions, policy.infer(replace(observation, id=8), 3).actions)
    assert np.isfinite(first.actions).all()

    for broken, said in [
        (replace(observation, images={"wrist": images["wrist"]}), "third_person"),
        (replace(observation, images={r: i[:64] for r, i in images.items()}), "frame"),
        (replace(observation, state=np.array([0, np.nan, 0, 0])), "finite"),
        (replace(observation, state=np.zeros(7)), "hand_x"),
        (replace(observation, instruction=""), "instruction"),
        (replace(observation, instruction="x" * 100), "48 bytes"),
    ]:
        with pytest.raises(ValueError, match=said):
            policy.infer(broken)


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("step.onnx", lambda p: p.write_bytes(p.read_bytes()[:1000]), "sha256"),
        ("prefix.onnx", lambda p: p.unlink(), "no such file"),
        ("contract.yaml", lambda p: p.write_text("robot: x"), "sha256"),
        ("card.yaml", lambda p: p.unlink(), r"card\.yaml"),
        ("card.yaml", lambda p: p.write_text("a: 1"), "card"),
    ],
)
def test_damaged_bundles_are_named(name: str, damage, said: str, tiny_bundle: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    damage(bundle / name)
    with pytest.raises(ValueError, match=said):
        load_policy(bundle)


def test_unknown_runtime_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="onnxruntime"):
        load_policy(tmp_path, runtime="abacus")
