"""What few runs allow to be said: differences, Holm's p, censored medians."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
FEWEST_PAIRS = 3
ROUNDING = 1e-9
"""Accuracies that differ by less differ by the order of their sums only."""


@dataclasses.dataclass(frozen=True)
class Difference:
    """A measure under one policy minus the same under its control, as a rule by seed.

    Attributes:
        n: pairs: seeds with a value under both; of samples that are not paired, the
            size of the smaller one.
        mean: of the difference.
        interval: 95 % t interval of the mean, (low, high), not corrected for the number
            of policies; None for fewer than 3 pairs, or if all differ by the same.
        p: of the two-sided t test for a difference; None where there is no interval,
            but 1 where 3 pairs or more do not differ at all.
        p_holm: the same, corrected by `holm`.
        p_same: of the two one-sided t tests (TOST) for a mean that is nearer to 0 than
            a margin: at most 0.05 where the 90 % interval lies within the margin. None
            without a margin and where p is, 0 where pairs do not differ at all.
        p_same_holm: the same, corrected by `holm`.
    """

    n: int
    mean: float
    interval: tuple[float, float] | None = None
    p: float | None = None
    p_holm: float | None = None
    p_same: float | None = None
    p_same_holm: float | None = None


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
    values: Mapping[int, float],
    control: Mapping[int, float],
    *,
    margin: float | None = None,
) -> Difference | None:
    """The mean difference over the seeds that both have, with its tests.

    Pairs that all differ by the same have no spread, hence no t: they are the same if
    that is 0, as under two policies that do the same, and allow no test otherwise.

    Args:
        values: seed → measure.
        control: likewise.
        margin: below which a difference does not matter, for `Difference.p_same`.

    Returns:
        None without a pair.

    References:
        Schuirmann, A comparison of the two one-sided tests procedure and the power
        approach, Journal of Pharmacokinetics and Biopharmaceutics 15 (1987), on TOST.
    """
    shared = [seed for seed in values if seed in control]
    ours = np.array([values[seed] for seed in shared])
    theirs = np.array([control[seed] for seed in shared])
    return _difference(stats.ttest_rel, ours, theirs, [ours - theirs], margin)


def unpaired(
    values: Iterable[float], control: Iterable[float], *, margin: float | None = None
) -> Difference | None:
    """The difference of the means of two samples, with its tests, after Welch.

    Args:
        values: a sample.
        control: another, of other size and spread perhaps.
        margin: as of `paired`.

    Returns:
        None if one is empty.
    """
    ours, theirs = np.array([*values]), np.array([*control])
    test = functools.partial(stats.ttest_ind, equal_var=False)
    return _difference(test, ours, theirs, [ours, theirs], margin)


def interval(values: Iterable[float]) -> tuple[float, float] | None:
    """The 95 % t interval of a mean; None for fewer than 3 values, or equal ones."""
    found = paired(values := dict(enumerate(values)), dict.fromkeys(values, 0.0))
    return found and found.interval


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


def corrected(found: Mapping[str, Difference | None]) -> dict[str, Difference | None]:
    """The same with the p values of both tests corrected, each as a family.

    A comparison that allows no test counts as one more, with a p of 1.

    Args:
        found: name → difference.
    """

    def family(kind: str) -> dict[str, float]:
        p = {
            name: getattr(difference, kind, None) for name, difference in found.items()
        }
        return holm({name: 1.0 if v is None else v for name, v in p.items()})

    p, p_same = family("p"), family("p_same")
    return {
        name: dataclasses.replace(
            difference,
            p_holm=None if difference.p is None else p[name],
            p_same_holm=None if difference.p_same is None else p_same[name],
        )
        if difference
        else None
        for name, difference in found.items()
    }


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


def _difference(
    test: Callable[..., Any],
    ours: np.ndarray,
    theirs: np.ndarray,
    spread: Sequence[np.ndarray],
    margin: float | None,
) -> Difference | None:
    """The difference of two means, by one of SciPy's t tests.

    Args:
        test: of two samples.
        ours: one sample.
        theirs: the other.
        spread: what must not be all alike for a test.
        margin: below which a difference does not matter.
    """
    n = min(len(ours), len(theirs))
    if not n:
        return None
    mean = float(ours.mean() - theirs.mean())
    if n < FEWEST_PAIRS:
        return Difference(n, mean)
    if all(np.ptp(sample) < ROUNDING for sample in spread):
        if abs(mean) >= ROUNDING:
            return Difference(n, mean)
        return Difference(n, mean, p=1.0, p_same=None if margin is None else 0.0)
    found = test(ours, theirs)
    low, high = found.confidence_interval(CONFIDENCE)
    p_same = None
    if margin is not None:
        above = test(ours + margin, theirs, alternative="greater")
        below = test(ours - margin, theirs, alternative="less")
        p_same = float(max(above.pvalue, below.pvalue))
    interval = float(low), float(high)
    return Difference(n, mean, interval, p=float(found.pvalue), p_same=p_same)
