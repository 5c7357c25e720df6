"""docker/: images, compose file and the host's set-up, as far as a machine without a container engine can tell.

Each set of rules is a function that lists faults, so that it is tried on files with a fault put in, too. One long file,
because its parts hold each other to the same names: interface, limits, group, arguments.
"""

from __future__ import annotations

import ast
import copy
import fnmatch
import importlib.util
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import setup_ros
import setup_system

ROOT = Path(__file__).resolve().parent.parent
DOCKER = ROOT / "docker"
HOST = DOCKER / "host"
FILES = {path.name: path.read_text() for path in sorted(DOCKER.glob("*Dockerfile"))}
ROBOT = FILES["robot.Dockerfile"]
COMPOSE = (DOCKER / "compose.yaml").read_text()
PAYLOAD = sorted("/" + path.relative_to(HOST).as_posix() for path in HOST.rglob("*") if path.is_file())
RULES = (HOST / "etc/udev/rules.d/70-alam.rules").read_text()
UNIT = (HOST / "etc/systemd/system/alam-can@.service").read_text()
LIMITS = (HOST / "etc/security/limits.d/99-alam-realtime.conf").read_text()
SETUP = (DOCKER / "host_setup.sh").read_text()
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)


# --- Dockerfiles


def instructions(text: str) -> list[tuple[str, str]]:
    """-> (keyword, the rest) of each instruction, comments gone, lines joined, defaults of ARG put in."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    values: dict[str, str] = {}
    found = []
    for line in re.sub(r"\\\n\s*", "", lines).splitlines():
        if not line.strip():
            continue
        keyword, rest = line.split(maxsplit=1)
        rest = re.sub(r"\$\{(\w+)\}", lambda hit: values.get(hit[1], hit[0]), rest)
        if keyword == "ARG":
            values.update([rest.split("=", 1)])
        found.append((keyword, rest))
    return found


def stages(text: str) -> dict[str, list[tuple[str, str]]]:
    """-> stage: its instructions after those of the stages that it is made from."""
    found: dict[str, list[tuple[str, str]]] = {}
    name = ""
    for keyword, rest in instructions(text):
        if keyword == "FROM":
            source, *alias = rest.split(" AS ")
            name = alias[0] if alias else "-"
            found[name] = list(found.get(source, []))
        if name:
            found[name].append((keyword, rest))
    return found


def sources(rest: str) -> list[str]:
    return [word for word in rest.split() if not word.startswith("--")][:-1]


def ignored(source: str) -> bool:
    patterns = (ROOT / ".dockerignore").read_text().split()
    return any(fnmatch.fnmatch(source, pattern) or source.startswith(pattern + "/") for pattern in patterns)


def requirements(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line and not line.startswith("#")]


def dockerfile_faults(text: str) -> list[str]:
    """-> what a careful reader would complain about; nothing in a file that is in order."""
    faults = []
    names = set(stages(text))
    for keyword, rest in instructions(text):
        said = f"{keyword} {rest}"
        if keyword == "FROM":
            image = rest.split(" AS ")[0]
            if image not in names and (":" not in image or image.endswith(":latest")):
                faults.append(f"no tag: {said}")
        elif keyword == "ADD":
            faults.append(f"wanted COPY: {said}")
        elif keyword == "WORKDIR" and not rest.startswith("/"):
            faults.append(f"not absolute: {said}")
        elif keyword in ("CMD", "ENTRYPOINT"):
            try:
                json.loads(rest)
            except ValueError:
                faults.append(f"a shell between the engine and the command: {said}")
        elif keyword == "COPY":
            for source in sources(rest):
                if source.startswith(("/", "..")) or not (ROOT / source).exists() or ignored(source):
                    faults.append(f"{source} is not in what the engine is given: {said}")
        elif keyword == "RUN":
            if re.search(r"\bsudo\b", rest):
                faults.append(f"sudo: {said}")
            if re.search(r"(?<!\|)\|(?!\|)", rest) and "pipefail" not in rest:
                faults.append(f"a pipe hides failures: {said}")
            if re.search(r"\bapt (?!/)|\bapt-get (dist-)?upgrade", rest):
                faults.append(f"wanted apt-get install: {said}")
            if "apt-get install" in rest:
                wanted = (
                    "apt-get update &&",
                    "install -y",
                    "--no-install-recommends",
                    "&& rm -rf /var/lib/apt/lists/*",
                )
                faults += [f"lacks {part}: {said}" for part in wanted if part not in rest]
            for name in re.findall(r"pip install .*", rest):
                words = re.sub(r" && .*| -c \S+| -r \S+", "", name).split()[2:]
                words = [word.strip('"') for word in words if not word.startswith(("-", "."))]
                for file in re.findall(r" -r (\S+)", name):
                    words += requirements(ROOT / file) if (ROOT / file).is_file() else [file]
                faults += [f"no version: {word}" for word in words if "==" not in word and word not in PINS]
                faults += [] if "--no-cache-dir" in rest else [f"keeps pip's cache: {said}"]
    for stage, steps in stages(text).items():
        installs = any(
            word in rest for keyword, rest in steps if keyword == "RUN" for word in ("make setup", "setup_robot")
        )
        if installs and not any(keyword == "ENV" and "PIP_NO_CACHE_DIR=1" in rest for keyword, rest in steps):
            faults.append(f"{stage} keeps pip's cache")
    for name, version in re.findall(r"([\w-]+)==([\w.]+)", "\n".join(rest for _, rest in instructions(text))):
        if PINS.get(name, version) != version:
            faults.append(f"{name}: wanted {PINS[name]} as in constraints.txt, got {version}")
    return faults


@pytest.mark.parametrize("name", FILES)
def test_a_dockerfile_is_in_order(name):
    assert dockerfile_faults(FILES[name]) == []


@pytest.mark.parametrize(
    "old, new",
    [
        ("ros:jazzy-ros-base-noble", "ros"),
        ("ros:jazzy-ros-base-noble", "ros:latest"),
        ("apt-get update", "true"),
        ("--no-install-recommends", ""),
        ("install -y", "install"),
        ("&& rm -rf /var/lib/apt/lists/*", ""),
        ("apt-get install", "apt install"),
        ("RUN if id", "RUN sudo id; if id"),
        ("RUN if id", "RUN cat f | grep a; if id"),
        ("WORKDIR /alam", "WORKDIR alam"),
        ("COPY launch launch", "ADD launch launch"),
        ("COPY launch launch", "COPY lunch launch"),
        ("COPY launch launch", "COPY .venv launch"),
        ("COPY launch launch", "COPY ../launch launch"),
        ("ENV PIP_NO_CACHE_DIR=1", "ENV NOTHING=1"),
        ("--no-cache-dir", ""),
        ("-r docker/requirements-gpu.txt", "tensorrt"),
        ("-r docker/requirements-gpu.txt", "numpy==1.0"),
        ("-r docker/requirements-gpu.txt", "-r docker/none.txt"),
        ("COPY docker/requirements-gpu.txt", "COPY docker/none.txt"),
        ('ENTRYPOINT ["/alam/docker/entrypoint.sh"]', "ENTRYPOINT /alam/docker/entrypoint.sh"),
    ],
)
def test_a_fault_in_a_dockerfile_is_found(old, new):
    assert old in ROBOT and dockerfile_faults(ROBOT.replace(old, new))


def test_images_that_drive_an_arm_are_not_root():
    built = stages(ROBOT)
    assert {"robot", "robot-gpu", "sim"} < set(built)
    for name in ("robot", "robot-gpu", "sim"):
        assert [rest for keyword, rest in built[name] if keyword == "USER"][-1] == "robot", name
    assert re.search(r"useradd .*--groups realtime,plugdev .*\brobot\b", ROBOT)


@pytest.mark.parametrize("name", FILES)
def test_what_an_image_starts_is_in_it(name):
    for stage, steps in stages(FILES[name]).items():
        for rest in (rest for keyword, rest in steps if keyword == "ENTRYPOINT"):
            assert os.access(ROOT / json.loads(rest)[0].removeprefix("/alam/"), os.X_OK), stage
        copied = [source for keyword, rest in steps if keyword == "COPY" for source in sources(rest)]
        for script in re.findall(r"python3 (\S+\.py)", "\n".join(rest for keyword, rest in steps if keyword == "RUN")):
            assert "." in copied or script in copied, f"{stage} runs {script}, which it does not have"


def test_the_images_have_the_system_packages_of_the_set_up():
    found = {name: re.findall(r"--no-install-recommends (.*?) &&", str(steps)) for name, steps in stages(ROBOT).items()}
    pieces = {piece.package for piece in setup_system.pieces(sys.executable)}
    assert set(" ".join(found["sim"]).split()) == pieces
    rendering = {package for package in pieces if re.search("mesa|egl", package)}
    assert set(" ".join(found["robot"]).split()) == pieces - rendering, "beside the arm nothing is rendered"


def test_the_gpu_image_has_one_onnx_runtime_with_pins_that_fit_those_of_the_others():
    lines = [Requirement(line) for line in requirements(DOCKER / "requirements-gpu.txt")]
    assert [line.name for line in lines if not line.specifier] == ["cuda-bindings"] and "cuda-bindings" in PINS
    lines = [line for line in lines if line.specifier]
    pins = {line.name: Version(str(line.specifier).removeprefix("==")) for line in lines}
    assert set(pins) == {"onnxruntime-gpu", "tensorrt"} and not set(pins) & set(PINS), "a pin stands in one place"
    newest = Version(PINS["onnxruntime"])
    assert Version("1.30") <= pins["onnxruntime-gpu"] <= newest and pins["onnxruntime-gpu"].major == newest.major
    assert pins["tensorrt"].major == 10, "this ONNX Runtime loads libnvinfer.so.10"
    assert lines[0].extras == {"cuda", "cudnn"}
    libraries = ("nvidia-cuda-runtime", "nvidia-cuda-nvrtc", "nvidia-cublas", "nvidia-cudnn-cu13", "nvidia-cufft")
    assert all(name in PINS for name in (*libraries, "nvidia-curand"))
    assert PINS["nvidia-cuda-runtime"].startswith("13."), "and libcudart.so.13"
    (run,) = [rest for keyword, rest in stages(ROBOT)["robot-gpu"] if keyword == "RUN" and "requirements-gpu" in rest]
    gone, taken = run.index("uninstall --yes onnxruntime "), run.index("-r docker/requirements-gpu.txt")
    assert gone < taken and "-c .venv/.setup/constraints.txt" in run, "both packages fill one folder"
    assert "onnxruntime-gpu" not in str(stages(ROBOT)["robot"])


def test_the_gpu_service_asks_for_its_provider():
    commands = {name: service["command"] for name, service in yaml.safe_load(COMPOSE)["services"].items()}
    assert "provider:=cuda" in map(with_defaults, commands["robot-gpu"])
    assert not [word for name in ("robot", "sim") for word in commands[name] if word.startswith("provider:=")]


def test_the_images_take_known_extras_and_a_known_ros():
    taken = re.findall(r"(?m)python3 docker/setup_robot\.py (.*)$", "\n".join(rest for _, rest in instructions(ROBOT)))
    assert taken == ["robot", "robot sim"]
    assert set(" ".join(taken).split()) <= set(EXTRAS)
    for text in FILES.values():
        assert set(re.findall(r"(?:ros:|/opt/ros/)(\w+)", text)) <= set(setup_ros.DISTROS)


def test_the_robot_image_is_set_up_with_the_pins_and_nothing_for_training(monkeypatch):
    spec = importlib.util.spec_from_file_location("setup_robot", DOCKER / "setup_robot.py")
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "setup_robot", module)
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec.loader.exec_module(module)
    installation = setup_ros.Ros("jazzy", Path("/opt/ros/jazzy/bin/ros2"))
    monkeypatch.setattr(module, "choose_ros", create_autospec(setup_ros.choose_ros, return_value=(installation, "")))
    monkeypatch.setattr(module, "interpreter_of", create_autospec(setup_ros.interpreter_of, return_value="python3"))
    monkeypatch.setattr(module, "ask_installation", create_autospec(setup_ros.ask_installation, return_value="1.26.4"))
    steps = [(module.setup_env, "make_venv"), (module.setup_env, "install_packages"), (module.setup_workspace, "build")]
    called = {name: create_autospec(getattr(owner, name)) for owner, name in steps}
    for owner, name in steps:
        monkeypatch.setattr(owner, name, called[name])
    module.set_up(ROOT, ["robot"], {"PATH": ""})
    assert all(step.call_count == 1 for step in called.values())
    _, ros, constraints, _ = called["install_packages"].call_args.args
    assert ros.extras == ("colcon", "robot")
    assert "\nnumpy==1.26.4\n" in constraints, "ROS 2's messages are compiled against it"
    assert {"alam_piper", "alam_policy"} <= set(called["build"].call_args.args[1])
    monkeypatch.setattr(sys, "argv", ["setup_robot.py", "everything"])
    assert module.main() == 2


# --- compose.yaml

SERVICE_KEYS = {  # those of the compose specification that are used here
    "build", "cap_drop", "command", "container_name", "deploy", "device_cgroup_rules", "environment", "group_add",
    "image", "init", "ipc", "logging", "network_mode", "profiles", "restart", "security_opt", "stop_grace_period",
    "stop_signal", "ulimits", "volumes",
}  # fmt: skip


def with_defaults(value: str) -> str:
    """-> the text that compose makes of it where no variable is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)


def launch_arguments() -> dict[str, list[str] | None]:
    """-> argument of piper.launch.py: its choices, None where any value goes."""
    tree = ast.parse((ROOT / "launch/piper.launch.py").read_text())
    calls = (
        node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "argument"
    )
    found: dict[str, list[str] | None] = {}
    for call in calls:
        name = ast.literal_eval(call.args[0])
        listed = len(call.args) > 3 and isinstance(call.args[3], ast.List)
        found[name] = ast.literal_eval(call.args[3]) if listed else None
    return found


def command_faults(name: str, command: list[str]) -> list[str]:
    if command[:4] != ["ros2", "launch", "alam_bringup", "piper.launch.py"]:
        return [f"{name}: launches {command[:4]}"]
    faults = []
    given = dict(word.split(":=", 1) for word in map(with_defaults, command[4:]))
    known = launch_arguments()
    for argument, value in given.items():
        choices = known.get(argument)
        if argument not in known:
            faults.append(f"{name}: piper.launch.py has no argument {argument}")
        elif "$" in value or not value or (choices and value not in choices):
            faults.append(f"{name}: {argument}:={value}, wanted one of {choices}")
    if not (ROOT / given.get("bundle", "none") / "contract.yaml").is_file():
        faults.append(f"{name}: no bundle in {given.get('bundle')}")
    if (given.get("robot") == "piper") != name.startswith("robot"):
        faults.append(f"{name}: robot:={given.get('robot')}")
    return faults


def compose_faults(document: dict[str, Any]) -> list[str]:
    """-> what is not as the compose specification, this repository or the safety of an arm want it."""
    faults = [f"unknown: {key}" for key in document if key not in ("name", "services") and not key.startswith("x-")]
    for name, service in document["services"].items():
        faults += [f"{name}: not allowed here: {key}" for key in service if key not in SERVICE_KEYS]
        build = service.get("build", {})
        file = (DOCKER / build.get("context", "nowhere") / build.get("dockerfile", "")).resolve()
        if not file.is_file() or build.get("target") not in stages(file.read_text()):
            faults.append(f"{name}: no such build: {build}")
        if not service.get("image"):
            faults.append(f"{name}: no image")
        wanted: dict[str, Any] = {"profiles": [name], "restart": "no", "cap_drop": ["ALL"], "stop_signal": "SIGINT"}
        wanted |= {"security_opt": ["no-new-privileges:true"], "network_mode": "host", "ipc": "host"}
        faults += [f"{name}: {key}: wanted {value}" for key, value in wanted.items() if service.get(key) != value]
        if int(service.get("stop_grace_period", "0s").removesuffix("s")) < 10:
            faults.append(f"{name}: killed before the launch has ended")
        for source in (volume.split(":")[0] for volume in service.get("volumes", [])):
            if source.startswith("."):
                if not (DOCKER / source).exists():
                    faults.append(f"{name}: no such folder: {source}")
            elif source not in ("/dev/bus/usb", "/run/udev") or not name.startswith("robot"):
                faults.append(f"{name}: wants {source} of the host")
        if "ROS_LOCALHOST_ONLY" in service["environment"]:
            faults.append(f"{name}: ROS_LOCALHOST_ONLY overrides the discovery range")
        faults += command_faults(name, service["command"])
        if name.startswith("robot"):
            arm: dict[str, Any] = {"device_cgroup_rules": ["c 189:* rmw"], "group_add": ["plugdev"]}
            arm |= {"ulimits": {"rtprio": 98, "memlock": {"soft": -1, "hard": -1}}, "container_name": "alam-arm"}
            faults += [f"{name}: {key}: wanted {value}" for key, value in arm.items() if service.get(key) != value]
    return faults


def test_the_compose_file_is_in_order():
    document = yaml.safe_load(COMPOSE)
    assert compose_faults(document) == []
    assert list(document["services"]) == ["robot", "robot-gpu", "sim"]


def put(service: str, key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: document["services"][service].update({key: value})


def give(service: str, word: str) -> Callable[[dict[str, Any]], None]:
    return lambda document: document["services"][service]["command"].append(word)


@pytest.mark.parametrize(
    "spoil",
    [
        put("robot", "privileged", True),
        put("robot", "ports", ["80:80"]),
        put("robot", "restart", "always"),
        put("robot", "profiles", ["robot", "sim"]),
        put("robot", "cap_drop", []),
        put("robot", "container_name", "another"),
        put("robot", "ulimits", {"rtprio": 50}),
        put("robot", "build", {"context": "..", "dockerfile": "docker/none", "target": "robot"}),
        put("robot", "build", {"context": "..", "dockerfile": "docker/robot.Dockerfile", "target": "none"}),
        put("robot", "volumes", ["../nowhere:/x"]),
        put("robot", "volumes", ["/:/host"]),
        put("robot", "environment", {"ROS_LOCALHOST_ONLY": "1"}),
        put("robot", "stop_grace_period", "2s"),
        put("sim", "volumes", ["/dev/bus/usb:/dev/bus/usb"]),
        put("robot", "command", ["bash"]),
        give("robot", "mode:=fast"),
        give("robot", "speed:=1"),
        give("robot", "wrist_serial:=${SERIAL}"),
        give("robot", "bundle:=checkpoints/none"),
        give("sim", "robot:=piper"),
        lambda document: document.update(version="3"),
        lambda document: document["services"]["sim"].pop("image"),
    ],
)
def test_a_fault_in_the_compose_file_is_found(spoil):
    document = copy.deepcopy(yaml.safe_load(COMPOSE))
    spoil(document)
    assert compose_faults(document)


def test_compose_and_the_shells_of_the_host_agree_on_discovery():
    shell = dict(re.findall(r"export (ROS_\w+)=\"\$\{ROS_\w+:-(\w+)\}\"", (ROOT / "tools/env.sh").read_text()))
    door = (ROOT / "launch/piper.launch.py").read_text()
    launch = dict(re.findall(r'EnvironmentVariable\("(ROS_\w+)", default_value="(\w+)"', door))
    for service in yaml.safe_load(COMPOSE)["services"].values():
        environment = {name: with_defaults(value) for name, value in service["environment"].items()}
        assert environment == launch and shell.items() <= environment.items()
        assert all(f"${{{name}:-" in value for name, value in service["environment"].items()), "the user's value wins"


# --- the host's files


def test_the_host_the_container_and_the_loop_name_the_same_limits():
    limits = {tuple(line.split()) for line in LIMITS.splitlines() if not line.startswith("#")}
    assert limits == {("@realtime", "-", "rtprio", "98"), ("@realtime", "-", "memlock", "unlimited")}
    loop = (ROOT / "ros2_ws/src/alam_piper/alam_piper/loop_io.py").read_text()
    assert set(re.findall(r"`(@realtime [^`]*)`", loop)) == {" ".join(line) for line in limits}


def test_the_rules_are_whole_and_name_the_devices():
    lines = [line for line in RULES.splitlines() if line and not line.startswith("#")]
    pair = r'[A-Z]+(\{[\w/]+\})?(==|!=|=|\+=)"[^"]*"'
    for line in lines:
        assert re.fullmatch(rf"{pair}(, {pair})*", line), line
    camera, naming, starting = lines
    assert 'ATTR{idVendor}=="8086"' in camera and {"0b07", "0b5b"} <= set(re.findall(r"0[0-9a-f]{3}", camera))
    assert 'ATTRS{idVendor}=="1d50", ATTRS{idProduct}=="606f"' in naming
    name = re.search(r'NAME="(\w{1,15})"', naming)
    assert name and f'KERNEL=="{name[1]}"' in starting, "a name of the kernel's own kind (can0) could be taken already"
    assert f"alam-can@{name[1]}.service" in starting and "/etc/systemd/system/alam-can@.service" in PAYLOAD
    assert not re.fullmatch(r"can\d+", name[1])
    for service in ("robot", "robot-gpu"):
        command = yaml.safe_load(COMPOSE)["services"][service]["command"]
        assert f"can:={name[1]}" in map(with_defaults, command)


def test_the_bus_comes_up_as_the_operators_page_says():
    steps = re.findall(r"(?m)^ExecStart=(-?)/usr/sbin/ip link set dev %i (.*)$", UNIT)
    assert (steps[0], steps[-1]) == (("", "down"), ("", "up"))
    rate = re.search(r"can bitrate (\d+)", (ROOT / "docs/operator.md").read_text())
    assert rate is None or ("", f"type can bitrate {rate[1]}") in steps
    assert ("", "type can bitrate 1000000") in steps
    assert ("-", "type can restart-ms 100") in steps, "some drivers refuse it, which must not keep the bus down"
    queue = re.search(r"txqueuelen (\d+)", UNIT)
    assert queue and 8 <= int(queue[1]) <= 64, "one period of commands fits, and no second of old ones"
    device = "sys-subsystem-net-devices-%i.device"
    assert f"BindsTo={device}" in UNIT and f"After={device}" in UNIT


def test_modules_are_loaded_now_as_at_every_start():
    at_start = [line for line in (HOST / "etc/modules-load.d/alam.conf").read_text().split("\n") if line[:1] not in "#"]
    loaded = re.search(r"modprobe -a (.*)", SETUP)
    assert loaded and loaded[1].split() == at_start


# --- host_setup.sh, run for real in a folder


def host_setup(
    *words: str, script: Path = DOCKER / "host_setup.sh", **options: Any
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", str(script), *words], capture_output=True, text=True, timeout=60, **options)


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """-> everything below: time of its last change and content (of a folder: none)."""
    found = sorted(folder.rglob("*"))
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"") for path in found}


@pytest.fixture
def host(tmp_path):
    """A host with a rule of somebody else's."""
    other = tmp_path / "host/etc/udev/rules.d/10-other.rules"
    other.parent.mkdir(parents=True)
    other.write_text("# not ours\n")
    return tmp_path / "host"


def test_the_set_up_puts_every_file_and_the_undo_takes_all_of_them_away(host):
    before = {path: content for path, (_, content) in tree(host).items()}
    done = host_setup("--root", str(host))
    assert done.returncode == 0, done.stderr
    for path in PAYLOAD:
        put_there = Path(f"{host}{path}")
        assert put_there.read_bytes() == (HOST / path[1:]).read_bytes()
        assert stat.S_IMODE(put_there.stat().st_mode) == 0o644
    assert done.stdout.splitlines() == [f"put {path}" for path in PAYLOAD]
    undone = host_setup("--undo", "--root", str(host))
    assert undone.returncode == 0, undone.stderr
    assert sorted(undone.stdout.splitlines()) == [f"remove {path}" for path in PAYLOAD]
    assert {path: content for path, (_, content) in tree(host).items()} == before
    again = host_setup("--undo", "--root", str(host))
    assert (again.returncode, again.stdout) == (0, "nothing to do\n")


def test_a_second_set_up_changes_nothing(host):
    host_setup("--root", str(host))
    before = tree(host)
    again = host_setup("--root", str(host))
    assert (again.returncode, again.stdout) == (0, "nothing to do\n")
    assert tree(host) == before


@pytest.mark.parametrize("words", [(), ("--undo",)])
def test_check_says_what_would_change_and_changes_nothing(host, words):
    if words:
        host_setup("--root", str(host))
    before = tree(host)
    said = host_setup("--check", *words, "--root", str(host))
    verb = "remove" if words else "put"
    assert (said.returncode, sorted(said.stdout.splitlines())) == (0, [f"would {verb} {path}" for path in PAYLOAD])
    assert tree(host) == before


def test_an_edited_file_is_kept(host):
    host_setup("--root", str(host))
    rules = host / "etc/udev/rules.d/70-alam.rules"
    rules.write_text(RULES + "# two adapters\n")
    for words in ((), ("--undo",)):
        said = host_setup(*words, "--root", str(host))
        assert said.returncode == 0 and "keeps /etc/udev/rules.d/70-alam.rules" in said.stdout
        assert rules.read_text().endswith("# two adapters\n")
    rules.write_text(RULES)  # as it was put: now it goes as well
    assert host_setup("--undo", "--root", str(host)).returncode == 0
    assert [path.name for path in host.rglob("*") if path.is_file()] == ["10-other.rules"]


def test_files_follow_a_newer_version_of_the_repository(host, tmp_path):
    newer = tmp_path / "docker"
    shutil.copytree(DOCKER, newer)
    host_setup("--root", str(host))
    (newer / "host/etc/modules-load.d/alam.conf").write_text("can\n")
    (newer / "host/etc/tmpfiles.d/alam.conf").unlink()
    done = host_setup("--root", str(host), script=newer / "host_setup.sh")
    assert done.stdout.splitlines() == ["update /etc/modules-load.d/alam.conf", "remove /etc/tmpfiles.d/alam.conf"]
    assert (host / "etc/modules-load.d/alam.conf").read_text() == "can\n"
    host_setup("--undo", "--root", str(host))
    assert [path.name for path in host.rglob("*") if path.is_file()] == ["10-other.rules"]


def test_with_a_folder_no_command_of_the_system_is_called(host, tmp_path):
    called = tmp_path / "called"
    fake = tmp_path / "bin"
    fake.mkdir()
    for name in ("systemctl", "udevadm", "modprobe", "systemd-tmpfiles", "groupadd", "groupdel"):
        (fake / name).write_text(f"#!/bin/sh\necho {name} >> {called}\n")
        (fake / name).chmod(0o755)
        assert re.search(rf"\b{name} ", SETUP), f"host_setup.sh no longer calls {name}"
    environ = {**os.environ, "PATH": f"{fake}:{os.environ['PATH']}"}
    for words in ((), ("--undo",)):
        assert host_setup(*words, "--root", str(host), env=environ).returncode == 0
    assert not called.exists()


@pytest.mark.parametrize(
    "words", [("--force",), ("install",), ("--root",), ("--root", "/no/such/folder"), ("--root", "/"), ("--check", "x")]
)
def test_a_bad_argument_ends_with_one_sentence(words):
    said = host_setup(*words)
    assert (said.returncode, said.stdout) == (2, "")
    assert re.fullmatch(r"host_setup: .*wanted .*\.\n", said.stderr)


def test_who_is_not_root_is_refused_with_one_sentence():
    with tempfile.TemporaryDirectory() as folder:  # where everyone can read
        Path(folder).chmod(0o755)
        shutil.copytree(DOCKER, Path(folder) / "docker")
        user = {"user": 65534} if os.geteuid() == 0 else {}
        said = host_setup(script=Path(folder) / "docker/host_setup.sh", cwd=folder, **user)
        looked = host_setup("--check", script=Path(folder) / "docker/host_setup.sh", cwd=folder, **user)
    assert (said.returncode, said.stdout) == (1, "")
    assert re.fullmatch(r"host_setup: wanted to be run by root, got .*\.\n", said.stderr)
    assert looked.returncode == 0


# --- scripts and pages


@pytest.mark.parametrize("script", sorted(DOCKER.glob("*.sh")), ids=lambda path: path.name)
def test_a_script_parses_and_can_be_run(script):
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
    assert os.access(script, os.X_OK) and script.read_text().startswith("#!/usr/bin/env bash\n")
    assert re.search(r"(?m)^set -e(u)?o pipefail\b", script.read_text())


def test_the_entry_point_gives_the_command_its_environment_and_words():
    program = "import os, sys; print(os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'], sys.argv[1:])"
    environ = {name: value for name, value in os.environ.items() if name != "ROS_AUTOMATIC_DISCOVERY_RANGE"}
    command = ["bash", str(DOCKER / "entrypoint.sh"), "python", "-c", program, "a b", "--extend"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environ)
    assert (done.returncode, done.stdout) == (0, "LOCALHOST ['a b', '--extend']\n"), done.stderr


def test_the_page_names_what_there_is():
    page = (DOCKER / "README.md").read_text()
    for path in re.findall(r"docker/[\w./-]*\w", page):
        assert (ROOT / path).exists() or path == "docker/.env", path
    for service in yaml.safe_load(COMPOSE)["services"]:
        assert f"`{service}`" in page
    for variable in re.findall(r"\$\{(\w+):-", COMPOSE):
        assert f"`{variable}`" in page, f"docker/README.md does not name {variable}"
    for path in PAYLOAD:
        assert Path(path).name in page, path
