"""Which figures a study has: panels of plain arrays, from its recorded runs."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from ..analysis import compare
from ..analysis.compare import Row, Run
from ..analysis.savings import Saving
from . import figures, layer_figures, policy_figures
from .figures import Panel, Pen

Pages = dict[str, dict[str, Panel]]
"""By page, the panels by what they show: "differences" if there are any, "curves", and
one for each policy."""

STEPS, SECONDS = "optimizer steps", "seconds of training"
LOSS = ("train", "loss", "training loss", "cross-entropy, nats", 1)
VALIDATION_LOSS = ("validation", "loss", "validation loss", "cross-entropy, nats", 1)
ACCURACY = ("validation", "accuracy", "validation accuracy", "accuracy, %", 100)
CURVES = (
    (LOSS, STEPS),
    (VALIDATION_LOSS, STEPS),
    (ACCURACY, STEPS),
    (LOSS, SECONDS),
    (ACCURACY, SECONDS),
)
MEASURED = (
    ("gradient_norm", "gradient norm", "norm of the gradient", "log"),
    ("update_ratio", "update to weight", "norm of update ÷ of weights", "log"),
    ("rotation", "rotation since the start", "1 − cos of the angle", "linear"),
)
STEP_SIZE = "|update| ÷ global rate"


def pages(
    runs: Sequence[Run],
    rows: Sequence[Row],
    names: Sequence[str],
    saved: Mapping[str, Sequence[Saving]],
) -> Pages:
    """The panels of a study.

    Args:
        runs: all of them.
        rows: the table, one a policy.
        names: the layers, in forward order.
        saved: what frozen layers saved, for policies that freeze some.
    """
    groups = compare.by_policy(run for run in runs if run.train)
    if not groups:
        return {}
    pens = figures.pens_for(groups)
    controls = {row.policy: row.control for row in rows}
    found: Pages = {}
    if differences := _differences_page(rows, pens):
        found["differences"] = differences
    found["curves"] = _curves_page(groups, rows, pens)
    for policy in groups:
        shown = (compare.BASELINE, controls[policy], policy)
        compared = {name: groups[name] for name in shown if name in groups}
        run = furthest(groups[policy])
        found[policy] = _schedule_panels(policy, run, names)
        found[policy] |= {
            f"validation accuracy of {policy}": _curve(compared, ACCURACY, STEPS, pens)
        }
        if policy in saved:
            found[policy] |= _savings_panel(policy, saved[policy], len(names))
        if run.layers:
            found[policy] |= _measured_panels(policy, run, names)
    return found


def furthest(runs: Sequence[Run]) -> Run:
    """The run that came furthest, the first of several."""
    return max(runs, key=lambda run: run.step)


def series(events: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """A field of these events, (S, …); NaN for null."""
    return np.array([event[name] for event in events], float)


def _differences_page(rows: Sequence[Row], pens: Mapping[str, Pen]) -> dict[str, Panel]:
    """For each question, every policy by its control."""
    found: dict[str, Panel] = {}
    for name, question in compare.QUESTIONS.items():
        values = {row.policy: row.answers[name].values for row in rows}
        pairs: dict[str, list[float]] = {}
        intervals: dict[str, tuple[float, float]] = {}
        for row in rows:
            if difference := row.answers[name].difference:
                ours, theirs = values[row.policy], values[row.control]
                pairs[row.policy] = [
                    100 * (ours[seed] - theirs[seed]) for seed in ours if seed in theirs
                ]
                if difference.interval:
                    low, high = difference.interval
                    intervals[row.policy] = 100 * low, 100 * high
        if pairs:
            found[f"paired differences in {question.measure}"] = partial(
                policy_figures.draw_differences,
                pairs=pairs,
                intervals=intervals,
                title=question.measure,
                pens=pens,
                labels={
                    row.policy: f"{row.policy} − {row.control}"
                    for row in rows
                    if row.control != compare.BASELINE
                },
            )
    return found


def _curves_page(
    groups: Mapping[str, Sequence[Run]], rows: Sequence[Row], pens: Mapping[str, Pen]
) -> dict[str, Panel]:
    found = {
        f"{curve[2]} against {against}": _curve(groups, curve, against, pens)
        for curve, against in CURVES
    }
    times = {
        row.policy: [(mark.steps.value, mark.steps.censored) for mark in row.marks]
        for row in rows
        if row.policy in groups
    }
    if marks := [mark.mark for mark in rows[0].marks]:
        found["steps to accuracy marks"] = partial(
            policy_figures.draw_marks, times=times, marks=marks, pens=pens
        )
    if len(groups) > policy_figures.FEW_CURVES:
        key = {
            "which line is which policy": partial(policy_figures.draw_key, pens=pens)
        }
        found = key | found
    return found


def _schedule_panels(policy: str, run: Run, names: Sequence[str]) -> dict[str, Panel]:
    """The multipliers, and the rates that came of them."""
    train = [run.train[i] for i in figures.thinned(len(run.train))]
    steps, values = series(train, "step"), series(train, "multipliers")
    rates = series(train, "rate")[:, None] * values
    return {
        f"multipliers of {policy}, layer by step": partial(
            layer_figures.draw_multipliers, steps=steps, values=values, names=names
        ),
        f"realised rates of {policy} by step": partial(
            layer_figures.draw_rates, steps=steps, values=rates, names=names
        ),
    }


def _savings_panel(
    policy: str, saved: Sequence[Saving], layers: int
) -> dict[str, Panel]:
    """Where layers were frozen, and what that saved."""
    shares = [(phase.predicted, phase.measured) for phase in saved]
    predicted, measured = np.array(shares, float).T
    panel = partial(
        layer_figures.draw_savings,
        edges=np.array([*(phase.start for phase in saved), saved[-1].stop], float),
        frozen=np.array([phase.frozen / layers for phase in saved]),
        predicted=predicted,
        measured=measured,
    )
    return {f"what frozen layers save under {policy}, by step": panel}


def _measured_panels(policy: str, run: Run, names: Sequence[str]) -> dict[str, Panel]:
    """What was measured on the layers of one run."""
    few = len(names) <= layer_figures.FEW_LAYERS
    draw = layer_figures.draw_layer_lines if few else layer_figures.draw_layer_map
    events = [run.layers[i] for i in figures.thinned(len(run.layers))]
    steps, quantiles = series(events, "step"), series(events, "step_quantiles")
    found: dict[str, Panel] = {}
    shown = [(series(events, field), *words) for field, *words in MEASURED]
    if not few:
        shown.append((quantiles[..., 2], "median step size", STEP_SIZE, "log"))
    for values, title, quantity, scale in shown:
        found[f"{title} of {policy}, layer by step"] = partial(
            draw,
            steps=steps,
            values=values,
            names=names,
            title=title,
            quantity=quantity,
            scale=scale,
        )
    last = len(names) - 1
    for i in sorted({0, last // 2, last} if few else {0, last}):
        found[f"step sizes in {names[i]} of {policy}"] = partial(
            layer_figures.draw_quantiles,
            steps=steps,
            values=quantiles[:, i],
            title=f"step sizes in {names[i]}",
            quantity=STEP_SIZE,
        )
    return found


def _curve(
    groups: Mapping[str, Sequence[Run]],
    curve: tuple[str, str, str, str, float],
    against: str,
    pens: Mapping[str, Pen],
) -> Panel:
    kind, field, title, quantity, factor = curve
    curves: dict[str, policy_figures.Curve] = {}
    for policy, group in groups.items():
        steps, values = _by_seed(group, kind, field)
        if not steps.size:
            continue
        if against == SECONDS:
            seconds = _by_seed(group, kind, "seconds")[1]  # NaN where they are lost
            steps = np.ma.masked_invalid(seconds).mean(axis=0).filled(np.nan)
        shown = figures.thinned(len(steps))
        curves[policy] = steps[shown], factor * values[:, shown]
    return partial(
        policy_figures.draw_curves,
        curves=curves,
        title=title,
        quantity=quantity,
        against=against,
        pens=pens,
    )


def _by_seed(
    runs: Sequence[Run], kind: str, field: str
) -> tuple[np.ndarray, np.ndarray]:
    """Steps (S,) and values (seeds, S) on the steps of all seeds together."""
    values = [
        {event["step"]: event[field] for event in getattr(run, kind)} for run in runs
    ]
    steps = sorted({step for seed in values for step in seed})
    table = [[seed.get(step) for step in steps] for seed in values]
    return np.array(steps, float), np.array(table, float).reshape(len(runs), -1)
