"""What `make demo` runs: the shipped policy drives MetaWorld through ROS 2 nodes.

Launches the graph, runs a few episodes of every task in the bundle's card on seeds that training never saw, prints a
table, and writes into demo_output/: an mp4 per task (both views) and a still with the generated latents over time."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from run_tasks import attempt_all, graph_and_client
from tool_main import ROOT, guarded

if TYPE_CHECKING:
    from alam_common.scores import Attempt

FIRST_SEED = 1000


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=ROOT / "checkpoints/metaworld-mini", help="exported policy")
    parser.add_argument("--out", type=Path, default=ROOT / "demo_output", help="where films and the still go")
    parser.add_argument("--tasks", nargs="+", default=[], help="tasks; default: those of the bundle's card")
    parser.add_argument("--episodes", type=int, default=2, help="of each task (default %(default)s)")
    parser.add_argument("--budget", type=float, default=200.0, help="start no episode after so many seconds")
    return parser.parse_args(argv)


def unseen_seed(card: dict[str, Any]) -> int:
    """-> the first seed to show: 1000, or the first beyond those of training if they go that far."""
    seen = (card.get("training") or {}).get("training_seeds") or [0]
    return max(FIRST_SEED, int(max(seen)) + 1)


def collect_films(episodes: Path, out: Path, attempts: list[Attempt]) -> list[Path]:
    """-> one film a task in `out`: of its first success, or of its first attempt when there was none."""
    films = []
    for task in dict.fromkeys(attempt.task for attempt in attempts):
        shown = best([attempt for attempt in attempts if attempt.task == task])
        source = film_of(episodes, shown)
        if source.is_file():
            films.append(Path(shutil.copyfile(source, out / f"{task}.mp4")))
    return films


def best(attempts: list[Attempt]) -> Attempt:
    return next((attempt for attempt in attempts if attempt.success), attempts[0])


def film_of(episodes: Path, attempt: Attempt) -> Path:
    outcome = "success" if attempt.success else "failure"
    return episodes / f"{attempt.task}-seed{attempt.seed}-{outcome}.mp4"


def run(arguments: argparse.Namespace) -> int:
    from alam_common.refusal import Refusal
    from alam_common.scores import table
    from alam_models.runtime.bundle import read_card

    began = time.monotonic()
    try:
        card = read_card(arguments.bundle)
    except ValueError as error:
        raise Refusal(str(error)) from None
    tasks = arguments.tasks or list(card["tasks"])
    if not tasks or arguments.episodes < 1:
        raise Refusal(f"wanted tasks and at least one episode of each, got {tasks} and {arguments.episodes}")
    first = unseen_seed(card)
    # Every task once before any task twice: when the time is up, each has been shown.
    goals = [(task, first + index) for index in range(arguments.episodes) for task in tasks]
    episodes = arguments.out / "episodes"
    shutil.rmtree(episodes, ignore_errors=True)
    episodes.mkdir(parents=True)
    log = arguments.out / "graph.log"
    print(f"launching alam_bringup piper.launch.py with {arguments.bundle.name}, output in {log}", file=sys.stderr)
    attempts: list[Attempt] = []
    with graph_and_client(arguments.bundle, "lockstep", episodes, log) as client:
        print(f"the graph is ready after {time.monotonic() - began:.0f} s", file=sys.stderr)
        for attempt in attempt_all(client, goals):
            attempts.append(attempt)
            if time.monotonic() - began > arguments.budget and len(attempts) < len(goals):
                print(f"\n{len(attempts)} of {len(goals)} episodes in {arguments.budget:.0f} s: leaving it at that")
                break
        views = client.views
    films = collect_films(episodes, arguments.out, attempts)
    shown = best(attempts)
    from demo_still import draw_still

    still = draw_still(film_of(episodes, shown), shown, views, arguments.out / "latents.png")
    print(f"\n{table(attempts)}\n")
    print("steps in brackets: not solved. chunk latency: from an observation on the wire to its actions on the wire.")
    for path in (*films, still):
        print(f"wrote {path}")
    print(f"{time.monotonic() - began:.0f} s in all")
    return 0


if __name__ == "__main__":
    sys.exit(guarded("demo", lambda: run(parse())))
