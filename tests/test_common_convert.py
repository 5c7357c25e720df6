"""Messages <-> numpy: round trips, no copies where none are needed, and sentences for what does not fit."""

from array import array
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from alam_common import convert

FINITE = st.floats(-1e6, 1e6, width=32)


def message(**fields):
    stamp = SimpleNamespace(sec=0, nanosec=0)
    header = SimpleNamespace(stamp=stamp, frame_id="")
    return SimpleNamespace(header=header, observation_stamp=SimpleNamespace(sec=0, nanosec=0), **fields)


@given(st.integers(0, 2**31 * 10**9 - 1))
def test_stamps_come_back_exactly(time_ns):
    stamp = SimpleNamespace()
    convert.fill_stamp(stamp, time_ns)
    assert convert.stamp_ns(stamp) == time_ns
    assert 0 <= stamp.nanosec < 10**9


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))))
def test_images_come_back_exactly(image):
    filled = message()
    convert.fill_image(filled, image, "camera", 5)
    assert isinstance(filled.data, array)
    assert (filled.encoding, filled.step) == ("rgb8", image.shape[1] * 3)
    assert np.array_equal(convert.read_image(filled), image)


def test_reading_an_image_does_not_copy():
    filled = message()
    convert.fill_image(filled, np.zeros((2, 2, 3), np.uint8), "camera", 5)
    image = convert.read_image(filled)
    filled.data[0] = 77
    assert image[0, 0, 0] == 77


def test_bgr_and_padded_rows_are_understood():
    rows = bytes([1, 2, 3, 4, 5, 6, 0, 0])  # two pixels and two bytes of padding
    padded = message(height=1, width=2, step=8, encoding="bgr8", data=array("B", rows))
    assert convert.read_image(padded).tolist() == [[[3, 2, 1], [6, 5, 4]]]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [({"encoding": "mono8"}, "wanted encoding rgb8 or bgr8, got 'mono8'"), ({"height": 3}, "wanted 3 rows of 6 bytes")],
)
def test_images_that_do_not_fit_are_refused(change, sentence):
    filled = message()
    convert.fill_image(filled, np.zeros((2, 2, 3), np.uint8), "camera", 5)
    vars(filled).update(change)
    with pytest.raises(ValueError, match=sentence):
        convert.read_image(filled)


def test_only_rgb_bytes_are_sent():
    for image in np.zeros((2, 2), np.uint8), np.zeros((2, 2, 3), np.float32):
        with pytest.raises(ValueError, match=r"wanted \(h, w, 3\) uint8"):
            convert.fill_image(message(), image, "camera", 0)


@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 5), st.just(2)), elements=FINITE))
def test_chunks_come_back_to_the_bit(actions):
    filled = message()
    convert.fill_chunk(filled, actions, ("x", "y"), 0.0125, 2**63, 7, 9, "policy", 0.01)
    assert filled.horizon == len(actions)
    assert convert.read_chunk(filled).tobytes() == actions.tobytes()
    filled.horizon += 1
    with pytest.raises(ValueError, match="chunk: wanted"):
        convert.read_chunk(filled)


@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 4), st.just(2), st.integers(1, 3)), elements=FINITE))
def test_latents_come_back_to_the_bit(latents):
    filled = message()
    convert.fill_latents(filled, latents, ("third_person", "wrist"), 0.0125, 1, 7, 9, "policy")
    assert convert.read_latents(filled).tobytes() == latents.tobytes()


@given(hnp.arrays(np.float64, 4, elements=st.floats(allow_nan=False)))
def test_states_come_back_to_the_bit(values):
    filled = message()
    names = ("a", "b", "c", "d")
    convert.fill_state(filled, names, values, "do it", 3, 4)
    assert convert.read_state(filled, names).tobytes() == values.tobytes()
    with pytest.raises(ValueError, match="wanted 4 values named"):
        convert.read_state(filled, ("a", "b", "d", "c"))


def test_pinhole_sees_its_field_of_view():
    filled = message()
    convert.fill_camera_info(filled, 128, 128, np.pi / 2, "camera", 0)
    assert filled.k[0] == pytest.approx(64.0)
    assert (filled.width, filled.height) == (128, 128)
