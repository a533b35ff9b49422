"""A study: policies × seeds, recorded while they run, with a report at the end."""

import contextlib
import dataclasses
import functools
import itertools
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import rich.console

import optax_llr

from . import folders, records, report, shell, table
from .config import Config
from .data import Dataset
from .environment import environment
from .journal import Journal
from .policies import POLICIES, Policy
from .progress import Progress
from .train import Trainer


class AnyTrainer(Protocol):
    """What a study asks of `train.Trainer`."""

    layers: optax_llr.Layers

    def like(self, policy: Policy) -> Any:
        """The shapes of the state of a run."""
        ...

    def run(self, policy: Policy, seed: int, journal: Any) -> records.Event:
        """Trains once; writes every event, and returns the last, of kind "end"."""
        ...


def run(
    config: Config,
    dataset: Dataset,
    command: Sequence[str],
    make_trainer: Callable[[Config, Dataset], AnyTrainer] = Trainer,
) -> int:
    """Runs a study, or goes on with it, and prints its table.

    What was begun goes on from its last checkpoint. A signal ends it early, with a
    checkpoint; before the first step it leaves no folder, and is raised.

    Args:
        config: a valid one.
        dataset: the one it names.
        command: the command line as the user typed it.
        make_trainer: makes what trains.

    Returns:
        An exit status: 0; 130 after SIGINT (Ctrl-C); 143 after SIGTERM.

    Raises:
        DataError: the data set is not the one that the configuration names.
        ValueError: the folder holds another study, or another process is at work there.
        OSError: the folder cannot be made or written.
    """
    console = rich.console.Console(highlight=False, markup=False)
    say = functools.partial(console.print, soft_wrap=True)
    folder = config.out / config.name
    with folders.claimed(folder):  # before anything compiles: a bad place is known now
        asked = _asked(config)
        folders.check_begun(folder, asked)
        try:
            if _is_done(folder, config):
                say(f"All {_number(config)} runs were done before.")
            else:
                trainer = make_trainer(config, dataset)
                shell.check()
                session = environment(command, dataset.checksum)
                asked["layers"] = _layers(trainer.layers)
                folders.begin(folder, asked)
                for difference in folders.add_session(folder, session):
                    say(difference)
                say(_greeting(config, trainer.layers, folder))
                _train(config, trainer, folder, asked, session, say)
            _end(folder, console)
        except shell.Stop as stop:
            if not (folder / "config.json").exists():
                raise
            say(
                f"Stopped by {stop}; the same command goes on from here.\n"
                f"Records in {folder}; `python -m experiments report {folder}` makes "
                "the report of what there is"
            )
            return stop.status
    return 0


def _asked(config: Config) -> dict[str, Any]:
    """config.json, but for the layers, which are not known yet."""
    policies = {
        name: {
            "summary": POLICIES[name].summary,
            "expectation": POLICIES[name].expectation,
            "source": POLICIES[name].source,
            "control": POLICIES[name].control,
        }
        for name in config.policies
    }
    return dataclasses.asdict(config) | {
        "policies": policies,
        "total_steps": config.total_steps,
    }


def _number(config: Config) -> int:
    return len(config.policies) * config.seeds


def _is_done(folder: Path, config: Config) -> bool:
    return all(
        records.has_ended(records.run_folder(folder, policy, seed))
        for policy in config.policies
        for seed in range(config.seeds)
    )


def _layers(layers: optax_llr.Layers) -> dict[str, Any]:
    return {
        "names": layers.names,
        "level": layers.level,
        "members": layers.members,
    }


def _train(
    config: Config,
    trainer: AnyTrainer,
    folder: Path,
    asked: Mapping[str, Any],
    session: Mapping[str, Any],
    say: Callable[[str], None],
) -> None:
    """Every run that has not come to its end before."""
    # Seeds outside, policies inside: a study cut short has whole pairs to compare.
    runs = list(itertools.product(range(config.seeds), config.policies))
    for number, (seed, policy) in enumerate(runs, start=1):
        name = f"{number}/{len(runs)} {policy}, seed {seed}"

        def say_of_it(line: str, name: str = name) -> None:
            say(f"{name}: {line}")

        place = records.run_folder(folder, policy, seed)
        if records.has_ended(place):
            say_of_it("done before")
        else:
            folders.begin(place, {**asked, "policy": policy, "seed": seed})
            with Journal(
                place,
                trainer.like(POLICIES[policy]),
                config.checkpoint_seconds,
                say_of_it,
            ) as journal:
                folders.add_session(place, {**session, "from_step": journal.step})
                end = _train_once(config, trainer, policy, seed, journal, name)
            say_of_it(_outcome(end))
        shutil.rmtree(place / "checkpoints", ignore_errors=True)  # no more needed


def _train_once(
    config: Config,
    trainer: AnyTrainer,
    policy: str,
    seed: int,
    journal: Journal[Any],
    name: str,
) -> records.Event:
    """One run, shown while it is under way; returns its last event."""
    with contextlib.ExitStack() as stack:
        progress = Progress(name, journal.step, config.total_steps)
        journal.watchers.append(stack.enter_context(progress).show)
        if config.tensorboard:
            from .tensorboard import TensorBoard  # slow to import

            board = TensorBoard(journal.folder, journal.step, trainer.layers.names)
            journal.watchers.append(stack.enter_context(board).write)
        stack.enter_context(shell.patience())
        return trainer.run(POLICIES[policy], seed, journal)


def _end(folder: Path, console: rich.console.Console) -> None:
    """Summary, plots and report; the table on the terminal."""
    recorded = records.read(folder)
    page = report.build(recorded)
    rows = report.rows(recorded)
    policies = recorded.config["policies"]
    expectations = {name: about["expectation"] for name, about in policies.items()}
    console.print(table.terminal(rows, recorded.config["marks"], expectations))
    for policy, saved in report.saved(recorded).items():
        console.print(table.saved(policy, saved))
    if caveats := report.caveats(recorded):
        console.print(
            f"A demonstration, not evidence: {'; '.join(caveats)}.", soft_wrap=True
        )
    console.print(f"Read on: {page}", soft_wrap=True)


def _greeting(config: Config, layers: optax_llr.Layers, folder: Path) -> str:
    return (
        f"{config.name}: {config.model} with {len(layers)} layers on {config.source}, "
        f"{len(config.policies)} policies × {config.seeds} seeds, "
        f"{config.total_steps:,} steps each\nrecords: {folder}"
    )


def _outcome(end: records.Event) -> str:
    text = f"{end['status']} after {end['step']:,} steps, {end['seconds']:.1f} s"
    if end["test_accuracy"] is not None:
        text += f", test accuracy {100 * end['test_accuracy']:.1f} %"
    return text
