"""Every public transformation and rule under JAX's strict modes, and where values end.

docs/compatibility.md names these tests.
"""

import contextlib
import logging
import pathlib
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import optax_llr
from optax_llr import contrib, rules

# A layer of several leaves, three in one leaf, one without an element, a last one. The
# stacks of matrices of one element have as many eigenvalues as it takes to be measured.
SHAPES = {
    "stem": {"kernel": (52, 1, 1, 1), "bias": (3,), "gain": ()},
    "blocks": (3, 52, 1, 1, 1),
    "void": (0, 3),
    "head": (4, 13, 1),
}
RULES = [
    ("stem/.*", "stem"),
    ("blocks", "block[:]"),
    ("void", "void"),
    ("head", "head"),
]


def tree(seed, dtype=jnp.float32):
    """Of moderate size, which 8 bits hold as well."""
    generator = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: jnp.asarray(generator.uniform(0.5, 2.0, shape), dtype),
        SHAPES,
        is_leaf=lambda node: isinstance(node, tuple),
    )


def zeros(like):
    return jax.tree.map(jnp.zeros_like, like)


LAYERS = optax_llr.match_layers(tree(0), RULES)
NOTHING = optax_llr.match_layers({}, [])


def schedule(layers):
    ends = np.linspace(0.0, 2.0, len(layers)), np.ones(len(layers))
    return optax.linear_schedule(*ends, 10)


def by_alignment(step, previous):
    """README's rule, with a function made anew in each step."""
    agreement = optax_llr.layer_sum(
        step.layers,
        lambda g, p: jnp.sign(g) * jnp.sign(p),
        step.gradients,
        previous,
    )
    return 2.0 ** jnp.sign(agreement), step.gradients


def adapted(rule, **options):
    # Half precision and less has no square of it; the optimizer is not what is tested.
    return lambda layers: optax_llr.adapt_layers(
        optax.sgd(0.5, momentum=0.5), layers, rule, **options
    )


MEASURED = {
    "gradient_norm": rules.gradient_norm(),
    "curvature": rules.curvature(),
    "hypergradient": rules.hypergradient(0.01),
    "multiplicative_hypergradient": rules.multiplicative_hypergradient(0.1),
    "signal_to_noise": rules.signal_to_noise(),
    "trust_ratio": rules.trust_ratio(),
    "gradient_trust_ratio": rules.gradient_trust_ratio(1.0, weight_decay=0.1),
    "tail_exponent": rules.tail_exponent(2),
    "ramped_tail_exponent": rules.ramped_tail_exponent(2, 2, (), until=3),
    "learned": contrib.learned(10),
}
TRANSFORMATIONS = {
    "scale_by_layer": lambda layers: optax_llr.scale_by_layer(layers, schedule(layers)),
    "add_decayed_weights_by_layer": lambda layers: (
        optax_llr.add_decayed_weights_by_layer(layers, 0.5, schedule(layers))
    ),
    "layca": lambda layers: optax_llr.layca(layers, schedule(layers)),
    "revert_to_uniform": lambda layers: contrib.revert_to_uniform(
        optax_llr.scale_by_layer(layers, np.full(len(layers), 0.5)), 1, 3
    ),
    **{name: adapted(rule) for name, rule in MEASURED.items()},
    "relative": adapted(rules.signal_to_noise(), relative=True),
    "README": adapted(
        optax_llr.Rule(lambda layers, params: zeros(params), by_alignment)
    ),
}
every = pytest.mark.parametrize("name", TRANSFORMATIONS)


def every_slowly_but(*quick):
    """All of them, of which the default run takes some."""
    return pytest.mark.parametrize(
        "name",
        [
            name if name in quick else pytest.param(name, marks=pytest.mark.slow)
            for name in TRANSFORMATIONS
        ],
    )


def stepper(optimizer, jit=False):
    update = optax.with_extra_args_support(optimizer).update
    return jax.jit(update) if jit else update


# --- Strict modes -------------------------------------------------------------------


@contextlib.contextmanager
def strictly():
    with (
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
        jax.debug_nans(True),
        jax.debug_infs(True),
    ):
        yield


@pytest.mark.parametrize(
    "dtype", [pytest.param(jnp.float32, marks=pytest.mark.slow), jnp.float8_e4m3fn]
)
@every
def test_strict_modes(name, dtype):
    """Promotion of dtypes and ranks, NaN and infinity: eagerly and compiled."""
    params, gradients = tree(0, dtype), tree(1, dtype)
    with strictly():
        optimizer = TRANSFORMATIONS[name](LAYERS)
        state = optimizer.init(params)
        # With gradients of 0 too, and weights of 0: nothing is wrong with either.
        for w, g in [
            (params, gradients),
            (params, zeros(params)),
            (zeros(params),) * 2,
        ]:
            updates, after = stepper(optimizer)(g, state, w, value=jnp.float32(1))
            chex.assert_trees_all_equal_shapes_and_dtypes((updates, after), (g, state))
            state = after
        if dtype == jnp.float32:  # each dtype takes the same path
            update = stepper(optimizer, jit=True)
            update(gradients, state, params, value=jnp.float32(1))


@every_slowly_but("scale_by_layer", "README")
def test_no_tracer_is_left_behind(name):
    params, optimizer = tree(0), TRANSFORMATIONS[name](LAYERS)
    with jax.checking_leaks():
        state = jax.jit(optimizer.init)(params)
        stepper(optimizer, jit=True)(params, state, params, value=1.0)


# --- How often it is compiled -------------------------------------------------------


@every
def test_no_step_outside_jit_compiles_again(name, caplog):
    params, optimizer = tree(0), TRANSFORMATIONS[name](LAYERS)
    update, state = stepper(optimizer), optimizer.init(params)
    for _ in range(3):  # those of spectra measure at the first and the third
        _, state = update(params, state, params, value=1.0)
    state = jax.tree.map(jnp.array, state)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        for _ in range(2):
            _, state = update(params, state, params, value=1.0)
    assert not [r for r in caplog.messages if "Compiling" in r or "compilation" in r]


# --- Derivatives --------------------------------------------------------------------

FEW = {
    "kernel": (52, 1, 1, 1),
    "blocks": (2, 52, 1, 1, 1),
    "bias": (2,),
    "head": (2, 1),
}
FEW_RULES = [("kernel|bias", "stem"), ("blocks", "block[:]"), ("head", "head")]


def few(seed):
    generator = np.random.default_rng(seed)
    return {k: jnp.asarray(generator.uniform(0.5, 2, v)) for k, v in FEW.items()}


FEW_LAYERS = optax_llr.match_layers(few(0), FEW_RULES)
STILL = {  # gradients, weights (also those of `init`)
    "as ever": (few(1), few(2)),
    "gradients of 0": (zeros(few(1)), few(2)),
    "weights of 0": (few(1), zeros(few(2))),
    "all of them": (zeros(few(1)), zeros(few(2))),
}
# The second derivative of singular values has none where two of them are equal.
ONCE = ("tail_exponent", "ramped_tail_exponent")


@every_slowly_but("layca", "trust_ratio", "signal_to_noise")
def test_derivatives_are_finite(name):
    """Through `init` and two updates: the gradient, and the gradient of its square."""
    optimizer = TRANSFORMATIONS[name](FEW_LAYERS)
    update = stepper(optimizer)

    def total(trees):
        gradients, params = trees
        state, result = optimizer.init(params), 0.0
        for _ in range(2):
            updates, state = update(gradients, state, params, value=1.0)
            result += sum(map(jnp.sum, jax.tree.leaves(updates)))
        return result

    def square(trees):
        gradient = jax.grad(total)(trees)
        return optax.tree.norm(gradient, squared=True), gradient

    derivatives = jax.grad(total if name in ONCE else square, has_aux=name not in ONCE)
    derivatives = jax.jit(derivatives)
    for case, trees in STILL.items():
        for leaf in jax.tree.leaves(derivatives(trees)):
            assert np.isfinite(leaf).all(), case


# --- Nothing at all -----------------------------------------------------------------


@pytest.mark.parametrize(
    "relative", [False, pytest.param(True, marks=pytest.mark.slow)]
)
@every
def test_no_parameters_at_all(name, relative):
    optimizer = TRANSFORMATIONS[name](NOTHING)
    if name in MEASURED:
        optimizer = adapted(MEASURED[name], relative=relative)(NOTHING)
    state = optimizer.init({})
    for jit in (False, True):
        updates, state = stepper(optimizer, jit)({}, state, {}, value=1.0)
        assert updates == {}


# --- Numbers of NumPy ---------------------------------------------------------------

NUMBERS = {  # factories of what there are numbers in, and whether they must be whole
    "scale_by_layer": lambda a, b: optax_llr.scale_by_layer(LAYERS, [a] * len(LAYERS)),
    "add_decayed_weights_by_layer": lambda a, b: optax_llr.add_decayed_weights_by_layer(
        LAYERS, a, np.ones(len(LAYERS))
    ),
    "revert_to_uniform": lambda a, b: contrib.revert_to_uniform(
        optax_llr.scale_by_layer(LAYERS, np.ones(len(LAYERS))),
        b,
        b,
        rtol=a,
        atol=a,
        accumulation_size=b,
    ),
    "curvature": lambda a, b: rules.curvature(a / 4),
    "hypergradient": lambda a, b: rules.hypergradient(a),
    "multiplicative_hypergradient": lambda a, b: rules.multiplicative_hypergradient(
        a / 4
    ),
    "signal_to_noise": lambda a, b: rules.signal_to_noise(a / 4),
    "trust_ratio": lambda a, b: rules.trust_ratio(a, a),
    "gradient_trust_ratio": lambda a, b: rules.gradient_trust_ratio(a, a, a),
    "tail_exponent": lambda a, b: rules.tail_exponent(b, a, a),
    "ramped_tail_exponent": lambda a, b: rules.ramped_tail_exponent(b, b, (), a, b),
    "learned": lambda a, b: contrib.learned(b, a, key=int(b)),
    "bounds": lambda a, b: optax_llr.adapt_layers(
        optax.sgd(0.1), LAYERS, rules.gradient_norm(), (a / 4, b)
    ),
    "cascade_schedule": lambda a, b: optax_llr.cascade_schedule(
        LAYERS, a, a, b + b, start=a, final=a
    ),
    "gradual_unfreeze_schedule": lambda a, b: optax_llr.gradual_unfreeze_schedule(
        LAYERS, b, a
    ),
    "freezeout_schedule": lambda a, b: optax_llr.freezeout_schedule(
        LAYERS, b, a / 4, a
    ),
    "layer_decay": lambda a, b: optax_llr.layer_decay(LAYERS, a),
    "rotation_alpha": lambda a, b: optax_llr.rotation_alpha(LAYERS, a / 4),
    "interpolate_schedule": lambda a, b: optax_llr.interpolate_schedule(
        LAYERS, a, optax.constant_schedule(b)
    ),
    "per_layer_schedule": lambda a, b: optax_llr.per_layer_schedule(
        LAYERS, dict.fromkeys(LAYERS.names, a)
    ),
}
KINDS = {
    "int64": (np.int64(1), np.int64(3)),
    "float32": (np.float32(1), np.float32(3)),
    "bfloat16": (jnp.bfloat16(1), jnp.bfloat16(3)),
    "int of JAX": (jnp.int32(1), jnp.int32(3)),
}


@pytest.mark.parametrize(
    "name",
    [
        name if name == "scale_by_layer" else pytest.param(name, marks=pytest.mark.slow)
        for name in NUMBERS
    ],
)
def test_numbers_of_numpy_and_jax_are_as_good_as_those_of_python(name):
    """Under strict promotion too, in which they are of a type."""

    def result(numbers):
        made = NUMBERS[name](*numbers)
        if isinstance(made, optax_llr.Rule):
            made = optax_llr.adapt_layers(optax.sgd(0.5), LAYERS, made)
        if isinstance(made, optax.GradientTransformation):
            params = {"head": jnp.ones((4, 13, 1))}
            return stepper(made)(params, made.init(params), params, value=1.0)
        return made(np.int64(2)) if callable(made) else made

    python = result((1, 3))
    for kind, numbers in KINDS.items():
        with jax.numpy_dtype_promotion("strict"):
            found = result(numbers)
        for ours, theirs in zip(*map(jax.tree.leaves, (found, python)), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, err_msg=kind)
            assert jnp.result_type(ours) in (jnp.result_type(theirs), jnp.float32)


# --- Devices ------------------------------------------------------------------------


def mesh():
    return jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))


P = jax.sharding.PartitionSpec
FLAT = {"kernel": jnp.ones((52, 2, 1, 2)), "head": jnp.ones((52, 2, 1, 2))}
FLAT_LAYERS = optax_llr.match_layers(FLAT, [(name, name) for name in FLAT])


@pytest.mark.parametrize(
    "name", ["layca", "trust_ratio", "ramped_tail_exponent", "learned"]
)
def test_shard_map_with_sharded_parameters_is_refused(name):
    """Norms would be those of the part that a device has."""
    optimizer = TRANSFORMATIONS[name](FLAT_LAYERS)

    def step(params):
        return optimizer.update(params, optimizer.init(params), params)[0]

    whole = jax.shard_map(step, mesh=mesh(), in_specs=P(), out_specs=P())
    chex.assert_trees_all_close(jax.jit(whole)(FLAT), step(FLAT), rtol=1e-6)
    parts = jax.shard_map(step, mesh=mesh(), in_specs=P("d"), out_specs=P("d"))
    with pytest.raises(ValueError, match=r"expected whole arrays, got parts of '\w+'"):
        jax.jit(parts)(FLAT)


def test_shard_map_with_a_model_on_each_device():
    """Each has its own multipliers, where shard_map is told not to look."""
    models = jax.tree.map(lambda leaf: jnp.stack([leaf, 3 * leaf]), FLAT)
    optimizer = TRANSFORMATIONS["trust_ratio"](FLAT_LAYERS)

    def step(params):
        params = jax.tree.map(lambda leaf: leaf[0], params)
        gradients = jax.tree.map(jnp.ones_like, params)
        _, state = optimizer.update(gradients, optimizer.init(params), params)
        return state.measured[None]

    apart = jax.shard_map(
        step, mesh=mesh(), in_specs=P("d"), out_specs=P("d"), check_vma=False
    )
    np.testing.assert_allclose(jax.jit(apart)(models), [[2, 2], [6, 6]], rtol=1e-6)


@pytest.mark.parametrize("name", ["scale_by_layer", "add_decayed_weights_by_layer"])
def test_shard_map_with_sharded_parameters_where_no_norm_is_needed(name):
    optimizer = TRANSFORMATIONS[name](FLAT_LAYERS)

    def step(params):
        return optimizer.update(params, optimizer.init(params), params)[0]

    parts = jax.shard_map(step, mesh=mesh(), in_specs=P("d"), out_specs=P("d"))
    chex.assert_trees_all_equal(jax.jit(parts)(FLAT), step(FLAT))


@pytest.mark.parametrize("name", ["layca", "trust_ratio"])
def test_pmap_with_gradients_of_all_devices(name):
    optimizer = TRANSFORMATIONS[name](FLAT_LAYERS)

    def step(gradients, params):
        gradients = lax.pmean(gradients, "d")
        return optimizer.update(gradients, optimizer.init(params), params)[0]

    both = jax.tree.map(lambda leaf: jnp.stack([leaf, 3 * leaf]), FLAT)
    ours = jax.pmap(step, axis_name="d", in_axes=(0, None))(both, FLAT)
    mean = jax.tree.map(lambda leaf: 2 * leaf, FLAT)
    theirs = optimizer.update(mean, optimizer.init(FLAT), FLAT)[0]
    for row in range(2):
        alone = jax.tree.map(lambda leaf, row=row: leaf[row], ours)
        chex.assert_trees_all_close(alone, theirs, rtol=1e-6)


# --- Complex parameters, flattened ones ---------------------------------------------


@pytest.mark.parametrize("name", ["scale_by_layer", "layca", "trust_ratio"])
def test_complex_parameters_as_their_parts(name):
    """`split_real_and_imaginary` hands over a tree of pairs, with their own paths."""
    params = jax.tree.map(lambda leaf: leaf * (1 + 2j), FLAT)
    pairs = [(rf"{k}/(real|imaginary)", k) for k in FLAT]
    split = optax.contrib.split_real_and_imaginary
    seen = jax.eval_shape(split(optax.trace(0.9)).init, params)[0].trace
    layers = optax_llr.match_layers(seen, pairs)
    apart = split(TRANSFORMATIONS[name](layers))
    whole = TRANSFORMATIONS[name](FLAT_LAYERS)
    ours, _ = apart.update(params, apart.init(params), params)
    theirs, _ = whole.update(params, whole.init(params), params)
    if name != "layca":  # which turns each part for itself
        chex.assert_trees_all_close(ours, theirs, rtol=1e-6)


def test_flatten_leaves_one_leaf_that_belongs_to_no_layer():
    inner = optax_llr.scale_by_layer(FLAT_LAYERS, np.ones(2))
    with pytest.raises(ValueError, match="scale_by_layer: parameter '' is in none"):
        optax.flatten(inner).init(FLAT)
    outside = optax.chain(optax.flatten(optax.adam(0.1)), inner)
    updates, _ = outside.update(FLAT, outside.init(FLAT), FLAT)
    chex.assert_trees_all_equal_shapes(updates, FLAT)


# --- The page -----------------------------------------------------------------------


def test_compatibility_names_tests_that_there_are():
    tests = pathlib.Path(__file__).parent
    page = (tests.parent / "docs" / "compatibility.md").read_text()
    names = re.findall(r"`(?:([\w/]+\.py)|…)(?:::(\w+))?`", page)
    assert len(names) > 30
    file = ""
    for name, test in names:
        file = name or file
        text = (tests / file).read_text()
        assert not test or f"def {test}(" in text, (file, test)
