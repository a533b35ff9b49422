"""measure_layers, monitor_layers and gradient_faults."""

import contextlib
import logging

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import optax_llr
from optax_llr import LayerMeasures, gradient_faults, measure_layers, monitor_layers

SHAPES = {
    "stem": {"kernel": (3, 4), "bias": (4,)},
    "blocks": {"kernel": (3, 4, 4), "scale": (3, 4)},
    "head": {"kernel": (4, 2)},
}
RULES = [("stem/.*", "stem"), ("blocks/.*", "block[:]"), ("head/.*", "head")]
RATE = 0.3


def tree(seed):
    generator = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: jnp.asarray(generator.standard_normal(shape), jnp.float32),
        SHAPES,
        is_leaf=lambda node: isinstance(node, tuple),
    )


PARAMS, UPDATES, GRADIENTS, PREVIOUS, INITIAL = map(tree, range(5))
LAYERS = optax_llr.match_layers(PARAMS, RULES)
ZEROS = jax.tree.map(jnp.zeros_like, PARAMS)


def unrolled(tree):
    """The same parameters, a leaf for each slice of a stack."""
    blocks = {
        f"block{i}": {path: stack[i] for path, stack in tree["blocks"].items()}
        for i in range(3)
    }
    return {"stem": tree["stem"], **blocks, "head": tree["head"]}


UNROLLED = optax_llr.match_layers(
    unrolled(PARAMS), [("stem/.*", "stem"), (r"(block\d)/.*", r"\1"), ("head/.*", "h")]
)


def vectors(tree, kernels_only=False):
    """Each layer as one vector in double precision."""
    return [
        np.concatenate(
            [
                np.asarray(leaf, np.float64).ravel()
                for leaf in layer.values()
                if leaf.ndim > 1 or not kernels_only
            ]
        )
        for layer in unrolled(tree).values()
    ]


def cosines(one, other):
    pairs = zip(one, other, strict=True)
    return np.array([a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairs])


def norms(vectors):
    return np.array([np.linalg.norm(vector) for vector in vectors])


def slow():
    steps = [np.sort(np.abs(update)) / RATE for update in vectors(UPDATES)]
    return LayerMeasures(
        gradient_norm=norms(vectors(GRADIENTS)),
        update_ratio=norms(vectors(UPDATES)) / norms(vectors(PARAMS)),
        effective_rate=RATE / norms(vectors(PARAMS)) ** 2,
        step_quantiles=np.stack(
            [
                # Between its elements, n of them evenly spaced, it runs linearly.
                np.interp([0, 0.25, 0.5, 0.75, 1], np.linspace(0, 1, len(s)), s)
                for s in steps
            ]
        ),
        gradient_cosine=cosines(vectors(GRADIENTS), vectors(PREVIOUS)),
        rotation=1 - cosines(vectors(INITIAL, True), vectors(PARAMS, True)),
    )


# --- measure_layers -----------------------------------------------------------------


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("stacked", [True, False], ids=["stacked", "unrolled"])
def test_measures_follow_the_slow_reference(stacked, jit):
    layers = LAYERS if stacked else UNROLLED
    form = (lambda tree: tree) if stacked else unrolled
    measure = jax.jit(measure_layers, static_argnums=0) if jit else measure_layers
    ours = measure(
        layers,
        *map(form, (GRADIENTS, UPDATES, PARAMS)),
        rate=RATE,
        previous=form(PREVIOUS),
        initial=form(INITIAL),
    )
    for name, meant in slow()._asdict().items():
        got = getattr(ours, name)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, meant, rtol=1e-5, atol=1e-6, err_msg=name)


def test_without_a_past_there_is_no_cosine_and_no_rotation():
    ours = measure_layers(LAYERS, GRADIENTS, UPDATES, PARAMS)
    assert ours.gradient_cosine is ours.rotation is None
    np.testing.assert_allclose(
        ours.step_quantiles, RATE * slow().step_quantiles, rtol=1e-5
    )


def test_layer_that_is_not_there_is_0_in_every_measure():
    def cut(tree):
        return {**tree, "head": None}

    trees = map(cut, (GRADIENTS, UPDATES, PARAMS))
    past = {"previous": cut(PREVIOUS), "initial": cut(INITIAL)}
    ours = measure_layers(LAYERS, *trees, rate=RATE, **past)
    for name, meant in slow()._asdict().items():
        got = getattr(ours, name)
        np.testing.assert_allclose(got[:4], meant[:4], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(got[4], np.zeros_like(meant[4]), name)


def test_nan_in_one_layer_leaves_the_measures_of_the_others():
    poisoned = {**GRADIENTS, "head": {"kernel": jnp.full((4, 2), jnp.nan)}}
    ours = measure_layers(
        LAYERS, poisoned, poisoned, PARAMS, previous=PREVIOUS, initial=INITIAL
    )
    assert np.isnan(ours.step_quantiles[4]).all()
    for measure in ours:
        assert np.isfinite(measure[:4]).all()


def test_complex_and_half_precision_are_measured_too():
    params = {"w": jnp.array([3 + 4j]), "v": jnp.array([1.0, 2.0], jnp.bfloat16)}
    layers = optax_llr.match_layers(params, [("w|v", "all")])
    ours = measure_layers(layers, params, params, params, rate=2.0)
    np.testing.assert_allclose(ours.gradient_norm, np.sqrt([30.0]), rtol=1e-6)
    np.testing.assert_array_equal(ours.step_quantiles, [[0.5, 0.75, 1.0, 1.75, 2.5]])


@pytest.mark.parametrize("position", range(3), ids=["gradients", "updates", "params"])
def test_unknown_leaf_is_refused_in_any_tree(position):
    trees = [GRADIENTS, UPDATES, PARAMS]
    trees[position] = {**trees[position], "neck": jnp.ones(2)}
    with pytest.raises(ValueError, match="'neck' is in none of the layers"):
        measure_layers(LAYERS, *trees)


@pytest.mark.parametrize("past", ["previous", "initial"])
def test_leaf_that_the_past_lacks_is_refused(past):
    message = rf"^measure_layers: {past}: expected .* gradients, .*'blocks/kernel'"
    with pytest.raises(ValueError, match=message):
        measure_layers(
            LAYERS, GRADIENTS, UPDATES, PARAMS, **{past: {"head": PARAMS["head"]}}
        )


@pytest.mark.parametrize("lacking", ["gradients", "updates", "params"])
@pytest.mark.parametrize("leaf", ["left out", "None", "all None", "another shape"])
def test_a_leaf_that_one_of_the_trees_lacks_is_refused(lacking, leaf):
    trees = {"gradients": GRADIENTS, "updates": UPDATES, "params": PARAMS}
    trees[lacking] = {
        "left out": {k: v for k, v in PARAMS.items() if k != "head"},
        "None": {**PARAMS, "head": {"kernel": None}},
        "all None": None,
        "another shape": {**PARAMS, "head": {"kernel": jnp.ones((4, 3))}},
    }[leaf]
    where = "" if leaf == "all None" else ".*'head/kernel'"
    with pytest.raises(ValueError, match=rf"^measure_layers: \w+: expected{where}"):
        measure_layers(LAYERS, *trees.values())


BAD = {
    "swapped": (lambda: measure_layers(GRADIENTS, LAYERS, UPDATES, PARAMS), "layers"),
    "no rate": (
        lambda: measure_layers(LAYERS, GRADIENTS, UPDATES, PARAMS, rate="fast"),
        "rate",
    ),
    "no measure": (
        lambda: measure_layers(
            LAYERS, GRADIENTS, UPDATES, PARAMS, measures=["gradient_nrom"]
        ),
        "measures",
    ),
    "a string": (
        lambda: measure_layers(LAYERS, GRADIENTS, UPDATES, PARAMS, measures="rotation"),
        "measures",
    ),
    "no past": (
        lambda: measure_layers(
            LAYERS, GRADIENTS, UPDATES, PARAMS, measures=["rotation"]
        ),
        "initial",
    ),
    "monitor: swapped": (lambda: monitor_layers(LAYERS, optax.sgd(0.1)), "inner"),
    "monitor: params": (lambda: monitor_layers(optax.sgd(0.1), PARAMS), "layers"),
    "monitor: no rate": (
        lambda: monitor_layers(optax.sgd(0.1), LAYERS, rate=np.nan),
        "rate",
    ),
    "monitor: no measure": (
        lambda: monitor_layers(optax.sgd(0.1), LAYERS, measures=["norm"]),
        "measures",
    ),
    "faults: swapped": (lambda: gradient_faults(GRADIENTS, LAYERS), "layers"),
    "faults: None": (lambda: gradient_faults(LAYERS, None), "gradients"),
    "rotation: swapped": (
        lambda: optax_llr.layer_rotation(PARAMS, LAYERS, PARAMS),
        "layers",
    ),
    "rotation: None": (
        lambda: optax_llr.layer_rotation(LAYERS, None, PARAMS),
        "initial",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_argument_is_named(case):
    call, argument = BAD[case]
    with pytest.raises(ValueError, match=rf"^\w+: {argument}: expected .* got "):
        call()


def test_a_measure_that_is_misspelled_is_corrected():
    with pytest.raises(ValueError, match="did you mean 'gradient_norm'"):
        monitor_layers(optax.sgd(0.1), LAYERS, measures=["gradient_nrom"])


def test_only_what_is_asked_for_is_measured():
    ours = measure_layers(
        LAYERS, GRADIENTS, UPDATES, PARAMS, measures=("update_ratio",)
    )
    np.testing.assert_allclose(ours.update_ratio, slow().update_ratio, rtol=1e-5)
    assert [name for name, m in ours._asdict().items() if m is not None] == [
        "update_ratio"
    ]


EMPTY = {"none": jnp.zeros((0, 3)), "some": jnp.ones((2, 2)), "stack": jnp.ones((2, 0))}
EMPTY_LAYERS = optax_llr.match_layers(
    EMPTY, [("none", "none"), ("some", "some"), ("stack", "stack[:]")]
)


def test_layers_of_size_0_are_0_and_leave_the_others_alone():
    tree = EMPTY
    ours = measure_layers(EMPTY_LAYERS, tree, tree, tree, previous=tree, initial=tree)
    for name, meant in {
        "gradient_norm": 2,
        "update_ratio": 1,
        "effective_rate": 1 / 4,
        "step_quantiles": 1,
        "gradient_cosine": 1,
        "rotation": 0,
    }.items():
        np.testing.assert_array_equal(getattr(ours, name)[1], meant, name)
        np.testing.assert_array_equal(getattr(ours, name)[::2], 0, name)


def test_no_layers_at_all():
    none = optax_llr.match_layers({}, [])
    ours = measure_layers(none, {}, {}, {}, previous={}, initial={})
    assert {m.shape for m in ours} == {(0,), (0, 5)}
    monitor = monitor_layers(optax.sgd(0.1), none)
    _, state = monitor.update({}, monitor.init({}), {})
    assert state.steps == 1
    assert gradient_faults(none, {}) == {}


@pytest.mark.parametrize(
    ("w", "u", "meant"), [(0, 0, 0), (0, 1, np.inf), (1, 0, 0), (2, 1, 0.5)]
)
def test_update_ratio_of_zeros(w, u, meant):
    """A layer that begins at 0 and does not move is no fault."""
    tree = {"a": jnp.ones(4)}
    layers = optax_llr.match_layers(tree, [("a", "a")])
    with jax.debug_nans(True):
        ours = measure_layers(
            layers, tree, optax.tree.scale(u, tree), optax.tree.scale(w, tree)
        )
    np.testing.assert_array_equal(ours.update_ratio, [meant])


def test_a_rate_of_0_measures_steps_of_0():
    """As in the first step of a warm-up."""
    with jax.debug_nans(True):
        ours = measure_layers(LAYERS, GRADIENTS, ZEROS, PARAMS, rate=0.0)
    np.testing.assert_array_equal(ours.step_quantiles, np.zeros((5, 5)))
    np.testing.assert_array_equal(ours.effective_rate, np.zeros(5))


@pytest.mark.parametrize("count", [1, 40])
def test_layers_of_one_size_are_sorted_together(count):
    tree = {f"layer{i}": jnp.ones((3, 4 + i % 2)) for i in range(count)}
    layers = optax_llr.match_layers(tree, [(r"(.*)", r"\1")])
    measure = jax.jit(lambda tree: measure_layers(layers, tree, tree, tree))
    text = measure.lower(tree).as_text()
    assert text.count("stablehlo.sort") == min(count, 2)


# --- monitor_layers -----------------------------------------------------------------


def train(optimizer, steps):
    """Gradients, updates, parameters and state of each step, under jit."""
    update = jax.jit(optimizer.update)
    params, state = PARAMS, optimizer.init(PARAMS)
    for count in range(steps):
        gradients = tree(10 + count)
        updates, state = update(gradients, state, params)
        yield gradients, updates, params, state
        params = optax.apply_updates(params, updates)


def test_updates_and_inner_state_pass_through_to_the_bit():
    inner = optax.chain(
        optax.adam(0.1), optax_llr.scale_by_layer(LAYERS, np.arange(5.0))
    )
    monitored = train(monitor_layers(inner, LAYERS), 3)
    for ours, theirs in zip(monitored, train(inner, 3), strict=True):
        jax.tree.map(np.testing.assert_array_equal, ours[1], theirs[1])
        jax.tree.map(np.testing.assert_array_equal, ours[3].inner, theirs[3])


RATES = {"number": 0.3, "schedule": optax.linear_schedule(0.3, 0.1, 5)}


@pytest.mark.parametrize(("kind", "every"), [("number", 1), ("schedule", 3)])
def test_measures_are_those_of_measure_layers_by_hand(kind, every):
    """Also between measurements, the gradient of the step before is that one."""
    rate = RATES[kind]
    monitor = monitor_layers(optax.adam(rate), LAYERS, rate, every)
    previous = None
    for count, (gradients, updates, params, state) in enumerate(train(monitor, 7)):
        if count % every == 0:
            meant = measure_layers(
                LAYERS,
                gradients,
                updates,
                params,
                rate=rate(count) if callable(rate) else rate,
                previous=ZEROS if previous is None else previous,
                initial=PARAMS,
            )
        previous = gradients
        assert state.steps == count + 1
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
            state.measures,
            meant,
        )


def test_before_the_first_step_nothing_is_measured():
    for measure in monitor_layers(optax.sgd(0.1), LAYERS).init(PARAMS).measures:
        assert not np.any(measure)


def test_cosine_of_the_first_step_is_0_and_of_a_constant_gradient_1():
    monitor = monitor_layers(optax.sgd(0.1), LAYERS)
    _, state = monitor.update(GRADIENTS, monitor.init(PARAMS), PARAMS)
    np.testing.assert_array_equal(state.measures.gradient_cosine, np.zeros(5))
    _, state = monitor.update(GRADIENTS, state, PARAMS)
    np.testing.assert_allclose(state.measures.gradient_cosine, np.ones(5), rtol=1e-6)


def test_scan_piles_measures_up():
    monitor = monitor_layers(optax.sgd(0.1), LAYERS)

    def body(carry, _):
        params, state = carry
        updates, state = monitor.update(params, state, params)
        return (optax.apply_updates(params, updates), state), state.measures

    carry = PARAMS, monitor.init(PARAMS)
    _, measures = lax.scan(body, carry, length=20)
    assert measures.step_quantiles.shape == (20, 5, 5)
    # The weights are their own gradients, and shrink by a tenth a step.
    shrink = norms(vectors(PARAMS)) * 0.9 ** np.arange(20)[:, None]
    np.testing.assert_allclose(measures.gradient_norm, shrink, rtol=1e-5)
    np.testing.assert_allclose(measures.update_ratio, np.full((20, 5), 0.1), rtol=1e-5)
    np.testing.assert_allclose(measures.rotation, np.zeros((20, 5)), atol=1e-6)


def test_initial_parameters_are_a_copy():
    params = tree(0)
    state = monitor_layers(optax.sgd(0.1), LAYERS).init(params)
    jax.tree.map(lambda leaf: leaf.delete(), params)
    jax.tree.map(np.testing.assert_array_equal, state.initial, PARAMS)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("rate", [np.float64(0.1), optax.cosine_decay_schedule(1, 9)])
def test_measures_are_float32_under_double_precision(rate):
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), PARAMS)
    monitor = monitor_layers(optax.sgd(rate), LAYERS, rate)
    updates, state = monitor.update(params, monitor.init(params), params)
    assert {measure.dtype for measure in state.measures} == {np.dtype(np.float32)}
    assert updates["head"]["kernel"].dtype == np.float64


@pytest.mark.parametrize("every", [0, -1, 2.0, None, True, "3", np.int64(0)])
def test_every_must_be_a_whole_number_of_steps(every):
    with pytest.raises(ValueError, match="every: expected an int above 0, got"):
        monitor_layers(optax.sgd(0.1), LAYERS, every=every)


@pytest.mark.parametrize("three", [np.int64(3), np.uint8(3), np.array(3)])
def test_every_may_be_an_int_of_numpy(three):
    monitor = monitor_layers(optax.sgd(0.1), LAYERS, every=three)
    states = [state for *_, state in train(monitor, 5)]
    norms = [float(state.measures.gradient_norm[0]) for state in states]
    assert norms[0] == norms[1] == norms[2] != norms[3] == norms[4]


MEMORY = {
    ("gradient_norm", "update_ratio", "effective_rate", "step_quantiles"): 0,
    ("gradient_cosine",): 1,
    ("rotation", "gradient_norm"): 1,
    LayerMeasures._fields: 2,
}


@pytest.mark.parametrize("asked", MEMORY)
def test_memory_is_that_of_what_is_asked_for(asked):
    monitor = monitor_layers(optax.identity(), LAYERS, measures=asked)
    *_, (_, _, _, state) = train(monitor, 2)
    everything = monitor_layers(optax.identity(), LAYERS)
    *_, (_, _, _, all_of_it) = train(everything, 2)
    for name in LayerMeasures._fields:
        ours = getattr(state.measures, name)
        if name in asked:
            meant = getattr(all_of_it.measures, name)
            np.testing.assert_allclose(ours, meant, rtol=1e-6)
        else:
            assert ours is None
    parameters = sum(leaf.size for leaf in jax.tree.leaves(PARAMS))
    kept = sum(leaf.size for leaf in jax.tree.leaves(state))
    assert kept // parameters == MEMORY[asked]


BIAS = {"a": jnp.ones(3), "b": jnp.zeros(2)}
QUIET = {  # what to train, the layers, and what a mask leaves out
    "masked": (BIAS, {"a": True, "b": False}),
    "size 0": (EMPTY, True),
}


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("kind", QUIET)
def test_a_monitor_is_quiet_under_debug_nans(kind, jit):
    """Without kernels, with masked layers, weights that are 0, and nothing at all."""
    params, mask = QUIET[kind]
    layers = optax_llr.match_layers(
        params, [("stack", "stack[:]"), (r"(.*)", r"\1")][kind == "masked" :]
    )
    monitor = optax.masked(monitor_layers(optax.adam(0.1), layers, every=2), mask)
    init, update = monitor.init, monitor.update
    if jit:
        init, update = jax.jit(init), jax.jit(update)
    with jax.debug_nans(True):
        state = init(params)
        for _ in range(2):
            _, state = update(params, state, params)


@pytest.mark.parametrize("every", [1, 3])
def test_outside_jit_no_step_compiles_again(every):
    rate = optax.linear_schedule(0.3, 0.1, 9)
    monitor = monitor_layers(optax.sgd(rate), LAYERS, rate, every)
    state = monitor.init(PARAMS)
    for _ in range(4):
        _, state = monitor.update(GRADIENTS, state, PARAMS)
    measured = {"rate": 0.1, "previous": PREVIOUS, "initial": INITIAL}
    measure_layers(LAYERS, GRADIENTS, UPDATES, PARAMS, **measured)
    with jax.log_compiles(), caplog_of_jax() as logs:
        for _ in range(4):
            _, state = monitor.update(GRADIENTS, state, PARAMS)
        measure_layers(LAYERS, GRADIENTS, UPDATES, PARAMS, **measured)
    assert logs == []


@contextlib.contextmanager
def caplog_of_jax():
    """What JAX says that it compiles."""
    found = []
    handler = logging.Handler()
    handler.emit = lambda record: found.append(record.getMessage())
    logger = logging.getLogger("jax._src.interpreters.pxla")
    logger.addHandler(handler)
    try:
        yield found
    finally:
        logger.removeHandler(handler)


def test_a_gradient_that_is_none_is_a_layer_that_is_not_measured():
    monitor = monitor_layers(optax.sgd(0.1), LAYERS)
    state = monitor.init(PARAMS)
    part = {**GRADIENTS, "head": {"kernel": None}}
    _, state = monitor.update(part, state, PARAMS)
    for measure in state.measures:
        np.testing.assert_array_equal(measure[4], np.zeros_like(measure[4]))
    assert (state.measures.gradient_norm[:4] > 0).all()
    np.testing.assert_array_equal(state.previous["head"]["kernel"], 0)


def test_a_monitor_refuses_a_gradient_without_a_parameter():
    monitor = monitor_layers(optax.sgd(0.1), LAYERS)
    state = monitor.init(PARAMS)
    with pytest.raises(ValueError, match=r"^monitor_layers: params: .*'head/kernel'"):
        monitor.update(GRADIENTS, state, {**PARAMS, "head": {"kernel": None}})


# --- gradient_faults ----------------------------------------------------------------


def replaced(layer, leaf, value):
    return {**GRADIENTS, layer: {**GRADIENTS[layer], leaf: value}}


FAULTS = {
    "none": (GRADIENTS, {}),
    "one NaN": (
        replaced("stem", "bias", jnp.array([1, np.nan, 0, 0])),
        {"stem": "1 of 16 elements is not finite"},
    ),
    "infinite both ways": (
        replaced("head", "kernel", jnp.array([[np.inf, -np.inf]] * 4)),
        {"head": "8 of 8 elements are not finite"},
    ),
    "a slice of a stack": (
        replaced("blocks", "scale", GRADIENTS["blocks"]["scale"].at[1].set(np.nan)),
        {"block[1]": "4 of 20 elements are not finite"},
    ),
    "all 0, in forward order": (
        {**GRADIENTS, "stem": ZEROS["stem"], "head": ZEROS["head"]},
        {"stem": "all 16 elements are 0", "head": "all 8 elements are 0"},
    ),
    "0 in one leaf of two": (replaced("stem", "bias", jnp.zeros(4)), {}),
    "0 but for a NaN": (
        {**GRADIENTS, "head": {"kernel": jnp.zeros((4, 2)).at[0, 0].set(np.nan)}},
        {"head": "1 of 8 elements is not finite"},
    ),
    "a layer that is not there": ({**GRADIENTS, "head": None}, {}),
}


@pytest.mark.parametrize("case", FAULTS)
def test_faults_are_named_by_layer(case):
    gradients, meant = FAULTS[case]
    faults = gradient_faults(LAYERS, gradients)
    assert list(faults.items()) == list(meant.items())


def test_smallest_gradient_is_no_fault():
    tiny = jax.tree.map(lambda g: jnp.full_like(g, 1e-30), GRADIENTS)
    assert gradient_faults(LAYERS, tiny) == {}


def test_faults_of_an_unknown_leaf_are_refused():
    with pytest.raises(ValueError, match="'neck' is in none of the layers"):
        gradient_faults(LAYERS, {"neck": jnp.ones(2)})
