"""reassign_layers: a state goes on under other layers, wherever that is done."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_llr

PARAMS = {"stem": jnp.ones(3), "block": jnp.ones(4), "head": jnp.ones(2)}
OLD = optax_llr.match_layers(PARAMS, [(".*", "all")])
NEW = optax_llr.match_layers(PARAMS, [(name, name) for name in PARAMS])
NEW_TX = optax.chain(
    optax.trace(0.9), optax_llr.scale_by_layer(NEW, np.array([0.5, 1.0, 2.0]))
)


def old_state():
    chain = optax.chain(optax.trace(0.9), optax_llr.scale_by_layer(OLD, np.ones(1)))
    return chain.update(PARAMS, chain.init(PARAMS))[1]


def eagerly(state):
    return NEW_TX.update(PARAMS, optax_llr.reassign_layers(NEW, state))


def in_a_scan(state):
    def body(carry, _):
        updates, state = NEW_TX.update(PARAMS, carry)
        return state, updates

    start = optax_llr.reassign_layers(NEW, state)
    state, updates = jax.lax.scan(body, start, length=1)
    return jax.tree.map(lambda leaf: leaf[0], updates), state


def under_vmap(state):
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), state)
    # Before vmap, which a state that many runs share is handed over in, and inside.
    before = optax_llr.reassign_layers(NEW, stacked)
    inside = jax.vmap(lambda s: optax_llr.reassign_layers(NEW, s))(stacked)
    assert jax.tree.structure(before) == jax.tree.structure(inside)
    assert [leaf.shape for leaf in jax.tree.leaves(before)] == [
        leaf.shape for leaf in jax.tree.leaves(inside)
    ]
    found = jax.vmap(lambda s: NEW_TX.update(PARAMS, s))(before)
    return jax.tree.map(lambda leaf: leaf[1], found)


WAYS = {
    "eager": eagerly,
    "jit": jax.jit(eagerly),
    "scan": in_a_scan,
    "vmap": under_vmap,
}


@pytest.mark.parametrize("way", WAYS)
def test_a_state_goes_on(way):
    """The momentum of one step, and the multipliers of the new layers."""
    with jax.debug_nans(True):
        updates, state = WAYS[way](old_state())
    for name, multiplier in zip(PARAMS, [0.5, 1.0, 2.0], strict=True):
        np.testing.assert_allclose(updates[name], multiplier * 1.9, rtol=1e-6)
    assert int(optax.tree.get(state, "count")) == 2
    assert list(state[1].layers) == [NEW.fingerprint]


def test_no_layers_at_all():
    none = optax_llr.match_layers({}, [])
    state = optax_llr.scale_by_layer(none, np.ones(0)).init({})
    assert optax_llr.reassign_layers(none, state).multipliers.shape == (0,)
