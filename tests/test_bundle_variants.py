"""Every variant of the policy as a bundle: exported, verified against PyTorch by the exporter, and served."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from flow_rig import SMALL
from safetensors.torch import load_file, save_file

pytest.importorskip("onnxruntime")

from alam_models.export import export, read_measured
from alam_models.flow_policy import FlowPolicy, FlowPolicyConfig, Intervention
from alam_models.runtime import Chunk, Observation, load_policy
from alam_models.runtime.policy import generate
from alam_models.runtime.sampler import Sampler
from alam_models.small_backbone import SmallConfig
from alam_models.weights import load_policy_weights, save_weights
from alam_sim.metaworld_env import metaworld_contract
from untrained_bundle import export_random

SIZE = FlowPolicyConfig(backbone=SmallConfig(32, 2, 1), latent_width=8, projected_width=8, horizon=4)


def make(folder: Path, **changes: Any) -> Path:
    config = replace(SIZE, **changes)
    return export_random(folder / "bundle", metaworld_contract(), config, (0.0,) * 4, 1.0, {}, queries=2)


def look(policy: Any, number: int = 0) -> Observation:
    random = np.random.default_rng(number)
    images = {role: random.integers(0, 256, (128, 128, 3), dtype=np.uint8) for role in policy.contract.roles}
    return Observation(images, np.array([0.0, 0.6, 0.2, 1.0]), "reach the red goal", number)


@pytest.mark.parametrize(
    "changes",
    [
        {"coupling": "none", "mask": "full"},
        {"coupling": "two_stage", "prefix_conditioning": 2},
        {"objective": "diffusion"},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_a_variant_is_exported_and_served(changes: dict[str, Any], tmp_path: Path) -> None:
    bundle = make(tmp_path, **changes)
    policy = load_policy(bundle, threads=1)
    chunk, again = (policy.infer(look(policy), 3) for _ in range(2))
    width = 0 if changes.get("coupling") == "none" else 8
    assert chunk.actions.shape == (4, 4) and chunk.latents.shape == (4, 2, width)
    assert np.array_equal(chunk.actions, again.actions) and np.isfinite(chunk.actions).all()
    assert (policy.contract.latent is None) == (width == 0)

    most = changes.get("prefix_conditioning", 0)
    rest = Chunk(chunk.actions[1:], chunk.latents[1:], 0.0)
    if most:
        going_on = policy.infer(look(policy, 1), 4, committed=rest, delay=most)
        assert np.array_equal(going_on.actions[:most], rest.actions[:most])
        assert np.array_equal(going_on.latents[:most], rest.latents[:most])
        free = policy.infer(look(policy, 1), 4)
        assert not np.allclose(going_on.actions[most:], free.actions[most:], atol=1e-3)
        with pytest.raises(ValueError, match="committed: wanted actions"):
            policy.infer(look(policy), 0, committed=replace(rest, latents=rest.latents[:, :1]), delay=1)
    with pytest.raises(ValueError, match=f"the {most} that the policy was trained to go on from"):
        policy.infer(look(policy), 0, committed=rest, delay=most + 1)


def test_the_runtime_tells_the_network_which_steps_are_given() -> None:
    class Recorder:
        latent_shape, taus = (4, 2, 3), []  # type: ignore[var-annotated]

        def velocity(
            self, latents: np.ndarray, actions: np.ndarray, *taus: np.ndarray
        ) -> tuple[np.ndarray, np.ndarray]:
            self.taus += taus
            return np.ones_like(latents), np.ones_like(actions)

    data = np.ones((1, 4, 2, 3), np.float32), np.ones((1, 4, 5), np.float32)
    made = generate(Recorder(), Sampler(committed=2), *data, 3, given=2)  # type: ignore[arg-type]
    assert len(Recorder.taus) == 6
    assert all((tau[:, :2] == 0).all() and (tau[:, 2:] > 0).all() for tau in Recorder.taus)
    assert all((part[:, :2] == 1).all() and np.allclose(part[:, 2:], 0, atol=1e-6) for part in made)


def test_a_bundle_can_be_one_that_is_intervened_in(tmp_path: Path) -> None:
    torch.manual_seed(0)
    weights = tmp_path / "weights"
    save_weights(weights, "policy", FlowPolicy(SIZE).state_dict(), SIZE)
    source = make(tmp_path / "source")
    (weights / "contract.yaml").write_bytes((source / "contract.yaml").read_bytes())
    bundle = export(weights, tmp_path / "bundle", intervention=Intervention(freeze=True))
    assert yaml.safe_load((bundle / "card.yaml").read_text())["intervention"]["freeze"] is True
    policy = load_policy(bundle, threads=1)
    chunk = policy.infer(look(policy, 7), 3)
    assert np.array_equal(chunk.latents, np.random.default_rng([3, 7]).standard_normal((4, 2, 8), np.float32))


@pytest.mark.parametrize("sampler", [{"objective": "guess"}, {"pace": 1}, "flow"])
def test_a_card_that_is_not_understood_is_refused(sampler: Any, tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    for path in tiny_bundle.iterdir():
        (bundle / path.name).write_bytes(path.read_bytes())
    card = yaml.safe_load((bundle / "card.yaml").read_text())
    (bundle / "card.yaml").write_text(yaml.safe_dump({**card, "sampler": sampler}))
    with pytest.raises(ValueError, match=r"card\.yaml: sampler: "):
        load_policy(bundle)


def test_an_earlier_bundle_is_served_as_before() -> None:
    """The shipped one: one time for all steps, no sampler in its card, plain Euler."""
    policy = load_policy(Path(__file__).resolve().parent.parent / "checkpoints/metaworld-mini", threads=1)
    backend = policy._backend
    shape = backend.latent_shape
    policy.infer(look(policy))
    latents, actions = np.ones((1, *shape), np.float32), np.ones((1, shape[0], 4), np.float32)
    got = generate(backend, policy.sampler, latents, actions, 5)
    size = np.float32(1 / 5)
    for k in range(5):
        tau = np.full((1, shape[0]), 1 - k / 5, np.float32)
        v_latents, v_actions = backend.velocity(latents, actions, tau, tau)
        latents, actions = latents - size * v_latents, actions - size * v_actions
    assert np.array_equal(got[0], latents) and np.array_equal(got[1], actions)


def test_weights_of_the_earlier_layout_still_load(tmp_path: Path) -> None:
    torch.manual_seed(0)
    policy = FlowPolicy(SMALL).eval()
    save_weights(tmp_path, "policy", policy.state_dict(), SMALL)
    data = yaml.safe_load((tmp_path / "policy.yaml").read_text())
    data |= data.pop("backbone")
    for later in ("coupling", "mask", "objective", "state_dropout", "prefix_conditioning"):
        del data[later]
    del data["weights"]["other"]
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(data))
    weights = load_file(tmp_path / "policy.safetensors")
    save_file(
        {name.removeprefix("backbone."): value for name, value in weights.items()}, tmp_path / "policy.safetensors"
    )
    loaded = load_policy_weights(tmp_path)
    assert loaded.config == SMALL
    assert all(torch.equal(value, policy.state_dict()[name]) for name, value in loaded.state_dict().items())

    (tmp_path / "policy.yaml").write_text(yaml.safe_dump({**data, "depth": None, "colour": "blue"}))
    with pytest.raises(ValueError, match="colour"):
        load_policy_weights(tmp_path)


def test_what_has_no_latents_cannot_be_intervened_in(tmp_path: Path) -> None:
    config = replace(SIZE, coupling="none", mask="full")
    save_weights(tmp_path / "weights", "policy", FlowPolicy(config).state_dict(), config)
    with pytest.raises(ValueError, match="--intervention: wanted a policy with latents"):
        export(tmp_path / "weights", tmp_path / "bundle", intervention=Intervention(freeze=True))


def test_a_card_that_executes_more_than_a_chunk_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    card = yaml.safe_load((bundle / "card.yaml").read_text())
    (bundle / "card.yaml").write_text(yaml.safe_dump({**card, "replan": 99}))
    with pytest.raises(ValueError, match=r"replan: wanted 1 to the horizon .*, got 99"):
        load_policy(bundle)


@pytest.mark.parametrize("text", ["[1]", "{"])
def test_what_measured_nothing_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "measured.json").write_text(text)
    with pytest.raises(ValueError, match=r"--measured: wanted the JSON of run_tasks.py, got .*measured\.json"):
        read_measured(tmp_path / "measured.json")


@pytest.mark.parametrize("name", ["horizon", "steps", "text_length", "action_width"])
def test_sizes_of_nothing_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: wanted 1 or more, got 0"):
        replace(SIZE, **{name: 0})
