"""Policies against each other: success by task and over all of them, from results on the same tasks and seeds.

    python training/compare.py action=results/action.json alam=results/alam.json --out docs/transfer

The results are what evaluate.py or tools/run_tasks.py writes with --json; NAME=FILE,FILE,... are trainings of several
seeds, of one policy. The first is the baseline of all differences, which are paired by task, seed and place in that
list. Into --out go success.png and comparison.json."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from alam_common.statistics import wilson
from training.probing.figures import COLOURS, save_both
from training.probing.measures import estimate, mean

Outcomes = dict[tuple[str, int, int], bool]  # (task, seed, training) -> solved


def read_outcomes(path: Path, training: int = 0) -> tuple[Outcomes, dict[str, Any]]:
    """-> outcomes, and the conditions they were measured under.

    Raises ValueError for a file that no measurement wrote, or one that was cut short."""
    try:
        result = json.loads(path.read_text())
        if not result["complete"]:
            raise ValueError(f"{path}: wanted a complete measurement, got one that was cut short; measure again")
        seeds, tasks = range(*result["seeds"]), result["tasks"].items()
        found = {(task, seed, training): seed not in score["failed_seeds"] for task, score in tasks for seed in seeds}
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: wanted what evaluate.py or run_tasks.py writes with --json, got {error!r}") from None
    if not found:
        raise ValueError(f"{path}: wanted attempts, got none")
    return found, {key: result.get(key) for key in ("mode", "max_steps", "timeout_s")}


def read_all(words: Sequence[str]) -> dict[str, Outcomes]:
    """["NAME=FILE,FILE", ...] -> {name: outcomes}. Raises ValueError unless all have the same tasks and seeds and were
    measured alike, each file once."""
    found: dict[str, Outcomes] = {}
    conditions: list[tuple[Path, dict[str, Any]]] = []
    for word in words:
        name, equals, files = word.partition("=")
        if not equals or not name or name in found:
            raise ValueError(f"wanted NAME=FILE with names that differ, got {word!r}")
        found[name] = {}
        for training, file in enumerate(map(Path, files.split(","))):
            outcomes, measured = read_outcomes(file, training)
            if any(file.resolve() == path.resolve() for path, _ in conditions):
                raise ValueError(f"wanted each file once, got {file} twice")
            conditions.append((file, measured))
            if measured != conditions[0][1]:
                raise ValueError(f"{file}: wanted {conditions[0][1]} as in {conditions[0][0]}, got {measured}")
            found[name] |= outcomes
        first = next(iter(found))
        if found[name].keys() != found[first].keys():
            raise ValueError(
                f"wanted the tasks, seeds and trainings of {first} in {name}, too: only so are they paired"
            )
    return found


def compare(outcomes: dict[str, Outcomes], seed: int = 0) -> dict[str, Any]:
    """-> {name: {"tasks": {task: [successes, trials]}, "successes", "trials", "by_training": successes of each,
    "success_95" [%]: Wilson's interval, of several trainings together by bootstrap over episodes; of all but the first
    "difference" [points], "difference_95": bootstrap over episodes, "gained" and "lost" attempts}}.

    Intervals know nothing of how trainings vary: look at by_training."""
    base = next(iter(outcomes.values()))
    tasks = list(dict.fromkeys(task for task, *_ in base))
    episode = {place: number for number, place in enumerate(dict.fromkeys(key[:2] for key in base))}
    groups = np.array([episode[key[:2]] for key in base])  # what several trainings do in one episode is alike
    before = np.array(list(base.values()), float)
    result: dict[str, Any] = {}
    for name, mine in outcomes.items():
        solved = np.array([mine[key] for key in base], float)
        by_task = {t: [sum(here := [v for key, v in mine.items() if key[0] == t]), len(here)] for t in tasks}
        successes, trials = int(solved.sum()), len(solved)
        result[name] = {"tasks": by_task, "successes": successes, "trials": trials}
        trainings = sorted({training for *_, training in base})
        result[name]["by_training"] = [sum(v for key, v in mine.items() if key[2] == t) for t in trainings]
        low: float | None
        high: float | None
        low, high = (100 * end for end in wilson(successes, trials))
        if len(trainings) > 1 and len(episode) > 1:
            _, low, high = estimate(mean, [100 * solved, np.ones(trials)], groups, seed)
        result[name]["success_95"] = [low, high]
        if mine is not base:
            columns = [100 * (solved - before), np.ones(trials)]
            value, low, high = estimate(mean, columns, groups, seed)
            result[name] |= {"difference": value, "difference_95": [low, high]}
            result[name] |= {"gained": int((solved > before).sum()), "lost": int((solved < before).sum())}
    return result


def table(result: dict[str, Any]) -> str:
    """-> Markdown: a row a task with Wilson intervals, a column a policy; below, all tasks and differences."""
    base, *_ = result
    lines = [["task", *result], ["---"] * (1 + len(result))]
    rows = result.values()
    lines += [[t, *(_rate(*r["tasks"][t]) for r in rows)] for t in result[base]["tasks"]]
    lines.append(["all", *(f"{r['successes']} / {r['trials']} ({_percent(r['success_95'])})" for r in rows)])
    if any(len(r["by_training"]) > 1 for r in rows):
        each = result[base]["trials"] // len(result[base]["by_training"])
        lines.append(["by training", *("; ".join(_rate(s, each) for s in r["by_training"]) for r in rows)])
    lines.append([f"points above {base}", *(_difference(r) for r in rows)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _rate(successes: int, trials: int) -> str:
    return f"{successes} / {trials} ({_percent([100 * end for end in wilson(successes, trials)])})"


def _percent(ends: Sequence[float]) -> str:
    return f"{ends[0]:.0f}-{ends[1]:.0f} %"


def _difference(row: dict[str, Any]) -> str:
    if "difference" not in row:
        return ""
    low, high = row["difference_95"]
    ends = "" if low is None else f" [{low:+.1f}, {high:+.1f}]"
    return f"{row['difference']:+.1f}{ends}; {row['gained']} gained, {row['lost']} lost"


def draw(result: dict[str, Any], dark: bool = False) -> Figure:
    """Left all tasks together with 95 % intervals, right each task."""
    tasks = list(next(iter(result.values()))["tasks"])
    figure = Figure(figsize=(11, 1.2 + 0.38 * max(len(tasks), 2 * len(result))), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.6))
    names = list(result)
    for place, (name, row) in enumerate(result.items()):
        colour, rate = COLOURS[place % len(COLOURS)][dark], 100 * row["successes"] / row["trials"]
        low, high = row["success_95"]
        left.barh(place, rate, color=colour, alpha=0.75, height=0.62)
        left.errorbar(rate, place, xerr=[[rate - low], [high - rate]], color="#888", capsize=4, linewidth=1.4)
        left.text(2, place, f"{rate:.0f} %", va="center", color="#16181c" if dark else "white", weight="bold")
        offset = (place - (len(names) - 1) / 2) * 0.8 / len(names)
        at = [100 * s / n for s, n in (row["tasks"][t] for t in tasks)]
        right.scatter(at, np.arange(len(tasks)) + offset, s=34, color=colour, label=name, zorder=3)
    left.set_yticks(range(len(names)), names)
    left.set(title="all tasks, 95 % intervals", xlabel="success [%]", xlim=(0, 100))
    right.set_yticks(range(len(tasks)), [t.removesuffix("-v3") for t in tasks])
    right.set(title=f"by task, {next(iter(result.values()))['tasks'][tasks[0]][1]} attempts each", xlabel="success [%]")
    right.set_xlim(-4, 104)
    for edge in np.arange(len(tasks) - 1) + 0.5:
        right.axhline(edge, color="#888", linewidth=0.4, alpha=0.5)
    for axis in (left, right):
        axis.invert_yaxis()
        axis.grid(axis="x", linewidth=0.6)
        axis.set_axisbelow(True)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", metavar="NAME=FILE[,FILE...]", help="the baseline first")
    parser.add_argument("--out", type=Path, required=True, help="folder of the figure and the figures")
    arguments = parser.parse_args()
    try:
        result = compare(read_all(arguments.results))
        arguments.out.mkdir(parents=True, exist_ok=True)
        save_both(lambda dark: draw(result, dark), arguments.out / "success.png")
        (arguments.out / "comparison.json").write_text(json.dumps(result, indent=1) + "\n")
    except (ValueError, OSError) as error:
        sys.exit(f"compare: {error}")
    print(table(result))


if __name__ == "__main__":
    main()
