"""Policies against each other: pairing by task and seed, and what cannot be paired."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from training.compare import compare, draw, read_all, table

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def result(
        name: str,
        failed: dict[str, list[int]],
        seeds: tuple[int, int] = (0, 4),
        complete: bool = True,
        max_steps: int = 9,
    ) -> str:
        scores = {task: {"failed_seeds": some} for task, some in failed.items()}
        path = tmp_path / f"{name}.json"
        about = {"complete": complete, "seeds": seeds, "max_steps": max_steps}
        path.write_text(json.dumps({**about, "tasks": scores}))
        return f"{name}={path}"

    return result


def test_differences_are_paired_by_task_and_seed(write: Write) -> None:
    base = write("base", {"reach-v3": [0, 1], "push-v3": [0, 1, 2, 3]})
    other = write("other", {"push-v3": [2, 3], "reach-v3": [1, 2]})  # in another order
    found = compare(read_all([base, other]))
    assert (found["base"]["successes"], found["other"]["successes"]) == (2, 4)
    assert found["other"]["tasks"] == {"reach-v3": [2, 4], "push-v3": [2, 4]}
    assert (found["other"]["gained"], found["other"]["lost"]) == (3, 1)
    assert found["other"]["difference"] == pytest.approx(25.0)
    low, high = found["other"]["difference_95"]
    assert low < 25 < high
    assert "difference" not in found["base"]
    assert "+25.0" in table(found) and "3 gained, 1 lost" in table(found)
    assert len(draw(found).axes) == 2


def test_the_same_policy_differs_by_nothing(write: Write) -> None:
    found = compare(read_all([write("a", {"reach-v3": [1, 3]}), write("b", {"reach-v3": [1, 3]})]))
    assert found["b"]["difference"] == 0 and found["b"]["difference_95"] == [0, 0]


def test_trainings_of_several_seeds_are_one_policy(write: Write) -> None:
    first, second = write("first", {"reach-v3": [0]}), write("second", {"reach-v3": [1, 2]})
    both = f"{first},{second.partition('=')[2]}"
    best, last = (write(name, {"reach-v3": failed}).partition("=")[2] for name, failed in (("a", []), ("b", [1, 2])))
    found = compare(read_all([both, f"other={best},{last}"]))
    assert found["first"]["by_training"] == [3, 2] and "3 / 4 (30-95 %); 2 / 4 (15-85 %) |" in table(found)
    assert found["first"]["tasks"] == {"reach-v3": [5, 8]}
    assert (found["other"]["gained"], found["other"]["lost"]) == (1, 0)
    with pytest.raises(ValueError, match="of first in one"):
        read_all([both, write("one", {"reach-v3": [1]})])
    alone = compare(read_all([write("c", {"reach-v3": []}, seeds=(0, 1)), write("d", {"reach-v3": [0]}, seeds=(0, 1))]))
    assert "-100.0; 0 gained, 1 lost" in table(alone)  # a single episode has no interval


def test_what_cannot_be_paired_is_refused(write: Write, tmp_path: Path) -> None:
    base = write("base", {"reach-v3": []})
    for other, said in (
        (write("seeds", {"reach-v3": []}, seeds=(1, 5)), "of base in seeds"),
        (write("tasks", {"push-v3": []}), "of base in tasks"),
        (write("cut", {"reach-v3": []}, complete=False), "cut short"),
        (base, "names that differ"),
        (f"again={base.partition('=')[2]}", "each file once"),
        (write("longer", {"reach-v3": []}, max_steps=10), "wanted {.*9.*} as in .*base.json, got {.*10"),
        (write("empty", {}), "wanted attempts, got none"),
        ("no name", "NAME=FILE"),
    ):
        with pytest.raises(ValueError, match=said):
            read_all([base, other])
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(ValueError, match="wanted what evaluate"):
        read_all([f"list={tmp_path / 'list.json'}"])
