import collections
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import optax_llr
from experiments.config.choices import MODELS, norms
from experiments.models import make
from experiments.models.densenet import DenseNet, Transition
from experiments.models.parts import Parts, max_halve
from experiments.models.residual import Block, PlainBlock, PreBlock

IMAGES = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
DEEP = {"resnet56", "resnet110", "densenet76"}  # a second or more to build
slow = functools.partial(pytest.param, marks=pytest.mark.slow)
EACH = [
    slow(name) if name in {"resnet56", "resnet110", "vit12"} else name
    for name in MODELS
]
"""Each model; of those that differ from another in depth alone the deep ones slowly."""
NORMS = [
    slow(name, norm) if name in DEEP else (name, norm)
    for name in MODELS
    for norm in norms(name)[1:]
]
"""Each model with each norm that is not its own."""


@functools.cache
def abstract(name, norm="own", dtype="float32"):
    """Graph in evaluation mode, parameters and statistics, as shapes only."""
    model = nnx.eval_shape(lambda: make(name, 10, nnx.Rngs(0), dtype, norm))
    model.eval()
    return nnx.split(model, nnx.Param, nnx.BatchStat)  # refuses what is neither


def logits(graph, params, statistics, images):
    return nnx.merge(graph, params, statistics)(images)


@functools.cache
def layers_of(name, norm="own"):
    graph, *state = abstract(name, norm)
    return optax_llr.trace_layers(functools.partial(logits, graph), *state, IMAGES)


def levels(name, norm="own"):
    layers = layers_of(name, norm)
    return dict(zip(layers.names, layers.level.tolist(), strict=True))


def trained(name, norm="own"):
    """Jitted logits in training mode of (params, images), and parameters from NumPy."""
    model = nnx.eval_shape(lambda: make(name, 10, nnx.Rngs(0), norm=norm))
    graph, params, statistics = nnx.split(model, nnx.Param, ...)
    statistics = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), statistics)
    random = np.random.default_rng(0)

    def values(leaf):
        normal = random.normal(size=leaf.shape)
        inputs = leaf.size / leaf.shape[-1]
        values = normal / math.sqrt(inputs) if normal.ndim > 1 else 1 + 0.1 * normal
        return jnp.asarray(values, jnp.float32)

    # A copy, as training changes the statistics.
    forward = jax.jit(
        lambda params, x: nnx.merge(graph, params, statistics, copy=True)(x)
    )
    return forward, jax.tree.map(values, params)


def path_of(keys):
    name = jax.tree_util.keystr(keys, simple=True, separator="/")
    return name.removesuffix("/value")


def size(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def images(count):
    x = np.random.default_rng(0).normal(size=(count, 32, 32, 3))
    return jnp.asarray(x, jnp.float32)


# Layers, and the largest level.
LAYERS = {
    "cnn-shallow": (5, 4),
    **{f"vgg{n}": (n, n - 1) for n in (5, 8, 11, 13, 16, 19)},
    "layca-cnn1": (4 * 6 + 1, 24),
    "layca-cnn2": (13 + 2, 14),
    **{
        f"resnet{n}": (n + 2, n - 1) for n in (8, 14, 20, 56, 110)
    },  # and two projections
    **{f"plain{n}": (n, n - 1) for n in (8, 14, 20)},
    "resnet18": (18 + 3, 17),
    "wrn16-4": (16 + 1, 16 - 3),  # the name counts three projections, and no head
    "wrn28-10": (28 + 1, 28 - 3),
    "densenet76": (76, 75),
    "vit": (2 + 6 * 6 + 1, 6 * 4 + 1),
    "vit12": (2 + 12 * 6 + 1, 12 * 4 + 1),
    "transformer-rows": (2 + 4 * 6 + 1, 4 * 4 + 1),
    "lstm-rows": (2 * 2 + 1, 2),
}


def assert_layers(name, norm):
    layers = layers_of(name, norm)
    assert (len(layers), layers.level.max()) == LAYERS[name]
    assert layers.names[-1] == "head"
    assert list(layers.level).count(layers.level.max()) == 1
    assert set(layers.level.tolist()) == set(range(layers.level.max() + 1))
    assert len(layers.members) == len(jax.tree.leaves(abstract(name, norm)[1]))


@pytest.mark.parametrize("name", EACH)
def test_layers_and_levels_are_those_that_the_name_says(name):
    assert_layers(name, "own")


@pytest.mark.parametrize(("name", "norm"), NORMS)
def test_another_norm_changes_no_layer(name, norm):
    assert_layers(name, norm)
    assert levels(name, norm) == levels(name)


def test_layers_of_the_shallow_cnn_come_in_forward_order():
    for norm in norms("cnn-shallow"):
        names = layers_of("cnn-shallow", norm).names
        assert names == ("conv1", "conv2", "conv3", "hidden", "head")


@pytest.mark.parametrize("name", ["vgg19", "layca-cnn1", "layca-cnn2", "densenet76"])
def test_a_chain_has_its_layers_in_the_order_of_its_lists(name):
    by_number = sorted(
        (n for n in levels(name) if n[-1].isdigit() and n.count("/")),
        key=lambda path: [int(part) for part in path.split("/") if part.isdigit()],
    )
    found = [n for n in levels(name) if n in by_number]
    assert found == by_number
    assert sorted(levels(name).values()) == list(range(len(levels(name))))


@pytest.mark.parametrize(
    ("name", "blocks"), [("resnet20", (3, 6)), ("wrn16-4", (0, 2, 4))]
)
def test_projection_shares_the_level_of_the_branch_beside_it(name, blocks):
    level = levels(name)
    projections = {n for n in level if "shortcut" in n}
    assert projections == {f"blocks/{i}/shortcut" for i in blocks}
    for i in blocks:
        assert level[f"blocks/{i}/shortcut"] == level[f"blocks/{i}/first"]
        assert level[f"blocks/{i}/second"] == level[f"blocks/{i}/first"] + 1


@pytest.mark.parametrize("name", ["vit", "vit12", "transformer-rows"])
def test_query_key_and_value_share_a_level_and_positions_that_of_the_tokens(name):
    level = levels(name)
    assert level["embed"] == level["positions"] == 0
    inner = ["attention/query", "attention/key", "attention/value", "attention/out"]
    second = [level[f"blocks/1/{n}"] for n in [*inner, "up", "down"]]
    assert second == [5, 5, 5, 6, 7, 8]


def test_matrices_of_an_lstm_share_a_level():
    assert levels("lstm-rows") == {
        "first/dense_i": 0,
        "first/dense_h": 0,
        "second/dense_i": 1,
        "second/dense_h": 1,
        "head": 2,
    }


@pytest.mark.parametrize(
    ("name", "norm", "path", "layer"),
    [
        ("vgg5", "own", "stages/1/norms/0/scale", "stages/1/convs/0"),
        ("resnet20", "own", "blocks/3/norm2/bias", "blocks/3/second"),
        ("resnet20", "own", "blocks/3/norm3/bias", "blocks/3/shortcut"),
        ("resnet20", "none", "blocks/3/end/scale", "blocks/3/second"),
        # Where the norm comes first it joins what feeds it, too.
        ("wrn16-4", "own", "blocks/1/norm1/scale", "blocks/0/second"),
        ("wrn16-4", "none", "blocks/1/end/scale", "blocks/1/second"),
        ("densenet76", "own", "steps/12/norm/scale", "steps/11/second"),
        ("densenet76", "own", "norm/scale", "steps/37/second"),
        ("vit", "own", "blocks/1/norm2/scale", "blocks/1/attention/out"),
    ],
)
def test_norm_joins_the_layer_that_feeds_it(name, norm, path, layer):
    layers = layers_of(name, norm)
    assert layers.names[layers.members[path]] == layer


def kernels(side, *widths):
    """Weights of convolutions one after the other; of dense layers for side 1."""
    return sum(side**2 * i * o for i, o in itertools.pairwise(widths))


def vgg(features, *convs):
    """Convolutions, a scale and a bias for each channel, and the dense layers."""
    dense = kernels(1, features, 512, 512, 10) + 512 + 512 + 10
    return kernels(3, 3, *convs) + 2 * sum(convs) + dense


def densenet(depth, growth):
    count, width = kernels(3, 3, 2 * growth), 2 * growth
    for block in range(3):
        for _ in range((depth - 4) // 6):
            count += 2 * width + kernels(1, width, 4 * growth)
            count += 8 * growth + kernels(3, 4 * growth, growth)
            width += growth
        if block < 2:
            count += 2 * width + kernels(1, width, width // 2)
            width //= 2
    return count + 2 * width + 10 * width + 10


def transformer(patch, tokens, width, blocks):
    attention = 4 * (width**2 + width)
    hidden = 8 * width**2 + 4 * width + width
    norms = 4 * width
    ends = 3 * patch * width + width + tokens * width + 2 * width + 10 * width + 10
    return ends + blocks * (attention + hidden + norms)


# Of a plain net, one in each stage.
BLOCKS = 2 * (2_304 + 32) + 2 * (9_216 + 64) + 2 * (36_864 + 128)
PARAMETERS = {
    # 3·16·9 + 16, 16·32·9 + 32, 32·64·9 + 64, 1024·128 + 128, 128·10 + 10
    "cnn-shallow": 448 + 4_640 + 18_496 + 131_200 + 1_290,
    "vgg5": vgg(8 * 8 * 128, 64, 128),
    "vgg8": vgg(512, 64, 128, 256, 512, 512),
    "vgg11": vgg(512, 64, 128, 256, 256, 512, 512, 512, 512),
    "vgg13": vgg(512, *[64] * 2, *[128] * 2, *[256] * 2, *[512] * 4),
    "vgg16": vgg(512, *[64] * 2, *[128] * 2, *[256] * 3, *[512] * 6),
    "vgg19": vgg(512, *[64] * 2, *[128] * 2, *[256] * 4, *[512] * 8),
    # Kernels alone.
    "layca-cnn1": kernels(3, 3, *[32] * 6, *[64] * 6, *[128] * 6, *[256] * 6)
    + kernels(1, 256, 10),
    "layca-cnn2": kernels(3, 3, *[64] * 2, *[128] * 2, *[256] * 3, *[512] * 6)
    + kernels(1, 512, 512, 10),
    # Each convolution with a scale and a bias for its channels, and the head.
    "plain8": (432 + 32)
    + 2 * (2_304 + 32)
    + (4_608 + 64)
    + (9_216 + 64)
    + (18_432 + 128)
    + (36_864 + 128)
    + 650,
    # And so many blocks more in each stage.
    "plain14": 75_290 + BLOCKS,
    "plain20": 75_290 + 2 * BLOCKS,
    # Beside these two projections, with theirs.
    "resnet8": 75_290 + (512 + 64) + (2_048 + 128),
    "resnet14": 75_290 + BLOCKS + (512 + 64) + (2_048 + 128),
    # Published for shortcuts without parameters, and here two projections with norms
    # (16·32 + 64 and 32·64 + 128). The paper: .27, .85 and 1.7 million.
    "resnet20": 269_722 + 2_752,
    "resnet56": 853_018 + 2_752,
    "resnet110": 1_727_962 + 2_752,
    # The usual one for CIFAR.
    "resnet18": 11_173_962,
    # The paper: 2.7 and 36.5 million.
    "wrn16-4": 2_748_890,
    "wrn28-10": 36_479_194,
    "densenet76": densenet(76, 12),
    "vit": transformer(4 * 4, 64, 192, blocks=6),
    "vit12": transformer(4 * 4, 64, 192, blocks=12),
    "transformer-rows": transformer(1 * 32, 32, 128, blocks=4),
    # Four gates, for each the input, the state and one bias.
    "lstm-rows": 512 * (96 + 128 + 1) + 512 * (128 + 128 + 1) + 1_290,
}


@pytest.mark.parametrize("name", EACH)
def test_number_of_parameters(name):
    _, params, _ = abstract(name)
    assert size(params) == PARAMETERS[name]


def test_densenet_has_the_parameters_of_the_published_one():
    model = nnx.eval_shape(
        lambda: DenseNet(100, 12, 10, Parts(nnx.Rngs(0), jnp.float32, "batch"))
    )
    assert size(nnx.state(model, nnx.Param)) == densenet(100, 12) == 769_162


@pytest.mark.parametrize(
    ("name", "channels", "branches"),
    [("cnn-shallow", 16 + 32 + 64, 0), ("resnet20", 7 * (16 + 32 + 64), 9)],
)
def test_without_norms_channels_have_a_bias_and_branches_a_scalar(
    name, channels, branches
):
    count = {norm: size(abstract(name, norm)[1]) for norm in norms(name)}
    assert count["batch"] == count["group"]  # a scale and a bias for each channel
    assert count["none"] == count["batch"] - channels + branches


def equations(jaxpr, *primitives):
    """Those of some primitives, in order, at any depth."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in primitives:
            yield eqn
        for value in eqn.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner, *primitives)


@pytest.mark.parametrize(("depth", "firsts"), [(8, {"1", "2"}), (14, {"2", "4"})])
def test_the_plain_twin_has_the_parameters_of_its_residual_net_but_projections(
    depth, firsts
):
    def shapes(name):
        leaves = jax.tree.leaves_with_path(abstract(name)[1:])
        return {path_of(keys): leaf.shape for keys, leaf in leaves}

    residual, plain = shapes(f"resnet{depth}"), shapes(f"plain{depth}")
    projections = {path for path in residual if "shortcut" in path or "norm3" in path}
    # The first block of each stage but the first.
    assert {path.split("/")[2] for path in projections} == firsts
    assert plain == {p: s for p, s in residual.items() if p not in projections}


def test_a_plain_block_has_no_way_around_its_convolutions():
    parts = Parts(nnx.Rngs(0), jnp.float32, "none")
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(2, 4, 4, 8)), jnp.float32)
    block = PlainBlock(8, 8, 1, parts)
    block.second.kernel[...] = jnp.zeros_like(block.second.kernel[...])
    assert (jax.jit(lambda x: block(x))(x) == 0).all()


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        # One of each class; the others differ in depth and width.
        *[("cnn-shallow", "own"), ("vgg5", "own"), ("layca-cnn1", "own")],
        *[("layca-cnn2", "own"), ("resnet20", "own"), ("resnet18", "own")],
        ("plain8", "own"),
        *[("wrn16-4", "own"), slow("densenet76", "own"), ("vit", "own")],
        *[("transformer-rows", "own"), ("lstm-rows", "own")],
        *[("cnn-shallow", "group"), ("resnet20", "group"), ("resnet20", "none")],
        *[("wrn16-4", "group"), ("wrn16-4", "none")],
    ],
)
def test_bfloat16_is_for_products_and_float32_for_weights_and_logits(name, norm):
    graph, *state = abstract(name, norm, "bfloat16")
    program = jax.make_jaxpr(functools.partial(logits, graph))(*state, IMAGES)
    found = list(equations(program.jaxpr, "conv_general_dilated", "dot_general"))
    assert len(found) >= LAYERS[name][0] - 1  # positions enter no product
    assert {var.aval.dtype.name for e in found for var in e.invars} == {"bfloat16"}
    (out,) = program.out_avals
    assert (out.shape, out.dtype) == ((2, 10), jnp.float32)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state)} == {"float32"}


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        *(("resnet20", norm) for norm in norms("resnet20")),
        *[("wrn16-4", "none"), ("vit", "own")],
    ],
)
def test_what_runs_from_block_to_block_has_the_type_of_the_arithmetic(name, norm):
    seen = []

    class Last(nnx.Module):
        def __call__(self, x):
            seen.append(x.dtype.name)
            return x

    def run():
        model = make(name, 10, nnx.Rngs(0), jnp.bfloat16, norm)
        model.blocks.append(Last())
        return model(images(2))

    nnx.eval_shape(run)
    assert seen == ["bfloat16"]


@pytest.mark.parametrize(
    ("name", "convs"),
    [
        ("cnn-shallow", {32: 1, 16: 1, 8: 1}),
        ("vgg5", {32: 1, 16: 1}),
        ("vgg16", {32: 2, 16: 2, 8: 3, 4: 3, 2: 3}),
        ("layca-cnn1", {32: 6, 16: 6, 8: 6, 4: 6}),
        ("layca-cnn2", {32: 2, 16: 2, 8: 3, 4: 3, 2: 3, 1: 1}),
        ("plain8", {32: 3, 16: 2, 8: 2}),
        ("resnet20", {32: 7, 16: 7, 8: 7}),
        ("resnet18", {32: 5, 16: 5, 8: 5, 4: 5}),
        ("wrn16-4", {32: 6, 16: 5, 8: 5}),
        ("densenet76", {32: 1 + 24 + 1, 16: 24 + 1, 8: 24}),
    ],
)
def test_convolutions_see_images_of_the_size_that_their_stage_has(
    monkeypatch, name, convs
):
    # On a CPU the smallest are computed as products with a matrix.
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    graph, *state = abstract(name)
    program = jax.make_jaxpr(functools.partial(logits, graph))(*state, IMAGES)
    found = equations(program.jaxpr, "conv_general_dilated")
    assert collections.Counter(e.outvars[0].aval.shape[1] for e in found) == convs


@pytest.mark.parametrize("name", EACH)
def test_all_that_is_no_parameter_is_a_statistic_of_batch_norm(name):
    _, _, statistics = abstract(name)
    assert bool(jax.tree.leaves(statistics)) == (norms(name)[0] == "batch")


@pytest.mark.parametrize("name", ["cnn-shallow", "vgg5"])
def test_only_norms_undo_the_scale_of_a_kernel(name):
    first = f"{layers_of(name).names[0]}/kernel"

    def moved(norm):
        forward, params = trained(name, norm)
        larger = jax.tree.map_with_path(
            lambda keys, leaf: 4 * leaf if path_of(keys) == first else leaf, params
        )
        before, after = forward(params, images(8)), forward(larger, images(8))
        return np.abs(after - before).max() / np.abs(before).max()

    assert moved("none") > 0.1
    assert max(moved("batch"), moved("group")) < 1e-3


@pytest.mark.parametrize(("norm", "mixes"), [("batch", True), ("group", False)])
def test_only_batch_norm_mixes_the_images_of_a_batch(norm, mixes):
    forward, params = trained("cnn-shallow", norm)
    together, alone = forward(params, images(8))[:4], forward(params, images(4))
    assert (np.abs(alone - together).max() > 1e-4) == mixes


@pytest.mark.parametrize(
    ("channels", "groups"),
    [(3, 1), (16, 4), (24, 6), (64, 16), (114, 19), (128, 32), (640, 32)],
)
def test_groups_are_as_many_as_fit_up_to_32_of_at_least_four_channels(channels, groups):
    norm = Parts(nnx.Rngs(0), jnp.float32, "group").normalise(channels)
    assert norm.num_groups == groups


@pytest.mark.parametrize("block", [Block, PreBlock])
def test_a_residual_block_without_norms_starts_as_the_identity(block):
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(2, 4, 4, 8)), jnp.float32)
    model = block(8, 8, 1, Parts(nnx.Rngs(0), jnp.float32, "none"))
    np.testing.assert_array_equal(jax.jit(lambda x: model(x))(x), x)


def test_a_wide_block_that_changes_the_shape_projects_what_it_has_rectified():
    x = -jnp.asarray(np.random.default_rng(0).uniform(size=(2, 4, 4, 8)), jnp.float32)
    block = PreBlock(8, 16, 2, Parts(nnx.Rngs(0), jnp.float32, "none"))
    forward = jax.jit(lambda x: block(x))
    assert (forward(x) == 0).all()
    assert (forward(-x) != 0).any()


def test_norms_of_the_first_layca_network_come_behind_the_relu():
    # The last, without a bias, has mean 0 over a batch, so the logits have it too.
    forward, params = trained("layca-cnn1")
    out = forward(params, images(4))
    assert np.abs(out.mean(0)).max() < 1e-4 * np.abs(out).max()


def test_a_transition_takes_the_mean_of_each_square():
    transition = Transition(6, 4, Parts(nnx.Rngs(0), jnp.float32, "none"))
    x = np.random.default_rng(0).normal(size=(2, 8, 6, 6)).astype(np.float32)
    kernel = np.asarray(transition.conv.kernel[...])[0, 0]
    whole = np.maximum(x, 0) @ kernel
    slow = np.empty((2, 4, 3, 4), np.float32)
    for row, column in np.ndindex(4, 3):
        square = whole[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        slow[:, row, column] = square.mean((1, 2))
    np.testing.assert_allclose(transition(jnp.asarray(x)), slow, rtol=1e-5, atol=1e-6)


def test_max_pooling_takes_the_largest_of_each_square():
    x = np.random.default_rng(0).normal(size=(2, 8, 6, 3)).astype(np.float32)
    slow = np.empty((2, 4, 3, 3), np.float32)
    for row, column in np.ndindex(4, 3):
        square = x[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        slow[:, row, column] = square.max((1, 2))
    np.testing.assert_array_equal(max_halve(jnp.asarray(x)), slow)


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("vit", np.s_[:, 0:4, 0:4], np.s_[:, 20:24, 8:12]),
        ("transformer-rows", np.s_[:, 0:1], np.s_[:, 30:31]),
    ],
)
def test_only_its_position_tells_one_patch_from_another(name, one, other):
    forward, params = trained(name)
    x = images(2)
    swapped = x.at[one].set(x[other]).at[other].set(x[one])

    def moved(params):
        return np.abs(forward(params, x) - forward(params, swapped)).max()

    without = jax.tree.map_with_path(
        lambda keys, leaf: 0 * leaf if path_of(keys) == "positions" else leaf, params
    )
    assert moved(params) > 1e-4
    assert moved(without) < 1e-5


def test_lstm_reads_rows_from_top_to_bottom_as_a_slow_one_does():
    forward, params = trained("lstm-rows")
    leaves = {path_of(k): np.asarray(v) for k, v in jax.tree.leaves_with_path(params)}

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    def outputs(cell, inputs):
        c = h = np.zeros((2, 128))
        for x in inputs:
            gates = x @ leaves[f"{cell}/dense_i/kernel"]
            gates = gates + h @ leaves[f"{cell}/dense_h/kernel"]
            i, f, g, o = np.split(gates + leaves[f"{cell}/dense_h/bias"], 4, axis=-1)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            yield h

    x = images(2)
    rows = [np.asarray(x[:, row]).reshape(2, 96) for row in range(32)]
    *_, last = outputs("second", outputs("first", rows))
    slow = last @ leaves["head/kernel"] + leaves["head/bias"]
    np.testing.assert_allclose(forward(params, x), slow, rtol=1e-4, atol=1e-5)


def variance(kernel):
    """Times the number of inputs: 1 for LeCun's initial weights, 2 for He's."""
    return np.var(kernel) * kernel.size / kernel.shape[-1]


def test_initial_weights_are_those_of_he_where_a_relu_follows():
    parts = Parts(nnx.Rngs(0), jnp.float32, "batch")
    for layer, wanted in [
        (parts.conv(16, 64), 2),
        (parts.hidden(128, 64), 2),
        (parts.dense(128, 64), 1),
    ]:
        np.testing.assert_allclose(variance(layer.kernel[...]), wanted, rtol=0.1)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("cnn-shallow", {"conv2": 1, "hidden": 1, "head": 1}),
        slow("layca-cnn1", {"convs/9": 2, "head": 2}),
    ],
)
def test_initial_weights_of_networks_with_their_own(name, wanted):
    params = nnx.state(make(name, 10, nnx.Rngs(0)), nnx.Param)
    leaves = {path_of(k): np.asarray(v) for k, v in jax.tree.leaves_with_path(params)}
    found = {layer: variance(leaves[f"{layer}/kernel"]) for layer in wanted}
    np.testing.assert_allclose([*found.values()], [*wanted.values()], rtol=0.1)
    if name == "layca-cnn1":  # uniform: nothing beyond √3 standard deviations
        assert np.abs(leaves["head/kernel"]).max() < math.sqrt(3 * 2 / 256)


# To compile a step of the others takes minutes; each is of a class with one here.
COMPILED = ["cnn-shallow"]
COMPILED_SLOWLY = [
    *(
        "lstm-rows",
        "vgg5",
        "vgg19",
        "layca-cnn1",
        "layca-cnn2",
        "resnet8",
        "plain8",
        "resnet20",
        "resnet18",
        "wrn16-4",
    ),
    *("vit", "vit12", "transformer-rows"),
]


def sgd(model):
    """A jitted step (params, statistics) → the next ones and the loss before."""
    graph, params, statistics = nnx.split(model, nnx.Param, ...)
    labels = jnp.arange(8)

    def loss(params, statistics):
        model = nnx.merge(graph, params, statistics, copy=True)
        losses = optax.softmax_cross_entropy_with_integer_labels(
            model(images(8)), labels
        )
        return losses.mean(), nnx.split(model, nnx.Param, ...)[2]

    @jax.jit
    def step(params, statistics):
        (value, statistics), gradients = jax.value_and_grad(loss, has_aux=True)(
            params, statistics
        )
        params = jax.tree.map(lambda p, g: p - 1e-3 * g, params, gradients)
        return params, statistics, value

    return step, params, statistics


def assert_learns(model):
    step, params, statistics = sgd(model)
    *state, before = step(params, statistics)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), params, state[0])
    *state, after = step(*state)
    assert after < before < 10
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    return moved


@pytest.mark.parametrize(
    "name",
    [*COMPILED, *map(slow, COMPILED_SLOWLY)],
)
def test_a_step_of_sgd_moves_every_parameter_and_lowers_the_loss(name):
    moved = assert_learns(make(name, 10, nnx.Rngs(0)))
    assert all(jax.tree.leaves(moved))


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["batch", "none"])
def test_a_step_of_sgd_lowers_the_loss_of_a_short_densenet(norm):
    model = DenseNet(10, 4, 10, Parts(nnx.Rngs(0), jnp.float32, norm))
    assert all(jax.tree.leaves(assert_learns(model)))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*MODELS} - {*COMPILED, *COMPILED_SLOWLY}))
def test_a_step_of_sgd_keeps_shapes_and_types_of_the_others(name):
    model = nnx.eval_shape(lambda: make(name, 10, nnx.Rngs(0)))
    step, *state = sgd(model)
    *after, loss = jax.eval_shape(step, *state)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), after) == jax.tree.map(
        lambda a: (a.shape, a.dtype), state
    )
    assert (loss.shape, loss.dtype) == ((), jnp.float32)
