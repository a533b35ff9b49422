"""How the multipliers of scheduled policies are made of their numbers."""

import optax

import optax_llr
from optax_llr import Layers

from .policy import Multipliers, Number, Numbered


def moving(
    layers: Layers,
    total_steps: int,
    *,
    first_start: float,
    first_end: float,
    last_start: float,
    last_end: float,
) -> Multipliers:
    """Linear over depth and time, between the rates of the first and last layer."""
    first = optax.linear_schedule(first_start, first_end, total_steps)
    last = optax.linear_schedule(last_start, last_end, total_steps)
    return optax_llr.interpolate_schedule(layers, first, last)


def static(
    layers: Layers, total_steps: int, *, first: float, last: float
) -> Multipliers:
    """Linear over depth, the same all the time."""
    del total_steps
    return optax_llr.interpolate_schedule(layers, first, last)


def three_stage(
    layers: Layers,
    total_steps: int,
    *,
    first_start: float,
    first_end: float,
    first_duration: float,
    last_start: float,
    last_end: float,
) -> Multipliers:
    """The first level and the last move, those between stay at 1."""
    duration = max(1, whole_steps(first_duration, total_steps))
    first = optax.linear_schedule(first_start, first_end, duration)
    last = optax.linear_schedule(last_start, last_end, total_steps)
    ends = {0: first, int(layers.level.max()): last}
    levels = zip(layers.names, layers.level.tolist(), strict=True)
    return optax_llr.per_layer_schedule(
        layers, {n: ends.get(level, 1.0) for n, level in levels}
    )


def cascade(
    layers: Layers, total_steps: int, *, first_peak: float, last_peak: float
) -> Multipliers:
    """A one-cycle for each layer; the peaks move from the first layer to the last."""
    return optax_llr.cascade_schedule(
        layers,
        whole_steps(first_peak, total_steps),
        whole_steps(last_peak, total_steps),
        total_steps,
    )


def whole_steps(share: float, total_steps: int) -> int:
    """Whole steps in a share of the run, unmoved by the rounding of their product."""
    return int(round(share * total_steps, 6))


def discriminative(layers: Layers, total_steps: int, *, factor: float) -> Multipliers:
    """Each level lower by a factor than the one behind it."""
    del total_steps
    return optax_llr.layer_decay(layers, 1 / factor)


def unfreeze_top_first(
    layers: Layers, total_steps: int, *, duration: float
) -> Multipliers:
    """Level after level joins, the last one first."""
    return optax_llr.gradual_unfreeze_schedule(
        layers, stage_steps(layers, total_steps, duration)
    )


def unfreeze_bottom_first(
    layers: Layers, total_steps: int, *, duration: float
) -> Multipliers:
    """Level after level joins, the first one first."""
    steps = stage_steps(layers, total_steps, duration)
    return optax_llr.gradual_unfreeze_schedule(layers, steps, top_first=False)


def stage_steps(layers: Layers, total_steps: int, duration: float) -> float:
    """Steps a stage, such that the last level joins after this share of the run."""
    return duration * total_steps / max(1, int(layers.level.max()))


def freezeout(
    layers: Layers, total_steps: int, *, t0: float, power: float
) -> Multipliers:
    """Level after level anneals to 0, the first one first."""
    return optax_llr.freezeout_schedule(layers, total_steps, t0, power)


def rotation_alpha(layers: Layers, total_steps: int, *, alpha: float) -> Multipliers:
    """Rates of rotation of the source, by its α."""
    del total_steps
    return optax_llr.rotation_alpha(layers, alpha)


def multiplier(name: str, value: float) -> Number:
    """A number that is a multiplier, to be searched on a log scale."""
    return Number(name, value, 0.2, 5.0, log=True)


DURATION = Number("duration", 0.4, 0.05, 0.9)
"""By default such that the last level to join has a tenth of the run before `piecewise`
first drops the rate."""
ALPHA = Numbered(rotation_alpha, (Number("alpha", -0.6, -0.8, 0.8),))
"""Within what the authors tried."""
PEAKS = (Number("first_peak", 0.2, 0.02, 0.4), Number("last_peak", 0.6, 0.4, 0.9))
"""Ranges that meet but do not cross: the first peak never comes after the last one."""
