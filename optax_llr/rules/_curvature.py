"""rules.curvature: to the bottom of the valley, from two steps in a row."""

import jax
import jax.numpy as jnp

from .._checks import Number
from ..layers._sums import layer_sum, remembered
from ._adapt_layers import LayerStep, Rule
from ._shared import PreviousState, checked_decay, nothing_before


def curvature(decay: Number = 0.9) -> Rule:
    r"""Super-convergence's estimate: the rate that leads to the bottom of the valley.

    .. math::
        m_l \leftarrow \rho \, m_l + (1 - \rho) \, m^*_l, \quad
        m^*_l = m_l \frac{\sum_{i \in l} \lvert u_i(t-1) \rvert}
        {\sum_{i \in l} \lvert u_i(t-1) - u_i(t) \rvert}

    Three points of the path of a layer give its curvature: between them it moved by
    :math:`m u(t-1)`, and it would have moved on by :math:`m u(t)`. For gradient descent
    with rate η on :math:`\tfrac{1}{2} h w^2` that makes :math:`η m^* = 1 / h` exactly.
    The source measures one rate for the whole network and lets it start at 0.1, which
    is the m = 1 of `optax.sgd(0.1)`.

    No change at the first step, where a layer stands still, and where it moves on a
    straight line (the source then divides by 0). Momentum makes lines straighter, and
    so m larger; noise makes all m smaller from step to step, unless they are taken as
    shares, by `relative=True`.

    *Cost*: memory for u(t−1), once the parameters; reads u and u(t−1), writes u.

    Args:
        decay: ρ, of the moving average, in [0, 1).

    Returns:
        A `Rule` with a `PreviousState`.

    Example:
        Two valleys, of curvature 4 and ½; the rates go to ¼ and 2.

        >>> import jax, jax.numpy as jnp, optax, optax_llr
        >>> params = {"steep": jnp.ones(2), "flat": jnp.ones(2)}
        >>> layers = optax_llr.match_layers(params, [(k, k) for k in params])
        >>> optimizer = optax_llr.adapt_layers(
        ...     optax.sgd(0.1), layers, optax_llr.rules.curvature(0.5),
        ...     bounds=(0.01, 100))
        >>> state = optimizer.init(params)
        >>> for _ in range(20):
        ...     gradients = {"steep": 4 * params["steep"], "flat": params["flat"] / 2}
        ...     updates, state = optimizer.update(gradients, state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> rates = optax_llr.layer_multipliers(layers, state)
        >>> {name: round(0.1 * rate, 3) for name, rate in rates.items()}
        {'steep': 0.25, 'flat': 2.0}

    References:
        Smith & Topin, Super-Convergence,
        `arXiv:1708.07120 <https://arxiv.org/abs/1708.07120>`_
    """
    decay = checked_decay("curvature", decay)

    def update(
        step: LayerStep, state: PreviousState
    ) -> tuple[jax.Array, PreviousState]:
        moved = layer_sum(step.layers, jnp.abs, state.previous)
        turned = layer_sum(
            step.layers, _absolute_difference, step.updates, state.previous
        )
        bent = (moved > 0) & (turned > 0)
        best = step.multipliers * moved / jnp.where(bent, turned, 1)
        average = decay * step.multipliers + (1 - decay) * best
        measured = jnp.where(bent, average, step.multipliers)
        # What is no number is no straight line either: it is told apart by the layer.
        measured = jnp.where(jnp.isfinite(moved + turned), measured, jnp.nan)
        return measured, PreviousState(remembered(state.previous, step.updates))

    return Rule(nothing_before, update)


def _absolute_difference(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.abs(a - b)
