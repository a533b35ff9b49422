"""Networks over sequences: of squares of pixels (ViT), or of the rows of the image."""

import jax
import jax.numpy as jnp
from flax import nnx

from .parts import Parts


class Transformer(nnx.Module):
    """Patches of the image as tokens, blocks of attention, the mean, and the head.

    Positions are learned and added to the tokens; the mean over all tokens takes the
    place of a class token. A patch may have any shape that fits: a row is one of 1×32.

    References:
        Dosovitskiy et al., An Image is Worth 16x16 Words, arXiv:2010.11929
    """

    def __init__(
        self,
        patch: tuple[int, int],
        width: int,
        heads: int,
        blocks: int,
        num_classes: int,
        parts: Parts,
    ):
        self.embed = nnx.Conv(
            3, width, patch, strides=patch, dtype=parts.dtype, rngs=parts.rngs
        )
        tokens = (32 // patch[0]) * (32 // patch[1])
        start = nnx.initializers.normal(0.02)
        self.positions = nnx.Param(start(parts.rngs.params(), (tokens, width)))
        self.blocks = nnx.List(Encoder(width, heads, parts) for _ in range(blocks))
        self.norm = parts.normalise(width)
        self.head = parts.dense(width, num_classes)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Images (n, 32, 32, 3) → logits (n, num_classes)."""
        x = self.embed(images)
        x = x.reshape(len(x), -1, x.shape[-1])
        x = x + self.positions[...].astype(x.dtype)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1)).astype(jnp.float32)


class Encoder(nnx.Module):
    """x + attention(norm(x)), then the same with a hidden layer four times as wide."""

    def __init__(self, width: int, heads: int, parts: Parts):
        self.norm1 = parts.normalise(width)
        self.attention = nnx.MultiHeadAttention(
            heads, width, dtype=parts.dtype, decode=False, rngs=parts.rngs
        )
        self.norm2 = parts.normalise(width)
        self.up = parts.dense(width, 4 * width)
        self.down = parts.dense(4 * width, width)

    def __call__(self, x: jax.Array) -> jax.Array:
        """(n, tokens, width) → the same."""
        x = x + self.attention(self.norm1(x))
        return x + self.down(nnx.gelu(self.up(self.norm2(x))))


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
