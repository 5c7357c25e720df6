"""Topics, parameters, diagnostics, scores; and the READMEs that must name each topic and parameter."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import alam_cameras.settings
import alam_piper.settings
import alam_policy.settings
import alam_sim.settings
import parameter_tables
from alam_common.diagnostics import Durations, Rate
from alam_common.parameters import Parameter
from alam_common.scores import Attempt, parse_seeds, summarise, table
from alam_common.statistics import wilson
from alam_common.topics import TOPICS, Qos, camera_topic, topic_row

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ROOT / "ros2_ws/src"
SETTINGS = {
    "alam_cameras": alam_cameras.settings,
    "alam_piper": alam_piper.settings,
    "alam_policy": alam_policy.settings,
    "alam_sim": alam_sim.settings,
}


def readme(package):
    return (PACKAGES / package / "README.md").read_text()


@pytest.mark.parametrize("package", SETTINGS)
def test_readme_carries_the_row_of_every_parameter(package):
    missing = [parameter.row() for parameter in SETTINGS[package].PARAMETERS if parameter.row() not in readme(package)]
    assert not missing, f"{package}/README.md lacks:\n" + "\n".join(missing)


OPERATORS = {  # node: what the operator's page must have of it
    "piper": alam_piper.settings.PARAMETERS,
    "camera": alam_cameras.settings.PARAMETERS,
    "policy": alam_policy.settings.PARAMETERS,
    "piper_mujoco": alam_sim.settings.PIPER_PARAMETERS,
}


@pytest.mark.parametrize("node", OPERATORS)
def test_the_operators_page_has_type_unit_bound_and_default_of_every_parameter(node):
    lines = (ROOT / "docs/operator.md").read_text().splitlines()
    begin = lines.index(f"<!-- parameters of /{node}: written by tools/parameter_tables.py -->")
    table = lines[begin + 1 : lines.index("<!-- end -->", begin)]
    header, _, *rows = ([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table)
    assert header == ["parameter", "type", "default", "unit", "bound", "what"]
    for parameter, row in zip(OPERATORS[node], rows, strict=True):
        assert row == [cell.strip() for cell in parameter.row().split("|")[1:-1]] and all(row)
        number = not isinstance(parameter.default, (bool, str))
        assert row[0] == f"`{parameter.name}`" and (row[3] == "-") != number
        if number:
            assert [float(end) for end in row[4].split(" to ")] == [parameter.low, parameter.high]


@pytest.mark.parametrize("page", parameter_tables.PAGES)
def test_no_table_of_parameters_is_stale(page):
    text = (ROOT / page).read_text()
    assert parameter_tables.BLOCK.search(text), f"{page} has no markers"
    assert parameter_tables.filled(text) == text, "run python tools/parameter_tables.py"


def test_a_stale_table_is_written_anew():
    text = (ROOT / "docs/operator.md").read_text()
    (row,) = (each.row() for each in alam_piper.settings.PARAMETERS if each.name == "following_error")
    for stale in (text.replace(row + "\n", ""), text.replace(row, row.replace("rad", "deg"))):
        assert stale != text and parameter_tables.filled(stale) == text


def test_the_operators_page_is_reached_from_the_readme_and_names_files_that_are_there():
    assert "(docs/operator.md)" in (ROOT / "README.md").read_text()
    text = (ROOT / "docs/operator.md").read_text()
    named = re.findall(r"`(?:python )?((?:docs|tools|docker|ros2_ws|checkpoints)/[\w./-]+)", text)
    assert len(named) > 5 and not [path for path in named if not (ROOT / path).exists()]


@pytest.mark.parametrize("package", SETTINGS)
def test_readme_carries_the_row_of_every_topic(package):
    used = (*SETTINGS[package].PUBLISHED, *SETTINGS[package].SUBSCRIBED)
    missing = [topic_row(topic) for topic in used if topic_row(topic) not in readme(package)]
    assert not missing, f"{package}/README.md lacks:\n" + "\n".join(missing)


def test_the_table_of_all_topics_is_in_the_readme():
    assert not [topic_row(topic) for topic in TOPICS if topic_row(topic) not in readme("alam_common")]


def test_topic_names_are_unique_and_what_the_interface_says():
    names = [topic.name for topic in TOPICS]
    assert len(set(names)) == len(names)
    assert "/camera/third_person/color/image_raw" in names
    with pytest.raises(ValueError, match="camera role"):
        camera_topic("left")


def test_unusual_qos_needs_a_reason():
    with pytest.raises(ValueError, match="reason"):
        Qos(depth=1)
    with pytest.raises(ValueError, match="unknown reliability"):
        Qos("perhaps", reason="none")


def test_parameters_need_bounds_units_and_descriptions():
    for arguments in ("n", 1, ""), ("n", 1, "a number"), ("n", "x", "a text"):
        with pytest.raises(ValueError, match="parameter n"):
            Parameter(*arguments)
    for too_little in ({"low": 0}, {"low": 0, "high": 5}, {"unit": "s", "high": 5}):
        with pytest.raises(ValueError, match="a low and a high bound and a unit"):
            Parameter("n", 1, "a number", **too_little)


@pytest.mark.parametrize(
    ("parameter", "good", "bad"),
    [
        (Parameter("n", 1, "number", unit="1", low=0, high=5), 5, 6),
        (Parameter("f", 1.0, "number", unit="s", low=0.0, high=5.0), 3, float("nan")),
        (Parameter("b", True, "switch"), False, 1),
        (Parameter("t", "a", "choice", choices=("a", "b")), "b", "c"),
        (Parameter("p", "", "path", form="path"), "x/y", 3),
    ],
)
def test_parameter_check(parameter, good, bad):
    parameter.check(good)
    with pytest.raises(ValueError, match=f"parameter {parameter.name}: wanted {parameter.type}"):
        parameter.check(bad)


def test_rate_and_age():
    rate = Rate(window_s=2.0)
    assert rate.age_s(5.0) == float("inf")
    for index in range(8):
        rate.tick(index * 0.5)
    assert rate.rate_hz(3.5) == pytest.approx(2.0)
    assert rate.age_s(4.0) == pytest.approx(0.5)
    assert rate.rate_hz(100.0) == 0.0
    assert rate.count == 8


def test_durations():
    durations = Durations(keep=3)
    for seconds in (9.0, 0.1, 0.2, 0.3):
        durations.add(seconds)
    assert durations.percentile_ms(50) == pytest.approx(200.0)


@given(st.integers(0, 200), st.integers(0, 200))
def test_wilson_holds_the_measured_rate(successes, more):
    low, high = wilson(successes, successes + more)
    rate = successes / (successes + more) if successes + more else 0.5
    assert 0 <= low <= rate + 1e-12
    assert rate - 1e-12 <= high <= 1


def test_wilson_known_value():
    low, high = wilson(16, 20)
    assert (round(low, 3), round(high, 3)) == (0.584, 0.919)
    with pytest.raises(ValueError, match="wilson"):
        wilson(3, 2)


def attempt(task, seed, success):
    return Attempt(task, seed, success, 50, "", "succeeded", (0.01, 0.03), (0.005,))


def test_summary_and_table():
    attempts = [attempt("reach-v3", 1, True), attempt("reach-v3", 2, False), attempt("door-open-v3", 1, True)]
    summary = summarise(attempts)
    assert summary["tasks"]["reach-v3"]["successes"] == 1
    assert summary["tasks"]["reach-v3"]["failed_seeds"] == [2]
    assert summary["chunk_latency_ms"]["p50"] == pytest.approx(20.0)
    text = table(attempts)
    assert "reach-v3      1/2" in text
    assert "50 (50)" in text
    assert summarise([attempt("reach-v3", 1, False)])["tasks"]["reach-v3"]["steps_to_success_mean"] is None


def test_seeds():
    assert parse_seeds("1000:1003") == range(1000, 1003)
    assert parse_seeds("7") == range(7, 8)
    for text in ("", "a", "3:3", "-1:2", "0:5000000000"):
        with pytest.raises(ValueError, match="seeds: wanted"):
            parse_seeds(text)
