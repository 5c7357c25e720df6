"""Joint flow matching over latent transitions and actions (paper, Sec. 3.3, Eq. 10-15).

Letters: B batch, H horizon, V views, P width of a projected latent, A action width, T = H * (V + 1) suffix tokens.
Flow time tau runs from 1 (noise) to 0 (data): x_tau = tau * eps + (1 - tau) * y, target eps - y."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from alam_models.small_backbone import SmallBackbone, SmallConfig
from alam_models.transformer import Prefix, time_embedding

BackboneConfig = SmallConfig  # another kind joins here, as a union, and in make_backbone


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
    image_sizes: tuple[int, ...] = (96, 64)  # [px], one per role
    text_length: int = 48  # [tokens]
    state_width: int = 4
    action_width: int = 4
    latent_width: int = 64  # Q * Z of the encoder
    projected_width: int = 32  # P: latents are projected to pi0's action width
    horizon: int = 8  # H; paper: 16, and 5 on MetaWorld
    backbone: BackboneConfig = field(default_factory=SmallConfig)
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
        if len(self.roles) != len(self.image_sizes):
            raise ValueError(f"image_sizes: wanted one for each of {self.roles}, got {self.image_sizes}")


def interleaved_mask(horizon: int, views: int) -> Tensor:
    """-> (T, T) bool, True where a token (row) sees another (column), in the order of Eq. 11 (`mask="paper"`).

    Latents see the latents of their own and earlier steps, never an action; action t sees everything up to step t."""
    step = torch.arange(horizon).repeat_interleave(views + 1)
    is_action = (torch.arange(horizon * (views + 1)) % (views + 1)) == views
    earlier = step[:, None] >= step[None, :]
    return earlier & (is_action[:, None] | ~is_action[None, :])


def make_backbone(config: FlowPolicyConfig) -> SmallBackbone:
    """-> the network below the flow (`prefix`, `expert`, `width`): the one place that knows what kinds there are."""
    return SmallBackbone(
        config.backbone,
        config.roles,
        config.image_sizes,
        config.text_length,
        config.state_width,
        config.horizon,
        len(config.roles) + 1,
    )


class FlowPolicy(nn.Module):
    """Prefix (images, instruction, state) and an expert over [z_th, z_wr, u] that attends to it layer by layer."""

    def __init__(self, config: FlowPolicyConfig) -> None:
        super().__init__()
        self.config = config
        views = len(config.roles)
        self.backbone = make_backbone(config)
        width = self.backbone.width
        widths = [config.projected_width] * views + [config.action_width]
        self.stream_in = nn.ModuleList(nn.Linear(w, width) for w in widths)
        self.stream_time = nn.ModuleList(
            nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width)) for _ in widths
        )
        self.stream_out = nn.ModuleList(nn.Linear(width, w) for w in widths)
        self.mask: Tensor
        self.register_buffer("mask", interleaved_mask(config.horizon, views), persistent=False)

        projection = torch.linalg.qr(torch.randn(config.latent_width, config.projected_width))[0].contiguous()
        self.projection = nn.Parameter(projection, requires_grad=config.latent_projection == "learned")

    def prefix(self, images: dict[str, Tensor], text: Tensor, state: Tensor) -> Prefix:
        """images {role: (B, 3, s, s) in [0, 1]}, text (B, L) int64, state (B, S) standardised -> Prefix."""
        return self.backbone.prefix(images, text, state)

    def velocity(self, latents: Tensor, actions: Tensor, tau: Tensor, prefix: Prefix) -> tuple[Tensor, Tensor]:
        """latents (B, H, V, P), actions (B, H, A) at flow time tau (B,) -> velocities of the same shapes."""
        views = len(self.config.roles)
        streams = [*latents.unbind(2), actions]
        time = time_embedding(tau, self.backbone.width)[:, None].expand(-1, self.config.horizon, -1)
        tokens = [
            self.stream_time[i](torch.cat([self.stream_in[i](stream), time], -1)) for i, stream in enumerate(streams)
        ]
        x = self.backbone.expert(torch.stack(tokens, 2).flatten(1, 2), prefix, self.mask)
        x = x.unflatten(1, (self.config.horizon, views + 1))
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
        prefix = repeat(self.prefix(images, text, state), draws)
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


def repeat(prefix: Prefix, times: int) -> Prefix:
    """The prefix of B observations -> of times * B, as Tensor.repeat orders them."""
    keys_values = [(k.repeat(times, 1, 1, 1), v.repeat(times, 1, 1, 1)) for k, v in prefix.keys_values]
    return Prefix(keys_values, prefix.valid.repeat(times, 1))


def mix(noise: Tensor, data: Tensor, tau: Tensor) -> Tensor:
    """x_tau = tau * eps + (1 - tau) * y (Eq. 12); tau (B,) is broadcast from the left."""
    tau = tau.view(-1, *[1] * (noise.dim() - 1))
    return tau * noise + (1 - tau) * data


def sample_times(count: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """-> (count,) in [0.001, 1): 0.999 * xi + 0.001 with xi from Beta(1.5, 1), whose CDF is xi^1.5."""
    uniform = torch.rand(count, generator=generator, device=device)
    return 0.999 * uniform ** (1 / 1.5) + 0.001
