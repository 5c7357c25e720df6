"""What a person does to the robot that runs: enable, disable, stop, reset, home, status, run.

python tools/robot.py enable
python tools/robot.py run "fold the towel" --seconds 60
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

from tool_main import guarded

SERVICES = ("enable", "disable", "stop", "reset", "home")
PATIENCE_S = 70.0  # disabling moves the arm slowly to rest first
SAGS = "a reset takes the arm's power now, and it SAGS"
UNHEARD = "the arm says nothing of itself, so a reset may take its power, and it SAGS"


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=(*SERVICES, "status", "run"))
    parser.add_argument("instruction", nargs="?", default="", help="of run: what the policy is told")
    parser.add_argument("--yes", action="store_true", help="of reset: someone holds the arm; do not ask")
    parser.add_argument("--seconds", type=float, default=60.0, help="of run: time limit (default %(default)s)")
    return parser.parse_args(argv)


def find(client: Any, action: str) -> Any:
    """-> the client of the action's service. Raises Refusal when nobody serves it."""
    from std_srvs.srv import SetBool, Trigger

    from alam_common.refusal import Refusal

    switch = action in ("enable", "disable")
    name = "/robot/enable" if switch else f"/robot/{action}"
    service = client.create_client(SetBool if switch else Trigger, name)
    if not service.wait_for_service(5.0):
        raise Refusal(f"wanted a robot that serves {name}, got none in 5 s; is the graph up, on this ROS_DOMAIN_ID?")
    return service


def call(client: Any, service: Any, action: str) -> tuple[bool, str]:
    """Call what `find` found -> success and its sentence. Raises Refusal when there is no answer."""
    import rclpy
    from std_srvs.srv import SetBool, Trigger

    from alam_common.refusal import Refusal

    switch = action in ("enable", "disable")
    future = service.call_async(SetBool.Request(data=action == "enable") if switch else Trigger.Request())
    rclpy.spin_until_future_complete(client, future, timeout_sec=PATIENCE_S)
    if future.result() is None:
        raise Refusal(f"{action}: wanted an answer within {PATIENCE_S:.0f} s, got none")
    return future.result().success, future.result().message


def danger_of_reset(client: Any) -> str:
    """-> why a reset may drop the arm, "" where it does not, or where the robot is no arm (nobody says its status)."""
    import rclpy

    from alam_common import topics
    from alam_common.base_node import subscribe

    said: list[bool] = []
    subscribe(client, topics.ARM_STATUS, lambda message: said.append(message.reset_sags))
    end = time.monotonic() + 2.5  # an arm speaks ten times a second, once it is found
    while not said and time.monotonic() < end:
        rclpy.spin_once(client, timeout_sec=0.1)
    if said:
        return SAGS if said[-1] else ""
    return UNHEARD if client.count_publishers(topics.ARM_STATUS.name) else ""


def allowed(danger: str, yes: bool, terminal: bool, ask: Callable[[str], str] = input) -> bool:
    """Whether a person holds the arm, where that matters. Raises Refusal where nobody can be asked."""
    from alam_common.refusal import Refusal

    if not danger or yes:
        return True
    if not terminal:
        raise Refusal(f"{danger}; hold the arm, then add --yes")
    try:
        return ask(f"{danger}. Hold the arm; type yes: ").strip() == "yes"
    except EOFError:
        return False


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
        service = find(client, arguments.action)
        danger = danger_of_reset(client) if arguments.action == "reset" else ""
        if not allowed(danger, arguments.yes, sys.stdin.isatty()):
            print("not reset", file=sys.stderr)
            return 1
        good, sentence = call(client, service, arguments.action)
    finally:
        client.destroy_node()
        rclpy.try_shutdown()
    print(sentence, file=sys.stdout if good else sys.stderr)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(guarded("robot", lambda: run(parse())))
