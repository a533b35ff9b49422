"""The network of airbench94, and the whitening that its first layer starts from.

References:
    Jordan, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU, arXiv:2404.00498, and its
    code
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from experiments.models.convolution import convolution
from experiments.models.parts import max_halve

CLASSES = 10
PATCH = 2
WHITENED = 2 * 3 * PATCH**2
"""Channels of the first layer: principal components of a patch, and their negatives."""
WIDTHS = (64, 256, 256)
LOGITS = 1 / 9
EPS = 5e-4
"""Added to the variances of principal components, the smallest of which are noise."""
UNIFORM = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""Between ±1/√(fan in), what PyTorch starts convolutions and dense layers from."""


class Net(nnx.Module):
    """A frozen 2×2 whitening convolution, three groups, 3×3 max-pooling, the head.

    1.97 million parameters at width 1. All of them are float32, as are the whitening
    (its smallest components are differences of pixels that bfloat16 would round away),
    the statistics of batch norm, and the head; `dtype` is that of all other arithmetic.
    """

    def __init__(
        self, rngs: nnx.Rngs, width: float = 1.0, dtype: DTypeLike = jnp.float32
    ):
        shapes = itertools.pairwise([WHITENED, *scaled_widths(width)])
        self._dtype = dtype
        # Of zeros, so that nothing is learned where whitening is forgotten.
        self.whiten = nnx.Conv(
            3,
            WHITENED,
            (PATCH, PATCH),
            padding="VALID",
            kernel_init=nnx.initializers.zeros,
            conv_general_dilated=convolution,
            rngs=rngs,
        )
        self.group1, self.group2, self.group3 = (
            Group(*shape, dtype, rngs) for shape in shapes
        )
        self.head = nnx.Linear(
            scaled_widths(width)[-1],
            CLASSES,
            use_bias=False,
            kernel_init=UNIFORM,
            rngs=rngs,
        )

    def __call__(self, images: jax.Array) -> jax.Array:
        """Normalised images (n, 32, 32, 3), float32 → logits (n, 10), float32."""
        x = nnx.gelu(self.whiten(images).astype(self._dtype), approximate=False)
        x = self.group3(self.group2(self.group1(x)))
        return LOGITS * self.head(x.max((1, 2)).astype(jnp.float32))


class Group(nnx.Module):
    """3×3 convolution, 2×2 max-pooling, norm, GELU; convolution, norm, GELU."""

    def __init__(self, inputs: int, outputs: int, dtype: DTypeLike, rngs: nnx.Rngs):
        self._dtype = dtype
        self.conv1, self.norm1 = (
            _conv(inputs, outputs, dtype, rngs),
            _norm(outputs, rngs),
        )
        self.conv2, self.norm2 = (
            _conv(outputs, outputs, dtype, rngs),
            _norm(outputs, rngs),
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """(n, side, side, inputs) → (n, side // 2, side // 2, outputs)."""
        even = x.shape[1] // 2 * 2
        x = self._active(self.norm1, max_halve(self.conv1(x)[:, :even, :even]))
        return self._active(self.norm2, self.conv2(x))

    def _active(self, norm: nnx.BatchNorm, x: jax.Array) -> jax.Array:
        return nnx.gelu(norm(x).astype(self._dtype), approximate=False)


def scaled_widths(width: float) -> tuple[int, ...]:
    """The channels of the groups at a width.

    Raises:
        ValueError: if a group would be without channels.
    """
    widths = tuple(round(width * channels) for channels in WIDTHS)
    if min(widths) < 1:
        raise ValueError(
            f"width: expected a factor that leaves channels of {WIDTHS}, got {width}"
        )
    return widths


def identity_first(key: jax.Array, shape: Any, dtype: Any = jnp.float32) -> jax.Array:
    """An initial kernel (height, width, inputs, outputs) that passes its input on.

    As many outputs as there are inputs start as copies of them; the rest at random.
    """
    height, width, inputs, outputs = shape
    copies = min(inputs, outputs)
    copy = jnp.zeros((height, width, inputs, copies), dtype)
    copy = copy.at[height // 2, width // 2].set(jnp.eye(inputs, copies))
    return UNIFORM(key, shape, dtype).at[..., :copies].set(copy)


def whitening(images: jax.Array) -> jax.Array:
    """The kernel (2, 2, 3, 24) that whitens patches: ± each principal component.

    The first 12 outputs have second moments of λ/(λ + 0.0005), in falling order of the
    eigenvalues λ of the second moments of patches, and none in common.

    Args:
        images: normalised, (n, height, width, 3), float32.
    """
    height, width = (side - PATCH + 1 for side in images.shape[1:3])
    patches = jnp.concatenate(
        [
            images[:, row : row + height, column : column + width]
            for row in range(PATCH)
            for column in range(PATCH)
        ],
        axis=-1,
    ).reshape(-1, WHITENED // 2)
    moments = jnp.matmul(patches.T, patches, precision="highest") / len(patches)
    values, vectors = jnp.linalg.eigh(moments)
    half = (vectors / jnp.sqrt(values + EPS))[:, ::-1]
    kernel = jnp.concatenate([half, -half], axis=1)
    return kernel.reshape(PATCH, PATCH, 3, WHITENED)


def _conv(inputs: int, outputs: int, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.Conv:
    return nnx.Conv(
        inputs,
        outputs,
        (3, 3),
        use_bias=False,
        kernel_init=identity_first,
        dtype=dtype,
        conv_general_dilated=convolution,
        rngs=rngs,
    )


def _norm(features: int, rngs: nnx.Rngs) -> nnx.BatchNorm:
    return nnx.BatchNorm(
        features,
        momentum=0.6,
        epsilon=1e-12,
        use_scale=False,
        use_fast_variance=False,  # which would lose more than epsilon to rounding
        rngs=rngs,
    )
