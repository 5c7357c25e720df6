"""The fix-ups of the ROS wheels: every builder path goes, nothing else changes, a second run does nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ros_wheels

BAKED = """\
set_target_properties(std_msgs::std_msgs__rosidl_generator_py PROPERTIES
  INTERFACE_INCLUDE_DIRECTORIES "${_IMPORT_PREFIX}/include;/opt/python/cp312-cp312/include/python3.12;"
  OTHER "/opt/python/cp312-cp312/lib/python3.12/site-packages/numpy/_core/include"
)
"""


@pytest.fixture
def prefix(tmp_path):
    folder = tmp_path / "share" / "std_msgs" / "cmake"
    folder.mkdir(parents=True)
    (folder / "export_std_msgs__rosidl_generator_pyExport.cmake").write_text(BAKED)
    (folder / "std_msgsConfig.cmake").write_text("# nothing to fix\n")
    return tmp_path


def test_paths_of_the_builder_become_those_of_this_machine(prefix):
    changed = ros_wheels.fix_paths(prefix, "/py/include", "/np/include")
    assert [path.name for path in changed] == ["export_std_msgs__rosidl_generator_pyExport.cmake"]
    text = changed[0].read_text()
    assert '"${_IMPORT_PREFIX}/include;/py/include;"' in text and 'OTHER "/np/include"' in text
    assert "/opt/python" not in text


def test_a_second_run_changes_nothing(prefix):
    ros_wheels.fix_paths(prefix, "/py/include", "/np/include")
    assert ros_wheels.fix_paths(prefix, "/py/include", "/np/include") == []


def test_looking_writes_nothing(prefix):
    assert len(ros_wheels.fix_paths(prefix, "/py/include", "/np/include", write=False)) == 1
    assert len(ros_wheels.fix_paths(prefix, "/py/include", "/np/include", write=False)) == 1


def test_an_unknown_path_of_the_builder_is_refused_by_name(prefix):
    path = prefix / "share" / "std_msgs" / "cmake" / "new.cmake"
    path.write_text('set(X "/opt/python/cp312-cp312/lib/libpython.a")')
    with pytest.raises(ValueError, match=r"/opt/python/cp312-cp312/lib/libpython\.a"):
        ros_wheels.fix_paths(prefix, "/py/include", "/np/include")


@given(st.text().filter(lambda text: "/opt/python" not in text), st.sampled_from(["3.11", "3.12", "3.13"]))
def test_text_without_builder_paths_stays_and_any_python_is_known(text, version):
    tag = "cp" + version.replace(".", "")
    baked = f"/opt/python/{tag}-{tag}/include/python{version}"
    assert ros_wheels.fix_text(text, "P", "N") == text
    assert ros_wheels.fix_text(f"{text};{baked}", r"\g<0>", "N") == f"{text};" + r"\g<0>"
