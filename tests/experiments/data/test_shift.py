import numpy as np
import pytest

from experiments.config.choices import Shift
from experiments.data import shift
from experiments.data.shift import shifted


def images(count=3, height=6, width=5, channels=3):
    random = np.random.default_rng(0)
    return random.integers(0, 256, (count, height, width, channels), dtype=np.uint8)


@pytest.mark.parametrize("name", Shift.__args__)
def test_a_shift_keeps_shape_and_type_and_its_input(name):
    given = images()
    before = given.copy()
    found = shifted(name, given, 0)
    assert (found.shape, found.dtype) == (given.shape, np.uint8)
    assert (given == before).all()
    assert (found == given).all() == (name == "none")


def test_inverted_twice_is_what_was_there():
    assert (shifted("invert", images(), 0) == 255 - images()).all()
    assert (shifted("invert", shifted("invert", images(), 0), 0) == images()).all()


def test_blur_is_a_normal_curve_of_one_pixel_over_repeated_borders():
    given, curve = images(), np.exp(-0.5 * np.arange(-3, 4) ** 2)
    curve /= curve.sum()
    padded = np.pad(given.astype(float), [(0, 0), (3, 3), (3, 3), (0, 0)], mode="edge")
    slow = np.zeros(given.shape)
    for row, column in np.ndindex(6, 5):
        window = padded[:, row : row + 7, column : column + 7]
        slow[:, row, column] = np.einsum("nhwc,h,w->nc", window, curve, curve)
    assert np.abs(shifted("blur", given, 0) - slow).max() < 2  # parts of 256, rounded


def test_blur_leaves_an_even_image_alone_up_to_the_whitest():
    for value in (0, 1, 254, 255):
        even = np.full((1, 8, 8, 3), value, np.uint8)
        assert (shifted("blur", even, 0) == even).all()


def test_blur_finds_the_same_whole_numbers_everywhere():
    point = np.zeros((1, 7, 7, 1), np.uint8)
    point[0, 3, 3] = 255
    middle = shifted("blur", point, 0)[0, 3, :, 0]
    expected = [(255 * 102 * part + 2**15) // 2**16 for part in shift.BLUR]
    assert middle.tolist() == expected


def test_noise_is_normal_with_a_tenth_of_the_range():
    grey = np.full((50, 32, 32, 3), 128, np.uint8)
    moved = shifted("noise", grey, 0) - 128.0
    assert abs(moved.mean()) < 0.5
    assert moved.std() == pytest.approx(25.5, rel=0.02)
    assert (np.abs(moved) < 25.5).mean() == pytest.approx(0.683, abs=0.01)


def test_noise_of_an_image_does_not_depend_on_how_many_there_are():
    many = images(count=7)
    whole = shifted("noise", many, 0)
    assert (shifted("noise", many[:3], 0) == whole[:3]).all()
    assert (shifted("noise", many, 1) != whole).any()  # of another part of the set


def test_noise_stays_the_same_in_every_version():
    grey = np.full((1, 2, 2, 3), 128, np.uint8)
    expected = [122, 140, 141, 137, 147, 120, 94, 105, 87, 155, 153, 149]  # fmt: skip
    assert shifted("noise", grey, 0).ravel().tolist() == expected


def test_an_unknown_shift_is_refused():
    with pytest.raises(ValueError, match="shift: expected one of none, noise, blur"):
        shifted("fog", images(), 0)
