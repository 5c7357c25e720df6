"""The stand-in's `ros2 launch`: each construct does what it says, and what is not known is refused by name."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import pytest
import yaml
from launch_files.harness import ROS2, Prefix

SHOW = """\
    import json, os, sys
    print("ARGV", json.dumps(sys.argv[1:]))
    print("ENV", json.dumps(dict(os.environ)))
    print("FILES", json.dumps([open(path).read() for path in sys.argv if path.endswith(".yaml")]))
    """


@pytest.fixture
def prefix(tmp_path) -> Iterator[Prefix]:
    with Prefix(tmp_path) as made:
        made.executable("show", SHOW)
        yield made


def said(running, what: str, label: str = "show-1"):
    """-> what the executable `show` printed under this word."""
    return json.loads(running.line(f"[{label}] {what} ").split(f"{what} ", 1)[1])


def parameters(running, label: str = "show-1") -> list[dict]:
    """-> the contents of the parameter files that `show` was given."""
    return [yaml.safe_load(text) for text in said(running, "FILES", label)]


def refused(running) -> str:
    """-> the one sentence on the screen; nothing was started."""
    assert running.process.returncode == 1, running.text
    assert len(running.lines) == 1 and "Traceback" not in running.text, running.text
    return running.lines[0]


# Arguments


ARGUMENTS = (
    "DeclareLaunchArgument('task', default_value='reach', description='what to do', choices=['reach', 'push'])",
    "DeclareLaunchArgument('place', default_value=[LaunchConfiguration('task'), '-here'], description='where')",
    "Node(package='demo', executable='show', arguments=[LaunchConfiguration('task'), LaunchConfiguration('place')])",
)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ([], ["reach", "reach-here"]),
        (["task:=push"], ["push", "push-here"]),
        (["task:=reach", "place:=a:=b", "task:=push"], ["push", "a:=b"]),
        (["place:="], ["reach", ""]),
    ],
)
def test_arguments(prefix, given, wanted):
    prefix.launch_file(*ARGUMENTS)
    running = prefix.launch(*given)
    assert running.process.returncode == 0
    assert said(running, "ARGV") == [*wanted, "--ros-args"]


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ("task:=fly", ["task", "reach, push", "'fly'"]),
        ("tusk:=push", ["'tusk'", "place, task", "demo.launch.py"]),
        (":=push", ["NAME:=VALUE", "':=push'"]),
    ],
)
def test_wrong_arguments(prefix, given, parts):
    prefix.launch_file(*ARGUMENTS)
    sentence = refused(prefix.launch(given))
    assert all(part in sentence for part in parts), sentence


def test_argument_without_default(prefix):
    prefix.launch_file("DeclareLaunchArgument('arm', description='which')")
    assert "arm:=VALUE" in refused(prefix.launch())
    assert prefix.launch("arm:=left").process.returncode == 0


def test_show_args_starts_nothing(prefix):
    prefix.launch_file("DeclareLaunchArgument('inner', default_value='1', description='deep')", name="inner.launch.py")
    prefix.launch_file(
        *ARGUMENTS,
        "DeclareLaunchArgument('port', default_value='3', choices=[*map(str, range(1, 9)), '20'])",
        "DeclareLaunchArgument('arm', description='which')",
        "IncludeLaunchDescription(PythonLaunchDescriptionSource([ThisLaunchFileDir(), '/inner.launch.py']))",
        "GroupAction([DeclareLaunchArgument('extra', default_value='', description='m')], condition=IfCondition('0'))",
    )
    running = prefix.launch("--show-args")
    assert running.process.returncode == 0
    assert (
        running.text
        == """\
Arguments (pass arguments as '<name>:=<value>'):

    'task':
        what to do; one of: reach, push
        (default: 'reach')

    'place':
        where
        (default: 'reach-here')

    'port':
        no description given; one of: 1-8, 20
        (default: '3')

    'arm':
        which

    'inner':
        deep
        (default: '1')

    'extra':*
        m
        (default: '')

* argument(s) which are only used if specific conditions occur"""
    )


# Includes, conditions, groups


def test_include_gives_arguments_and_leaks_as_the_genuine_one(prefix):
    prefix.launch_file(
        "DeclareLaunchArgument('who', default_value='nobody', description='')",
        "Node(package='demo', executable='show', arguments=[LaunchConfiguration('who')])",
        name="inner.launch.py",
    )
    prefix.launch_file(
        "IncludeLaunchDescription([ThisLaunchFileDir(), '/inner.launch.py'], launch_arguments={'who': 'me'}.items())",
        "Node(package='demo', executable='show', arguments=[LaunchConfiguration('who', default='unset')])",
        "GroupAction([IncludeLaunchDescription([FindPackageShare('demo'), '/inner.launch.py'],"
        " launch_arguments=[('who', 'you')])])",
        "Node(package='demo', executable='show', arguments=[LaunchConfiguration('who')])",
    )
    running = prefix.launch()
    assert [said(running, "ARGV", f"show-{n}")[0] for n in (1, 2, 3, 4)] == ["me", "me", "you", "me"]


def test_include_of_itself_and_of_nothing(prefix):
    prefix.launch_file("IncludeLaunchDescription([ThisLaunchFileDir(), '/demo.launch.py'])")
    assert "includes itself" in refused(prefix.launch())
    prefix.launch_file("IncludeLaunchDescription([ThisLaunchFileDir(), '/gone.launch.py'])")
    sentence = refused(prefix.launch())
    assert "gone.launch.py" in sentence and "demo.launch.py" in sentence


@pytest.mark.parametrize(
    ("condition", "runs"),
    [
        ("IfCondition('true')", True),
        ("IfCondition(' 1 ')", True),
        ("IfCondition('False')", False),
        ("UnlessCondition('0')", True),
        ("UnlessCondition('TRUE')", False),
        ("IfCondition(EqualsSubstitution(LaunchConfiguration('a'), 'x'))", True),
        ("IfCondition(NotEqualsSubstitution(LaunchConfiguration('a'), 'x'))", False),
    ],
)
def test_conditions(prefix, condition, runs):
    prefix.launch_file(
        "SetLaunchConfiguration('a', 'x')", f"Node(package='demo', executable='show', condition={condition})"
    )
    assert ("ARGV" in prefix.launch().text) == runs


def test_condition_that_is_neither(prefix):
    prefix.launch_file("LogInfo(msg='hello', condition=IfCondition('maybe'))")
    sentence = refused(prefix.launch())
    assert "true, 1, false or 0" in sentence and "'maybe'" in sentence


@pytest.mark.parametrize(("scoped", "after"), [("True", ["outer", "unset"]), ("False", ["inner", "inner"])])
def test_group_scope(prefix, scoped, after):
    show = (
        "Node(package='demo', executable='show', "
        "arguments=[LaunchConfiguration('a'), EnvironmentVariable('B', default_value='unset')])"
    )
    prefix.launch_file(
        "SetLaunchConfiguration('a', 'outer')",
        f"GroupAction([SetEnvironmentVariable('B', 'inner'), {show}],"
        f" launch_configurations={{'a': 'inner'}}, scoped={scoped})",
        show,
    )
    running = prefix.launch()
    assert said(running, "ARGV", "show-1")[:2] == ["inner", "inner"]
    assert said(running, "ARGV", "show-2")[:2] == after


# Nodes


def test_names_namespaces_remappings(prefix):
    prefix.launch_file(
        "Node(package='demo', executable='show', name='one', namespace='a',"
        " remappings=[('in', 'out'), ('x', ['/', 'y'])])",
        "GroupAction([PushRosNamespace('arms'), PushRosNamespace('left'),"
        " Node(package='demo', executable='show', name='two', namespace='b', parameters=[{'p': 1}]),"
        " Node(package='demo', executable='show', namespace='/c')])",
        "Node(package='demo', executable='show', exec_name='four')",
    )
    running = prefix.launch()
    ros = ["--ros-args", "-r"]
    assert said(running, "ARGV", "show-1") == [*ros, "__node:=one", "-r", "__ns:=/a", "-r", "in:=out", "-r", "x:=/y"]
    assert said(running, "ARGV", "show-2")[:5] == [*ros, "__node:=two", "-r", "__ns:=/arms/left/b"]
    assert parameters(running, "show-2") == [{"/arms/left/b/two": {"ros__parameters": {"p": 1}}}]
    assert said(running, "ARGV", "show-3") == [*ros, "__ns:=/c"]
    assert said(running, "ARGV", "four-4") == ["--ros-args"]


def test_parameters(prefix):
    file = prefix.folder / "own.yaml"
    file.write_text("/**: {ros__parameters: {rate: 30}}")
    values = """{
        'flag': True, 'count': 3, 'gain': 0.5, 'text': '5', 'list': [1.0, 2.0], 'nested': {'deep': 'x'},
        'read': LaunchConfiguration('n'), 'typed': ParameterValue(LaunchConfiguration('n'), value_type=str),
        'real': ParameterValue(LaunchConfiguration('n'), value_type=float), 'empty': LaunchConfiguration('e'),
        'joined': [LaunchConfiguration('n'), 'a'],
    }"""
    prefix.launch_file(
        "SetLaunchConfiguration('n', '7')",
        "SetLaunchConfiguration('e', '')",
        f"Node(package='demo', executable='show', name='n', parameters=[{str(file)!r}, {values}, {{'rate': 40}}])",
    )
    running = prefix.launch()
    own, given, last = parameters(running)
    assert own == yaml.safe_load(file.read_text()) and str(file) in said(running, "ARGV")
    assert given["/**"]["ros__parameters"] == {
        "flag": True,
        "count": 3,
        "gain": 0.5,
        "text": "5",
        "list": [1.0, 2.0],
        "nested.deep": "x",
        "read": 7,
        "typed": "7",
        "real": 7.0,
        "empty": "",
        "joined": "7a",
    }
    assert last["/**"]["ros__parameters"] == {"rate": 40}
    assert not list(prefix.folder.glob("launch_params_*")), "the parameter files are gone afterwards"


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        ("[{'p': [1, 'a']}]", ["Parameter p", "[1, 'a']"]),
        ("[{'p': []}]", ["Parameter p"]),
        ("[{'a': {'b': None}}]", ["Parameter a.b", "None"]),
        ("[{'p': ParameterValue([TextSubstitution(text='x')], value_type=int)}]", ["wanted int", "'x'"]),
        ("['/nowhere.yaml']", ["/nowhere.yaml", "does not exist"]),
        ("{'p': 1}", ["wanted a list"]),
    ],
)
def test_wrong_parameters(prefix, value, parts):
    prefix.launch_file(f"Node(package='demo', executable='show', parameters={value})")
    sentence = refused(prefix.launch())
    assert all(part in sentence for part in parts), sentence


def test_environment(prefix):
    prefix.launch_file(
        "Node(package='demo', executable='show', additional_env={'C': ['c', EnvironmentVariable('A')]})",
        "SetEnvironmentVariable('B', 'b')",
        "Node(package='demo', executable='show')",
    )
    running = prefix.launch(A="a")
    first, second = said(running, "ENV", "show-1"), said(running, "ENV", "show-2")
    assert first["C"] == "ca" and "B" not in first
    assert second["B"] == "b" and "C" not in second and second["A"] == "a"
    assert "ros2_standin" not in first.get("PYTHONPATH", ""), "what it launches does not see the stand-in's modules"


def test_execute_process_and_log(prefix):
    prefix.launch_file(
        "LogInfo(msg=['going to ', FindPackageShare('demo')])",
        "ExecuteProcess(cmd=['pwd'], name='where', cwd=FindPackageShare('demo'))",
    )
    running = prefix.launch()
    share = prefix.folder / "share/demo"
    assert f"[INFO] [launch]: going to {share}" in running.lines and f"[where-1] {share}" in running.lines


# Refusals


@pytest.mark.parametrize(
    ("before", "entity", "parts"),
    [
        (
            "from launch.actions import TimerAction",
            "",
            ["launch.actions.TimerAction", "GroupAction", "demo.launch.py:10"],
        ),
        ("from launch_ros.actions import LifecycleNode", "", ["launch_ros.actions.LifecycleNode", "Node"]),
        ("from launch.substitutions import PythonExpression", "", ["launch.substitutions.PythonExpression"]),
        ("import launch.frontend", "", ["launch.frontend"]),
        ("from launch import LaunchService", "", ["launch.LaunchService", "LaunchDescription"]),
        ("import launch_testing", "", ["launch_testing"]),
        ("", "Node(package='demo', executable='show', prefix='gdb')", ["Node(prefix=...)", "exec_name, executable"]),
        ("", "Node(package='demo')", ["Node(...)", "executable"]),
        ("", "GroupAction([], forwarding=False)", ["GroupAction(forwarding=...)"]),
        ("", "LogInfo(msg='x').describe()", ["LogInfo.describe"]),
        ("", "Node(package='demo', executable='show', output='own_log')", ["output='own_log'", "screen"]),
        ("", "PathJoinSubstitution(['a', ['b', 'c']])", ["LaunchDescription: wanted actions"]),
        ("", "LogInfo(msg=PathJoinSubstitution(['a', ['b', 'c']]))", ["PathJoinSubstitution", "['b', 'c']"]),
        ("", "LogInfo(msg=LaunchConfiguration('gone'))", ["'gone'", "not set"]),
        ("", "LogInfo(msg=EnvironmentVariable('GONE'))", ["GONE", "not set"]),
        ("", "1 / 0", ["demo.launch.py:15", "ZeroDivisionError"]),
        ("", "Node(package='demo', executable='gone')", ["demo", "'gone'", "show"]),
        ("", "Node(package='gone', executable='show')", ["'gone'", "demo"]),
    ],
)
def test_refused_by_name_before_anything_starts(prefix, before, entity, parts):
    prefix.launch_file("Node(package='demo', executable='show')", *([entity] if entity else []), before=before + "\n")
    sentence = refused(prefix.launch())
    assert all(part in sentence for part in parts), sentence


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["topic", "list"], ["ros2 topic", "only `ros2 launch` and `ros2 run`", "https://"]),
        (["launch", "gone", "demo.launch.py"], ["'gone'", "demo"]),
        (["launch", "demo", "gone.launch.py"], ["'gone.launch.py'", "demo.launch.py"]),
        (["launch", "gone.launch.py"], ["gone.launch.py"]),
        (["launch", "demo", "demo.launch.py", "--debug"], ["--debug", "--show-args"]),
        (["launch"], ["PACKAGE FILE"]),
        (["launch", "robot.launch.xml"], ["robot.launch.xml"]),
        (["run", "demo", "gone"], ["'gone'", "show"]),
        (["run", "demo"], ["PACKAGE EXECUTABLE"]),
    ],
)
def test_wrong_command_lines(prefix, arguments, parts):
    prefix.launch_file("LogInfo(msg='hello')")
    sentence = refused(prefix.ros2(*arguments))
    assert all(part in sentence for part in parts), sentence


def test_two_files_of_one_name(prefix):
    prefix.launch_file("LogInfo(msg='hello')")
    (prefix.folder / "share/demo/more").mkdir()
    prefix.launch_file("LogInfo(msg='hello')", name="more/demo.launch.py")
    assert "2 files named 'demo.launch.py'" in refused(prefix.launch())


def test_no_environment(prefix):
    assert "tools/env.sh" in refused(prefix.ros2("launch", "demo", "demo.launch.py", AMENT_PREFIX_PATH=""))


def test_launch_by_path_and_usage(prefix):
    path = prefix.launch_file("LogInfo(msg='hello')")
    assert prefix.ros2("launch", str(path)).process.returncode == 0
    assert prefix.ros2("--help").process.returncode == 0
    assert prefix.ros2("launch", "--help").text.startswith("usage:")


def test_run(prefix):
    prefix.executable("fail", "import sys; print(sys.argv[1:], flush=True); sys.exit(7)")
    running = prefix.ros2("run", "demo", "fail", "-x", "--ros-args", "-p", "a:=1")
    assert running.process.returncode == 7
    assert running.text == "['-x', '--ros-args', '-p', 'a:=1']"


# Never in the way of a genuine ROS 2


def test_hands_over_to_a_genuine_ros2(prefix):
    genuine, copy = prefix.folder / "opt", prefix.folder / "copy"
    for folder, text in ((genuine, '#!/bin/sh\necho genuine "$@"\nexit 3\n'), (copy, ROS2.read_text())):
        folder.mkdir()
        (folder / "ros2").write_text(text)
        (folder / "ros2").chmod(0o755)
    running = prefix.ros2("topic", "list", PATH=f"{ROS2.parent}:{copy}:{genuine}:/usr/bin:/bin")
    assert (running.process.returncode, running.text) == (3, "genuine topic list")


def test_refuses_beside_a_genuine_launch_package(prefix):
    package = prefix.folder / "site/launch"
    package.mkdir(parents=True)
    for name in ("__init__.py", "launch_service.py"):
        (package / name).touch()
    prefix.launch_file("LogInfo(msg='hello')")
    sentence = refused(prefix.launch(PYTHONPATH=str(package.parent)))
    assert "genuine `launch`" in sentence and str(package) in sentence


def test_a_folder_called_launch_is_not_a_genuine_launch(prefix):
    (prefix.folder / "site/launch").mkdir(parents=True)
    prefix.launch_file("LogInfo(msg='hello')")
    assert "hello" in prefix.launch(PYTHONPATH=str(prefix.folder / "site")).text


def test_nothing_here_is_importable_by_others(prefix):
    """Neither of the stand-in's modules is on the path of a Python that has tools/bin on PATH."""
    assert not [entry for entry in sys.path if "ros2_standin" in entry]
