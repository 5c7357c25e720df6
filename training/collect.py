"""Demonstrations from MetaWorld's scripted experts -> a LeRobot v3 dataset.

    python training/collect.py --tasks reach-v3 drawer-close-v3 --episodes 50 --out data/metaworld

An episode is a pure function of (task, seed), so a stopped collection goes on where it was. In every other episode
the executed action carries disturbances while the clean expert action is recorded (DART, Laskey et al. 2017): the
policy sees what to do beside the path, too. Failed episodes are dropped and counted."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import warnings
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from tqdm import tqdm

from alam_sim.metaworld_env import TASKS, THIRD_PERSON_POSITION, MetaWorldEnv, metaworld_contract
from alam_sim.metaworld_tasks import check_task
from training.data.lerobot import Episode, join_episodes, stage_episode

SEEDS_PER_JOB = 5
HOPELESS = 40  # failures without a success after which a task is given up


@dataclass(frozen=True)
class CollectConfig:
    """What decides every recorded bit; saved as collection.yaml beside the data."""

    max_steps: int = 200  # give an episode up
    tail: int = 16  # steps kept after success, so that every chunk before it is complete
    disturbance_std: float = 0.7  # of the xyz command, in every other episode
    disturbance_steps: int = 10  # how long one disturbance lasts
    disturbance_share: float = 0.5  # of the time


def expert_action(expert: object, env: MetaWorldEnv) -> np.ndarray:
    """-> (4,) float32 in [-1, 1], from privileged state."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the experts warn that their gains saturate: clipped here
        action = expert.get_action(env.expert_observation())  # type: ignore[attr-defined]
    return np.clip(np.asarray(action, np.float32), -1.0, 1.0)


def run_episode(env: MetaWorldEnv, seed: int, config: CollectConfig) -> Episode | None:
    """One demonstration, or None when the expert did not succeed within max_steps."""
    from metaworld.policies import ENV_POLICY_MAP

    expert = ENV_POLICY_MAP[env.task]()
    generator = np.random.default_rng([seed, 7])
    disturbed = seed % 2 == 1
    frames: dict[str, list[np.ndarray]] = {role: [] for role in env.contract.roles}
    states, actions, successes = [], [], []
    disturbance = np.zeros(4, np.float32)
    left = config.max_steps
    succeeded = False
    env.reset(seed)
    while left > 0:
        for role, frame in env.render().items():
            frames[role].append(frame)
        states.append(env.state())
        action = expert_action(expert, env)
        actions.append(action)
        if disturbed and env.steps % config.disturbance_steps == 0:
            active = generator.random() < config.disturbance_share
            disturbance[:3] = generator.normal(0, config.disturbance_std, 3) if active else 0
        successes.append(env.step(np.clip(action + disturbance, -1, 1)))
        left -= 1
        if successes[-1] and not succeeded:
            succeeded = True
            left = min(left, config.tail)
    if not succeeded:
        return None
    return Episode(
        frames={role: np.stack(images) for role, images in frames.items()},
        state=np.array(states),
        action=np.array(actions),
        success=np.array(successes),
        instruction=env.instruction,
        source=env.task,
        seed=seed,
    )


def collect_seeds(task: str, seeds: list[int], staging: Path, config: CollectConfig) -> dict[int, bool]:
    """Worker: seeds not staged yet are run; -> {seed: success}."""
    outcome = {}
    env = None
    for seed in seeds:
        failed = staging / f"{task}_{seed:08d}.failed"
        if not (staging / f"{task}_{seed:08d}.npz").exists() and not failed.exists():
            if env is None:
                env = _worker_env(task)
            episode = run_episode(env, seed, config)
            if episode is None:
                failed.touch()
            else:
                _check_views(episode)
                stage_episode(staging, episode, env.contract.control_rate_hz)
        outcome[seed] = not failed.exists()
    return outcome


def _worker_env(task: str) -> MetaWorldEnv:
    """The process's one environment, kept while the task stays."""
    alive = MetaWorldEnv.alive()
    if alive is None or alive.task != task:
        if alive is not None:
            alive.close()
        alive = MetaWorldEnv(task)
    return alive


def _check_views(episode: Episode) -> None:
    """Raises RuntimeError when the renderer shows stale memory: views alike, or nothing moves."""
    third, wrist = episode.frames["third_person"], episode.frames["wrist"]
    if np.array_equal(third[0], wrist[0]) or np.array_equal(third[0], third[-1]) or np.array_equal(wrist[0], wrist[-1]):
        raise RuntimeError(f"{episode.source} seed {episode.seed}: wanted two views that change, got stale frames")


def collect(tasks: dict[str, int], out: Path, seed: int, workers: int, config: CollectConfig) -> dict[str, int]:
    """tasks {task: episodes} -> dataset at `out`; -> {task: failed episodes}."""
    staging = out / "staging"
    staging.mkdir(parents=True, exist_ok=True)
    settings = {
        "seed": seed,
        **asdict(config),
        "metaworld": version("metaworld"),
        "camera": list(THIRD_PERSON_POSITION),
    }
    settings_path = out / "collection.yaml"
    if settings_path.exists() and (old := yaml.safe_load(settings_path.read_text())["settings"]) != settings:
        raise ValueError(f"{out} was begun with {old}, got {settings}; use another --out or the same settings")
    _write(settings_path, {"settings": settings, "tasks": tasks})

    outcome: dict[str, dict[int, bool]] = {task: {} for task in tasks}
    next_seed = dict.fromkeys(tasks, seed)
    bar = tqdm(total=sum(tasks.values()), unit="episode", desc="collect")
    pending: dict[Future[dict[int, bool]], str] = {}
    os.environ.setdefault("LP_NUM_THREADS", "1")  # software GL: one thread a process
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=leave_interrupts_to_the_parent)
    try:
        while True:
            for task, wanted in tasks.items():
                running = sum(1 for t in pending.values() if t == task) * SEEDS_PER_JOB
                while sum(outcome[task].values()) + running < wanted and len(pending) < 2 * workers:
                    seeds = list(range(next_seed[task], next_seed[task] + SEEDS_PER_JOB))
                    next_seed[task] += SEEDS_PER_JOB
                    pending[pool.submit(collect_seeds, task, seeds, staging, config)] = task
                    running += SEEDS_PER_JOB
            if not pending:
                break
            done, _ = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                task = pending.pop(future)
                outcome[task].update(future.result())
                if len(outcome[task]) >= HOPELESS and not any(outcome[task].values()):
                    raise ValueError(
                        f"{task}: wanted its expert to succeed, got {len(outcome[task])} failures of as many"
                    )
            bar.n = sum(min(n, sum(outcome[t].values())) for t, n in tasks.items())
            bar.set_postfix(failed=sum(len(o) - sum(o.values()) for o in outcome.values()))
    finally:
        bar.close()
        pool.shutdown(cancel_futures=True)

    staged = []
    failed = {}
    for task, wanted in tasks.items():
        good = [s for s, ok in sorted(outcome[task].items()) if ok][:wanted]
        failed[task] = sum(1 for s, ok in outcome[task].items() if not ok and s < good[-1])
        staged += [staging / f"{task}_{s:08d}.npz" for s in good]
    join_episodes(out, staged, metaworld_contract())
    _write(settings_path, {"settings": settings, "tasks": tasks, "failed": failed})
    return failed


def leave_interrupts_to_the_parent() -> None:
    """In a worker process: Ctrl-C reaches the whole group, and one tidy end is enough."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _write(path: Path, record: dict[str, Any]) -> None:
    temporary = path.with_suffix(".part")
    temporary.write_text(yaml.safe_dump(record))
    temporary.rename(path)


def parse_tasks(words: list[str], episodes: int) -> dict[str, int]:
    """["reach-v3=200", "door-open-v3"] -> {"reach-v3": 200, "door-open-v3": episodes}; "all" is MT50."""
    tasks: dict[str, int] = {}
    for word in TASKS if words == ["all"] else words:
        task, _, count = word.partition("=")
        check_task(task)
        if count and not count.isdigit():
            raise ValueError(f"--tasks: wanted TASK or TASK=EPISODES, got {word!r}")
        tasks[task] = int(count) if count else episodes
        if tasks[task] < 1:
            raise ValueError(f"--episodes: wanted at least 1 for {task}, got {tasks[task]}")
    return tasks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--tasks", nargs="+", required=True, help="task names, TASK=EPISODES for another number, or all"
    )
    parser.add_argument("--episodes", type=int, default=50, help="successful episodes a task (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the dataset")
    parser.add_argument("--seed", type=int, default=0, help="first seed of every task (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: %(default)s)")
    arguments = parser.parse_args()
    try:
        tasks = parse_tasks(arguments.tasks, arguments.episodes)
        failed = collect(tasks, arguments.out, arguments.seed, arguments.workers, CollectConfig())
    except (ValueError, RuntimeError, OSError) as error:
        sys.exit(f"collect: {error}")
    except KeyboardInterrupt:
        sys.exit(f"collect: stopped; run the same command again to go on ({arguments.out})")
    for task, episodes in tasks.items():
        print(f"{task}: {episodes} episodes, {failed[task]} failed and dropped")
    print(f"dataset at {arguments.out}; each episode's frames can be made again from its task and seed")


if __name__ == "__main__":
    main()
