"""A run from its first weights to its end, in the order in which it happens.

Several runs may be trained at once, as a `Group`; what differs from one alone is how
arrays are stacked.
"""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, cast

import jax
import numpy as np

from ..config.config import Config
from ..data.cifar import DataError, Split
from ..data.dataset import Dataset
from ..policies.catalogue import POLICIES
from ..policies.optimizers import measured, scheduled
from ..policies.policy import Policy
from ..records import checkpoint, weights
from ..records.journal import Event, Forgetful
from . import hosts, stacking, transfer
from .compiling import Compiled, Compiler, Stage, steps_per_call
from .devices import Devices
from .program import MEASURES, Images, Tables, TrainState, Weights, evaluated

EVALUATION_BATCH = 200  # divides 400, 5,000 and 10,000
PROBES = 5
"""Steps that are timed to find how fast runs are."""


@dataclasses.dataclass(eq=False)
class Run:
    """One run; once it has ended, `end` is its last event."""

    policy: Policy
    seed: int
    journal: Forgetful = dataclasses.field(default_factory=Forgetful)
    """Is given one event after another, the last of kind "end", and checkpoints."""
    name: str = ""
    """For people."""
    watchers: list[Callable[[Event], None]] = dataclasses.field(
        default_factory=list[Callable[[Event], None]]
    )
    """Are shown every event once it is recorded."""
    seconds: float = 0.0
    """Of training so far."""
    end: Event | None = None


@dataclasses.dataclass
class Group:
    """Runs that are trained at once, at the same step of the same program."""

    runs: Sequence[Run]
    size: int
    """How many states are stacked; there may be more than runs. One is not stacked."""
    compiled: Compiled
    stages: Sequence[Stage]
    tables: Tables
    state: TrainState
    initial: Weights | None
    """The parameters before the first step; None where no layers are measured."""
    step: int

    @property
    def going(self) -> list[Run]:
        """Those that have not ended."""
        return [run for run in self.runs if run.end is None]

    @property
    def stage(self) -> Stage:
        """The one that the next step belongs to."""
        return next(stage for stage in self.stages if self.step < stage.phase.stop)

    def each(self, found: Any) -> Iterator[tuple[Run, Any]]:
        """Each run that goes on, with its part of what was found; or of the states."""
        for index, run in enumerate(self.runs):
            if run.end is None:
                yield run, found if self.size == 1 else stacking.member(found, index)


class Trainer:
    """Trains one model on one data set, under any policy and seed.

    Made once a study: puts the data on the devices, reads the layers off the model, and
    compiles what runs share once.

    Attributes:
        layers: the layers of the model, in forward order.
        start: what runs start from, in words; empty where all weights are random.
    """

    def __init__(self, config: Config, dataset: Dataset):
        """Takes a valid configuration and the data set that it names.

        Raises:
            DataError: the data set is not that one.
            ValueError: there are not the devices that the configuration asks for, or
                the weights to start from do not fit the model.
        """
        if len(dataset.train.labels) != config.training_pool:
            raise DataError(
                f"expected the {config.training_pool} training images that the "
                f"configuration names, got {len(dataset.train.labels)}"
            )
        self._config, self._devices = config, Devices(config)
        self._stacking = config.stack != 1
        # Of text, each byte of a window has one.
        self._answers = config.batch_size * math.prod(dataset.train.labels.shape[1:])
        self._train = self._laid_out(dataset.train)
        self._validation = self._batches(dataset.validation)
        self._test = self._batches(dataset.test)
        self._compiler = Compiler(config, dataset, self._devices)
        self.layers = self._compiler.layers
        source = weights.read(config.init_from)
        self._source = self._devices.put_everywhere(source)
        self.start = self._said(source) if source else ""

    def _said(self, source: Mapping[str, np.ndarray]) -> str:
        like, config = self._compiler.like(scheduled), self._config
        found = transfer.fit(
            source, like.params, like.statistics, self.layers, config.new_head
        )
        return f"from {config.init_from}: {transfer.said(found)}"

    def like(self, policy: Policy) -> TrainState:
        """The shapes of the state of a run."""
        return self._compiler.like(policy.layering)

    def kind(self, policy: Policy) -> Hashable:
        """What runs must share to be trained at once."""
        return policy.layering, self._compiler.phases(policy)

    def run(self, policy: Policy, seed: int, journal: Forgetful) -> Event:
        """Trains once; returns the last event."""
        return self.train(self.begin([Run(policy, seed, journal)]))[0]

    def begin(self, runs: Sequence[Run]) -> Group:
        """Runs of one `kind` where their journals start, at one step; all compiled."""
        policy, size = runs[0].policy, self._size(len(runs))
        compiled = self._compiler.program(policy.layering, size)

        def first(run: Run) -> TrainState:
            source = None if run.policy.scratch else self._source
            return compiled.initial(np.uint32(run.seed), source)

        def as_one(states: list[TrainState]) -> TrainState:
            if size == 1:
                return states[0]
            return compiled.stacked(stacking.filled(states, size))

        states, initial = list[TrainState](), None
        for run in runs:
            state, run.seconds = run.journal.start or (first(run), 0.0)
            states.append(self._devices.put_everywhere(state))
        if self._config.measurements:
            # Made again, as a state is overwritten by its first step.
            initial = as_one([first(run) for run in runs]).params
        given = as_one(states), self._train, self._tables(runs, size)
        compiled.score.compile(*evaluated(given[0]), self._test[0])
        if self._config.measurements:
            compiled.measure.compile(*given, initial)
        return Group(
            runs=runs,
            size=size,
            compiled=compiled,
            stages=self._compiler.stages(policy, size, *given),
            tables=given[-1],
            state=given[0],
            initial=initial,
            step=int(states[0].step),
        )

    def _tables(self, runs: Sequence[Run], size: int) -> Tables:
        """The tables of all runs, on the devices."""
        tables = [self._compiler.tables(run.policy) for run in runs]
        if size == 1:
            return self._devices.put_everywhere(tables[0])
        whole = stacking.filled(tables, size)
        return jax.device_put(
            jax.tree.map(lambda *rows: np.stack(rows), *whole), self._devices.divided
        )

    def train(self, group: Group) -> list[Event]:
        """Trains runs to their ends.

        A loss that is not finite ends a run as "diverged", at the number of steps done
        before it. The seconds of each are its share of what they take together.

        Returns:
            The last event of each.

        Raises:
            Stop: a signal came; every run that had not ended has a checkpoint.
        """
        hosts.meet()
        total = self._config.total_steps
        while group.going and group.step < total:
            self._announce(group)
            self._step(group)
            if group.step % self._config.record_every == 0 or group.step == total:
                self._record(group)
            self._keep(group)
        if group.going:
            found = self._evaluate(group, self._test)
            for (run, state), scores in zip(
                group.each(group.state), found, strict=True
            ):
                if self._config.keep_weights:
                    run.journal.keep(*evaluated(state))
                params_sha256 = checkpoint.sha256(state.params)
                self._end(run, total, "finished", *scores, params_sha256)
        return [cast(Event, run.end) for run in group.runs]

    def _announce(self, group: Group) -> None:
        """Records what the next step is about to do, and which layers are frozen."""
        config, stage = self._config, group.stage
        if config.measurements and group.step % config.measure_every == 0:
            measure = group.compiled.measure
            found = measure(group.state, self._train, group.tables, group.initial)
            for run, measures in group.each(jax.device_get(found)):
                values = {name: getattr(measures, name).tolist() for name in MEASURES}
                self._write(run, "layers", group.step, **values)
        if group.step == stage.phase.start and len(group.stages) > 1:
            about = {"frozen": stage.phase.names, "predicted": stage.predicted}
            for run in group.going:
                self._write(run, "phase", group.step, **about)

    def _step(self, group: Group) -> None:
        """Steps until there is something to record, or to keep."""
        every, stage = self._config.record_every, group.stage
        until = min(group.step + every - group.step % every, stage.phase.stop)
        many, began = steps_per_call(every), time.perf_counter()
        while group.step < until:
            fits = group.step + many <= until
            step = stage.steps if fits else stage.step
            group.state = step(group.state, self._train, group.tables)
            group.step += many if fits else 1
            if any(run.journal.late() for run in group.going) or hosts.asked(False):
                break
        jax.block_until_ready(group.state)
        share = (time.perf_counter() - began) / len(group.runs)
        for run in group.runs:
            run.seconds += share

    def _record(self, group: Group) -> None:
        """Means over the steps since the last time; validation where it is due."""
        config, step, state = self._config, group.step, group.state
        total = config.total_steps
        steps = (step - 1) % config.record_every + 1
        found = (state.loss, state.correct, state.diverged, measured(state.opt_state))
        for run, part in group.each(jax.device_get(found)):
            loss, correct, diverged, by_rule = part
            if diverged >= 0:
                self._end(run, int(diverged), "diverged")
                continue
            tables = self._compiler.tables(run.policy)
            told = tables.multipliers[step - 1] if by_rule is None else by_rule
            self._write(
                run,
                "train",
                step,
                loss=float(loss) / steps,
                accuracy=int(correct) / steps / self._answers,
                rate=float(tables.rate[step - 1]),
                multipliers=told.tolist(),
            )
        if not group.going or (step % config.evaluate_every and step < total):
            return
        scores = self._evaluate(group, self._validation)
        for run, (loss, accuracy) in zip(group.going, scores, strict=True):
            self._write(run, "validation", step, loss=loss, accuracy=accuracy)
            if not math.isfinite(loss):
                self._end(run, step, "diverged")

    def _evaluate(
        self, group: Group, batches: list[Images]
    ) -> list[tuple[float, float]]:
        """Mean loss and accuracy over a split, of each run that goes on."""
        weights = evaluated(group.state)
        totals = [group.compiled.score(*weights, batch) for batch in batches]
        loss, correct, answers = np.sum(jax.device_get(totals), axis=0, dtype=float)
        return [
            (float(loss / answers), float(correct / answers))
            for _, (loss, correct, answers) in group.each((loss, correct, answers))
        ]

    def _keep(self, group: Group) -> None:
        """A checkpoint of each run where it is time; for a signal the last."""
        together = group.step % self._config.record_every == 0
        stop = hosts.asked(together)
        if stop or any(run.journal.late() for run in group.going):
            for run, state in group.each(group.state):
                run.journal.save(group.step, state, run.seconds)
        if stop:
            for run in group.going:
                run.journal.wait()
            hosts.stop()

    def _end(
        self,
        run: Run,
        step: int,
        status: str,
        test_loss: float | None = None,
        test_accuracy: float | None = None,
        params_sha256: str | None = None,
    ) -> None:
        found = {"test_loss": test_loss, "test_accuracy": test_accuracy}
        run.end = self._write(
            run, "end", step, status=status, **found, params_sha256=params_sha256
        )

    def _write(self, run: Run, kind: str, step: int, **fields: Any) -> Event:
        """Records one event."""
        event = {
            "kind": kind,
            "policy": run.policy.name,
            "seed": run.seed,
            "step": step,
            "images": step * self._config.batch_size,
            "seconds": run.seconds,
            **fields,
        }
        run.journal.write(event)
        for watch in run.watchers:
            watch(event)
        return event

    def stack_that_pays(self, most: int) -> tuple[int, dict[int, float]]:
        """How many runs to train at once, of at most so many; found by trial.

        Returns:
            Their number, and what was found: how many at once make how many times the
            steps of one alone in the same time, all of them together.
        """
        return stacking.size_that_pays(self._speed, most, self._devices.count)

    def _speed(self, runs: int) -> float:
        """Steps a second of so many runs at once, all together, of policy uniform."""
        group = self.begin([Run(POLICIES["uniform"], seed) for seed in range(runs)])
        step = group.stages[0].step

        def once() -> float:
            began = time.perf_counter()
            group.state = step(group.state, self._train, group.tables)
            jax.block_until_ready(group.state)
            return time.perf_counter() - began

        once()
        return runs / statistics.median(once() for _ in range(PROBES))

    def _size(self, runs: int) -> int:
        """How many states are stacked for so many runs: a multiple of the devices."""
        whole = self._devices.count
        return -(-runs // whole) * whole if self._stacking else runs

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
        images = _filled(split.images, fill, 0)
        labels = _filled(split.labels, fill, -1)
        parts = len(labels) // size
        return [
            self._laid_out(Split(*part))
            for part in zip(
                np.split(images, parts), np.split(labels, parts), strict=True
            )
        ]


def _filled(array: np.ndarray, count: int, value: int) -> np.ndarray:
    """With so many more along the first axis, all of this value."""
    fill = [(0, count), *[(0, 0)] * (array.ndim - 1)]
    return np.pad(array, fill, constant_values=value)
