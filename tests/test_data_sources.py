"""Every source gives back the frames that were put in, in any order; what is damaged is named, never served."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clip_folders import calvin_folder, encoded_video, lerobot_v21, numbered, png, rlds_folder, video_folder, which
from synthetic import make_dataset, make_episode

from alam_models.contract import Camera, prepare_frame
from training.data.clips import Clip, Skipped, Source, decode_image, read_frames, resize_frame
from training.data.corpus import Corpus
from training.data.lerobot import LeRobotDataset
from training.data.mixture import SourceConfig, kind_of, open_source
from training.data.video import VideoFrames

LENGTHS = [30, 45, 21]


def opened(path: Path, views: tuple[str, ...] = (), keep_open: int = 2) -> Source:
    return open_source(SourceConfig("toy", path, kind=kind_of(path, "toy"), views=views), keep_open)


def listed(source: Source) -> tuple[list[Clip], list[Skipped]]:
    found = list(source.clips())
    return [c for c in found if isinstance(c, Clip)], [c for c in found if isinstance(c, Skipped)]


def make(kind: str, path: Path) -> Path:
    if kind == "rlds":
        pytest.importorskip("tfrecord")
    makers = {
        "video": video_folder,
        "calvin": calvin_folder,
        "lerobot": lerobot_v21,
        "lerobot images": lambda path, lengths: lerobot_v21(path, lengths, encoded=True),
        "rlds": rlds_folder,
    }
    return makers[kind](path / "toy", LENGTHS)


@pytest.fixture(params=["video", "calvin", "lerobot", "lerobot images", "rlds"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return make(request.param, tmp_path)


def test_frames_come_back_to_the_bit_in_any_order(folder: Path) -> None:
    source = opened(folder)
    clips, skipped = listed(source)
    assert not skipped
    views = {clip.view for clip in clips}
    assert sorted(clip.frames for clip in clips) == sorted(LENGTHS * len(views))
    assert len({clip.name for clip in clips}) == len(clips)
    random = np.random.default_rng(0)
    for clip in random.permutation(np.array(clips, object)):  # more files than are kept open
        size = 16 if clip.view == "rgb_gripper" else 24
        indices = random.integers(0, clip.frames, 9)
        numbers, episodes = which(read_frames(source, clip, indices, size))
        assert (numbers == indices).all()
        assert {LENGTHS[e] for e in episodes} == {clip.frames}


def test_what_is_read_does_not_depend_on_what_was_read_before(folder: Path) -> None:
    source, fresh = opened(folder), opened(folder)
    clip = listed(source)[0][1]
    for start in (20, 3, 11):
        list(source.frames(clip, np.arange(start, clip.frames)))
    asked = np.array([2, 9, 10])
    again = zip(source.frames(clip, asked), fresh.frames(clip, asked), strict=True)
    assert all(np.array_equal(a, b) for a, b in again)


def test_a_frame_outside_the_clip_is_refused(folder: Path) -> None:
    source = opened(folder)
    clip = listed(source)[0][0]
    for outside in (-1, clip.frames):
        with pytest.raises(ValueError, match=r"wanted frames in 0\.\."):
            read_frames(source, clip, np.array([0, outside]), 24)


def test_the_fingerprint_changes_with_the_data(folder: Path, tmp_path: Path) -> None:
    before = opened(folder).fingerprint()
    assert opened(folder).fingerprint() == before
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):  # a byte more in whatever is looked at
        if path.name in ("info.json", "ep_start_end_ids.npy") or path.suffix == ".mp4" or "tfrecord" in path.name:
            path.write_bytes(path.read_bytes() + b" ")
    assert opened(folder).fingerprint() != before


def test_lerobot_v3_is_read_like_the_dataset_reads_it(tmp_path: Path) -> None:
    path = make_dataset(tmp_path / "v3", episodes=3)
    source = opened(path)
    clips, _ = listed(source)
    assert [(c.episode, c.view) for c in clips[:2]] == [("000000", "third_person"), ("000000", "wrist")]
    assert all(c.frames == 24 and c.rate_hz == 80 for c in clips)
    for clip in clips:
        episode = make_episode(LeRobotDataset(path).episodes[int(clip.episode)]["seed"])
        assert np.array_equal(list(source.frames(clip, np.array([0, 5, 23]))), episode.frames[clip.view][[0, 5, 23]])
    assert {c.view for c in listed(opened(path, ("wrist",)))[0]} == {"wrist"}
    with pytest.raises(ValueError, match=r"no 'top'; there are .*third_person"):
        opened(path, ("top",))


def test_views_of_a_video_folder_are_endings_of_names(tmp_path: Path) -> None:
    path = video_folder(tmp_path / "staging", [12, 13], ("wrist", "top"))
    assert len({clip.episode for clip in listed(opened(path))[0]}) == 4
    clips, _ = listed(opened(path, ("wrist", "top")))
    assert sorted((c.episode, c.view) for c in clips) == [(e, v) for e in ("000", "001") for v in ("top", "wrist")]
    assert {c.view for c in listed(opened(path, ("top",)))[0]} == {"top"}


@pytest.mark.parametrize(
    "options", [{"g": "12", "bf": "3"}, {"g": "250", "bf": "0"}, {"g": "10", "x264-params": "open-gop=1:bframes=3"}]
)
@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_any_frame_of_any_video_is_the_one_of_that_number(ending: str, options: dict[str, str], tmp_path: Path) -> None:
    frames = numbered(60)
    frames += np.random.default_rng(0).integers(0, 2, frames.shape, np.uint8)
    video = VideoFrames(encoded_video(tmp_path / f"a.{ending}", frames, **options))
    assert video.count == 60
    for indices in ([0], [59], [11, 12, 13], [5, 30, 31, 58], *([i] for i in range(60))):
        assert np.array_equal(np.stack(list(video.frames(indices))), frames[indices])
    with pytest.raises(ValueError, match="wanted frame 60"):
        list(video.frames([60]))


def test_frames_of_a_varying_rate_are_counted_not_timed(tmp_path: Path) -> None:
    stamps = np.cumsum(np.random.default_rng(0).integers(1, 9, 40)).tolist()
    video = VideoFrames(encoded_video(tmp_path / "a.mp4", numbered(40), stamps, g="8", bf="2"))
    for index in range(40):
        assert which(next(iter(video.frames([index]))))[0] == index
    assert video.count == 40


def test_damaged_and_empty_files_are_skipped_by_name(tmp_path: Path) -> None:
    path = video_folder(tmp_path / "videos", [20, 20, 20])
    whole = (path / "001.mp4").read_bytes()
    (path / "001.mp4").write_bytes(whole[:500])
    (path / "002.mp4").write_bytes(b"")
    (path / "003.avi").write_text("no video")
    clips, skipped = listed(opened(path))
    assert [c.episode for c in clips] == ["000"]
    assert sorted(s.clip for s in skipped) == ["toy/001.mp4", "toy/002.mp4", "toy/003.avi"]
    assert all("wanted a video" in s.why and "\n" not in s.why for s in skipped)


def test_a_video_that_lost_bytes_gives_no_wrong_frames(tmp_path: Path) -> None:
    path = encoded_video(tmp_path / "a.mp4", np.random.default_rng(0).integers(0, 256, (40, 24, 32, 3), np.uint8))
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 8000] = bytes(8000)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.mp4: wanted frame"):
        list(VideoFrames(path).frames(range(40)))


def test_calvin_names_the_missing_and_the_broken_frame(tmp_path: Path) -> None:
    source = opened(calvin_folder(tmp_path / "calvin", [12]))
    clips, _ = listed(source)
    assert [(c.view, c.start) for c in clips] == [("rgb_static", 7), ("rgb_gripper", 7)]
    frames = sorted((tmp_path / "calvin" / "training").glob("episode_*.npz"))
    frames[3].write_bytes(frames[3].read_bytes()[:100])
    frames[4].unlink()
    np.savez(frames[5], rgb_static=np.zeros((4, 4), np.uint8))
    for index, said in ((3, "0000010.npz"), (4, "No such file"), (5, "uint8")):
        with pytest.raises(ValueError, match=said):
            list(source.frames(clips[0], np.array([index])))
    np.save(tmp_path / "calvin" / "training" / "ep_start_end_ids.npy", np.zeros(3))
    with pytest.raises(ValueError, match="first and last"):
        listed(source)


def test_lerobot_without_its_files_is_named(tmp_path: Path) -> None:
    path = lerobot_v21(tmp_path / "lerobot", [20, 20])
    next(path.rglob("episode_000001.mp4")).unlink()
    clips, skipped = listed(opened(path))
    assert len(clips) == 1 and [s.clip for s in skipped] == ["toy/000001/observation.images.top"]
    info = json.loads((path / "meta" / "info.json").read_text())
    (path / "meta" / "info.json").write_text(json.dumps({**info, "codebase_version": "v1.6"}))
    with pytest.raises(ValueError, match=r"wanted LeRobot v2\.1 or v3\.0, got v1\.6"):
        opened(path)
    (path / "meta" / "info.json").write_text("{")
    with pytest.raises(ValueError, match=r"no usable meta/info\.json"):
        opened(path)


@pytest.mark.parametrize(
    ("where", "changed", "said"),
    [
        ("info", {"fps": 0}, "fps: wanted 0.001 or more frames per second, got 0"),
        ("info", {"fps": "nan"}, "fps: wanted 0.001 or more frames per second, got 'nan'"),
        ("info", {"features": ["observation.images.top"]}, "no usable meta/info.json"),
        ("info", {"features": {"observation.images.top": 3}}, "no usable meta/info.json"),
        ("info", {"video_path": None}, "the first of 2 skipped: toy/000000/.*wanted its file in meta/"),
        ("info", {"video_path": "{0}"}, "the first of 2 skipped: toy/000000/.*wanted its file in meta/"),
        ("info", {"video_path": "{camera}"}, "the first of 2 skipped: toy/000000/.*wanted 'camera' in meta/"),
        ("info", {"chunks_size": 0}, "the first of 2 skipped: toy/000000/.*wanted its file in meta/"),
        ("row", {"length": None}, "wanted length, 0 or more, in row 2 of the episodes in meta/, got None"),
        ("row", {"length": "20"}, "wanted length, 0 or more, in row 2 of the episodes in meta/, got '20'"),
        ("row", {"episode_index": -1}, "wanted episode_index, 0 or more, in row 2 of the episodes in meta/, got -1"),
        ("row", None, "wanted episode_index, 0 or more, in row 2"),
        ("row", "", "wanted the list of episodes in meta/, got .*episodes.jsonl"),
    ],
)
def test_lerobot_with_unusable_meta_is_one_sentence(where: str, changed: Any, said: str, tmp_path: Path) -> None:
    """changed: entries of info.json, or of one more row of episodes.jsonl; "" takes that file away."""
    path = lerobot_v21(tmp_path / "lerobot", [20, 20])
    info, episodes = path / "meta" / "info.json", path / "meta" / "episodes.jsonl"
    if where == "info":
        info.write_text(json.dumps({**json.loads(info.read_text()), **changed}))
    elif changed == "":
        episodes.unlink()
    else:
        row = None if changed is None else {"episode_index": 2, "length": 20, **changed}
        episodes.write_text(episodes.read_text() + json.dumps(row))
    with pytest.raises(ValueError, match=said) as raised:
        Corpus((SourceConfig("toy", path, kind="lerobot"),))
    assert "\n" not in str(raised.value)


def test_tfrecords_are_checked_against_their_checksums(tmp_path: Path) -> None:
    pytest.importorskip("tfrecord")
    path = rlds_folder(tmp_path / "rlds", [20] * 4, shards=1)
    source = opened(path)
    clips, _ = listed(source)
    assert [c.view for c in clips] == ["image"] * 4  # depth is no view unless asked for
    assert {c.view for c in listed(opened(path, ("depth",)))[0]} == {"depth"}
    _, skipped = listed(opened(path, ("wrist",)))
    assert len(skipped) == 4 and "wanted ['wrist'], got the byte features" in skipped[0].why

    file = next(path.glob("*.tfrecord*"))
    whole = file.read_bytes()
    (path / "toy-test.tfrecord-00000-of-00001").write_bytes(whole)
    assert len(listed(opened(path))[0]) == 4  # a test split of the dataset's own is left alone
    starts = [c.start for c in clips]

    flipped = bytearray(whole)
    flipped[starts[1] + 200] ^= 1  # inside the second record
    file.write_bytes(flipped)
    kept, skipped = listed(opened(path))
    assert [c.start for c in kept] == [starts[0], starts[2], starts[3]]
    assert len(skipped) == 1 and f"byte {starts[1]}" in skipped[0].why
    with pytest.raises(ValueError, match="damaged or truncated"):
        list(source.frames(clips[1], np.array([0])))

    file.write_bytes(whole[: starts[3] + 100])  # the download was cut
    kept, skipped = listed(opened(path))
    assert len(kept) == 3 and len(skipped) == 1
    flipped = bytearray(whole)
    flipped[starts[2]] ^= 1  # the length of the third record
    file.write_bytes(flipped)
    kept, skipped = listed(opened(path))
    assert len(kept) == 2 and "the rest of the file is left out" in skipped[0].why


def test_bytes_that_are_no_usable_image_are_a_value_error() -> None:
    whole = png(numbered(1)[0])
    assert np.array_equal(decode_image(whole, "it"), numbered(1)[0])
    header = b"IHDR" + struct.pack(">II", 40_000, 40_000) + whole[24:29]
    huge = whole[:12] + header + struct.pack(">I", zlib.crc32(header)) + whole[33:]
    for encoded in (b"", b"nothing", whole[:40], huge):
        with pytest.raises(ValueError, match=f"^it: wanted a JPEG or PNG image, got {len(encoded)} bytes"):
            decode_image(encoded, "it")


def test_resizing_is_what_serving_does_to_a_square_frame() -> None:
    image = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    camera = Camera("top", 96, 96, 32, 32)
    assert np.array_equal(resize_frame(image, 32), prepare_frame(image, camera))
    checker = np.indices((96, 96)).sum(0) % 2 * 255
    flat = resize_frame(np.repeat(checker[..., None], 3, 2).astype(np.uint8), 32)
    assert np.ptp(flat.astype(int)) < 32  # sampling without averaging would give 0 and 255


def test_folders_without_data_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="wanted data below"):
        kind_of(tmp_path, "toy")
    with pytest.raises(ValueError, match=r"ep_start_end_ids\.npy"):
        open_source(SourceConfig("toy", tmp_path, kind="calvin"))
    with pytest.raises(ValueError, match="LeRobot"):
        open_source(SourceConfig("toy", tmp_path, kind="lerobot"))
    pytest.importorskip("tfrecord")
    with pytest.raises(ValueError, match=r"tfrecord"):
        open_source(SourceConfig("toy", tmp_path, kind="rlds"))
