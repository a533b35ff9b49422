import dataclasses
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import optax_llr
from experiments import cifar10, data, train
from experiments import config as configuration
from experiments.config import Config
from experiments.policies import POLICIES, Policy

# Ten steps of twenty images in two epochs; an evaluation each fifth step.
CONFIG = Config(
    epochs=2, batch_size=20, validation=1_900, evaluations=2, rate=0.05, flip=True
)


def dataset(config=CONFIG):
    loaded = data.load(config.source, validation=config.validation)
    return dataclasses.replace(
        loaded,
        validation=loaded.validation.take(np.arange(0, 1_900, 19)),
        test=loaded.test.take(np.arange(0, 500, 2)),  # 250: the last batch is filled up
    )


@pytest.fixture(scope="module")
def trainer():
    return train.Trainer(CONFIG, dataset())


@pytest.fixture(scope="module")
def program():
    return train.Program(CONFIG, dataset())


@pytest.fixture(scope="module")
def step(program):
    return jax.jit(program.step)


@pytest.fixture(scope="module")
def images():
    train_split = dataset().train
    return train.Images(
        jnp.asarray(train_split.images), jnp.asarray(train_split.labels)
    )


def events_of(trainer, policy, seed=0):
    if isinstance(policy, str):
        policy = POLICIES[policy]
    events = []
    trainer.run(policy, seed, events.append)
    return events


def made_up(multipliers):
    """A policy from a function (step, number of layers) → multipliers."""
    return Policy(
        name="made-up",
        summary="",
        expectation="",
        source="",
        multipliers=lambda layers, total: lambda t: multipliers(t, len(layers)),
    )


def without_time(events):
    return [{k: v for k, v in event.items() if k != "seconds"} for event in events]


def uniform_tables(layers):
    return train.policy_tables(POLICIES["uniform"], CONFIG, layers)


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
    tables = train.policy_tables(POLICIES["early-first"], CONFIG, trainer.layers)
    np.testing.assert_array_equal([e["rate"] for e in lines], tables.rate)
    np.testing.assert_array_equal([e["multipliers"] for e in lines], tables.multipliers)


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


def test_all_policies_and_seeds_share_one_trace_of_the_step(monkeypatch):
    traces = []

    def counted(*args, **kwargs):
        traces.append(args)
        return augment(*args, **kwargs)

    augment = train.augment
    monkeypatch.setattr(train, "augment", counted)
    trainer = train.Trainer(CONFIG, dataset())
    for policy in ("uniform", "freezeout", "cascade"):
        events_of(trainer, policy, seed=len(policy))
    assert len(traces) == 1


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


def test_an_interrupt_is_recorded_and_raised_again(trainer):
    events = []

    def record(event):
        events.append(event)
        if event["step"] == 2 and event["kind"] == "train":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer.run(POLICIES["uniform"], 0, record)
    assert [event["kind"] for event in events] == ["train", "train", "end"]
    assert events[-1]["status"] == "interrupted"
    assert events[-1]["step"] == 2
    assert events[-1]["test_accuracy"] is None


def test_evaluation_agrees_with_numpy_on_every_image(trainer, program):
    state = trainer._initial(jax.random.key(0))
    test = dataset().test
    pixels = (test.images / 255.0 - cifar10.MEAN) / cifar10.STD
    logits = np.asarray(
        program._infer(
            state.params, state.statistics, jnp.asarray(pixels, jnp.float32)
        ),
        float,
    )
    logits -= logits.max(1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    loss, accuracy = trainer._evaluate(state, trainer._test)
    assert loss == pytest.approx(-log_p[np.arange(250), test.labels].mean(), rel=1e-5)
    assert accuracy == (logits.argmax(1) == test.labels).mean()


def test_steps_agree_with_sgd_written_out(program, step, images):
    state = program.initial(jax.random.key(0))
    tables = train.policy_tables(POLICIES["early-first"], CONFIG, program.layers)
    params = flat(state.params)
    velocity = {path: np.zeros_like(value) for path, value in params.items()}

    @jax.jit
    def gradients_of(state, images):
        _, *batch = program._next_batch(state, images)
        loss = jax.grad(program._loss, has_aux=True)
        return loss(state.params, state.statistics, *batch)[0]

    for t in range(3):
        gradients = gradients_of(state, images)
        for path, gradient in flat(gradients).items():
            layer = program.layers.members[path.removesuffix("/value")]
            decayed = gradient + CONFIG.weight_decay * params[path]
            velocity[path] = CONFIG.momentum * velocity[path] + decayed
            rate = tables.rate[t] * tables.multipliers[t, layer]
            params[path] = params[path] - rate * velocity[path]
        state = step(state, images, tables)
        for path, value in flat(state.params).items():
            np.testing.assert_allclose(value, params[path], rtol=1e-4, atol=1e-6)
    inner = optax_llr.layer_multipliers(state.opt_state, program.layers)
    np.testing.assert_allclose(list(inner.values()), tables.multipliers[2], rtol=1e-6)


def test_a_frozen_layer_does_not_move(program, step, images):
    policy = made_up(lambda t, n: jnp.ones(n).at[1].set(0.0))
    tables = train.policy_tables(policy, CONFIG, program.layers)
    before = program.initial(jax.random.key(0))
    after = step(step(before, images, tables), images, tables)
    after, before = flat(after.params), flat(before.params)
    moved = {p.split("/")[0] for p in before if (after[p] != before[p]).any()}
    assert moved == {"conv1", "conv3", "hidden", "head"}


def test_an_epoch_shows_every_image_once_in_an_order_of_its_own(program, step, images):
    tables = uniform_tables(program.layers)
    orders = {}
    for seed in (0, 1):
        state = program.initial(jax.random.key(seed))
        for t in range(CONFIG.total_steps):
            state = step(state, images, tables)
            epoch = t // CONFIG.steps_per_epoch
            order = np.asarray(state.order)
            np.testing.assert_array_equal(
                orders.setdefault((seed, epoch), order), order
            )
    assert len(orders) == 4
    for order in orders.values():
        np.testing.assert_array_equal(np.sort(order), np.arange(100))
    assert len({tuple(order) for order in orders.values()}) == 4


def test_the_state_holds_all_that_a_run_needs_to_go_on(program, step, images):
    tables = uniform_tables(program.layers)
    state = program.initial(jax.random.key(0))
    for t in range(7):
        if t == 3:
            saved = [
                np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf)
                for leaf in jax.tree.leaves(state)
            ]
        state = step(state, images, tables)
    other = program.initial(jax.random.key(1))
    resumed = jax.tree.unflatten(
        jax.tree.structure(other),
        [
            jax.random.wrap_key_data(value) if is_key(leaf) else jnp.asarray(value)
            for leaf, value in zip(jax.tree.leaves(other), saved, strict=True)
        ],
    )
    for _ in range(4):
        resumed = step(resumed, images, tables)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(resumed), strict=True):
        assert bool((a == b).all())


@pytest.mark.slow
def test_many_steps_a_call_train_as_one_step_a_call_does(monkeypatch, trainer):
    monkeypatch.setattr(configuration, "TRAIN_LINES", 3)  # intervals of 3, 3, 3 and 1
    monkeypatch.setattr(train, "steps_per_call", lambda most: 2)
    many = events_of(train.Trainer(CONFIG, dataset()), "uniform")
    lines = [e for e in many if e["kind"] == "train"]
    monkeypatch.undo()
    single = [e for e in events_of(trainer, "uniform") if e["kind"] == "train"]
    assert [e["step"] for e in lines] == [3, 6, 9, 10]
    for line, part in zip(lines, np.split(single, [3, 6, 9]), strict=True):
        loss = np.mean([e["loss"] for e in part])
        accuracy = np.mean([e["accuracy"] for e in part])
        assert line["loss"] == pytest.approx(loss, rel=1e-4)
        assert line["accuracy"] == pytest.approx(accuracy)


def test_a_cpu_is_given_one_step_a_call_and_an_accelerator_all(monkeypatch):
    for backend, expected in [("cpu", 1), ("gpu", 64), ("tpu", 64)]:
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        assert train.steps_per_call(64) == expected


def test_data_of_another_size_are_refused_before_anything_compiles():
    config = dataclasses.replace(CONFIG, validation=1_890)
    with pytest.raises(
        cifar10.DataError, match=r"expected the 110 training images.*got 100"
    ):
        train.Trainer(config, dataset())


def test_the_compilation_cache_stands_in_the_users_cache_folder(monkeypatch, tmp_path):
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    try:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        train.use_compilation_cache()
        assert Path(jax.config.jax_compilation_cache_dir).is_relative_to(tmp_path)
        monkeypatch.delenv("XDG_CACHE_HOME")
        train.use_compilation_cache()
        expected = Path.home() / ".cache" / "optax_llr"
        assert Path(jax.config.jax_compilation_cache_dir).is_relative_to(expected)
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_resnet20_trains_with_running_statistics(dtype):
    config = dataclasses.replace(
        CONFIG, model="resnet20", dtype=dtype, crop_padding=4, batch_size=50
    )
    program = train.Program(config, dataset(config))
    split = dataset(config).train
    on_device = train.Images(jnp.asarray(split.images), jnp.asarray(split.labels))
    tables = train.policy_tables(POLICIES["uniform"], config, program.layers)
    before = program.initial(jax.random.key(0))
    after = jax.jit(program.step)(before, on_device, tables)
    assert np.isfinite(after.loss)
    old, new = flat(before.statistics), flat(after.statistics)
    assert old
    assert all((old[path] != new[path]).any() for path in old)
    score = jax.jit(program.score)(after.params, after.statistics, on_device)
    assert np.isfinite(score[0])
    assert isinstance(after.params, nnx.State)


def flat(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def is_key(leaf):
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
