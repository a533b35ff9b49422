import dataclasses
import inspect

import pytest

from experiments.config.config import MODELS, PRESETS, TRAINING_IMAGES, Config, validate
from experiments.data import dataset as data


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_valid_and_carry_their_names(preset):
    validate(PRESETS[preset])
    assert PRESETS[preset].name == preset


def test_sizes_of_the_sample_are_those_of_the_data():
    config = PRESETS["demo"]
    loaded = data.load(config.source, validation=config.validation)
    assert len(loaded.train.labels) == config.training_images
    assert len(loaded.validation.labels) == config.validation
    assert len(loaded.train.labels) + config.validation == TRAINING_IMAGES["sample"]


def test_steps_count_whole_batches_and_fractions_of_epochs():
    shallow = PRESETS["cifar10-shallow"]
    assert (shallow.training_images, shallow.steps_per_epoch) == (45_000, 351)
    assert shallow.total_steps == 8 * 351
    assert dataclasses.replace(shallow, epochs=0.57).total_steps == 200


@pytest.mark.parametrize("epochs", [0.1, 1, 7, 200])
@pytest.mark.parametrize("evaluations", [1, 40, 10_000])
def test_evaluations_fall_on_fetches_of_the_training_metrics(epochs, evaluations):
    config = Config(epochs=epochs, evaluations=evaluations)
    assert config.record_every >= 1
    assert config.evaluate_every >= config.record_every
    assert config.evaluate_every % config.record_every == 0


def test_evaluations_come_about_as_often_as_asked_for():
    config = PRESETS["cifar10-shallow"]
    done = config.total_steps / config.evaluate_every
    assert done == pytest.approx(config.evaluations, rel=0.2)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"policies": ("early-frist",)}, "policies.*did you mean 'early-first'"),
        ({"policies": ("early-first",)}, "policies must hold 'uniform', which 'early-"),
        (
            {"policies": ("uniform", "cascade")},
            "must hold 'uniform-onecycle', which 'cascade' is compared with; got",
        ),
        ({"policies": ()}, "policies must be at least one"),
        ({"norm": "layer"}, "norm: unknown 'layer'.*known: own, none, batch, group"),
        ({"model": "vit", "norm": "batch"}, "norm: unknown .*known: own, layer"),
        ({"optimizer": "adam"}, "optimizer.*did you mean 'adamw'"),
        ({"optimizer": "adamw"}, "decay must be following or ignoring with adamw"),
        ({"decay": "decoupled"}, "decay.*did you mean 'coupled'"),
        ({"label_smoothing": 1.0}, r"label_smoothing must be in \[0, 1\); got 1.0"),
        ({"ema": -0.1}, r"ema must be in \[0, 1\)"),
        ({"train_fraction": float("nan")}, "train_fraction must be above 0"),
        ({"train_fraction": float("inf")}, "train_fraction must be above 0"),
        ({"train_fraction": 0.001}, "train_fraction must be large enough for an image"),
        ({"label_noise": 1.1}, r"label_noise must be in \[0, 1\]"),
        ({"cutout": 33}, "cutout must be between 0 and 32 pixels"),
        ({"checkpoint_seconds": float("nan")}, "checkpoint_seconds must be finite"),
        (
            {"source": "cifar100", "validation": 50},
            "validation must be between 100 and 49900, as cifar100",
        ),
        ({"policies": ("uniform", "uniform")}, "policies must be all distinct"),
        ({"model": "resnet"}, "model.*did you mean 'resnet56'"),
        ({"source": "cifar"}, "source.*did you mean 'cifar10'"),
        ({"schedule": "cosin"}, "schedule.*did you mean 'cosine'"),
        ({"dtype": "float16"}, "dtype.*float32, bfloat16"),
        ({"seeds": 0}, "seeds must be between 1 and 1,000; got 0"),
        ({"seeds": 10**12}, "seeds must be between"),
        ({"epochs": 0}, "epochs must be above 0 .*; got 0"),
        ({"epochs": float("nan")}, "epochs must be.*got nan"),
        ({"epochs": float("inf")}, "epochs must be above 0 and at most 10,000,000"),
        ({"epochs": 1e18}, "epochs must be above 0 and at most 10,000,000"),
        ({"epochs": 1e308}, "epochs must be above 0 and at most 10,000,000"),
        ({"epochs": 1e6}, "epochs must make 1 to 10,000,000 steps, at 50 steps"),
        ({"epochs": 0.001}, "epochs must make 1 to"),
        ({"rate": -0.1}, "rate must be.*above 0; got -0.1"),
        ({"rate": float("nan")}, "rate must be.*got nan"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\)"),
        ({"weight_decay": -1e-4}, "weight_decay must be.*got -0.0001"),
        ({"batch_size": 1601}, "batch_size must be between 1 and the 1600"),
        ({"batch_size": 0}, "batch_size.*got 0"),
        ({"validation": 2000}, "validation must be between 10 and 1990"),
        ({"crop_padding": 32}, "crop_padding must be between 0 and 31"),
        ({"evaluations": 0}, "evaluations must be at least 1"),
        ({"marks": (0.5, 70.0)}, r"marks must be accuracies inside \(0, 1\)"),
        ({"marks": ()}, "marks must be"),
        ({"marks": (0.5, 0.5)}, "marks must be all distinct"),
        ({"name": "../elsewhere"}, "name must be a plain folder name"),
        ({"name": "a/b"}, "name must be a plain folder name"),
        ({"name": ""}, "name must be a plain folder name"),
        ({"name": "a" * 101}, "name must be a plain folder name of up to 100"),
    ],
)
def test_bad_configuration_is_refused_in_one_line(fields, said):
    with pytest.raises(ValueError, match=said) as refused:
        validate(dataclasses.replace(Config(), **fields))
    assert "\n" not in str(refused.value)


def test_an_archive_is_refused_where_it_would_not_be_read(tmp_path):
    config = dataclasses.replace(Config(), archive=tmp_path / "cifar.tar.gz")
    with pytest.raises(ValueError, match="archive must be absent"):
        validate(config)


def test_the_training_images_are_the_share_of_what_validation_leaves():
    config = Config(source="cifar100", validation=5_000, train_fraction=0.1)
    assert config.training_images == 4_500


def test_every_model_has_norms_and_is_explained():
    assert all(MODELS.values())
    described = inspect.getsource(Config)
    assert all(name in described for name in MODELS)


def test_numbers_are_none_unless_given_and_shared_by_nobody():
    assert Config().numbers == {}
    assert Config().numbers is not Config().numbers
