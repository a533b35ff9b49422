"""CIFAR-10 in parts that can be carried to where it cannot be prepared.

    python benchmarks/speedrun_data.py FOLDER     # from what TFDS prepared

writes the 60,000 images into four files of 44 MiB each, for `speedrun.py --data`.
"""

import argparse
import pathlib
from collections.abc import Sequence

import numpy as np

from experiments.cifar import CIFAR10, DataError, Published, Split, read_cifar

FIELDS = ("train_images", "train_labels", "test_images", "test_labels")
PART = 15_000
"""Images in a file."""


def pack(
    published: Published, folder: pathlib.Path, part: int = PART
) -> list[pathlib.Path]:
    """Writes files of so many images, and returns their paths, in order."""
    train, test = published.train, published.test
    total, count = len(train) + len(test), len(train)
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[pathlib.Path] = []
    for start in range(0, total, part):
        own = np.arange(start, min(start + part, total))
        parts = train.take(own[own < count]), test.take(own[own >= count] - count)
        paths.append(folder / f"cifar10-{len(paths)}.npz")
        arrays = [array for one in parts for array in (one.images, one.labels)]
        np.savez(paths[-1], **dict(zip(FIELDS, arrays, strict=True)))
    return paths


def unpack(paths: Sequence[pathlib.Path]) -> Published:
    """Reads what `pack` wrote.

    Raises:
        DataError: a file is missing, damaged or none of these, or all of them together
            lack images to train on or to test.
    """
    found: list[list[np.ndarray]] = []
    for path in paths:
        try:
            with np.load(path) as arrays:
                found.append([arrays[field] for field in FIELDS])
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise DataError(
                f"{path}: expected a file of {', '.join(FIELDS)}, as "
                f"speedrun_data.py writes them ({error})"
            ) from error
    joined = [np.concatenate(column) for column in zip(*found, strict=True)]
    for field, array in zip(FIELDS, joined, strict=True):
        if not len(array):
            raise DataError(
                f"--data: expected {field}, got none in "
                f"{', '.join(map(str, paths))}; name all parts"
            )
    return Published(Split(joined[0], joined[1]), Split(joined[2], joined[3]))


def main() -> None:
    """Parses the command line and writes the parts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=pathlib.Path)
    folder = parser.parse_args().folder
    for path in pack(read_cifar(CIFAR10), folder):
        print(path)


if __name__ == "__main__":
    main()
