"""What a search found: a table, plots, and a configuration that `study` takes."""

import dataclasses
from collections.abc import Mapping, Sequence

import filelock
import rich.console
from optuna.trial import FrozenTrial, TrialState

from ..records import records
from ..report import writers
from ..report.tables import Table
from . import figures as tune_figures
from .search import Search
from .trials import PolicySearch

HEADINGS = ("policy", "trials", "steps", "own, %", "best, %", "best numbers")
NOTE = (
    "Trials: those that finished; a pruned one is shorter, so that steps differ. Own "
    "and best: validation accuracy at the end, with the policy's own numbers and with "
    "those found."
)

GRID_NOTE = "Validation accuracy at the end, in %, at each global rate."


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
        table = _grid(search, counted) if search.rates else _found(counted)
        console.print(writers.terminal(table))
        console.print(*table.notes)
        path = _write_best(search, counted)
        _write_trials(search, counted)
        for policy in searches:
            for line in tune_figures.write(policy.study, search.folder / "plots"):
                console.print(f"{policy.name}: {line}", soft_wrap=True)
    console.print(
        f"\nThe best of {search.each} trials, found by the images that judge it, is "
        "optimistic. Fresh seeds and the test images decide:"
    )
    console.print(f"python -m experiments study {path}", soft_wrap=True)


def best(trials: Sequence[FrozenTrial]) -> FrozenTrial:
    """Of the trials that came to an end; of equals the first."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    return max(complete, key=lambda trial: trial.value or 0.0)


def _found(counted: Mapping[str, Sequence[FrozenTrial]]) -> Table:
    lines = tuple(_line(policy, trials) for policy, trials in counted.items())
    return Table("", HEADINGS, lines, (NOTE,))


def _grid(search: Search, counted: Mapping[str, Sequence[FrozenTrial]]) -> Table:
    headings = ("policy", *(f"{rate:g}" for rate in sorted(search.rates)), "best rate")
    lines = tuple(
        (policy, *map(_accuracy, trials), f"{best(trials).params['rate']:g}")
        for policy, trials in counted.items()
    )
    return Table("", headings, lines, (GRID_NOTE,))


def _line(policy: str, trials: Sequence[FrozenTrial]) -> tuple[str, ...]:
    found = best(trials)
    return (
        policy,
        _counts(trials),
        f"{sum(trial.user_attrs['steps'] for trial in trials):,}",
        _accuracy(trials[0]),
        _accuracy(found),
        "\n".join(f"{name} {value:.3g}" for name, value in found.params.items()),
    )


def _counts(trials: Sequence[FrozenTrial]) -> str:
    """How many trials, and how many of them were cut short and why."""
    statuses = [trial.user_attrs["status"] for trial in trials]
    cut = {status: statuses.count(status) for status in ("pruned", "diverged")}
    said = [f"{n} {status}" for status, n in cut.items() if n]
    return "\n".join([str(len(trials)), *said])


def _accuracy(trial: FrozenTrial) -> str:
    diverged = trial.user_attrs["status"] == "diverged"
    return "diverged" if diverged else f"{100 * (trial.value or 0.0):.1f}"


def _write_trials(search: Search, counted: Mapping[str, Sequence[FrozenTrial]]) -> None:
    """Writes what every trial that is compared came to."""
    found = {
        policy: [
            {**trial.params, "accuracy": trial.value, **trial.user_attrs}
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
        for name, value in best(trials).params.items()
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
