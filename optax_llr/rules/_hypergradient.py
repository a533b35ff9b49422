"""Rules that descend the loss: hypergradients."""

import jax
import jax.numpy as jnp

from .._checks import Number, check_numbers, in_float32, require
from ..layers._sums import layer_cosine, layer_sum, remembered
from ._adapt_layers import LayerStep, Rule
from ._shared import PreviousState, nothing_before

BOUNDS = (1e-3, 1e3)
"""Wide; but factors would never lead away from 0."""


def hypergradient(rate: Number) -> Rule:
    r"""Hypergradient descent: down the loss along the multipliers, by sums.

    .. math::
        m_l \leftarrow m_l - \beta \, \langle g_l(t), u_l(t-1) \rangle

    as :math:`\langle g(t), u(t-1) \rangle` is the derivative of the loss by the m of
    the step before. u is the whole update of the inner optimizer, momentum included.
    No change at the first step.

    The source changes rates α = η m by a β′ of its own: with an inner optimizer of
    rate η, β = β′ / η². It updates leaf by leaf and has no lower bound; this one has
    10⁻³ and 10³ by default.

    *Cost*: memory for u(t−1), once the parameters; reads g and u(t−1), writes u.

    Args:
        rate: β, above 0.

    Returns:
        A `Rule` with a `PreviousState`.

    Example:
        >>> import jax.numpy as jnp, optax, optax_llr
        >>> params = {"conv": jnp.ones(2), "head": jnp.ones(1)}
        >>> layers = optax_llr.match_layers(params, [(k, k) for k in params])
        >>> optimizer = optax_llr.adapt_layers(
        ...     optax.sgd(1.0), layers, optax_llr.rules.hypergradient(0.01))
        >>> state = optimizer.init(params)
        >>> for _ in range(3):  # a constant gradient: faster, by β‖g‖² a step
        ...     _, state = optimizer.update(params, state, params)
        >>> optax_llr.layer_multipliers(layers, state)["head"]
        1.0199999809265137

    References:
        Baydin et al., Online Learning Rate Adaptation with Hypergradient Descent,
        `arXiv:1703.04782 <https://arxiv.org/abs/1703.04782>`_
    """
    check_numbers("hypergradient", rate=rate)
    require(rate > 0, f"hypergradient: rate: expected a number above 0, got {rate}")
    rate = in_float32(rate)

    def update(
        step: LayerStep, state: PreviousState
    ) -> tuple[jax.Array, PreviousState]:
        slope = layer_sum(step.layers, jnp.multiply, step.gradients, state.previous)
        remembered_updates = remembered(state.previous, step.updates)
        return step.multipliers - rate * slope, PreviousState(remembered_updates)

    return Rule(nothing_before, update, BOUNDS)


def multiplicative_hypergradient(rate: Number) -> Rule:
    r"""Hypergradient descent, multiplicative: along the multipliers, by factors.

    .. math::
        m_l \leftarrow m_l \left( 1 - \beta
        \frac{\langle g_l(t), u_l(t-1) \rangle}
        {\lVert g_l(t) \rVert \lVert u_l(t-1) \rVert} \right)

    A layer whose gradient still points along its last step goes faster, one that is
    pushed back slower, by β at most. How large gradients and rates are plays no part.
    No change at the first step, and where one of both is 0. Bounds by default: 10⁻³ and
    10³.

    *Cost*: memory for u(t−1), once the parameters; reads g and u(t−1) twice, writes u.

    Args:
        rate: β, in (0, 1).

    Returns:
        A `Rule` with a `PreviousState`.

    Example:
        >>> import jax.numpy as jnp, optax, optax_llr
        >>> params = {"conv": jnp.ones(2), "head": jnp.ones(1)}
        >>> layers = optax_llr.match_layers(params, [(k, k) for k in params])
        >>> optimizer = optax_llr.adapt_layers(
        ...     optax.adam(0.1), layers,
        ...     optax_llr.rules.multiplicative_hypergradient(0.5))
        >>> state = optimizer.init(params)
        >>> for _ in range(3):  # a constant gradient: twice × 1.5
        ...     _, state = optimizer.update(params, state, params)
        >>> optax_llr.layer_multipliers(layers, state)
        {'conv': 2.25, 'head': 2.25}

    References:
        Baydin et al., Online Learning Rate Adaptation with Hypergradient Descent,
        `arXiv:1703.04782 <https://arxiv.org/abs/1703.04782>`_ (this form as other
        texts report it)
    """
    owner = "multiplicative_hypergradient"
    check_numbers(owner, rate=rate)
    require(
        (rate > 0) & (rate < 1),
        f"{owner}: rate: expected a number in (0, 1), got {rate}",
    )
    rate = in_float32(rate)

    def update(
        step: LayerStep, state: PreviousState
    ) -> tuple[jax.Array, PreviousState]:
        cosine = layer_cosine(step.layers, step.gradients, state.previous)
        remembered_updates = remembered(state.previous, step.updates)
        return step.multipliers * (1 - rate * cosine), PreviousState(remembered_updates)

    return Rule(nothing_before, update, BOUNDS)
