"""Demonstrations as the policy's loss takes them: observations, chunks of actions, and the transitions beside them.

Letters: B batch, V views, H horizon, A action width, S state width."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from alam_models.contract import Latent, Tokenizer, encode_instruction, policy_contract, standardise
from alam_models.flow_policy import FlowPolicyConfig
from alam_models.latent_action import RelationalEncoder
from training.data.frames import frame_cache, shifted, to_frames
from training.data.lerobot import LeRobotDataset
from training.data.samplers import chunk_starts, split_episodes
from training.data.statistics import measure
from training.data.transitions import transition_cache


class Demonstrations:
    """A dataset, its statistics and its targets. Frames and transitions are computed once and kept beside it.

    contract: of the policy that learns from it; statistics: its normalisation, with their hash. starts and
    held_out_starts: steps from which a chunk lies inside an episode, of episodes to train on and of others."""

    def __init__(
        self,
        path: Path,
        horizon: int,
        tokenizer: Tokenizer,
        encoder: RelationalEncoder | None,
        seed: int,
        accepted: tuple[str, ...] = (),
    ) -> None:
        """seed: of the split; accepted: see statistics.measure. Raises ValueError for data not to be trained on."""
        self.dataset = dataset = LeRobotDataset(path)
        self.horizon, roles = horizon, dataset.contract.roles
        training, held_out = split_episodes(len(dataset.episodes), seed)
        self.starts = chunk_starts(dataset, training, horizon)
        self.held_out_starts = chunk_starts(dataset, held_out or training, horizon)

        instructions = [dataset.instruction(i) for i in range(len(dataset.episodes))]
        self.tokens = np.stack([encode_instruction(words, tokenizer) for words in instructions])
        self.episode_of = np.repeat(np.arange(len(instructions)), [row["length"] for row in dataset.episodes])

        self.frames = {role: frame_cache(dataset, role) for role in roles}
        latents = {r: transition_cache(dataset, r, self.frames[r], encoder) for r in roles} if encoder else {}
        latent = Latent(encoder.config.queries, encoder.config.latent_width) if encoder else None
        measured = measure(dataset, training, latents, accepted)
        self.contract = policy_contract(dataset.contract, horizon, latent, tokenizer, measured)
        assert self.contract.normalisation is not None
        self.statistics = known = self.contract.normalisation

        self.state = standardise(dataset.state, known.state_mean, known.state_std)
        self.action = standardise(dataset.action, known.action_mean, known.action_std)
        views = [standardise(latents[r], known.latent_mean[r], known.latent_std[r]) for r in latents]
        self.transitions = np.stack(views, 1) if views else None

    def sized(self, config: FlowPolicyConfig) -> FlowPolicyConfig:
        """-> the sizes that these data and their encoder decide in place of those given."""
        contract, latent = self.contract, self.contract.latent
        return replace(
            config,
            roles=contract.roles,
            image_sizes=tuple(camera.width for camera in contract.cameras),
            state_width=len(contract.state),
            action_width=len(contract.action),
            latent_width=latent.queries * latent.width if latent else config.latent_width,
        )

    def batch(
        self, start: np.ndarray, moves: np.ndarray, config: FlowPolicyConfig, device: torch.device
    ) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor, Tensor]:
        """start (B,) steps, moves (V, 2, B) [px] of each view -> images, text, state, latents and actions of
        FlowPolicy.loss."""
        chunk = start[:, None] + np.arange(self.horizon)
        none = np.zeros((*chunk.shape, 0, config.latent_width), np.float32)
        arrays = (
            self.tokens[self.episode_of[start]],
            self.state[start],
            none if self.transitions is None else self.transitions[chunk],
            self.action[chunk],
        )
        seen = {role: shifted(self.frames[role][start], move) for role, move in zip(self.frames, moves, strict=True)}
        images = {role: to_frames(torch.from_numpy(image).to(device)) for role, image in seen.items()}
        text, state, latents, actions = (torch.from_numpy(array).to(device) for array in arrays)
        return images, text, state, latents, actions
