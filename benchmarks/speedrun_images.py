"""What the speed run sees: which images, moved and mirrored how, at every step."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from experiments.data.augment import normalise
from experiments.data.variants import CIFAR10

MOST = 2
"""Pixels that an image is moved by along each axis, at most."""
ORDER, PLACE, SIDE = range(3)  # what the keys of a run are for


class Images(NamedTuple):
    """Images and labels, on the device."""

    images: jax.Array  # shape=(n, 32, 32, 3), dtype=jnp.uint8
    labels: jax.Array  # shape=(n,), dtype=jnp.int32


class Draws(NamedTuple):
    """What each of T steps sees, drawn before the first, or what one of them sees."""

    chosen: jax.Array  # shape=(T, batch), dtype=jnp.int32; positions in the data set
    offset: jax.Array  # shape=(T, batch, 2), dtype=jnp.int32; rows, columns
    mirrored: jax.Array  # shape=(T, batch), dtype=bool


def draw(key: jax.Array, images: int, steps: int, batch: int) -> Draws:
    """Draws a run: the order of every epoch, translations, and alternating flips.

    Half of the images are mirrored in the first epoch, and each image every other time
    from then on. What does not fill a batch is left out of its epoch.

    Args:
        key: fixes everything.
        images: how many there are.
        steps: T.
        batch: images a step.
    """
    keys = [jax.random.fold_in(key, use) for use in (ORDER, PLACE, SIDE)]
    per_epoch = images // batch
    epochs = -(-steps // per_epoch)
    orders = jax.vmap(lambda key: jax.random.permutation(key, images))(
        jax.random.split(keys[0], epochs)
    )[:, : per_epoch * batch]
    odd = jnp.arange(epochs)[:, None] % 2 == 1
    mirrored = jax.random.bernoulli(keys[2], shape=(images,))[orders] ^ odd
    return Draws(
        chosen=orders.reshape(-1, batch)[:steps].astype(jnp.int32),
        offset=jax.random.randint(keys[1], (steps, batch, 2), -MOST, MOST + 1),
        mirrored=mirrored.reshape(-1, batch)[:steps],
    )


def seen(data: Images, drawn: Draws) -> tuple[jax.Array, jax.Array]:
    """The normalised images and the labels of one step.

    Args:
        data: all images.
        drawn: of this step, without the axis of steps.
    """
    side = jnp.arange(data.images.shape[1])
    rows, columns = (
        _reflected(side + drawn.offset[:, axis, None], len(side)) for axis in range(2)
    )
    columns = jnp.where(drawn.mirrored[:, None], columns[:, ::-1], columns)
    at = drawn.chosen[:, None, None], rows[:, :, None], columns[:, None, :]
    return normalised(data.images[at]), data.labels[drawn.chosen]


def views(images: jax.Array) -> list[tuple[float, jax.Array]]:
    """Six views of images, and their weights, for test-time augmentation.

    As it is; moved by a pixel up and left, down and right; all of them mirrored too.
    Half of the weight is on the two that are not moved.
    """
    length = images.shape[1]
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    moved = [padded[:, at : at + length, at : at + length] for at in (0, 2)]
    weighted = [(1 / 4, images), *((1 / 8, view) for view in moved)]
    return [
        (weight, side) for weight, view in weighted for side in (view, view[:, :, ::-1])
    ]


def normalised(images: jax.Array) -> jax.Array:
    """Of uint8, by the moments of CIFAR-10's channels; float32."""
    return normalise(images, CIFAR10.mean, CIFAR10.std)


def _reflected(position: jax.Array, length: int) -> jax.Array:
    """Positions beyond the first and last pixel, mirrored there."""
    last = length - 1
    return last - jnp.abs(last - jnp.abs(position))
