"""rules.tail_exponent: rates by the tails of the spectra of the weights."""

from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from .._checks import (
    Number,
    as_count,
    check_counts,
    check_numbers,
    in_float32,
    require,
)
from ..layers._layers import Layers
from ..layers._paths import PyTree
from ._adapt_layers import LayerStep, Rule
from ._shared import WITHIN
from ._spectra import layer_matrices, measured_when, shared_out, tail_exponents


class TailExponentState(NamedTuple):
    """State of `tail_exponent`."""

    count: jax.Array  # pyright: ignore  # shape=(), dtype=jnp.int32
    multipliers: jax.Array  # shape=(L,), dtype=jnp.float32; last measured


def tail_exponent(every: Number, low: Number = 0.5, high: Number = 1.5) -> Rule:
    r"""TempBalance: larger rates where the spectrum of the weights has a light tail.

    .. math::
        m_l = s_1 + (s_2 - s_1)
        \frac{\alpha_l - \min \alpha}{\max \alpha - \min \alpha}, \quad
        \alpha_l = 1 + n \Bigl/ \sum_{j \ge i} \ln (\lambda_j / \lambda_i)

    where λ are the squared singular values of the matrices of a layer in ascending
    order, N of them, i = ⌊N/2⌋ and n = N − i. A matrix is a leaf of two axes. A leaf of
    three is one matrix too, as an attention's kernel with an axis for its heads: of the
    two places to cut its axes, the one that leaves the larger smaller side. Of a leaf
    with more, each slice of the last two axes is one, as the source takes a
    convolution. Biases and norms follow their layer.

    The first and the last layer with a matrix (of those it is given: in a `Phase`, of
    those that train) keep 1, and so do layers with fewer than
    50 eigenvalues, or with an exponent that is not finite (one whose eigenvalue i is 0,
    say). Where all exponents are equal, or only one layer is left, all keep 1; the
    source then takes s₂.

    *Cost*: no memory but, in one step of `every`, that of the decompositions and a copy
    of the matrices: the singular values of all of them, a·b·min(a, b) operations for
    each, those of one shape in one call; in the other steps nothing. Under `jax.vmap`,
    which computes both branches, in all of them.

    Args:
        every: steps from one measurement to the next, a whole number above 0; the
            first is made at the first step, from the initial weights. The source
            measures once an epoch.
        low: s₁, the multiplier of the heaviest tail, 0 or above.
        high: s₂, the multiplier of the lightest tail, not below low.

    Returns:
        A `Rule` with a `TailExponentState`.

    Example:
        >>> import jax, jax.numpy as jnp, optax, optax_llr
        >>> keys = jax.random.split(jax.random.key(0), 4)
        >>> params = {f"dense{i}": jax.random.normal(keys[i], (64, 64))
        ...           for i in range(4)}
        >>> params["dense1"] = params["dense1"] ** 3  # a heavier tail
        >>> layers = optax_llr.match_layers(params, [(k, k) for k in params])
        >>> optimizer = optax_llr.adapt_layers(
        ...     optax.sgd(0.1), layers, optax_llr.rules.tail_exponent(every=100))
        >>> _, state = optimizer.update(params, optimizer.init(params), params)
        >>> optax_llr.layer_multipliers(layers, state)
        {'dense0': 1.0, 'dense1': 0.5, 'dense2': 1.5, 'dense3': 1.0}

    References:
        Zhou et al., Temperature Balancing, Layer-wise Weight Analysis, and Neural
        Network Training, `arXiv:2312.00359 <https://arxiv.org/abs/2312.00359>`_
    """
    check_counts("tail_exponent", every=every)
    check_numbers("tail_exponent", low=low, high=high)
    require(low >= 0, f"tail_exponent: low: expected a number of 0 or above, got {low}")
    require(
        high >= low, f"tail_exponent: high: expected low = {low} or above, got {high}"
    )
    every, low, high = as_count(every), in_float32(low), in_float32(high)

    def init(layers: Layers, params: PyTree) -> TailExponentState:
        del params
        return TailExponentState(jnp.int32(0), jnp.ones(len(layers), jnp.float32))

    def update(
        step: LayerStep, state: TailExponentState
    ) -> tuple[jax.Array, TailExponentState]:
        def measure() -> jax.Array:
            matrices = layer_matrices("tail_exponent", step.layers, step.params)
            inner = {index: matrices[index] for index in list(matrices)[1:-1]}
            return shared_out(tail_exponents(len(step.layers), inner), low, high)

        due = state.count % every == 0
        multipliers = measured_when(due, measure, state.multipliers)
        count = cast(jax.Array, optax.safe_increment(state.count))
        return multipliers, TailExponentState(count, multipliers)

    return Rule(init, update, WITHIN)
