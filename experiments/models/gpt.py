"""A language model: a decoder over bytes."""

import jax
import jax.numpy as jnp
from flax import nnx

from .parts import Parts

INIT = nnx.initializers.normal(0.02)
BASE = 10_000.0
"""Of the wavelengths of the rotary positions."""


class GPT(nnx.Module):
    """Bytes as tokens, blocks of causal attention and SwiGLU, a norm and the head.

    As in Llama: RMSNorm in front of each part, rotary positions, no biases; the head is
    not tied to the embedding, and all kernels start with a deviation of 0.02.

    References:
        Radford et al., Language Models are Unsupervised Multitask Learners, 2019
        Touvron et al., LLaMA, arXiv:2302.13971
    """

    def __init__(
        self, width: int, heads: int, blocks: int, num_tokens: int, parts: Parts
    ):
        self.tokens = nnx.Embed(
            num_tokens, width, embedding_init=INIT, dtype=parts.dtype, rngs=parts.rngs
        )
        self.blocks = nnx.List(Decoder(width, heads, parts) for _ in range(blocks))
        self.norm = parts.normalise(width)
        self.head = _kernel(width, num_tokens, parts)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Tokens (n, length) → logits of the next ones (n, length, num_tokens)."""
        x = self.tokens(tokens.astype(jnp.int32))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)).astype(jnp.float32)


class Decoder(nnx.Module):
    """x + attention(norm(x)), then the same with the feed-forward part."""

    def __init__(self, width: int, heads: int, parts: Parts):
        self.norm1 = parts.normalise(width)
        self.attention = Attention(width, heads, parts)
        self.norm2 = parts.normalise(width)
        self.mlp = SwiGLU(width, parts)

    def __call__(self, x: jax.Array) -> jax.Array:
        """(n, length, width) → the same."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Attention(nnx.Module):
    """Each position looks at itself and those before it."""

    def __init__(self, width: int, heads: int, parts: Parts):
        self.heads = heads
        self.query = _kernel(width, width, parts)
        self.key = _kernel(width, width, parts)
        self.value = _kernel(width, width, parts)
        self.out = _kernel(width, width, parts)

    def __call__(self, x: jax.Array) -> jax.Array:
        """(n, length, width) → the same."""
        query, key, value = (
            of(x).reshape(*x.shape[:2], self.heads, -1)
            for of in (self.query, self.key, self.value)
        )
        found = jax.nn.dot_product_attention(
            rotated(query), rotated(key), value, is_causal=True
        )
        return self.out(found.reshape(x.shape))


class SwiGLU(nnx.Module):
    """down(silu(gate(x)) · up(x)), in all about as large as a hidden layer of 4 widths.

    References:
        Shazeer, GLU Variants Improve Transformer, arXiv:2002.05202
    """

    def __init__(self, width: int, parts: Parts):
        hidden = 8 * -(-width // 3)
        self.gate = _kernel(width, hidden, parts)
        self.up = _kernel(width, hidden, parts)
        self.down = _kernel(hidden, width, parts)

    def __call__(self, x: jax.Array) -> jax.Array:
        """(n, length, width) → the same."""
        return self.down(nnx.silu(self.gate(x)) * self.up(x))


def rotated(x: jax.Array) -> jax.Array:
    """Pairs of features, turned by angles that grow with the position.

    So the product of a query and a key depends on how far apart they are, and not on
    where they stand.

    Args:
        x: (n, length, heads, features), of an even number of features.

    References:
        Su et al., RoFormer, arXiv:2104.09864
    """
    length, half = x.shape[1], x.shape[-1] // 2
    frequencies = BASE ** (-jnp.arange(half) / half)
    angles = jnp.arange(length)[:, None, None] * frequencies  # (length, 1, half)
    sin, cos = jnp.sin(angles), jnp.cos(angles)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = (first * cos - second * sin, first * sin + second * cos)
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)


def _kernel(inputs: int, outputs: int, parts: Parts) -> nnx.Linear:
    return parts.dense(inputs, outputs, use_bias=False, kernel_init=INIT)
