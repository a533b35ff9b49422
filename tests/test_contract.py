"""One contract that every public transformation of the library fulfils."""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import optax_llr

# Kernel and bias in one layer, three stacked layers in one leaf, a last layer.
SHAPES = {
    "stem": {"kernel": (3, 4), "bias": (4,)},
    "blocks": {"kernel": (3, 4, 4)},
    "head": {"kernel": (4, 2)},
}
RULES = [("stem/.*", "stem"), ("blocks/.*", "block[:]"), ("head/.*", "head")]
START = np.array([0.5, 0.0, 1.0, 3.0, 0.3], np.float32)
END = np.array([1.0, 2.0, 0.0, 0.1, 0.0], np.float32)
RATE = 0.25  # of weight decay
TOLERANCE = {"rtol": 3e-7, "atol": 1e-30}  # jit against eager, float32: 2 ulp
# An update that turns weights is the difference of two, and has their rounding.
ROUNDING = {"layca": 1e-6}


def is_shape(node):
    return isinstance(node, tuple)


def tree(seed, dtype=jnp.float32):
    """Random numbers by NumPy, which compiles nothing."""
    generator = np.random.default_rng(seed)

    def leaf(shape):
        values = generator.standard_normal(shape)
        if jnp.issubdtype(dtype, jnp.complexfloating):
            values = (values + 1j * generator.standard_normal(shape)) / np.sqrt(2)
        return jnp.asarray(values, dtype)

    return jax.tree.map(leaf, SHAPES, is_leaf=is_shape)


PARAMS, UPDATES = tree(0), tree(1)
LAYERS = optax_llr.match_layers(PARAMS, RULES)
schedule = optax.linear_schedule(START, END, 4)


def decayed(layers, multipliers):
    return optax_llr.add_decayed_weights_by_layer(layers, RATE, multipliers)


TRANSFORMATIONS = {
    "scale_by_layer": optax_llr.scale_by_layer,
    "add_decayed_weights_by_layer": decayed,
    "layca": optax_llr.layca,
}
CASES = {
    "scale_by_layer, constant": ("scale_by_layer", START),
    "scale_by_layer, schedule": ("scale_by_layer", schedule),
    "add_decayed_weights_by_layer, schedule": (
        "add_decayed_weights_by_layer",
        schedule,
    ),
    "layca, schedule": ("layca", schedule),
}


@pytest.fixture(params=TRANSFORMATIONS)
def name(request):
    return request.param


@pytest.fixture(params=CASES)
def case(request):
    """The name of a transformation, and multipliers."""
    return CASES[request.param]


@pytest.fixture
def transformation(case):
    name, multipliers = case
    return TRANSFORMATIONS[name](LAYERS, multipliers)


def values_at(multipliers, count):
    return np.asarray(multipliers(count) if callable(multipliers) else multipliers)


def expected_slice(name, value, update, param):
    """The slow reference for one leaf or slice."""
    if name == "scale_by_layer":
        return reference.scaled(value, update)
    if name == "layca":
        return reference.rotated(value, update, param).astype(update.dtype)
    return reference.decayed(np.float32(RATE) * value, update, param)


def expected(name, values, updates, params=PARAMS):
    """The slow reference for each leaf and slice, under the values of one step."""

    def leaf(path, update, param):
        layer = jax.tree_util.keystr(path, simple=True, separator="/")
        member = LAYERS.members[layer]
        if isinstance(member, int):
            return expected_slice(name, values[member], update, param)
        rows = zip(values[list(member)], update, param, strict=True)
        return np.stack([expected_slice(name, *row) for row in rows])

    return jax.tree_util.tree_map_with_path(leaf, updates, params)


def assert_close(ours, theirs, name="", **tolerance):
    """Within a tolerance, and what rounding there is to a transformation's name."""
    tolerance = tolerance or TOLERANCE
    atol = max(tolerance["atol"], ROUNDING.get(name, 0.0))
    chex.assert_trees_all_close(ours, theirs, **{**tolerance, "atol": atol})


def is_nan(array):
    # Some releases of ml_dtypes warn of a signalling NaN when asked whether it is one.
    with np.errstate(invalid="ignore"):
        return np.isnan(array)


def bits(array):
    """The bits of an array, those of all NaN the same."""
    array = np.asarray(array)
    parts = [array.real, array.imag] if np.iscomplexobj(array) else [array]
    unsigned = [f"u{part.dtype.itemsize}" for part in parts]
    return [
        np.where(is_nan(part), 0, np.ascontiguousarray(part).view(kind))
        for part, kind in zip(parts, unsigned, strict=True)
    ]


def assert_same_bits(ours, theirs):
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(bits(a), bits(b)), ours, theirs
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(is_nan(a), is_nan(b)),
        ours,
        theirs,
    )


# --- What it computes ---------------------------------------------------------------


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
def test_updates_follow_the_slow_reference(case, transformation, jit):
    name, multipliers = case
    update = jax.jit(transformation.update) if jit else transformation.update
    state = transformation.init(PARAMS)
    for count in range(6):
        ours, state = update(UPDATES, state, PARAMS)
        values = values_at(multipliers, count)
        assert_close(ours, expected(name, values, UPDATES), name, rtol=3e-7, atol=1e-7)
        np.testing.assert_allclose(state.multipliers, values, rtol=1e-6)
        assert state.count == count + 1


def test_jit_and_eager_agree(case, transformation):
    state = transformation.init(PARAMS)
    eager = transformation.update(UPDATES, state, PARAMS)
    jitted = jax.jit(transformation.update)(UPDATES, state, PARAMS)
    assert_close(jitted, eager, case[0])


FLOATS = [jnp.float32, jnp.bfloat16, jnp.float16, jnp.complex64]


def all_numbers(dtype):
    """Arrays of any bits at all, written as the bits of real numbers."""
    size = {"float16": 2, "bfloat16": 2, "float32": 4, "complex64": 4}
    dtype = jnp.dtype(dtype)
    words = hnp.arrays(f"u{size[dtype.name]}", (24,))
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, -1e-45, 6e-8, 3e38]
    special = np.resize(np.array(special, np.float32), 24)
    with np.errstate(over="ignore"):
        known = st.just(special.astype(dtype))
    return st.one_of(known, words.map(lambda word: word.view(dtype)[:12]))


def first_update(name, multipliers, updates, params, jit):
    update = compiled(name) if jit else functools.partial(update_once, name)
    return update(multipliers, updates, params)


def update_once(name, multipliers, updates, params):
    transformation = TRANSFORMATIONS[name](LAYERS, multipliers)
    return transformation.update(updates, transformation.init(updates), params)[0]


@functools.cache
def compiled(name):
    """Jitted with multipliers that are arguments: one compilation a shape."""
    return jax.jit(functools.partial(update_once, name))


def fill(values, like):
    """A tree of the shapes of ours, filled by repeating values."""
    return jax.tree.map(
        lambda shape: np.resize(values, shape).astype(values.dtype),
        like,
        is_leaf=is_shape,
    )


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: jnp.dtype(d).name)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_multiplier_1_keeps_every_bit(jit, dtype, data):
    updates = fill(data.draw(all_numbers(dtype)), SHAPES)
    updates = jax.tree.map(jnp.asarray, updates)
    ones = jnp.ones(len(LAYERS))
    ours = first_update("scale_by_layer", ones, updates, None, jit)
    assert_same_bits(ours, updates)


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: jnp.dtype(d).name)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_multiplier_0_gives_positive_zeros_whatever_comes(jit, dtype, data):
    updates = jax.tree.map(jnp.asarray, fill(data.draw(all_numbers(dtype)), SHAPES))
    zeros = jnp.zeros(len(LAYERS))
    ours = first_update("scale_by_layer", zeros, updates, None, jit)
    assert_same_bits(ours, jax.tree.map(jnp.zeros_like, updates))


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: jnp.dtype(d).name)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_decay_of_strength_0_keeps_every_bit_whatever_the_parameters(jit, dtype, data):
    updates = jax.tree.map(jnp.asarray, fill(data.draw(all_numbers(dtype)), SHAPES))
    params = jax.tree.map(lambda u: jnp.full_like(u, jnp.nan), updates)
    zeros = jnp.zeros(len(LAYERS))
    ours = first_update("add_decayed_weights_by_layer", zeros, updates, params, jit)
    assert_same_bits(ours, updates)


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
def test_frozen_layer_ignores_nan_gradients(jit):
    """In the middle of a stack too, while its neighbours show the NaN."""
    poisoned = jax.tree.map(lambda u: jnp.full_like(u, jnp.nan), UPDATES)
    scaling = optax_llr.scale_by_layer(LAYERS, START)
    update = jax.jit(scaling.update) if jit else scaling.update
    ours, _ = update(poisoned, scaling.init(PARAMS))
    np.testing.assert_array_equal(ours["blocks"]["kernel"][0], 0.0)
    assert np.isnan(ours["blocks"]["kernel"][1:]).all()
    assert np.isnan(ours["stem"]["kernel"]).all()


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: jnp.dtype(d).name)
def test_dtype_is_kept_and_the_product_formed_in_float32(name, dtype):
    updates, params = tree(2, dtype), tree(3, dtype)
    values = np.array([1 / 3, 0.0, 1.0, 3.3, 1e-3], np.float32)
    transformation = TRANSFORMATIONS[name](LAYERS, values)
    update = jax.jit(transformation.update)
    ours, _ = update(updates, transformation.init(params), params)
    chex.assert_trees_all_equal_shapes_and_dtypes(ours, updates)
    # XLA may contract product and addition of a decay; a lone product is exact.
    eps = 0.0 if name == "scale_by_layer" else float(jnp.finfo(dtype).eps)
    last_bits = {"rtol": 2 * eps, "atol": max(eps / 100, ROUNDING.get(name, 0.0))}
    slow = expected(name, values, updates, params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
            np.asarray(a, np.complex64), np.asarray(b, np.complex64), **last_bits
        ),
        ours,
        slow,
    )


def test_multiplier_itself_is_not_rounded_to_the_half_precision_of_the_update():
    """1e-6 has four bits in float16."""
    scaling = optax_llr.scale_by_layer(LAYERS, np.full(5, 1e-6))
    updates = jax.tree.map(lambda u: jnp.full_like(u, 6e4, jnp.float16), UPDATES)
    ours, _ = scaling.update(updates, scaling.init(updates))
    np.testing.assert_allclose(ours["head"]["kernel"], 0.06, rtol=1e-3)


# A direction in which to turn has no infinite part.
@pytest.mark.parametrize("name", ["scale_by_layer", "add_decayed_weights_by_layer"])
def test_infinite_part_of_a_complex_update_leaves_the_other_part_alone(name):
    """Twice (inf, 1) is (inf, 2), though (2, 0) times (inf, 1) would have a NaN."""
    updates = jax.tree.map(lambda u: jnp.full_like(u, 1, jnp.complex64), UPDATES)
    params = jax.tree.map(lambda u: lax.complex(u.real + jnp.inf, u.real), updates)
    if name == "scale_by_layer":
        updates = params
    transformation = TRANSFORMATIONS[name](LAYERS, np.full(5, 2.0, np.float32))
    ours, _ = transformation.update(updates, transformation.init(params), params)
    assert np.isposinf(np.real(ours["head"]["kernel"])).all()
    assert np.isfinite(np.imag(ours["head"]["kernel"])).all()


@pytest.mark.usefixtures("double_precision")
def test_float64_stays_float64_and_is_multiplied_in_float64(name):
    updates, params = (
        jax.tree.map(lambda u: jnp.asarray(u, jnp.float64) / 3, tree)
        for tree in (UPDATES, PARAMS)
    )
    values = np.array([1 / 3, 0.0, 1.0, 1e-3, 0.1])
    transformation = TRANSFORMATIONS[name](LAYERS, values)
    ours, _ = transformation.update(updates, transformation.init(updates), params)
    update, weight = (np.asarray(t["stem"]["kernel"]) for t in (updates, params))
    theirs = {
        "scale_by_layer": update / 3,
        "add_decayed_weights_by_layer": update + RATE / 3 * weight,
        "layca": reference.rotated(1 / 3, update, weight),
    }
    assert ours["stem"]["kernel"].dtype == np.float64
    atol = 1e-9 * ROUNDING.get(name, 0.0)
    np.testing.assert_allclose(ours["stem"]["kernel"], theirs[name], 1e-15, atol)


def test_integer_updates_are_refused():
    updates = {**UPDATES, "head": {"kernel": jnp.ones((4, 2), jnp.int32)}}
    scaling = optax_llr.scale_by_layer(LAYERS, START)
    with pytest.raises(ValueError, match="floating or complex dtype, got int32"):
        scaling.update(updates, scaling.init(updates))


# --- How often it is compiled -------------------------------------------------------


def test_second_call_does_not_recompile(transformation):
    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(updates, state, params):
        return transformation.update(updates, state, params)

    chex.clear_trace_counter()
    state = transformation.init(PARAMS)
    for _ in range(3):
        _, state = step(UPDATES, state, PARAMS)
    assert step._cache_size() == 1


def test_other_multipliers_do_not_recompile(name):
    update = jax.jit(
        lambda multipliers, state: TRANSFORMATIONS[name](LAYERS, multipliers).update(
            UPDATES, state, PARAMS
        )
    )
    state = TRANSFORMATIONS[name](LAYERS, START).init(PARAMS)
    for values in (START, END, START[::-1]):
        update(jnp.asarray(values), state)
    assert update._cache_size() == 1


# --- Within Optax -------------------------------------------------------------------


def recorder(seen):
    """A transformation that notes the extra arguments that reach it."""

    def update(updates, state, params=None, **extra_args):
        del params
        seen.update(extra_args)
        return updates, state

    return optax.GradientTransformationExtraArgs(lambda params: (), update)


def test_extra_arguments_are_accepted_and_passed_on(transformation):
    seen = {}
    chain = optax.chain(transformation, recorder(seen))
    chain.update(UPDATES, chain.init(PARAMS), PARAMS, value=1.5, grad_fn=None)
    assert seen == {"value": 1.5, "grad_fn": None}


def test_chain_with_an_optimizer_and_a_global_schedule(case):
    name, multipliers = case
    rate = optax.piecewise_constant_schedule(0.1, {1: 0.1})
    inner = optax.sgd(rate, momentum=0.9)
    chain = optax.chain(inner, TRANSFORMATIONS[name](LAYERS, multipliers))
    state, inner_state = chain.init(PARAMS), inner.init(PARAMS)
    for count in range(3):
        ours, state = chain.update(UPDATES, state, PARAMS)
        theirs, inner_state = inner.update(UPDATES, inner_state, PARAMS)
        values = values_at(multipliers, count)
        assert_close(ours, expected(name, values, theirs), name, rtol=3e-7, atol=1e-7)


def test_masked_leaves_the_rest_alone(case, transformation):
    name, _ = case
    mask = {"stem": True, "blocks": False, "head": True}
    masked = optax.masked(transformation, mask)
    ours, state = masked.update(UPDATES, masked.init(PARAMS), PARAMS)
    theirs = expected(name, START, UPDATES)
    chex.assert_trees_all_equal(ours["blocks"], UPDATES["blocks"])
    assert_close(ours["stem"], theirs["stem"], name, rtol=3e-7, atol=1e-7)
    assert optax.tree.get(state, "count") == 1


def test_partition_scales_each_part_by_its_own(name):
    parts = {"a": TRANSFORMATIONS[name](LAYERS, START), "b": optax.scale(-1.0)}
    labels = {"stem": "a", "blocks": "a", "head": "b"}
    both = optax.partition(parts, labels)
    ours, _ = jax.jit(both.update)(UPDATES, both.init(PARAMS), PARAMS)
    theirs = expected(name, START, UPDATES)
    assert_close(ours["blocks"], theirs["blocks"], name, rtol=3e-7, atol=1e-7)
    np.testing.assert_array_equal(ours["head"]["kernel"], -UPDATES["head"]["kernel"])


def test_none_and_masked_nodes_are_passed_over(case, transformation):
    name, _ = case

    def prune(leaves, hole):
        return {**leaves, "head": {"kernel": hole}}

    for hole in (None, optax.MaskedNode()):
        updates, params = prune(UPDATES, hole), prune(PARAMS, hole)
        state = transformation.init(params)
        ours, _ = jax.jit(transformation.update)(updates, state, params)
        assert ours["head"]["kernel"] == hole
        theirs = expected(name, START, UPDATES)
        assert_close(ours["stem"], theirs["stem"], name, rtol=3e-7, atol=1e-7)


def test_multi_steps_counts_whole_steps(case):
    name, multipliers = case
    every = optax.MultiSteps(TRANSFORMATIONS[name](LAYERS, multipliers), 2)
    state, updates = every.init(PARAMS), []
    update = jax.jit(every.update)
    for _ in range(4):
        step, state = update(UPDATES, state, PARAMS)
        updates.append(step)
    assert optax.tree.get(state.inner_opt_state, "count") == 2
    assert not np.any(updates[2]["stem"]["kernel"])
    for count, step in [(0, updates[1]), (1, updates[3])]:
        theirs = expected(name, values_at(multipliers, count), UPDATES)
        assert_close(step, theirs, name, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
def test_inject_hyperparams_logs_the_vector(name, jit):
    make, vector, numbers = {
        "scale_by_layer": (optax_llr.scale_by_layer, "multipliers", {}),
        "add_decayed_weights_by_layer": (
            optax_llr.add_decayed_weights_by_layer,
            "multipliers",
            {"weight_decay": RATE},
        ),
        "layca": (optax_llr.layca, "rotation", {}),
    }[name]
    inject = optax.inject_hyperparams(make)
    injected = inject(layers=LAYERS, **{vector: schedule}, **numbers)
    state = injected.init(PARAMS)
    update = jax.jit(injected.update) if jit else injected.update
    for count in range(3):
        ours, state = update(UPDATES, state, PARAMS)
        values = values_at(schedule, count)
        np.testing.assert_allclose(state.hyperparams[vector], values, rtol=1e-6)
        assert_close(ours, expected(name, values, UPDATES), name, rtol=1e-6, atol=1e-7)


def test_injected_multipliers_can_be_set_from_outside():
    inject = optax.inject_hyperparams(optax_llr.scale_by_layer)
    injected = inject(layers=LAYERS, multipliers=START)
    state = injected.init(PARAMS)
    update = jax.jit(injected.update)
    for values in (START, END):
        state.hyperparams["multipliers"] = jnp.asarray(values)
        ours, state = update(UPDATES, state, PARAMS)
        assert_close(ours, expected("scale_by_layer", values, UPDATES))
    assert update._cache_size() == 1


def test_apply_if_finite_holds_the_count_back(transformation):
    guarded = optax.apply_if_finite(transformation, 3)
    poisoned = jax.tree.map(lambda u: u * jnp.nan, UPDATES)
    update = jax.jit(guarded.update)
    _, state = update(UPDATES, guarded.init(PARAMS), PARAMS)
    ours, state = update(poisoned, state, PARAMS)
    assert not np.any(ours["stem"]["kernel"])
    assert state.inner_state.count == 1
    _, state = update(UPDATES, state, PARAMS)
    assert state.inner_state.count == 2


def test_map_params_finds_nothing_of_ours(transformation):
    chain = optax.chain(optax.adam(0.1), transformation)
    state = chain.init(PARAMS)
    mapped = optax.tree.map_params(chain, lambda leaf: leaf + 1.0, state)
    chex.assert_trees_all_equal(mapped[1], state[1])
    assert np.all(optax.tree.get(mapped, "mu")["head"]["kernel"] == 1.0)


def test_tree_get_and_set_reach_the_state(transformation):
    state = optax.chain(optax.sgd(0.1), transformation).init(PARAMS)
    np.testing.assert_array_equal(optax.tree.get(state, "multipliers"), START)
    assert optax.tree.get(optax.tree.set(state, count=7), "count") == 7


# --- Within JAX ---------------------------------------------------------------------


def test_vmap_over_multipliers(name):
    grid = jnp.stack([jnp.asarray(START), jnp.asarray(END), jnp.ones(5)])

    def two_steps(multipliers):
        transformation = TRANSFORMATIONS[name](LAYERS, multipliers)
        state = transformation.init(PARAMS)
        _, state = transformation.update(UPDATES, state, PARAMS)
        return transformation.update(UPDATES, state, PARAMS)

    ours, state = jax.jit(jax.vmap(two_steps))(grid)
    np.testing.assert_array_equal(state.multipliers, grid)
    for i, values in enumerate(np.asarray(grid)):
        alone = jax.tree.map(lambda leaf, i=i: leaf[i], ours)
        theirs = expected(name, values, UPDATES)
        assert_close(alone, theirs, name, rtol=1e-6, atol=1e-7)


def test_vmap_over_states_and_parameters(case, transformation):
    name, _ = case

    def batched(leaves):
        return jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), leaves)

    state = jax.jit(jax.vmap(transformation.init))(batched(PARAMS))
    update = jax.jit(jax.vmap(transformation.update))
    ours, state = update(batched(UPDATES), state, batched(PARAMS))
    np.testing.assert_array_equal(state.count, [1, 1])
    theirs = expected(name, START, UPDATES)
    theirs = jax.tree.map(lambda leaf: np.stack([leaf, 2 * leaf]), theirs)
    assert_close(ours, theirs, name, rtol=1e-6, atol=1e-7)


def loop(transformation, steps):
    state, path = transformation.init(PARAMS), []
    for _ in range(steps):
        updates, state = transformation.update(UPDATES, state, PARAMS)
        path.append(updates)
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *path), state


def test_scan_equals_a_loop(case, transformation):
    def body(state, _):
        updates, state = transformation.update(UPDATES, state, PARAMS)
        return state, updates

    state, ours = lax.scan(body, transformation.init(PARAMS), length=3)
    theirs, last = loop(transformation, 3)
    assert_close((ours, state), (theirs, last), case[0], rtol=1e-6, atol=1e-7)


def test_init_inside_a_jitted_scan(case, transformation):
    @jax.jit
    def run():
        def body(carry, _):
            updates, carry = transformation.update(UPDATES, carry, PARAMS)
            return carry, updates

        return lax.scan(body, transformation.init(PARAMS), length=3)

    state, ours = run()
    theirs, last = loop(transformation, 3)
    assert_close((ours, state), (theirs, last), case[0], rtol=1e-6, atol=1e-7)


def test_cond_takes_a_step_or_none(transformation):
    @jax.jit
    def maybe(take, state):
        return lax.cond(
            take,
            lambda s: transformation.update(UPDATES, s, PARAMS),
            lambda s: (jax.tree.map(jnp.zeros_like, UPDATES), s),
            state,
        )

    _, state = maybe(True, transformation.init(PARAMS))
    ours, state = maybe(False, state)
    assert state.count == 1
    assert not np.any(ours["head"]["kernel"])


def test_init_needs_only_shapes(transformation):
    shapes = jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32), SHAPES, is_leaf=is_shape
    )
    chex.assert_trees_all_equal(
        transformation.init(shapes), transformation.init(PARAMS)
    )
    abstract = jax.eval_shape(transformation.init, PARAMS)
    concrete = transformation.init(PARAMS)
    chex.assert_trees_all_equal_shapes_and_dtypes(abstract, concrete)


def test_state_can_be_donated_step_after_step(name):
    """Nothing in a state may be the buffer of anything else."""
    multipliers = jnp.asarray(START)
    chain = optax.chain(
        optax_llr.scale_by_layer(LAYERS, multipliers),
        TRANSFORMATIONS[name](LAYERS, multipliers),
    )

    def body(state, _):
        updates, state = chain.update(UPDATES, state, PARAMS)
        return state, updates

    # A loop uses all that it carries, so that all of the state is given away.
    steps = jax.jit(lambda s: lax.scan(body, s, length=2), donate_argnums=0)
    state = chain.init(PARAMS)
    given = jax.tree.leaves(state)
    for _ in range(2):
        state, _ = steps(state)
    assert all(leaf.is_deleted() for leaf in given)
    np.testing.assert_array_equal(multipliers, START)
    assert chain.init(PARAMS)[0].count == 0


# --- On eight devices ---------------------------------------------------------------

WIDE = {
    "stem": {"kernel": (8, 16), "bias": (16,)},
    "blocks": {"kernel": (8, 4, 16)},  # eight layers, one for each device
    "head": {"kernel": (16, 8)},
}
SPECS = {
    "stem": {"kernel": P(None, "d"), "bias": P("d")},
    "blocks": {"kernel": P("d")},
    "head": {"kernel": P("d", None)},
}
WIDE_SHAPES = jax.tree.map(
    lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32), WIDE, is_leaf=is_shape
)
WIDE_LAYERS = optax_llr.match_layers(WIDE_SHAPES, RULES)
WIDE_VALUES = np.array([0.5, 0, 1, 2, 3, 0, 5, 6, 7, 0.1], np.float32)


def make_mesh(kind):
    return jax.make_mesh((8,), ("d",), axis_types=(kind,))


def sharded(mesh, seed=5):
    generator = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape, spec: jax.device_put(
            np.float32(generator.standard_normal(shape)), NamedSharding(mesh, spec)
        ),
        WIDE,
        SPECS,
        is_leaf=is_shape,
    )


def shardings_of(mesh):
    return jax.tree.map(
        lambda spec: NamedSharding(mesh, spec),
        SPECS,
        is_leaf=lambda node: isinstance(node, P),
    )


@pytest.mark.parametrize(
    ("kind", "jit"),
    [(AxisType.Auto, False), (AxisType.Auto, True), (AxisType.Explicit, True)],
    ids=["eager", "jit", "jit, explicit axes"],
)
def test_updates_keep_their_sharding(name, kind, jit):
    mesh = make_mesh(kind)
    transformation = TRANSFORMATIONS[name](WIDE_LAYERS, WIDE_VALUES)
    with jax.set_mesh(mesh):
        updates, params = sharded(mesh), sharded(mesh, seed=6)
        state = transformation.init(params)
        update = jax.jit(transformation.update) if jit else transformation.update
        ours, _ = update(updates, state, params)
    jax.tree.map(
        lambda u, s: u.sharding.is_equivalent_to(s, u.ndim) or pytest.fail(str(u)),
        ours,
        shardings_of(mesh),
    )
    stacks = (np.asarray(tree["blocks"]["kernel"]) for tree in (updates, params))
    rows = zip(WIDE_VALUES[1:9], *stacks, strict=True)
    theirs = np.stack([expected_slice(name, *row) for row in rows])
    assert_close(ours["blocks"]["kernel"], theirs, name, rtol=1e-6, atol=1e-7)


# A turn needs the norm of the whole kernel, wherever its parts are.
@pytest.mark.parametrize("name", ["scale_by_layer", "add_decayed_weights_by_layer"])
def test_jitted_update_moves_no_data_between_devices(name):
    mesh = make_mesh(AxisType.Auto)
    transformation = TRANSFORMATIONS[name](WIDE_LAYERS, WIDE_VALUES)
    updates = sharded(mesh)
    state = jax.device_put(transformation.init(updates), NamedSharding(mesh, P()))
    update = jax.jit(transformation.update)
    text = update.lower(updates, state, updates).compile().as_text()
    for collective in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert collective not in text


def test_map_params_gives_the_shardings_of_a_state(name):
    """Moments lie as their parameters do; what has no such shape is replicated."""
    mesh = make_mesh(AxisType.Auto)
    chain = optax.chain(
        optax.adam(0.1), TRANSFORMATIONS[name](WIDE_LAYERS, WIDE_VALUES)
    )
    params = sharded(mesh)
    shardings = optax.tree.map_params(
        chain,
        lambda _, sharding: sharding,
        jax.eval_shape(chain.init, params),
        shardings_of(mesh),
        transform_non_params=lambda _: NamedSharding(mesh, P()),
    )
    state = jax.jit(chain.init, out_shardings=shardings)(params)
    step = jax.jit(
        chain.update, out_shardings=(shardings_of(mesh), shardings), donate_argnums=1
    )
    for _ in range(3):
        updates, state = step(params, state, params)
    assert optax.tree.get(state, "mu")["blocks"]["kernel"].sharding.spec == P("d")
    assert optax.tree.get(state, "multipliers").sharding.is_fully_replicated
    assert updates["stem"]["kernel"].sharding.spec == P(None, "d")
    np.testing.assert_array_equal(optax.tree.get(state, "multipliers"), WIDE_VALUES)


# --- Whose state it is --------------------------------------------------------------

SAME_LENGTH = optax_llr.match_layers(
    PARAMS, [("head/.*", "head"), ("blocks/.*", "block[:]"), ("stem/.*", "stem")]
)
SHORTER = optax_llr.match_layers(PARAMS, [("head/.*", "head"), (".*", "body")])


def constant(name, layers):
    return TRANSFORMATIONS[name](layers, np.full(len(layers), 2.0, np.float32))


@pytest.mark.parametrize("other", [SAME_LENGTH, SHORTER], ids=["same", "shorter"])
def test_state_of_other_layers_is_refused(name, other):
    state = constant(name, LAYERS).init(PARAMS)
    with pytest.raises(ValueError, match=r"other Layers .* `reassign_layers"):
        constant(name, other).update(UPDATES, state, PARAMS)


@pytest.mark.parametrize("other", [SAME_LENGTH, SHORTER], ids=["same", "shorter"])
def test_state_of_other_layers_is_refused_while_tracing(name, other):
    state = constant(name, LAYERS).init(PARAMS)
    with pytest.raises(ValueError, match="other Layers"):
        jax.jit(constant(name, other).update)(UPDATES, state, PARAMS)


@pytest.mark.parametrize("other", [SAME_LENGTH, SHORTER], ids=["same", "shorter"])
def test_reassigned_state_goes_on(name, other):
    chain = optax.chain(optax.trace(0.9), constant(name, LAYERS))
    _, state = chain.update(UPDATES, chain.init(PARAMS), PARAMS)
    mended = optax_llr.reassign_layers(other, state)
    assert optax.tree.get(mended, "count") == 1
    assert (optax.tree.get(mended, "multipliers") == 1).all()
    chex.assert_trees_all_equal(mended[0], state[0])
    successor = optax.chain(optax.trace(0.9), constant(name, other))
    fresh = successor.init(PARAMS)
    chex.assert_trees_all_equal_shapes_and_dtypes(mended, fresh)
    ours, _ = jax.jit(successor.update)(UPDATES, mended, PARAMS)
    # Constant multipliers: those of a fresh state.
    theirs, _ = successor.update(UPDATES, (state[0], fresh[1]), PARAMS)
    assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_reassign_needs_a_state_of_ours():
    with pytest.raises(ValueError, match="reassign_layers: expected an optimizer"):
        optax_llr.reassign_layers(LAYERS, optax.adam(0.1).init(PARAMS))


def test_unknown_leaf_is_refused_with_its_path(transformation):
    surplus = {**PARAMS, "neck": {"kernel": jnp.ones(2)}}
    with pytest.raises(ValueError, match="'neck/kernel' is in none of the layers"):
        transformation.init(surplus)


def test_stack_of_another_height_is_refused(transformation):
    taller = {**PARAMS, "blocks": {"kernel": jnp.ones((4, 4, 4))}}
    with pytest.raises(ValueError, match="with 3 slices"):
        transformation.init(taller)
    state = transformation.init(PARAMS)
    with pytest.raises(ValueError, match="with 3 slices"):
        transformation.update(taller, state, taller)


@pytest.mark.parametrize("bad", [1.0, np.ones(4), np.ones((5, 1))], ids=np.shape)
def test_multipliers_of_another_shape_are_refused(name, bad):
    with pytest.raises(
        ValueError, match=r"expected .*real multipliers of shape \(5,\)"
    ):
        TRANSFORMATIONS[name](LAYERS, bad)
    late = TRANSFORMATIONS[name](LAYERS, lambda count: bad)
    with pytest.raises(
        ValueError, match=r"expected .*real multipliers of shape \(5,\)"
    ):
        late.init(PARAMS)


def test_weight_decay_asks_for_the_parameters():
    decay = optax_llr.add_decayed_weights_by_layer(LAYERS, RATE, START)
    with pytest.raises(ValueError, match="needs the parameters"):
        decay.update(UPDATES, decay.init(PARAMS))


# --- Checkpoints --------------------------------------------------------------------


def test_orbax_restores_a_state_and_the_next_step_is_the_same(tmp_path):
    import orbax.checkpoint as ocp

    chain = optax.chain(optax.adam(0.1), optax_llr.scale_by_layer(LAYERS, schedule))
    _, state = chain.update(UPDATES, chain.init(PARAMS), PARAMS)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        target = jax.eval_shape(chain.init, PARAMS)
        restored = checkpointer.restore(tmp_path / "state", target)
    chex.assert_trees_all_equal(restored, state)
    ours = chain.update(UPDATES, restored, PARAMS)
    chex.assert_trees_all_equal(ours, chain.update(UPDATES, state, PARAMS))


def test_orbax_restore_under_other_layers_is_noticed_and_mended(tmp_path, name):
    import orbax.checkpoint as ocp

    state = constant(name, LAYERS).init(PARAMS)
    successor = constant(name, SAME_LENGTH)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        target = jax.eval_shape(successor.init, PARAMS)
        with pytest.raises(ValueError, match=LAYERS.fingerprint):
            checkpointer.restore(tmp_path / "state", target)
        target = jax.eval_shape(constant(name, LAYERS).init, PARAMS)
        restored = checkpointer.restore(tmp_path / "state", target)
    with pytest.raises(ValueError, match=r"`reassign_layers\(layers, opt_state\)`"):
        successor.update(UPDATES, restored, PARAMS)
    mended = optax_llr.reassign_layers(SAME_LENGTH, restored)
    ours, _ = successor.update(UPDATES, mended, PARAMS)
    theirs = expected(name, np.full(5, 2.0, np.float32), UPDATES)
    assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


# --- With the libraries of models ---------------------------------------------------
# Each trains a small network for two steps: the first layer frozen, the second at half
# the rate. One step of the second is then half of that without multipliers.

INPUT = jnp.linspace(-1.0, 1.0, 15).reshape(5, 3)
NET_RULES = [(".*first.*", "first"), (".*second.*", "second")]


def halved(layers):
    scaling = optax_llr.scale_by_layer(layers, np.array([0.0, 0.5]))
    return optax.chain(optax.sgd(0.1, momentum=0.9), scaling)


def assert_first_is_frozen_and_second_halved(layers, start, half, whole):
    start, half, whole = (
        {
            jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
            for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        }
        for params in (start, half, whole)
    )
    moved = 0
    for path, leaf in start.items():
        if "first" in path:
            np.testing.assert_array_equal(half[path], leaf)
        else:
            moved += np.abs(whole[path] - leaf).max() > 1e-3
            np.testing.assert_allclose(
                half[path] - leaf, 0.5 * (whole[path] - leaf), rtol=1e-3, atol=1e-6
            )
    assert moved
    assert layers.names == ("first", "second")


def linen_model():
    import flax.linen as nn

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2, name="second")(nn.tanh(nn.Dense(4, name="first")(x)))

    model = Net()
    return model, model.init(jax.random.key(0), INPUT)


def test_linen_params_in_a_train_state():
    from flax.training.train_state import TrainState

    model, variables = linen_model()
    params = variables["params"]
    layers = optax_llr.match_layers(params, NET_RULES)

    @jax.jit
    def step(state):
        grads = jax.grad(
            lambda p: jnp.mean((model.apply({"params": p}, INPUT) - 1) ** 2)
        )
        return state.apply_gradients(grads=grads(state.params))

    def make(tx):
        return TrainState.create(apply_fn=model.apply, params=params, tx=tx)

    half = step(make(halved(layers)))
    whole = step(make(optax.sgd(0.1, momentum=0.9)))
    assert_first_is_frozen_and_second_halved(layers, params, half.params, whole.params)
    half = step(half)
    np.testing.assert_array_equal(
        half.params["first"]["kernel"], params["first"]["kernel"]
    )
    used = optax_llr.layer_multipliers(layers, half.opt_state)
    assert used == {"first": 0.0, "second": 0.5}


def nnx_model():
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(3, 4, rngs=rngs)
            self.second = nnx.Linear(4, 2, rngs=rngs)

        def __call__(self, x):
            return self.second(jnp.tanh(self.first(x)))

    return Net(nnx.Rngs(0))


def test_nnx_optimizer_boxes_parameters_and_state():
    from flax import nnx

    layers = optax_llr.match_layers(nnx.state(nnx_model(), nnx.Param), NET_RULES)
    # Boxed and bare parameters have the same paths.
    bare = nnx.to_pure_dict(nnx.state(nnx_model(), nnx.Param))
    assert optax_llr.match_layers(bare, NET_RULES) == layers

    @nnx.jit
    def step(model, optimizer):
        grads = nnx.grad(lambda m: jnp.mean((m(INPUT) - 1.0) ** 2))(model)
        optimizer.update(model, grads)

    def train(tx, steps):
        model = nnx_model()
        optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
        for _ in range(steps):
            step(model, optimizer)
        return nnx.to_pure_dict(nnx.state(model, nnx.Param)), optimizer

    half, optimizer = train(halved(layers), 1)
    whole, _ = train(optax.sgd(0.1, momentum=0.9), 1)
    assert_first_is_frozen_and_second_halved(layers, bare, half, whole)
    half, optimizer = train(halved(layers), 2)
    np.testing.assert_array_equal(half["first"]["kernel"], bare["first"]["kernel"])
    used = optax_llr.layer_multipliers(layers, optimizer.opt_state)
    assert used == {"first": 0.0, "second": 0.5}


def test_reassigned_state_goes_on_in_an_nnx_optimizer():
    from flax import nnx

    model = nnx_model()
    params = nnx.state(model, nnx.Param)
    layers = optax_llr.match_layers(params, NET_RULES)
    merged = optax_llr.match_layers(params, [(".*", "all")])
    optimizer = nnx.Optimizer(model, halved(layers), wrt=nnx.Param)
    grads = nnx.grad(lambda m: jnp.mean(m(INPUT) ** 2))(model)
    optimizer.update(model, grads)
    one = optax.chain(
        optax.sgd(0.1, momentum=0.9), optax_llr.scale_by_layer(merged, np.ones(1))
    )
    successor = nnx.Optimizer(model, one, wrt=nnx.Param)
    successor.opt_state = optax_llr.reassign_layers(merged, optimizer.opt_state)
    successor.update(model, grads)
    assert optax_llr.layer_multipliers(merged, successor.opt_state) == {"all": 1.0}


def test_nnx_state_in_a_plain_jit_loop():
    """What experiments do: split once, then plain jax.jit over the state."""
    from flax import nnx

    graph, params = nnx.split(nnx_model(), nnx.Param)
    layers = optax_llr.match_layers(params, NET_RULES)

    def train(optimizer):
        @jax.jit
        def step(params, state):
            grads = jax.grad(
                lambda p: jnp.mean((nnx.merge(graph, p)(INPUT) - 1.0) ** 2)
            )(params)
            updates, state = optimizer.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        return step(params, optimizer.init(params))[0]

    assert_first_is_frozen_and_second_halved(
        layers, params, train(halved(layers)), train(optax.sgd(0.1, momentum=0.9))
    )


def test_equinox_loop():
    import equinox as eqx

    class Net(eqx.Module):
        first: eqx.nn.Linear
        second: eqx.nn.Linear

        def __call__(self, x):
            return self.second(jnp.tanh(self.first(x)))

    keys = jax.random.split(jax.random.key(0))
    model = Net(eqx.nn.Linear(3, 4, key=keys[0]), eqx.nn.Linear(4, 2, key=keys[1]))
    params = eqx.filter(model, eqx.is_inexact_array)  # None where there is no array
    layers = optax_llr.match_layers(params, NET_RULES)

    def train(optimizer):
        @eqx.filter_jit
        def step(model, state):
            grads = eqx.filter_grad(
                lambda m: jnp.mean((jax.vmap(m)(INPUT) - 1.0) ** 2)
            )(model)
            updates, state = optimizer.update(grads, state, params)
            return eqx.apply_updates(model, updates), state

        return eqx.filter(step(model, optimizer.init(params))[0], eqx.is_array)

    assert_first_is_frozen_and_second_halved(
        layers, params, train(halved(layers)), train(optax.sgd(0.1, momentum=0.9))
    )


def test_haiku_params():
    import haiku as hk

    @hk.without_apply_rng
    @hk.transform
    def net(x):
        return hk.Linear(2, name="second")(jnp.tanh(hk.Linear(4, name="first")(x)))

    params = net.init(jax.random.key(0), INPUT)
    layers = optax_llr.match_layers(params, NET_RULES)

    def train(optimizer):
        grads = jax.grad(lambda p: jnp.mean((net.apply(p, INPUT) - 1.0) ** 2))(params)
        updates, _ = optimizer.update(grads, optimizer.init(params), params)
        return optax.apply_updates(params, updates)

    assert_first_is_frozen_and_second_halved(
        layers, params, train(halved(layers)), train(optax.sgd(0.1, momentum=0.9))
    )


def test_paths_may_hold_integers_attributes_and_positions():
    class Pair(NamedTuple):
        left: jax.Array
        right: jax.Array

    params = {0: [jnp.ones(2), jnp.ones(2)], 1: Pair(jnp.ones(2), jnp.ones(2))}
    layers = optax_llr.match_layers(
        params, [("0/0", "a"), ("0/1", "b"), ("1/(left|right)", "c")]
    )
    scaling = optax_llr.scale_by_layer(layers, np.array([2.0, 3.0, 4.0]))
    ours, _ = scaling.update(params, scaling.init(params))
    assert [float(leaf[0]) for leaf in jax.tree.leaves(ours)] == [2.0, 3.0, 4.0, 4.0]


def test_a_lone_array_is_a_tree_too():
    layers = optax_llr.match_layers(jnp.ones(3), [("", "all")])
    scaling = optax_llr.scale_by_layer(layers, np.array([0.5]))
    ours, _ = scaling.update(jnp.ones(3), scaling.init(jnp.ones(3)))
    np.testing.assert_array_equal(ours, 0.5)


# --- Those that wrap an optimizer ---------------------------------------------------
# They hold the state of the optimizer, and trees as large as its parameters, in theirs.
# Weights are drawn towards a goal, so that gradients change from step to step. What is
# made twice is made once: to compile is what takes time here.


@functools.cache
def adapted(inner, layers):
    rule = optax_llr.rules.curvature(0.5)
    return optax_llr.adapt_layers(inner, layers, rule, relative=True)


@functools.cache
def ramped(inner, layers):
    """Its first layer rises, and measurements come in every other step."""
    rule = optax_llr.rules.ramped_tail_exponent(2, 2, layers.names[:1])
    return optax_llr.adapt_layers(inner, layers, rule)


@functools.cache
def monitored(inner, layers):
    return optax_llr.monitor_layers(scaled_by_layer(inner, layers), layers, every=2)


@functools.cache
def reverting(inner, layers):
    """Under way from the second step on."""
    return optax_llr.contrib.revert_to_uniform(
        scaled_by_layer(inner, layers), patience=2, steps=3
    )


def scaled_by_layer(inner, layers):
    values = np.linspace(0.2, 3.0, len(layers), dtype=np.float32)
    return optax.chain(inner, optax_llr.scale_by_layer(layers, values))


def pausing(inner, layers):
    """In a phase with a frozen layer."""
    frozen = (True, *[False] * (len(layers) - 1))
    return optax_llr.Phase(layers, 0, 1, frozen).freeze(inner)


WRAPPERS = {
    "adapt_layers": adapted,
    "adapt_layers by spectra": ramped,
    "monitor_layers": monitored,
    "revert_to_uniform": reverting,
    "freeze": pausing,
}
ADAM = optax.adam(0.1)
WATCHED = {"value": np.nan}  # each of which is worse than the one before


@pytest.fixture(params=WRAPPERS)
def wrap(request):
    return WRAPPERS[request.param]


def towards(params, goal):
    return jax.tree.map(lambda w, g: w - g, params, goal)


def one_step(optimizer, params, state, goal=UPDATES):
    """A step of training; what is not a wrapper of ours takes no value."""
    update = optax.with_extra_args_support(optimizer).update
    updates, state = update(towards(params, goal), state, params, **WATCHED)
    return optax.apply_updates(params, updates), state


@functools.cache
def compiled_step(optimizer):
    return jax.jit(functools.partial(one_step, optimizer))


def trained(optimizer, steps=3, params=PARAMS, goal=UPDATES):
    """Parameters and state after some jitted steps."""
    state = optimizer.init(params)
    for _ in range(steps):
        params, state = compiled_step(optimizer)(params, state, goal)
    return params, state


def test_wrapper_under_jit_equals_eager(wrap):
    optimizer = wrap(ADAM, LAYERS)
    params, state = PARAMS, optimizer.init(PARAMS)
    for _ in range(3):
        params, state = one_step(optimizer, params, state)
    assert_close((params, state), trained(optimizer), rtol=1e-5, atol=1e-6)


def test_second_call_of_a_wrapper_does_not_recompile(wrap):
    optimizer = wrap(ADAM, LAYERS)
    step = jax.jit(functools.partial(one_step, optimizer))
    carry = step(PARAMS, optimizer.init(PARAMS))
    for _ in range(2):
        carry = step(*carry)
    assert step._cache_size() == 1


def test_extra_arguments_reach_the_optimizer_inside(wrap):
    seen = {}
    optimizer = wrap(recorder(seen), LAYERS)
    state = optimizer.init(PARAMS)
    optimizer.update(UPDATES, state, PARAMS, value=1.5, grad_fn=None)
    seen.pop("uniform_share", None)  # what revert_to_uniform hands down itself
    assert seen == {"value": 1.5, "grad_fn": None}


HOLES = {
    "None": lambda: None,
    "MaskedNode": optax.MaskedNode,
}


def without_blocks(tree, hole):
    return {**tree, "blocks": {"kernel": hole}}


@pytest.mark.parametrize("hole", HOLES)
def test_wrapper_of_a_part_leaves_the_rest_alone(wrap, hole):
    """Under a mask it does what it does on a tree with holes."""
    optimizer = wrap(ADAM, LAYERS)
    mask = {"stem": True, "blocks": False, "head": True}
    ours, state = trained(optax.masked(optimizer, mask))
    holed = [without_blocks(tree, HOLES[hole]()) for tree in (PARAMS, UPDATES)]
    theirs, alone = trained(optimizer, 3, *holed)
    assert_close(jax.tree.leaves(state), jax.tree.leaves(alone))
    for part in ("stem", "head"):
        assert_close(ours[part], theirs[part])


def test_gradient_that_is_missing_in_one_step_is_no_gradient_of_0(wrap):
    """The blocks stand out the second step: None among the updates, not the params."""
    optimizer = wrap(optax.sgd(0.1), LAYERS)
    _, state = optimizer.update(UPDATES, optimizer.init(PARAMS), PARAMS, **WATCHED)
    holed = without_blocks(UPDATES, None)
    ours, state = optimizer.update(holed, state, PARAMS, **WATCHED)
    assert ours["blocks"]["kernel"] is None
    ours, _ = optimizer.update(UPDATES, state, PARAMS, **WATCHED)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(ours))


def test_partition_gives_a_wrapper_its_part(wrap):
    parts = {"a": wrap(ADAM, LAYERS), "b": optax.sgd(1.0)}
    both = optax.partition(parts, {"stem": "a", "blocks": "a", "head": "b"})
    ours, _ = trained(both, 1)
    theirs, _ = trained(wrap(ADAM, LAYERS), 1)
    assert_close(ours["blocks"], theirs["blocks"], rtol=1e-6, atol=1e-6)
    assert_close(ours["head"], UPDATES["head"], rtol=1e-6, atol=1e-6)


def test_multi_steps_around_a_wrapper_gives_it_the_accumulated_gradient(wrap):
    optimizer = wrap(ADAM, LAYERS)
    every = optax.MultiSteps(optimizer, 2)
    state, update = every.init(PARAMS), jax.jit(every.update)
    alone = optimizer.init(PARAMS)
    for pair in [(tree(7), tree(8)), (tree(9), tree(10))]:
        for gradients in pair:
            ours, state = update(gradients, state, PARAMS, **WATCHED)
        mean = optax.tree.scale(0.5, optax.tree.add(*pair))
        theirs, alone = optimizer.update(mean, alone, PARAMS, **WATCHED)
        assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert_close(state.inner_opt_state, alone, rtol=1e-5, atol=1e-6)


def test_apply_if_finite_holds_the_whole_state_of_a_wrapper_back(wrap):
    guarded = optax.apply_if_finite(wrap(optax.sgd(0.1), LAYERS), 3)
    update = jax.jit(guarded.update)
    _, before = update(UPDATES, guarded.init(PARAMS), PARAMS, **WATCHED)
    poisoned = jax.tree.map(lambda u: u * jnp.nan, UPDATES)
    ours, after = update(poisoned, before, PARAMS, **WATCHED)
    assert not np.any(ours["stem"]["kernel"])
    chex.assert_trees_all_equal(after.inner_state, before.inner_state)


def test_injected_rate_of_the_optimizer_inside_can_be_set_from_outside(wrap):
    inner = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)
    optimizer = wrap(inner, LAYERS)
    update = jax.jit(optimizer.update)
    state = optimizer.init(PARAMS)
    single, _ = update(UPDATES, state, PARAMS, **WATCHED)
    faster = optax.tree.set(state, learning_rate=jnp.float32(0.3))
    ours, _ = update(UPDATES, faster, PARAMS, **WATCHED)
    assert_close(ours, optax.tree.scale(3.0, single), rtol=1e-6, atol=1e-7)
    assert update._cache_size() == 1


PARAM_LIKE = {
    "adapt_layers": 3,
    "adapt_layers by spectra": 2,
    "monitor_layers": 4,
    "revert_to_uniform": 2,
    "freeze": 2,
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_map_params_finds_what_is_as_large_as_the_parameters(name):
    """Both moments of Adam, and the trees that a wrapper remembers; nothing else."""
    optimizer = WRAPPERS[name](ADAM, LAYERS)
    paths = jax.tree_util.tree_map_with_path(lambda path, _: str(path), PARAMS)
    found = optax.tree.map_params(
        optimizer,
        lambda _, path: path,
        optimizer.init(PARAMS),
        paths,
        transform_non_params=lambda _: "other",
    )
    found = [leaf for leaf in jax.tree.leaves(found) if leaf != "other"]
    assert sorted(found) == sorted(PARAM_LIKE[name] * jax.tree.leaves(paths))


def test_tree_get_reaches_the_optimizer_inside_a_wrapper(wrap):
    state = optax.chain(wrap(ADAM, LAYERS)).init(PARAMS)
    chex.assert_trees_all_equal_shapes(optax.tree.get(state, "mu"), PARAMS)


def test_vmap_over_states_of_a_wrapper(wrap):
    optimizer = wrap(ADAM, LAYERS)
    runs = [(PARAMS, UPDATES), (tree(7), tree(8))]

    def stacked(*trees):
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)

    params, goals = (stacked(*trees) for trees in zip(*runs, strict=True))
    step = jax.jit(jax.vmap(functools.partial(one_step, optimizer)))
    carry = params, jax.vmap(optimizer.init)(params)
    for _ in range(3):
        carry = step(*carry, goals)
    alone = [trained(optimizer, 3, *run) for run in runs]
    assert_close(carry, stacked(*alone), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("inside", [False, True], ids=["init outside", "init inside"])
def test_scan_over_a_wrapper_equals_a_loop(wrap, inside):
    optimizer = wrap(ADAM, LAYERS)

    def body(carry, _):
        return one_step(optimizer, *carry), None

    @jax.jit
    def run(state):
        state = optimizer.init(PARAMS) if inside else state
        return lax.scan(body, (PARAMS, state), length=3)[0]

    ours = run(optimizer.init(PARAMS))
    assert_close(ours, trained(optimizer), rtol=1e-5, atol=1e-6)


def test_cond_takes_a_step_of_a_wrapper_or_none(wrap):
    optimizer = wrap(ADAM, LAYERS)

    @jax.jit
    def maybe(take, *carry):
        return lax.cond(take, lambda c: one_step(optimizer, *c), lambda c: c, carry)

    once = maybe(True, PARAMS, optimizer.init(PARAMS))
    assert_close(once, trained(optimizer, 1), rtol=1e-6, atol=1e-7)
    chex.assert_trees_all_equal(maybe(False, *once), once)


def test_shapes_of_a_wrapper_state_need_no_values_and_stay(wrap):
    optimizer = wrap(ADAM, LAYERS)
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), PARAMS
    )
    abstract = jax.eval_shape(optimizer.init, shapes)
    _, state = trained(optimizer, 1)
    chex.assert_trees_all_equal_shapes_and_dtypes(abstract, state)


def test_wrapper_state_can_be_donated_and_takes_nothing_with_it(wrap):
    """Neither the parameters, nor gradients and updates of an eager step."""
    optimizer = wrap(optax.identity(), LAYERS)
    params, gradients = tree(0), tree(1)
    state = optimizer.init(params)
    updates, state = optimizer.update(gradients, state, params, **WATCHED)

    def body(state, _):
        return optimizer.update(UPDATES, state, PARAMS, **WATCHED)[1], None

    steps = jax.jit(lambda s: lax.scan(body, s, length=2)[0], donate_argnums=0)
    for _ in range(2):
        state = steps(state)
    kept = jax.tree.leaves((params, gradients, updates, optimizer.init(params)))
    assert not any(leaf.is_deleted() for leaf in kept)


def test_wrapper_keeps_dtypes_of_updates_and_state(wrap):
    dtypes = {"stem": jnp.bfloat16, "blocks": jnp.complex64, "head": jnp.float16}
    params, goal = (
        {part: tree(seed, dtype)[part] for part, dtype in dtypes.items()}
        for seed in (2, 3)
    )
    optimizer = wrap(optax.sgd(0.1, momentum=0.9), LAYERS)
    ours, state = trained(optimizer, 2, params, goal)
    chex.assert_trees_all_equal_shapes_and_dtypes(
        (ours, state), (params, optimizer.init(params))
    )
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(ours))


@pytest.mark.parametrize(
    "kind",
    [AxisType.Auto, pytest.param(AxisType.Explicit, marks=pytest.mark.slow)],
    ids=str,
)
def test_sharded_wrapper_trains_as_one_device_does(wrap, kind):
    mesh = make_mesh(kind)
    optimizer = wrap(ADAM, WIDE_LAYERS)
    with jax.set_mesh(mesh):
        trees = sharded(mesh), sharded(mesh, seed=6)
        ours, state = trained(optimizer, 3, *trees)
    jax.tree.map(
        lambda u, s: u.sharding.is_equivalent_to(s, u.ndim) or pytest.fail(str(u)),
        ours,
        shardings_of(mesh),
    )
    theirs = trained(optimizer, 3, *jax.device_get(trees))
    assert_close(jax.device_get((ours, state)), theirs, rtol=1e-5, atol=1e-6)


def test_restored_wrapper_goes_on_to_the_same_last_bit(tmp_path, wrap):
    import orbax.checkpoint as ocp

    optimizer = wrap(ADAM, LAYERS)
    params, state = trained(optimizer)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        target = jax.eval_shape(optimizer.init, PARAMS)
        restored = checkpointer.restore(tmp_path / "state", target)
    chex.assert_trees_all_equal(restored, state)
    step = compiled_step(optimizer)
    chex.assert_trees_all_equal(
        step(params, restored, UPDATES), step(params, state, UPDATES)
    )


def test_wrapper_refuses_leaves_that_its_layers_do_not_know(wrap):
    optimizer = wrap(ADAM, LAYERS)
    with pytest.raises(ValueError, match="'neck/kernel' is in none of the layers"):
        optimizer.init({**PARAMS, "neck": {"kernel": jnp.ones(2)}})
    with pytest.raises(ValueError, match="with 3 slices"):
        optimizer.init({**PARAMS, "blocks": {"kernel": jnp.ones((4, 4, 4))}})


def test_wrapper_refuses_a_state_that_is_not_its_own(wrap):
    optimizer = wrap(ADAM, LAYERS)
    with pytest.raises(ValueError, match=r"expected an? \w+State, as `init` returns"):
        optimizer.update(UPDATES, ADAM.init(PARAMS), PARAMS, **WATCHED)


@pytest.mark.parametrize("name", ["adapt_layers", "monitor_layers"])
def test_wrapper_asks_for_the_parameters(name):
    optimizer = WRAPPERS[name](ADAM, LAYERS)
    with pytest.raises(ValueError, match=f"{name}: needs the parameters"):
        optimizer.update(UPDATES, optimizer.init(PARAMS))


# Each of them trains a model from above for three steps, as a plain loop does.


def plainly(loss, optimizer, params):
    @jax.jit
    def step(params, state):
        gradients = jax.grad(loss)(params)
        updates, state = optimizer.update(gradients, state, params, **WATCHED)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(3):
        params, state = step(params, state)
    return params


def test_adapted_layers_in_a_linen_train_state():
    from flax.training.train_state import TrainState

    model, variables = linen_model()
    params = variables["params"]
    optimizer = adapted(ADAM, optax_llr.match_layers(params, NET_RULES))

    def loss(params):
        return jnp.mean((model.apply({"params": params}, INPUT) - 1) ** 2)

    state = TrainState.create(apply_fn=model.apply, params=params, tx=optimizer)
    step = jax.jit(lambda s: s.apply_gradients(grads=jax.grad(loss)(s.params)))
    for _ in range(3):
        state = step(state)
    assert_close(state.params, plainly(loss, optimizer, params), rtol=1e-5, atol=1e-6)


def test_wrapper_in_an_nnx_optimizer(wrap):
    from flax import nnx

    graph, params = nnx.split(nnx_model(), nnx.Param)
    optimizer = wrap(ADAM, optax_llr.match_layers(params, NET_RULES))

    def loss(model):
        return jnp.mean((model(INPUT) - 1.0) ** 2)

    @nnx.jit
    def step(model, boxed):
        boxed.update(model, nnx.grad(loss)(model), **WATCHED)

    model = nnx_model()
    boxed = nnx.Optimizer(model, optimizer, wrt=nnx.Param)
    for _ in range(3):
        step(model, boxed)
    theirs = plainly(lambda p: loss(nnx.merge(graph, p)), optimizer, params)
    ours = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    assert_close(ours, nnx.to_pure_dict(theirs), rtol=1e-5, atol=1e-6)


def test_adapted_layers_in_an_equinox_loop():
    import equinox as eqx

    model = eqx.nn.MLP(3, 2, 4, 1, key=jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_inexact_array)
    rules = [(r".*layers/0/.*", "first"), (r".*layers/1/.*", "second")]
    optimizer = adapted(ADAM, optax_llr.match_layers(params, rules))

    def loss(model):
        return jnp.mean((jax.vmap(model)(INPUT) - 1.0) ** 2)

    @eqx.filter_jit
    def step(model, state):
        gradients = eqx.filter_grad(loss)(model)
        weights = eqx.filter(model, eqx.is_inexact_array)
        updates, state = optimizer.update(gradients, state, weights)
        return eqx.apply_updates(model, updates), state

    state = optimizer.init(params)
    for _ in range(3):
        model, state = step(model, state)
    theirs = plainly(lambda p: loss(eqx.combine(p, static)), optimizer, params)
    ours = eqx.filter(model, eqx.is_inexact_array)
    assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
