import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import optax_llr
from optax_llr import Layers


def chain(length):
    names = tuple(f"layer{i}" for i in range(length))
    return Layers(
        names=names,
        level=np.arange(length),
        members={name: i for i, name in enumerate(names)},
    )


# Two branches side by side on levels 1 and 2.
BRANCHED = Layers(
    names=("stem", "conv", "shortcut", "query", "key", "head"),
    level=np.array([0, 1, 1, 2, 2, 3]),
    members={n: i for i, n in enumerate(["s", "c", "p", "q", "k", "h"])},
)

# Every schedule of the library over 60 steps.
SCHEDULES = {
    "interpolate_schedule": lambda layers: optax_llr.interpolate_schedule(
        layers, optax.linear_schedule(1.5, 0.5, 60), optax.linear_schedule(0.5, 1.5, 60)
    ),
    "per_layer_schedule": lambda layers: optax_llr.per_layer_schedule(
        layers,
        {
            name: optax.linear_schedule(1.0, 1.0 + level, 60)
            for name, level in zip(layers.names, layers.level.tolist(), strict=True)
        },
    ),
    "cascade_schedule": lambda layers: optax_llr.cascade_schedule(layers, 10, 30, 60),
    "gradual_unfreeze_schedule": lambda layers: optax_llr.gradual_unfreeze_schedule(
        layers, 9, 7
    ),
    "bottom_first": lambda layers: optax_llr.gradual_unfreeze_schedule(
        layers, 9, top_first=False
    ),
    "freezeout_schedule": lambda layers: optax_llr.freezeout_schedule(layers, 60),
    "table_schedule": lambda layers: optax_llr.table_schedule(
        np.outer(np.arange(60), layers.level + 1.0)
    ),
}
every_schedule = pytest.mark.parametrize("make", SCHEDULES.values(), ids=SCHEDULES)


def over(schedule, steps):
    """The multipliers (steps, L), step after step, compiled."""
    return np.asarray(jax.jit(jax.vmap(schedule))(jnp.arange(steps)))


# What holds for all of them


@every_schedule
@pytest.mark.parametrize("layers", [chain(1), chain(5), BRANCHED], ids=repr)
def test_schedule_gives_a_finite_number_for_each_layer(make, layers):
    multipliers = over(make(layers), 80)
    assert multipliers.shape == (80, len(layers))
    assert multipliers.dtype == np.float32
    assert np.isfinite(multipliers).all()
    assert (multipliers >= 0).all()


@every_schedule
def test_layers_of_one_level_share_their_multiplier(make):
    multipliers = over(make(BRANCHED), 80)
    np.testing.assert_array_equal(multipliers[:, 1], multipliers[:, 2])
    np.testing.assert_array_equal(multipliers[:, 3], multipliers[:, 4])
    assert (multipliers[:, 0] != multipliers[:, 5]).any()


@every_schedule
def test_python_traced_and_vmapped_counts_agree(make):
    schedule = make(chain(5))
    compiled = jax.jit(schedule)
    vmapped = over(schedule, 70)
    for step in (0, 1, 9, 10, 25, 30, 59, 60, 69):
        np.testing.assert_allclose(schedule(step), vmapped[step], rtol=1e-6)
        np.testing.assert_allclose(
            compiled(jnp.int32(step)), vmapped[step], rtol=1e-6, atol=1e-7
        )


@every_schedule
def test_one_trace_serves_every_step(make):
    schedule = make(chain(3))
    traces = []

    @jax.jit
    def step(count):
        traces.append(count)
        return schedule(count)

    for count in range(5):
        step(jnp.int32(count))
    assert len(traces) == 1


@every_schedule
def test_schedule_runs_inside_scan(make):
    schedule = make(chain(4))
    _, scanned = jax.lax.scan(lambda t, _: (t + 1, schedule(t)), 0, length=65)
    np.testing.assert_allclose(scanned, over(schedule, 65), rtol=1e-6, atol=1e-7)


@every_schedule
def test_schedule_needs_no_implicit_promotion(make):
    with jax.numpy_dtype_promotion("strict"):
        schedule = make(chain(3))
        assert schedule(jnp.int32(3)).dtype == jnp.float32
        assert jax.jit(schedule)(jnp.int32(3)).dtype == jnp.float32


@every_schedule
@pytest.mark.usefixtures("double_precision")
def test_schedule_follows_the_default_float_type(make):
    assert make(chain(3))(7).dtype == jnp.float64


# Every argument that is one number; 0.5 is good for each.
NUMBERS = {
    "layer_decay: rate": lambda x: optax_llr.layer_decay(chain(3), x),
    "rotation_alpha: alpha": lambda x: optax_llr.rotation_alpha(chain(3), x),
    "cascade_schedule: first_peak": lambda x: optax_llr.cascade_schedule(
        chain(3), x, 2, 9
    ),
    "cascade_schedule: last_peak": lambda x: optax_llr.cascade_schedule(
        chain(3), 1, x, 9
    ),
    "cascade_schedule: total_steps": lambda x: optax_llr.cascade_schedule(
        chain(3), 0, 0, x
    ),
    "cascade_schedule: start": lambda x: optax_llr.cascade_schedule(
        chain(3), 1, 2, 9, start=x
    ),
    "cascade_schedule: final": lambda x: optax_llr.cascade_schedule(
        chain(3), 1, 2, 9, final=x
    ),
    "gradual_unfreeze_schedule: steps_per_stage": lambda x: (
        optax_llr.gradual_unfreeze_schedule(chain(3), x)
    ),
    "gradual_unfreeze_schedule: ramp_steps": lambda x: (
        optax_llr.gradual_unfreeze_schedule(chain(3), 9, x)
    ),
    "freezeout_schedule: total_steps": lambda x: optax_llr.freezeout_schedule(
        chain(3), x
    ),
    "freezeout_schedule: t0": lambda x: optax_llr.freezeout_schedule(chain(3), 9, x),
    "freezeout_schedule: power": lambda x: optax_llr.freezeout_schedule(
        chain(3), 9, 0.5, x
    ),
}
every_number = pytest.mark.parametrize("name", NUMBERS)


@every_number
def test_what_is_no_finite_real_number_is_refused(name):
    """What else is none stands in test_checks.py."""
    with pytest.raises(ValueError, match=f"{name}: expected a finite real number"):
        NUMBERS[name](math.nan)


@every_number
def test_a_traced_number_must_be_one_number(name):
    def multipliers(x):
        made = NUMBERS[name](x)
        return made(0) if callable(made) else made

    assert jax.jit(multipliers)(0.5).shape == (3,)
    for bad in (jnp.ones(1), jnp.array(True), jnp.array(1j)):
        with pytest.raises(ValueError, match=f"{name}: expected a finite real number"):
            jax.jit(multipliers)(bad)


@pytest.mark.usefixtures("double_precision")
def test_in_double_precision_a_number_may_be_larger():
    assert optax_llr.layer_decay(chain(2), 1e300).tolist() == [1e300, 1.0]


@pytest.mark.parametrize(
    "swapped",
    [
        lambda layers: optax_llr.interpolate_schedule(1.5, layers, 0.5),
        lambda layers: optax_llr.per_layer_schedule({"layer0": 1.0}, layers),
        lambda layers: optax_llr.layer_decay(0.5, layers),
        lambda layers: optax_llr.rotation_alpha(0.5, layers),
        lambda layers: optax_llr.cascade_schedule(1, 2, 10, layers),
        lambda layers: optax_llr.gradual_unfreeze_schedule(10, layers),
        lambda layers: optax_llr.freezeout_schedule(10, layers),
    ],
)
def test_arguments_in_another_order_are_named(swapped):
    with pytest.raises(ValueError, match="layers: expected Layers, as trace_layers"):
        swapped(chain(2))


# interpolate


def test_interpolate_between_numbers_is_a_schedule_too():
    multipliers = optax_llr.interpolate_schedule(chain(5), 1.5, 0.5)
    np.testing.assert_array_equal(multipliers(0), [1.5, 1.25, 1.0, 0.75, 0.5])
    swept = jax.jit(jax.vmap(multipliers))(jnp.arange(2))
    np.testing.assert_array_equal(swept, [multipliers(0), multipliers(1)])


def test_interpolate_between_schedules_crosses_at_one():
    steps = 40
    schedule = optax_llr.interpolate_schedule(
        chain(6),
        optax.linear_schedule(1.5, 0.5, steps),
        optax.linear_schedule(0.5, 1.5, steps),
    )
    multipliers = over(schedule, steps + 1)
    np.testing.assert_array_equal(multipliers[steps // 2], np.ones(6))
    np.testing.assert_allclose(multipliers.mean(axis=1), 1.0, rtol=1e-6)
    for t in range(steps + 1):
        a, b = 1.5 - t / steps, 0.5 + t / steps
        expected = [a + (b - a) * i / 5 for i in range(6)]
        np.testing.assert_allclose(multipliers[t], expected, rtol=1e-6)


def test_interpolate_takes_a_schedule_at_one_end():
    schedule = optax_llr.interpolate_schedule(
        chain(3), optax.linear_schedule(0.0, 2.0, 10), 1.0
    )
    np.testing.assert_allclose(schedule(5), [1.0, 1.0, 1.0])
    np.testing.assert_allclose(schedule(10), [2.0, 1.5, 1.0])


def test_interpolate_gives_a_single_layer_the_first_value():
    multipliers = optax_llr.interpolate_schedule(chain(1), 0.3, 0.9)
    np.testing.assert_array_equal(multipliers(0), np.float32([0.3]))


@given(
    first=st.floats(0, 1e3, width=32),
    last=st.floats(0, 1e3, width=32),
    length=st.sampled_from([2, 3, 30]),
)
@settings(max_examples=25, deadline=None)
def test_interpolate_is_exact_at_both_ends_and_between_them(first, last, length):
    multipliers = optax_llr.interpolate_schedule(chain(length), first, last)(0)
    assert multipliers[0] == first
    assert multipliers[-1] == last
    slack = 1e-6 * max(first, last)  # computed in float32
    assert (multipliers >= min(first, last) - slack).all()
    assert (multipliers <= max(first, last) + slack).all()


@given(value=st.floats(0, 1e3, width=32))
@settings(max_examples=25, deadline=None)
def test_interpolate_between_equal_schedules_is_that_value_exactly(value):
    schedule = optax_llr.interpolate_schedule(
        chain(7), optax.constant_schedule(value), optax.constant_schedule(value)
    )
    assert set(jax.jit(schedule)(3).tolist()) == {value}


def test_interpolate_maps_over_traced_ends():
    firsts = jnp.array([1.5, 1.0])
    layers = chain(3)
    swept = jax.vmap(lambda a: optax_llr.interpolate_schedule(layers, a, 0.5)(0))(
        firsts
    )
    np.testing.assert_allclose(swept, [[1.5, 1.0, 0.5], [1.0, 0.75, 0.5]])


@pytest.mark.parametrize("bad", [np.nan, -0.5, np.ones(1)])
def test_interpolate_refuses_what_is_no_number(bad):
    with pytest.raises(
        ValueError, match="interpolate_schedule: first: expected a finite num"
    ):
        optax_llr.interpolate_schedule(chain(2), bad, 1.0)
    with pytest.raises(
        ValueError, match="interpolate_schedule: last: expected a finite num"
    ):
        optax_llr.interpolate_schedule(chain(2), 1.0, bad)


def test_interpolate_refuses_a_schedule_of_vectors():
    schedule = optax_llr.interpolate_schedule(chain(3), lambda count: jnp.ones(3), 1.0)
    with pytest.raises(ValueError, match=r"first: .* returns float32 of shape \(3,\)"):
        schedule(0)


# per_layer


def test_per_layer_plays_three_schedules_side_by_side():
    schedule = optax_llr.per_layer_schedule(
        chain(3),
        {
            "layer2": optax.linear_schedule(0.5, 2.0, 100),
            "layer0": optax.linear_schedule(2.0, 0.5, 10),
            "layer1": 1.0,
        },
    )
    expected = [
        [max(0.5, 2.0 - 1.5 * t / 10), 1.0, min(2.0, 0.5 + 1.5 * t / 100)]
        for t in range(120)
    ]
    multipliers = over(schedule, 120)
    np.testing.assert_allclose(multipliers, expected, rtol=1e-6)
    np.testing.assert_allclose(multipliers[:2, 0], [2.0, 1.85], rtol=1e-6)
    assert set(multipliers[:, 1].tolist()) == {1.0}


def test_per_layer_of_numbers_is_a_schedule_too():
    multipliers = optax_llr.per_layer_schedule(chain(2), {"layer1": 0, "layer0": 64})
    np.testing.assert_array_equal(multipliers(0), [64.0, 0.0])


def test_per_layer_maps_over_a_traced_number():
    layers = chain(2)
    swept = jax.vmap(
        lambda m: optax_llr.per_layer_schedule(layers, {"layer0": m, "layer1": 1.0})(0)
    )(jnp.array([0.5, 2.0]))
    np.testing.assert_array_equal(swept, [[0.5, 1.0], [2.0, 1.0]])


def test_per_layer_names_missing_and_unknown_layers():
    with pytest.raises(ValueError, match="every layer") as caught:
        optax_llr.per_layer_schedule(BRANCHED, {"stem": 1.0, "haed": 1.0, "conv": 1.0})
    message = str(caught.value)
    assert "without one: ['shortcut', 'query', 'key', 'head']" in message
    assert "no layer's: ['haed']" in message
    assert "no layer's: ['haed']. The layers are ['stem', 'conv', " in message
    assert message.endswith("'head']; did you mean 'head'?")


def test_per_layer_asks_once_for_several_slips_of_spelling():
    slips = {"haed": 1.0, "shortcuts": 1.0}
    with pytest.raises(ValueError, match="every layer") as caught:
        optax_llr.per_layer_schedule(BRANCHED, slips)
    hints = "; did you mean 'head'; did you mean 'shortcut'?"
    assert str(caught.value).endswith(hints)


@pytest.mark.parametrize(
    "bad", [None, 1.0, [1.0, 1.0], np.ones(2), ["layer0", "layer1"], {0: 1.0, 1: 1.0}]
)
def test_per_layer_refuses_what_is_no_mapping_from_names(bad):
    with pytest.raises(
        ValueError, match="per_layer_schedule: multipliers: expected a mapping"
    ):
        optax_llr.per_layer_schedule(chain(2), bad)


def test_per_layer_evaluates_a_shared_schedule_once():
    calls = []

    def half(count):
        calls.append(count)
        return jnp.asarray(count, float) / 2

    layers = chain(500)
    schedule = optax_llr.per_layer_schedule(
        layers, {**dict.fromkeys(layers.names, half), "layer7": 1.0}
    )
    expected = np.full(500, 1.5)
    expected[7] = 1.0
    np.testing.assert_array_equal(schedule(3), expected)
    assert len(calls) == 1


def test_per_layer_refuses_a_missing_layer_alone():
    with pytest.raises(ValueError, match=r"without one: \['layer1'\]"):
        optax_llr.per_layer_schedule(chain(2), {"layer0": 1.0})


def test_per_layer_refuses_an_unknown_layer_alone():
    multipliers = {"layer0": 1.0, "layer1": 1.0, "layer2": 1.0}
    with pytest.raises(ValueError, match=r"no layer's: \['layer2'\]"):
        optax_llr.per_layer_schedule(chain(2), multipliers)


@pytest.mark.parametrize("bad", [math.nan, None, [1.0, 2.0]])
def test_per_layer_names_the_layer_whose_multiplier_is_no_number(bad):
    with pytest.raises(
        ValueError, match=r"'layer1': expected a finite number .* schedule"
    ):
        optax_llr.per_layer_schedule(chain(2), {"layer0": 1.0, "layer1": bad})


def test_per_layer_names_the_layer_whose_schedule_returns_a_vector():
    schedule = optax_llr.per_layer_schedule(
        chain(2), {"layer0": 1.0, "layer1": lambda count: jnp.ones(2)}
    )
    with pytest.raises(ValueError, match="'layer1': expected a schedule that returns"):
        jax.jit(schedule)(0)


# layer_decay


def test_layer_decay_gives_the_discriminative_rates_of_ulmfit():
    multipliers = optax_llr.layer_decay(chain(3), 1 / 2.6)
    np.testing.assert_allclose(multipliers, [0.147929, 0.384615, 1.0], atol=5e-7)
    assert multipliers[-1] == 1


@given(rate=st.floats(0.01, 2.0), length=st.integers(1, 40))
def test_layer_decay_multiplies_down_from_the_head(rate, length):
    expected = [1.0]
    for _ in range(length - 1):
        expected.insert(0, expected[0] * rate)
    multipliers = optax_llr.layer_decay(chain(length), rate)
    np.testing.assert_allclose(multipliers, expected, rtol=1e-12)


def test_layer_decay_counts_levels_not_layers():
    np.testing.assert_allclose(
        optax_llr.layer_decay(BRANCHED, 0.5), [0.125, 0.25, 0.25, 0.5, 0.5, 1.0]
    )


def test_layer_decay_maps_over_a_traced_rate():
    layers = chain(3)
    swept = jax.vmap(lambda d: optax_llr.layer_decay(layers, d))(jnp.array([0.5, 1.0]))
    np.testing.assert_allclose(swept, [[0.25, 0.5, 1.0], [1.0, 1.0, 1.0]])


@pytest.mark.parametrize("bad", [0.0, -0.5])
def test_layer_decay_refuses_rates_that_are_not_above_zero(bad):
    with pytest.raises(ValueError, match="layer_decay: rate: expected a number above"):
        optax_llr.layer_decay(chain(2), bad)


@pytest.mark.parametrize("rate", [1e30, 3e38, np.float32(1e30), jnp.float32(1e30)])
def test_layer_decay_refuses_a_rate_whose_powers_overflow(rate):
    assert optax_llr.layer_decay(chain(2), rate).tolist() == [float(rate), 1.0]
    with pytest.raises(ValueError, match=r"layer_decay: rate: .* powers are finite"):
        optax_llr.layer_decay(chain(20), rate)


# rotation_alpha


def test_rotation_alpha_gives_the_multipliers_of_the_paper():
    slow_early = [0.01024, 0.0256, 0.064, 0.16, 0.4, 1.0]
    np.testing.assert_allclose(optax_llr.rotation_alpha(chain(6), 0.6), slow_early)
    np.testing.assert_allclose(
        optax_llr.rotation_alpha(chain(6), -0.6), slow_early[::-1]
    )


@pytest.mark.parametrize("length", [1, 2, 7])
def test_rotation_alpha_zero_changes_nothing(length):
    assert optax_llr.rotation_alpha(chain(length), 0).tolist() == [1.0] * length


@given(alpha=st.floats(-0.95, 0.95), length=st.integers(2, 20))
def test_rotation_alpha_follows_its_two_branches(alpha, length):
    last = length - 1
    expected = [
        (1 - alpha) ** (5 * (last - i) / last)
        if alpha > 0
        else (1 + alpha) ** (5 * i / last)
        for i in range(length)
    ]
    multipliers = optax_llr.rotation_alpha(chain(length), alpha)
    np.testing.assert_allclose(multipliers, expected, rtol=1e-12)
    assert multipliers[-1 if alpha > 0 else 0] == 1


@pytest.mark.parametrize("alpha", [-0.6, 0.6])
def test_rotation_alpha_leaves_a_single_layer_alone(alpha):
    assert optax_llr.rotation_alpha(chain(1), alpha).tolist() == [1.0]


def test_rotation_alpha_maps_over_a_traced_alpha():
    layers = chain(4)
    alphas = np.array([-0.6, 0.0, 0.6])
    swept = jax.vmap(lambda a: optax_llr.rotation_alpha(layers, a))(jnp.asarray(alphas))
    expected = [optax_llr.rotation_alpha(layers, a) for a in alphas]
    np.testing.assert_allclose(swept, expected, rtol=1e-5)


@pytest.mark.parametrize("bad", [-1, 1, 1.5])
def test_rotation_alpha_refuses_what_would_freeze_all_layers_but_one(bad):
    with pytest.raises(ValueError, match="alpha: expected a number between -1 and 1"):
        optax_llr.rotation_alpha(chain(2), bad)


# cascade


def one_cycle(t, peak, total, start, final):
    if t >= total:
        return final
    if t <= peak:
        return start + (1 - start) * (t / peak if peak else 1.0)
    return final + (1 - final) * (total - t) / (total - peak)


def test_cascade_peaks_at_epochs_10_15_20():
    multipliers = over(optax_llr.cascade_schedule(chain(5), 10, 30, 50), 60)
    assert multipliers.argmax(axis=0).tolist() == [10, 15, 20, 25, 30]
    assert multipliers.max(axis=0).tolist() == [1.0] * 5


@given(data=st.data(), length=st.integers(1, 8), total=st.integers(1, 90))
@settings(max_examples=25, deadline=None)
def test_cascade_is_a_one_cycle_in_each_layer(data, length, total):
    first = data.draw(st.integers(0, total - 1))
    last = data.draw(st.integers(0, total - 1))
    start, final = data.draw(st.floats(0, 1)), data.draw(st.floats(0, 1))
    layers = chain(length)
    schedule = optax_llr.cascade_schedule(
        layers, first, last, total, start=start, final=final
    )
    # One size of the batch for all examples: a shape more is a compilation more.
    multipliers = np.asarray(jax.vmap(schedule)(jnp.arange(100)))
    peaks = [round(first + (last - first) * depth) for depth in layers.depth.tolist()]
    expected = [
        [one_cycle(t, peak, total, start, final) for peak in peaks] for t in range(100)
    ]
    np.testing.assert_allclose(multipliers, expected, rtol=2e-6, atol=1e-6)
    assert (multipliers[peaks, np.arange(length)] == 1).all()
    assert (multipliers[total:] == np.float32(final)).all()


def test_cascade_is_exact_under_jit_and_eagerly():
    schedule = optax_llr.cascade_schedule(chain(7), 11, 77, 97, start=0.1, final=0.003)
    peaks = np.linspace(11, 77, 7).round().astype(int)
    for call in (schedule, jax.jit(schedule)):
        for layer, peak in enumerate(peaks.tolist()):
            assert call(peak)[layer] == 1
        for step in (97, 98, 10_000):
            assert set(np.asarray(call(step))) == {np.float32(0.003)}


def test_cascade_rounds_peaks_to_steps_that_happen():
    multipliers = over(optax_llr.cascade_schedule(chain(4), 10, 20, 50), 50)
    assert multipliers.argmax(axis=0).tolist() == [10, 13, 17, 20]
    assert multipliers.max(axis=0).tolist() == [1.0] * 4


def test_cascade_with_a_peak_at_step_0_only_falls():
    schedule = optax_llr.cascade_schedule(chain(2), 0, 5, 10, start=0.0, final=0.0)
    np.testing.assert_allclose(over(schedule, 11)[:, 0], np.linspace(1, 0, 11))


def test_cascade_maps_over_traced_peaks():
    layers = chain(3)
    swept = jax.vmap(lambda p: optax_llr.cascade_schedule(layers, p, 30, 50)(20))(
        jnp.array([10, 20])
    )
    expected = [optax_llr.cascade_schedule(layers, p, 30, 50)(20) for p in (10, 20)]
    np.testing.assert_allclose(swept, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 2, 0), "total_steps: expected a number above 0, got 0"),
        ((1, 2, -5), "total_steps: expected a number above 0, got -5"),
        ((-1, 2, 10), "first_peak, last_peak: .* got -1, 2"),
        ((1, 10, 10), "below total_steps = 10, got 1, 10"),
        ((1, 9.7, 10), "peaks that round to a step"),
    ],
)
def test_cascade_refuses_peaks_outside_of_training(arguments, message):
    with pytest.raises(ValueError, match=f"cascade_schedule: .*{message}"):
        optax_llr.cascade_schedule(chain(2), *arguments)


@pytest.mark.parametrize("end", ["start", "final"])
def test_cascade_refuses_ends_below_zero(end):
    with pytest.raises(ValueError, match=f"{end}: expected a number of 0 or above"):
        optax_llr.cascade_schedule(chain(2), 1, 2, 10, **{end: -0.1})


def test_cascade_stays_finite_between_the_largest_numbers():
    multipliers = over(
        optax_llr.cascade_schedule(chain(3), 0, 2, 5, start=3e38, final=3e38), steps=8
    )
    assert np.isfinite(multipliers).all()


# gradual_unfreeze


def test_hard_unfreezing_lets_one_level_join_a_stage_from_the_top():
    multipliers = over(optax_llr.gradual_unfreeze_schedule(chain(3), 10), 40)
    expected = [[float(t >= 20), float(t >= 10), 1.0] for t in range(40)]
    np.testing.assert_array_equal(multipliers, expected)


def test_unfreezing_from_the_bottom_is_the_reverse_over_a_chain():
    top_first = over(optax_llr.gradual_unfreeze_schedule(chain(4), 10, 5), 50)
    schedule = optax_llr.gradual_unfreeze_schedule(chain(4), 10, 5, top_first=False)
    np.testing.assert_array_equal(over(schedule, 50), top_first[:, ::-1])
    np.testing.assert_array_equal(schedule(0), [1, 0, 0, 0])


@given(
    stage=st.integers(1, 12),
    ramp=st.integers(0, 20),
    length=st.integers(1, 6),
    top_first=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_unfreezing_is_exactly_0_before_and_1_after_its_ramp(
    stage, ramp, length, top_first
):
    schedule = optax_llr.gradual_unfreeze_schedule(
        chain(length), stage, ramp, top_first=top_first
    )
    multipliers = np.asarray(jax.vmap(schedule)(jnp.arange(100)))
    for layer in range(length):
        place = length - 1 - layer if top_first else layer
        begin = stage * place
        end = begin + ramp if place else 0
        column = multipliers[:, layer]
        assert (column[:begin] == 0).all()
        assert (column[end:] == 1).all()
        ramped = [(t - begin) / ramp for t in range(begin, end)]
        np.testing.assert_allclose(column[begin:end], ramped, rtol=1e-6)


def test_ramp_equals_the_linear_schedule_of_optax():
    ramped = over(optax_llr.gradual_unfreeze_schedule(chain(2), 10, 8), 30)[:, 0]
    linear = over(optax.linear_schedule(0.0, 1.0, 8, transition_begin=10), 30)
    np.testing.assert_allclose(ramped, linear, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("bad", [0, -1])
def test_unfreezing_refuses_stages_without_steps(bad):
    with pytest.raises(ValueError, match="steps_per_stage: expected a number above"):
        optax_llr.gradual_unfreeze_schedule(chain(2), bad)


def test_unfreezing_refuses_a_negative_ramp():
    with pytest.raises(ValueError, match="ramp_steps: expected a number of 0 or"):
        optax_llr.gradual_unfreeze_schedule(chain(2), 10, -1)


@pytest.mark.parametrize("bad", ["bottom", 1, None])
def test_unfreezing_refuses_a_direction_that_is_no_bool(bad):
    with pytest.raises(ValueError, match="top_first: expected True or False, got "):
        optax_llr.gradual_unfreeze_schedule(chain(2), 10, top_first=bad)


# freezeout


def test_freezeout_gives_the_check_values_of_the_paper():
    def first(**keywords):
        return optax_llr.freezeout_schedule(chain(5), 100, t0=0.5, power=1, **keywords)(
            25
        )[0]

    np.testing.assert_allclose(first(scaled=False), 0.5, rtol=1e-6)
    np.testing.assert_allclose(first(), 1.0, rtol=1e-6)
    at_a_quarter = optax_llr.freezeout_schedule(chain(5), 1000)(250)
    np.testing.assert_allclose(
        at_a_quarter[jnp.array([0, 2, 4])], [1.012507, 1.010735, 0.853553], atol=5e-7
    )


@given(
    total=st.integers(1, 90),
    t0=st.floats(0.05, 1.0),
    power=st.sampled_from([1, 2, 3]),
    scaled=st.booleans(),
    length=st.integers(1, 7),
)
@settings(max_examples=80, deadline=None)
def test_freezeout_follows_the_cosine_and_then_is_exactly_0(
    total, t0, power, scaled, length
):
    schedule = optax_llr.freezeout_schedule(
        chain(length), total, t0=t0, power=power, scaled=scaled
    )
    multipliers = np.asarray(jax.vmap(schedule)(jnp.arange(100)))
    for layer in range(length):
        depth = layer / (length - 1) if length > 1 else 1.0
        end = (t0 + (1 - t0) * depth) ** power
        for t in range(100):
            if t / total >= end * (1 + 1e-9):
                assert multipliers[t, layer] == 0
            elif t / total < end * (1 - 1e-6):
                expected = 0.5 * (1 + math.cos(math.pi * (t / total) / end))
                expected /= end if scaled else 1.0
                assert multipliers[t, layer] == pytest.approx(expected, abs=1e-5 / end)


@pytest.mark.parametrize("total", [10, 125, 1000, 10**6, 10**7])
def test_freezeout_freezes_at_the_very_step(total):
    schedule = optax_llr.freezeout_schedule(chain(2), total, t0=0.8, power=3)
    frozen_from = math.ceil(total * 512 / 1000)
    for call in (schedule, jax.jit(schedule)):
        assert call(frozen_from)[0] == 0
        assert call(total - 1)[0] == 0
        assert call(total)[1] == 0
    if total <= 1000:  # later on the step before is 0 to the precision of float32
        assert schedule(frozen_from - 1)[0] > 0


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("total", [10, 125, 1000, 10**6, 10**7])
def test_freezeout_freezes_at_the_very_step_in_double_precision(total):
    schedule = optax_llr.freezeout_schedule(chain(2), total, t0=0.8, power=3)
    frozen_from = math.ceil(total * 512 / 1000)
    assert schedule(frozen_from - 1)[0] > 0
    assert schedule(frozen_from)[0] == 0


def test_freezeout_trains_a_single_layer_until_the_end():
    multipliers = over(optax_llr.freezeout_schedule(chain(1), 100), 101)[:, 0]
    assert (multipliers[:100] > 0).all()
    assert multipliers[0] == 1
    assert multipliers[100] == 0


def test_scaled_freezeout_sweeps_the_same_area_in_each_layer():
    multipliers = over(optax_llr.freezeout_schedule(chain(5), 1000), 1000)
    np.testing.assert_allclose(multipliers.sum(axis=0), 500, rtol=5e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"total_steps": 0}, "total_steps: expected a number above 0, got 0"),
        ({"total_steps": 10, "t0": 0.0}, r"t0: expected a number in \(0, 1\], got 0.0"),
        ({"total_steps": 10, "t0": 1.1}, r"t0: expected a number in \(0, 1\], got 1.1"),
        ({"total_steps": 10, "power": 0}, "power: expected a number above 0, got 0"),
        ({"total_steps": 10, "t0": 1e-20}, "power: expected a larger t0 or a smaller"),
        ({"total_steps": 10, "scaled": "no"}, "scaled: expected True or False"),
    ],
)
def test_freezeout_refuses_what_has_no_meaning(arguments, message):
    with pytest.raises(ValueError, match=f"freezeout_schedule: {message}"):
        optax_llr.freezeout_schedule(chain(2), **arguments)


# table


def test_table_reads_its_rows_and_holds_the_last():
    values = np.random.default_rng(0).uniform(size=(7, 3)).astype(np.float32)
    multipliers = over(optax_llr.table_schedule(values), 12)
    np.testing.assert_array_equal(multipliers[:7], values)
    np.testing.assert_array_equal(multipliers[7:], np.tile(values[-1], (5, 1)))


def test_table_replays_another_schedule():
    schedule = optax_llr.cascade_schedule(chain(4), 3, 12, 20)
    replayed = optax_llr.table_schedule(over(schedule, 21))
    np.testing.assert_array_equal(over(replayed, 30), over(schedule, 30))


def test_table_may_be_traced():
    rows = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    read = jax.jit(lambda values, count: optax_llr.table_schedule(values)(count))
    np.testing.assert_array_equal(read(rows, 1), [3.0, 4.0])


@pytest.mark.parametrize("shape", [(), (3,), (0, 3), (1, 0), (2, 3, 4)])
def test_table_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match=r"table_schedule: values: .* array \(T, L\)"):
        optax_llr.table_schedule(np.ones(shape))


@pytest.mark.parametrize(
    "values", [[["1", "2"]], [[1j]], [[True, False]], [[None]], [[]]]
)
def test_table_refuses_what_are_no_real_numbers(values):
    with pytest.raises(
        ValueError, match=r"table_schedule: values: .* of real numbers, "
    ):
        optax_llr.table_schedule(values)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e300])
def test_table_names_the_row_that_is_not_finite(bad):
    values = np.ones((5, 2))
    values[3, 1] = bad
    with pytest.raises(ValueError, match=r"expected finite multipliers .* is row 3"):
        optax_llr.table_schedule(values)


# Long runs

FAR = 20_000_001  # an odd number beyond 2²⁴, from where float32 has the even ones only
EDGES = {  # a schedule, the layer that has an edge at FAR, and its multipliers there
    "gradual_unfreeze_schedule": (
        lambda: optax_llr.gradual_unfreeze_schedule(chain(2), FAR),
        0,
        (0.0, 1.0),
    ),
    "gradual_unfreeze_schedule, fraction": (
        lambda: optax_llr.gradual_unfreeze_schedule(chain(2), FAR - 0.5),
        0,
        (0.0, 1.0),
    ),
    "gradual_unfreeze_schedule, ramp": (
        lambda: optax_llr.gradual_unfreeze_schedule(chain(2), FAR - 4, 4),
        0,
        (0.75, 1.0),
    ),
    "cascade_schedule, peak": (
        lambda: optax_llr.cascade_schedule(chain(2), FAR, 0, FAR + 4, final=0.0),
        0,
        (1.0 - 1 / FAR, 1.0),
    ),
    "cascade_schedule, fall": (
        lambda: optax_llr.cascade_schedule(chain(2), FAR - 4, 0, FAR, final=0.0),
        0,
        (0.25, 0.0),
    ),
    "freezeout_schedule": (
        lambda: optax_llr.freezeout_schedule(chain(2), FAR, scaled=False),
        1,
        (np.pi**2 / 4 / FAR**2, 0.0),
    ),
    "join_schedules": (  # control
        lambda: optax.join_schedules(
            [lambda t: jnp.zeros(2), lambda t: jnp.ones(2)], [FAR]
        ),
        0,
        (0.0, 1.0),
    ),
}


@pytest.mark.parametrize("kind", [int, np.int64, jnp.int32, "jit"])
@pytest.mark.parametrize("name", EDGES)
def test_edges_are_steps_of_their_own_beyond_2_to_the_24(name, kind):
    make, layer, expected = EDGES[name]
    schedule = jax.jit(make()) if kind == "jit" else make()
    counted = jnp.int32 if kind == "jit" else kind
    for count, value in zip((FAR - 1, FAR), expected, strict=True):
        found = float(schedule(counted(count))[layer])
        if value in (0.0, 1.0):
            assert found == value
        else:
            np.testing.assert_allclose(found, value, rtol=1e-5)


@every_schedule
@pytest.mark.parametrize("kind", [float, np.float32, jnp.float32])
def test_counts_may_be_floats(make, kind):
    schedule = make(chain(5))
    for count in (0, 9, 25, 70):
        np.testing.assert_allclose(
            schedule(kind(count)), schedule(count), rtol=1e-5, atol=1e-6
        )


def test_edges_that_no_count_reaches():
    """Counts end with their integers, and NumPy's go on."""
    unfreeze = optax_llr.gradual_unfreeze_schedule(chain(2), 10**12)
    freeze = optax_llr.freezeout_schedule(chain(2), 1e12)
    cycle = optax_llr.cascade_schedule(chain(2), 0, 10**11, 10**12)
    for count in (2**31 - 2, np.int64(2**40)):
        assert unfreeze(count).tolist() == [0.0, 1.0]
        assert (freeze(count) > 0).all()
        assert (cycle(count) > 0).all()
    table = optax_llr.table_schedule([[1.0], [2.0]])
    assert table(np.int64(2**40)).tolist() == [2.0]


@pytest.mark.parametrize("total", [10**5, 10**6])
def test_float32_is_right_to_a_millionth_after_a_million_steps(total):
    layers = chain(3)
    rng = np.random.default_rng(0)
    steps = np.concatenate([[1, 2, total - 1], rng.integers(0, total, 2000)])
    counts = jnp.asarray(steps, jnp.int32)

    unfreeze = optax_llr.gradual_unfreeze_schedule(layers, 1, total)
    ramp = np.asarray(jax.jit(jax.vmap(unfreeze))(counts))[:, 0]
    np.testing.assert_allclose(ramp, np.maximum(steps - 2, 0) / total, rtol=1e-6)

    cycle = optax_llr.cascade_schedule(
        layers, 0, total - 1, total, start=0.0, final=0.0
    )
    rise_and_fall = np.asarray(jax.jit(jax.vmap(cycle))(counts))
    np.testing.assert_allclose(rise_and_fall[:, 0], (total - steps) / total, rtol=1e-6)
    np.testing.assert_allclose(rise_and_fall[:, 2], steps / (total - 1), rtol=1e-6)
