import hashlib
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from experiments.config import texts
from experiments.data import cifar, text
from experiments.data import dataset as data

FIRST, SECOND, THIRD = b"abcdefghij" * 90, b"klmnopqrst" * 5, b"uvwxyz0123" * 5


@pytest.fixture
def file(tmp_path):
    (tmp_path / "my.txt").write_bytes(FIRST + SECOND + THIRD)
    return str(tmp_path / "my.txt")


def joined(split):
    """The bytes that windows were cut from."""
    return split.images.tobytes() + bytes([split.labels[-1, -1]])


def test_a_file_is_divided_into_parts_of_windows_with_the_bytes_that_come_next(file):
    found = data.load(file, context=7, validation=4)
    assert joined(found.train) == FIRST[: 128 * 7 + 1]
    assert joined(found.test) == THIRD[: 7 * 7 + 1]
    for split in (found.train, found.validation, found.test):
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int32
        assert split.images.shape == split.labels.shape == (len(split), 7)
        np.testing.assert_array_equal(split.images[:, 1:], split.labels[:, :-1])
    assert [len(s) for s in (found.train, found.validation, found.test)] == [128, 4, 7]
    assert (found.name, found.classes, found.mean, found.std) == (
        *("my.txt", 256),
        *(None, None),
    )


def test_the_checksum_of_a_file_is_its_sha256(file):
    found = data.load(file, context=7, validation=4)
    expected = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    assert found.checksum == expected
    assert data.load(file, context=9, validation=2).checksum == expected


def test_windows_for_validation_and_of_a_share_are_a_part_of_more_of_them(file):
    few = data.load(file, context=7, validation=3, train_fraction=0.25)
    many = data.load(file, context=7, validation=7, train_fraction=0.5)
    assert (len(few.train), len(many.train)) == (32, 64)
    for part in ("train", "validation"):
        windows = [
            {row.tobytes() for row in getattr(found, part).images}
            for found in (few, many)
        ]
        assert windows[0] <= windows[1]
    whole = data.load(file, context=7, validation=7)
    assert joined(whole.validation) == SECOND[: 7 * 7 + 1]


def test_the_standard_library_is_of_the_sizes_that_a_configuration_names():
    found = data.load("stdlib", validation=100)
    train, _, test = texts.TEXTS["stdlib"]
    assert len(found.train) == texts.windows(train, 128) == 31_249
    assert len(found.test) == texts.windows(test, 128)
    assert len(found.validation) == 100
    # Real source: nearly all of it is ASCII, and has many lines.
    assert (found.train.images < 128).mean() > 0.99
    assert 0.01 < (found.train.images == ord("\n")).mean() < 0.1


def test_each_file_of_a_library_goes_whole_into_the_part_that_its_path_says(tmp_path):
    paths = [f"{package}/m{i}.py" for package in ("a", "b/c") for i in range(60)]
    for path in [*paths, "a/test/no.py", "b/site-packages/no.py", "encodings/no.py"]:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(f"<{path}>")
    found = [part.decode() for part in text.stdlib(tmp_path)]
    assert "no.py" not in "".join(found)
    assert sorted("".join(found).strip("<>").split("><")) == sorted(paths)
    assert len(found[0]) > len(found[1]) > 0 < len(found[2])
    # Another file more changes nothing for those that were there.
    (tmp_path / "a" / "new.py").write_text("<new>")
    after = [part.decode().replace("<new>", "") for part in text.stdlib(tmp_path)]
    assert after == found


def test_a_library_without_enough_source_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(cifar.DataError, match=r"4,000,000 bytes.*got 0.*FILE.txt"):
        data.load("stdlib", validation=100)


def test_a_file_too_short_for_a_window_is_refused(file):
    with pytest.raises(cifar.DataError, match=r"50 bytes of a window.*got 50.*context"):
        data.load(file, context=50, validation=1)


def test_tiny_shakespeare_that_is_missing_says_how_to_prepare_it(monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(
        cifar.DataError, match=r"tfds build tiny_shakespeare.*\n.*stdlib"
    ):
        data.load("tiny_shakespeare", validation=100)


def test_tiny_shakespeare_is_read_as_tfds_has_prepared_it(monkeypatch, tmp_path):
    import tensorflow_datasets as tfds

    sizes = texts.TEXTS["tiny_shakespeare"]
    letters = dict(zip(("train", "validation", "test"), "abc", strict=True))

    def generate(builder, _):
        return {
            name: [(name, {"text": letter * size})]
            for (name, letter), size in zip(letters.items(), sizes, strict=True)
        }

    kind = tfds.builder_cls("tiny_shakespeare")
    monkeypatch.setattr(kind, "_split_generators", generate)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    builder = tfds.builder(
        "tiny_shakespeare", data_dir=tmp_path, file_format="array_record"
    )
    builder.download_and_prepare()
    found = data.load("tiny_shakespeare", validation=100)
    for part, letter in letters.items():
        assert set(getattr(found, part).images.ravel().tolist()) == {ord(letter)}
    assert len(found.train) == texts.windows(sizes.train, 128)
