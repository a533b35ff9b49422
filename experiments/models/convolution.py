"""Convolution, put to XLA in the form that it is fast at on a CPU.

Three things slow it down there, by how much is in benchmarks/README.md.

- For the gradient of a kernel XLA transposes the input of the layer, and fuses into
  that whatever made the input, back through all blocks of a residual network, to be
  computed once more. An optimization barrier prevents it, but XLA drops barriers
  before it fuses, unless `compiler_options` say otherwise.
- Most convolutions go to YNNPACK, which runs them on one core; Eigen, which
  `compiler_options` ask for, takes all.
- A kernel larger than the image is more than either can do, and a naive loop runs.
  Where the kernel covers the image from each of its pixels, the convolution is a dense
  layer, and computed as one.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

OPTIONS = {
    "xla_disable_hlo_passes": "cse_barrier_expander",
    "xla_cpu_experimental_ynn_fusion_type": (
        "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"
    ),
}
NHWC = lax.conv_dimension_numbers((1,) * 4, (1,) * 4, ("NHWC", "HWIO", "NHWC"))
PLAIN = {
    "lhs_dilation": (1, 1),
    "rhs_dilation": (1, 1),
    "dimension_numbers": NHWC,
    "feature_group_count": 1,
}


def convolution(
    lhs: jax.Array, rhs: jax.Array, window_strides: Any, padding: Any, **options: Any
) -> jax.Array:
    """`jax.lax.conv_general_dilated`, for the argument of `nnx.Conv` of that name.

    Values and gradients are the same up to rounding. On anything but a CPU it is
    `jax.lax.conv_general_dilated` itself.
    """
    if jax.default_backend() == "cpu":
        lhs = lax.optimization_barrier(lhs)
        given = {name: value for name, value in options.items() if value is not None}
        if (window_strides, padding, given) == ((1, 1), "SAME", PLAIN) and all(
            side <= (size + 1) // 2
            for side, size in zip(lhs.shape[1:3], rhs.shape[:2], strict=True)
        ):
            return _dense(lhs, rhs)
    return lax.conv_general_dilated(lhs, rhs, window_strides, padding, **options)


def compiler_options() -> dict[str, str]:
    """What to compile with: on a CPU those of `OPTIONS` that this XLA knows.

    For `jax.jit(…, compiler_options=…)`. XLA's options come and go; before jaxlib 0.9
    there is no YNNPACK to be kept from convolutions.
    """
    if jax.default_backend() != "cpu":
        return {}
    return {name: value for name, value in OPTIONS.items() if _known({name: value})}


def _dense(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    """The convolution as a product with a matrix: all pixels in, all pixels out."""
    count, height, width, _ = lhs.shape
    top, left = ((size - 1) // 2 for size in rhs.shape[:2])
    columns = [
        rhs[top - row :, left - column :][:height, :width].reshape(-1, rhs.shape[-1])
        for row in range(height)
        for column in range(width)
    ]
    product = lhs.reshape(count, -1) @ jnp.concatenate(columns, axis=1)
    return product.reshape(count, height, width, -1)


def _known(options: dict[str, str]) -> bool:
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
