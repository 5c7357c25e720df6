"""Noise -> data, for numpy arrays and torch tensors alike: what a sampler does between calls of the network.

Flow time tau runs from 1 (noise) to 0 (data)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

OBJECTIVES = ("flow", "diffusion")
COUPLINGS = ("joint", "two_stage", "none")

# Diffusion: x_tau = cos(angle) y + sin(angle) eps, angle = tau * LARGEST_ANGLE: the cosine schedule (Nichol and
# Dhariwal 2021), in continuous time, without their offset, stopped at a tenth of the signal: from none at all, y could
# not be had back.
LARGEST_ANGLE = math.acos(0.1)

# (latents, actions, tau of the latents, tau of the actions) -> what the network says of both. The actions' tau is None
# while the latents go first and see no action.
Network = Callable[[Any, Any, float, float | None], tuple[Any, Any]]


@dataclass(frozen=True)
class Sampler:
    """How a policy's network turns noise into chunks.

    objective: "flow", Euler steps of Eq. 15 along a velocity, or "diffusion", deterministic DDIM steps (Song et al.
    2021) with a noise estimate. coupling: latents and actions together, latents first ("two_stage"), or actions alone
    ("none"). committed: how many first steps may be given instead of generated."""

    objective: str = "flow"
    coupling: str = "joint"
    committed: int = 0

    def __post_init__(self) -> None:
        for name, choices in (("objective", OBJECTIVES), ("coupling", COUPLINGS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}: wanted one of {choices}, got {getattr(self, name)!r}")

    def generate(self, network: Network, latents: Any, actions: Any, steps: int, given: int = 0) -> tuple[Any, Any]:
        """Noise (B, H, V, P) and (B, H, A), whose first `given` of H steps are data already -> data, in `steps` steps a
        stage. The arrays handed in are not changed."""
        moves = updates(self.objective, steps)
        if self.coupling == "two_stage":
            for tau, scale, gain in moves:
                said, _ = network(latents, actions, tau, None)
                latents = _moved(latents, scale, gain, said, given)
            for tau, scale, gain in moves:
                _, said = network(latents, actions, 0.0, tau)
                actions = _moved(actions, scale, gain, said, given)
            return latents, actions
        for tau, scale, gain in moves:
            of_latents, of_actions = network(latents, actions, tau, tau)
            latents = _moved(latents, scale, gain, of_latents, given)
            actions = _moved(actions, scale, gain, of_actions, given)
        return latents, actions


def updates(objective: str, steps: int) -> list[tuple[float, float, float]]:
    """-> (tau, scale, gain) of each step: x at the next tau is scale * x + gain * (what the network says at tau)."""
    taus = [1 - k / steps for k in range(steps + 1)]
    if objective == "flow":
        return [(tau, 1.0, -1 / steps) for tau in taus[:-1]]
    angles = [tau * LARGEST_ANGLE for tau in taus]
    # With y = (x - sin(a) eps) / cos(a), cos(b) y + sin(b) eps.
    return [
        (tau, math.cos(b) / math.cos(a), math.sin(b - a) / math.cos(a))
        for tau, a, b in zip(taus[:-1], angles[:-1], angles[1:], strict=True)
    ]


def _moved(x: Any, scale: float, gain: float, said: Any, given: int) -> Any:
    """x (B, H, ...) one step on, its first `given` of H steps as they are."""
    moved = scale * x + gain * said
    if given:
        moved[:, :given] = x[:, :given]
    return moved
