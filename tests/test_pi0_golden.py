"""Our pi0 against LeRobot's, on weights and inputs that both sides draw alike (tests/golden)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pi0_recipe import CASES, TAUS, Case, inputs, weight
from safetensors.torch import save_file
from torch import Tensor

from alam_models.flow_policy import FlowPolicyConfig, mix
from alam_models.pi0_weights import pi0_policy

GOLDEN = Path(__file__).resolve().parent / "golden"
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def config_of(case: Case) -> FlowPolicyConfig:
    """pi0 as a variant of our policy: no latents, every action sees every other."""
    return FlowPolicyConfig(
        roles=case.roles,
        image_sizes=(case.config.image_size,) * len(case.roles),
        text_length=max(case.lengths),
        state_width=case.config.state_width,
        action_width=case.action_width,
        horizon=case.horizon,
        backbone=case.config,
        coupling="none",
        mask="full",
        steps=10,
    )


class Ours:
    """A case on our side: the policy with the drawn weights, through the file and the loader, and its inputs."""

    def __init__(self, case: Case, folder: Path) -> None:
        self.wanted = dict(np.load(GOLDEN / f"pi0_{case.name}.npz"))
        shapes = json.loads(str(self.wanted["shapes"]))
        file = folder / "model.safetensors"
        save_file({key: torch.from_numpy(weight(case, key, tuple(shape))) for key, shape in shapes.items()}, file)
        self.policy, _ = pi0_policy(config_of(case), file)
        self.policy.eval()
        self.given = {name: torch.from_numpy(value) for name, value in inputs(case).items()}
        images = dict(zip(case.roles, self.given["images"], strict=False))  # without the absent one
        self.seen = {"images": images, "text": self.given["text"], "state": self.given["state"]}
        self.no_latents = torch.zeros(len(case.lengths), case.horizon, 0, self.policy.config.projected_width)
        with torch.no_grad():
            self.prefix = self.policy.prefix(**self.seen)

    @torch.no_grad()
    def velocity(self, x: Tensor, tau: Tensor) -> Tensor:
        return self.policy.velocity(self.no_latents, x, tau, self.prefix)[1]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def ours(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ours:
    return Ours(request.param, tmp_path_factory.mktemp("golden"))


def assert_near(got: Tensor, wanted: np.ndarray) -> None:
    torch.testing.assert_close(got, torch.from_numpy(wanted), **CLOSE)


def test_the_prefix_is_the_same_to_the_last_layer(ours: Ours) -> None:
    valid = torch.from_numpy(ours.wanted["valid"])
    for index, name in enumerate(("keys", "values")):
        got = ours.prefix.keys_values[-1][index][:, :, :-1]  # without the state, which LeRobot adds in each step
        got = got.transpose(1, 2)[ours.prefix.valid[:, :-1]]
        wanted = torch.from_numpy(ours.wanted[name]).transpose(1, 2)[valid]
        torch.testing.assert_close(got, wanted, **CLOSE)


def test_velocities_are_the_same(ours: Ours) -> None:
    for tau, wanted in zip(TAUS, ours.wanted["velocities"], strict=True):
        noise = ours.given["noise"]
        assert_near(ours.velocity(noise, torch.full((len(noise),), tau)), wanted)


def test_losses_are_the_same(ours: Ours) -> None:
    noise, actions, tau = ours.given["noise"], ours.given["actions"], ours.given["times"]
    velocity = ours.velocity(mix(noise, actions, tau), tau)
    assert_near((velocity - (noise - actions)).square(), ours.wanted["loss"])  # LeRobot squares, the paper does not


def test_sampled_actions_are_the_same(ours: Ours) -> None:
    noise = ours.given["noise"]
    _, actions = ours.policy.sample(**ours.seen, noise_latents=ours.no_latents, noise_actions=noise)
    assert_near(actions, ours.wanted["actions"])
