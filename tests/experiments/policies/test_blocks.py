"""Blocks, and policies that go by them or freeze the body."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import optax_llr
from experiments.config.config import Config
from experiments.models import make
from experiments.policies.blocks import by_block
from experiments.policies.catalogue import POLICIES
from experiments.policies.chosen import configured
from experiments.training.compiling import policy_phases, policy_tables


@functools.cache
def layers_of(name):
    model = nnx.eval_shape(lambda: make(name, 4, nnx.Rngs(0)))
    model.eval()
    graph, *state = nnx.split(model, nnx.Param, ...)
    return optax_llr.trace_layers(
        lambda params, rest, x: nnx.merge(graph, params, rest)(x),
        *state,
        jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32),
    )


def blocks(name):
    """The place of the block of each layer."""
    layers = by_block(layers_of(name))
    return dict(zip(layers.names, layers.level.tolist(), strict=True))


def test_layers_of_a_residual_block_share_a_place():
    assert blocks("resnet8") == {
        "stem": 0,
        **dict.fromkeys(("blocks/0/first", "blocks/0/second"), 1),
        **dict.fromkeys([f"blocks/1/{n}" for n in ("first", "second", "shortcut")], 2),
        **dict.fromkeys([f"blocks/2/{n}" for n in ("first", "second", "shortcut")], 3),
        "head": 4,
    }


@pytest.mark.parametrize(
    ("name", "some"),
    [
        ("cnn-shallow", {"conv1": 0, "conv3": 2, "head": 4}),
        ("vgg8", {"stages/0/convs/0": 0, "stages/4/convs/0": 4}),
        ("vit", {"embed": 0, "positions": 0, "blocks/5/attention/key": 6, "head": 7}),
        ("lstm-rows", {"first/dense_i": 0, "second/dense_h": 1, "head": 2}),
    ],
)
def test_blocks_of_other_models(name, some):
    assert some.items() <= blocks(name).items()


def test_slices_of_scanned_layers_are_blocks():
    names = ("stem", "layers[0]/up", "layers[0]/down", "layers[10]/up", "head")
    members = {name: i for i, name in enumerate(names)}
    layers = optax_llr.Layers(names, np.arange(5), members)
    assert by_block(layers).level.tolist() == [0, 1, 1, 2, 3]


def phases(name, total=100):
    layers, config = layers_of("resnet8"), Config(epochs=total / 50)
    tables = policy_tables(POLICIES[name], config, layers)
    return [
        (phase.start, phase.stop, set(phase.names))
        for phase in policy_phases(tables, config, layers)
    ]


def test_what_is_frozen_is_a_phase_and_costs_nothing():
    names = set(layers_of("resnet8").names)
    early = {"stem", "blocks/0/first", "blocks/0/second"}
    assert phases("head-only") == [(0, 100, names - {"head"})]
    assert phases("first-block") == [(0, 100, names - early)]
    assert phases("head-first") == [(0, 30, names - {"head"}), (30, 100, set())]
    unfreezing = phases("ulmfit")
    assert len(unfreezing) == 1 + layers_of("resnet8").level.max()
    assert unfreezing[0][2] == names - {"head"}
    assert unfreezing[-1] == (40, 100, set())


def test_ulmfit_is_gradual_unfreezing_times_its_rates():
    layers = layers_of("resnet8")
    rates = POLICIES["ulmfit-rates"].multipliers(layers, 100)
    joined = POLICIES["unfreeze-top-first"].multipliers(layers, 100)
    whole = POLICIES["ulmfit"].multipliers(layers, 100)
    for step in (0, 7, 39, 40, 99):
        np.testing.assert_allclose(whole(step), rates * joined(step), rtol=1e-6)


def test_one_policy_starts_from_random_weights():
    assert [p.name for p in POLICIES.values() if p.scratch] == ["from-scratch"]


def test_random_weights_have_no_statistics_to_freeze():
    config = Config(
        model="resnet8", policies=("from-scratch",), norm_statistics="frozen"
    )
    with pytest.raises(ValueError, match="'from-scratch' starts from random weights"):
        configured(config)
