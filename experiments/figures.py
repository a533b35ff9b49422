"""Figures from plain arrays: panels drawn on Matplotlib axes, and a page of them.

Each `draw_…` function fills one `Axes`; `figure` lays panels side by side without
Matplotlib's global state; `svg` makes of a figure text that can stand inside a page.
"""

import html
import io
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, NoNorm
from matplotlib.figure import Figure

INK = "#1b1e23"
FROZEN = "#80868f"
SIZE = (4.2, 3.2)  # of a panel, in inches
OCTAVES = 2  # heat maps reach from ¼ to 4, so that all of them can be compared

# Okabe and Ito's palette without its yellow, which white swallows; the line style
# changes when the colours are used up. The first line is the baseline's, in ink.
PALETTE = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9")
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1.2)))

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
"""Steps (S,) and values (seeds, S); NaN where a seed has no value."""


Panel = Callable[[Axes], None]


def figure(*panels: Panel) -> Figure:
    """Panels side by side."""
    width, height = SIZE
    with matplotlib.rc_context(STYLE):
        page = Figure(figsize=(width * len(panels), height))
        row = page.subplots(1, len(panels), squeeze=False)[0]
        for draw, axes in zip(panels, row, strict=True):
            draw(axes)
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
    colours = matplotlib.colormaps["PuOr_r"].with_extremes(bad=FROZEN)
    logs = np.log2(np.where(values > 0, values, np.nan))
    mesh = axes.pcolormesh(
        edges,
        np.arange(len(names) + 1) - 0.5,
        np.ma.masked_invalid(logs.T),
        cmap=colours,
        vmin=-OCTAVES,
        vmax=OCTAVES,
        rasterized=True,
    )
    axes.invert_yaxis()
    axes.grid(False)
    axes.set_yticks(*_few(names))
    frozen = "; grey: frozen" if (values == 0).any() else ""
    axes.set(
        title=f"multiplier of the global rate{frozen}",
        xlabel="optimizer steps",
        ylabel="layer",
    )
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
    shades = matplotlib.colormaps["plasma"](np.linspace(0.3, 0.8, len(names)))
    positive = np.where(values > 0, values, np.nan)
    for rates, shade in zip(positive.T, shades, strict=True):
        axes.plot(steps, rates, color=shade)
    if np.isfinite(positive).any():
        axes.set_yscale("log")
    axes.set(
        title="realised rate",
        xlabel="optimizer steps",
        ylabel="global rate × multiplier",
    )
    layers = ScalarMappable(NoNorm(0, len(names) - 1), ListedColormap(shades))
    bar = axes.figure.colorbar(layers, ax=axes)
    bar.ax.set_yticks(*_few(names))
    bar.ax.invert_yaxis()


def draw_curves(
    axes: Axes, curves: Mapping[str, Curve], title: str, quantity: str
) -> None:
    """Mean over seeds against steps, in a band from the lowest to the highest seed.

    Args:
        axes: where to draw.
        curves: by policy; "uniform" is drawn in ink. A cross stands
            where a seed ended early.
        title: what is shown.
        quantity: name and unit of the vertical axis.
    """
    pens = itertools.cycle(itertools.product(DASHES, PALETTE))
    for name, (steps, values) in curves.items():
        dash, colour = ("-", INK) if name == "uniform" else next(pens)
        known = np.ma.masked_invalid(values)
        low, high = known.min(axis=0), known.max(axis=0)
        axes.plot(steps, known.mean(axis=0), color=colour, ls=dash, label=name)
        axes.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
        for seed in values[np.isnan(values[:, -1]) & np.isfinite(values).any(axis=1)]:
            last = np.flatnonzero(np.isfinite(seed))[-1]
            axes.plot(steps[last], seed[last], color=colour, marker="x")
    axes.set(title=title, xlabel="optimizer steps", ylabel=quantity)
    if curves:
        axes.legend(
            ncols=2,
            loc="upper center",
            bbox_to_anchor=(0.5, 0),
            borderaxespad=4.5,  # font sizes: below the label, however tall the axes
        )


def svg(page: Figure, prefix: str, description: str) -> str:
    """The figure as an SVG element that takes its ink from the page around it.

    Args:
        page: the figure.
        prefix: put before every id, so that several can stand in one page.
        description: what it shows, for those who do not see it.
    """
    file = io.StringIO()
    with matplotlib.rc_context(STYLE):
        page.savefig(file, format="svg", dpi=100, metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{prefix}-", text)
    label = html.escape(description, quote=True)
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def _few(names: Sequence[str]) -> tuple[list[int], list[str]]:
    """Ticks for all of a few layers, or some of many, with the first and the last."""
    shown = sorted({int(i) for i in np.linspace(0, len(names) - 1, 14).round()})
    return shown, [names[i] for i in shown]
