"""MetaWorld as a robot: exact seeds, two living views, no privileged state; demonstrations that resume."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from alam_models.contract import Contract, prepare_frame
from alam_sim.metaworld_env import TASKS, MetaWorldEnv, metaworld_contract
from alam_sim.metaworld_tasks import INSTRUCTIONS, check_task, tier
from training.collect import CollectConfig, expert_action, parse_tasks, run_episode
from training.compare import read_outcomes
from training.data.lerobot import LeRobotDataset
from training.evaluate import evaluate

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def env() -> Iterator[MetaWorldEnv]:
    world = MetaWorldEnv("reach-v3")
    yield world
    world.close()


def test_fifty_tasks_in_four_tiers() -> None:
    tiers = [tier(task) for task in TASKS]
    assert [tiers.count(name) for name in ("easy", "medium", "hard", "very_hard")] == [28, 11, 6, 5]
    assert len(set(INSTRUCTIONS.values())) == 50
    assert max(len(words.encode()) for words in INSTRUCTIONS.values()) <= 48  # the mini policy's text length


def test_unknown_task_names_its_neighbours() -> None:
    with pytest.raises(ValueError, match=r"reach-v3.*got 'reech-v3'"):
        check_task("reech-v3")


def test_task_lists() -> None:
    assert parse_tasks(["reach-v3=7", "door-open-v3"], 3) == {"reach-v3": 7, "door-open-v3": 3}
    assert len(parse_tasks(["all"], 1)) == 50
    for words in (["reach-v3=x"], ["reach"], ["reach-v3=0"]):
        with pytest.raises(ValueError, match="wanted"):
            parse_tasks(words, 3)


@pytest.mark.sim
def test_same_seed_same_episode_whatever_came_before(env: MetaWorldEnv) -> None:
    def digest(seed: int) -> bytes:
        random = np.random.default_rng(seed)
        env.reset(seed)
        seen = b""
        for _ in range(5):
            env.step(random.uniform(-1, 1, 4))
            seen += env.state().tobytes() + b"".join(f.tobytes() for f in env.render().values())
        return seen

    first = digest(3)
    assert digest(4) != first
    assert digest(3) == first


@pytest.mark.sim
def test_views_differ_move_and_fit_the_contract(env: MetaWorldEnv) -> None:
    env.reset(0)
    before = env.render()
    for _ in range(10):
        env.step(np.array([1.0, 1.0, 0.0, 0.0]))
    after = env.render()
    assert not np.array_equal(before["third_person"], before["wrist"])
    for role, frame in after.items():
        assert not np.array_equal(before[role], frame)
        camera = env.contract.camera(role)
        assert prepare_frame(frame, camera).shape == (camera.height, camera.width, 3)
    assert env.state().shape == (4,) and env.contract.state_names[0] == "hand_x"


@pytest.mark.sim
def test_the_hand_moves_as_told_and_rubbish_is_refused(env: MetaWorldEnv) -> None:
    env.reset(0)
    start = env.state()
    for _ in range(10):
        env.step(np.array([1.0, 0.0, 0.0, 0.0]))
    moved = env.state() - start
    assert 0.01 < moved[0] < 0.11 and abs(moved[1:3]).max() < moved[0]  # at most 1 cm a step
    for action in (np.zeros(3), np.full(4, np.nan)):
        with pytest.raises(ValueError, match="4 finite"):
            env.step(action)


@pytest.mark.sim
def test_one_environment_a_process(env: MetaWorldEnv) -> None:
    with pytest.raises(RuntimeError, match="close"):
        MetaWorldEnv("door-open-v3")


@pytest.mark.sim
def test_the_expert_solves_and_disturbance_keeps_its_labels_clean(env: MetaWorldEnv) -> None:
    from metaworld.policies import ENV_POLICY_MAP

    clean = run_episode(env, 2, CollectConfig())
    assert clean is not None and clean.success.any() and len(clean.state) == clean.success.argmax() + 1 + 16
    disturbed = run_episode(env, 3, CollectConfig())
    assert disturbed is not None
    env.reset(3)
    assert np.array_equal(disturbed.action[0], expert_action(ENV_POLICY_MAP["reach-v3"](), env))
    assert run_episode(env, 2, CollectConfig(max_steps=5)) is None


@pytest.mark.sim
def test_collection_resumes_to_the_same_dataset(tmp_path: Path) -> None:
    def collect(out: Path, *more: str) -> subprocess.CompletedProcess[str]:
        words = ["--tasks", "reach-v3", "--episodes", "2", "--out", str(out), *more]
        return subprocess.run(
            [sys.executable, str(ROOT / "training/collect.py"), *words], capture_output=True, text=True
        )

    out = tmp_path / "data"
    done = collect(out)
    assert done.returncode == 0, done.stderr
    first = LeRobotDataset(out)
    assert [row["seed"] for row in first.episodes] == [0, 2] and first.contract == metaworld_contract()
    assert "reach-v3: 2 episodes, 1 failed and dropped" in done.stdout  # disturbed seed 1 runs out of steps
    assert Contract.load(out / "contract.yaml") == first.contract

    for path in (*(out / "staging").glob("*_00000002.*"), out / "meta" / "info.json"):
        path.unlink()
    assert collect(out).returncode == 0
    again = LeRobotDataset(out)
    assert np.array_equal(first.action, again.action) and np.array_equal(first.state, again.state)
    for one, two in zip(first.frames(1, "wrist"), again.frames(1, "wrist"), strict=True):
        assert np.array_equal(one, two)

    other = collect(out, "--seed", "9")
    assert other.returncode != 0 and "was begun with" in other.stderr and "Traceback" not in other.stderr


@pytest.mark.sim
@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_every_task_opens_renders_and_steps(task: str) -> None:
    world = MetaWorldEnv(task)
    try:
        world.reset(0)
        assert isinstance(world.step(np.zeros(4)), bool)
        frames = world.render()
        assert frames["third_person"].std() > 10 and frames["wrist"].std() > 5
    finally:
        world.close()


@pytest.mark.sim
def test_evaluation_counts_every_seed_and_gives_the_same_twice(tiny_bundle: Path) -> None:
    def attempts() -> list[tuple[int, int, bool]]:
        found = evaluate(tiny_bundle, ["reach-v3"], range(20000, 20003), 2, 8, None, 0)
        return [(a.seed, a.steps, a.success) for a in found]

    first = attempts()
    assert [seed for seed, _, _ in first] == [20000, 20001, 20002]
    assert all(steps == 8 or success for _, steps, success in first)
    assert attempts() == first


@pytest.mark.sim
def test_evaluation_writes_what_comparing_reads(tiny_bundle: Path, tmp_path: Path) -> None:
    asked = ["--bundle", tiny_bundle, "--tasks", "reach-v3", "--seeds", "20000:20002", "--max-steps", "2"]
    written = tmp_path / "results" / "tiny.json"
    subprocess.run([sys.executable, "training/evaluate.py", *map(str, asked), "--json", written], cwd=ROOT, check=True)
    assert read_outcomes(written)[0] == {("reach-v3", 20000, 0): False, ("reach-v3", 20001, 0): False}
    assert json.loads(written.read_text())["policy"].startswith(f"{tiny_bundle.name}@")


@pytest.mark.sim
@pytest.mark.parametrize(("words", "said"), [("--replan 99", "--replan: wanted 1 to"), ("--workers 0", "of 1 or more")])
def test_evaluation_refuses_what_it_cannot_do(words: str, said: str, tiny_bundle: Path) -> None:
    command = [sys.executable, "training/evaluate.py", "--bundle", str(tiny_bundle), "--tasks", "reach-v3"]
    ended = subprocess.run([*command, *words.split()], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 1 and ended.stderr.startswith("evaluate: ") and said in ended.stderr
