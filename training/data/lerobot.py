"""LeRobot dataset v3 (parquet + mp4) with a `contract.yaml` beside it: written from episodes, read back whole.

Layout as lerobot's `codebase_version` v3.0: data/, videos/<key>/, meta/{info,stats}.json, meta/tasks.parquet,
meta/episodes/. Episodes are staged one file each (so that a stopped collection resumes) and joined at the end."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from alam_models.contract import Contract
from training.data.video import join_videos, read_video, write_video

FRAMES_PER_FILE = 20_000  # LeRobot readers take any number; this keeps one file near 100 MB at 128 px


@dataclass(frozen=True)
class Episode:
    """T steps of a demonstration. frames {role: (T, h, w, 3) uint8}, state (T, S), action (T, A), success (T,) bool.

    `source` names where it came from ("reach-v3"); with `seed` it can be made again."""

    frames: dict[str, np.ndarray]
    state: np.ndarray
    action: np.ndarray
    success: np.ndarray
    instruction: str
    source: str
    seed: int


def stage_episode(folder: Path, episode: Episode, fps: float, lossless: bool = True) -> None:
    """One episode -> folder/<source>_<seed>.{npz,<role>.mp4}; the npz comes last and marks it complete."""
    stem = f"{episode.source}_{episode.seed:08d}"
    for role, frames in episode.frames.items():
        write_video(folder / f"{stem}.{role}.mp4", frames, fps, lossless)
    temporary = folder / f"{stem}.part.npz"
    np.savez(
        temporary,
        state=episode.state.astype(np.float32),
        action=episode.action.astype(np.float32),
        success=episode.success,
        instruction=episode.instruction,
        source=episode.source,
        seed=episode.seed,
    )
    temporary.rename(folder / f"{stem}.npz")


def join_episodes(out: Path, staged: list[Path], contract: Contract) -> None:
    """staged npz files (with their videos beside them) -> a complete dataset at `out`, staging left as it is."""
    if not staged:
        raise ValueError(f"{out}: wanted at least one successful episode, got none")
    fps = contract.control_rate_hz
    for name in ("data", "videos", "meta"):
        shutil.rmtree(out / name, ignore_errors=True)
    (out / "meta" / "episodes" / "chunk-000").mkdir(parents=True)
    (out / "data" / "chunk-000").mkdir(parents=True)
    contract.save(out / "contract.yaml")

    groups: list[list[tuple[Path, dict[str, Any]]]] = [[]]
    for path in staged:
        with np.load(path) as arrays:
            item = {key: arrays[key] for key in arrays.files}
        if sum(len(i["state"]) for _, i in groups[-1]) >= FRAMES_PER_FILE:
            groups.append([])
        groups[-1].append((path, item))

    tasks: dict[str, int] = {}
    episodes: list[dict[str, Any]] = []
    total = 0
    for file_index, group in enumerate(groups):
        columns: dict[str, list[Any]] = {}
        offset = 0
        for _path, item in group:
            length = len(item["state"])
            task = tasks.setdefault(str(item["instruction"]), len(tasks))
            episode_index = len(episodes)
            rows = {
                "observation.state": list(item["state"]),
                "action": list(item["action"]),
                "next.success": item["success"].tolist(),
                "timestamp": (np.arange(length, dtype=np.float32) / np.float32(fps)).tolist(),
                "frame_index": list(range(length)),
                "episode_index": [episode_index] * length,
                "index": list(range(total, total + length)),
                "task_index": [task] * length,
            }
            for key, values in rows.items():
                columns.setdefault(key, []).extend(values)
            entry = {
                "episode_index": episode_index,
                "tasks": [str(item["instruction"])],
                "length": length,
                "data/chunk_index": 0,
                "data/file_index": file_index,
                "dataset_from_index": total,
                "dataset_to_index": total + length,
                "meta/episodes/chunk_index": 0,
                "meta/episodes/file_index": 0,
                "source": str(item["source"]),
                "seed": int(item["seed"]),
            }
            for role in contract.roles:
                key = f"videos/{image_key(role)}"
                entry[f"{key}/chunk_index"] = 0
                entry[f"{key}/file_index"] = file_index
                entry[f"{key}/from_timestamp"] = offset / fps
                entry[f"{key}/to_timestamp"] = (offset + length) / fps
            episodes.append(entry)
            offset += length
            total += length
        schema = {"observation.state": pa.list_(pa.float32()), "action": pa.list_(pa.float32())}
        types = {"timestamp": pa.float32(), "next.success": pa.bool_()}
        table = pa.table({k: pa.array(v, schema.get(k) or types.get(k, pa.int64())) for k, v in columns.items()})
        pq.write_table(table, out / "data" / "chunk-000" / f"file-{file_index:03d}.parquet")
        for role in contract.roles:
            folder = out / "videos" / image_key(role) / "chunk-000"
            folder.mkdir(parents=True, exist_ok=True)
            parts = [(path.with_suffix(f".{role}.mp4"), len(item["state"])) for path, item in group]
            join_videos(folder / f"file-{file_index:03d}.mp4", parts, fps)

    pq.write_table(pa.Table.from_pylist(episodes), out / "meta" / "episodes" / "chunk-000" / "file-000.parquet")
    # LeRobot keeps the task string as a pandas index column of this name.
    pq.write_table(_task_table(tasks), out / "meta" / "tasks.parquet")
    (out / "meta" / "stats.json").write_text(json.dumps(dataset_statistics(staged, contract), indent=2))
    # info.json comes last: a dataset with it is complete.
    temporary = out / "meta" / "info.json.part"
    temporary.write_text(json.dumps(_info(contract, len(episodes), total, len(tasks)), indent=2))
    os.replace(temporary, out / "meta" / "info.json")


def image_key(role: str) -> str:
    return f"observation.images.{role}"


def _statistics(values: np.ndarray) -> dict[str, list[float]]:
    return {
        "min": values.min(0).tolist(),
        "max": values.max(0).tolist(),
        "mean": values.mean(0, dtype=np.float64).tolist(),
        "std": values.std(0, dtype=np.float64).tolist(),
        "count": [len(values)],
    }


def dataset_statistics(staged: list[Path], contract: Contract) -> dict[str, Any]:
    """-> stats.json: state and action over all steps; each view over one frame an episode, (3, 1, 1) in [0, 1]."""
    arrays = []
    for path in staged:
        with np.load(path) as item:
            arrays.append((item["state"], item["action"]))
    stats: dict[str, Any] = {
        "observation.state": _statistics(np.concatenate([state for state, _ in arrays])),
        "action": _statistics(np.concatenate([action for _, action in arrays])),
    }
    for role in contract.roles:
        pixels = []
        for path, (state, _) in zip(staged, arrays, strict=True):
            video = path.with_suffix(f".{role}.mp4")
            frame = next(read_video(video, len(state) // 2, 1, contract.control_rate_hz))
            pixels.append(frame.reshape(-1, 3) / np.float32(255))
        channel = _statistics(np.concatenate(pixels))
        shaped = {key: np.reshape(values, (3, 1, 1)).tolist() for key, values in channel.items() if key != "count"}
        stats[image_key(role)] = {**shaped, "count": [len(staged)]}
    return stats


def _task_table(tasks: dict[str, int]) -> pa.Table:
    """LeRobot reads this file with pandas and takes the instruction from the index, so it is marked as one."""
    index = "__index_level_0__"
    table = pa.table({"task_index": list(tasks.values()), index: list(tasks)})
    column = {"pandas_type": "int64", "numpy_type": "int64", "metadata": None}
    words = {"pandas_type": "unicode", "numpy_type": "object", "metadata": None}
    columns = [
        {"name": "task_index", "field_name": "task_index", **column},
        {"name": None, "field_name": index, **words},
    ]
    pandas = {"index_columns": [index], "column_indexes": [], "columns": columns, "pandas_version": "2.0.0"}
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})


def _info(contract: Contract, episodes: int, frames: int, tasks: int) -> dict[str, Any]:
    scalar = {"shape": [1], "names": None}
    features: dict[str, Any] = {
        "observation.state": {"dtype": "float32", "shape": [len(contract.state)], "names": list(contract.state_names)},
        "action": {"dtype": "float32", "shape": [len(contract.action)], "names": list(contract.action_names)},
        "next.success": {"dtype": "bool", **scalar},
        "timestamp": {"dtype": "float32", **scalar},
        "frame_index": {"dtype": "int64", **scalar},
        "episode_index": {"dtype": "int64", **scalar},
        "index": {"dtype": "int64", **scalar},
        "task_index": {"dtype": "int64", **scalar},
    }
    for camera in contract.cameras:
        features[image_key(camera.role)] = {
            "dtype": "video",
            "shape": [camera.source_height, camera.source_width, 3],
            "names": ["height", "width", "channels"],
            "info": {"video.fps": contract.control_rate_hz, "video.codec": "h264", "has_audio": False},
        }
    return {
        "codebase_version": "v3.0",
        "robot_type": contract.robot,
        "total_episodes": episodes,
        "total_frames": frames,
        "total_tasks": tasks,
        "chunks_size": 1000,
        "fps": int(rate) if (rate := contract.control_rate_hz).is_integer() else rate,
        "splits": {"train": f"0:{episodes}"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": features,
    }


class LeRobotDataset:
    """A dataset read back: low-dimensional columns in memory, frames decoded on demand.

    state (N, S) float32, action (N, A) float32 over all N steps; episodes is a list of dicts (the meta rows)."""

    def __init__(self, path: Path | str) -> None:
        """Raises ValueError when the folder is no complete dataset or its contract disagrees with its columns."""
        self.path = Path(path)
        info_path = self.path / "meta" / "info.json"
        if not info_path.is_file():
            raise ValueError(f"wanted a LeRobot v3 dataset at {self.path}, got no meta/info.json there")
        self.info = json.loads(info_path.read_text())
        if self.info.get("codebase_version") != "v3.0":
            raise ValueError(f"{self.path}: wanted LeRobot v3.0, got {self.info.get('codebase_version')}")
        self.contract = Contract.load(self.path / "contract.yaml")
        self.fps = float(self.info["fps"])
        episodes = sorted((self.path / "meta" / "episodes").glob("*/*.parquet"))
        self.episodes: list[dict[str, Any]] = pa.concat_tables([pq.read_table(p) for p in episodes]).to_pylist()
        data = [pq.read_table(p) for p in sorted((self.path / "data").glob("*/*.parquet"))]
        table = pa.concat_tables(data)
        self.state = np.array(table["observation.state"].to_pylist(), np.float32)
        self.action = np.array(table["action"].to_pylist(), np.float32)
        # Datasets from elsewhere need not say when they succeeded; no training reads it.
        recorded = table["next.success"].to_pylist() if "next.success" in table.column_names else [False] * len(table)
        self.success = np.array(recorded, bool)
        self._check()

    def _check(self) -> None:
        for name, values, channels in (
            ("observation.state", self.state, self.contract.state),
            ("action", self.action, self.contract.action),
        ):
            if values.shape != (self.info["total_frames"], len(channels)):
                wanted = (self.info["total_frames"], len(channels))
                raise ValueError(f"{self.path}: {name}: wanted shape {wanted} by the contract, got {values.shape}")
            if names := self.info["features"][name]["names"]:
                if tuple(names) != tuple(c.name for c in channels):
                    wanted_names = [c.name for c in channels]
                    raise ValueError(f"{self.path}: {name}: wanted names {wanted_names} by the contract, got {names}")
            if not np.isfinite(values).all():
                row = int(np.nonzero(~np.isfinite(values).all(1))[0][0])
                raise ValueError(f"{self.path}: {name}: wanted finite values, got {values[row]} at step {row}")
        if self.fps != self.contract.control_rate_hz:
            raise ValueError(f"{self.path}: fps: wanted {self.contract.control_rate_hz} by contract, got {self.fps}")

    def fingerprint(self) -> str:
        """-> 12 hex digits over the contract, every state and action, and the sizes of the video files."""
        digest = hashlib.sha256(self.contract.to_yaml().encode() + self.state.tobytes() + self.action.tobytes())
        for path in sorted((self.path / "videos").rglob("*.mp4")):
            digest.update(f"{path.relative_to(self.path)} {path.stat().st_size}".encode())
        return digest.hexdigest()[:12]

    def sources(self) -> dict[str, Any]:
        """-> {"tasks", "training_seeds" [first, last]} of the episodes, where they were recorded."""
        seeds = [row["seed"] for row in self.episodes if row.get("seed") is not None]
        tasks = sorted({row["source"] for row in self.episodes if row.get("source")})
        return {"tasks": tasks, "training_seeds": [min(seeds), max(seeds)] if seeds else []}

    def description(self) -> dict[str, Any]:
        """-> what a card says of the data: fingerprint, size, and how it was collected where that is recorded."""
        record = self.path / "collection.yaml"
        collection = yaml.safe_load(record.read_text()) if record.is_file() else {}
        size = {"frames": len(self), "episodes": len(self.episodes), "fps": self.fps}
        return {"fingerprint": self.fingerprint(), **size, "collection": collection}

    def __len__(self) -> int:
        return len(self.state)

    def instruction(self, episode: int) -> str:
        return self.episodes[episode]["tasks"][0]

    def frames(self, episode: int, role: str) -> Iterator[np.ndarray]:
        """The camera's frames of one episode as recorded, (h, w, 3) uint8 RGB each."""
        row = self.episodes[episode]
        key = f"videos/{image_key(role)}"
        path = self.path / self.info["video_path"].format(
            video_key=image_key(role), chunk_index=row[f"{key}/chunk_index"], file_index=row[f"{key}/file_index"]
        )
        start = round(row[f"{key}/from_timestamp"] * self.fps)
        return read_video(path, start, row["length"], self.fps)
