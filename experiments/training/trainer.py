"""The training loop: runs the compiled program, and records what happens."""

import statistics
import time
from collections.abc import Hashable, Sequence
from typing import NamedTuple, cast

import jax
import numpy as np

from ..config.config import Config
from ..data.cifar import DataError, Split
from ..data.dataset import Dataset
from ..policies.catalogue import POLICIES
from ..policies.policy import Policy
from . import stacking
from .compiling import Compiled, Compiler
from .devices import Devices
from .program import Images, Tables, TrainState, evaluated
from .running import Event, Forgetful, Group, Journal, Run

EVALUATION_BATCH = 200  # divides 400, 5,000 and 10,000
PROBES = 5
"""Steps that are timed to find how fast runs are."""


class Member(NamedTuple):
    """One of several runs to be trained at once."""

    policy: Policy
    seed: int
    journal: Journal


class Trainer:
    """Trains one model on one data set, under any policy and seed.

    Made once a study: puts the data on the devices, reads the layers off the model, and
    compiles what runs share once.

    Attributes:
        layers: the layers of the model, in forward order.
    """

    def __init__(self, config: Config, dataset: Dataset):
        """Takes a valid configuration and the data set that it names.

        Raises:
            DataError: the data set is not that one.
            ValueError: there are not the devices that the configuration asks for.
        """
        if len(dataset.train.labels) != config.training_images:
            raise DataError(
                f"expected the {config.training_images} training images that the "
                f"configuration names, got {len(dataset.train.labels)}"
            )
        self._config, self._devices = config, Devices(config)
        self._stacking = config.stack != 1
        self._train = self._laid_out(dataset.train)
        self._validation = self._batches(dataset.validation)
        self._test = self._batches(dataset.test)
        self._compiler = Compiler(
            config, dataset, self._devices, self._train, self._test[0]
        )
        self.layers = self._compiler.layers

    def like(self, policy: Policy) -> TrainState:
        """The shapes of the state of a run."""
        return self._compiler.like(policy.layering)

    def compile(self, policy: Policy, runs: int = 1) -> None:
        """Compiles what so many runs at once will need."""
        self._compiler.program(policy.layering, self._size(runs))
        self._compiler.stages(policy, self._size(runs))

    def kind(self, policy: Policy) -> Hashable:
        """What runs must share to be trained at once."""
        return policy.layering, self._compiler.phases(policy)

    def run(self, policy: Policy, seed: int, journal: Journal) -> Event:
        """Trains once, from where the journal starts, and records what happens.

        A loss that is not finite ends the run as "diverged", at the number of steps
        done before it.

        Args:
            policy: how the rates of the layers differ.
            seed: fixes initial weights, data order and augmentation.
            journal: is given one event after another, the last of kind "end", and a
                checkpoint between two steps whenever it is due.

        Returns:
            The last event.
        """
        return self.run_together([Member(policy, seed, journal)])[0]

    def run_together(self, members: Sequence[Member]) -> list[Event]:
        """Trains several runs at once, of one `kind` and from one step on.

        The seconds of each are its share of what they take together.

        Returns:
            The last event of each.
        """
        group = self._begin(members)
        self._fit(group)
        tests = self._evaluate(group, self._test) if group.going else []
        for (run, state), found in zip(group.states(), tests, strict=True):
            run.finish(group.step, *found, state)
        return [cast(Event, run.end) for run in group.runs]

    def stack_that_pays(self, most: int) -> tuple[int, dict[int, float]]:
        """How many runs to train at once, of at most so many; found by trial.

        Returns:
            Their number, and what was found: how many at once make how many times the
            steps of one alone in the same time, all of them together.
        """
        return stacking.size_that_pays(self._speed, most, self._devices.count)

    def _speed(self, runs: int) -> float:
        """Steps a second of so many runs at once, all together, of policy uniform."""
        group = self._begin(
            [Member(POLICIES["uniform"], seed, Forgetful()) for seed in range(runs)]
        )
        step, told = group.stages[0].stepping.step, self._told(group)

        def once() -> float:
            began = time.perf_counter()
            group.state = jax.block_until_ready(step(group.state, self._train, told))
            return time.perf_counter() - began

        once()
        return runs / statistics.median(once() for _ in range(PROBES))

    def _size(self, runs: int) -> int:
        """How many states are stacked for so many runs: a multiple of the devices."""
        whole = self._devices.count
        return -(-runs // whole) * whole if self._stacking else runs

    def _begin(self, members: Sequence[Member]) -> Group:
        """Where the journals of the runs start."""
        policy, size = members[0].policy, self._size(len(members))
        compiled = self._compiler.program(policy.layering, size)
        starts = [
            member.journal.start or (compiled.initial(np.uint32(member.seed)), 0.0)
            for member in members
        ]
        states = [self._devices.put_everywhere(state) for state, _ in starts]
        initial = None
        if self._config.measurements:
            # Made again, as a state is overwritten by its first step.
            begun = [compiled.initial(np.uint32(member.seed)) for member in members]
            initial = _as_one(begun, compiled, size).params
        runs = [
            Run(
                policy=member.policy.name,
                seed=member.seed,
                batch_size=self._config.batch_size,
                tables=self._compiler.tables(member.policy),
                journal=member.journal,
                seconds=seconds,
            )
            for member, (_, seconds) in zip(members, starts, strict=True)
        ]
        return Group(
            runs=runs,
            size=size,
            compiled=compiled,
            stages=self._compiler.stages(policy, size),
            state=_as_one(states, compiled, size),
            initial=initial,
            step=int(states[0].step),
        )

    def _told(self, group: Group) -> Tables:
        """The tables of all runs, on the devices."""
        tables = [run.tables for run in group.runs]
        if group.size == 1:
            return self._devices.put_everywhere(tables[0])
        whole = stacking.filled(tables, group.size)
        return jax.device_put(
            jax.tree.map(lambda *rows: np.stack(rows), *whole), self._devices.divided
        )

    def _fit(self, group: Group) -> None:
        """Trains until every run has come to the end of its steps, or diverged."""
        total, every = self._config.total_steps, self._config.record_every
        told = self._told(group)
        while group.step < total and group.going:
            self._measure_if_due(group, told)
            begin = group.step - group.step % every
            self._advance(group, told, min(begin + every, total))
            for run, found in group.fetched():
                run.trained(group.step, group.step - begin, found)
            if not group.going:
                return
            if group.step % self._config.evaluate_every == 0 or group.step == total:
                found = self._evaluate(group, self._validation)
                for run, (loss, accuracy) in zip(group.going, found, strict=True):
                    run.validated(group.step, loss, accuracy)
            if group.due():
                group.save()

    def _measure_if_due(self, group: Group, tables: Tables) -> None:
        """Measures what the next step is about to do to each layer."""
        measure = group.compiled.measure
        if measure is None or group.step % self._config.measure_every:
            return
        found = measure(group.state, self._train, tables, group.initial)
        for run, measures in group.each(jax.device_get(found)):
            run.measured(group.step, measures)

    def _advance(self, group: Group, tables: Tables, until: int) -> None:
        """Steps until so many are done; on the way, checkpoints where they are due."""
        began = time.perf_counter()

        def pause() -> None:
            jax.block_until_ready(group.state)
            for run in group.runs:
                run.seconds += (time.perf_counter() - began) / len(group.runs)

        while group.step < until:
            stage = group.stage
            if group.step == stage.phase.start and len(group.stages) > 1:
                pause()
                for run in group.going:
                    run.write("phase", group.step, **stage.about)
                began = time.perf_counter()
            room = min(until, stage.phase.stop) - group.step
            if room >= stage.stepping.steps_per_call:
                group.state = stage.stepping.steps(group.state, self._train, tables)
                group.step += stage.stepping.steps_per_call
            else:
                group.state = stage.stepping.step(group.state, self._train, tables)
                group.step += 1
            if group.step < until and group.due():
                pause()
                group.save()
                began = time.perf_counter()
        pause()

    def _evaluate(
        self, group: Group, batches: list[Images]
    ) -> list[tuple[float, float]]:
        """Mean loss and accuracy over a split's images, of each run that goes on."""
        weights = evaluated(group.state)
        totals = [group.compiled.score(*weights, batch) for batch in batches]
        loss, correct, images = np.sum(jax.device_get(totals), axis=0, dtype=float)
        return [
            (float(loss / images), float(correct / images))
            for _, (loss, correct, images) in group.each((loss, correct, images))
        ]

    def _laid_out(self, split: Split) -> Images:
        devices = self._devices
        layout = devices.everywhere if self._stacking else devices.divided
        return Images(
            devices.put(split.images, layout), devices.put(split.labels, layout)
        )

    def _batches(self, split: Split) -> list[Images]:
        """Batches of one size on the devices, the last filled up with label −1."""
        size = -(-EVALUATION_BATCH // self._devices.count) * self._devices.count
        fill = -len(split.labels) % size
        images = np.pad(split.images, [(0, fill), (0, 0), (0, 0), (0, 0)])
        labels = np.pad(split.labels, (0, fill), constant_values=-1)
        parts = len(labels) // size
        return [
            self._laid_out(Split(*part))
            for part in zip(
                np.split(images, parts), np.split(labels, parts), strict=True
            )
        ]


def _as_one(states: Sequence[TrainState], compiled: Compiled, size: int) -> TrainState:
    """States as a program for so many takes them; what fills up will be forgotten."""
    return states[0] if size == 1 else compiled.stacked(stacking.filled(states, size))
