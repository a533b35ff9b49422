"""plots/, summary.json and one self-contained report.html, from the records alone."""

import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from . import compare, figures, results, savings, table, verdicts
from .compare import Row, Run
from .figures import Panel
from .records import Records, write_json, write_text
from .savings import Saving

CSS = Path(__file__).with_name("report.css")
DPI = 130

DATA = {
    "sample": "the bundled sample of CIFAR-10",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
}

ACCURACY = ("validation", "accuracy", "validation accuracy", "accuracy, %", 100)
CURVES = (
    ("train", "loss", "training loss", "cross-entropy, nats", 1),
    ("validation", "loss", "validation loss", "cross-entropy, nats", 1),
    ACCURACY,
)

QUESTION = """
<p>Does a network learn faster, or better, when its layers do not all learn at the same
rate, and when the differences change while it trains?</p>
<p>Every layer's update is multiplied by a number of its own. A multiplier of 1 leaves
the global learning rate as it is, 2 doubles it, 0 freezes the layer. What a layer gets,
its <em>realised rate</em>, is the global rate times its multiplier. A <em>policy</em>
says how the multipliers depend on the layer and on time, or how they are measured from
gradients and weights on the way. Measured ones are divided by their mean over the
layers: they share out the global rate.</p>
<p>Each policy is compared with a <em>control</em> that treats all layers alike:
<em>uniform</em>, 1 everywhere and always, or, for a policy that anneals by itself,
uniform rates under the annealing most like its own, or else annealing would be mistaken
for what layer rates do. (For layers that rotate at unequal rates it is <em>layca</em>,
all at one.) The comparison is <em>paired</em>: under one seed all policies start from
the same weights and see the same images in the same order, so that the luck they share
drops out of the difference.</p>
<p>No learning rate was tuned, neither for a control nor for a policy: all of them ran
at the configured global rate. A policy may differ from its control for no other reason
than that its multipliers suit that rate better or worse.</p>
"""


def build(records: Records) -> Path:
    """Writes summary.json, plots/ and report.html into the run folder.

    Returns:
        The path of report.html.
    """
    folder, table_rows, reasons = records.folder, rows(records), caveats(records)
    runs = compare.runs(records.events)
    pages = _panels(runs, table_rows, records.config["layers"]["names"])
    write_json(folder / "summary.json", verdicts.summary(table_rows, reasons))
    (folder / "plots").mkdir(exist_ok=True)
    for name, panels in pages.items():
        page = figures.figure(*panels.values())
        page.savefig(folder / "plots" / f"{name}.png", dpi=DPI, facecolor="white")
    write_text(folder / "report.html", _html(records, runs, table_rows, reasons, pages))
    return folder / "report.html"


def rows(records: Records) -> list[Row]:
    """The rows of a study's tables, one a policy."""
    config = records.config
    controls = {name: about["control"] for name, about in config["policies"].items()}
    return compare.rows(compare.runs(records.events), config["marks"], controls)


def saved(records: Records) -> dict[str, list[Saving]]:
    """What frozen layers saved, for each policy that freezes some."""
    groups = compare.by_policy(compare.runs(records.events))
    found = {
        row.policy: savings.savings(groups[row.policy], groups[row.control])
        for row in rows(records)
        if row.policy in groups and row.control in groups
    }
    return {policy: rows for policy, rows in found.items() if rows}


def caveats(records: Records) -> list[str]:
    """Why the study is a demonstration, not evidence; empty if it may be evidence."""
    config = records.config
    planned = len(config["policies"]) * config["seeds"]
    return verdicts.caveats(rows(records), config["source"], planned, records.sessions)


def describe(row: Row, multipliers: np.ndarray, names: Sequence[str]) -> str:
    """What one policy did to the layers, and what came of it, in sentences.

    Args:
        row: the policy's.
        multipliers: (S, L) recorded ones, in the order of time.
        names: the L layers.
    """
    ends = dict.fromkeys((0, len(names) - 1))
    paths = [f"{names[i]} {_path(multipliers[:, i])}" for i in ends]
    frozen = int((multipliers == 0).any(axis=0).sum())
    text = "Multipliers: " + ", ".join(paths) + "."
    if frozen:
        text += f" Frozen for a part of the run: {frozen} of {len(names)} layers."
    for question, answer in row.answers.items():
        measure = compare.QUESTIONS[question].measure.capitalize()
        unit = " %" if answer.values else ""
        text += f" {measure}: {table.measured(row, answer)}{unit}"
        if answer.difference is not None:
            difference = table.difference(row, answer)
            text += f", paired difference to {row.control} {difference} points"
        text += "."
    return text


def _path(values: np.ndarray) -> str:
    """How one layer's multiplier moved: its ends, and its extremes if they differ."""
    first, last, low, high = values[0], values[-1], values.min(), values.max()
    if low == high:
        return f"stood at {first:.2g}"
    text = f"went from {first:.2g} to {last:.2g}"
    if low < min(first, last) or high > max(first, last):
        text += f" (lowest {low:.2g}, highest {high:.2g})"
    return text


def _panels(
    runs: Sequence[Run], rows: Sequence[Row], names: Sequence[str]
) -> dict[str, dict[str, Panel]]:
    """By figure ("curves" and one for each policy) the panels by what they show."""
    groups = compare.by_policy(run for run in runs if run.train)
    if not groups:
        return {}
    controls = {row.policy: row.control for row in rows}
    pages = {"curves": {curve[2]: _curve_panel(groups, curve) for curve in CURVES}}
    for policy in groups:
        shown = (compare.BASELINE, controls[policy], policy)
        compared = {name: groups[name] for name in shown if name in groups}
        pages[policy] = _policy_panels(policy, compared, names)
    return pages


def _policy_panels(
    policy: str, compared: Mapping[str, Sequence[Run]], names: Sequence[str]
) -> dict[str, Panel]:
    """What a policy did, and its validation accuracy beside its control's."""
    run = _furthest(compared[policy])
    steps, values = _field(run, "step"), _field(run, "multipliers")
    rates = _field(run, "rate")[:, None] * values
    return {
        f"multipliers of {policy}, layer by step": partial(
            figures.draw_multipliers, steps=steps, values=values, names=names
        ),
        f"realised rates of {policy} by step": partial(
            figures.draw_rates, steps=steps, values=rates, names=names
        ),
        f"validation accuracy of {policy}": _curve_panel(compared, ACCURACY),
    }


def _curve_panel(
    groups: Mapping[str, Sequence[Run]], curve: tuple[str, str, str, str, float]
) -> Panel:
    kind, field, title, quantity, factor = curve
    curves = {policy: _curve(group, kind, field) for policy, group in groups.items()}
    scaled = {
        policy: (steps, factor * values)
        for policy, (steps, values) in curves.items()
        if steps.size
    }
    return partial(figures.draw_curves, curves=scaled, title=title, quantity=quantity)


def _curve(runs: Sequence[Run], kind: str, field: str) -> figures.Curve:
    """Steps (S,) and values (seeds, S) on the steps of all seeds together."""
    values = [
        {event["step"]: event[field] for event in getattr(run, kind)} for run in runs
    ]
    steps = sorted({step for seed in values for step in seed})
    table = [[seed.get(step) for step in steps] for seed in values]
    return np.array(steps, float), np.array(table, float).reshape(len(runs), -1)


def _field(run: Run, name: str) -> np.ndarray:
    return np.array([event[name] for event in run.train], float)


def _furthest(runs: Sequence[Run]) -> Run:
    return max(runs, key=lambda run: run.step)


def _html(
    records: Records,
    runs: Sequence[Run],
    rows: Sequence[Row],
    reasons: Sequence[str],
    pages: Mapping[str, Mapping[str, Panel]],
) -> str:
    config = records.config
    title = f"{config['name']}: layer learning rates"
    sections = [
        _head(records, title, reasons),
        f"<h2>The question</h2>{QUESTION}",
        results.section(config, rows, demonstration=bool(reasons)),
        _curves_section(pages),
        _policies_section(config, runs, rows, saved(records), pages),
        _method(records),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>\n{CSS.read_text(encoding='utf-8')}</style></head>"
        "<body>\n" + "\n".join(sections) + "\n</body></html>\n"
    )


def _head(records: Records, title: str, reasons: Sequence[str]) -> str:
    config, environment = records.config, records.environment
    line = (
        f"{config['model']} on {DATA.get(config['source'], config['source'])}, "
        f"{len(config['policies'])} policies × {config['seeds']} seeds, "
        f"{config['total_steps']:,} steps a run; started {environment['started']}"
    )
    text = f'<h1>{escape(title)}</h1><p class="soft">{escape(line)}</p>'
    if reasons:
        text += (
            '<p class="warn"><strong>A demonstration, not evidence:</strong> '
            f"{escape('; '.join(reasons))}.</p>"
        )
    return text


def _curves_section(pages: Mapping[str, Mapping[str, Panel]]) -> str:
    if not pages:
        return "<h2>Loss and accuracy</h2><p>No run came far enough to be drawn.</p>"
    return (
        "<h2>Loss and accuracy</h2><p>Lines are means over the seeds, bands reach from "
        "the lowest to the highest seed; a cross marks where a seed ended early."
        f"</p>{_figures('curves', pages['curves'])}"
    )


def _policies_section(
    config: Mapping[str, Any],
    runs: Sequence[Run],
    rows: Sequence[Row],
    saving: Mapping[str, Sequence[Saving]],
    pages: Mapping[str, Mapping[str, Panel]],
) -> str:
    names, groups = config["layers"]["names"], compare.by_policy(runs)
    sections = ""
    for row in rows:
        about = config["policies"][row.policy]
        sections += (
            f'<section class="policy"><h3>{escape(row.policy)}</h3>'
            f"<p>{escape(about['summary'])} "
            f'<span class="soft">Source: {escape(about["source"])}.</span></p>'
            f"<p><strong>Expected:</strong> {escape(about['expectation'])}</p>"
        )
        if row.policy in pages:
            used = _field(_furthest(groups[row.policy]), "multipliers")
            seen = results.unbroken(describe(row, used, names))
            sections += f"<p><strong>Seen:</strong> {seen}</p>"
            if row.policy in saving:
                sections += results.savings_table(saving[row.policy])
            sections += _figures(row.policy, pages[row.policy])
        sections += "</section>\n"
    return (
        "<h2>What each policy did to the layers</h2><p>Layers stand in forward order, "
        "the one nearest the input on top. Colours mean the same in every map: white "
        "is the global rate unchanged.</p>" + sections
    )


def _figures(name: str, panels: Mapping[str, Panel]) -> str:
    drawn = "".join(
        f"<figure>{figures.svg(figures.figure(draw), f'{name}-{i}', text)}</figure>"
        for i, (text, draw) in enumerate(panels.items())
    )
    return f'<div class="figures">{drawn}</div>'


def _method(records: Records) -> str:
    shown = ("layers", "policies", "total_steps")
    asked = {k: v for k, v in records.config.items() if k not in shown}
    asked["policies"] = list(records.config["policies"])
    first, *later = (_environment(session) for session in records.sessions)
    return (
        "<h2>How it was run, and how to run it again</h2>"
        f"<pre>{escape(_again(records.environment))}</pre>"
        f"<h3>Configuration</h3>{_definitions(asked)}"
        f"<h3>Environment</h3>{first}"
        + "".join(f"<h3>Environment when it went on</h3>{text}" for text in later)
        + "<p>Every number above comes from <code>metrics.jsonl</code> of the runs; "
        + "<code>python -m experiments report FOLDER</code> makes the report again.</p>"
    )


def _environment(session: Mapping[str, Any]) -> str:
    where = {k: v for k, v in session.items() if k not in ("command", "versions")}
    return _definitions(where | session["versions"])


def _again(environment: Mapping[str, Any]) -> str:
    lines = [shlex.join(environment["command"])]
    if commit := environment["commit"]:
        changed = (
            "   # and there were uncommitted changes" if environment["dirty"] else ""
        )
        lines.insert(0, f"git checkout {commit}{changed}")
    return "\n".join(lines)


def _definitions(items: Mapping[str, Any]) -> str:
    return (
        "<dl>"
        + "".join(
            f"<dt>{escape(key.replace('_', ' '))}</dt><dd>{escape(_shown(value))}</dd>"
            for key, value in items.items()
        )
        + "</dl>"
    )


def _shown(value: Any) -> str:
    match value:
        case None:
            return "–"
        case dict():
            return ", ".join(f"{key} {_shown(item)}" for key, item in value.items())
        case list():
            return ", ".join(map(_shown, value))
        case bool():
            return "yes" if value else "no"
        case _:
            return str(value)
