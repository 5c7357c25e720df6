"""What is kept of a source's files: whole for good, else only until the files change."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from clip_folders import calvin_folder, lerobot_v21, video_folder, which

from training.data.clips import Clip, Skipped
from training.data.corpus import Corpus
from training.data.kept import state_of
from training.data.lerobot_clips import LeRobotClips
from training.data.mixture import SourceConfig

SIZE = 16


def opened(path: Path, kind: str, cache: Path, frames: bool = False) -> Corpus:
    corpus = Corpus((SourceConfig("toy", path, stride=1, kind=kind),), cache)
    if frames:
        corpus.cache_frames(SIZE)
    return corpus


def read(corpus: Corpus) -> dict[str, np.ndarray]:
    """-> {clip: its frames}; those that cannot be read are left out. Checks that each is what its number says."""
    found = {}
    for number in range(len(corpus)):
        clip, count = corpus.clip(number), int(corpus.frames[number])
        try:
            found[clip.name] = corpus.read(number, np.arange(count), SIZE)
        except ValueError:
            continue
        assert np.array_equal(which(found[clip.name])[0], np.arange(count))
    return found


@pytest.fixture
def listings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by one each time that a LeRobot dataset is listed."""
    seen: list[str] = []
    original = LeRobotClips.clips

    def counted(self: LeRobotClips) -> Iterator[Clip | Skipped]:
        seen.append(self.name)
        return original(self)

    monkeypatch.setattr(LeRobotClips, "clips", counted)
    return seen


@pytest.mark.parametrize("frames", [False, True])
def test_files_that_come_later_are_found(frames: bool, tmp_path: Path, listings: list[str]) -> None:
    path, away = lerobot_v21(tmp_path / "lerobot", [20, 25, 30, 35]), tmp_path / "away"
    complete = opened(path, "lerobot", tmp_path / "other").fingerprint()
    away.mkdir()
    videos = sorted(path.rglob("*.mp4"))
    for video in (videos[0], videos[2]):
        shutil.move(video, away / video.name)
    del listings[:]
    for _ in range(2):  # found again while nothing changes
        partial = opened(path, "lerobot", tmp_path / "cache", frames)
        assert partial.frames.tolist() == [25, 35] and len(partial.skipped) == 2 and len(read(partial)) == 2
    assert len(listings) == 1
    for video in (videos[0], videos[2]):
        shutil.move(away / video.name, video)
    for _ in range(2):
        corpus = opened(path, "lerobot", tmp_path / "cache", frames)
        assert corpus.frames.tolist() == [20, 25, 30, 35] and not corpus.skipped and len(read(corpus)) == 4
    assert len(listings) == 2
    assert corpus.fingerprint() == complete != partial.fingerprint()  # a run on half of the data is another run
    assert len(read(partial)) == 2  # one that is still open goes on reading what it listed
    os.utime(videos[1])
    opened(path, "lerobot", tmp_path / "cache", frames)
    assert len(listings) == 2  # whole: times play no part


@pytest.mark.parametrize("kind", ["video", "calvin"])
def test_frames_that_could_not_be_decoded_are_decoded_once_their_files_change(kind: str, tmp_path: Path) -> None:
    make = {"video": video_folder, "calvin": calvin_folder}[kind]
    path = make(tmp_path / "data", [20, 25])
    damaged = sorted(p for p in path.rglob("*") if p.suffix in (".mp4", ".npz"))[-1]
    whole = damaged.read_bytes()
    middle = whole.index(b"mdat") + 100 if kind == "video" else 100
    zeros = bytes(len(whole) // 4)
    damaged.write_bytes(whole[:middle] + zeros + whole[middle + len(zeros) :])  # as large as before
    clips = len(opened(path, kind, tmp_path / "cache", frames=True))
    lost = clips - len(read(opened(path, kind, tmp_path / "cache", frames=True)))
    assert lost == 1
    damaged.write_bytes(whole)
    os.utime(damaged, ns=(1, 1))
    assert len(read(opened(path, kind, tmp_path / "cache", frames=True))) == clips


def test_the_state_of_a_folder_is_that_of_its_files_behind_links_too(tmp_path: Path) -> None:
    folder, elsewhere, cache = tmp_path / "data", tmp_path / "elsewhere", tmp_path / "data" / "cache"
    for path in (folder, elsewhere, cache):
        path.mkdir()
    (folder / "a").write_bytes(b"one")
    (elsewhere / "b").write_bytes(b"two")
    (folder / "linked").symlink_to(elsewhere)
    (folder / "round").symlink_to(folder)
    (folder / "nowhere").symlink_to(tmp_path / "gone")
    states = [state_of(folder, cache)]
    (cache / "list").write_bytes(b"what is kept plays no part")
    assert state_of(folder, cache) == states[0]
    for change in (
        lambda: os.utime(folder / "a", ns=(1, 1)),
        lambda: (elsewhere / "b").write_bytes(b"three"),
        lambda: (folder / "a").rename(folder / "c"),
        lambda: (tmp_path / "gone").write_bytes(b"here"),
    ):
        change()
        states.append(state_of(folder, cache))
    assert len(set(states)) == 5
