import dataclasses

import pytest

from experiments.config.choices import MODELS, SIZES, norms
from experiments.config.config import PRESETS, Config
from experiments.data import dataset as data

TEXT = {"data": "stdlib", "model": "gpt-small"}


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_carry_their_names(preset):
    assert PRESETS[preset].name == preset


def test_sizes_of_the_sample_are_those_of_the_data():
    config = PRESETS["demo"]
    loaded = data.load(config.data, validation=config.validation)
    assert len(loaded.train.labels) == config.training_images
    assert len(loaded.validation.labels) == config.validation
    assert len(loaded.train.labels) + config.validation == SIZES["sample"].images


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
        ({"nam": "a"}, r"unknown 'nam'; did you mean 'name'\? \(known: name, model"),
        ({"policies": ("early-frist",)}, "policies: unk.*did you mean 'early-first'"),
        ({"policies": (3,)}, "policies: unknown 3.*or FILE.py:NAME"),
        ({"policies": "uniform"}, "policies must be a list; got uniform"),
        ({"policies": ("uniform", "uniform")}, "policies must be all distinct"),
        ({"norm": "layer"}, "norm must be own or none or batch or group for this"),
        ({"model": "vit", "norm": "batch"}, "norm must be own or layer for this model"),
        ({"model": "a.py:make", "norm": "batch"}, "norm must be own for this model"),
        ({"norm": "bach"}, "norm: unknown 'bach'; did you mean 'batch'"),
        ({"model": "resnet"}, "model.*did you mean 'resnet8'.*or FILE.py:NAME"),
        ({"optimizer": "adam"}, "optimizer.*did you mean 'adamw'.*or FILE.py:NAME"),
        ({"optimizer": "adamw"}, "decay must be following or ignoring with adamw"),
        ({"data": "cifar"}, "data.*did you mean 'cifar10'.*NAME, or FILE.txt"),
        ({"data": "no.txt", "model": "gpt"}, "data: expected a file of text; 'no.txt'"),
        ({"data": "stdlib"}, "model must be gpt-small or gpt for text, and another"),
        ({"model": "gpt"}, "model must be gpt-small or gpt for text, and another for"),
        ({"context": 64}, "context must be left out where data are images; got 64"),
        (TEXT | {"flip": False}, "flip must be left out where data are text; got Fal"),
        (TEXT | {"label_noise": 0.1}, "label_noise must be left out where data are te"),
        (TEXT | {"thresholds": (0.5,)}, "thresholds must be left out where data are t"),
        (TEXT | {"norm": "layer"}, "norm must be own or rms for this model; got layer"),
        (
            TEXT | {"validation": 782},
            "validation must be at most 781, as there are",
        ),
        (TEXT | {"context": 99_999}, "validation must be at most 1, as there are wind"),
        (TEXT | {"train_fraction": 1e-5}, "train_fraction must be large enough for a"),
        (TEXT | {"batch_size": 40_000}, "batch_size must be between 1 and the 31249 t"),
        (TEXT | {"context": 1}, "context must be at least 2; got 1"),
        ({"logger": "wandb"}, "logger: unknown 'wandb'.*or FILE.py:NAME"),
        ({"label_smoothing": 1.0}, "label_smoothing must be below 1; got 1.0"),
        ({"ema": -0.1}, "ema must be at least 0; got -0.1"),
        ({"train_fraction": float("nan")}, "train_fraction must be.*got nan"),
        ({"train_fraction": 0.001}, "train_fraction must be large enough for an image"),
        ({"cutout": 33}, "cutout must be between 0 and 32 pixels"),
        ({"crop_padding": 32}, "crop_padding must be between 0 and 31"),
        ({"checkpoint_seconds": float("nan")}, "checkpoint_seconds must be a finite"),
        (
            {"data": "cifar100", "validation": 50},
            "validation must be between 100 and 49900, as there are 50000",
        ),
        ({"classes": (1,)}, "classes must be two or more; got .1"),
        ({"classes": (1, 1)}, "classes must be all distinct; got 1, 1"),
        ({"classes": (1, "cta")}, "classes: unknown 'cta'; did you mean 'cat'"),
        (
            {"data": "cifar100", "classes": ("bear", 2)},
            "classes: unknown 'bear', expected a number from 0 to 99",
        ),
        ({"classes": (1.5, 2)}, "classes must be.*got 1.5"),
        (
            {"classes": (1, 2), "validation": 500},
            "validation must be between 2 and 398",
        ),
        ({"images_per_class": 0}, "images_per_class must be at least 1"),
        ({"images_per_class": 161}, "images_per_class must be at most 160, as every"),
        (
            {"images_per_class": 9, "train_fraction": 0.5},
            "train_fraction must be left out where images_per_class",
        ),
        ({"images_per_class": 3}, "batch_size must be between 1 and the 30 training"),
        ({"shift": "blurr"}, "shift: unknown 'blurr'; did you mean 'blur'"),
        ({"seeds": 0}, "seeds must be at least 1 or a list; got 0"),
        ({"seeds": 10**12}, "seeds must be at most 1,000"),
        ({"seeds": True}, "seeds must be a whole number or a list; got True"),
        ({"seeds": ()}, "seeds must be .*a list of at least 1"),
        ({"seeds": (3, 3)}, "seeds must be all distinct; got 3, 3"),
        ({"seeds": (-1,)}, "seeds must be .*at least 0"),
        ({"epochs": float("nan")}, "epochs must be.*got nan"),
        ({"epochs": 1e18}, "epochs must be at most 10,000,000; got 1e"),
        (
            {"epochs": 1e6},
            "epochs must be 1 to 10,000,000 steps long, at 50 steps",
        ),
        ({"epochs": 0.001}, "epochs must be 1 to"),
        ({"epochs": "two"}, "epochs must be a number; got two"),
        ({"rate": float("nan")}, "rate must be a finite number; got nan"),
        ({"batch_size": 1601}, "batch_size must be between 1 and the 1600"),
        ({"flip": 1}, "flip must be true or false; got 1"),
        ({"thresholds": (0.5, 70.0)}, "thresholds must be below 1; got 70"),
        ({"stack": "many"}, "stack must be a whole number or 'auto'; got many"),
        ({"stack": 2, "distributed": True}, "stack must be 1 where several processes"),
        ({"devices": 2, "distributed": True}, "devices must be all, or left out, wher"),
        ({"numbers": {"a": "b"}}, "numbers must be a number; got b"),
        ({"archive": "a.tar.gz"}, "archive must be absent unless data is cifar10"),
        *(
            ({"name": name}, "name must be a plain folder name of up to 100")
            for name in ("../elsewhere", "a/b", "", "a" * 101, "a\\q", '"><script>')
        ),
    ],
)
def test_bad_configuration_is_refused_in_one_line(fields, said):
    with pytest.raises(ValueError, match=said) as refused:
        Config(**fields)
    assert "\n" not in str(refused.value)
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(Config(), **fields)


def test_a_number_of_seeds_counts_them_and_several_are_the_seeds():
    assert Config(seeds=3).run_seeds == (0, 1, 2)
    assert Config(seeds=(3, 7, 11)).run_seeds == (3, 7, 11)


def test_the_training_images_are_the_share_of_what_validation_leaves():
    config = Config(data="cifar100", validation=5_000, train_fraction=0.1)
    assert config.training_images == 4_500


def test_a_part_of_the_classes_has_its_part_of_the_images():
    some = Config(data="cifar100", classes=(3, 30, 5), validation=150)
    assert some.sizes == (1_500, 3, (32, 32, 3))
    assert some.training_images == 1_350
    few = dataclasses.replace(some, images_per_class=20)
    assert few.training_images == 60


def test_every_model_of_ours_has_norms_and_others_say_nothing_of_theirs():
    assert all(map(norms, MODELS))
    assert norms("vit") == ("layer",)
    assert norms("a.py:make") == ()


def test_numbers_are_none_unless_given_and_shared_by_nobody():
    assert Config().numbers == {}
    assert Config().numbers is not Config().numbers


def test_a_file_of_text_is_recorded_by_its_name_and_counted_by_its_size(tmp_path):
    (tmp_path / "my.txt").write_bytes(b"x" * 10_001)
    path = str(tmp_path / "my.txt")
    config = Config(data=path, model="gpt", context=10, validation=30, epochs=1)
    assert (config.training_images, config.total_steps) == (899, 28)
    assert config.record()["data"] == "my.txt"


def test_images_are_judged_by_accuracy_and_text_by_loss():
    assert (Config().measure.name, Config(**TEXT).measure.name) == ("accuracy", "loss")
    assert Config(**TEXT).measure.expected("higher") == "lower"
    assert Config(**TEXT).measure.expected("same") == "same"
    assert Config().measure.expected("higher") == "higher"
    assert Config().measure.signed(-0.0123) == "−1.2"
    assert Config(**TEXT).measure.signed(0.0123) == "+0.012"
    assert Config(**TEXT).measure.signed(-0.0001) == "+0.000"
