"""label_layers: layers by a tree of labels."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

import optax_llr

PARAMS = {
    "stem": {"w": jnp.ones((2, 2)), "b": jnp.ones(2)},
    "body": [jnp.ones((2, 2)), jnp.ones((2, 2))],
    "head": jnp.ones((2, 2)),
}
ORDER = ("early", "late")
TREE = {
    "stem": {"w": "early", "b": "late"},
    "body": ["early", "late"],
    "head": "late",
}


def by_depth(params):
    return jax.tree.map(lambda leaf: "early" if leaf.ndim == 1 else "late", params)


@pytest.mark.parametrize(
    ("labels", "early"),
    [
        (TREE, {"stem/w", "body/0"}),
        ({"stem": "early", "body": "early", "head": "late"}, {"stem", "body"}),
        (
            {"stem": "early", "body": ["early", "late"], "head": "late"},
            {"stem", "body/0"},
        ),
        (by_depth, {"stem/b"}),
        (lambda _: {"stem": "early", "body": "late", "head": "late"}, {"stem"}),
    ],
    ids=["tree", "prefix", "mixed", "function", "function of a prefix"],
)
def test_labels_hold_for_all_below(labels, early):
    layers = optax_llr.label_layers(PARAMS, labels, ORDER)
    assert layers.names == ORDER
    assert layers.level.tolist() == [0, 1]
    assert layers.distance.tolist() == [1, 0]
    found = {path for path, layer in layers.members.items() if layer == 0}
    assert found == {
        path
        for path in layers.members
        if any(path == name or path.startswith(f"{name}/") for name in early)
    }


def test_the_labels_of_optax_partition_serve_here():
    def partition(labels):
        optimizers = {"early": optax.sgd(0.1), "late": optax.sgd(1.0)}
        return optax.partition(optimizers, labels)

    labels = {"stem": "early", "body": ["early", "late"], "head": "late"}
    layers = optax_llr.label_layers(PARAMS, labels, ORDER)
    ours = optax.chain(optax.sgd(1.0), optax_llr.scale_by_layer(layers, [0.1, 1.0]))
    a, b = (t.update(PARAMS, t.init(PARAMS))[0] for t in (partition(labels), ours))
    assert jax.tree.all(jax.tree.map(jnp.allclose, a, b))


@pytest.mark.parametrize(
    ("labels", "order", "message"),
    [
        (TREE, ("late",), r"not in the order: \['early'\]"),
        (TREE, (*ORDER, "last"), r"label nothing: \['last'\]"),
        (TREE, (*ORDER, "late"), r"repeat: \['late'\]"),
        (TREE, "early", r"got 'early'"),
        ({**TREE, "head": None}, ORDER, r"no string: \['head'\]"),
        ({**TREE, "head": 1}, ORDER, r"no string: \['head'\]"),
        ({**TREE, "tail": "late"}, ORDER, r"structure"),
        ({"stem": "early", "body": "late"}, ORDER, r"structure"),
        ({**TREE, "body": ["late"]}, ORDER, r"structure"),
    ],
)
def test_nothing_is_labelled_silently(labels, order, message):
    with pytest.raises(ValueError, match=f"^label_layers: .*{message}"):
        optax_llr.label_layers(PARAMS, labels, order)


def test_boxed_parameters_have_the_paths_of_bare_ones():
    bare = {"stem": {"w": jnp.ones(2)}, "head": {"w": jnp.ones(2)}}
    boxed = jax.tree.map(lambda w: nn.Partitioned(w, ("data",)), bare)
    labels = {"stem": "early", "head": "late"}
    layers = optax_llr.label_layers(bare, labels, ORDER)
    assert optax_llr.label_layers(boxed, labels, ORDER) == layers
    state = nnx.State(jax.tree.map(nnx.Param, bare))
    assert optax_llr.label_layers(
        state, lambda _: "late", ("late",)
    ).members.keys() == (layers.members.keys())


def test_no_parameters_are_no_layers():
    assert len(optax_llr.label_layers({}, {}, ())) == 0
