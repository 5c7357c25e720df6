"""Joint flow matching over latent transitions and actions (paper, Sec. 3.3, Eq. 10-15), and the variants it is compared
with (Tab. 3), intervened in (Tab. 11) and continued by (real-time chunking).

Letters: B batch, H horizon, V views that have a latent stream, P width of a projected latent, A action width,
T = H * (V + 1) tokens. Flow time tau runs from 1 (noise) to 0 (data): x_tau = tau * eps + (1 - tau) * y, target
eps - y."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from alam_models.pi0 import Pi0Backbone, Pi0Config
from alam_models.realtime import LARGEST_WEIGHT, guided
from alam_models.runtime.sampler import LARGEST_ANGLE, Network, Sampler
from alam_models.small_backbone import SmallBackbone, SmallConfig
from alam_models.transformer import Prefix, time_embedding

BackboneConfig = SmallConfig | Pi0Config  # another kind joins here and in make_backbone


@dataclass(frozen=True)
class FlowWeights:
    """Loss weights of Eq. 14."""

    third_person: float = 1.0
    wrist: float = 1.0
    other: float = 1.0  # of each view with another role
    action: float = 1.0

    def of(self, stream: str) -> float:
        """stream: "action" or a camera role."""
        return float(getattr(self, stream, self.other))


@dataclass(frozen=True)
class Intervention:
    """What is done to the latent stream of a trained policy (appendix F, Tab. 11).

    freeze: latents stay at their noise while flow time goes on. block: no action sees a latent. order: a permutation of
    the H steps, in which the actions see the latents; the latents themselves go on as generated (see `shuffled`)."""

    freeze: bool = False
    block: bool = False
    order: tuple[int, ...] | None = None


@dataclass(frozen=True)
class FlowPolicyConfig:
    """Sizes. Image sizes, state and action names come from the contract; they are repeated here as plain numbers.

    coupling: "joint" (the paper's), "two_stage" (latents are generated first and alone, then the actions given them;
    trained with the true ones in their place) or "none" (actions alone: pi0). mask: "paper", "release" or "full", see
    attention_mask. objective: "flow", or "diffusion", which estimates the noise along a cosine schedule."""

    roles: tuple[str, ...] = ("third_person", "wrist")
    image_sizes: tuple[int, ...] = (96, 64)  # [px], one per role
    text_length: int = 48  # [tokens]
    state_width: int = 4
    action_width: int = 4
    latent_width: int = 64  # Q * Z of the encoder
    projected_width: int = 32  # P: latents are projected to pi0's action width
    horizon: int = 8  # H; paper: 16, and 5 on MetaWorld
    backbone: BackboneConfig = field(default_factory=SmallConfig)
    coupling: Literal["joint", "two_stage", "none"] = "joint"
    mask: Literal["paper", "release", "full"] = "paper"
    objective: Literal["flow", "diffusion"] = "flow"
    steps: int = 5  # at inference, of Euler or DDIM; two_stage: as many for each stage
    latent_projection: Literal["fixed", "learned"] = "fixed"
    state_dropout: float = 0.0  # training: how often a learned vector stands in for the state
    prefix_conditioning: int = 0  # training: how many first steps of a chunk are given at most (arXiv 2512.05964)
    weights: FlowWeights = field(default_factory=FlowWeights)

    def __post_init__(self) -> None:
        Sampler(self.objective, self.coupling)  # refuses what it does not know
        for name, value in vars(self).items():
            if name.endswith(("_width", "_length", "horizon", "steps")) and value < 1:
                raise ValueError(f"{name}: wanted 1 or more, got {value}")
        for name, choices in (("mask", ("paper", "release", "full")), ("latent_projection", ("fixed", "learned"))):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}: wanted one of {choices}, got {getattr(self, name)!r}")
        if self.projected_width > self.latent_width:
            raise ValueError(
                f"projected_width: wanted at most latent_width {self.latent_width}, got {self.projected_width}"
            )
        if len(self.roles) != len(self.image_sizes):
            raise ValueError(f"image_sizes: wanted one for each of {self.roles}, got {self.image_sizes}")
        if self.coupling == "two_stage" and self.mask != "paper":
            raise ValueError(f"mask: wanted 'paper' with two_stage, whose latents see no action, got {self.mask!r}")
        if not 0 <= self.state_dropout < 1:
            raise ValueError(f"state_dropout: wanted a share in [0, 1), got {self.state_dropout}")
        if not 0 <= self.prefix_conditioning < self.horizon:
            raise ValueError(
                f"prefix_conditioning: wanted 0 to {self.horizon - 1} of the horizon, got {self.prefix_conditioning}"
            )

    @property
    def views(self) -> int:
        """V: how many latent streams there are."""
        return 0 if self.coupling == "none" else len(self.roles)

    @property
    def sampler(self) -> Sampler:
        return Sampler(self.objective, self.coupling, self.prefix_conditioning)


def make_backbone(config: FlowPolicyConfig) -> SmallBackbone | Pi0Backbone:
    """-> the network below the flow (`prefix`, `expert`, `width`): the one place that knows what kinds there are."""
    if isinstance(config.backbone, Pi0Config):
        return Pi0Backbone(config.backbone, config.roles, config.image_sizes, config.state_width)
    return SmallBackbone(
        config.backbone,
        config.roles,
        config.image_sizes,
        config.text_length,
        config.state_width,
        config.horizon,
        config.views + 1,
    )


def attention_mask(
    kind: str, horizon: int, views: int, block: bool = False, device: torch.device | None = None
) -> Tensor:
    """-> (T, T) bool, True where a token (row) sees another (column), in the order of Eq. 11: views, then the action.

    paper: latents see the latents of their own and earlier steps, never an action; action t sees everything up to step
    t. release: the blocks [z_th z_wr][u] in time order, each sees itself and all before it. full: everything sees
    everything (pi0). block: in any of them, no action sees a latent."""
    token = torch.arange(horizon * (views + 1), device=device)
    is_action = token % (views + 1) == views
    place = 2 * (token // (views + 1)) + is_action
    mask = torch.ones(len(token), len(token), dtype=torch.bool, device=device)
    if kind != "full":
        mask &= place[:, None] >= place[None, :]
    if kind == "paper":
        mask &= is_action[:, None] | ~is_action[None, :]
    if block:
        mask &= ~is_action[:, None] | is_action[None, :]
    return mask


def shuffled(horizon: int, seed: int) -> tuple[int, ...]:
    """-> a random order of the H steps, for Intervention.order."""
    return tuple(torch.randperm(horizon, generator=torch.Generator().manual_seed(seed)).tolist())


class Chance(NamedTuple):
    """What chance decides in a loss over B observations with N draws each. Every part has the observations second."""

    dropped: Tensor  # (1, B) bool, True where a learned vector stands in for the state
    tau: Tensor  # (N, B, H) flow time of each step, 0 where it is given
    weight: Tensor  # (N, B, H) of each step: 0 where it is given; the mean over all is 1
    latents: Tensor  # (N, B, H, V, P) noise
    actions: Tensor  # (N, B, H, A) noise

    def of(self, rows: slice) -> Chance:
        """That of some of the observations: the mean over parts of a batch is then the mean over the batch."""
        return Chance(*(part[:, rows] for part in self))


class FlowPolicy(nn.Module):
    """Streams [z_th, z_wr, u] of noisy tokens through the expert of a backbone that has seen the observation."""

    def __init__(self, config: FlowPolicyConfig, backbone: SmallBackbone | Pi0Backbone | None = None) -> None:
        """backbone: that of the config when it is made already, as on the meta device for weights that are to come."""
        super().__init__()
        self.config = config
        self.backbone = make_backbone(config) if backbone is None else backbone
        width = self.backbone.width
        widths = [config.projected_width] * config.views + [config.action_width]
        self.stream_in = nn.ModuleList(nn.Linear(w, width) for w in widths)
        self.stream_time = nn.ModuleList(
            nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width)) for _ in widths
        )
        self.stream_out = nn.ModuleList(nn.Linear(width, w) for w in widths)
        projection = torch.linalg.qr(torch.randn(config.latent_width, config.projected_width))[0].contiguous()
        learned = config.latent_projection == "learned" and config.views > 0
        self.projection = nn.Parameter(projection, requires_grad=learned)
        if config.state_dropout:
            self.no_state = nn.Parameter(torch.zeros(config.state_width))

    def prefix(self, images: dict[str, Tensor], text: Tensor, state: Tensor) -> Prefix:
        """images {role: (B, 3, s, s) in [0, 1]}, text (B, L) int64, state (B, S) standardised -> Prefix.

        Raises ValueError for other roles, shapes or dtypes and, on the CPU, for tokens beyond the vocabulary: a GPU
        would have to be waited for, and encode_instruction refuses them before."""
        config, batch = self.config, len(state)
        if set(images) != set(config.roles):
            raise ValueError(f"images: wanted the roles {config.roles}, got {tuple(images)}")
        for role, size in zip(config.roles, config.image_sizes, strict=True):
            check_shape(role, images[role], (batch, 3, size, size))
            if not images[role].is_floating_point():
                raise ValueError(f"{role}: wanted floats in [0, 1], got {images[role].dtype}")
        check_shape("text", text, (batch, config.text_length))
        if text.dtype != torch.int64:
            raise ValueError(f"text: wanted int64 tokens, got {text.dtype}")
        words = config.backbone.vocabulary
        if text.device.type == "cpu" and text.numel() and not 0 <= text.min() <= text.max() < words:
            raise ValueError(f"text: wanted tokens from 0 to {words - 1}, got {text.min()} to {text.max()}")
        check_shape("state", state, (batch, config.state_width))
        return self.backbone.prefix(images, text, state)

    def velocity(
        self,
        latents: Tensor,
        actions: Tensor,
        tau: Tensor,
        prefix: Prefix,
        tau_latents: Tensor | None = None,
        intervention: Intervention | None = None,
    ) -> tuple[Tensor, Tensor]:
        """latents (B, H, V, P), actions (B, H, A) -> velocities (diffusion: noise estimates) of the same shapes.

        tau: flow time (B,) or, where steps differ, (B, H); tau_latents: that of the latents where it is another one.
        Raises ValueError for other shapes."""
        config, did = self.config, intervention or Intervention()
        horizon, views = config.horizon, config.views
        check_shape("latents", latents, (len(actions), horizon, views, config.projected_width))
        check_shape("actions", actions, (len(actions), horizon, config.action_width))
        if did.order is not None:
            if sorted(did.order) != list(range(horizon)):
                raise ValueError(f"order: wanted a permutation of 0 to {horizon - 1}, got {did.order}")
            arguments = (actions, tau, prefix, tau_latents, replace(did, order=None))
            in_order, _ = self.velocity(latents, *arguments)
            return in_order, self.velocity(latents[:, list(did.order)], *arguments)[1]

        streams = [*latents.unbind(2), actions]
        taus = [tau if tau_latents is None else tau_latents] * views + [tau]
        tokens = [self.tokens(i, stream, time) for i, (stream, time) in enumerate(zip(streams, taus, strict=True))]
        mask = attention_mask(config.mask, horizon, views, did.block, actions.device)
        x = self.backbone.expert(torch.stack(tokens, 2).flatten(1, 2), prefix, mask)
        x = x.unflatten(1, (horizon, views + 1))
        outs = [self.stream_out[i](x[:, :, i]) for i in range(views + 1)]
        v_latents = torch.stack(outs[:views], 2) if views and not did.freeze else torch.zeros_like(latents)
        return v_latents, outs[views]

    def tokens(self, i: int, stream: Tensor, tau: Tensor) -> Tensor:
        """The i-th stream (B, H, width) at flow time tau (B,) or (B, H) -> tokens (B, H, D)."""
        tau = tau if tau.dim() == 2 else tau[:, None].expand(-1, self.config.horizon)
        time = time_embedding(tau.flatten(), self.backbone.width).unflatten(0, tau.shape)
        return self.stream_time[i](torch.cat([self.stream_in[i](stream), time.to(stream.dtype)], -1))

    def loss(
        self,
        images: dict[str, Tensor],
        text: Tensor,
        state: Tensor,
        latents: Tensor,
        actions: Tensor,
        chance: Chance | None = None,
    ) -> dict[str, Tensor]:
        """Standardised targets, latents (B, H, V, Q*Z) and actions (B, H, A) -> losses () of Eq. 12-14, by stream and
        "total": L1 on velocities, or for diffusion the mean square on the noise (Ho et al. 2020).

        chance: of these observations; without it one draw each, by torch's own generator. An observation's prefix is
        computed once. Streams share the time, not the noise. Raises ValueError for other shapes."""
        config, batch = self.config, len(state)
        chance = self.chance(batch) if chance is None else chance
        draws = len(chance.tau)
        check_shape("latents", latents, (batch, config.horizon, config.views, config.latent_width))
        check_shape("actions", actions, (batch, config.horizon, config.action_width))
        check_shape("chance", chance.tau, (draws, batch, config.horizon))
        dropped = chance.dropped[0, :, None].to(state.device)
        tau, weight, eps_latents, eps_actions = (part.flatten(0, 1).to(state.device) for part in chance[1:])
        if config.state_dropout:
            state = torch.where(dropped, self.no_state, state)
        prefix = repeat(self.prefix(images, text, state), draws)
        with torch.autocast(state.device.type, enabled=False):  # targets stay float32
            y_latents = (latents @ self.projection).repeat(draws, 1, 1, 1)
        y_actions = actions.repeat(draws, 1, 1)
        x_latents = mix(eps_latents, y_latents, tau, config.objective)
        x_actions = mix(eps_actions, y_actions, tau, config.objective)
        said_latents, said_actions = self.velocity(x_latents, x_actions, tau, prefix)
        if config.coupling == "two_stage":  # above, no latent saw an action; here, actions see the true latents
            _, said_actions = self.velocity(y_latents, x_actions, tau, prefix, torch.zeros_like(tau))

        def error(said: Tensor, eps: Tensor, y: Tensor) -> Tensor:
            """-> (), over the steps that are not given."""
            # The target side is detached: a learned projection must not shrink its own target.
            off = said - eps if config.objective == "diffusion" else said - (eps - y.detach())
            size = off.square() if config.objective == "diffusion" else off.abs()
            return (size.mean(-1) * weight).sum() / weight.numel()

        terms = {
            role: error(said_latents[:, :, i], eps_latents[:, :, i], y_latents[:, :, i])
            for i, role in enumerate(config.roles[: config.views])
        }
        terms["action"] = error(said_actions, eps_actions, y_actions)
        total = sum((config.weights.of(name) * value for name, value in terms.items()), torch.zeros(()))
        return {**terms, "total": total}

    def forward(self, *arguments: Any, **named: Any) -> dict[str, Tensor]:
        """The loss, under the name that modules around this one call."""
        return self.loss(*arguments, **named)

    def chance(self, batch: int, draws: int = 1, generator: torch.Generator | None = None) -> Chance:
        """-> what a loss over B = batch observations leaves to chance, on the CPU, where every machine draws the same.

        Of the first steps of a chunk, 0 to prefix_conditioning are given, evenly often; the state is dropped in
        training alone."""
        config, count = self.config, draws * batch
        dropped = torch.zeros(1, batch, dtype=torch.bool)
        if self.training and config.state_dropout:
            dropped = torch.rand(1, batch, generator=generator) < config.state_dropout
        tau = sample_times(count, generator, config.objective)[:, None].expand(-1, config.horizon)
        weight = torch.ones(count, config.horizon)
        if most := config.prefix_conditioning:
            free = torch.arange(config.horizon) >= torch.randint(0, most + 1, (count, 1), generator=generator)
            tau, weight = torch.where(free, tau, 0), free / free.float().mean()
        noise = self.noise(count, generator)
        return Chance(dropped, *(part.unflatten(0, (draws, batch)) for part in (tau, weight, *noise)))

    def noise(self, batch: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """-> what a chunk starts from: latents (B, H, V, P) and actions (B, H, A)."""
        config = self.config
        latents = torch.randn(batch, config.horizon, config.views, config.projected_width, generator=generator)
        return latents, torch.randn(batch, config.horizon, config.action_width, generator=generator)

    @torch.no_grad()
    def sample(
        self,
        images: dict[str, Tensor],
        text: Tensor,
        state: Tensor,
        noise_latents: Tensor,
        noise_actions: Tensor,
        steps: int | None = None,
        intervention: Intervention | None = None,
        committed_actions: Tensor | None = None,
        committed_latents: Tensor | None = None,
        delay: int = 0,
        guidance: float = LARGEST_WEIGHT,
    ) -> tuple[Tensor, Tensor]:
        """Noise (B, H, V, P) and (B, H, A) -> latents (B, H, V, Q*Z) and actions (B, H, A), standardised (Eq. 15).

        The prefix is computed once, then `steps` steps from tau = 1 to 0.
        committed_actions (B, L, A), committed_latents (B, L, V, Q*Z): what the previous chunk holds from this
        observation on; its first `delay` steps will have been executed before this chunk can be. A policy trained with
        prefix_conditioning gets those first steps as they are, and wants their latents too, since under the paper's
        mask nothing else tells its latents what was begun; later rows are not used. Any other policy is led towards all
        L of them (realtime.guided), with a weight of at most `guidance`. Raises ValueError for other shapes, and for
        what cannot be combined."""
        config, batch, device = self.config, len(noise_actions), noise_actions.device
        if intervention is not None and intervention.freeze:
            if config.objective == "diffusion":
                raise ValueError("freeze: wanted objective 'flow', whose noise stays where no velocity moves it")
            if committed_latents is not None and not config.prefix_conditioning:
                raise ValueError("freeze: wanted no committed latents, towards which guidance would move the noise")
        steps = config.steps if steps is None else steps
        if steps < 1:
            raise ValueError(f"steps: wanted 1 or more, got {steps}")
        prefix, given = self.prefix(images, text, state), 0

        def network(
            latents: Tensor, actions: Tensor, tau_latents: float, tau_actions: float | None
        ) -> tuple[Tensor, Tensor]:
            taus = [
                torch.full((batch, config.horizon), 1.0 if tau is None else tau, device=device)
                for tau in (tau_latents, tau_actions)
            ]
            for tau in taus:
                tau[:, :given] = 0
            return self.velocity(latents, actions, taus[1], prefix, taus[0], intervention)

        velocity: Network = network
        if committed_actions is not None:
            z, u = self.check_committed(committed_actions, committed_latents, delay, batch)
            if config.prefix_conditioning:
                given = delay
                noise_actions = torch.cat([u[:, :delay], noise_actions[:, delay:]], 1)
                if z is not None:
                    noise_latents = torch.cat([z[:, :delay], noise_latents[:, delay:]], 1)
            else:
                velocity = guided(network, z, u, delay, config.horizon, guidance)
        elif delay or committed_latents is not None:
            raise ValueError("committed_actions: wanted them with a delay or committed latents, got none")
        latents, actions = config.sampler.generate(velocity, noise_latents, noise_actions, steps, given)
        return self.unproject(latents), actions

    def check_committed(
        self, actions: Tensor, latents: Tensor | None, delay: int, batch: int
    ) -> tuple[Tensor | None, Tensor]:
        """-> committed latents, projected to (B, L, V, P), and actions (B, L, A). Raises ValueError, see sample."""
        config, overlap = self.config, actions.shape[1]
        if not 0 <= delay <= overlap <= config.horizon:
            raise ValueError(
                f"wanted delay <= committed steps <= horizon {config.horizon}, got delay {delay}, {overlap} steps"
            )
        check_shape("committed_actions", actions, (batch, overlap, config.action_width))
        if latents is not None:
            check_shape("committed_latents", latents, (batch, overlap, config.views, config.latent_width))
            latents = latents @ self.projection
        if config.prefix_conditioning:
            if delay > config.prefix_conditioning:
                raise ValueError(
                    f"delay: wanted at most the prefix_conditioning {config.prefix_conditioning}, got {delay}"
                )
            if config.views and latents is None:
                raise ValueError("committed_latents: wanted those of the committed actions, got none")
        elif config.objective == "diffusion":
            raise ValueError("committed_actions: wanted objective 'flow' or a training with prefix_conditioning")
        return latents, actions

    def unproject(self, latents: Tensor) -> Tensor:
        """latents (B, H, V, P) -> (B, H, V, Q*Z), the smallest that project to them."""
        orthonormal = self.config.latent_projection == "fixed"
        return latents @ (self.projection.T if orthonormal else torch.linalg.pinv(self.projection))


def check_shape(name: str, value: Tensor, wanted: tuple[int, ...]) -> None:
    if tuple(value.shape) != wanted:
        raise ValueError(f"{name}: wanted shape {wanted}, got {tuple(value.shape)}")


def repeat(prefix: Prefix, times: int) -> Prefix:
    """The prefix of B observations -> of times * B, as Tensor.repeat orders them."""
    keys_values = [(k.repeat(times, 1, 1, 1), v.repeat(times, 1, 1, 1)) for k, v in prefix.keys_values]
    return Prefix(keys_values, prefix.valid.repeat(times, 1))


def mix(noise: Tensor, data: Tensor, tau: Tensor, objective: str = "flow") -> Tensor:
    """x_tau = tau * eps + (1 - tau) * y (Eq. 12), for diffusion sin and cos in their place; tau is broadcast from the
    left."""
    tau = tau.view(*tau.shape, *[1] * (noise.dim() - tau.dim()))
    if objective == "diffusion":
        return (LARGEST_ANGLE * tau).sin() * noise + (LARGEST_ANGLE * tau).cos() * data
    return tau * noise + (1 - tau) * data


def sample_times(count: int, generator: torch.Generator | None, objective: str = "flow") -> Tensor:
    """-> (count,) in [0.001, 1): 0.999 * xi + 0.001 with xi from Beta(1.5, 1), whose CDF is xi^1.5; for diffusion xi is
    uniform."""
    uniform = torch.rand(count, generator=generator)
    return 0.999 * (uniform if objective == "diffusion" else uniform ** (1 / 1.5)) + 0.001
