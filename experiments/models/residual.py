"""Residual networks: those of He et al., and the wide ones that normalise first."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from .parts import Parts


class ResNet(nnx.Module):
    """A 3×3 stem, stages of blocks, the mean over all pixels, and the head.

    For CIFAR the paper has three stages of n blocks, of 16, 32 and 64 channels, 6n + 2
    layers. ResNet-18 is its smallest for ImageNet, of four stages from 64 to 512
    channels, here with the stem of the others and no pooling behind it, as is usual for
    images of 32 × 32. Each stage but the first halves the image.

    Where the shape changes the shortcut is a 1×1 convolution with its norm (option B),
    not the padding with zeros of the CIFAR experiments (option A): a projection is a
    branch with parameters of its own beside the block. The paper's plain nets are the
    same without any shortcut.

    References:
        He et al., Deep Residual Learning for Image Recognition, arXiv:1512.03385
    """

    def __init__(
        self,
        widths: Sequence[int],
        n: int,
        num_classes: int,
        parts: Parts,
        plain: bool = False,
    ):
        self.stem, self.norm = parts.conv(3, widths[0]), parts.normalise(widths[0])
        kind = PlainBlock if plain else Block
        shapes = _shapes(widths[0], widths, n)
        self.blocks = nnx.List(kind(*shape, parts) for shape in shapes)
        self.head = parts.dense(widths[-1], num_classes)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Images (n, 32, 32, 3) → logits (n, num_classes)."""
        x = nnx.relu(self.norm(self.stem(images)))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((1, 2))).astype(jnp.float32)


class Block(nnx.Module):
    """relu(f(x) + shortcut(x)) with f two 3×3 convolutions, each with its norm."""

    def __init__(self, inputs: int, outputs: int, stride: int, parts: Parts):
        self.first = parts.conv(inputs, outputs, stride=stride)
        self.norm1 = parts.normalise(outputs)
        self.second, self.norm2 = parts.conv(outputs, outputs), parts.normalise(outputs)
        self.end = parts.branch_end()
        if (inputs, stride) == (outputs, 1):
            self.shortcut, self.norm3 = nnx.identity, nnx.identity
        else:
            self.shortcut = parts.conv(inputs, outputs, size=1, stride=stride)
            self.norm3 = parts.normalise(outputs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """(n, height, width, inputs) → (n, height/stride, width/stride, outputs)."""
        residual = nnx.relu(self.norm1(self.first(x)))
        residual = self.end(self.norm2(self.second(residual)))
        return nnx.relu(residual + self.norm3(self.shortcut(x)))


class PlainBlock(nnx.Module):
    """relu(f(x)), with the f of `Block` under the same names."""

    def __init__(self, inputs: int, outputs: int, stride: int, parts: Parts):
        self.first = parts.conv(inputs, outputs, stride=stride)
        self.norm1 = parts.normalise(outputs)
        self.second, self.norm2 = parts.conv(outputs, outputs), parts.normalise(outputs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """(n, height, width, inputs) → (n, height/stride, width/stride, outputs)."""
        x = nnx.relu(self.norm1(self.first(x)))
        return nnx.relu(self.norm2(self.second(x)))


class WideResNet(nnx.Module):
    """Three stages of n blocks of 16k, 32k and 64k channels, norms before convolutions.

    It is called after its 6n + 4 convolutions, three projections among them, and k.

    References:
        Zagoruyko & Komodakis, Wide Residual Networks, arXiv:1605.07146
    """

    def __init__(self, depth: int, k: int, num_classes: int, parts: Parts):
        self.stem = parts.conv(3, 16)
        shapes = _shapes(16, (16 * k, 32 * k, 64 * k), (depth - 4) // 6)
        self.blocks = nnx.List(PreBlock(*shape, parts) for shape in shapes)
        self.norm = parts.normalise(64 * k)
        self.head = parts.dense(64 * k, num_classes)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Images (n, 32, 32, 3) → logits (n, num_classes)."""
        x = self.stem(images)
        for block in self.blocks:
            x = block(x)
        x = nnx.relu(self.norm(x))
        return self.head(x.mean((1, 2))).astype(jnp.float32)


class PreBlock(nnx.Module):
    """f(y) + x with y = relu(norm(x)); where the shape changes, f(y) + shortcut(y).

    f is two 3×3 convolutions with norm and ReLU between, the shortcut a 1×1 one.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, parts: Parts):
        self.norm1 = parts.normalise(inputs)
        self.first = parts.conv(inputs, outputs, stride=stride)
        self.norm2, self.second = parts.normalise(outputs), parts.conv(outputs, outputs)
        self.end = parts.branch_end()
        self.projects = (inputs, stride) != (outputs, 1)
        if self.projects:
            self.shortcut = parts.conv(inputs, outputs, size=1, stride=stride)

    def __call__(self, x: jax.Array) -> jax.Array:
        """(n, height, width, inputs) → (n, height/stride, width/stride, outputs)."""
        y = nnx.relu(self.norm1(x))
        residual = self.second(nnx.relu(self.norm2(self.first(y))))
        return self.end(residual) + (self.shortcut(y) if self.projects else x)


def _shapes(inputs: int, widths: Sequence[int], n: int) -> list[tuple[int, int, int]]:
    """Inputs, outputs and stride of each block, for stages of n blocks."""
    outputs = [width for width in widths for _ in range(n)]
    strides = [2 if i and i % n == 0 else 1 for i in range(len(outputs))]
    pairs = itertools.pairwise([inputs, *outputs])
    return [(*pair, stride) for pair, stride in zip(pairs, strides, strict=True)]
