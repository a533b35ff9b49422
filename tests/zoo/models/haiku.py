"""Haiku: its nets, and blocks stacked by `layer_stack`."""

import haiku as hk
import jax
import jax.numpy as jnp


def _shapes(net, x, *training):
    """`training`: what a net with batch norms is told; the first call must train."""
    model = hk.without_apply_rng(hk.transform_with_state(net))
    first = [True for _ in training]
    params, state = jax.eval_shape(
        lambda key, x: model.init(key, x, *first), jax.random.key(0), x
    )

    def forward(params, state, x):
        return model.apply(params, state, x, *training)[0]

    return forward, params, (state, x)


def mlp():
    return _shapes(lambda x: hk.nets.MLP([8, 8, 2])(x), _floats(2, 4))


def resnet():
    """ResNet-50's blocks, six of them with few features."""

    def net(x, is_training):
        model = hk.nets.ResNet(
            blocks_per_group=(2, 1, 1, 1),
            num_classes=10,
            bottleneck=True,
            channels_per_group=(8, 8, 16, 16),
        )
        return model(x, is_training)

    return _shapes(net, _floats(2, 32, 32, 3), False)


def resnet200():
    def net(x, is_training):
        return hk.nets.ResNet200(num_classes=1000)(x, is_training)

    return _shapes(net, _floats(2, 224, 224, 3), False)


def stacked(blocks=3, features=8):
    """Pre-norm MLP blocks as slices, between an embedding and a head."""

    def block(x):
        y = hk.LayerNorm(-1, True, True, name="norm")(x)
        y = jax.nn.gelu(hk.Linear(2 * features, name="up")(y))
        return x + hk.Linear(features, name="down")(y)

    def net(x):
        x = hk.Linear(features, name="embed")(x)
        x = hk.layer_stack(blocks, name="blocks")(block)(x)
        return hk.Linear(2, name="head")(hk.LayerNorm(-1, True, True, name="norm")(x))

    return _shapes(net, _floats(2, 4))


def _floats(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)
