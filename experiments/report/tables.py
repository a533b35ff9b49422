"""The tables of a study as headings and cells, whatever they are written in."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..analysis import across as between
from ..analysis import savings as analysis
from ..analysis import verdicts
from ..analysis.across import Axis, Line
from ..analysis.compare import BASELINE, Answer, Row, Threshold
from ..analysis.questions import Question, questions
from ..analysis.savings import Saving
from ..analysis.significance import Difference
from ..config.measures import ACCURACY, Measure, measure_of

INTERVAL = ("95 % interval", "p (Holm)")
ON_IMAGES = {
    "results": (
        "Test accuracy: of the weights after the last step, so that no epoch is chosen "
        "by the test set; mean ± standard deviation over the seeds that finished.",
        "Learning-curve area: the area under validation accuracy over steps, from the "
        "first evaluation to the last step, divided by its width. It is the measure of "
        "speed: it grows with how soon a policy learns, and with how far it comes.",
        "Seconds: mean training time of a run, without compilation and evaluation; "
        "left out where other work may have run on the machine.",
    ),
    "speed": (
        "Steps to an accuracy: what half of the runs took at most until an evaluation "
        "first showed that validation accuracy; (k/n) where not all came there. None "
        "is left out: a run that finished below it counts as slower than all that came "
        "there, one that diverged below it as never, and one that has not ended for as "
        "long as it was watched (Kaplan and Meier). > x: fewer than half had come "
        "there by then.",
    ),
}
ON_TEXT = {
    "results": (
        "Test loss: the mean cross-entropy of the next byte, in nats, of the weights "
        "after the last step, so that no epoch is chosen by the test set; mean ± "
        "standard deviation over the seeds that finished. Lower is better.",
        "Steps to the same loss: those that a policy took to a validation loss, by "
        "those that its baseline took under the same seed; below 1 it is faster. The "
        "loss is the higher one of those that the two end with: where the policy ends "
        "below its baseline, the ratio is the share of the steps, and so of the text, "
        "after which it stood where the baseline ends. Linear between evaluations; "
        "geometric mean.",
    ),
    "speed": (
        "Intervals and p of steps to the same loss are those of the logarithm of the "
        "ratio.",
    ),
}
NOTES = {
    "paired": (
        "Difference: to the baseline under the same seed, in {unit}; mean over the "
        "seeds that finished under both, and its 95 % t interval, from three pairs on "
        "and uncorrected.",
        "p: of the paired t test, corrected for all comparisons (Holm's method); it "
        "may stay above 0.05 where an interval lies clear of {none}.",
    ),
    "found": (
        "What was expected before the runs is supported if the whole 95 % interval of "
        "the difference lies where it was expected, contradicted if no part of it "
        "does, undecided if some. Expected the same means: {same}.",
        "Where the expectation is open, the difference is found by looking at all "
        "policies: higher or lower where the corrected p is at most 0.05; else the "
        "same where that of equivalence is; undecided elsewhere.",
        "{Same}: where a difference that matters is excluded, whatever was expected, "
        "with the p of two one-sided paired t tests (TOST), corrected for all "
        "comparisons (Holm's method); at most 0.05, as the 90 % interval lies {same}.",
        "No verdict without an interval, nor where a run of the policy or of its "
        "baseline diverged, since the runs left over are a choice.",
    ),
    "across": (
        "Under each study: the mean difference to the baseline there, in {unit}, with "
        "its 95 % t interval. Then how much it changes from the first study to the "
        "last, with the p of that change, corrected for all policies (Holm's method).",
    ),
    "across, found": (
        "Found: where the corrected p is at most 0.05, the difference shrinks or "
        "grows, or changes its sign if both intervals are clear of 0; the same, if not "
        "and if any but one {same} is excluded (TOST, p corrected likewise); "
        "undecided elsewhere. No verdict without an interval, nor where a run of the "
        "policy or of its baseline diverged.",
    ),
}
TESTS = {
    True: "The change is paired by seed (t test): first and last study share seeds, "
    "model and classes, so that a seed means the same in both.",
    False: "The change is between independent samples (Welch's t test): the same seed "
    "does not mean the same in the first and in the last study.",
}
"""By whether changes are paired, how they are tested."""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: what it answers.
        headings: of its columns; the first is that of what a line is about.
        lines: the cells.
        notes: what the columns mean, in sentences.
    """

    title: str
    headings: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def only(self, headings: Sequence[str]) -> "Table":
        """The same with these columns alone."""
        at = [self.headings.index(name) for name in headings]
        lines = tuple(tuple(line[i] for i in at) for line in self.lines)
        return dataclasses.replace(self, headings=tuple(headings), lines=lines)


def tables(
    config: Mapping[str, Any], rows: Sequence[Row], demonstration: bool
) -> list[Table]:
    """The tables of a study: how good, how fast, expected and found.

    Args:
        config: config.json.
        rows: one a policy.
        demonstration: whether there are caveats, so that no verdict is given.
    """
    measure, about = measure_of(config["data"]), config["policies"]
    good, fast = questions(measure).values()
    thresholds = tuple(
        f"steps to {100 * threshold:g} %" for threshold in config["thresholds"]
    )
    speed = ("policy", "baseline", fast.difference, *INTERVAL)
    found = [
        (
            row.policy,
            about[row.policy]["expectation"],
            *(
                _found(row, name, about[row.policy], demonstration, measure)
                for name in questions(measure)
            ),
        )
        for row in rows
    ]
    return [
        Table(
            "Results",
            _headings(measure),
            tuple(_result(row, measure) for row in rows),
            _notes("results", measure),
        ),
        Table(
            "Speed",
            speed + (thresholds if measure.larger else ()),
            tuple(_speed(row, fast) for row in rows),
            _notes("speed", measure),
        ),
        Table(
            "Expected and found",
            ("policy", "expectation", good.measure, fast.measure),
            tuple(found),
            () if demonstration else _said("found", measure),
        ),
    ]


def _headings(measure: Measure) -> tuple[str, ...]:
    """Of the results."""
    good, fast = questions(measure).values()
    begin = ("policy", "baseline", "seeds", good.heading, good.difference)
    return (*begin, *INTERVAL, fast.heading, "seconds")


def short(rows: Sequence[Row], measure: Measure = ACCURACY) -> Table:
    """How good each policy was: for a terminal."""
    good, _ = questions(measure).values()
    others = [
        f"; {row.policy} to {row.control}"
        for row in rows
        if row.control not in (row.policy, BASELINE)
    ]
    note = f"Differences in {good.unit}, to {BASELINE}{''.join(others)}."
    lines = tuple(_result(row, measure) for row in rows)
    table = Table("", _headings(measure), lines, (note,))
    shown = ("policy", good.heading, good.difference, "95 % interval", "seconds")
    return table.only(shown)


def joined(studies: Mapping[str, Sequence[Table]]) -> list[Table]:
    """The tables of several studies as one, with a column for the study's name.

    Those whose columns differ from study to study are left out.

    Args:
        studies: by name, what `tables` gives for each.
    """
    found: list[Table] = []
    for same in zip(*studies.values(), strict=True):
        first = same[0]
        if any(table.headings != first.headings for table in same):
            continue
        lines = tuple(
            (policy, name, *cells)
            for name, table in zip(studies, same, strict=True)
            for policy, *cells in table.lines
        )
        headings = ("policy", "study", *first.headings[1:])
        notes = tuple(dict.fromkeys(note for table in same for note in table.notes))
        found.append(Table(first.title, headings, lines, notes))
    return found


def across(
    lines: Sequence[Line],
    axis: Axis,
    name: str,
    demonstration: bool,
    measure: Measure = ACCURACY,
) -> Table:
    """Each policy's difference to its control, study by study, and how it changes.

    Args:
        lines: of that question.
        axis: what the studies differ in.
        name: of one of `questions`.
        demonstration: whether there are caveats, so that no verdict is given.
        measure: what the runs of all studies are judged by.
    """
    question = questions(measure)[name]
    first, *_, last = labels = axis.labels
    found: list[tuple[str, ...]] = []
    for line in lines:
        if line.policy == line.control:
            continue
        places = [line.places.get(study) for study in axis.places]
        told = [*(place and place.difference for place in places), line.change]
        cells = [_spanned(one, question) for one in told]
        cells.append(_tested(line.change, question)[2])
        if not demonstration:
            said = str(between.verdict(line, axis))
            cells.append(_judged(said, line.change, question))
        found.append((line.policy, line.control, *cells))
    headings = ("policy", "baseline", *labels, f"{last} − {first}", "p (Holm)")
    notes = (*_said("across", measure), TESTS[axis.paired])
    if not demonstration:
        headings, notes = (
            (*headings, "found"),
            (*notes, *_said("across, found", measure)),
        )
    title = f"Difference in {question.measure} by {axis.name}, {question.unit}"
    return Table(title, headings, tuple(found), notes)


def savings(rows: Sequence[Saving]) -> Table:
    """What frozen layers save, phase by phase."""
    lines = tuple(row.cells for row in rows)
    return Table("", analysis.HEADINGS, lines, (analysis.NOTE,))


def measured(row: Row, answer: Answer, question: Question) -> str:
    """Mean ± sd, and how many runs are missing from it and why."""
    total = row.n + row.diverged + row.interrupted
    counts = {"diverged": row.diverged, "interrupted": row.interrupted}
    missing = [f"{n} of {total} {status}" for status, n in counts.items() if n]
    if answer.mean is None:
        return ", ".join(missing) or "–"
    text = question.shown(answer.mean)
    if answer.deviation is not None and (spread := question.spread(answer.deviation)):
        text += f" ± {spread}"
    return f"{text} ({', '.join(missing)})" if missing else text


def compared(row: Row, answer: Answer, question: Question) -> tuple[str, str, str]:
    """The paired difference, its interval, and the corrected p value."""
    found = answer.difference
    if row.control == row.policy:
        return "baseline", "–", "–"
    if found is None:
        return "–", "–", "–"
    mean, interval, p = _tested(found, question)
    if found.n != len(answer.values):  # where runs are left over
        mean += f", n = {found.n}"
    return mean, interval, p


def taken(threshold: Threshold) -> str:
    """The median steps to a threshold, and how many came there if not all."""
    if threshold.steps.value == math.inf:
        text = "never"
    else:
        text = f"{'> ' * threshold.steps.censored}{threshold.steps.value:,.0f}"
    return (
        text
        if threshold.reached == threshold.n
        else f"{text} ({threshold.reached}/{threshold.n})"
    )


def _tested(found: Difference | None, question: Question) -> tuple[str, str, str]:
    """A difference, its interval, and the corrected p value."""
    if found is None:
        return "–", "–", "–"
    interval = " to ".join(map(question.signed, found.interval or ())) or "–"
    p = "–" if found.p_holm is None else _p(found.p_holm)
    return question.signed(found.mean), interval, p


def _spanned(found: Difference | None, question: Question) -> str:
    """A difference, and in brackets its interval if it has one."""
    mean, interval, _ = _tested(found, question)
    return mean if interval == "–" else f"{mean} ({interval})"


def _judged(said: str, found: Difference | None, question: Question) -> str:
    """A verdict; and p of equivalence where a difference that matters is excluded."""
    if said == "none":
        return "no verdict"
    if not found or found.p_same_holm is None or not verdicts.is_same(found):
        return said
    p = _p(found.p_same_holm)
    return f"{said}\n{question.within}: p {p if '<' in p else f'= {p}'}"


def _p(value: float) -> str:
    text = f"{value:.3f}"
    return "< 0.001" if text == "0.000" else text


def _notes(table: str, measure: Measure) -> tuple[str, ...]:
    own = ON_IMAGES if measure.larger else ON_TEXT
    return own[table] + _said("paired", measure)


def _said(table: str, measure: Measure) -> tuple[str, ...]:
    """Notes that are the same for images and text but for a few words."""
    within = dict.fromkeys(question.within for question in questions(measure).values())
    same = ", or ".join(within)
    words = {
        "unit": measure.differences,
        "none": "0" if measure.larger else "0, or of 1",
        "same": same,
        "Same": same.capitalize(),
    }
    return tuple(note.format(**words) for note in NOTES[table])


def _control(row: Row) -> str:
    return "–" if row.control == row.policy else row.control


def _result(row: Row, measure: Measure) -> tuple[str, ...]:
    """Under `_headings`."""
    good, fast = questions(measure).values()
    quality, speed = (row.answers[name] for name in questions(measure))
    return (
        row.policy,
        _control(row),
        str(len(quality.values)),
        measured(row, quality, good),
        *compared(row, quality, good),
        measured(row, speed, fast),
        "–" if row.seconds is None else f"{row.seconds:,.1f}",
    )


def _speed(row: Row, fast: Question) -> tuple[str, ...]:
    """How much faster, and the thresholds."""
    speed = compared(row, row.answers["speed"], fast)
    return row.policy, _control(row), *speed, *map(taken, row.thresholds)


def _found(
    row: Row,
    question: str,
    about: Mapping[str, Any],
    demonstration: bool,
    measure: Measure,
) -> str:
    """What was expected of a policy, and what was found."""
    if row.control == row.policy:
        return "baseline"
    asked = verdicts.expected(about, question)
    said = verdicts.verdict(row, question, demonstration, asked, measure)
    if demonstration:
        return f"expected: {asked}"
    difference = row.answers[question].difference
    found = _judged(str(said), difference, questions(measure)[question])
    return f"expected: {asked}\nfound: {found}"
