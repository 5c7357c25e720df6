"""What a transfer starts from and trains: public pi0 weights, recomputed layers, LoRA adapters merged before saving."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from flow_rig import inputs, small_policy, targets
from pi0_recipe import CASES
from safetensors.torch import load_file
from synthetic import make_dataset
from test_pi0_weights import POLICY, public, saved
from torch import Tensor

from alam_models.contract import Contract
from alam_models.flow_policy import FlowPolicy, FlowPolicyConfig
from alam_models.pi0_weights import pi0_policy
from alam_models.weights import load_policy_weights
from training.adapt import add_adapters, plain_weights, recompute_layers
from training.checkpoint import newest
from training.configs import TRANSFER
from training.settings import TransferConfig
from training.transfer import transfer

ROLES = ("third_person", "wrist")
SIZE = FlowPolicyConfig(
    image_sizes=(28, 28), text_length=48, horizon=4, backbone=CASES[0].config, coupling="none", mask="full"
)


def on(**changes: Any) -> FlowPolicyConfig:
    """The same on a backbone of other sizes."""
    return replace(SIZE, backbone=replace(SIZE.backbone, **changes))


@pytest.fixture(scope="module")
def pi0(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model in LeRobot's layout: 7 actions, 6 numbers of state, 300 words."""
    return saved(public(), tmp_path_factory.mktemp("pi0"))


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("sentencepiece")
    from test_tokenizer import train

    return Path(train(tmp_path_factory.mktemp("pieces")))


def data_of(folder: Path) -> Path:
    """Moving squares, seen at the 28 px of that model."""
    contract = Contract.load(make_dataset(folder) / "contract.yaml")
    cameras = tuple(replace(camera, width=28, height=28) for camera in contract.cameras)
    replace(contract, cameras=cameras).save(folder / "contract.yaml")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data_of(tmp_path_factory.mktemp("data") / "squares")


def config_of(data: Path, out: Path, **changes: Any) -> TransferConfig:
    values: dict[str, Any] = {
        "model": SIZE,
        "steps": 4,
        "batch": 4,
        "warm_up": 1,
        "save_every": 2,
        "learning_rate": 1e-3,
    }
    return TransferConfig(data=data, out=out, **{**values, **changes})


def loss(policy: FlowPolicy) -> Tensor:
    torch.manual_seed(1)
    observations = inputs(2, policy.config)
    chance = policy.chance(2, generator=torch.Generator().manual_seed(2))
    return policy.loss(**observations, **targets(2, policy.config), chance=chance)["total"]


def test_fewer_actions_move_as_the_first_of_all_when_the_others_are_zero(pi0: Path) -> None:
    whole, report = pi0_policy(POLICY, pi0)
    part, cut = pi0_policy(replace(POLICY, action_width=4), pi0)
    assert part.config.action_width == 4 and "stream_in.0.weight" in report.loaded
    assert report.cut == {} and replace(cut, cut={}) == report
    assert cut.cut == {
        "stream_in.0.weight": ((24, 7), (24, 4)),
        "stream_out.0.weight": ((7, 24), (4, 24)),
        "stream_out.0.bias": ((7,), (4,)),
    }
    torch.manual_seed(0)
    prefix = whole.prefix(**inputs(2, POLICY))
    actions, tau = torch.randn(2, POLICY.horizon, 4), torch.rand(2)
    padded = torch.cat([actions, torch.zeros(2, POLICY.horizon, 3)], 2)
    none = torch.zeros(2, POLICY.horizon, 0, POLICY.projected_width)
    with torch.no_grad():
        expected, got = (p.velocity(none, x, tau, prefix)[1] for p, x in ((whole, padded), (part, actions)))
    torch.testing.assert_close(got, expected[:, :, :4], atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="at most the 7 actions of this pi0, got 8"):
        pi0_policy(replace(POLICY, action_width=8), pi0)


def test_a_transfer_from_public_weights_says_what_became_of_every_key(
    data: Path, pi0: Path, pieces: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    config = config_of(data, out, pi0=pi0, tokenizer=pieces, learning_rate=1e-9)
    transfer(config)
    card = yaml.safe_load((out / "card.yaml").read_text())["pi0"]
    assert card["keys"]["new"] == ["projection"] and card["keys"]["loaded"] + len(card["keys"]["unused"]) == len(
        public()
    )
    assert card["keys"]["cut"]["stream_out.0.bias"] == [[7], [4]] and len(card["keys"]["cut"]) == 3
    trained, start = load_policy_weights(out), public()
    assert trained.config.action_width == 4
    torch.testing.assert_close(trained.backbone.state.weight, start["model.state_proj.weight"], atol=1e-6, rtol=0)
    torch.testing.assert_close(trained.stream_out[0].bias, start["model.action_out_proj.bias"][:4], atol=1e-6, rtol=0)
    assert Contract.load(out / "contract.yaml").tokenizer.kind == "paligemma"  # type: ignore[union-attr]
    other = shutil.copytree(pi0, tmp_path / "other")
    saved({**public(), "model.state_proj.bias": torch.zeros(24)}, other)
    with pytest.raises(ValueError, match=r"holds a run with pi0\.file"):
        transfer(replace(config, pi0=other, steps=5))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": TRANSFER["mini"].model}, "encoder: wanted"),
        ({"model": replace(TRANSFER["mini"].model, coupling="none")}, "--pi0: wanted a model on the pi0 backbone"),
        ({"tokenizer": None}, "--pi0: wanted the tokens that its words were learned with"),
        ({"pi0": None, "lora_rank": 2}, "--lora-rank: wanted pretrained weights to adapt"),
        ({"replan": 99}, "--replan: wanted at most the horizon"),
        ({"pi0": Path("/nowhere")}, "pi0 weights: wanted a file at /nowhere"),
        ({"model": on(vocabulary=40)}, "wanted tokens below the vocabulary of 40"),
        ({"model": on(state_width=9)}, r"state_proj.weight of shape \(24, 6\)"),
        ({"model": on(image_size=42)}, "wanted images of 42 px"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(
    changes: dict[str, Any], said: str, data: Path, pi0: Path, pieces: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=said):
        transfer(config_of(data, tmp_path / "run", **{"pi0": pi0, "tokenizer": pieces, **changes}))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("on_pi0", [True, False])
def test_recomputed_layers_have_the_same_gradients_and_keep_less(on_pi0: bool) -> None:
    changes: dict[str, Any] = {"image_sizes": (28, 28), "backbone": CASES[0].config} if on_pi0 else {}
    found, kept = [], []
    for recompute in (False, True):
        policy = small_policy(**changes).train()
        if recompute:
            recompute_layers(policy)
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, sizes=sizes: sizes.append(x.nbytes) or x, lambda x: x):  # type: ignore[misc,func-returns-value]
            total = loss(policy)
        total.backward()
        found.append({name: p.grad for name, p in policy.named_parameters() if p.grad is not None})
        kept.append(sum(sizes))
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], atol=1e-6, rtol=1e-5)
    assert kept[1] < 0.7 * kept[0]


def test_without_peft_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(ValueError, match=r"--lora-rank: wanted the package peft .*install the extra `lora`"):
        add_adapters(small_policy(), 2)


def adapted(rank: int = 2) -> FlowPolicy:
    """A policy whose adapters do something."""
    policy = small_policy(image_sizes=(28, 28), backbone=CASES[0].config, latent_projection="learned")
    add_adapters(policy, rank)
    random = torch.Generator().manual_seed(0)
    for name, parameter in policy.named_parameters():
        if "lora_" in name:
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=random)
    return policy


def test_only_adapters_and_what_carries_the_streams_are_trained() -> None:
    policy = adapted()
    loss(policy.train()).backward()
    moved = {name for name, parameter in policy.named_parameters() if parameter.grad is not None}
    assert moved == {n for n, _ in policy.named_parameters() if "lora_" in n or not n.startswith("backbone.")}
    linear = sum(isinstance(module, torch.nn.Linear) for module in small_policy(
        image_sizes=(28, 28), backbone=CASES[0].config
    ).backbone.modules())  # fmt: skip
    assert sum("lora_A" in name for name in moved) == linear > 20


def test_merged_weights_are_the_adapted_policy_and_untrained_adapters_change_nothing() -> None:
    policy = adapted().eval()
    plain = FlowPolicy(policy.config)
    plain.load_state_dict(plain_weights(policy.state_dict(), policy))
    expected = loss(policy)
    torch.testing.assert_close(loss(plain.eval()), expected, atol=1e-6, rtol=1e-6)
    untouched = small_policy(image_sizes=(28, 28), backbone=CASES[0].config, latent_projection="learned")
    assert (loss(untouched) - expected).abs() > 1e-3
    before = loss(untouched)
    add_adapters(untouched, 2)
    assert torch.equal(loss(untouched), before)


def test_an_adapted_transfer_resumes_and_saves_weights_that_need_no_peft(
    data: Path, pi0: Path, pieces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {
        "pi0": pi0,
        "tokenizer": pieces,
        "lora_rank": 2,
        "recompute": True,
        "learning_rate": 1e-2,
    }
    whole = config_of(data, tmp_path / "whole", **options)
    transfer(whole)
    part = config_of(data, tmp_path / "part", **options)
    import training.transfer as module

    original = module.save_checkpoint

    def stopped(*arguments: Any) -> None:
        original(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "save_checkpoint", stopped)
    with pytest.raises(KeyboardInterrupt):
        transfer(part)
    monkeypatch.setattr(module, "save_checkpoint", original)
    transfer(part)
    average = load_file(newest(part.out) / "ema.safetensors")  # type: ignore[operator]
    assert any(".lora_" in name for name in average) and "backbone.state.bias" not in average  # frozen
    one, two = (load_policy_weights(out).state_dict() for out in (whole.out, part.out))
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    start = public()
    assert not torch.equal(one["backbone.state.weight"], start["model.state_proj.weight"])  # merged
    assert torch.equal(one["backbone.state.bias"], start["model.state_proj.bias"])  # frozen
    with pytest.raises(ValueError, match=r"holds a run with pi0\.lora_rank"):
        transfer(replace(part, lora_rank=3, steps=5))
