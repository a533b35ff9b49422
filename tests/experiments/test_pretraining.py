"""Studies that make the weights which they start from."""

import dataclasses

import pytest
from tiny_runs import SmoothCNN

from experiments import __main__ as command
from experiments import models, runner
from experiments.config.config import PRESETS, Config
from experiments.config.pretraining import pretrained_run, pretraining
from experiments.records import records, weights
from experiments.search import finding, tune

COMMAND = ["python", "-m", "experiments", "study"]
# Some steps on six classes, then some on four others.
CONFIG = Config(
    name="tiny",
    norm="batch",
    pretrain_epochs=0.2,
    pretrain_classes=(0, 1, 2, 3, 4, 5),
    policies=("uniform", "from-scratch", "head-only"),
    classes=("frog", "horse", "ship", "truck"),
    validation=700,
    images_per_class=20,
    seeds=(3,),
    shift="invert",
    epochs=2,
    batch_size=16,
    evaluations=1,
)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The configuration of a study that was done from nothing."""
    config = dataclasses.replace(CONFIG, out=tmp_path_factory.mktemp("runs"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models._BUILD, "cnn-shallow", SmoothCNN)
        assert runner.study(config, COMMAND) == 0
    return config


@pytest.fixture
def studied(monkeypatch):
    """What is studied, instead of studying it."""
    seen = []
    monkeypatch.setattr(runner, "_study", lambda config, _: seen.append(config) or 0)
    return seen


def test_a_study_makes_its_weights_and_starts_from_them(done):
    made = pretrained_run(done)
    assert made == done.out / "tiny.pretrained" / "uniform-0"
    assert records.has_ended(made)
    before = records.read_json(made.parent / "config.json", "study")
    assert (before["shift"], before["images_per_class"]) == ("none", None)
    assert (before["classes"], before["total_steps"]) == ([0, 1, 2, 3, 4, 5], 6)
    study = records.read(done.out / "tiny")
    assert study.config["init_from"] == made.as_posix()
    assert study.config["files"] == weights.hashes(made)
    assert study.config["total_steps"] == 10
    ends = {e["policy"]: e for e in study.events if e["kind"] == "end"}
    assert set(ends) == set(CONFIG.policies)
    assert len({end["params_sha256"] for end in ends.values()}) == 3
    assert not list((done.out / "tiny").glob(f"*/{weights.KEPT}"))


def test_weights_that_were_made_before_are_not_made_again(done, studied):
    assert runner.study(done, COMMAND) == 0
    (config,) = studied
    assert config == dataclasses.replace(done, init_from=pretrained_run(done))


def test_weights_that_were_made_otherwise_are_refused(done, studied):
    longer = dataclasses.replace(done, pretrain_epochs=1)
    with pytest.raises(ValueError, match=r"tiny.pretrained.*epochs is 1.*was 0\.2"):
        runner.study(longer, COMMAND)
    assert studied == []


def test_weights_that_are_missing_are_made_first_and_a_signal_ends_there(
    tmp_path, studied, monkeypatch
):
    config = dataclasses.replace(CONFIG, out=tmp_path)
    assert runner.study(config, COMMAND) == 0
    first, second = studied
    assert first == pretraining(config)
    assert second.init_from == pretrained_run(config)
    stopped = []
    monkeypatch.setattr(runner, "_study", lambda *asked: stopped.append(asked) or 130)
    assert runner.study(config, COMMAND) == 130
    assert [asked.name for asked, _ in stopped] == ["tiny.pretrained"]


def test_weights_that_are_given_are_taken_instead(tmp_path, studied):
    given = dataclasses.replace(CONFIG, init_from=tmp_path / "other.npz")
    assert runner.study(given, COMMAND) == 0
    assert studied == [given]


@pytest.mark.parametrize(("name", "module"), [("tune", tune), ("find", finding)])
def test_searches_start_from_weights_that_are_made_first(
    name, module, monkeypatch, studied, tmp_path
):
    seen = []
    monkeypatch.setattr(runner, "load", lambda data, **_: data)
    monkeypatch.setattr(module, "run", lambda asked, *_: seen.append(asked) or 0)
    fields = ("--data", "sample", "--validation", "200", "--out", str(tmp_path))
    assert command.main([name, "cifar10-transfer", *fields]) == 0
    ((asked,), (first,)) = seen, studied
    assert first.name == "cifar10-transfer.pretrained"
    assert asked.config.init_from == tmp_path / first.name / "uniform-0"
    monkeypatch.setattr(runner, "_study", lambda *_: 143)
    assert command.main([name, "cifar10-transfer", *fields]) == 143
    assert len(seen) == 1


def test_the_preset_pretrains_on_the_classes_that_it_does_not_tune():
    config = PRESETS["cifar10-transfer"]
    assert sorted([*config.pretrain_classes, *config.classes]) == list(range(10))
    assert (len(config.classes), len(config.policies), config.seeds) == (4, 6, 2)
    assert pretraining(config).training_images == 30_000 - config.validation


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"pretrain_classes": (0, 1)}, "pretrain_classes must be left out where pretr"),
        ({"new_head": False}, "new_head must be left out where there are no weights"),
        ({"pretrain_epochs": -1.0}, "pretrain_epochs must be at least 0"),
    ],
)
def test_what_needs_weights_is_refused_without(fields, said):
    with pytest.raises(ValueError, match=said):
        Config(**fields)
