"""Range tests of the experiments: what is asked, trained, written and drawn."""

import dataclasses
import functools
import json
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import optax_llr
from experiments import models
from experiments.config.config import Config
from experiments.data import dataset as data
from experiments.policies.catalogue import POLICIES
from experiments.search import find, finding, probing
from experiments.terminal import signals
from experiments.training import program
from experiments.training.compiling import policy_tables

# Whole batches and no augmentation: each step sees the same, whatever the order.
WHOLE = Config(epochs=20, batch_size=100, validation=1_900, flip=False, rate=0.1)
ASKED = find.Find(WHOLE, warmup=8, horizon=4, repeats=2)


def waves(key, shape, dtype):
    """Weights that are not random, which would take longer to compile than the net."""
    return 0.4 * jnp.sin(jnp.arange(np.prod(shape), dtype=dtype)).reshape(shape)


class Small(nnx.Module):
    """Compiles in a second, which no convolution does."""

    def __init__(self, model, classes, rngs, dtype, norm):
        del model, dtype
        linear = functools.partial(nnx.Linear, kernel_init=waves, rngs=rngs)
        self.stem = linear(12, 8)
        self.norm = nnx.BatchNorm(8, rngs=rngs) if norm == "batch" else nnx.relu
        self.block = linear(8, 8)
        self.head = linear(8, classes)

    def __call__(self, images):
        x = images[:, ::16, ::16].reshape(len(images), -1)
        return self.head(nnx.relu(self.block(nnx.relu(self.norm(self.stem(x))))))


@pytest.fixture(scope="module", autouse=True)
def small():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "make", Small)
        yield


@functools.cache
def dataset():
    return data.load(WHOLE.data, validation=WHOLE.validation)


@pytest.fixture(scope="module")
def probe():
    return probing.Probe(ASKED, dataset())


@pytest.fixture(scope="module")
def noisy():
    """Five batches an epoch, in an order of their own; mirrored images, batch norm."""
    config = dataclasses.replace(
        WHOLE, batch_size=20, epochs=4, flip=True, norm="batch"
    )
    asked = find.Find(config, warmup=3, horizon=4, repeats=2)
    return probing.Probe(asked, dataset())


def trained(vectors, warmup, horizon):
    """Mean loss over the training images after plain steps, by the program itself."""
    built = program.Program(WHOLE, dataset())
    split = dataset().train
    images = program.Images(jnp.asarray(split.images), jnp.asarray(split.labels))
    told = policy_tables(POLICIES["uniform"], WHOLE, built.layers)
    phase = optax_llr.Phase(built.layers, 0, 1, (False,) * 3)
    step = jax.jit(built.step, static_argnums=3)
    start = jax.jit(built.initial)(jax.random.split(jax.random.key(0))[0])
    for multipliers in vectors:
        rows = np.repeat([np.ones(3), multipliers], [warmup, horizon], axis=0)
        tables = jax.device_put(told._replace(multipliers=rows.astype(np.float32)))
        state = start
        for _ in range(warmup + horizon):
            state = step(state, images, tables, phase)
        loss, _, count = built.score(state.params, state.statistics, images)
        yield loss / count


def test_losses_are_those_of_plain_training_with_these_multipliers(probe):
    # The piecewise schedule drops within the horizon, and is followed.
    vectors = np.array([[1.0] * 3, [0, 0, 0], [0.5, 3, 0]])
    found = probe.losses(vectors, [0], "")
    expected = list(trained(vectors, ASKED.warmup, ASKED.horizon))
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-5)
    assert len(set(found[:, 0])) == 3


def test_repeats_meet_other_batches_but_all_runs_the_same(noisy):
    ones = np.ones((2, 3))
    losses = noisy.losses(ones, [0, 1, 2], "")
    np.testing.assert_array_equal(losses[0], losses[1])
    assert len(set(losses[0])) == 3
    np.testing.assert_array_equal(
        noisy.losses(ones[:1], [2, 0], "")[0], losses[0, ::-2]
    )


def test_a_model_at_rest_has_one_loss(noisy):
    """Other batches move running averages, and with them nothing that is looked at."""
    losses = noisy.losses(np.zeros((1, 3)), [0, 1, 2], "")
    assert len(set(losses[0])) == 1


def stacked(probe, stack):
    config = dataclasses.replace(probe._asked.config, stack=stack)
    return dataclasses.replace(probe._asked, config=config)


def test_runs_trained_at_once_find_what_they_find_alone(noisy, monkeypatch):
    vectors = np.array([[1.0] * 3, [0.5, 3, 0], [10.0, 1, 1]])
    alone = noisy.losses(vectors, [0, 1], "")
    sizes, measured = [], noisy._measured

    def counted(group):
        sizes.append(len(group))
        return measured(group)

    monkeypatch.setattr(noisy, "_measured", counted)
    monkeypatch.setattr(noisy, "_asked", stacked(noisy, 4))
    found = noisy.losses(vectors, [0, 1], "")
    np.testing.assert_allclose(found, alone, rtol=1e-4)
    assert sizes == [4, 4]  # the second filled up


def test_auto_takes_as_many_runs_at_once_as_pay(noisy, monkeypatch):
    sizes, speeds = [], []

    def size_that_pays(speed, most):
        sizes.append(most)
        speeds.append(speed(1))
        return 1, {}

    monkeypatch.setattr(noisy, "_asked", stacked(noisy, "auto"))
    monkeypatch.setattr(probing.stacking, "size_that_pays", size_that_pays)
    assert noisy.losses(np.ones((2, 3)), [0, 1, 2], "").shape == (2, 3)
    assert sizes == [6]
    assert 0 < speeds[0] < 1e6


def test_a_warm_up_that_diverges_is_refused(probe, monkeypatch):
    lost = probe._warm._replace(diverged=jnp.int32(3))
    monkeypatch.setattr(program.Program, "initial", lambda *_: lost)
    monkeypatch.setattr(probing.Probe, "_trained", lambda _, state, *__: state)
    others = ("early-first",)  # which play no part
    config = dataclasses.replace(WHOLE, policies=others, numbers={"uniform.rate": 0.5})
    with pytest.raises(ValueError, match=r"rate must be .* after 3 steps; got 0\.5"):
        probing.Probe(dataclasses.replace(ASKED, config=config), dataset())


def test_what_diverges_has_no_finite_loss_and_disturbs_no_other(probe):
    vectors = np.array([[1.0] * 3, [1e30] * 3, [1.0] * 3])
    losses = probe.losses(vectors, [0], "")[:, 0]
    assert np.isfinite(losses).tolist() == [True, False, True]
    assert losses[0] == losses[2]


def test_a_signal_ends_it_between_two_runs(probe, monkeypatch):
    def check():
        raise signals.Stop(15)

    monkeypatch.setattr(signals, "check", check)
    with pytest.raises(signals.Stop):
        probe.losses(np.ones((1, 3)), [0], "")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"warmup": -1}, "warmup must be at least 0; got -1"),
        ({"horizon": 0}, "horizon must be at least 1; got 0"),
        ({"repeats": 0}, "repeats must be at least 1"),
        ({"points_per_decade": 0}, "points_per_decade must be at least 1"),
        ({"warmup": 17}, r"at most the 20 steps of a run; got 17 \+ 4"),
        ({"config": dataclasses.replace(WHOLE, devices="all")}, "devices must be 1"),
    ],
)
def test_what_cannot_be_done_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(ASKED, **fields).check()


class Bowl:
    """In place of training: a loss that is least at multipliers that are known."""

    BEST = np.array([0.1, 1.0, 30.0])
    seen: ClassVar = []  # the repeats of each call

    def __init__(self, asked, dataset):
        self.layers = optax_llr.Layers(
            ("stem", "block", "head"), np.arange(3), {"a": 0, "b": 1, "c": 2}
        )

    def losses(self, multipliers, repeats, name):
        self.seen.append(list(repeats))
        with np.errstate(divide="ignore"):
            away = np.log10(multipliers / self.BEST).clip(-3)
        losses = 1 + (away**2).sum(-1, keepdims=True) * (1 + 0.1 * np.array(repeats))
        return np.where(multipliers[:, :1] > 50, np.nan, losses)


@pytest.fixture
def bowl(monkeypatch, tmp_path):
    monkeypatch.setattr(finding, "Probe", Bowl)
    monkeypatch.setattr(Bowl, "seen", [])
    return dataclasses.replace(ASKED, config=dataclasses.replace(WHOLE, out=tmp_path))


def test_a_test_leaves_table_figure_and_records(bowl, tmp_path, capsys):
    assert finding.run(bowl, dataset(), ["python", "find"]) == 0
    folder = tmp_path / "demo.find"
    printed = capsys.readouterr().out
    rows = [line.split() for line in printed.splitlines()]
    (head,) = (row for row in rows if row[:1] == ["head"])
    assert float(head[1]) == pytest.approx(30, rel=0.01)
    assert "lower than" in " ".join(printed.split())
    assert finding.LEGEND in printed.splitlines()  # whole, where it is no terminal
    assert str(folder) in printed
    found = json.loads((folder / "range_test.json").read_text())
    assert found["layers"] == ["stem", "block", "head"]
    np.testing.assert_allclose(found["suggestion"], Bowl.BEST, rtol=1e-5)
    assert found["losses"][0][-1] == [None, None]
    assert np.shape(found["losses"]) == (3, 9, 2)
    assert np.shape(found["check"]["together"]) == (finding.CHECKS,)
    assert found["config"]["horizon"] == 4
    assert found["config"]["config"]["batch_size"] == 100
    assert found["environment"]["command"] == ["python", "find"]
    assert (folder / "range_test.png").stat().st_size > 5_000


def test_where_no_difference_is_seen_no_number_is_suggested(bowl, monkeypatch, capsys):
    def losses(self, multipliers, repeats, name):
        noise = np.random.default_rng(0).normal(size=(len(multipliers), len(repeats)))
        noise[(multipliers == 1).all(axis=1)] = 0.0
        return 2 + noise

    monkeypatch.setattr(Bowl, "losses", losses)
    finding.run(bowl, dataset(), [])
    printed = capsys.readouterr().out
    table = [line for line in printed.splitlines() if line[:5] in ("stem ", "block")]
    for line in table:
        _, *limit, gain, no, difference, seen = line.split()
        assert [no, difference, seen] == ["no", "difference", "seen"]
        assert len(limit) == 1 or limit[0] == "≥"
        float(gain)
    assert len(table) == 2


def test_suggestions_are_tried_together_on_batches_that_did_not_choose_them(bowl):
    finding.run(bowl, dataset(), [])
    *tests, tried = Bowl.seen  # the grid, and what lies between
    tested = tests[0]
    assert tests == [[0, 1]] * 2
    assert len(tried) == finding.CHECKS
    assert not set(tested) & set(tried)


def test_a_test_that_was_made_is_not_overwritten(bowl, tmp_path):
    finding.run(bowl, dataset(), [])
    before = (tmp_path / "demo.find" / "range_test.json").read_bytes()
    with pytest.raises(ValueError, match="holds a range test already"):
        finding.run(bowl, dataset(), [])
    assert (tmp_path / "demo.find" / "range_test.json").read_bytes() == before


def test_what_is_refused_leaves_no_folder(bowl, tmp_path, monkeypatch):
    def losses(self, multipliers, repeats, name):
        return np.full((len(multipliers), len(repeats)), np.nan)

    monkeypatch.setattr(Bowl, "losses", losses)
    with pytest.raises(ValueError, match="lower the global rate"):
        finding.run(bowl, dataset(), [])
    assert list(tmp_path.iterdir()) == []


def test_points_are_counted_by_decade(bowl, tmp_path):
    finding.run(dataclasses.replace(bowl, points_per_decade=3), dataset(), [])
    found = json.loads((tmp_path / "demo.find" / "range_test.json").read_text())
    np.testing.assert_allclose(found["multipliers"], 10 ** (np.arange(-6, 7) / 3))


@pytest.mark.parametrize(
    ("differences", "said"),
    [
        ([-0.1, -0.2, -0.15], "1.85, lower than 2 with 1 for all layers (-0.15"),
        ([0.1, 0.2, 0.15], "2.15, higher than 2 with"),
        ([0.1, -0.2, 0.15], "not clearly different from 2 with"),
        ([0.0, 0.0, 0.0], "the same loss as with 1"),
        ([0.1, np.inf, np.nan], "2 diverged, none with 1"),
    ],
)
def test_the_suggestions_together_are_judged_by_pairs(differences, said):
    uniform = np.array([1.0, 2.0, 3.0])
    assert said in finding.verdict(uniform, uniform + differences)


@pytest.mark.slow
def test_a_real_model_is_tested_from_its_compilation_to_the_figure(
    monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(program, "make", models.make)
    config = dataclasses.replace(WHOLE, name="real", rate=0.02, out=tmp_path)
    asked = find.Find(config, warmup=3, horizon=2, repeats=2, points_per_decade=1)
    assert finding.run(asked, dataset(), []) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("conv1", "conv3", "hidden", "head"))
    found = json.loads((tmp_path / "real.find" / "range_test.json").read_text())
    assert np.isfinite(found["uniform"]).all()
    assert (tmp_path / "real.find" / "range_test.png").exists()
