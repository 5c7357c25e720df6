"""The constant offset between the stamps of the two cameras, from a lamp that both see.

Point both cameras at a lamp (or hold it between them), fix `exposure`, start this, and switch the lamp on and off at
uneven moments, about once a second, each time for five frames or more. The more edges, the narrower the interval: at
30 Hz about 4 ms to either side with 40 edges, with one edge up to a frame period.

python tools/camera_offset.py --seconds 20                     # the graph that runs
python tools/camera_offset.py --videos third.mp4 wrist.mp4     # two films that began at the same moment
"""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tool_main import guarded

FIRST, SECOND = "third_person", "wrist"
SHOWN_S = 4.0  # of the curves


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="how long to watch (default %(default)s)")
    parser.add_argument("--patience", type=float, default=15.0, help="for the first images [s] (default %(default)s)")
    parser.add_argument("--max-lag", type=float, default=0.3, help="greatest offset [s] (default %(default)s)")
    parser.add_argument("--videos", nargs=2, metavar=("THIRD_PERSON", "WRIST"), help="two video files, not the graph")
    parser.add_argument("--out", type=Path, default=Path("camera_offset.png"), help="picture (default %(default)s)")
    arguments = parser.parse_args(argv)
    for name in ("seconds", "patience", "max_lag"):
        if not 0 < getattr(arguments, name) < 3600:
            parser.error(
                f"--{name.replace('_', '-')}: wanted seconds between 0 and 3600, got {getattr(arguments, name)}"
            )
    return arguments


class Seen:
    """Brightness of one camera as it comes in."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._rows: list[tuple[float, float, float]] = []

    def add(self, stamp_s: float, image: np.ndarray) -> None:
        from alam_cameras.offset import brightness

        if not self._rows or stamp_s > self._rows[-1][0]:
            self._rows.append((stamp_s, *brightness(image)))

    def __len__(self) -> int:
        return len(self._rows)

    def signal(self) -> Any:
        from alam_cameras.offset import Signal

        times, levels, clipped = np.array(self._rows).reshape(-1, 3).T
        return Signal(self._name, times, levels, clipped)


def watch_videos(paths: list[str]) -> tuple[Seen, Seen]:
    """Raises Refusal when a file is no video."""
    import cv2

    from alam_common.refusal import Refusal

    both = Seen(FIRST), Seen(SECOND)
    for path, seen in zip(paths, both, strict=True):
        capture = cv2.VideoCapture(path) if Path(path).is_file() else None
        fps = capture.get(cv2.CAP_PROP_FPS) if capture is not None and capture.isOpened() else 0.0
        if capture is None or not fps > 0:
            raise Refusal(f"wanted a video file, got {path!r}")
        number = 0
        while True:
            came, image = capture.read()
            if not came:
                break
            seen.add(number / fps, image)
            number += 1
        capture.release()
    return both


def watch_graph(seconds: float, patience_s: float) -> tuple[Seen, Seen, dict[str, tuple[str, float]]]:
    """-> both cameras' brightness, and {role: (node, its stamp_offset [s])} as far as they say. Raises Refusal when one
    camera is silent."""
    import rclpy

    from alam_common import topics
    from alam_common.base_node import subscribe
    from alam_common.convert import read_image, stamp_ns
    from alam_common.refusal import Refusal

    both, nodes = {role: Seen(role) for role in (FIRST, SECOND)}, {}
    origin_ns = time.time_ns() // 10**9 * 10**9  # small numbers keep their digits

    def heard(seen: Seen, message: Any) -> None:
        seen.add((stamp_ns(message.header.stamp) - origin_ns) / 1e9, read_image(message))

    def said(message: Any) -> None:
        for status in message.status:
            values = {value.key: value.value for value in status.values}
            role = status.hardware_id.removeprefix("camera ")
            if role in both and "stamp_offset_s" in values:
                nodes[role] = (status.name, float(values["stamp_offset_s"]))

    rclpy.init()
    node = rclpy.create_node("camera_offset")
    try:
        for role, seen in both.items():
            subscribe(
                node,
                topics.IMAGES[role],
                partial(heard, seen),
            )
        subscribe(node, topics.DIAGNOSTICS, said)
        end = time.monotonic() + patience_s
        while time.monotonic() < end and not all(both.values()):
            rclpy.spin_once(node, timeout_sec=0.1)
        if not all(both.values()):
            counts = ", ".join(f"{len(seen)} of {role}" for role, seen in both.items())
            raise Refusal(f"wanted images of both cameras, got {counts} in {patience_s:.0f} s; do both nodes run?")
        print(f"watching for {seconds:.0f} s: switch the lamp on and off", flush=True)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            rclpy.spin_once(node, timeout_sec=0.1)
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    return both[FIRST], both[SECOND], nodes


def picture(path: Path, first: Any, second: Any, offset_s: float) -> None:
    """Both curves as they are stamped, and with the offset taken out."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 1, figsize=(9, 5), sharex=True, sharey=True, layout="constrained")
    begin = max(first.times_s[0], second.times_s[0]) + 0.5
    for axis, shift, title in (
        (axes[0], 0.0, "as stamped"),
        (axes[1], offset_s, f"{second.name} moved by {-offset_s * 1e3:+.1f} ms"),
    ):
        for signal, moved in ((first, 0.0), (second, shift)):
            low, high = signal.levels.min(), signal.levels.max()
            levels = (signal.levels - low) / (high - low)
            axis.plot(signal.times_s - moved - begin, levels, ".-", markersize=4, label=signal.name)
        axis.set_title(title, fontsize=10)
        axis.set_ylabel("brightness")
    axes[1].set_xlim(0.0, SHOWN_S)
    axes[1].set_xlabel("time [s]")
    axes[0].legend(loc="upper right")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def run(arguments: argparse.Namespace) -> int:
    from alam_cameras.offset import find_offset
    from alam_common.refusal import Refusal

    nodes: dict[str, tuple[str, float]] = {}
    if arguments.videos:
        seen = watch_videos(arguments.videos)
    else:
        *both, nodes = watch_graph(arguments.seconds, arguments.patience)
        seen = both[0], both[1]
    first, second = (each.signal() for each in seen)
    try:
        found = find_offset(first, second, arguments.max_lag)
    except ValueError as error:
        raise Refusal(str(error)) from None
    print(
        f"{SECOND} - {FIRST}: {found.offset_s * 1e3:+.1f} ms (95 % interval {found.low_s * 1e3:+.1f} to "
        f"{found.high_s * 1e3:+.1f}), from {found.edges} edges at {1 / first.period_s:.0f} and "
        f"{1 / second.period_s:.0f} Hz, correlation {found.correlation:.2f}"
    )
    node, now_s = nodes.get(SECOND, (f"camera_{SECOND}", 0.0))
    was = f"was {now_s:g}" if SECOND in nodes else "if it was 0; else add this to it"
    if found.low_s <= 0.0 <= found.high_s:
        print("the interval holds zero: nothing needs to be set")
    print(f"to take it out:\n{node}:\n  ros__parameters:\n    stamp_offset: {now_s - found.offset_s:.4f} # {was}")
    picture(arguments.out, first, second, found.offset_s)
    print(f"curves: {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(guarded("camera_offset", lambda: run(parse())))
