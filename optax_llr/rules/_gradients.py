"""Rules that measure gradients: their norm, and how they differ from batch to batch."""

from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from .._checks import Number
from ..layers._layers import Layers
from ..layers._paths import PyTree
from ..layers._sums import SMALLEST_NORM, layer_norm, layer_sum, updated
from ._adapt_layers import NOT_MEASURED, LayerStep, Rule
from ._shared import WITHIN, checked_decay, no_state, zeros

LARGEST = 1e18
"""Elements above it count as 0 in an average, which an infinite one would end."""


class SignalToNoiseState(NamedTuple):
    """State of `signal_to_noise`."""

    count: jax.Array  # pyright: ignore  # shape=(L,), dtype=jnp.int32; each layer's own
    mean: PyTree  # moving average of g; shapes of the parameters, float32 or wider
    square: jax.Array  # shape=(L,), dtype=jnp.float32; moving average of ‖g‖²


def gradient_norm() -> Rule:
    r"""LSALR: larger rates where the gradient is small.

    .. math::
        m_l = 1 + \log(1 + 1 / \lVert g_l \rVert_2)

    Always above 1, up to 44.7 for a gradient of 0: pass `relative=True` to
    `adapt_layers` where the rate should not grow with it. Bounds by default: 0 and 10⁶,
    none in effect.

    *Cost*: no memory; reads g once.

    Returns:
        A `Rule`, without parameters or state.

    Example:
        >>> import jax.numpy as jnp, optax, optax_llr
        >>> params = {"conv": jnp.array([0.01, 0.0]), "head": jnp.array([6.0, 8.0])}
        >>> layers = optax_llr.match_layers(params, [(k, k) for k in params])
        >>> optimizer = optax_llr.adapt_layers(
        ...     optax.sgd(0.1), layers, optax_llr.rules.gradient_norm())
        >>> _, state = optimizer.update(params, optimizer.init(params), params)
        >>> print(state.measured)
        [5.6151204 1.0953102]

    References:
        Singh et al., Layer-Specific Adaptive Learning Rates for Deep Networks,
        `arXiv:1510.04609 <https://arxiv.org/abs/1510.04609>`_ (the formula as other
        texts report it)
    """

    def update(step: LayerStep, state: tuple[()]) -> tuple[jax.Array, tuple[()]]:
        norm = jnp.maximum(layer_norm(step.layers, step.gradients), SMALLEST_NORM)
        return 1 + jnp.log1p(1 / norm), state

    return Rule(no_state, update, WITHIN)


def signal_to_noise(decay: Number = 0.9) -> Rule:
    r"""Smaller rates where gradients differ from batch to batch.

    .. math::
        m_l = \lVert \hat{E}[g_l] \rVert^2 / \hat{E} \lVert g_l \rVert^2

    from moving averages, their start from 0 corrected: 1 for a gradient that never
    changes, near (1 − ρ)/(1 + ρ) for noise alone. A layer whose gradients were all 0
    keeps the multiplier it had, as does one with NaN among them; what is no number, or
    above 1e18, counts as 0 in the average. A form of our own. Bounds by default: 0 and
    10⁶, none in effect.

    *Cost*: memory for the average of g, once the parameters in float32; reads g and the
    average, writes the average and reads it again.

    Args:
        decay: ρ, of both moving averages, in [0, 1).

    Returns:
        A `Rule` with a `SignalToNoiseState`.

    Example:
        >>> import jax.numpy as jnp, optax, optax_llr
        >>> params = {"steady": jnp.ones(2), "noisy": jnp.ones(2)}
        >>> layers = optax_llr.match_layers(params, [(k, k) for k in params])
        >>> optimizer = optax_llr.adapt_layers(
        ...     optax.sgd(0.1), layers, optax_llr.rules.signal_to_noise(0.5))
        >>> state = optimizer.init(params)
        >>> for sign in (1, -1, 1):
        ...     gradients = {"steady": jnp.ones(2), "noisy": sign * jnp.ones(2)}
        ...     _, state = optimizer.update(gradients, state, params)
        >>> print(state.measured.round(4))  # (½ − ¼ + ⅛)² / (⅞)²
        [1.     0.1837]
    """
    decay = checked_decay("signal_to_noise", decay)

    def init(layers: Layers, params: PyTree) -> SignalToNoiseState:
        return SignalToNoiseState(
            count=jnp.zeros(len(layers), jnp.int32),
            mean=jax.tree.map(zeros, params),
            square=jnp.zeros(len(layers), jnp.float32),
        )

    def average(mean: jax.Array, gradient: jax.Array) -> jax.Array:
        return decay * mean + (1 - decay) * _usable(gradient.astype(mean.dtype))

    def update(
        step: LayerStep, state: SignalToNoiseState
    ) -> tuple[jax.Array, SignalToNoiseState]:
        count = cast(jax.Array, optax.safe_increment(state.count))
        mean = updated(average, state.mean, step.gradients)
        squares = layer_sum(step.layers, jnp.square, step.gradients)
        known = jnp.isfinite(squares)
        square = decay * state.square + (1 - decay) * jnp.where(known, squares, 0)
        signal = layer_sum(step.layers, jnp.square, mean)
        # Both averages lack 1 − ρᵗ; it is squared above and not below.
        noise = square * (1 - decay ** count.astype(jnp.float32))
        known &= noise > 0
        share = jnp.minimum(signal / jnp.where(known, noise, 1), 1)
        share = jnp.where(known, share, NOT_MEASURED)
        return share, SignalToNoiseState(count, mean, square.astype(jnp.float32))

    return Rule(init, update, WITHIN)


def _usable(gradient: jax.Array) -> jax.Array:
    return jnp.where(jnp.abs(gradient) < LARGEST, gradient, 0)  # which NaN is not
