"""CIFAR-10 and CIFAR-100 as published: prepared by TFDS or in an archive; cached."""

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

from ..config.choices import SIZES
from . import cache
from .variants import SIDE, VARIANTS, Variant

TEST_IMAGES = 10_000
PIXELS = 3 * SIDE * SIDE  # bytes of an image in an archive: red, then green, then blue

logger = logging.getLogger(__name__)


class DataError(ValueError):
    """The data set is missing, damaged or not what it should be."""


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Images with their labels."""

    images: np.ndarray
    """Pixels, uint8, (n, height, width, channels)."""
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


def read_cifar(variant: Variant, archive: Path | None = None) -> Published:
    """All of a data set, from the cache if its source has been read before.

    Raises:
        DataError: it is missing, damaged, or another set.
    """
    try:
        if archive is None:
            place = _find_prepared(variant)
            files, read = sorted(place.iterdir()), _read_prepared
        elif archive.is_file():
            place, files, read = archive, [archive], _read_archive
        else:
            raise DataError(
                f"{archive}: expected {variant.archive}, found no file. Give --archive "
                "its path."
            )
        published = _cached(variant, files, lambda: read(variant, place))
    except OSError as error:
        option = "TFDS_DATA_DIR" if archive is None else "--archive"
        where = error.filename or archive or option
        raise DataError(
            f"{where}: expected {variant.title} there, but it cannot be read "
            f"({error.strerror}). Make it readable, or give {option} another path."
        ) from error
    _refuse_others(variant, published, place)
    return published


def _refuse_others(variant: Variant, published: Published, place: Path) -> None:
    """Refuses another set in the form of this one, by facts that no order changes."""
    classes = len(variant.classes)
    for part, split, count, sums in zip(
        ("training", "test"),
        (published.train, published.test),
        (SIZES[variant.name].images, TEST_IMAGES),
        variant.sums,
        strict=True,
    ):
        each = count // classes
        counts = np.bincount(split.labels, minlength=classes)
        pixels = split.images.sum(axis=0, dtype=np.uint64).sum(axis=(0, 1))
        if counts.tolist() != [each] * classes or tuple(pixels.tolist()) != sums:
            raise DataError(
                f"{place}: expected {variant.title}, with {each:,} {part} images of "
                f"each class, whose pixels sum to {sums} by channel; got "
                f"{counts.min():,} to {counts.max():,} images of a class, which sum "
                f"to {tuple(pixels.tolist())}.\nDownload or prepare {variant.title} "
                "again. A set of your own is read by a function of your own: give "
                "--data my_file.py:load."
            )


def _find_prepared(variant: Variant) -> Path:
    # TFDS itself would try the network for minutes before it says what is missing.
    data_dir = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    data_dir = Path(os.path.expanduser(data_dir))  # stays as it is without a home
    prepare = (
        "Prepare it where TensorFlow and a network are: `tfds build "
        f"{variant.name} --file_format=array_record`, and name its data folder in "
        f"TFDS_DATA_DIR;\nor give --archive with a downloaded {variant.archive}, or "
        "use the bundled source 'sample'."
    )
    found = [
        info.parent
        for info in data_dir.glob(f"{variant.name}/*/dataset_info.json")
        if re.fullmatch(r"\d+\.\d+\.\d+", info.parent.name)
    ]
    if not found:
        raise DataError(
            f"No {variant.title} prepared by TFDS: looked for "
            f"{data_dir / variant.name}/<version>/dataset_info.json.\n{prepare}"
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
            f"{newest}: expected {variant.title} as array_record, which is read "
            f"without TensorFlow, got {' and '.join(formats)}.\n{prepare}"
        )
    return newest


def _read_prepared(variant: Variant, folder: Path) -> Published:
    import tensorflow_datasets as tfds  # slow to import, and not needed with a cache

    try:
        train, test = tfds.data_source(
            f"{variant.name}:{folder.name}",
            split=["train", "test"],
            data_dir=folder.parent.parent,
            download=False,
            decoders={"image": tfds.decode.SkipDecoding()},
        )
        return Published(_decode(train), _decode(test))
    except Exception as error:  # what a damaged file raises differs by the damage
        raise DataError(
            f"{folder}: the {variant.title} prepared there cannot be read ({error}). "
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


def _read_archive(variant: Variant, path: Path) -> Published:
    contents: dict[str, bytes] = {}
    packed = path.read_bytes()
    try:
        # All at once, because gzip's own checksum stands at the very end.
        unzipped = io.BytesIO(gzip.decompress(packed))
        with tarfile.open(fileobj=unzipped) as archive:
            for member in archive:
                if member.isfile() and (file := archive.extractfile(member)):
                    contents[Path(member.name).name] = file.read()
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise DataError(
            f"{path}: expected {variant.archive}, but it is damaged or something else "
            f"({error}). Download it again."
        ) from error
    try:
        return _parse(variant, contents)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _parse(variant: Variant, contents: dict[str, bytes]) -> Published:
    if missing := variant.files - contents.keys():
        for other in VARIANTS.values():
            if other.files <= contents.keys():
                raise DataError(
                    f"expected {variant.archive}, got {other.archive}. Give the "
                    f"former, or take the source {other.name!r}."
                )
        raise DataError(
            f"expected {variant.archive}, which holds "
            f"{', '.join(sorted(variant.files))}; missing: "
            f"{', '.join(sorted(missing))}."
        )
    classes = contents[variant.classes_file].decode(errors="replace").split()
    if classes != list(variant.classes):
        raise DataError(
            f"expected the classes of {variant.title}, {variant.classes[0]} to "
            f"{variant.classes[-1]}, in {variant.classes_file}, got "
            f"{', '.join(classes)}."
        )

    def split(files: Sequence[str], images: int) -> Split:
        each = images // len(files)
        parts = [_records(variant, name, contents[name], each) for name in files]
        return Split(
            np.concatenate([part.images for part in parts]),
            np.concatenate([part.labels for part in parts]),
        )

    return Published(
        split(variant.train_files, SIZES[variant.name].images),
        split([variant.test_file], TEST_IMAGES),
    )


def _records(variant: Variant, name: str, content: bytes, count: int) -> Split:
    size = variant.label_bytes + PIXELS
    if len(content) != count * size:
        raise DataError(
            f"expected {count:,} records of {size} bytes in {name}, got {len(content)} "
            "bytes."
        )
    records = np.frombuffer(content, np.uint8).reshape(count, size)
    labels = records[:, variant.label_bytes - 1].astype(np.int32)
    if labels.max() >= (classes := len(variant.classes)):
        raise DataError(
            f"expected labels below {classes} in {name}, got {labels.max()}."
        )
    images = records[:, variant.label_bytes :].reshape(count, 3, SIDE, SIDE)
    return Split(np.ascontiguousarray(images.transpose(0, 2, 3, 1)), labels)


def _cached(
    variant: Variant, files: Sequence[Path], read: Callable[[], Published]
) -> Published:
    """Reads the cache of these files if it is whole, else the files themselves."""
    kept = cache.folder() / f"{variant.name}-{_identity(files)}.npz"
    try:
        return _load_cache(kept)
    except FileNotFoundError:
        print(
            f"Reading {variant.title} for the first time; later starts use the cache "
            f"{kept}",
            file=sys.stderr,
        )
    except Exception as error:  # damage shows in many ways, none of them is fatal
        logger.warning("The cache %s is damaged (%s); it is made anew.", kept, error)
    published = read()
    try:
        _save_cache(kept, published)
    except OSError as error:
        logger.warning(
            "The cache %s cannot be written: %s. Set XDG_CACHE_HOME to another.",
            kept,
            error,
        )
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
