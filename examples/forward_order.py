"""The layers of a small residual network, in the order in which they compute.

    python examples/forward_order.py

The order is read off what the model computes, not off names: here the head is made
first, and eleven blocks are counted past nine. A norm belongs to the convolution that
feeds it, and a shortcut shares the level of the convolution beside it. Prints

    level  layer              parameters     t=0   t=250  t=500   t=750  t=1000
        0  blocks/0/shortcut          64     1.5    1.25      1    0.75     0.5
        0  blocks/0/conv             464     1.5    1.25      1    0.75     0.5
        1  blocks/1/conv           2,336   1.409   1.205      1  0.7955  0.5909
        2  blocks/2/conv           2,336   1.318   1.159      1  0.8409  0.6818
        3  blocks/3/conv           2,336   1.227   1.114      1  0.8864  0.7727
        4  blocks/4/conv           2,336   1.136   1.068      1  0.9318  0.8636
        5  blocks/5/conv           2,336   1.045   1.023      1  0.9773  0.9545
        6  blocks/6/shortcut         544  0.9545  0.9773      1   1.023   1.045
        6  blocks/6/conv           4,672  0.9545  0.9773      1   1.023   1.045
        7  blocks/7/conv           9,280  0.8636  0.9318      1   1.068   1.136
        8  blocks/8/conv           9,280  0.7727  0.8864      1   1.114   1.227
        9  blocks/9/conv           9,280  0.6818  0.8409      1   1.159   1.318
       10  blocks/10/conv          9,280  0.5909  0.7955      1   1.205   1.409
       11  head                      330     0.5    0.75      1    1.25     1.5
"""

import itertools

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import optax_llr


class Block(nnx.Module):
    def __init__(self, inputs, outputs, rngs):
        self.norm = nnx.BatchNorm(outputs, rngs=rngs)
        self.conv = nnx.Conv(inputs, outputs, (3, 3), use_bias=False, rngs=rngs)
        self.shortcut = (
            nnx.identity
            if inputs == outputs
            else nnx.Conv(inputs, outputs, (1, 1), rngs=rngs)
        )

    def __call__(self, x):
        return nnx.relu(self.shortcut(x) + self.norm(self.conv(x)))


class ResNet(nnx.Module):
    def __init__(self, rngs):
        self.head = nnx.Linear(32, 10, rngs=rngs)
        widths = [3] + 6 * [16] + 5 * [32]
        pairs = itertools.pairwise(widths)
        self.blocks = nnx.List([Block(*pair, rngs) for pair in pairs])

    def __call__(self, images):
        x = images
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((1, 2)))


# Shapes are enough to find the layers; no weight is drawn.
model = nnx.eval_shape(lambda: ResNet(nnx.Rngs(0)))
model.eval()
graphdef, params, rest = nnx.split(model, nnx.Param, ...)


def forward(params, rest, images):
    return nnx.merge(graphdef, params, rest)(images)


images = jax.ShapeDtypeStruct((8, 32, 32, 3), jnp.float32)
layers = optax_llr.trace_layers(forward, params, rest, images)
steps = 1_000
early_first = optax_llr.interpolate_schedule(
    layers,
    first=optax.linear_schedule(1.5, 0.5, steps),
    last=optax.linear_schedule(0.5, 1.5, steps),
)
print(optax_llr.layer_table(layers, params, early_first, steps))
