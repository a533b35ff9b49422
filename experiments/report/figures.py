"""Which figures a study has: charts of what its runs recorded."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..analysis import compare
from ..analysis.across import Axis, Line, Place
from ..analysis.compare import Row, Run
from ..analysis.questions import questions
from ..analysis.savings import Saving
from ..analysis.significance import Difference
from ..config.measures import Measure
from . import charts
from .charts import Curve, Pen, Scale

Charts = dict[str, charts.Figure]
"""By what they show."""

ACCURACY = ("validation", "accuracy", "validation accuracy, %", 100)
LOSSES = (
    ("train", "loss", "training loss, nats", 1),
    ("validation", "loss", "validation loss, nats", 1),
)
SECONDS = "seconds of training"
MEASURED: tuple[tuple[str, str, Scale], ...] = (
    ("gradient_norm", "gradient norm", "log"),
    ("update_ratio", "relative update (norm of update ÷ of weights)", "log"),
    ("rotation", "rotation since the start (1 − cos of the angle)", "linear"),
)
STEP_SIZE = "|update| ÷ global learning rate"


@dataclasses.dataclass(frozen=True)
class Figures:
    """The figures of a study.

    Attributes:
        differences: by the measure that differs.
        curves: by what they show.
        maps: of multipliers, by policy: small pictures, PNG.
        layers: by policy, what it did to each layer.
    """

    differences: Charts
    curves: Charts
    maps: dict[str, bytes]
    layers: dict[str, Charts]

    def files(self) -> Charts:
        """Each by the name of a file that it may have."""
        several = {"difference": self.differences, "curve": self.curves}
        several |= {f"layers-{policy}": of for policy, of in self.layers.items()}
        return {
            f"{group}-{name}": chart
            for group, of in several.items()
            for name, chart in of.items()
        }


def figures(
    runs: Sequence[Run],
    rows: Sequence[Row],
    names: Sequence[str],
    saved: Mapping[str, Sequence[Saving]],
    pens: Mapping[str, Pen],
    measure: Measure,
    *,
    seconds: bool = False,
    legend: bool = True,
) -> Figures:
    """The figures of a study.

    Args:
        runs: all of them.
        rows: of its tables, one a policy.
        names: the layers, in forward order.
        saved: what frozen layers saved, for policies that freeze some.
        pens: by policy.
        measure: what the runs are judged by.
        seconds: whether to draw curves over seconds too.
        legend: whether curves say which line is whose.
    """
    groups = compare.by_policy(run for run in runs if run.train)
    shown = (ACCURACY, *LOSSES) if measure.larger else LOSSES[::-1]
    against = (charts.STEPS, SECONDS) if seconds else (charts.STEPS,)
    multipliers = {
        policy: _over_time(furthest(group).train, "multipliers")
        for policy, group in groups.items()
    }
    return Figures(
        differences=_differences(rows, pens, measure),
        curves={
            f"{quantity.partition(',')[0]} by {x.split()[-1]}": charts.curves(
                curves, quantity, x, pens, legend=legend
            )
            for x in against
            for kind, field, quantity, factor in shown
            if (curves := _curves(groups, kind, field, factor, x))
        },
        maps={name: charts.thumbnail(used) for name, (_, used) in multipliers.items()},
        layers={
            policy: {
                "multipliers": charts.multipliers(*used, names),
                **_of_layers(furthest(groups[policy]), names),
                **_savings(saved.get(policy, ()), len(names)),
            }
            for policy, used in multipliers.items()
        },
    )


def across(
    lines: Sequence[Line],
    axis: Axis,
    pens: Mapping[str, Pen],
    measure: Measure,
    *,
    legend: bool = True,
) -> Charts:
    """How good over what differs between studies, and the differences to controls.

    Args:
        lines: of the first question.
        axis: what the studies differ in.
        pens: by policy.
        measure: what the runs of all studies are judged by.
        legend: whether the charts say which line is whose.
    """
    means: dict[str, charts.Dependence] = {}
    differences: dict[str, charts.Dependence] = {}
    for line in lines:
        at = [line.places.get(study) for study in axis.places]
        means[line.policy] = _dependence(at, measure)
        if line.policy != line.control:
            between = [place and place.difference for place in at]
            differences[line.policy] = _dependence(between, measure)
    places = [*axis.places.values()]

    def drawn(
        of: dict[str, charts.Dependence], quantity: str, zero: bool
    ) -> charts.Figure:
        return charts.across(
            of, places, axis.name, quantity, pens, zero=zero, legend=legend
        )

    found: Charts = {}
    if means:
        name = f"test {measure.name}"
        found[name] = drawn(means, f"test {measure.title}", False)
    if differences:
        quantity = f"difference to the baseline, {measure.differences}"
        found["difference"] = drawn(differences, quantity, True)
    return found


def furthest(runs: Sequence[Run]) -> Run:
    """The run that came furthest, the first of several."""
    return max(runs, key=lambda run: run.step)


def series(events: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """A field of these events, (S, …); NaN for null."""
    return np.array([event[name] for event in events], float)


def _differences(
    rows: Sequence[Row], pens: Mapping[str, Pen], measure: Measure
) -> Charts:
    """For each question, every policy by its control."""
    found: Charts = {}
    for name, question in questions(measure).items():
        pairs = {
            policy: [*by_seed.values()]
            for policy, by_seed in compare.differences(rows, name, measure).items()
        }
        intervals = {
            row.policy: difference.interval
            for row in rows
            if (difference := row.answers[name].difference) and difference.interval
        }
        if pairs:
            controls = {row.policy: row.control for row in rows}
            found[question.measure] = charts.differences(
                pairs,
                intervals,
                pens,
                controls,
                question.measure,
                question.unit,
                question.drawn,
            )
    return found


def _dependence(
    at: Sequence[Place | Difference | None], measure: Measure
) -> charts.Dependence:
    """What is known at each place, in the unit of the measure."""
    rows = [
        (None, None, None)
        if one is None
        else (one.mean, *(one.interval or (None,) * 2))
        for one in at
    ]
    mean, low, high = measure.factor * np.array(rows, float).T
    return mean, low, high


def _of_layers(run: Run, names: Sequence[str]) -> Charts:
    """The rates that layers got in one run, and what was measured on them."""
    steps, values = _over_time(run.train, "multipliers")
    rates = series(run.train, "rate")[:, None] * values
    rate = "per-layer learning rate"
    found = {rate: charts.layer_values(steps, rates, names, rate, "log")}
    if not run.layers:
        return found
    for field, quantity, scale in MEASURED:
        steps, values = _over_time(run.layers, field)
        title = quantity.partition(" (")[0]
        found[title] = charts.layer_values(steps, values, names, quantity, scale)
    steps, values = _over_time(run.layers, "step_quantiles")
    for i in sorted({0, len(names) - 1}):
        title = f"step sizes in {names[i]}"
        found[title] = charts.quantiles(steps, values[:, i], STEP_SIZE, title)
    return found


def _savings(saved: Sequence[Saving], layers: int) -> Charts:
    """Where layers were frozen, and what that saved."""
    if not saved:
        return {}
    shares = [(phase.predicted, phase.measured) for phase in saved]
    predicted, measured = np.array(shares, float).T
    edges = np.array([*(phase.start for phase in saved), saved[-1].stop], float)
    frozen = np.array([phase.frozen / layers for phase in saved])
    return {
        "what frozen layers save": charts.savings(edges, frozen, predicted, measured)
    }


def _over_time(
    events: Sequence[Mapping[str, Any]], name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Steps (S,), and a field of the events (S, …)."""
    return series(events, "step"), series(events, name)


def _curves(
    groups: Mapping[str, Sequence[Run]],
    kind: str,
    field: str,
    factor: float,
    against: str,
) -> dict[str, Curve]:
    """By policy, a field over time, on the steps of all seeds together."""
    found: dict[str, Curve] = {}
    for policy, runs in groups.items():
        seeds = [{event["step"]: event for event in getattr(run, kind)} for run in runs]
        steps = sorted({step for seed in seeds for step in seed})
        if not steps:
            continue
        x = np.array(steps, float)
        if against == SECONDS:
            seconds = np.ma.masked_invalid(_table(seeds, steps, "seconds"))
            x = seconds.mean(axis=0).filled(np.nan)
        found[policy] = x, factor * _table(seeds, steps, field)
    return found


def _table(
    seeds: Sequence[Mapping[int, Mapping[str, Any]]], steps: Sequence[int], field: str
) -> np.ndarray:
    """A field by seed and step, NaN where there is none."""
    values = [[seed.get(step, {}).get(field) for step in steps] for seed in seeds]
    return np.array(values, float)
