"""layer_multipliers and layer_table."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_llr
from optax_llr import layer_multipliers, layer_rates, layer_table, scale_by_layer

PARAMS = {
    "stem": {"kernel": jnp.ones((3, 8)), "bias": jnp.ones(8)},
    "blocks": jnp.ones((2, 8, 8)),
    "head": jnp.ones((8, 2)),
}
RULES = [("stem/.*", "stem"), ("blocks", "block[:]"), ("head", "head")]
LAYERS = optax_llr.match_layers(PARAMS, RULES)
FIRST, LAST = np.array([2.0, 1.0, 0.5, 0.0]), np.array([0.0, 1.0, 0.5, 2.0])
schedule = optax.linear_schedule(FIRST, LAST, 4)
scaling = scale_by_layer(LAYERS, schedule)


def named(values):
    return dict(zip(LAYERS.names, np.asarray(values, np.float32), strict=True))


WRAPPED = {
    "bare": scaling,
    "chain": optax.chain(optax.adam(0.1), optax.chain(scaling, optax.identity())),
    "masked": optax.masked(scaling, {"stem": True, "blocks": True, "head": False}),
    "MultiSteps": optax.MultiSteps(scaling, 1).gradient_transformation(),
    "inject_hyperparams": optax.inject_hyperparams(scale_by_layer)(
        layers=LAYERS, multipliers=schedule
    ),
    "apply_if_finite": optax.apply_if_finite(scaling, 2),
    "partition": optax.partition(
        {"a": scaling, "b": optax.sgd(0.1)}, {"stem": "a", "blocks": "a", "head": "b"}
    ),
    "monitor_layers": optax_llr.monitor_layers(scaling, LAYERS),
    "revert_to_uniform": optax_llr.contrib.revert_to_uniform(
        scaling, patience=9, steps=1
    ),
}


@pytest.mark.parametrize("wrapper", WRAPPED)
def test_multipliers_are_those_of_the_last_step_through(wrapper):
    optimizer = WRAPPED[wrapper]
    state = optimizer.init(PARAMS)
    assert layer_multipliers(LAYERS, state) == named(schedule(0))
    update = jax.jit(optax.with_extra_args_support(optimizer).update)
    for count in range(3):
        _, state = update(PARAMS, state, PARAMS, value=1.0)
        assert layer_multipliers(LAYERS, state) == named(schedule(count))


def followed(step, count):
    del step
    return schedule(count), count + 1


FOLLOWING = optax_llr.Rule(lambda layers, params: jnp.int32(0), followed)
ADAPTED = optax_llr.adapt_layers(optax.sgd(0.1), LAYERS, FOLLOWING, bounds=(0, 9))
MEASURED = {
    "bare": ADAPTED,
    "masked, in a chain": optax.chain(optax.masked(ADAPTED, True)),
    "MultiSteps": optax.MultiSteps(ADAPTED, 1).gradient_transformation(),
    "monitor_layers": optax_llr.monitor_layers(ADAPTED, LAYERS),
    "revert_to_uniform": optax_llr.contrib.revert_to_uniform(
        ADAPTED, patience=9, steps=1
    ),
}


@pytest.mark.parametrize("wrapper", MEASURED)
def test_measured_multipliers_are_1_and_then_those_of_the_last_step(wrapper):
    optimizer = optax.with_extra_args_support(MEASURED[wrapper])
    state = optimizer.init(PARAMS)
    assert layer_multipliers(LAYERS, state) == named(np.ones(4))
    update = jax.jit(optimizer.update)
    for count in range(3):
        _, state = update(PARAMS, state, PARAMS, value=1.0)
        assert layer_multipliers(LAYERS, state) == named(schedule(count))


def test_multipliers_on_their_way_back_are_those_that_the_step_used():
    optimizer = optax_llr.contrib.revert_to_uniform(ADAPTED, patience=1, steps=2)
    state = optimizer.init(PARAMS)
    for count, share in enumerate([0.0, 0.5, 1.0]):
        _, state = optimizer.update(PARAMS, state, PARAMS, value=float(count))
        meant = (1 - share) * schedule(count) + share
        assert layer_multipliers(LAYERS, state) == named(meant)


def test_rotations_are_not_taken_for_multipliers():
    turning = optax_llr.layca(LAYERS, LAST)
    state = optax.chain(turning, scaling).init(PARAMS)
    assert layer_multipliers(LAYERS, state) == named(FIRST)


def test_multipliers_are_numbers_that_json_knows():
    values = layer_multipliers(LAYERS, scaling.init(PARAMS))
    assert json.loads(json.dumps(values)) == values
    assert values["stem"] == 2.0


def test_multipliers_can_be_read_inside_jit():
    @jax.jit
    def step(state):
        _, state = scaling.update(PARAMS, state)
        return state, layer_multipliers(LAYERS, state)

    state, _ = step(scaling.init(PARAMS))
    _, values = step(state)
    assert {name: float(value) for name, value in values.items()} == named(schedule(1))


def test_vmapped_state_gives_an_array_for_each_layer():
    def run(values):
        transformation = scale_by_layer(LAYERS, values)
        return transformation.update(PARAMS, transformation.init(PARAMS))[1]

    state = jax.vmap(run)(jnp.stack([jnp.asarray(FIRST), jnp.asarray(LAST)]))
    values = layer_multipliers(LAYERS, state)
    np.testing.assert_array_equal(values["stem"], [2.0, 0.0])


def test_weight_decay_is_not_taken_for_the_rate():
    decay = optax_llr.add_decayed_weights_by_layer(LAYERS, 0.1, LAST)
    state = optax.chain(decay, scale_by_layer(LAYERS, FIRST)).init(PARAMS)
    assert layer_multipliers(LAYERS, state) == named(FIRST)


def test_scaling_is_chosen_by_its_layers():
    single = optax_llr.match_layers(PARAMS, [(".*", "all")])
    kinds = scale_by_layer(single, np.array([7.0]))
    state = optax.chain(scaling, kinds).init(PARAMS)
    assert layer_multipliers(single, state) == {"all": 7.0}
    assert layer_multipliers(LAYERS, state) == named(FIRST)


def test_several_scalings_of_the_same_layers_are_refused():
    state = optax.chain(scaling, scaling).init(PARAMS)
    with pytest.raises(ValueError, match="got 2, and 0 of other layers"):
        layer_multipliers(LAYERS, state)
    assert layer_multipliers(LAYERS, state[1]) == named(FIRST)


def test_no_scaling_and_a_scaling_of_other_layers_are_refused():
    with pytest.raises(ValueError, match="got 0, and 0 of other layers"):
        layer_multipliers(LAYERS, optax.adam(0.1).init(PARAMS))
    swapped = optax_llr.match_layers(PARAMS, RULES[::-1])
    with pytest.raises(ValueError, match="got 0, and 1 of other layers"):
        layer_multipliers(swapped, scaling.init(PARAMS))


def test_table_shows_sizes_and_multipliers_over_time():
    lines = layer_table(LAYERS, PARAMS, schedule, steps=4).splitlines()
    assert lines[0].split() == [
        *["level", "layer", "parameters"],
        *["t=0", "t=1", "t=2", "t=3", "t=4"],
    ]
    rows = [line.split() for line in lines[1:]]
    assert [row[:3] for row in rows] == [
        ["0", "stem", "32"],
        ["1", "block[0]", "64"],
        ["2", "block[1]", "64"],
        ["3", "head", "16"],
    ]
    assert rows[0][3:] == ["2", "1.5", "1", "0.5", "0"]
    assert rows[3][3:] == ["0", "0.5", "1", "1.5", "2"]
    assert len({len(line) for line in lines}) == 1


def test_table_of_constant_multipliers_and_of_none():
    abstract = jax.eval_shape(lambda: PARAMS)
    lines = layer_table(LAYERS, abstract, np.array([0.25, 1, 64, 1e-6])).splitlines()
    assert [line.split()[-1] for line in lines] == [
        *["multiplier", "0.25", "1", "64", "1e-06"]
    ]
    assert "multiplier" not in layer_table(LAYERS, PARAMS)


def test_table_of_a_short_schedule_shows_each_step_once():
    head = layer_table(LAYERS, PARAMS, schedule, steps=2).splitlines()[0]
    assert head.split()[3:] == ["t=0", "t=1", "t=2"]


def test_table_of_large_layers_separates_thousands():
    params = {"w": jax.ShapeDtypeStruct((1000, 1234), jnp.float32)}
    layers = optax_llr.match_layers(params, [("w", "w")])
    assert "1,234,000" in layer_table(layers, params)


def test_table_counts_every_slice_of_a_layer():
    layers = optax_llr.Layers(("a", "b"), np.arange(2), {"w": (0, 0, 1), "v": 1})
    params = {"w": jnp.ones((3, 5)), "v": jnp.ones(2)}
    counts = [line.split()[2] for line in layer_table(layers, params).split("\n")[1:]]
    assert counts == ["10", "7"]


def test_table_refuses_what_it_cannot_show():
    with pytest.raises(ValueError, match="steps: expected an int above 0, got None"):
        layer_table(LAYERS, PARAMS, schedule)
    with pytest.raises(ValueError, match="'neck' is in none of the layers"):
        layer_table(LAYERS, {"neck": jnp.ones(2)})
    with pytest.raises(ValueError, match=r"shape \(4,\)"):
        layer_table(LAYERS, PARAMS, np.ones(3))


@pytest.mark.parametrize("four", [np.int64(4), np.uint8(4), jnp.int32(4)])
def test_steps_may_be_an_int_of_numpy(four):
    table = layer_table(LAYERS, PARAMS, schedule, four)
    assert table == layer_table(LAYERS, PARAMS, schedule, 4)


def test_table_of_nothing_is_its_head():
    none = optax_llr.match_layers({}, [])
    assert layer_table(none, {}).split() == ["level", "layer", "parameters"]
    assert layer_table(none, {}, np.ones(0)).split()[-1] == "multiplier"
    state = scale_by_layer(none, np.ones(0)).init({})
    assert layer_multipliers(none, state) == layer_rates(none, state, 0.1) == {}


BAD = {
    "multipliers: swapped": lambda s: layer_multipliers(s, LAYERS),
    "rates: swapped": lambda s: layer_rates(s, LAYERS, 0.1),
    "reassign: swapped": lambda s: optax_llr.reassign_layers(s, LAYERS),
    "table: swapped": lambda s: layer_table(PARAMS, LAYERS),
    "table: layers twice": lambda s: layer_table(LAYERS, LAYERS),
    "table: no parameters": lambda s: layer_table(LAYERS, None),
    "table: multipliers for steps": lambda s: layer_table(
        LAYERS, PARAMS, schedule, "4"
    ),
    "table: a dict": lambda s: layer_table(LAYERS, PARAMS, {"stem": 1.0}),
    "multipliers: a name": lambda s: layer_multipliers("stem", s),
    "rates: no rate": lambda s: layer_rates(LAYERS, s, None),
    "rates: a vector": lambda s: layer_rates(LAYERS, s, np.ones(4)),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_argument_is_named(case):
    with pytest.raises(ValueError, match=r"^[a-z_]+: [a-z_]+: expected .*got "):
        BAD[case](scaling.init(PARAMS))


def test_swapped_arguments_are_told_their_order():
    with pytest.raises(ValueError, match=r"layer_multipliers\(layers, opt_state\)"):
        layer_multipliers(scaling.init(PARAMS), LAYERS)


# --- layer_rates --------------------------------------------------------------------


def test_rates_are_those_of_the_last_step():
    rate = optax.linear_schedule(0.5, 0.0, 4)
    optimizer = optax.chain(optax.sgd(rate), scaling)
    state = optimizer.init(PARAMS)
    for count in range(3):
        updates, state = optimizer.update(PARAMS, state, PARAMS)
        rates = layer_rates(LAYERS, state, rate)
        # The gradients are all 1, so that steps are rates.
        assert rates["stem"] == pytest.approx(-float(updates["stem"]["bias"][0]))
        assert rates["head"] == pytest.approx(-float(updates["head"][0, 0]))
        assert rates == layer_rates(LAYERS, state, float(rate(count)))
    assert json.loads(json.dumps(rates)) == rates


def test_rates_before_the_first_step_are_those_of_step_0():
    rate = optax.linear_schedule(0.5, 0.0, 4)
    rates = layer_rates(LAYERS, scaling.init(PARAMS), rate)
    assert rates == {name: 0.5 * value for name, value in named(schedule(0)).items()}


@pytest.mark.parametrize("wrapper", MEASURED)
def test_rates_are_found_through(wrapper):
    state = optax.with_extra_args_support(MEASURED[wrapper]).init(PARAMS)
    assert layer_rates(LAYERS, state, 0.5) == named(np.full(4, 0.5))


def test_rates_can_be_read_inside_jit_and_vmap():
    rate = optax.linear_schedule(0.5, 0.0, 4)
    inside = jax.jit(lambda state: layer_rates(LAYERS, state, rate))

    def after(values):
        transformation = scale_by_layer(LAYERS, values)
        _, state = transformation.update(PARAMS, transformation.init(PARAMS))
        return transformation.update(PARAMS, state)[1]

    state = jax.vmap(after)(jnp.stack([jnp.asarray(FIRST), jnp.asarray(LAST)]))
    np.testing.assert_allclose(layer_rates(LAYERS, state, rate)["stem"], [0.75, 0])
    one = jax.tree.map(lambda leaf: leaf[0], state)
    assert float(inside(one)["stem"]) == 0.75
