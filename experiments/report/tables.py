"""The tables of a study as headings and cells, whatever they are written in."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..analysis import savings as analysis
from ..analysis import verdicts
from ..analysis.compare import BASELINE, QUESTIONS, Answer, Mark, Row
from ..analysis.savings import Saving
from ..analysis.significance import Difference, Time

HEADINGS = {
    "accuracy": ("test accuracy, %", "difference, points", "p (Holm)"),
    "speed": ("mean validation accuracy, %", "difference, points", "p (Holm)"),
}
OUTCOMES = ("policy", "expectation", "verdict on accuracy", "verdict on speed")
SHORT = ("policy", "test accuracy, %", "difference", "95 % interval", "seconds")
VERDICTS = {None: "–", "none": "no verdict"}
NOTES = {
    "accuracy": (
        "Test accuracy: of the weights after the last step, so that no epoch is chosen "
        "by the test set; mean ± standard deviation over the seeds that finished.",
    ),
    "speed": (
        "Mean validation accuracy: the area under the curve of validation accuracy "
        "over steps, from the first evaluation to the last step, divided by its width; "
        "mean ± standard deviation over the seeds that finished. It grows with how "
        "soon a policy learns and with how far it comes.",
    ),
    "marks": (
        "To a mark: what half of the runs took at most until an evaluation first "
        "showed that validation accuracy, in steps, images and seconds of training; "
        "(k/n) where not all came there. None is left out: a run that finished below "
        "the mark counts as slower than all that came there, one that diverged below "
        "it as never, and one that has not ended for as long as it was watched (Kaplan "
        "and Meier). > x: fewer than half had come there by then.",
        "Seconds a run: mean training time, without compilation and evaluation.",
    ),
}
PAIRED = (
    "Difference: to uniform, or to the policy named below it, under the same seed; "
    "mean over the seeds that finished under both, and in brackets its 95 % t "
    "interval, from three pairs on and uncorrected.",
    "p: of the paired t test, corrected for all comparisons of the table (Holm), so "
    "that it may stay above 0.05 where an interval lies clear of 0.",
)
EXPECTED = (
    "Verdict on what was expected before the runs: supported if the whole 95 % "
    "interval of the difference lies where it was expected, contradicted if no part "
    "of it does, undecided if some. Expected the same means: within 0.5 points.",
    "Where the expectation is open, the difference is found by looking at all "
    "policies: higher or lower where the corrected p is at most 0.05, undecided "
    "elsewhere.",
    "No verdict without an interval, nor where a run of the policy or of its control "
    "diverged, since the runs left over are a choice.",
)
DEMONSTRATION = (
    "Demonstration: no verdict. The numbers show how a study reads; the differences "
    "may as well be chance."
)


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
    notes: tuple[str, ...]


def tables(
    config: Mapping[str, Any], rows: Sequence[Row], demonstration: bool
) -> list[Table]:
    """The tables of a study: expected and come, how good, how fast, how long.

    Args:
        config: config.json.
        rows: one a policy.
        demonstration: whether there are caveats, so that no verdict is given.
    """
    policies = config["policies"]
    marks = tuple(f"to {100 * mark:g} %" for mark in config["marks"])
    said = {
        (row.policy, name): _verdict(row, name, policies[row.policy], demonstration)
        for row in rows
        for name in QUESTIONS
    }

    def question(name: str, title: str) -> Table:
        return Table(
            title,
            ("policy", "n", *HEADINGS[name], "verdict"),
            tuple(
                (
                    row.policy,
                    str(len(row.answers[name].values)),
                    *cells(row, name),
                    said[row.policy, name],
                )
                for row in rows
            ),
            NOTES[name] + PAIRED,
        )

    return [
        Table(
            "What was expected, and what came",
            OUTCOMES,
            tuple(_outcome(row, policies[row.policy], said) for row in rows),
            (DEMONSTRATION,) if demonstration else EXPECTED,
        ),
        question("accuracy", "How good in the end"),
        question("speed", "How fast"),
        Table(
            "How long to an accuracy",
            ("policy", *marks, "seconds a run"),
            tuple(
                (
                    row.policy,
                    *("\n".join(taken(mark)) for mark in row.marks),
                    seconds(row),
                )
                for row in rows
            ),
            NOTES["marks"],
        ),
    ]


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


def short(rows: Sequence[Row]) -> Table:
    """How good each policy was, by its control: for a terminal.

    Args:
        rows: one a policy.
    """
    compared: dict[str, list[str]] = {}
    for row in rows:
        if row.control not in (row.policy, BASELINE):
            compared.setdefault(row.control, []).append(row.policy)
    others = [
        f"; to {control}: {', '.join(names)}" for control, names in compared.items()
    ]
    return Table(
        "",
        SHORT,
        tuple(
            (
                row.policy,
                measured(row, answer := row.answers["accuracy"]),
                _mean(row, answer) + _pairs(answer),
                _interval(answer.difference) or "–",
                seconds(row),
            )
            for row in rows
        ),
        (f"Differences in points, to {BASELINE}{''.join(others)}.",),
    )


def savings(rows: Sequence[Saving]) -> Table:
    """What frozen layers save, phase by phase."""
    lines = tuple(row.cells for row in rows)
    return Table("", analysis.HEADINGS, lines, (analysis.NOTE,))


def cells(row: Row, question: str) -> tuple[str, str, str]:
    """What one policy says to a question, in the columns of `HEADINGS`."""
    answer = row.answers[question]
    compared = difference(row, answer)
    if answer.difference is not None and row.control != BASELINE:
        compared += f"\nto {row.control}"
    return measured(row, answer), compared, corrected_p(answer)


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


def difference(row: Row, answer: Answer) -> str:
    """The paired difference in points, with its interval where there is one."""
    text = _mean(row, answer)
    if interval := _interval(answer.difference):
        text += f" ({interval})"
    return text + _pairs(answer)


def corrected_p(answer: Answer) -> str:
    """The corrected p value, or a dash where there is none."""
    if answer.difference is None or answer.difference.p_holm is None:
        return "–"
    p = answer.difference.p_holm
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def taken(mark: Mark) -> tuple[str, ...]:
    """The median steps, images and seconds to a mark, and who came there if not all."""
    if mark.steps.value == math.inf:
        units = ("never",)
    else:
        units = (
            f"{_median(mark.steps)} steps",
            f"{_median(mark.images)} images",
            f"{_median(mark.seconds)} s",
        )
    missing = () if mark.reached == mark.n else (f"({mark.reached}/{mark.n})",)
    return (*units, *missing)


def seconds(row: Row) -> str:
    """Training time of a run."""
    return "–" if row.seconds is None else f"{row.seconds:,.1f}"


def _mean(row: Row, answer: Answer) -> str:
    if row.control == row.policy:
        return "baseline"
    return _points(answer.difference.mean) if answer.difference else "–"


def _interval(difference: Difference | None) -> str:
    """From where to where, in points; empty where there is none."""
    if difference is None or difference.interval is None:
        return ""
    return " to ".join(map(_points, difference.interval))


def _pairs(answer: Answer) -> str:
    """How many pairs there are, where runs are left over."""
    found = answer.difference
    return f", n = {found.n}" if found and found.n != len(answer.values) else ""


def _points(share: float) -> str:
    """One decimal with its sign; a true minus, so that columns align."""
    return f"{round(100 * share, 1) + 0.0:+.1f}".replace("-", "−")


def _median(time: Time) -> str:
    """Whole numbers, but one decimal below ten, where seconds may be."""
    text = f"{time.value:,.{int(time.value < 10 and time.value % 1 > 0)}f}"
    return f"> {text}" if time.censored else text


def _outcome(
    row: Row, policy: Mapping[str, Any], said: Mapping[tuple[str, str], str]
) -> tuple[str, ...]:
    """One policy: the sentence, and for each question what was expected and came."""
    if row.control == row.policy:
        return row.policy, policy["expectation"], *("baseline" for _ in QUESTIONS)
    answers = (
        f"{said[row.policy, name]}\nexpected: {verdicts.expected(policy, name)}"
        for name in QUESTIONS
    )
    return row.policy, policy["expectation"], *answers


def _verdict(
    row: Row, question: str, policy: Mapping[str, Any], demonstration: bool
) -> str:
    asked = verdicts.expected(policy, question)
    found = verdicts.verdict(row, question, demonstration, asked)
    return VERDICTS.get(found, str(found))
