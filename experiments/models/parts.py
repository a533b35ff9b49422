"""What the models are made of: convolutions and their norms, dense layers, pooling."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from .convolution import convolution

Layer = Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Parts:
    """Makes the layers of one model.

    Attributes:
        rngs: where the initial weights are drawn from.
        dtype: of the arithmetic; parameters are float32.
        norm: "batch", "group", "layer", "rms" or "none".
        init: of kernels with a ReLU behind them, He's unless a model says otherwise.
        affine: whether norms have a scale and a bias.
    """

    rngs: nnx.Rngs
    dtype: DTypeLike
    norm: str
    init: nnx.Initializer = dataclasses.field(
        default_factory=nnx.initializers.he_normal
    )
    affine: bool = True

    def conv(
        self, inputs: int, outputs: int, size: int = 3, stride: int = 1
    ) -> nnx.Conv:
        """A convolution, with a bias only in a model without norms."""
        return nnx.Conv(
            inputs,
            outputs,
            (size, size),
            strides=stride,
            use_bias=self.norm == "none",
            kernel_init=self.init,
            dtype=self.dtype,
            conv_general_dilated=convolution,
            rngs=self.rngs,
        )

    def normalise(self, features: int) -> Layer:
        """The norm of so many channels.

        Group norm has as many groups as it can, up to 32, with at least four channels
        in each: 4 groups of 16 channels, 16 of 64, 19 of 114, 32 of 128.

        References:
            Wu & He, Group Normalization, arXiv:1803.08494
        """
        if self.norm == "none":
            return nnx.identity
        if self.norm == "rms":  # which has no bias
            return nnx.RMSNorm(features, dtype=self.dtype, rngs=self.rngs)
        norms: dict[str, Callable[..., Layer]] = {
            "batch": functools.partial(nnx.BatchNorm, momentum=0.9),
            "group": functools.partial(nnx.GroupNorm, num_groups=_groups(features)),
            "layer": nnx.LayerNorm,
        }
        affine = {"use_scale": self.affine, "use_bias": self.affine}
        return norms[self.norm](features, **affine, dtype=self.dtype, rngs=self.rngs)

    def branch_end(self) -> Layer:
        """What a residual branch ends with: without a norm, a scalar that starts at 0.

        So a deep network without norms starts as the identity, through which it can
        train (SkipInit). With norms, nothing.

        References:
            De & Smith, Batch Normalization Biases Residual Blocks Towards the Identity
            Function in Deep Networks, arXiv:2002.10444
        """
        return SkipInit() if self.norm == "none" else nnx.identity

    def dense(self, inputs: int, outputs: int, **options: Any) -> nnx.Linear:
        """A dense layer with nothing behind it, and Flax's own initial weights."""
        return nnx.Linear(inputs, outputs, **options, dtype=self.dtype, rngs=self.rngs)

    def hidden(self, inputs: int, outputs: int) -> nnx.Linear:
        """A dense layer with a ReLU behind it."""
        return self.dense(inputs, outputs, kernel_init=self.init)


class SkipInit(nnx.Module):
    """x times a learnable scalar that starts at 0."""

    def __init__(self):
        self.scale = nnx.Param(jnp.zeros(()))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Of any shape; the dtype stays."""
        return x * self.scale[...].astype(x.dtype)


def max_halve(x: jax.Array) -> jax.Array:
    """Max-pooling over 2×2 pixels: (n, height, width, c) → half the height and width.

    By slices, because on a CPU the gradient of `nnx.max_pool` takes several times as
    long as everything else in a step of the shallow CNN.
    """
    x = jnp.maximum(x[:, ::2], x[:, 1::2])
    return jnp.maximum(x[:, :, ::2], x[:, :, 1::2])


def _groups(features: int) -> int:
    fitting = (n for n in range(1, 33) if features % n == 0 and features >= 4 * n)
    return max(fitting, default=1)
