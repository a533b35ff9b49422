"""Augmentation and normalisation of batches, on the device, from uint8."""

import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike


@functools.partial(jax.jit, static_argnames=("flip", "crop_padding"))
def augment(
    key: jax.Array, images: jax.Array, *, flip: bool = True, crop_padding: int = 0
) -> jax.Array:
    """Mirrors and shifts each image at random, independently of the others.

    Args:
        key: a JAX random key; the same key gives the same images.
        images: (n, height, width, channels), any dtype.
        flip: mirror left and right with probability one half.
        crop_padding: pad by so many pixels on each side, reflecting at the border,
            and cut a window of the old size at a random place.

    Returns:
        The images, in the same shape and dtype.
    """
    flip_key, crop_key = jax.random.split(key)
    if flip:
        mirrored = jax.random.bernoulli(flip_key, shape=(len(images), 1, 1, 1))
        images = jnp.where(mirrored, images[:, :, ::-1], images)
    if crop_padding:
        images = _shift(crop_key, images, crop_padding)
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
