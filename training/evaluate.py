"""Success of a bundle in MetaWorld, in this process: lockstep, without ROS, the same bits as through the graph.

    python training/evaluate.py --bundle checkpoints/metaworld-mini --tasks reach-v3 --seeds 20000:20020

Through the ROS graph: tools/run_tasks.py. Choose settings on other seeds than those you report."""

from __future__ import annotations

import argparse
import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

from tqdm import tqdm

from alam_common.scores import Attempt, parse_seeds, summarise, table
from alam_models.contract import Contract
from alam_models.runtime import load_policy
from alam_models.runtime.bundle import identity, read_card
from alam_sim.episode import run_episode
from alam_sim.metaworld_env import MetaWorldEnv
from alam_sim.metaworld_tasks import check_task
from training.collect import leave_interrupts_to_the_parent

MAX_STEPS = 200  # common to the MT50 protocols of VLA policies


def evaluate_task(
    bundle: Path, task: str, seeds: list[int], max_steps: int, steps: int | None, replan: int
) -> list[Attempt]:
    """Worker: one task on some seeds -> an attempt each."""
    policy = load_policy(bundle, threads=1, steps=steps)
    env = MetaWorldEnv(task)
    try:
        attempts = []
        for seed in seeds:
            result = run_episode(env, policy, task, seed, max_steps=max_steps, replan=replan)
            row = (task, seed, result.success, result.steps, result.reason)
            attempts.append(Attempt(*row, "succeeded", result.latencies, result.latencies))
        return attempts
    finally:
        env.close()


def evaluate(
    bundle: Path, tasks: list[str], seeds: range, workers: int, max_steps: int, steps: int | None, replan: int
) -> list[Attempt]:
    """Every task on every seed, shared among processes -> attempts ordered by task and seed."""
    os.environ.setdefault("LP_NUM_THREADS", "1")  # software GL: one thread a process
    share = -(-len(seeds) // 2)
    attempts: list[Attempt] = []
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=leave_interrupts_to_the_parent)
    try:
        jobs = [
            pool.submit(evaluate_task, bundle, task, list(seeds)[i : i + share], max_steps, steps, replan)
            for task in tasks
            for i in range(0, len(seeds), share)
        ]
        with tqdm(total=len(tasks) * len(seeds), unit="episode", desc="evaluate") as bar:
            for job in as_completed(jobs):
                attempts += job.result()
                bar.update(len(attempts) - bar.n)
    finally:
        pool.shutdown(cancel_futures=True)
    return sorted(attempts, key=lambda attempt: (tasks.index(attempt.task), attempt.seed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True, help="folder made by alam_models.export")
    parser.add_argument("--tasks", nargs="+", help="task names (default: those of the bundle's card)")
    parser.add_argument("--seeds", default="20000:20020", help="FIRST:END, END excluded (default: %(default)s)")
    parser.add_argument("--max-steps", type=int, default=MAX_STEPS, help="of an episode (default: %(default)s)")
    parser.add_argument("--steps", type=int, help="Euler steps (default: the bundle's)")
    parser.add_argument("--replan", type=int, default=0, help="actions executed of a chunk (default: the bundle's)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the result here")
    arguments = parser.parse_args()
    try:
        card, seeds = read_card(arguments.bundle), parse_seeds(arguments.seeds)
        tasks = arguments.tasks or card.get("tasks")
        if not tasks:
            raise ValueError(f"wanted tasks, got none in the card of {arguments.bundle}; name them with --tasks")
        horizon = Contract.load(arguments.bundle / "contract.yaml").horizon or 0
        if not 0 <= arguments.replan <= horizon:
            raise ValueError(f"--replan: wanted 1 to the horizon {horizon}, or 0, got {arguments.replan}")
        if min(arguments.workers, arguments.max_steps) < 1:
            got = f"{arguments.workers} and {arguments.max_steps}"
            raise ValueError(f"wanted --workers and --max-steps of 1 or more, got {got}")
        for task in tasks:
            check_task(task)
        rest = (arguments.workers, arguments.max_steps, arguments.steps, arguments.replan)
        attempts = evaluate(arguments.bundle, tasks, seeds, *rest)
    except (ValueError, RuntimeError, OSError) as error:
        sys.exit(f"evaluate: {error}")
    except KeyboardInterrupt:
        sys.exit("evaluate: stopped")
    print(table(attempts))
    if arguments.json:
        conditions = {"mode": "in process", "max_steps": arguments.max_steps, "seeds": [seeds.start, seeds.stop]}
        text = json.dumps(
            {"policy": identity(arguments.bundle, card), **conditions, "complete": True, **summarise(attempts)},
            indent=2,
        )
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
