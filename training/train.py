"""Trains the latent action model and the policy.

    python training/train.py pretrain --config mini --data data/metaworld-mini --out runs/alam
    python training/train.py transfer --config mini --data data/metaworld-mini --encoder runs/alam --out runs/policy
    torchrun --nproc-per-node 8 training/train.py transfer --config paper --parallel fsdp ...

Every field of training/settings.py is an option; `pretrain --help` and `transfer --help` list them. Both stages log
to TensorBoard under --out, run in one process or in as many as torchrun starts, and go on where they were stopped. The
loops are in training/pretrain.py and training/transfer.py."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from typing import Any

import tyro

from training.checkpoint import newest
from training.configs import PRETRAIN, TRANSFER
from training.pretrain import pretrain
from training.transfer import transfer


def main() -> None:
    stages: dict[str, tuple[dict[str, Any], Any]] = {"pretrain": (PRETRAIN, pretrain), "transfer": (TRANSFER, transfer)}
    if len(sys.argv) < 2 or sys.argv[1] not in stages:
        print(__doc__)
        sys.exit(0 if sys.argv[1:2] in (["--help"], ["-h"]) else f"train: wanted one of {list(stages)}")
    configs, run = stages[sys.argv[1]]
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", choices=sorted(configs), default="mini")
    chosen, rest = parser.parse_known_args(sys.argv[2:])
    default = configs[chosen.config]
    for number in (signal.SIGINT, signal.SIGTERM):  # the second is how torchrun and schedulers say Ctrl-C
        signal.signal(number, stop)
    process = f" process {os.environ['RANK']}:" if os.environ.get("RANK", "0") != "0" else ""
    config = None
    try:
        config = tyro.cli(
            type(default),
            default=default,
            args=rest,
            prog=f"train.py {sys.argv[1]} --config {chosen.config}",
            description=f"{type(default).__doc__} --config picks the named settings that options start from: "
            f"{', '.join(configs)}.",
        )
        run(config)
    except (ValueError, OSError) as error:
        sys.exit(f"train:{process} {error}")
    except KeyboardInterrupt:
        found = newest(config.out) if config else None
        left = f"the same command goes on from {found}, steps since then are lost" if found else "nothing was saved yet"
        sys.exit(f"train:{process} stopped; {left}")


def stop(*_: Any) -> None:
    """Ends the program; workers of the loader that the same signal ends are no failure."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
