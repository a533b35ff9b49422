import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data import augment as augmentation
from experiments.data.augment import normalise

augment = jax.jit(
    augmentation.augment, static_argnames=("flip", "crop_padding", "cutout")
)


def images(count=64, side=8):
    pixels = np.random.default_rng(0).integers(0, 256, (count, side, side, 3))
    return pixels.astype(np.uint8)


def test_flip_mirrors_about_half_of_the_images_and_leaves_the_rest():
    before = images(400)
    after = np.asarray(augment(jax.random.key(0), before, flip=True))
    same = (after == before).all((1, 2, 3))
    mirrored = (after == before[:, :, ::-1]).all((1, 2, 3))
    assert (same ^ mirrored).all()
    assert 140 < mirrored.sum() < 260  # six standard deviations about the half


def test_crop_is_a_window_of_the_reflected_image_and_every_shift_occurs():
    before, most = images(200), 2
    after = np.asarray(
        augment(jax.random.key(1), before, flip=False, crop_padding=most)
    )
    shifts = set()
    for image, cut in zip(before, after, strict=True):
        padded = np.pad(image, [(most, most), (most, most), (0, 0)], mode="reflect")
        found = [
            (row, column)
            for row in range(2 * most + 1)
            for column in range(2 * most + 1)
            if (padded[row : row + 8, column : column + 8] == cut).all()
        ]
        assert found
        shifts.add(found[0])
    assert len(shifts) == (2 * most + 1) ** 2


def squares(side, length):
    """The square that each centre in an image stands for, (centres, length, length)."""
    found = []
    for row in range(length):
        for column in range(length):
            inside = np.zeros((length, length), bool)
            top, left = row - side // 2, column - side // 2
            inside[max(top, 0) : top + side, max(left, 0) : left + side] = True
            found.append(inside)
    return np.array(found)


def blanked(key, count, side, length):
    """For each image the position of its blanked square among all of them."""
    ones = jnp.ones((count, length, length, 3))
    after = augment(key, ones, flip=False, cutout=side)
    missing = np.asarray(after == 0)
    assert (missing == missing[..., :1]).all()
    assert (np.asarray(after)[~missing] == 1).all()
    same = missing[:, None, :, :, 0] == squares(side, length)
    matches = same.all((2, 3))
    assert (matches.sum(1) >= 1).all()
    return matches


@pytest.mark.parametrize("side", [1, 2, 3, 5])
def test_cutout_blanks_a_square_about_any_pixel_with_equal_chance(side):
    length, count = 5, 10_000
    matches = blanked(jax.random.key(5), count, side, length)
    # Squares that are clipped alike look alike.
    alike = squares(side, length).reshape(length**2, -1)
    shares = (alike[:, None] == alike).all(2).mean(1)
    off = matches.mean(0) - shares
    assert (np.abs(off) < 6 * np.sqrt(shares * (1 - shares) / count)).all()


def test_cutout_of_one_image_says_nothing_about_that_of_the_next():
    length, count = 4, 32_000
    places = blanked(jax.random.key(6), count, 1, length).argmax(1)
    pairs = np.bincount(places[::2] * length**2 + places[1::2], minlength=256)
    expected = count / 2 / 256
    # Chi-squared with 255 degrees of freedom: within six standard deviations.
    statistic = ((pairs - expected) ** 2 / expected).sum()
    assert abs(statistic - 255) < 6 * np.sqrt(2 * 255)


def test_cutout_as_large_as_the_image_blanks_a_quarter_at_least():
    after = augment(jax.random.key(7), jnp.ones((500, 8, 8, 1)), flip=False, cutout=8)
    left = np.asarray(after).sum((1, 2, 3))
    assert left.min() == 0
    assert left.max() == 48


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "uint8"])
def test_cutout_leaves_all_else_as_it_is_without(dtype):
    before = jnp.asarray(images() // 2 + 1, dtype)
    key, fields = jax.random.key(8), {"flip": True, "crop_padding": 2}
    without = augment(key, before, **fields)
    after = augment(key, before, **fields, cutout=3)
    without, after = np.asarray(without), np.asarray(after)
    assert after.dtype == without.dtype == dtype
    blank = (after == 0).all(-1)
    assert (blank.sum((1, 2)) >= 4).all()
    assert (blank.sum((1, 2)) <= 9).all()
    np.testing.assert_array_equal(after[~blank], without[~blank])


@pytest.mark.parametrize("fields", [{"flip": True}, {"flip": True, "crop_padding": 4}])
def test_order_of_augmenting_and_normalising_does_not_matter(fields):
    mean, std = np.array([0.5, 0.4, 0.3]), np.array([0.25, 0.5, 1.0])
    key, pixels = jax.random.key(9), jnp.asarray(images())
    np.testing.assert_array_equal(
        augment(key, normalise(pixels, mean, std), **fields),
        normalise(augment(key, pixels, **fields), mean, std),
    )


@pytest.mark.parametrize(
    "fields",
    [{"flip": True}, {"flip": True, "crop_padding": 4}, {"flip": False, "cutout": 2}],
)
def test_the_key_alone_decides(fields):
    same = [augment(jax.random.key(3), images(), **fields) for _ in range(2)]
    other = augment(jax.random.key(4), images(), **fields)
    np.testing.assert_array_equal(*same)
    assert (np.asarray(other) != np.asarray(same[0])).any()
    assert same[0].dtype == jnp.uint8


def test_nothing_asked_for_changes_nothing():
    after = augment(jax.random.key(0), images(), flip=False, crop_padding=0, cutout=0)
    np.testing.assert_array_equal(after, images())


@pytest.mark.parametrize(("dtype", "off"), [("float32", 1e-6), ("bfloat16", 1e-2)])
def test_normalise_centres_and_scales_each_channel(dtype, off):
    mean, std = np.array([0.5, 0.4, 0.3]), np.array([0.25, 0.5, 1.0])
    out = normalise(jnp.asarray(images()), mean, std, dtype)
    assert out.dtype == jnp.dtype(dtype)
    expected = (images() / 255.0 - mean) / std
    np.testing.assert_allclose(np.asarray(out, float), expected, rtol=off, atol=off)
