"""How long one chunk takes: each runtime, with and without the latent stream, beside LeRobot's pi0, all in one run.

    python tools/peer_env.py PATH                                               # the peer; once, about 2 GB
    python benchmarks/policy_latency.py --peer PATH --json policy_latency.json

Weights are random: time does not depend on them. All take turns, so that whatever else the machine does meets them
alike. Exported policies are timed from the camera's frames to commands, PyTorch and the peer from prepared tensors to
the network's output. The peer has the sizes of the policy at `small`, as many denoising steps and suffix tokens (one a
stream and step, and the state), and the same prefix: two images and 48 words. `mini` stands on another backbone, which
the peer does not have. Where memory does not allow an export, as of `paper` on most machines, PyTorch and the peer are
timed alone, both with weights in bfloat16."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools"), *map(str, sorted((ROOT / "ros2_ws/src").glob("alam_*")))]
from pretrain_throughput import cpu  # noqa: E402

from alam_models.flow_policy import FlowPolicy, FlowPolicyConfig  # noqa: E402
from alam_models.pi0 import SIZES, Pi0Config  # noqa: E402
from alam_models.runtime import Observation, load_policy  # noqa: E402
from alam_piper.arm import HOME, NAMES, piper_contract  # noqa: E402
from untrained_bundle import export_random  # noqa: E402

PRECISIONS = ("fp32", "fp16", "int8")
WORDS = "put the red cylinder into the blue box, slowly!!"  # of 48 bytes: no runtime gains by a short instruction
NO_PEER = "not measured: no --peer (tools/peer_env.py makes one)"
PAUSE_S = 0.02  # between two chunks: worker threads of the one before may still spin
TIMES_PARAMETERS = 11  # [bytes] of memory for each parameter while it is exported: PyTorch, the graph, ONNX Runtime
GOALS = {  # at most, but for those that compare: at least
    "mini p50 [ms]": 20.0,
    "mini p99 / p50": 1.5,
    "joint / action-only": 1.25,
    "peer / onnx fp32": 2.0,
    "peer / onnx int8": 3.0,
}


class Peer:
    """LeRobot's pi0 in its own process and environment."""

    def __init__(self, environment: Path, asked: dict[str, Any]) -> None:
        command = [str(environment / "bin" / "python"), str(ROOT / "benchmarks" / "lerobot_peer.py")]
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115 (as long as the process)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._said}
        self._process = subprocess.Popen(command, text=True, **pipes)  # type: ignore[call-overload]
        self.about = json.loads(self._ask(json.dumps(asked)))

    def __call__(self) -> float:
        """One chunk -> seconds."""
        return float(self._ask("chunk"))

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(30)

    def _ask(self, line: str) -> str:
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self._said.seek(0)
            last = self._said.read().strip().rpartition("\n")[2]
            raise RuntimeError(f"--peer: wanted an answer of the peer, got its end: {last}")
        return str(answer)


def config_of(size: str) -> FlowPolicyConfig:
    """size: "mini" or a key of pi0's SIZES -> the policy, for the arm."""
    width = len(NAMES)
    if size == "mini":
        return FlowPolicyConfig(state_width=width, action_width=width)
    backbone: Pi0Config = SIZES[size]
    sides = (backbone.image_size, backbone.image_size)
    return FlowPolicyConfig(
        image_sizes=sides, state_width=width, action_width=width, horizon=16, steps=10, backbone=backbone
    )


def bundle(folder: Path, config: FlowPolicyConfig, precision: str) -> Path:
    """-> a bundle of random weights for the arm's contract with frames of the policy's sizes; the one made before."""
    if (folder / "card.yaml").is_file():
        return folder
    robot = piper_contract()
    sides = dict(zip(config.roles, config.image_sizes, strict=True))
    cameras = tuple(replace(c, width=sides[c.role], height=sides[c.role]) for c in robot.cameras)
    centre = (*map(float, HOME[:6]), 0.03)
    return export_random(folder, replace(robot, cameras=cameras), config, centre, 0.01, {}, precision=precision)


def eager(policy: FlowPolicy) -> Callable[[], float]:
    """A policy in PyTorch -> one chunk of it, in seconds, in the type of its weights."""
    config, dtype = policy.config, policy.stream_in[-1].weight.dtype
    images = {role: torch.rand(1, 3, s, s) for role, s in zip(config.roles, config.image_sizes, strict=True)}
    images = {role: image.to(dtype) for role, image in images.items()}
    text, state = torch.randint(1, 257, (1, config.text_length)), torch.randn(1, config.state_width)
    noise = [part.to(dtype) for part in policy.noise(1)]

    def run() -> float:
        start = time.perf_counter()
        policy.sample(images, text, state, *noise)
        return time.perf_counter() - start

    return run


def exported(policy: Any) -> Callable[[], float]:
    """-> one chunk of a bundle, in seconds, each time of another observation."""
    random = np.random.default_rng(0)
    images = {
        c.role: random.integers(0, 256, (c.source_height, c.source_width, 3), np.uint8) for c in policy.contract.cameras
    }
    number = iter(range(10**9))

    def run() -> float:
        return float(policy.infer(Observation(images, HOME.copy(), WORDS, next(number))).inference_time_s)

    return run


def interleave(runs: dict[str, Callable[[], float]], seconds: float, least: int = 20) -> dict[str, list[float]]:
    """Each in turn until `seconds` are over and each has run `least` times -> their seconds, after two that do not
    count."""
    for run in runs.values():
        run(), run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or min(map(len, times.values())) < least:
        for name, run in runs.items():
            time.sleep(PAUSE_S)
            times[name].append(run())
    return times


def parts(policy: Any, count: int = 50) -> dict[str, float]:
    """-> what the prefix and one step take [ms] (medians), and what Python and numpy take from the heap in a step."""
    backend, contract = policy._backend, policy.contract
    policy.warm_up()
    buffers = backend._buffers
    given = {c.role: buffers[c.role].copy() for c in contract.cameras}, buffers["text"].copy(), buffers["state"].copy()
    horizon, views, width = backend.latent_shape
    noise = np.ones((1, horizon, views, width), np.float32), np.ones((1, horizon, len(contract.action)), np.float32)
    step = (*noise, *[np.full((1, horizon), 0.5, np.float32)] * 2)

    def median(call: Callable[[], object]) -> float:
        seconds = []
        for _ in range(count):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
        return float(np.median(seconds))

    figures = {
        "prefix [ms]": 1e3 * median(lambda: backend.prefix(*given)),
        "step [ms]": 1e3 * median(lambda: backend.velocity(*step)),
    }
    tracemalloc.start()
    backend.velocity(*step)
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    backend.velocity(*step)
    figures["heap in a step [bytes]"] = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    return figures


def measure(size: str, threads: int, seconds: float, environment: Path | None, folder: Path) -> dict[str, Any]:
    """-> figures of one size by name; bundles are below `folder`, or made there."""
    config = config_of(size)
    alone = replace(config, coupling="none", mask="full")
    made = {f"onnx {name}": bundle(folder / f"{size}-{name}", config, name) for name in PRECISIONS}
    made["onnx fp32, action-only"] = bundle(folder / f"{size}-action-only", alone, "fp32")
    policies = {name: load_policy(path, threads=threads) for name, path in made.items()}
    torch.manual_seed(0)
    runs = {"torch": eager(FlowPolicy(config).eval()), **{name: exported(policy) for name, policy in policies.items()}}
    tokens = config.horizon * (config.views + 1)
    figures: dict[str, Any] = {"parameters": sum(p.numel() for p in FlowPolicy(config).parameters())}
    figures |= {"steps": config.steps, "suffix tokens": tokens, "peer": "none of these sizes"}
    peer = None
    if size in SIZES:
        figures["peer"] = NO_PEER
        if environment is not None:
            runs["peer"] = peer = Peer(environment, like(size, config, threads, "float32"))
            figures["peer"] = peer.about
    times = interleave(runs, seconds)
    if peer is not None:
        peer.close()
    figures["repetitions"] = len(times["torch"])
    figures["chunk [ms]"] = percentiles(times)
    figures["parts"] = {name: parts(policies[f"onnx {name}"]) for name in PRECISIONS}
    medians = {name: float(np.median(values)) for name, values in times.items()}
    figures["ratios"] = {
        "joint / action-only": medians["onnx fp32"] / medians["onnx fp32, action-only"],
        **{f"torch / onnx {name}": medians["torch"] / medians[f"onnx {name}"] for name in PRECISIONS},
    }
    if peer is not None:
        figures["ratios"] |= {f"peer / onnx {name}": medians["peer"] / medians[f"onnx {name}"] for name in PRECISIONS}
    if size == "mini":
        chunk = figures["chunk [ms]"]["onnx fp32"]
        figures["ratios"] |= {"mini p50 [ms]": chunk["p50"], "mini p99 / p50": chunk["p99"] / chunk["p50"]}
    return figures


@torch.no_grad()
def measure_eager(size: str, threads: int, seconds: float, environment: Path | None) -> dict[str, Any]:
    """-> figures of a size that cannot be exported here: PyTorch in bfloat16, with and without latents on one backbone,
    and the peer in bfloat16."""
    config = config_of(size)
    figures: dict[str, Any] = {"steps": config.steps, "suffix tokens": config.horizon * (config.views + 1)}
    figures |= {"weights": "bfloat16", "peer": NO_PEER, "parts": {}}
    runs: dict[str, Callable[[], float]] = {}
    peer = Peer(environment, like(size, config, threads, "bfloat16")) if environment is not None else None
    torch.manual_seed(0)
    with torch.device("meta"):
        policy = FlowPolicy(config)
    policy = policy.to(torch.bfloat16).to_empty(device="cpu").eval()
    for tensor in policy.state_dict().values():
        tensor.normal_(std=0.02)
    alone = FlowPolicy(replace(config, coupling="none", mask="full"), policy.backbone).to(torch.bfloat16).eval()
    figures["parameters"] = sum(p.numel() for p in policy.parameters())
    runs = {"torch": eager(policy), "torch, action-only": eager(alone)}
    if peer is not None:
        runs["peer"], figures["peer"] = peer, peer.about
    times = interleave(runs, seconds, least=3)
    if peer is not None:
        peer.close()
    medians = {name: float(np.median(values)) for name, values in times.items()}
    figures["repetitions"], figures["chunk [ms]"] = len(times["torch"]), percentiles(times)
    figures["ratios"] = {"joint / action-only": medians["torch"] / medians["torch, action-only"]}
    if peer is not None:
        figures["ratios"]["peer / torch"] = medians["peer"] / medians["torch"]
    return figures


def like(size: str, config: FlowPolicyConfig, threads: int, dtype: str) -> dict[str, Any]:
    """-> what the peer is to be: as large as our policy, with as many tokens and steps."""
    tokens, words = config.horizon * (config.views + 1), config.text_length
    asked = {"size": size, "threads": threads, "dtype": dtype, "tokens": tokens, "views": len(config.roles)}
    return {**asked, "words": words, "action_width": 32, "steps": config.steps}


def percentiles(times: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Seconds by name -> percentiles [ms] by name."""
    return {n: {f"p{p}": 1e3 * float(np.percentile(v, p)) for p in (10, 50, 90, 99)} for n, v in times.items()}


def report(size: str, figures: dict[str, Any]) -> None:
    print(f"\n{size}: {figures['parameters'] / 1e6:.1f} M parameters, {figures['steps']} steps of ", end="")
    print(f"{figures['suffix tokens']} tokens, {figures['repetitions']} repetitions; peer: {figures['peer']}")
    for name, chunk in figures["chunk [ms]"].items():
        print(f"  {name:24s}" + "".join(f"  {p} {value:8.2f} ms" for p, value in chunk.items()))
    for name, part in figures["parts"].items():
        print(f"  onnx {name:19s}" + "".join(f"  {what} {value:.2f}" for what, value in part.items()))
    for name, value in figures["ratios"].items():
        goal, said = GOALS.get(name), ""
        if goal is not None:
            met = value >= goal if name.startswith("peer") else value <= goal
            said = f"   goal {goal:g}  {'ok' if met else 'MISSED'}"
        print(f"  {name:24s} {value:8.2f}{said}")


def lacking(size: str) -> str:
    """-> why a size cannot be exported on this machine, or nothing."""
    with torch.device("meta"):
        needed = TIMES_PARAMETERS * sum(p.numel() for p in FlowPolicy(config_of(size)).parameters()) / 1e9
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    there = int(lines["MemAvailable"].split()[0]) * 1024 / 1e9
    return (
        f"in PyTorch alone: its export needs about {needed:.0f} GB of memory, {there:.0f} GB are there"
        if needed > there
        else ""
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs="+", choices=("mini", *SIZES), default=["mini", "small", "paper"])
    parser.add_argument("--peer", type=Path, help="environment made by tools/peer_env.py")
    parser.add_argument("--seconds", type=float, default=40.0, help="a size (default %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default %(default)s")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    parser.add_argument("--bundles", type=Path, help="keep the exported bundles there, or take them from there")
    arguments = parser.parse_args()
    if arguments.peer is not None and not (arguments.peer / "bin" / "python").is_file():
        sys.exit(f"--peer: wanted an environment made by tools/peer_env.py, got {arguments.peer}")
    torch.set_num_threads(arguments.threads)
    print(f"{cpu()}, {os.cpu_count()} cores, {arguments.threads} threads, torch {torch.__version__}")
    results: dict[str, Any] = {"machine": cpu(), "cores": os.cpu_count(), "threads": arguments.threads}
    results |= {"torch": torch.__version__, "load": os.getloadavg()}
    scratch = tempfile.TemporaryDirectory()
    folder = arguments.bundles or Path(scratch.name)
    for size in arguments.size:
        reason = lacking(size)
        try:
            if reason:
                print(f"\n{size}: {reason}")
                results[size] = measure_eager(size, arguments.threads, arguments.seconds, arguments.peer)
                results[size]["exported"] = reason
            else:
                results[size] = measure(size, arguments.threads, arguments.seconds, arguments.peer, folder)
        except RuntimeError as error:
            sys.exit(f"policy_latency: {error}")
        report(size, results[size])
        if arguments.json:
            arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
