import math

import numpy as np
import pytest
from scipy import stats

from experiments.analysis import compare, verdicts
from experiments.analysis.questions import questions
from experiments.config.measures import ACCURACY, LOSS

CONTROLS = {"uniform": "uniform", "a": "uniform", "b": "a"}


def run(policy, seed, losses, status="finished"):
    """A run with a validation loss at each step, the last of which is its test loss."""
    about = {"policy": policy, "seed": seed, "seconds": 1.0}
    for step, loss in losses.items():
        at = about | {"step": step, "images": step}
        yield at | {"kind": "validation", "loss": loss, "accuracy": 0.1}
    end = {"status": status, "test_loss": loss, "test_accuracy": 0.1}
    yield at | {"kind": "end", **end}


def rows(*runs):
    found = compare.runs(event for events in runs for event in events)
    return {row.policy: row for row in compare.rows(found, (), CONTROLS, LOSS)}


def ratio(ours, theirs, **options):
    found = rows(run("uniform", 0, theirs), run("a", 0, ours, **options))
    values = found["a"].answers["speed"].values
    return math.exp(values[0]) if values else None


CURVE = {10: 4.0, 20: 3.0, 30: 2.0, 40: 1.8}


def test_one_that_is_better_took_the_share_of_steps_to_the_last_loss_of_its_control():
    assert ratio({10: 3.0, 20: 1.8, 30: 1.5, 40: 1.4}, CURVE) == pytest.approx(0.5)
    # Between evaluations it is linear.
    assert ratio({10: 2.8, 20: 1.3, 30: 1.2, 40: 1.1}, CURVE) == pytest.approx(
        (10 + 10 * 1.0 / 1.5) / 40
    )


def test_one_that_is_worse_took_as_many_times_as_its_control_to_its_own_last_loss():
    assert ratio({10: 5.0, 20: 4.0, 30: 3.5, 40: 3.0}, CURVE) == pytest.approx(2)


def test_equal_curves_took_the_same_and_the_first_evaluation_is_the_earliest():
    assert ratio(CURVE, CURVE) == 1
    assert ratio({10: 1.0, 40: 0.9}, CURVE) == pytest.approx(0.25)


def test_a_run_that_rises_again_counts_by_when_it_was_first_there():
    assert ratio({10: 3.0, 20: 1.7, 30: 2.5, 40: 1.8}, CURVE) == pytest.approx(
        (10 + 10 * 1.2 / 1.3) / 40
    )


def test_a_run_that_diverged_has_no_steps():
    assert ratio({10: 4.0, 20: None}, CURVE, status="diverged") is None


def test_ratios_are_tested_as_logarithms_against_none():
    curves = [{10: 3.0, at: 1.8, 40: 1.0} for at in (20, 22, 26, 30)]
    runs = [run("uniform", seed, CURVE) for seed in range(4)]
    found = rows(*runs, *(run("a", seed, curve) for seed, curve in enumerate(curves)))
    answer = found["a"].answers["speed"]
    logarithms = np.log(np.array([20, 22, 26, 30]) / 40)
    assert [*answer.values.values()] == pytest.approx(logarithms)
    test = stats.ttest_1samp(logarithms, 0)
    assert answer.difference.mean == pytest.approx(logarithms.mean())
    assert answer.difference.interval == pytest.approx(test.confidence_interval(0.95))
    assert answer.difference.p == pytest.approx(test.pvalue)
    assert set(found["uniform"].answers["speed"].values.values()) == {0}


def test_a_policy_is_compared_with_its_own_control_whatever_that_is_compared_with():
    """a takes half of uniform's steps, and b all that a takes."""
    half = {10: 3.0, 20: 1.8, 30: 1.5, 40: 1.4}
    found = rows(run("uniform", 0, CURVE), run("a", 0, half), run("b", 0, half))
    assert found["a"].answers["speed"].difference.mean == pytest.approx(math.log(0.5))
    assert found["b"].answers["speed"].difference.mean == 0


def test_the_loss_is_compared_pair_by_pair():
    found = rows(
        *(run("uniform", seed, {10: 2.0 + seed}) for seed in range(3)),
        *(run("a", seed, {10: 1.5 + seed + 0.1 * seed}) for seed in range(3)),
    )
    answer = found["a"].answers["loss"]
    assert answer.mean == pytest.approx(2.6)
    assert answer.difference.mean == pytest.approx(-0.4)


def test_what_makes_no_difference_is_a_matter_of_the_measure():
    assert questions(ACCURACY)["accuracy"].same_within == 0.005
    assert questions(LOSS)["loss"].same_within == 0.01
    assert questions(LOSS)["speed"].same_within == pytest.approx(math.log(1.05))


@pytest.mark.parametrize(
    ("losses", "expected", "said"),
    [
        ([0.004, 0.005, 0.006, 0.005, 0.004], "same", "supported"),
        ([0.02, 0.021, 0.022, 0.021, 0.02], "same", "contradicted"),
        ([-0.04, -0.05, -0.06, -0.05, -0.04], "lower", "supported"),
        ([-0.04, -0.05, -0.06, -0.05, -0.04], "open", "lower"),
    ],
)
def test_verdicts_on_losses_are_by_what_is_the_same_there(losses, expected, said):
    found = rows(
        *(run("uniform", seed, {10: 2.0}) for seed in range(5)),
        *(run("a", seed, {10: 2.0 + loss}) for seed, loss in enumerate(losses)),
    )
    assert verdicts.verdict(found["a"], "loss", False, expected, LOSS) == said
