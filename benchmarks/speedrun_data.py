"""CIFAR-10 in parts that can be carried to where it cannot be prepared.

    python benchmarks/speedrun_data.py FOLDER     # from what TFDS prepared

writes the 60,000 images into four files of 44 MiB each, for `speedrun.py --data`.
"""

import argparse
import pathlib
import sys
import zipfile
from collections.abc import Sequence

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from experiments.data.cifar import DataError, Published, Split, read_cifar
from experiments.data.variants import CIFAR10

FIELDS = ("train_images", "train_labels", "test_images", "test_labels")
PLACE = ("part", "parts")  # which one this is, and of how many
PART = 15_000
"""Images in a file."""
UNREADABLE = (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile)


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
        arrays += [np.array(start // part), np.array(-(-total // part))]
        np.savez(paths[-1], **dict(zip((*FIELDS, *PLACE), arrays, strict=True)))
    return paths


def unpack(paths: Sequence[pathlib.Path]) -> Published:
    """Reads what `pack` wrote.

    Args:
        paths: of all parts, in any order.

    Raises:
        DataError: a file is missing, damaged or none of these, or they are not all the
            parts, each once.
    """
    found: dict[int, list[np.ndarray]] = {}
    parts = 0
    for path in paths:
        try:
            with path.open("rb") as file, np.load(file) as arrays:
                part, parts = (int(arrays[name]) for name in PLACE)
                found[part] = [arrays[field] for field in FIELDS]
        except UNREADABLE as error:
            raise DataError(
                f"{path}: expected a file of {', '.join(FIELDS)}, as "
                f"speedrun_data.py writes them ({error})"
            ) from error
    if sorted(found) != list(range(parts)) or len(paths) != parts:
        raise DataError(
            f"--data: expected all {parts} parts, each once, got "
            f"{', '.join(map(str, paths))}"
        )
    columns = zip(*(found[part] for part in range(parts)), strict=True)
    joined = [np.concatenate(column) for column in columns]
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
