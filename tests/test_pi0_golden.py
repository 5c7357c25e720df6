"""Our pi0 against LeRobot's, on weights and inputs that both sides draw alike (tests/golden)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pi0_recipe import CASES, TAUS, Case, inputs, weight
from pi0_streams import Streams
from safetensors.torch import save_file
from torch import Tensor

from alam_models.flow_policy import integrate, mix
from alam_models.pi0 import Pi0Backbone
from alam_models.pi0_weights import load_pi0
from alam_models.transformer import Prefix

GOLDEN = Path(__file__).resolve().parent / "golden"
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


class Ours:
    """A case on our side: the policy with the drawn weights, through the file and the loader, and its inputs."""

    def __init__(self, case: Case, folder: Path) -> None:
        self.wanted = dict(np.load(GOLDEN / f"pi0_{case.name}.npz"))
        shapes = json.loads(str(self.wanted["shapes"]))
        file = folder / "model.safetensors"
        save_file({key: torch.from_numpy(weight(case, key, tuple(shape))) for key, shape in shapes.items()}, file)
        with torch.device("meta"):
            backbone = Pi0Backbone(case.config, case.roles)
        self.policy = Streams(backbone, [case.action_width]).eval()
        load_pi0(self.policy, file)
        self.given = {name: torch.from_numpy(value) for name, value in inputs(case).items()}
        images = dict(zip(case.roles, self.given["images"], strict=False))  # without the absent one
        with torch.no_grad():
            self.prefix: Prefix = self.policy.backbone.prefix(images, self.given["text"], self.given["state"])

    @torch.no_grad()
    def velocity(self, x: Tensor, tau: Tensor) -> Tensor:
        everything = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool)  # pi0's actions see each other
        return self.policy.velocity([x], tau, self.prefix, everything)[0]


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
    _, actions = integrate(
        lambda x, u, tau: (x, ours.velocity(u, torch.full((len(u),), tau))), torch.zeros(1), noise, steps=10
    )
    assert_near(actions, ours.wanted["actions"])
