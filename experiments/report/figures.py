"""What all figures share: style, pens, the axes' ticks, and a page of panels.

A panel is a function that draws on one `Axes`; those of layers are in `layer_figures`,
those of policies in `policy_figures`. `figure` lays panels out without Matplotlib's
global state.
"""

import itertools
import re
import urllib.parse
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatterSciNotation, MaxNLocator

from ..terminal.display import evenly

INK = "#1b1e23"
FROZEN = "#80868f"
SIZE = (4.2, 3.2)  # of a panel, in inches
COLUMNS = 3  # panels side by side
POINTS = 160  # more in one curve or row of a map could not be told apart

# Okabe and Ito's palette without its yellow, which white swallows; the line style
# changes when the colours are used up. The first line is the baseline's, in ink.
PALETTE = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9")
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.2, 1, 1.2)))
SHADES = 64  # of a map, as more take more room and tell no more
RAISED = str.maketrans("0123456789−", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
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
    "text.parse_math": False,  # names of records may hold anything
    "xtick.color": INK,
    "ytick.color": INK,
}

Panel = Callable[[Axes], None]
Pen = tuple[Any, str]
"""A line style and a colour."""


def pens_for(names: Iterable[str]) -> dict[str, Pen]:
    """A pen for each policy: the same in all figures, and ink for "uniform"."""
    others = itertools.cycle(itertools.product(DASHES, PALETTE))
    return {name: ("-", INK) if name == "uniform" else next(others) for name in names}


def id_of(policy: str) -> str:
    """The id of what is drawn for a policy, in letters that need no quotes."""
    return OF + urllib.parse.quote(policy, safe="")


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


def save(page: Figure, file: Any, **how: Any) -> None:
    """Writes a figure; what a font lacks is a box in it, and not said on the terminal.

    Args:
        page: the figure.
        file: a path, or a file that is open.
        **how: as for `Figure.savefig`.
    """
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        for message in (r"Glyph \d+", "constrained_layout not applied"):
            warnings.filterwarnings("ignore", message, UserWarning)
        page.savefig(file, **how)


def horizontal(axes: Axes, quantity: str = "optimizer steps") -> None:
    """Names the horizontal axis, with few enough ticks for numbers of six digits."""
    axes.set_xlabel(quantity)
    axes.xaxis.set_major_locator(MaxNLocator(4))


def log_ticks(axis: Axis) -> None:
    """Labels the ticks of a log scale without Matplotlib's markup, which is off."""
    axis.set_major_formatter(_Powers())
    axis.set_minor_formatter(_Powers())


class _Powers(LogFormatterSciNotation):
    """10⁻³ in plain letters."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        text = super().__call__(x, pos).replace(r"\times", "×").replace("-", "−")
        text = re.sub(r"\$\\mathdefault{(.*)}\$", r"\1", text)
        return re.sub(r"\^{(.*)}", lambda power: power[1].translate(RAISED), text)
