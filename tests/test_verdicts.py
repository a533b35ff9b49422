import pytest

from experiments import compare, records, verdicts
from experiments.compare import Answer, Mark, Row
from experiments.significance import Difference, Time

HIGHER = Difference(5, 0.02, (0.01, 0.03), p=0.01, p_holm=0.03)
LOWER = Difference(5, -0.02, (-0.03, -0.01), p=0.01, p_holm=0.03)
OPEN = Difference(5, 0.02, (-0.01, 0.05), p=0.3, p_holm=0.9)
LONE = Difference(5, 0.02, (0.001, 0.039), p=0.04, p_holm=0.2)
FEW = Difference(2, 0.02)
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
        "marks": (),
        "seconds": 1.0,
    }
    return Row(**(told | changes))


def caveats(*rows, source="cifar10", planned=5, sessions=(SESSION,)):
    return verdicts.caveats(rows, source, planned, sessions)


def test_five_seeds_on_the_whole_set_have_no_caveat():
    assert caveats(row()) == []


def test_caveats_name_few_seeds_the_sample_and_missing_runs():
    few, small = caveats(row(n=4), source="sample", planned=4)
    assert "n = 4" in few
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
        (FEW, "none"),
        (None, "none"),
    ],
)
def test_the_verdict_follows_the_corrected_p(difference, expected):
    assert verdicts.verdict(row(difference), "accuracy", False) == expected


def test_each_question_has_a_verdict_of_its_own():
    told = row(HIGHER, speed=LOWER)
    found = [verdicts.verdict(told, question, False) for question in compare.QUESTIONS]
    assert found == ["higher", "lower"]


def test_a_diverged_run_forbids_a_verdict_on_those_left_over():
    assert verdicts.verdict(row(HIGHER, broken_pairs=1), "accuracy", False) == "none"


def test_a_demonstration_has_no_verdict_whatever_the_numbers():
    assert verdicts.verdict(row(HIGHER), "accuracy", True) == "demonstration"


@pytest.mark.parametrize("demonstration", [False, True])
def test_there_is_nothing_to_say_on_the_baseline(demonstration):
    baseline = row(policy="uniform")
    assert verdicts.verdict(baseline, "accuracy", demonstration) is None


def test_the_summary_is_strict_json_and_holds_all_of_both_questions():
    never = Time(float("inf"), True)
    mark = Mark(0.4, 5, 2, Time(100, True), Time(3200, True), never)
    told = [row(policy="uniform"), row(HIGHER, speed=FEW, marks=(mark,))]
    summary = records.plain(verdicts.summary(told, []))
    assert summary["tuning"].startswith("none")
    assert summary["questions"] == {
        "accuracy": "test accuracy after the last step",
        "speed": "mean validation accuracy over the run",
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
        },
        "n": 5,
        "mean": 0.5,
        "deviation": 0.0,
        "verdict": "higher",
    }
    assert other["answers"]["speed"]["verdict"] == "none"
    assert other["marks"][0]["steps"] == {"value": 100, "censored": True}
    assert other["marks"][0]["seconds"] == {"value": None, "censored": True}


def test_the_summary_of_a_demonstration_says_so_and_why():
    summary = verdicts.summary([row(HIGHER)], ["few"])
    assert summary["caveats"] == ["few"]
    assert summary["rows"][0]["answers"]["accuracy"]["verdict"] == "demonstration"
