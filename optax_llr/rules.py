r"""Rules for `adapt_layers`: multipliers measured while training.

Each function makes a `Rule`. Norms, sums and products are those of a whole layer, over
all its leaves (or its slices of stacked leaves), formed in float32. g is the raw
gradient, u the update of the inner optimizer (negative, times the rate), w the
parameters, m the multiplier. float32 cannot hold the squares of norms below 1e-19 and
above 1e19: what is smaller counts as 1e-19 in a logarithm or a cosine and as 0 in a
ratio; what is larger leaves a layer the multiplier it had.

*Cost*: memory in units of the parameters, and how often the rule reads or writes
arrays as large as all of them; `benchmarks/rules.py` measures both.
"""

from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from ._adapt import LayerStep, Rule
from ._check import Number, check_numbers, require
from ._layers import Layers, PyTree
from ._learned import learned as learned
from ._reduce import layer_cosine, layer_norm, layer_sum, remembered, updated
from ._tail_exponent import tail_exponent as tail_exponent

LARGEST = 1e18
"""Elements above it count as 0 in an average, which an infinite one would end."""


class PreviousState(NamedTuple):
    """State of rules that look at two steps in a row."""

    previous: PyTree  # updates of the step before; shapes and dtypes of the parameters


class SignalToNoiseState(NamedTuple):
    """State of `signal_to_noise`."""

    count: jax.Array  # pyright: ignore  # shape=(), dtype=jnp.int32
    mean: PyTree  # moving average of g; shapes of the parameters, float32 or wider
    square: jax.Array  # shape=(L,), dtype=jnp.float32; moving average of ‖g‖²


def gradient_norm() -> Rule:
    r"""Larger rates where the gradient is small (LSALR).

    .. math::
        m_l = 1 + \log(1 + 1 / \lVert g_l \rVert_2)

    Always above 1: pass `relative=True` to `adapt_layers` where the rate should not
    grow with it.

    *Cost*: no memory; reads g once.

    Returns:
        A `Rule`, without parameters or state.

    Example:
        >>> import jax.numpy as jnp, optax, optax_llr
        >>> params = {"conv": jnp.array([0.01, 0.0]), "head": jnp.array([6.0, 8.0])}
        >>> layers = optax_llr.match_layers(params, [(k, k) for k in params])
        >>> optimizer = optax_llr.adapt_layers(
        ...     optax.sgd(0.1), optax_llr.rules.gradient_norm(), layers)
        >>> _, state = optimizer.update(params, optimizer.init(params), params)
        >>> print(state.measured)
        [5.6151204 1.0953102]

    References:
        Singh et al., Layer-Specific Adaptive Learning Rates for Deep Networks,
        `arXiv:1510.04609 <https://arxiv.org/abs/1510.04609>`_ (the formula as other
        texts report it)
    """

    def update(step: LayerStep, state: tuple[()]) -> tuple[jax.Array, tuple[()]]:
        return 1 + jnp.log1p(1 / layer_norm(step.layers, step.gradients)), state

    return Rule(_no_state, update)


def curvature(decay: Number = 0.9) -> Rule:
    r"""The rate at which a layer's step would lead to the bottom of its valley.

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
        ...     optax.sgd(0.1), optax_llr.rules.curvature(0.5), layers,
        ...     bounds=(0.01, 100))
        >>> state = optimizer.init(params)
        >>> for _ in range(20):
        ...     gradients = {"steep": 4 * params["steep"], "flat": params["flat"] / 2}
        ...     updates, state = optimizer.update(gradients, state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> rates = optax_llr.layer_multipliers(state, layers)
        >>> {name: round(0.1 * rate, 3) for name, rate in rates.items()}
        {'steep': 0.25, 'flat': 2.0}

    References:
        Smith & Topin, Super-Convergence,
        `arXiv:1708.07120 <https://arxiv.org/abs/1708.07120>`_
    """
    _check_decay("curvature", decay)

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

    return Rule(_nothing_before, update)


def hypergradient(rate: Number) -> Rule:
    r"""Descends the loss along the multipliers, by sums.

    .. math::
        m_l \leftarrow m_l - \beta \, \langle g_l(t), u_l(t-1) \rangle

    as :math:`\langle g(t), u(t-1) \rangle` is the derivative of the loss by the m of
    the step before. u is the whole update of the inner optimizer, momentum included.
    No change at the first step.

    The source changes rates α = η m by a β′ of its own: with an inner optimizer of
    rate η, β = β′ / η². It updates leaf by leaf and has no lower bound.

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
        ...     optax.sgd(1.0), optax_llr.rules.hypergradient(0.01), layers)
        >>> state = optimizer.init(params)
        >>> for _ in range(3):  # a constant gradient: faster, by β‖g‖² a step
        ...     _, state = optimizer.update(params, state, params)
        >>> optax_llr.layer_multipliers(state, layers)["head"]
        1.0199999809265137

    References:
        Baydin et al., Online Learning Rate Adaptation with Hypergradient Descent,
        `arXiv:1703.04782 <https://arxiv.org/abs/1703.04782>`_
    """
    check_numbers("hypergradient", rate=rate)
    require(rate > 0, f"hypergradient: expected a rate above 0, got {rate}")

    def update(
        step: LayerStep, state: PreviousState
    ) -> tuple[jax.Array, PreviousState]:
        slope = layer_sum(step.layers, jnp.multiply, step.gradients, state.previous)
        remembered_updates = remembered(state.previous, step.updates)
        return step.multipliers - rate * slope, PreviousState(remembered_updates)

    return Rule(_nothing_before, update)


def multiplicative_hypergradient(rate: Number) -> Rule:
    r"""Descends the loss along the multipliers, by factors.

    .. math::
        m_l \leftarrow m_l \left( 1 - \beta
        \frac{\langle g_l(t), u_l(t-1) \rangle}
        {\lVert g_l(t) \rVert \lVert u_l(t-1) \rVert} \right)

    A layer whose gradient still points along its last step goes faster, one that is
    pushed back slower, by β at most. How large gradients and rates are plays no part.
    No change at the first step, and where one of both is 0.

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
        ...     optax.adam(0.1), optax_llr.rules.multiplicative_hypergradient(0.5),
        ...     layers)
        >>> state = optimizer.init(params)
        >>> for _ in range(3):  # a constant gradient: twice × 1.5
        ...     _, state = optimizer.update(params, state, params)
        >>> optax_llr.layer_multipliers(state, layers)
        {'conv': 2.25, 'head': 2.25}

    References:
        Baydin et al., Online Learning Rate Adaptation with Hypergradient Descent,
        `arXiv:1703.04782 <https://arxiv.org/abs/1703.04782>`_ (this form as other
        texts report it)
    """
    owner = "multiplicative_hypergradient"
    check_numbers(owner, rate=rate)
    require((rate > 0) & (rate < 1), f"{owner}: expected a rate in (0, 1), got {rate}")

    def update(
        step: LayerStep, state: PreviousState
    ) -> tuple[jax.Array, PreviousState]:
        cosine = layer_cosine(step.layers, step.gradients, state.previous)
        remembered_updates = remembered(state.previous, step.updates)
        return step.multipliers * (1 - rate * cosine), PreviousState(remembered_updates)

    return Rule(_nothing_before, update)


def signal_to_noise(decay: Number = 0.9) -> Rule:
    r"""Smaller rates where gradients differ from batch to batch.

    .. math::
        m_l = \lVert \hat{E}[g_l] \rVert^2 / \hat{E} \lVert g_l \rVert^2

    from moving averages, their start from 0 corrected: 1 for a gradient that never
    changes, near (1 − ρ)/(1 + ρ) for noise alone. A layer whose gradients were all 0
    keeps the multiplier it had, as does one with NaN among them; what is no number, or
    above 1e18, counts as 0 in the average. A form of our own.

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
        ...     optax.sgd(0.1), optax_llr.rules.signal_to_noise(0.5), layers,
        ...     bounds=(0, 1))
        >>> state = optimizer.init(params)
        >>> for sign in (1, -1, 1):
        ...     gradients = {"steady": jnp.ones(2), "noisy": sign * jnp.ones(2)}
        ...     _, state = optimizer.update(gradients, state, params)
        >>> print(state.measured.round(4))  # (½ − ¼ + ⅛)² / (⅞)²
        [1.     0.1837]
    """
    _check_decay("signal_to_noise", decay)

    def init(layers: Layers, params: PyTree) -> SignalToNoiseState:
        return SignalToNoiseState(
            count=jnp.int32(0),
            mean=jax.tree.map(_zeros, params),
            square=jnp.zeros(len(layers), jnp.float32),
        )

    def average(mean: jax.Array, gradient: jax.Array) -> jax.Array:
        return decay * mean + (1 - decay) * _usable(gradient)

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
        share = jnp.minimum(signal / (square * (1 - decay**count)), 1)
        share = jnp.where(known, share, jnp.nan)
        return share, SignalToNoiseState(count, mean, square.astype(jnp.float32))

    return Rule(init, update)


def trust_ratio(coefficient: Number = 1.0, eps: Number = 0.0) -> Rule:
    r"""Steps in proportion to the weights, as in LAMB, by layer instead of by leaf.

    .. math::
        m_l = c \, \lVert w_l \rVert / (\lVert u_l \rVert + \epsilon)

    and 1 where one of the norms is 0. It undoes the size of u, and with it a rate that
    is part of it. So either scale behind it, as LAMB does,
    `chain(adapt_layers(scale_by_adam(), …), scale_by_learning_rate(η))`, with bounds
    that leave the ratios room, or take them as shares, by `relative=True`.

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
        ...         optax.scale_by_adam(), optax_llr.rules.trust_ratio(), layers),
        ...     optax.scale_by_learning_rate(0.1))
        >>> _, state = optimizer.update(gradients, optimizer.init(params), params)
        >>> print(state[0].measured.round(2))  # 5 / √2
        [3.54 1.  ]

    References:
        You et al., Large Batch Optimization for Deep Learning: Training BERT in 76
        minutes, `arXiv:1904.00962 <https://arxiv.org/abs/1904.00962>`_
    """
    _check_ratio("trust_ratio", coefficient, eps=eps)

    def update(step: LayerStep, state: tuple[()]) -> tuple[jax.Array, tuple[()]]:
        weight = _norm(step.layers, step.params)
        size = _norm(step.layers, step.updates)
        return _ratio(coefficient, weight, size, size + eps), state

    return Rule(_no_state, update)


def gradient_trust_ratio(
    coefficient: Number = 1e-3,
    weight_decay: Number = 0.0,
    eps: Number = 0.0,
) -> Rule:
    r"""Steps in proportion to the weights, as in LARS, by layer instead of by leaf.

    .. math::
        m_l = c \, \lVert w_l \rVert /
        (\lVert g_l \rVert + \lambda \lVert w_l \rVert + \epsilon)

    and 1 where one of the norms is 0. Unlike `trust_ratio` it divides by the raw
    gradient, so the rate of the inner optimizer stays in force. LARS scales before
    momentum, and this behind it. Give bounds that leave the ratios room: they are
    small, of the order of c.

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
        ...     optax.sgd(0.1), optax_llr.rules.gradient_trust_ratio(), layers,
        ...     bounds=(0, 10))
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

    def update(step: LayerStep, state: tuple[()]) -> tuple[jax.Array, tuple[()]]:
        weight = _norm(step.layers, step.params)
        slope = _norm(step.layers, step.gradients)
        below = slope + weight_decay * weight + eps
        return _ratio(coefficient, weight, slope, below), state

    return Rule(_no_state, update)


def _check_decay(owner: str, decay: Number) -> None:
    check_numbers(owner, decay=decay)
    require(
        (decay >= 0) & (decay < 1), f"{owner}: expected decay in [0, 1), got {decay}"
    )


def _check_ratio(owner: str, coefficient: Number, **others: Number) -> None:
    check_numbers(owner, coefficient=coefficient, **others)
    require(
        coefficient > 0, f"{owner}: expected a coefficient above 0, got {coefficient}"
    )
    for name, value in others.items():
        require(value >= 0, f"{owner}: expected {name} of 0 or above, got {value}")


def _no_state(layers: Layers, params: PyTree) -> tuple[()]:
    del layers, params
    return ()


def _nothing_before(layers: Layers, params: PyTree) -> PreviousState:
    del layers
    return PreviousState(optax.tree.zeros_like(params))


def _norm(layers: Layers, tree: PyTree) -> jax.Array:
    return jnp.sqrt(layer_sum(layers, jnp.square, tree))


def _zeros(param: jax.Array) -> jax.Array:
    """Zeros like a parameter, in single precision or wider."""
    dtype = jnp.result_type(param)
    return jnp.zeros_like(param, dtype=jnp.promote_types(dtype, jnp.float32))


def _usable(gradient: jax.Array) -> jax.Array:
    return jnp.where(jnp.abs(gradient) < LARGEST, gradient, 0)  # which NaN is not


def _ratio(
    coefficient: Number, weight: jax.Array, other: jax.Array, below: jax.Array
) -> jax.Array:
    """c·weight/below; 1 where a norm is 0, NaN where one is not finite."""
    zero = (weight == 0) | (other == 0)
    ratio = jnp.where(zero, 1.0, coefficient * weight / jnp.where(zero, 1, below))
    return jnp.where(jnp.isfinite(weight) & jnp.isfinite(other), ratio, jnp.nan)


def _absolute_difference(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.abs(a - b)
