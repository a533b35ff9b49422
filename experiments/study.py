"""A study: policies × seeds, recorded while they run, with a report at the end."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import rich.console
import tqdm

import optax_llr

from . import records, report, shell, table
from .config import Config
from .data import Dataset
from .policies import POLICIES, Policy
from .train import Trainer


class AnyTrainer(Protocol):
    """What a study asks of `train.Trainer`."""

    layers: optax_llr.Layers

    def run(
        self, policy: Policy, seed: int, record: Callable[[records.Event], None]
    ) -> None:
        """Trains once and records every event; the last one, of kind "end", always."""
        ...


class _Progress:
    """One live line for a run; nothing where standard error is no terminal."""

    def __init__(self, name: str, total_steps: int):
        self._bar = tqdm.tqdm(
            desc=name,
            total=total_steps,
            disable=None,
            leave=False,
            dynamic_ncols=True,
            bar_format="{desc} {bar:8} {n_fmt}/{total_fmt}{postfix}, {remaining} left",
        )
        self._shown: dict[str, str] = {}

    def show(self, event: records.Event) -> None:
        """Moves the line to an event."""
        if event["kind"] == "train" and event["loss"] is not None:
            self._shown["loss"] = f"loss {event['loss']:.2f}"
            self._shown["speed"] = f"{event['images'] / event['seconds']:,.0f} images/s"
        elif event["kind"] == "validation" and event["accuracy"] is not None:
            self._shown["accuracy"] = f"val {100 * event['accuracy']:.1f} %"
        self._bar.set_postfix_str(", ".join(self._shown.values()), refresh=False)
        self._bar.update(event["step"] - self._bar.n)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()


def run(
    config: Config,
    dataset: Dataset,
    command: Sequence[str],
    make_trainer: Callable[[Config, Dataset], AnyTrainer] = Trainer,
) -> int:
    """Runs a study, leaves its folder and prints its table.

    Ctrl-C ends it early and leaves a folder with what there is; before the first step
    it leaves none, and is raised again.

    Args:
        config: a valid one.
        dataset: the one it names.
        command: the command line as the user typed it.
        make_trainer: makes what trains.

    Returns:
        An exit status: 0, or 130 after Ctrl-C.

    Raises:
        DataError: the data set is not the one that the configuration names.
        OSError: the folder cannot be made or written.
    """
    console = rich.console.Console(highlight=False, markup=False)
    where = records.environment(command, dataset.checksum)
    # Before anything compiles, so that a bad place is known at once.
    folder = records.create(records.new_folder(config.out, config.name))
    try:
        trainer = make_trainer(config, dataset)
        shell.check_interrupt()
    except BaseException:
        folder.rmdir()  # there is nothing in it yet
        raise
    try:
        _begin(folder, config, trainer.layers, where)
        console.print(_greeting(config, trainer.layers, folder), soft_wrap=True)
        status = _train(config, trainer, folder, console)
        _end(folder, console)
    except KeyboardInterrupt:
        console.print(
            f"Interrupted; records in {folder}\n"
            f"`python -m experiments report {folder}` makes the report",
            soft_wrap=True,
        )
        return shell.INTERRUPTED
    return status


def _begin(
    folder: Path,
    config: Config,
    layers: optax_llr.Layers,
    where: Mapping[str, Any],
) -> None:
    """Writes down everything that is known before the first step."""
    described = {
        name: {
            "summary": POLICIES[name].summary,
            "expectation": POLICIES[name].expectation,
            "source": POLICIES[name].source,
        }
        for name in config.policies
    }
    asked = dataclasses.asdict(config) | {
        "policies": described,
        "layers": {
            "names": layers.names,
            "level": layers.level,
            "members": layers.members,
        },
        "total_steps": config.total_steps,
    }
    records.write_json(folder / "env.json", where)
    records.write_json(folder / "config.json", asked)


def _train(
    config: Config, trainer: AnyTrainer, folder: Path, console: rich.console.Console
) -> int:
    """Every run, recorded; returns 0, or 130 if Ctrl-C ended them early."""
    # Seeds outside, policies inside: a study cut short has whole pairs to compare.
    pairs = list(itertools.product(range(config.seeds), config.policies))
    try:
        with records.Log(folder) as log:
            for number, (seed, policy) in enumerate(pairs, start=1):
                name = f"{number}/{len(pairs)} {policy}, seed {seed}"
                with _Progress(name, config.total_steps) as progress:
                    last = _train_once(trainer, POLICIES[policy], seed, log, progress)
                console.print(f"{name}: {_outcome(last)}", soft_wrap=True)
    except KeyboardInterrupt:
        console.print("Interrupted; this is what there is:")
        return shell.INTERRUPTED
    return 0


def _train_once(
    trainer: AnyTrainer,
    policy: Policy,
    seed: int,
    log: records.Log,
    progress: _Progress,
) -> records.Event:
    """One run; returns its last event, which is its end."""
    last: records.Event = {}

    def record(event: records.Event) -> None:
        nonlocal last
        last = event
        log.write(event)
        progress.show(event)
        shell.check_interrupt()

    trainer.run(policy, seed, record)
    return last


def _end(folder: Path, console: rich.console.Console) -> None:
    """Summary, plots and report; the table on the terminal."""
    recorded = records.read(folder)
    page = report.build(recorded)
    rows = report.rows(recorded)
    policies = recorded.config["policies"]
    expectations = {name: about["expectation"] for name, about in policies.items()}
    console.print(table.terminal(rows, recorded.config["marks"], expectations))
    if caveats := report.caveats(recorded):
        console.print(f"A demonstration, not evidence: {'; '.join(caveats)}.")
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
