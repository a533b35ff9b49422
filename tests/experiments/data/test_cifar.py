import dataclasses
import errno
import gzip
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.config import choices
from experiments.data import cifar, variants
from experiments.data import dataset as data

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "optax_llr"


@pytest.fixture(autouse=True)
def others(request, monkeypatch):
    """Lets small sets pass for the real ones, but where a test is about just that."""
    if "strict" not in request.fixturenames:
        monkeypatch.setattr(cifar, "_refuse_others", lambda *_: None)


@pytest.fixture
def strict():
    """Only what was published passes, as for users."""


def equal(first: cifar.Published, second: cifar.Published) -> bool:
    return all(
        a.images.dtype == b.images.dtype == np.uint8
        and a.labels.dtype == b.labels.dtype == np.int32
        and np.array_equal(a.images, b.images)
        and np.array_equal(a.labels, b.labels)
        for a, b in ((first.train, second.train), (first.test, second.test))
    )


either = pytest.mark.parametrize(
    "variant", variants.VARIANTS.values(), ids=variants.VARIANTS
)


@pytest.fixture
def variant():
    """CIFAR-10 wherever a test does not say otherwise."""
    return variants.CIFAR10


# A set that TFDS prepared.


@pytest.fixture(scope="session")
def whole():
    data_dir = Path(os.environ.get("TFDS_DATA_DIR") or ROOT.parent / "shared" / "tfds")
    if not (data_dir / "cifar10" / "3.0.2" / "dataset_info.json").is_file():
        pytest.skip(f"no cifar10 3.0.2 prepared by TFDS under {data_dir}")
    return data_dir


@pytest.fixture
def few(whole, monkeypatch, tmp_path):
    """The first 2,500 and 700 images of the whole set, the files themselves linked."""
    folder = tmp_path / "tfds" / "cifar10" / "3.0.2"
    folder.mkdir(parents=True)
    for file in (whole / "cifar10" / "3.0.2").iterdir():
        (folder / file.name).symlink_to(file.resolve())
    info = json.loads((folder / "dataset_info.json").read_text())
    info["splits"][0]["shardLengths"] = ["2500"]
    info["splits"][1]["shardLengths"] = ["700"]
    (folder / "dataset_info.json").unlink()
    (folder / "dataset_info.json").write_text(json.dumps(info))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    return folder


@pytest.fixture
def hundred(monkeypatch, tmp_path):
    """Images of a CIFAR-100 that TFDS itself has prepared, and their fine labels."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.image_classification import cifar as prepared

    generator = np.random.default_rng(0)
    parts = {
        name: cifar.Split(
            generator.integers(0, 256, (count, 32, 32, 3), np.uint8),
            generator.permutation(count).astype(np.int32) % 100,
        )
        for name, count in (("train", 300), ("test", 100))
    }

    def examples(split):
        for key, label in enumerate(split.labels):
            image = Image.fromarray(split.images[key])  # an array would need TensorFlow
            labels = {"label": label, "coarse_label": label % 20}
            yield key, {"id": f"{key}", "image": image, **labels}

    def generate(builder, _):
        for name, classes in (("label", 100), ("coarse_label", 20)):
            builder.info.features[name].names = [f"{name}{k}" for k in range(classes)]
        return {name: examples(split) for name, split in parts.items()}

    monkeypatch.setattr(prepared.Cifar100, "_split_generators", generate)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    builder = tfds.builder("cifar100", data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare()
    return cifar.Published(parts["train"], parts["test"])


def read_with_tfds(folder: Path) -> cifar.Published:
    import tensorflow_datasets as tfds

    def split(name):
        source = tfds.data_source(
            f"cifar10:{folder.name}", split=name, data_dir=folder.parents[1]
        )
        images, labels = zip(*((e["image"], e["label"]) for e in source), strict=True)
        return cifar.Split(np.stack(images), np.array(labels, np.int32))

    return cifar.Published(split("train"), split("test"))


def test_prepared_set_has_the_pixels_that_tfds_decodes(few):
    assert equal(cifar.read_cifar(variants.CIFAR10), read_with_tfds(few))


def test_prepared_cifar100_has_the_images_and_fine_labels_put_in(hundred):
    def contents(split):  # TFDS keeps the images in an order of its own
        pixels = [image.tobytes() for image in split.images]
        return sorted(zip(pixels, split.labels.tolist(), strict=True))

    published = cifar.read_cifar(variants.CIFAR100)
    assert contents(published.train) == contents(hundred.train)
    assert contents(published.test) == contents(hundred.test)
    assert published.train.labels.dtype == np.int32


def test_prepared_cifar100_makes_a_data_set_of_100_classes(hundred):
    dataset = data.load("cifar100", validation=100)
    assert dataset.name == "cifar100"
    assert np.array_equal(np.bincount(dataset.train.labels), [2] * 100)
    assert np.array_equal(np.bincount(dataset.validation.labels), [1] * 100)
    assert dataset.classes == 100
    assert dataset.mean is variants.CIFAR100.mean
    assert dataset.std is variants.CIFAR100.std


def test_sample_is_the_first_of_each_class_in_the_prepared_set(few):
    published = read_with_tfds(few)

    def first(split, count):
        chosen = [np.flatnonzero(split.labels == label)[:count] for label in range(10)]
        return split.take(np.concatenate(chosen))

    expected = cifar.Published(first(published.train, 200), first(published.test, 50))
    assert equal(data.read_sample(), expected)


def test_prepared_set_is_read_without_tensorflow(few, tmp_path):
    # One that ends the process when it is imported, whoever would catch the error.
    (tmp_path / "trap" / "tensorflow").mkdir(parents=True)
    trap = tmp_path / "trap" / "tensorflow" / "__init__.py"
    trap.write_text("import os; os.write(2, b'tensorflow imported'); os._exit(3)")
    program = (
        "import sys; from experiments.data import cifar, dataset as data;"
        "cifar._refuse_others = lambda *_: None;"
        "print(len(data.load('cifar10', validation=100).train));"
        "assert 'tensorflow_datasets' in sys.modules"
    )
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env={**os.environ, "PYTHONPATH": f"{tmp_path / 'trap'}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout) == (0, "2400\n")
    assert re.fullmatch("Reading CIFAR-10 for the first time; .*\n", result.stderr)


def test_second_start_needs_neither_tfds_nor_the_images(few, monkeypatch):
    first = data.load("cifar10", validation=100)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)  # not importable
    second = data.load("cifar10", validation=100)
    assert second.checksum == first.checksum
    assert np.array_equal(second.train.images, first.train.images)
    assert np.array_equal(second.validation.labels, first.validation.labels)
    assert np.array_equal(second.test.images, first.test.images)


@pytest.mark.parametrize("damage", ["truncated", "changed", "missing"])
def test_damaged_prepared_set_is_refused(few, cache, damage):
    shard = few / "cifar10-test.array_record-00000-of-00001"
    content = bytearray(shard.read_bytes())
    shard.unlink()  # only the link
    if damage == "changed":
        content[1_000_000] ^= 1
    if damage == "truncated":
        content = content[:-1_000_000]
    if damage != "missing":
        shard.write_bytes(content)
    with pytest.raises(cifar.DataError, match=rf"{few}.*(damaged|cannot be read)"):
        data.load("cifar10", validation=100)
    assert not cache.exists()


@pytest.mark.slow
def test_whole_set_is_decoded_once_and_then_starts_in_two_seconds(
    strict, whole, monkeypatch, cache
):
    monkeypatch.setenv("TFDS_DATA_DIR", str(whole))
    first = data.load("cifar10", validation=5000)
    start = time.process_time()
    second = data.load("cifar10", validation=5000)
    assert time.process_time() - start < 2
    shutil.rmtree(cache)  # pytest would keep its 180 MB
    assert second.checksum == first.checksum
    assert np.array_equal(np.bincount(second.train.labels), [4500] * 10)
    assert np.array_equal(np.bincount(second.validation.labels), [500] * 10)
    assert np.array_equal(np.bincount(second.test.labels), [1000] * 10)
    pixels = np.concatenate([second.train.images, second.validation.images])
    values = np.arange(256) / 255
    for channel in range(3):
        share = np.bincount(pixels[..., channel].ravel(), minlength=256) / 50_000 / 1024
        mean = share @ values
        std = np.sqrt(share @ (values - mean) ** 2)
        assert second.mean[channel] == pytest.approx(mean, abs=6e-6)
        assert second.std[channel] == pytest.approx(std, abs=6e-6)


@pytest.mark.parametrize("named", [True, False])
@either
def test_missing_set_is_said_at_once_in_three_lines(
    monkeypatch, tmp_path, named, variant
):
    if named:
        monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tensorflow_datasets"))
    else:
        monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))
    unfinished = (
        tmp_path / "tensorflow_datasets" / variant.name / "3.0.2.incompleteAB12"
    )
    unfinished.mkdir(parents=True)
    (unfinished / "dataset_info.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)  # must not be asked
    with pytest.raises(cifar.DataError) as caught:
        data.load(variant.name, validation=5000)
    where, prepare, otherwise = str(caught.value).splitlines()
    assert f"No {variant.title} prepared" in where
    assert f"{tmp_path / 'tensorflow_datasets' / variant.name}/<version>" in where
    assert f"tfds build {variant.name} --file_format=array_record" in prepare
    assert "TFDS_DATA_DIR" in prepare
    assert f"--archive with a downloaded {variant.archive}" in otherwise
    assert "'sample'" in otherwise


def prepared_as(folder: Path, **info: object) -> None:
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text(json.dumps(info))


@pytest.mark.parametrize("info", [{}, {"fileFormat": "tfrecord"}])
def test_set_that_has_no_random_access_is_refused(monkeypatch, tmp_path, info):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    prepared_as(tmp_path / "cifar10" / "3.0.2", **info)
    message = r"3.0.2/dataset_info.json: expected .* array_record.*another.*\nPrepare"
    with pytest.raises(cifar.DataError, match=message):
        data.load("cifar10", validation=5000)


def test_newest_prepared_version_is_read(monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    prepared_as(tmp_path / "cifar10" / "3.0.2", fileFormat="array_record")
    prepared_as(tmp_path / "cifar10" / "3.0.10", fileFormat="tfrecord")
    with pytest.raises(cifar.DataError, match=r"cifar10/3\.0\.10/.*: expected"):
        data.load("cifar10", validation=5000)


# The downloaded archive.


@dataclasses.dataclass
class Archive:
    """A small archive in the layout of the real one."""

    path: Path
    variant: variants.Variant
    files: dict[str, bytes]

    def write(self) -> None:
        with tarfile.open(self.path, "w:gz") as archive:
            for name, content in self.files.items():
                member = tarfile.TarInfo(f"folder/{name}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def records(count: int, labels: int, classes: int) -> bytes:
    """Images of every class, evenly; other labels before the one of the class."""
    generator = np.random.default_rng(count)
    content = generator.integers(0, 256, (count, labels + 3072), np.uint8)
    content[:, labels - 1] = generator.permutation(count) % classes
    return content.tobytes()


@pytest.fixture
def archive(variant, monkeypatch, tmp_path):
    if variant is variants.CIFAR10:
        train, test = 100, 20
        files = {"batches.meta.txt": b"cat", "readme.html": b"<html>"}
        files |= {f"data_batch_{n}.bin": records(20, 1, 10) for n in range(1, 6)}
        files |= {"test_batch.bin": records(test, 1, 10)}
    else:
        train, test = 300, 100
        files = {"fine_label_names.txt": b"cat", "coarse_label_names.txt": b"fish"}
        files |= {
            "train.bin": records(train, 2, 100),
            "test.bin": records(test, 2, 100),
        }
    sizes = choices.SIZES[variant.name]._replace(images=train)
    monkeypatch.setitem(choices.SIZES, variant.name, sizes)
    monkeypatch.setattr(cifar, "TEST_IMAGES", test)
    archive = Archive(tmp_path / variant.archive, variant, files)
    archive.write()
    return archive


def parse_slowly(content: bytes, labels: int) -> cifar.Split:
    size = labels + 3072
    images = np.zeros((len(content) // size, 32, 32, 3), np.uint8)
    classes = np.zeros(len(images), np.int32)
    for image in range(len(images)):
        pixels = image * size + labels
        classes[image] = content[pixels - 1]
        for channel in range(3):
            for row in range(32):
                start = pixels + channel * 1024 + row * 32
                images[image, row, :, channel] = list(content[start : start + 32])
    return cifar.Split(images, classes)


def expected(archive: Archive) -> cifar.Published:
    files = archive.files
    if archive.variant is variants.CIFAR10:
        train = b"".join(files[f"data_batch_{n}.bin"] for n in range(1, 6))
        test, labels = files["test_batch.bin"], 1
    else:
        train, test, labels = files["train.bin"], files["test.bin"], 2
    return cifar.Published(parse_slowly(train, labels), parse_slowly(test, labels))


@either
def test_archive_is_parsed_byte_by_byte(archive):
    published = cifar.read_cifar(archive.variant, archive.path)
    assert equal(published, expected(archive))


@either
def test_archive_makes_a_data_set(archive):
    variant = archive.variant
    classes = choices.SIZES[variant.name].classes
    dataset = data.load(variant.name, archive=archive.path, validation=classes)
    assert dataset.name == variant.name
    assert dataset.classes == classes
    assert dataset.mean is variant.mean
    assert dataset.std is variant.std
    assert dataset.checksum == expected(archive).checksum
    labels = [dataset.train.labels, dataset.validation.labels, dataset.test.labels]
    counts = [np.bincount(those, minlength=classes).tolist() for those in labels]
    each = (9, 1, 2) if variant is variants.CIFAR10 else (2, 1, 1)
    assert counts == [[count] * classes for count in each]


@either
def test_archive_of_the_other_set_is_refused_with_what_it_holds(archive):
    cifar.read_cifar(archive.variant, archive.path)  # a cache of it changes nothing
    (other,) = set(variants.VARIANTS.values()) - {archive.variant}
    message = (
        f"^{archive.path}: expected {other.archive}.*without .*{other.train_files[0]}"
        f".*; it holds .*{archive.variant.test_file}"
    )
    with pytest.raises(cifar.DataError, match=message):
        data.load(other.name, archive=archive.path, validation=100)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data_batch_3.bin", None, "without data_batch_3.bin"),
        ("data_batch_2.bin", bytes(5000), "reshape"),
    ],
)
def test_archive_with_other_content_is_refused(archive, name, content, message):
    if content is None:
        del archive.files[name]
    else:
        archive.files[name] = content
    archive.write()
    with pytest.raises(cifar.DataError, match=f"{archive.path}: expected .*{message}"):
        data.load(archive.variant.name, archive=archive.path, validation=100)


@either
def test_archive_that_is_not_there_is_refused(variant, tmp_path):
    message = f"none.tar.gz: expected {variant.archive}.*No such file.*--archive"
    with pytest.raises(cifar.DataError, match=message):
        data.load(variant.name, archive=tmp_path / "none.tar.gz", validation=20)


def change_a_stored_byte(content: bytes) -> bytes:
    """A pixel of another value in a stream that unpacks without complaint."""
    unpacked = bytearray(gzip.decompress(content))
    unpacked[len(unpacked) // 2] ^= 1
    # The old trailer, with the checksum of what was packed before.
    return gzip.compress(unpacked)[:-8] + content[-8:]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: content[:-4],
        change_a_stored_byte,
        lambda content: b"<html>not found</html>",
        lambda content: gzip.compress(b"no tar"),
    ],
    ids=["half", "no-trailer", "changed", "other", "no-tar"],
)
def test_damaged_archive_is_refused(archive, damage):
    archive.path.write_bytes(damage(archive.path.read_bytes()))
    with pytest.raises(cifar.DataError, match=f"{archive.path}: .*damaged"):
        data.load("cifar10", archive=archive.path, validation=20)


# Another set in the form of a published one.


def test_part_of_a_prepared_set_is_refused(strict, few):
    message = f"^{few}: expected CIFAR-10, with 5,000 training images (?s:.*)--data"
    with pytest.raises(cifar.DataError, match=message):
        data.load("cifar10", validation=100)


@either
def test_archive_of_other_pixels_is_refused_also_from_the_cache(strict, archive):
    for _ in range(2):
        with pytest.raises(
            cifar.DataError, match=f"(?s)^{archive.path}: expected .*--data"
        ):
            data.load(archive.variant.name, archive=archive.path, validation=100)


def sums(split):
    return tuple(int(split.images[..., channel].sum()) for channel in range(3))


@pytest.fixture
def known(archive):
    """CIFAR-10 as if that of the archive had been published."""
    published = expected(archive)
    both = sums(published.train), sums(published.test)
    return dataclasses.replace(archive.variant, sums=both)


def test_known_set_is_not_refused(strict, archive, known):
    assert equal(cifar.read_cifar(known, archive.path), expected(archive))


@pytest.mark.parametrize(
    ("file", "place", "said"),
    [
        ("data_batch_3.bin", 1, "training images .* got 10 to 10 images"),
        ("data_batch_3.bin", 0, "training images .* got 9 to 11 images"),
        ("test_batch.bin", 1, "test images .* got 2 to 2 images"),
        ("test_batch.bin", 0, "test images .* got 1 to 3 images"),
    ],
)
def test_a_changed_pixel_or_label_is_refused(strict, archive, known, file, place, said):
    content = bytearray(archive.files[file])
    content[place] = (content[place] + 1) % 10 if place == 0 else content[place] ^ 1
    archive.files[file] = bytes(content)
    archive.write()
    with pytest.raises(cifar.DataError, match=f"expected CIFAR-10, with .*{said}"):
        cifar.read_cifar(known, archive.path)


# What the system refuses to read.


def test_path_that_cannot_be_is_refused_with_its_option(monkeypatch, tmp_path):
    longer = tmp_path / ("x" * 300)  # than a name may be
    with pytest.raises(cifar.DataError, match=f"{longer}.* give --archive another"):
        data.load("cifar10", archive=longer, validation=100)
    monkeypatch.setenv("TFDS_DATA_DIR", str(longer))
    with pytest.raises(cifar.DataError, match=f"{longer}.* give TFDS_DATA_DIR another"):
        data.load("cifar10", validation=100)


def refuse(path, *_):
    raise PermissionError(errno.EACCES, "Permission denied", str(path))


def test_archive_that_may_not_be_read_is_not_called_damaged(archive, monkeypatch):
    monkeypatch.setattr(Path, "read_bytes", refuse)
    message = f"{archive.path}: expected cifar-10.*Permission denied.*--archive"
    with pytest.raises(cifar.DataError, match=message):
        data.load("cifar10", archive=archive.path, validation=20)


def test_error_of_a_disk_that_names_no_file_is_said_of_the_archive(
    archive, monkeypatch
):
    def fail(path):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(cifar.DataError, match=f"^{archive.path}: .*Input/output error"):
        data.load("cifar10", archive=archive.path, validation=20)


@pytest.mark.parametrize("call", ["read_bytes", "iterdir"])
def test_prepared_set_that_may_not_be_read_is_refused(monkeypatch, tmp_path, call):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    prepared_as(tmp_path / "cifar10" / "3.0.2", fileFormat="array_record")
    monkeypatch.setattr(Path, call, refuse)
    with pytest.raises(cifar.DataError, match=r"3\.0\.2.*Permission.*TFDS_DATA_DIR"):
        data.load("cifar10", validation=20)


def test_prepared_file_that_is_a_dangling_link_is_refused(few):
    shard = few / "cifar10-test.array_record-00000-of-00001"
    shard.unlink()
    shard.symlink_to("nowhere")
    with pytest.raises(cifar.DataError, match=f"{shard}.*No such file.*TFDS_DATA_DIR"):
        data.load("cifar10", validation=20)


# The cache.


def only_file(folder: Path) -> Path:
    (file,) = folder.iterdir()
    return file


@either
def test_cache_is_used_while_its_source_stays_the_same(archive, monkeypatch, capsys):
    first = cifar.read_cifar(archive.variant, archive.path)
    said = f"Reading {archive.variant.title} for the first time"
    assert capsys.readouterr().err.startswith(said)
    monkeypatch.setattr(tarfile, "open", None)  # reading the archive would fail
    assert equal(cifar.read_cifar(archive.variant, archive.path), first)
    assert capsys.readouterr().err == ""


def test_cache_of_another_source_is_not_used(archive):
    cifar.read_cifar(archive.variant, archive.path)
    archive.files["test_batch.bin"] = bytes(3073 * 20)
    archive.write()
    assert equal(cifar.read_cifar(archive.variant, archive.path), expected(archive))


def change_a_pixel(cache: Path) -> None:
    content = bytearray(cache.read_bytes())
    content[len(content) // 2] ^= 1
    cache.write_bytes(content)


def replace_the_pixels(cache: Path) -> None:
    """Another image in a file that NumPy reads without complaint."""
    with np.load(cache) as arrays:
        content = dict(arrays)
    content["test_images"][0] ^= 1
    np.savez(cache, **content)


def drop_an_array(cache: Path) -> None:
    with np.load(cache) as arrays:
        content = dict(arrays)
    del content["test_labels"]
    np.savez(cache, **content)


def one_array() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.zeros(3))
    return stream.getvalue()


@pytest.mark.parametrize(
    "damage",
    [
        change_a_pixel,
        replace_the_pixels,
        drop_an_array,
        lambda cache: cache.write_bytes(cache.read_bytes()[:100_000]),
        lambda cache: cache.write_bytes(b"not a cache"),
        lambda cache: cache.write_bytes(one_array()),
    ],
    ids=["changed", "replaced", "dropped", "truncated", "other", "npy"],
)
def test_damaged_cache_is_said_and_made_anew(archive, cache, caplog, damage):
    first = cifar.read_cifar(archive.variant, archive.path)
    file = only_file(cache)
    damage(file)
    caplog.clear()
    assert equal(cifar.read_cifar(archive.variant, archive.path), first)
    (line,) = caplog.messages
    assert f"The cache {file} is damaged" in line
    caplog.clear()
    assert equal(cifar.read_cifar(archive.variant, archive.path), first)
    assert not caplog.messages
    assert only_file(cache) == file


def test_interrupted_writing_leaves_no_cache(archive, cache, monkeypatch):
    def interrupted(path, **arrays):
        del arrays
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cifar.read_cifar(archive.variant, archive.path)
    assert list(cache.iterdir()) == []


def test_cache_that_cannot_be_written_is_said(archive, monkeypatch, caplog, tmp_path):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert equal(cifar.read_cifar(archive.variant, archive.path), expected(archive))
    assert "cannot be written" in caplog.messages[-1]
    assert "XDG_CACHE_HOME" in caplog.messages[-1]


def test_cache_lies_in_the_home_folder_by_default(archive, monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    cifar.read_cifar(archive.variant, archive.path)
    only_file(tmp_path / "home" / ".cache" / "optax_llr")


def test_cache_lies_in_the_temporary_folder_of_a_user_without_a_home(
    archive, monkeypatch, tmp_path
):
    def no_home(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "expanduser", no_home)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "temporary"))
    cifar.read_cifar(archive.variant, archive.path)
    only_file(tmp_path / "temporary" / "optax_llr")
