"""Public pi0 weights: every key accounted for, in either layout, without a second copy in memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pi0_recipe import CASES, weight
from safetensors.torch import save_file
from test_pi0_golden import config_of
from torch import Tensor

from alam_models.flow_policy import FlowPolicy, make_backbone
from alam_models.gemma import GemmaConfig
from alam_models.pi0 import Pi0Config
from alam_models.pi0_weights import TIED, load_pi0, modules
from alam_models.siglip import SiglipConfig

ROOT = Path(__file__).resolve().parent.parent
CASE = CASES[0]
POLICY = config_of(CASE)
WORDS = "model.paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"


def public() -> dict[str, Tensor]:
    """A small model under the names that LeRobot gave it."""
    shapes = json.loads(str(np.load(ROOT / f"tests/golden/pi0_{CASE.name}.npz")["shapes"]))
    return {key: torch.from_numpy(weight(CASE, key, tuple(shape))) for key, shape in shapes.items()}


def empty(**changes: object) -> FlowPolicy:
    """A policy that waits for weights."""
    config = replace(POLICY, **changes)  # type: ignore[arg-type]
    with torch.device("meta"):
        backbone = make_backbone(config)
    return FlowPolicy(config, backbone).eval()


def saved(weights: dict[str, Tensor], folder: Path) -> Path:
    save_file(weights, folder / "model.safetensors")
    return folder


def test_every_key_is_loaded_or_known_not_to_be_needed(tmp_path: Path) -> None:
    weights, ours = public(), empty()
    report = load_pi0(ours, saved(weights, tmp_path))
    assert set(report.loaded) | {"projection"} == set(ours.state_dict()) and report.new == ("projection",)
    assert not any(parameter.is_meta for parameter in ours.parameters())
    assert len(report.loaded) + len(report.unused) == len(weights)
    last = "paligemma_with_expert.paligemma.model.language_model.layers.1."
    after = [f"{last}self_attn.{n}_proj" for n in "qo"] + [f"{last}mlp.{n}_proj" for n in ("gate", "up", "down")]
    after += [f"{last}post_attention_layernorm", "paligemma_with_expert.paligemma.model.language_model.norm"]
    after += ["paligemma_with_expert.gemma_expert.lm_head"]
    assert set(report.unused) == {f"{name}.weight" for name in after}
    assert torch.equal(ours.stream_out[0].bias, weights["model.action_out_proj.bias"])
    assert torch.equal(ours.backbone.state.weight, weights["model.state_proj.weight"])


@pytest.mark.parametrize(
    "spell",
    [
        lambda key: key.removeprefix("model."),  # openpi
        lambda key: key.replace("vision_tower.vision_model.", "vision_tower."),  # transformers 5
        lambda key: key.replace(WORDS, f"model.{TIED}"),  # tied tensors are saved once
    ],
)
def test_other_spellings_give_the_same_policy(spell: object, tmp_path: Path) -> None:
    weights, one, two = public(), empty(), empty()
    load_pi0(one, saved(weights, tmp_path))
    (tmp_path / "other").mkdir()
    other = {spell(key): value for key, value in weights.items()}  # type: ignore[operator]
    assert other.keys() != weights.keys()
    load_pi0(two, saved(other, tmp_path / "other"))
    for name, value in one.backbone.state_dict().items():
        assert torch.equal(value, two.backbone.state_dict()[name]), name


def test_words_saved_under_both_names_are_loaded_once(tmp_path: Path) -> None:
    weights = public()
    report = load_pi0(empty(), saved({**weights, f"model.{TIED}": weights[WORDS].clone()}, tmp_path))
    assert TIED in report.unused


def test_what_does_not_fit_is_listed_and_changes_nothing(tmp_path: Path) -> None:
    weights, ours = public(), empty()
    lacking, misshapen = "model.action_in_proj.bias", "model.state_proj.weight"
    del weights[lacking]
    weights[misshapen] = torch.zeros(24, 5)
    weights["model.other.weight"] = torch.zeros(1)
    weights["model.another.weight"] = torch.zeros(1)
    with pytest.raises(ValueError) as caught:
        load_pi0(ours, saved(weights, tmp_path))
    for said in ("lacks action_in_proj.bias", "has other.weight", "has another.weight", "(24, 5), not (24, 6)"):
        assert said in str(caught.value)
    assert all(parameter.is_meta for parameter in ours.backbone.parameters())


def test_a_model_of_another_size_is_refused_with_a_short_message(tmp_path: Path) -> None:
    weights = {key: torch.zeros(*value.shape, 1) for key, value in public().items()}
    with pytest.raises(ValueError, match=r"and \d+ more") as caught:
        load_pi0(empty(), saved(weights, tmp_path))
    assert len(str(caught.value)) < 5000


def test_latent_streams_are_new_and_begin_at_rest(tmp_path: Path) -> None:
    plain, joint = empty(), empty(coupling="joint", mask="paper")
    load_pi0(plain, saved(public(), tmp_path))
    report = load_pi0(joint, tmp_path)
    streams = ("stream_in.0", "stream_time.0.0", "stream_time.0.2", "stream_out.0")
    assert set(report.new) == {"projection"} | {f"{name}.{leaf}" for name in streams for leaf in ("weight", "bias")}
    for name in ("stream_in", "stream_time", "stream_out"):
        for one, two in zip(getattr(plain, name)[0].parameters(), getattr(joint, name)[1].parameters(), strict=True):
            assert torch.equal(one, two)
    assert torch.equal(joint.stream_time[0][2].weight, joint.stream_time[1][2].weight)
    batch, horizon = 2, CASE.horizon
    prefix = joint.prefix({"third_person": torch.rand(batch, 3, 28, 28)}, torch.ones(2, 6).long(), torch.randn(2, 6))
    latents = torch.randn(batch, horizon, 1, joint.config.projected_width)
    moved, acted = joint.velocity(latents, torch.randn(batch, horizon, 7), torch.rand(batch), prefix)
    assert not moved.any() and acted.abs().min() > 0


def test_weights_of_another_type_are_converted(tmp_path: Path) -> None:
    ours = empty()
    load_pi0(ours, saved({key: value.bfloat16() for key, value in public().items()}, tmp_path))
    name = "model.state_proj.weight"
    assert ours.backbone.state.weight.dtype == torch.float32
    assert torch.equal(ours.backbone.state.weight, public()[name].bfloat16().float())


def test_the_file_stays_as_it_is_when_the_weights_are_trained(tmp_path: Path) -> None:
    ours = empty()
    load_pi0(ours, saved(public(), tmp_path))
    before = (tmp_path / "model.safetensors").read_bytes()
    with torch.no_grad():
        for parameter in ours.backbone.parameters():
            assert parameter.requires_grad
            parameter.add_(1)
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_what_is_no_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="wanted a file"):
        load_pi0(empty(), tmp_path)
    (tmp_path / "model.safetensors").write_text("words")
    with pytest.raises(ValueError, match="damaged"):
        load_pi0(empty(), tmp_path)
    ours = empty()
    ours.backbone = torch.nn.Linear(1, 1)  # type: ignore[assignment]
    with pytest.raises(ValueError, match="pi0 backbone"):
        load_pi0(ours, tmp_path)


MEDIUM = Pi0Config(
    GemmaConfig(1024, 4096, depth=6, head_width=64),
    GemmaConfig(512, 2048, depth=6, head_width=64),
    SiglipConfig(256, 2, 4, 512),
    image_size=28,
    vocabulary=2000,
)
PROGRAM = """
import sys
import torch
from dataclasses import replace
from pathlib import Path
from test_pi0_weights import CASE, MEDIUM, POLICY, high_water, public, saved
from alam_models.pi0_weights import pi0_policy

def load_and_run(folder, config):
    policy, _ = pi0_policy(replace(POLICY, backbone=config), folder)
    latents, actions = policy.noise(1)
    image, text, state = torch.rand(1, 3, 28, 28), torch.ones(1, 6).long(), torch.randn(1, 6)
    policy.sample({"third_person": image}, text, state, latents, actions, steps=1)
    for parameter in policy.parameters():
        parameter.sum().item()  # every page is read
    return policy

small, large = map(Path, sys.argv[1:])
load_and_run(saved(public(), small), CASE.config)  # what torch itself needs
before = high_water()
policy = load_and_run(large, MEDIUM)
print((high_water() - before) / sum(p.nbytes for p in policy.parameters()))
"""


def high_water() -> int:
    """-> the most bytes that this process ever had in memory."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's account of memory")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loading_needs_no_second_copy(dtype: torch.dtype, tmp_path: Path) -> None:
    names, weights = modules(MEDIUM, action=0), {}
    for name, value in empty(backbone=MEDIUM).state_dict().items():
        module, _, leaf = name.rpartition(".")
        if module in names:
            weights[f"model.{names[module]}.{leaf}"] = torch.zeros(value.shape, dtype=dtype)
    saved(weights, tmp_path)
    del weights
    (tmp_path / "small").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "small"), str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert 0.9 < float(done.stdout) <= 1.1
