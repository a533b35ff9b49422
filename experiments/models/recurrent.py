"""A recurrent network that reads the image row by row."""

import jax
import jax.numpy as jnp
from flax import nnx

from .parts import Parts


class RowsLSTM(nnx.Module):
    """Two layers of LSTM over the 32 rows from top to bottom; the last output → head.

    A row is one input of 96 numbers. What the cells carry is float32, whatever the
    dtype of the arithmetic, as it is summed over all rows.

    References:
        Hochreiter & Schmidhuber, Long Short-Term Memory, Neural Computation 9(8), 1997
    """

    def __init__(self, width: int, num_classes: int, parts: Parts):
        self.first = _cell(96, width, parts)
        self.second = _cell(width, width, parts)
        self.head = parts.dense(width, num_classes)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Images (n, 32, 32, 3) → logits (n, num_classes)."""
        rows = images.reshape(len(images), 32, 96).swapaxes(0, 1)
        nothing = jnp.zeros((len(images), self.head.in_features))
        _, x = jax.lax.scan(self.first, (nothing, nothing), rows)
        (_, last), _ = jax.lax.scan(self.second, (nothing, nothing), x)
        return self.head(last).astype(jnp.float32)


def _cell(inputs: int, width: int, parts: Parts) -> nnx.OptimizedLSTMCell:
    return nnx.OptimizedLSTMCell(inputs, width, dtype=parts.dtype, rngs=parts.rngs)
