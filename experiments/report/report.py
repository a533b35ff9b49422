"""report.html, plots/, summary.json and the tables in files, from the records alone."""

import dataclasses
import functools
import shlex
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import rich.table

from ..analysis import compare, savings, verdicts
from ..analysis.compare import Row, Run
from ..analysis.savings import Saving
from ..records.records import Records, write_json, write_text
from ..terminal import table
from . import exports, figures, panels, results, sheets
from .figures import Panel
from .sheets import Sheet

CSS = Path(__file__).with_name("report.css")
SCRIPT = Path(__file__).with_name("report.js")
DPI = 130

DATA = {
    "sample": "the bundled sample of CIFAR-10",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
}

QUESTION = """
<p>Does a network learn faster, or better, when its layers do not all learn at the same
rate, and when the differences change while it trains?</p>
"""
COMPARED = """
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
"""


MEASURED = """
<p>Gradient norm, update to weight (the norm of an update by that of the weights it
changes), rotation (1 − cos of the angle between the weights and those at the start) and
step sizes (absolute values of an update by the global rate: the line is the median, the
bands hold the middle half and all) are of the run that came furthest.</p>
"""


@dataclasses.dataclass(frozen=True)
class Study:
    """What a report tells of one study."""

    records: Records

    @property
    def name(self) -> str:
        """Its name."""
        return self.records.config["name"]

    @functools.cached_property
    def runs(self) -> list[Run]:
        """Its runs."""
        return compare.runs(self.records.events)

    @functools.cached_property
    def rows(self) -> list[Row]:
        """Of its tables, one a policy."""
        config = self.records.config
        about = config["policies"].items()
        controls = {policy: words["control"] for policy, words in about}
        return compare.rows(self.runs, config["marks"], controls)

    @functools.cached_property
    def caveats(self) -> list[str]:
        """Why it is a demonstration; empty if it may be evidence."""
        config = self.records.config
        planned = len(config["policies"]) * config["seeds"]
        sessions = self.records.sessions
        found = verdicts.caveats(self.rows, config["source"], planned, sessions)
        return [*found, *self.records.lost]

    @functools.cached_property
    def sheets(self) -> list[Sheet]:
        """Its tables."""
        return sheets.sheets(self.records.config, self.rows, bool(self.caveats))

    @functools.cached_property
    def summary(self) -> dict[str, Any]:
        """Its summary.json."""
        config = self.records.config
        return verdicts.summary(
            self.rows, self.caveats, config["policies"], config.get("numbers", {})
        )

    @functools.cached_property
    def saved(self) -> dict[str, list[Saving]]:
        """What frozen layers saved, for each policy that freezes some."""
        groups = compare.by_policy(self.runs)
        found = {
            row.policy: savings.savings(groups[row.policy], groups[row.control])
            for row in self.rows
            if row.policy in groups and row.control in groups
        }
        return {policy: rows for policy, rows in found.items() if rows}

    @functools.cached_property
    def pages(self) -> panels.Pages:
        """Its figures."""
        names = self.records.config["layers"]["names"]
        return panels.pages(self.runs, self.rows, names, self.saved)


def build(records: Records, out: Path | None = None) -> Path:
    """Writes summary.json, tables, plots/ and report.html.

    Args:
        records: of a study.
        out: the folder to write into; None for that of the study.

    Returns:
        The path of report.html.
    """
    folder, study = out or records.folder, Study(records)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "summary.json", study.summary)
    (folder / "plots").mkdir(exist_ok=True)
    for name, drawn in study.pages.items():
        page = figures.figure(*drawn.values())
        page.savefig(folder / "plots" / f"{name}.png", dpi=DPI, facecolor="white")
        page.set_layout_engine("none")  # as it was laid out for the first of both
        picture = figures.svg(page, name, name).replace("currentColor", figures.INK)
        write_text(folder / "plots" / f"{name}.svg", picture)
    title = f"{study.name}: layer learning rates"
    write_text(
        folder / "report.md", exports.markdown(title, study.caveats, study.sheets)
    )
    write_text(folder / "tables.csv", exports.table({study.name: study.summary}))
    write_text(folder / "report.html", _html(title, [study], []))
    return folder / "report.html"


def join(several: Sequence[Records], folder: Path) -> Path:
    """Writes joined.html, joined.md and joined.csv: several studies side by side.

    Args:
        several: at least two, each with a name of its own.
        folder: where to write.

    Returns:
        The path of joined.html.

    Raises:
        ValueError: two studies share a name.
    """
    studies = {(study := Study(records)).name: study for records in several}
    if len(studies) < len(several):
        names = ", ".join(records.config["name"] for records in several)
        raise ValueError(
            f"expected studies with different names, got {names}; `study --name` "
            "gives them"
        )
    title = f"{', '.join(studies)}: layer learning rates"
    tables = sheets.joined({name: study.sheets for name, study in studies.items()})
    reasons = [f"{name}: {why}" for name, s in studies.items() for why in s.caveats]
    summaries = {name: study.summary for name, study in studies.items()}
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "joined.md", exports.markdown(title, reasons, tables))
    write_text(folder / "joined.csv", exports.table(summaries))
    write_text(folder / "joined.html", _html(title, [*studies.values()], tables))
    return folder / "joined.html"


def outcomes(study: Study) -> rich.table.Table:
    """What was expected of each policy, and what came, for the terminal."""
    first, *_ = study.sheets
    return table.listed(first.headings, first.lines)


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


def _html(title: str, studies: Sequence[Study], tables: Sequence[Sheet]) -> str:
    """The page: the joined tables if there are any, then study by study."""
    drawn = [figure for study in studies for figure in _study(study, len(studies) > 1)]
    body = [
        f"<h1>{escape(title)}</h1>{QUESTION}",
        _choice(studies),
        results.section(tables),
        *drawn,
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title>"
        f"<style>\n{CSS.read_text(encoding='utf-8')}</style></head>"
        "<body>\n" + "\n".join(body) + "\n"
        f"<script>\n{SCRIPT.read_text(encoding='utf-8')}</script></body></html>\n"
    )


def _study(study: Study, among_others: bool) -> list[str]:
    outcome, *tables = study.sheets
    prefix = f"{study.name}-" if among_others else ""
    return [
        f"<h1>{escape(study.name)}</h1>" if among_others else "",
        _head(study),
        results.section([outcome]),
        f"<h2>What is compared</h2>{COMPARED}<p>{escape(study.summary['tuning'])}</p>",
        results.section(tables),
        _differences_section(study.pages, prefix),
        _curves_section(study.pages, prefix),
        _policies_section(study, prefix),
        _method(study.records),
    ]


def _choice(studies: Sequence[Study]) -> str:
    """A box to tick for each policy; useless, hence hidden, without the script."""
    names = dict.fromkeys(row.policy for study in studies for row in study.rows)
    boxes = "".join(
        f'<label><input type="checkbox" checked value="{escape(name)}"> '
        f"{escape(name)}</label>"
        for name in names
    )
    return (
        '<fieldset id="policies" hidden><legend>Policies shown</legend>'
        f"{boxes}</fieldset>"
    )


def _head(study: Study) -> str:
    config, environment = study.records.config, study.records.environment
    line = (
        f"{config['model']} on {DATA.get(config['source'], config['source'])}, "
        f"{len(config['policies'])} policies × {config['seeds']} seeds, "
        f"{config['total_steps']:,} steps a run; started {environment['started']}"
    )
    text = f'<p class="soft">{escape(line)}</p>'
    if study.caveats:
        text += (
            '<p class="warn"><strong>A demonstration, not evidence:</strong> '
            f"{escape('; '.join(study.caveats))}.</p>"
        )
    return text


def _differences_section(pages: panels.Pages, prefix: str) -> str:
    if "differences" not in pages:
        return ""
    return (
        "<h2>Differences, pair by pair</h2><p>Each policy by its control: a ring for "
        "each seed, a diamond for their mean, a bar for its 95 % t interval (from "
        "three pairs on, not corrected for the number of policies).</p>"
        + _figures(f"{prefix}differences", pages["differences"])
    )


def _curves_section(pages: panels.Pages, prefix: str) -> str:
    if not pages:
        return "<h2>Loss and accuracy</h2><p>No run came far enough to be drawn.</p>"
    return (
        "<h2>Loss and accuracy</h2><p>Lines are means over the seeds, bands reach from "
        "the lowest to the highest seed; a cross marks where a seed ended early. "
        "Seconds are those of training, means over the seeds. To a mark: a hollow sign "
        "with an arrow is a time that half of the runs had not come there by; ∞ where "
        f"they never can. At most {figures.POINTS} points of a curve are drawn.</p>"
        + _figures(f"{prefix}curves", pages["curves"])
    )


def _policies_section(study: Study, prefix: str) -> str:
    config = study.records.config
    groups = compare.by_policy(run for run in study.runs if run.train)
    sections = ""
    for row in study.rows:
        about, policy = config["policies"][row.policy], escape(row.policy)
        sections += (
            f'<section class="policy" data-policy="{policy}"><h3>{policy}</h3>'
            f"<p>{escape(about['summary'])} "
            f'<span class="soft">Source: {escape(about["source"])}.</span></p>'
            f"<p><strong>Expected:</strong> {escape(about['expectation'])}</p>"
        )
        if row.policy in study.pages:
            run = panels.furthest(groups[row.policy])
            used = panels.series(run.train, "multipliers")
            seen = results.unbroken(describe(row, used, config["layers"]["names"]))
            sections += f"<p><strong>Seen:</strong> {seen}</p>"
            if row.policy in study.saved:
                sections += results.savings_table(study.saved[row.policy])
            sections += _figures(prefix + row.policy, study.pages[row.policy])
        sections += "</section>\n"
    return (
        "<h2>What each policy did to the layers</h2><p>Layers stand in forward order, "
        "the one nearest the input on top. Colours of multipliers mean the same in "
        "every map: white is the global rate unchanged.</p>"
        + (MEASURED if any(run.layers for run in study.runs) else "")
        + sections
    )


def _figures(name: str, drawn: Mapping[str, Panel]) -> str:
    pictures = "".join(
        f"<figure>{figures.svg(figures.figure(draw), f'{name}-{i}', text)}</figure>"
        for i, (text, draw) in enumerate(drawn.items())
    )
    return f'<div class="figures">{pictures}</div>'


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
