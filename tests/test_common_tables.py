"""Topics, parameters, diagnostics, scores; and the READMEs that must name each topic and parameter."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import alam_cameras.settings
import alam_piper.settings
import alam_policy.settings
import alam_sim.settings
from alam_common.diagnostics import Durations, Rate
from alam_common.parameters import Parameter
from alam_common.scores import Attempt, parse_seeds, summarise, table
from alam_common.statistics import wilson
from alam_common.topics import TOPICS, Qos, camera_topic, topic_row

PACKAGES = Path(__file__).resolve().parent.parent / "ros2_ws/src"
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


def test_parameters_need_bounds_and_descriptions():
    for arguments in ("n", 1, ""), ("n", 1, "a number"), ("n", "x", "a text"):
        with pytest.raises(ValueError, match="parameter n"):
            Parameter(*arguments)


@pytest.mark.parametrize(
    ("parameter", "good", "bad"),
    [
        (Parameter("n", 1, "number", low=0, high=5), 5, 6),
        (Parameter("f", 1.0, "number", low=0.0, high=5.0), 3, float("nan")),
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
