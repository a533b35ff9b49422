"""revert_to_uniform: when it starts, how it leads back, and what it reaches."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import optax_llr
from optax_llr import layer_multipliers, scale_by_layer
from optax_llr.contrib import revert_to_uniform

PARAMS = {"conv": jnp.ones((2, 3)), "neck": jnp.ones(3), "head": jnp.ones(2)}
LAYERS = optax_llr.match_layers(PARAMS, [(name, name) for name in PARAMS])
VALUES = np.array([1 / 3, 0.0, 2.7], np.float32)
SCALING = scale_by_layer(LAYERS, VALUES)
SGD = optax.sgd(0.1, momentum=0.9)
CHAIN = optax.chain(SGD, SCALING)
WORSE, BEST = 2.0, 1.0
NAN, INF = float("nan"), float("inf")


def run(optimizer, values, jit=True):
    """The updates and the state of each step with its value to watch."""
    update = jax.jit(optimizer.update) if jit else optimizer.update
    state = optimizer.init(PARAMS)
    for value in values:
        updates, state = update(PARAMS, state, PARAMS, value=value)
        yield updates, state


def progress(optimizer, values):
    return [int(state.reverting) for _, state in run(optimizer, values)]


def used(state):
    return np.array(list(layer_multipliers(LAYERS, state).values()), np.float32)


# --- The way back -------------------------------------------------------------------


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
def test_updates_keep_every_bit_until_it_begins(jit):
    schedule = optax.linear_schedule(VALUES, VALUES[::-1], 5)
    inner = optax.chain(SGD, scale_by_layer(LAYERS, schedule))
    values = [BEST, 0.9, 1.4, 0.8, 1.2, 0.7]  # never worse twice in a row
    watched = run(revert_to_uniform(inner, patience=2, steps=4), values, jit)
    alone = run(optax.with_extra_args_support(inner), values, jit)
    for (ours, state), (theirs, inner_state) in zip(watched, alone, strict=True):
        chex.assert_trees_all_equal(ours, theirs)
        chex.assert_trees_all_equal(state.inner, inner_state)
        assert state.reverting == 0


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("steps", [1, 4])
def test_multipliers_go_back_on_a_straight_line_and_stay_at_1(steps, jit):
    optimizer = revert_to_uniform(CHAIN, patience=1, steps=steps)
    # Better again as soon as it has begun: there is no way back to the multipliers.
    values = [BEST, WORSE, *[BEST / 2] * (steps + 3)]
    plain = run(optax.with_extra_args_support(SGD), values)
    for count, (ours, theirs) in enumerate(
        zip(run(optimizer, values, jit), plain, strict=True)
    ):
        share = np.clip(count / steps, 0, 1)
        updates, state = ours
        meant = (1 - share) * VALUES + share
        assert state.reverting == min(count, steps)
        np.testing.assert_allclose(used(state), meant, rtol=1e-6)
        if share == 1:
            np.testing.assert_array_equal(used(state), np.ones(3))
            chex.assert_trees_all_equal(updates, theirs[0])
        for path, m in zip(PARAMS, meant, strict=True):  # the frozen one thaws
            np.testing.assert_allclose(updates[path], m * theirs[0][path], rtol=1e-6)


def test_way_back_from_a_schedule_leads_from_where_the_schedule_is():
    schedule = optax.linear_schedule(np.zeros(3), np.full(3, 8.0), 8)
    inner = optax.chain(SGD, scale_by_layer(LAYERS, schedule))
    optimizer = revert_to_uniform(inner, patience=1, steps=4)
    path = [used(s)[0] for _, s in run(optimizer, [BEST, BEST, *[WORSE] * 5])]
    meant = [0.0, 1.0, 0.75 * 2 + 0.25, 0.5 * 3 + 0.5, 0.25 * 4 + 0.75, 1.0, 1.0]
    np.testing.assert_allclose(path, meant, rtol=1e-6)


# --- When it begins -----------------------------------------------------------------

BEGINS = {  # options, values, what `reverting` says after each of them
    "at the first that is worse": ({}, [1, 0.9, 1.2, 0.1], [0, 0, 1, 2]),
    "at once where it starts with NaN": ({}, [NAN, 1], [1, 2]),
    "with patience": ({"patience": 3}, [1, 2, 2, 2, 2], [0, 0, 0, 1, 2]),
    "not if patience is interrupted": (
        {"patience": 2},
        [1, 2, 1, 2, 0.9, 2, 2],
        [0, 0, 0, 0, 0, 0, 1],
    ),
    "not if it only stays": ({}, [1, 1, 1], [0, 0, 0]),
    "not within rtol of the best": ({"rtol": 0.5}, [1, 1.49, 1.51], [0, 0, 1]),
    "rtol is a share of the best, not of the last": (
        {"rtol": 0.25},
        [4, 4.8, 5.2],
        [0, 0, 1],
    ),
    "at rtol 0, if anything is worse": ({"rtol": 0}, [1, 1, 1.001], [0, 0, 1]),
    "not within atol besides": (
        {"rtol": 0.5, "atol": 0.25},
        [1, 1.74, 1.76],
        [0, 0, 1],
    ),
    "at a best of 0, by atol": ({"atol": 0.5}, [0, 0.4, 0.6], [0, 0, 1]),
    "below 0 as above": ({"rtol": 0.5}, [-1, -0.6, -0.4], [0, 0, 1]),
    "for NaN, as if it was worse": (
        {"patience": 2},
        [1, NAN, 1, NAN, INF],
        [0, 0, 0, 0, 1],
    ),
    "minus infinity is no best": (
        {"patience": 2},
        [1, -INF, 1, 1, 1, 2, 2],
        [0, 0, 0, 0, 0, 0, 1],
    ),
    "by means": (
        {"accumulation_size": 2},
        [1, 1, 0, 2, 9, 0, 0, 0],  # means 1, 1, 4.5
        [0, 0, 0, 0, 0, 1, 2, 2],
    ),
    "means that are not finite": (
        {"accumulation_size": 2, "patience": 2},
        [1, 1, NAN, 1, 1, 1, 1, NAN, INF, 1],
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
    ),
    "means forget what came before": (
        {"accumulation_size": 3},
        [6, 0, 0, 0, 0, 6, 2, 2, 2.9],  # means 2, 2, 2.3
        [0, 0, 0, 0, 0, 0, 0, 0, 1],
    ),
}


@pytest.mark.parametrize("case", BEGINS)
def test_begins(case):
    options, values, meant = BEGINS[case]
    optimizer = revert_to_uniform(CHAIN, **{"patience": 1, "steps": 2, **options})
    assert progress(optimizer, map(float, values)) == meant


def test_scan_equals_a_loop():
    optimizer = revert_to_uniform(CHAIN, patience=2, steps=3)
    values = jnp.array([1.0, 0.5, 0.9, 0.8, 0.1, 0.1, 0.1])

    @jax.jit
    def scanned():
        def body(state, value):
            updates, state = optimizer.update(PARAMS, state, PARAMS, value=value)
            return state, (updates, state.reverting)

        return lax.scan(body, optimizer.init(PARAMS), values)

    last, (updates, reverting) = scanned()
    for count, (theirs, state) in enumerate(run(optimizer, values)):
        ours = jax.tree.map(lambda leaf, i=count: leaf[i], updates)
        chex.assert_trees_all_close(ours, theirs, rtol=1e-6)
        assert reverting[count] == state.reverting
    chex.assert_trees_all_close(last, state, rtol=1e-6)
    assert reverting.tolist() == [0, 0, 0, 1, 2, 3, 3]


# --- What it reaches ----------------------------------------------------------------


def constant_rule(value):
    return optax_llr.Rule(
        init=lambda layers, params: (),
        update=lambda step, state: (jnp.full(len(step.layers), value), state),
    )


def accumulating(steps):
    every = optax.MultiSteps(CHAIN, steps)
    # Its own `gradient_transformation` drops extra arguments.
    return optax.GradientTransformationExtraArgs(every.init, every.update)


MASK = {"conv": True, "neck": True, "head": False}
REACHED = {
    "chain": CHAIN,
    "chain in a chain": optax.chain(optax.chain(SGD, SCALING), optax.identity()),
    "masked": optax.chain(SGD, optax.masked(SCALING, MASK)),
    "partition": optax.partition(
        {"a": CHAIN, "b": SGD}, {"conv": "a", "neck": "a", "head": "b"}
    ),
    "apply_if_finite": optax.apply_if_finite(CHAIN, 2),
    "inject_hyperparams": optax.chain(
        SGD,
        optax.inject_hyperparams(scale_by_layer)(layers=LAYERS, multipliers=VALUES),
    ),
    "MultiSteps": accumulating(1),
    "adapt_layers": optax_llr.adapt_layers(SGD, LAYERS, constant_rule(3.0)),
    "monitor_layers": optax_llr.monitor_layers(CHAIN, LAYERS),
}


@pytest.mark.parametrize("case", REACHED)
def test_leads_back_within(case):
    optimizer = revert_to_uniform(REACHED[case], patience=1, steps=2)
    *_, before, half, whole, after = run(optimizer, [BEST, BEST, WORSE, BEST, BEST])
    start = used(before[1])
    assert np.abs(start - 1).max() > 0.5
    np.testing.assert_allclose(used(half[1]), (start + 1) / 2, rtol=1e-6)
    plain = run(optax.with_extra_args_support(SGD), [BEST] * 5)
    *_, theirs, latest = plain
    for (updates, state), (meant, _) in [(whole, theirs), (after, latest)]:
        np.testing.assert_array_equal(used(state), np.ones(3))
        chex.assert_trees_all_close(updates, meant, rtol=1e-6)


def test_several_scalings_are_all_led_back():
    both = optax.chain(SGD, SCALING, scale_by_layer(LAYERS, 2 * VALUES))
    *_, (_, state) = run(revert_to_uniform(both, 1, 1), [BEST, WORSE])
    for part in state.inner[1:]:
        np.testing.assert_array_equal(used(part), np.ones(3))


def test_multi_steps_inside_leads_back_at_its_whole_steps():
    """The watch counts each call, the multipliers move when there is an update."""
    every = accumulating(2)
    optimizer = revert_to_uniform(every, patience=1, steps=4)
    path = [used(s)[2] for _, s in run(optimizer, [BEST, *[WORSE] * 7])]
    meant = (1 - np.array([0, 1, 1, 3, 3, 4, 4, 4]) / 4) * VALUES[2]
    meant += np.array([0, 1, 1, 3, 3, 4, 4, 4]) / 4
    np.testing.assert_allclose(path, meant, rtol=1e-6)


def test_rule_goes_on_with_its_own_multipliers():
    """What it measured last step is what it sees, whatever the layers were led to."""
    doubling = optax_llr.Rule(
        init=lambda layers, params: (),
        update=lambda step, state: (2 * step.multipliers, state),
    )
    adapted = optax_llr.adapt_layers(SGD, LAYERS, doubling, bounds=(0, 1000))
    optimizer = revert_to_uniform(adapted, patience=1, steps=4)
    path = list(run(optimizer, [BEST, *[WORSE] * 5]))
    measured = [state.inner.measured[0] for _, state in path]
    np.testing.assert_array_equal(measured, [2, 4, 8, 16, 32, 64])
    np.testing.assert_array_equal(
        [used(state)[0] for _, state in path], [2, 3.25, 4.5, 4.75, 1, 1]
    )


def test_weight_decay_by_layer_is_not_led_back():
    decay = optax_llr.add_decayed_weights_by_layer(
        LAYERS, 0.5, np.array([4.0, 0.0, 1.0])
    )
    inner = optax.chain(SCALING, decay)
    *_, (updates, state) = run(revert_to_uniform(inner, 1, 1), [BEST, WORSE])
    for path, factor in zip(PARAMS, [1 + 2.0, 1.0, 1 + 0.5], strict=True):
        np.testing.assert_array_equal(updates[path], factor * PARAMS[path])
    np.testing.assert_array_equal(state.inner[1].multipliers, [4.0, 0.0, 1.0])


def test_value_goes_on_to_the_optimizer_inside():
    plateau = optax.contrib.reduce_on_plateau(factor=0.5, patience=1, cooldown=0)
    optimizer = revert_to_uniform(optax.chain(CHAIN, plateau), patience=9, steps=1)
    *_, (_, state) = run(optimizer, [BEST, WORSE, WORSE])
    assert optax.tree.get(state, "scale") < 1


# --- What it refuses ----------------------------------------------------------------


@pytest.mark.parametrize(
    "inner",
    [optax.adam(0.1), optax_llr.add_decayed_weights_by_layer(LAYERS, 0.1, np.ones(3))],
    ids=["adam", "add_decayed_weights_by_layer"],
)
def test_optimizer_without_multipliers_is_refused(inner):
    optimizer = revert_to_uniform(inner, patience=1, steps=1)
    with pytest.raises(ValueError, match="a scale_by_layer or adapt_layers within"):
        optimizer.init(PARAMS)


def test_update_without_a_value_is_refused():
    optimizer = revert_to_uniform(CHAIN, patience=1, steps=1)
    with pytest.raises(ValueError, match=r"update\(updates, state, params, value="):
        optimizer.update(PARAMS, optimizer.init(PARAMS), PARAMS)


def test_state_of_something_else_is_refused():
    optimizer = revert_to_uniform(CHAIN, patience=1, steps=1)
    with pytest.raises(ValueError, match="expected a RevertToUniformState"):
        optimizer.update(PARAMS, CHAIN.init(PARAMS), PARAMS, value=1.0)


@pytest.mark.parametrize("bad", [0, 1.5, True])
@pytest.mark.parametrize("name", ["patience", "steps", "accumulation_size"])
def test_counts_must_be_whole_numbers_above_0(name, bad):
    options = {"patience": 1, "steps": 1, name: bad}
    with pytest.raises(ValueError, match=f"revert_to_uniform: .*{name}.* got {bad!r}"):
        revert_to_uniform(CHAIN, **options)


@pytest.mark.parametrize("name", ["rtol", "atol"])
@pytest.mark.parametrize("bad", [-0.1, NAN])
def test_tolerances_must_be_numbers_of_0_or_above(name, bad):
    with pytest.raises(ValueError, match=f"revert_to_uniform: {name}: .* got {bad!r}"):
        revert_to_uniform(CHAIN, 1, 1, **{name: bad})


@pytest.mark.parametrize(
    "value", [np.ones(3), np.ones(1), 1j, "low", {"loss": 1.0}, [1.0, 2.0]], ids=repr
)
def test_value_that_is_not_one_real_number_is_refused(value):
    """Of length L, each layer would be led back by an element of its own."""
    optimizer = revert_to_uniform(CHAIN, patience=1, steps=1)
    with pytest.raises(ValueError, match="value: expected one real number"):
        optimizer.update(PARAMS, optimizer.init(PARAMS), PARAMS, value=value)


@pytest.mark.parametrize("inner", [LAYERS, None, optax.sgd, optax.MultiSteps(SGD, 2)])
def test_inner_that_is_no_optimizer_is_refused(inner):
    with pytest.raises(ValueError, match="revert_to_uniform: inner: expected an optax"):
        revert_to_uniform(inner, 1, 1)


@pytest.mark.parametrize("kind", [float, np.float64, np.int64, jnp.float32])
def test_types_of_the_state_are_those_of_init_whatever_the_numbers(kind):
    """A loop that carries the state needs them to stay."""
    optimizer = revert_to_uniform(
        CHAIN, kind(2), kind(4), rtol=kind(0), accumulation_size=kind(1)
    )
    values = [BEST, WORSE, WORSE, jnp.bfloat16(WORSE), np.float64(WORSE)]
    states = [state for _, state in run(optimizer, values, jit=False)]
    for state in states:
        chex.assert_trees_all_equal_dtypes(state, optimizer.init(PARAMS))
    assert [int(state.reverting) for state in states] == [0, 0, 1, 2, 3]
    carried = jnp.array(values, jnp.float32)
    lax.scan(
        lambda s, v: (optimizer.update(PARAMS, s, PARAMS, value=v)[1], None),
        optimizer.init(PARAMS),
        carried,
    )
