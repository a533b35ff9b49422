"""Panels in which policies are compared: curves, differences, times to a mark.

Each `draw_…` function fills one `Axes` from plain arrays, in a notebook too.
"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from .figures import INK, Pen, horizontal, id_of, pens_for

FEW_CURVES = 4  # more of them, and a legend would squeeze them
MOST_IN_A_COLUMN = 14
MARKERS = "os^Dv"

Curve = tuple[np.ndarray, np.ndarray]
"""Steps or seconds (S,) and values (seeds, S); NaN where a seed has no value."""


def draw_curves(
    axes: Axes,
    curves: Mapping[str, Curve],
    title: str,
    quantity: str,
    against: str = "optimizer steps",
    pens: Mapping[str, Pen] | None = None,
) -> None:
    """Mean over seeds, in a band from the lowest to the highest seed.

    Args:
        axes: where to draw.
        curves: by policy. A cross stands where a seed ended early.
        title: what is shown.
        quantity: name and unit of the vertical axis.
        against: name and unit of the horizontal one.
        pens: by policy; by default those of `pens_for(curves)`. Where there are more
            than `FEW_CURVES`, `draw_key` says whose is which, in a panel of its own.
    """
    drawn = pens_for(curves) if pens is None else pens
    lines: list[Line2D] = []
    for name, (steps, values) in curves.items():
        dash, colour = drawn[name]
        known = np.ma.masked_invalid(values)
        low, high = known.min(axis=0), known.max(axis=0)
        mean = known.mean(axis=0)
        lines += axes.plot(steps, mean, color=colour, ls=dash, label=name)
        if len(steps) == 1:  # of which there is no line to be seen
            lines[-1].set_marker("o")
        band = axes.fill_between(steps, low, high, color=colour, alpha=0.15, lw=0)
        shown: list[Artist] = [lines[-1], band]
        for seed in values[np.isnan(values[:, -1]) & np.isfinite(values).any(axis=1)]:
            last = np.flatnonzero(np.isfinite(seed))[-1]
            shown += axes.plot(steps[last], seed[last], color=colour, marker="x")
        for artist in shown:
            artist.set_gid(id_of(name))
    axes.set(title=title, ylabel=quantity)
    horizontal(axes, against)
    if 0 < len(curves) <= FEW_CURVES:
        # By hand: Matplotlib leaves out labels that begin with an underscore.
        axes.legend(lines, list(curves))


def draw_key(axes: Axes, pens: Mapping[str, Pen]) -> None:
    """Which line is which policy, for panels that would have no room for a legend.

    Args:
        axes: where to draw.
        pens: by policy.
    """
    lines = [
        Line2D([], [], linestyle=dash, color=colour, gid=id_of(name))
        for name, (dash, colour) in pens.items()
    ]
    axes.set_axis_off()
    legend = axes.legend(
        lines, list(pens), loc="upper left", ncols=1 + (len(lines) > MOST_IN_A_COLUMN)
    )
    for text in legend.get_texts():
        text.set_gid(id_of(text.get_text()))


def draw_differences(
    axes: Axes,
    pairs: Mapping[str, Sequence[float]],
    intervals: Mapping[str, tuple[float, float]],
    title: str,
    pens: Mapping[str, Pen],
    labels: Mapping[str, str],
) -> None:
    """Each policy by its control: a ring a seed, the mean, and its interval.

    Args:
        axes: where to draw.
        pairs: by policy, the difference under each seed, in points.
        intervals: of the means, for policies that have one.
        title: what is shown.
        pens: by policy.
        labels: what a policy is called where its name does not say enough.
    """
    axes.axvline(0, color=INK, linewidth=0.8)
    for row, (name, found) in enumerate(pairs.items()):
        _, colour = pens[name]
        rings: dict[str, Any] = {
            "marker": "o",
            "ls": "none",
            "mec": colour,
            "mfc": "none",
            "ms": 3,
        }
        shown = axes.plot(found, [row + 0.22] * len(found), alpha=0.6, **rings)
        shown += axes.plot(np.mean(found), row - 0.1, marker="d", color=colour, ms=6)
        if name in intervals:
            ends = intervals[name]
            shown += axes.plot(ends, [row - 0.1] * 2, color=colour, linewidth=2)
        for artist in shown:
            artist.set_gid(id_of(name))
    names = [labels.get(name, name) for name in pairs]
    axes.set_yticks(range(len(pairs)), names, fontsize=9 if len(pairs) < 12 else 6)
    axes.set_ylim(len(pairs) - 0.5, -0.5)
    axes.set_title(textwrap.fill(title, 26))  # beside long names there is little room
    horizontal(axes, "difference to the control, points")


def draw_marks(
    axes: Axes,
    times: Mapping[str, Sequence[tuple[float, bool]]],
    marks: Sequence[float],
    pens: Mapping[str, Pen],
) -> None:
    """How long each policy took to each mark; hollow, with an arrow: longer than that.

    Args:
        axes: where to draw.
        times: by policy, for each mark the median of the optimizer steps, and whether
            it is only known to lie above (censored); infinite: never.
        marks: accuracies in [0, 1].
        pens: by policy.
    """
    finite = [t for of in times.values() for t, _ in of if np.isfinite(t)]
    edge = 1.08 * max(finite, default=1.0)
    for row, (name, of) in enumerate(times.items()):
        _, colour = pens[name]
        for i, (time, censored) in enumerate(of):
            y = row + (i - (len(of) - 1) / 2) * 0.8 / len(of)
            x, fill = min(time, edge), "none" if censored else colour
            marker = MARKERS[i % len(MARKERS)]
            shown: list[Artist] = []
            shown += axes.plot(
                x, y, marker=marker, mec=colour, mfc=fill, ls="none", markersize=4.5
            )
            if censored:
                arrow = "∞" if time > edge else "→"
                shown.append(axes.text(x, y, f"  {arrow}", va="center", fontsize=7))
            for artist in shown:
                artist.set_gid(id_of(name))
    axes.set_yticks(range(len(times)), list(times))
    axes.set_ylim(len(times) - 0.5, -0.5)
    axes.set_xlim(0, 1.1 * edge)
    axes.set_title("median steps to a validation accuracy", pad=16)
    horizontal(axes)
    keys = [
        Line2D([], [], marker=MARKERS[i % len(MARKERS)], color=INK, ls="none")
        for i in range(len(marks))
    ]
    axes.legend(
        keys,
        [f"{100 * mark:g} %" for mark in marks],
        ncols=len(marks),
        loc="lower left",
        bbox_to_anchor=(0, 0.98),
        columnspacing=0.8,
        handletextpad=0,
        markerscale=0.7,
    )
