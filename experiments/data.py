"""CIFAR-10 as arrays: prepared by TFDS, from its archive, or the bundled sample."""

import dataclasses
import functools
import gzip
import hashlib
import io
import json
import logging
import os
import re
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

# fmt: off
CLASSES = ("airplane", "automobile", "bird", "cat", "deer",
           "dog", "frog", "horse", "ship", "truck")
# fmt: on
# Of each channel over the 50,000 training images, with pixels scaled to [0, 1].
MEAN = np.array([0.49140, 0.48216, 0.44653], np.float32)
STD = np.array([0.24703, 0.24349, 0.26159], np.float32)

SIDE = 32  # of an image, in pixels
VALIDATION_SEED = 20090408  # one cut for every study: never change it

SAMPLE = Path(__file__).parent / "sample" / "cifar10.png"
SAMPLE_CHECKSUM = "616e0cb2e25671470c4936d1dd8bd8bdedf1416206ffed479ed20df2bdd100f5"
# A band of rows for each class: training images on the left, test images on the right.
SAMPLE_ROWS, SAMPLE_TRAIN_COLUMNS, SAMPLE_TEST_COLUMNS = 5, 40, 10  # in images
SAMPLE_GAP = 8  # white, between bands and between their two parts, in pixels

TRAIN_FILES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST_FILE = "test_batch.bin"
CLASSES_FILE = "batches.meta.txt"
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
    data_dir = Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    data_dir = data_dir.expanduser()
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
    except ValueError as error:
        raise DataError(f"{newest}: dataset_info.json is no JSON: {error}.") from error
    # TFDS means tfrecord where it names no format.
    formats = [info.get("fileFormat", "tfrecord")]
    formats += info.get("alternativeFileFormats", [])
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
    if not content or len(content) % RECORD:
        raise DataError(
            f"{path}: expected whole records of {RECORD} bytes in {name}, "
            f"got {len(content)} bytes."
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
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    cache = home / "optax_llr" / f"cifar10-{_identity(files)}.npz"
    try:
        return _load_cache(cache)
    except FileNotFoundError:
        logger.info("Reading CIFAR-10 for the first time, into the cache %s.", cache)
    except Exception as error:  # damage shows in many ways, none of them is fatal
        logger.warning("The cache %s is damaged (%s); it is made anew.", cache, error)
    published = read()
    try:
        _save_cache(cache, published)
    except OSError as error:
        logger.warning("The cache %s cannot be written: %s.", cache, error)
    return published


def _identity(files: Sequence[Path]) -> str:
    stats = [(file.name, file.stat()) for file in files]
    facts = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _load_cache(cache: Path) -> Published:
    # Opened here, because NumPy forgets to close a file that is no archive.
    with cache.open("rb") as file, np.load(file) as arrays:
        published = Published(
            Split(arrays["train_images"], arrays["train_labels"]),
            Split(arrays["test_images"], arrays["test_labels"]),
        )
        if arrays["checksum"].item() != published.checksum:
            raise ValueError("its contents do not match their checksum")
    return published


def _save_cache(cache: Path, published: Published) -> None:
    cache.parent.mkdir(parents=True, exist_ok=True)
    # Renamed when it is whole: a reader never meets half a cache.
    with tempfile.TemporaryDirectory(dir=cache.parent) as folder:
        unfinished = Path(folder) / cache.name
        np.savez(
            unfinished,
            train_images=published.train.images,
            train_labels=published.train.labels,
            test_images=published.test.images,
            test_labels=published.test.labels,
            checksum=published.checksum,
        )
        unfinished.replace(cache)
