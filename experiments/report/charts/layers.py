"""Charts of what happens to each layer: maps, lines, quantiles, what freezing saves."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
from PIL import Image

from ...terminal.display import evenly
from .look import (
    GREY,
    PALETTE,
    POINTS,
    STEPS,
    TICKED,
    WIDTH,
    Figure,
    Scale,
    data,
    rounded,
    scaled,
)

SHADES = ("#b35806", "#f1a340", "#f4f1ec", "#998ec3", "#542788")
OCTAVES = (-2, -1, 0, 1, 2)
"""Of multipliers, and their shades: orange slower, violet faster (ColorBrewer)."""
CELLS = 3_000  # of a map; more could not be told apart
DIGITS = 3  # of a value in a map, likewise
LAYERS = 12  # more of them are drawn as a map
TICKS = 24  # layers named beside a map


def multipliers(steps: np.ndarray, values: np.ndarray, names: Sequence[str]) -> Figure:
    """The multipliers, layer × step, on one scale from ¼ to 4; frozen layers are grey.

    Args:
        steps: (S,) optimizer steps, ascending.
        values: (S, L), each row that of the steps since the one before.
        names: the L layers, in forward order.
    """
    edges = np.concatenate([[0], steps])
    colour = alt.Color(
        "shade:Q",
        title=None,
        scale=alt.Scale(
            range=[*SHADES], domain=[*OCTAVES], clamp=True, interpolate="rgb"
        ),
        legend=alt.Legend(
            values=[*OCTAVES],
            labelExpr="['≤ ¼', '½', '1', '2', '≥ 4'][datum.value + 2]",
        ),
    )
    frozen = "; grey: frozen" if (values == 0).any() else ""
    title = f"multiplier of the global learning rate{frozen}"
    shade = "log(datum.value) / log(2)"
    return _layer_map(
        (edges[:-1], edges[1:]), values, names, "multiplier", shade, title, colour
    )


def thumbnail(values: np.ndarray) -> bytes:
    """The multipliers (S, L), as `multipliers` draws them: a PNG, a pixel for each."""
    shown = values[_columns(values)].T
    with np.errstate(divide="ignore"):
        logs = np.log2(shown)
    ends = [[int(shade[i : i + 2], 16) for shade in SHADES] for i in (1, 3, 5)]
    mixed = np.stack([np.interp(logs, OCTAVES, of) for of in ends], axis=-1)
    grey = [int(GREY[i : i + 2], 16) for i in (1, 3, 5)]
    pixels = np.where((shown > 0)[..., None], mixed, grey).round().astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).quantize(64).save(file, "png", optimize=True)
    return file.getvalue()


def layer_values(
    steps: np.ndarray,
    values: np.ndarray,
    names: Sequence[str],
    quantity: str,
    scale: Scale,
) -> Figure:
    """A quantity of each layer over time: a line for each of a few, a map of many.

    Args:
        steps: (S,) optimizer steps, ascending.
        values: (S, L); left out where the scale has no place for them.
        names: the L layers, in forward order.
        quantity: its name and unit.
        scale: "log" or "linear".
    """
    drawn = np.where((values > 0) | (scale == "linear"), values, np.nan)
    if not np.isfinite(drawn).any():
        scale = "linear"  # a log scale of nothing is none
    if len(names) > LAYERS:
        last = steps[-1] - steps[-2] if len(steps) > 1 else 1
        colour = alt.Color(
            "shade:Q", title=None, scale=alt.Scale(type=scale, scheme="viridis")
        )
        edges = steps, np.append(steps[1:], steps[-1] + last)
        grey = "" if np.isfinite(drawn).all() else "; grey: 0 or none"
        title = f"{quantity}{grey}"
        return _layer_map(edges, drawn, names, quantity, "datum.value", title, colour)
    shown = evenly(len(steps), POINTS)
    told = [
        alt.Tooltip("name:N", title="layer"),
        alt.Tooltip("step:Q", title=STEPS, format=","),
        alt.Tooltip("value:Q", title=quantity),
    ]
    base = _of_layers({"step": steps[shown]}, drawn[shown], names).encode(
        x=alt.X("step:Q", title=STEPS, axis=TICKED),
        y=alt.Y("value:Q", title=None, scale=scaled(scale), axis=TICKED),
        color=alt.Color(
            "name:O", title=None, sort=[*names], scale=alt.Scale(scheme="plasma")
        ),
    )
    lines = base.mark_line(strokeWidth=1.6)
    points = base.mark_point(size=50, filled=True, opacity=0)
    alone = base.mark_point() if len(steps) == 1 else lines
    return alt.layer(alone, points.encode(tooltip=told)).properties(
        title=quantity, width=WIDTH, height=200
    )


def quantiles(
    steps: np.ndarray, values: np.ndarray, quantity: str, title: str
) -> Figure:
    """How a quantity is spread, over time: its median, its middle half, its extremes.

    Args:
        steps: (S,) optimizer steps, ascending.
        values: (S, 5) quantiles 0, ¼, ½, ¾, 1.
        quantity: its name and unit.
        title: of what it is.
    """
    shown = evenly(len(steps), POINTS)
    drawn = np.where(values > 0, values, np.nan)[shown]
    # Some weights do not move at all: the band then begins at the next quantile.
    for i in (3, 2, 1, 0):
        drawn[:, i] = np.where(np.isnan(drawn[:, i]), drawn[:, i + 1], drawn[:, i])
    names = ("lowest", "lower", "median", "upper", "highest")
    rows = [
        {"step": step, **dict(zip(names, row, strict=True))}
        for step, row in zip(rounded(steps[shown]), rounded(drawn), strict=True)
    ]
    kind = "log" if np.isfinite(drawn).any() else "linear"
    y: dict[str, Any] = {"title": quantity, "scale": scaled(kind), "axis": TICKED}
    base = alt.Chart(data(rows)).encode(
        x=alt.X("step:Q", title=STEPS, axis=TICKED),
        tooltip=[f"{field}:Q" for field in ("step", *names)],
    )
    band = base.mark_area(color=PALETTE[0], line=False)
    return alt.layer(
        band.encode(y=alt.Y("lowest:Q", **y), y2="highest:Q", opacity=alt.value(0.15)),
        band.encode(y=alt.Y("lower:Q", **y), y2="upper:Q", opacity=alt.value(0.35)),
        base.mark_line(color=PALETTE[0], point=True).encode(y=alt.Y("median:Q", **y)),
    ).properties(title=title, width=WIDTH, height=200)


def savings(
    edges: np.ndarray, frozen: np.ndarray, predicted: np.ndarray, measured: np.ndarray
) -> Figure:
    """Where layers were frozen, and what a step then cost, by one that trains all.

    Args:
        edges: (P + 1,) optimizer steps at which the P phases begin, and the last ends.
        frozen: (P,) share of the layers that is frozen.
        predicted: (P,) share of the work of a step, as the compiler counts it.
        measured: (P,) share of its time; NaN where it is not known.
    """
    kinds = {
        "layers frozen": (frozen, GREY, [1, 0]),
        "work of a step, predicted": (predicted, PALETTE[1], [6, 2]),
        "time of a step, measured": (measured, PALETTE[0], [1, 0]),
    }
    rows = [
        {"kind": kind, "from": start, "to": stop, "share": share}
        for kind, (shares, *_) in kinds.items()
        for start, stop, share in zip(
            rounded(edges[:-1]), rounded(edges[1:]), rounded(shares), strict=True
        )
    ]
    domain: dict[str, Any] = {"domain": [*kinds]}
    return (
        alt.Chart(data(rows))
        .mark_rule(strokeWidth=3)
        .encode(
            x=alt.X("from:Q", title=STEPS, axis=TICKED),
            x2="to:Q",
            y=alt.Y("share:Q", title="share of all"),
            color=alt.Color(
                "kind:N",
                title=None,
                scale=alt.Scale(
                    range=[colour for _, colour, _ in kinds.values()], **domain
                ),
                legend=alt.Legend(orient="bottom", direction="vertical"),
            ),
            strokeDash=alt.StrokeDash(
                "kind:N",
                title=None,
                scale=alt.Scale(range=[dash for *_, dash in kinds.values()], **domain),
            ),
            tooltip=["kind:N", "from:Q", "to:Q", "share:Q"],
        )
        .properties(title="frozen layers", width=WIDTH, height=200)
    )


def range_test(
    tried: np.ndarray,
    change: np.ndarray,
    names: Sequence[str],
    suggestion: np.ndarray,
    factor: np.ndarray,
    seen: np.ndarray,
) -> Figure:
    """How the loss changes with the multiplier of each layer, all others being 1.

    A dot marks a suggestion, with its uncertainty; a hollow one, that no difference was
    seen. Grey: diverged.

    Args:
        tried: (M,) multipliers, ascending.
        change: (L, M) of the loss.
        names: the L layers, in forward order.
        suggestion: (L,) multipliers.
        factor: (L,) by which they are uncertain.
        seen: (L,) bool: whether there was a difference.
    """
    middles = np.sqrt(tried[1:] * tried[:-1])
    edges = np.r_[tried[0] ** 2 / middles[0], middles, tried[-1] ** 2 / middles[-1]]
    known = np.abs(change[np.isfinite(change)])
    most = max(known.max(initial=0), 1e-6)
    ends = [float(edges[0]), float(edges[-1])]
    colour = alt.Color(
        "value:Q",
        title="change of the loss",
        scale=alt.Scale(
            type="symlog",
            constant=most / 100,
            domain=[-most, -most / 10, 0, most / 10, most],
            range=[*reversed(SHADES)],
            interpolate="rgb",
        ),
    )
    x = alt.X(
        "from:Q",
        title="multiplier of the layer",
        scale=alt.Scale(type="log", domain=ends, nice=False),
    )
    tooltip = ["name:N", alt.Tooltip("from:Q", title="from"), "value:Q"]
    cells = (
        _of_layers({"from": edges[:-1], "to": edges[1:]}, change.T, names)
        .mark_rect(invalid="show")
        .encode(
            x=x,
            x2="to:Q",
            y=_layer_axis(names, len(names)),
            color=alt.condition("!isValid(datum.value)", alt.value(GREY), colour),
            tooltip=tooltip,
        )
    )
    rows = [
        {
            "layer": i,
            "name": name,
            "middle": at,
            "low": low,
            "high": high,
            "seen": clear,
        }
        for i, (name, at, low, high, clear) in enumerate(
            zip(
                names,
                suggestion.tolist(),
                np.clip(suggestion / factor, ends[0], ends[1]).tolist(),
                np.clip(suggestion * factor, ends[0], ends[1]).tolist(),
                seen.tolist(),
                strict=True,
            ),
            start=1,
        )
    ]
    told = alt.Chart(data(rows)).encode(y="layer:O", tooltip=["name:N", "middle:Q"])
    bars = told.mark_rule(color="black").encode(x="low:Q", x2="high:Q")
    dots = told.mark_point(filled=True, opacity=1, stroke="black", size=35).encode(
        x="middle:Q",
        fill=alt.condition("datum.seen", alt.value("black"), alt.value("white")),
    )
    return alt.layer(cells, bars, dots).properties(
        title="change of the loss; hollow: no difference seen; grey: diverged",
        width=WIDTH,
        height=max(120, 13 * len(names)),
    )


def _layer_map(
    edges: tuple[np.ndarray, np.ndarray],
    values: np.ndarray,
    names: Sequence[str],
    quantity: str,
    shade: str,
    title: str,
    colour: alt.Color,
) -> Figure:
    """A cell for each layer and time, the first layer on top; grey where none is."""
    shown = _columns(values)
    starts, stops = edges[0][shown], edges[1][shown]
    starts[1:], stops[:-1] = stops[:-1], stops[:-1]  # no gap where some are left out
    told = [
        alt.Tooltip("name:N", title="layer"),
        alt.Tooltip("from:Q", title="from step", format=","),
        alt.Tooltip("value:Q", title=quantity),
    ]
    x = alt.X("from:Q", title=STEPS, scale=alt.Scale(nice=False), axis=TICKED)
    grey = "!isValid(datum.value) || !isFinite(datum.shade)"
    drawn = alt.condition(grey, alt.value(GREY), colour)
    return (
        _of_layers({"from": starts, "to": stops}, values[shown], names)
        .transform_calculate(shade=shade)
        .mark_rect(invalid="show")
        .encode(x=x, x2="to:Q", y=_layer_axis(names), color=drawn, tooltip=told)
        .properties(title=title, width=WIDTH, height=_height(names))
    )


def _layer_axis(names: Sequence[str], most: int = TICKS) -> alt.Y:
    """The first layer on top; some of many are named."""
    ticks = [int(i) + 1 for i in evenly(len(names), most)]
    axis = alt.Axis(values=ticks, labelExpr="names[datum.value - 1]", ticks=False)
    return alt.Y("layer:O", title=None, axis=axis)


def _height(names: Sequence[str]) -> int:
    return max(120, min(13 * len(names), 400))


def _columns(values: np.ndarray) -> np.ndarray:
    """Which rows of (S, L) a map shows."""
    return evenly(len(values), min(POINTS, CELLS // values.shape[1] + 1))


def _of_layers(
    at: Mapping[str, np.ndarray], values: np.ndarray, names: Sequence[str]
) -> alt.Chart:
    """A chart of a row for each layer and time: "value", "layer" from 1, its "name".

    A row of the data holds all layers, so that a page does not hold names by thousands.
    """
    columns = [*map(rounded, at.values()), rounded(values, DIGITS)]
    keys = *at, "value"
    rows = [dict(zip(keys, row, strict=True)) for row in zip(*columns, strict=True)]
    return (
        alt.Chart(data(rows))
        .add_params(alt.param(name="names", value=[*names]))
        .transform_flatten(["value"])
        .transform_window(layer="row_number()", groupby=[next(iter(at))])
        .transform_calculate(name="names[datum.layer - 1]")
    )
