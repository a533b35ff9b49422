"""The two networks for CIFAR-10 with which layer rotation was studied.

Both are known from the authors' code. Kernels are all that it trains: no layer has a
bias, and the norms have no scale and bias. What differs here is the batch statistics,
a moving average over some 10 batches where theirs went over 100 (momentum .9, not .99),
with 1e-5, not 1e-3, added to the variance; and that convolutions have a bias where
there is no norm.

References:
    Carbonnelle & De Vleeschouwer, Layer rotation: a surprisingly powerful indicator of
    generalization in deep networks?, arXiv:1806.01603
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
from flax import nnx

from .parts import Parts, max_halve
from .plain import VGG_STAGES, VGG_WIDTHS, Stage


class CNN1(nnx.Module):
    """C10-CNN1: four stages of six 3×3 convolutions, of 32, 64, 128 and 256 channels.

    The norm comes behind the ReLU; 2×2 max-pooling between the stages, the mean over
    all pixels at the end. He's uniform initial weights, in the head too.
    """

    def __init__(self, num_classes: int, parts: Parts):
        init = nnx.initializers.he_uniform()
        parts = dataclasses.replace(parts, init=init, affine=False)
        widths = [3] + [32] * 6 + [64] * 6 + [128] * 6 + [256] * 6
        self.convs = nnx.List(parts.conv(*s) for s in itertools.pairwise(widths))
        self.norms = nnx.List(parts.normalise(width) for width in widths[1:])
        self.head = _head(256, num_classes, parts)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Images (n, 32, 32, 3) → logits (n, num_classes)."""
        x = images
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            if i in (6, 12, 18):
                x = max_halve(x)
            x = norm(nnx.relu(conv(x)))
        return self.head(x.mean((1, 2))).astype(jnp.float32)


class CNN2(nnx.Module):
    """C10-CNN2: the convolutions of VGG-16, a hidden layer of 512 with a norm, no more.

    A VGG for CIFAR that was published on the Torch blog in 2015, without its dropout.
    He's normal initial weights, in the head too. The hidden layer is a 1×1 convolution,
    since of the image one pixel is left.
    """

    def __init__(self, num_classes: int, parts: Parts):
        parts = dataclasses.replace(parts, affine=False)
        shapes = itertools.pairwise((3, *VGG_WIDTHS))
        self.stages = nnx.List(
            Stage(convs, *shape, parts)
            for convs, shape in zip(VGG_STAGES[16], shapes, strict=True)
        )
        self.hidden, self.norm = parts.conv(512, 512, 1), parts.normalise(512)
        self.head = _head(512, num_classes, parts)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Images (n, 32, 32, 3) → logits (n, num_classes)."""
        x = images
        for stage in self.stages:
            x = stage(x)
        x = nnx.relu(self.norm(self.hidden(x)))
        return self.head(x.reshape(len(x), -1)).astype(jnp.float32)


def _head(inputs: int, num_classes: int, parts: Parts) -> nnx.Linear:
    return nnx.Linear(
        inputs,
        num_classes,
        use_bias=False,
        kernel_init=parts.init,
        dtype=parts.dtype,
        rngs=parts.rngs,
    )
