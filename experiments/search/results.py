"""What a search found: a table, plots, and a configuration that `study` takes."""

import dataclasses
from collections.abc import Mapping, Sequence

import filelock
import rich.console
from optuna.trial import FrozenTrial, TrialState

from ..config.measures import Measure
from ..records import records
from ..report import writers
from ..report.tables import Table
from . import figures as tune_figures
from .search import Search
from .trials import PolicySearch

NOTE = (
    "Trials: those that finished; a pruned one is shorter, so that steps differ. Own "
    "and best: validation {} at the end, with the policy's own numbers and with those "
    "found."
)
GRID_NOTE = "Validation {} at the end, in {}, at each global rate."


def show(
    search: Search, searches: Sequence[PolicySearch], console: rich.console.Console
) -> None:
    """Prints the table; writes the configuration, the trials and the plots.

    Args:
        search: one that is done.
        searches: its policies.
        console: to print on.
    """
    # Workers come to the end together; who writes last has to have looked last.
    with filelock.FileLock(search.folder / ".lock"):
        counted = {policy.name: policy.counted() for policy in searches}
        table = _grid(search, counted) if search.rates else _found(search, counted)
        console.print(writers.terminal(table))
        console.print(*table.notes)
        path = _write_best(search, counted)
        _write_trials(search, counted)
        for policy in searches:
            for line in tune_figures.write(
                policy.study, search.folder / "plots", search.config.measure
            ):
                console.print(f"{policy.name}: {line}", soft_wrap=True)
    data = search.config.measure.examples
    console.print(
        f"\nThe best of {search.each} trials, found by the {data} that judge it, is "
        f"optimistic. Fresh seeds and the test {data} decide:"
    )
    console.print(f"python -m experiments study {path}", soft_wrap=True)


def best(trials: Sequence[FrozenTrial], measure: Measure) -> FrozenTrial:
    """Of the trials that came to an end; of equals the first."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    choose = max if measure.larger else min
    return choose(complete, key=lambda trial: trial.values[0])


def _found(search: Search, counted: Mapping[str, Sequence[FrozenTrial]]) -> Table:
    measure = search.config.measure
    values = (f"own, {measure.unit}", f"best, {measure.unit}")
    headings = ("policy", "trials", "steps", *values, "best numbers")
    lines = tuple(_line(name, trials, measure) for name, trials in counted.items())
    return Table("", headings, lines, (NOTE.format(measure.name),))


def _grid(search: Search, counted: Mapping[str, Sequence[FrozenTrial]]) -> Table:
    headings = ("policy", *(f"{rate:g}" for rate in sorted(search.rates)), "best rate")
    measure = search.config.measure
    lines = tuple(
        (
            policy,
            *(_value(trial, measure) for trial in trials),
            f"{best(trials, measure).params['rate']:g}",
        )
        for policy, trials in counted.items()
    )
    note = GRID_NOTE.format(measure.name, measure.unit)
    return Table("", headings, lines, (note,))


def _line(
    policy: str, trials: Sequence[FrozenTrial], measure: Measure
) -> tuple[str, ...]:
    found = best(trials, measure)
    return (
        policy,
        _counts(trials),
        f"{sum(trial.user_attrs['steps'] for trial in trials):,}",
        _value(trials[0], measure),
        _value(found, measure),
        "\n".join(f"{name} {value:.3g}" for name, value in found.params.items()),
    )


def _counts(trials: Sequence[FrozenTrial]) -> str:
    """How many trials, and how many of them were cut short and why."""
    statuses = [trial.user_attrs["status"] for trial in trials]
    cut = {status: statuses.count(status) for status in ("pruned", "diverged")}
    said = [f"{n} {status}" for status, n in cut.items() if n]
    return "\n".join([str(len(trials)), *said])


def _value(trial: FrozenTrial, measure: Measure) -> str:
    diverged = trial.user_attrs["status"] == "diverged"
    return "diverged" if diverged else measure.shown(trial.values[0])


def _write_trials(search: Search, counted: Mapping[str, Sequence[FrozenTrial]]) -> None:
    """Writes what every trial that is compared came to."""
    measure = search.config.measure.name
    found = {
        policy: [
            {**trial.params, measure: trial.value, **trial.user_attrs}
            for trial in trials
        ]
        for policy, trials in counted.items()
    }
    records.write_json(search.folder / "trials.json", found)


def _write_best(search: Search, counted: Mapping[str, Sequence[FrozenTrial]]) -> str:
    """Writes a configuration with the best numbers; returns where."""
    numbers = {
        f"{policy}.{name}": value
        for policy, trials in counted.items()
        for name, value in best(trials, search.config.measure).params.items()
    }
    config = dataclasses.replace(
        search.config,
        name=search.name,
        numbers=search.config.numbers | numbers,
    )
    path = search.folder / "best.json"
    # From a command line, on which what is one's own goes by a name too.
    records.write_json(path, vars(config))
    return str(path)
