"""A small policy to practise with before there is a trained one: whatever it sees, it moves the arm slowly in a circle
around its home (joints 1 and 2). Trained on motions made up here: in about two minutes, or ten at the size `mini`, as
`benchmarks/control_loop.py` does.

    python tools/practice_bundle.py --out checkpoints/piper-practice
    python tools/practice_bundle.py --out runs/piper-practice-mini --size mini
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from tool_main import guarded

RADIUS = np.array([0.30, 0.15])  # [rad] of joints 1 and 2
TURN_S = 6.0  # once around
RETURN_S = 0.8  # time constant of the way back to the circle
OPENING_M = 0.03  # of the gripper
HORIZON, BATCH, STEPS = 16, 64, 600
SIZES = "small", "mini"


def circle(state: np.ndarray, times_s: np.ndarray, home: np.ndarray) -> np.ndarray:
    """state (B, 7), times_s (H,) -> positions (B, H, 7) [rad], [m] on the way back to the circle and around it."""
    plane = (state[:, :2] - home[:2]) / RADIUS
    radius, phase = np.linalg.norm(plane, axis=1), np.arctan2(plane[:, 1], plane[:, 0])
    fade = np.exp(-times_s / RETURN_S)
    radii = 1 + (radius[:, None] - 1) * fade
    phases = phase[:, None] + 2 * np.pi * times_s / TURN_S
    rows = home + (state[:, None, :] - home) * fade[:, None]
    rows[..., 0] = home[0] + RADIUS[0] * radii * np.cos(phases)
    rows[..., 1] = home[1] + RADIUS[1] * radii * np.sin(phases)
    return rows


def make_bundle(folder: Path, seed: int = 0, steps: int = STEPS, size: str = "small") -> Path:
    """size: of SIZES. Train and export -> the bundle. Raises ValueError when the folder is not free."""
    import torch
    import yaml
    from tqdm import trange

    from alam_models.contract import Latent, Normalisation, Tokenizer, encode_instruction, policy_contract
    from alam_models.export import export
    from alam_models.flow_policy import FlowPolicy, FlowPolicyConfig
    from alam_models.small_backbone import SmallConfig
    from alam_models.weights import save_weights
    from alam_piper import arm

    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    robot = arm.piper_contract()
    width = len(robot.action)
    config = FlowPolicyConfig(horizon=HORIZON, state_width=width, action_width=width)  # mini
    if size == "small":
        config = replace(config, backbone=SmallConfig(64, depth=2), latent_width=8, projected_width=8)
    home = np.append(arm.HOME[:6], OPENING_M)
    spread = np.array([0.2, 0.1, 0.05, 0.05, 0.05, 0.05, 0.005])
    tokenizer = Tokenizer("bytes", config.text_length)
    text = torch.from_numpy(encode_instruction("move", tokenizer))
    times_s = np.arange(1, HORIZON + 1) / robot.control_rate_hz
    policy = FlowPolicy(config)
    optimiser = torch.optim.AdamW(policy.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    bar = trange(steps, desc="training", unit="step", mininterval=0.5 if sys.stderr.isatty() else 10.0)
    for _ in bar:
        state = home + random.normal(size=(BATCH, width)) * spread * 1.5
        actions = (circle(state, times_s, home) - home) / spread
        images = {
            role: torch.rand(BATCH, 3, size, size) for role, size in zip(config.roles, config.image_sizes, strict=True)
        }
        loss = policy.loss(
            images,
            text.expand(BATCH, -1),
            torch.from_numpy((state - home) / spread).float(),
            torch.zeros(BATCH, HORIZON, len(config.roles), config.latent_width),
            torch.from_numpy(actions).float(),
            policy.chance(BATCH, draws=2),
        )["total"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        bar.set_postfix_str(f"loss {loss.item():.3f}", refresh=False)
    plain, scale = tuple(map(float, home)), tuple(map(float, spread))
    zeros: tuple[float, ...] = (0.0,) * config.latent_width
    ones: tuple[float, ...] = (1.0,) * config.latent_width
    statistics = Normalisation(
        plain, scale, plain, scale, dict.fromkeys(config.roles, zeros), dict.fromkeys(config.roles, ones)
    )
    contract = policy_contract(robot, HORIZON, Latent(2, config.latent_width // 2), tokenizer, statistics)
    card = {"tasks": [], "replan": HORIZON // 2, "practice": "circles around home, whatever it sees", "seed": seed}
    with tempfile.TemporaryDirectory() as scratch:
        weights = Path(scratch) / "weights"
        save_weights(weights, "policy", policy.state_dict(), config)
        contract.save(weights / "contract.yaml")
        (weights / "card.yaml").write_text(yaml.safe_dump(card))
        return export(weights, folder)


def main() -> int:
    from alam_common.refusal import Refusal

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the bundle")
    parser.add_argument("--seed", type=int, default=0, help="of weights and motions (default %(default)s)")
    parser.add_argument("--size", choices=SIZES, default="small", help="of the policy (default %(default)s)")
    arguments = parser.parse_args()
    try:
        print(make_bundle(arguments.out, arguments.seed, size=arguments.size))
    except ValueError as error:
        raise Refusal(str(error)) from None
    return 0


if __name__ == "__main__":
    sys.exit(guarded("practice_bundle", main))
