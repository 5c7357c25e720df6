"""Decoded frames of a dataset as memory-mapped arrays: decode once, read any step at once, nothing held in RAM; and
what networks make of them."""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import numpy as np
from torch import Tensor
from tqdm import tqdm

from alam_models.contract import Camera, prepare_frame
from training.data.lerobot import LeRobotDataset


def frame_cache(dataset: LeRobotDataset, role: str) -> np.ndarray:
    """-> (N, height, width, 3) uint8 memory map of every step as a network sees it, made at the first call.

    The file's name carries a hash of the camera's settings and of the dataset's fingerprint."""
    camera = dataset.contract.camera(role)
    folder = dataset.path / "cache"
    folder.mkdir(exist_ok=True)
    path = folder / f"{role}_{_key(dataset, camera)}.npy"
    if not path.exists():
        temporary = path.with_suffix(f".{os.getpid()}.part")
        shape = (len(dataset), camera.height, camera.width, 3)
        array = np.lib.format.open_memmap(temporary, "w+", np.uint8, shape)
        bar = tqdm(total=len(dataset), unit="frame", desc=f"decode {role}")

        def decode(episode: int) -> None:
            row = dataset.episodes[episode]
            for step, image in enumerate(dataset.frames(episode, role)):
                array[row["dataset_from_index"] + step] = prepare_frame(image, camera)
            bar.update(row["length"])

        try:
            with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding releases the interpreter lock
                list(pool.map(decode, range(len(dataset.episodes))))
            array.flush()
            temporary.rename(path)
        finally:
            bar.close()
            temporary.unlink(missing_ok=True)
    return np.load(path, mmap_mode="r")


def to_frames(images: Tensor) -> Tensor:
    """(..., h, w, 3) uint8 -> (..., 3, h, w) float32 in [0, 1]."""
    return images.movedim(-1, -3).float() / 255


def _key(dataset: LeRobotDataset, camera: Camera) -> str:
    text = json.dumps([asdict(camera), dataset.fingerprint()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
