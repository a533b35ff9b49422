"""Draws the accuracies of a speed run over its steps.

    python benchmarks/speedrun_figure.py benchmarks/results/cpu/speedrun.json

The figure is a PNG beside the record.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import altair as alt
import numpy as np
from tables import chosen

from experiments.report import charts
from experiments.report.charts import Curve

Record = dict[str, Any]


def curves_of(record: Record) -> dict[str, Curve]:
    """Steps (S,), and points of accuracy without augmentation (seeds, S), by policy."""
    found: dict[str, Curve] = {}
    for row in record["summary"]:
        runs = chosen(record, policy=row["policy"])
        runs.sort(key=lambda run: run["seed"])
        looks = [[*run["curve"], (record["steps"], run["plain"])] for run in runs]
        steps, accuracies = np.moveaxis(np.array(looks, float), -1, 0)
        found[row["policy"]] = steps[0], 100 * accuracies
    return found


def chart(record: Record) -> alt.HConcatChart:
    """Accuracy over steps, and what differs from the control then and at the end."""
    curves = curves_of(record)
    pens, control = charts.pens_for(curves), next(iter(curves))
    _, theirs = curves[control]
    others = {
        policy: (steps, ours - theirs)
        for policy, (steps, ours) in curves.items()
        if policy != control
    }
    found = [charts.curves(curves, "test accuracy, %", pens=pens)]
    if others:
        quantity = f"points of test accuracy by {control}"
        last = {policy: ours[:, -1].tolist() for policy, (_, ours) in others.items()}
        intervals = _intervals(record["summary"], control)
        controls = dict.fromkeys(last, control)
        found += [
            charts.curves(others, quantity, pens=pens),
            charts.differences(last, intervals, pens, controls, "final test accuracy"),
        ]
    return alt.hconcat(*found)


def draw(path: pathlib.Path) -> pathlib.Path:
    """Draws a record into a PNG beside it; where that is."""
    record = json.loads(path.read_text(encoding="utf-8"))
    drawn = path.with_suffix(".png")
    charts.save(chart(record), drawn)
    return drawn


def _intervals(
    summary: Sequence[Mapping[str, Any]], control: str
) -> dict[str, tuple[float, float]]:
    """Those of the mean differences that have one, in points."""
    found: dict[str, tuple[float, float]] = {}
    for row in summary:
        difference = row["plain"].get(f"minus_{control}")
        if difference and difference["interval"]:
            low, high = difference["interval"]
            found[row["policy"]] = 100 * low, 100 * high
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("records", type=pathlib.Path, nargs="+", metavar="RECORD")
    for record in parser.parse_args().records:
        print(draw(record))
