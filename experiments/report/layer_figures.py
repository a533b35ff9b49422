"""Panels of what happened to each layer: maps, lines, quantiles, what freezing saves.

Each `draw_…` function fills one `Axes` from plain arrays, in a notebook too.
"""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import QuadMesh
from matplotlib.colors import ListedColormap, LogNorm, NoNorm, Normalize

from ..terminal.display import evenly
from .figures import FROZEN, PALETTE, SHADES, horizontal, log_ticks

FEW_LAYERS = 8  # that many lines can be told apart
OCTAVES = 2  # heat maps reach from ¼ to 4, so that all of them can be compared
MOST_TICKS = 14


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
        _few_ticks(axes, drawn, scale)
    axes.set(title=title, ylabel=quantity)
    axes.set_xlim(0, steps[-1] or None)
    horizontal(axes)
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
    _few_ticks(bar.ax, drawn, scale)


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
        _few_ticks(axes, np.concatenate([floor, high]), "log")
    axes.set(title=title, ylabel=quantity)
    axes.set_xlim(0, steps[-1] or None)
    horizontal(axes)


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
    horizontal(axes)
    axes.legend(loc="upper left")


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
    horizontal(axes)
    return mesh


def _few_ticks(axes: Axes, values: np.ndarray, scale: str) -> None:
    """No ticks between powers of ten where these alone are enough."""
    if scale == "log":
        log_ticks(axes.yaxis)
    known = values[np.isfinite(values)]
    if known.size and known.max() >= 100 * known.min():
        axes.minorticks_off()


def _drawable(values: np.ndarray, scale: str) -> np.ndarray:
    """NaN where a log scale has no place."""
    return np.where((values > 0) | (scale == "linear"), values, np.nan)


def _few(names: Sequence[str]) -> tuple[list[int], list[str]]:
    """Ticks for all of a few layers, or some of many, with the first and the last."""
    shown = [int(i) for i in evenly(len(names), MOST_TICKS)]
    return shown, [names[i] for i in shown]
