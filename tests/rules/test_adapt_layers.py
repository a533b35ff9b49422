"""adapt_layers: what a rule sees, and what becomes of what it returns.

What it shares with all that wraps an optimizer stands in `test_contract.py`; the rules
have a file of their own.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import optax_llr
from optax_llr import adapt_layers, layer_multipliers, layer_sum

SHAPES = {
    "stem": {"kernel": (3, 4), "bias": (4,)},
    "blocks": {"kernel": (2, 4, 4)},
    "head": {"kernel": (4, 2)},
}
RULES = [("stem/.*", "stem"), ("blocks/.*", "block[:]"), ("head/.*", "head")]
ADAM = optax.adam(0.1)
WIDE = (0.0, 1e6)  # bounds that nothing here reaches


def tree(seed, dtype=jnp.float32):
    generator = np.random.default_rng(seed)
    turn = 1 + 1j if jnp.issubdtype(dtype, jnp.complexfloating) else 1
    return jax.tree.map(
        lambda shape: jnp.asarray(turn * generator.standard_normal(shape), dtype),
        SHAPES,
        is_leaf=lambda node: isinstance(node, tuple),
    )


PARAMS, GRADIENTS = tree(0), tree(1)
LAYERS = optax_llr.match_layers(PARAMS, RULES)
NAN, INF = float("nan"), float("inf")


def constant(values):
    """A rule that measures these multipliers whatever comes."""

    def update(step, state):
        del step
        return jnp.asarray(values), state

    return optax_llr.Rule(lambda layers, params: (), update)


def sequence(rows):
    """A rule that measures one row after the other."""
    rows = jnp.asarray(rows)
    return optax_llr.Rule(
        init=lambda layers, params: jnp.int32(0),
        update=lambda step, count: (rows[count], count + 1),
    )


def measured(rule, steps=1, gradients=GRADIENTS, **options):
    """The multipliers of each step, under jit."""
    optimizer = adapt_layers(ADAM, LAYERS, rule, **options)
    update, state = jax.jit(optimizer.update), optimizer.init(PARAMS)
    path = []
    for _ in range(steps):
        _, state = update(gradients, state, PARAMS)
        path.append(np.array(list(layer_multipliers(LAYERS, state).values())))
    return path


# --- A rule of one's own ------------------------------------------------------------


def by_weight(step, state):
    squares = layer_sum(step.layers, jnp.square, step.params)
    return jnp.sqrt(squares), state


BY_WEIGHT = optax_llr.Rule(init=lambda layers, params: (), update=by_weight)


def test_rule_in_ten_lines_scales_the_updates_of_the_optimizer():
    optimizer = adapt_layers(ADAM, LAYERS, BY_WEIGHT)
    params, state, inner = PARAMS, optimizer.init(PARAMS), ADAM.init(PARAMS)
    update = jax.jit(optimizer.update)
    for count in range(3):
        gradients = tree(count)
        ours, state = update(gradients, state, params)
        theirs, inner = ADAM.update(gradients, inner, params)
        stem, blocks, head = (
            np.concatenate([np.asarray(w).ravel() for w in params[k].values()])
            for k in ("stem", "blocks", "head")
        )
        norms = [np.linalg.norm(w) for w in (stem, *np.split(blocks, 2), head)]
        used = layer_multipliers(LAYERS, state)
        np.testing.assert_allclose(list(used.values()), norms, rtol=1e-6)
        factors = {"stem": norms[0], "head": norms[3]}
        factors["blocks"] = np.array(norms[1:3])[:, None, None]
        for layer, factor in factors.items():
            for leaf, update_ in theirs[layer].items():
                np.testing.assert_allclose(ours[layer][leaf], factor * update_, 1e-5)
        params = optax.apply_updates(params, ours)


def test_rule_sees_raw_gradients_updates_not_yet_scaled_and_its_own_past():
    seen = []

    def watch(step, state):
        seen.append((step, state))
        return 2 * step.multipliers, state + 1

    rule = optax_llr.Rule(lambda layers, params: 0, watch)
    optimizer = adapt_layers(optax.sgd(0.5), LAYERS, rule, bounds=(0, 3))
    state = optimizer.init(PARAMS)
    for _ in range(3):
        _, state = optimizer.update(GRADIENTS, state, PARAMS)
    assert [state for _, state in seen] == [0, 1, 2]
    assert state.rule == 3
    # What a rule returned comes back within bounds.
    for (step, _), before in zip(seen, [1, 2, 3], strict=True):
        np.testing.assert_array_equal(step.multipliers, np.full(4, before))
        assert step.layers is LAYERS
        assert step.gradients is GRADIENTS
        assert step.params is PARAMS
        np.testing.assert_array_equal(
            step.updates["head"]["kernel"], -0.5 * GRADIENTS["head"]["kernel"]
        )


@pytest.mark.parametrize("bounds", [(0.1, 10.0), (0, 1), (1, 1), (0.5, 2.5)])
def test_multipliers_stay_within_bounds(bounds):
    raw = np.array([-3.0, 0.3, 1.0, 100.0], np.float32)
    (used,) = measured(constant(raw), bounds=bounds)
    np.testing.assert_allclose(used, np.clip(raw, *bounds), rtol=1e-6)


def test_before_the_first_step_every_multiplier_is_1():
    state = adapt_layers(ADAM, LAYERS, constant(np.full(4, 3.0))).init(PARAMS)
    assert set(layer_multipliers(LAYERS, state).values()) == {1.0}


# --- Exactness ----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.complex64])
@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
def test_multiplier_1_keeps_every_bit_of_the_inner_updates(jit, dtype):
    # Subnormal numbers too, which a product would flush to 0.
    gradients = jax.tree.map(lambda g: g.at[0].set(1e-40), tree(1, dtype))
    optimizer = adapt_layers(optax.identity(), LAYERS, constant(np.ones(4)))
    update = jax.jit(optimizer.update) if jit else optimizer.update
    ours, _ = update(gradients, optimizer.init(gradients), gradients)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(gradients), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
def test_rule_that_returns_0_freezes_a_layer_whatever_its_gradient(jit):
    poisoned = jax.tree.map(lambda g: jnp.full_like(g, jnp.nan), GRADIENTS)
    rule = constant(np.array([1.0, 0.0, 2.0, 0.0]))
    optimizer = adapt_layers(optax.sgd(0.1), LAYERS, rule, bounds=(0, 10))
    update = jax.jit(optimizer.update) if jit else optimizer.update
    ours, _ = update(poisoned, optimizer.init(PARAMS), PARAMS)
    np.testing.assert_array_equal(ours["blocks"]["kernel"][0], 0.0)
    np.testing.assert_array_equal(ours["head"]["kernel"], 0.0)
    assert np.isnan(ours["blocks"]["kernel"][1]).all()
    assert np.isnan(ours["stem"]["bias"]).all()


def test_integer_multipliers_of_a_rule_are_numbers_too():
    (used,) = measured(constant(np.array([1, 2, 3, 4])))
    np.testing.assert_array_equal(used, [1, 2, 3, 4])


# --- What cannot be measured, and shares --------------------------------------------

KEPT = {  # what a rule returns in two steps, what the layers then have
    "NaN": ([[2, 3, 4, 5], [1, NAN, 2, 6]], [1, 3, 2, 6]),
    "infinite": ([[2, 3, 4, 5], [INF, 4, -INF, 5]], [2, 4, 4, 5]),
    "from the start": ([[NAN, 2, 3, 4], [NAN, 5, 6, 7]], [1, 5, 6, 7]),
    "all of them": ([[2, 3, 4, 5], [NAN, NAN, INF, NAN]], [2, 3, 4, 5]),
}


@pytest.mark.parametrize("case", KEPT)
def test_layer_that_cannot_be_measured_keeps_its_multiplier(case):
    rows, meant = KEPT[case]
    *_, last = measured(sequence(np.array(rows, np.float32)), steps=2)
    np.testing.assert_array_equal(last, meant)


SHARES = {  # what a rule returns, what the layers then have
    "mean 1": ([1, 2, 3, 10], [0.25, 0.5, 0.75, 2.5]),
    "any size": ([1e30, 2e30, 3e30, 1e31], [0.25, 0.5, 0.75, 2.5]),
    "not measured, not counted": ([1, NAN, 3, 2], [0.5, 1, 1.5, 1]),
    "infinite, not counted": ([1, INF, 3, 2], [0.5, 1, 1.5, 1]),
    "below 0 is a share of 0": ([-9, 2, 2, 4], [0, 1, 1, 2]),
    "nothing to share": ([0, 0, 0, 0], [1, 1, 1, 1]),
    "nothing measured": ([NAN, NAN, NAN, NAN], [1, 1, 1, 1]),
}


@pytest.mark.parametrize("case", SHARES)
def test_relative_multipliers_are_shares(case):
    raw, meant = SHARES[case]
    rule = constant(np.array(raw, np.float32))
    (used,) = measured(rule, bounds=WIDE, relative=True)
    np.testing.assert_allclose(used, meant, rtol=1e-6)


def test_mean_is_taken_before_the_bounds():
    rule = constant(np.array([1.0, 1.0, 1.0, 13.0]))  # shares ¼, ¼, ¼, 3¼
    (used,) = measured(rule, bounds=(0.5, 2), relative=True)
    np.testing.assert_array_equal(used, [0.5, 0.5, 0.5, 2.0])


MASK = {"stem": True, "blocks": False, "head": True}
RESTS = {
    "masked": lambda adapted: optax.masked(adapted, MASK),
    "partition": lambda adapted: optax.partition(
        {"ours": adapted, "theirs": optax.sgd(1.0)},
        {"stem": "ours", "blocks": "theirs", "head": "ours"},
    ),
}


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("case", RESTS)
def test_layers_that_are_not_there_keep_1_and_do_not_count(case, relative):
    rule = constant(np.array([1.0, 50.0, 70.0, 3.0]))
    adapted = adapt_layers(optax.sgd(1.0), LAYERS, rule, WIDE, relative=relative)
    optimizer = RESTS[case](adapted)
    ours, state = jax.jit(optimizer.update)(GRADIENTS, optimizer.init(PARAMS), PARAMS)
    used = list(layer_multipliers(LAYERS, state).values())
    assert used == ([0.5, 1.0, 1.0, 1.5] if relative else [1.0, 1.0, 1.0, 3.0])
    np.testing.assert_allclose(
        ours["head"]["kernel"], -used[-1] * GRADIENTS["head"]["kernel"], rtol=1e-6
    )


# --- With what stands around it -----------------------------------------------------


def test_multi_steps_shows_the_rule_the_accumulated_gradient():
    def by_gradient(step, state):
        return layer_sum(step.layers, jnp.abs, step.gradients), state

    rule = optax_llr.Rule(lambda layers, params: (), by_gradient)
    adapted = adapt_layers(ADAM, LAYERS, rule, WIDE)
    every = optax.MultiSteps(adapted, 2)
    state, update = every.init(PARAMS), jax.jit(every.update)
    _, state = update(GRADIENTS, state, PARAMS)
    assert set(layer_multipliers(LAYERS, state).values()) == {1.0}
    ours, state = update(PARAMS, state, PARAMS)
    mean = jax.tree.map(lambda a, b: (a + b) / 2, GRADIENTS, PARAMS)
    theirs, alone = adapted.update(mean, adapted.init(PARAMS), PARAMS)
    assert layer_multipliers(LAYERS, state) == pytest.approx(
        layer_multipliers(LAYERS, alone), rel=1e-6
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), ours, theirs)


def test_clipping_in_front_is_seen_and_clipping_inside_is_not():
    def by_gradient(step, state):
        squares = layer_sum(step.layers, jnp.square, step.gradients)
        return jnp.sqrt(squares.sum()) * jnp.ones(4), state

    rule = optax_llr.Rule(lambda layers, params: (), by_gradient)
    clip = optax.clip_by_global_norm(2.0)
    norm = optax.tree.norm(GRADIENTS)
    inside = adapt_layers(optax.chain(clip, ADAM), LAYERS, rule)
    front = optax.chain(clip, adapt_layers(ADAM, LAYERS, rule))
    for optimizer, meant in [(inside, norm), (front, 2.0)]:
        _, state = optimizer.update(GRADIENTS, optimizer.init(PARAMS), PARAMS)
        assert layer_multipliers(LAYERS, state)["stem"] == pytest.approx(meant)


@pytest.mark.parametrize(
    "make",
    [
        lambda: optax.chain(ADAM, optax.contrib.reduce_on_plateau(patience=1)),
        lambda: optax.polyak_sgd(max_learning_rate=0.1),
    ],
    ids=["reduce_on_plateau", "polyak_sgd"],
)
def test_optimizer_inside_gets_the_value_that_it_needs(make):
    inner = make()
    optimizer = adapt_layers(inner, LAYERS, constant(np.full(4, 2.0)))
    ours, theirs = optimizer.init(PARAMS), inner.init(PARAMS)
    for value in (0.5, 0.8, 0.9, 1.0):
        updates, ours = optimizer.update(GRADIENTS, ours, PARAMS, value=value)
        single, theirs = inner.update(GRADIENTS, theirs, PARAMS, value=value)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, 2 * b, rtol=1e-6),
            updates,
            single,
        )


# --- On eight devices ---------------------------------------------------------------

WIDE_SHAPES = {"stem": (8, 16), "blocks": (8, 4, 16), "head": (16, 8)}
SPECS = {"stem": P(None, "d"), "blocks": P("d"), "head": P("d", None)}
WIDE_RULES = [("stem", "stem"), ("blocks", "block[:]"), ("head", "head")]

DISTRIBUTED = {
    "gradient_norm": optax_llr.rules.gradient_norm(),
    "by weight": BY_WEIGHT,
}


@pytest.mark.parametrize("rule", DISTRIBUTED)
def test_sharded_parameters_have_the_multipliers_of_one_device(rule):
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
    shardings = {path: NamedSharding(mesh, spec) for path, spec in SPECS.items()}
    generator = np.random.default_rng(3)
    params = {
        path: jnp.asarray(generator.standard_normal(shape), jnp.float32)
        for path, shape in WIDE_SHAPES.items()
    }
    layers = optax_llr.match_layers(params, WIDE_RULES)
    optimizer = adapt_layers(ADAM, layers, DISTRIBUTED[rule], WIDE)

    def train(params):
        update, state = jax.jit(optimizer.update), optimizer.init(params)
        for _ in range(3):
            updates, state = update(params, state, params)
            params = optax.apply_updates(params, updates)
        return updates, layer_multipliers(layers, state)

    updates, ours = train(jax.device_put(params, shardings))
    _, theirs = train(params)
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert len({round(value, 3) for value in ours.values()}) > 5
    for path, update in updates.items():
        assert update.sharding.is_equivalent_to(shardings[path], update.ndim)


# --- What it refuses ----------------------------------------------------------------


@pytest.mark.parametrize(
    "bounds",
    [
        *[(-0.1, 2), (0.1, 0.5), (2, 3), (1, INF), (NAN, 2), (0.1, NAN)],
        *[(0.1,), (0.1, 1, 2), 5.0, ("0", "2"), (None, 2), (1j, 2)],
        (np.array([0.1, 0.2]), 2),
    ],
    ids=repr,
)
def test_bounds_that_are_none_are_refused(bounds):
    with pytest.raises(ValueError, match="0 ≤ low ≤ 1 ≤ high") as error:
        adapt_layers(ADAM, LAYERS, BY_WEIGHT, bounds)
    assert str(error.value).endswith(f"got {bounds!r}")


@pytest.mark.parametrize(
    "rule", [optax_llr.rules.curvature, by_weight, None, (by_weight, by_weight)]
)
def test_rule_that_is_none_is_refused(rule):
    """Nor is one a pair of anything else."""
    with pytest.raises(ValueError, match=r"^adapt_layers: rule: expected a Rule"):
        adapt_layers(ADAM, LAYERS, optax_llr.Rule(1, None))
    with pytest.raises(ValueError, match=r"^adapt_layers: rule: expected a Rule"):
        adapt_layers(ADAM, LAYERS, rule)


@pytest.mark.parametrize(
    ("values", "came"),
    [
        (2.0, r"float32 of shape \(\)"),
        (np.ones(3), r"float32 of shape \(3,\)"),
        (np.ones((4, 1)), r"float32 of shape \(4, 1\)"),
        (np.ones(4, np.complex64), r"complex64 of shape \(4,\)"),
    ],
)
def test_rule_that_returns_something_else_is_refused(values, came):
    optimizer = adapt_layers(ADAM, LAYERS, constant(values))
    with pytest.raises(ValueError, match=rf"shape \(4,\), .*'block\[0\]'.* got {came}"):
        optimizer.update(GRADIENTS, optimizer.init(PARAMS), PARAMS)


def test_update_without_parameters_is_refused():
    optimizer = adapt_layers(ADAM, LAYERS, BY_WEIGHT)
    with pytest.raises(ValueError, match="adapt_layers: needs the parameters"):
        optimizer.update(GRADIENTS, optimizer.init(PARAMS))


SURPLUS = {**PARAMS, "neck": jnp.ones(2)}


@pytest.mark.parametrize("rule", [constant(np.ones(4)), optax_llr.rules.curvature()])
def test_unknown_leaf_is_refused_by_init_and_by_update(rule):
    optimizer = adapt_layers(optax.sgd(0.1), LAYERS, rule)
    with pytest.raises(ValueError, match="'neck' is in none of the layers"):
        optimizer.init(SURPLUS)
    with pytest.raises(ValueError, match="'neck' is in none of the layers"):
        optimizer.update(SURPLUS, optimizer.init(PARAMS), SURPLUS)


# --- Whose state it is --------------------------------------------------------------

SAME_LENGTH = optax_llr.match_layers(PARAMS, RULES[::-1])
SHORTER = optax_llr.match_layers(PARAMS, [("head/.*", "head"), (".*", "body")])


def kept_measuring(layers):
    return adapt_layers(ADAM, layers, BY_WEIGHT)


@pytest.mark.parametrize("other", [SAME_LENGTH, SHORTER], ids=["same", "shorter"])
def test_state_of_other_layers_is_refused(other):
    state = kept_measuring(LAYERS).init(PARAMS)
    with pytest.raises(ValueError, match="belongs to other Layers"):
        kept_measuring(other).update(GRADIENTS, state, PARAMS)
    with pytest.raises(ValueError, match="belongs to other Layers"):
        jax.jit(kept_measuring(other).update)(GRADIENTS, state, PARAMS)


def test_state_of_the_optimizer_inside_is_refused():
    with pytest.raises(ValueError, match=r"expected an? AdaptLayersState"):
        kept_measuring(LAYERS).update(GRADIENTS, ADAM.init(PARAMS), PARAMS)


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: (state, ())])
def test_reassign_refuses_what_was_measured(wrap):
    state = kept_measuring(LAYERS).init(PARAMS)
    with pytest.raises(ValueError, match=r"init\(params\)\._replace\(inner="):
        optax_llr.reassign_layers(SHORTER, wrap(state))


def test_advice_of_reassign_keeps_the_optimizer_inside():
    adapted = kept_measuring(LAYERS)
    _, state = adapted.update(GRADIENTS, adapted.init(PARAMS), PARAMS)
    successor = kept_measuring(SHORTER)
    mended = successor.init(PARAMS)._replace(inner=state.inner)
    _, state = successor.update(GRADIENTS, mended, PARAMS)
    assert set(layer_multipliers(SHORTER, state)) == {"head", "body"}
    _, meant = ADAM.update(GRADIENTS, mended.inner, PARAMS)
    jax.tree.map(np.testing.assert_array_equal, state.inner, meant)
    assert optax.tree.get(state.inner, "count") == 2


@pytest.mark.parametrize("inner", [None, LAYERS, PARAMS, optax.sgd, BY_WEIGHT])
def test_inner_that_is_no_optimizer_is_refused(inner):
    with pytest.raises(ValueError, match=r"^adapt_layers: inner: expected an optax.Gr"):
        adapt_layers(inner, LAYERS, BY_WEIGHT)


@pytest.mark.parametrize("layers", [None, PARAMS, ADAM, BY_WEIGHT], ids=type)
def test_layers_that_are_none_are_refused(layers):
    with pytest.raises(ValueError, match=r"^adapt_layers: layers: expected Layers"):
        adapt_layers(ADAM, layers, BY_WEIGHT)


@pytest.mark.parametrize("result", [None, np.ones(4), (np.ones(4),), {"a": 1.0}])
def test_rule_that_does_not_return_multipliers_and_a_state_is_refused(result):
    rule = optax_llr.Rule(lambda layers, params: (), lambda step, state: result)
    optimizer = adapt_layers(ADAM, LAYERS, rule)
    with pytest.raises(ValueError, match=r"adapt_layers: expected a rule whose update"):
        optimizer.update(GRADIENTS, optimizer.init(PARAMS), PARAMS)


@pytest.mark.parametrize("raw", [None, "high", {"stem": 1.0}, [1.0, [2.0], 3.0, 4.0]])
def test_rule_that_returns_no_numbers_is_refused(raw):
    rule = optax_llr.Rule(lambda layers, params: (), lambda step, state: (raw, state))
    optimizer = adapt_layers(ADAM, LAYERS, rule)
    with pytest.raises(ValueError, match=r"adapt_layers: expected a rule that returns"):
        optimizer.update(GRADIENTS, optimizer.init(PARAMS), PARAMS)


def test_bounds_are_those_of_the_rule_where_none_are_given():
    rule = constant(np.array([0.001, 0.5, 20.0, 5000.0]))
    (used,) = measured(rule)
    np.testing.assert_allclose(used, [0.1, 0.5, 10, 10], rtol=1e-6)
    (used,) = measured(rule._replace(bounds=(0.01, 100.0)))
    np.testing.assert_allclose(used, [0.01, 0.5, 20, 100], rtol=1e-6)
    (used,) = measured(rule._replace(bounds=(0.01, 100.0)), bounds=(1, 2))
    np.testing.assert_allclose(used, [1, 1, 2, 2], rtol=1e-6)
    with pytest.raises(ValueError, match=r"bounds: expected two numbers"):
        measured(rule._replace(bounds=(2, 1)))


@pytest.mark.parametrize("size", [1e-5, 1e5])
@pytest.mark.parametrize("name", ["gradient_norm", "trust_ratio"])
def test_formulas_of_papers_are_not_cut_off(name, size):
    """Gradients (or updates) of 10⁻⁵ and 10⁵ times the weights."""
    rule = getattr(optax_llr.rules, name)()
    gradients = jax.tree.map(lambda g: size * g, GRADIENTS)
    optimizer = adapt_layers(optax.identity(), LAYERS, rule)
    _, state = optimizer.update(gradients, optimizer.init(PARAMS), PARAMS)
    norms = [
        np.sqrt(layer_sum(LAYERS, jnp.square, tree)) for tree in (PARAMS, gradients)
    ]
    formula = {
        "gradient_norm": 1 + np.log1p(1 / norms[1]),
        "trust_ratio": norms[0] / norms[1],
    }
    np.testing.assert_allclose(state.measured, formula[name], rtol=1e-5)
