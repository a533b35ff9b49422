"""The tables of a study as headings and cells, whatever they are written in."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..analysis import across as between
from ..analysis import savings as analysis
from ..analysis import verdicts
from ..analysis.across import Axis, Line
from ..analysis.compare import BASELINE, QUESTIONS, Answer, Row, Threshold
from ..analysis.savings import Saving
from ..analysis.significance import Difference

RESULTS = (
    *("policy", "baseline", "seeds", "test accuracy, %", "difference, points"),
    *("95 % interval", "p (Holm)", "learning-curve area, %", "seconds"),
)
SHORT = ("policy", "test accuracy, %", "difference, points", "95 % interval", "seconds")
SPEED = ("policy", "baseline", "difference in area", "95 % interval", "p (Holm)")
FOUND = ("policy", "expectation", "test accuracy", "learning-curve area")
NOTES = {
    "results": (
        "Test accuracy: of the weights after the last step, so that no epoch is chosen "
        "by the test set; mean ± standard deviation over the seeds that finished.",
        "Learning-curve area: the area under validation accuracy over steps, from the "
        "first evaluation to the last step, divided by its width. It is the measure of "
        "speed: it grows with how soon a policy learns, and with how far it comes.",
        "Seconds: mean training time of a run, without compilation and evaluation; "
        "left out where other work may have run on the machine.",
    ),
    "paired": (
        "Difference: to the baseline under the same seed, in points; mean over the "
        "seeds that finished under both, and its 95 % t interval, from three pairs on "
        "and uncorrected.",
        "p: of the paired t test, corrected for all comparisons (Holm's method); it "
        "may stay above 0.05 where an interval lies clear of 0.",
    ),
    "speed": (
        "Steps to an accuracy: what half of the runs took at most until an evaluation "
        "first showed that validation accuracy; (k/n) where not all came there. None "
        "is left out: a run that finished below it counts as slower than all that came "
        "there, one that diverged below it as never, and one that has not ended for as "
        "long as it was watched (Kaplan and Meier). > x: fewer than half had come "
        "there by then.",
    ),
    "found": (
        "What was expected before the runs is supported if the whole 95 % interval of "
        "the difference lies where it was expected, contradicted if no part of it "
        "does, undecided if some. Expected the same means: within 0.5 points.",
        "Where the expectation is open, the difference is found by looking at all "
        "policies: higher or lower where the corrected p is at most 0.05; else the "
        "same where that of equivalence is; undecided elsewhere.",
        "Within 0.5 points: where a difference that matters is excluded, whatever was "
        "expected, with the p of two one-sided paired t tests (TOST), corrected for "
        "all comparisons (Holm's method); at most 0.05, as the 90 % interval lies "
        "within 0.5 points.",
        "No verdict without an interval, nor where a run of the policy or of its "
        "baseline diverged, since the runs left over are a choice.",
    ),
    "across": (
        "Under each study: the mean difference to the baseline there, in points, with "
        "its 95 % t interval. Then how much it changes from the first study to the "
        "last, with the p of that change, corrected for all policies (Holm's method).",
    ),
    "across, found": (
        "Found: where the corrected p is at most 0.05, the difference shrinks or "
        "grows, or changes its sign if both intervals are clear of 0; the same, if not "
        "and if a change by 0.5 points is excluded (TOST, p corrected likewise); "
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
    thresholds = tuple(
        f"steps to {100 * threshold:g} %" for threshold in config["thresholds"]
    )
    about = config["policies"]
    found = [
        (
            row.policy,
            about[row.policy]["expectation"],
            *(
                _found(row, name, about[row.policy], demonstration)
                for name in QUESTIONS
            ),
        )
        for row in rows
    ]
    return [
        Table("Results", RESULTS, tuple(map(_result, rows)), _notes("results")),
        Table("Speed", SPEED + thresholds, tuple(map(_speed, rows)), _notes("speed")),
        Table(
            "Expected and found",
            FOUND,
            tuple(found),
            () if demonstration else NOTES["found"],
        ),
    ]


def short(rows: Sequence[Row]) -> Table:
    """How good each policy was: for a terminal."""
    others = [
        f"; {row.policy} to {row.control}"
        for row in rows
        if row.control not in (row.policy, BASELINE)
    ]
    note = f"Differences in points, to {BASELINE}{''.join(others)}."
    table = Table("", RESULTS, tuple(map(_result, rows)), (note,))
    return table.only(SHORT)


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
    lines: Sequence[Line], axis: Axis, question: str, demonstration: bool
) -> Table:
    """Each policy's difference to its control, study by study, and how it changes.

    Args:
        lines: of that question.
        axis: what the studies differ in.
        question: one of `QUESTIONS`.
        demonstration: whether there are caveats, so that no verdict is given.
    """
    first, *_, last = labels = axis.labels
    found: list[tuple[str, ...]] = []
    for line in lines:
        if line.policy == line.control:
            continue
        places = [line.places.get(study) for study in axis.places]
        told = [*(place and place.difference for place in places), line.change]
        cells = [*map(_spanned, told), _tested(line.change)[2]]
        if not demonstration:
            cells.append(_judged(str(between.verdict(line, axis)), line.change))
        found.append((line.policy, line.control, *cells))
    headings = ("policy", "baseline", *labels, f"{last} − {first}", "p (Holm)")
    notes = (*NOTES["across"], TESTS[axis.paired])
    if not demonstration:
        headings, notes = (*headings, "found"), (*notes, *NOTES["across, found"])
    measure = QUESTIONS[question].measure
    title = f"Difference in {measure} by {axis.name}, points"
    return Table(title, headings, tuple(found), notes)


def savings(rows: Sequence[Saving]) -> Table:
    """What frozen layers save, phase by phase."""
    lines = tuple(row.cells for row in rows)
    return Table("", analysis.HEADINGS, lines, (analysis.NOTE,))


def measured(row: Row, answer: Answer) -> str:
    """Mean ± sd in per cent, and how many runs are missing from it and why."""
    total = row.n + row.diverged + row.interrupted
    counts = {"diverged": row.diverged, "interrupted": row.interrupted}
    missing = [f"{n} of {total} {status}" for status, n in counts.items() if n]
    if answer.mean is None:
        return ", ".join(missing) or "–"
    text = f"{100 * answer.mean:.1f}"
    if answer.deviation is not None:
        text += f" ± {100 * answer.deviation:.1f}"
    return f"{text} ({', '.join(missing)})" if missing else text


def compared(row: Row, answer: Answer) -> tuple[str, str, str]:
    """The paired difference in points, its interval, and the corrected p value."""
    found = answer.difference
    if row.control == row.policy:
        return "baseline", "–", "–"
    if found is None:
        return "–", "–", "–"
    mean, interval, p = _tested(found)
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


def _tested(found: Difference | None) -> tuple[str, str, str]:
    """A difference in points, its interval, and the corrected p value."""
    if found is None:
        return "–", "–", "–"
    interval = " to ".join(map(verdicts.points, found.interval or ())) or "–"
    p = "–" if found.p_holm is None else _p(found.p_holm)
    return verdicts.points(found.mean), interval, p


def _spanned(found: Difference | None) -> str:
    """A difference in points, and in brackets its interval if it has one."""
    mean, interval, _ = _tested(found)
    return mean if interval == "–" else f"{mean} ({interval})"


def _judged(said: str, found: Difference | None) -> str:
    """A verdict; and p of equivalence where a difference that matters is excluded."""
    if said == "none":
        return "no verdict"
    if not found or found.p_same_holm is None or not verdicts.is_same(found):
        return said
    p = _p(found.p_same_holm)
    return f"{said}\n{verdicts.WITHIN}: p {p if '<' in p else f'= {p}'}"


def _p(value: float) -> str:
    text = f"{value:.3f}"
    return "< 0.001" if text == "0.000" else text


def _notes(table: str) -> tuple[str, ...]:
    return NOTES[table] + NOTES["paired"]


def _control(row: Row) -> str:
    return "–" if row.control == row.policy else row.control


def _result(row: Row) -> tuple[str, ...]:
    """Under `RESULTS`."""
    accuracy, area = row.answers["accuracy"], row.answers["speed"]
    return (
        row.policy,
        _control(row),
        str(len(accuracy.values)),
        measured(row, accuracy),
        *compared(row, accuracy),
        measured(row, area),
        "–" if row.seconds is None else f"{row.seconds:,.1f}",
    )


def _speed(row: Row) -> tuple[str, ...]:
    """Under `SPEED`, and the thresholds."""
    area = compared(row, row.answers["speed"])
    return row.policy, _control(row), *area, *map(taken, row.thresholds)


def _found(
    row: Row, question: str, about: Mapping[str, Any], demonstration: bool
) -> str:
    """What was expected of a policy, and what was found."""
    if row.control == row.policy:
        return "baseline"
    asked = verdicts.expected(about, question)
    said = verdicts.verdict(row, question, demonstration, asked)
    if demonstration:
        return f"expected: {asked}"
    found = _judged(str(said), row.answers[question].difference)
    return f"expected: {asked}\nfound: {found}"
