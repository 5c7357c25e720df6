"""launch/*.py: short, only the public API of ROS 2 Jazzy's launch, every argument explained, and wired as they say."""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from launch_files.harness import ROOT, Prefix, until

FILES = sorted((ROOT / "launch").glob("*.py"))
API = yaml.safe_load((Path(__file__).parent / "launch_files/jazzy_api.yaml").read_text())
STAND_IN = ROOT / "tools/ros2_standin/api"
CONFIG = ROOT / "ros2_ws/src/alam_bringup/config"
OPEN = {
    "task",
    "bundle",
    "video_dir",
    "can",
    "third_person_serial",
    "wrist_serial",
}  # arguments whose values cannot be listed


def calls(tree: ast.AST, names: dict[str, str]):
    """-> (API name, call) of every call of an imported name, or of an attribute of an imported module."""
    for call in (item for item in ast.walk(tree) if isinstance(item, ast.Call)):
        if isinstance(call.func, ast.Name) and call.func.id in names:
            yield names[call.func.id], call
        elif isinstance(call.func, ast.Attribute) and getattr(call.func.value, "id", None) in names:
            yield call.func.attr, call


def imports(tree: ast.AST) -> tuple[set[tuple[str, str]], dict[str, str]]:
    """-> {(module, name)} that are imported or read from a module, and {name in the file: name in the API}."""
    pairs, names = set(), {}
    for item in ast.walk(tree):
        assert not isinstance(item, ast.Import), f"line {item.lineno}: write `from launch... import ...`"
        if isinstance(item, ast.ImportFrom):
            for alias in item.names:
                pairs.add((item.module, alias.name))
                names[alias.asname or alias.name] = alias.name
    modules = {name: f"{module}.{original}" for module, original in pairs for name in names if names[name] == original}
    for item in ast.walk(tree):
        if isinstance(item, ast.Attribute) and isinstance(item.value, ast.Name):
            module = modules.get(item.value.id, "")
            if module in API["modules"]:
                pairs.add((module, item.attr))
    return pairs, names


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_short_and_only_the_public_api(path):
    text = path.read_text()
    assert len(text.splitlines()) < 80, "a launch file only wires"
    tree = ast.parse(text)
    pairs, names = imports(tree)
    unknown = {f"{module}.{name}" for module, name in pairs if name not in API["modules"].get(module, ())}
    assert not unknown, f"not in the public API of Jazzy's launch: {unknown}"
    for name, call in calls(tree, names):
        wrong = {keyword.arg for keyword in call.keywords} - set(API["keywords"][name])
        assert not wrong, f"line {call.lineno}: {name} does not take {wrong}"


@pytest.mark.parametrize("path", sorted(STAND_IN.glob("*/*.py")), ids=lambda path: f"{path.parent.name}.{path.stem}")
def test_the_stand_in_offers_nothing_that_jazzy_has_not(path):
    tree = ast.parse(path.read_text())
    (exported,) = (
        ast.literal_eval(item.value)
        for item in tree.body
        if isinstance(item, ast.Assign) and isinstance(item.targets[0], ast.Name) and item.targets[0].id == "__all__"
    )
    module = path.parent.name + ("" if path.stem == "__init__" else f".{path.stem}")
    there = set(API["modules"][module]) | {name.rpartition(".")[2] for name in API["modules"]}
    assert set(exported) <= there
    for item in tree.body:
        if isinstance(item, ast.ClassDef) and item.name in exported:
            for method in item.body:
                if isinstance(method, ast.FunctionDef) and method.name == "__init__":
                    taken = {argument.arg for argument in method.args.args[1:] + method.args.kwonlyargs}
                    assert taken <= set(API["keywords"][item.name]), f"{item.name} takes too much"


# The real launch files with nodes that only tell what they were given

TELL = """\
    import json, os, signal, sys, time
    files = [open(path).read() for path in sys.argv if path.endswith(".yaml")]
    environment = {name: text for name, text in os.environ.items() if name.startswith(("ROS", "FAST"))}
    signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
    signal.signal(signal.SIGUSR1, lambda *_: sys.exit(2))
    os.write(1, ("TOLD " + json.dumps([sys.argv[1:], environment, files]) + "\\n").encode())
    while True:
        time.sleep(60)
    """
ROBOT, POLICY = "metaworld_node-1", "policy_node-2"
NODES = {  # package: executables
    "alam_sim": ("metaworld_node", "piper_mujoco_node"),
    "alam_piper": ("piper_node", "piper_emulator"),
    "alam_cameras": ("camera_node",),
    "alam_policy": ("policy_node",),
}
REAL = ("piper_node-1", "camera_node-2", "camera_node-3", "policy_node-4")
EMULATED = ("piper_emulator-1", "piper_node-2", "camera_node-3", "camera_node-4", "policy_node-5")


@pytest.fixture
def prefix(tmp_path) -> Iterator[Prefix]:
    """alam_bringup as it is installed, with stand-ins for the nodes."""
    with Prefix(tmp_path) as made:
        for package in ("alam_bringup", *NODES):
            made.package(package)
        share = tmp_path / "share/alam_bringup"
        (share / "launch").mkdir()
        for path in FILES:
            (share / "launch" / path.name).symlink_to(path)
        (share / "config").symlink_to(CONFIG)
        for package, executables in NODES.items():
            for executable in executables:
                made.executable(executable, TELL, package)
        yield made


def door(prefix: Prefix, *arguments: str, labels: tuple[str, ...] = (ROBOT, POLICY), **env: str):
    """Start the door; -> it, and what each node was given: (arguments, environment, parameters)."""
    running = prefix.start("launch", "alam_bringup", "piper.launch.py", *arguments, **env)
    told = {}
    for label in labels:
        given, environment, files = json.loads(running.line(f"[{label}] TOLD").split("TOLD ", 1)[1])
        name = next((text.removeprefix("__node:=") for text in given if text.startswith("__node:=")), "")
        parameters: dict = {}
        for text in files:
            for whose, section in yaml.safe_load(text).items():
                parameters |= section["ros__parameters"] if whose in ("/**", name) else {}
        told[label] = given, environment, parameters
    return running, told


def test_every_argument_is_explained(prefix):
    text = prefix.ros2("launch", "alam_bringup", "piper.launch.py", "--show-args").text
    arguments = re.findall(r"^    '(\w+)':\n        (.+)\n        \(default: (.*)\)$", text, re.MULTILINE)
    assert {"robot", "task", "bundle", "mode", "runtime", "video_dir"} <= {name for name, _, _ in arguments}
    assert len(arguments) == text.count("(default: "), "every argument has a default and one line that explains it"
    for name, description, _ in arguments:
        assert "no description" not in description
        assert ("one of: " in description) != (name in OPEN), f"{name}: choices wherever they can be listed"


def test_defaults(prefix):
    running, told = door(prefix)
    share = prefix.folder / "share/alam_bringup"
    bundle = str(share / "checkpoints/metaworld-mini")
    arguments, _, parameters = told[POLICY]
    assert arguments[:3] == ["--ros-args", "-r", "__node:=policy"]
    assert parameters == {
        "bundle": bundle,
        "runtime": "onnxruntime",
        "provider": "cpu",
        "delay": 0.0,
        "use_sim_time": True,
    }
    arguments, environment, parameters = told[ROBOT]
    assert arguments[:3] == ["--ros-args", "-r", "__node:=metaworld"]
    wanted = {"task": "reach-v3", "mode": "lockstep", "video_dir": "", "contract": f"{bundle}/contract.yaml"}
    assert parameters == {**wanted, "use_sim_time": False}
    assert environment["ROS_DOMAIN_ID"] == "0" and environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
    assert environment["FASTRTPS_DEFAULT_PROFILES_FILE"] == str(share / "config/fastdds.xml")
    assert running.interrupt() == 0


@pytest.mark.parametrize("robot", ["metaworld", "piper", "piper_mujoco"])
def test_every_robot_has_a_default_bundle_that_is_shipped(prefix, robot):
    robot_labels = {"piper": EMULATED, "piper_mujoco": ("piper_mujoco_node-1", POLICY)}
    labels = robot_labels.get(robot, (ROBOT, POLICY))
    shipped = {"ALAM_CHECKPOINTS": str(ROOT / "checkpoints")}
    running, told = door(prefix, f"robot:={robot}", "emulate:=true", labels=labels, **shipped)
    bundle = Path(told[labels[-1]][2]["bundle"])
    assert (bundle / "card.yaml").is_file()
    assert yaml.safe_load((bundle / "contract.yaml").read_text())["robot"] == robot.partition("_")[0]
    contracts = [given["contract"] for _, _, given in told.values() if "contract" in given]
    assert contracts == [f"{bundle}/contract.yaml"]
    assert running.interrupt() == 0


def test_every_robot_that_has_a_launch_file_can_be_asked_for(prefix):
    robots = sorted(path.name[len("robot_") : -len(".launch.py")] for path in FILES if path.name.startswith("robot_"))
    text = prefix.ros2("launch", "alam_bringup", "piper.launch.py", "--show-args").text
    (choices,) = re.findall(r"who serves the robot interface; one of: (.+)", text)
    assert sorted(choices.split(", ")) == robots
    assert all((CONFIG / robot / name).is_file() for robot in robots for name in ("robot.yaml", "policy.yaml"))


def test_the_twin(prefix):
    running, told = door(prefix, "robot:=piper_mujoco", "bundle:=/b", labels=("piper_mujoco_node-1", POLICY))
    arguments, _, parameters = told["piper_mujoco_node-1"]
    assert "__node:=piper_mujoco" in arguments
    wanted = {"task": "insert-cylinder", "mode": "lockstep", "video_dir": "", "contract": "/b/contract.yaml"}
    assert parameters == {**wanted, "use_sim_time": False}
    assert told[POLICY][2]["use_sim_time"] is True
    assert running.interrupt() == 0


def test_the_arm_is_real_unless_emulation_is_asked_for(prefix):
    serials = ("third_person_serial:=123", "wrist_serial:=456")
    running, told = door(prefix, "robot:=piper", "bundle:=/b", "can:=can1", *serials, labels=REAL)
    given = {label: parameters for label, (_, _, parameters) in told.items()}
    wanted = {
        "can_interface": "socketcan",
        "can_channel": "can1",
        "contract": "/b/contract.yaml",
        "use_sim_time": False,
    }
    assert wanted.items() <= given[REAL[0]].items()
    seen = [(given[label]["role"], given[label]["serial"], given[label]["source"]) for label in REAL[1:3]]
    assert seen == [("third_person", "123", "realsense"), ("wrist", "456", "realsense")]
    assert given[REAL[3]]["use_sim_time"] is False and given[REAL[3]]["max_skew"] > 0.5 / 30
    assert "piper_emulator" not in running.text
    assert running.interrupt() == 0


def test_the_emulated_arm_has_the_same_graph(prefix):
    running, told = door(prefix, "robot:=piper", "emulate:=true", "can:=/tmp/arm", "bundle:=/b", labels=EMULATED)
    assert told[EMULATED[0]][0][:2] == ["--channel", "/tmp/arm"]
    wanted = {"can_interface": "alam_socket", "can_channel": "/tmp/arm"}
    assert wanted.items() <= told[EMULATED[1]][2].items()
    assert [told[label][2]["source"] for label in EMULATED[2:4]] == ["software", "software"]
    nodes = [next(text for text in told[label][0] if text.startswith("__node:=")) for label in EMULATED[1:]]
    assert nodes == [f"__node:={name}" for name in ("piper", "camera_third_person", "camera_wrist", "policy")]
    assert running.interrupt() == 0


def test_driver_and_cameras_come_back(prefix):
    running, _ = door(prefix, "robot:=piper", "emulate:=true", "bundle:=/b", labels=EMULATED)
    for label in EMULATED[1:3]:
        os.kill(running.pid_of(label), signal.SIGKILL)
    for label in EMULATED[1:3]:
        until(lambda label=label: running.text.count(f"[{label}] TOLD") == 2, f"the second life of {label}")
    assert running.interrupt() == 0


@pytest.mark.parametrize(
    ("label", "number"), [(EMULATED[1], signal.SIGUSR1), (EMULATED[2], signal.SIGUSR1), (EMULATED[0], signal.SIGKILL)]
)
def test_what_ends_the_launch_of_the_arm(prefix, label, number):
    """A driver or a camera whose settings cannot work (exit code 2), and any end of the emulator."""
    running, _ = door(prefix, "robot:=piper", "emulate:=true", "bundle:=/b", labels=EMULATED)
    os.kill(running.pid_of(label), number)
    assert running.end() == 1
    assert running.text.count("process started") == len(EMULATED)


@pytest.mark.parametrize("label", [EMULATED[1], EMULATED[2], EMULATED[4]])
def test_one_whose_device_is_away_when_it_is_started_again_is_tried_until_it_is_back(prefix, label):
    """Exit code 2 at the first start ends the launch (above); of one that has run before it does not."""
    running, _ = door(prefix, "robot:=piper", "emulate:=true", "bundle:=/b", labels=EMULATED)

    def life(number):
        until(lambda: running.text.count(f"[{label}] TOLD") == number, f"life {number} of {label}")
        return [int(line.rpartition("[")[2].rstrip("]")) for line in running.lines if f"[{label}]: process st" in line]

    os.kill(life(1)[-1], signal.SIGKILL)
    for number in (2, 3):
        os.kill(life(number)[-1], signal.SIGUSR1)
    assert len(life(4)) == 4 and running.process.poll() is None
    others = len(EMULATED) - 1
    assert running.text.count("process started") == others + 4, "nobody else was started again"
    assert running.interrupt() == 0


def test_arguments_and_the_users_own_environment_win(prefix):
    own = {
        "ROS_DOMAIN_ID": "7",
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET",
        "FASTRTPS_DEFAULT_PROFILES_FILE": "/mine.xml",
    }
    given = ["task:=push-v3", "mode:=realtime", "video_dir:=1", "domain_id:=9"]
    running, told = door(prefix, *given, ALAM_CHECKPOINTS="/weights", **own)
    _, environment, parameters = told[ROBOT]
    assert (parameters["task"], parameters["mode"], parameters["video_dir"]) == ("push-v3", "realtime", "1")
    assert parameters["contract"] == "/weights/metaworld-mini/contract.yaml"
    assert {name: environment[name] for name in own} == {**own, "ROS_DOMAIN_ID": "9"}
    running.interrupt()


@pytest.mark.parametrize(
    ("argument", "part"),
    [("robot:=libero", "metaworld"), ("mode:=fast", "realtime"), ("domain_id:=500", "0-101, 215-232")],
)
def test_wrong_values(prefix, argument, part):
    running = prefix.ros2("launch", "alam_bringup", "piper.launch.py", argument)
    assert running.process.returncode == 1 and len(running.lines) == 1 and part in running.text


def test_a_killed_policy_comes_back(prefix):
    running, _ = door(prefix)
    os.kill(running.pid_of(POLICY), signal.SIGKILL)
    until(lambda: running.text.count(f"[{POLICY}] TOLD") == 2, "the policy's second life")
    assert running.interrupt() == 0 and running.text.count(f"[{ROBOT}] TOLD") == 1


@pytest.mark.parametrize(
    ("label", "number", "code"), [(POLICY, signal.SIGUSR1, 1), (ROBOT, signal.SIGKILL, 1), (ROBOT, signal.SIGINT, 0)]
)
def test_what_ends_the_launch(prefix, label, number, code):
    """A policy that refuses its settings (exit code 2), and any end of the robot."""
    running, _ = door(prefix)
    os.kill(running.pid_of(label), number)
    assert running.end() == code
    assert running.text.count("process started") == 2


def test_fast_dds_profile_holds_camera_images():
    root = ElementTree.parse(CONFIG / "fastdds.xml").getroot()
    space = {"dds": "http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles"}
    transports = {
        item.findtext("dds:transport_id", "", space): item
        for item in root.iterfind(".//dds:transport_descriptor", space)
    }
    used = [item.text for item in root.iterfind(".//dds:userTransports/dds:transport_id", space)]
    assert sorted(used) == sorted(transports)
    kinds = {item.findtext("dds:type", "", space): item for item in transports.values()}
    assert set(kinds) == {"SHM", "UDPv4"}
    assert int(kinds["SHM"].findtext("dds:segment_size", "0", space)) >= 4 * 2 * 640 * 480 * 3
