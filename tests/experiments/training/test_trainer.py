import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import (
    CONFIG,
    Events,
    dataset,
    made_up,
    stopped_and_gone_on,
    without_time,
)

from experiments.config import config as configuration
from experiments.data import cifar, variants
from experiments.policies.catalogue import POLICIES
from experiments.records import records
from experiments.training import compiling
from experiments.training import program as programs
from experiments.training import trainer as trainers
from experiments.training.trainer import Run, Trainer

pytestmark = pytest.mark.usefixtures("smooth")


@pytest.fixture(scope="module")
def trainer():
    return Trainer(CONFIG, dataset())


@pytest.fixture(scope="module")
def program():
    return programs.Program(CONFIG, dataset())


def events_of(trainer, policy, seed=0):
    if isinstance(policy, str):
        policy = POLICIES[policy]
    events = Events()
    assert trainer.run(policy, seed, events) is events[-1]
    return events


def test_a_run_records_training_validation_and_one_end(trainer):
    events = events_of(trainer, "early-first", seed=3)
    kinds = [event["kind"] for event in events]
    assert kinds == [*["train"] * 5, "validation", *["train"] * 5, "validation", "end"]
    assert [e["step"] for e in events if e["kind"] == "train"] == list(range(1, 11))
    assert [e["step"] for e in events if e["kind"] == "validation"] == [5, 10]
    for event in events:
        assert (event["policy"], event["seed"]) == ("early-first", 3)
        assert event["images"] == 20 * event["step"]
    seconds = [event["seconds"] for event in events]
    assert seconds == sorted(seconds)
    assert seconds[0] > 0
    end = events[-1]
    assert end["status"] == "finished"
    assert math.isfinite(end["test_loss"])
    assert end["test_accuracy"] * 250 == pytest.approx(
        round(end["test_accuracy"] * 250)
    )


def test_training_lines_say_what_the_last_step_was_told(trainer):
    lines = [e for e in events_of(trainer, "early-first") if e["kind"] == "train"]
    tables = compiling.policy_tables(POLICIES["early-first"], CONFIG, trainer.layers)
    np.testing.assert_array_equal([e["rate"] for e in lines], tables.rate)
    np.testing.assert_array_equal([e["multipliers"] for e in lines], tables.multipliers)


def test_training_lines_say_what_a_rule_measured(trainer):
    lines = [e for e in events_of(trainer, "gradient-norm") if e["kind"] == "train"]
    multipliers = np.array([e["multipliers"] for e in lines])
    assert (multipliers.std(axis=1) > 0.01).all()  # layers differ
    assert (np.ptp(multipliers, axis=0) > 0.01).all()  # and so do steps
    np.testing.assert_allclose(multipliers.mean(axis=1), 1, rtol=1e-5)  # as shares


def test_phases_of_frozen_layers_are_recorded_as_they_begin(trainer):
    events = events_of(trainer, "unfreeze-top-first")
    phases = [e for e in events if e["kind"] == "phase"]
    assert [e["step"] for e in phases] == [0, 1, 2, 3, 4]  # of ten steps
    names = list(trainer.layers.names)
    assert [list(e["frozen"]) for e in phases] == [names[:n] for n in (4, 3, 2, 1, 0)]
    predicted = [e["predicted"] for e in phases]
    assert predicted == sorted(predicted)
    assert predicted[0] < 0.5
    assert predicted[-1] == pytest.approx(1, rel=1e-3)
    assert events[0] is phases[0]  # before the first step
    assert not [e for e in events_of(trainer, "uniform") if e["kind"] == "phase"]


def test_training_learns(trainer):
    lines = [e for e in events_of(trainer, "uniform") if e["kind"] == "train"]
    assert lines[-1]["loss"] < lines[0]["loss"]


def test_the_same_run_twice_is_the_same_to_the_last_bit(trainer):
    first, second = (events_of(trainer, "three-stage") for _ in range(2))
    assert without_time(first) == without_time(second)


def test_runs_of_one_seed_begin_alike_under_every_policy(trainer):
    first = [events_of(trainer, p)[0]["loss"] for p in ("uniform", "late-first")]
    assert first[0] == first[1]
    assert events_of(trainer, "uniform", seed=1)[0]["loss"] != first[0]


@pytest.mark.slow
def test_policies_of_one_layering_share_one_trace_of_the_step(
    monkeypatch,
):
    traces = []

    def counted(*args, **kwargs):
        traces.append(args)
        return augment(*args, **kwargs)

    augment = programs.augment
    monkeypatch.setattr(programs, "augment", counted)
    trainer = Trainer(CONFIG, dataset())
    for policy in ("uniform", "early-first", "cascade"):
        events_of(trainer, policy, seed=len(policy))
    assert len(traces) == 1
    for policy in ("layca", "layca-alpha", "gradient-norm", "gradient-norm"):
        events_of(trainer, policy)
    assert len(traces) == 3  # one more for rotations, one for the rule
    phases = [e for e in events_of(trainer, "freezeout") if e["kind"] == "phase"]
    assert len(traces) == 3 + len(phases) - 1  # in the first nothing is frozen


def test_a_loss_that_is_not_finite_ends_the_run_at_its_step(trainer):
    events = events_of(
        trainer, made_up(lambda t, n: jnp.full(n, jnp.where(t == 3, 1e30, 1.0)))
    )
    # Four steps are done, the fourth of them fatal; the next loss shows it.
    assert [event["step"] for event in events] == [1, 2, 3, 4, 4]
    assert events[-1]["kind"] == "end"
    assert events[-1]["status"] == "diverged"
    assert events[-1]["test_loss"] is events[-1]["test_accuracy"] is None
    assert events_of(trainer, "uniform")[-1]["status"] == "finished"


def test_divergence_in_the_last_step_leaves_the_test_set_alone(trainer):
    last = CONFIG.total_steps - 1
    events = events_of(
        trainer, made_up(lambda t, n: jnp.full(n, jnp.where(t == last, 1e30, 1.0)))
    )
    assert events[-2]["kind"] == "validation"
    assert not math.isfinite(events[-2]["loss"])
    assert (events[-1]["status"], events[-1]["step"]) == ("diverged", last + 1)
    assert events[-1]["test_loss"] is None


@pytest.mark.parametrize(
    "policy",
    [
        "three-stage",
        pytest.param("learned", marks=pytest.mark.slow),
        pytest.param("unfreeze-top-first", marks=pytest.mark.slow),
    ],
)
def test_a_run_stopped_anywhere_ends_as_if_it_never_had_been(
    policy, monkeypatch, tmp_path
):
    monkeypatch.setattr(
        configuration, "TRAIN_LINES", 3
    )  # so that most stops fall between
    config = dataclasses.replace(CONFIG, ema=0.9, evaluations=2)
    trainer = Trainer(config, dataset())
    whole = Events()
    trainer.run(POLICIES[policy], 0, whole)

    times = CONFIG.total_steps
    stops = stopped_and_gone_on(trainer, POLICIES[policy], tmp_path, times)
    assert len(set(stops)) == len(stops) > 4
    metrics, timings = records.read_lines(tmp_path)
    assert metrics.records == records.plain(without_time(whole))
    seconds = [line["seconds"] for line in timings.records]
    assert seconds == sorted(seconds)


def test_the_end_holds_a_checksum_of_the_last_weights(trainer):
    ends = [events_of(trainer, "uniform", seed)[-1] for seed in (0, 0, 1)]
    sums = [end["params_sha256"] for end in ends]
    assert sums[0] == sums[1] != sums[2]
    assert len(sums[0]) == 64


def test_watchers_see_every_event_once_it_is_recorded(trainer):
    events, seen = Events(), []
    watch = lambda event: seen.append((event, len(events)))  # noqa: E731
    run = Run(POLICIES["uniform"], 0, events, watchers=[watch])
    trainer.train(trainer.begin([run]))
    assert seen == [(event, n) for n, event in enumerate(events, start=1)]


def test_an_error_of_the_journal_ends_the_run(trainer):
    class Full(Events):
        def write(self, event):
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        trainer.run(POLICIES["uniform"], 0, Full())


def test_evaluation_agrees_with_numpy_on_every_image(trainer, program):
    group = trainer.begin([Run(POLICIES["uniform"], 0)])
    state = group.state
    test = dataset().test
    pixels = (test.images / 255.0 - variants.CIFAR10.mean) / variants.CIFAR10.std
    logits = np.asarray(
        programs.infer(
            program._inference,
            state.params,
            state.statistics,
            jnp.asarray(pixels, jnp.float32),
        ),
        float,
    )
    logits -= logits.max(1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    [(loss, accuracy)] = trainer._evaluate(group, trainer._test)
    assert loss == pytest.approx(-log_p[np.arange(250), test.labels].mean(), rel=1e-5)
    assert accuracy == (logits.argmax(1) == test.labels).mean()


@pytest.mark.parametrize("at_once", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_lines_are_means_over_their_steps_however_many_one_call_takes(
    monkeypatch, trainer, at_once
):
    monkeypatch.setattr(configuration, "TRAIN_LINES", 3)  # intervals of 3, 3, 3 and 1
    for module in (compiling, trainers):
        monkeypatch.setattr(module, "steps_per_call", lambda most: at_once)
    many = events_of(Trainer(CONFIG, dataset()), "uniform")
    lines = [e for e in many if e["kind"] == "train"]
    monkeypatch.undo()
    single = [e for e in events_of(trainer, "uniform") if e["kind"] == "train"]
    assert [e["step"] for e in lines] == [3, 6, 9, 10]
    for line, part in zip(lines, np.split(single, [3, 6, 9]), strict=True):
        loss = np.mean([e["loss"] for e in part])
        accuracy = np.mean([e["accuracy"] for e in part])
        assert line["loss"] == pytest.approx(loss, rel=1e-4)
        assert line["accuracy"] == pytest.approx(accuracy)


def test_data_of_another_size_are_refused_before_anything_compiles():
    config = dataclasses.replace(CONFIG, validation=1_890)
    with pytest.raises(
        cifar.DataError, match=r"expected the 110 training images.*got 100"
    ):
        Trainer(config, dataset())
