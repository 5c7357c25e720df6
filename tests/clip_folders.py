"""Small corpora of every kind that pretraining reads, made from numbered frames."""

from __future__ import annotations

import json
from pathlib import Path

import av
import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from training.data.video import write_video

HEIGHT, WIDTH = 24, 32


def numbered(count: int, episode: int = 0) -> np.ndarray:
    """-> (count, 24, 32, 3) uint8: the left half says which frame (its low byte), the right half which episode."""
    frames = np.empty((count, HEIGHT, WIDTH, 3), np.uint8)
    frames[:, :, : WIDTH // 2] = (np.arange(count) % 256).astype(np.uint8)[:, None, None, None]
    frames[:, :, WIDTH // 2 :] = episode
    return frames


def which(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(..., h, w, 3) as `numbered` made them, of any size -> frame numbers (...), episodes (...)."""
    width = frames.shape[-2]
    return frames[..., 0, width // 8, 0].astype(int), frames[..., 0, width - width // 8, 0].astype(int)


def video_folder(path: Path, lengths: list[int], views: tuple[str, ...] = (), first: int = 0) -> Path:
    """One lossless mp4 an episode (and view)."""
    path.mkdir(parents=True, exist_ok=True)
    for i, length in enumerate(lengths, first):
        for view in views or ("",):
            write_video(path / f"{i:03d}{'.' * bool(view)}{view}.mp4", numbered(length, i), 30)
    return path


def encoded_video(path: Path, frames: np.ndarray, stamps: list[int] | None = None, **options: str) -> Path:
    """A lossless video with the encoder's options; stamps [1/30 s] in place of 0, 1, 2, ..."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264rgb", rate=30)
        stream.pix_fmt, stream.height, stream.width = "rgb24", *frames.shape[1:3]
        stream.options = {"qp": "0", "preset": "veryfast", **options}
        for i, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = stamps[i] if stamps else i
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def calvin_folder(path: Path, lengths: list[int]) -> Path:
    """Frames of both cameras, with a gap of unused numbers between the episodes."""
    (path / "training").mkdir(parents=True)
    first, ids = 7, []
    for i, length in enumerate(lengths):
        for j, image in enumerate(numbered(length, i)):
            gripper = cv2.resize(image, (16, 16), interpolation=cv2.INTER_NEAREST)
            np.savez(path / "training" / f"episode_{first + j:07d}.npz", rgb_static=image, rgb_gripper=gripper)
        ids.append((first, first + length - 1))
        first += length + 5
    np.save(path / "training" / "ep_start_end_ids.npy", np.array(ids))
    return path


def lerobot_v21(path: Path, lengths: list[int], encoded: bool = False) -> Path:
    """LeRobot v2.1: a file an episode; images as mp4, or `encoded` in the parquet files."""
    key = "observation.images.top"
    (path / "meta").mkdir(parents=True)
    (path / "data" / "chunk-000").mkdir(parents=True)
    (path / "videos" / "chunk-000" / key).mkdir(parents=True)
    info = {
        "codebase_version": "v2.1",
        "fps": 30,
        "chunks_size": 1000,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        "features": {key: {"dtype": "image" if encoded else "video"}, "action": {"dtype": "float32"}},
    }
    rows = []
    for i, length in enumerate(lengths):
        frames = numbered(length, i)
        if encoded:
            column = [{"bytes": png(image), "path": f"{j}.png"} for j, image in enumerate(frames)]
            table = pa.table({key: pa.array(column)})
            pq.write_table(table, path / "data" / "chunk-000" / f"episode_{i:06d}.parquet", row_group_size=7)
        else:
            write_video(path / "videos" / "chunk-000" / key / f"episode_{i:06d}.mp4", frames, 30)
        rows.append({"episode_index": i, "tasks": ["push"], "length": length})
    (path / "meta" / "episodes.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    (path / "meta" / "info.json").write_text(json.dumps(info))
    return path


def rlds_folder(path: Path, lengths: list[int], shards: int = 2) -> Path:
    """RLDS episodes with one RGB camera and one of depth, written by the package tfrecord."""
    from tfrecord import TFRecordWriter

    path.mkdir(parents=True)
    for shard in range(shards):
        writer = TFRecordWriter(str(path / f"toy-train.tfrecord-{shard:05d}-of-{shards:05d}"))
        for i in range(shard, len(lengths), shards):
            images = [png(image) for image in numbered(lengths[i], i)]
            writer.write(
                {
                    "steps/observation/image": (images, "byte"),
                    "steps/observation/depth": (images, "byte"),
                    "steps/language_instruction": ([b"push"] * lengths[i], "byte"),
                    "steps/action": ([0.0] * lengths[i], "float"),
                    "steps/is_first": ([1] + [0] * (lengths[i] - 1), "int"),
                }
            )
        writer.close()
    return path


def png(image: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1])
