"""Global learning-rate schedules, by name, all from Optax."""

import itertools
import typing

import optax

from ..config.choices import Schedule

DROPS = (0.5, 0.75, 0.9)
"""Where `piecewise` multiplies the rate by 0.1, as fractions of the run."""
FLOOR = 0.1
"""The lowest rate of `triangular`, as a fraction of the highest."""
TRIANGLES = 2
RESTARTS = (1, 2, 4)
"""The relative lengths of the cycles of `sgdr`."""
SLANTED = (1, 9)
"""The relative lengths of the two sides of `slanted`."""
RATIO = 32
"""The highest rate of `slanted`, as a multiple of the lowest."""
WARMUP = 0.1
"""Share of the run in which `warmup-cosine` rises."""
LOWEST = 0.1
"""What it falls to, as a fraction of the peak."""


def global_rate(name: str, peak: float, total_steps: int) -> optax.Schedule:
    """Makes a global schedule that lasts for a whole run.

    - constant: the peak throughout.
    - piecewise: the peak, ×0.1 at 50, 75 and 90 % of the run.
    - triangular: cyclical, two triangles from a tenth of the peak to the peak and back.
    - onecycle: one cosine up over 30 % of the run, one down to almost 0.
    - cosine: from the peak to 0.
    - sgdr: three cosines from the peak to 0, each twice as long as the one before.
    - slanted: one triangle, from 1/32 of the peak up over a tenth of the run and back.
    - warmup-cosine: linear up to the peak in a tenth of the run, and a cosine down to a
      tenth of the peak.

    Args:
        name: one of `Schedule`.
        peak: the highest rate.
        total_steps: the length of the run, in steps.

    Returns:
        A schedule `count -> rate`.

    Raises:
        ValueError: for a name that is no schedule.

    References:
        Smith, Cyclical Learning Rates for Training Neural Networks, arXiv:1506.01186
        Smith and Topin, Super-Convergence, arXiv:1708.07120
        Loshchilov and Hutter, SGDR, arXiv:1608.03983
        Howard and Ruder, ULMFiT, arXiv:1801.06146
    """
    match name:
        case "constant":
            return optax.constant_schedule(peak)
        case "piecewise":
            drops = {round(part * total_steps): 0.1 for part in DROPS}
            return optax.piecewise_constant_schedule(peak, drops)
        case "triangular":
            return _triangular(peak, total_steps)
        case "onecycle":
            return optax.cosine_onecycle_schedule(total_steps, peak)
        case "cosine":
            return optax.cosine_decay_schedule(peak, total_steps)
        case "sgdr":
            return _warm_restarts(peak, total_steps)
        case "slanted":
            return _slanted(peak, total_steps)
        case "warmup-cosine":
            up = warmup_steps(total_steps)
            return optax.warmup_cosine_decay_schedule(
                peak / (up + 1), peak, up, total_steps, LOWEST * peak
            )
        case _:
            known = ", ".join(typing.get_args(Schedule))
            raise ValueError(f"schedule: expected one of {known}; got {name!r}")


def warmup_steps(total_steps: int) -> int:
    """Steps in which `warmup-cosine` rises; the one behind them has the peak."""
    return round(WARMUP * total_steps)


def _triangular(peak: float, total_steps: int) -> optax.Schedule:
    turns, lengths = _split(total_steps, (1, 1) * TRIANGLES)
    slopes = itertools.cycle([(FLOOR * peak, peak), (peak, FLOOR * peak)])
    sides = [optax.linear_schedule(*next(slopes), length) for length in lengths]
    return optax.join_schedules(sides, turns)


def _warm_restarts(peak: float, total_steps: int) -> optax.Schedule:
    restarts, lengths = _split(total_steps, RESTARTS)
    cycles = [optax.cosine_decay_schedule(peak, length) for length in lengths]
    return optax.join_schedules(cycles, restarts)


def _slanted(peak: float, total_steps: int) -> optax.Schedule:
    turns, (up, down) = _split(total_steps, SLANTED)
    sides = [
        optax.linear_schedule(peak / RATIO, peak, up),
        optax.linear_schedule(peak, peak / RATIO, down),
    ]
    return optax.join_schedules(sides, turns)


def _split(total_steps: int, parts: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """Cuts a run into parts of these relative lengths: where, and lengths in steps."""
    ends = [
        round(total_steps * end / sum(parts)) for end in itertools.accumulate(parts)
    ]
    lengths = [max(1, end - begin) for begin, end in itertools.pairwise([0, *ends])]
    return ends[:-1], lengths
