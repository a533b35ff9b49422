"""Flax linen, written by hand: MLP-Mixer, and a transformer scanned over blocks."""

import flax.linen as nn
import jax
import jax.numpy as jnp


def _shapes(model, x):
    params = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
    return lambda params, x: model.apply({"params": params}, x), params, (x,)


class _MLP(nn.Module):
    features: int

    @nn.compact
    def __call__(self, x):
        y = nn.gelu(nn.Dense(self.features, name="up")(x))
        return nn.Dense(x.shape[-1], name="down")(y)


class _MixerBlock(nn.Module):
    tokens: int
    channels: int

    @nn.compact
    def __call__(self, x):
        y = nn.LayerNorm(name="norm_1")(x).swapaxes(1, 2)
        x = x + _MLP(self.tokens, name="tokens")(y).swapaxes(1, 2)
        y = nn.LayerNorm(name="norm_2")(x)
        return x + _MLP(self.channels, name="channels")(y)


class _Mixer(nn.Module):
    blocks: int = 3
    features: int = 8
    patch: int = 8
    tokens: int = 16
    channels: int = 16

    @nn.compact
    def __call__(self, images):
        patch = (self.patch, self.patch)
        x = nn.Conv(self.features, patch, patch, name="stem")(images)
        x = x.reshape(len(x), -1, self.features)
        for i in range(self.blocks):
            x = _MixerBlock(self.tokens, self.channels, name=f"block_{i}")(x)
        x = nn.LayerNorm(name="norm")(x).mean(1)
        return nn.Dense(10, name="head")(x)


class _Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        y = nn.LayerNorm(name="norm_1")(x)
        x = x + nn.MultiHeadDotProductAttention(2, name="attention")(y)
        y = nn.LayerNorm(name="norm_2")(x)
        return x + _MLP(2 * x.shape[-1], name="mlp")(y), None


class _Scanned(nn.Module):
    axis: int = 0
    width: int = 8
    blocks: int = 3

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(32, self.width, name="tokens")(tokens)
        x = x + self.param("positions", nn.initializers.zeros, (1, 6, self.width))
        block = nn.scan(
            _Block,
            variable_axes={"params": self.axis},
            split_rngs={"params": True},
            length=self.blocks,
        )
        x, _ = block(name="blocks")(x, None)
        return nn.Dense(32, name="head")(nn.LayerNorm(name="norm")(x))


def mixer(**sizes):
    return _shapes(_Mixer(**sizes), jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32))


def mixer_large():
    model = _Mixer(blocks=24, features=1024, patch=16, tokens=512, channels=4096)
    return _shapes(model, jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32))


def scanned(**sizes):
    return _shapes(_Scanned(**sizes), jax.ShapeDtypeStruct((2, 6), jnp.int32))


def scanned_along_axis_1():
    return scanned(axis=1)
