"""What a study trains on: CIFAR-10 or its bundled sample, and the validation cut."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from .cifar10 import CLASSES, MEAN, SIDE, STD, DataError, Published, Split, read_cifar10

VALIDATION_SEED = 20090408  # one cut for every study: never change it

SAMPLE = Path(__file__).parent / "sample" / "cifar10.png"
SAMPLE_CHECKSUM = "616e0cb2e25671470c4936d1dd8bd8bdedf1416206ffed479ed20df2bdd100f5"
# A band of rows for each class: training images on the left, test images on the right.
SAMPLE_ROWS, SAMPLE_TRAIN_COLUMNS, SAMPLE_TEST_COLUMNS = 5, 40, 10  # in images
SAMPLE_GAP = 8  # white, between bands and between their two parts, in pixels


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A data set ready to train on."""

    name: str
    train: Split
    validation: Split
    """Cut from the published training set; the same in every study of one size."""
    test: Split
    """For the end of a run only."""
    classes: tuple[str, ...]
    mean: np.ndarray
    """Of each channel, pixels in [0, 1], float32, (3,)."""
    std: np.ndarray
    """Of each channel, pixels in [0, 1], float32, (3,)."""
    checksum: str
    """SHA-256 of all pixels and labels, before the validation set is cut off."""


def load(source: str, *, archive: Path | None = None, validation: int) -> Dataset:
    """Loads CIFAR-10 or its bundled sample and cuts off a validation set.

    Args:
        source: "sample" (2,000 training and 500 test images that come with the
            project) or "cifar10" (all 60,000, prepared by TFDS under
            `TFDS_DATA_DIR` or `~/tensorflow_datasets`).
        archive: a downloaded `cifar-10-binary.tar.gz` to read instead of TFDS.
        validation: how many training images to set aside, the same number of each
            class or as nearly as can be.

    Raises:
        DataError: the data are missing or damaged; the message says what to do.
        ValueError: an unknown source, or a validation set that cannot be cut.
    """
    if source not in ("sample", "cifar10"):
        raise ValueError(f"source: expected 'sample' or 'cifar10', got {source!r}.")
    if source == "sample" and archive is not None:
        raise ValueError(
            f"archive: expected none with the source 'sample', got {archive}; "
            "leave it out, or take the source 'cifar10'."
        )
    published = read_sample() if source == "sample" else read_cifar10(archive)
    rest, held_out = cut(published.train.labels, validation)
    return Dataset(
        name=source,
        train=published.train.take(rest),
        validation=published.train.take(held_out),
        test=published.test,
        classes=CLASSES,
        mean=MEAN,
        std=STD,
        checksum=published.checksum,
    )


def cut(labels: np.ndarray, validation: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices (rest, validation), both ascending, the same at every call.

    Raises:
        ValueError: some class would be missing from one of the two.
    """
    available = np.bincount(labels, minlength=len(CLASSES))
    most = len(CLASSES) * (int(available.min()) - 1)
    if not len(CLASSES) <= validation <= most:
        raise ValueError(
            f"validation: expected {len(CLASSES)} to {most} images, so that each class "
            f"is in both parts, got {validation}."
        )
    # Raw bits, because NumPy promises to keep only them the same in later versions.
    order = np.argsort(np.random.PCG64(VALIDATION_SEED).random_raw(len(labels)))
    held_out = np.zeros(len(labels), bool)
    for label in range(len(CLASSES)):
        share = validation // len(CLASSES) + (label < validation % len(CLASSES))
        held_out[order[labels[order] == label][:share]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def read_sample() -> Published:
    """The bundled sample, its images class by class."""
    try:
        with Image.open(SAMPLE) as picture:
            published = _unpack(np.asarray(picture))
        if published.checksum != SAMPLE_CHECKSUM:
            raise ValueError("its pixels do not match their checksum")
    except Exception as error:  # Pillow has no common type for damaged pictures
        raise DataError(
            f"{SAMPLE}: the bundled sample cannot be read ({error}). "
            f"Restore it with `git checkout {SAMPLE.name}` in its folder."
        ) from error
    return published


def _unpack(picture: np.ndarray) -> Published:
    height, width = SAMPLE_ROWS * SIDE, SAMPLE_TRAIN_COLUMNS * SIDE
    tops = [label * (height + SAMPLE_GAP) for label in range(len(CLASSES))]
    train = [_tiles(picture[y : y + height, :width]) for y in tops]
    test = [_tiles(picture[y : y + height, width + SAMPLE_GAP :]) for y in tops]
    return Published(_by_class(train), _by_class(test))


def _tiles(block: np.ndarray) -> np.ndarray:
    tiles = block.reshape(SAMPLE_ROWS, SIDE, -1, SIDE, 3).swapaxes(1, 2)
    return tiles.reshape(-1, SIDE, SIDE, 3)


def _by_class(images: Sequence[np.ndarray]) -> Split:
    labels = [np.full(len(those), label) for label, those in enumerate(images)]
    return Split(np.concatenate(images), np.concatenate(labels).astype(np.int32))
