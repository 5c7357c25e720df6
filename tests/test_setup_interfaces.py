"""alam_msgs: the fields that the other packages rely on, and a unit in every field's comment.

The rule: a field ends in a comment that begins with a bracket. In it stands an SI unit, `1` where the number has no
dimension, or what kind of value it is: `name`, `text`, `id`, `count`, `flag`. `contract` means: in the unit that the
contract gives to that channel.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "ros2_ws" / "src" / "alam_msgs"
FILES = sorted(
    path.relative_to(PACKAGE).as_posix() for kind in ("msg", "srv", "action") for path in PACKAGE.glob(f"{kind}/*")
)

UNITS = {"s", "m", "rad", "m/s", "rad/s", "m/s^2", "rad/s^2", "N", "Nm", "Hz", "A", "V", "degC", "1"}
KINDS = {"name", "text", "id", "count", "flag", "contract"}
FIELD = re.compile(r"^(?P<type>[\w/]+(?:\[\S*\])?)\s+(?P<name>\w+)(?:\s+[^#]*)?(?:#\s*\[(?P<unit>[^\]]+)\]\s+\S.*)?$")

HEADER = "std_msgs/Header header"
WANTED = {
    "msg/StateVector.msg": [
        [HEADER, "uint64 observation_id", "string instruction", "string[] names", "float64[] values", "bool under_way"],
    ],
    "msg/ActionChunk.msg": [
        [
            *(HEADER, "builtin_interfaces/Time observation_stamp", "uint64 observation_id", "float64 dt"),
            *("string[] names", "uint32 horizon", "float32[] actions", "string policy_id", "float64 inference_time"),
        ],
    ],
    "msg/LatentChunk.msg": [
        [
            *(HEADER, "builtin_interfaces/Time observation_stamp", "uint64 observation_id", "float64 dt"),
            *("string[] views", "uint32 horizon", "uint32 width", "float32[] latents", "string policy_id"),
        ],
    ],
    "action/RunTask.action": [
        ["string task", "string instruction", "uint32 seed", "float64 timeout"],
        ["bool success", "uint32 steps", "string reason"],
        ["uint32 step", "string mode"],
    ],
}


def sections(text: str) -> list[list[re.Match[str] | str]]:
    """Interface text -> the fields of each section (a line that is no field stays a string)."""
    found: list[list[re.Match[str] | str]] = [[]]
    for line in text.splitlines():
        if line.strip() == "---":
            found.append([])
        elif line.strip() and not line.startswith("#"):
            found[-1].append(FIELD.match(line) or line)
    return found


@pytest.mark.parametrize("file", FILES)
def test_every_field_says_its_unit(file):
    for field in (field for section in sections((PACKAGE / file).read_text()) for field in section):
        assert not isinstance(field, str), f"{file}: not a field with a comment that begins with a unit: {field}"
        unit = field["unit"]
        assert unit in UNITS | KINDS, f"{file}: {field['name']}: wanted one of {sorted(UNITS | KINDS)}, got {unit}"


@pytest.mark.parametrize("file", FILES)
def test_text_fields_are_text_and_numbers_are_numbers(file):
    for field in (field for section in sections((PACKAGE / file).read_text()) for field in section):
        is_text = field["type"].startswith("string")
        assert (field["unit"] in {"name", "text"}) == is_text, f"{file}: {field['name']}"
        assert (field["unit"] == "flag") == (field["type"] == "bool"), f"{file}: {field['name']}"


@pytest.mark.parametrize("file", WANTED)
def test_the_fields_are_those_that_the_others_rely_on(file):
    got = [[f"{field['type']} {field['name']}" for field in part] for part in sections((PACKAGE / file).read_text())]
    assert got == WANTED[file]


def test_every_interface_is_built():
    assert sorted(re.findall(r'"((?:msg|srv|action)/\w+\.\w+)"', (PACKAGE / "CMakeLists.txt").read_text())) == FILES


def test_a_field_without_a_unit_is_seen():
    bad = sections("float64 dt\nfloat64 dt # between rows\nfloat64 dt # [s]\n")[0]
    assert [isinstance(field, str) or field["unit"] is None for field in bad] == [True, True, True]
    assert sections("float64[3] x 1.0  # [m] where it is\n")[0][0]["unit"] == "m"


@pytest.mark.ros
def test_the_built_interfaces_have_these_fields():
    from alam_msgs.action import RunTask
    from alam_msgs.msg import ActionChunk, LatentChunk, StateVector

    built = {
        "msg/StateVector.msg": [StateVector],
        "msg/ActionChunk.msg": [ActionChunk],
        "msg/LatentChunk.msg": [LatentChunk],
        "action/RunTask.action": [RunTask.Goal, RunTask.Result, RunTask.Feedback],
    }
    for file, classes in built.items():
        wanted = [[field.split()[1] for field in part] for part in WANTED[file]]
        assert [list(kind.get_fields_and_field_types()) for kind in classes] == wanted


@pytest.mark.ros
def test_a_message_survives_its_serialisation():
    from alam_msgs.msg import ActionChunk
    from rclpy.serialization import deserialize_message, serialize_message

    sent = ActionChunk(observation_id=2**40 + 3, dt=0.0125, names=["x", "y"], horizon=2, actions=[1.0, 2.0, 3.0, 4.0])
    assert deserialize_message(serialize_message(sent), ActionChunk) == sent
