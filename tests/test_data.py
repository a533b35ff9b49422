import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments import cifar10, data

# The bundled sample.


def test_sample_has_200_training_and_50_test_images_of_each_class():
    dataset = data.load("sample", validation=500)
    assert dataset.name == "sample"
    assert dataset.classes == cifar10.CLASSES
    assert len(dataset.checksum) == 64
    for split, count in (
        (dataset.train, 150),
        (dataset.validation, 50),
        (dataset.test, 50),
    ):
        assert len(split) == 10 * count
        assert split.images.shape == (10 * count, 32, 32, 3)
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int32
        assert np.array_equal(np.bincount(split.labels), [count] * 10)


def test_sample_never_shares_an_image_between_its_splits():
    dataset = data.load("sample", validation=500)
    splits = (dataset.train, dataset.validation, dataset.test)
    images = [image.tobytes() for split in splits for image in split.images]
    assert len(set(images)) == 2500


def test_sample_is_one_picture_under_six_megabytes():
    with Image.open(data.SAMPLE) as picture:
        assert picture.format == "PNG"
        assert picture.mode == "RGB"
    assert data.SAMPLE.stat().st_size < 6_000_000


def test_sample_with_one_changed_pixel_is_refused(monkeypatch, tmp_path):
    with Image.open(data.SAMPLE) as picture:
        pixels = np.array(picture)
    pixels[0, 0, 0] ^= 1
    monkeypatch.setattr(data, "SAMPLE", tmp_path / "cifar10.png")
    Image.fromarray(pixels).save(data.SAMPLE, compress_level=0)
    with pytest.raises(cifar10.DataError, match=r"cifar10.png.*checksum.*git checkout"):
        data.load("sample", validation=500)


@pytest.mark.parametrize("content", [None, b"", b"no picture", "half", "small"])
def test_sample_that_is_missing_or_damaged_is_refused(monkeypatch, tmp_path, content):
    if content == "half":
        content = data.SAMPLE.read_bytes()[:3_000_000]
    elif content == "small":
        stream = io.BytesIO()
        Image.new("RGB", (32, 32)).save(stream, "PNG")
        content = stream.getvalue()
    monkeypatch.setattr(data, "SAMPLE", tmp_path / "cifar10.png")
    if content is not None:
        data.SAMPLE.write_bytes(content)
    with pytest.raises(cifar10.DataError, match=r"cifar10.png: the bundled sample"):
        data.load("sample", validation=500)


# What is refused, and where the validation set is cut.


def test_unknown_source_is_refused():
    with pytest.raises(ValueError, match="expected 'sample' or 'cifar10', got 'mnist'"):
        data.load("mnist", validation=10)


def test_archive_beside_the_sample_is_refused():
    with pytest.raises(ValueError, match=r"archive: expected none .* got some.tar.gz"):
        data.load("sample", archive=Path("some.tar.gz"), validation=10)


@pytest.mark.parametrize("validation", [-10, 0, 9, 1991, 5000])
def test_validation_set_without_some_class_is_refused(validation):
    with pytest.raises(ValueError, match=f"expected 10 to 1990 .* got {validation}"):
        data.load("sample", validation=validation)


@pytest.mark.parametrize("validation", [10, 203, 500, 1990])
def test_validation_set_holds_the_classes_as_equally_as_can_be(validation):
    labels = np.tile(np.arange(10), 200)
    rest, held_out = data.cut(labels, validation)
    assert sorted([*rest, *held_out]) == list(range(2000))
    counts = np.bincount(labels[held_out], minlength=10)
    assert counts.sum() == validation
    assert counts.max() - counts.min() <= 1
    assert counts.min() >= 1


def test_validation_set_stays_the_same_in_every_version():
    _, held_out = data.cut(np.tile(np.arange(10), 10), 10)
    assert held_out.tolist() == [5, 13, 29, 31, 40, 46, 57, 74, 78, 92]
