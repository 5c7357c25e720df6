"""Real-time chunking without training: while it is generated, the next chunk is drawn towards the actions that are on
their way (Black, Galliker and Levine 2025, "Real-Time Execution of Action Chunking Flow Policies", arXiv 2506.07339).

There flow time runs from noise at 0 to data at 1; here tau = 1 is noise, as everywhere in this project."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from alam_models.runtime.sampler import Network

LARGEST_WEIGHT = 5.0  # of the guidance, beta in the paper


def soft_mask(horizon: int, overlap: int, delay: int) -> Tensor:
    """-> (H,) in [0, 1]: 1 for the `delay` steps that will have been executed, decaying exponentially over the rest of
    the `overlap` with the previous chunk, 0 from there on (Eq. 5).

    Raises ValueError unless 0 <= delay <= overlap <= horizon."""
    if not 0 <= delay <= overlap <= horizon:
        raise ValueError(f"wanted 0 <= delay <= committed steps <= horizon {horizon}, got {delay} and {overlap}")
    left = ((overlap - torch.arange(horizon)) / (overlap - delay + 1)).clamp(0, 1)  # 1 up to the delay
    return left * torch.expm1(left) / (math.e - 1)


def guidance_weight(tau: float, largest: float) -> float:
    """tau in (0, 1] -> the pseudoinverse guidance's weight, at most `largest` (Eq. 2 and 4 with tau turned round)."""
    return largest if tau == 1 else min(largest, ((1 - tau) ** 2 + tau**2) / (tau * (1 - tau)))


def guided(
    network: Network, latents: Tensor | None, actions: Tensor, delay: int, horizon: int, largest: float
) -> Network:
    """A velocity -> the velocity that also leads towards committed actions (B, L, A) and, where given, latents
    (B, L, V, P), all standardised, of which the first `delay` steps will have been executed.

    Each step adds the gradient by which the chunk it heads for would come closer to what is committed (Eq. 2); the
    gradient goes through the attention, so that committed actions also move the latents that those follow."""
    overlap = actions.shape[1]
    mask = soft_mask(horizon, overlap, delay).to(actions)

    def towards(x: Tensor, velocity: Tensor, tau: float, wanted: Tensor) -> Tensor:
        """-> a scalar whose gradient is that of the data heading for `wanted`, weighed by the mask."""
        heading = (x - tau * velocity)[:, :overlap]
        error = (wanted - heading) * mask[:overlap].view(-1, *[1] * (x.dim() - 2))
        return (error.detach() * heading).sum()

    def velocity(
        x_latents: Tensor, x_actions: Tensor, tau_latents: float, tau_actions: float | None
    ) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x_latents, x_actions = x_latents.detach().requires_grad_(), x_actions.detach().requires_grad_()
            v_latents, v_actions = network(x_latents, x_actions, tau_latents, tau_actions)
            agreements = []
            if tau_actions is not None:
                agreements.append(towards(x_actions, v_actions, tau_actions, actions))
            if latents is not None and tau_latents > 0:
                agreements.append(towards(x_latents, v_latents, tau_latents, latents))
            if not agreements:
                return v_latents.detach(), v_actions.detach()
            g_latents, g_actions = torch.autograd.grad(
                torch.stack(agreements).sum(), (x_latents, x_actions), allow_unused=True, materialize_grads=True
            )
        weight = guidance_weight(tau_latents or tau_actions or 0.0, largest)
        return v_latents.detach() - weight * g_latents, v_actions.detach() - weight * g_actions

    return velocity
