"""A range test of a model's layers: made, checked, and left behind as records."""

import time
from collections.abc import Sequence

import matplotlib
import numpy as np
import rich.console
from matplotlib.axes import Axes
from matplotlib.colors import SymLogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import optax_llr
from optax_llr.contrib import RangeTest

from ..analysis import significance
from ..asked import keep_files
from ..config.own import label
from ..data.dataset import Dataset
from ..records import run_directory
from ..records.environment import environment
from ..records.records import write_json
from ..report import figures
from ..terminal import display
from .find import Find
from .probing import Probe

CHECKS = 10
"""Repeats, of other batches than the test's, with all suggestions together."""
DECADES = 2
"""The test reaches so far to both sides of 1."""
UNCLEAR = "not clearly different from"
LEGEND = (
    "suggestion: the multiplier of least loss, the others being 1; ×/÷: the factor by "
    "which it is uncertain, from repeat to repeat and between the multipliers tried. "
    "limit: up to which it is better to train the layer than to freeze it. gain: how "
    "much lower the loss gets, chosen by the other repeats. Where no difference is "
    "seen nothing is suggested, and 1 is kept; more repeats or a longer horizon see "
    "more."
)


def run(asked: Find, dataset: Dataset, command: Sequence[str]) -> int:
    """Makes a range test, and prints its table.

    Args:
        asked: a valid one.
        dataset: the one that its configuration names.
        command: the command line as the user typed it.

    Returns:
        The exit status, 0.

    Raises:
        ValueError: training diverges as it is, the folder holds a range test already,
            or another process is at work there.
        OSError: the folder cannot be made or written.
    """
    console = display.console()
    with run_directory.claimed(asked.folder):
        if (asked.folder / "range_test.json").exists():
            raise ValueError(
                f"{str(asked.folder)!r} holds a range test already; remove it, or give "
                "this one another --name"
            )
        keep_files(asked.config, asked.folder)
        _find(asked, dataset, command, console)
    return 0


def _find(
    asked: Find,
    dataset: Dataset,
    command: Sequence[str],
    console: rich.console.Console,
) -> None:
    began, config, folder = time.perf_counter(), asked.config, asked.folder
    session = environment(command, dataset.checksum)
    probe = Probe(asked, dataset)
    points = 2 * DECADES * asked.points_per_decade + 1
    console.print(
        f"{config.name}: {label(config.model)} with {len(probe.layers)} layers on "
        f"{label(config.data)}, {points} multipliers × {asked.repeats} repeats of "
        f"{asked.horizon} steps, after {asked.warmup}"
    )
    test = optax_llr.contrib.layer_range_test(
        probe.layers,
        lambda rows: probe.losses(rows, range(asked.repeats), "range test"),
        np.logspace(-DECADES, DECADES, points),
    )
    uniform, together = probe.losses(
        np.stack([np.ones(len(probe.layers)), test.suggestion]),
        range(asked.repeats, asked.repeats + CHECKS),
        "all suggestions together",
    )
    seconds = time.perf_counter() - began
    write_json(
        folder / "range_test.json",
        {
            "config": asked.record(),
            "environment": session,
            "seconds": seconds,
            "layers": test.layers.names,
            **{
                name: getattr(test, name)
                for name in (
                    *("multipliers", "losses", "frozen", "uniform", "best"),
                    *("suggestion", "uncertainty", "at_edge", "limit", "gain", "seen"),
                )
            },
            "check": {"uniform": uniform, "together": together},
        },
    )
    page = figure(test)
    figures.save(page, folder / "range_test.png", dpi=150, facecolor="white")
    console.print(f"\n{display.legible(str(test))}\n", soft_wrap=True)
    console.print(f"{LEGEND}\n\n{verdict(uniform, together)}")
    console.print(
        f"Records and figure in {folder}, after {seconds:.0f} s", soft_wrap=True
    )


def verdict(uniform: np.ndarray, together: np.ndarray) -> str:
    """What all suggestions do together, in a sentence.

    Args:
        uniform: (R,) losses with multiplier 1 for all layers.
        together: (R,) losses with the suggestions, of the same repeats.
    """
    about = f"All suggestions together, in {len(uniform)} repeats of other batches: "
    if diverged := int((~np.isfinite(together)).sum()):
        return f"{about}{diverged} diverged, none with 1 for all layers."
    found = significance.paired(
        dict(enumerate(together.tolist())), dict(enumerate(uniform.tolist()))
    )
    if found is None or found.interval is None:
        return f"{about}the same loss as with 1 for all layers."
    low, high = found.interval
    said = "higher than" if low > 0 else "lower than" if high < 0 else UNCLEAR
    return (
        f"{about}a loss of {together.mean():.4g}, {said} {uniform.mean():.4g} "
        f"with 1 for all layers ({found.mean:+.2g}, 95 % interval {low:+.2g} to "
        f"{high:+.2g})."
    )


def figure(test: RangeTest) -> Figure:
    """How the loss changes with the multiplier of each layer; a row for each of them.

    A dot marks each suggestion, with its uncertainty; a hollow one, that no difference
    was seen.
    """
    height = 1.6 + 0.17 * max(8, len(test.layers))
    with matplotlib.rc_context(figures.STYLE):
        page = Figure(figsize=(6.4, height))
        _draw(page.subplots(), test)
    return page


def _draw(axes: Axes, test: RangeTest) -> None:
    rows, logs = np.arange(len(test.layers)), np.log10(test.multipliers)
    middles = (logs[1:] + logs[:-1]) / 2
    ends = 2 * logs[[0, -1]] - middles[[0, -1]]
    edges = (
        10 ** np.concatenate([ends[:1], middles, ends[1:]]),
        np.append(rows, len(rows)) - 0.5,
    )
    mean = test.change.mean(axis=-1)
    change = np.ma.array(mean, mask=~np.isfinite(mean))
    # A change of the loss by 1 % lies in the linear middle of the scale.
    small = max(0.01 * abs(test.uniform.mean()), 1e-6)
    most = max(abs(change).max(), 10 * small)
    mesh = axes.pcolormesh(
        *edges,
        change,
        cmap="PuOr_r",
        norm=SymLogNorm(small, vmin=-most, vmax=most),
        rasterized=True,
    )
    for row, column in np.argwhere(change.mask):
        left, right = edges[0][column : column + 2]
        axes.add_patch(
            Rectangle(
                (left, row - 0.5),
                right - left,
                1,
                fill=False,
                hatch="////",
                edgecolor=figures.FROZEN,
                linewidth=0,
            )
        )
    _draw_suggestions(axes, test, rows)
    axes.set_xscale("log")
    figures.log_ticks(axes.xaxis)
    axes.invert_yaxis()
    axes.grid(False)
    axes.set_yticks(rows, test.layers.names)
    axes.set(
        title="change of the loss by the multiplier of one layer",
        xlabel="multiplier of the layer, of all others 1\n"
        "dot: suggestion; hollow: no difference seen; hatched: diverged",
        xlim=edges[0][[0, -1]],
    )
    bar = axes.figure.colorbar(mesh, ax=axes, label="loss − loss with 1 for all layers")
    figures.log_ticks(bar.ax.yaxis)


def _draw_suggestions(axes: Axes, test: RangeTest, rows: np.ndarray) -> None:
    middle, factor = test.suggestion, 10 ** np.nan_to_num(test.uncertainty)
    axes.hlines(rows, middle / factor, middle * factor, color=figures.INK, linewidth=1)
    for which, fill in ((test.seen, figures.INK), (~test.seen, "white")):
        axes.plot(
            middle[which],
            rows[which],
            "o",
            markersize=4,
            color=figures.INK,
            markerfacecolor=fill,
        )
