"""One ROS domain for each test process, and plain reasons where a marked test cannot run on this machine."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import pytest

LAST_DOMAIN = 100  # above it, the ports of DDS meet the range from which Linux hands out ports


def claim_domain(folder: Path, first: int) -> tuple[int, IO[bytes]]:
    """Lock a free domain id in 1..100, trying from `first` on; -> the id and the file whose lock holds it.

    The kernel gives the lock back when the process ends, however it ends. Raises RuntimeError when all are taken.
    """
    for step in range(LAST_DOMAIN):
        domain = (first + step) % LAST_DOMAIN + 1
        try:
            file = (folder / f"ros-domain-{domain}.lock").open("ab")
        except PermissionError:  # another user's
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            continue
        return domain, file
    raise RuntimeError(f"wanted a free ROS domain of {LAST_DOMAIN}, got none: other test processes hold all of them")


# At import: before anything can import rclpy, and in every worker process of its own.
_domain, _held = claim_domain(Path(tempfile.gettempdir()), os.getpid())
os.environ["ROS_DOMAIN_ID"] = str(_domain)
os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models gain nothing from more, and a loaded machine loses much


def _missing(modules: Iterable[str]) -> str:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    return (
        f"no {', '.join(missing)} here: run the tests with `make test`, or source tools/env.sh first" if missing else ""
    )


def _no_gpu() -> str:
    if _missing(["torch"]):
        return _missing(["torch"])
    import torch

    return "" if torch.cuda.is_available() else "torch sees no CUDA device"


def _no_hardware() -> str:
    return "" if os.environ.get("ALAM_HARDWARE") else "set ALAM_HARDWARE=1 on the machine that the arm is connected to"


UNMET = {
    "ros": lambda: _missing(["rclpy", "alam_msgs"]),
    "sim": lambda: _missing(["mujoco", "metaworld"]),
    "gpu": _no_gpu,
    "hardware": _no_hardware,
}


def pytest_configure() -> None:
    """ALAM_TEST_REQUIRE=ros,sim (`make test`): what the set-up has installed must be there, not be skipped."""
    for marker in filter(None, os.environ.get("ALAM_TEST_REQUIRE", "").split(",")):
        reason = UNMET[marker]() if marker in UNMET else f"no such marker; wanted some of {', '.join(UNMET)}"
        if reason:
            pytest.exit(f"ALAM_TEST_REQUIRE names {marker}: {reason}", returncode=3)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip a marked test that cannot run here, with the reason."""
    reasons: dict[str, str] = {}
    for item in items:
        for marker in UNMET.keys() & {mark.name for mark in item.iter_markers()}:
            if marker not in reasons:
                reasons[marker] = UNMET[marker]()
            if reasons[marker]:
                item.add_marker(pytest.mark.skip(reason=reasons[marker]))


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of random weights, exported once."""
    from tiny_bundle import make_tiny_bundle

    return make_tiny_bundle(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def software():
    """-> `make(serial, **options)`, a maker of software cameras of the RealSense library; `make.context` has them."""
    rs = pytest.importorskip("pyrealsense2")
    from camera_rig import SIZE

    from alam_cameras.software_io import SoftwareCamera

    context, made = rs.context(), []

    def make(serial, **options):
        made.append(SoftwareCamera(context, serial, SIZE.width, SIZE.height, SIZE.fps, **options))
        return made[-1]

    make.context = context
    yield make
    for camera in made:
        camera.close()
