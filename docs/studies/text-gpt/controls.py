"""Policies of this study that take one thing out of a method and leave the rest."""

import jax.numpy as jnp
import numpy as np

from experiments.policies.catalogue import POLICIES

FEED_FORWARD = ("gate", "up", "down")


def ends_at_three(layers, total_steps):
    """Embedding and head 3, all others 1, divided by their mean.

    LLR's extremes without its measurements: at least half of what it gains.
    """
    return _three(_ends(layers))


def shapes_at_three(layers, total_steps):
    """Embedding, head and feed-forward 3, all others 1, divided by their mean.

    What LLR's multipliers are at random weights, where only the shape of a matrix makes
    its exponent: as much as LLR gains, if training changes little of that.
    """
    ends = [name.rpartition("/")[-1] in FEED_FORWARD for name in layers.names]
    return _three(_ends(layers) | np.array(ends))


def annealed_as_blockwise(layers, total_steps):
    """Every layer at the mean over the layers of blockwise, at every step.

    Blockwise ends at a lower rate than the schedule: what is owed to that alone.
    """
    schedule = POLICIES["blockwise"].multipliers(layers, total_steps)
    return lambda count: jnp.full(len(layers), schedule(count).mean())


def _ends(layers):
    return (layers.level == 0) | (layers.distance == 0)


def _three(chosen):
    multipliers = np.where(chosen, 3.0, 1.0)
    return multipliers / multipliers.mean()
