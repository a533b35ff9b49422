"""The table of a study in words, for the terminal and for the report."""

import statistics
import textwrap
from collections.abc import Mapping, Sequence

import rich.box
import rich.console
import rich.table

from . import compare

NOTES = (
    "Test accuracy: mean ± standard deviation over the seeds that finished.",
    "Difference: points of test accuracy against uniform, paired by seed; in brackets "
    "its 95 % t interval, from three pairs on.",
    "Steps: median of the optimizer steps after which the validation accuracy first "
    "stood at the mark, over the seeds that reached it; (k of n) where not all did.",
    "Seconds: mean training time of a run, without compilation and evaluation.",
)


def headings(marks: Sequence[float]) -> tuple[str, ...]:
    """The names of the columns that `cells` fills."""
    return (
        "test accuracy, %",
        "difference, points",
        *(f"steps to {100 * mark:g} %" for mark in marks),
        "seconds",
    )


def cells(row: compare.Row) -> tuple[str, ...]:
    """The figures of one policy, as text."""
    return (
        accuracy(row),
        difference(row),
        *(steps(mark) for mark in row.marks),
        "–" if row.seconds is None else f"{row.seconds:,.1f}",
    )


def accuracy(row: compare.Row) -> str:
    """Mean ± sd in per cent, and how many runs are missing from it and why."""
    total = row.n + row.diverged + row.interrupted
    counts = {"diverged": row.diverged, "interrupted": row.interrupted}
    missing = [f"{n} of {total} {status}" for status, n in counts.items() if n]
    if row.mean is None:
        return ", ".join(missing)
    text = f"{100 * row.mean:.1f}"
    if row.deviation is not None:
        text += f" ± {100 * row.deviation:.1f}"
    return f"{text} ({', '.join(missing)})" if missing else text


def difference(row: compare.Row) -> str:
    """The paired difference in points, with its interval where there is one."""
    if row.policy == compare.BASELINE:
        return "baseline"
    if row.difference is None:
        return "–"
    text = signed(100 * row.difference.mean)
    if row.difference.interval is not None:
        low, high = row.difference.interval
        text += f" ({signed(100 * low)} to {signed(100 * high)})"
    return text if row.difference.n == row.n else f"{text}, n = {row.difference.n}"


def steps(mark: compare.Mark) -> str:
    """The median step, and of how many runs if some never came there."""
    if not mark.n:
        return "–"
    if not mark.steps:
        return "not reached"
    text = f"{statistics.median(mark.steps):,.0f}"
    return (
        text if len(mark.steps) == mark.n else f"{text} ({len(mark.steps)} of {mark.n})"
    )


def signed(value: float) -> str:
    """One decimal with its sign; a true minus, so that columns align."""
    return f"{round(value, 1) + 0.0:+.1f}".replace("-", "−")


def terminal(
    rows: Sequence[compare.Row], marks: Sequence[float], expectations: Mapping[str, str]
) -> rich.console.Group:
    """How good and how fast: two tables of one study, each for 80 columns or more.

    Args:
        rows: one a policy.
        marks: validation accuracies in [0, 1].
        expectations: by policy; shortened to a few words.
    """
    good, better, *speed = headings(marks)
    quality = _table("policy", "expectation", good, better)
    pace = _table("policy", *speed)
    for row in rows:
        short = textwrap.shorten(expectations[row.policy], 60, placeholder=" …")
        accuracy, difference, *steps = cells(row)
        quality.add_row(row.policy, short, accuracy, difference)
        pace.add_row(row.policy, *steps)
    return rich.console.Group(quality, pace)


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
            table.add_column(name, justify="right")
    return table
