"""Runs a study: policies × seeds, recorded on the way, with a report at the end."""

import contextlib
import dataclasses
import functools
import itertools
import shutil
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import rich.console

from .asked import asked, keep_files
from .config import own
from .config.config import Config, check_sizes
from .config.measures import Measure
from .config.pretraining import pretrained_run, pretraining
from .data.dataset import Dataset, load
from .policies.chosen import configured, with_controls
from .policies.policy import Policy
from .records import checkpoint, records, run_directory
from .records.environment import environment
from .records.journal import Forgetful, Journal
from .report import report
from .report.contents import Study
from .terminal import display, signals
from .terminal.progress import Progress
from .training import hosts, memory
from .training.compiling import use_compilation_cache
from .training.trainer import Run, Trainer


def study(config: Config, command: Sequence[str]) -> int:
    """Runs a study, in one process or in several that are given the same.

    Args:
        config: what is compared; controls that it lacks join.
        command: the command line as the user typed it.

    Returns:
        An exit status, as `run` and `follow`.

    Raises:
        DataError: the data are missing or damaged.
        ValueError: something does not go together, the folder holds another study, or
            another process is at work there.
        OSError: the folder cannot be made or written.
    """
    if config.distributed:
        hosts.join()
    status, config = pretrained(config, command)
    return status or _study(config, command)


def pretrained(config: Config, command: Sequence[str]) -> tuple[int, Config]:
    """Makes the weights that a study starts from, where it is to make them itself.

    Returns:
        An exit status, as `run`, and the configuration with the folder of that run.

    Raises:
        As `study`.
    """
    if not config.pretrain_epochs or config.init_from is not None:
        return 0, config
    first, status = pretraining(config), 0
    made = pretrained_run(config)
    if records.has_ended(made) and not hosts.are_many():
        run_directory.check_begun(made.parent, asked(first))
    else:
        status = _study(first, command)
    return status, dataclasses.replace(config, init_from=made)


def _study(config: Config, command: Sequence[str]) -> int:
    config, joined = with_controls(config)
    dataset = prepared(config)
    if not hosts.lead():
        return follow(config, dataset)
    say_joined(joined)
    return run(config, dataset, command)


def prepared(config: Config) -> Dataset:
    """The data, after all that can be known to be wrong before anything is compiled.

    Raises:
        DataError: the data are missing or damaged.
        ValueError: something does not go together.
    """
    for value in filter(own.is_own, (*config.own, config.logger)):
        own.resolve(value)
    own.files((*config.own, config.logger))  # which refuses what cannot be kept
    configured(config)
    dataset = load(
        config.data,
        archive=config.archive,
        classes=config.classes,
        shift=config.shift,
        validation=config.validation,
        train_fraction=config.train_fraction,
        images_per_class=config.images_per_class,
        label_noise=config.label_noise,
        context=config.context,
    )
    check_sizes(config)
    signals.check()
    use_compilation_cache()
    memory.keep_freed()
    return dataset


def say_joined(policies: Sequence[str]) -> None:
    """Names the policies that joined because others are compared with them."""
    if policies:
        text = f"joined, to be compared with: {', '.join(policies)}"
        display.console().print(text, soft_wrap=True)


def run(config: Config, dataset: Dataset, command: Sequence[str]) -> int:
    """Runs a study, or goes on with it, and prints its table.

    What was begun goes on from its last checkpoint. A signal ends it early, with a
    checkpoint; before the first step it leaves no folder, and is raised.

    Args:
        config: a valid one.
        dataset: the one it names.
        command: the command line as the user typed it.

    Returns:
        An exit status: 0; 130 after SIGINT (Ctrl-C); 143 after SIGTERM.

    Raises:
        DataError: the data set is not the one that the configuration names.
        ValueError: the folder holds another study, or another process is at work there.
        OSError: the folder cannot be made or written.
    """
    console = display.console()
    say = functools.partial(console.print, soft_wrap=True)
    folder, runs = config.out / config.name, _runs(config)
    # Before anything compiles: a bad place, or another study there, is known now.
    with run_directory.claimed(folder):
        told = asked(config)
        for line in run_directory.check_begun(folder, told):
            say(line)
        run_directory.check_data(folder, dataset.checksum)
        try:
            if all(records.has_ended(_folder(config, run)) for run in runs):
                say(f"All {len(runs)} runs were done before.")
            else:
                trainer = Trainer(config, dataset)
                signals.check()
                for run in runs:
                    trainer.like(run.policy)  # what cannot be made leaves no folder
                session = environment(command, dataset.checksum)
                run_directory.begin(folder, told)
                keep_files(config, folder)
                for difference in run_directory.add_session(folder, session):
                    say(difference)
                say(_about(config, dataset, len(trainer.layers)))
                say(f"records: {folder}")
                if trainer.start:
                    say(trainer.start)
                _train_all(config, trainer, runs, told, session, console)
            if hosts.are_many():
                hosts.tell(None)
            recorded = records.read(folder)
            report.show(Study(recorded), report.build(recorded), console)
        except signals.Stop as stop:
            if not (folder / "config.json").exists():
                raise
            say(
                f"Stopped by {stop}; the same command goes on from here.\n"
                f"Records in {folder}; `python -m experiments report {folder}` makes "
                "the report of what there is"
            )
            return _stopped(stop)
    return 0


def _about(config: Config, dataset: Dataset, layers: int) -> str:
    """What is trained on what, and how much there is of it."""
    return (
        f"{config.name}: {own.label(config.model)} with {layers} layers on "
        f"{own.label(config.data)}, {len(config.policies)} policies × "
        f"{len(config.run_seeds)} seeds, {config.total_steps:,} steps each\n"
        f"{config.measure.examples}: {config.training_images:,} to train on, "
        f"{len(dataset.validation.labels):,} for validation, "
        f"{len(dataset.test.labels):,} to test on"
    )


def follow(config: Config, dataset: Dataset) -> int:
    """Trains what the first process says, until it says no more.

    Returns:
        An exit status: 0; 143 after a signal to any of the processes.

    Raises:
        ValueError: there are not the devices that the configuration asks for.
    """
    trainer, policies = Trainer(config, dataset), configured(config)
    try:
        with signals.patience():
            while (told := hosts.listen()) is not None:
                name, seed, start = told
                policy, journal = policies[name], Forgetful()
                if start is not None:
                    like = trainer.like(policy)
                    journal.start = checkpoint.from_arrays(start[0], like), start[1]
                trainer.run(policy, seed, journal)
    except signals.Stop as stop:
        return _stopped(stop)
    return 0


def _stopped(stop: signals.Stop) -> int:
    if isinstance(stop, hosts.StopTogether):
        hosts.part()
    return stop.status


def _runs(config: Config) -> list[Run]:
    """All runs; seeds outside, so that a study cut short has pairs to compare."""
    pairs = list(itertools.product(config.run_seeds, configured(config).values()))
    return [
        Run(policy, seed, name=f"{n}/{len(pairs)} {policy.name}, seed {seed}")
        for n, (seed, policy) in enumerate(pairs, start=1)
    ]


def _folder(config: Config, run: Run) -> Path:
    return records.run_folder(config.out / config.name, run.policy.name, run.seed)


def _train_all(
    config: Config,
    trainer: Trainer,
    runs: Sequence[Run],
    told: Mapping[str, Any],
    session: Mapping[str, Any],
    console: rich.console.Console,
) -> None:
    """Every run that has not come to its end before."""
    say = functools.partial(console.print, soft_wrap=True)
    left = list[Run]()
    for run in runs:
        if records.has_ended(_folder(config, run)):
            if not console.is_terminal:
                say(f"{run.name}: done before")
            _forget_checkpoints(config, run)
        else:
            left.append(run)
    size = config.stack
    if size == "auto":
        size, speeds = trainer.stack_that_pays(len(left))
        tried = ", ".join(f"{n} at once {speed:.2f}" for n, speed in speeds.items())
        say(f"steps a second of all runs together, by those of one run: {tried}")
    for group in _groups(left, trainer.kind, size):
        with contextlib.ExitStack() as stack:
            for run in group:
                about = {"policy": run.policy.name, "seed": run.seed}
                run_directory.begin(_folder(config, run), {**told, **about})
                run.journal = stack.enter_context(
                    Journal(
                        _folder(config, run),
                        trainer.like(run.policy),
                        config.checkpoint_seconds,
                        lambda line, run=run: say(f"{run.name}: {line}"),
                    )
                )
            # What was interrupted together may still have got to different steps.
            group.sort(key=lambda run: run.journal.step)
            for _, part in itertools.groupby(group, lambda run: run.journal.step):
                _train(config, trainer, list(part), session, console)
        for run in group:
            _forget_checkpoints(config, run)


def _groups(
    runs: list[Run], kind: Callable[[Policy], Hashable], size: int
) -> Iterator[list[Run]]:
    """The runs in order, but those that can be trained at once together."""
    while runs:
        first = kind(runs[0].policy)
        group = [run for run in runs if kind(run.policy) == first][:size]
        runs = [run for run in runs if run not in group]
        yield group


def _train(
    config: Config,
    trainer: Trainer,
    runs: Sequence[Run],
    session: Mapping[str, Any],
    console: rich.console.Console,
) -> None:
    """Runs at once, shown while they are under way."""
    first, step = runs[0], runs[0].journal.step
    hosts.tell_run(first.policy.name, first.seed, first.journal.start)
    group = trainer.begin(runs)
    others = f" and {len(runs) - 1} more" if len(runs) > 1 else ""
    with contextlib.ExitStack() as stack:
        shown = Progress(first.name + others, step, config.total_steps, config.measure)
        progress = stack.enter_context(shown)
        for run in runs:
            about = {**session, "from_step": step, "at_once": len(runs)}
            run_directory.add_session(_folder(config, run), about)
            run.watchers.append(progress.show)
            if config.logger != "none":
                logger = _logger(config.logger)(
                    _folder(config, run), step, trainer.layers.names
                )
                stack.callback(logger.close)
                run.watchers.append(logger.write)
        stack.enter_context(signals.patience())
        ends = trainer.train(group)
    for run, end in zip(runs, ends, strict=True):
        # A terminal has shown the others live.
        if step or end["status"] != "finished" or not console.is_terminal:
            text = f"{run.name}: {_outcome(end, config.measure)}"
            text += f", from step {step:,}" if step else ""
            console.print(text, soft_wrap=True)


def _logger(value: Any) -> Callable[..., Any]:
    """What makes a logger."""
    if value != "tensorboard":
        return own.resolve(value)
    from .records.tensorboard import TensorBoard

    return TensorBoard


def _forget_checkpoints(config: Config, run: Run) -> None:
    folder = _folder(config, run) / "checkpoints"
    shutil.rmtree(folder, ignore_errors=True)  # no more needed


def _outcome(end: records.Event, measure: Measure) -> str:
    text = f"{end['status']} after {end['step']:,} steps, {end['seconds']:.1f} s"
    if (found := end[f"test_{measure.name}"]) is not None:
        text += f", test {measure.said(found)}"
    return text
