import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import optax_llr
from experiments.config import MODELS
from experiments.models import make

IMAGES = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)


def abstract(name, dtype=jnp.float32):
    """Graph in evaluation mode, parameters and statistics, as shapes only."""
    model = nnx.eval_shape(lambda: make(name, 10, nnx.Rngs(0), dtype))
    model.eval()
    return nnx.split(model, nnx.Param, ...)


def logits(graph, params, statistics, images):
    return nnx.merge(graph, params, statistics)(images)


def layers_of(name):
    graph, params, statistics = abstract(name)
    return optax_llr.trace_layers(
        lambda params, statistics, x: logits(graph, params, statistics, x),
        params,
        statistics,
        IMAGES,
    )


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_weights_and_logits_are_float32_whatever_the_arithmetic(name, dtype):
    graph, params, statistics = abstract(name, dtype)
    out = jax.eval_shape(
        lambda *state: logits(graph, *state, jnp.zeros(IMAGES.shape, dtype)),
        params,
        statistics,
    )
    assert (out.shape, out.dtype) == ((2, 10), jnp.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves((params, statistics))} == {
        np.dtype("float32")
    }


def test_bfloat16_arithmetic_is_bfloat16_in_the_convolutions():
    graph, params, statistics = abstract("resnet20", jnp.bfloat16)
    program = jax.make_jaxpr(lambda *state: logits(graph, *state))(
        params, statistics, IMAGES
    )
    convolutions = [e for e in program.eqns if e.primitive.name.startswith("conv_")]
    assert convolutions
    assert {e.outvars[0].aval.dtype for e in convolutions} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize(
    ("name", "count"),
    [
        # 3·16·9 + 16, 16·32·9 + 32, 32·64·9 + 64, 1024·128 + 128, 128·10 + 10
        ("cnn-shallow", 448 + 4_640 + 18_496 + 131_200 + 1_290),
        # the paper's 0.27 million, and two projections
        ("resnet20", 272_474),
    ],
)
def test_number_of_parameters(name, count):
    _, params, _ = abstract(name)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


def test_layers_of_the_shallow_cnn_come_in_forward_order():
    layers = layers_of("cnn-shallow")
    assert layers.names == ("conv1", "conv2", "conv3", "hidden", "head")
    assert layers.level.tolist() == [0, 1, 2, 3, 4]


def test_projection_shares_the_level_of_the_branch_beside_it():
    layers = layers_of("resnet20")
    level = dict(zip(layers.names, layers.level.tolist(), strict=True))
    assert layers.level.max() == 19  # twenty levels deep, as the name says
    (shortcut,) = [n for n in level if "blocks/3" in n and "shortcut" in n]
    (first,) = [n for n in level if "blocks/3" in n and "first" in n]
    assert level[shortcut] == level[first]
    assert len(layers) == 22  # and two projections


def test_max_pooling_takes_the_largest_of_each_square():
    from experiments.models import _halve

    x = np.random.default_rng(0).normal(size=(2, 8, 6, 3)).astype(np.float32)
    slow = np.empty((2, 4, 3, 3), np.float32)
    for row in range(4):
        for column in range(3):
            square = x[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            slow[:, row, column] = square.max((1, 2))
    np.testing.assert_array_equal(_halve(jnp.asarray(x)), slow)


def test_unknown_model_is_refused():
    with pytest.raises(ValueError, match=r"model: expected one of .*'resnet18'"):
        make("resnet18", 10, nnx.Rngs(0))
