"""The arm's control loop under load, beside the loops that people write first.

    python benchmarks/control_loop.py --minutes 30 --json control_loop.json

Starts the whole graph on an emulated arm and two software cameras (640x480, 30 Hz) with a policy that moves the arm,
lets it run, and compares what it says of itself before and after: lateness of waking, time to the bus, feedback and
images lost, pair skew, periods without a command of the policy, memory; and, beside it, when the machine itself stood
still. Then, for a minute each and beside the same graph, a 200 Hz rclpy timer and a loop in the style of the vendor
SDK's examples, on an emulated arm of their own; then the graph again with a policy that answers 100 ms and 200 ms
later. Everything is counted from 15 s after the first motion on. The policy is of the size `mini`, whatever it does:
without --bundle one is trained first (ten minutes)."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
from alam_common.refusal import Refusal  # noqa: E402
from practice_bundle import make_bundle  # noqa: E402
from tool_main import guarded  # noqa: E402

PERIOD_S = 0.005
SETTLE_S = 15.0  # after the first motion, before anything is counted
ROLES = ("third_person", "wrist")
THROTTLE = Path("/proc/sys/kernel/sched_rt_runtime_us")  # [us] of each second for real-time threads; -1: no limit
PROCESSES = ("piper_node", "arm_process_io", "policy_node", "camera_third_person", "camera_wrist", "piper_emulator")
GOALS = {  # figure -> the most that it may be
    "wake-up error p99.9 [ms]": 0.5,
    "command to bus p99 [ms]": 1.0,
    "feedback missed": 0,
    "images lost": 0,
    "pair skew p99 [ms]": 5.0,
    "starved periods": 0,
    "memory growth [MiB]": 5.0,
}


class Watch:
    """A process on each core that does nothing but wake every 5 ms, above everything else there: when it is late
    nothing ran. A virtual machine stood still (its stolen time says so), or the kernel stopped all real-time threads of
    that core (THROTTLE). Where SCHED_FIFO is not permitted it is late under any load. A context manager."""

    def __init__(self) -> None:
        make = multiprocessing.get_context("spawn")
        self._over, self._late = make.Event(), make.Queue()
        cores = sorted(os.sched_getaffinity(0))
        self._processes = [
            make.Process(target=_wake, args=(core, self._over, self._late), daemon=True) for core in cores
        ]

    def __enter__(self) -> Watch:
        for process in self._processes:
            process.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def end(self) -> list[tuple[int, float, float, float]]:
        """-> core, time [s] of time.monotonic(), duration [s] of each standstill of more than a period, and what was
        stolen from the core [s] in the second that ended with it."""
        self._over.set()
        found = [stall for _ in self._processes for stall in self._late.get(timeout=10.0)]
        return sorted(found, key=lambda stall: stall[1])


def _wake(core: int, over: Any, late: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the benchmark
    os.sched_setaffinity(0, {core})
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(99))
    found, deadline, before, looked = [], time.monotonic(), _stolen_s(core), time.monotonic()
    while not over.is_set():
        deadline += PERIOD_S
        time.sleep(max(0.0, deadline - time.monotonic()))
        behind = time.monotonic() - deadline
        if behind > PERIOD_S:
            found.append((core, deadline, behind, _stolen_s(core) - before))
            deadline = time.monotonic()
        if deadline - looked > 1.0:
            before, looked = _stolen_s(core), deadline
    late.put(found)


def _stolen_s(core: int) -> float:
    """-> what other virtual machines have taken from a core so far."""
    row = next(line.split() for line in Path("/proc/stat").read_text().splitlines() if line.startswith(f"cpu{core} "))
    return int(row[8]) / os.sysconf("SC_CLK_TCK")


class Operator:
    """A node beside the graph: diagnostics by node name, services, a task."""

    def __init__(self) -> None:
        import rclpy
        from alam_msgs.action import RunTask
        from rclpy.action import ActionClient
        from rclpy.executors import SingleThreadedExecutor

        from alam_common import topics
        from alam_common.base_node import subscribe

        self._rclpy = rclpy
        rclpy.init()
        self.node = rclpy.create_node("control_loop_benchmark")
        self.said: dict[str, dict[str, str]] = {}
        self.heard: dict[str, float] = {}
        self.holds: Counter[str] = Counter()
        subscribe(self.node, topics.DIAGNOSTICS, self._on_diagnostics)
        subscribe(self.node, topics.ARM_STATUS, self._on_status)
        self._task = ActionClient(self.node, RunTask, topics.RUN_TASK[0])
        self._goal = RunTask.Goal(task="", instruction="move", seed=0, timeout=0.0)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        threading.Thread(target=self._executor.spin, daemon=True).start()

    def call(self, service: str, value: bool | None = None) -> None:
        """Raises Refusal with the service's words when it refuses."""
        from std_srvs.srv import SetBool, Trigger

        kind = Trigger if value is None else SetBool
        client = self.node.create_client(kind, service)
        if not client.wait_for_service(30.0):
            raise Refusal(f"wanted the service {service}, got none within 30 s")
        future = client.call_async(kind.Request() if value is None else kind.Request(data=value))
        wait(future.done, 40, service)
        if not future.result().success:
            raise Refusal(f"{service}: {future.result().message}")

    def begin(self) -> dict[str, int]:
        """Power, home, a task without end; returns, with the images so far, once the arm has followed for a while."""
        wait(lambda: self.said.get("piper", {}).get("phase") == "asleep", 60, "an arm that can be enabled")
        wait(lambda: int(self.said.get("policy", {}).get("pairs", 0)) > 30, 60, "a policy that sees")
        self.call("/robot/enable", True)
        self.call("/robot/home")
        images = self.images()
        if not self._task.wait_for_server(30.0):
            raise Refusal("wanted /run_task, got none")
        self._task.send_goal_async(self._goal)
        wait(lambda: self.said["piper"].get("mode") == "moving", 30, "an arm that moves")
        time.sleep(SETTLE_S)
        return images

    def images(self) -> dict[str, int]:
        """Counts of both ends, "sent" and "got", once none is under way: the cameras pause for it."""
        for role in ROLES:
            self.call(f"/camera_{role}/emulate_stall", True)
        time.sleep(0.3)
        asked = time.monotonic()
        wait(lambda: all(self.heard.get(f"camera_{role}", 0) > asked for role in ROLES), 5, "diagnostics")
        wait(lambda: self.heard.get("policy", 0) > asked, 5, "diagnostics")
        sent = sum(int(self.said[f"camera_{role}"]["images"]) for role in ROLES)
        got = sum(int(self.said["policy"][f"{role}_count"]) for role in ROLES)
        for role in ROLES:
            self.call(f"/camera_{role}/emulate_stall", False)
        time.sleep(1.0)
        return {"sent": sent, "got": got}

    def snapshot(self) -> dict[str, dict[str, str]]:
        return {name: dict(values) for name, values in self.said.items()}

    def close(self) -> None:
        self._executor.shutdown(timeout_sec=1.0)
        self.node.destroy_node()
        self._rclpy.try_shutdown()

    def _on_status(self, message: Any) -> None:
        if message.mode != "moving":
            self.holds[f"{message.mode}: {message.reason}"] += 1

    def _on_diagnostics(self, message: Any) -> None:
        for status in message.status:
            self.said[status.name] = {pair.key: pair.value for pair in status.values} | {"message": status.message}
            self.heard[status.name] = time.monotonic()


def wait(condition: Any, patience_s: float, what: str) -> None:
    """Raises Refusal when it does not come."""
    end = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > end:
            raise Refusal(f"wanted {what}, got none within {patience_s:.0f} s")
        time.sleep(0.02)


def memory_mib(process: str, domain: str) -> float:
    """-> resident memory [MiB] of the graph's process of this name; NaN when there is none."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            ours = f"ROS_DOMAIN_ID={domain}".encode() in (entry / "environ").read_bytes().split(b"\0")
            named = process in (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if ours and named and "ros2 launch" not in (entry / "cmdline").read_text().replace("\0", " "):
                pages = int((entry / "statm").read_text().split()[1])
                return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
        except OSError:
            continue
    return float("nan")


def run_graph(folder: Path, bundle: str, delay_s: float, seconds: float, beside: tuple[str, ...]) -> dict[str, Any]:
    """The graph for so long, then each of the loops `beside` it -> figures."""
    from tqdm import trange

    from alam_common.graph import Graph

    domain = os.environ["ROS_DOMAIN_ID"]
    arguments = {"robot": "piper", "emulate": "true", "bundle": bundle, "delay": str(delay_s)}
    arguments["can"] = str(folder / "arm.sock")
    operator = Operator()
    try:
        with Graph(arguments, folder / f"graph-{delay_s:g}.log"), Watch() as watch:
            images = operator.begin()
            began, before = time.monotonic(), operator.snapshot()
            operator.holds.clear()
            memory: dict[str, list[float]] = {name: [] for name in PROCESSES}
            for second in trange(round(seconds), unit="s", desc=f"policy +{delay_s * 1e3:.0f} ms", mininterval=5):
                time.sleep(1.0)
                if second % 10 == 0:
                    for name, sizes in memory.items():
                        sizes.append(memory_mib(name, domain))
                if operator.said["piper"]["mode"] != "moving" and time.monotonic() - operator.heard["piper"] < 0.2:
                    print(f"{second} s: {operator.said['piper']['message']}", file=sys.stderr)
            after = operator.snapshot()
            figures = compare(before, after, memory) | {"holds": dict(operator.holds)}
            stalls = [
                (core, at - began, late * 1e3, stolen * 1e3) for core, at, late, stolen in watch.end() if at > began
            ]
            figures["standstills [core, s, ms, stolen ms]"] = stalls
            later = operator.images()
            figures["images sent"] = later["sent"] - images["sent"]
            figures["images lost"] = figures["images sent"] - (later["got"] - images["got"])
            for name in beside:
                figures[name] = other_loop(name, folder)
            return figures
    finally:
        operator.close()


def compare(
    before: dict[str, dict[str, str]], after: dict[str, dict[str, str]], memory: dict[str, list[float]]
) -> dict[str, Any]:
    """What each node said at both ends -> figures."""

    def grown(node: str, key: str) -> int:
        return int(after[node][key]) - int(before[node][key])

    def percentile(name: str, percent: float) -> float:
        """[ms]: the upper edge of the histogram's bin, of what was added between the two ends."""
        old, new = (Counter(histogram(said["piper"][f"{name}_histogram"])) for said in (before, after))
        edges = np.array(sorted(new))
        counts = np.cumsum([new[edge] - old[edge] for edge in edges])
        return float(edges[np.searchsorted(counts, counts[-1] * percent / 100.0)])

    quarter = max(1, len(memory["piper_node"]) // 4)
    growth = {name: float(np.mean(v[-quarter:]) - np.mean(v[quarter : 2 * quarter])) for name, v in memory.items()}
    return {
        "ticks": grown("piper", "ticks"),
        "ticks missed": grown("piper", "ticks_missed"),
        "wake-up error p50 [ms]": percentile("wake_error", 50),
        "wake-up error p99 [ms]": percentile("wake_error", 99),
        "wake-up error p99.9 [ms]": percentile("wake_error", 99.9),
        "wake-up error max [ms]": percentile("wake_error", 100),
        "command to bus p50 [ms]": percentile("command_to_bus", 50),
        "command to bus p99 [ms]": percentile("command_to_bus", 99),
        "feedback late": grown("piper", "feedback_late"),
        "feedback missed": grown("piper", "feedback_missed"),
        "pairs": grown("policy", "pairs"),
        "pair skew p99 [ms]": float(after["policy"]["wrist_skew_p99_ms"]),
        "starved periods": grown("piper", "periods_held"),
        "chunks": grown("piper", "chunks_accepted"),
        "inference p99 [ms]": float(after["policy"]["inference_p99_ms"]),
        "command age p99 [ms]": percentile("command_age", 99),
        "memory growth [MiB]": max(growth.values()),
        "memory growth of each [MiB]": growth,
    }


def histogram(text: str) -> dict[float, int]:
    """ "edge:count ..." -> counts by the upper edge of their bin [ms]."""
    return {float(edge): int(count) for edge, count in (pair.split(":") for pair in text.split())}


def other_loop(name: str, folder: Path, seconds: float = 60.0) -> dict[str, float]:
    """Run one of LOOPS in a process of its own, on an emulated arm of its own -> percentiles of |interval - 5 ms|."""
    channel, out = str(folder / f"{name}.sock"), folder / f"{name}.npy"
    emulator = [sys.executable, "-m", "alam_piper.emulator_node", "--channel", channel, "--home"]
    with subprocess.Popen(emulator, stdout=subprocess.PIPE, text=True) as arm:
        try:
            assert arm.stdout is not None
            arm.stdout.readline()
            command = [sys.executable, __file__, "--loop", name, "--channel", channel, "--out", str(out)]
            subprocess.run([*command, "--seconds", str(seconds)], check=True, timeout=seconds + 60)
        finally:
            arm.terminate()
    late = np.abs(np.diff(np.load(out)) - PERIOD_S)[200:] * 1e3
    percents = {f"p{percent:g} [ms]": float(np.percentile(late, percent)) for percent in (50, 99, 99.9)}
    return {**percents, "max [ms]": float(late.max())}


def sdk(channel: str) -> Any:
    from piper_sdk import C_PiperInterface_V2

    interface = C_PiperInterface_V2(channel, judge_flag=False, can_auto_init=False)
    interface.CreateCanBus(channel, bustype="alam_socket", judge_flag=False)
    interface.ConnectPort(piper_init=False)
    return interface


def command(arm: Any) -> None:
    """What an example does each time: the mode, six joints, a look at the feedback."""
    arm.MotionCtrl_2(0x01, 0x01, 100, 0x00)
    arm.JointCtrl(0, 90000, -77000, 0, 0, 0)
    arm.GetArmJointMsgs()


def timer_loop(channel: str, seconds: float) -> list[float]:
    """A 200 Hz rclpy timer that commands and publishes the joints."""
    import rclpy
    from sensor_msgs.msg import JointState

    rclpy.init()
    node, arm, times = rclpy.create_node("timer_loop"), sdk(channel), []
    joints = node.create_publisher(JointState, "/timer_loop/joint_states", 1)

    def step() -> None:
        times.append(time.monotonic())
        command(arm)
        joints.publish(JointState(name=[f"joint{k}" for k in range(1, 7)], position=[0.0] * 6))

    node.create_timer(PERIOD_S, step)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        rclpy.spin_once(node, timeout_sec=0.1)
    return times


def demo_loop(channel: str, seconds: float) -> list[float]:
    """`while True: command; time.sleep(0.005)`, as in the SDK's examples."""
    arm, times = sdk(channel), []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        times.append(time.monotonic())
        command(arm)
        time.sleep(PERIOD_S)
    return times


LOOPS = {"rclpy timer": timer_loop, "SDK example": demo_loop}


def report(results: dict[str, dict[str, Any]]) -> None:
    main_run = results["policy +0 ms"]
    throttle = THROTTLE.read_text().strip() if THROTTLE.is_file() else "unknown"
    print(f"\n{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {platform.release()}", end=", ")
    print(f"{THROTTLE.name} {throttle}")
    for run, figures in results.items():
        print(f"\n{run}: {figures['ticks']} ticks, {figures['images sent']} images, {figures['chunks']} chunks")
        for name, most in GOALS.items():
            verdict = "ok" if figures[name] <= most else "MISSED"
            print(f"  {name:28s} {figures[name]:10.2f}   goal {most:g}  {verdict}")
        for reason, count in figures["holds"].items():
            print(f"  held, {count} times: {reason}")
        for core, at, late, stolen in figures["standstills [core, s, ms, stolen ms]"]:
            print(f"  core {core} stood still for {late:.0f} ms after {at:.0f} s; stolen from it: {stolen:.0f} ms")
        for name in (
            "command to bus p50 [ms]",
            "wake-up error p50 [ms]",
            "wake-up error p99 [ms]",
            "wake-up error max [ms]",
            "ticks missed",
            "feedback late",
        ):
            print(f"  {name:28s} {figures[name]:10.2f}")
    print("\nerror of waking [ms]         p50      p99    p99.9   (times the control loop's)")
    ours = [main_run[f"wake-up error p{percent} [ms]"] for percent in ("50", "99", "99.9")]
    print(f"  {'control loop':22s}" + "".join(f"{value:9.2f}" for value in ours))
    for name in LOOPS:
        theirs = [main_run[name][f"p{percent} [ms]"] for percent in ("50", "99", "99.9")]
        ratios = ", ".join(f"{b / a:.0f}x" for a, b in zip(ours, theirs, strict=True))
        print(f"  {name:22s}" + "".join(f"{value:9.2f}" for value in theirs) + f"   {ratios}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0, help="of the first run (default %(default)s)")
    parser.add_argument("--slow-minutes", type=float, default=1.0, help="of each run with a slower policy")
    parser.add_argument("--bundle", help="the policy (default: one of the size mini, trained now)")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    parser.add_argument("--loop", choices=tuple(LOOPS), help=argparse.SUPPRESS)
    parser.add_argument("--channel", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.loop:
        np.save(arguments.out, LOOPS[arguments.loop](arguments.channel, arguments.seconds))
        os._exit(0)  # the SDK's threads do not end
    if not min(arguments.minutes, arguments.slow_minutes) >= 0.5:  # true for NaN
        parser.error("--minutes, --slow-minutes: wanted at least 0.5")
    os.environ.setdefault("ROS_DOMAIN_ID", "93")
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="alam-") as folder:
        bundle = arguments.bundle or str(make_bundle(Path(folder) / "mini", size="mini"))
        for delay_s, minutes in (
            (0.0, arguments.minutes),
            (0.1, arguments.slow_minutes),
            (0.2, arguments.slow_minutes),
        ):
            beside = tuple(LOOPS) if delay_s == 0 else ()
            results[f"policy +{delay_s * 1e3:.0f} ms"] = run_graph(Path(folder), bundle, delay_s, minutes * 60, beside)
            if arguments.json:
                arguments.json.write_text(json.dumps(results, indent=2) + "\n")
    report(results)
    return 0


if __name__ == "__main__":
    sys.exit(guarded("control_loop", main))
