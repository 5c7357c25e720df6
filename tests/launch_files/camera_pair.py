"""Two 640x480 rgb8 cameras in one process, their reader in another: what arrives.

    camera_pair.py read                     answers each pair that is complete
    camera_pair.py send PAIRS               sends the next pair when the last one was answered, or after 1 s
    camera_pair.py send PAIRS --rate 30     sends at 30 Hz, whoever listens

The sender prints {"sent", "arrived", "p50_ms", "p99_ms"} (of the time from publishing to the answer) as JSON.
"""

from __future__ import annotations

import argparse
import array
import json
import os
import time

import rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import UInt64

FRESH = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)  # as cameras are published
TOPICS = ("third_person", "wrist")
WIDTH, HEIGHT = 640, 480
GREETING = 10**6  # a pair's number that is not counted


def read(node) -> None:
    """Answer every complete pair with its number, until the process is ended."""
    answer = node.create_publisher(UInt64, "pair", 100)
    newest = dict.fromkeys(TOPICS, -1)

    def heard(topic: str, image: Image) -> None:
        newest[topic] = image.header.stamp.sec
        if len(set(newest.values())) == 1:
            answer.publish(UInt64(data=image.header.stamp.sec))

    for topic in TOPICS:
        node.create_subscription(Image, topic, lambda image, topic=topic: heard(topic, image), FRESH)
    rclpy.spin(node)


def send(node, pairs: int, rate_hz: float) -> dict[str, float]:
    """-> how many of the pairs arrived complete, and after how long."""
    publishers = [node.create_publisher(Image, topic, FRESH) for topic in TOPICS]
    sent_at: list[float] = []
    took: dict[int, float] = {}
    connected = False

    def answered(message: UInt64) -> None:
        nonlocal connected
        connected = True
        if message.data != GREETING:
            took.setdefault(message.data, time.monotonic() - sent_at[message.data])

    node.create_subscription(UInt64, "pair", answered, 100)
    pixels = array.array("B", os.urandom(WIDTH * HEIGHT * 3))

    def publish(number: int) -> None:
        for publisher in publishers:
            image = Image(width=WIDTH, height=HEIGHT, step=WIDTH * 3, encoding="rgb8", data=pixels)
            image.header.stamp.sec = number
            publisher.publish(image)

    # Both ways must stand before anything counts: greet until the first answer.
    end = time.monotonic() + 30
    while not connected and time.monotonic() < end:
        publish(GREETING)
        rclpy.spin_once(node, timeout_sec=0.2)
    start = time.monotonic()
    for number in range(pairs):
        sent_at.append(time.monotonic())
        publish(number)
        until = start + (number + 1) / rate_hz if rate_hz else sent_at[-1] + 1.0
        while time.monotonic() < until and (rate_hz or number not in took):
            rclpy.spin_once(node, timeout_sec=max(0.0, until - time.monotonic()))
    end = time.monotonic() + 1.0
    while len(took) < pairs and time.monotonic() < end:
        rclpy.spin_once(node, timeout_sec=0.1)
    times = sorted(took.values()) or [float("nan")]
    quantiles = {f"p{q}_ms": round(1000 * times[min(len(times) - 1, len(times) * q // 100)], 1) for q in (50, 99)}
    return {"sent": pairs, "arrived": len(took), **quantiles}


def main() -> None:
    """Send or read."""
    parser = argparse.ArgumentParser(description="two cameras between two processes")
    parser.add_argument("what", choices=["read", "send"])
    parser.add_argument("pairs", type=int, nargs="?", default=0)
    parser.add_argument("--rate", type=float, default=0.0, help="[Hz]; 0: the next pair when the last one was answered")
    arguments = parser.parse_args()
    rclpy.init()
    node = rclpy.create_node(f"camera_pair_{arguments.what}")
    if arguments.what == "read":
        read(node)
    else:
        print(json.dumps(send(node, arguments.pairs, arguments.rate)), flush=True)


if __name__ == "__main__":
    main()
