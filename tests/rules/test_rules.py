"""The rules: against slow references, at their limits, and by the laws they keep."""

import functools
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from hypothesis import given as given_by
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax import lax
from optax.contrib import sam

import optax_llr
from optax_llr import contrib, rules
from optax_llr.rules._adapt_layers import NOT_MEASURED
from optax_llr.rules._spectra import exponent

STEPS = 100
EVERY = 10  # of the rules that measure spectra

# A layer of kernel and bias, three layers in one leaf, a convolution, a last layer.
# Layers 1 to 4 have 50 eigenvalues or more.
SHAPES = {
    "stem_kernel": (4, 52),
    "stem_bias": (52,),
    "blocks": (3, 52, 50),
    "conv": (3, 3, 6, 7),
    "head": (7, 3),
}
MATRICES = [(1, 4, 52), *[(1, 52, 50)] * 3, (9, 6, 7), (1, 7, 3)]
LAYERS = optax_llr.match_layers(
    {name: jax.ShapeDtypeStruct(shape, "float32") for name, shape in SHAPES.items()},
    [("stem_.*", "stem"), ("blocks", "block[:]"), ("conv", "conv"), ("head", "head")],
)
FAULT = 20  # the step of a NaN


def tree(seed, *leading, scale=1.0):
    rng = np.random.default_rng(seed)
    return {
        name: np.float32(scale * rng.standard_normal((*leading, *shape)))
        for name, shape in SHAPES.items()
    }


def by_layer(values):
    """A tree as one vector of float64 for each layer, kernels first."""
    leaves = {name: np.asarray(leaf, np.float64) for name, leaf in values.items()}
    parts = [
        np.append(leaves["stem_kernel"], leaves["stem_bias"]),
        *leaves["blocks"],
        leaves["conv"],
        leaves["head"],
    ]
    return [part.ravel() for part in parts]


def from_layers(numbers):
    """A tree, each leaf (or slice) filled with the number of its layer."""
    leaves = {}
    for name, shape in SHAPES.items():
        values = np.asarray(numbers, np.float32)[np.array(LAYERS.members[name])]
        shaped = values.reshape(values.shape + (1,) * (len(shape) - values.ndim))
        leaves[name] = np.array(np.broadcast_to(shaped, shape))
    return leaves


class Case(NamedTuple):
    rule: optax_llr.Rule
    reference: Any  # makes one, from the initial state of the rule
    bounds: tuple[float, float]  # some multipliers of the runs below meet


def slow(rule, **numbers):
    return lambda state: reference.each(rule, **numbers)


def slow_learned(state):
    return reference.Learned(*state.network, LAYERS.depth, STEPS, rate=0.002)


CASES = {
    "gradient_norm": Case(
        rules.gradient_norm(), slow(reference.gradient_norm), (0.9, 1.2)
    ),
    "curvature": Case(
        rules.curvature(0.8), slow(reference.curvature, decay=0.8), (0.5, 2.0)
    ),
    "hypergradient": Case(
        rules.hypergradient(0.02),
        slow(reference.hypergradient, rate=0.02),
        (0.8, 1.2),
    ),
    "multiplicative_hypergradient": Case(
        rules.multiplicative_hypergradient(0.1),
        slow(reference.multiplicative_hypergradient, rate=0.1),
        (0.6, 1.2),
    ),
    "signal_to_noise": Case(
        rules.signal_to_noise(0.8),
        slow(reference.signal_to_noise, decay=0.8),
        (0.05, 1.0),
    ),
    "trust_ratio": Case(
        rules.trust_ratio(0.1, eps=0.01),
        slow(reference.trust_ratio, coefficient=0.1, eps=0.01),
        (0.5, 2.0),
    ),
    "gradient_trust_ratio": Case(
        rules.gradient_trust_ratio(0.5, weight_decay=0.1, eps=0.01),
        slow(
            reference.gradient_trust_ratio, coefficient=0.5, weight_decay=0.1, eps=0.01
        ),
        (0.5, 2.0),
    ),
    "tail_exponent": Case(
        rules.tail_exponent(EVERY, 0.5, 1.5),
        lambda state: reference.TailExponent(MATRICES, EVERY, 0.5, 1.5),
        (0.6, 1.4),
    ),
    "ramped_tail_exponent": Case(
        rules.ramped_tail_exponent(EVERY, 4, ("stem", "head"), 3.0, until=75),
        lambda state: reference.RampedTailExponent(
            MATRICES, EVERY, 4, [0, -1], 3.0, until=75
        ),
        (0.5, 2.8),
    ),
    "learned": Case(contrib.learned(STEPS, rate=0.002), slow_learned, (0.8, 1.3)),
}
SPECTRAL = ("tail_exponent", "ramped_tail_exponent")
INNERS = {
    "momentum": (
        optax.sgd(0.1, momentum=0.5),
        lambda: reference.momentum_steps(0.1, 0.5),
    ),
    # A small eps would make whole steps of the rounding of gradients near 0.
    "adam": (optax.adam(0.05, eps=0.01), lambda: reference.Adam(0.05, eps=0.01)),
}


def rule_for(layers, name):
    """That of CASES, or one like it: some know the names of their layers."""
    if name != "ramped_tail_exponent":
        return CASES[name].rule
    ends = tuple(dict.fromkeys((layers.names[0], layers.names[-1])))
    return rules.ramped_tail_exponent(EVERY, 4, ends, 3.0, until=75)


def make(name, **arguments):
    """A rule by its name, wherever it lives."""
    factory = getattr(rules, name, None) or getattr(contrib, name)
    names = {"largest": ()} if name == "ramped_tail_exponent" else {}
    return factory(**arguments, **names)


TOGETHER = (*SPECTRAL, "learned")  # rules in which layers see each other
every_rule = pytest.mark.parametrize("name", CASES)
# Each with one of the inner optimizers, to compile half as much.
every_setting = pytest.mark.parametrize(
    ("inner", "relative"), [("momentum", False), ("adam", True)]
)


class Problem(NamedTuple):
    """Gradients stiffness · (w − target) + noise(t), element by element."""

    params: dict[str, np.ndarray]
    target: dict[str, np.ndarray]
    stiffness: dict[str, np.ndarray]
    noise: dict[str, np.ndarray]  # STEPS along the first axis


def problem():
    target = tree(2, scale=0.3)
    target["blocks"] *= np.abs(4 * target["blocks"]) ** [[[0]], [[1]], [[1.5]]]  # tails
    return Problem(
        params=jax.tree.map(np.add, target, tree(0, scale=0.1)),
        target=target,
        stiffness=from_layers([0.1, 1.0, 4.0, 0.3, 10.0, 2.0]),
        noise=tree(1, STEPS, scale=0.1),
    )


def with_faults():
    """NaN for layer 2 in one gradient, and for layer 4 in the initial weights."""
    given = problem()
    given.noise["blocks"][FAULT, 1, 3, 3] = np.nan
    given.params["conv"][0, 0, 0, 0] = np.nan
    return given


def with_zeros():
    """Layer 1 without gradients, layer 3 with weights that start at 0."""
    given = problem()
    given.stiffness["blocks"][0] = 0
    given.noise["blocks"][:, 0] = 0
    given.params["blocks"][2] = 0
    return given


@functools.cache
def trainer(name, inner, relative):
    """A jitted run over all steps: multipliers and weights after each."""
    case = CASES[name]
    optimizer = optax_llr.adapt_layers(
        INNERS[inner][0], LAYERS, case.rule, case.bounds, relative=relative
    )

    @jax.jit
    def run(given):
        def step(carry, noise):
            params, state = carry
            gradients = jax.tree.map(
                lambda w, c, h, n: h * (w - c) + n,
                params,
                given.target,
                given.stiffness,
                noise,
            )
            updates, state = optimizer.update(gradients, state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), (state.measured, params)

        start = given.params, optimizer.init(given.params)
        return lax.scan(step, start, given.noise)[1]

    return run


def fast_and_slow(name, inner, relative, given):
    """Multipliers (STEPS, L) and weights of the library and of the reference."""
    case = CASES[name]
    multipliers, path = jax.device_get(trainer(name, inner, relative)(given))
    target, stiffness = by_layer(given.target), by_layer(given.stiffness)
    noise = [by_layer(row) for row in rows(given.noise)]

    def gradient(weights, t):
        layers = zip(weights, target, stiffness, noise[t], strict=True)
        return [h * (w - c) + n for w, c, h, n in layers]

    expected = reference.adapted(
        by_layer(given.params),
        gradient,
        STEPS,
        inner=INNERS[inner][1],
        rule=case.reference(case.rule.init(LAYERS, given.params)),
        bounds=case.bounds,
        relative=relative,
    )
    return (multipliers, [by_layer(row) for row in rows(path)]), expected


def rows(values):
    """A tree for each step, of one with the steps along the first axis."""
    return [{name: leaf[t] for name, leaf in values.items()} for t in range(STEPS)]


def assert_same(ours, expected):
    """Float32 against float64: what differs by more was computed otherwise."""
    np.testing.assert_allclose(ours[0], expected[0], rtol=1e-4)
    for layer in range(len(LAYERS)):
        pair = [np.stack([row[layer] for row in path]) for _, path in (ours, expected)]
        np.testing.assert_allclose(*pair, rtol=1e-4, atol=3e-5)


@every_setting
@every_rule
def test_rule_follows_its_reference(name, inner, relative):
    ours, expected = fast_and_slow(name, inner, relative, problem())
    assert_same(ours, expected)
    assert 0 < np.isin(ours[0], np.float32(CASES[name].bounds)).mean() < 1  # clipped


@every_setting
@every_rule
def test_rule_follows_its_reference_where_something_is_zero(name, inner, relative):
    assert_same(*fast_and_slow(name, inner, relative, with_zeros()))


@every_setting
@every_rule
def test_nan_in_some_layers_leaves_the_others_right(name, inner, relative):
    """As in the reference, which is told of the NaN and keeps the rest clear of it."""
    ours, expected = fast_and_slow(name, inner, relative, with_faults())
    assert_same(ours, expected)
    if name not in SPECTRAL:  # whose layers go back to 1
        kept = ours[0][FAULT - 1, 2]
        np.testing.assert_array_equal(ours[0][FAULT:, 2], kept)
        np.testing.assert_array_equal(ours[0][:, 4], 1.0)


@pytest.mark.parametrize("name", [n for n in CASES if n not in TOGETHER])
def test_nan_in_some_layers_changes_no_bit_of_the_others(name):
    run = trainer(name, "momentum", False)
    spoilt, clean = run(with_faults()), run(problem())
    ends = by_layer(rows(spoilt[1])[-1]), by_layer(rows(clean[1])[-1])
    for layer in (0, 1, 3, 5):
        np.testing.assert_array_equal(spoilt[0][:, layer], clean[0][:, layer])
        np.testing.assert_array_equal(ends[0][layer], ends[1][layer])


# Below, layers of one leaf each, or of a slice each, that hold 52 numbers. As stacks of
# matrices of one element they have 52 eigenvalues, the squares of their numbers.
COUNT, SIZE = 6, 52
CHAIN = optax_llr.Layers(
    names=tuple(f"layer{i}" for i in range(COUNT)),
    level=np.arange(COUNT),
    members={f"layer{i}": i for i in range(COUNT)},
)
STACK = optax_llr.Layers(CHAIN.names, CHAIN.level, {"stack": tuple(range(COUNT))})


def chain_of(rows):
    """The tree of CHAIN, from an array (COUNT, SIZE)."""
    return {
        name: jnp.reshape(row, (SIZE, 1, 1, 1))
        for name, row in zip(CHAIN.names, rows, strict=True)
    }


def stack_of(rows):
    return {"stack": jnp.reshape(rows, (COUNT, SIZE, 1, 1, 1))}


def follow(rule, seen, multipliers=None, layers=CHAIN, tree_of=chain_of):
    """What a rule returns in each step; bounds and the optimizer play no part.

    `seen` is an array (steps, 3, COUNT, SIZE): gradients, updates, parameters. The
    multipliers of the step before are given, or those that the rule found.
    """
    found = jnp.ones(COUNT) if multipliers is None else multipliers
    state, path = rule.init(layers, tree_of(seen[0, 2])), []
    for gradients, updates, params in seen:
        trees = tree_of(gradients), tree_of(updates), tree_of(params)
        before = found if multipliers is None else multipliers
        found, state = rule.update(optax_llr.LayerStep(layers, *trees, before), state)
        path.append(found)
    return jnp.stack(path)


def seen(seed, steps=2):
    normal = np.random.default_rng(seed).standard_normal((steps, 3, COUNT, SIZE))
    return np.float32(normal)


def spread(*numbers):
    """Rows of SIZE numbers, each with the same Euclidean norm as the number given."""
    rows = np.zeros((COUNT, SIZE), np.float32)
    rows[: len(numbers), 0] = numbers
    return rows


def with_spectrum(eigenvalues):
    """A row of SIZE numbers of which the squares are these, each as often."""
    return np.sqrt(np.repeat(eigenvalues, SIZE // len(eigenvalues)))


@pytest.mark.parametrize(
    ("norm", "expected"), [(0.01, 5.61512), (1.0, 1.69315), (10.0, 1.09531)]
)
def test_gradient_norm_gives_the_values_of_lsalr(norm, expected):
    given = np.stack([[spread(norm), spread(), spread()]])
    found = follow(rules.gradient_norm(), given)
    np.testing.assert_allclose(found[0, 0], expected, atol=5e-6)  # as printed


def test_hypergradient_of_a_gradient_too_large_to_be_squared_changes_nothing():
    """Neither at the first step, where it has no cosine with a step of 0."""
    gradients, updates = spread(1e30, 1.0), spread(1.0, 1.0)
    given = np.stack([[gradients, updates, updates]] * 2)
    found = follow(rules.multiplicative_hypergradient(0.5), given, jnp.full(COUNT, 2.0))
    np.testing.assert_array_equal(np.isnan(found[:, 0]), True)
    np.testing.assert_array_equal(found[:, 1], [2.0, 1.0])
    # Which `adapt_layers` takes for what it is.
    optimizer = optax_llr.adapt_layers(
        optax.sgd(1.0), CHAIN, rules.multiplicative_hypergradient(0.5)
    )
    trees = chain_of(gradients), chain_of(updates)
    _, state = optimizer.update(trees[0], optimizer.init(trees[1]), trees[1])
    np.testing.assert_array_equal(state.measured, 1.0)


@pytest.mark.parametrize("curvature", [0.3, 4.0, 15.0])
def test_two_steps_on_a_quadratic_tell_its_curvature(curvature):
    rate = 0.1
    one = np.array([1.0, -2.0, 3.0])
    two = one - rate * curvature * one  # by multiplier 1
    updates = [spread(*(-rate * curvature * w)) for w in (one, two)]
    given = np.stack([[spread(), update, spread()] for update in updates])
    found = follow(rules.curvature(decay=0), given, jnp.ones(COUNT))
    np.testing.assert_allclose(rate * found[1, :3], 1 / curvature, rtol=2e-6)


def test_signal_to_noise_tells_a_constant_gradient_from_noise():
    decay, ones = 0.9, jnp.ones(COUNT)
    rule = rules.signal_to_noise(decay)
    gradients = np.float32(np.random.default_rng(0).standard_normal((COUNT, 400, SIZE)))
    gradients[:3] = gradients[:3, :1]

    def step(state, given):
        step = optax_llr.LayerStep(CHAIN, given, given, given, ones)
        return rule.update(step, state)[::-1]

    trees = dict(zip(CHAIN.names, gradients, strict=True))
    start = rule.init(CHAIN, {name: tree[0] for name, tree in trees.items()})
    found = np.asarray(lax.scan(step, start, trees)[1])
    np.testing.assert_allclose(found[:, :3], 1.0, rtol=1e-5)
    noise = found[100:, 3:].mean()
    np.testing.assert_allclose(noise, (1 - decay) / (1 + decay), rtol=0.05)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (rules.trust_ratio(), 5 / 2),
        (rules.trust_ratio(0.1), 0.1 * 5 / 2),
        (rules.trust_ratio(eps=0.5), 5 / 2.5),
        (rules.gradient_trust_ratio(), 1e-3 * 5 / 4),
        (rules.gradient_trust_ratio(1.0, weight_decay=0.2), 5 / (4 + 0.2 * 5)),
        (rules.gradient_trust_ratio(1.0, eps=1.0), 5 / (4 + 1)),
    ],
)
def test_trust_ratios(rule, expected):
    """By hand, with norms 4, 2 and 5; and 1 where a norm is 0."""
    given = np.stack([[spread(4, 0, 4, 4), spread(2, 0, 2, 2), spread(5, 5, 0, 5)]])
    found = follow(rule, given)
    np.testing.assert_allclose(found[0, :4], [expected, 1, 1, expected], rtol=1e-6)


E = np.e
# 52 eigenvalues, each of these as often; i is half of them, n as many.
SPECTRA = {3.0: [1, 1, 1, E], 5.0: [1, 1, 1, E**0.5], 3.88539: [1, 2, 4, 8]}


def measured_exponents(*spectra):
    """Multipliers between ½ and 1½ of layers with these spectra, first and last too."""
    weights = np.ones((COUNT, SIZE), np.float32)
    for row, spectrum in zip(weights, spectra, strict=False):
        row[:] = with_spectrum(spectrum)
    found = follow(
        rules.tail_exponent(1), np.stack([[0 * weights, 0 * weights, weights]])
    )
    return np.asarray(found[0])


def test_tail_exponents_are_those_of_the_source():
    """1, 2, 4, 8 has 3.88539, which lies so far between 3 and 5."""
    first, *spectra = [1, 1, 1, 9], *SPECTRA.values()
    share = (3.88539 - 3.0) / (5.0 - 3.0)
    np.testing.assert_allclose(
        measured_exponents(first, *spectra), [1, 0.5, 1.5, 0.5 + share, 1, 1], rtol=1e-5
    )


@pytest.mark.parametrize(
    ("spectra", "why"),
    [
        ([[1, 1, 1, E], [1, 1, 1, E]], "equal exponents"),
        ([[1, 2, 4, 8]], "one layer that can be measured"),
        ([[1, 2, 4, 8], [0, 0, 0, 1]], "the other one's eigenvalue i is 0"),
        ([[1, 2, 4, 8], [1, 2, 4, np.nan]], "the other one's are no numbers"),
        ([[1, 2, 4, 8], [5, 5, 5, 5]], "the other one's are all equal"),
        ([], "none that can be measured"),
    ],
)
def test_tail_exponent_leaves_all_layers_at_1_for(spectra, why):
    del why
    np.testing.assert_array_equal(measured_exponents([1, 1, 1, 9], *spectra), 1.0)


def test_tail_exponent_passes_by_layers_of_fewer_than_50_eigenvalues():
    rng = np.random.default_rng(0)
    shapes = {
        "first": (60, 60),
        "few": (49, 80),
        "wide": (50, 80),
        "conv": (5, 5, 2, 3),
        "norm": (70,),
        "scalar": (),
        "last": (60, 60),
    }
    params = {k: np.float32(rng.standard_normal(v)) for k, v in shapes.items()}
    layers = optax_llr.match_layers(params, [(name, name) for name in shapes])
    rule = rules.tail_exponent(1)
    step = optax_llr.LayerStep(layers, params, params, params, jnp.ones(len(layers)))
    found = rule.update(step, rule.init(layers, params))[0]
    expected = dict.fromkeys(shapes, 1.0) | {"conv": 0.5, "wide": 1.5}
    np.testing.assert_array_equal(found, list(expected.values()))


AT_REST = {  # multipliers of a layer with a 2 where gradients, updates, weights are 0
    "gradient_norm": 1 + np.log1p(1 / reference.TINY),
    "curvature": 2.0,
    "hypergradient": 2.0,
    "multiplicative_hypergradient": 2.0,
    "signal_to_noise": NOT_MEASURED,  # `adapt_layers` keeps the 2
    "trust_ratio": 1.0,
    "gradient_trust_ratio": 1.0,
    "tail_exponent": 1.0,
    "ramped_tail_exponent": [[1.5, 1, 1, 1, 1, 1.5], [2, 1, 1, 1, 1, 2]],
    "learned": 1.0,
}


@every_rule
def test_layers_at_rest(name):
    twos = jnp.full(COUNT, 2.0)
    rule, zeros = rule_for(CHAIN, name), np.zeros((2, 3, COUNT, SIZE), np.float32)
    expected = np.broadcast_to(AT_REST[name], (2, COUNT))
    np.testing.assert_allclose(follow(rule, zeros, twos), expected, rtol=1e-6)


@every_rule
def test_single_layer(name):
    """Of which the share is 1."""
    params = {"only": np.float32(np.random.default_rng(0).standard_normal((60, 60)))}
    layers = optax_llr.match_layers(params, [("only", "only")])
    for relative in (False, True):
        optimizer = optax_llr.adapt_layers(
            optax.sgd(1e-3),
            layers,
            rule_for(layers, name),
            (0.1, 10),
            relative=relative,
        )
        update, state = jax.jit(optimizer.update), optimizer.init(params)
        for _ in range(3):
            _, state = update(params, state, params)
            assert state.measured.shape == (1,)
            assert 0.1 <= state.measured[0] <= 10
        if relative or name == "tail_exponent":
            assert state.measured[0] == 1


def test_curvature_keeps_its_estimate_on_a_straight_line():
    given = np.repeat(seen(0, 1), 3, axis=0)
    multipliers = np.float32([0.3, 1, 2, 5, 0.7, 10])
    found = follow(rules.curvature(), given, multipliers)
    np.testing.assert_array_equal(found, [multipliers] * 3)


@pytest.mark.parametrize(
    "name", ["curvature", "hypergradient", "multiplicative_hypergradient"]
)
def test_first_step_changes_nothing(name):
    multipliers = np.float32([0.3, 1, 2, 5, 0.7, 10])
    found = follow(CASES[name].rule, seen(0, 1), multipliers)
    np.testing.assert_array_equal(found[0], multipliers)


@pytest.mark.parametrize(
    "key", [0, -1, 7, np.int64(7), jax.random.key(7), jax.random.PRNGKey(7)], ids=repr
)
def test_learned_starts_at_exactly_1(key):
    """And with it the first two steps, as the first tells it nothing."""
    found = follow(contrib.learned(10, rate=0.1, key=key), seen(0))
    np.testing.assert_array_equal(found[:1], 1.0)
    assert (np.abs(found[1:] - 1) > 1e-3).all()


def test_learned_depends_on_its_key():
    found = [follow(contrib.learned(10, key=key), seen(0))[1] for key in (0, 1)]
    assert (found[0] != found[1]).all()


FLAT = CHAIN.names, np.zeros(COUNT, int)  # no depth, by which `learned` tells layers
FLAT_CHAIN = optax_llr.Layers(*FLAT, CHAIN.members)
FLAT_STACK = optax_llr.Layers(*FLAT, STACK.members)
every_float = st.floats(width=32, allow_nan=False, allow_infinity=False)


@functools.cache
def followed(name, layers=FLAT_CHAIN, tree_of=chain_of):
    rule = rule_for(layers, name)
    return jax.jit(lambda seen: follow(rule, seen, layers=layers, tree_of=tree_of))


@functools.cache
def bounded(name, relative):
    optimizer = optax_llr.adapt_layers(
        optax.sgd(0.1, momentum=0.9),
        CHAIN,
        rule_for(CHAIN, name),
        bounds=(0.25, 4.0),
        relative=relative,
    )

    @jax.jit
    def run(seen):
        state, path = optimizer.init(chain_of(seen[0, 1])), []
        for gradients, params in seen:
            trees = chain_of(gradients), chain_of(params)
            _, state = optimizer.update(trees[0], state, trees[1])
            path.append(state.measured)
        return jnp.stack(path)

    return run


@every_rule
@settings(max_examples=20, deadline=None)
@given_by(numbers=hnp.arrays(np.float32, (2, 2, COUNT, SIZE), elements=every_float))
def test_multipliers_are_finite_and_within_bounds(name, numbers):
    for relative in (False, True):
        found = np.asarray(bounded(name, relative)(numbers))
        assert ((found >= 0.25) & (found <= 4)).all()


@every_rule
@settings(max_examples=20, deadline=None)
@given_by(seed=st.integers(0, 2**32), order=st.permutations(range(1, COUNT - 1)))
def test_permuted_layers_have_permuted_multipliers(name, seed, order):
    """But for the ends, which mean something to rules that measure spectra."""
    order = [0, *order, COUNT - 1]
    given = seen(seed)
    one, other = followed(name)(given), followed(name)(given[:, :, order])
    # The network of `learned` is trained by a sum over layers.
    np.testing.assert_allclose(one[:, order], other, rtol=1e-5 * (name == "learned"))


@every_rule
@settings(max_examples=20, deadline=None)
@given_by(seed=st.integers(0, 2**32), powers=st.tuples(*[st.integers(-15, 15)] * 3))
def test_stacked_layers_have_the_multipliers_of_separate_ones(name, seed, powers):
    given = seen(seed) * np.float32(10) ** np.array(powers)[:, None, None]
    one, other = followed(name)(given), followed(name, FLAT_STACK, stack_of)(given)
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


class Scales(NamedTuple):
    """Factors of all gradients, updates, weights and multipliers of the step before."""

    g: Any
    u: Any
    w: Any
    m: Any


LAWS = {  # a rule, which may go with the scales, and the factor of what it returns
    "gradient_norm": (lambda s: rules.gradient_norm(), lambda s: 1),
    "curvature": (lambda s: rules.curvature(), lambda s: s.m),
    "hypergradient": (
        lambda s: rules.hypergradient(0.1 * s.m / (s.g * s.u)),
        lambda s: s.m,
    ),
    "multiplicative_hypergradient": (
        lambda s: rules.multiplicative_hypergradient(0.1),
        lambda s: s.m,
    ),
    "signal_to_noise": (lambda s: rules.signal_to_noise(), lambda s: 1),
    "trust_ratio": (lambda s: rules.trust_ratio(), lambda s: s.w / s.u),
    "gradient_trust_ratio": (
        lambda s: rules.gradient_trust_ratio(),
        lambda s: s.w / s.g,
    ),
    "tail_exponent": (lambda s: rules.tail_exponent(1), lambda s: 1),
    "ramped_tail_exponent": (
        lambda s: rules.ramped_tail_exponent(1, 1, ("layer0",)),
        lambda s: 1,
    ),
    "learned": (lambda s: contrib.learned(10, rate=0.1), lambda s: 1),
}
HELD = {"gradient_norm": "g", "learned": "gw"}  # what these depend on


@functools.cache
def scaled(name):
    """What a rule returns for what it sees, scaled; the rule scaled with it."""
    rule_of, factor = LAWS[name]

    @jax.jit
    def run(seen, scales):
        by_kind = jnp.stack(scales[:3])[:, None, None]
        found = follow(rule_of(scales), seen * by_kind, jnp.full(COUNT, scales.m))
        return found / factor(scales)

    return run


@pytest.mark.parametrize("name", LAWS)
@settings(max_examples=20, deadline=None)
@given_by(seed=st.integers(0, 2**32), powers=st.tuples(*[st.integers(-30, 30)] * 4))
def test_scales_of_what_a_rule_sees(name, seed, powers):
    """By powers of 2, under which float32 rounds alike."""
    scales = Scales(*(jnp.float32(2.0**power) for power in powers))
    scales = scales._replace(**{k: jnp.float32(1) for k in HELD.get(name, "")})
    given, ones = seen(seed), Scales(*[jnp.float32(1)] * 4)
    one, other = scaled(name)(given, ones), scaled(name)(given, scales)
    np.testing.assert_allclose(one, other, rtol=1e-6)
    assert np.isfinite(one).all()


def test_gradient_norm_depends_on_the_scale_of_gradients():
    given = seen(0)
    found = [follow(rules.gradient_norm(), given * scale)[0] for scale in (1, 2)]
    assert (found[1] < found[0]).all()


def descend(optimizer, params, gradient, steps):
    """The final weights, and the multipliers of each step."""
    update, state, path = jax.jit(optimizer.update), optimizer.init(params), []
    for t in range(steps):
        updates, state = update(gradient(params, t), state, params)
        params = optax.apply_updates(params, updates)
        path.append(np.asarray(state.measured))
    return params, np.array(path)


def test_curvature_finds_the_best_rate_of_each_block():
    """From 1e15, as the best rates divide weights until float32 has none so small."""
    rate, curvatures = 0.1, np.array([2.0, 5.0, 15.0])
    blocks = {f"block{i}": jnp.full(3, 1e15) for i in range(3)}
    layers = optax_llr.match_layers(blocks, [("(.*)", r"\1")])
    optimizer = optax_llr.adapt_layers(
        optax.sgd(rate), layers, rules.curvature(), bounds=(1e-3, 1e3)
    )

    def gradient(params, t):
        return {k: h * params[k] for k, h in zip(params, curvatures, strict=True)}

    _, path = descend(optimizer, blocks, gradient, 50)
    np.testing.assert_allclose(rate * path[-1], 1 / curvatures, rtol=0.01)


@pytest.mark.parametrize(
    "rule",
    [rules.hypergradient(0.005), rules.multiplicative_hypergradient(0.1)],
    ids=["additive", "multiplicative"],
)
def test_hypergradients_move_rates_towards_the_best_from_both_sides(rule):
    rate, curvatures = 0.1, np.array([2.0, 18.0])  # best multipliers: 5 and 0.556
    blocks = {"slow": jnp.full(2, 8.0), "fast": jnp.ones(2)}
    layers = optax_llr.match_layers(blocks, [("slow", "slow"), ("fast", "fast")])
    optimizer = optax_llr.adapt_layers(optax.sgd(rate), layers, rule)

    def gradient(params, t):
        return {k: h * params[k] for k, h in zip(blocks, curvatures, strict=True)}

    _, path = descend(optimizer, blocks, gradient, 6)
    distance = np.abs(np.log(rate * curvatures * path))
    assert (np.diff(distance, axis=0)[1:] < 0).all()  # all but the first step
    assert (distance[-1] < 0.8 * distance[0]).all()


def test_vanishing_gradients_make_the_first_layers_the_faster():
    """In a plain net, deep and narrow, where activations do not vanish with them."""
    weights = np.random.default_rng(0).normal(scale=0.2, size=(8, 6, 6))
    inputs = jnp.asarray(np.random.default_rng(1).normal(size=(32, 6)), jnp.float32)
    params = {f"dense{i}": jnp.float32(w) for i, w in enumerate(weights)}
    layers = optax_llr.match_layers(params, [("(.*)", r"\1")])

    def loss(params):
        x = inputs
        for name in layers.names:
            x = jnp.tanh(x @ params[name] + 1)
        return jnp.square(x - 1).mean()

    optimizer = optax_llr.adapt_layers(
        optax.sgd(0.01), layers, rules.gradient_norm(), (1, 100)
    )
    gradient = jax.jit(jax.grad(loss))
    _, path = descend(optimizer, params, lambda params, t: gradient(params), 3)
    assert (np.diff(path, axis=1) < 0).all()
    assert (path[:, 0] > 2 * path[:, -1]).all()


def test_tail_exponent_measures_at_every_nth_step_and_only_there():
    given = seen(0, 6)  # other weights in each step
    each_step, found = jax.jit(
        lambda seen: [follow(rules.tail_exponent(every), seen) for every in (1, 2)]
    )(given)
    assert (np.diff(each_step, axis=0) != 0).any(axis=1).all()
    np.testing.assert_array_equal(found, each_step[np.array([0, 0, 2, 2, 4, 4])])


def primitives(jaxpr, unconditional=True):
    """All primitives of a jaxpr, or those that every call comes by."""
    for eqn in jaxpr.eqns:
        yield eqn.primitive.name
        if not (unconditional and eqn.primitive.name == "cond"):
            for inner in jax.tree.leaves(list(eqn.params.values())):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from primitives(inner, unconditional)


@pytest.mark.parametrize("name", SPECTRAL)
def test_no_spectrum_is_computed_in_the_other_steps(name):
    params, rule = chain_of(seen(0)[0, 2]), rule_for(CHAIN, name)
    optimizer = optax_llr.adapt_layers(optax.sgd(0.1), CHAIN, rule)
    state = optimizer.init(params)
    jaxpr = jax.make_jaxpr(optimizer.update)(params, state, params).jaxpr
    assert "svd" in primitives(jaxpr, unconditional=False)
    assert "svd" not in primitives(jaxpr)


def test_ramps_lead_from_one_measurement_to_the_next():
    """Against those of a rule that is there at once, at the steps of measurement."""
    given = seen(0, 12)
    ends = ("layer0", "layer5")

    def found(every, ramp_steps, until=None):
        return rules.ramped_tail_exponent(every, ramp_steps, ends, 5.0, until)

    at_once, slowly, stopped = (
        np.asarray(follow(rule, given))
        for rule in (found(1, 1), found(4, 3), found(4, 3, until=8))
    )
    marks = np.stack([np.ones(COUNT), *at_once[::4]])
    for step in range(12):
        before, after = marks[step // 4], marks[step // 4 + 1]
        part = min((step % 4 + 1) / 3, 1)
        expected = before + (after - before) * part
        np.testing.assert_allclose(slowly[step], expected, rtol=1e-6)
        if part == 1:
            np.testing.assert_array_equal(slowly[step], after)
    np.testing.assert_array_equal(stopped[:8], slowly[:8])
    np.testing.assert_array_equal(stopped[8:], slowly[[7] * 4])  # as the last found
    np.testing.assert_array_equal(at_once[:, [0, 5]], 5.0)
    assert (at_once.min(1) == 1).all()
    assert (at_once[:, 1:5].max(1) == 5).all()


def test_layers_at_multiplier_1_keep_every_bit_on_a_ramp():
    """Those that are not measured, beside one that rises."""
    params, gradients = tree(0), tree(1)
    rule = rules.ramped_tail_exponent(7, 7, ("conv",))
    inner = optax.adam(0.1)
    optimizer = optax_llr.adapt_layers(inner, LAYERS, rule)
    state, alone = optimizer.init(params), inner.init(params)
    update, plain = jax.jit(optimizer.update), jax.jit(inner.update)
    for _ in range(7):
        ours, state = update(gradients, state, params)
        theirs, alone = plain(gradients, alone, params)
        for name in ("stem_kernel", "stem_bias", "head"):
            np.testing.assert_array_equal(ours[name], theirs[name])
        assert (ours["conv"] != theirs["conv"]).any()


def exponents_in_print(eigenvalues):
    """1 + k / Σ ln(λ / λ of the k+1st largest), over the k = N / 2 largest."""
    falling = np.sort(eigenvalues)[::-1]
    k = len(falling) // 2
    return 1 + k / np.sum(np.log(falling[:k] / falling[k]))


def exponents_of_programs(eigenvalues):
    """The same, but by the smallest of the k largest."""
    falling = np.sort(eigenvalues)[::-1]
    k = len(falling) - len(falling) // 2
    return 1 + k / np.sum(np.log(falling[:k] / falling[k - 1]))


def test_exponents_are_those_of_the_programs_and_near_those_in_print():
    """With 128 eigenvalues, random ones and some with a tail: above by up to 4 %."""
    rng = np.random.default_rng(0)
    matrices = rng.standard_normal((3, 128, 256)).astype(np.float32)
    matrices[2] **= 3
    spectra = np.linalg.svd(np.float64(matrices), compute_uv=False) ** 2
    programs = np.array([exponents_of_programs(row) for row in spectra])
    ours = np.asarray(exponent(jnp.asarray(spectra, jnp.float32)))
    np.testing.assert_allclose(ours, programs, rtol=1e-5)
    printed = np.array([exponents_in_print(row) for row in spectra])
    above = programs / printed - 1
    assert ((above > 0) & (above < 0.04)).all()

    names = ("flat", "wide", "heavy")
    params = dict(zip(names, jnp.asarray(matrices), strict=True))
    layers = optax_llr.match_layers(params, [(name, name) for name in names])
    rule = rules.ramped_tail_exponent(1, 1, ())
    step = optax_llr.LayerStep(layers, params, params, params, jnp.ones(3))
    found = rule.update(step, rule.init(layers, params))[0]
    expected = np.interp(programs, [programs.min(), programs.max()], [1, 3])
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def multipliers_of(shapes, rule, matrix_of):
    """What a rule finds in leaves of these shapes, made of the matrices given."""
    params = {name: jnp.reshape(matrix_of[name], shapes[name]) for name in shapes}
    layers = optax_llr.match_layers(params, [("(.*?)(_bias)?", r"\1")])
    step = optax_llr.LayerStep(layers, params, params, params, jnp.ones(len(layers)))
    found = rule.update(step, rule.init(layers, params))[0]
    return dict(zip(layers.names, np.asarray(found).tolist(), strict=True))


@pytest.mark.parametrize("stacked", [False, True])
def test_each_matrix_of_a_traced_model_has_a_rate_of_its_own(stacked):
    """Also as a slice of stacked blocks, by its own exponent."""
    rng = np.random.default_rng(0)
    sizes = {"query": (64, 64), "up": (64, 96), "down": (96, 64)}
    names = [f"{name}{b}" for b in range(3) for name in sizes]
    matrices = {n: np.float32(rng.standard_normal(sizes[n[:-1]])) for n in names}
    ends = {"embed": (100, 64), "head": (64, 100)}
    params = {n: np.float32(rng.standard_normal(ends[n])) for n in ends}

    def block(x, modules):
        for name in sizes:
            x = jnp.tanh(x @ modules[name]["kernel"])
        return x, None

    def of(b):
        return {name: {"kernel": matrices[f"{name}{b}"]} for name in sizes}

    blocks = [of(b) for b in range(3)]
    if stacked:
        params["blocks"] = jax.tree.map(lambda *rows: jnp.stack(rows), *blocks)
    else:
        params |= {f"block{b}": blocks[b] for b in range(3)}

    def forward(params, tokens):
        x = params["embed"][tokens]
        if stacked:
            x, _ = lax.scan(block, x, params["blocks"])
        else:
            for b in range(3):
                x, _ = block(x, params[f"block{b}"])
        return x @ params["head"]

    layers = optax_llr.trace_layers(forward, params, jnp.zeros(4, jnp.int32))
    rule = rules.ramped_tail_exponent(1, 1, ("embed", "head"), ratio=4.0)
    step = optax_llr.LayerStep(layers, params, params, params, jnp.ones(len(layers)))
    found = rule.update(step, rule.init(layers, params))[0]
    spectra = [
        np.linalg.svd(np.float64(matrices[name]), compute_uv=False) ** 2
        for name in names
    ]
    alphas = np.array([exponents_of_programs(row) for row in spectra])
    expected = np.interp(alphas, [alphas.min(), alphas.max()], [1, 4])
    np.testing.assert_allclose(found, [4, *expected, 4], rtol=2e-4)


@pytest.mark.parametrize("name", SPECTRAL)
def test_attention_kernels_with_an_axis_for_heads_are_one_matrix_each(name):
    """Wherever that axis stands, and their biases, of two axes then, are none."""
    rng = np.random.default_rng(0)
    flat = {
        "first": (60, 60),
        "query": (96, 64),
        "query_bias": (64,),
        "out": (64, 96),
        "up": (96, 128),
        "last": (60, 60),
    }
    matrices = {k: np.float32(rng.standard_normal(v)) for k, v in flat.items()}
    matrices["query"] **= 3
    split = {**flat, "query": (96, 8, 8), "query_bias": (8, 8), "out": (8, 8, 96)}
    rule = (
        rules.tail_exponent(1)
        if name == "tail_exponent"
        else rules.ramped_tail_exponent(1, 1, ("first", "last"))
    )
    with_heads = multipliers_of(split, rule, matrices)
    assert with_heads == multipliers_of(flat, rule, matrices)
    assert len({with_heads[layer] for layer in ("query", "out", "up")}) == 3


def decompositions(names, shapes):
    params = {name: jnp.ones(shape) for name, shape in zip(names, shapes, strict=True)}
    layers = optax_llr.match_layers(params, [(name, name) for name in names])
    rule = rules.ramped_tail_exponent(1, 1, ())
    step = optax_llr.LayerStep(layers, params, params, params, jnp.ones(len(layers)))
    state = rule.init(layers, params)
    jaxpr = jax.make_jaxpr(lambda s: rule.update(step, s))(state).jaxpr
    return list(primitives(jaxpr, unconditional=False)).count("svd")


def test_matrices_of_one_shape_are_decomposed_in_one_call():
    names = [f"layer{i}" for i in range(8)]
    assert decompositions(names, [(60, 60)] * 8) == 1
    assert decompositions(names, [(60, 60), (60, 90)] * 4) == 2


def test_names_of_layers_at_the_largest_ratio_are_checked():
    for bad in ("head", None, 3, ["head", 3], {"head"}):
        with pytest.raises(ValueError, match=r"^ramped_tail_exponent: largest: "):
            rules.ramped_tail_exponent(2, 1, bad)
    rule = rules.ramped_tail_exponent(2, 1, ("heads",))
    message = r"\['heads'\] are none.*\['stem', .*'head'\]; did you mean 'head'\?"
    with pytest.raises(ValueError, match=message):
        optax_llr.adapt_layers(optax.sgd(0.1), LAYERS, rule).init(tree(0))


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
def test_what_learned_found_can_be_replayed_from_a_table(jit):
    inner = optax.sgd(0.01, momentum=0.9)
    params, gradients = chain_of(seen(0)[0, 2]), seen(1, 8)[:, 0]

    def train(optimizer):
        update = jax.jit(optimizer.update) if jit else optimizer.update
        weights, state, found = params, optimizer.init(params), []
        for gradient in gradients:
            updates, state = update(chain_of(gradient), state, weights)
            weights = optax.apply_updates(weights, updates)
            found.append(list(optax_llr.layer_multipliers(CHAIN, state).values()))
        return weights, np.array(found)

    rule = contrib.learned(8, rate=0.1)
    weights, found = train(optax_llr.adapt_layers(inner, CHAIN, rule))
    assert (np.ptp(found, axis=0) > 0.1).all()
    again, same = train(
        optax.chain(
            inner, optax_llr.scale_by_layer(CHAIN, optax_llr.table_schedule(found))
        )
    )
    np.testing.assert_array_equal(found, same)
    for name in weights:
        np.testing.assert_array_equal(weights[name], again[name])


def test_rule_sees_gradients_clipped_in_front_and_not_those_clipped_inside():
    gradients, params = tree(0), tree(1)
    clip, inner = optax.clip_by_global_norm(0.5), optax.sgd(0.1)
    clipped = clip.update(gradients, clip.init(params))[0]

    def adapted(inner):
        rule = rules.gradient_norm()
        return optax_llr.adapt_layers(inner, LAYERS, rule, bounds=(0, 100))

    for optimizer, expected in [
        (optax.chain(clip, adapted(inner)), clipped),
        (adapted(optax.chain(clip, inner)), gradients),
    ]:
        update = jax.jit(optimizer.update)
        updates, state = update(gradients, optimizer.init(params), params)
        norms = np.array([reference.norm(g) for g in by_layer(expected)])
        found = list(optax_llr.layer_multipliers(LAYERS, state).values())
        np.testing.assert_allclose(found, 1 + np.log(1 + 1 / norms), rtol=1e-5)
        for layer, update in enumerate(by_layer(updates)):
            step = -0.1 * found[layer] * by_layer(clipped)[layer]
            np.testing.assert_allclose(update, step, rtol=1e-5, atol=1e-9)


some_rules = pytest.mark.parametrize("name", ["gradient_norm", "curvature", "learned"])


def pulled(params, t):
    """Gradients for `descend`: other ones in each step, and they know the weights."""
    return jax.tree.map(lambda w, n: w / 2 + n, params, tree(t, scale=0.1))


def optimizer_of(name):
    case = CASES[name]
    inner = optax.sgd(0.1, momentum=0.5)
    return optax_llr.adapt_layers(inner, LAYERS, case.rule, case.bounds)


@some_rules
def test_rule_sees_the_accumulated_gradient(name):
    """Under `optax.MultiSteps`, the mean of so many."""
    alone, params = optimizer_of(name), tree(1)
    several = optax.MultiSteps(alone, every_k_schedule=2)
    update, update_alone = jax.jit(several.update), jax.jit(alone.update)
    state, state_alone = several.init(params), alone.init(params)
    for t in range(0, 6, 2):
        gradients = [pulled(params, t), pulled(params, t + 1)]
        before = state.inner_opt_state.measured
        nothing, state = update(gradients[0], state, params)
        assert not any(leaf.any() for leaf in jax.tree.leaves(nothing))
        np.testing.assert_array_equal(state.inner_opt_state.measured, before)
        updates, state = update(gradients[1], state, params)
        mean = jax.tree.map(lambda a, b: (a + b) / 2, *gradients)
        expected, state_alone = update_alone(mean, state_alone, params)
        chex.assert_trees_all_close(updates, expected, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(
            state.inner_opt_state.measured, state_alone.measured, rtol=1e-4
        )
        params = optax.apply_updates(params, updates)


@some_rules
def test_rule_sees_the_gradient_that_sam_found(name):
    """Under `optax.contrib.sam`, that of every second step, behind a step uphill."""
    alone, uphill, params = optimizer_of(name), optax.sgd(0.05), tree(1)
    both = sam(alone, uphill)
    update, update_alone = jax.jit(both.update), jax.jit(alone.update)
    state, state_alone = both.init(params), alone.init(params)
    for t in range(0, 6, 2):
        start = params
        up, state = update(pulled(params, t), state, params)
        params = optax.apply_updates(params, up)
        gradients = pulled(params, t + 1)
        down, state = update(gradients, state, params)
        params = optax.apply_updates(params, down)
        expected, state_alone = update_alone(gradients, state_alone, start)
        expected = optax.apply_updates(start, expected)
        chex.assert_trees_all_close(params, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(
            state.opt_state.measured, state_alone.measured, rtol=1e-4
        )


def test_signal_to_noise_of_a_constant_gradient_in_bfloat16():
    """An average in bfloat16 would come to rest below it."""
    given = {"only": jnp.full(20, 1.1, jnp.bfloat16)}
    layers = optax_llr.match_layers(given, [("only", "only")])
    rule = rules.signal_to_noise(0.99)
    step = optax_llr.LayerStep(layers, given, given, given, jnp.ones(1))
    state = rule.init(layers, given)
    _, found = lax.scan(
        lambda state, _: rule.update(step, state)[::-1], state, length=300
    )
    np.testing.assert_allclose(found, 1.0, rtol=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 3e38])
def test_signal_to_noise_recovers_from_a_gradient_that_was_skipped(bad):
    """Where weights stay what they were, as under `optax.apply_if_finite`."""
    given = np.ones((100, 1, COUNT, SIZE), np.float32).repeat(3, axis=1)
    given[3, 0, 1, 5] = bad

    def step(carry, seen):
        trees = [chain_of(rows) for rows in seen]
        found, state = rule.update(
            optax_llr.LayerStep(CHAIN, *trees, carry[0]), carry[1]
        )
        return (found, state), found

    rule = rules.signal_to_noise()
    start = jnp.ones(COUNT), rule.init(CHAIN, chain_of(given[0, 2]))
    np.testing.assert_allclose(lax.scan(step, start, given)[1][-1], 1.0, rtol=1e-3)


# What the arguments of rules may be, and numbers that they may not.
ARGUMENTS = {
    "curvature": {"decay": 0.5},
    "hypergradient": {"rate": 0.1},
    "multiplicative_hypergradient": {"rate": 0.1},
    "signal_to_noise": {"decay": 0.5},
    "trust_ratio": {"coefficient": 0.5, "eps": 0.1},
    "gradient_trust_ratio": {"coefficient": 0.5, "weight_decay": 0.1, "eps": 0.1},
    "tail_exponent": {"every": 2, "low": 0.25, "high": 2.0},
    "ramped_tail_exponent": {"every": 4, "ramp_steps": 2, "ratio": 4.0, "until": 8},
    "learned": {"total_steps": 10, "rate": 0.1},
}
OUTSIDE = {
    ("curvature", "decay"): [-0.1, 1],
    ("hypergradient", "rate"): [0, -1],
    ("multiplicative_hypergradient", "rate"): [0, 1, -1],
    ("signal_to_noise", "decay"): [-0.1, 1],
    ("trust_ratio", "coefficient"): [0, -1],
    ("trust_ratio", "eps"): [-0.1],
    ("gradient_trust_ratio", "coefficient"): [0, -1],
    ("gradient_trust_ratio", "weight_decay"): [-0.1],
    ("gradient_trust_ratio", "eps"): [-0.1],
    ("tail_exponent", "every"): [0, -1, 2.5],
    ("tail_exponent", "low"): [-0.1, 3.0],
    ("tail_exponent", "high"): [0.1],
    ("ramped_tail_exponent", "every"): [0, -1, 2.5, 1],
    ("ramped_tail_exponent", "ramp_steps"): [0, -1, 1.5, 5],
    ("ramped_tail_exponent", "ratio"): [0.9, -3],
    ("ramped_tail_exponent", "until"): [0, -1, 2.5],
    ("learned", "total_steps"): [0, -1],
    ("learned", "rate"): [0, -1],
}
NO_NUMBERS = [np.nan]  # what else is none stands in test_checks.py
every_argument = pytest.mark.parametrize(
    ("name", "argument"), [(name, key) for name in ARGUMENTS for key in ARGUMENTS[name]]
)


@every_argument
def test_bad_argument_is_named(name, argument):
    for bad in NO_NUMBERS + OUTSIDE[name, argument]:
        with pytest.raises(ValueError, match=rf"^{name}: .*\b{argument}\b"):
            make(name, **ARGUMENTS[name] | {argument: bad})


@pytest.mark.parametrize("bad", ["seed", 1.5, None, True])
def test_bad_key_is_named(bad):
    with pytest.raises(ValueError, match=r"^learned: key: "):
        contrib.learned(10, key=bad)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments_may_be_traced(name):
    """By `vmap`, which then follows several values at once."""
    given = seen(0)

    def found(arguments):
        return follow(make(name, **arguments), given)

    values = [ARGUMENTS[name], {key: v / 2 for key, v in ARGUMENTS[name].items()}]
    together = jax.jit(jax.vmap(found))(jax.tree.map(lambda *v: jnp.array(v), *values))
    for ours, expected in zip(together, map(found, values), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5)


def assert_types_stay(optimizer, params):
    state = jax.eval_shape(optimizer.init, params)
    updates, after = jax.eval_shape(optimizer.update, params, state, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
    assert after.measured.dtype == after.scale.multipliers.dtype == jnp.float32


@every_rule
def test_bfloat16_parameters(name):
    """Multipliers are float32 all the same, updates bfloat16, the state as it was."""
    assert_types_stay(optimizer_of(name), jax.tree.map(jnp.bfloat16, tree(1)))


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@every_rule
def test_types_stay_in_double_precision(name, dtype):
    arguments = {k: np.float64(v) for k, v in ARGUMENTS.get(name, {}).items()}
    optimizer = optax_llr.adapt_layers(
        optax.sgd(0.1), LAYERS, make(name, **arguments), tuple(np.ones(2))
    )
    assert_types_stay(optimizer, {k: jnp.asarray(v, dtype) for k, v in tree(1).items()})


@pytest.mark.parametrize("relative", [False, True])
def test_learned_goes_on_after_a_step_in_which_no_layer_could_be_measured(relative):
    params = {"a": jnp.ones((2, 2)), "b": jnp.ones((2, 2))}
    layers = optax_llr.match_layers(params, [("a", "a"), ("b", "b")])
    optimizer = optax_llr.adapt_layers(
        optax.apply_if_finite(optax.adam(1e-2), 5),
        layers,
        contrib.learned(50, rate=0.05),
        relative=relative,
    )
    state, used = optimizer.init(params), []
    update = jax.jit(optimizer.update)
    for step in range(12):
        gradient = {"a": params["a"], "b": -0.1 * params["b"] * (-1) ** step}
        if step == 5:
            gradient = jax.tree.map(lambda g: g * jnp.nan, gradient)
        _, state = update(gradient, state, params)
        used.append(np.asarray(state.measured))
    assert np.isfinite(jax.tree.leaves(state.rule.network)[0]).all()
    assert np.isfinite(used).all()
    assert (used[5] == used[4]).all()
    assert (used[-1] != used[5]).any()
