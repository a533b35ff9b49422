"""What a report tells, read off the records: of one study, and of several together."""

import dataclasses
import functools
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..analysis import across, compare, savings, verdicts
from ..analysis.across import Axis, Line
from ..analysis.compare import Row, Run
from ..analysis.questions import questions
from ..analysis.savings import Saving
from ..config.measures import Measure, measure_of
from ..records.records import Records
from ..terminal.display import legible
from . import tables
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
