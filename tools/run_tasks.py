"""Measure a policy through the ROS graph: success over seeds, with Wilson intervals.

    python tools/run_tasks.py --seeds 1000:1020 --json measured.json                  # launches the graph itself
    python tools/run_tasks.py --attach --tasks reach-v3 --seeds 1000:1020             # uses the graph that runs

Without --tasks: those that the bundle's card says it was trained for."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tool_main import ROOT, guarded

if TYPE_CHECKING:
    from alam_common.scores import Attempt
    from alam_common.task_client_node import TaskClient

READY_S = 180.0


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--bundle", type=Path, default=ROOT / "checkpoints/metaworld-mini", help="exported policy to launch"
    )
    parser.add_argument("--attach", action="store_true", help="use the graph that already runs on this ROS domain")
    parser.add_argument("--tasks", nargs="+", default=[], help="tasks; default: those of the bundle's card")
    parser.add_argument("--seeds", default="1000:1020", help="FIRST:END, END excluded (default %(default)s)")
    parser.add_argument("--mode", choices=("lockstep", "realtime"), default="lockstep", help="of the launched graph")
    parser.add_argument("--timeout", type=float, default=0.0, help="robot seconds an episode; 0: the task's own limit")
    parser.add_argument("--video-dir", type=Path, help="one mp4 an episode (launched graph only)")
    parser.add_argument("--json", type=Path, help="write the summary here")
    return parser.parse_args(argv)


@contextlib.contextmanager
def graph_and_client(
    bundle: Path, mode: str, video_dir: Path | None, log: Path, attach: bool = False
) -> Iterator[TaskClient]:
    """A client of a graph that is ready; one launched here is ended here. Raises Refusal when it does not come up."""
    from alam_common.graph import Graph
    from alam_common.task_client_node import TaskClient

    with contextlib.ExitStack() as stack:
        alive = str
        if not attach:
            arguments = {"robot": "metaworld", "bundle": str(bundle.resolve()), "mode": mode}
            if video_dir:
                arguments["video_dir"] = str(video_dir.resolve())
            alive = stack.enter_context(Graph(arguments, log)).failure  # type: ignore[assignment]
        client = stack.enter_context(TaskClient("run_tasks", alive))
        client.wait_ready(READY_S)
        yield client


def attempt_all(client: TaskClient, goals: list[tuple[str, int]], timeout_s: float = 0.0) -> Iterator[Attempt]:
    """Each (task, seed) in turn, with a progress bar. Raises Refusal when an episode did not run to its end."""
    from tqdm import tqdm

    from alam_common.refusal import Refusal

    with tqdm(total=len(goals), unit="episode", dynamic_ncols=True, file=sys.stderr) as bar:
        for task, seed in goals:
            bar.set_description(f"{task} seed {seed}")
            feedback = lambda step, mode: bar.set_postfix_str(f"step {step} {mode}")  # noqa: E731
            attempt = client.run(task, seed, timeout_s=timeout_s, feedback=feedback)
            if attempt.status != "succeeded":
                raise Refusal(f"{task} seed {seed}: wanted an episode that runs to its end, got: {attempt.reason}")
            bar.update()
            yield attempt


def run(arguments: argparse.Namespace) -> int:
    from alam_common.refusal import Refusal
    from alam_common.scores import parse_seeds, summarise, table
    from alam_models.runtime.bundle import read_card

    try:
        seeds = parse_seeds(arguments.seeds)
        tasks = arguments.tasks or list(read_card(arguments.bundle)["tasks"])
    except ValueError as error:
        raise Refusal(str(error)) from None
    if not tasks:
        raise Refusal(f"wanted tasks, got none in the card of {arguments.bundle}; name them with --tasks")
    goals = [(task, seed) for task in tasks for seed in seeds]
    with tempfile.TemporaryDirectory(prefix="run_tasks_") as folder:
        log = Path(folder) / "graph.log"
        with graph_and_client(arguments.bundle, arguments.mode, arguments.video_dir, log, arguments.attach) as client:
            policy = client.says("policy", "policy")
            attempts = list(attempt_all(client, goals, arguments.timeout))
    print(table(attempts))
    if arguments.json:
        measured = {"policy": policy, "mode": arguments.mode, "seeds": [seeds.start, seeds.stop], **summarise(attempts)}
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(measured, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(guarded("run_tasks", lambda: run(parse())))
