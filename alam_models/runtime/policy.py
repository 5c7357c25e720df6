"""One observation -> one chunk: the parts of inference that no accelerator owns."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from alam_models.contract import Contract, encode_instruction, prepare_frame, standardise, unstandardise


@dataclass(frozen=True)
class Observation:
    """images {role: (h, w, 3) uint8 as the camera gives it}, state (S,) in contract order and units, an instruction.

    `id` names the observation: together with the policy's seed it decides the noise."""

    images: dict[str, np.ndarray]
    state: np.ndarray
    instruction: str
    id: int = 0


@dataclass(frozen=True)
class Chunk:
    """actions (H, A) float32 in contract units; latents (H, V, P) float32 as generated: projected and standardised."""

    actions: np.ndarray
    latents: np.ndarray
    inference_time_s: float


class Backend(Protocol):
    """The two graphs of a bundle on one inference library."""

    latent_shape: tuple[int, int, int]  # (H, V, P)

    def prefix(self, images: dict[str, np.ndarray], text: np.ndarray, state: np.ndarray) -> None:
        """images {role: (1, h, w, 3) uint8}, text (1, L) int64, state (1, S) standardised; the result stays inside."""

    def velocity(self, latents: np.ndarray, actions: np.ndarray, tau: float) -> tuple[np.ndarray, np.ndarray]:
        """(1, H, V, P) and (1, H, A) at flow time tau -> velocities of the same shapes, against the last prefix."""


def integrate(backend: Backend, latents: np.ndarray, actions: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise (1, H, V, P) and (1, H, A) float32 -> data of the same shapes: Euler from tau = 1 to 0 (Eq. 15)."""
    size = np.float32(1 / steps)
    for k in range(steps):
        v_latents, v_actions = backend.velocity(latents, actions, 1 - k / steps)
        latents, actions = latents - size * v_latents, actions - size * v_actions
    return latents, actions


class Policy:
    """Prepares frames, standardises, integrates Eq. 15 from tau = 1 to 0, and returns to contract units."""

    def __init__(self, backend: Backend, contract: Contract, policy_id: str, steps: int, replan: int) -> None:
        self.contract = contract
        self.id = policy_id
        self.steps = steps
        self.replan = replan
        self._backend = backend

    def infer(self, observation: Observation, seed: int = 0) -> Chunk:
        """The same observation (its id included) and seed give the same chunk, to the bit on one runtime.

        Raises ValueError, saying what was wanted, when the observation does not fit the contract."""
        begin = time.perf_counter()
        contract, statistics = self.contract, self.contract.normalisation
        assert statistics is not None and contract.tokenizer is not None
        for role in contract.roles:
            if role not in observation.images:
                raise ValueError(f"observation: wanted images of {contract.roles}, got {tuple(observation.images)}")
        state = np.asarray(observation.state, np.float64)
        if state.shape != (len(contract.state),) or not np.isfinite(state).all():
            raise ValueError(f"observation: wanted finite {contract.state_names}, got {observation.state!r}")
        images = {
            camera.role: prepare_frame(observation.images[camera.role], camera)[None] for camera in contract.cameras
        }
        text = encode_instruction(observation.instruction, contract.tokenizer)[None]
        self._backend.prefix(images, text, standardise(state, statistics.state_mean, statistics.state_std)[None])

        noise = np.random.default_rng([seed, observation.id])
        latents = noise.standard_normal((1, *self._backend.latent_shape), np.float32)
        actions = noise.standard_normal((1, self._backend.latent_shape[0], len(contract.action)), np.float32)
        latents, actions = integrate(self._backend, latents, actions, self.steps)
        # Nothing is clipped here: the gate before the actuator tells an overshoot from a fault.
        commands = unstandardise(actions[0], statistics.action_mean, statistics.action_std)
        return Chunk(commands, latents[0], time.perf_counter() - begin)

    def warm_up(self) -> float:
        """Two inferences on black frames; -> seconds of the second."""
        contract = self.contract
        black = {c.role: np.zeros((c.source_height, c.source_width, 3), np.uint8) for c in contract.cameras}
        observation = Observation(black, np.array([(c.low + c.high) / 2 for c in contract.state]), "warm up")
        self.infer(observation)
        return self.infer(observation).inference_time_s
