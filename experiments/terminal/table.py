"""The tables of a study in words, for the terminal and for the report."""

import math
import textwrap
from collections.abc import Mapping, Sequence

import rich.box
import rich.console
import rich.table

from ..analysis.compare import BASELINE, Answer, Mark, Row
from ..analysis.savings import HEADINGS as SAVINGS
from ..analysis.savings import Saving
from ..analysis.significance import Time

HEADINGS = {
    "accuracy": ("test accuracy, %", "difference, points", "p (Holm)"),
    "speed": ("mean validation accuracy, %", "difference, points", "p (Holm)"),
}
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
    if row.control == row.policy:
        return "baseline"
    if answer.difference is None:
        return "–"
    text = signed(100 * answer.difference.mean)
    if answer.difference.interval is not None:
        low, high = answer.difference.interval
        text += f" ({signed(100 * low)} to {signed(100 * high)})"
    if answer.difference.n != len(answer.values):
        text += f", n = {answer.difference.n}"
    return text


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
    return (*units, *_some(mark))


def signed(value: float) -> str:
    """One decimal with its sign; a true minus, so that columns align."""
    return f"{round(value, 1) + 0.0:+.1f}".replace("-", "−")


def seconds(row: Row) -> str:
    """Training time of a run."""
    return "–" if row.seconds is None else f"{row.seconds:,.1f}"


def terminal(
    rows: Sequence[Row], marks: Sequence[float], expectations: Mapping[str, str]
) -> rich.console.Group:
    """How good and how fast: three tables of one study, for 80 columns or more.

    Args:
        rows: one a policy.
        marks: validation accuracies in [0, 1].
        expectations: by policy; shortened to a few words.
    """
    good = _table("policy", "expectation", *HEADINGS["accuracy"])
    fast = _table("policy", *HEADINGS["speed"])
    pace = _table(
        "policy", *(f"steps to {100 * mark:g} %" for mark in marks), "seconds a run"
    )
    for row in rows:
        short = textwrap.shorten(expectations[row.policy], 28, placeholder=" …")
        good.add_row(row.policy, short, *cells(row, "accuracy"))
        fast.add_row(row.policy, *cells(row, "speed"))
        steps = ("\n".join([_median(m.steps), *_some(m)]) for m in row.marks)
        pace.add_row(row.policy, *steps, seconds(row))
    return rich.console.Group(good, fast, pace)


def listed(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> rich.table.Table:
    """Cells under headings, the first of them "policy"."""
    cells = _table(*headings)
    for line in lines:
        cells.add_row(*line)
    return cells


def saved(policy: str, rows: Sequence[Saving]) -> rich.console.Group:
    """What frozen layers saved, phase by phase."""
    phases = _table(*SAVINGS)
    for row in rows:
        phases.add_row(*row.cells)
    return rich.console.Group(f"{policy}: the cost of a step", phases)


def _median(time: Time) -> str:
    """Whole numbers, but one decimal below ten, where seconds may be."""
    if time.value == math.inf:
        return "never"
    text = f"{time.value:,.{int(time.value < 10 and time.value % 1 > 0)}f}"
    return f"> {text}" if time.censored else text


def _some(mark: Mark) -> tuple[str, ...]:
    """How many came there, if not all did."""
    return () if mark.reached == mark.n else (f"({mark.reached}/{mark.n})",)


def _table(*names: str) -> rich.table.Table:
    table = rich.table.Table(
        box=rich.box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True
    )
    for name in names:
        if name == "policy":
            table.add_column(name, style="bold", no_wrap=True)
        elif name == "expectation":
            table.add_column(name, style="dim", ratio=1)
        else:
            fixed = name.startswith("difference")
            table.add_column(name, justify="right", min_width=20 if fixed else None)
    return table
