import math
import statistics

import numpy as np
import pytest

from experiments import compare, records


def event(kind, policy="uniform", seed=0, step=10, **fields):
    return {
        "kind": kind,
        "policy": policy,
        "seed": seed,
        "step": step,
        "images": 32 * step,
        "seconds": step / 10,
    } | fields


def end(policy="uniform", seed=0, accuracy=0.5, status="finished", step=100):
    done = status == "finished"
    return event(
        "end",
        policy,
        seed,
        step,
        status=status,
        test_loss=1.0 if done else None,
        test_accuracy=accuracy if done else None,
    )


def validated(policy, seed, accuracies):
    return [
        event("validation", policy, seed, step, loss=1.0, accuracy=accuracy)
        for step, accuracy in accuracies.items()
    ]


def table(events, marks=(0.4,)):
    rows = compare.rows(compare.runs(events), marks)
    return {row.policy: row for row in rows}


def test_mean_and_deviation_are_over_seeds():
    accuracies = [0.5, 0.52, 0.57]
    rows = table([end(seed=seed, accuracy=a) for seed, a in enumerate(accuracies)])
    assert rows["uniform"].n == 3
    assert rows["uniform"].mean == pytest.approx(np.mean(accuracies))
    assert rows["uniform"].deviation == pytest.approx(np.std(accuracies, ddof=1))


def test_one_seed_has_no_deviation():
    assert table([end()])["uniform"].deviation is None


def test_difference_is_paired_by_seed_whatever_the_order():
    rows = table(
        [
            *(end(seed=0, accuracy=0.1), end(seed=1, accuracy=0.9)),
            *(end("a", 1, 0.92), end("a", 0, 0.11)),
        ]
    )
    assert rows["a"].difference.n == 2
    assert rows["a"].difference.mean == pytest.approx(0.015)


def test_two_pairs_give_no_interval_and_three_do():
    assert (
        compare.paired_difference({0: 0.6, 1: 0.5}, {0: 0.5, 1: 0.5}).interval is None
    )
    found = compare.paired_difference(
        {0: 0.51, 1: 0.53, 2: 0.55}, {0: 0.5, 1: 0.5, 2: 0.5}
    )
    half = 4.302653 * 0.02 / math.sqrt(3)
    assert found.mean == pytest.approx(0.03)
    assert found.interval == pytest.approx((0.03 - half, 0.03 + half), abs=1e-7)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for sample in rng.normal(0.01, 0.02, size=(2000, 4)):
        pairs = dict(enumerate(sample))
        low, high = compare.paired_difference(pairs, dict.fromkeys(pairs, 0.0)).interval
        covered += low <= 0.01 <= high
    # Four standard errors of a proportion of 0.95 in 2,000 trials.
    assert covered / 2000 == pytest.approx(0.95, abs=0.02)


def test_without_shared_seeds_there_is_no_difference():
    assert compare.paired_difference({0: 0.5}, {1: 0.5}) is None
    assert table([end("a")])["a"].difference is None


def test_the_baseline_has_no_difference_to_itself():
    assert table([end()])["uniform"].difference is None


@pytest.mark.parametrize(
    ("freedom", "expected"),
    [
        *((1, 12.7062), (2, 4.30265), (3, 3.18245), (4, 2.77645), (9, 2.26216)),
        *((10, 2.22814), (29, 2.04523), (30, 2.04227), (120, 1.97993)),
    ],
)
def test_t_quantile_agrees_with_printed_tables(freedom, expected):
    assert compare.t_quantile(0.975, freedom) == pytest.approx(expected, rel=2e-6)


def test_t_quantile_nears_the_normal_one_and_grows_with_probability():
    normal = statistics.NormalDist().inv_cdf(0.9)
    assert compare.t_quantile(0.9, 5000) == pytest.approx(normal, abs=1e-3)
    assert compare.t_quantile(0.99, 7) > compare.t_quantile(0.95, 7)


def test_steps_to_a_mark_are_those_of_the_first_evaluation_at_or_above_it():
    runs = compare.runs(
        [*validated("a", 0, {10: 0.39, 20: 0.4, 30: 0.35, 40: 0.5}), end("a")]
    )
    assert compare.steps_to(runs, 0.4).steps == (20,)


def test_a_run_that_never_reached_the_mark_is_counted_not_dropped():
    runs = compare.runs(
        [
            *(*validated("a", 0, {10: 0.5}), end("a", 0)),
            *(*validated("a", 1, {10: 0.3, 20: 0.39}), end("a", 1)),
        ]
    )
    assert compare.steps_to(runs, 0.4) == compare.Mark(0.4, n=2, steps=(10,))


def test_an_evaluation_without_a_finite_accuracy_reaches_no_mark():
    runs = compare.runs([*validated("a", 0, {10: None}), end("a", status="diverged")])
    assert compare.steps_to(runs, 0.1) == compare.Mark(0.1, n=1, steps=())


def test_an_interrupted_run_tells_of_a_mark_only_if_it_reached_it():
    reached = [*validated("a", 0, {10: 0.5}), end("a", 0, status="interrupted")]
    short = [*validated("a", 1, {10: 0.1}), end("a", 1, status="interrupted")]
    mark = compare.steps_to(compare.runs(reached + short), 0.4)
    assert mark == compare.Mark(0.4, n=1, steps=(10,))


def test_diverged_runs_are_counted_and_kept_out_of_the_mean():
    rows = table([end("a", 0, 0.5), end("a", 1, status="diverged")])
    assert (rows["a"].n, rows["a"].diverged, rows["a"].mean) == (1, 1, 0.5)


def test_a_run_without_an_end_counts_as_interrupted():
    (run,) = compare.runs(validated("a", 0, {10: 0.5}))
    assert (run.status, run.step, run.test_accuracy) == ("interrupted", 10, None)


def test_seconds_are_the_mean_of_finished_runs():
    rows = table(
        [
            *(end(seed=0, step=100), end(seed=1, step=200)),
            end(seed=2, step=900, status="diverged"),
        ]
    )
    assert rows["uniform"].seconds == pytest.approx(15)


def test_rows_stand_in_the_order_in_which_policies_began():
    assert list(table([end("b"), end("a"), end("b", 1)])) == ["b", "a"]


def five(policy, accuracies):
    return [end(policy, seed, a) for seed, a in enumerate(accuracies)]


def test_five_seeds_on_the_whole_set_have_no_caveat():
    rows = compare.rows(compare.runs(five("uniform", [0.5] * 5)), ())
    assert compare.caveats(rows, "cifar10", planned=5) == []


def test_caveats_name_few_seeds_the_sample_and_missing_runs():
    rows = compare.rows(compare.runs(five("uniform", [0.5] * 4)), ())
    few, small = compare.caveats(rows, "sample", planned=4)
    assert "n = 4" in few
    assert "sample" in small
    (cut, _) = compare.caveats(rows, "cifar10", planned=8)
    assert cut == "only 4 of 8 runs came to their end"


@pytest.mark.parametrize(
    ("shift", "words"), [(0.02, "higher"), (-0.02, "lower"), (0.0, "undecided")]
)
def test_the_verdict_follows_the_interval(shift, words):
    base = [0.50, 0.51, 0.49, 0.50, 0.52]
    noise = [0.001, -0.001, 0.002, -0.002, 0.0]
    shifted = [b + n + shift for b, n in zip(base, noise, strict=True)]
    row = table(five("uniform", base) + five("a", shifted))["a"]
    assert words in compare.verdict(row)


def test_a_diverged_run_is_a_result_and_forbids_a_verdict_on_the_others():
    runs = [*five("uniform", [0.5] * 5), *five("a", [0.6] * 4)]
    rows = table([*runs, end("a", 4, status="diverged")])
    assert compare.caveats(list(rows.values()), "cifar10", planned=10) == []
    assert "some diverged" in compare.verdict(rows["a"])


def test_there_is_no_verdict_where_too_few_pairs_finished():
    rows = table([*five("uniform", [0.5] * 2), end("a", 0), end("a", 1)])
    assert compare.verdict(rows["a"]).startswith("no verdict")


def test_the_summary_is_strict_json():
    rows = compare.rows(compare.runs([end(), end("a", status="diverged")]), (0.4,))
    summary = records.plain(compare.summary(rows, ["few"]))
    assert summary["caveats"] == ["few"]
    assert [row["policy"] for row in summary["rows"]] == ["uniform", "a"]
    assert summary["rows"][0]["accuracies"] == {"0": 0.5}
    assert summary["rows"][1]["mean"] is None
