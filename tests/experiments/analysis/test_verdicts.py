import dataclasses

import pytest

from experiments.analysis import verdicts
from experiments.analysis.compare import Answer, Row, Threshold
from experiments.analysis.significance import Difference, Time
from experiments.records import records

HIGHER = Difference(5, 0.02, (0.01, 0.03), p=0.01, p_holm=0.03)
LOWER = Difference(5, -0.02, (-0.03, -0.01), p=0.01, p_holm=0.03)
OPEN = Difference(5, 0.02, (-0.01, 0.05), p=0.3, p_holm=0.9)
LONE = Difference(5, 0.02, (0.001, 0.039), p=0.04, p_holm=0.2)
FEW = Difference(2, 0.02)
SAME = dataclasses.replace(OPEN, mean=0.001, p_same=0.01, p_same_holm=0.05)
TINY = dataclasses.replace(HIGHER, mean=0.001, p_same=0.01, p_same_holm=0.05)
SESSION = {
    "versions": {"jax": "0.10"},
    "commit": "c0ffee",
    "device": {"kind": "cpu", "count": 1},
}


def row(difference=None, policy="a", n=5, speed=None, **changes):
    values = dict.fromkeys(range(n), 0.5)
    told = {
        "policy": policy,
        "control": "uniform",
        "n": n,
        "diverged": 0,
        "interrupted": 0,
        "broken_pairs": 0,
        "answers": {
            "accuracy": Answer(values, difference),
            "speed": Answer(values, speed),
        },
        "thresholds": (),
        "seconds": 1.0,
    }
    return Row(**(told | changes))


def caveats(*rows, source="cifar10", planned=5, sessions=(SESSION,)):
    return verdicts.caveats(rows, source, planned, sessions)


def test_five_seeds_on_the_whole_set_have_no_caveat():
    assert caveats(row()) == []


def test_caveats_name_few_seeds_the_sample_and_missing_runs():
    few, small = caveats(row(n=4), source="sample", planned=4)
    assert few == "4 seeds, fewer than 5"
    assert "sample" in small
    assert caveats(row(), planned=8) == ["only 5 of 8 runs came to their end"]


def test_a_diverged_run_has_come_to_its_end():
    assert caveats(row(n=3, diverged=2)) == []
    assert len(caveats(row(n=3, diverged=1, interrupted=1))) == 2


def test_a_study_without_a_run_has_caveats():
    assert len(caveats()) == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"versions": {"jax": "0.11"}}, "set of versions"),
        ({"commit": "decaf"}, "commit"),
        ({"device": {"kind": "cpu", "count": 2}}, "device"),
    ],
)
def test_runs_made_in_different_places_are_a_caveat(change, words):
    (found,) = caveats(row(), sessions=[SESSION, SESSION, SESSION | change])
    assert found == f"made with more than one {words}"


def test_two_sessions_in_the_same_place_are_none():
    later = SESSION | {"started": "later"}
    assert caveats(row(), sessions=[SESSION | {"started": "first"}, later]) == []


@pytest.mark.parametrize(
    ("difference", "expected"),
    [
        (HIGHER, "higher"),
        (LOWER, "lower"),
        (OPEN, "undecided"),
        (LONE, "undecided"),  # its interval is clear of 0, its corrected p is not small
        (SAME, "same"),
        (dataclasses.replace(SAME, p_same_holm=0.06), "undecided"),
        (TINY, "higher"),
        (FEW, "none"),
        (None, "none"),
    ],
)
def test_the_verdict_follows_the_corrected_p(difference, expected):
    assert verdicts.verdict(row(difference), "accuracy", False) == expected


def test_a_sentence_says_where_a_difference_that_matters_is_excluded():
    told = [row(SAME), row(OPEN, policy="b"), row(HIGHER, policy="c")]
    assert verdicts.result(told, demonstration=False) == (
        "Test accuracy: higher under c (+2.0 against uniform, +1.0 to +3.0); the same "
        "within 0.5 points under a; no clear difference under b."
    )
    assert verdicts.result(told[1:2], demonstration=False) == (
        "Test accuracy: no clear difference under any policy."
    )


def test_each_question_has_a_verdict_of_its_own():
    told = row(HIGHER, speed=LOWER)
    found = [verdicts.verdict(told, question, False) for question in told.answers]
    assert found == ["higher", "lower"]


def test_a_diverged_run_forbids_a_verdict_on_those_left_over():
    assert verdicts.verdict(row(HIGHER, broken_pairs=1), "accuracy", False) == "none"


def over(low, high):
    """A difference with this interval, in points."""
    low, high = low / 100, high / 100
    return Difference(5, (low + high) / 2, (low, high), p=0.5, p_holm=0.9)


@pytest.mark.parametrize(
    ("expected", "interval", "said"),
    [
        ("higher", (0.1, 0.3), "supported"),
        ("higher", (-0.3, -0.1), "contradicted"),
        ("higher", (-0.1, 0.3), "undecided"),
        ("lower", (-0.3, -0.1), "supported"),
        ("lower", (0.1, 0.3), "contradicted"),
        ("lower", (-0.3, 0.1), "undecided"),
        ("same", (-0.4, 0.4), "supported"),
        ("same", (0.1, 0.3), "supported"),  # clear of 0, and still too small to matter
        ("same", (0.6, 1.0), "contradicted"),
        ("same", (-1.0, -0.6), "contradicted"),
        ("same", (0.1, 0.6), "undecided"),
        ("same", (-1.0, 1.0), "undecided"),
    ],
)
def test_an_expectation_is_judged_by_where_the_whole_interval_lies(
    expected, interval, said
):
    told = row(over(*interval))
    assert verdicts.verdict(told, "accuracy", False, expected) == said


@pytest.mark.parametrize(
    ("expected", "said"),
    [("same", "supported"), ("higher", "contradicted"), ("lower", "contradicted")],
)
def test_pairs_that_do_not_differ_at_all_are_the_same(expected, said):
    none = Difference(5, 0.0, p=1.0, p_holm=1.0)
    assert verdicts.verdict(row(none), "accuracy", False, expected) == said


@pytest.mark.parametrize(
    ("told", "demonstration", "said"),
    [
        (row(over(0.1, 0.3)), True, "demonstration"),
        (row(over(0.1, 0.3), broken_pairs=1), False, "none"),
        (row(FEW), False, "none"),
        (row(policy="uniform"), False, None),
    ],
)
def test_no_expectation_is_judged_where_verdicts_are_withheld(
    told, demonstration, said
):
    assert verdicts.verdict(told, "accuracy", demonstration, "higher") == said


def test_an_expectation_that_was_not_written_down_is_open():
    assert verdicts.expected({}, "accuracy") == "open"
    assert verdicts.expected({"expects": {"speed": "lower"}}, "accuracy") == "open"
    assert verdicts.expected({"expects": {"speed": "lower"}}, "speed") == "lower"


def test_a_demonstration_has_no_verdict_whatever_the_numbers():
    assert verdicts.verdict(row(HIGHER), "accuracy", True) == "demonstration"


@pytest.mark.parametrize("demonstration", [False, True])
def test_there_is_nothing_to_say_on_the_baseline(demonstration):
    baseline = row(policy="uniform")
    assert verdicts.verdict(baseline, "accuracy", demonstration) is None


def test_the_summary_is_strict_json_and_holds_all_of_both_questions():
    never = Time(float("inf"), True)
    threshold = Threshold(0.4, 5, 2, Time(100, True), Time(3200, True), never)
    told = [row(policy="uniform"), row(HIGHER, speed=FEW, thresholds=(threshold,))]
    summary = records.plain(verdicts.summary(told, [], {"uniform": {}, "a": {}}, {}))
    assert summary["tuning"].startswith("No learning rate was tuned")
    assert summary["questions"] == {
        "accuracy": "test accuracy",
        "speed": "learning-curve area",
    }
    _, other = summary["rows"]
    assert (other["policy"], other["control"]) == ("a", "uniform")
    assert other["answers"]["accuracy"] == {
        "values": {str(seed): 0.5 for seed in range(5)},
        "difference": {
            "n": 5,
            "mean": 0.02,
            "interval": [0.01, 0.03],
            "p": 0.01,
            "p_holm": 0.03,
            "p_same": None,
            "p_same_holm": None,
        },
        "n": 5,
        "mean": 0.5,
        "deviation": 0.0,
        "expected": "open",
        "verdict": "higher",
    }
    assert other["answers"]["speed"]["verdict"] == "none"
    assert other["thresholds"][0]["steps"] == {"value": 100, "censored": True}
    assert other["thresholds"][0]["seconds"] == {"value": None, "censored": True}


def test_the_summary_of_a_demonstration_says_so_and_why():
    summary = verdicts.summary([row(HIGHER)], ["few"], {"a": {}}, {"a.rate": 0.5})
    assert "a.rate 0.5" in summary["tuning"]
    assert summary["caveats"] == ["few"]
    assert summary["rows"][0]["answers"]["accuracy"]["verdict"] == "demonstration"
