"""A policy of seeded random weights at the size `mini`, for a robot's contract: what a trained one costs in time and
memory, before there is one. The arm goes to its home position and stays there.

    python tools/untrained_bundle.py --robot piper --out checkpoints/piper-untrained
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from tool_main import guarded

ROBOTS = ("metaworld", "piper")  # the twin of the arm has the arm's contract
ARM_HORIZON = 16  # at 30 Hz
ARM_NOISE = 5e-7  # [rad], [m] about home: white noise at 30 Hz that limits of jerk allow; the bus rounds it away
OPENING_M = 0.03  # of the gripper, away from its limits
HAND_NOISE = 0.3  # of MetaWorld's motion commands in [-1, 1]: random weights must not look like a fault to its gate
QUERIES = 4  # of the encoder whose latents it would generate


def export_random(
    folder: Path,
    robot: Any,
    config: Any,
    centre: tuple[float, ...],
    noise: float,
    card: dict[str, Any],
    queries: int = QUERIES,
    seed: int = 0,
    precision: str = "fp32",
) -> Path:
    """robot: its contract; config: a FlowPolicyConfig -> a bundle of random weights in `folder`, by the real exporter.

    Its actions lie about `centre` (A,), with a standard deviation of about `noise`, in contract units. card: `tasks`,
    `replan` and what else is to be said of it. Raises ValueError when the folder holds something else."""
    import torch
    import yaml

    from alam_models.contract import Latent, Normalisation, Tokenizer, policy_contract
    from alam_models.export import export
    from alam_models.flow_policy import FlowPolicy
    from alam_models.weights import save_weights

    torch.manual_seed(seed)
    zero, one = (0.0,) * config.state_width, (1.0,) * config.state_width
    width = config.latent_width
    roles = config.roles[: config.views]
    latents = dict.fromkeys(roles, (0.0,) * width), dict.fromkeys(roles, (1.0,) * width)
    statistics = Normalisation(zero, one, centre, (noise,) * config.action_width, *latents)
    tokenizer = Tokenizer("bytes", config.text_length)
    latent = Latent(queries, width // queries) if config.views else None
    contract = policy_contract(robot, config.horizon, latent, tokenizer, statistics)
    with tempfile.TemporaryDirectory() as scratch:
        weights = Path(scratch) / "weights"
        save_weights(weights, "policy", FlowPolicy(config).state_dict(), config)
        contract.save(weights / "contract.yaml")
        (weights / "card.yaml").write_text(yaml.safe_dump(card))
        return export(weights, folder, precision=precision)


def make_bundle(folder: Path, robot: str, seed: int = 0) -> Path:
    """robot: one of ROBOTS -> the bundle. Raises ValueError when the folder holds something else."""
    from alam_models.flow_policy import FlowPolicyConfig

    if robot == "piper":
        from alam_piper import arm

        contract, noise = arm.piper_contract(), ARM_NOISE
        centre = (*map(float, arm.HOME[:6]), OPENING_M)
        config = FlowPolicyConfig(state_width=len(arm.NAMES), action_width=len(arm.NAMES), horizon=ARM_HORIZON)
    else:
        from alam_sim.metaworld_env import metaworld_contract

        contract, config, noise = metaworld_contract(), FlowPolicyConfig(), HAND_NOISE
        centre = (0.0,) * config.action_width
    card = {"tasks": [], "replan": config.horizon // 2, "untrained": "random weights, for measurements", "seed": seed}
    return export_random(folder, contract, config, centre, noise, card, seed=seed)


def main() -> int:
    from alam_common.refusal import Refusal

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--robot", choices=ROBOTS, default="piper", help="whose contract (default %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the bundle")
    parser.add_argument("--seed", type=int, default=0, help="of the weights (default %(default)s)")
    arguments = parser.parse_args()
    try:
        print(make_bundle(arguments.out, arguments.robot, arguments.seed))
    except ValueError as error:
        raise Refusal(str(error)) from None
    return 0


if __name__ == "__main__":
    sys.exit(guarded("untrained_bundle", main))
