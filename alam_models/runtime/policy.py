"""One observation -> one chunk: the parts of inference that no accelerator owns."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from alam_models.contract import Contract, encode_instruction, prepare_frame, standardise, unstandardise
from alam_models.runtime.sampler import Sampler

Shape = tuple[int | None, ...]  # None: as long as the instruction


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
    """actions (H, A) float32 in contract units; latents (H, V, P) float32 as generated: projected and standardised.
    P is 0 where the policy generates none."""

    actions: np.ndarray
    latents: np.ndarray
    inference_time_s: float


class Backend(Protocol):
    """The two graphs of a bundle on one inference library. Its buffers are made once, and again for an instruction of
    another length."""

    shapes: dict[str, Shape]  # of every input of the graphs, by name
    latent_shape: tuple[int, int, int]  # (H, V, P), P = 0 where the policy generates none

    def prefix(self, images: dict[str, np.ndarray], text: np.ndarray, state: np.ndarray) -> None:
        """images {role: (1, h, w, 3) uint8}, text (1, words) int64, state (1, S) standardised; the result stays inside.

        Raises ValueError, naming the input, for another shape or dtype."""

    def velocity(
        self, latents: np.ndarray, actions: np.ndarray, tau_latents: np.ndarray, tau_actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """(1, H, V, P) and (1, H, A), each step at its own flow time (1, H) float32 -> what the network says of them,
        of the same shapes, against the last prefix. They lie in the backend's own buffers, until the next call."""


def fill(buffer: np.ndarray, values: np.ndarray, name: str) -> None:
    """Copy values into a graph's input. Raises ValueError, naming it, for another shape or dtype."""
    if values.shape != buffer.shape or values.dtype != buffer.dtype:
        raise ValueError(f"{name}: wanted {buffer.dtype} {buffer.shape}, got {values.dtype} {values.shape}")
    buffer[...] = values


def latent_shape(shapes: dict[str, Shape]) -> tuple[int, int, int]:
    """Backend.shapes -> Backend.latent_shape: with no latents, a view for each image."""
    horizon, images = shapes["actions"][1], sum(len(shape) == 4 for shape in shapes.values())
    _, _, views, width = shapes.get("latents", (1, horizon, images, 0))
    assert horizon is not None and views is not None and width is not None
    return horizon, views, width


def words(text: np.ndarray, backend: Backend) -> np.ndarray:
    """text (1, L) int64, padded with 0 behind -> (1, words) without padding, where the graphs take any number."""
    return text if backend.shapes["text"][1] is not None else text[:, : np.count_nonzero(text)]


def generate(
    backend: Backend, sampler: Sampler, latents: np.ndarray, actions: np.ndarray, steps: int, given: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Noise (1, H, V, P) and (1, H, A) float32, whose first `given` of H steps are data already -> data (Eq. 15)."""

    def network(z: np.ndarray, u: np.ndarray, tau_z: float, tau_u: float | None) -> tuple[np.ndarray, np.ndarray]:
        taus = [np.full((1, u.shape[1]), 1.0 if tau is None else tau, np.float32) for tau in (tau_z, tau_u)]
        for tau in taus:
            tau[:, :given] = 0
        return backend.velocity(z, u, *taus)

    made: tuple[np.ndarray, np.ndarray] = sampler.generate(network, latents, actions, steps, given)
    return made


class Policy:
    """Prepares frames, standardises, integrates Eq. 15 from tau = 1 to 0, and returns to contract units."""

    def __init__(
        self, backend: Backend, contract: Contract, policy_id: str, steps: int, replan: int, sampler: Sampler
    ) -> None:
        self.contract = contract
        self.id = policy_id
        self.steps = steps
        self.replan = replan
        self.sampler = sampler
        self._backend = backend

    def infer(self, observation: Observation, seed: int = 0, committed: Chunk | None = None, delay: int = 0) -> Chunk:
        """The same observation (its id included) and seed give the same chunk, to the bit on one runtime.

        committed: the rows of the previous chunk from this observation on; its first `delay` rows, which will have been
        executed before this chunk can be, are the first of this chunk, too.
        Raises ValueError, saying what was wanted, when the observation does not fit the contract or the policy was not
        trained to go on from so many rows."""
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
        text = words(text, self._backend)
        self._backend.prefix(images, text, standardise(state, statistics.state_mean, statistics.state_std)[None])

        noise = np.random.default_rng([seed, observation.id])
        latents = noise.standard_normal((1, *self._backend.latent_shape), np.float32)
        actions = noise.standard_normal((1, self._backend.latent_shape[0], len(contract.action)), np.float32)
        if committed is not None:
            self._check(committed, delay)
            latents[0, :delay] = committed.latents[:delay]
            actions[0, :delay] = standardise(committed.actions[:delay], statistics.action_mean, statistics.action_std)
        latents, actions = generate(self._backend, self.sampler, latents, actions, self.steps, delay)
        # Nothing is clipped here: the gate before the actuator tells an overshoot from a fault.
        commands = unstandardise(actions[0], statistics.action_mean, statistics.action_std)
        if committed is not None:
            commands[:delay] = committed.actions[:delay]  # to the bit, whatever standardising rounds
        return Chunk(commands, latents[0], time.perf_counter() - begin)

    def _check(self, committed: Chunk, delay: int) -> None:
        """Raises ValueError unless this policy can go on from the first `delay` committed rows."""
        horizon, views, width = self._backend.latent_shape
        rows = len(committed.actions)
        if not 0 <= delay <= min(rows, self.sampler.committed):
            raise ValueError(
                f"delay: wanted at most the {rows} committed rows and the {self.sampler.committed} that the policy was "
                f"trained to go on from (prefix_conditioning), got {delay}"
            )
        wanted = (rows, len(self.contract.action)), (rows, views, width)
        got = committed.actions.shape, committed.latents.shape
        if got != wanted or rows > horizon:
            raise ValueError(
                f"committed: wanted actions {wanted[0]}, latents {wanted[1]}, at most {horizon} rows, got {got}"
            )

    def warm_up(self) -> float:
        """Two inferences on black frames; -> seconds of the second."""
        contract = self.contract
        black = {c.role: np.zeros((c.source_height, c.source_width, 3), np.uint8) for c in contract.cameras}
        observation = Observation(black, np.array([(c.low + c.high) / 2 for c in contract.state]), "warm up")
        self.infer(observation)
        return self.infer(observation).inference_time_s
