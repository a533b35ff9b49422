"""Rules that step in proportion to the weights: LARS and LAMB by layer."""

import jax
import jax.numpy as jnp

from .._checks import Number, check_numbers, in_float32, require
from ..layers._sums import layer_norm
from ._adapt_layers import LayerStep, Rule
from ._shared import WITHIN, no_state


def trust_ratio(coefficient: Number = 1.0, eps: Number = 0.0) -> Rule:
    r"""LAMB's trust ratio: steps in proportion to the weights, by layer, not by leaf.

    .. math::
        m_l = c \, \lVert w_l \rVert / (\lVert u_l \rVert + \epsilon)

    and 1 where one of the norms is 0. It undoes the size of u, and with it a rate that
    is part of it. So either scale behind it, as LAMB does,
    `chain(adapt_layers(scale_by_adam(), …), scale_by_learning_rate(η))`, or take the
    ratios as shares, by `relative=True`. Bounds by default: 0 and 10⁶, none in effect.

    *Cost*: no memory; reads w and u once.

    Args:
        coefficient: c, above 0.
        eps: ε, 0 or above.

    Returns:
        A `Rule`, without state.

    Example:
        >>> import jax.numpy as jnp, optax, optax_llr
        >>> params = {"conv": jnp.array([3.0, 4.0]), "head": jnp.array([0.0, 0.0])}
        >>> gradients = {"conv": jnp.ones(2), "head": jnp.ones(2)}
        >>> layers = optax_llr.match_layers(params, [(k, k) for k in params])
        >>> optimizer = optax.chain(
        ...     optax_llr.adapt_layers(
        ...         optax.scale_by_adam(), layers, optax_llr.rules.trust_ratio()),
        ...     optax.scale_by_learning_rate(0.1))
        >>> _, state = optimizer.update(gradients, optimizer.init(params), params)
        >>> print(state[0].measured.round(2))  # 5 / √2
        [3.54 1.  ]

    References:
        You et al., Large Batch Optimization for Deep Learning: Training BERT in 76
        minutes, `arXiv:1904.00962 <https://arxiv.org/abs/1904.00962>`_
    """
    _check_ratio("trust_ratio", coefficient, eps=eps)
    coefficient, eps = in_float32(coefficient), in_float32(eps)

    def update(step: LayerStep, state: tuple[()]) -> tuple[jax.Array, tuple[()]]:
        weight = layer_norm(step.layers, step.params)
        size = layer_norm(step.layers, step.updates)
        return _ratio(coefficient, weight, size, size + eps), state

    return Rule(no_state, update, WITHIN)


def gradient_trust_ratio(
    coefficient: Number = 1e-3,
    weight_decay: Number = 0.0,
    eps: Number = 0.0,
) -> Rule:
    r"""LARS: steps in proportion to the weights, by layer instead of by leaf.

    .. math::
        m_l = c \, \lVert w_l \rVert /
        (\lVert g_l \rVert + \lambda \lVert w_l \rVert + \epsilon)

    and 1 where one of the norms is 0. Unlike `trust_ratio` it divides by the raw
    gradient, so the rate of the inner optimizer stays in force. LARS scales before
    momentum, and this behind it. Ratios are small, of the order of c. Bounds by
    default: 0 and 10⁶, none in effect.

    *Cost*: no memory; reads w and g once.

    Args:
        coefficient: c, above 0.
        weight_decay: λ of the decay that the inner optimizer adds, 0 or above.
        eps: ε, 0 or above.

    Returns:
        A `Rule`, without state.

    Example:
        >>> import jax.numpy as jnp, optax, optax_llr
        >>> params = {"conv": jnp.array([3.0, 4.0]), "head": jnp.array([0.0, 0.0])}
        >>> gradients = {"conv": jnp.array([0.0, 0.01]), "head": jnp.ones(2)}
        >>> layers = optax_llr.match_layers(params, [(k, k) for k in params])
        >>> optimizer = optax_llr.adapt_layers(
        ...     optax.sgd(0.1), layers, optax_llr.rules.gradient_trust_ratio())
        >>> _, state = optimizer.update(gradients, optimizer.init(params), params)
        >>> print(state.measured.round(4))
        [0.5 1. ]

    References:
        You et al., Large Batch Training of Convolutional Networks,
        `arXiv:1708.03888 <https://arxiv.org/abs/1708.03888>`_
    """
    _check_ratio(
        "gradient_trust_ratio", coefficient, weight_decay=weight_decay, eps=eps
    )
    coefficient, eps = in_float32(coefficient), in_float32(eps)
    weight_decay = in_float32(weight_decay)

    def update(step: LayerStep, state: tuple[()]) -> tuple[jax.Array, tuple[()]]:
        weight = layer_norm(step.layers, step.params)
        slope = layer_norm(step.layers, step.gradients)
        below = slope + weight_decay * weight + eps
        return _ratio(coefficient, weight, slope, below), state

    return Rule(no_state, update, WITHIN)


def _check_ratio(owner: str, coefficient: Number, **others: Number) -> None:
    check_numbers(owner, coefficient=coefficient, **others)
    require(
        coefficient > 0,
        f"{owner}: coefficient: expected a number above 0, got {coefficient}",
    )
    for name, value in others.items():
        require(
            value >= 0, f"{owner}: {name}: expected a number of 0 or above, got {value}"
        )


def _ratio(
    coefficient: Number, weight: jax.Array, other: jax.Array, below: jax.Array
) -> jax.Array:
    """c·weight/below; 1 where a norm is 0, NaN where one is not finite."""
    zero = (weight == 0) | (other == 0)
    ratio = jnp.where(zero, 1.0, coefficient * weight / jnp.where(zero, 1, below))
    return jnp.where(jnp.isfinite(weight) & jnp.isfinite(other), ratio, jnp.nan)
