"""Equinox: its own modules; the model itself is the parameters."""

import equinox as eqx
import jax
import jax.numpy as jnp


def mlp():
    make = eqx.filter_eval_shape(
        lambda key: eqx.nn.MLP(4, 2, width_size=8, depth=3, key=key), jax.random.key(0)
    )
    return lambda model, x: jax.vmap(model)(x), make, (_floats(2, 4),)


def lstm():
    """An LSTM over time with a linear head: nothing repeats but time."""

    def make(key):
        return {
            "cell": eqx.nn.LSTMCell(3, 4, key=key),
            "head": eqx.nn.Linear(4, 2, key=key),
        }

    def forward(model, xs):
        start = jnp.zeros(4), jnp.zeros(4)
        (h, _), _ = jax.lax.scan(
            lambda state, x: (model["cell"](x, state), None), start, xs
        )
        return model["head"](h)

    return forward, eqx.filter_eval_shape(make, jax.random.key(0)), (_floats(5, 3),)


def _floats(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)
