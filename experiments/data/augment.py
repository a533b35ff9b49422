"""Augmentation and normalisation of batches, on the device, from uint8."""

import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike


@functools.partial(jax.jit, static_argnames=("flip", "crop_padding", "cutout"))
def augment(
    key: jax.Array,
    images: jax.Array,
    *,
    flip: bool = True,
    crop_padding: int = 0,
    cutout: int = 0,
) -> jax.Array:
    """Mirrors, shifts and blanks each image at random, independently of the others.

    Cutout is that of arXiv:1708.04552: the square lies around a pixel drawn from the
    whole image, so that some of it may lie outside, and is filled with 0. Images come
    normalised for that: then 0 is the mean colour.

    Args:
        key: a JAX random key; the same key gives the same images.
        images: normalised, (n, height, width, channels), any dtype.
        flip: mirror left and right with probability one half.
        crop_padding: pad by so many pixels on each side, reflecting at the border,
            and cut a window of the old size at a random place.
        cutout: blank a square with sides of so many pixels.

    Returns:
        The images, in the same shape and dtype.
    """
    flip_key, crop_key, cutout_key = jax.random.split(key, 3)
    if flip:
        mirrored = jax.random.bernoulli(flip_key, shape=(len(images), 1, 1, 1))
        images = jnp.where(mirrored, images[:, :, ::-1], images)
    if crop_padding:
        images = _shift(crop_key, images, crop_padding)
    if cutout:
        images = _blank(cutout_key, images, cutout)
    return images


def normalise(
    images: jax.Array,
    mean: ArrayLike,
    std: ArrayLike,
    dtype: DTypeLike = jnp.float32,
) -> jax.Array:
    """(pixel/255 − mean)/std for each channel.

    Args:
        images: uint8, (n, height, width, channels).
        mean: of each channel, of pixels scaled to [0, 1], (channels,).
        std: likewise.
        dtype: of the result; the arithmetic is float32.
    """
    return ((images.astype(jnp.float32) / 255 - mean) / std).astype(dtype)


def _shift(key: jax.Array, images: jax.Array, most: int) -> jax.Array:
    """Shifts each image by up to `most` pixels along each axis."""
    _, *window = images.shape
    sides = [(0, 0), (most, most), (most, most), (0, 0)]
    padded = jnp.pad(images, sides, mode="reflect")
    corners = jax.random.randint(key, (len(images), 2), 0, 2 * most + 1)

    def cut(image: jax.Array, corner: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (*corner, 0), window)

    return jax.vmap(cut)(padded, corners)


def _blank(key: jax.Array, images: jax.Array, side: int) -> jax.Array:
    """Sets a square of each image to 0; its centre is inside, all of it need not be."""
    count, height, width, _ = images.shape
    row_key, column_key = jax.random.split(key)

    def covered(key: jax.Array, length: int) -> jax.Array:
        """Which pixels along an axis are in the square, (count, length)."""
        first = jax.random.randint(key, (count, 1), 0, length) - side // 2
        pixel = jnp.arange(length)
        return (first <= pixel) & (pixel < first + side)

    rows, columns = covered(row_key, height), covered(column_key, width)
    return jnp.where(rows[:, :, None, None] & columns[:, None, :, None], 0, images)
