"""Runs a study: policies × seeds, recorded on the way, with a report at the end."""

import contextlib
import functools
import itertools
import shutil
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import rich.console

import optax_llr

from .asked import add_what_is_known, asked, keep_files
from .config import own
from .config.config import Config, check_sizes
from .data.dataset import Dataset, load
from .policies.chosen import configured, with_controls
from .policies.policy import Policy
from .records import records, run_directory
from .records.environment import environment
from .records.journal import Journal
from .report import report
from .terminal import display, signals
from .terminal.progress import Progress
from .training import hosts
from .training.compiling import use_compilation_cache
from .training.trainer import Member, Trainer


class AnyTrainer(Protocol):
    """What a study asks of `trainer.Trainer`."""

    layers: optax_llr.Layers

    def like(self, policy: Policy) -> Any:
        """The shapes of the state of a run."""
        ...

    def compile(self, policy: Policy, runs: int = 1) -> None:
        """Compiles what so many runs at once will need."""
        ...

    def kind(self, policy: Policy) -> Hashable:
        """What runs must share to be trained at once."""
        ...

    def stack_that_pays(self, most: int) -> tuple[int, dict[int, float]]:
        """How many runs to train at once, and how fast so many are; found by trial."""
        ...

    def run_together(self, members: Sequence[Member]) -> list[records.Event]:
        """Trains each; writes every event, and returns the last ones, of kind "end"."""
        ...


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
        validation=config.validation,
        train_fraction=config.train_fraction,
        label_noise=config.label_noise,
    )
    check_sizes(config)
    signals.check()
    use_compilation_cache()
    return dataset


def say_joined(policies: Sequence[str]) -> None:
    """Names the policies that joined because others are compared with them."""
    if policies:
        text = f"joined, to be compared with: {', '.join(policies)}"
        display.console().print(text, soft_wrap=True)


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
    console = display.console()
    say = functools.partial(console.print, soft_wrap=True)
    folder = config.out / config.name
    # Before anything compiles: a bad place is known now.
    with run_directory.claimed(folder):
        told = asked(config)
        assumed = run_directory.check_begun(folder, told)
        for line in assumed:
            say(line)
        try:
            if _is_done(folder, config):
                say(f"All {_number(config)} runs were done before.")
            else:
                trainer = make_trainer(config, dataset)
                signals.check()
                for policy in configured(config).values():
                    trainer.like(policy)  # what cannot be made leaves no folder
                session = environment(command, dataset.checksum)
                add_what_is_known(config, trainer.layers, told)
                for line in run_directory.begin(folder, told)[len(assumed) :]:
                    say(line)
                keep_files(config, folder)
                for difference in run_directory.add_session(folder, session):
                    say(difference)
                say(_greeting(config, trainer.layers, folder))
                _train(config, trainer, folder, told, session, say)
            if hosts.are_many():
                hosts.tell(None)
            _end(folder, console)
        except signals.Stop as stop:
            if not (folder / "config.json").exists():
                raise
            say(
                f"Stopped by {stop}; the same command goes on from here.\n"
                f"Records in {folder}; `python -m experiments report {folder}` makes "
                "the report of what there is"
            )
            if isinstance(stop, hosts.StopTogether):
                hosts.part()
            return stop.status
    return 0


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
            while (order := hosts.listen()) is not None:
                policy = policies[order.policy]
                trainer.compile(policy)
                start = hosts.listen_for_start(trainer.like(policy))
                journal = hosts.Following(start, config.record_every)
                trainer.run(policy, order.seed, journal)
    except signals.Stop as stop:
        if isinstance(stop, hosts.StopTogether):
            hosts.part()
        return stop.status
    return 0


def _number(config: Config) -> int:
    return len(config.policies) * len(config.run_seeds)


def _is_done(folder: Path, config: Config) -> bool:
    return all(
        records.has_ended(records.run_folder(folder, policy, seed))
        for policy in configured(config)
        for seed in config.run_seeds
    )


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
    pairs = itertools.product(config.run_seeds, configured(config).values())
    left: list[_Run] = []
    for number, (seed, policy) in enumerate(pairs, start=1):
        name = f"{number}/{_number(config)} {policy.name}, seed {seed}"
        run = _Run(name, policy, seed, records.run_folder(folder, policy.name, seed))
        if records.has_ended(run.folder):
            say(f"{name}: done before")
            _forget_checkpoints(run)
        else:
            left.append(run)
    for group in _groups(left, trainer.kind, _stack(config, trainer, len(left), say)):
        with contextlib.ExitStack() as stack:
            opened = [
                (
                    run,
                    stack.enter_context(_open(config, trainer, asked, run, say)),
                )
                for run in group
            ]
            # What was interrupted together may still have got to different steps.
            for _, part in itertools.groupby(
                sorted(opened, key=_step_of), key=_step_of
            ):
                _train_group(config, trainer, session, list(part), say)
        for run in group:
            _forget_checkpoints(run)


class _Run(NamedTuple):
    """One that is to be done."""

    name: str  # for people
    policy: Policy
    seed: int
    folder: Path


_Opened = tuple[_Run, Journal[Any]]


def _step_of(opened: _Opened) -> int:
    return opened[1].step


def _stack(
    config: Config, trainer: AnyTrainer, runs: int, say: Callable[[str], None]
) -> int:
    """How many runs to train at once."""
    if config.stack != "auto":
        return config.stack
    size, speeds = trainer.stack_that_pays(runs)
    tried = ", ".join(f"{n} at once {speed:.2f}" for n, speed in speeds.items())
    say(f"steps a second of all runs together, by those of one run: {tried}")
    return size


def _groups(
    runs: list[_Run], kind: Callable[[Policy], Hashable], size: int
) -> Iterator[list[_Run]]:
    """The runs in order, but those that can be trained at once together."""
    while runs:
        first = kind(runs[0].policy)
        group = [run for run in runs if kind(run.policy) == first][:size]
        runs = [run for run in runs if run not in group]
        yield group


def _open(
    config: Config,
    trainer: AnyTrainer,
    asked: Mapping[str, Any],
    run: _Run,
    say: Callable[[str], None],
) -> Journal[Any]:
    """The folder of a run, begun or gone on with."""
    run_directory.begin(
        run.folder, {**asked, "policy": run.policy.name, "seed": run.seed}
    )
    given = (
        run.folder,
        trainer.like(run.policy),
        config.checkpoint_seconds,
        lambda line: say(f"{run.name}: {line}"),
    )
    if not hosts.are_many():
        return Journal(*given)
    hosts.tell(hosts.Order(run.policy.name, run.seed))
    return hosts.Leading(*given, config.record_every)


def _train_group(
    config: Config,
    trainer: AnyTrainer,
    session: Mapping[str, Any],
    group: list[_Opened],
    say: Callable[[str], None],
) -> None:
    """Runs at once, shown while they are under way."""
    name, step = group[0][0].name, _step_of(group[0])
    for run, _ in group:
        about = {**session, "from_step": step, "at_once": len(group)}
        run_directory.add_session(run.folder, about)
    trainer.compile(group[0][0].policy, len(group))
    if len(group) > 1:
        name += f" and {len(group) - 1} more"
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(Progress(name, step, config.total_steps))
        for _, journal in group:
            journal.watchers.append(progress.show)
            if config.logger != "none":
                logger = _logger(config.logger)(
                    journal.folder, step, trainer.layers.names
                )
                stack.callback(logger.close)
                journal.watchers.append(logger.write)
        stack.enter_context(signals.patience())
        if hosts.are_many():
            hosts.tell_start(group[0][1].start)
        ends = trainer.run_together(
            [Member(run.policy, run.seed, journal) for run, journal in group]
        )
    for (run, _), end in zip(group, ends, strict=True):
        say(f"{run.name}: {_outcome(end)}")


def _logger(value: Any) -> Callable[..., Any]:
    """What makes a logger."""
    if value != "tensorboard":
        return own.resolve(value)
    from .records.tensorboard import TensorBoard

    return TensorBoard


def _forget_checkpoints(run: _Run) -> None:
    shutil.rmtree(run.folder / "checkpoints", ignore_errors=True)  # no more needed


def _end(folder: Path, console: rich.console.Console) -> None:
    """Summary and report; the short table on the terminal."""
    recorded = records.read(folder)
    report.show(report.Study(recorded), report.build(recorded), console)


def _greeting(config: Config, layers: optax_llr.Layers, folder: Path) -> str:
    return (
        f"{config.name}: {own.label(config.model)} with {len(layers)} layers on "
        f"{own.label(config.data)}, {len(config.policies)} policies × "
        f"{len(config.run_seeds)} seeds, "
        f"{config.total_steps:,} steps each\nrecords: {folder}"
    )


def _outcome(end: records.Event) -> str:
    text = f"{end['status']} after {end['step']:,} steps, {end['seconds']:.1f} s"
    if end["test_accuracy"] is not None:
        text += f", test accuracy {100 * end['test_accuracy']:.1f} %"
    return text
