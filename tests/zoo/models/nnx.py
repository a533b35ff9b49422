"""Flax nnx: a list of blocks, and the same blocks as slices of one module."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

TOKENS = jax.ShapeDtypeStruct((2, 6), jnp.int32)


def split(model):
    """The forward pass of a module, its parameters, and its other state."""
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    def forward(params, rest, x):
        return nnx.merge(graphdef, params, rest)(x)

    return forward, params, rest


class _Block(nnx.Module):
    def __init__(self, width, rngs):
        self.norm_1 = nnx.LayerNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, width, decode=False, rngs=rngs)
        self.norm_2 = nnx.LayerNorm(width, rngs=rngs)
        self.up = nnx.Linear(width, 2 * width, rngs=rngs)
        self.down = nnx.Linear(2 * width, width, rngs=rngs)

    def __call__(self, x):
        x = x + self.attention(self.norm_1(x))
        return x + self.down(nnx.gelu(self.up(self.norm_2(x))))


@nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
def _over_blocks(x, block):
    return block(x)


class Transformer(nnx.Module):
    """Token and position tables, blocks, a norm and a head."""

    def __init__(self, stacked, rngs, width=8, blocks=3):
        self.tokens = nnx.Embed(32, width, rngs=rngs)
        self.positions = nnx.Param(jnp.zeros((1, 6, width)))
        self.stacked = stacked
        block = functools.partial(_Block, width)
        if stacked:
            rows = nnx.split_rngs(splits=blocks)
            self.blocks = rows(nnx.vmap(block, in_axes=0, out_axes=0))(rngs)
        else:
            self.blocks = nnx.List([block(rngs) for _ in range(blocks)])
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, 32, rngs=rngs)

    def __call__(self, tokens):
        x = self.tokens(tokens) + self.positions
        if self.stacked:
            x = _over_blocks(x, self.blocks)
        else:
            for block in self.blocks:
                x = block(x)
        return self.head(self.norm(x))


def _shapes(stacked, **sizes):
    model = nnx.eval_shape(lambda: Transformer(stacked, nnx.Rngs(0), **sizes))
    forward, params, rest = split(model)
    return forward, params, (rest, TOKENS)


def transformer(**sizes):
    return _shapes(stacked=False, **sizes)


def scanned(**sizes):
    return _shapes(stacked=True, **sizes)
