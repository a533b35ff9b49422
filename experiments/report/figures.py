"""Figures from plain arrays: panels drawn on Matplotlib axes, and a page of them.

Each `draw_…` function fills one `Axes`, in a notebook too; `figure` lays panels out
without Matplotlib's global state; `svg` makes of a figure text that can stand inside a
page.
"""

import base64
import html
import io
import itertools
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import QuadMesh
from matplotlib.colors import ListedColormap, LogNorm, NoNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from PIL import Image

from ..terminal.evenly import evenly

INK = "#1b1e23"
FROZEN = "#80868f"
SIZE = (4.2, 3.2)  # of a panel, in inches
COLUMNS = 3  # panels side by side
POINTS = 160  # more in one curve or row of a map could not be told apart
FEW_CURVES = 4  # more of them, and a legend would squeeze them
FEW_LAYERS = 8  # that many lines can be told apart
OCTAVES = 2  # heat maps reach from ¼ to 4, so that all of them can be compared

# Okabe and Ito's palette without its yellow, which white swallows; the line style
# changes when the colours are used up. The first line is the baseline's, in ink.
PALETTE = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9")
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.2, 1, 1.2)))
MARKERS = "os^Dv"
MOST_IN_A_COLUMN = 14
MOST_TICKS = 14
SHADES = 64  # of a map, as more take more room and tell no more
FONT = 'font-family="DejaVu Sans, sans-serif"'
TICK = "fill: currentColor; stroke: currentColor; stroke-width: 0.8"
OUTLINE = 500  # letters of a path that others use, at most, if it is of a marker
NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
OF = "of:"  # before the name of a policy, in the id of what is drawn for it

STYLE: Any = {
    "axes.edgecolor": INK,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "figure.constrained_layout.use": True,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "font.sans-serif": ["DejaVu Sans"],  # any other, where a page has it not
    "font.size": 9,
    "grid.alpha": 0.15,
    "grid.color": INK,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
    "svg.hashsalt": "figures",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}

Curve = tuple[np.ndarray, np.ndarray]
"""Steps or seconds (S,) and values (seeds, S); NaN where a seed has no value."""


Panel = Callable[[Axes], None]
Pen = tuple[Any, str]
"""A line style and a colour."""


def pens_for(names: Iterable[str]) -> dict[str, Pen]:
    """A pen for each policy: the same in all figures, and ink for "uniform"."""
    others = itertools.cycle(itertools.product(DASHES, PALETTE))
    return {name: ("-", INK) if name == "uniform" else next(others) for name in names}


def thinned(count: int) -> np.ndarray:
    """Which of so many points to draw: all, or some evenly spaced, first and last."""
    return evenly(count, POINTS)


def figure(*panels: Panel) -> Figure:
    """Panels side by side, in as many rows as they need."""
    width, height = SIZE
    columns = min(len(panels), COLUMNS)
    rows = -(-len(panels) // columns)
    with matplotlib.rc_context(STYLE):
        page = Figure(figsize=(width * columns, height * rows))
        grid = page.subplots(rows, columns, squeeze=False).ravel()
        for draw, axes in zip(panels, grid, strict=False):
            draw(axes)
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
    return page


def draw_multipliers(
    axes: Axes,
    steps: np.ndarray,
    values: np.ndarray,
    names: Sequence[str],
) -> None:
    """Heat map of the multipliers, layer × step; frozen layers (0) are grey.

    Args:
        axes: where to draw.
        steps: (S,) optimizer steps, ascending.
        values: (S, L) multipliers, each that of the steps since the one before.
        names: the L layers, in forward order.
    """
    edges = np.concatenate([[0], steps])
    logs = np.log2(np.where(values > 0, values, np.nan))
    mesh = _layer_mesh(axes, edges, logs, names, "PuOr_r", Normalize(-OCTAVES, OCTAVES))
    frozen = "; grey: frozen" if (values == 0).any() else ""
    axes.set_title(f"multiplier of the global rate{frozen}")
    bar = axes.figure.colorbar(mesh, ax=axes, extend="both")
    bar.set_ticks([-2, -1, 0, 1, 2], labels=["¼", "½", "1", "2", "4"])


def draw_rates(
    axes: Axes, steps: np.ndarray, values: np.ndarray, names: Sequence[str]
) -> None:
    """The rate each layer got, on a log scale; a line breaks where it was frozen.

    Args:
        axes: where to draw.
        steps: (S,) optimizer steps, ascending.
        values: (S, L) global rate × multiplier.
        names: the L layers, in forward order.
    """
    quantity = "global rate × multiplier"
    draw_layer_lines(axes, steps, values, names, "realised rate", quantity, "log")


def draw_layer_lines(
    axes: Axes,
    steps: np.ndarray,
    values: np.ndarray,
    names: Sequence[str],
    title: str,
    quantity: str,
    scale: str,
) -> None:
    """A line a layer, from the input (dark) to the output (light).

    Args:
        axes: where to draw.
        steps: (S,) optimizer steps, ascending.
        values: (S, L); on a log scale a line breaks where it is not positive.
        names: the L layers, in forward order.
        title: what is shown.
        quantity: name and unit of the vertical axis.
        scale: "log" or "linear".
    """
    shades = matplotlib.colormaps["plasma"](np.linspace(0.3, 0.8, len(names)))
    drawn = _drawable(values, scale)
    for line, shade in zip(drawn.T, shades, strict=True):
        axes.plot(steps, line, color=shade, rasterized=len(names) > FEW_LAYERS)
    if np.isfinite(drawn).any():
        axes.set_yscale(scale)
        _few_ticks(axes, drawn)
    axes.set(title=title, ylabel=quantity)
    axes.set_xlim(0, steps[-1] or None)
    _against(axes)
    layers = ScalarMappable(NoNorm(0, len(names) - 1), ListedColormap(shades))
    bar = axes.figure.colorbar(layers, ax=axes)
    bar.ax.set_yticks(*_few(names))
    bar.ax.invert_yaxis()


def draw_layer_map(
    axes: Axes,
    steps: np.ndarray,
    values: np.ndarray,
    names: Sequence[str],
    title: str,
    quantity: str,
    scale: str,
) -> None:
    """Heat map, layer × step, of what was measured at these steps.

    Args:
        axes: where to draw.
        steps: (S,) optimizer steps, ascending; a column reaches to the next of them.
        values: (S, L); grey where they cannot be drawn on the scale.
        names: the L layers, in forward order.
        title: what is shown.
        quantity: name and unit of the colours.
        scale: "log" or "linear".
    """
    drawn = _drawable(values, scale)
    last = steps[-1] - steps[-2] if len(steps) > 1 else 1
    known = drawn[np.isfinite(drawn)] if np.isfinite(drawn).any() else np.ones(1)
    norm = (LogNorm if scale == "log" else Normalize)(known.min(), known.max())
    edges = np.append(steps, steps[-1] + last)
    mesh = _layer_mesh(axes, edges, drawn, names, "cividis", norm)
    nothing = "" if np.isfinite(drawn).all() else "; grey: 0 or none"
    axes.set_title(f"{title}{nothing}")
    bar = axes.figure.colorbar(mesh, ax=axes, label=quantity)
    _few_ticks(bar.ax, drawn)


def draw_quantiles(
    axes: Axes, steps: np.ndarray, values: np.ndarray, title: str, quantity: str
) -> None:
    """How a quantity is spread, over time: its median, its middle half, its extremes.

    Args:
        axes: where to draw, on a log scale.
        steps: (S,) optimizer steps, ascending.
        values: (S, 5) quantiles 0, ¼, ½, ¾, 1.
        title: what is shown.
        quantity: name and unit of the vertical axis.
    """
    low, lower, middle, upper, high = _drawable(values, "log").T
    # A layer has weights that do not move at all: the band then ends at the axis.
    floor = np.where(np.isfinite(low), low, np.where(np.isfinite(lower), lower, middle))
    for bottom, top, alpha in ((floor, high, 0.15), (lower, upper, 0.35)):
        axes.fill_between(
            steps, bottom, top, color=PALETTE[0], alpha=alpha, linewidth=0
        )
    axes.plot(steps, middle, color=PALETTE[0], marker=".")
    if np.isfinite(middle).any():
        axes.set_yscale("log")
        _few_ticks(axes, np.concatenate([floor, high]))
    axes.set(title=title, ylabel=quantity)
    axes.set_xlim(0, steps[-1] or None)
    _against(axes)


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
    for name, (steps, values) in curves.items():
        dash, colour = drawn[name]
        known = np.ma.masked_invalid(values)
        low, high = known.min(axis=0), known.max(axis=0)
        shown = [
            *axes.plot(steps, known.mean(axis=0), color=colour, ls=dash, label=name),
            axes.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0),
        ]
        for seed in values[np.isnan(values[:, -1]) & np.isfinite(values).any(axis=1)]:
            last = np.flatnonzero(np.isfinite(seed))[-1]
            shown += axes.plot(steps[last], seed[last], color=colour, marker="x")
        for artist in shown:
            artist.set_gid(OF + name)
    axes.set(title=title, ylabel=quantity)
    _against(axes, against)
    if 0 < len(curves) <= FEW_CURVES:
        axes.legend()


def draw_key(axes: Axes, pens: Mapping[str, Pen]) -> None:
    """Which line is which policy, for panels that would have no room for a legend.

    Args:
        axes: where to draw.
        pens: by policy.
    """
    lines = [
        Line2D([], [], linestyle=dash, color=colour, gid=OF + name)
        for name, (dash, colour) in pens.items()
    ]
    axes.set_axis_off()
    legend = axes.legend(
        lines, list(pens), loc="upper left", ncols=1 + (len(lines) > MOST_IN_A_COLUMN)
    )
    for text in legend.get_texts():
        text.set_gid(OF + text.get_text())


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
            artist.set_gid(OF + name)
    names = [labels.get(name, name) for name in pairs]
    axes.set_yticks(range(len(pairs)), names, fontsize=9 if len(pairs) < 12 else 6)
    axes.set_ylim(len(pairs) - 0.5, -0.5)
    axes.set_title(textwrap.fill(title, 26))  # beside long names there is little room
    _against(axes, "difference to the control, points")


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
                artist.set_gid(OF + name)
    axes.set_yticks(range(len(times)), list(times))
    axes.set_ylim(len(times) - 0.5, -0.5)
    axes.set_xlim(0, 1.1 * edge)
    axes.set_title("median steps to a validation accuracy", pad=16)
    _against(axes)
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


def draw_savings(
    axes: Axes,
    edges: np.ndarray,
    frozen: np.ndarray,
    predicted: np.ndarray,
    measured: np.ndarray,
) -> None:
    """Where layers were frozen, and what a step then cost, by one that trains all.

    Args:
        axes: where to draw.
        edges: (P + 1,) optimizer steps at which the P phases begin, and the last ends.
        frozen: (P,) share of the layers that is frozen.
        predicted: (P,) share of the work of a step, as the compiler counts it.
        measured: (P,) share of its time; NaN where it is not known.
    """
    axes.stairs(
        frozen, edges, fill=True, color=FROZEN, alpha=0.35, label="layers frozen"
    )
    for values, dash, colour, label in (
        (predicted, "--", PALETTE[1], "work of a step, predicted"),
        (measured, "-", PALETTE[0], "time of a step, measured"),
    ):
        axes.stairs(
            values, edges, baseline=None, ls=dash, lw=1.6, color=colour, label=label
        )
    highest = np.nanmax([1, *predicted, *measured])
    axes.set_ylim(0, 1.45 * highest)
    axes.set(title="frozen layers", ylabel="share of all")
    _against(axes)
    axes.legend(loc="upper left")


def svg(page: Figure, prefix: str, description: str) -> str:
    """The figure as an SVG element that takes its ink from the page around it.

    What belongs to one policy is marked by the attribute data-policy.

    Args:
        page: the figure.
        prefix: put before every id, so that several can stand in one page.
        description: what it shows, for those who do not see it.
    """
    file = io.StringIO()
    with matplotlib.rc_context(STYLE):
        page.savefig(file, format="svg", dpi=100, metadata=NO_METADATA)
    text = file.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(rf'<g id="{OF}([^"]+)"', r'<g data-policy="\1"', text)
    text = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{prefix}-", text)
    text = _lean(text)
    label = html.escape(description, quote=True)
    told = f'role="img" aria-label="{label}" {FONT} fill="currentColor"'
    return text.replace("<svg", f"<svg {told}", 1)


def _lean(text: str) -> str:
    """The same picture in a third as many letters.

    Coordinates to a tenth of a point (places to a hundredth), lines without a letter
    for each of their points, no indentation, no ids that nothing uses, font and ink
    said once, by `svg`, and bitmaps of few colours.
    """
    text = re.sub(r"<!--.*?-->|<[^>]+>", lambda found: _lean_tag(found[0]), text)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    text = re.sub(
        r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", text
    )
    return re.sub(r"\s*\n\s*", "\n", text)


def _lean_tag(tag: str) -> str:
    if tag.startswith("<!--"):
        return ""
    tag = re.sub(r' transform="rotate\(-0 [^"]*"', "", tag)
    tag = re.sub(r"font-family: [^;]*; ", "", tag)
    tag = re.sub(rf'^(<use .*) style="{TICK}"', r"\1", tag)  # its path says it too
    tag = tag.replace("; fill: currentColor", "")
    tag = re.sub(
        r' (?:x|y|transform)="[^"]+"',
        lambda found: re.sub(r"(\.\d\d)\d+", r"\1", found[0]),
        tag,
    )
    if ' id="' not in tag or len(tag) > OUTLINE:
        tag = re.sub(r' d="[^"]+"', lambda found: _lean_path(found[0]), tag)
    return re.sub(r"(?<=image/png;base64,)[^\"]+", lambda f: _few_colours(f[0]), tag)


def _lean_path(path: str) -> str:
    """Where one line follows another, SVG takes the point alone."""
    path = re.sub(r"(\.\d)\d+", r"\1", path)
    return re.sub(r"(?<=[ML])([^A-Za-z]+)L", r"\1", path)


def _few_colours(png: str) -> str:
    """The bitmap with a palette if that is shorter: exact, but for blurred lines."""
    image = Image.open(io.BytesIO(base64.b64decode(png)))
    pixels = np.asarray(image).reshape(-1, 4)
    colours, indices = np.unique(pixels, axis=0, return_inverse=True)
    if len(colours) <= 256:
        told = Image.frombytes("P", image.size, indices.astype(np.uint8).tobytes())
        told.putpalette(colours.tobytes(), "RGBA")
    else:
        told = image.quantize(SHADES, Image.Quantize.FASTOCTREE)
    file = io.BytesIO()
    told.save(file, "png", optimize=True)
    return min(png, base64.b64encode(file.getvalue()).decode(), key=len)


def _layer_mesh(
    axes: Axes,
    edges: np.ndarray,
    values: np.ndarray,
    names: Sequence[str],
    colours: str,
    norm: Normalize,
) -> QuadMesh:
    """A cell for each layer and time, the first layer on top; grey for NaN."""
    mesh = axes.pcolormesh(
        edges,
        np.arange(len(names) + 1) - 0.5,
        np.ma.masked_invalid(values.T),
        cmap=matplotlib.colormaps[colours].resampled(SHADES).with_extremes(bad=FROZEN),
        norm=norm,
        rasterized=True,
    )
    axes.invert_yaxis()
    axes.grid(False)
    axes.set_yticks(*_few(names))
    axes.set_ylabel("layer")
    _against(axes)
    return mesh


def _few_ticks(axes: Axes, values: np.ndarray) -> None:
    """No ticks between powers of ten where these alone are enough."""
    known = values[np.isfinite(values)]
    if known.size and known.max() >= 100 * known.min():
        axes.minorticks_off()


def _against(axes: Axes, quantity: str = "optimizer steps") -> None:
    """Names the horizontal axis, with few enough ticks for numbers of six digits."""
    axes.set_xlabel(quantity)
    axes.xaxis.set_major_locator(MaxNLocator(4))


def _drawable(values: np.ndarray, scale: str) -> np.ndarray:
    """NaN where a log scale has no place."""
    return np.where((values > 0) | (scale == "linear"), values, np.nan)


def _few(names: Sequence[str]) -> tuple[list[int], list[str]]:
    """Ticks for all of a few layers, or some of many, with the first and the last."""
    shown = [int(i) for i in evenly(len(names), MOST_TICKS)]
    return shown, [names[i] for i in shown]
