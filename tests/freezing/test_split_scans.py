"""Phase.stopped: the same value, and no backward pass through what is frozen."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from optax_llr import Phase, match_layers

DEPTH, WIDTH = 4, 3
TOLERANCE = {"rtol": 1e-5, "atol": 1e-6}  # a scan in parts, float32


def arrays(*shapes):
    generator = np.random.default_rng(0)
    return [jnp.asarray(generator.standard_normal(s), jnp.float32) for s in shapes]


KERNEL, BIAS, HEAD, X = arrays((DEPTH, WIDTH, WIDTH), (DEPTH, WIDTH), (WIDTH,), (5, 3))
PARAMS = {"kernel": KERNEL, "bias": BIAS, "head": HEAD}
LAYERS = match_layers(PARAMS, [("kernel|bias", "block[:]"), ("head", "head")])
FROZEN = {  # of the four blocks and the head
    "prefix": (True, True, False, False, False),
    "middle": (False, True, True, False, False),
    "suffix": (False, False, True, True, True),
    "in turns": (True, False, True, False, False),
    "only the head trains": (True, True, True, True, False),
    "nothing": (False, False, False, False, False),
}


def phase_of(frozen, layers=LAYERS):
    return Phase(layers, 0, 1, frozen)


PREFIX = phase_of(FROZEN["prefix"])


def body(x, block):
    kernel, bias = block
    x = jnp.tanh(x @ kernel + bias)
    return x, x.sum()


def model(params, before=lambda stack: stack, body=body, **options):
    stacks = before(params["kernel"]), before(params["bias"])
    x, sums = lax.scan(body, X.astype(stacks[0].dtype), stacks, **options)
    return (x @ params["head"]).sum() + (sums * jnp.arange(1, DEPTH + 1)).sum()


def in_bfloat16(params):
    return model(params, lambda s: s.astype(jnp.bfloat16)).astype(jnp.float32)


def without_outputs(params):
    x, _ = lax.scan(body, X, (params["kernel"], params["bias"]))
    return (x @ params["head"]).sum()


def with_keys(params):
    def noisy(x, block):
        *block, key = block
        return body(x + 0.1 * jax.random.normal(key, x.shape), block)

    keys = jax.random.split(jax.random.key(1), DEPTH)
    x, _ = lax.scan(noisy, X, (params["kernel"], params["bias"], keys))
    return (x @ params["head"]).sum()


def relu(x, block):
    kernel, bias = block
    x = jax.nn.relu(x @ kernel + bias)
    return x, x.sum()


def in_a_loop(params):
    return lax.fori_loop(0, 2, lambda _, total: total + model(params), 0.0)


def in_a_branch(params):
    return lax.cond(params["head"][0] > -9, model, lambda p: p["head"].sum(), params)


def one_by_one(params):
    x = X
    for i in range(DEPTH):
        x, _ = body(x, (params["kernel"][i], params["bias"][i]))
    return (x @ params["head"]).sum()


MODELS = {
    "forward": model,
    "reverse": functools.partial(model, reverse=True),
    "unroll": functools.partial(model, unroll=3),
    "unroll, reverse": functools.partial(model, unroll=3, reverse=True),
    "unroll all": functools.partial(model, unroll=True),
    "no outputs": without_outputs,
    "keys": with_keys,
    "custom derivative": functools.partial(model, body=relu),
    "remat body": functools.partial(model, body=jax.checkpoint(body)),
    "nested jit": jax.jit(jax.jit(model)),
    "bfloat16": in_bfloat16,
}
# What `split_scans` leaves whole; values and gradients are those of a cut one.
WHOLE = {
    "loop": in_a_loop,
    "branch": in_a_branch,
    "remat": jax.checkpoint(model),
    "one by one": one_by_one,
    "scaled before": functools.partial(model, before=lambda stack: 2 * stack),
    "penalty": lambda params: model(params) + (params["kernel"] ** 2).sum(),
}


@functools.cache
def whole(function):
    return jax.jit(jax.value_and_grad(function))


def assert_stopped(function, phase, transform=lambda function: function):
    """The same value; the same gradients of what trains, none of what is frozen."""
    stopped = transform(jax.value_and_grad(phase.stopped(function)))
    (value, gradients), (same, ours) = whole(function)(PARAMS), stopped(PARAMS)
    np.testing.assert_allclose(same, value, **TOLERANCE)
    *blocks, head = phase.frozen
    for name, gradient in gradients.items():
        frozen = head if name == "head" else np.array(blocks)
        frozen = np.reshape(frozen, np.shape(frozen) + (1,) * (gradient.ndim - 1))
        expected = np.where(frozen, 0.0, gradient)
        np.testing.assert_allclose(ours[name], expected, **TOLERANCE, err_msg=name)
        zeros = np.broadcast_to(frozen, gradient.shape)
        assert (np.asarray(ours[name])[zeros] == 0).all(), name


@pytest.mark.parametrize("frozen", FROZEN.values(), ids=FROZEN)
@pytest.mark.parametrize("name", ["forward", "reverse"])
def test_gradients_are_those_of_what_trains(frozen, name):
    assert_stopped(MODELS[name], phase_of(frozen), jax.jit)


@pytest.mark.parametrize("name", MODELS)
def test_a_scan_written_in_any_way_is_cut(name):
    assert_stopped(MODELS[name], PREFIX, jax.jit)


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_not_cut_has_no_gradient_by_frozen_slices_either(name):
    assert_stopped(WHOLE[name], PREFIX, jax.jit)


def test_it_works_without_jit():
    assert_stopped(model, PREFIX)


def test_it_works_under_vmap():
    def scaled_loss(params, scale):
        return scale * model(params)

    ours = jax.vmap(jax.grad(PREFIX.stopped(scaled_loss)), in_axes=(None, 0))(
        PARAMS, jnp.arange(3.0)
    )
    one = jax.grad(PREFIX.stopped(model))(PARAMS)
    np.testing.assert_allclose(ours["kernel"][2], 2 * one["kernel"], **TOLERANCE)


def test_arguments_of_any_kind_reach_the_loss():
    def loss(params, data, scale, *, mode, offset, activate):
        assert (mode, scale) == ("mean", 2)
        value = scale * getattr(activate(model(params) + offset), mode)()
        return value, {"data": data.sum(), "rows": len(data)}

    value_and_grad = jax.value_and_grad(PREFIX.stopped(loss), has_aux=True)
    (value, aux), gradients = value_and_grad(
        PARAMS, X, 2, mode="mean", offset=jnp.float32(1), activate=jnp.tanh
    )
    np.testing.assert_allclose(value, 2 * jnp.tanh(model(PARAMS) + 1), rtol=1e-6)
    assert (int(aux["rows"]), float(aux["data"])) == (5, float(X.sum()))
    assert (np.asarray(gradients["kernel"][:2]) == 0).all()


def test_outputs_that_are_no_numbers_keep_their_order():
    def carried(params):
        return lax.scan(body, X, (params["kernel"], params["bias"]), reverse=True)

    ours = phase_of(FROZEN["in turns"]).stopped(carried)(PARAMS)
    for one, other in zip(ours, carried(PARAMS), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_a_scanned_linen_model_is_cut():
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return nn.tanh(nn.Dense(WIDTH)(x)), None

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            axes = {"params": 0}
            blocks = nn.scan(Block, axes, split_rngs={"params": True}, length=DEPTH)
            return nn.Dense(1)(blocks()(x, None)[0]).sum()

    params = Model().init(jax.random.key(0), X)["params"]
    layers = match_layers(params, [("Scan.*", "block[:]"), ("Dense_0/.*", "head")])

    def loss(params):
        return Model().apply({"params": params}, X)

    stopped = phase_of(FROZEN["prefix"], layers).stopped(loss)
    theirs, ours = jax.grad(loss)(params), jax.jit(jax.grad(stopped))(params)
    (path,) = {path for path in params if path.startswith("Scan")}
    for leaf in ("kernel", "bias"):
        one, other = ours[path]["Dense_0"][leaf], theirs[path]["Dense_0"][leaf]
        assert (np.asarray(one[:2]) == 0).all()
        np.testing.assert_allclose(one[2:], other[2:], **TOLERANCE)
    np.testing.assert_allclose(ours["Dense_0"]["bias"], theirs["Dense_0"]["bias"])
    text = jax.jit(jax.grad(stopped)).lower(params).as_text()
    assert text.count("stablehlo.while") == 3  # two forward, one of them backward
