"""LeRobot's pi0 as the peer of policy_latency.py, which starts this in the environment of tools/peer_env.py.

Reads one line of JSON, what to be; answers with one, what it is; then each further line is one chunk, answered with its
seconds. Weights are random: time does not depend on them."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]


def main() -> None:
    asked, answers = json.loads(sys.stdin.readline()), sys.stdout
    with contextlib.redirect_stdout(sys.stderr):  # whatever libraries print
        import torch

        import peer_pi0
        from alam_models.pi0 import SIZES

        torch.set_num_threads(asked["threads"])
        torch.manual_seed(0)
        config, words = SIZES[asked["size"]], asked["words"]
        model = peer_pi0.make(config, asked["tokens"], asked["action_width"], asked["steps"], asked["dtype"])
    images = [torch.rand(1, 3, config.image_size, config.image_size) * 2 - 1 for _ in range(asked["views"])]
    there = [torch.ones(1, dtype=torch.bool) for _ in images]
    text, known = torch.randint(1, config.vocabulary, (1, words)), torch.ones(1, words, dtype=torch.bool)
    state = torch.randn(1, config.state_width)
    parameters = sum(p.numel() for p in model.parameters())
    about = {"lerobot": version("lerobot"), "torch": torch.__version__, "parameters": parameters}
    print(json.dumps(about), file=answers, flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        with torch.no_grad():
            model.sample_actions(images, there, text, known, state)
        print(time.perf_counter() - start, file=answers, flush=True)


if __name__ == "__main__":
    main()
