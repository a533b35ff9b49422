"""layca and layer_rotation, held against a slow reference in double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from reference import rotated

import optax_llr
from optax_llr import layca, layer_rotation

PAPER = 1 / 27  # the authors' rate, 3⁻³

# A convolution with its bias, stacks of kernels and of vectors, a dense layer.
SHAPES = {
    "conv": {"kernel": (3, 3, 2, 4), "bias": (4,)},
    "blocks": {"kernel": (3, 4, 4), "scale": (3, 4)},
    "head": {"kernel": (4, 2), "gain": ()},
}
RULES = [("conv/.*", "conv"), ("blocks/.*", "block[:]"), ("head/.*", "head")]


def tree(seed, dtype=np.float32):
    generator = np.random.default_rng(seed)

    def draw(shape):
        values = generator.normal(size=shape) + 1j * generator.normal(size=shape)
        kind = jnp.issubdtype(dtype, jnp.complexfloating)
        return jnp.asarray(values if kind else values.real, dtype)

    return jax.tree.map(draw, SHAPES, is_leaf=lambda node: isinstance(node, tuple))


PARAMS = tree(0)
LAYERS = optax_llr.match_layers(PARAMS, RULES)
RATES = np.array([PAPER, 0.5, 0.0, 2.0, 0.1], np.float32)
schedule = optax.linear_schedule(RATES, RATES[::-1], 100)


def rotated_tree(rates, updates, params):
    """`rotated` for each leaf, and each slice of a stacked one."""

    def leaf(path, update, param):
        member = LAYERS.members[jax.tree_util.keystr(path, simple=True, separator="/")]
        if isinstance(member, int):
            return rotated(float(rates[member]), update, param)
        rows = zip(rates[list(member)].tolist(), update, param, strict=True)
        return np.stack([rotated(*row) for row in rows])

    return jax.tree_util.tree_map_with_path(leaf, updates, params)


def slices(tree):
    """All kernels of a tree, a stacked one slice by slice."""
    kernels = {"conv": tree["conv"]["kernel"], "head": tree["head"]["kernel"]}
    stack = enumerate(tree["blocks"]["kernel"])
    return kernels | {f"block[{i}]": kernel for i, kernel in stack}


def one_step(rate, update, weight, jit=True):
    """The update of a single kernel."""
    params, updates = {"kernel": jnp.asarray(weight)}, {"kernel": jnp.asarray(update)}
    layers = optax_llr.match_layers(params, [("kernel", "kernel")])
    turn = layca(layers, np.array([rate]))
    step = jax.jit(turn.update) if jit else turn.update
    ours, _ = step(updates, turn.init(params), params)
    return np.asarray(ours["kernel"])


def angle(a, b):
    """The angle between two kernels, of which arccos has too few digits."""
    a, b = (np.asarray(x, np.complex128).ravel() for x in (a, b))
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    return 2 * np.arctan2(np.linalg.norm(a - b), np.linalg.norm(a + b))


# --- A path of many steps -----------------------------------------------------------


@pytest.mark.parametrize("rates", [RATES, schedule], ids=["constant", "schedule"])
def test_weights_follow_the_slow_reference_for_120_steps(rates):
    turn = layca(LAYERS, rates)
    target = tree(1)

    @jax.jit
    def step(params, state):
        pull = jax.tree.map(lambda w, goal: goal - w, params, target)
        updates, state = turn.update(pull, state, params)
        return optax.apply_updates(params, updates), state

    ours, state = PARAMS, turn.init(PARAMS)
    theirs = jax.tree.map(lambda w: np.asarray(w, np.float64), PARAMS)
    for count in range(120):
        ours, state = step(ours, state)
        values = np.asarray(rates(count) if callable(rates) else rates)
        np.testing.assert_allclose(state.multipliers, values, rtol=1e-6)
        pull = jax.tree.map(lambda w, goal: np.asarray(goal) - w, theirs, target)
        updates = rotated_tree(values, pull, theirs)
        theirs = jax.tree.map(lambda w, u: w + u, theirs, updates)
    assert state.count == 120
    # The rounding of 120 steps, of which the largest turn by 63°, each on the last.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        ours,
        theirs,
    )


def test_norms_are_kept_and_angles_are_arctan_of_the_rate():
    turn = layca(LAYERS, RATES)
    params, state = PARAMS, turn.init(PARAMS)
    update = jax.jit(turn.update)
    for count in range(100):
        updates, state = update(tree(count), state, params)
        before, params = params, optax.apply_updates(params, updates)
    for name, rate in zip(LAYERS.names, RATES, strict=True):
        then, now, start = (slices(t)[name] for t in (before, params, PARAMS))
        np.testing.assert_allclose(angle(then, now), np.arctan(rate), rtol=1e-5)
        # Each of 100 roundings may take half of a last bit.
        np.testing.assert_allclose(
            np.linalg.norm(now), np.linalg.norm(start), rtol=100 * 6e-8
        )


def test_check_value():
    """w = (3, 4), s = (1, 0): of s only (0.64, −0.48) lies across w."""
    turned = np.array([[3.0, 4.0]]) + one_step(PAPER, [[-1.0, 0.0]], [[3.0, 4.0]])
    np.testing.assert_allclose(turned, [[2.849898, 4.108294]], rtol=1e-6)


# --- What does not rotate -----------------------------------------------------------


def test_vectors_and_numbers_take_the_plain_step():
    updates = tree(1)
    turn = layca(LAYERS, RATES)
    ours, _ = turn.update(updates, turn.init(PARAMS), PARAMS)
    plain = {
        "bias": (ours["conv"]["bias"], RATES[0] * updates["conv"]["bias"]),
        "scale": (
            ours["blocks"]["scale"],
            RATES[1:4, None] * updates["blocks"]["scale"],
        ),
        "gain": (ours["head"]["gain"], RATES[4] * updates["head"]["gain"]),
    }
    for got, meant in plain.values():
        np.testing.assert_array_equal(got, meant)


GENERATOR = np.random.default_rng(3)
KERNEL = GENERATOR.normal(size=(3, 5)).astype(np.float32)
STEP = GENERATOR.normal(size=(3, 5)).astype(np.float32)
STANDING = {
    "radial step": (0.5, 7 * KERNEL, KERNEL),
    "no step": (0.5, 0 * STEP, KERNEL),
    "zero weights": (0.5, STEP, 0 * KERNEL),
    "rate 0": (0.0, STEP, KERNEL),
    "rate 0, NaN": (0.0, np.nan * STEP, KERNEL),
    "rate 0, infinite": (0.0, np.inf * STEP, KERNEL),
    "empty kernel": (0.5, STEP[:0], KERNEL[:0]),
}


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("case", STANDING)
def test_kernel_stands_exactly_still_under(case, jit):
    rate, update, weight = STANDING[case]
    ours = one_step(rate, update, weight, jit)
    np.testing.assert_array_equal(ours, np.zeros_like(weight))


def test_rate_0_ignores_nan_in_every_leaf_of_its_layer_alone():
    poisoned = jax.tree.map(lambda u: jnp.full_like(u, jnp.nan), PARAMS)
    turn = layca(LAYERS, RATES)  # the middle of the stack is at 0
    ours, _ = turn.update(poisoned, turn.init(PARAMS), PARAMS)
    for leaf in ours["blocks"].values():
        np.testing.assert_array_equal(leaf[1], 0.0)
        assert np.isnan(leaf[::2]).all()
    assert np.isnan(ours["head"]["gain"])


# --- Scales and dtypes --------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e3, 1e30])
def test_size_of_the_update_plays_no_part(scale):
    ours = one_step(PAPER, np.float32(scale) * STEP, KERNEL)
    # Scaling itself rounds.
    np.testing.assert_allclose(ours, one_step(PAPER, STEP, KERNEL), rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e3, 1e30])
def test_turn_of_weights_scales_with_them(scale):
    scale = np.float32(scale)
    ours = one_step(PAPER, STEP, scale * KERNEL)
    theirs = one_step(PAPER, STEP, KERNEL)
    np.testing.assert_allclose(ours / scale, theirs, rtol=1e-5, atol=1e-6)


DTYPES = {
    "bfloat16": (jnp.bfloat16, 2**-8),
    "float16": (jnp.float16, 2**-11),
    "complex64": (jnp.complex64, 1e-6),
}


@pytest.mark.parametrize("name", DTYPES)
def test_other_dtypes_are_rotated_in_single_precision(name):
    dtype, precision = DTYPES[name]
    params, updates = tree(2, dtype), tree(3, dtype)
    turn = layca(LAYERS, RATES)
    ours, _ = jax.jit(turn.update)(updates, turn.init(params), params)
    assert {leaf.dtype for leaf in jax.tree.leaves(ours)} == {jnp.dtype(dtype)}
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
            np.asarray(a, np.complex64), b, rtol=precision, atol=1e-6
        ),
        ours,
        rotated_tree(RATES, updates, params),
    )


def test_complex_kernel_turns_as_the_vector_of_its_parts():
    weight, update = tree(2, jnp.complex64), tree(3, jnp.complex64)
    weight, update = weight["head"]["kernel"], update["head"]["kernel"]
    ours = one_step(PAPER, update, weight)
    parts = [np.stack([array.real, array.imag]) for array in (update, weight)]
    theirs = one_step(PAPER, *parts)
    np.testing.assert_allclose(np.stack([ours.real, ours.imag]), theirs, atol=1e-6)


# --- The curve ----------------------------------------------------------------------


def test_rotation_follows_the_slow_reference():
    """A layer's kernels are one vector; its vectors play no part."""
    params = {"a": PARAMS["conv"]["kernel"], "b": PARAMS["head"]["kernel"]}
    params |= {"norm": jnp.ones(3), "blocks": PARAMS["blocks"]["kernel"]}
    initial = jax.tree.map(lambda w: w[::-1] + 0.5, params)
    members = {"a": 0, "b": 0, "norm": 0, "blocks": (1, 0, 2)}
    layers = optax_llr.Layers(("mixed", "one", "two"), np.arange(3), members)

    def vectors(tree):
        a, b, stack = (np.asarray(tree[k], np.float64) for k in ("a", "b", "blocks"))
        mixed = np.concatenate([a.ravel(), b.ravel(), stack[1].ravel()])
        return mixed, stack[0].ravel(), stack[2].ravel()

    pairs = list(zip(vectors(initial), vectors(params), strict=True))
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairs]
    ours = jax.jit(layer_rotation, static_argnums=0)(layers, initial, params)
    np.testing.assert_allclose(ours, 1 - np.array(cosines), rtol=1e-5, atol=1e-6)


QUARTER = {  # what follows from two kernels (1, 0) and …
    "itself": ([[1.0, 0.0]], 0.0),
    "longer": ([[8.0, 0.0]], 0.0),
    "a right angle": ([[0.0, 3.0]], 1.0),
    "the opposite": ([[-2.0, 0.0]], 2.0),
    "zeros": ([[0.0, 0.0]], 0.0),
}


@pytest.mark.parametrize("case", QUARTER)
def test_rotation_from_a_kernel_to(case):
    kernel, turned = QUARTER[case]
    layers = optax_llr.match_layers({"w": np.ones((1, 2))}, [("w", "w")])
    start, end = {"w": jnp.array([[1.0, 0.0]])}, {"w": jnp.array(kernel)}
    np.testing.assert_array_equal(layer_rotation(layers, start, end), [turned])


def test_layer_without_a_kernel_has_no_rotation():
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2), "stack": jnp.ones((2, 3))}
    layers = optax_llr.match_layers(
        params, [("w", "w"), ("b", "b"), ("stack", "stack[:]")]
    )
    rotation = layer_rotation(layers, params, params)
    np.testing.assert_allclose(rotation, np.zeros(4), atol=1e-6)


def test_rotation_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match="'neck' is in none of the layers"):
        layer_rotation(LAYERS, PARAMS, {**PARAMS, "neck": jnp.ones((2, 2))})
    with pytest.raises(ValueError, match=r"initial: .*got none for \['blocks/kernel'"):
        layer_rotation(LAYERS, {"head": PARAMS["head"]}, PARAMS)
