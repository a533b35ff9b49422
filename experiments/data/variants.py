"""CIFAR-10 and CIFAR-100 as published: their files, and sums of pixels."""

import dataclasses

import numpy as np

SIDE = 32  # of an image, in pixels


@dataclasses.dataclass(frozen=True, eq=False)
class Variant:
    """What one of the two data sets has of its own."""

    name: str
    """Of the source in a configuration, and of the data set in TFDS."""
    title: str
    archive: str
    train_files: tuple[str, ...]
    """Of the archive, with the same number of images in each."""
    test_file: str
    label_bytes: int
    """Labels before the pixels of an image; the last is the one that is trained on."""
    mean: np.ndarray
    """Of each channel over the training images, pixels in [0, 1], float32, (3,)."""
    std: np.ndarray
    """Likewise."""
    sums: tuple[tuple[int, ...], tuple[int, ...]]
    """Of the pixels of each channel, over all training and over all test images."""


CIFAR10 = Variant(
    name="cifar10",
    title="CIFAR-10",
    archive="cifar-10-binary.tar.gz",
    train_files=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    test_file="test_batch.bin",
    label_bytes=1,
    mean=np.array([0.49140, 0.48216, 0.44653], np.float32),
    std=np.array([0.24703, 0.24349, 0.26159], np.float32),
    sums=(
        (6_415_714_204, 6_295_060_180, 5_829_907_619),
        (1_290_492_328, 1_266_775_083, 1_176_108_223),
    ),
)
CIFAR100 = Variant(
    name="cifar100",
    title="CIFAR-100",
    archive="cifar-100-binary.tar.gz",
    train_files=("train.bin",),
    test_file="test.bin",
    label_bytes=2,
    mean=np.array([0.50708, 0.48655, 0.44092], np.float32),
    std=np.array([0.26733, 0.25644, 0.27615], np.float32),
    # No CIFAR-100 was at hand: of published means, × 255 × pixels, whole up to 1e-6.
    sums=(
        (6_620_373_279, 6_352_382_090, 5_756_623_363),
        (1_328_830_313, 1_272_680_636, 1_153_999_502),
    ),
)
VARIANTS = {variant.name: variant for variant in (CIFAR10, CIFAR100)}
