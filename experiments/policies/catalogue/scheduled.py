"""Policies that are known before the run."""

from typing import Annotated

import jax.numpy as jnp
import numpy as np
import optax

import optax_llr
from optax_llr import Layers

from ..policy import Multipliers, Range
from .entry import (
    CARBONNELLE,
    SMITH_TOPIN,
    THREAD,
    ULMFIT,
    Alpha,
    Duration,
    Factor,
    Multiplier,
    policy,
    stage_steps,
    whole_steps,
)

# These meet but do not cross: the first peak never comes after the last one.
FirstPeak = Annotated[float, Range(0.02, 0.4)]
LastPeak = Annotated[float, Range(0.4, 0.9)]


@policy("common practice")
def uniform(layers: Layers, total_steps: int) -> Multipliers:
    """Every layer at the global rate.

    The yardstick. Weights of all layers depend on one another, which speaks for solving
    for all of them together.
    """
    return np.ones(len(layers))


@policy(SMITH_TOPIN, "higher", "lower", schedule="onecycle")
def uniform_onecycle(layers: Layers, total_steps: int) -> Multipliers:
    """Every layer at the global rate, which rises and falls once.

    Slow at first, since it warms up, and ahead of uniform under piecewise at the end,
    as in two trial runs.
    """
    return np.ones(len(layers))


@policy("Loshchilov and Hutter, SGDR, arXiv:1608.03983", "same", schedule="cosine")
def uniform_cosine(layers: Layers, total_steps: int) -> Multipliers:
    """Every layer at the global rate, which falls to 0 along a cosine: uniform annealed
    most like freezeout.

    Behind uniform under piecewise just after half-way, where that drops its rate at
    once, and equal or slightly ahead at the end; what freezeout loses beyond that is
    the price of freezing.
    """
    return np.ones(len(layers))


@policy(THREAD, "same", "higher")
def early_first(
    layers: Layers,
    total_steps: int,
    first_start: Multiplier = 1.5,
    first_end: Multiplier = 0.5,
    last_start: Multiplier = 0.5,
    last_end: Multiplier = 1.5,
) -> Multipliers:
    """First layer 1.5 → 0.5, last layer 0.5 → 1.5, linear in depth and time.

    Faster to a given accuracy than uniform, equal at the end: later layers gain little
    from learning on features that still move.
    """
    return _moving(
        layers, total_steps, (first_start, first_end), (last_start, last_end)
    )


@policy(THREAD, "same", "lower")
def late_first(
    layers: Layers,
    total_steps: int,
    first_start: Multiplier = 0.5,
    first_end: Multiplier = 1.5,
    last_start: Multiplier = 1.5,
    last_end: Multiplier = 0.5,
) -> Multipliers:
    """early-first reversed: first layer 0.5 → 1.5, last layer 1.5 → 0.5.

    Slower to a given accuracy than uniform, equal at the end: features keep changing
    under layers that have already settled.
    """
    return _moving(
        layers, total_steps, (first_start, first_end), (last_start, last_end)
    )


@policy(THREAD, "same", "higher")
def static_decreasing(
    layers: Layers, total_steps: int, first: Multiplier = 1.5, last: Multiplier = 0.5
) -> Multipliers:
    """1.5 at the first layer down to 0.5 at the last, all the time.

    As fast as early-first in the beginning, since it begins the same, and no better at
    the end, where early layers should rest.
    """
    return optax_llr.interpolate_schedule(layers, first, last)


@policy(THREAD, "open", "lower")
def static_increasing(
    layers: Layers, total_steps: int, first: Multiplier = 0.5, last: Multiplier = 1.5
) -> Multipliers:
    """0.5 at the first layer up to 1.5 at the last, all the time.

    Slower in the beginning, like late-first; suited to weights that are already trained
    rather than to a start from scratch.
    """
    return optax_llr.interpolate_schedule(layers, first, last)


@policy(THREAD, "same", "higher")
def three_stage(
    layers: Layers,
    total_steps: int,
    first_start: Multiplier = 2.0,
    first_end: Multiplier = 0.5,
    first_duration: Annotated[float, Range(0.02, 1.0)] = 0.1,
    last_start: Multiplier = 0.5,
    last_end: Multiplier = 2.0,
) -> Multipliers:
    """First layer 2 → 0.5 in the first tenth of the run, last layer 0.5 → 2 over the
    whole run, those between at 1.

    Ahead of uniform early on, as the first layer settles within the first tenth; equal
    at the end.
    """
    duration = max(1, whole_steps(first_duration, total_steps))
    first = optax.linear_schedule(first_start, first_end, duration)
    last = optax.linear_schedule(last_start, last_end, total_steps)
    ends = {0: first, int(layers.level.max()): last}
    levels = zip(layers.names, layers.level.tolist(), strict=True)
    return optax_llr.per_layer_schedule(
        layers, {name: ends.get(level, 1.0) for name, level in levels}
    )


@policy(THREAD, "same", control="uniform-cascade", schedule="constant")
def cascade(
    layers: Layers,
    total_steps: int,
    first_peak: FirstPeak = 0.2,
    last_peak: LastPeak = 0.6,
) -> Multipliers:
    """A one-cycle for each layer, with peaks from 20 % of the run (first layer) to 60 %
    (last layer), all ending together.

    As good as its mean over the layers, as on two small networks, where cascade was
    ahead of a one-cycle by its course over time.
    """
    return _cascade(layers, total_steps, first_peak, last_peak)


@policy(THREAD, "higher", "lower", schedule="constant")
def uniform_cascade(
    layers: Layers,
    total_steps: int,
    first_peak: FirstPeak = 0.2,
    last_peak: LastPeak = 0.6,
) -> Multipliers:
    """Every layer at the mean over the layers of cascade: uniform annealed as cascade.

    Slow at first, since it warms up, and ahead of uniform under piecewise at the end,
    as a one-cycle is.
    """
    schedule = _cascade(layers, total_steps, first_peak, last_peak)
    return lambda count: jnp.full(len(layers), jnp.mean(schedule(count)))


@policy(ULMFIT, "lower", "lower")
def discriminative(
    layers: Layers, total_steps: int, factor: Factor = 2.6
) -> Multipliers:
    """The last layer at 1, each level below at 1/2.6 of the one above.

    Worse than uniform from scratch: made for fine-tuning, it hardly moves the first
    layers, which here are still random.
    """
    return optax_llr.layer_decay(layers, 1 / factor)


@policy(ULMFIT + "; " + THREAD, "lower", "lower")
def unfreeze_top_first(
    layers: Layers, total_steps: int, duration: Duration = 0.4
) -> Multipliers:
    """One level after another joins from the last to the first, over the first 40 % of
    the run.

    Slower and somewhat worse than uniform: the last layers start by learning from
    random features.
    """
    # By default the last level to join has a tenth of the run before `piecewise` first
    # drops the rate.
    steps = stage_steps(layers, total_steps, duration)
    return optax_llr.gradual_unfreeze_schedule(layers, steps)


@policy(THREAD, "same", "lower")
def unfreeze_bottom_first(
    layers: Layers, total_steps: int, duration: Duration = 0.4
) -> Multipliers:
    """One level after another joins from the first to the last, over the first 40 % of
    the run.

    Slower than uniform at first, as signals pass through random layers above, but ahead
    of unfreeze-top-first; near uniform at the end.
    """
    steps = stage_steps(layers, total_steps, duration)
    return optax_llr.gradual_unfreeze_schedule(layers, steps, top_first=False)


@policy(
    "Brock et al., FreezeOut, arXiv:1706.04983",
    "same",
    control="uniform-cosine",
    schedule="constant",
)
def freezeout(
    layers: Layers,
    total_steps: int,
    t0: Annotated[float, Range(0.3, 1.0)] = 0.8,
    power: Annotated[float, Range(1.0, 4.0)] = 3.0,
) -> Multipliers:
    """Each layer follows a cosine to 0 of its own; the first is frozen from 51 % of the
    run on, the last never.

    As good as uniform or slightly worse, in less time: the gradients of frozen layers
    are not computed.
    """
    return optax_llr.freezeout_schedule(layers, total_steps, t0, power)


@policy(CARBONNELLE, "lower")
def rotation_alpha(
    layers: Layers, total_steps: int, alpha: Alpha = -0.6
) -> Multipliers:
    """Layer rates (1 + α)^(5l/N) with α = −0.6: 1 at the first layer, 0.01 at the last.

    Worse than uniform, as its source reports for layers that rotate at unequal rates;
    by how much under plain SGD is open.
    """
    return optax_llr.rotation_alpha(layers, alpha)


def _cascade(layers: Layers, total_steps: int, *peaks: float) -> optax.Schedule:
    first, last = (whole_steps(peak, total_steps) for peak in peaks)
    return optax_llr.cascade_schedule(layers, first, last, total_steps)


def _moving(
    layers: Layers,
    total_steps: int,
    first: tuple[float, float],
    last: tuple[float, float],
) -> Multipliers:
    """Linear over depth and time, between the rates of the first and last layer."""
    ends = (optax.linear_schedule(*end, total_steps) for end in (first, last))
    return optax_llr.interpolate_schedule(layers, *ends)
