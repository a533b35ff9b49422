"""Plain networks: one convolution after the other, then dense layers."""

import dataclasses
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from .parts import Parts, max_halve

VGG_STAGES = {
    5: (1, 1),
    8: (1, 1, 1, 1, 1),
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
"""Convolutions of each stage; with three dense layers they make the depth."""
VGG_WIDTHS = (64, 128, 256, 512, 512)


class ShallowCNN(nnx.Module):
    """Three 3×3 convolutions of 16, 32 and 64 channels, one hidden layer of 128.

    Each convolution is followed by its norm (none, unless asked for), ReLU and 2×2
    max-pooling. 156,074 parameters in five layers for ten classes. The initial weights
    are Flax's own (LeCun's, not He's: without norms the twice as large variance
    unsettles the first epochs at high rates).
    """

    def __init__(self, num_classes: int, parts: Parts):
        parts = dataclasses.replace(parts, init=nnx.initializers.lecun_normal())
        self.conv1, self.norm1 = parts.conv(3, 16), parts.normalise(16)
        self.conv2, self.norm2 = parts.conv(16, 32), parts.normalise(32)
        self.conv3, self.norm3 = parts.conv(32, 64), parts.normalise(64)
        self.hidden = parts.hidden(1024, 128)
        self.head = parts.dense(128, num_classes)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Images (n, 32, 32, 3) → logits (n, num_classes)."""
        x = max_halve(nnx.relu(self.norm1(self.conv1(images))))
        x = max_halve(nnx.relu(self.norm2(self.conv2(x))))
        x = max_halve(nnx.relu(self.norm3(self.conv3(x))))
        x = nnx.relu(self.hidden(x.reshape(len(x), -1)))
        return self.head(x).astype(jnp.float32)


class VGG(nnx.Module):
    """Stages of 3×3 convolutions, two hidden layers of 512, and the head.

    `depth` counts the layers with weights: the convolutions and three dense layers. At
    a depth of 11, 13, 16 and 19 the convolutions are those of the paper (A, B, D, E);
    5 and 8 are our shorter ones, of two and five convolutions. Hidden layers are
    narrower than the paper's 4,096, as is usual for CIFAR. The norms follow the
    convolutions only; the paper, older than batch norm, has none.

    References:
        Simonyan & Zisserman, Very Deep Convolutional Networks for Large-Scale Image
        Recognition, arXiv:1409.1556
    """

    def __init__(self, depth: int, num_classes: int, parts: Parts):
        self.stages = _stages(VGG_STAGES[depth], parts)
        side, width = 32 // 2 ** len(self.stages), VGG_WIDTHS[len(self.stages) - 1]
        self.hidden1 = parts.hidden(side * side * width, 512)
        self.hidden2 = parts.hidden(512, 512)
        self.head = parts.dense(512, num_classes)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Images (n, 32, 32, 3) → logits (n, num_classes)."""
        x = images
        for stage in self.stages:
            x = stage(x)
        x = nnx.relu(self.hidden1(x.reshape(len(x), -1)))
        x = nnx.relu(self.hidden2(x))
        return self.head(x).astype(jnp.float32)


class Stage(nnx.Module):
    """3×3 convolutions, each with its norm and ReLU, then 2×2 max-pooling."""

    def __init__(self, convs: int, inputs: int, outputs: int, parts: Parts):
        widths = itertools.pairwise([inputs] + [outputs] * convs)
        self.convs = nnx.List(parts.conv(*shape) for shape in widths)
        self.norms = nnx.List(parts.normalise(outputs) for _ in range(convs))

    def __call__(self, x: jax.Array) -> jax.Array:
        """(n, height, width, inputs) → (n, height/2, width/2, outputs)."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = nnx.relu(norm(conv(x)))
        return max_halve(x)


def _stages(convs: Sequence[int], parts: Parts) -> nnx.List[Stage]:
    """VGG's, with so many convolutions each."""
    shapes = itertools.pairwise((3, *VGG_WIDTHS))  # of which it may take the first
    return nnx.List(Stage(n, *s, parts) for n, s in zip(convs, shapes, strict=False))


# The two networks for CIFAR-10 with which layer rotation was studied, arXiv:1806.01603.
#
# Both are known from the authors' code. Kernels are all that it trains: no layer has a
# bias, and the norms have no scale and bias. What differs here is the batch statistics,
# a moving average over some 10 batches where theirs went over 100 (momentum .9, not
# .99), with 1e-5, not 1e-3, added to the variance; and that convolutions have a bias
# where there is no norm.


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
        self.head = parts.dense(256, num_classes, kernel_init=init, use_bias=False)

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
        self.stages = _stages(VGG_STAGES[16], parts)
        self.hidden, self.norm = parts.conv(512, 512, 1), parts.normalise(512)
        self.head = parts.dense(
            512, num_classes, kernel_init=parts.init, use_bias=False
        )

    def __call__(self, images: jax.Array) -> jax.Array:
        """Images (n, 32, 32, 3) → logits (n, num_classes)."""
        x = images
        for stage in self.stages:
            x = stage(x)
        x = nnx.relu(self.norm(self.hidden(x)))
        return self.head(x.reshape(len(x), -1)).astype(jnp.float32)
