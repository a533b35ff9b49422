"""Makes the bundled sample, `cifar10.png`, from the whole of CIFAR-10.

    TFDS_DATA_DIR=… python -m experiments.data.sample.make

Takes the first images of each class, in the order in which TFDS prepared them, and
prints the checksum that `experiments/data/dataset.py` holds.
"""

import numpy as np
from PIL import Image

from experiments.data.cifar import Published, Split, read_cifar
from experiments.data.dataset import (
    SAMPLE,
    SAMPLE_GAP,
    SAMPLE_ROWS,
    SAMPLE_TEST_COLUMNS,
    SAMPLE_TRAIN_COLUMNS,
)
from experiments.data.variants import CIFAR10, SIDE


def choose(published: Published) -> Published:
    """The first images of each class, class by class."""
    return Published(
        _first_of_each(published.train, SAMPLE_ROWS * SAMPLE_TRAIN_COLUMNS),
        _first_of_each(published.test, SAMPLE_ROWS * SAMPLE_TEST_COLUMNS),
    )


def _first_of_each(split: Split, count: int) -> Split:
    by_class = [
        np.flatnonzero(split.labels == k)[:count] for k in range(len(CIFAR10.classes))
    ]
    return split.take(np.concatenate(by_class))


def paint(sample: Published) -> np.ndarray:
    """One picture, uint8, (height, width, 3): a band for each class, train | test."""
    train = _blocks(sample.train.images, SAMPLE_TRAIN_COLUMNS)
    test = _blocks(sample.test.images, SAMPLE_TEST_COLUMNS)
    across = np.full((*train.shape[:2], SAMPLE_GAP, 3), 255, np.uint8)
    bands = np.concatenate([train, across, test], axis=2)
    below = np.full((len(bands), SAMPLE_GAP, *bands.shape[2:]), 255, np.uint8)
    picture = np.concatenate([bands, below], axis=1)
    return picture.reshape(-1, *picture.shape[2:])[:-SAMPLE_GAP]


def _blocks(images: np.ndarray, columns: int) -> np.ndarray:
    grid = images.reshape(len(CIFAR10.classes), SAMPLE_ROWS, columns, SIDE, SIDE, 3)
    return grid.swapaxes(2, 3).reshape(
        len(CIFAR10.classes), SAMPLE_ROWS * SIDE, columns * SIDE, 3
    )


if __name__ == "__main__":
    sample = choose(read_cifar(CIFAR10))
    Image.fromarray(paint(sample)).save(SAMPLE, optimize=True)
    print(f"{SAMPLE.name}: {SAMPLE.stat().st_size:,} bytes")
    print(f'SAMPLE_CHECKSUM = "{sample.checksum}"')
