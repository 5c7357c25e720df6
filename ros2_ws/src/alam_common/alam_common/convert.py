"""Messages <-> numpy. Message objects come in as arguments, so this needs no ROS and tests run without it."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np

NANOSECONDS = 1_000_000_000


def stamp_ns(stamp: Any) -> int:
    """builtin_interfaces/Time -> [ns]."""
    return int(stamp.sec) * NANOSECONDS + int(stamp.nanosec)


def fill_stamp(stamp: Any, time_ns: int) -> None:
    """Write time_ns [ns] into a builtin_interfaces/Time. Raises ValueError for a negative time."""
    if time_ns < 0:
        raise ValueError(f"stamp: wanted a time of 0 ns or later, got {time_ns}")
    stamp.sec, stamp.nanosec = divmod(int(time_ns), NANOSECONDS)


def fill_image(message: Any, image: np.ndarray, frame_id: str, time_ns: int) -> None:
    """image (h, w, 3) uint8 RGB -> sensor_msgs/Image. Raises ValueError on another shape or dtype."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image: wanted (h, w, 3) uint8, got {image.shape} {image.dtype}")
    fill_stamp(message.header.stamp, time_ns)
    message.header.frame_id = frame_id
    message.height, message.width = int(image.shape[0]), int(image.shape[1])
    message.encoding, message.is_bigendian, message.step = ("rgb8", 0, int(image.shape[1]) * 3)
    message.data = array("B", image.tobytes())  # any other type is checked element by element by the message class


def read_image(message: Any) -> np.ndarray:
    """sensor_msgs/Image -> (h, w, 3) uint8 RGB, a view on the message's own bytes when it is rgb8.

    Raises ValueError for an encoding other than rgb8 or bgr8, and for data that does not fit the size."""
    if message.encoding not in ("rgb8", "bgr8"):
        raise ValueError(
            f"image of {message.header.frame_id!r}: wanted encoding rgb8 or bgr8, got {message.encoding!r}"
        )
    height, width, step = int(message.height), int(message.width), int(message.step)
    data = np.frombuffer(message.data, np.uint8)
    if step < width * 3 or data.size != step * height:
        raise ValueError(
            f"image of {message.header.frame_id!r}: wanted {height} rows of {width * 3} bytes or more, "
            f"got step {step} and {data.size} bytes"
        )
    image = data.reshape(height, step)[:, : width * 3].reshape(height, width, 3)
    return image if message.encoding == "rgb8" else image[:, :, ::-1]


def fill_camera_info(message: Any, width: int, height: int, fovy_rad: float, frame_id: str, time_ns: int) -> None:
    """A pinhole camera without distortion, square pixels, vertical field of view [rad] -> sensor_msgs/CameraInfo."""
    focal = height / 2 / float(np.tan(fovy_rad / 2))
    fill_stamp(message.header.stamp, time_ns)
    message.header.frame_id = frame_id
    message.height, message.width = height, width
    message.distortion_model, message.d = "plumb_bob", [0.0] * 5
    cx, cy = (width - 1) / 2, (height - 1) / 2
    message.k = [focal, 0.0, cx, 0.0, focal, cy, 0.0, 0.0, 1.0]
    message.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    message.p = [focal, 0.0, cx, 0.0, 0.0, focal, cy, 0.0, 0.0, 0.0, 1.0, 0.0]


def fill_state(
    message: Any,
    names: tuple[str, ...],
    values: np.ndarray,
    instruction: str,
    observation_id: int,
    time_ns: int,
    under_way: bool = False,
) -> None:
    """values (S,) in contract units -> alam_msgs/StateVector; under_way: see there.

    Raises ValueError when there are not as many names."""
    if values.shape != (len(names),):
        raise ValueError(f"state: wanted {len(names)} values, got shape {values.shape}")
    fill_stamp(message.header.stamp, time_ns)
    message.observation_id, message.instruction, message.under_way = int(observation_id), instruction, under_way
    message.names, message.values = (list(names), array("d", np.asarray(values, np.float64).tobytes()))


def read_state(message: Any, names: tuple[str, ...]) -> np.ndarray:
    """alam_msgs/StateVector -> (S,) float64. Raises ValueError when names or number are not the contract's."""
    if tuple(message.names) != names or len(message.values) != len(names):
        got = f"{len(message.values)} named {list(message.names)}"
        raise ValueError(f"state: wanted {len(names)} values named {list(names)}, got {got}")
    return np.array(message.values, np.float64)


def fill_chunk(
    message: Any,
    actions: np.ndarray,
    names: tuple[str, ...],
    dt_s: float,
    observation_id: int,
    observation_ns: int,
    sent_ns: int,
    policy_id: str,
    inference_time_s: float,
) -> None:
    """actions (H, A) in contract units, robot times [ns] -> alam_msgs/ActionChunk. ValueError on a wrong width."""
    if actions.ndim != 2 or actions.shape[1] != len(names):
        raise ValueError(f"chunk: wanted (H, {len(names)}) actions, got shape {actions.shape}")
    fill_stamp(message.header.stamp, sent_ns)
    fill_stamp(message.observation_stamp, observation_ns)
    message.observation_id, message.dt, message.names = (int(observation_id), float(dt_s), list(names))
    message.horizon = int(actions.shape[0])
    message.actions = array("f", np.asarray(actions, np.float32).tobytes())
    message.policy_id, message.inference_time = policy_id, float(inference_time_s)


def read_chunk(message: Any) -> np.ndarray:
    """alam_msgs/ActionChunk -> actions (H, A) float32. Raises ValueError when sizes disagree."""
    width, horizon = len(message.names), int(message.horizon)
    if width == 0 or horizon == 0 or len(message.actions) != horizon * width:
        raise ValueError(f"chunk: wanted {horizon} x {width} actions, got {len(message.actions)}")
    return np.array(message.actions, np.float32).reshape(horizon, width)


def fill_latents(
    message: Any,
    latents: np.ndarray,
    views: tuple[str, ...],
    dt_s: float,
    observation_id: int,
    observation_ns: int,
    sent_ns: int,
    policy_id: str,
) -> None:
    """latents (H, V, P) as generated -> alam_msgs/LatentChunk. Raises ValueError when V is not the number of views."""
    if latents.ndim != 3 or latents.shape[1] != len(views):
        raise ValueError(f"latents: wanted (H, {len(views)}, width), got shape {latents.shape}")
    fill_stamp(message.header.stamp, sent_ns)
    fill_stamp(message.observation_stamp, observation_ns)
    message.observation_id, message.dt, message.views = (int(observation_id), float(dt_s), list(views))
    message.horizon, message.width = int(latents.shape[0]), int(latents.shape[2])
    message.latents = array("f", np.asarray(latents, np.float32).tobytes())
    message.policy_id = policy_id


def read_latents(message: Any) -> np.ndarray:
    """alam_msgs/LatentChunk -> (H, V, P) float32. Raises ValueError when sizes disagree."""
    shape = (int(message.horizon), len(message.views), int(message.width))
    if len(message.latents) != shape[0] * shape[1] * shape[2]:
        raise ValueError(f"latents: wanted {shape[0]} x {shape[1]} x {shape[2]} numbers, got {len(message.latents)}")
    return np.array(message.latents, np.float32).reshape(shape)
