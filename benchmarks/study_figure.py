"""Draws the paired differences of a study, of which only summary.json was kept.

    python benchmarks/study_figure.py docs/studies/cifar10-shallow

The figure is differences.png beside it. `report FOLDER --figures png` draws those of a
study whose records are there.
"""

import argparse
import json
import pathlib
import sys
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import altair as alt

from experiments.analysis.questions import Question, questions
from experiments.config.measures import measure_among
from experiments.report import charts
from experiments.report.charts import Figure, Pen


def chart(summary: dict[str, Any]) -> alt.HConcatChart:
    """The differences in how good policies are, and in how fast."""
    rows = {row["policy"]: row for row in summary["rows"]}
    pens = charts.pens_for(rows)
    asked = questions(measure_among(summary["questions"]))
    return alt.hconcat(*(_differences(rows, *of, pens) for of in asked.items()))


def draw(folder: pathlib.Path) -> pathlib.Path:
    """Draws the summary.json of a folder into differences.png; where that is."""
    drawn = folder / "differences.png"
    text = (folder / "summary.json").read_text(encoding="utf-8")
    charts.save(chart(json.loads(text)), drawn)
    return drawn


def _differences(
    rows: dict[str, dict[str, Any]],
    name: str,
    question: Question,
    pens: dict[str, Pen],
) -> Figure:
    """Each policy by its control, as a report draws it."""
    answers = {policy: row["answers"][name] for policy, row in rows.items()}
    controls = {policy: row["control"] for policy, row in rows.items()}
    pairs: dict[str, list[float]] = {}
    intervals: dict[str, tuple[float, float]] = {}
    for policy, answer in answers.items():
        if difference := answer["difference"]:
            ours = answer["values"]
            theirs = question.compared(ours, answers[controls[policy]]["values"])
            pairs[policy] = [
                ours[seed] - theirs[seed] for seed in ours if seed in theirs
            ]
            if difference["interval"]:
                intervals[policy] = difference["interval"]
    measure, unit, drawn = question.measure, question.unit, question.drawn
    return charts.differences(pairs, intervals, pens, controls, measure, unit, drawn)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folders", type=pathlib.Path, nargs="+", metavar="FOLDER")
    for folder in parser.parse_args().folders:
        print(draw(folder))
