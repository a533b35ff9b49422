"""CIFAR-10 and CIFAR-100 as published: prepared by TFDS or in an archive; cached."""

import dataclasses
import functools
import gzip
import hashlib
import io
import json
import logging
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..config.choices import SIZES
from . import cache, prepared
from .prepared import DataError
from .variants import SIDE, Variant

TEST_IMAGES = 10_000

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Images with their labels, or windows of text with what comes next."""

    images: np.ndarray
    """Pixels, uint8, (n, height, width, channels); or bytes, uint8, (n, context)."""
    labels: np.ndarray
    """Positions in the classes, int32, (n,); or the next bytes, (n, context)."""

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
    place, option, wanted = archive, "--archive", variant.archive
    read: Callable[[Variant, Path], Published] = _read_archive
    try:
        if place is None:
            option, wanted = "TFDS_DATA_DIR", f"{variant.title} prepared by TFDS"
            place, read = _find_prepared(variant), _read_prepared
        published = _cached(variant, place, read)
    except DataError:
        raise
    except Exception as error:  # what a damaged file raises differs by the damage
        why = f"is damaged or something else ({error}). Download or prepare it again"
        if isinstance(error, OSError) and error.errno:  # the system's, not gzip's
            place = error.filename or place
            why = f"cannot be read ({error.strerror}). Make it readable"
        raise DataError(
            f"{place or option}: expected {wanted}, but it {why}, or give {option} "
            "another path."
        ) from error
    _refuse_others(variant, published, place)
    return published


def _refuse_others(variant: Variant, published: Published, place: Path) -> None:
    """Refuses another set in the form of this one, by facts that no order changes."""
    classes = SIZES[variant.name].classes
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
    otherwise = f"give --archive with a downloaded {variant.archive}, or use the "
    return prepared.find(
        variant.name, variant.title, f"{otherwise}bundled source 'sample'"
    )


def _read_prepared(variant: Variant, folder: Path) -> Published:
    import tensorflow_datasets as tfds  # slow to import, and not needed with a cache

    train, test = tfds.data_source(
        f"{variant.name}:{folder.name}",
        split=["train", "test"],
        data_dir=folder.parent.parent,
        download=False,
        decoders={"image": tfds.decode.SkipDecoding()},
    )
    return Published(_decode(train), _decode(test))


def _decode(source: Any) -> Split:
    examples = source.__getitems__(range(len(source)))  # faster than one by one
    pictures = (Image.open(io.BytesIO(example["image"])) for example in examples)
    images = np.stack([np.asarray(picture) for picture in pictures])
    return Split(images, np.array([e["label"] for e in examples], np.int32))


def _read_archive(variant: Variant, path: Path) -> Published:
    # All at once, because gzip's own checksum stands at the very end.
    unzipped = io.BytesIO(gzip.decompress(path.read_bytes()))
    contents: dict[str, bytes] = {}
    with tarfile.open(fileobj=unzipped) as archive:
        for member in archive:
            if member.isfile() and (file := archive.extractfile(member)):
                contents[Path(member.name).name] = file.read()
    if missing := {*variant.train_files, variant.test_file} - contents.keys():
        got = ", ".join(sorted(contents)) or "nothing"
        raise ValueError(f"without {', '.join(sorted(missing))}; it holds {got}")
    train = b"".join(contents[name] for name in variant.train_files)
    return Published(
        _split(variant, train), _split(variant, contents[variant.test_file])
    )


def _split(variant: Variant, content: bytes) -> Split:
    records = np.frombuffer(content, np.uint8)
    records = records.reshape(-1, variant.label_bytes + 3 * SIDE * SIDE)
    labels, pixels = np.split(records, [variant.label_bytes], axis=1)
    images = pixels.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    return Split(np.ascontiguousarray(images), labels[:, -1].astype(np.int32))


def _cached(
    variant: Variant, place: Path, read: Callable[[Variant, Path], Published]
) -> Published:
    """Reads the cache of this file or folder if it is whole, else that itself."""
    kept = cache.folder() / f"{variant.name}-{_identity(place)}.npz"
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
    published = read(variant, place)
    try:
        _save_cache(kept, published)
    except OSError as error:
        logger.warning(
            "The cache %s cannot be written: %s. Set XDG_CACHE_HOME to another.",
            kept,
            error,
        )
    return published


def _identity(place: Path) -> str:
    files = [place] if place.is_file() else sorted(place.iterdir())
    stats = [(file.name, file.stat()) for file in files]
    facts = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _load_cache(path: Path) -> Published:
    # Opened here, because NumPy forgets to close a file that is no archive.
    with path.open("rb") as file, np.load(file) as stored:
        *arrays, checksum = (stored[name] for name in stored.files)
    published = Published(Split(*arrays[:2]), Split(*arrays[2:]))
    if checksum.item() != published.checksum:
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
