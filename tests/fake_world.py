"""A world and a policy that need no simulator and no network: for tests of the logic around them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from alam_models.contract import Contract
from alam_models.runtime.sampler import Sampler
from alam_sim.actuator import ActionActuator
from alam_sim.metaworld_env import metaworld_contract


class FakeEnv:
    """A point that moves by each action's first three channels; solved after `solved_at` steps."""

    def __init__(self, task: str = "reach-v3", solved_at: int = 10**9) -> None:
        self.task, self.instruction, self.solved_at = task, f"do {task}", solved_at
        self.contract: Contract = metaworld_contract()
        self.steps = 0
        self.actions: list[np.ndarray] = []
        self.closed = False

    def reset(self, seed: int) -> None:
        self.steps = 0
        self._state = np.random.default_rng(seed).random(4)

    def render(self) -> dict[str, np.ndarray]:
        shade = int(abs(self._state.sum()) * 10) % 256
        return {role: np.full((128, 128, 3), shade, np.uint8) for role in self.contract.roles}

    def state(self) -> np.ndarray:
        return self._state.copy()

    def step(self, action: np.ndarray) -> bool:
        assert np.isfinite(action).all()
        self.actions.append(np.array(action))
        self._state[:3] += 0.01 * action[:3]
        self.steps += 1
        return self.steps >= self.solved_at

    def actuator(self, max_age_s: float = float("inf")) -> ActionActuator:
        return ActionActuator(self.contract, max_age_s)

    def close(self) -> None:
        self.closed = True


@dataclass(frozen=True)
class FakeChunk:
    actions: np.ndarray
    latents: np.ndarray
    inference_time_s: float = 0.01


class FakePolicy:
    """Actions and latents that depend on the observation's id and the seed alone."""

    id, replan, sampler = "fake@0", 3, Sampler()

    def __init__(self, spoil: float | None = None) -> None:
        self.contract = metaworld_contract()
        self.spoil = spoil
        self.asked: list[int] = []

    def infer(self, observation: object, seed: int = 0, committed: object = None, delay: int = 0) -> FakeChunk:
        number = observation.id  # type: ignore[attr-defined]
        self.asked.append(number)
        random = np.random.default_rng([seed, number])
        actions = random.uniform(-1, 1, (8, 4)).astype(np.float32)
        if self.spoil is not None:
            actions[5, 1] = self.spoil
        return FakeChunk(actions, random.random((8, 2, 5)).astype(np.float32))
