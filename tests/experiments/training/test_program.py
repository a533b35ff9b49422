import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import optax_llr
from experiments.config.config import Config
from experiments.data import dataset as data
from experiments.data.augment import normalise
from experiments.training import program as programs

pytestmark = pytest.mark.usefixtures("smooth")

# Ten steps of twenty images in two epochs.
CONFIG = Config(epochs=2, batch_size=20, validation=1_900, rate=0.05)


def dataset(config=CONFIG):
    return data.load(config.data, validation=config.validation)


def on_device(split):
    return programs.Images(jnp.asarray(split.images), jnp.asarray(split.labels))


def tables_of(program, multiplier=lambda step, layer: 1, config=CONFIG):
    """A constant rate, and multipliers by a function of arrays (step, layer)."""
    steps, layers = np.indices((config.total_steps, len(program.layers)))
    values = np.broadcast_to(multiplier(steps, layers), steps.shape)
    rates = np.full(config.total_steps, config.rate, np.float32)
    return programs.Tables(rates, values.astype(np.float32))


def phase_of(program, frozen=()):
    """A phase in which the layers of these indices are frozen."""
    layers = program.layers
    still = tuple(i in frozen for i in range(len(layers)))
    return optax_llr.Phase(layers, 0, 1, still)


def step_of(program, frozen=(), **options):
    """The jitted step of a phase: (state, images, tables) → state."""
    phase = phase_of(program, frozen)
    return jax.jit(functools.partial(program.step, phase=phase), **options)


@pytest.fixture(scope="module")
def program():
    return programs.Program(CONFIG, dataset())


@pytest.fixture(scope="module")
def step(program):
    return step_of(program)


@pytest.fixture(scope="module")
def images():
    return on_device(dataset().train)


def test_steps_agree_with_sgd_written_out(program, step, images):
    state = program.initial(jax.random.key(0))
    tables = tables_of(program, lambda step, layer: 1.5 - step / 10 + layer / 4)
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
    inner = optax_llr.layer_multipliers(program.layers, state.opt_state)
    np.testing.assert_allclose(list(inner.values()), tables.multipliers[2], rtol=1e-6)


def test_a_frozen_layer_does_not_move(program, step, images):
    tables = tables_of(program, lambda step, layer: layer != 1)
    before = program.initial(jax.random.key(0))
    after = step(step(before, images, tables), images, tables)
    after, before = flat(after.params), flat(before.params)
    moved = {p.split("/")[0] for p in before if (after[p] != before[p]).any()}
    assert moved == {"conv1", "conv3", "hidden", "head"}


def test_a_step_is_measured_as_it_is_about_to_be_taken(images):
    """Under Adam, whose counts each layer owns, in the second step."""
    config = dataclasses.replace(CONFIG, optimizer="adamw", decay="ignoring", rate=1e-3)
    program = programs.Program(config, dataset(config))
    tables, step = tables_of(program, config=config), step_of(program)
    before = step(program.initial(jax.random.key(0)), images, tables)
    measures = jax.jit(program.measure)(before, images, tables, before.params)
    after = step(before, images, tables)

    def norm(tree):
        return np.sqrt(optax_llr.layer_sum(program.layers, jnp.square, tree))

    change = jax.tree.map(jnp.subtract, after.params, before.params)
    expected = norm(change) / norm(before.params)
    np.testing.assert_allclose(measures.update_ratio, expected, rtol=1e-3)


def test_an_epoch_shows_every_image_once_in_an_order_of_its_own(program, step, images):
    tables = tables_of(program)
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


def test_each_seed_draws_its_own_images_fewer_of_which_are_a_part_of_more():
    def drawing(each):
        config = dataclasses.replace(CONFIG, images_per_class=each)
        return programs.Program(config, data)

    data = dataset()
    states = {
        (each, seed): drawing(each).initial(jax.random.key(seed))
        for each, seed in ((2, 0), (4, 0), (2, 1))
    }
    few, more, other = (np.asarray(state.order) for state in states.values())
    for order, each in ((few, 2), (more, 4), (other, 2)):
        labels = data.train.labels[np.unique(order)]
        assert np.bincount(labels).tolist() == [each] * data.classes
    assert {*few} < {*more}
    assert {*few} != {*other}
    program = drawing(2)
    after = step_of(program)(states[2, 0], on_device(data.train), tables_of(program))
    assert after.order.tolist() != few.tolist()  # shuffled
    assert {*after.order.tolist()} == {*few}


def test_the_state_holds_all_that_a_run_needs_to_go_on(program, step, images):
    tables = tables_of(program)
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


def test_an_average_of_weights_and_statistics_is_evaluated(images):
    config = dataclasses.replace(CONFIG, norm="batch", ema=0.9, decay="following")
    program = programs.Program(config, dataset())
    step = step_of(program, donate_argnums=0)
    tables = tables_of(program, lambda step, layer: layer != 1)
    state = program.initial(jax.random.key(0))
    average = flat((state.params, state.statistics))
    initial = dict(average)
    for t in range(4):
        for path, value in flat(programs.evaluated(state)).items():
            np.testing.assert_allclose(value, average[path], rtol=1e-5, atol=1e-7)
            weights = path.removeprefix("0/").removesuffix("/value")
            if program.layers.members.get(weights) == 1:
                np.testing.assert_array_equal(value, initial[path])
            elif t:
                assert (value != initial[path]).any()
        state = step(state, images, tables)
        for path, value in flat((state.params, state.statistics)).items():
            average[path] = 0.9 * average[path] + 0.1 * value


def test_without_an_average_the_weights_themselves_are_evaluated(program):
    state = jax.eval_shape(program.initial, jax.random.key(0))
    assert state.average is None
    params, statistics = programs.evaluated(state)
    assert params is state.params
    assert statistics is state.statistics


@pytest.mark.parametrize("smoothing", [0.0, 0.25])
def test_labels_are_smoothed_in_training_and_true_in_evaluation(smoothing, images):
    config = dataclasses.replace(CONFIG, label_smoothing=smoothing)
    program = programs.Program(config, dataset())
    state = program.initial(jax.random.key(0))
    pixels = normalise(images.images, dataset().mean, dataset().std)
    weights = (state.params, state.statistics)
    logits = np.asarray(programs.infer(program._inference, *weights, pixels), float)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    true = log_p[np.arange(100), images.labels]
    smoothed = (1 - smoothing) * true + smoothing * log_p.mean(1)
    loss, (correct, _) = jax.jit(program._loss)(*weights, pixels, images.labels)
    assert loss == pytest.approx(-smoothed.mean(), rel=1e-5)
    assert correct == (logits.argmax(1) == images.labels).sum()
    total, *_ = jax.jit(program.score)(*weights, images)
    assert total == pytest.approx(-true.sum(), rel=1e-5)


def test_cutout_blanks_training_images_with_the_mean_colour(program, images):
    config = dataclasses.replace(CONFIG, cutout=8)
    state = program.initial(jax.random.key(0))
    _, whole, _ = jax.jit(program._next_batch)(state, images)
    cutting = programs.Program(config, dataset())
    _, cut, _ = jax.jit(cutting._next_batch)(state, images)
    blank = np.asarray(cut != whole)
    assert blank.any((1, 2, 3)).all()
    assert not np.asarray(cut)[blank].any()


@pytest.mark.parametrize(("norm", "running"), [("own", True), ("group", False)])
def test_the_model_has_the_norm_of_the_configuration(norm, running):
    config = dataclasses.replace(CONFIG, model="vgg5", norm=norm)
    program = programs.Program(config, dataset())
    state = jax.eval_shape(program.initial, jax.random.key(0))
    assert bool(jax.tree.leaves(state.statistics)) is running


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_resnet20_trains_with_running_statistics(dtype):
    config = dataclasses.replace(
        CONFIG, model="resnet20", dtype=dtype, crop_padding=4, batch_size=50
    )
    program = programs.Program(config, dataset(config))
    images = on_device(dataset(config).train)
    before = program.initial(jax.random.key(0))
    after = step_of(program)(before, images, tables_of(program, config=config))
    assert np.isfinite(after.loss)
    old, new = flat(before.statistics), flat(after.statistics)
    assert old
    assert all((old[path] != new[path]).any() for path in old)
    score = jax.jit(program.score)(after.params, after.statistics, images)
    assert np.isfinite(score[0])
    assert isinstance(after.params, nnx.State)


def test_frozen_layers_and_their_statistics_stand_still(images):
    config = dataclasses.replace(CONFIG, norm="batch", decay="ignoring")
    program = programs.Program(config, dataset())
    before = program.initial(jax.random.key(0))
    step, tables = step_of(program, frozen=(0, 2)), tables_of(program)
    after = step(step(before, images, tables), images, tables)
    members = program.layers.members
    layer_of = {path.rpartition("/")[0]: layer for path, layer in members.items()}
    counted = dict.fromkeys(members.values(), 0)
    for part in ("params", "statistics"):
        old, new = (flat(getattr(state, part)) for state in (before, after))
        for path in old:
            layer = layer_of[path.removesuffix("/value").rpartition("/")[0]]
            assert (old[path] == new[path]).all() == (layer in (0, 2)), path
            counted[layer] += 1
    assert min(counted.values()) >= 2


def test_frozen_layers_are_in_training_what_they_are_in_an_evaluation(images):
    """Else the head learns from features that no evaluation gives it."""
    config = dataclasses.replace(CONFIG, norm="batch")
    program = programs.Program(config, dataset())
    state = program.initial(jax.random.key(0))
    statistics = jax.tree.map(lambda leaf: leaf + 0.5, state.statistics)
    before = state._replace(statistics=statistics)
    body = range(len(program.layers) - 1)
    after = step_of(program, frozen=body)(before, images, tables_of(program))
    _, inputs, labels = program._next_batch(before, images)
    logits = programs.infer(program._inference, before.params, statistics, inputs)
    expected = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    np.testing.assert_allclose(after.loss, expected, rtol=1e-5)


@pytest.mark.parametrize("frozen", [(), (0, 2)])
def test_frozen_statistics_are_used_in_training_and_never_updated(images, frozen):
    config = dataclasses.replace(
        CONFIG, norm="batch", norm_statistics="frozen", ema=0.5
    )
    program = programs.Program(config, dataset())
    state = program.initial(jax.random.key(0))
    statistics = jax.tree.map(lambda leaf: leaf + 0.5, state.statistics)
    average = (state.params, jax.tree.map(jnp.copy, statistics))
    before = state._replace(statistics=statistics, average=average)
    tables = tables_of(program)
    after = step_of(program, frozen)(before, images, tables)
    for kept in (after.statistics, after.average[1]):
        for path, value in flat(kept).items():
            assert (value == flat(statistics)[path]).all(), path
    old, new = flat(before.params), flat(after.params)
    moved = {path.split("/")[0] for path in old if (old[path] != new[path]).any()}
    assert ("conv1" in moved, "norm1" in moved) == (not frozen, not frozen)
    assert {"conv2", "norm2", "head"} <= moved
    # An image has one loss, whatever the others of its batch are: that of evaluation.
    few = programs.Images(images.images[:8], images.labels[:8])
    total, _, count = jax.jit(program.score)(before.params, statistics, few)
    loss = jax.jit(program.training_loss)(before.params, statistics, few)
    np.testing.assert_allclose(loss, total / count, rtol=1e-5)


@pytest.mark.parametrize("norm", ["none", "group"])
def test_statistics_that_are_not_there_are_not_frozen(norm):
    config = dataclasses.replace(CONFIG, norm=norm, norm_statistics="frozen")
    with pytest.raises(ValueError, match="norm_statistics must be running for a mod"):
        programs.Program(config, dataset())


def flat(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.array(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def is_key(leaf):
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
