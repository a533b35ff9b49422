"""report.html, summary.json and the tables in files, from the records alone."""

import dataclasses
import functools
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rich.console

from ..analysis import across, compare, savings, verdicts
from ..analysis.across import Axis, Line
from ..analysis.compare import Row, Run
from ..analysis.questions import questions
from ..analysis.savings import Saving
from ..config.measures import Measure, measure_of
from ..records.records import Records, write_json, write_text
from ..terminal.display import legible
from . import charts, tables, writers
from .charts import Pen
from .figures import Charts, Figures, figures, furthest, series
from .figures import across as figures_across
from .tables import Table

DATA = {
    "sample": "the bundled sample of CIFAR-10",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "stdlib": "the source of Python's standard library",
    "tiny_shakespeare": "Tiny Shakespeare",
}
IDLE = 0.25
"""Load of each core, at most, for a machine that did nothing else."""


@dataclasses.dataclass(frozen=True)
class Study:
    """What a report tells of one study."""

    recorded: Records

    @functools.cached_property
    def records(self) -> Records:
        """What was recorded, in letters that a page and a picture can show."""
        return dataclasses.replace(
            self.recorded,
            config=_legible(self.recorded.config),
            sessions=_legible(self.recorded.sessions),
            events=_legible(self.recorded.events),
        )

    @property
    def name(self) -> str:
        """Its name."""
        return self.records.config["name"]

    @property
    def measure(self) -> Measure:
        """What its runs are judged by."""
        return measure_of(self.records.config["data"])

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
        thresholds = config["thresholds"] if self.measure.larger else ()
        return compare.rows(self.runs, thresholds, controls, self.measure)

    @functools.cached_property
    def caveats(self) -> list[str]:
        """Why it is a demonstration; empty if it may be evidence."""
        config = self.records.config
        planned = len(config["policies"]) * len(config["seeds"])
        sessions = self.records.sessions
        found = verdicts.caveats(self.rows, config["data"], planned, sessions)
        return [*found, *self.records.lost]

    @functools.cached_property
    def tables(self) -> list[Table]:
        """Its tables."""
        return tables.tables(self.records.config, self.rows, bool(self.caveats))

    @functools.cached_property
    def summary(self) -> dict[str, Any]:
        """Its summary.json."""
        config = self.records.config
        return verdicts.summary(
            self.rows,
            self.caveats,
            config["policies"],
            config.get("numbers", {}),
            self.measure,
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

    def figures(self, pens: Mapping[str, Pen], *, legend: bool) -> Figures:
        """Its figures.

        Args:
            pens: by policy.
            legend: whether curves say which line is whose.
        """
        return figures(
            self.runs,
            self.rows,
            self.records.config["layers"]["names"],
            self.saved,
            pens,
            self.measure,
            seconds=self.undisturbed,
            legend=legend,
        )

    @property
    def undisturbed(self) -> bool:
        """Whether the machine did nothing else, so that seconds can be compared."""
        return all(
            session.get("load", np.inf) <= IDLE * (session.get("cpu_count") or 1)
            for session in self.records.sessions
        )

    @property
    def about(self) -> str:
        """What was compared, in a line."""
        config = self.records.config
        policies, seeds = len(config["policies"]), len(config["seeds"])
        return (
            f"{policies} policies × {seeds} seed{'s' * (seeds != 1)} of "
            f"{config['model']} on {DATA.get(config['data'], config['data'])}, "
            f"{config['total_steps']:,} steps a run"
        )

    @property
    def intervals(self) -> bool:
        """Whether any difference has one."""
        found = (row.answers[self.measure.name].difference for row in self.rows)
        return any(difference and difference.interval for difference in found)

    @property
    def shown(self) -> Table:
        """The results but for what nothing can be said of."""
        empty = {"95 % interval", "p (Holm)"} if not self.intervals else set[str]()
        disturbed = set[str]() if self.undisturbed else {"seconds"}
        whole = self.tables[0]
        return whole.only([n for n in whole.headings if n not in empty | disturbed])

    @property
    def result(self) -> str:
        """What came out."""
        return verdicts.result(self.rows, bool(self.caveats), self.measure)

    def seen(self, row: Row) -> str:
        """What one policy did to the layers, in sentences."""
        run = furthest([r for r in self.runs if r.train and r.policy == row.policy])
        used = series(run.train, "multipliers")
        return describe(used, self.records.config["layers"]["names"])

    @property
    def asked(self) -> dict[str, Any]:
        """Its configuration, but for what the page shows elsewhere."""
        config, shown = self.records.config, ("layers", "policies", "total_steps")
        asked = {key: value for key, value in config.items() if key not in shown}
        return asked | {"policies": list(config["policies"])}

    @property
    def sessions(self) -> list[dict[str, Any]]:
        """The processes that worked on it."""
        versions = [session["versions"] for session in self.records.sessions]
        hidden = ("command", "versions")
        return [
            {key: value for key, value in session.items() if key not in hidden} | of
            for session, of in zip(self.records.sessions, versions, strict=True)
        ]

    @property
    def again(self) -> str:
        """The commands that run it again."""
        environment = self.records.environment
        command = shlex.join(environment["command"])
        if not (commit := environment["commit"]):
            return command
        dirty = (
            "   # and there were uncommitted changes" if environment["dirty"] else ""
        )
        return f"git checkout {commit}{dirty}\n{command}"


@dataclasses.dataclass(frozen=True)
class Joined:
    """What a page tells of several studies together.

    Attributes:
        studies: by name.
    """

    studies: Mapping[str, Study]

    @property
    def measure(self) -> Measure:
        """What the runs of the first of them are judged by."""
        return next(iter(self.studies.values())).measure

    @functools.cached_property
    def axis(self) -> Axis:
        """What they differ in."""
        return across.axis([s.records.config for s in self.studies.values()])

    @functools.cached_property
    def lines(self) -> dict[str, list[Line]]:
        """By question, the policies that two of them or more have.

        None where some are of images and some of text: nothing lies between them.
        """
        rows, measure = {n: s.rows for n, s in self.studies.items()}, self.measure
        if any(study.measure != measure for study in self.studies.values()):
            return {name: [] for name in questions(measure)}
        return {
            name: across.lines(rows, self.axis, name, measure)
            for name in questions(measure)
        }

    @functools.cached_property
    def caveats(self) -> list[str]:
        """Why some of them are demonstrations, and so is what lies between them."""
        return [
            f"{name}: {why}" for name, s in self.studies.items() for why in s.caveats
        ]

    @property
    def result(self) -> str:
        """How differences change from the first study to the last."""
        found, demonstration = self.lines, bool(self.caveats)
        return across.result(found, self.axis, demonstration, self.measure)

    @functools.cached_property
    def tables(self) -> list[Table]:
        """What lies between them, for each question, if anything does."""
        found = [
            tables.across(lines, self.axis, name, bool(self.caveats), self.measure)
            for name, lines in self.lines.items()
        ]
        return [table for table in found if table.lines]

    @functools.cached_property
    def together(self) -> list[Table]:
        """Their own tables as one."""
        return tables.joined({name: s.tables for name, s in self.studies.items()})

    @property
    def summary(self) -> dict[str, Any]:
        """Its joined.json."""
        return across.summary(self.lines, self.axis, self.caveats, self.measure)

    def figures(self, pens: Mapping[str, Pen], *, legend: bool) -> Charts:
        """Its figures, as those of a study."""
        lines, measure = self.lines[self.measure.name], self.measure
        return figures_across(lines, self.axis, pens, measure, legend=legend)


def build(records: Records, out: Path | None = None, figures: str = "none") -> Path:
    """Writes summary.json, the tables and report.html, and single figures if asked.

    Args:
        records: of one study.
        out: where to write; by default into the folder of the study. Made if missing.
        figures: "pdf", "png" or "svg" for a file of each figure in figures/, or "none".

    Returns:
        The path of report.html.
    """
    folder, study = out or records.folder, Study(records)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "summary.json", study.summary)
    title = f"{study.name}: per-layer learning rates"
    text = writers.markdown(title, study.caveats, study.tables)
    write_text(folder / "report.md", text)
    write_text(folder / "tables.csv", writers.numbers({study.name: study.summary}))
    write_text(folder / "report.html", _html(title, [study]))
    if figures != "none":
        drawn = study.figures(_pens([study]), legend=True)
        _save(drawn.files(), folder / "figures", figures)
    return folder / "report.html"


def join(several: Sequence[Records], folder: Path, figures: str = "none") -> Path:
    """Writes joined.html, .md, .csv and .json: several studies side by side.

    Args:
        several: at least two, each with a name of its own.
        folder: where to write.
        figures: as of `build`.

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
    title = f"{', '.join(studies)}: per-layer learning rates"
    joined = Joined(studies)
    told = [*joined.tables, *joined.together]
    summaries = {name: study.summary for name, study in studies.items()}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "joined.json", joined.summary)
    write_text(folder / "joined.md", writers.markdown(title, joined.caveats, told))
    write_text(folder / "joined.csv", writers.numbers(summaries))
    write_text(folder / "joined.html", _html(title, [*studies.values()], joined))
    if figures != "none":
        drawn = joined.figures(_pens([*studies.values()]), legend=True)
        files = {f"joined-{name}": chart for name, chart in drawn.items()}
        _save(files, folder / "figures", figures)
    return folder / "joined.html"


def show(study: Study, page: Path, console: rich.console.Console) -> None:
    """Says how good each policy was, and where to read on.

    Args:
        study: one that came to its end, or a part of it.
        page: the path of its report.
        console: to print on.
    """
    table = tables.short(study.rows, study.measure)
    console.print(writers.terminal(table))
    for note in table.notes:
        console.print(legible(note), soft_wrap=True)
    if study.caveats:
        reasons = "; ".join(study.caveats)
        console.print(f"A demonstration, not evidence: {reasons}.", soft_wrap=True)
    console.print(f"Read on: {page}", soft_wrap=True)


def describe(multipliers: np.ndarray, names: Sequence[str]) -> str:
    """What one policy did to the layers, in sentences.

    Args:
        multipliers: (S, L) recorded ones, in the order of time.
        names: the L layers.
    """
    ends = dict.fromkeys((0, len(names) - 1))
    paths = [f"{names[i]} {_path(multipliers[:, i])}" for i in ends]
    frozen = int((multipliers == 0).any(axis=0).sum())
    text = "Multipliers: " + ", ".join(paths) + "."
    if frozen:
        text += f" Frozen for a part of the run: {frozen} of {len(names)} layers."
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


def _html(title: str, studies: Sequence[Study], joined: Joined | None = None) -> str:
    """The page: what lies between the studies if there are several, then each."""
    return writers.html(
        title=title,
        studies=studies,
        joined=joined,
        pens=_pens(studies),
        shades=charts.SHADES,
        savings=tables.savings,
    )


def _save(drawn: Charts, folder: Path, kind: str) -> None:
    """Writes a file for each figure."""
    folder.mkdir(exist_ok=True)
    for name, chart in drawn.items():
        plain = re.sub(r"[^\w.-]+", "-", name)
        charts.save(chart, folder / f"{plain}.{kind}")


def _pens(studies: Sequence[Study]) -> dict[str, Pen]:
    """For each policy the same in all studies."""
    rows = [row for study in studies for row in study.rows]
    return charts.pens_for(dict.fromkeys(row.policy for row in rows))


def _legible(value: Any) -> Any:
    """The same, with all of its text legible."""
    match value:
        case str():
            return legible(value)
        case Mapping():
            return {_legible(key): _legible(item) for key, item in value.items()}
        case list() | tuple():
            return type(value)(map(_legible, value))
        case _:
            return value
