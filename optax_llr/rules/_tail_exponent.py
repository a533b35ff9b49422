"""rules.tail_exponent: rates by the tails of the spectra of the weights."""

from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.core import Tracer

from .._checks import (
    Number,
    as_count,
    check_counts,
    check_numbers,
    in_float32,
    require,
    wide_dtype,
)
from ..layers._layers import Layers
from ..layers._paths import PyTree
from ..layers._sums import layer_slices
from ._adapt_layers import NOT_MEASURED, LayerStep, Rule
from ._shared import WITHIN

FEWEST = 50
"""Eigenvalues below which a layer is not measured, as in the source."""


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
    order, N of them, i = ⌊N/2⌋ and n = N − i. A matrix is a leaf of two axes; of a leaf
    with more, each slice of the last two axes is one, as the source takes a
    convolution. (An attention's kernels of three axes are read that way too.) Biases
    and norms follow their layer.

    The first and the last layer with a matrix (of those it is given: in a `Phase`, of
    those that train) keep 1, and so do layers with fewer than
    50 eigenvalues, or with an exponent that is not finite (one whose eigenvalue i is 0,
    say). Where all exponents are equal, or only one layer is left, all keep 1; the
    source then takes s₂.

    *Cost*: no memory but that of the decompositions. In one step of `every` the
    singular values of all matrices, a·b·min(a, b) operations for each; in the others
    nothing. Under `jax.vmap`, which computes both branches, in all of them.

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
            return _shared_out(_exponents(step.layers, step.params), low, high)

        due = state.count % every == 0
        if isinstance(due, Tracer):
            multipliers = lax.cond(due, measure, lambda: state.multipliers)
        else:  # as `cond` would compile its branches anew in each step
            multipliers = measure() if due else state.multipliers
        count = cast(jax.Array, optax.safe_increment(state.count))
        return multipliers, TailExponentState(count, multipliers)

    return Rule(init, update, WITHIN)


def exponent(eigenvalues: jax.Array) -> jax.Array:
    """α of the upper half of eigenvalues (N,); NOT_MEASURED where there is none."""
    ordered = jnp.sort(eigenvalues)
    tail = ordered[len(ordered) // 2 :]
    start = tail[0]
    ratios = jnp.where(start > 0, tail / jnp.where(start > 0, start, 1), 1)
    total = jnp.log(ratios).sum()
    found = 1 + len(tail) / jnp.where(total > 0, total, 1)
    return jnp.where(total > 0, found, NOT_MEASURED)


def _exponents(layers: Layers, params: PyTree) -> jax.Array:
    """α of each layer, (L,); NOT_MEASURED where there is none."""
    found: dict[int, jax.Array] = {}
    for index, parts in layer_slices("tail_exponent", layers, params).items():
        if matrices := [part for part in parts if part.ndim > 1 and part.size]:
            found[index] = jnp.concatenate([_eigenvalues(m) for m in matrices])
    inner = [index for index in list(found)[1:-1] if len(found[index]) >= FEWEST]
    exponents = jnp.full(len(layers), NOT_MEASURED, jnp.float32)
    if inner:
        values = jnp.stack([exponent(found[index]) for index in inner])
        exponents = exponents.at[np.array(inner, np.int32)].set(values)
    return exponents


def _eigenvalues(leaf: jax.Array) -> jax.Array:
    """Squared singular values of all matrices (…, a, b) in a leaf, as a vector."""
    singular = jnp.linalg.svd(leaf.astype(wide_dtype(leaf)), compute_uv=False)
    return jnp.square(singular).ravel().astype(jnp.float32)


def _shared_out(exponents: jax.Array, low: Number, high: Number) -> jax.Array:
    measured = exponents < NOT_MEASURED  # which NaN is not
    known = jnp.where(measured, exponents, 0)
    least = jnp.where(measured, exponents, NOT_MEASURED).min(initial=NOT_MEASURED)
    spread = known.max(initial=0) - least  # below 0 where there is none
    part = (known - least) / jnp.where(spread > 0, spread, 1)
    shares = jnp.where(measured & (spread > 0), low + (high - low) * part, 1.0)
    return shares.astype(jnp.float32)
