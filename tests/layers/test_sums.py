"""layer_sum, held against sums that NumPy forms slice by slice."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import optax_llr
from optax_llr import layer_sum

# A kernel and a bias in one layer; a stack of three slices, of which the first and the
# last share a layer; a layer with nothing else; a layer that no tree below holds.
LAYERS = optax_llr.Layers(
    names=("stem", "shared", "middle", "head", "absent"),
    level=np.arange(5),
    members={"kernel": 0, "bias": 0, "stack": (1, 2, 1), "head": 3, "absent": 4},
)
SHAPES = {"kernel": (3, 4), "bias": (4,), "stack": (3, 2, 2), "head": ()}


def tree(seed, dtype=np.float32):
    generator = np.random.default_rng(seed)

    def draw(shape):
        values = generator.normal(size=shape) + 1j * generator.normal(size=shape)
        kind = np.issubdtype(dtype, np.complexfloating)
        return np.asarray(values if kind else values.real, dtype)

    return {path: draw(shape) for path, shape in SHAPES.items()}


def slow(function, *trees):
    """Element by element in double precision, real and imaginary parts apart."""
    sums = np.zeros(len(LAYERS))
    for path, leaf in trees[0].items():
        operands = [np.asarray(tree[path], np.complex128) for tree in trees]
        member = LAYERS.members[path]
        if not isinstance(member, tuple):
            member, operands = (member,), [operand[None] for operand in operands]
        for row, layer in enumerate(member):
            parts = [operand[row] for operand in operands]
            sums[layer] += function(*(part.real for part in parts)).sum()
            if np.iscomplexobj(leaf):
                sums[layer] += function(*(part.imag for part in parts)).sum()
    return sums


FUNCTIONS = {
    "one tree": (jnp.square, np.square, 1),
    "two trees": (jnp.multiply, np.multiply, 2),
    "three trees": (
        lambda a, b, c: jnp.abs(a - b) * c,
        lambda a, b, c: np.abs(a - b) * c,
        3,
    ),
}
DTYPES = [np.float16, ml_dtypes.bfloat16, np.float32, np.complex64]


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_sums_follow_the_slow_reference(name, dtype, jit):
    ours, theirs, number = FUNCTIONS[name]
    trees = [tree(seed, dtype) for seed in range(number)]

    def total(*trees):
        return layer_sum(LAYERS, ours, *trees)

    sums = (jax.jit(total) if jit else total)(*trees)
    assert sums.dtype == np.float32
    np.testing.assert_allclose(sums, slow(theirs, *trees), rtol=1e-6, atol=1e-6)


def test_half_precision_is_summed_in_float32():
    """In float16 squares of 300 overflow; in bfloat16 a sum of ones ends at 256."""
    for dtype in (jnp.float16, jnp.bfloat16):
        leaves = {"kernel": jnp.full((100, 10), 300.0, dtype)}
        number = layer_sum(LAYERS, jnp.ones_like, leaves)
        squares = layer_sum(LAYERS, jnp.square, leaves)
        assert (number[0], squares[0]) == (1000.0, 1000 * 300.0**2)


@pytest.mark.usefixtures("double_precision")
def test_float64_is_summed_in_float64():
    """100 million, and a half that float32 loses beside it."""
    leaves = {"bias": jnp.array([1e8, 0.5, -1e8, 0.0], jnp.float64)}
    assert layer_sum(LAYERS, jnp.positive, leaves)[0] == 0.5


def test_stacked_equals_unrolled():
    stacked = {"stack": tree(0)["stack"]}
    unrolled = {f"row{i}": row for i, row in enumerate(stacked["stack"])}
    layers = [
        optax_llr.Layers(("a", "b", "c"), np.arange(3), members)
        for members in ({"stack": (2, 0, 1)}, {"row0": 2, "row1": 0, "row2": 1})
    ]
    np.testing.assert_allclose(
        layer_sum(layers[0], jnp.square, stacked),
        layer_sum(layers[1], jnp.square, unrolled),
        rtol=1e-6,
    )


def test_nan_stays_in_its_slice():
    leaves = tree(0)
    leaves["stack"][1, 0, 0] = np.nan
    sums = layer_sum(LAYERS, jnp.square, leaves)
    np.testing.assert_array_equal(np.isnan(sums), [False, False, True, False, False])


@pytest.mark.parametrize("hole", [None, "left out"])
def test_missing_leaves_count_nothing(hole):
    leaves = tree(0)
    holed = {**leaves, "stack": None, "bias": None}
    if hole:
        holed = {path: leaf for path, leaf in holed.items() if leaf is not None}
    kept = {path: leaves[path] for path in ("kernel", "head")}
    # The second tree may hold more than the first.
    sums = layer_sum(LAYERS, jnp.multiply, holed, leaves)
    np.testing.assert_allclose(sums, slow(np.multiply, kept, leaves), rtol=1e-6)
    assert not sums[1:3].any()


def test_empty_tree_sums_to_zeros():
    np.testing.assert_array_equal(layer_sum(LAYERS, jnp.square, {}), np.zeros(5))


SURPLUS = {**tree(0), "neck": np.ones(2)}
TALLER = {"stack": np.ones((4, 2, 2))}
REFUSED = {
    "unknown leaf": ([SURPLUS], "'neck' is in none of the layers"),
    "stack of another height": ([TALLER], "with 3 slices along axis 0, as it was"),
    "leaf that the third tree lacks": (
        [tree(0), tree(1), {**tree(2), "bias": None}],
        "the first tree holds 'bias', tree 3 does not",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_trees_that_do_not_fit_are_refused(case):
    trees, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        layer_sum(LAYERS, lambda *leaves: leaves[0], *trees)
