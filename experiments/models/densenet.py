"""DenseNet-BC: each layer sees the outputs of all layers before it."""

import jax
import jax.numpy as jnp
from flax import nnx

from .parts import Parts


class DenseNet(nnx.Module):
    """Three dense blocks with compressing transitions between them.

    With growth k and depth 6n + 4: a 3×3 stem of 2k channels; blocks of n layers, each
    of which adds k channels; transitions that halve the channels and the image; the
    mean over all pixels; the head. Each convolution has norm and ReLU before it.

    FreezeOut's code trains k = 12 at depth 76, n = 12; its transitions have the norm
    after the ReLU, ours, as in the paper of DenseNet, before it. Without norms nothing
    takes their place: He's initial weights give new channels the mean square of those
    that they are made of, so a concatenation keeps its scale through any depth.

    References:
        Huang et al., Densely Connected Convolutional Networks, arXiv:1608.06993
        Brock et al., FreezeOut: Accelerate Training by Progressively Freezing Layers,
        arXiv:1706.04983
    """

    def __init__(self, depth: int, growth: int, num_classes: int, parts: Parts):
        n = (depth - 4) // 6
        features = 2 * growth
        self.stem = parts.conv(3, features)
        steps: list[nnx.Module] = []
        for block in range(3):
            if block:
                steps.append(Transition(features, features // 2, parts))
                features //= 2
            for _ in range(n):
                steps.append(DenseLayer(features, growth, parts))
                features += growth
        self.steps = nnx.List(steps)
        self.norm = parts.normalise(features)
        self.head = parts.dense(features, num_classes)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Images (n, 32, 32, 3) → logits (n, num_classes)."""
        x = self.stem(images)
        for step in self.steps:
            x = step(x)
        x = nnx.relu(self.norm(x))
        return self.head(x.mean((1, 2))).astype(jnp.float32)


class DenseLayer(nnx.Module):
    """x, beside it what a 1×1 convolution to 4k channels and a 3×3 one to k make."""

    def __init__(self, inputs: int, growth: int, parts: Parts):
        between = 4 * growth
        self.norm1, self.first = parts.normalise(inputs), parts.conv(inputs, between, 1)
        self.norm2, self.second = parts.normalise(between), parts.conv(between, growth)

    def __call__(self, x: jax.Array) -> jax.Array:
        """(n, height, width, inputs) → (n, height, width, inputs + growth)."""
        new = self.first(nnx.relu(self.norm1(x)))
        new = self.second(nnx.relu(self.norm2(new)))
        return jnp.concatenate([x, new], axis=-1)


class Transition(nnx.Module):
    """A 1×1 convolution, then the mean of each 2×2 pixels."""

    def __init__(self, inputs: int, outputs: int, parts: Parts):
        self.norm, self.conv = parts.normalise(inputs), parts.conv(inputs, outputs, 1)

    def __call__(self, x: jax.Array) -> jax.Array:
        """(n, height, width, inputs) → (n, height/2, width/2, outputs)."""
        x = self.conv(nnx.relu(self.norm(x)))
        n, height, width, features = x.shape
        return x.reshape(n, height // 2, 2, width // 2, 2, features).mean((2, 4))
