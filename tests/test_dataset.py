"""A dataset read back is what was written, to the bit; samplers keep to their laws; bad data is named."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from synthetic import make_dataset, make_episode

from alam_models.contract import Contract, prepare_frame
from training.data.frames import frame_cache
from training.data.lerobot import LeRobotDataset
from training.data.samplers import chunk_starts, split_episodes
from training.data.statistics import measure
from training.data.video import read_video


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "squares")


def test_everything_comes_back_to_the_bit(folder: Path) -> None:
    dataset = LeRobotDataset(folder)
    assert len(dataset.episodes) == 6 and len(dataset) == 6 * 24
    for index, row in enumerate(dataset.episodes):
        episode = make_episode(row["seed"])
        steps = slice(row["dataset_from_index"], row["dataset_to_index"])
        assert np.array_equal(dataset.action[steps], episode.action)
        assert np.array_equal(dataset.state[steps], episode.state.astype(np.float32))
        assert np.array_equal(dataset.success[steps], episode.success)
        assert dataset.instruction(index) == episode.instruction
        for role, frames in episode.frames.items():
            assert np.array_equal(np.stack(list(dataset.frames(index, role))), frames)


def test_cached_frames_are_what_the_policy_would_see(folder: Path) -> None:
    dataset = LeRobotDataset(folder)
    camera = dataset.contract.camera("third_person")
    cache = frame_cache(dataset, "third_person")
    episode = make_episode(dataset.episodes[2]["seed"])
    first = dataset.episodes[2]["dataset_from_index"]
    for step in (0, 23):
        served = prepare_frame(episode.frames["third_person"][step], camera)  # what alam_models.runtime calls
        assert np.array_equal(cache[first + step], served)
    assert frame_cache(dataset, "third_person").shape == cache.shape  # the second call reads the file


def test_layout_is_lerobot_v3(folder: Path) -> None:
    tasks = pq.read_table(folder / "meta" / "tasks.parquet").to_pydict()
    assert sorted(tasks["__index_level_0__"]) == ["push the square 0", "push the square 1"]
    episodes = pq.read_table(folder / "meta" / "episodes" / "chunk-000" / "file-000.parquet").to_pylist()
    key = "videos/observation.images.wrist"
    assert [row["dataset_from_index"] for row in episodes] == list(range(0, 144, 24))
    assert episodes[1][f"{key}/from_timestamp"] == pytest.approx(24 / 80)
    assert (folder / "videos" / "observation.images.wrist" / "chunk-000" / "file-000.mp4").is_file()


def test_contract_that_disagrees_with_the_columns_is_refused(folder: Path, tmp_path: Path) -> None:
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(folder, broken, ignore=shutil.ignore_patterns("staging", "cache"))
    contract = Contract.load(broken / "contract.yaml")
    (broken / "contract.yaml").write_text(contract.to_yaml().replace("name: grip\n", "name: gripper\n"))
    with pytest.raises(ValueError, match="gripper"):
        LeRobotDataset(broken)
    (broken / "meta" / "info.json").unlink()
    with pytest.raises(ValueError, match=r"info\.json"):
        LeRobotDataset(broken)


def test_truncated_video_is_a_sentence(folder: Path, tmp_path: Path) -> None:
    video = next((folder / "videos").rglob("*.mp4"))
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(video.read_bytes()[:2000])
    with pytest.raises(ValueError, match="wanted frames"):
        list(read_video(cut, 0, 24, 80.0))
    with pytest.raises(ValueError, match="truncated"):
        list(read_video(video, 140, 24, 80.0))


def test_chunks_lie_inside_their_episode(folder: Path) -> None:
    dataset = LeRobotDataset(folder)
    starts = chunk_starts(dataset, [0, 2], horizon=8)
    assert (starts // 24 == (starts + 8) // 24).all()
    assert set((starts // 24).tolist()) == {0, 2}
    with pytest.raises(ValueError, match="horizon 24"):
        chunk_starts(dataset, [0], horizon=24)


def test_split_is_by_episode_and_reproducible() -> None:
    training, held_out = split_episodes(100, seed=3)
    assert len(held_out) == 5 and sorted(training + held_out) == list(range(100))
    assert split_episodes(100, seed=3) == (training, held_out)
    assert split_episodes(100, seed=4) != (training, held_out)


@pytest.mark.parametrize(
    ("name", "spoil", "said"),
    [
        ("state.hand_x", lambda x: 0.3 + 1e-4 * x, "nearly constant (deviation"),
        ("action.delta_z", lambda x: np.clip(3 * x, -1, 0.3).clip(-0.1), "clipped (exactly "),
        ("latent.wrist.2", lambda x: 1e-5 * x, "nearly constant (deviation"),
        ("latent.wrist.1", lambda x: np.minimum(x, -0.5), "clipped (exactly -0.5 in "),
        ("action.grip", lambda x: np.where(np.arange(len(x)) == 5, np.inf, x), "NaN or infinite in 1 of 96 steps"),
        ("latent.wrist.0", lambda x: np.where(np.arange(len(x)) == 5, np.nan, x), "NaN or infinite in 1 of 92 steps"),
    ],
)
def test_dimensions_not_worth_learning_from_are_named(name: str, spoil: Any, said: str, folder: Path) -> None:
    dataset = LeRobotDataset(folder)
    latents = {"wrist": np.random.default_rng(0).normal(size=(144, 4)).astype(np.float32)}
    healthy = measure(dataset, [0, 1, 2, 3], latents)
    stream, *_, channel = name.split(".")
    values = latents["wrist"] if stream == "latent" else getattr(dataset, stream)
    names = {"state": dataset.contract.state_names, "action": dataset.contract.action_names, "latent": tuple("0123")}
    column = names[stream].index(channel)
    values[:, column] = spoil(values[:, column])
    with pytest.raises(ValueError) as stopped:
        measure(dataset, [0, 1, 2, 3], latents, ("action.delta_x",))  # accepts another
    assert f"{name} is {said}" in str(stopped.value) and str(stopped.value).count(" is ") == 1
    if "NaN" in said:
        with pytest.raises(ValueError, match="NaN"):
            measure(dataset, [0, 1, 2, 3], latents, (name,))
        return
    accepted = measure(dataset, [0, 1, 2, 3], latents, (name,))
    assert accepted.compute_hash() != healthy.compute_hash()
    assert min(*accepted.state_std, *accepted.action_std, *accepted.latent_std["wrist"]) > 0


def test_a_switch_may_rest_at_its_ends_and_an_accepted_name_must_be_one(folder: Path) -> None:
    dataset = LeRobotDataset(folder)
    dataset.action[:, 3] = np.where(np.arange(144) % 10 == 0, -1, 1)
    measure(dataset, [0, 1], {})
    with pytest.raises(ValueError, match=r"--accept: .* got \['grip'\]; choose from .*action\.grip"):
        measure(dataset, [0, 1], {}, ("grip",))


def test_statistics_stop_on_actions_beyond_the_contract_and_on_dead_latents(folder: Path) -> None:
    dataset = LeRobotDataset(folder)
    latents = {role: np.random.default_rng(0).normal(size=(144, 4)).astype(np.float32) for role in ("wrist",)}
    statistics = measure(dataset, [0, 1], latents)
    assert statistics.action_mean == pytest.approx(dataset.action[:48].mean(0), abs=1e-5)
    with pytest.raises(ValueError, match="constant"):
        measure(dataset, [0, 1], {"wrist": np.zeros((144, 4), np.float32)})
    dataset.action[7, 2] = 1.5
    with pytest.raises(ValueError, match="delta_z"):
        measure(dataset, [0, 1], latents)
