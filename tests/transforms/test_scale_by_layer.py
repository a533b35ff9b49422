"""What `scale_by_layer` does in training, beside the contract."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_llr

PARAMS = {"stem": jnp.array([1.0, -2.0]), "head": jnp.array([0.5, 3.0, -1.0])}
LAYERS = optax_llr.match_layers(PARAMS, [("stem", "stem"), ("head", "head")])


def gradient(params):
    return jax.tree.map(lambda p: 2.0 * p + 1.0, params)


def train(optimizer, steps=6, jit=False):
    update = jax.jit(optimizer.update) if jit else optimizer.update
    params, state, path = PARAMS, optimizer.init(PARAMS), []
    for _ in range(steps):
        updates, state = update(gradient(params), state, params)
        params = optax.apply_updates(params, updates)
        path.append(params)
    return path, state


def test_multipliers_are_a_rate_for_each_layer():
    """Against one optimizer a layer, at that layer's own rate."""
    rates = {"stem": 0.05, "head": 0.4}
    scaled = optax.chain(
        optax.sgd(0.1, momentum=0.9),
        optax_llr.scale_by_layer(LAYERS, np.array([0.5, 4.0])),
    )
    apart = optax.partition(
        {name: optax.sgd(rate, momentum=0.9) for name, rate in rates.items()},
        {"stem": "stem", "head": "head"},
    )
    for ours, theirs in zip(train(scaled)[0], train(apart)[0], strict=True):
        for name in PARAMS:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5)


def test_schedules_of_optax_take_vectors():
    first, last = np.array([2.0, 0.5]), np.array([0.0, 1.0])
    schedules = [
        optax.linear_schedule(first, last, 4),
        optax.cosine_decay_schedule(first, 4),
        optax.piecewise_constant_schedule(first, {1: 0.5, 3: 0.1}),
        optax.join_schedules([optax.linear_schedule(first, last, 2)] * 2, [2]),
    ]
    for schedule in schedules:
        scaling = optax_llr.scale_by_layer(LAYERS, schedule)
        state = scaling.init(PARAMS)
        update = jax.jit(scaling.update)
        for count in range(5):
            updates, state = update(PARAMS, state)
            for i, name in enumerate(LAYERS.names):
                np.testing.assert_allclose(
                    updates[name],
                    np.asarray(schedule(count))[i] * PARAMS[name],
                    rtol=1e-6,
                )


def test_first_update_uses_the_multipliers_of_step_0():
    schedule = optax.linear_schedule(np.array([1.0, 0.0]), np.array([0.0, 1.0]), 1)
    scaling = optax_llr.scale_by_layer(LAYERS, schedule)
    updates, state = scaling.update(PARAMS, scaling.init(PARAMS))
    np.testing.assert_array_equal(updates["stem"], PARAMS["stem"])
    np.testing.assert_array_equal(updates["head"], 0.0)
    updates, _ = scaling.update(PARAMS, state)
    np.testing.assert_array_equal(updates["stem"], 0.0)


def test_parameters_are_bit_identical_in_jit_where_the_rate_comes_last():
    """Before the rate, multiplier 1 leaves XLA the same last multiply-add."""
    ones = optax_llr.scale_by_layer(LAYERS, np.ones(2))
    rate = optax.scale_by_learning_rate(0.1)

    def fused(*transformations):
        optimizer = optax.chain(optax.trace(0.9), *transformations)

        @jax.jit
        def step(params, state):
            updates, state = optimizer.update(gradient(params), state, params)
            return optax.apply_updates(params, updates), state

        params, state = PARAMS, optimizer.init(PARAMS)
        for _ in range(4):
            params, state = step(params, state)
        return params

    ours, theirs = fused(ones, rate), fused(rate)
    for name in PARAMS:
        np.testing.assert_array_equal(ours[name], theirs[name])


def test_frozen_layer_stays_to_the_bit_and_the_rest_trains():
    frozen = optax.chain(
        optax.adamw(0.1), optax_llr.scale_by_layer(LAYERS, np.array([0.0, 1.0]))
    )
    path, _ = train(frozen, jit=True)
    alone, _ = train(optax.adamw(0.1), jit=True)
    np.testing.assert_array_equal(path[-1]["stem"], PARAMS["stem"])
    np.testing.assert_allclose(path[-1]["head"], alone[-1]["head"], rtol=1e-6)


def test_two_scalings_multiply():
    """Layers by depth and by kind, one behind the other."""
    kinds = optax_llr.match_layers(PARAMS, [("head", "wide"), ("stem", "narrow")])
    both = optax.chain(
        optax_llr.scale_by_layer(LAYERS, np.array([0.5, 2.0])),
        optax_llr.scale_by_layer(kinds, np.array([10.0, 3.0])),
    )
    updates, _ = both.update(PARAMS, both.init(PARAMS))
    np.testing.assert_allclose(updates["stem"], 1.5 * PARAMS["stem"], rtol=1e-6)
    np.testing.assert_allclose(updates["head"], 20.0 * PARAMS["head"], rtol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9, 10, 16, 17, 50])
def test_every_layer_gets_its_own_multiplier_however_many(count):
    params = {f"layer{i}": jnp.ones(2) for i in range(count)}
    layers = optax_llr.match_layers(params, [(r"(layer\d+)", r"\1")])
    values = np.arange(1.0, count + 1.0)
    scaling = optax_llr.scale_by_layer(layers, values)
    updates, state = scaling.update(params, scaling.init(params))
    (digits,) = state.layers.values()
    assert len(digits) == int(np.ceil(np.sqrt(count)))
    np.testing.assert_array_equal([updates[name][0] for name in layers.names], values)


def test_stack_with_its_layers_in_another_order():
    """Slices of one leaf need not be neighbours among the layers."""
    layers = optax_llr.Layers(
        names=("a", "b", "c", "d"),
        level=np.arange(4),
        members={"stack": (3, 1, 0), "lone": 2},
    )
    params = {"stack": jnp.ones((3, 2)), "lone": jnp.ones(())}
    scaling = optax_llr.scale_by_layer(layers, np.array([1.0, 2.0, 3.0, 4.0]))
    updates, _ = scaling.update(params, scaling.init(params))
    np.testing.assert_array_equal(updates["stack"][:, 0], [4.0, 2.0, 1.0])
    assert updates["lone"] == 3.0


def test_decay_with_constant_multipliers_equals_masked_decay():
    ours = optax_llr.add_decayed_weights_by_layer(LAYERS, 0.1, np.array([0.0, 1.0]))
    theirs = optax.add_decayed_weights(0.1, {"stem": False, "head": True})
    updates = gradient(PARAMS)
    a, _ = ours.update(updates, ours.init(PARAMS), PARAMS)
    b, _ = theirs.update(updates, theirs.init(PARAMS), PARAMS)
    for name in PARAMS:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-6)


def test_rate_of_decay_can_be_traced():
    def decayed(rate):
        decay = optax_llr.add_decayed_weights_by_layer(
            LAYERS, rate, np.array([1.0, 2.0])
        )
        return decay.update(PARAMS, decay.init(PARAMS), PARAMS)[0]

    many = jax.vmap(decayed)(jnp.array([0.0, 0.1]))
    np.testing.assert_array_equal(many["head"][0], PARAMS["head"])
    np.testing.assert_allclose(many["head"][1], 1.2 * PARAMS["head"], rtol=1e-6)


@pytest.mark.parametrize("at", [0.0, 0.5, 1.0])
def test_multipliers_can_be_learned_from_where_they_are_exact(at):
    """The selections that make 0 and 1 exact must not hide the derivative."""

    def total(multipliers):
        scaling = optax_llr.scale_by_layer(LAYERS, multipliers)
        updates, _ = scaling.update(PARAMS, scaling.init(PARAMS))
        return sum(jnp.sum(update) for update in jax.tree.leaves(updates))

    gradients = jax.jit(jax.grad(total))(jnp.full(2, at))
    sums = [PARAMS[name].sum() for name in LAYERS.names]
    np.testing.assert_allclose(gradients, sums, rtol=1e-6)


@pytest.mark.parametrize("at", [0.0, 0.5])
def test_strengths_of_decay_can_be_learned(at):
    def total(strengths):
        decay = optax_llr.add_decayed_weights_by_layer(LAYERS, 0.1, strengths)
        updates, _ = decay.update(PARAMS, decay.init(PARAMS), PARAMS)
        return sum(jnp.sum(update) for update in jax.tree.leaves(updates))

    gradients = jax.grad(total)(jnp.full(2, at))
    sums = [0.1 * PARAMS[name].sum() for name in LAYERS.names]
    np.testing.assert_allclose(gradients, sums, rtol=1e-6)


def test_decay_leaves_out_what_has_no_update():
    decay = optax_llr.add_decayed_weights_by_layer(LAYERS, 0.5, np.ones(2))
    updates, _ = decay.update(PARAMS | {"stem": None}, decay.init(PARAMS), PARAMS)
    assert updates["stem"] is None
    np.testing.assert_array_equal(updates["head"], 1.5 * PARAMS["head"])


@pytest.mark.parametrize("rate", [np.nan, np.ones(2), lambda count: 1])
def test_decay_wants_a_number_as_rate(rate):
    with pytest.raises(ValueError, match="weight_decay: expected a finite real number"):
        optax_llr.add_decayed_weights_by_layer(LAYERS, rate, np.ones(2))


def test_decay_takes_its_rate_as_a_hyperparameter():
    decay = optax.inject_hyperparams(optax_llr.add_decayed_weights_by_layer)(
        weight_decay=0.5, layers=LAYERS, multipliers=np.ones(2)
    )
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), PARAMS)
    updates, _ = decay.update(params, decay.init(params), params)
    np.testing.assert_array_equal(updates["stem"].astype(np.float32), [1.5, -3.0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300, -1.0])
def test_constant_multipliers_that_are_not_finite_or_negative_are_refused(bad):
    with pytest.raises(ValueError, match=r"finite multipliers of 0 .* for 'head'"):
        optax_llr.scale_by_layer(LAYERS, np.array([1.0, bad]))


def test_complex_multipliers_are_refused():
    with pytest.raises(ValueError, match=r"expected real multipliers .* got complex"):
        optax_llr.scale_by_layer(LAYERS, np.array([1.0, 1j]))


@pytest.mark.parametrize("state", [None, (), {"count": 0}, optax.EmptyState()])
def test_another_state_is_refused(state):
    with pytest.raises(ValueError, match="expected a ScaleByLayerState"):
        optax_llr.scale_by_layer(LAYERS, np.ones(2)).update(PARAMS, state)


def test_an_integer_update_is_named():
    scaling = optax_llr.scale_by_layer(LAYERS, np.ones(2))
    updates = PARAMS | {"head": jnp.ones(3, jnp.int32)}
    with pytest.raises(ValueError, match="got int32 for 'head'"):
        scaling.update(updates, scaling.init(PARAMS))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float8_e4m3fn])
def test_strict_promotion_of_dtypes_is_no_obstacle(dtype):
    updates = jax.tree.map(lambda p: p.astype(dtype), PARAMS)
    with jax.numpy_dtype_promotion("strict"):
        scaling = optax_llr.scale_by_layer(LAYERS, jnp.array([0.5, 2.0]))
        scaled, _ = jax.jit(scaling.update)(updates, scaling.init(PARAMS))
    assert scaled["stem"].dtype == dtype
    np.testing.assert_array_equal(scaled["stem"].astype(np.float32), [0.5, -1.0])


def test_states_of_different_layers_are_not_handed_over_together():
    one = optax_llr.match_layers(PARAMS, [(".*", "all")])
    chain = optax.chain(
        optax_llr.scale_by_layer(LAYERS, np.ones(2)),
        optax_llr.scale_by_layer(one, np.ones(1)),
    )
    with pytest.raises(ValueError, match="belong to different Layers"):
        optax_llr.reassign_layers(one, chain.init(PARAMS))
