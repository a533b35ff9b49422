"""contrib.learned: a small network that maps what a layer does to its multiplier."""

import math
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .._checks import Number, check_numbers, in_float32, require
from ..layers._layers import Layers
from ..layers._paths import PyTree
from ..layers._sums import (
    SMALLEST_NORM,
    layer_cosine,
    layer_norm,
    layer_sum,
    layers_in,
    remembered,
)
from ..rules._adapt_layers import LayerStep, Rule

FEATURES = 5
HIDDEN = 16
SPAN = 10.0
"""The network's multipliers lie between 1 / SPAN and SPAN."""


class Network(NamedTuple):
    """Weights of the network that all layers share: FEATURES → HIDDEN → 1."""

    first: jax.Array  # shape=(FEATURES, HIDDEN), dtype=jnp.float32
    bias: jax.Array  # shape=(HIDDEN,), dtype=jnp.float32
    last: jax.Array  # shape=(HIDDEN,), dtype=jnp.float32; 0 at first


class LearnedState(NamedTuple):
    """State of `learned`."""

    steps: jax.Array  # shape=(), dtype=jnp.int32; of the run
    network: Network
    optimizer: Any  # of the network
    features: jax.Array  # shape=(L, FEATURES), dtype=jnp.float32; of the step before
    previous: PyTree  # updates of the step before; shapes and dtypes of the parameters


def learned(total_steps: Number, rate: Number = 1e-3, key: jax.Array | int = 0) -> Rule:
    r"""Learned learning rates: a network finds, while training, what suits a layer.

    .. math::
        m_l = f_\phi(\log \lVert g_l \rVert, \log \lVert w_l \rVert,
        \cos(g_l, u_l(t-1)), t / T, d_l)

    One network f of 16 hidden units, the same for all layers, so that what it finds is
    a function of time, depth and state rather than a number a layer. With
    :math:`w(t) = w(t-1) + m_l u_l(t-1)` the derivative of the loss by the last m is
    :math:`\langle g_l(t), u_l(t-1) \rangle`; Adam takes φ down along it at every step,
    after division by its largest element over the layers. m is exactly 1 at the start
    and stays between 1/10 and 10.

    It sees one step ahead: a rate that pays later, it cannot find (Wu et al.). Where
    `adapt_layers` divides by the mean, so does the derivative; bounds do not stop it.

    The multipliers of a run, `layer_multipliers` at every step, can be replayed by
    `table_schedule` of them: the same as a schedule, without any rule.

    *Cost*: memory for u(t−1), once the parameters; reads g twice, u(t−1) twice and w
    once, writes u.

    Args:
        total_steps: T, above 0.
        rate: of Adam, for the network; above 0.
        key: a JAX key or an int, for the network's initial weights.

    Returns:
        A `Rule` with a `LearnedState`.

    Example:
        >>> import jax.numpy as jnp, optax, optax_llr
        >>> params = {"conv": jnp.ones(2), "head": jnp.ones(1)}
        >>> layers = optax_llr.match_layers(params, [(k, k) for k in params])
        >>> optimizer = optax_llr.adapt_layers(
        ...     optax.sgd(0.1), layers, optax_llr.contrib.learned(100))
        >>> state, found = optimizer.init(params), []
        >>> for _ in range(100):
        ...     _, state = optimizer.update(params, state, params)
        ...     found.append(state.measured)
        >>> print(found[0], bool((found[-1] > 1).all()))  # a steady slope: faster
        [1. 1.] True
        >>> replayed = optax.chain(
        ...     optax.sgd(0.1),
        ...     optax_llr.scale_by_layer(layers, optax_llr.table_schedule(found)))

    References:
        Andrychowicz et al., Learning to learn by gradient descent by gradient descent,
        `arXiv:1606.04474 <https://arxiv.org/abs/1606.04474>`_, for a network shared by
        what it optimizes; Baydin et al., Online Learning Rate Adaptation with
        Hypergradient Descent, `arXiv:1703.04782 <https://arxiv.org/abs/1703.04782>`_;
        Wu et al., Understanding Short-Horizon Bias in Stochastic Meta-Optimization,
        `arXiv:1803.02021 <https://arxiv.org/abs/1803.02021>`_
    """
    check_numbers("learned", total_steps=total_steps, rate=rate)
    for name, value in (("total_steps", total_steps), ("rate", rate)):
        require(value > 0, f"learned: {name}: expected a number above 0, got {value}")
    _check_key(key)
    total_steps = in_float32(total_steps)
    # With a root that has a derivative also where the network's own is still 0.
    descent = optax.adam(in_float32(rate), eps_root=1e-24)

    def init(layers: Layers, params: PyTree) -> LearnedState:
        network = _initial(key if isinstance(key, jax.Array) else jax.random.key(key))
        return LearnedState(
            steps=jnp.int32(0),
            network=network,
            optimizer=descent.init(network),
            features=jnp.zeros((len(layers), FEATURES), jnp.float32),
            previous=optax.tree.zeros_like(params),
        )

    def update(step: LayerStep, state: LearnedState) -> tuple[jax.Array, LearnedState]:
        slope = layer_sum(step.layers, jnp.multiply, step.gradients, state.previous)
        # All layers share the network: one that is no number must not spoil it.
        known = jnp.isfinite(state.features).all(axis=1)
        known &= layers_in("learned", step.layers, step.gradients)
        slope = jnp.where(known & jnp.isfinite(slope), slope, 0)
        steepest = jnp.abs(slope).max(initial=0)
        slope = slope / jnp.where(steepest > 0, steepest, 1)
        features = jnp.where(known[:, None], state.features, 0)

        def last_multipliers(network: Network) -> jax.Array:
            multipliers = _multipliers(network, features)
            if not step.relative:
                return multipliers
            # Else a step that all layers like would only raise what is divided out.
            total = jnp.where(known, multipliers, 0).sum()
            number = known.sum().astype(jnp.float32)
            return multipliers * number / jnp.where(known.any(), total, 1)

        _, pull = jax.vjp(last_multipliers, state.network)
        # Optax's Adam raises a float to an int, its count.
        with jax.numpy_dtype_promotion("standard"):
            changes, optimizer = descent.update(pull(slope)[0], state.optimizer)
        network = cast(Network, optax.apply_updates(state.network, changes))
        time = state.steps.astype(jnp.float32) / total_steps
        seen = _features(step, state.previous, time)
        return _multipliers(network, seen), LearnedState(
            steps=cast(jax.Array, optax.safe_increment(state.steps)),
            network=network,
            optimizer=optimizer,
            features=seen,
            previous=remembered(state.previous, step.updates),
        )

    return Rule(init, update)


def _check_key(key: object) -> None:
    number = isinstance(key, int | np.integer) and not isinstance(key, bool)
    if not number and not _is_key(key):
        raise ValueError(f"learned: key: expected a JAX key or an int, got {key!r}")


def _is_key(key: object) -> bool:
    """A new key, or one of the old kind, two uint32."""
    if not isinstance(key, jax.Array):
        return False
    kinds = jax.dtypes.prng_key, jnp.unsignedinteger
    return any(jnp.issubdtype(key.dtype, kind) for kind in kinds)


def _initial(key: jax.Array) -> Network:
    first = jax.random.normal(key, (FEATURES, HIDDEN), jnp.float32)
    zeros = jnp.zeros(HIDDEN, jnp.float32)
    return Network(first / math.sqrt(FEATURES), zeros, jnp.copy(zeros))


def _multipliers(network: Network, features: jax.Array) -> jax.Array:
    hidden = jnp.tanh(features @ network.first + network.bias[None])
    return jnp.exp(math.log(SPAN) * jnp.tanh(hidden @ network.last))


def _features(step: LayerStep, previous: PyTree, time: jax.Array) -> jax.Array:
    """What the network sees of each layer, (L, FEATURES)."""
    trees = step.gradients, step.params
    gradient, weight = (
        jnp.log(jnp.maximum(layer_norm(step.layers, tree), SMALLEST_NORM))
        for tree in trees
    )
    return jnp.stack(
        [
            gradient,
            weight,
            layer_cosine(step.layers, step.gradients, previous),
            jnp.full(len(step.layers), time),
            jnp.asarray(step.layers.depth, jnp.float32),
        ],
        axis=1,
    )
