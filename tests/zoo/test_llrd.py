"""Layer-wise learning-rate decay: one step on real arrays, against numbers by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_llr
from zoo.comparing import end_of, items, leaves_by_path, load, owner, trace
from zoo.expected import MODELS

pytestmark = pytest.mark.filterwarnings("ignore")  # of other people's packages

DECAY = 0.75


@pytest.mark.parametrize(
    ("model", "group"),
    [("linen.mixer", None), ("transformers.clip", None), ("linen.scanned", "block")],
)
def test_one_step_of_layer_decay(model, group):
    forward, shapes, inputs = load(model)
    layers = trace(model, group)
    params, inputs = _filled(shapes), _filled(inputs)
    multipliers = optax_llr.layer_decay(layers, DECAY)
    optimizer = optax.adamw(1e-2)
    decayed = optax.chain(optimizer, optax_llr.scale_by_layer(layers, multipliers))

    @jax.jit
    def steps(params):
        gradients = jax.grad(lambda p: jnp.square(forward(p, *inputs)).mean())(params)
        return [
            chain.update(gradients, chain.init(params), params)[0]
            for chain in (optimizer, decayed)
        ]

    factors = _by_hand(model, group, layers)
    plain, updates = map(leaves_by_path, steps(params))
    for path, update in updates.items():
        np.testing.assert_allclose(
            update, plain[path] * factors(path, update), rtol=1e-6, err_msg=path
        )


def _by_hand(model, group, layers):
    """For each parameter the power of the decay that the table says."""
    table = MODELS[model]
    lines, ends = (
        (table.blocks, table.block_ends) if group else (table.modules, table.ends)
    )
    by_name = {name: item for item in items(lines) for name in item.names}

    def one(part):
        item = by_name[owner(by_name, part)]
        end = end_of(item.hosts[0], ends, len(lines) - 1)
        return DECAY ** (end - item.level)

    def factors(path, update):
        member = layers.members[path]
        if isinstance(member, int):
            return one((path, None))
        rows = [one((path, row)) for row in range(len(member))]
        return np.reshape(rows, (-1, *[1] * (update.ndim - 1))).astype(update.dtype)

    return factors


def _filled(shapes):
    """Arrays of these shapes: small random numbers, and 1 for tokens."""
    rng = np.random.default_rng(0)

    def fill(leaf):
        if jnp.issubdtype(leaf.dtype, jnp.integer):
            return jnp.ones(leaf.shape, leaf.dtype)
        return jnp.asarray(rng.normal(size=leaf.shape) * 0.3, leaf.dtype)

    return jax.tree.map(fill, shapes)
