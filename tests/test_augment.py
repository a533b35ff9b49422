import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.augment import augment, normalise


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


@pytest.mark.parametrize("fields", [{"flip": True}, {"flip": True, "crop_padding": 4}])
def test_the_key_alone_decides(fields):
    same = [augment(jax.random.key(3), images(), **fields) for _ in range(2)]
    other = augment(jax.random.key(4), images(), **fields)
    np.testing.assert_array_equal(*same)
    assert (np.asarray(other) != np.asarray(same[0])).any()
    assert same[0].dtype == jnp.uint8


def test_nothing_asked_for_changes_nothing():
    after = augment(jax.random.key(0), images(), flip=False, crop_padding=0)
    np.testing.assert_array_equal(after, images())


@pytest.mark.parametrize(("dtype", "off"), [("float32", 1e-6), ("bfloat16", 1e-2)])
def test_normalise_centres_and_scales_each_channel(dtype, off):
    mean, std = np.array([0.5, 0.4, 0.3]), np.array([0.25, 0.5, 1.0])
    out = normalise(jnp.asarray(images()), mean, std, dtype)
    assert out.dtype == jnp.dtype(dtype)
    expected = (images() / 255.0 - mean) / std
    np.testing.assert_allclose(np.asarray(out, float), expected, rtol=off, atol=off)
