"""A throw-away environment with LeRobot's pi0: the oracle of the parity tests and the peer of the latency benchmark.

    python tools/peer_env.py PATH       needs the network; about 2 GB

LeRobot's metadata asks for an older torch than this project's, with which it runs all the same. So LeRobot and what
insists on other versions come without their requirements, and what its pi0 needs of them is named here.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from setup_run import SetupError, run_logged

ALONE = ("torchvision==0.28.0", "lerobot==0.4.4", "draccus==0.10.0")
WITH_REQUIREMENTS = (
    "torch==2.13.0",
    "numpy==2.3.5",
    "transformers==4.57.6",
    "huggingface-hub==0.36.2",
    "datasets==4.8.0",
    "diffusers==0.35.2",
    "av==15.1.0",
    "accelerate==1.15.0",
    "deepdiff==9.1.0",
    "einops==0.8.2",
    "imageio==2.38.1",
    "jsonlines==4.0.0",
    "mergedeep==1.3.4",
    "pyserial==3.5",
    "pyyaml-include==2.2",
    "sentencepiece==0.2.3",
    "toml==0.10.2",
    "typing-inspect==0.9.0",
)


def make(path: Path) -> Path:
    """A virtual environment at `path` with all of the above -> its interpreter.

    Raises SetupError when the path is taken or pip fails; a log lies in the environment."""
    python = path / "bin" / "python"
    if path.exists() and any(path.iterdir()):
        raise SetupError(f"wanted a new or empty folder for the environment, got {path}; remove it or name another")
    subprocess.run([sys.executable, "-m", "venv", str(path)], check=True)
    pip = (str(python), "-m", "pip", "install", "--no-input", "--progress-bar", "off")
    run_logged("installing what LeRobot's pi0 needs", (*pip, *WITH_REQUIREMENTS), path / "pip.log", os.environ)
    run_logged("installing LeRobot", (*pip, "--no-deps", *ALONE), path / "pip-lerobot.log", os.environ)
    return python


def main() -> int:
    """-> exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("path", type=Path, help="folder of the environment to make")
    try:
        print(make(parser.parse_args().path.absolute()))
    except SetupError as error:
        print(f"peer_env: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
