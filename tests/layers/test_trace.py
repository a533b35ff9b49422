"""trace_layers: forward order, levels and groups on real models of every kind."""

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.experimental import pallas
from jax.extend.core import Primitive

import optax_llr

IMAGE = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
TOKENS = jax.ShapeDtypeStruct((2, 7), jnp.int32)


def trace_linen(model, x, **kwargs):
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    params = variables.pop("params")

    def forward(params, x, state):
        return model.apply({"params": params, **state}, x)

    return optax_llr.trace_layers(forward, params, x, variables, **kwargs)


def levels(layers):
    return dict(zip(layers.names, layers.level.tolist(), strict=True))


def distances(layers):
    return dict(zip(layers.names, layers.distance.tolist(), strict=True))


def first_key(path):
    return path.split("/")[0]


def modules(*names, **more):
    return {name: {"w": jnp.ones((8, 8))} for name in names} | more


X = jnp.ones((2, 4, 8))


def layer_of(layers, path):
    return layers.names[layers.members[path]]


class PlainCNN(nn.Module):
    convs: int = 12

    @nn.compact
    def __call__(self, x):
        for _ in range(self.convs):
            x = nn.relu(nn.Conv(4, (3, 3))(x))
        return nn.Dense(10)(x.mean((1, 2)))


def test_a_group_without_a_name_is_refused():
    with pytest.raises(ValueError, match=r"must return the name .* got None for"):
        trace_linen(PlainCNN(), IMAGE, group={"Conv_0/kernel": "stem"}.get)


def test_more_than_ten_convs_keep_forward_order():
    layers = trace_linen(PlainCNN(), IMAGE)
    assert layers.names == (*(f"Conv_{i}" for i in range(12)), "Dense_0")
    assert layers.level.tolist() == list(range(13))
    assert layer_of(layers, "Conv_10/bias") == "Conv_10"


class ResidualBlock(nn.Module):
    features: int
    stride: int

    @nn.compact
    def __call__(self, x):
        y = nn.Conv(self.features, (3, 3), self.stride, name="a")(x)
        y = nn.relu(nn.GroupNorm(1, name="norm_a")(y))
        y = nn.Conv(self.features, (3, 3), name="b")(y)
        y = nn.GroupNorm(1, name="norm_b")(y)
        if self.stride > 1:
            x = nn.Conv(self.features, (1, 1), self.stride, name="shortcut")(x)
            x = nn.GroupNorm(1, name="norm_shortcut")(x)
        return nn.relu(x + y)


class ResNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), name="stem")(x)
        x = ResidualBlock(4, 1, name="block0")(x)
        x = ResidualBlock(8, 2, name="block1")(x)
        return nn.Dense(10, name="head")(x.mean((1, 2)))


def test_projection_shortcut_shares_a_level_and_norms_join_their_conv():
    layers = trace_linen(ResNet(), IMAGE)
    assert levels(layers) == {
        "stem": 0,
        "block0/a": 1,
        "block0/b": 2,
        "block1/a": 3,
        "block1/shortcut": 3,
        "block1/b": 4,
        "head": 5,
    }
    for conv in ("a", "b", "shortcut"):
        assert layer_of(layers, f"block1/norm_{conv}/scale") == f"block1/{conv}"


def test_group_decides_alone():
    def by_block(path):
        return path.split("/")[0]

    layers = trace_linen(ResNet(), IMAGE, group=by_block)
    assert levels(layers) == {"stem": 0, "block0": 1, "block1": 2, "head": 3}

    layers = trace_linen(ResNet(), IMAGE, group=lambda p: p.rpartition("/")[0])
    assert layer_of(layers, "block0/norm_a/bias") == "block0/norm_a"
    assert layers.names[:3] == ("stem", "block0/a", "block0/norm_a")


class TransformerBlock(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        y = nn.LayerNorm(name="norm_1")(x)
        x = x + nn.MultiHeadDotProductAttention(2, name="attention")(y)
        y = nn.LayerNorm(name="norm_2")(x)
        y = nn.gelu(nn.Dense(16, name="up")(y))
        return x + nn.Dense(8, name="down")(y), None


class Transformer(nn.Module):
    blocks: int = 11
    scan: bool = False
    remat: bool = False
    axis: int = 0

    @nn.compact
    def __call__(self, tokens):
        table = nn.Embed(20, 8, name="tokens")
        x = table(tokens)
        position = self.param("position", nn.initializers.ones, (1, 7, 8))
        x = x + position
        block = nn.remat(TransformerBlock) if self.remat else TransformerBlock
        if self.scan:
            block = nn.scan(
                block,
                variable_axes={"params": self.axis},
                split_rngs={"params": True},
                length=self.blocks,
            )
            x, _ = block(name="blocks")(x, None)
        else:
            for i in range(self.blocks):
                x, _ = block(name=f"block{i}")(x, None)
        x = nn.LayerNorm(name="norm")(x)
        return table.attend(x)


BLOCK = ["attention/query", "attention/key", "attention/value", "attention/out"]
BLOCK += ["up", "down"]


@pytest.mark.parametrize("remat", [False, True])
def test_transformer_unrolled(remat):
    layers = trace_linen(Transformer(remat=remat), TOKENS)
    assert layers.names[:2] == ("tokens", "position")
    assert layers.level[:2].tolist() == [0, 0]
    found = levels(layers)
    for i in range(11):
        block = [found[f"block{i}/{name}"] - 4 * i for name in BLOCK]
        assert block == [1, 1, 1, 2, 3, 4]
    assert len(layers) == 2 + 11 * 6
    assert layer_of(layers, "block3/norm_1/scale") == "block2/down"
    assert layer_of(layers, "norm/bias") == "block10/down"


@pytest.mark.parametrize("remat", [False, True])
def test_scanned_transformer_has_the_layers_of_the_unrolled_one(remat):
    unrolled = trace_linen(Transformer(), TOKENS)
    scanned = trace_linen(Transformer(scan=True, remat=remat), TOKENS)
    assert scanned.level.tolist() == unrolled.level.tolist()
    as_unrolled = [
        f"block{name.split('[')[1][:-1]}/{name.split('[')[0][7:]}"
        if "[" in name
        else name
        for name in scanned.names
    ]
    assert set(as_unrolled) == set(unrolled.names)
    kernel = scanned.members["blocks/up/kernel"]
    assert [scanned.names[i] for i in kernel] == [f"blocks/up[{i}]" for i in range(11)]
    norm = scanned.members["blocks/norm_2/scale"]
    assert [scanned.names[i] for i in norm] == [
        f"blocks/attention/out[{i}]" for i in range(11)
    ]


def test_scan_along_another_axis_is_an_error_that_names_the_parameters():
    with pytest.raises(ValueError, match=r"blocks/attention.* axis 0") as error:
        trace_linen(Transformer(scan=True, axis=1), TOKENS)
    assert "[:]" not in str(error.value), "match_layers would cut hidden units there"
    assert "match_layers" not in str(error.value)


def scan_forward(params, x, **kwargs):
    def body(x, w):
        return jnp.tanh(x @ w["w"] + w["b"]), None

    return jax.lax.scan(body, x, params, **kwargs)[0]


STACK = {"w": jnp.ones((4, 3, 3)), "b": jnp.ones((4, 3))}


def test_reversed_scan_runs_from_the_last_slice():
    layers = optax_llr.trace_layers(
        lambda p, x: scan_forward(p["m"], x, reverse=True),
        {"m": STACK},
        jnp.ones((1, 3)),
    )
    assert layers.names == ("m/w[3]", "m/w[2]", "m/w[1]", "m/w[0]")
    assert layers.members["m/b"] == (3, 2, 1, 0)


def test_stacked_parameters_survive_casts_slices_and_reshapes():
    def forward(params, x):
        params = jax.tree.map(lambda w: w.astype(jnp.bfloat16) * 2, params)
        first = jax.tree.map(lambda w: w[:2], params)
        last = jax.tree.map(lambda w: jnp.flip(w[2:], 0), params)
        x = scan_forward(first["m"], x)
        x, _ = jax.lax.scan(
            lambda x, pair: (scan_forward(pair, x), None),
            x,
            jax.tree.map(lambda w: w.reshape(1, 2, *w.shape[1:]), last["m"]),
        )
        return x

    x = jnp.ones((1, 3), jnp.bfloat16)
    layers = optax_llr.trace_layers(forward, {"m": STACK}, x)
    assert layers.names == ("m/w[0]", "m/w[1]", "m/w[3]", "m/w[2]")


@pytest.mark.parametrize(
    "prepare",
    [
        jax.lax.stop_gradient,
        lambda w: w - w.mean((1, 2), keepdims=True),
        lambda w: w + jnp.einsum("nij,njk->nik", w, w),
        lambda w: jnp.round(jnp.clip(w, -1, 1) * 127) / 127,
    ],
)
def test_stacked_parameters_survive_what_spares_axis_0(prepare):
    def forward(params, x):
        return jax.lax.scan(lambda x, w: (x @ w, None), x, prepare(params["w"]))[0]

    layers = optax_llr.trace_layers(forward, {"w": STACK["w"]}, jnp.ones((1, 3)))
    assert layers.names == ("w[0]", "w[1]", "w[2]", "w[3]")


def test_a_penalty_leaves_scanned_layers_apart():
    def loss(params, x):
        penalty = sum(jnp.sum(w**2) for w in jax.tree.leaves(params))
        return (scan_forward(params["m"], x) @ params["out"]["w"]).sum() + penalty

    params = {"m": STACK, "out": {"w": jnp.ones((3, 2))}}
    layers = optax_llr.trace_layers(loss, params, jnp.ones((1, 3)))
    assert layers.names == ("m[0]", "m[1]", "m[2]", "m[3]", "out")


@pytest.mark.parametrize("remat", [False, True])
def test_the_gradient_has_the_layers_of_the_forward_pass(remat):
    def loss(params, x):
        forward = jax.checkpoint(scan_forward) if remat else scan_forward
        return (forward(params["m"], x) @ params["out"]["w"]).sum()

    params = {"m": STACK, "out": {"w": jnp.ones((3, 2))}}
    x = jnp.ones((1, 3))
    layers = optax_llr.trace_layers(jax.value_and_grad(loss), params, x)
    assert layers == optax_llr.trace_layers(loss, params, x)


def test_skip_connections_may_be_scanned_beside_the_layers():
    def forward(params, x, skips):
        def body(x, inputs):
            w, skip = inputs
            return jnp.tanh(x @ w + skip), None

        return jax.lax.scan(body, x @ params["in"]["w"], (params["m"]["w"], skips))[0]

    params = {"m": {"w": STACK["w"]}, "in": {"w": jnp.ones((3, 3))}}
    skips = jnp.ones((4, 1, 3))
    layers = optax_llr.trace_layers(forward, params, jnp.ones((1, 3)), skips)
    assert layers.names == ("in", "m[0]", "m[1]", "m[2]", "m[3]")


def test_a_decoder_that_starts_from_an_encoder_runs_over_time():
    def forward(params, source, target):
        def step(h, inputs):
            x, position = inputs
            return jnp.tanh((x + position) @ params["x"]["w"] + h @ params["h"]["w"]), h

        start = jnp.tanh(source @ params["encoder"]["w"])
        return jax.lax.scan(step, start, (target, params["positions"]))[0]

    params = {name: {"w": jnp.ones((3, 3))} for name in ("encoder", "x", "h")}
    params["positions"] = jnp.ones((5, 3))
    source, target = jnp.ones((2, 3)), jnp.ones((5, 2, 3))
    layers = optax_llr.trace_layers(forward, params, source, target)
    assert set(layers.names) == {*params}


def test_slices_that_are_never_scanned_are_named():
    def forward(params, x):
        return scan_forward(jax.tree.map(lambda w: w[:3], params["m"]), x)

    with pytest.raises(ValueError, match=r"never uses \['m/b\[3\]', 'm/w\[3\]'\]"):
        optax_llr.trace_layers(forward, {"m": STACK}, jnp.ones((1, 3)))


def test_table_scanned_over_time_is_one_layer():
    def forward(params, xs):
        def step(h, inputs):
            x, position = inputs
            h = jnp.tanh((x + position) @ params["in"]["w"] + h @ params["rec"]["w"])
            return h, h

        zeros = jnp.zeros((2, 5))
        _, ys = jax.lax.scan(step, zeros, (xs, params["positions"]))
        return ys @ params["out"]["w"]

    params = {
        "positions": jnp.ones((7, 3)),
        "in": {"w": jnp.ones((3, 5))},
        "rec": {"w": jnp.ones((5, 5))},
        "out": {"w": jnp.ones((5, 2))},
    }
    layers = optax_llr.trace_layers(forward, params, jnp.ones((7, 2, 3)))
    assert levels(layers) == {"positions": 0, "in": 1, "rec": 1, "out": 2}


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.OptimizedLSTMCell, nn.GRUCell])
def test_recurrent_cells_keep_all_their_matrices_on_one_level(cell):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(4, name="embed")(x)
            x = nn.RNN(cell(5), name="first")(x)
            x = nn.RNN(cell(6), name="second")(x)
            return nn.Dense(2, name="head")(x[:, -1])

    layers = trace_linen(Model(), jax.ShapeDtypeStruct((2, 9, 3), jnp.float32))
    for name, level in levels(layers).items():
        cell_name = name.split("/")[0]
        order = ["embed", f"{cell.__name__}_0", f"{cell.__name__}_1", "head"]
        assert level == order.index(cell_name), name


def test_nnx_and_equinox_recurrent_cells():
    model = nnx.RNN(nnx.GRUCell(3, 5, rngs=nnx.Rngs(0)))
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    layers = optax_llr.trace_layers(
        lambda p, rest, x: nnx.merge(graphdef, p, rest)(x),
        params,
        rest,
        jnp.ones((2, 4, 3)),
    )
    assert set(layers.level) == {0}

    for make in (eqx.nn.GRUCell, eqx.nn.LSTMCell):
        cell = make(3, 5, key=jax.random.key(0))
        states = jnp.zeros(5) if make is eqx.nn.GRUCell else (jnp.zeros(5),) * 2

        def forward(cell, xs, states=states):
            return jax.lax.scan(lambda h, x: (cell(x, h), None), states, xs)[0]

        layers = optax_llr.trace_layers(forward, cell, jnp.ones((4, 3)))
        assert set(layers.level) == {0}


def test_lists_of_parameters_are_layers_one_by_one():
    def forward(params, x):
        for w, b in zip(params["weights"], params["biases"], strict=True):
            x = jnp.tanh(x @ w + b)
        return x

    params = {"weights": [jnp.ones((3, 3))] * 11, "biases": [jnp.ones(3)] * 11}
    layers = optax_llr.trace_layers(forward, params, jnp.ones((1, 3)))
    assert layers.names == tuple(f"weights/{i}" for i in range(11))
    assert layer_of(layers, "biases/10") == "weights/10"


def test_weight_norm_scale_belongs_to_its_kernel():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.WeightNorm(nn.Dense(4, name="first"))(x))
            return nn.WeightNorm(nn.Dense(2, name="second"))(x)

    layers = trace_linen(Model(), jnp.ones((1, 3)))
    assert layers.names == ("first", "second")
    assert layer_of(layers, "WeightNorm_1/second/kernel/scale") == "second"


def test_spectral_norm_wants_its_state_closed_over():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.SpectralNorm(nn.Dense(8, name="b"))(x, update_stats=False)
            x = nn.SpectralNorm(nn.Dense(8, name="a"))(x, update_stats=False)
            return nn.Dense(2, name="c")(x)

    x = jnp.ones((2, 4))
    with pytest.raises(ValueError, match=r"b/kernel.*Close over that input"):
        trace_linen(Model(), x)
    variables = Model().init(jax.random.key(0), x)
    params = variables.pop("params")
    layers = optax_llr.trace_layers(
        lambda params, x: Model().apply({"params": params, **variables}, x), params, x
    )
    assert levels(layers) == {"b": 0, "a": 1, "c": 2}


@pytest.mark.parametrize("merged", [False, True])
def test_lora_shares_the_level_of_what_it_adapts(merged):
    def lora(params, x):
        if merged:
            return x @ (params["w"] + params["lora"]["a"] @ params["lora"]["b"])
        return x @ params["w"] + (x @ params["lora"]["a"]) @ params["lora"]["b"]

    def forward(params, x):
        return lora(params["head"], jax.nn.relu(lora(params["stem"], x)))

    layer = {
        "w": jnp.ones((4, 4)),
        "lora": {"a": jnp.ones((4, 2)), "b": jnp.ones((2, 4))},
    }
    params = {"head": layer, "stem": layer}
    layers = optax_llr.trace_layers(forward, params, jnp.ones((1, 4)))
    assert levels(layers) == {
        "stem/w": 0,
        "stem/lora": 0,
        "head/w": 1,
        "head/lora": 1,
    }


def test_tied_weights_count_at_first_use():
    def forward(params, x):
        x = x @ params["a"]["w"]
        x = x @ params["b"]["w"]
        x = x @ params["a"]["w"]
        return x @ params["c"]["w"]

    params = {k: {"w": jnp.ones((3, 3))} for k in "abc"}
    layers = optax_llr.trace_layers(forward, params, jnp.ones((1, 3)))
    assert levels(layers) == {"a": 0, "b": 1, "c": 2}


def test_names_say_nothing_of_order():
    order = ["zeta", "alpha", "m10", "m2", "beta"]

    def forward(params, x):
        for name in order:
            x = jnp.tanh(x @ params[name]["w"])
        return x

    params = {name: {"w": jnp.ones((3, 3))} for name in sorted(order)}
    layers = optax_llr.trace_layers(forward, params, jnp.ones((1, 3)))
    assert layers.names == tuple(order)


def test_parameters_without_a_module_pair_kernel_and_bias():
    def forward(params, x):
        x = jnp.tanh(x @ params["w2"] + params["b2"])
        return x @ params["w1"] + params["b1"]

    params = {"w1": jnp.ones((4, 1)), "b1": jnp.ones(1), "w2": jnp.ones((3, 4))}
    params["b2"] = jnp.ones(4)
    layers = optax_llr.trace_layers(forward, params, jnp.ones((1, 3)))
    assert levels(layers) == {"w2": 0, "w1": 1}
    assert layer_of(layers, "b1") == "w1"

    nested = optax_llr.trace_layers(
        lambda params, x: forward(params["params"], x), {"params": params}, jnp.ones(3)
    )
    assert levels(nested) == {"params/w2": 0, "params/w1": 1}


@jax.custom_jvp
def scaled_tanh(x, scale):
    return scale * jnp.tanh(x)


@scaled_tanh.defjvp
def _scaled_tanh_jvp(primals, tangents):
    return scaled_tanh(*primals), tangents[0]


@jax.custom_vjp
def matmul(x, w):
    return x @ w


matmul.defvjp(lambda x, w: (x @ w, (x, w)), lambda r, g: (g @ r[1].T, r[0].T @ g))


def test_sees_through_control_flow_and_custom_rules():
    def forward(params, x, flag):
        x = jax.jit(lambda w, x: x @ w)(params["jit"]["w"], x)
        x = jax.checkpoint(lambda w, x: x @ w)(params["remat"]["w"], x)
        x = scaled_tanh(x, params["jvp"]["scale"])
        x = matmul(x, params["vjp"]["w"])
        x = jax.lax.cond(
            flag,
            lambda x: x @ params["yes"]["w"],
            lambda x: x @ params["no"]["w"],
            x,
        )
        x = jax.lax.fori_loop(0, 3, lambda i, x: x @ params["loop"]["w"], x)
        x = jax.lax.while_loop(
            lambda x: (x @ params["stop"]["w"]).sum() < 0,
            lambda x: x @ params["while"]["w"],
            x,
        )
        return x @ params["end"]["w"]

    names = ["jit", "remat", "vjp", "yes", "no", "loop", "stop", "while", "end"]
    params = {name: {"w": jnp.ones((3, 3))} for name in names}
    params["jvp"] = {"scale": jnp.ones(3)}
    layers = optax_llr.trace_layers(forward, params, jnp.ones((1, 3)), jnp.array(True))
    found = levels(layers)
    assert [found[n] for n in ("jit", "remat", "vjp")] == [0, 1, 2]
    assert found["yes"] == found["no"] == 3
    assert [found[n] for n in ("loop", "while", "end")] == [4, 5, 6]
    assert layer_of(layers, "jvp/scale") == "remat"


def test_unused_parameters_are_named():
    def forward(params, x):
        _ = x @ params["dead"]["w"]  # its result goes nowhere
        return x @ params["used"]["w"]

    params = {name: {"w": jnp.ones((3, 3))} for name in ("used", "dead", "missing")}
    with pytest.raises(ValueError, match=r"never uses \['dead/w', 'missing/w'\]"):
        optax_llr.trace_layers(forward, params, jnp.ones((1, 3)))


def test_a_call_that_hides_what_it_does_combines_its_operands():
    opaque = Primitive("opaque_call")
    opaque.def_abstract_eval(lambda x, *weights, jaxpr: x)

    def call(x, *weights):
        inner = jax.make_jaxpr(lambda x, w, *_: x @ w)(x, *weights)
        return opaque.bind(x, *weights, jaxpr=inner)

    def forward(params, x):
        x = call(x, params["b"]["w"], params["b"]["bias"])
        x = call(call(x, params["norm"]["scale"]), params["a"]["w"], params["c"]["w"])
        return x @ params["head"]["w"]

    params = {name: {"w": jnp.ones((3, 3))} for name in ("a", "b", "c", "head")}
    params["b"]["bias"] = jnp.ones(3)
    params["norm"] = {"scale": jnp.ones(3)}
    layers = optax_llr.trace_layers(forward, params, jnp.ones((1, 3)))
    assert levels(layers) == {"b": 0, "a": 1, "c": 1, "head": 2}
    assert layer_of(layers, "norm/scale") == "b"


def test_data_that_is_closed_over_is_refused():
    x, params = jnp.ones((1, 3)), {"a": {"w": jnp.ones((3, 3))}}
    with pytest.raises(ValueError, match="closes over is no input"):
        optax_llr.trace_layers(lambda params: x @ params["a"]["w"], params)
    with pytest.raises(ValueError, match="never uses"):
        optax_llr.trace_layers(lambda p, key: x @ p["a"]["w"], params, jnp.ones(2))


def test_elementwise_layers_on_the_input_keep_their_order():
    def forward(params, x):
        x = jnp.tanh((x[:, :, None] * params["b"]["w"]).sum(1))
        return (x[:, :, None] * params["a"]["w"]).sum(1)

    params = {"a": {"w": jnp.ones((4, 2))}, "b": {"w": jnp.ones((3, 4))}}
    layers = optax_llr.trace_layers(forward, params, jnp.ones((5, 3)))
    assert levels(layers) == {"b": 0, "a": 1}


def test_masks_among_the_inputs_do_not_hide_the_order():
    def forward(params, x, mask):
        x = x * params["input_scale"]
        for name in ("c", "a", "b"):
            x = jnp.tanh(x @ (params[name]["w"] * mask))
        return x

    params = {name: {"w": jnp.ones((3, 3))} for name in "abc"}
    params["input_scale"] = jnp.ones(3)
    layers = optax_llr.trace_layers(forward, params, jnp.ones((1, 3)), jnp.ones((3, 3)))
    assert [n for n in layers.names if n != "input_scale"] == ["c", "a", "b"]


def test_a_loss_and_its_penalty_give_the_layers_of_the_forward_pass():
    def loss(params, x):
        penalty = sum(jnp.sum(w**2) for w in jax.tree.leaves(params))
        x = jnp.tanh(x @ params["b"]["w"])
        return jnp.mean((x @ params["a"]["w"]) ** 2) + 0.1 * penalty

    params = {"a": {"w": jnp.ones((3, 3))}, "b": {"w": jnp.ones((3, 3))}}
    layers = optax_llr.trace_layers(loss, params, jnp.ones((1, 3)))
    assert layers.names == ("b", "a")


def test_a_parameter_that_is_an_output_comes_last():
    def policy(params, x):
        return x @ params["mean"]["w"], params["log_std"]

    params = {"log_std": jnp.ones(2), "mean": {"w": jnp.ones((3, 2))}}
    layers = optax_llr.trace_layers(policy, params, jnp.ones((1, 3)))
    assert layers.names == ("mean", "log_std")


class NnxCNN(nnx.Module):
    def __init__(self, rngs):
        self.stem = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.blocks = nnx.List([nnx.Conv(4, 4, (3, 3), rngs=rngs) for _ in range(11)])
        self.head = nnx.Linear(4, 10, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.stem(x)))
        for block in self.blocks:
            x = nnx.relu(block(x))
        return self.head(x.mean((1, 2)))


@pytest.mark.parametrize("training", [False, True])
def test_nnx_with_batch_norm(training):
    model = NnxCNN(nnx.Rngs(0))
    model.train() if training else model.eval()
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    def forward(params, x, rest):
        return nnx.merge(graphdef, params, rest)(x)

    layers = optax_llr.trace_layers(forward, params, IMAGE, rest)
    assert layers.names == ("stem", *(f"blocks/{i}" for i in range(11)), "head")
    assert layer_of(layers, "norm/scale") == "stem"


def test_equinox():
    model = eqx.nn.MLP(3, 2, 8, depth=11, key=jax.random.key(0))
    layers = optax_llr.trace_layers(
        lambda model, x: jax.vmap(model)(x), model, jnp.ones((5, 3))
    )
    assert layers.names == tuple(f"layers/{i}" for i in range(12))


def test_equinox_scan_over_stacked_layers():
    make = eqx.filter_vmap(lambda key: eqx.nn.Linear(3, 3, key=key))
    stacked = make(jax.random.split(jax.random.key(0), 4))

    def forward(model, x):
        dynamic, static = eqx.partition(model, eqx.is_array)
        return jax.lax.scan(
            lambda x, layer: (eqx.combine(layer, static)(x), None), x, dynamic
        )[0]

    layers = optax_llr.trace_layers(forward, stacked, jnp.ones(3))
    assert layers.members == {"bias": (0, 1, 2, 3), "weight": (0, 1, 2, 3)}


def test_haiku():
    def forward(x):
        x = hk.Conv2D(4, 3, name="zz")(x)
        x = hk.BatchNorm(True, True, 0.9, name="norm")(x, is_training=True)
        for _ in range(11):
            x = jax.nn.relu(hk.Conv2D(4, 3)(x))
        return hk.Linear(2, name="a")(x.mean((1, 2)))

    model = hk.transform_with_state(forward)
    params, state = jax.eval_shape(model.init, jax.random.key(0), IMAGE)

    def apply(params, x, state, key):
        return model.apply(params, state, key, x)[0]

    layers = optax_llr.trace_layers(apply, params, IMAGE, state, jax.random.key(0))
    convs = ["conv2_d", *(f"conv2_d_{i}" for i in range(1, 11))]
    assert layers.names == ("zz", *convs, "a")
    assert layer_of(layers, "norm/offset") == "zz"


def test_static_arguments_stay_python_values():
    def forward(params, x, train, width=None):
        assert train is True
        assert width == 3
        return x @ params["w"]

    layers = optax_llr.trace_layers(
        forward, {"w": jnp.ones((3, 3))}, jnp.ones((1, 3)), True, width=3
    )
    assert layers.names == ("w",)


def test_a_thousand_stacked_layers_are_traced_in_seconds():
    params = {"m": {"w": np.ones((1000, 3, 3)), "b": np.ones((1000, 3))}}
    layers = optax_llr.trace_layers(scan_forward_of("m"), params, jnp.ones((1, 3)))
    assert len(layers) == 1000


def scan_forward_of(name):
    return lambda params, x: scan_forward(params[name], x)


def encoder_decoder(p, source, target):
    x, y = source @ p["embed"]["w"], target @ p["embed"]["w"]
    for i in range(3):
        x = x + jnp.tanh(x @ p[f"encoder{i}"]["w"])
    for i in range(2):
        y = y + jnp.tanh(y @ p[f"decoder{i}"]["own"])
        y = y + jnp.tanh(
            (y @ p[f"decoder{i}"]["query"]) * (x @ p[f"decoder{i}"]["key"])
        )
    return y @ p["head"]["w"]


def test_a_group_stands_where_its_deepest_part_stands():
    decoder = {name: jnp.ones((8, 8)) for name in ("own", "query", "key")}
    params = modules("embed", *(f"encoder{i}" for i in range(3)), "head")
    params |= {"decoder0": decoder, "decoder1": decoder}
    layers = optax_llr.trace_layers(encoder_decoder, params, X, X, group=first_key)
    encoder = {"embed": 0, "encoder0": 1, "encoder1": 2, "encoder2": 3}
    assert levels(layers) == encoder | {"decoder0": 4, "decoder1": 5, "head": 6}
    assert layers.distance.tolist() == [6, 5, 4, 3, 2, 1, 0]


@pytest.mark.parametrize("shape", [(4, 4), (4,)])
def test_a_head_that_shares_a_bias_with_all_blocks_comes_last(shape):
    def forward(p, x):
        x = x @ p["embed"]["w"]
        for i in range(3):
            x = (
                x
                + jax.nn.softmax(x @ p[f"block{i}"]["w"] @ x.T + p["bias"]["table"]) @ x
            )
        return x @ p["head"]["w"]

    params = modules("embed", "block0", "block1", "block2", "head")
    params["bias"] = {"table": jnp.ones(shape)}
    layers = optax_llr.trace_layers(
        forward,
        params,
        jnp.ones((4, 8)),
        group=lambda path: "head" if path.startswith("bias") else first_key(path),
    )
    assert layers.names == ("embed", "block0", "block1", "block2", "head")
    assert layers.level.tolist() == list(range(5))
    assert layers.distance.tolist() == [4, 3, 2, 1, 0]


def test_levels_of_groups_have_no_gaps():
    def forward(p, x):
        x = x @ p["ends"]["stem"] @ p["a"]["w"] @ p["a"]["v"] @ p["b"]["w"]
        return x @ p["ends"]["head"], x @ p["a"]["side"] @ p["a"]["w"]

    square = jnp.ones((8, 8))
    params = modules("b", ends={"stem": square, "head": square})
    params["a"] = {"w": square, "v": square, "side": square}
    layers = optax_llr.trace_layers(forward, params, X, group=first_key)
    assert levels(layers) == {"b": 0, "a": 1, "ends": 1}

    def side(p, x):
        x = x @ p["a"]["w"]
        return x @ p["b"]["w"] @ p["head"]["w"], x @ p["a"]["v"] @ p["a"]["side"]

    params = modules("b", "head", a=params["a"])
    layers = optax_llr.trace_layers(side, params, X, group=first_key)
    assert levels(layers) == {"a": 0, "b": 1, "head": 2}
    assert layers.distance.tolist() == [2, 1, 0]


def test_the_distance_to_the_output_is_that_of_the_own_branch():
    def forward(p, image, text):
        for i in range(6):
            image = image + jnp.tanh(image @ p[f"image{i}"]["w"])
            if i == 2:
                early = image @ p["early_head"]["w"]
        for i in range(2):
            text = text + jnp.tanh(text @ p[f"text{i}"]["w"])
        return (image @ p["image_head"]["w"]) * (text @ p["text_head"]["w"]), early

    names = [f"image{i}" for i in range(6)] + ["text0", "text1"]
    params = modules(*names, "image_head", "text_head", "early_head")
    layers = optax_llr.trace_layers(forward, params, X, X)
    found = distances(layers)
    assert [found[f"image{i}"] for i in range(6)] == [6, 5, 4, 3, 2, 1]
    assert [found["text0"], found["text1"]] == [2, 1]
    assert found["image_head"] == found["text_head"] == found["early_head"] == 0
    rates = dict(zip(layers.names, optax_llr.layer_decay(layers, 0.5), strict=True))
    assert rates["text1"] == 0.5
    assert rates["early_head"] == 1


def test_recurrent_and_tied_weights_count_once_on_the_way_to_the_output():
    def forward(p, xs):
        def step(h, x):
            return jnp.tanh(x @ p["in"]["w"] + h @ p["recurrent"]["w"]), None

        h, _ = jax.lax.scan(step, jnp.zeros((4, 8)), xs @ p["embed"]["w"])
        for _ in range(3):
            h = jnp.tanh(h @ p["shared"]["w"])
        return h @ p["head"]["w"]

    params = modules("embed", "in", "recurrent", "shared", "head")
    layers = optax_llr.trace_layers(forward, params, X)
    assert distances(layers) == {
        "embed": 3,
        "in": 2,
        "recurrent": 2,
        "shared": 1,
        "head": 0,
    }


@pytest.mark.parametrize("group", [None, first_key])
def test_scalars_behind_the_heads_do_not_push_them_away(group):
    def forward(p, image, text):
        logits = (image @ p["image"]["w"] @ p["image_head"]["w"]) * (
            text @ p["text_head"]["w"]
        )
        return logits * jnp.exp(p["temperature"]) + p["bias"]

    params = modules("image", "image_head", "text_head")
    params |= {"temperature": jnp.ones(()), "bias": jnp.ones(1)}
    layers = optax_llr.trace_layers(forward, params, X, X, group=group)
    assert distances(layers) == dict.fromkeys(layers.names, 0) | {"image": 1}
    assert layers.level.max() == 1
    assert layer_of(layers, "temperature") == ("temperature" if group else "image_head")


def test_a_module_of_token_and_positions_stands_beside_the_patches():
    def forward(p, x):
        x = x @ p["patch"]["w"]
        token = jnp.broadcast_to(p["embeddings"]["token"], (len(x), 1, 8))
        x = jnp.concatenate([token, x], 1) + p["embeddings"]["positions"]
        return x @ p["head"]["w"]

    embeddings = {"token": jnp.ones((1, 1, 8)), "positions": jnp.ones((1, 5, 8))}
    params = modules("patch", "head", embeddings=embeddings)
    layers = optax_llr.trace_layers(forward, params, X)
    assert levels(layers) == {"patch": 0, "embeddings": 0, "head": 1}


@pytest.mark.parametrize("stems", [0, 1, 3])
@pytest.mark.parametrize("learned", ["token", "table", "normed", "transposed"])
def test_a_learned_query_stands_beside_the_keys(stems, learned):
    def forward(p, x):
        for i in range(stems):
            x = jnp.tanh(x @ p[f"stem{i}"]["w"])
        probe = jnp.broadcast_to(p["probe"], (len(x), *p["probe"].shape[1:]))
        if learned == "normed":
            probe = (probe - probe.mean(-1, keepdims=True)) * p["norm"]["scale"]
        if learned == "transposed":  # and for one example, as in Equinox
            query = (p["query"]["w"] @ p["probe"][0].T).T[None] + p["query"]["bias"]
        else:
            query = probe @ p["query"]["w"] + p["query"]["bias"]
        query = jnp.broadcast_to(query, (len(x), *query.shape[1:]))
        scores = jnp.einsum("bqd,bkd->bqk", query, x @ p["key"]["w"])
        return jax.nn.softmax(scores) @ (x @ p["value"]["w"]) @ p["out"]["w"]

    params = modules(
        "query", "key", "value", "out", *(f"stem{i}" for i in range(stems))
    )
    params["query"]["bias"] = jnp.ones(8)
    params["probe"] = jnp.ones((1, 1 if learned == "token" else 3, 8))
    if learned == "normed":
        params["norm"] = {"scale": jnp.ones(8)}
    layers = optax_llr.trace_layers(forward, params, X)
    found = levels(layers)
    assert found["query"] == found["key"] == found["value"] == stems
    assert found[layer_of(layers, "probe")] == max(stems - 1, 0)
    assert found["out"] == stems + 1
    assert {distances(layers)[name] for name in ("query", "key", "value")} == {1}


def test_a_decoder_of_learned_queries_ends_beside_the_keys():
    class Detection(nn.Module):
        @nn.compact
        def __call__(self, x):
            for i in range(3):
                x = nn.tanh(nn.Dense(8, name=f"encoder{i}")(x))
            query = self.param("query", nn.initializers.ones, (5, 8))
            y = jnp.broadcast_to(query, (len(x), 5, 8))
            for i in range(2):
                own = nn.MultiHeadDotProductAttention(2, name=f"own{i}")(y, y)
                y = nn.LayerNorm(name=f"norm{i}")(y + own)
                y = y + nn.MultiHeadDotProductAttention(2, name=f"cross{i}")(y, x)
                y = y + nn.Dense(8, name=f"dense{i}")(nn.LayerNorm(name=f"last{i}")(y))
            return nn.Dense(2, name="head")(y)

    layers = trace_linen(Detection(), X)
    found = levels(layers)
    names = [f"cross0/{name}" for name in ("query", "key", "value")]
    assert [found[name] for name in names] == [3, 3, 3]
    assert max(found[f"own0/{name}"] for name in ("query", "key", "value", "out")) <= 3
    assert [found["cross0/out"], found["dense0"], found["own1/query"]] == [4, 5, 6]
    assert found["head"] == layers.level.max()


def test_biases_may_be_matrices():
    def gru(p, xs):
        def step(h, x):
            a, b = x @ p["x"] + p["bias"][0], h @ p["h"] + p["bias"][1]
            update, reset = jax.nn.sigmoid(a[:, :8] + b[:, :8]), a[:, 8:16] + b[:, 8:16]
            new = jnp.tanh(a[:, 16:] + jax.nn.sigmoid(reset) * b[:, 16:])
            return update * h + (1 - update) * new, None

        return jax.lax.scan(step, jnp.zeros((4, 8)), xs)[0]

    def heads(p, x):
        q = (jnp.einsum("btd,dhe->bthe", x, p["w"]) + p["bias"]) * p["scale"]
        return jnp.einsum("bthe,hed->btd", q, p["out"])

    def forward(p, x):
        x = heads(p["heads1"], heads(p["heads0"], x))
        return gru(p["gru"], x) @ p["head"]["w"]

    shapes = {"w": (8, 2, 4), "bias": (2, 4), "scale": (2, 4), "out": (2, 4, 8)}
    attention = {name: jnp.ones(shape) for name, shape in shapes.items()}
    params = modules("head", heads0=attention, heads1=attention)
    params["gru"] = {"x": jnp.ones((8, 24)), "h": jnp.ones((8, 24))}
    params["gru"]["bias"] = jnp.ones((2, 24))
    layers = optax_llr.trace_layers(forward, params, X)
    assert levels(layers) == {"heads0": 0, "heads1": 1, "gru": 2, "head": 3}


def int8(p, x):
    scale = jnp.abs(p["w"]).max(0, keepdims=True) / 127
    return (x @ jnp.round(p["w"] / scale)) * scale


def int8_in_groups(p, x):
    w = p["w"].reshape(2, 4, 8)
    scale = jnp.abs(w).max(1, keepdims=True) / 127
    x = x.reshape(*x.shape[:-1], 2, 4)
    return (jnp.einsum("btgi,gio->btgo", x, jnp.round(w / scale)) * scale[:, 0]).sum(2)


def cosine(p, x):
    product = x @ p["w"] / jnp.linalg.norm(p["w"], axis=0)
    return product / jnp.linalg.norm(x, axis=-1, keepdims=True)


def normalised_output(p, x):
    return (x @ p["w"]) * (p["m"] / jnp.linalg.norm(p["w"], axis=0)) + p["bias"]


def dora(p, x):
    w = p["w"] + p["a"] @ p["b"]
    return (x @ p["w"] + x @ p["a"] @ p["b"]) * (p["m"] / jnp.linalg.norm(w, axis=0))


def merged_dora(p, x):
    w = p["w"] + p["a"] @ p["b"]
    return x @ (w * p["m"] / jnp.linalg.norm(w, axis=0))


@pytest.mark.parametrize(
    "dense", [int8, int8_in_groups, cosine, normalised_output, dora, merged_dora]
)
def test_a_product_may_be_rescaled_by_a_statistic_of_its_own_kernel(dense):
    def forward(p, x):
        return dense(p["a"], jnp.tanh(dense(p["b"], x)))

    shapes = {"w": (8, 8), "a": (8, 2), "b": (2, 8), "m": (8,), "bias": (8,)}
    used = {
        dora: "wabm",
        merged_dora: "wabm",
        normalised_output: ["w", "m", "bias"],
    }.get(dense, "w")
    module = {name: jnp.ones(shapes[name]) for name in used}
    layers = optax_llr.trace_layers(forward, {"a": module, "b": module}, X)
    assert levels(layers) == {"b": 0, "a": 1}


@pytest.mark.parametrize("key", ["mask/token", ".*token"])
def test_what_a_pass_does_not_use_joins_the_layer_it_is_given(key):
    def forward(p, x):
        return x @ p["body"]["w"] @ p["head"]["w"]

    params = modules("body", "head", mask={"token": jnp.ones(8)})
    layers = optax_llr.trace_layers(forward, params, X, unused={key: "body"})
    assert layer_of(layers, "mask/token") == "body"
    assert layers.level.tolist() == [0, 1]
    with pytest.raises(ValueError, match=r"never uses \['mask/token'\].*unused="):
        optax_llr.trace_layers(forward, params, X)
    with pytest.raises(ValueError, match=r"'body/w': 'head'.*parameter is unused"):
        optax_llr.trace_layers(
            forward, params, X, unused={key: "body", "body/w": "head"}
        )
    with pytest.raises(ValueError, match=r"no layer 'bodi'.*\['body', 'head'\]"):
        optax_llr.trace_layers(forward, params, X, unused={key: "bodi"})


def test_a_named_axis_from_outside_is_explained():
    def forward(p, x):
        x = x @ p["a"]["w"]
        return (x - jax.lax.pmean(x, "batch")) @ p["b"]["w"]

    params = modules("a", "b")
    with pytest.raises(ValueError, match=r"^trace_layers: .*'?batch.*axis_name="):
        optax_llr.trace_layers(forward, params, X)
    around = jax.vmap(forward, (None, 0), axis_name="batch")
    assert optax_llr.trace_layers(around, params, X[None]).names == ("a", "b")


def test_the_own_parameters_of_a_module_are_called_by_their_name():
    def forward(p, x):
        p, head = p["image"], p["head"]
        x = jnp.concatenate([x @ p["patch"]["w"], p["token"] + x[:, :1] * 0], 1)
        return (x + p["positions"]) @ p["block"]["w"] @ head["w"]

    own = {"token": jnp.ones((1, 1, 8)), "positions": jnp.ones((5, 8))}
    params = modules("head", image=modules("patch", "block", **own))
    layers = optax_llr.trace_layers(forward, params, X)
    assert set(layers.names) == {
        *("image/patch", "image/positions", "image/block", "head")
    }
    assert layer_of(layers, "image/token") == "image/patch"


@pytest.mark.parametrize("shape", [(8,), ()])
def test_a_scale_of_the_input_alone_is_a_layer_before_the_first(shape):
    params = modules("a", scale=jnp.ones(shape))
    layers = optax_llr.trace_layers(
        lambda p, x: jnp.tanh(x * p["scale"]) @ p["a"]["w"], params, X
    )
    assert levels(layers) == {"scale": 0, "a": 1}


def test_a_pallas_kernel_combines_its_operands():
    def kernel(x_ref, w_ref, out_ref):
        out_ref[...] = x_ref[...] @ w_ref[...]

    def product(x, w):
        shape = jax.ShapeDtypeStruct((len(x), w.shape[1]), x.dtype)
        return pallas.pallas_call(kernel, out_shape=shape)(x, w)

    layers = optax_llr.trace_layers(
        lambda p, x: product(jnp.tanh(product(x, p["b"]["w"])), p["a"]["w"]),
        modules("a", "b"),
        X[0],
    )
    assert levels(layers) == {"b": 0, "a": 1}
