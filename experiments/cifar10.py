"""CIFAR-10 as it was published: prepared by TFDS or from its archive, and cached."""

import dataclasses
import functools
import gzip
import hashlib
import io
import json
import logging
import os
import re
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from . import cache

# fmt: off
CLASSES = ("airplane", "automobile", "bird", "cat", "deer",
           "dog", "frog", "horse", "ship", "truck")
# fmt: on
# Of each channel over the 50,000 training images, with pixels scaled to [0, 1].
MEAN = np.array([0.49140, 0.48216, 0.44653], np.float32)
STD = np.array([0.24703, 0.24349, 0.26159], np.float32)

SIDE = 32  # of an image, in pixels

TRAIN_FILES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST_FILE = "test_batch.bin"
CLASSES_FILE = "batches.meta.txt"
RECORDS_PER_FILE = 10_000
RECORD = 1 + 3 * SIDE * SIDE  # bytes: a label, then red, green and blue

logger = logging.getLogger(__name__)


class DataError(ValueError):
    """The data set is missing, damaged or not what it should be."""


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Images with their labels."""

    images: np.ndarray
    """Pixels, uint8, (n, 32, 32, 3)."""
    labels: np.ndarray
    """Positions in the classes, int32, (n,)."""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> "Split":
        """The images and labels at these indices, in their order."""
        return Split(self.images[indices], self.labels[indices])


@dataclasses.dataclass(frozen=True, eq=False)
class Published:
    """The two parts as they were published, before a validation set is cut off."""

    train: Split
    test: Split

    @functools.cached_property
    def checksum(self) -> str:
        """SHA-256 over all pixels and labels."""
        digest = hashlib.sha256()
        for split in (self.train, self.test):
            digest.update(np.ascontiguousarray(split.images).data)
            digest.update(np.ascontiguousarray(split.labels).data)
        return digest.hexdigest()


def read_cifar10(archive: Path | None = None) -> Published:
    """All of CIFAR-10, from the cache if its source has been read before."""
    if archive is not None:
        if not archive.is_file():
            raise DataError(
                f"{archive}: expected cifar-10-binary.tar.gz, found no file."
            )
        return _cached([archive], functools.partial(_read_archive, archive))
    folder = _find_prepared()
    return _cached(sorted(folder.iterdir()), functools.partial(_read_prepared, folder))


def _find_prepared() -> Path:
    # TFDS itself would try the network for minutes before it says what is missing.
    data_dir = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    data_dir = Path(os.path.expanduser(data_dir))  # stays as it is without a home
    prepare = (
        "Prepare it where TensorFlow and a network are: `tfds build cifar10 "
        "--file_format=array_record`, and name its data folder in TFDS_DATA_DIR;\n"
        "or give --archive with a downloaded cifar-10-binary.tar.gz, or use the "
        "bundled source 'sample'."
    )
    found = [
        info.parent
        for info in data_dir.glob("cifar10/*/dataset_info.json")
        if re.fullmatch(r"\d+\.\d+\.\d+", info.parent.name)
    ]
    if not found:
        raise DataError(
            "No CIFAR-10 prepared by TFDS: looked for "
            f"{data_dir / 'cifar10'}/<version>/dataset_info.json.\n{prepare}"
        )
    newest = max(found, key=lambda folder: [int(n) for n in folder.name.split(".")])
    try:
        info = json.loads((newest / "dataset_info.json").read_bytes())
        # TFDS means tfrecord where it names no format.
        first = info.get("fileFormat", "tfrecord")
        formats = [
            str(name) for name in (first, *info.get("alternativeFileFormats", []))
        ]
    except (ValueError, AttributeError, TypeError) as error:
        raise DataError(
            f"{newest}: dataset_info.json is not what TFDS writes: {error}.\n{prepare}"
        ) from error
    if "array_record" not in formats:
        raise DataError(
            f"{newest}: expected CIFAR-10 as array_record, which is read without "
            f"TensorFlow, got {' and '.join(formats)}.\n{prepare}"
        )
    return newest


def _read_prepared(folder: Path) -> Published:
    import tensorflow_datasets as tfds  # slow to import, and not needed with a cache

    try:
        train, test = tfds.data_source(
            f"cifar10:{folder.name}",
            split=["train", "test"],
            data_dir=folder.parent.parent,
            download=False,
            decoders={"image": tfds.decode.SkipDecoding()},
        )
        return Published(_decode(train), _decode(test))
    except Exception as error:  # what a damaged file raises differs by the damage
        raise DataError(
            f"{folder}: the CIFAR-10 prepared there cannot be read ({error}). "
            "Prepare it again with TFDS."
        ) from error


def _decode(source: Any) -> Split:
    images, labels = [], []
    for start in range(0, len(source), 500):
        # Twice as fast as one by one.
        batch = source.__getitems__(range(start, min(start + 500, len(source))))
        for example in batch:
            with Image.open(io.BytesIO(example["image"])) as picture:
                images.append(np.asarray(picture))
            labels.append(example["label"])
    return Split(np.stack(images), np.array(labels, np.int32))


def _read_archive(path: Path) -> Published:
    contents: dict[str, bytes] = {}
    try:
        # All at once, because gzip's own checksum stands at the very end.
        unzipped = io.BytesIO(gzip.decompress(path.read_bytes()))
        with tarfile.open(fileobj=unzipped) as archive:
            for member in archive:
                if member.isfile() and (file := archive.extractfile(member)):
                    contents[Path(member.name).name] = file.read()
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise DataError(
            f"{path}: expected cifar-10-binary.tar.gz, but it is damaged or something "
            f"else ({error}). Download it again."
        ) from error
    wanted = {*TRAIN_FILES, TEST_FILE, CLASSES_FILE}
    if missing := wanted - contents.keys():
        raise DataError(
            f"{path}: expected cifar-10-binary.tar.gz, which holds "
            f"{', '.join(sorted(wanted))}; missing: {', '.join(sorted(missing))}."
        )
    if (
        classes := tuple(contents[CLASSES_FILE].decode(errors="replace").split())
    ) != CLASSES:
        raise DataError(
            f"{path}: expected the classes {', '.join(CLASSES)} in {CLASSES_FILE}, "
            f"got {', '.join(classes)}."
        )
    train = [_records(path, name, contents[name]) for name in TRAIN_FILES]
    test = _records(path, TEST_FILE, contents[TEST_FILE])
    return Published(_parse(np.concatenate(train)), _parse(test))


def _records(path: Path, name: str, content: bytes) -> np.ndarray:
    if len(content) != RECORDS_PER_FILE * RECORD:
        raise DataError(
            f"{path}: expected {RECORDS_PER_FILE:,} records of {RECORD} bytes in "
            f"{name}, got {len(content)} bytes."
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, RECORD)
    if (label := records[:, 0].max()) >= len(CLASSES):
        raise DataError(
            f"{path}: expected labels below {len(CLASSES)} in {name}, got {label}."
        )
    return records


def _parse(records: np.ndarray) -> Split:
    images = records[:, 1:].reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    return Split(np.ascontiguousarray(images), records[:, 0].astype(np.int32))


def _cached(files: Sequence[Path], read: Callable[[], Published]) -> Published:
    """Reads the cache of these files if it is whole, else the files themselves."""
    kept = cache.folder() / f"cifar10-{_identity(files)}.npz"
    try:
        return _load_cache(kept)
    except FileNotFoundError:
        print(
            f"Reading CIFAR-10 for the first time; later starts use the cache {kept}",
            file=sys.stderr,
        )
    except Exception as error:  # damage shows in many ways, none of them is fatal
        logger.warning("The cache %s is damaged (%s); it is made anew.", kept, error)
    published = read()
    try:
        _save_cache(kept, published)
    except OSError as error:
        logger.warning("The cache %s cannot be written: %s.", kept, error)
    return published


def _identity(files: Sequence[Path]) -> str:
    stats = [(file.name, file.stat()) for file in files]
    facts = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _load_cache(path: Path) -> Published:
    # Opened here, because NumPy forgets to close a file that is no archive.
    with path.open("rb") as file, np.load(file) as arrays:
        published = Published(
            Split(arrays["train_images"], arrays["train_labels"]),
            Split(arrays["test_images"], arrays["test_labels"]),
        )
        if arrays["checksum"].item() != published.checksum:
            raise ValueError("its contents do not match their checksum")
    return published


def _save_cache(path: Path, published: Published) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Renamed when it is whole: a reader never meets half a cache.
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        unfinished = Path(folder) / path.name
        np.savez(
            unfinished,
            train_images=published.train.images,
            train_labels=published.train.labels,
            test_images=published.test.images,
            test_labels=published.test.labels,
            checksum=published.checksum,
        )
        unfinished.replace(path)
