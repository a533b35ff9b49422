"""Runs on text: what differs from images is what goes in, and how many answers come."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import Events, assert_alike, stopped_and_gone_on, without_time

from experiments import models
from experiments.config.config import Config
from experiments.data import dataset as data
from experiments.models.gpt import GPT
from experiments.policies.catalogue import POLICIES
from experiments.records import records
from experiments.search.find import Find
from experiments.search.probing import Probe
from experiments.training import program as programs
from experiments.training.trainer import Run, Trainer


@pytest.fixture(scope="module", autouse=True)
def tiny():
    """A model that compiles soon."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models._BUILD, "gpt-small", functools.partial(GPT, 16, 2, 1))
        yield


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Six steps of four windows, five of them in an epoch; two evaluations."""
    path = tmp_path_factory.mktemp("text") / "my.txt"
    letters = np.random.default_rng(0).choice([*b"abc "], 400)
    path.write_bytes(bytes(letters.astype(np.uint8)))
    return Config(
        model="gpt-small",
        data=str(path),
        context=16,
        validation=1,
        epochs=1.2,
        batch_size=4,
        rate=1e-2,
        schedule="warmup-cosine",
        optimizer="adamw",
        decay="following",
        evaluations=2,
    )


def dataset(config):
    text = data.load(config.data, context=config.context, validation=1)
    return dataclasses.replace(text, test=text.train)


@pytest.fixture(scope="module")
def trainer(config):
    return Trainer(config, dataset(config))


def events_of(trainer, policy, seed=0):
    events = Events()
    trainer.run(POLICIES[policy], seed, events)
    return events


def test_a_run_learns_and_its_records_are_those_of_images(trainer):
    events = events_of(trainer, "blockwise")
    for event in events:
        line = {k: v for k, v in event.items() if k != "seconds"}
        records.check_event(records.plain(line), "an event")
    trained = [event for event in events if event["kind"] == "train"]
    assert trained[0]["loss"] == pytest.approx(np.log(256), abs=0.1)
    assert trained[-1]["loss"] < trained[0]["loss"] - 0.5
    for event in trained:
        assert event["accuracy"] * 4 * 16 == pytest.approx(
            round(event["accuracy"] * 4 * 16), abs=1e-6
        )
        assert event["images"] == 4 * event["step"]


def test_evaluation_agrees_with_numpy_on_every_byte(trainer, config):
    group = trainer.begin([Run(POLICIES["uniform"], 0)])
    program = programs.Program(config, dataset(config))
    test = dataset(config).test
    logits = np.asarray(
        programs.infer(
            program._inference,
            group.state.params,
            group.state.statistics,
            jnp.asarray(test.images),
        ),
        float,
    )
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = np.take_along_axis(log_p, test.labels[..., None], -1)
    [(loss, accuracy)] = trainer._evaluate(group, trainer._test)
    assert loss == pytest.approx(-expected.mean(), rel=1e-5)
    assert accuracy == (logits.argmax(-1) == test.labels).mean()


def test_all_policies_see_the_same_windows_in_the_same_order(trainer):
    first = [
        next(e["loss"] for e in events_of(trainer, policy) if e["kind"] == "train")
        for policy in ("uniform", "early-first", "blockwise")
    ]
    assert len(set(first)) == 1


@pytest.mark.parametrize(
    "policy",
    ["blockwise", pytest.param("ramped-tail-exponent", marks=pytest.mark.slow)],
)
def test_a_run_stopped_anywhere_ends_as_if_it_never_had_been(trainer, policy, tmp_path):
    whole = events_of(trainer, policy)
    stops = stopped_and_gone_on(trainer, POLICIES[policy], tmp_path, 7)
    assert len(set(stops)) == len(stops) > 2
    found = records.read_lines(tmp_path)[0].records
    assert found == records.plain(without_time(whole))


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"stack": 2}, {"devices": 2}], ids=str)
def test_stacked_or_on_two_devices_runs_find_the_same(trainer, config, changes):
    expected = [events_of(trainer, "uniform", seed) for seed in (0, 1)]
    other = Trainer(dataclasses.replace(config, **changes), dataset(config))
    if "stack" in changes:
        runs = [Run(POLICIES["uniform"], seed, Events()) for seed in (0, 1)]
        other.train(other.begin(runs))
        found = [run.journal for run in runs]
    else:
        found = [events_of(other, "uniform", seed) for seed in (0, 1)]
    assert_alike(found, expected, rtol=1e-4)


def test_a_range_test_trains_on_text(config):
    asked = Find(config, warmup=1, horizon=2, repeats=1)
    probe = Probe(asked, dataset(config))
    ones = np.ones((1, len(probe.layers)))
    losses = probe.losses(np.concatenate([ones, 0 * ones]), [0], "test")
    assert losses[0] < losses[1]


def test_a_model_of_ones_own_must_answer_every_byte(config, tmp_path):
    (tmp_path / "own_text.py").write_text(
        "from flax import nnx\n"
        "class Mean(nnx.Module):\n"
        "    def __init__(self, count, rngs):\n"
        "        self.tokens = nnx.Embed(256, count, rngs=rngs)\n"
        "    def __call__(self, tokens):\n"
        "        return self.tokens(tokens).mean(1)\n"
    )
    mean = dataclasses.replace(config, model=f"{tmp_path / 'own_text.py'}:Mean")
    with pytest.raises(ValueError, match=r"with logits \(4, 16, 256\); got \(4, 256\)"):
        programs.abstract(mean, 256, (16,))


def test_order_and_windows_follow_from_the_key_alone(trainer, config):
    program = programs.Program(config, dataset(config))
    split = dataset(config).train
    images = programs.Images(jnp.asarray(split.images), jnp.asarray(split.labels))
    state = program.initial(jax.random.key(3))
    order, windows, labels = jax.jit(program._next_batch)(state, images)
    np.testing.assert_array_equal(windows, split.images[np.asarray(order[:4])])
    np.testing.assert_array_equal(labels, split.labels[np.asarray(order[:4])])
    assert windows.dtype == jnp.uint8
