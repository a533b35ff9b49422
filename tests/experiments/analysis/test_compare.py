import math

import numpy as np
import pytest

from experiments.analysis import compare, questions
from experiments.analysis.significance import Time

CONTROLS = {"uniform": "uniform", "uniform-cosine": "uniform"}
CONTROLS |= {"a": "uniform", "b": "uniform", "freezeout": "uniform-cosine"}


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


def run(policy, seed, accuracies, *ending, **fields):
    events = [
        *validated(policy, seed, accuracies),
        end(policy, seed, *ending, **fields),
    ]
    (found,) = compare.runs(events)
    return found


def table(events, thresholds=(0.4,)):
    rows = compare.rows(compare.runs(events), thresholds, CONTROLS)
    return {row.policy: row for row in rows}


def finals(policy, accuracies):
    return [end(policy, seed, a) for seed, a in enumerate(accuracies)]


def test_mean_and_deviation_are_over_seeds():
    accuracies = [0.5, 0.52, 0.57]
    row = table(finals("uniform", accuracies))["uniform"]
    answer = row.answers["accuracy"]
    assert row.n == 3
    assert answer.mean == pytest.approx(np.mean(accuracies))
    assert answer.deviation == pytest.approx(np.std(accuracies, ddof=1))


def test_one_seed_has_no_deviation():
    assert table([end()])["uniform"].answers["accuracy"].deviation is None


def test_the_baseline_has_no_difference_to_itself():
    assert table([end()])["uniform"].answers["accuracy"].difference is None


def test_each_policy_is_compared_with_its_own_control():
    finished = {"uniform": 0.5, "uniform-cosine": 0.6, "a": 0.55, "freezeout": 0.58}
    rows = table([end(policy, 0, a) for policy, a in finished.items()])
    found = {
        policy: (row.control, row.answers["accuracy"].difference)
        for policy, row in rows.items()
    }
    assert found["uniform"] == ("uniform", None)
    for policy, control, difference in [
        ("uniform-cosine", "uniform", 0.1),
        ("a", "uniform", 0.05),
        ("freezeout", "uniform-cosine", -0.02),
    ]:
        assert found[policy][0] == control
        assert found[policy][1].mean == pytest.approx(difference)


def test_without_a_run_of_the_control_there_is_no_difference():
    assert table([end("a")])["a"].answers["accuracy"].difference is None


def test_the_two_questions_have_measures_of_their_own():
    slow_and_good = [*validated("a", 0, {10: 0.1, 20: 0.2, 30: 0.9}), end("a", 0, 0.9)]
    fast_and_bad = [
        *validated("uniform", 0, {10: 0.5, 20: 0.6, 30: 0.6}),
        end("uniform", 0, 0.6),
    ]
    answers = table([*fast_and_bad, *slow_and_good])["a"].answers
    assert answers["accuracy"].difference.mean == pytest.approx(0.3)
    assert answers["speed"].difference.mean == pytest.approx(0.35 - 0.575)


def test_speed_is_the_area_under_the_curve_over_its_width():
    # Uneven, as the last evaluation may come sooner: (10·0.25 + 10·0.35 + 5·0.45) / 25.
    found = run("a", 0, {10: 0.2, 20: 0.3, 30: 0.4, 35: 0.5})
    assert questions.mean_accuracy(found) == pytest.approx(8.25 / 25)


def test_speed_of_a_run_with_a_single_evaluation_is_its_accuracy():
    assert questions.mean_accuracy(run("a", 0, {10: 0.3})) == 0.3


def test_a_run_that_did_not_finish_has_no_measure_and_is_counted():
    diverged = [*validated("a", 1, {10: 0.9}), end("a", 1, status="diverged")]
    row = table([*finals("a", [0.5]), *diverged, *validated("a", 2, {10: 0.9})])["a"]
    assert (row.n, row.diverged, row.interrupted) == (1, 1, 1)
    assert row.answers["accuracy"].values == {0: 0.5}
    assert row.answers["speed"].values == {}


def test_seeds_that_diverged_under_policy_or_control_are_told_together():
    rows = table(
        [
            *(end("uniform", seed) for seed in (0, 1)),
            end("uniform", 2, status="diverged"),
            end("a", 0, status="diverged"),
            end("a", 1),
            end("a", 2, status="diverged"),
            *finals("b", [0.5, 0.5, 0.5]),
        ]
    )
    broken = {policy: row.broken_pairs for policy, row in rows.items()}
    assert broken == {"uniform": 1, "a": 2, "b": 1}


BASE = [0.50, 0.51, 0.49, 0.50, 0.52]
NOISE = [0.001, -0.001, 0.002, -0.002, 0.0]


def shifted(shift, noise=1.0):
    return [b + noise * n + shift for b, n in zip(BASE, NOISE, strict=True)]


def test_p_is_corrected_over_the_policies_of_one_question():
    rows = table(
        [
            *finals("uniform", BASE),
            *finals("a", shifted(0.002)),
            *finals("b", shifted(0.01)),
            *finals("uniform-cosine", shifted(0.0)),
        ]
    )
    found = {p: rows[p].answers["accuracy"].difference for p in rows if p != "uniform"}
    assert found["b"].p < found["a"].p < found["uniform-cosine"].p
    assert found["b"].p_holm == pytest.approx(3 * found["b"].p)
    assert found["a"].p_holm == pytest.approx(2 * found["a"].p)
    assert found["uniform-cosine"].p_holm == pytest.approx(found["uniform-cosine"].p)
    for row in rows.values():  # these runs have no curve, so the other family is empty
        assert row.answers["speed"].difference is None


def test_a_comparison_without_a_test_counts_in_the_family_and_has_no_p():
    rows = table(
        [
            *finals("uniform", BASE),
            *finals("a", shifted(0.01)),
            *finals("b", [0.6, 0.6]),  # two pairs
            *finals("uniform-cosine", shifted(0.01, noise=0)),  # one shift for all
        ]
    )
    found = {p: rows[p].answers["accuracy"].difference for p in rows if p != "uniform"}
    assert found["a"].p_holm == pytest.approx(3 * found["a"].p)
    assert found["b"].p_holm is None
    assert found["uniform-cosine"].p_holm is None


def test_a_policy_that_does_as_its_control_does_not_differ():
    rows = table([*finals("uniform", BASE), *finals("uniform-cosine", BASE)])
    difference = rows["uniform-cosine"].answers["accuracy"].difference
    assert (difference.mean, difference.p, difference.p_holm) == (0.0, 1.0, 1.0)


def test_a_mark_is_reached_at_the_first_evaluation_at_or_above_it():
    found = compare.time_to([run("a", 0, {10: 0.39, 20: 0.4, 30: 0.35, 40: 0.5})], 0.4)
    assert found == compare.Threshold(
        threshold=0.4,
        n=1,
        reached=1,
        steps=Time(20, False),
        images=Time(640, False),
        seconds=Time(2, False),
    )


def test_a_run_that_finished_below_the_mark_is_counted_not_dropped():
    runs = [run("a", 0, {10: 0.5}), run("a", 1, {10: 0.3}), run("a", 2, {10: 0.39})]
    found = compare.time_to(runs, 0.4)
    assert (found.n, found.reached) == (3, 1)
    assert found.steps == Time(100, True)
    assert found.images == Time(3200, True)
    assert found.seconds == Time(10, True)


def test_a_run_that_diverged_below_the_mark_never_reaches_it():
    gone = run("a", 0, {10: 0.1}, status="diverged", step=15)
    assert compare.time_to([gone], 0.4).steps == Time(math.inf, True)
    late = run("a", 1, {10: 0.1, 90: 0.5})
    assert compare.time_to([gone, late], 0.4).steps == Time(90, False)


def test_a_run_that_diverged_above_the_mark_had_reached_it():
    gone = run("a", 0, {10: 0.5}, status="diverged", step=15)
    assert compare.time_to([gone], 0.4).steps == Time(10, False)


def test_an_evaluation_without_a_finite_accuracy_reaches_no_mark():
    assert compare.time_to([run("a", 0, {10: None}, status="diverged")], 0.1).n == 1
    assert (
        compare.time_to([run("a", 0, {10: None}, status="diverged")], 0.1).reached == 0
    )


def test_an_unfinished_run_counts_for_as_long_as_it_was_watched():
    short = [*validated("a", 0, {20: 0.1}), *validated("a", 1, {20: 0.3})]
    runs = compare.runs([*short, *validated("a", 2, {10: 0.1, 30: 0.5})])
    found = compare.time_to(runs, 0.4)
    assert (found.n, found.reached, found.steps) == (3, 1, Time(30, False))


def test_a_run_without_an_end_is_interrupted():
    (found,) = compare.runs(validated("a", 0, {10: 0.5}))
    assert (found.status, found.step, found.images) == ("interrupted", 10, 320)
    assert found.test == {"loss": None, "accuracy": None}


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
