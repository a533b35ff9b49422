"""What few paired runs allow to be said: differences, Holm's p, censored medians."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
FEWEST_PAIRS = 3
ROUNDING = 1e-9
"""Accuracies that differ by less differ by the order of their sums only."""


@dataclasses.dataclass(frozen=True)
class Difference:
    """A measure under one policy minus the same under its control, paired by seed.

    Attributes:
        n: pairs: seeds with a value under both.
        mean: over the pairs.
        interval: 95 % t interval of the mean, (low, high), not corrected for the number
            of policies; None for fewer than 3 pairs, or if all differ by the same.
        p: of the two-sided paired t test; None where there is no interval, but 1 where
            3 pairs or more do not differ at all.
        p_holm: the same, corrected by `holm`.
    """

    n: int
    mean: float
    interval: tuple[float, float] | None = None
    p: float | None = None
    p_holm: float | None = None


@dataclasses.dataclass(frozen=True)
class Time:
    """The median time to an event that some runs never see.

    Attributes:
        value: the median; if censored, what the median is known to lie above, which is
            infinite where half of the runs or more never can.
        censored: whether fewer than half of the runs saw the event.
    """

    value: float
    censored: bool


def paired(
    values: Mapping[int, float], control: Mapping[int, float]
) -> Difference | None:
    """The mean difference over the seeds that both have, with interval and p.

    Pairs that all differ by the same have no spread, hence no t: p is 1 if that same
    is 0, as under two policies that do the same, and is left out otherwise.

    Args:
        values: seed → measure.
        control: likewise.

    Returns:
        None without a pair.
    """
    shared = [seed for seed in values if seed in control]
    if not shared:
        return None
    ours = np.array([values[seed] for seed in shared])
    theirs = np.array([control[seed] for seed in shared])
    n, mean = len(shared), float((ours - theirs).mean())
    if n < FEWEST_PAIRS:
        return Difference(n, mean)
    if np.ptp(ours - theirs) < ROUNDING:
        return Difference(n, mean, p=1.0 if abs(mean) < ROUNDING else None)
    test = stats.ttest_rel(ours, theirs)
    low, high = test.confidence_interval(CONFIDENCE)
    return Difference(n, mean, (float(low), float(high)), float(test.pvalue))


def holm(p: Mapping[str, float]) -> dict[str, float]:
    r"""Corrects the p values of one family of tests, Holm's step-down way.

    .. math::
        \tilde p_{(i)} = \max_{j \le i} \min(1, (m + 1 - j) \, p_{(j)})

    for the m values in ascending order. The chance that any true null hypothesis of the
    family gets a corrected p of at most a is at most a, however the tests depend on one
    another.

    Args:
        p: name → p value.

    References:
        Holm, A simple sequentially rejective multiple test procedure, Scandinavian
        Journal of Statistics 6 (1979).
    """
    corrected: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p, key=p.__getitem__)):
        largest = max(largest, min(1.0, (len(p) - rank) * p[name]))
        corrected[name] = largest
    return corrected


def median_time(
    reached: Sequence[float], missed: Sequence[float], unfinished: Sequence[float]
) -> Time:
    """The time by which half of the runs had seen an event, after Kaplan and Meier.

    Args:
        reached: when runs saw it.
        missed: how long runs were watched that ended without it, infinite for those
            that never can; they all count as later than any in `reached`.
        unfinished: how long runs were watched that have neither ended nor seen it.

    Returns:
        It; NaN where one of the times is.
    """
    times = [*reached, *missed, *unfinished]
    if any(math.isnan(time) for time in times):
        return Time(math.nan, censored=False)
    longest = max(time for time in (*times, 0.0) if time < math.inf)
    # Those that missed it stay at risk to the last; SciPy wants finite times.
    waiting = [*unfinished, *(longest for _ in missed)]
    curve = stats.ecdf(stats.CensoredData(uncensored=reached, right=waiting)).sf
    halved = curve.quantiles[curve.probabilities < 0.5 + ROUNDING]
    if halved.size:
        return Time(float(halved[0]), censored=False)
    return Time(sorted(times)[(len(times) - 1) // 2], censored=True)
