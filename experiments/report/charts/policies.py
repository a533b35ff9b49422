"""Charts in which policies are compared, and the trials of a search.

Those of several policies have a parameter `hidden`: the names of those not shown.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np

from ...config.measures import ACCURACY, Measure
from ...terminal.display import evenly
from .look import (
    INK,
    PALETTE,
    POINTS,
    STEPS,
    TICKED,
    WIDTH,
    Figure,
    Pen,
    data,
    pens_for,
    rounded,
    scaled,
)

Curve = tuple[np.ndarray, np.ndarray]
"""Steps (S,) and values (seeds, S); NaN where a seed has none."""
Dependence = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Means (S,) and the ends of their intervals (S,) in S studies; NaN where unknown."""
LEGEND = alt.Legend(title=None, symbolType="stroke", symbolOpacity=1)


def differences(
    pairs: Mapping[str, Sequence[float]],
    intervals: Mapping[str, tuple[float, float]],
    pens: Mapping[str, Pen],
    controls: Mapping[str, str],
    measure: str = "test accuracy",
    unit: str = "points",
    drawn: Callable[[float], float] = float,
) -> Figure:
    """Each policy by its baseline: a ring a seed, a diamond for the mean, its interval.

    Args:
        pairs: by policy, the difference under each seed.
        intervals: of the means, for policies that have one.
        pens: by policy.
        controls: by policy, its baseline.
        measure: what differs.
        unit: of differences.
        drawn: what is shown of a difference, such as 100 times as much.
    """
    rows = [
        {
            "policy": name,
            "label": f"{name} − {controls[name]}",
            "seeds": rounded([drawn(one) for one in found]),
            "mean": rounded(drawn(float(np.mean(found)))),
            "low": rounded(drawn(intervals[name][0])) if name in intervals else None,
            "high": rounded(drawn(intervals[name][1])) if name in intervals else None,
        }
        for name, found in pairs.items()
    ]
    y = alt.Y("label:N", sort=None, title=None, axis=alt.Axis(grid=True, ticks=False))
    base = _of_policies(rows, pens).encode(y=y)
    told = [
        alt.Tooltip("label:N", title="difference"),
        alt.Tooltip("mean:Q", title=f"mean, {unit}"),
        alt.Tooltip("low:Q", title="95 % interval from"),
        alt.Tooltip("high:Q", title="to"),
    ]
    title = f"difference in {measure}, {unit}"
    x = alt.X("seeds:Q", title=title, scale=alt.Scale(padding=8))
    seed = alt.Tooltip("seeds:Q", title=f"one seed, {unit}")
    zero = alt.Chart(data([{"x": drawn(0.0)}])).mark_rule(color=INK).encode(x="x:Q")
    rings = base.transform_flatten(["seeds"]).mark_point(
        size=18, opacity=0.7, yOffset=-7
    )
    interval = base.mark_rule(strokeWidth=3).encode(
        x="low:Q", x2="high:Q", tooltip=told
    )
    mean = base.mark_point(shape="diamond", filled=True, size=90, opacity=1)
    return alt.layer(
        zero,
        rings.encode(x=x, tooltip=[told[0], seed]),
        interval,
        mean.encode(x="mean:Q", tooltip=told),
    ).properties(width=WIDTH, height=30 * len(rows))


def curves(
    curves: Mapping[str, Curve],
    quantity: str,
    against: str = STEPS,
    pens: Mapping[str, Pen] | None = None,
    *,
    legend: bool = True,
) -> Figure:
    """Means over the seeds, in bands from the lowest to the highest seed.

    A cross stands where a seed ended early. Shift and the wheel zoom, dragging moves.

    Args:
        curves: by policy.
        quantity: name and unit of the vertical axis.
        against: name and unit of the horizontal one.
        pens: by policy; those of `pens_for(curves)` where it is None.
        legend: whether the chart says which line is whose.
    """
    rows: list[dict[str, Any]] = []
    ended: list[dict[str, Any]] = []
    for name, (steps, values) in curves.items():
        shown = evenly(len(steps), POINTS)
        known = np.ma.masked_invalid(values[:, shown])
        spread = known.mean(axis=0), known.min(axis=0), known.max(axis=0)
        columns = [rounded(column.filled(np.nan)) for column in spread]
        rows += [
            {"policy": name, "x": x, "mean": mean, "low": low, "high": high}
            for x, mean, low, high in zip(rounded(steps[shown]), *columns, strict=True)
        ]
        for seed in values[np.isnan(values[:, -1]) & np.isfinite(values).any(axis=1)]:
            last = np.flatnonzero(np.isfinite(seed))[-1]
            ended.append(
                {"policy": name, "x": rounded(steps[last]), "mean": rounded(seed[last])}
            )
    drawn = pens_for(curves) if pens is None else pens
    x = alt.X("x:Q", title=against, axis=TICKED)
    y = alt.Y("mean:Q", title=quantity, scale=alt.Scale(zero=False))
    base = _of_policies(rows, drawn, legend=legend).encode(x=x)
    told = [
        alt.Tooltip("policy:N"),
        alt.Tooltip("x:Q", title=against, format=","),
        alt.Tooltip("mean:Q", title=f"mean {quantity}"),
        alt.Tooltip("low:Q", title="lowest seed"),
        alt.Tooltip("high:Q", title="highest seed"),
    ]
    dash = _dash(drawn, legend=legend)
    zoom = alt.selection_interval(
        name=re.sub(r"\W", "_", f"zoom {quantity} {against}"),
        bind="scales",
        zoom="wheel![event.shiftKey]",
    )
    band = base.mark_area(opacity=0.15).encode(y="low:Q", y2="high:Q")
    line = base.mark_line(strokeWidth=2).encode(y=y, strokeDash=dash)
    # Points can be hovered over; they are seen where there is no line to be seen.
    alone = max((len(steps) for steps, _ in curves.values()), default=0) == 1
    point = base.mark_point(filled=True, size=60, opacity=float(alone))
    cross = _of_policies(ended, drawn, legend=legend).mark_point(shape="cross")
    return (
        alt.layer(
            band,
            line,
            point.encode(y=y, tooltip=told),
            cross.encode(x=x, y=y, tooltip=told[:3]),
        )
        .properties(width=WIDTH, height=200)
        .add_params(zoom)
    )


def across(
    lines: Mapping[str, Dependence],
    places: Sequence[float | str],
    field: str,
    quantity: str,
    pens: Mapping[str, Pen],
    *,
    zero: bool = False,
    legend: bool = True,
) -> Figure:
    """A line a policy over what differs between studies, with intervals.

    Policies stand a little beside one another, so that no interval hides another.

    Args:
        lines: by policy.
        places: what differs, of the S studies: rising numbers, or words.
        field: name of the horizontal axis.
        quantity: name and unit of the vertical one.
        pens: by policy.
        zero: whether to rule a line at 0.
        legend: whether the chart says which line is whose.
    """
    labels = [place if isinstance(place, str) else f"{place:,g}" for place in places]
    at = np.arange(len(places), dtype=float)
    if not isinstance(places[0], str):
        at = np.asarray(places, float)
        at = np.log10(at) if at[0] > 0 and at[-1] > 10 * at[0] else at
    gap = np.diff(at).min()
    shifts = np.linspace(-0.15, 0.15, max(2, len(lines))) * gap
    rows = [
        {"policy": name, "place": label, "x": x, "mean": mean, "low": low, "high": high}
        for (name, ends), shift in zip(lines.items(), shifts, strict=False)
        for label, x, mean, low, high in zip(
            labels, rounded(at + shift, 8), *map(rounded, ends), strict=True
        )
        if mean is not None
    ]
    ticks = at.tolist()
    said = f"{json.dumps(labels)}[indexof({json.dumps(ticks)}, datum.value)]"
    x = alt.X(
        "x:Q",
        title=field,
        scale=alt.Scale(domain=[ticks[0] - gap / 4, ticks[-1] + gap / 4], nice=False),
        axis=alt.Axis(
            values=ticks,
            labelExpr=said,
            labelLimit=WIDTH // len(places),
            labelOverlap=False,
        ),
    )
    y = alt.Y("mean:Q", title=quantity, scale=alt.Scale(zero=False))
    told = [
        alt.Tooltip("policy:N"),
        alt.Tooltip("place:N", title=field),
        alt.Tooltip("mean:Q", title=f"mean {quantity}"),
        alt.Tooltip("low:Q", title="95 % interval from"),
        alt.Tooltip("high:Q", title="to"),
    ]
    drawn = {name: pens[name] for name in lines}
    base = _of_policies(rows, drawn, legend=legend).encode(x=x)
    rule = alt.Chart(data([{"y": 0}] if zero else [])).mark_rule(color=INK)
    return alt.layer(
        rule.encode(y="y:Q"),
        base.mark_line(strokeWidth=1.5).encode(
            y=y, strokeDash=_dash(drawn, legend=legend)
        ),
        base.mark_rule(strokeWidth=1.5).encode(y="low:Q", y2="high:Q", tooltip=told),
        base.mark_point(filled=True, size=40, opacity=1).encode(y=y, tooltip=told),
    ).properties(width=WIDTH, height=260)


def search(
    numbers: Mapping[str, Sequence[float]],
    values: Sequence[float],
    importance: Mapping[str, float],
    measure: Measure = ACCURACY,
) -> alt.HConcatChart:
    """The trials of a search: how good by each number, the most important first.

    Args:
        numbers: by name, that of each trial.
        values: of the trials, as they are recorded.
        importance: by name, its share of how values differ.
        measure: what trials are judged by.
    """
    found: list[alt.Chart] = []
    for name in sorted(numbers, key=importance.__getitem__, reverse=True):
        tried = np.asarray(numbers[name])
        wide = tried.min() > 0 and tried.max() > 10 * tried.min()
        rows = [
            {"number": number, measure.name: measure.factor * value, "trial": trial}
            for trial, (number, value) in enumerate(
                zip(tried.tolist(), values, strict=True)
            )
        ]
        found.append(
            alt.Chart(data(rows))
            .mark_point(color=PALETTE[0])
            .encode(
                x=alt.X(
                    "number:Q", title=name, scale=scaled("log" if wide else "linear")
                ),
                y=alt.Y(
                    f"{measure.name}:Q",
                    title=f"validation {measure.title}",
                    scale=scaled("linear"),
                ),
                tooltip=["trial:Q", "number:Q", f"{measure.name}:Q"],
            )
            .properties(
                title=f"{name}: importance {100 * importance[name]:.0f} %",
                width=220,
                height=180,
            )
        )
    return alt.hconcat(*found)


def _dash(pens: Mapping[str, Pen], *, legend: bool) -> alt.StrokeDash:
    """That of each policy."""
    return alt.StrokeDash(
        "policy:N",
        scale=alt.Scale(domain=[*pens], range=[dash for _, dash in pens.values()]),
        legend=LEGEND if legend else None,
    )


def _of_policies(
    rows: Sequence[Mapping[str, Any]], pens: Mapping[str, Pen], *, legend: bool = False
) -> alt.Chart:
    """A chart of rows with a policy each, in its colour, without those hidden."""
    colour = alt.Color(
        "policy:N",
        scale=alt.Scale(domain=[*pens], range=[colour for colour, _ in pens.values()]),
        legend=LEGEND if legend else None,
    )
    return (
        alt.Chart(data(rows))
        .add_params(alt.param(name="hidden", value=[]))
        .transform_filter("indexof(hidden, datum.policy) < 0")
        .encode(color=colour)
    )
