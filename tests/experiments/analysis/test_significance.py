import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from experiments.analysis import significance
from experiments.analysis.significance import (
    Difference,
    Time,
    corrected,
    holm,
    interval,
    median_time,
    paired,
    unpaired,
)

INFINITE = math.inf


def by_seed(values):
    return dict(enumerate(values))


def test_pairs_are_made_by_seed_whatever_the_order():
    assert paired({1: 0.92, 0: 0.11, 7: 0.5}, {0: 0.1, 1: 0.9, 8: 0.1}) == Difference(
        2, pytest.approx(0.015)
    )


def test_without_a_shared_seed_there_is_no_difference():
    assert paired({0: 0.5}, {1: 0.5}) is None


def test_three_pairs_have_the_interval_and_p_that_a_hand_finds():
    found = paired(by_seed([0.51, 0.53, 0.55]), by_seed([0.5, 0.5, 0.5]))
    error = 0.02 / math.sqrt(3)
    t = 0.03 / error
    half = 4.302653 * error  # the printed 97.5 % quantile for two degrees of freedom
    assert (found.n, found.mean) == (3, pytest.approx(0.03))
    assert found.interval == pytest.approx((0.03 - half, 0.03 + half), abs=1e-7)
    assert found.p == pytest.approx(1 - t / math.sqrt(2 + t**2))  # of two degrees


def test_two_pairs_have_a_mean_and_nothing_more():
    assert paired({0: 0.6, 1: 0.5}, {0: 0.5, 1: 0.5}) == Difference(
        2, pytest.approx(0.05)
    )


def test_pairs_that_do_not_differ_have_a_p_of_1_and_no_interval():
    same = by_seed([0.5, 0.6, 0.7])
    assert paired(same, same) == Difference(3, 0.0, interval=None, p=1.0)


def test_pairs_that_differ_by_the_same_have_no_p():
    # In floats these differ by 0.1 and a little rounding each, hence a t of 10^15.
    found = paired(by_seed([0.3, 0.4, 0.9]), by_seed([0.2, 0.3, 0.8]))
    assert found == Difference(3, pytest.approx(0.1), interval=None, p=None)


# What the documentation of other libraries prints: the yields of the manual of NCSS, as
# TOSTER's tests hold them (R), and the pairs in the reference of pingouin.tost.
YIELDS = (
    [452, 874, 554, 447, 356, 754, 558, 574, 664, 682, 547, 435, 245],
    [546, 547, 774, 465, 459, 665, 467, 365, 589, 534, 456, 651, 654, 665, 546, 537],
)
PINGOUIN = by_seed([4, 7, 8, 6, 3, 2]), by_seed([6, 8, 7, 10, 11, 9])


def test_equivalence_of_samples_is_that_of_others():
    found = unpaired(*YIELDS, margin=110)
    assert found.n == 13
    assert found.mean == pytest.approx(-8.1153846)
    assert found.interval == pytest.approx((-120.27336, 104.04259), abs=1e-5)
    assert found.p_same == pytest.approx(0.03628, abs=1e-5)


def test_equivalence_of_pairs_is_that_of_others():
    assert paired(*PINGOUIN, margin=0.5).p_same == pytest.approx(0.954854, abs=1e-6)


def test_welch_is_what_a_hand_finds():
    ours, theirs = [0.1, 0.2, 0.3], [0.1, 0.1, 0.4, 0.4]
    # Variances of the means are 0.01 / 3 and 0.03 / 4, degrees of freedom 4.76….
    a, b = 0.01 / 3, 0.03 / 4
    freedom = (a + b) ** 2 / (a**2 / 2 + b**2 / 3)
    half = stats.t.ppf(0.975, freedom) * math.sqrt(a + b)
    found = unpaired(ours, theirs)
    assert (found.n, found.mean) == (3, pytest.approx(-0.05))
    assert found.interval == pytest.approx((-0.05 - half, -0.05 + half))
    tail = stats.t.cdf(-0.05 / math.sqrt(a + b), freedom)
    assert found.p == pytest.approx(2 * tail)
    assert found.p_same is None


@pytest.mark.parametrize("test", ["pairs", "samples"])
def test_equivalence_is_where_the_90_percent_interval_lies_within_the_margin(test):
    rng, seen = np.random.default_rng(4), set()
    for sample in rng.normal(0, 0.01, size=(200, 2, 6)):
        ours, theirs = sample
        if test == "pairs":
            found = paired(by_seed(ours), by_seed(theirs), margin=0.01)
            inner = stats.ttest_rel(ours, theirs).confidence_interval(0.9)
        else:
            found = unpaired(ours, theirs, margin=0.01)
            inner = stats.ttest_ind(ours, theirs, equal_var=False)
            inner = inner.confidence_interval(0.9)
        same = inner.low > -0.01 and inner.high < 0.01
        assert (found.p_same < 0.05) == same
        seen.add(same)
    assert seen == {False, True}


def test_pairs_that_do_not_differ_are_the_same_within_any_margin():
    same = by_seed([0.5, 0.6, 0.7])
    assert paired(same, same, margin=0.005) == Difference(3, 0.0, p=1.0, p_same=0.0)
    apart = by_seed([0.6, 0.7, 0.8])
    assert paired(apart, same, margin=0.005).p_same is None


def test_few_or_equal_samples_allow_no_test():
    assert unpaired([], [0.5]) is None
    assert unpaired([0.5, 0.7], [0.5, 0.6, 0.7], margin=1.0) == Difference(
        2, pytest.approx(0.0)
    )
    assert unpaired([0.5] * 3, [0.5] * 4) == Difference(3, 0.0, p=1.0)


def test_the_interval_of_a_mean_is_what_a_hand_finds():
    half = 4.302653 * 0.01 / math.sqrt(3)  # the printed quantile, as above
    assert interval([0.51, 0.52, 0.53]) == pytest.approx((0.52 - half, 0.52 + half))
    assert interval([0.5, 0.6]) is None


def test_differences_and_equivalences_are_families_of_their_own():
    found = corrected(
        {
            "a": Difference(5, 0.1, p=0.01, p_same=0.5),
            "b": Difference(5, 0.1, p=0.04, p_same=0.01),
            "c": Difference(2, 0.1),
            "d": None,
        }
    )
    # Those without a test count in both families, with a p of 1.
    assert found["a"].p_holm == pytest.approx(0.04)
    assert found["b"].p_holm == pytest.approx(0.12)
    assert found["b"].p_same_holm == pytest.approx(0.04)
    assert found["a"].p_same_holm == 1
    assert found["c"] == Difference(2, 0.1)
    assert found["d"] is None


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    zeros = dict.fromkeys(range(4), 0.0)
    covered = 0
    for sample in rng.normal(0.01, 0.02, size=(1000, 4)):
        low, high = paired(by_seed(sample), zeros).interval
        covered += low <= 0.01 <= high
    # Four standard errors of a proportion of 0.95 in 1,000 trials.
    assert covered / 1000 == pytest.approx(0.95, abs=0.028)


def test_p_and_interval_tell_the_same():
    rng = np.random.default_rng(1)
    zeros = dict.fromkeys(range(5), 0.0)
    for sample in rng.normal(0.01, 0.01, size=(200, 5)):
        found = paired(by_seed(sample), zeros)
        low, high = found.interval
        assert (found.p < 1 - significance.CONFIDENCE) == (low > 0 or high < 0)


def test_holm_agrees_with_an_example_worked_by_hand():
    # 0.005 × 4, then 0.01 × 3, then 0.03 × 2, then 0.04 × 1, which may not go down.
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert found == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})


def test_holm_never_goes_above_1_and_leaves_a_lone_test_as_it_is():
    assert holm({"a": 0.7, "b": 0.9}) == {"a": 1.0, "b": 1.0}
    assert holm({"a": 0.04}) == {"a": 0.04}
    assert holm({}) == {}


def closed(p):
    """Bonferroni's test of every set of hypotheses: the largest p of those with it."""
    sets = [
        subset
        for size in range(1, len(p) + 1)
        for subset in itertools.combinations(p, size)
    ]
    return {
        name: max(
            min(1.0, len(subset) * min(p[other] for other in subset))
            for subset in sets
            if name in subset
        )
        for name in p
    }


def test_holm_is_the_closure_of_bonferroni():
    rng = np.random.default_rng(2)
    for size in (1, 2, 3, 5, 7):
        for _ in range(10):
            values = rng.choice([0.001, 0.01, 0.011, 0.02, 0.3, 1.0], size)
            p = {str(i): float(value) for i, value in enumerate(values)}
            assert holm(p) == pytest.approx(closed(p))


@pytest.mark.parametrize(
    ("reached", "missed", "unfinished", "expected"),
    [
        ([30, 10, 20], [], [], Time(20, False)),
        ([30, 10, 20, 40], [], [], Time(20, False)),  # half of them by then
        ([10, 20], [100, 100], [], Time(20, False)),
        ([10, 20], [100, 100, 100], [], Time(100, True)),
        ([], [100, 100], [], Time(100, True)),
        ([10], [90, 80, 100, 70], [], Time(80, True)),  # 10, 70, and 80 or more
        # Slow to arrive, and yet ahead of two that finished sooner without arriving.
        ([25], [20, 20], [], Time(20, True)),
        ([10], [INFINITE, INFINITE], [], Time(INFINITE, True)),
        ([], [INFINITE], [], Time(INFINITE, True)),
        ([10, 20], [INFINITE, 100, 100], [], Time(100, True)),
        # One watched up to 15 would have come there as the others did, from 15 on.
        ([10, 20, 30], [], [15], Time(20, False)),
        ([10, 30], [100], [20], Time(30, False)),
        ([], [], [5, 6], Time(5, True)),
        ([], [100], [0], Time(0, True)),
    ],
)
def test_the_median_time_counts_who_never_came(reached, missed, unfinished, expected):
    assert median_time(reached, missed, unfinished) == expected


def kaplan_meier(reached, missed, unfinished):
    """The first time by which the product-limit estimate is at most one half."""
    surviving = Fraction(1)
    for time in sorted(set(reached)):
        at_risk = len(missed) + sum(t >= time for t in [*reached, *unfinished])
        surviving *= 1 - Fraction(reached.count(time), at_risk)
        if surviving <= Fraction(1, 2):
            return time
    return None


def test_the_median_time_is_that_of_kaplan_and_meier_in_fractions():
    rng = np.random.default_rng(3)
    seen = set()
    for _ in range(300):
        reached = rng.integers(1, 20, rng.integers(0, 8)).tolist()
        missed = [20.0] * int(rng.integers(0, 4))
        unfinished = rng.integers(1, 20, rng.integers(0, 4)).tolist()
        if not (reached or missed or unfinished):
            continue
        expected = kaplan_meier(reached, missed, unfinished)
        found = median_time(reached, missed, unfinished)
        assert found.censored == (expected is None)
        if expected is not None:
            assert found.value == expected
        seen.add(found.censored)
    assert seen == {False, True}
