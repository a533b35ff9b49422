"""Whose a state is: foreign ones, checkpoints of another grouping, readers."""

import pickle

import chex
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import optax_llr

PARAMS = {"stem": jnp.ones(2), "neck": jnp.ones(2), "head": jnp.ones(3)}
OLD = optax_llr.match_layers(PARAMS, [("stem|neck", "body"), ("head", "head")])
NEW = optax_llr.match_layers(PARAMS, [("stem", "stem"), ("neck|head", "head")])
MAKE = {
    "scale_by_layer": lambda layers: optax_llr.scale_by_layer(layers, np.ones(2)),
    "add_decayed_weights_by_layer": lambda layers: (
        optax_llr.add_decayed_weights_by_layer(layers, 0.5, np.ones(2))
    ),
    "layca": lambda layers: optax_llr.layca(layers, np.ones(2)),
}
every = pytest.mark.parametrize("name", MAKE)


def chained(name, layers):
    return optax.chain(optax.adam(0.1), MAKE[name](layers))


def after_a_step(name):
    chain = chained(name, OLD)
    return chain.update(PARAMS, chain.init(PARAMS), PARAMS)[1]


def scanned(update, state):
    def body(state, _):
        return update(PARAMS, state, PARAMS)[1], None

    return lax.scan(body, state, length=2)[0]


WAYS = {
    "eager": lambda update, state: update(PARAMS, state, PARAMS)[1],
    "jit": lambda update, state: jax.jit(update)(PARAMS, state, PARAMS)[1],
    "scan": scanned,
    "jitted scan": lambda update, state: jax.jit(lambda s: scanned(update, s))(state),
}


@pytest.mark.parametrize("way", WAYS)
@every
def test_foreign_state_is_an_error_while_tracing(name, way):
    """Of as many layers: only the structure of the state tells."""
    message = rf"^{name}: this \w+State belongs to other Layers .* `reassign_layers"
    with pytest.raises(ValueError, match=message):
        WAYS[way](chained(name, NEW).update, after_a_step(name))


def by_flax(state, like, path):
    del path
    return flax.serialization.from_bytes(like, flax.serialization.to_bytes(state))


def by_pickle(state, like, path):
    del like, path
    return pickle.loads(pickle.dumps(jax.device_get(state)))


def by_orbax(state, like, path):
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path / "state", state)
        checkpointer.wait_until_finished()
        return checkpointer.restore(path / "state", like)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("restored", [by_flax, by_pickle, by_orbax])
def test_checkpoint_of_an_old_grouping_goes_on_reassigned(restored, way, tmp_path):
    name = "scale_by_layer"
    state = after_a_step(name)
    old = restored(state, chained(name, OLD).init(PARAMS), tmp_path)
    chex.assert_trees_all_equal(old, state)

    def go_on(updates, state, params):
        return chained(name, NEW).update(updates, state, params)

    if way == "eager":
        found = WAYS[way](go_on, optax_llr.reassign_layers(NEW, old))
    else:  # within the program
        run = jax.jit(lambda s: WAYS[way](go_on, optax_llr.reassign_layers(NEW, s)))
        found = run(old)
    assert optax_llr.layer_multipliers(NEW, found) == {"stem": 1.0, "head": 1.0}
    assert optax.tree.get(found[1], "count") == (3 if "scan" in way else 2)
    assert optax.tree.get(found[0], "count") == optax.tree.get(found[1], "count")


@pytest.mark.parametrize("restored", [by_flax, by_orbax])
def test_checkpoint_of_an_old_grouping_does_not_fit_a_new_one(restored, tmp_path):
    """So that nobody goes on with it by mistake."""
    like = chained("scale_by_layer", NEW).init(PARAMS)
    with pytest.raises(ValueError, match=rf"{NEW.fingerprint}|{OLD.fingerprint}"):
        restored(after_a_step("scale_by_layer"), like, tmp_path)


@every
def test_what_optax_reads_of_a_state(name):
    chain, state = chained(name, OLD), after_a_step(name)
    np.testing.assert_array_equal(optax.tree.get(state, "multipliers"), np.ones(2))
    mapped = optax.tree.map_params(chain, jnp.zeros_like, state)
    chex.assert_trees_all_equal(mapped[1], state[1])
    assert not np.any(optax.tree.get(mapped, "mu")["head"])


# --- What no message of JAX should have to say --------------------------------------


@pytest.mark.parametrize("layers", [np.ones(2), PARAMS, None, "layers"], ids=type)
@every
def test_layers_come_first(name, layers):
    with pytest.raises(ValueError, match=rf"^{name}: layers: expected Layers, as"):
        MAKE[name](layers)


BAD = {
    "a dict": {"body": 1.0, "head": 1.0},
    "nothing": None,
    "text": "1, 1",
    "one number": 1.0,
    "texts": ["1", "1"],
    "of several lengths": [1.0, [1.0, 2.0]],
    "complex": [1j, 1.0],
    "too many": np.ones(3),
    "a tree of layers": OLD,
}
FACTORIES = {
    "scale_by_layer": optax_llr.scale_by_layer,
    "add_decayed_weights_by_layer": lambda layers, m: (
        optax_llr.add_decayed_weights_by_layer(layers, 0.5, m)
    ),
    "layca": optax_llr.layca,
}


@pytest.mark.parametrize("bad", BAD)
@every
def test_multipliers_that_are_none_are_named_at_once_or_by_init(name, bad):
    message = (
        rf"^{name}: multipliers: expected .*real multipliers of shape \(2,\), one for"
    )
    with pytest.raises(ValueError, match=message):
        FACTORIES[name](OLD, BAD[bad])
    with pytest.raises(ValueError, match=message):
        FACTORIES[name](OLD, lambda count: BAD[bad]).init(PARAMS)


def test_bad_constants_are_found_while_tracing_too():
    def start():
        return optax_llr.scale_by_layer(OLD, np.array([1.0, -1.0])).init(PARAMS)

    with pytest.raises(
        ValueError, match=r"0 or above \(float32\), got -1.0 for 'head'"
    ):
        jax.jit(start)()


@pytest.mark.parametrize("name", ["add_decayed_weights_by_layer", "layca"])
def test_parameters_have_the_leaves_and_shapes_of_updates(name):
    made = MAKE[name](OLD)
    state = made.init(PARAMS)
    with pytest.raises(ValueError, match=f"^{name}: needs the parameters: call update"):
        made.update(PARAMS, state)
    few = {"stem": PARAMS["stem"]}
    with pytest.raises(ValueError, match=f"^{name}: .* got none for '(neck|head)'"):
        made.update(PARAMS, state, few)
    long = {**PARAMS, "head": jnp.ones(1)}
    with pytest.raises(ValueError, match=rf"^{name}: .* \(1,\), got \(3,\) for 'head'"):
        made.update(PARAMS, state, long)


@pytest.mark.parametrize("leaf", ["text", np.ones(2, int), np.ones(2, bool)], ids=type)
@every
def test_updates_are_floats(name, leaf):
    made = MAKE[name](OLD)
    with pytest.raises(
        ValueError, match=rf"^{name}: expected (updates of a fl|an array)"
    ):
        made.update({"stem": leaf}, made.init(PARAMS), {"stem": np.ones(2)})
