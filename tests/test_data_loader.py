"""The loader: the same bits for the same number, whoever decodes them, and one clear sentence for what cannot be."""

from __future__ import annotations

import logging
import pickle
import re
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tyro
import yaml
from clip_folders import calvin_folder, lerobot_v21, rlds_folder, video_folder, which

from training.data import corpus as corpus_module
from training.data.clips import Clip, Skipped
from training.data.corpus import Corpus, summary
from training.data.loader import DataConfig, TripletBatch, TripletLoader, load_corpus, loading_rate
from training.data.mixture import TABLE_7, SourceConfig, load_mixture, validate

SIZE = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mixture of three kinds; episodes are numbered on through the sources."""
    path = tmp_path_factory.mktemp("mixture")
    video_folder(path / "videos", [40] * 8, ("top", "wrist"))
    lerobot_v21(path / "lerobot", [30] * 4)
    calvin_folder(path / "calvin", [60, 50])
    (path / "mixture.yaml").write_text(
        yaml.safe_dump(
            {
                "videos": {"path": "videos", "weight": 2, "stride": 2, "views": ["top", "wrist"]},
                "lerobot": {"path": "lerobot", "weight": 1, "stride": 1},
                "CALVIN": {"path": "calvin", "weight": 1},
            }
        )
    )
    return path


def config_of(folder: Path, **options: Any) -> DataConfig:
    return DataConfig(**{"mixture": folder / "mixture.yaml", "max_gap": 4, "workers": 0, "stride": 1, **options})


def batches(config: DataConfig, count: int, side: str = "training", **options: Any) -> list[TripletBatch]:
    loader = TripletLoader(config, side, SIZE, **{"batch": 4, "seed": 0, **options})
    found = list(islice(loader, count))
    loader.close()
    return found


def same(left: list[TripletBatch], right: list[TripletBatch]) -> bool:
    return len(left) == len(right) and all(
        torch.equal(a.frames, b.frames) and torch.equal(a.numbers, b.numbers) and a.next == b.next
        for a, b in zip(left, right, strict=True)
    )


def test_frames_are_those_that_the_numbers_say(folder: Path) -> None:
    config = config_of(folder)
    corpus = load_corpus(config, SIZE)
    found = batches(config, 20, corpus=corpus)
    for batch in found:
        assert batch.frames.shape == (4, 3, SIZE, SIZE, 3) and batch.frames.dtype == torch.uint8
        numbers, episodes = which(batch.frames.numpy())
        assert np.array_equal(numbers, batch.numbers.numpy())
        assert (episodes == episodes[:, :1]).all()
    seen = {corpus.clip(int(n)).source for batch in found for n in batch.clips}
    assert seen == {"videos", "lerobot", "CALVIN"}


def test_any_number_of_workers_gives_the_same_bits(folder: Path) -> None:
    config = config_of(folder, per_visit=2)
    alone = batches(config, 8)
    assert same(alone, batches(replace(config, workers=2), 8))
    assert not same(alone, batches(config, 8, seed=1))


def test_a_loader_started_in_the_middle_of_an_epoch_goes_on_as_if_never_stopped(folder: Path) -> None:
    config = config_of(folder)
    whole = batches(config, 12, world=2, rank=1)  # more than an epoch
    stopped = whole[3].next
    epoch = TripletLoader(config, "training", SIZE, batch=4, seed=0).triplets.visits
    assert stopped % epoch and whole[-1].next > epoch
    assert same(whole[4:], batches(config, 8, world=2, rank=1, start=stopped))


def test_each_iteration_begins_anew_also_behind_a_close(folder: Path) -> None:
    loader = TripletLoader(config_of(folder, workers=1), "held_out", SIZE, batch=4, seed=0)
    first, second = list(islice(loader, 2)), list(islice(loader, 2))
    loader.close()
    third = list(islice(loader, 2))
    loader.close()
    assert same(first, second) and same(first, third)


def test_a_loader_leaves_the_random_state_of_training_alone(folder: Path) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    batches(config_of(folder), 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_ranks_see_no_clip_twice_in_an_epoch_and_together_see_what_one_would(folder: Path) -> None:
    config = DataConfig(folder / "videos", stride=1, max_gap=4, workers=0)
    corpus = load_corpus(config, SIZE)
    loader = TripletLoader(config, "training", SIZE, batch=1, seed=0, corpus=corpus)
    epoch = loader.triplets.visits
    alone = list(islice(loader, epoch))
    seen = []
    for rank in range(3):
        share = batches(config, epoch // 3, batch=1, rank=rank, world=3, corpus=corpus)
        assert same([replace_next(b) for b in share], [replace_next(b) for b in alone[rank::3]])
        seen += [int(batch.clips) for batch in share]
    assert len(set(seen)) == len(seen)


def replace_next(batch: TripletBatch) -> TripletBatch:
    return batch._replace(next=0)


def test_both_views_of_an_episode_are_on_one_side_of_the_split(folder: Path) -> None:
    corpus = load_corpus(config_of(folder), SIZE)
    names = {}
    for side in ("training", "held_out"):
        numbers = corpus.split(side, seed=5)
        names[side] = {(corpus.clip(n).source, corpus.clip(n).episode) for n in numbers.tolist()}
        assert np.array_equal(corpus.split(side, seed=5), numbers)
    assert not names["training"] & names["held_out"]
    assert {source for source, _ in names["held_out"]} == {"videos", "lerobot", "CALVIN"}  # from every source
    assert len(names["training"] | names["held_out"]) == 14
    sides = {tuple(corpus.split("held_out", seed).tolist()) for seed in range(8)}
    assert len(sides) > 1
    with pytest.raises(ValueError, match="training or held_out"):
        corpus.split("test", 0)


def test_trainings_of_many_seeds_can_share_one_split(folder: Path) -> None:
    corpus, shared = load_corpus(config_of(folder), SIZE), config_of(folder, split_seed=5)
    assert not np.array_equal(corpus.split("held_out", 5), corpus.split("held_out", 1))
    loaders = {
        (side, seed): TripletLoader(shared, side, SIZE, batch=4, seed=seed, corpus=corpus)
        for side in ("training", "held_out")
        for seed in (1, 2)
    }
    for (side, seed), loader in loaders.items():
        assert np.array_equal(loader.numbers, corpus.split(side, 5))
        assert loader.description()["split_seed"] == 5 and loader.description()["seed"] == seed
    first, second = (next(iter(loaders["training", seed])) for seed in (1, 2))
    assert not torch.equal(first.frames, second.frames)  # the sampling is each seed's own
    own = TripletLoader(config_of(folder), "held_out", SIZE, batch=4, seed=1, corpus=corpus)
    assert np.array_equal(own.numbers, corpus.split("held_out", 1)) and own.description()["split_seed"] == 1


def test_a_cache_of_frames_gives_the_same_bits_and_is_made_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(folder)
    cached = replace(config, cache=tmp_path / "cache", cache_frames=True)
    decoded = batches(config, 6)
    assert same(decoded, batches(cached, 6))
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"}
    assert not [path for path in files if "part" in path.name]

    def never(*_: Any) -> Any:
        raise AssertionError("decoded although the frames are there")

    with monkeypatch.context() as patch:
        patch.setattr(corpus_module, "read_frames", never)
        assert same(decoded, batches(cached, 6))
    assert same(decoded, batches(replace(cached, workers=1), 6))
    assert files == {path: path.stat().st_mtime_ns for path in files}
    video_folder(folder / "videos", [41], ("top",), first=8)  # the data change: the old list is not used
    assert len(load_corpus(cached, SIZE)) == len(Corpus(load_mixture(cached.mixture))) == 25
    (folder / "videos" / "008.top.mp4").unlink()


def test_ranks_that_start_together_make_a_cache_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(folder, cache=tmp_path / "cache", cache_frames=True)
    made: list[Path] = []
    decode = Corpus._decode

    def counted(self: Corpus, number: int, path: Path, size: int) -> dict[int, str]:
        made.append(path)
        return decode(self, number, path, size)

    monkeypatch.setattr(Corpus, "_decode", counted)
    with ThreadPoolExecutor(3) as pool:
        corpora = list(pool.map(lambda _: load_corpus(config, SIZE), range(3)))
    assert len(made) == len(set(made)) == 3
    assert len({corpus.read(0, np.arange(5), SIZE).tobytes() for corpus in corpora}) == 1


def test_a_disk_too_small_for_the_frames_is_said_before_it_is_full(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(folder, cache=tmp_path, cache_frames=True)
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(corpus_module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ValueError, match=r"wanted .* GB to cache frames"):
        load_corpus(config, SIZE)
    with pytest.raises(ValueError, match="set cache"):
        load_corpus(replace(config, cache=None), SIZE)


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """Six videos, two of which turn out unreadable only when their frames are decoded."""
    path = tmp_path / "videos"
    video_folder(path, [40] * 6)
    for name in ("001.mp4", "004.mp4"):
        data = (path / name).read_bytes()
        middle = data.index(b"mdat") + 1000  # the index at the end stays whole
        (path / name).write_bytes(
            data[:middle] + bytes(data.index(b"moov") - middle - 4) + data[data.index(b"moov") - 4 :]
        )
    return path


@pytest.mark.parametrize("workers", [0, 2])
def test_clips_that_fail_in_the_middle_of_training_are_replaced_and_reported_once(
    damaged: Path, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    config = DataConfig(damaged, stride=1, max_gap=4, held_out=0.1, workers=workers)
    loader = TripletLoader(config, "training", SIZE, batch=2, seed=1)
    with caplog.at_level(logging.WARNING):
        found = list(islice(loader, 12))
    loader.close()
    bad = {f"videos/{name}" for name in ("001", "004")}
    trained = {loader.corpus.clip(int(n)).name for n in loader.numbers}
    assert loader.skipped.keys() == bad & trained and loader.skipped
    assert len(caplog.records) == len(loader.skipped)
    assert all(len(batch.frames) == 2 for batch in found)
    assert not {loader.corpus.clip(int(n)).name for batch in found for n in batch.clips} & bad
    for batch in found:  # what came instead is whole
        assert np.array_equal(which(batch.frames.numpy())[0], batch.numbers.numpy())
    card = yaml.safe_load(yaml.safe_dump(loader.description()))
    assert card["skipped"] == len(loader.skipped) and card["skipped_clips"].keys() == loader.skipped.keys()
    assert same(found, batches(replace(config, workers=0), 12, batch=2, seed=1))  # replaced alike


def test_a_cache_of_frames_replaces_the_same_clips(damaged: Path, tmp_path: Path) -> None:
    config = DataConfig(damaged, stride=1, max_gap=4, workers=0, cache=tmp_path / "cache", cache_frames=True)
    loader = TripletLoader(config, "training", SIZE, batch=2, seed=1)
    found = list(islice(loader, 12))
    names = {loader.corpus.clip(int(n)).name for batch in found for n in batch.clips}
    assert loader.skipped and not names & loader.skipped.keys()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corpus_that_cannot_be_read_at_all_ends_in_one_sentence(tmp_path: Path, workers: int) -> None:
    path = calvin_folder(tmp_path / "calvin", [60, 60])
    for frame in path.rglob("episode_*.npz"):
        frame.write_bytes(b"")
    with pytest.raises(
        ValueError,
        match=r"\Adata: wanted a readable clip, got 100 in a row that are not, the last: calvin/\d+/rgb_\w+: /.*\Z",
    ):
        batches(DataConfig(path, stride=1, max_gap=2, workers=workers), 1)


def test_short_and_broken_clips_are_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = video_folder(tmp_path / "videos", [40, 40, 4, 11])
    (path / "broken.mp4").write_bytes(b"nothing")
    config = DataConfig(path, stride=5, workers=0)
    with caplog.at_level(logging.WARNING):
        loader = TripletLoader(config, "training", SIZE, batch=2, seed=0)
    assert loader.skipped.keys() == {"videos/broken.mp4", "videos/002"}
    assert "wanted 11 frames or more (two strides of 5), got 4" in loader.skipped["videos/002"].why
    (record,) = caplog.records
    assert "2 clips skipped" in record.message and "videos/broken.mp4" in record.message
    lines = summary([Skipped(str(i), "broken") for i in range(30)])
    assert "30 clips skipped" in lines and "and 20 more" in lines
    with pytest.raises(ValueError, match=r"wanted a usable clip in .*the first of 5 skipped"):
        TripletLoader(replace(config, stride=30), "training", SIZE, batch=2, seed=0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "wanted at least one source"),
        ("{}", "wanted at least one source"),
        ("[1, 2]", "wanted at least one source"),
        ("a: {path: videos, weight: 0}\nb: {path: videos, weight: 0}", "sum is above 0, got only zeros for a, b"),
        ("a: {path: videos, weight: -1}", "a: weight: wanted 0 or more, got -1"),
        ("a: {path: videos, weight: .nan}", "a: weight: wanted 0 or more, got nan"),
        ("a: {path: videos, weight: much}", "a: weight: wanted 0 or more, got 'much'"),
        ("a: {path: videos, weight: 1, stride: 0}", "a: stride: wanted a whole number from 1 on, got 0"),
        ("a: {path: nowhere, weight: 1}", r"a: wanted a folder of data at .*nowhere, got no such folder"),
        ("a: {path: videos, weight: 1, kind: hdf5}", "a: kind: wanted one of video, lerobot, calvin, rlds, got 'hdf5'"),
        ("BridgeData: {path: videos}", "BridgeData: wanted a weight, or a name of Table 7"),
        ("a: {weight: 1}", "a: wanted a path"),
        ("a: {path: videos, weight: 1, wieght: 2}", "a: wanted a path and some of .*wieght"),
        ("a: {path: videos, weight: 1, views: top}", "a: views: wanted a list of names"),
        ("a: {path: videos, weight: 1, views: [left]}", "a: wanted a usable clip"),
        ("a: {path: videos, weight: 1, views: 3}", "a: views: wanted a list of names, got 3"),
        ("a: {path: videos, weight: 1, views: {top: 1}}", "a: views: wanted a list of names, got {'top': 1}"),
        ("a: {path: videos, weight: 1, kind: [video]}", r"a: kind: wanted one of .*, got \['video'\]"),
        ("a: {path: videos, weight: 1, stride: true}", "a: stride: wanted a whole number from 1 on, got True"),
        ("a: {path: 5, weight: 1}", "a: path: wanted a folder of data, got 5"),
        ("a: {path: [videos], weight: 1}", r"a: path: wanted a folder of data, got \['videos'\]"),
        ("a: {path: ~nobody-at-all/x, weight: 1}", "a: path: wanted a folder of data, got '~nobody-at-all/x'"),
        ("a: [", "wanted a YAML file of sources, got line 1: expected the node content, but found '<stream end>'"),
        ("a: {path: 2020-99-99}", "wanted a YAML file of sources, got month must be"),
        ("a: \0", "wanted a YAML file of sources, got unacceptable character"),
        ("a: {path: videos, weight: 1}\nb: {path: x}\na: {path: y}", "got line 3: the key 'a' twice"),
        ("a: {path: videos, weight: 1, weight: 2}", "got line 1: the key 'weight' twice"),
    ],
)
def test_a_mixture_that_is_none_is_one_clear_sentence(text: str, said: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "videos").symlink_to(folder / "videos")
    (tmp_path / "mixture.yaml").write_text(text)
    with pytest.raises(ValueError, match=said) as raised:
        load_corpus(DataConfig(tmp_path / "mixture.yaml"), SIZE)
    assert "\n" not in str(raised.value)


def test_a_source_may_take_over_settings_of_another(folder: Path, tmp_path: Path) -> None:
    """A merged key that is given again is YAML's own way to change one, no key given twice."""
    first = f"a: &a {{path: {folder / 'videos'}, weight: 1, stride: 2}}"
    (tmp_path / "mixture.yaml").write_text(f"{first}\nb: &b {{<<: *a, stride: 3}}\nc: {{<<: *b, weight: 4}}")
    assert [(s.weight, s.stride) for s in load_mixture(tmp_path / "mixture.yaml")] == [(1, 2), (1, 3), (4, 3)]


def test_wrong_paths_and_numbers_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such path: /nowhere"):
        load_mixture(Path("/nowhere"))
    with pytest.raises(ValueError, match="wanted data below"):
        load_mixture(tmp_path)
    with pytest.raises(ValueError, match="names that differ"):
        validate((SourceConfig("a", folder), SourceConfig("a", folder)))
    config = config_of(folder)
    for options, said in (
        ({"rank": 2, "world": 2}, "rank 2 of 2"),
        ({"start": -1}, "start -1"),
        ({"batch": 0}, "batch 0"),
    ):
        with pytest.raises(ValueError, match=said):
            batches(config, 1, **options)
    for changed, said in (
        (replace(config, per_visit=3), "whole visits, 3 triplets each, got batch 4"),
        (replace(config, workers=-1), "workers >= 0"),
        (replace(config, held_out=1.0), "between 0 and 1"),
        (replace(config, split_seed=-1), "wanted seeds of 0 or more, got seed 0, split_seed -1"),
    ):
        with pytest.raises(ValueError, match=said):
            batches(changed, 1)
    alone = video_folder(tmp_path / "alone", [40])
    with pytest.raises(ValueError, match="two episodes or more to hold one out"):
        batches(DataConfig(alone, stride=1, workers=0), 1, side="held_out")


def test_the_papers_mixture_has_its_weights_and_strides(folder: Path, tmp_path: Path) -> None:
    listed = {"CALVIN": {"path": str(folder / "calvin")}, "BridgeData-V2": {"path": str(folder / "videos")}}
    (tmp_path / "mixture.yaml").write_text(yaml.safe_dump(listed, sort_keys=False))
    sources = load_mixture(tmp_path / "mixture.yaml")
    assert [(s.name, s.weight, s.stride, s.kind) for s in sources] == [
        ("CALVIN", 200, 10, "calvin"),
        ("BridgeData-V2", 50, 5, "video"),
    ]
    assert len(TABLE_7) == 11 and sum(weight for weight, _ in TABLE_7.values()) == 473
    assert {source.stride for source in load_mixture(folder / "mixture.yaml")} == {1, 2, 10}


def test_rlds_episodes_train_like_the_others(tmp_path: Path) -> None:
    pytest.importorskip("tfrecord")
    rlds_folder(tmp_path / "rlds", [40] * 6)
    config = DataConfig(tmp_path / "rlds", stride=2, max_gap=4, workers=2)
    found = batches(config, 6)
    assert all(np.array_equal(which(b.frames.numpy())[0], b.numbers.numpy()) for b in found)
    assert same(found, batches(replace(config, workers=0), 6))


def test_a_large_corpus_stays_on_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many clips: listing, sampling and what a worker is sent stay far below the size of the list."""

    class Many:
        def __init__(self, *_: Any) -> None: ...

        def fingerprint(self) -> str:
            return "many"

        def clips(self) -> Iterator[Clip]:
            for i in range(30_000):
                file = f"data/chunk-{i // 1000:03d}/a-folder-with-a-long-name/episode_{i:06d}.mp4"
                yield Clip("many", f"a-recording-of-some-robot-{i:06d}", "observation.images.top", file, 0, 300, 30.0)

        def frames(self, clip: Clip, indices: np.ndarray) -> Iterator[np.ndarray]:
            return (np.full((20, 20, 3), i % 256, np.uint8) for i in indices)

    monkeypatch.setattr(corpus_module, "open_source", Many)
    source = SourceConfig("many", folder, kind="video")
    tracemalloc.start()
    corpus = Corpus((source,))
    listing, listing_peak = tracemalloc.get_traced_memory()
    loader = TripletLoader(DataConfig(folder, workers=0), "training", SIZE, 4, 0, corpus=corpus)
    after_some = 0
    for step, _ in enumerate(islice(loader, 400)):
        if step == 100:
            after_some = tracemalloc.get_traced_memory()[0]
    grown = tracemalloc.get_traced_memory()[0] - after_some
    tracemalloc.stop()
    assert listing < 3e6 and listing_peak < 50e6, (listing, listing_peak)
    assert grown < 1e5, grown
    assert len(pickle.dumps(corpus)) < 1e6
    assert corpus.clip(27_777).episode == "a-recording-of-some-robot-027777"
    assert pickle.loads(pickle.dumps(corpus)).clip(27_777) == corpus.clip(27_777)


def test_a_description_says_what_was_trained_on(folder: Path) -> None:
    loader = TripletLoader(config_of(folder, max_gap=16), "training", SIZE, batch=4, seed=7)
    text = yaml.safe_dump(loader.description())
    said = yaml.safe_load(text)
    assert said["seed"] == 7 and said["held_out_share"] == 0.05
    videos = said["sources"]["videos"]
    assert (videos["weight"], videos["stride"], videos["views"]) == (2, 2, ["top", "wrist"])
    assert (videos["clips"], videos["episodes"], videos["frames"]) == (16, 8, 640)
    assert str(folder) not in text
    assert re.fullmatch("[0-9a-f]{12}", said["fingerprint"])
    changed = (folder / "mixture.yaml").read_text().replace("weight: 2", "weight: 3")
    (folder / "other.yaml").write_text(changed)
    assert load_corpus(config_of(folder, mixture=folder / "other.yaml"), SIZE).fingerprint() != said["fingerprint"]


def test_every_option_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tyro.cli(DataConfig, args=["--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for words in ("paper: 16", "paper: 5, CALVIN 10", "paper: 0.05", "3 * size^2 bytes"):
        assert words in text


def test_the_rate_of_loading_can_be_measured(folder: Path) -> None:
    loader = TripletLoader(config_of(folder), "training", SIZE, batch=4, seed=0)
    assert loading_rate(loader, seconds=0.2, warm_up=1) > 1
