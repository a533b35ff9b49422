import itertools

import numpy as np
import pytest
from PIL import Image

from experiments.config import config
from experiments.data import cifar
from experiments.data import dataset as data

# The bundled sample.


def test_sample_has_200_training_and_50_test_images_of_each_class():
    dataset = data.load("sample", validation=500)
    assert dataset.name == "sample"
    assert dataset.classes == 10
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
    with pytest.raises(cifar.DataError, match=r"cifar10.png.*checksum.*git checkout"):
        data.load("sample", validation=500)


@pytest.mark.parametrize("content", [None, b"no picture", "half"])
def test_sample_that_is_missing_or_damaged_is_refused(monkeypatch, tmp_path, content):
    if content == "half":
        content = data.SAMPLE.read_bytes()[:3_000_000]
    monkeypatch.setattr(data, "SAMPLE", tmp_path / "cifar10.png")
    if content is not None:
        data.SAMPLE.write_bytes(content)
    with pytest.raises(cifar.DataError, match=r"cifar10.png: the bundled sample"):
        data.load("sample", validation=500)


# What is refused.


@pytest.mark.parametrize("validation", [0, 9, 1991])
def test_validation_set_without_some_class_is_refused(validation):
    with pytest.raises(ValueError, match=f"expected 10 to 1990 .* got {validation}"):
        data.load("sample", validation=validation)


@pytest.mark.parametrize("count", [0, 1])
def test_class_that_cannot_be_in_both_parts_is_said(count):
    labels = np.array([0, 1, 3] * 10 + [2] * count)
    with pytest.raises(
        ValueError, match=f"2 or more of each class.* got {count} of class 2"
    ):
        data.cut(labels, 4, 4)


# The validation set, and the share of the rest.


@pytest.mark.parametrize("validation", [10, 203, 500, 1990])
def test_validation_set_holds_the_classes_as_equally_as_can_be(validation):
    labels = np.tile(np.arange(10), 200)
    rest, held_out = data.cut(labels, 10, validation)
    assert sorted([*rest, *held_out]) == list(range(2000))
    counts = np.bincount(labels[held_out], minlength=10)
    assert counts.sum() == validation
    assert counts.max() - counts.min() <= 1
    assert counts.min() >= 1


def test_parts_stay_the_same_in_every_version():
    share, held_out = data.cut(np.tile(np.arange(10), 10), 10, 10, 0.15)
    assert held_out.tolist() == [5, 13, 29, 31, 40, 46, 57, 74, 78, 92]
    assert share.tolist() == [11, 23, 32, 36, 39, 52, 53, 65, 70, 87, 90, 91, 94, 98]


@pytest.mark.parametrize("validation", [10, 203, 500])
@pytest.mark.parametrize("fraction", [0.007, 0.0117, 0.25, 0.5003, 0.999, 1])
def test_share_holds_the_classes_as_equally_as_can_be(validation, fraction):
    labels = np.random.default_rng(0).permutation(2000) % 10
    rest, held_out = data.cut(labels, 10, validation)
    share, same = data.cut(labels, 10, validation, fraction)
    assert np.array_equal(same, held_out)
    assert set(share) <= set(rest)
    assert len(set(share)) == len(share) == round(fraction * len(rest))
    assert (np.diff(share) > 0).all()
    counts = np.bincount(labels[share], minlength=10)
    assert counts.max() - counts.min() <= 1


def test_smaller_share_is_a_part_of_a_larger_one():
    labels = np.random.default_rng(0).permutation(2000) % 10
    shares = [data.cut(labels, 10, 403, share)[0] for share in (0.01, 0.3, 0.31, 1)]
    for smaller, larger in itertools.pairwise(shares):
        assert set(smaller) < set(larger)


@pytest.mark.parametrize("fraction", [0.0103125, 0.0109375, 0.1, 1 / 3, 0.77, 1])
def test_share_has_the_size_that_the_configuration_says(fraction):
    # The first two are 16.5 and 17.5 of 1,600 images.
    fields = {"validation": 400, "train_fraction": fraction}
    dataset = data.load("sample", **fields)
    assert len(dataset.train) == config.Config(batch_size=1, **fields).training_images
    assert len(dataset.validation) == 400


# A part of the classes, and few images of each.


def test_classes_are_a_task_of_their_own_numbered_in_the_order_given():
    whole = data.load("sample", validation=500)
    some = data.load("sample", classes=("dog", 3, "ship"), validation=150)
    assert some.classes == 3
    for one, other, each in (
        (some.train, whole.train, 150),
        (some.validation, whole.validation, 50),
        (some.test, whole.test, 50),
    ):
        assert np.bincount(one.labels).tolist() == [each] * 3
        assert one.labels.dtype == np.int32
        for number, label in enumerate((5, 3, 8)):
            assert np.array_equal(
                one.images[one.labels == number], other.images[other.labels == label]
            )
    assert np.array_equal(some.mean, whole.mean)
    assert some.checksum == whole.checksum


def test_an_image_set_aside_is_so_whichever_classes_there_are_beside_its_own():
    """So what was trained on before never validates what is trained after it."""
    labels = np.random.default_rng(0).permutation(2000) % 10
    _, of_all = data.cut(labels, 10, 400)
    _, of_three = data.cut(labels, 10, 120, chosen=(7, 2, 4))
    assert set(of_three) == {i for i in of_all if labels[i] in (7, 2, 4)}


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (("dgo",), "classes: unknown 'dgo'; did you mean 'dog'.* number from 0 to 9"),
        ((0, 10), "classes: unknown 10"),
        ((-1, 2), "classes: unknown -1"),
        ((3, "cat"), "classes must be all distinct; got 'cat' twice"),
    ],
)
def test_classes_that_are_not_there_are_refused(classes, said):
    with pytest.raises(ValueError, match=said):
        data.load("sample", classes=classes, validation=100)


@pytest.mark.parametrize("each", [0, 191])
def test_to_draw_more_images_of_a_class_than_there_are_is_refused(each):
    with pytest.raises(
        ValueError, match=f"images_per_class: expected 1 to 190.*{each}"
    ):
        data.load("sample", validation=100, images_per_class=each)


def test_a_shift_is_of_all_parts_alike_and_of_no_label():
    plain = data.load("sample", validation=100)
    seen = data.load("sample", validation=100, shift="invert")
    for part in ("train", "validation", "test"):
        one, other = getattr(plain, part), getattr(seen, part)
        assert np.array_equal(255 - one.images, other.images)
        assert np.array_equal(one.labels, other.labels)
    assert np.array_equal(plain.mean, seen.mean)


def test_noise_belongs_to_an_image_in_whichever_part_it_is():
    fields = {"validation": 400, "shift": "noise"}
    whole = data.load("sample", **fields)
    few = data.load("sample", classes=(4, 1), **fields | {"validation": 80})
    known = {image.tobytes() for image in whole.train.images}
    assert {image.tobytes() for image in few.train.images} < known


# Labels that are wrong.


def test_noise_is_in_the_labels_of_exactly_its_share_of_the_training_set_alone():
    fields = {"validation": 400, "train_fraction": 0.5}
    true = data.load("sample", **fields)
    noisy = data.load("sample", label_noise=0.2, **fields)
    assert (noisy.train.labels != true.train.labels).sum() == 160  # of 800
    assert noisy.train.labels.dtype == np.int32
    for one, other in (
        (noisy.train.images, true.train.images),
        (noisy.validation.labels, true.validation.labels),
        (noisy.validation.images, true.validation.images),
        (noisy.test.labels, true.test.labels),
    ):
        assert np.array_equal(one, other)
    assert noisy.checksum == true.checksum


@pytest.mark.parametrize("share", [0, 0.001, 0.1234, 0.5, 1])
@pytest.mark.parametrize("classes", [2, 10, 100])
def test_noise_changes_exactly_its_share_of_labels_to_other_classes(classes, share):
    labels = np.arange(1003, dtype=np.int32) % classes
    before = labels.copy()
    noisy = data.disturb(labels, classes, share)
    assert np.array_equal(labels, before)
    assert (noisy != labels).sum() == round(share * 1003)
    assert noisy.min() >= 0
    assert noisy.max() < classes


def test_wrong_labels_are_spread_evenly_over_images_and_other_classes():
    labels = np.random.default_rng(0).integers(0, 10, 90_000).astype(np.int32)
    noisy = data.disturb(labels, 10, 0.5)
    counts = np.zeros((10, 10), int)
    np.add.at(counts, (labels, noisy), 1)
    others = counts[~np.eye(10, dtype=bool)]
    assert abs(others - 500).max() < 120  # more than five standard deviations
    halves = (noisy != labels).reshape(2, -1).sum(1)
    assert abs(halves - 22_500).max() < 600  # more than five standard deviations


def test_noise_of_a_smaller_share_is_a_part_of_that_of_a_larger_one():
    labels = np.arange(1000, dtype=np.int32) % 10
    noisy = [data.disturb(labels, 10, share) for share in (0.1, 0.4, 1)]
    for smaller, larger in itertools.pairwise(noisy):
        changed = smaller != labels
        assert np.array_equal(smaller[changed], larger[changed])


def test_noise_stays_the_same_in_every_version():
    noisy = data.disturb(np.zeros(20, np.int32), 10, 0.5)
    assert " ".join(map(str, noisy)) == "9 0 7 0 0 9 0 8 6 1 5 0 0 0 0 0 0 2 9 2"
