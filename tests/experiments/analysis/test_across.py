import itertools
import pathlib
import re

import pytest
from scipy import stats

from experiments.analysis import across
from experiments.analysis.across import Axis, Line, Place
from experiments.analysis.compare import Answer, Row
from experiments.analysis.significance import Difference, paired
from experiments.config.config import Config
from experiments.records import records

DOCS = pathlib.Path(__file__).parents[3] / "docs" / "experiments.md"
AXIS = Axis("images_per_class", {"few": 20, "more": 100, "many": 500}, paired=True)


def config(name, **changes):
    return records.plain(Config().record()) | {"name": name} | changes


def row(policy, values, control="uniform", theirs=None, broken=0):
    """A row, of which the differences to the control have these values."""
    by_seed = dict(enumerate(values))
    difference = paired(by_seed, dict(enumerate(theirs))) if theirs else None
    answers = dict.fromkeys(("accuracy", "speed"), Answer(by_seed, difference))
    return Row(policy, control, len(values), 0, 0, broken, answers, (), 1.0)


def study(differences, base=(0.5, 0.51, 0.52, 0.54, 0.55), **changes):
    """The rows of uniform, and of "early" that differs from it by these."""
    ours = [a + b for a, b in zip(base, differences, strict=True)]
    return [row("uniform", base), row("early", ours, theirs=base, **changes)]


def test_the_questions_are_those_that_the_documentation_lists():
    text = DOCS.read_text(encoding="utf-8")
    table = text.partition("## What can be varied")[2].partition("\n\nEvery")[0]
    flags = re.findall(r"`--([\w-]+)", table)
    assert {flag.replace("-", "_") for flag in flags} == {*across.ASKED}
    assert {*across.ASKED, *across.SEEDED} <= {*vars(Config())}


def test_one_number_is_an_axis_on_which_studies_rise():
    found = across.axis(
        [config("a", images_per_class=500), config("b", images_per_class=20)]
    )
    assert found.places == {"b": 20, "a": 500}
    assert (found.name, found.labels) == ("images per class", ["20", "500"])
    assert found.ends == ("b", "a")


def test_one_word_is_an_axis_in_the_order_of_the_studies():
    found = across.axis([config("r", model="resnet8"), config("p", model="plain8")])
    assert (found.field, found.places) == ("model", {"r": "resnet8", "p": "plain8"})


@pytest.mark.parametrize(
    "manners",
    [
        {"epochs": 3.0, "numbers": {"uniform.rate": 0.1}, "thresholds": [0.1]},
        {"out": "elsewhere", "validation": 100, "init_from": "w.npz"},
        {"policies": {}, "evaluations": 3, "batch_size": 8},
    ],
)
def test_what_only_follows_is_no_question(manners):
    found = across.axis([config("a", shift="blur"), config("b", **manners)])
    assert (found.field, found.places) == ("shift", {"a": "blur", "b": "none"})


@pytest.mark.parametrize(
    "several",
    [
        [{}, {"epochs": 3.0}],
        [{"model": "vgg5"}, {"rate": 0.1}],
        [{"images_per_class": 20}, {"images_per_class": None}],
        [{"classes": [0, 1]}, {"classes": [2, 3]}],
        [{"flip": True}, {"flip": False}],
        [{"rate": 0.1}, {"rate": 0.1}, {"rate": 0.2}],
    ],
)
def test_all_else_is_told_by_the_names_of_studies(several):
    names = "zyx"[: len(several)]
    configs = [config(name, **of) for name, of in zip(names, several, strict=True)]
    found = across.axis(configs)
    assert found.field == "study"
    assert [*found.places] == [*found.places.values()] == [*names]


@pytest.mark.parametrize(
    ("other", "paired"),
    [
        ({"images_per_class": 20}, True),
        ({"shift": "blur"}, True),
        ({"model": "vgg5"}, False),
        ({"norm": "none"}, False),
        ({"classes": [0, 1]}, False),
        ({"seeds": [1, 2, 3]}, True),
        ({"seeds": [2, 3]}, False),
    ],
)
def test_seeds_are_pairs_where_they_mean_the_same(other, paired):
    assert across.axis([config("a"), config("b", **other)]).paired == paired


FIRST, LAST = (0.02, 0.03, 0.01, 0.02, 0.025), (0.0, 0.001, 0.002, -0.001, 0.003)


def change(is_paired, **changes):
    axis = Axis("rate", {"a": 0.1, "b": 0.2}, is_paired)
    # The measures themselves differ widely: only differences are compared.
    many = study(LAST, base=(0.9, 0.8, 0.7, 0.6, 0.5), **changes)
    lines = across.lines({"a": study(FIRST), "b": many}, axis, "accuracy")
    assert [line.policy for line in lines] == ["uniform", "early"]
    return lines[1]


def test_a_change_of_pairs_is_that_of_the_differences_by_seed():
    found = change(True).change
    test = stats.ttest_1samp([b - a for a, b in zip(FIRST, LAST, strict=True)], 0)
    assert found.n == 5
    assert found.p == found.p_holm == pytest.approx(test.pvalue)
    assert found.interval == pytest.approx(tuple(test.confidence_interval(0.95)))


def test_a_change_of_samples_is_tested_after_welch():
    found = change(False).change
    test = stats.ttest_ind(LAST, FIRST, equal_var=False)
    assert found.p == pytest.approx(test.pvalue)
    assert found.interval == pytest.approx(tuple(test.confidence_interval(0.95)))
    assert found.p_same == found.p_same_holm > 0.9  # the change is of two points


def test_p_of_changes_is_corrected_over_the_policies():
    base = (0.5, 0.51, 0.52, 0.54, 0.55)

    def rows(differences):
        ours = [a + b for a, b in zip(base, differences, strict=True)]
        late = row("late", [0.9, 0.1, 0.5, 0.3, 0.6], theirs=base)
        return [row("uniform", base), row("early", ours, theirs=base), late]

    axis = Axis("rate", {"a": 0.1, "b": 0.2}, paired=True)
    _, early, late = across.lines({"a": rows(FIRST), "b": rows(LAST)}, axis, "accuracy")
    assert early.change.p_holm == pytest.approx(2 * early.change.p)
    assert late.change.p_holm == 1  # it differs by the same in both


def test_a_policy_of_one_study_has_no_line_and_of_two_of_three_no_change():
    few, more, many = study(FIRST), study(FIRST), study(LAST)
    many[1] = row("late", [0.6] * 5, theirs=[0.5] * 5)
    several = dict(zip(AXIS.places, (few, more, many), strict=True))
    uniform, early = across.lines(several, AXIS, "accuracy")
    assert [*uniform.places] == ["few", "more", "many"]
    assert ([*early.places], early.change) == (["few", "more"], None)


def test_a_policy_under_another_control_is_another():
    other = [row("uniform", [0.5] * 5), row("early", [0.6] * 5, control="early")]
    axis = Axis("rate", {"a": 0.1, "b": 0.2}, paired=True)
    (line,) = across.lines({"a": study(FIRST), "b": other}, axis, "accuracy")
    assert line.policy == "uniform"


def line(first, last, p, p_same=1.0, broken=False, policy="early"):
    """A line from one difference to another, each of half a point to both sides."""
    places = {
        name: Place(5, 0.5, None, Difference(5, mean, (mean - 0.005, mean + 0.005)))
        for name, mean in (("few", first), ("more", 9.0), ("many", last))
    }
    found = Difference(5, last - first, p=p, p_holm=p, p_same_holm=p_same)
    return Line(policy, "uniform", places, found, broken)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (line(0.03, 0.01, 0.01), "shrinks"),
        (line(-0.03, -0.01, 0.01), "shrinks"),
        (line(0.03, -0.001, 0.01), "shrinks"),  # to none
        (line(0.01, 0.03, 0.01), "grows"),
        (line(-0.001, 0.03, 0.01), "grows"),
        (line(0.03, -0.03, 0.01), "changes sign"),
        (line(-0.03, 0.01, 0.01), "changes sign"),
        (line(0.03, 0.01, 0.06), "undecided"),
        (line(0.03, 0.031, 0.06, p_same=0.05), "same"),
        (line(0.03, 0.01, 0.01, broken=True), "none"),
        (line(0.03, 0.01, None), "none"),
    ],
)
def test_the_verdict_on_a_change_follows_its_corrected_p(found, said):
    assert across.verdict(found, AXIS) == said
    assert across.verdict(found, AXIS, demonstration=True) == "demonstration"


def test_what_diverged_brings_no_verdict_on_a_change():
    axis = Axis("rate", {"a": 0.1, "b": 0.2}, paired=True)
    assert across.verdict(change(True), axis) == "shrinks"
    assert across.verdict(change(True, broken=1), axis) == "none"


LINES = [
    line(0.03, 0.01, 0.01),
    line(0.001, 0.03, 0.01, policy="late"),
    line(0.01, 0.01, 0.9, 0.01, policy="same"),
    line(0.01, 0.02, 0.9, policy="open"),
]


def test_a_sentence_says_where_differences_shrink_and_where_they_grow():
    assert across.result({"accuracy": LINES}, AXIS, demonstration=False) == (
        "Difference in test accuracy to the baseline, from images per class 20 to 500: "
        "shrinks under early (+3.0 to +1.0); grows under late (+0.1 to +3.0); the same "
        "within 0.5 points under same; no clear change under open."
    )
    told = across.result({"accuracy": LINES[3:]}, AXIS, demonstration=False)
    assert told.endswith("20 to 500: no clear change under any policy.")


def test_a_demonstration_says_how_far_changes_reach():
    assert across.result({"accuracy": LINES}, AXIS, demonstration=True) == (
        "Difference in test accuracy to the baseline, from images per class 20 to 500: "
        "changes by −2.0 points (early) to +2.9 points (late)."
    )


@pytest.mark.parametrize("demonstration", [False, True])
def test_nothing_is_said_where_nothing_is_shared(demonstration):
    assert across.result({"accuracy": [], "speed": []}, AXIS, demonstration) == ""


@pytest.mark.parametrize("caveats", [[], ["few"]])
def test_the_summary_holds_every_number_and_is_as_the_schema_says(caveats):
    several = {
        name: study(differences)
        for name, differences in zip(AXIS.places, (FIRST, FIRST, LAST), strict=True)
    }
    lines = {"accuracy": across.lines(several, AXIS, "accuracy")}
    told = records.plain(across.summary(lines, AXIS, caveats))
    records.check(told, "joined", "joined.json")
    assert told["studies"] == {"few": 20, "more": 100, "many": 500}
    uniform, early = told["questions"]["accuracy"]
    assert early["verdict"] == ("demonstration" if caveats else "shrinks")
    assert (uniform["change"], uniform["verdict"]) == (None, None)
    assert early["change"]["mean"] == pytest.approx((sum(LAST) - sum(FIRST)) / 5)
    low, high = early["places"]["few"]["interval"]
    assert low < early["places"]["few"]["mean"] < high
    held = itertools.chain(early["places"].values(), [early["change"]])
    assert all(of["interval"] is not None for of in held)
