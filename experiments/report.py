"""plots/, summary.json and one self-contained report.html, from the records alone."""

import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from . import compare, figures, table
from .compare import Row, Run
from .figures import Panel
from .records import Records, write_json, write_text

CSS = Path(__file__).with_name("report.css")
DPI = 130

DATA = {"sample": "the bundled sample of CIFAR-10", "cifar10": "CIFAR-10"}

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
says how the multipliers depend on the layer and on time; <em>uniform</em>, 1 everywhere
and always, is what the others are compared with, seed by seed: under one seed all
policies start from the same weights and see the same images in the same order.</p>
"""


def build(records: Records) -> Path:
    """Writes summary.json, plots/ and report.html into the run folder.

    Returns:
        The path of report.html.
    """
    folder, table_rows, reasons = records.folder, rows(records), caveats(records)
    runs = compare.runs(records.events)
    pages = _panels(runs, records.config["layers"]["names"])
    write_json(folder / "summary.json", compare.summary(table_rows, reasons))
    (folder / "plots").mkdir(exist_ok=True)
    for name, panels in pages.items():
        page = figures.figure(*panels.values())
        page.savefig(folder / "plots" / f"{name}.png", dpi=DPI, facecolor="white")
    write_text(folder / "report.html", _html(records, runs, table_rows, reasons, pages))
    return folder / "report.html"


def rows(records: Records) -> list[Row]:
    """The table of a study."""
    return compare.rows(compare.runs(records.events), records.config["marks"])


def caveats(records: Records) -> list[str]:
    """Why the study is a demonstration, not evidence; empty if it may be evidence."""
    config = records.config
    planned = len(config["policies"]) * config["seeds"]
    return compare.caveats(rows(records), config["source"], planned)


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
    text += f" Test accuracy: {table.accuracy(row)}{' %' if row.n else ''}."
    if row.difference is not None:
        text += f" Paired difference to uniform: {table.difference(row)} points."
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


def _panels(runs: Sequence[Run], names: Sequence[str]) -> dict[str, dict[str, Panel]]:
    """By figure ("curves" and one for each policy) the panels by what they show."""
    groups = compare.by_policy(run for run in runs if run.train)
    if not groups:
        return {}
    furthest = {policy: _furthest(group) for policy, group in groups.items()}
    curves = {curve[2]: _curve_panel(groups, curve) for curve in CURVES}
    return {"curves": curves} | {
        policy: _policy_panels(policy, groups, run, names)
        for policy, run in furthest.items()
    }


def _policy_panels(
    policy: str,
    groups: Mapping[str, Sequence[Run]],
    run: Run,
    names: Sequence[str],
) -> dict[str, Panel]:
    steps, values = _field(run, "step"), _field(run, "multipliers")
    rates = _field(run, "rate")[:, None] * values
    compared = {
        name: groups[name] for name in (compare.BASELINE, policy) if name in groups
    }
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
        _results(config, rows, demonstration=bool(reasons)),
        _curves_section(pages),
        _policies_section(config, runs, rows, pages),
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


def _results(
    config: Mapping[str, Any], rows: Sequence[Row], demonstration: bool
) -> str:
    headings = ("expectation", *table.headings(config["marks"]))
    body = ""
    for row in rows:
        cells = (config["policies"][row.policy]["expectation"], *table.cells(row))
        body += f"<tr><td>{escape(row.policy)}</td>" + "".join(
            f'<td{_text(name)} data-label="{escape(name)}">{_unbroken(cell)}</td>'
            for name, cell in zip(headings, cells, strict=True)
        )
        body += "</tr>\n"
    head = "".join(f"<th{_text(name)}>{_unbroken(name)}</th>" for name in headings)
    notes = "".join(f"<li>{_unbroken(note)}</li>" for note in table.NOTES)
    return (
        f"<h2>Result</h2>{_verdicts(rows, demonstration)}"
        '<div class="scroll"><table class="results"><thead><tr><th>policy</th>'
        f"{head}</tr></thead><tbody>\n{body}</tbody></table></div>"
        f'<ul class="soft">{notes}</ul>'
    )


def _verdicts(rows: Sequence[Row], demonstration: bool) -> str:
    if demonstration:
        return (
            "<p><strong>Demonstration: no verdict.</strong> The numbers show how a "
            "study reads; the differences may as well be chance.</p>"
        )
    items = "".join(
        f"<li><b>{escape(row.policy)}</b>: {escape(compare.verdict(row))}</li>"
        for row in rows
        if row.policy != compare.BASELINE
    )
    return (
        f"<ul>{items}</ul><p>Each 95&nbsp;% interval stands for itself: among twenty "
        "policies that change nothing, one is expected to miss 0.</p>"
    )


def _unbroken(text: str) -> str:
    """Escaped, without a line break beside ± or before %."""
    return escape(text).replace(" ± ", "&nbsp;±&nbsp;").replace(" %", "&nbsp;%")


def _text(heading: str) -> str:
    return ' class="text"' if heading == "expectation" else ""


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
            sections += (
                f"<p><strong>Seen:</strong> {_unbroken(describe(row, used, names))}</p>"
                + _figures(row.policy, pages[row.policy])
            )
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
    environment = records.environment
    shown = ("layers", "policies", "total_steps")
    asked = {k: v for k, v in records.config.items() if k not in shown}
    asked["policies"] = list(records.config["policies"])
    where = {k: v for k, v in environment.items() if k not in ("command", "versions")}
    return (
        "<h2>How it was run, and how to run it again</h2>"
        f"<pre>{escape(_again(environment))}</pre>"
        f"<h3>Configuration</h3>{_definitions(asked)}"
        f"<h3>Environment</h3>{_definitions(where | environment['versions'])}"
        "<p>Every number above comes from <code>metrics.jsonl</code> in the folder of "
        "this report; <code>python -m experiments report FOLDER</code> makes the "
        "report again from it.</p>"
    )


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
