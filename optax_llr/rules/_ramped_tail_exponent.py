"""rules.ramped_tail_exponent: TempBalance for language models, by small steps."""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
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
from ..layers._paths import PyTree, close_to, quoted
from ._adapt_layers import LayerStep, Rule
from ._shared import WITHIN
from ._spectra import layer_matrices, measured_when, shared_out, tail_exponents


class RampedTailExponentState(NamedTuple):
    """State of `ramped_tail_exponent`."""

    count: jax.Array  # pyright: ignore  # shape=(), dtype=jnp.int32
    start: jax.Array  # shape=(L,), dtype=jnp.float32; where the ramp began
    target: jax.Array  # shape=(L,), dtype=jnp.float32; last measured


def ramped_tail_exponent(
    every: Number,
    ramp_steps: Number,
    largest: Sequence[str],
    ratio: Number = 3.0,
    until: Number | None = None,
) -> Rule:
    r"""LLR: for language models, rates from 1 to a ratio, by the tail of each spectrum.

    .. math::
        m_l(t_0 + k) = m'_l + (\hat m_l - m'_l) \min\Bigl(\frac{k + 1}{K}, 1\Bigr),
        \quad \hat m_l = 1 + (r - 1)
        \frac{\alpha_l - \min \alpha}{\max \alpha - \min \alpha}

    where α is the exponent of `tail_exponent`, of the upper half of the eigenvalues,
    measured at t₀ = 0, every, 2·every, …; K is `ramp_steps`, r the ratio, and m′ the
    multipliers that the ramp before led to, 1 at first.

    *What is measured.* In the source each projection of a block, with a matrix of its
    own, has a rate of its own. So make a layer of each, as `trace_layers` does where it
    is not asked for blocks; of stacked blocks, each slice is one. A layer with several
    matrices has one exponent, of all their eigenvalues. `largest` names layers that are
    not measured and go to r: the source's embedding and head. Layers without a matrix,
    with fewer than 50 eigenvalues, or with an exponent that is not finite have 1. (So
    have norms in the source, where `trace_layers` lets a norm follow the layer that
    feeds it.) Where all exponents are equal, or only one is left, those layers have 1
    too; the source then takes r.

    *By program and by paper.* This follows the authors' program; of the paper only the
    abstract, its results and reviews could be read. As the exponent is defined in
    print, it divides by the eigenvalue below the upper half, λ at i − 1; the programs
    of LLR and TempBalance divide by the smallest of the half, λ at i, as is done here
    (up to 4 % more for 128 eigenvalues).
    The published configurations have r = 3, measured every 40 steps with K = 20; the
    commands for a model of 1B parameters r = 5, 4 or 3, every 100 steps with K = 50.
    They measure in the first fifth of a run (one command in all of it) and then keep
    what they have: `until`. By its reviews the paper first measured gradients; all
    commands measure weights alone. The program ramps the rate and not the multiplier,
    which is the same where the global rate does not change meanwhile; all its ramps but
    the first take K + 1 steps; it counts steps from 1, so that measurements after the
    first come a step earlier; and a ramp that `until` cuts short is taken back there,
    and finished here.

    *Cost*: that of `tail_exponent`, without the layers in `largest`.

    Args:
        every: steps from one measurement to the next, a whole number above 0; the
            first is made at the first step, from the initial weights.
        ramp_steps: K, a whole number from 1, which leads there at once, to `every`.
        largest: names of the layers that have the largest ratio whatever their spectra;
            `()` for none.
        ratio: r, the multiplier of the lightest tail, 1 or above.
        until: the step from which on nothing is measured, a whole number above 0; None
            to measure as long as there are steps.

    Returns:
        A `Rule` with a `RampedTailExponentState`.

    Raises:
        ValueError: for arguments that are no such numbers or names; from `init`, for a
            name that is no layer's.

    Example:
        >>> import jax, jax.numpy as jnp, optax, optax_llr
        >>> keys = jax.random.split(jax.random.key(0), 4)
        >>> names = ("embed", "up", "down", "head")
        >>> params = {name: jax.random.normal(key, (64, 64))
        ...           for name, key in zip(names, keys)}
        >>> params["up"] = params["up"] ** 3  # a heavier tail
        >>> layers = optax_llr.match_layers(params, [(k, k) for k in params])
        >>> rule = optax_llr.rules.ramped_tail_exponent(100, 50, ("embed", "head"))
        >>> optimizer = optax_llr.adapt_layers(optax.sgd(0.1), layers, rule)
        >>> state, update = optimizer.init(params), jax.jit(optimizer.update)
        >>> for _ in range(25):
        ...     _, state = update(params, state, params)
        >>> optax_llr.layer_multipliers(layers, state)  # half of the way
        {'embed': 2.0, 'up': 1.0, 'down': 2.0, 'head': 2.0}

    References:
        He et al., One LR Doesn't Fit All: Heavy-Tail Guided Layerwise Learning Rates
        for LLMs, `arXiv:2605.22297 <https://arxiv.org/abs/2605.22297>`_, and its code;
        Zhou et al., Temperature Balancing, Layer-wise Weight Analysis, and Neural
        Network Training, `arXiv:2312.00359 <https://arxiv.org/abs/2312.00359>`_
    """
    owner = "ramped_tail_exponent"
    check_counts(owner, every=every, ramp_steps=ramp_steps)
    check_numbers(owner, ratio=ratio)
    require(
        ramp_steps <= every,
        f"{owner}: ramp_steps: expected every = {every} or below, as the next ramp "
        f"begins where this one ends; got {ramp_steps}",
    )
    require(ratio >= 1, f"{owner}: ratio: expected a number of 1 or above, got {ratio}")
    every, ratio = as_count(every), in_float32(ratio)
    ramp_steps = in_float32(ramp_steps)
    if until is not None:
        check_counts(owner, until=until)
        until = as_count(until)
    names = _checked_names(owner, largest)

    def init(layers: Layers, params: PyTree) -> RampedTailExponentState:
        del params
        _check_known(owner, names, layers)
        ones = jnp.ones(len(layers), jnp.float32)
        return RampedTailExponentState(jnp.int32(0), ones, jnp.copy(ones))

    def update(
        step: LayerStep, state: RampedTailExponentState
    ) -> tuple[jax.Array, RampedTailExponentState]:
        top = np.array([name in names for name in step.layers.names], bool)

        def measure() -> jax.Array:
            matrices = layer_matrices(owner, step.layers, step.params)
            free = {i: stacks for i, stacks in matrices.items() if not top[i]}
            shares = shared_out(tail_exponents(len(step.layers), free), 1.0, ratio)
            return jnp.where(top, ratio, shares).astype(jnp.float32)

        count = state.count
        last = count if until is None else jnp.minimum(count, until - 1)
        last = last - last % every  # when it was last measured
        due = count == last
        start = jnp.where(due, state.target, state.start)
        target = measured_when(due, measure, state.target)
        share = (count - last + 1).astype(jnp.float32) / ramp_steps
        ramp = start + (target - start) * share  # exactly 1 from 1 to 1
        multipliers = jnp.where(share < 1, ramp, target)
        after = cast(jax.Array, optax.safe_increment(count))
        return multipliers, RampedTailExponentState(after, start, target)

    return Rule(init, update, WITHIN)


def _checked_names(owner: str, names: Sequence[str]) -> list[str]:
    """As a list, unless it is one name or holds anything else."""
    given: Any = names
    listed = isinstance(given, Sequence) and not isinstance(given, str)
    if not listed or not all(isinstance(name, str) for name in given):
        raise ValueError(
            f"{owner}: largest: expected a sequence of names of layers, as "
            f"('embed', 'head'), or () for none; got {names!r}"
        )
    return list(given)


def _check_known(owner: str, names: Sequence[str], layers: Layers) -> None:
    unknown = [name for name in names if name not in layers.names]
    if unknown:
        hints = "".join(close_to(name, layers.names) for name in unknown)
        raise ValueError(
            f"{owner}: largest: expected names of layers; {quoted(unknown)} are none. "
            f"The layers are {quoted(layers.names)}{hints.replace('?;', ';')}"
        )
