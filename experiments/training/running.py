"""Where runs stand while they are trained, and the events that say so."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from optax_llr import LayerMeasures

from ..policies.optimizers import measured
from ..records import checkpoint
from . import stacking
from .compiling import Compiled, Stage
from .program import MEASURES, Tables, TrainState, Weights

Event = dict[str, Any]


class Journal(Protocol):
    """What a run asks of `journal.Journal`."""

    start: tuple[TrainState, float] | None

    def write(self, event: Event) -> None:
        """Records one event."""
        ...

    def due(self, step: int) -> bool:
        """Whether it is time for a checkpoint, or to stop; asked between all steps."""
        ...

    def save(self, step: int, state: TrainState, seconds: float) -> None:
        """Makes a checkpoint."""
        ...

    def rest(self) -> None:
        """Follows upon `save`; raises to end the run there."""
        ...


class Forgetful:
    """A journal that keeps nothing."""

    start: tuple[TrainState, float] | None = None

    def write(self, event: Event) -> None:
        """Forgets it."""

    def due(self, step: int) -> bool:
        """Never."""
        del step
        return False

    def save(self, step: int, state: TrainState, seconds: float) -> None:
        """Never asked for."""

    def rest(self) -> None:
        """Never asked for."""


class Fetched(NamedTuple):
    """What is fetched from the device after some steps."""

    loss: Any  # shape=(), float32; sums since the last time
    correct: Any  # shape=(), int32
    diverged: Any  # shape=(), int32
    multipliers: Any  # shape=(L,), float32; None where no rule measures


@dataclasses.dataclass
class Run:
    """One run; once it has ended, `end` is its last event."""

    policy: str
    seed: int
    batch_size: int
    tables: Tables
    journal: Journal
    seconds: float
    end: Event | None = None

    def write(self, kind: str, step: int, **fields: Any) -> Event:
        """Records one event."""
        event = {
            "kind": kind,
            "policy": self.policy,
            "seed": self.seed,
            "step": step,
            "images": step * self.batch_size,
            "seconds": self.seconds,
            **fields,
        }
        self.journal.write(event)
        return event

    def trained(self, step: int, steps: int, found: Fetched) -> None:
        """After some steps: means over them, and what the last one was told."""
        if found.diverged >= 0:
            self.diverge(int(found.diverged))
            return
        told = self.tables.multipliers[step - 1]
        multipliers = told if found.multipliers is None else found.multipliers
        self.write(
            "train",
            step,
            loss=float(found.loss) / steps,
            accuracy=int(found.correct) / steps / self.batch_size,
            rate=float(self.tables.rate[step - 1]),
            multipliers=np.asarray(multipliers).tolist(),
        )

    def measured(self, step: int, found: LayerMeasures) -> None:
        """Before a step: what it is about to do to each layer."""
        self.write(
            "layers",
            step,
            **{name: np.asarray(getattr(found, name)).tolist() for name in MEASURES},
        )

    def validated(self, step: int, loss: float, accuracy: float) -> None:
        """After an evaluation."""
        self.write("validation", step, loss=loss, accuracy=accuracy)
        if not np.isfinite(loss):
            self.diverge(step)

    def diverge(self, step: int) -> None:
        """Ends at so many steps, the last of them fatal."""
        self.end = self.write(
            "end",
            step,
            status="diverged",
            test_loss=None,
            test_accuracy=None,
            params_sha256=None,
        )

    def finish(
        self, step: int, loss: float, accuracy: float, state: TrainState
    ) -> None:
        """Ends, as it should."""
        self.end = self.write(
            "end",
            step,
            status="finished",
            test_loss=loss,
            test_accuracy=accuracy,
            params_sha256=checkpoint.sha256(state.params),
        )


@dataclasses.dataclass
class Group:
    """Runs that are trained at once, at the same step of the same program."""

    runs: Sequence[Run]
    size: int
    """How many states are stacked; there may be more than runs. One is not stacked."""
    compiled: Compiled
    stages: Sequence[Stage]
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

    def fetched(self) -> list[tuple[Run, Fetched]]:
        """Of each run that goes on, what the device says."""
        state = self.state
        found = Fetched(
            *jax.device_get(
                (state.loss, state.correct, state.diverged, measured(state.opt_state))
            )
        )
        return list(self.each(found))

    def each(self, stacked: Any) -> Iterator[tuple[Run, Any]]:
        """Each run that goes on, with its part of what is stacked."""
        for index, run in enumerate(self.runs):
            if run.end is None:
                yield (
                    run,
                    stacked
                    if self.size == 1
                    else jax.tree.map(lambda leaf, index=index: leaf[index], stacked),
                )

    def states(self) -> Iterator[tuple[Run, TrainState]]:
        """Each run that goes on, with its state."""
        for index, run in enumerate(self.runs):
            if run.end is None:
                one = self.size == 1
                yield run, self.state if one else stacking.member(self.state, index)

    def due(self) -> bool:
        """Whether it is time for a checkpoint."""
        return any(run.journal.due(self.step) for run in self.going)

    def save(self) -> None:
        """Makes a checkpoint of each run."""
        for run, state in self.states():
            run.journal.save(self.step, state, run.seconds)
        for run in self.going:
            run.journal.rest()
