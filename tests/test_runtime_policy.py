"""A bundle refuses what does not fit it, in one sentence, and answers the next observation as if nothing had been."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

from alam_models.runtime import Chunk, Observation, load_policy

SHAPE = (128, 128, 3)


def seen(**changes: Any) -> Observation:
    images = dict.fromkeys(("third_person", "wrist"), np.zeros(SHAPE, np.uint8))
    return replace(Observation(images, np.array([0.0, 0.6, 0.2, 1.0]), "reach the goal"), **changes)


def wrist(image: np.ndarray) -> Observation:
    return seen(images={**seen().images, "wrist": image})


def rows(count: int, width: int = 4, kept: int = 8) -> Chunk:
    return Chunk(np.zeros((count, width), np.float32), np.zeros((count, 2, kept), np.float32), 0.0)


@pytest.fixture(scope="module")
def policy(tiny_bundle: Path) -> Any:
    return load_policy(tiny_bundle, threads=1)


@pytest.mark.parametrize(
    ("observation", "said"),
    [
        (wrist(np.zeros((64, 64, 3), np.uint8)), r"wrist frame: wanted uint8 \(128, 128, 3\), got uint8 \(64, 64, 3\)"),
        (wrist(np.zeros(SHAPE, np.float32)), r"wrist frame: wanted uint8 .* got float32"),
        (wrist(np.zeros(SHAPE[:2], np.uint8)), r"wrist frame: .* got uint8 \(128, 128\)"),
        (seen(images={"wrist": np.zeros(SHAPE, np.uint8)}), r"wanted images of .*third_person.*, got \('wrist',\)"),
        (seen(instruction="put " * 13), "wanted words of 1 to 48 bytes, got 52"),
        (seen(instruction=" "), "wanted words of 1 to 48 bytes"),
        (seen(state=np.zeros(3)), "wanted finite .*, got array"),
        (seen(state=np.array([0.0, np.nan, 0.2, 1.0])), "wanted finite"),
    ],
    ids=["size", "dtype", "grey", "role", "long", "empty", "state", "nan"],
)
def test_an_observation_that_does_not_fit(policy: Any, observation: Observation, said: str) -> None:
    before = policy.infer(seen()).actions
    with pytest.raises(ValueError, match=said):
        policy.infer(observation)
    assert np.array_equal(policy.infer(seen()).actions, before)


@pytest.mark.parametrize(
    ("committed", "delay", "said"),
    [
        (rows(3), 3, "the 2 that the policy was trained to go on from"),
        (rows(1), 2, "wanted at most the 1 committed rows"),
        (rows(2), -1, "got -1"),
        (rows(9), 1, r"committed: wanted .* at most 8 rows, got \(\(9, 4\)"),
        (rows(2, width=5), 1, r"committed: wanted actions \(2, 4\)"),
        (rows(2, kept=7), 1, r"latents \(2, 2, 8\)"),
    ],
    ids=["trained", "given", "negative", "horizon", "actions", "latents"],
)
def test_committed_rows_that_do_not_fit(
    policy: Any, committed: Chunk, delay: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "sampler", replace(policy.sampler, committed=2))
    with pytest.raises(ValueError, match=said):
        policy.infer(seen(), committed=committed, delay=delay)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"runtime": "torch"}, r"runtime: wanted one of \('onnxruntime', 'tensorrt'\), got 'torch'"),
        ({"threads": 0}, "got threads 0"),
        ({"steps": 0}, "steps 0"),
        ({"bundle": "no/such/folder"}, "wanted a bundle at no/such/folder, got no card.yaml there"),
    ],
)
def test_a_bundle_that_cannot_be_opened_so(change: dict[str, Any], said: str, tiny_bundle: Path) -> None:
    opened: Callable[..., Any] = load_policy
    with pytest.raises(ValueError, match=said):
        opened(**{"bundle": tiny_bundle, **change})
