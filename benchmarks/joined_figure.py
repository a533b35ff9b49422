"""Draws how differences to the baseline depend on what differs between studies.

    python benchmarks/joined_figure.py FILE.json … --policies A B … --out FIGURE.png

Each file is a joined.json, which `report A B C` writes. Its name is the title of its
panel; all panels have one scale.
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

from experiments.config.measures import Measure, measure_among
from experiments.report import charts
from experiments.report.charts import Dependence, Figure, Pen


def chart(
    joined: Mapping[str, dict[str, Any]], policies: Sequence[str]
) -> alt.HConcatChart:
    """A panel for each, by title; of these policies."""
    pens = charts.pens_for(policies)
    panels = [_panel(found, pens).properties(title=t) for t, found in joined.items()]
    return alt.hconcat(*panels).resolve_scale(y="shared")


def _panel(found: dict[str, Any], pens: Mapping[str, Pen]) -> Figure:
    measure = measure_among(found["questions"])
    lines = {line["policy"]: line for line in found["questions"][measure.name]}
    if missing := [policy for policy in pens if policy not in lines]:
        raise SystemExit(
            f"--policies: {', '.join(missing)} not among {', '.join(lines)}"
        )
    return charts.across(
        {policy: _differences(found, lines[policy], measure) for policy in pens},
        [*found["studies"].values()],
        found["field"].replace("_", " "),
        f"difference in test {measure.name}, {measure.differences}",
        pens,
        zero=True,
    )


def _differences(
    found: dict[str, Any], line: dict[str, Any], measure: Measure
) -> Dependence:
    """In the unit of the measure; NaN for a study that does not have the policy."""
    rows = np.full((3, len(found["studies"])), np.nan)
    for i, study in enumerate(found["studies"]):
        if difference := (line["places"].get(study) or {}).get("difference"):
            rows[:, i] = difference["mean"], *(difference["interval"] or (np.nan,) * 2)
    mean, low, high = measure.factor * rows
    return mean, low, high


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("files", type=pathlib.Path, nargs="+", metavar="FILE.json")
    parser.add_argument("--policies", nargs="+", required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    asked = parser.parse_args()
    read = {file.stem: json.loads(file.read_text("utf-8")) for file in asked.files}
    charts.save(chart(read, asked.policies), asked.out)
