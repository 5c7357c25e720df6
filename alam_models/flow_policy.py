"""Joint flow matching over latent transitions and actions (paper, Sec. 3.3, Eq. 10-15).

Letters: B batch, H horizon, V views, P width of a projected latent, A action width, T = H * (V + 1) suffix tokens.
Flow time tau runs from 1 (noise) to 0 (data): x_tau = tau * eps + (1 - tau) * y, target eps - y."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn

from alam_models.transformer import Block, KeysValues, time_embedding

BYTES_PER_TOKEN = 8
VOCABULARY = 257  # bytes plus padding


@dataclass(frozen=True)
class FlowWeights:
    """Loss weights of Eq. 14."""

    third_person: float = 1.0
    wrist: float = 1.0
    action: float = 1.0


@dataclass(frozen=True)
class FlowPolicyConfig:
    """Sizes. Image sizes, state and action names come from the contract; they are repeated here as plain numbers."""

    roles: tuple[str, ...] = ("third_person", "wrist")
    image_sizes: tuple[int, ...] = (96, 64)  # [px], one per role, multiples of 16
    text_length: int = 48  # [bytes], multiple of 8
    state_width: int = 4
    action_width: int = 4
    latent_width: int = 64  # Q * Z of the encoder
    projected_width: int = 32  # P: latents are projected to pi0's action width
    horizon: int = 8  # H; paper: 16, and 5 on MetaWorld
    width: int = 128
    heads: int = 4
    depth: int = 4
    steps: int = 5  # Euler steps at inference
    latent_projection: str = "fixed"  # or "learned"
    weights: FlowWeights = field(default_factory=FlowWeights)

    def __post_init__(self) -> None:
        if self.latent_projection not in ("fixed", "learned"):
            raise ValueError(f"latent_projection: wanted 'fixed' or 'learned', got {self.latent_projection!r}")
        if self.projected_width > self.latent_width:
            raise ValueError(
                f"projected_width: wanted at most latent_width {self.latent_width}, got {self.projected_width}"
            )
        if len(self.roles) != len(self.image_sizes) or any(size % 16 for size in self.image_sizes):
            raise ValueError(f"image_sizes: wanted a multiple of 16 for each of {self.roles}, got {self.image_sizes}")
        if self.text_length % BYTES_PER_TOKEN:
            raise ValueError(f"text_length: wanted a multiple of {BYTES_PER_TOKEN}, got {self.text_length}")


def interleaved_mask(horizon: int, views: int) -> Tensor:
    """-> (T, T) bool, True where a token (row) sees another (column), in the order of Eq. 11 (`mask="paper"`).

    Latents see the latents of their own and earlier steps, never an action; action t sees everything up to step t."""
    step = torch.arange(horizon).repeat_interleave(views + 1)
    is_action = (torch.arange(horizon * (views + 1)) % (views + 1)) == views
    earlier = step[:, None] >= step[None, :]
    return earlier & (is_action[:, None] | ~is_action[None, :])


class VisionTower(nn.Module):
    """A convolutional stem of stride 16: (B, 3, s, s) in [0, 1] -> tokens (B, (s / 16)^2, D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = [3, width // 4, width // 2, width, width]
        for inside, outside in pairwise(channels):
            layers += [nn.Conv2d(inside, outside, 3, 2, 1), nn.GroupNorm(8, outside), nn.GELU("tanh")]
        self.stem = nn.Sequential(*layers, nn.Conv2d(width, width, 1))

    def forward(self, image: Tensor) -> Tensor:
        return self.stem(2 * image - 1).flatten(2).transpose(1, 2)


class FlowPolicy(nn.Module):
    """Prefix (images, instruction, state) and an expert over [z_th, z_wr, u] that attends to it layer by layer."""

    def __init__(self, config: FlowPolicyConfig) -> None:
        super().__init__()
        self.config = config
        width, views = config.width, len(config.roles)
        self.vision = nn.ModuleDict({role: VisionTower(width) for role in config.roles})
        tokens = sum((size // 16) ** 2 for size in config.image_sizes) + config.text_length // BYTES_PER_TOKEN + 1
        self.byte = nn.Embedding(VOCABULARY, width // BYTES_PER_TOKEN)
        self.text = nn.Linear(width, width)
        self.state = nn.Linear(config.state_width, width)
        self.prefix_position = nn.Parameter(torch.randn(1, tokens, width) * 0.2)
        self.prefix_blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.depth))

        widths = [config.projected_width] * views + [config.action_width]
        self.stream_in = nn.ModuleList(nn.Linear(w, width) for w in widths)
        self.stream_time = nn.ModuleList(
            nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width)) for _ in widths
        )
        self.stream_out = nn.ModuleList(nn.Linear(width, w) for w in widths)
        self.step_position = nn.Parameter(torch.randn(1, config.horizon, 1, width) * 0.2)
        self.stream_position = nn.Parameter(torch.randn(1, 1, views + 1, width) * 0.2)
        self.expert_blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.depth))
        self.expert_norm = nn.LayerNorm(width)
        self.mask: Tensor
        self.register_buffer("mask", interleaved_mask(config.horizon, views), persistent=False)

        projection = torch.linalg.qr(torch.randn(config.latent_width, config.projected_width))[0].contiguous()
        self.projection = nn.Parameter(projection, requires_grad=config.latent_projection == "learned")

    def prefix(self, images: dict[str, Tensor], text: Tensor, state: Tensor) -> list[KeysValues]:
        """images {role: (B, 3, s, s) in [0, 1]}, text (B, L) int64, state (B, S) standardised -> KeysValues a layer."""
        tokens = [self.vision[role](images[role]) for role in self.config.roles]
        words = self.byte(text).flatten(1).unflatten(1, (-1, self.config.width))  # eight bytes make a token
        tokens += [self.text(words), self.state(state)[:, None]]
        x = torch.cat(tokens, 1) + self.prefix_position
        keys_values = []
        for block in self.prefix_blocks:
            x, own = block(x)
            keys_values.append(own)
        return keys_values

    def velocity(
        self, latents: Tensor, actions: Tensor, tau: Tensor, prefix: list[KeysValues]
    ) -> tuple[Tensor, Tensor]:
        """latents (B, H, V, P), actions (B, H, A) at flow time tau (B,) -> velocities of the same shapes."""
        views = len(self.config.roles)
        streams = [*latents.unbind(2), actions]
        time = time_embedding(tau, self.config.width)[:, None].expand(-1, self.config.horizon, -1)
        tokens = [
            self.stream_time[i](torch.cat([self.stream_in[i](stream), time], -1)) for i, stream in enumerate(streams)
        ]
        x = torch.stack(tokens, 2) + self.step_position + self.stream_position  # (B, H, V + 1, D)
        x = x.flatten(1, 2)
        seen = torch.ones(len(self.mask), prefix[0][0].shape[2], dtype=torch.bool, device=x.device)
        mask = torch.cat([seen, self.mask], 1)
        for block, keys_values in zip(self.expert_blocks, prefix, strict=True):
            x, _ = block(x, keys_values, mask)
        x = self.expert_norm(x).unflatten(1, (self.config.horizon, views + 1))
        outs = [self.stream_out[i](x[:, :, i]) for i in range(views + 1)]
        return torch.stack(outs[:views], 2), outs[views]

    def loss(
        self,
        images: dict[str, Tensor],
        text: Tensor,
        state: Tensor,
        latents: Tensor,
        actions: Tensor,
        generator: torch.Generator | None = None,
        draws: int = 1,
    ) -> dict[str, Tensor]:
        """Standardised targets, latents (B, H, V, Q*Z) and actions (B, H, A) -> L1 velocity losses () of Eq. 12-14.

        Each observation gets `draws` independent noises and times; its prefix is computed once."""
        prefix = self.prefix(images, text, state)
        prefix = [(k.repeat(draws, 1, 1, 1), v.repeat(draws, 1, 1, 1)) for k, v in prefix]
        y_latents = (latents @ self.projection).repeat(draws, 1, 1, 1)
        y_actions = actions.repeat(draws, 1, 1)
        tau = sample_times(len(y_actions), generator, y_actions.device)
        eps_latents = torch.randn(y_latents.shape, generator=generator, device=y_latents.device)
        eps_actions = torch.randn(y_actions.shape, generator=generator, device=y_actions.device)
        x_latents = mix(eps_latents, y_latents, tau)
        x_actions = mix(eps_actions, y_actions, tau)
        v_latents, v_actions = self.velocity(x_latents, x_actions, tau, prefix)
        # The target side is detached: a learned projection must not shrink its own target.
        errors = (v_latents - (eps_latents - y_latents.detach())).abs().mean((0, 1, 3))
        terms = {role: errors[i] for i, role in enumerate(self.config.roles)}
        terms["action"] = (v_actions - (eps_actions - y_actions)).abs().mean()
        total = sum((getattr(self.config.weights, name) * value for name, value in terms.items()), torch.zeros(()))
        return {**terms, "total": total}

    @torch.no_grad()
    def sample(
        self,
        images: dict[str, Tensor],
        text: Tensor,
        state: Tensor,
        noise_latents: Tensor,
        noise_actions: Tensor,
        steps: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Noise (B, H, V, P) and (B, H, A) -> latents (B, H, V, Q*Z) and actions (B, H, A), standardised (Eq. 15).

        The prefix is computed once, then `steps` Euler steps from tau = 1 to 0."""
        prefix = self.prefix(images, text, state)
        latents, actions = integrate(
            lambda x, u, tau: self.velocity(x, u, torch.full((len(u),), tau, device=u.device), prefix),
            noise_latents,
            noise_actions,
            steps or self.config.steps,
        )
        return self.unproject(latents), actions

    def unproject(self, latents: Tensor) -> Tensor:
        """latents (B, H, V, P) -> (B, H, V, Q*Z), the smallest that project to them."""
        orthonormal = self.config.latent_projection == "fixed"
        return latents @ (self.projection.T if orthonormal else torch.linalg.pinv(self.projection))


def integrate(
    velocity: Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]], latents: Tensor, actions: Tensor, steps: int
) -> tuple[Tensor, Tensor]:
    """Noise -> data of the same shapes: Euler from tau = 1 to 0 (Eq. 15)."""
    for k in range(steps):
        v_latents, v_actions = velocity(latents, actions, 1 - k / steps)
        latents = latents - v_latents / steps
        actions = actions - v_actions / steps
    return latents, actions


def mix(noise: Tensor, data: Tensor, tau: Tensor) -> Tensor:
    """x_tau = tau * eps + (1 - tau) * y (Eq. 12); tau (B,) is broadcast from the left."""
    tau = tau.view(-1, *[1] * (noise.dim() - 1))
    return tau * noise + (1 - tau) * data


def sample_times(count: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """-> (count,) in [0.001, 1): 0.999 * xi + 0.001 with xi from Beta(1.5, 1), whose CDF is xi^1.5."""
    uniform = torch.rand(count, generator=generator, device=device)
    return 0.999 * uniform ** (1 / 1.5) + 0.001
