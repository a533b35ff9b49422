import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import optax_llr
from experiments.config.choices import LANGUAGE_MODELS
from experiments.models import make
from experiments.models.gpt import rotated

TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 256, (3, 24)), jnp.uint8)
PARTS = (
    *("norm1", "attention/query", "attention/key", "attention/value", "attention/out"),
    *("norm2", "mlp/gate", "mlp/up", "mlp/down"),
)
LEVELS = (1, 2, 2, 2, 3, 4, 5, 5, 6)
"""Of the parts, in the first block."""


@functools.cache
def model(name="gpt-small", dtype="float32"):
    """A jitted function, and its parameters."""
    graph, params = nnx.split(make(name, 256, nnx.Rngs(0), dtype), nnx.Param)
    logits = jax.jit(lambda params, tokens: nnx.merge(graph, params)(tokens))
    return functools.partial(logits, params), params


def test_a_later_byte_changes_no_earlier_logit():
    changed = TOKENS.at[:, 15].add(1)
    before, after = model()[0](TOKENS), model()[0](changed)
    np.testing.assert_array_equal(before[:, :15], after[:, :15])
    moved = np.abs(before - after).max(axis=(0, 2))
    assert (moved[15:] > 0).all()


def test_a_product_of_rotated_vectors_depends_on_their_distance_alone():
    query, key = np.random.default_rng(0).normal(size=(2, 1, 1, 1, 16))
    everywhere = [np.broadcast_to(x, (1, 12, 1, 16)) for x in (query, key)]
    query, key = (np.asarray(rotated(jnp.asarray(x)))[0, :, 0] for x in everywhere)
    products = query @ key.T
    for distance in range(-11, 12):
        diagonal = np.diagonal(products, distance)
        np.testing.assert_allclose(diagonal, diagonal[0], rtol=1e-4, atol=1e-5)
    assert np.ptp(products[0]) > 0.1


def test_rotation_is_that_of_complex_numbers():
    x = np.random.default_rng(1).normal(size=(2, 5, 3, 8))
    angles = np.arange(5)[:, None] * 10_000.0 ** (-np.arange(4) / 4)
    pairs = (x[..., :4] + 1j * x[..., 4:]) * np.exp(1j * angles)[:, None]
    expected = np.concatenate([pairs.real, pairs.imag], axis=-1)
    np.testing.assert_allclose(rotated(jnp.asarray(x)), expected, rtol=1e-5, atol=1e-6)


def test_order_of_earlier_bytes_counts():
    swapped = TOKENS.at[:, :2].set(TOKENS[:, 1::-1])
    last = [np.asarray(model()[0](tokens))[:, -1] for tokens in (TOKENS, swapped)]
    assert np.abs(last[0] - last[1]).max() > 1e-5


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_the_first_loss_is_that_of_knowing_nothing(name):
    logits = model(name)[0](TOKENS)
    losses = optax.softmax_cross_entropy_with_integer_labels(
        logits[:, :-1], TOKENS[:, 1:].astype(jnp.int32)
    )
    assert float(losses.mean()) == pytest.approx(math.log(256), abs=0.1)


def test_arithmetic_in_bfloat16_has_logits_and_parameters_in_float32():
    forward, params = model(dtype="bfloat16")
    logits = forward(TOKENS)
    assert logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    difference = np.abs(logits - model()[0](TOKENS)).max()
    assert 0 < difference < 0.05


@pytest.mark.parametrize(
    ("name", "blocks", "size"), [("gpt-small", 2, 133_440), ("gpt", 4, 857_216)]
)
def test_a_layer_is_a_module_and_levels_go_up_block_by_block(name, blocks, size):
    shape = nnx.eval_shape(lambda: make(name, 256, nnx.Rngs(0)))
    graph, params = nnx.split(shape, nnx.Param)
    layers = optax_llr.trace_layers(
        lambda params, tokens: nnx.merge(graph, params)(tokens),
        params,
        TOKENS,
        group=lambda path: path.rpartition("/")[0],
    )
    levels = {"tokens": 0} | {
        f"blocks/{block}/{part}": 6 * block + level
        for block in range(blocks)
        for part, level in zip(PARTS, LEVELS, strict=True)
    }
    levels |= {"norm": 6 * blocks + 1, "head": 6 * blocks + 2}
    assert dict(zip(layers.names, layers.level.tolist(), strict=True)) == levels
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == size
