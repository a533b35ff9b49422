"""A range test of a model's layers: made, checked, and left behind as records."""

import time
from collections.abc import Sequence

import numpy as np

import optax_llr

from ..analysis import significance
from ..asked import keep_files
from ..config.own import label
from ..data.dataset import Dataset
from ..records import run_directory, weights
from ..records.environment import environment
from ..records.records import write_json
from ..report import charts
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
    with run_directory.claimed(asked.folder):
        if (asked.folder / "range_test.json").exists():
            raise ValueError(
                f"{str(asked.folder)!r} holds a range test already; remove it, or give "
                "this one another --name"
            )
        keep_files(asked.config, asked.folder)
        _find(asked, dataset, command)
    return 0


def _find(asked: Find, dataset: Dataset, command: Sequence[str]) -> None:
    began, config, folder = time.perf_counter(), asked.config, asked.folder
    console = display.console()
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
            "files": weights.hashes(config.init_from),
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
    drawn = charts.range_test(
        test.multipliers,
        test.change.mean(axis=-1),
        test.layers.names,
        test.suggestion,
        10 ** np.nan_to_num(test.uncertainty),
        test.seen,
    )
    charts.save(drawn, folder / "range_test.png")
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
