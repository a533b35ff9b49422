"""The models: a shallow plain CNN and ResNet-20, both for images of 32 × 32."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from .config import MODELS


def make(
    name: str, num_classes: int, rngs: nnx.Rngs, dtype: DTypeLike = jnp.float32
) -> nnx.Module:
    """Makes a model by its name in `MODELS`.

    Args:
        name: "cnn-shallow" or "resnet20".
        num_classes: how many logits an image gets.
        rngs: where the initial weights are drawn from.
        dtype: of the arithmetic; parameters and logits are float32 in any case.

    Returns:
        A module: normalised images (n, 32, 32, 3) → logits (n, num_classes).

    Raises:
        ValueError: for a name that is no model.
    """
    match name:
        case "cnn-shallow":
            return ShallowCNN(num_classes, rngs, dtype)
        case "resnet20":
            return ResNet20(num_classes, rngs, dtype)
        case _:
            raise ValueError(
                f"model: expected one of {', '.join(MODELS)}; got {name!r}"
            )


class ShallowCNN(nnx.Module):
    """Three 3×3 convolutions of 16, 32 and 64 channels, one hidden layer of 128.

    Each convolution is followed by ReLU and 2×2 max-pooling. 156,074 parameters in
    five layers for ten classes. The initial weights are Flax's own (LeCun's, not He's:
    without norms the twice as large variance unsettles the first epochs at high rates).
    """

    def __init__(self, num_classes: int, rngs: nnx.Rngs, dtype: DTypeLike):
        conv = functools.partial(nnx.Conv, kernel_size=(3, 3), dtype=dtype, rngs=rngs)
        self.conv1 = conv(3, 16)
        self.conv2 = conv(16, 32)
        self.conv3 = conv(32, 64)
        self.hidden = nnx.Linear(1024, 128, dtype=dtype, rngs=rngs)
        self.head = nnx.Linear(128, num_classes, dtype=dtype, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Images (n, 32, 32, 3) → logits (n, num_classes)."""
        x = images
        for conv in (self.conv1, self.conv2, self.conv3):
            x = _halve(nnx.relu(conv(x)))
        x = nnx.relu(self.hidden(x.reshape(len(x), -1)))
        return self.head(x).astype(jnp.float32)


class ResNet20(nnx.Module):
    """The residual network of 20 layers for CIFAR: three stages of three blocks.

    Where the shape changes the shortcut is a 1×1 convolution with batch norm (option
    B), not the padding with zeros of the CIFAR experiments (option A): a projection is
    a branch with parameters of its own beside the block.

    References:
        He et al., Deep Residual Learning for Image Recognition, arXiv:1512.03385
    """

    def __init__(self, num_classes: int, rngs: nnx.Rngs, dtype: DTypeLike):
        self.stem = ConvNorm(3, 16, 3, 1, rngs, dtype)
        shapes = [(16, 16, 1)] * 3
        shapes += [(16, 32, 2)] + [(32, 32, 1)] * 2
        shapes += [(32, 64, 2)] + [(64, 64, 1)] * 2
        self.blocks = nnx.List([Block(*shape, rngs, dtype) for shape in shapes])
        self.head = nnx.Linear(64, num_classes, dtype=dtype, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Images (n, 32, 32, 3) → logits (n, num_classes)."""
        x = nnx.relu(self.stem(images))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(axis=(1, 2))).astype(jnp.float32)


class Block(nnx.Module):
    """relu(f(x) + shortcut(x)) with f two 3×3 convolutions, each with batch norm."""

    def __init__(
        self, inputs: int, outputs: int, stride: int, rngs: nnx.Rngs, dtype: DTypeLike
    ):
        self.first = ConvNorm(inputs, outputs, 3, stride, rngs, dtype)
        self.second = ConvNorm(outputs, outputs, 3, 1, rngs, dtype)
        self.shortcut = (
            nnx.identity
            if (inputs, stride) == (outputs, 1)
            else ConvNorm(inputs, outputs, 1, stride, rngs, dtype)
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """(n, height, width, inputs) → (n, height/stride, width/stride, outputs)."""
        residual = self.second(nnx.relu(self.first(x)))
        return nnx.relu(residual + self.shortcut(x))


class ConvNorm(nnx.Module):
    """A convolution without bias, then batch norm."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        stride: int,
        rngs: nnx.Rngs,
        dtype: DTypeLike,
    ):
        self.conv = nnx.Conv(
            inputs,
            outputs,
            (size, size),
            strides=stride,
            use_bias=False,
            kernel_init=nnx.initializers.he_normal(),
            dtype=dtype,
            rngs=rngs,
        )
        self.norm = nnx.BatchNorm(outputs, momentum=0.9, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """(n, height, width, inputs) → (n, height/stride, width/stride, outputs)."""
        return self.norm(self.conv(x))


def _halve(x: jax.Array) -> jax.Array:
    """Max-pooling over 2×2 pixels.

    By slices, because on a CPU the gradient of `nnx.max_pool` takes several times as
    long as everything else in a step of the shallow CNN.
    """
    x = jnp.maximum(x[:, ::2], x[:, 1::2])
    return jnp.maximum(x[:, :, ::2], x[:, :, 1::2])
