"""trace_layers(…, group="block"): one layer for each block that repeats."""

import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import pytest

import optax_llr

X = jnp.ones((2, 4, 8))


def blocks_of(model, x):
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    params = variables.pop("params")

    def forward(params, x, state):
        return model.apply({"params": params, **state}, x)

    return optax_llr.trace_layers(forward, params, x, variables, group="block")


def named(layers):
    return list(zip(layers.names, layers.level.tolist(), strict=True))


def layer_of(layers, path):
    return layers.names[layers.members[path]]


class Block(nn.Module):
    width: int = 8

    @nn.compact
    def __call__(self, x, _=None):
        y = nn.LayerNorm(name="norm_1")(x)
        x = x + nn.MultiHeadDotProductAttention(2, name="attention")(y)
        y = nn.gelu(nn.Dense(16, name="fc1")(nn.LayerNorm(name="norm_2")(x)))
        return x + nn.Dense(self.width, name="fc2")(y), None


class Transformer(nn.Module):
    scan: bool = False
    blocks: int = 3

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(8)(x)
        x = x + self.param("positions", nn.initializers.ones, (1, 4, 8))
        if self.scan:
            block = nn.scan(
                Block,
                variable_axes={"params": 0},
                split_rngs={"params": True},
                length=self.blocks,
            )
            x, _ = block(name="blocks")(x, None)
        else:
            for i in range(self.blocks):
                x, _ = Block(name=f"blocks_{i}")(x)
        x = nn.LayerNorm(name="norm")(x)
        return nn.Dense(2)(nn.tanh(nn.Dense(8, name="pooler")(x)))


@pytest.mark.parametrize("scan", [False, True])
def test_a_transformer_has_a_stem_its_blocks_and_a_head(scan):
    layers = blocks_of(Transformer(scan), X)
    block = "blocks[{}]" if scan else "blocks_{}"
    names = ["Dense_0+positions", *(block.format(i) for i in range(3))]
    assert named(layers) == [*zip([*names, "Dense_1+pooler"], range(5), strict=True)]
    assert layers.distance.tolist() == [4, 3, 2, 1, 0]
    assert layer_of(layers, "norm/scale") == block.format(2)


class Bottleneck(nn.Module):
    width: int
    stride: int = 1

    @nn.compact
    def __call__(self, x):
        y = x
        for i in range(3):
            stride = self.stride if i == 1 else 1
            y = nn.Conv(self.width, (1, 1), stride, name=f"conv_{i}")(y)
            y = nn.relu(nn.BatchNorm(True, name=f"norm_{i}")(y))
        if x.shape != y.shape:
            x = nn.Conv(self.width, (1, 1), self.stride, name="shortcut")(x)
        return nn.relu(x + y)


class Stage(nn.Module):
    width: int
    blocks: int

    @nn.compact
    def __call__(self, x):
        for i in range(self.blocks):
            x = Bottleneck(self.width, 2 if i == 0 else 1, name=f"block_{i}")(x)
        return x


class ResNet(nn.Module):
    stages: tuple[tuple[int, int], ...]
    nested: bool = True

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), name="stem")(x)
        x = nn.relu(nn.BatchNorm(True, name="stem_norm")(x))
        for i, (width, blocks) in enumerate(self.stages):
            x = Stage(width, blocks, name=f"stage_{i}")(x)
        return nn.Dense(2, name="head")(x.mean((1, 2)))


@pytest.mark.parametrize(
    "stages",
    [((4, 2), (8, 2)), ((4, 2), (8, 1), (16, 1)), ((4, 2), (4, 2)), ((4, 3), (4, 2))],
)
def test_the_blocks_of_a_resnet_are_residual_blocks_and_not_stages(stages):
    layers = blocks_of(ResNet(stages), jnp.ones((2, 16, 16, 3)))
    blocks = [
        f"stage_{i}/block_{j}"
        for i, (_, count) in enumerate(stages)
        for j in range(count)
    ]
    assert list(layers.names)[1:] == [*blocks, "head"]
    assert layers.level.tolist() == list(range(len(blocks) + 2))
    assert layer_of(layers, "stem/kernel") == layer_of(layers, "stem_norm/scale")
    assert layer_of(layers, "stage_1/block_0/shortcut/kernel") == "stage_1/block_0" or (
        stages[1][0] == 4
    )


def dense(p, x):
    return jnp.tanh(x @ p["w"] + p["b"])


def module():
    return {"w": jnp.ones((8, 8)), "b": jnp.ones(8)}


def test_an_encoder_and_a_decoder_are_two_stacks():
    def forward(p, x, y):
        x, y = dense(p["source"], x), dense(p["target"], y)
        for i in range(3):
            x = x + dense(p["encoder"][i]["fc"], x)
        for block in p["decoder"]:
            y = y + dense(block["own"], y)
            y = y + dense(block["query"], y) * dense(block["key"], x)
        return dense(p["head"], y)

    params = {name: module() for name in ("source", "target", "head")}
    params["encoder"] = [{"fc": module()} for _ in range(3)]
    decoder = {name: module() for name in ("own", "query", "key")}
    params["decoder"] = [decoder] * 2
    layers = optax_llr.trace_layers(forward, params, X, X, group="block")
    assert dict(named(layers)) == {
        **{"source": 0, "target": 0, "encoder/0": 1, "encoder/1": 2, "encoder/2": 3},
        **{"decoder/0": 4, "decoder/1": 5, "head": 6},
    }


def test_two_towers_have_stems_and_heads_of_their_own():
    def forward(p, image, text):
        features = []
        for name, x in (("image", image), ("text", text)):
            x = dense(p[name]["stem"], x)
            for block in p[name]["blocks"]:
                x = x + dense(block["fc"], x)
            features.append(dense(p[f"{name}_head"], x))
        return features[0] * features[1] * jnp.exp(p["temperature"])

    def tower(blocks):
        return {"stem": module(), "blocks": [{"fc": module()}] * blocks}

    params = {"image": tower(4), "text": tower(2), "temperature": jnp.ones(())}
    params |= {"image_head": module(), "text_head": module()}
    layers = optax_llr.trace_layers(forward, params, X, X, group="block")
    distance = dict(zip(layers.names, layers.distance.tolist(), strict=True))
    heads = [layer_of(layers, f"{name}_head/w") for name in ("image", "text")]
    assert heads[0] != heads[1]
    assert [distance[head] for head in heads] == [0, 0]
    assert [distance[f"image/blocks/{i}"] for i in range(4)] == [4, 3, 2, 1]
    assert [distance[f"text/blocks/{i}"] for i in range(2)] == [2, 1]
    assert (distance["image/stem"], distance["text/stem"]) == (5, 3)


def test_what_stands_between_stages_is_a_layer_of_its_own():
    def forward(p, x):
        x = dense(p["stem"], x)
        for stage in range(2):
            x = dense(p[f"down{stage}"], x)
            for block in p[f"stage{stage}"]:
                x = x + dense(block["b"], dense(block["a"], x))
        return dense(p["head"], x)

    params = {name: module() for name in ("stem", "head", "down0", "down1")}
    for stage in range(2):
        params[f"stage{stage}"] = [{"a": module(), "b": module()}] * (2 + stage)
    layers = optax_llr.trace_layers(forward, params, X, group="block")
    assert layers.names == (
        *("down0+stem", "stage0/0", "stage0/1", "down1"),
        *("stage1/0", "stage1/1", "stage1/2", "head"),
    )


def test_layers_of_haiku_are_stacked_blocks():
    def forward(x):
        x = hk.Linear(8, name="embed")(x)

        def block(x):
            y = hk.LayerNorm(-1, True, True, name="norm")(x)
            y = jax.nn.gelu(hk.Linear(16, name="up")(y))
            return x + hk.Linear(8, name="down")(y)

        x = hk.experimental.layer_stack(3, name="blocks")(block)(x)
        return hk.Linear(2, name="head")(x)

    model = hk.without_apply_rng(hk.transform(forward))
    params = jax.eval_shape(model.init, jax.random.key(0), X)
    layers = optax_llr.trace_layers(model.apply, params, X, group="block")
    assert layers.level.tolist() == [0, 1, 2, 3, 4]
    stacked = [m for m in layers.members.values() if isinstance(m, tuple)]
    assert set(stacked) == {(1, 2, 3)}


def recurrent(p, xs):
    def step(h, x):
        return jnp.tanh(x @ p["cell"]["i"] + h @ p["cell"]["h"]), None

    return dense(p["head"], jax.lax.scan(step, jnp.zeros((4, 8)), xs)[0])


def shared(p, x):
    x = dense(p["stem"], x)
    for _ in range(3):
        x = x + dense(p["layer"][0]["b"], dense(p["layer"][0]["a"], x))
    return dense(p["head"], x)


@pytest.mark.parametrize(
    ("forward", "params"),
    [
        (recurrent, {"cell": {n: jnp.ones((8, 8)) for n in "ih"}, "head": module()}),
        (
            shared,
            {
                "stem": module(),
                "layer": [{"a": module(), "b": module()}],
                "head": module(),
            },
        ),
    ],
    ids=["one cell", "one block used thrice"],
)
def test_a_model_in_which_nothing_repeats_is_refused(forward, params):
    with pytest.raises(ValueError, match=r"^trace_layers: group='block': .*repeat"):
        optax_llr.trace_layers(forward, params, X, group="block")


def test_parallel_branches_are_no_stack():
    def forward(p, x):
        return dense(p["head"], dense(p["expert_0"], x) + dense(p["expert_1"], x))

    params = {name: module() for name in ("expert_0", "expert_1", "head")}
    with pytest.raises(ValueError, match="repeat"):
        optax_llr.trace_layers(forward, params, X, group="block")


def test_unused_parameters_join_blocks_by_name():
    def forward(p, x):
        for i in range(2):
            x = x + dense(p[f"block{i}"], x)
        return dense(p["head"], x)

    params = {name: module() for name in ("block0", "block1", "head")}
    params["mask"] = jnp.ones(8)
    layers = optax_llr.trace_layers(
        forward, params, X, group="block", unused={"mask": "block0"}
    )
    assert layer_of(layers, "mask") == "block0"


@pytest.mark.parametrize("group", ["blocks", "", 1])
def test_what_is_no_group_is_refused(group):
    with pytest.raises(ValueError, match=r"^trace_layers: group: expected 'block' or"):
        optax_llr.trace_layers(lambda p, x: dense(p, x), module(), X, group=group)
