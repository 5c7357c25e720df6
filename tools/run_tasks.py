"""Measure a policy through the ROS graph: success over seeds, with Wilson intervals.

    python tools/run_tasks.py --seeds 1000:1020 --json measured.json                  # launches the graph itself
    python tools/run_tasks.py --attach --tasks reach-v3 --seeds 1000:1020             # uses the graph that runs

Without --tasks: those that the bundle's card says it was trained for."""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
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
    parser.add_argument(
        "--timeout",
        type=float,
        default=2.5,
        help="robot seconds an episode (default %(default)s: MT50's 200 steps); 0: the task's own limit",
    )
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

    pause_s = 0.2 if sys.stderr.isatty() else 10.0
    with tqdm(total=len(goals), unit="episode", dynamic_ncols=True, miniters=0, mininterval=pause_s) as bar:

        def feedback(step: int, mode: str) -> None:
            bar.set_postfix_str(f"step {step} {mode}", refresh=False)
            bar.update(0)

        for task, seed in goals:
            bar.set_description(f"{task} seed {seed}", refresh=False)
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
    folder = Path(tempfile.mkdtemp(prefix="run_tasks_"))  # kept when something fails: the graph's log says why
    attempts: list[Attempt] = []
    try:
        with graph_and_client(
            arguments.bundle, arguments.mode, arguments.video_dir, folder / "graph.log", arguments.attach
        ) as client:
            policy = client.says("policy", "policy")
            for attempt in attempt_all(client, goals, arguments.timeout):
                attempts.append(attempt)
    finally:
        if arguments.json and attempts:  # what was measured before a failure is not lost
            conditions = {"mode": arguments.mode, "timeout_s": arguments.timeout, "seeds": [seeds.start, seeds.stop]}
            complete = {"complete": len(attempts) == len(goals)}
            arguments.json.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps({"policy": policy, **conditions, **complete, **summarise(attempts)}, indent=2)
            arguments.json.write_text(text + "\n")
    shutil.rmtree(folder)
    print(table(attempts))
    return 0


if __name__ == "__main__":
    sys.exit(guarded("run_tasks", lambda: run(parse())))
