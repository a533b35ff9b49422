"""What a study trains on: CIFAR, its sample, a set of one's own or text, divided."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..config import own
from ..config.choices import SIZES, class_numbers
from ..config.texts import BYTES, is_text
from . import text
from .cifar import DataError, Published, Split, read_cifar
from .shift import shifted
from .variants import CIFAR10, SIDE, VARIANTS

# One cut and one noise for every study: never change them.
CUT_SEED = 20090408
NOISE_SEED = 20170226

SAMPLE = Path(__file__).parent / "sample" / "cifar10.png"
SAMPLE_CHECKSUM = "616e0cb2e25671470c4936d1dd8bd8bdedf1416206ffed479ed20df2bdd100f5"


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A data set ready to train on."""

    name: str
    train: Split
    """What is trained on, or, with so many images of each class, what each run draws
    them from; with label noise, some of its labels are wrong."""
    validation: Split
    """Cut from the published training set; the same in every study of one size."""
    test: Split
    """For the end of a run only."""
    classes: int
    mean: np.ndarray | None
    """Of each channel, pixels in [0, 1], float32, (channels,); None for text."""
    std: np.ndarray | None
    """Likewise."""
    checksum: str
    """SHA-256 of all pixels and labels as they were published, or of the text."""


def load(
    data: Any,
    *,
    archive: Path | None = None,
    classes: Sequence[int | str] = (),
    shift: str = "none",
    validation: int,
    train_fraction: float = 1.0,
    images_per_class: int | None = None,
    label_noise: float = 0.0,
    context: int = 128,
) -> Dataset:
    """Loads CIFAR-10, CIFAR-100, the sample, one's own set or text, and divides it.

    Args:
        data: "sample" (2,000 training and 500 test images of CIFAR-10 that come with
            the project), or "cifar10" or "cifar100" (all 60,000, prepared by TFDS under
            `TFDS_DATA_DIR` or `~/tensorflow_datasets`; of CIFAR-100 the fine labels);
            or a function, or FILE.py:NAME, that returns arrays as `own.arrays` has it;
            or text, as `text.read` has it.
        archive: a downloaded `cifar-10-binary.tar.gz` or `cifar-100-binary.tar.gz` to
            read instead of TFDS.
        classes: by names or numbers, those that are a task of its own, numbered anew
            in this order; of none all. Means and deviations are those of all.
        shift: "none", or what is done to every image, as `shift.shifted` has it.
        validation: how many training images to set aside, the same number of each
            class or as nearly as can be. As many of a class are the same images,
            whichever classes there are beside it.
        train_fraction: share of the others to train on, with its classes likewise. A
            smaller share is a part of a larger one.
        images_per_class: how many of each class runs are to draw.
        label_noise: share of the images to train on that get a wrong label, any other
            class being equally likely. The images of a smaller share, and their
            labels, are a part of those of a larger one.
        context: bytes in a window of text.

    Raises:
        DataError: the data are missing or damaged; the message says what to do.
        ValueError: some class would be missing from a part, or has too few to draw.
    """
    if is_text(data):
        return _of_text(data, context, validation, train_fraction)
    published, count, mean, std = _published(data, archive)
    chosen = class_numbers(classes, data, count)
    train, held_out = cut(
        published.train.labels, count, validation, train_fraction, chosen
    )
    place = np.full(count, -1, np.int32)
    place[chosen] = np.arange(len(chosen))
    whole, tested = (
        Split(shifted(shift, split.images, part), place[split.labels])
        for part, split in enumerate((published.train, published.test))
    )
    trained = whole.take(train)
    labels = disturb(trained.labels, len(chosen), label_noise)
    if images_per_class is not None:
        _check_drawn(images_per_class, labels, len(chosen))
    return Dataset(
        name=own.label(data),
        train=Split(trained.images, labels),
        validation=whole.take(held_out),
        test=tested.take(np.flatnonzero(tested.labels >= 0)),
        classes=len(chosen),
        mean=mean,
        std=std,
        checksum=published.checksum,
    )


def _of_text(
    data: str, context: int, validation: int, train_fraction: float
) -> Dataset:
    whole, held_out, test, checksum = text.read(data, context)
    return Dataset(
        name=own.label(data),
        train=whole.take(_some(round(train_fraction * len(whole)), len(whole))),
        validation=held_out.take(_some(validation, len(held_out))),
        test=test,
        classes=BYTES,
        mean=None,
        std=None,
        checksum=checksum,
    )


def _some(count: int, most: int) -> np.ndarray:
    """So many of several, ascending; fewer are a part of more."""
    return np.sort(np.argsort(_random_bits(CUT_SEED, most))[:count])


def _published(
    data: Any, archive: Path | None
) -> tuple[Published, int, np.ndarray, np.ndarray]:
    """A whole data set, how many classes, mean and deviation of its channels."""
    if own.is_own(data):
        return _own(own.arrays(data))
    variant = VARIANTS.get(data, CIFAR10)
    published = read_sample() if data == "sample" else read_cifar(variant, archive)
    return published, SIZES[data].classes, variant.mean, variant.std


def _own(
    found: own.Arrays,
) -> tuple[Published, int, np.ndarray, np.ndarray]:
    train = Split(found.train_images, found.train_labels.astype(np.int32))
    test = Split(found.test_images, found.test_labels.astype(np.int32))
    count = 1 + int(max(train.labels.max(), test.labels.max()))
    # In whole numbers, as float32 cannot add up so many pixels.
    pixels = train.images.reshape(-1, train.images.shape[-1])
    sums = pixels.sum(0, dtype=np.int64)
    squares = np.square(pixels, dtype=np.uint16).sum(0, dtype=np.int64)
    mean = sums / len(pixels)
    std = np.sqrt(np.maximum(squares / len(pixels) - mean**2, 1.0))  # never 0
    return (
        Published(train, test),
        count,
        (mean / 255).astype(np.float32),
        (std / 255).astype(np.float32),
    )


def cut(
    labels: np.ndarray,
    classes: int,
    validation: int,
    train_fraction: float = 1.0,
    chosen: Sequence[int] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Indices (train, validation), both ascending, the same at every call.

    Args:
        labels: of all images.
        classes: how many there are.
        validation: how many images to set aside.
        train_fraction: share of the others to train on.
        chosen: classes to take images of; None for all.

    Raises:
        ValueError: some class would be missing from one of the two.
    """
    chosen = range(classes) if chosen is None else chosen
    counts = np.bincount(labels, minlength=classes)[list(chosen)]
    if counts.min() < 2:
        raise ValueError(
            "training images: expected 2 or more of each class, for the two parts, got "
            f"{counts.min()} of class {chosen[int(counts.argmin())]} (from 0 to "
            f"{classes - 1}). Add some, or leave the class out."
        )
    # Of all classes, so that an image is on one side whichever are chosen.
    order = _evenly(labels, classes)
    order, classes = order[np.isin(labels[order], chosen)], len(chosen)
    most = classes * (int(counts.min()) - 1)
    if not classes <= validation <= most:
        raise ValueError(
            f"validation: expected {classes} to {most} images, so that each class "
            f"is in both parts, got {validation}."
        )
    held_out, left = order[:validation], order[validation:]
    count = round(train_fraction * len(left))
    return np.sort(left[:count]), np.sort(held_out)


def _check_drawn(count: int, labels: np.ndarray, classes: int) -> None:
    most = int(np.bincount(labels, minlength=classes).min())
    if not 1 <= count <= most:
        raise ValueError(
            f"images_per_class: expected 1 to {most}, as every class has beside its "
            f"images for validation, got {count}."
        )


def _evenly(labels: np.ndarray, classes: int) -> np.ndarray:
    """A random order in which the classes take turns, as long as they have images."""
    shuffled = np.argsort(_random_bits(CUT_SEED, len(labels)))
    turn = np.empty(len(labels), int)
    for label in range(classes):
        those = shuffled[labels[shuffled] == label]
        turn[those] = np.arange(len(those))
    return np.lexsort((labels, turn))


def disturb(labels: np.ndarray, classes: int, share: float) -> np.ndarray:
    """The labels, a random share of them wrong, the same at every call."""
    bits = _random_bits(NOISE_SEED, 2 * len(labels)).reshape(2, -1)
    chosen = np.argsort(bits[0])[: round(share * len(labels))]
    shift = 1 + bits[1, chosen] % (classes - 1)  # never a whole turn
    wrong = labels.copy()
    wrong[chosen] = (labels[chosen] + shift.astype(labels.dtype)) % classes
    return wrong


def _random_bits(seed: int, count: int) -> np.ndarray:
    # NumPy promises to keep only the raw bits the same in later versions.
    return np.random.PCG64(seed).random_raw(count)


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
    # A band of 5 rows for each class, 40 images to train on and 10 to test on; white
    # lines of 8 pixels between all.
    bands = np.pad(picture, [(0, 8), (0, 0), (0, 0)]).reshape(10, 168, -1, 3)[:, :160]
    return Published(_tiles(bands[:, :, :1280]), _tiles(bands[:, :, 1288:]))


def _tiles(bands: np.ndarray) -> Split:
    tiles = bands.reshape(10, 5, SIDE, -1, SIDE, 3).swapaxes(2, 3)
    images = tiles.reshape(-1, SIDE, SIDE, 3)
    return Split(images, np.repeat(np.arange(10, dtype=np.int32), len(images) // 10))
