"""What a person does to the robot that runs: enable, disable, stop, reset, home, status, run.

python tools/robot.py enable
python tools/robot.py run "fold the towel" --seconds 60
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from tool_main import guarded

SERVICES = ("enable", "disable", "stop", "reset", "home")
PATIENCE_S = 70.0  # disabling moves the arm slowly to rest first


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=(*SERVICES, "status", "run"))
    parser.add_argument("instruction", nargs="?", default="", help="of run: what the policy is told")
    parser.add_argument("--seconds", type=float, default=60.0, help="of run: time limit (default %(default)s)")
    return parser.parse_args(argv)


def call(client: Any, action: str) -> tuple[bool, str]:
    """Call a service of the robot -> success and its sentence. Raises Refusal when nobody answers."""
    import rclpy
    from std_srvs.srv import SetBool, Trigger

    from alam_common.refusal import Refusal

    switch = action in ("enable", "disable")
    name = "/robot/enable" if switch else f"/robot/{action}"
    service = client.create_client(SetBool if switch else Trigger, name)
    if not service.wait_for_service(5.0):
        raise Refusal(f"wanted a robot that serves {name}, got none in 5 s; is the graph up, on this ROS_DOMAIN_ID?")
    future = service.call_async(SetBool.Request(data=action == "enable") if switch else Trigger.Request())
    rclpy.spin_until_future_complete(client, future, timeout_sec=PATIENCE_S)
    if future.result() is None:
        raise Refusal(f"{name}: wanted an answer within {PATIENCE_S:.0f} s, got none")
    return future.result().success, future.result().message


def status(client: Any) -> str:
    """-> what every node says of itself, a line each."""
    import rclpy

    from alam_common import topics
    from alam_common.base_node import subscribe

    said: dict[str, str] = {}
    subscribe(client, topics.DIAGNOSTICS, lambda m: said.update({s.name: s.message for s in m.status}))
    end = time.monotonic() + 2.5  # every node speaks once a second
    while time.monotonic() < end:
        rclpy.spin_once(client, timeout_sec=0.1)
    return "\n".join(f"{name}: {message}" for name, message in sorted(said.items()))


def run(arguments: argparse.Namespace) -> int:
    import rclpy

    from alam_common.refusal import Refusal
    from alam_common.task_client_node import TaskClient

    if arguments.action == "run":
        with TaskClient("robot_tool") as client:
            client.wait_ready(10.0)
            attempt = client.run("", 0, arguments.instruction, arguments.seconds)
        print(attempt.reason)
        return 0 if attempt.status == "succeeded" else 1
    rclpy.init()
    client = rclpy.create_node("robot_tool")
    try:
        if arguments.action == "status":
            lines = status(client)
            if not lines:
                raise Refusal("wanted nodes that say something, heard none in 2.5 s; is the graph up?")
            print(lines)
            return 0
        good, sentence = call(client, arguments.action)
    finally:
        client.destroy_node()
        rclpy.try_shutdown()
    print(sentence, file=sys.stdout if good else sys.stderr)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(guarded("robot", lambda: run(parse())))
