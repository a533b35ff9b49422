"""The training loop: runs the compiled program, and records what happens."""

import dataclasses
import functools
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

import optax_llr
from optax_llr import Layers, Phase

from . import cache, checkpoint
from .cifar import DataError, Split
from .config import Config
from .data import Dataset
from .models.convolution import compiler_options
from .optimizers import Layering, measured, scheduled
from .policies import Policy
from .program import Images, Program, Tables, TrainState, evaluated
from .rates import global_rate

Event = dict[str, Any]

EVALUATION_BATCH = 200  # divides 400, 5,000 and 10,000


class Journal(Protocol):
    """What a run asks of `journal.Journal`."""

    start: tuple[TrainState, float] | None

    def write(self, event: Event) -> None:
        """Records one event."""
        ...

    def due(self) -> bool:
        """Whether it is time for a checkpoint."""
        ...

    def save(self, step: int, state: TrainState, seconds: float) -> None:
        """Makes a checkpoint; raises to end the run there."""
        ...


class Trainer:
    """Trains one model on one data set, under any policy and seed.

    Made once a study: puts the data on the device and reads the layers off the model.
    Compiles once for all policies that are schedules, once for each rule, and once for
    each phase in which other layers are frozen.

    Attributes:
        layers: the layers of the model, in forward order.
    """

    def __init__(self, config: Config, dataset: Dataset):
        """Takes a valid configuration and the data set that it names."""
        if len(dataset.train.labels) != config.training_images:
            raise DataError(
                f"expected the {config.training_images} training images that the "
                f"configuration names, got {len(dataset.train.labels)}"
            )
        self._config = config
        self._train = _on_device(dataset.train.images, dataset.train.labels)
        self._validation = _batches(dataset.validation)
        self._test = _batches(dataset.test)
        self._program = functools.cache(functools.partial(Program, config, dataset))
        self.layers = self._program(scheduled).layers
        self._tables = functools.cache(
            lambda policy: policy_tables(policy, config, self.layers)
        )
        self._compiled = functools.cache(self._compile)
        self._stepping = functools.cache(self._compile_steps)
        self._stages = functools.cache(self._plan)

    def like(self, policy: Policy) -> TrainState:
        """The shapes of the state of a run; compiles what the run will need."""
        self._stages(policy)
        return self._compiled(policy.layering).like

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
        config, tables = self._config, self._tables(policy)
        compiled = self._compiled(policy.layering)
        state, seconds = journal.start or (compiled.initial(jax.random.key(seed)), 0.0)
        run = _Run(
            policy.name,
            seed,
            config.batch_size,
            compiled,
            self._stages(policy),
            state,
            int(state.step),
            seconds,
        )
        finished = self._fit(run, tables, journal)
        loss, accuracy = self._evaluate(run, self._test) if finished else (None, None)
        end = run.event(
            "end",
            status="finished" if finished else "diverged",
            test_loss=loss,
            test_accuracy=accuracy,
            params_sha256=checkpoint.sha256(run.state.params) if finished else None,
        )
        journal.write(end)
        return end

    def _fit(self, run: "_Run", tables: Tables, journal: Journal) -> bool:
        """Trains to the end or to divergence; returns whether it came to the end."""
        total, every = self._config.total_steps, self._config.record_every
        told = jax.device_put(tables)
        while run.step < total:
            begin = run.step - run.step % every
            self._advance(run, told, min(begin + every, total), journal)
            state = run.state
            loss, correct, diverged, found = jax.device_get(
                (state.loss, state.correct, state.diverged, measured(state.opt_state))
            )
            if diverged >= 0:
                run.step = int(diverged)
                return False
            steps, last = run.step - begin, run.step - 1
            journal.write(
                run.event(
                    "train",  # means over the last steps, and what the last one used
                    loss=float(loss) / steps,
                    accuracy=int(correct) / steps / self._config.batch_size,
                    rate=float(tables.rate[last]),
                    multipliers=np.asarray(
                        tables.multipliers[last] if found is None else found
                    ).tolist(),
                )
            )
            if run.step % self._config.evaluate_every == 0 or run.step == total:
                loss, accuracy = self._evaluate(run, self._validation)
                journal.write(run.event("validation", loss=loss, accuracy=accuracy))
                if not np.isfinite(loss):
                    return False
            if journal.due():
                journal.save(run.step, run.state, run.seconds)
        return True

    def _advance(
        self, run: "_Run", tables: Tables, until: int, journal: Journal
    ) -> None:
        """Steps until so many are done; on the way, checkpoints where they are due."""
        began = time.perf_counter()

        def pause() -> None:
            jax.block_until_ready(run.state)
            run.seconds += time.perf_counter() - began

        while run.step < until:
            stage = run.stage
            if run.step == stage.phase.start and len(run.stages) > 1:
                pause()
                journal.write(run.event("phase", **stage.about))
                began = time.perf_counter()
            room = min(until, stage.phase.stop) - run.step
            if room >= stage.stepping.steps_per_call:
                run.state = stage.stepping.steps(run.state, self._train, tables)
                run.step += stage.stepping.steps_per_call
            else:
                run.state = stage.stepping.step(run.state, self._train, tables)
                run.step += 1
            if run.step < until and journal.due():
                pause()
                journal.save(run.step, run.state, run.seconds)
                began = time.perf_counter()
        pause()

    def _evaluate(self, run: "_Run", batches: list[Images]) -> tuple[float, float]:
        """Mean loss and accuracy over all images of a split."""
        weights = evaluated(run.state)
        totals = [run.compiled.score(*weights, batch) for batch in batches]
        loss, correct, images = np.sum(jax.device_get(totals), axis=0, dtype=float)
        return float(loss / images), float(correct / images)

    def _plan(self, policy: Policy) -> "list[_Stage]":
        """The phases of a run, compiled."""
        total = self._config.total_steps
        multipliers = self._tables(policy).multipliers
        shortest = max(1, round(self._config.shortest_phase * total))
        phases = optax_llr.freeze_phases(
            self.layers, optax_llr.table(multipliers), total, shortest
        )
        layers = len(self.layers)
        whole = Phase(self.layers, 0, 1, (False,) * layers, (0,) * layers)
        stages: list[_Stage] = []
        for phase in phases:
            stepping = self._stepping(policy.layering, phase.key)
            predicted = stepping.work / self._stepping(policy.layering, whole).work
            about = {"frozen": phase.names, "predicted": predicted}
            stages.append(_Stage(phase, stepping, about))
        return stages

    def _compile(self, layering: Layering) -> "_Compiled":
        """Compiles ahead of the first run, so that no run's time includes it."""
        program = self._program(layering)
        key = jax.random.key(0)
        state = jax.eval_shape(program.initial, key)
        score = _jit(program.score)
        return _Compiled(
            program=program,
            like=state,
            initial=jax.jit(program.initial).lower(key).compile(),
            score=score.lower(*evaluated(state), self._test[0]).compile(),
        )

    def _compile_steps(self, layering: Layering, phase: Phase) -> "_Stepping":
        """The steps of a phase; of it only counts what is frozen and was paused."""
        compiled = self._compiled(layering)
        total, layers = self._config.total_steps, len(self.layers)
        tables = jax.eval_shape(
            lambda: Tables(jnp.zeros(total), jnp.zeros((total, layers)))
        )
        given = compiled.like, self._train, tables, phase
        at_once = steps_per_call(self._config.record_every)
        step = _jit(compiled.program.step, donate_argnums=0, static_argnums=3)
        one = step.lower(*given).compile()
        steps = _jit(compiled.program.steps, donate_argnums=0, static_argnums=(3, 4))
        return _Stepping(
            step=one,
            steps=one if at_once == 1 else steps.lower(*given, at_once).compile(),
            steps_per_call=at_once,
            work=(one.cost_analysis() or {}).get("flops", math.nan),
        )


def _jit(function: Callable[..., Any], **options: Any) -> Any:
    return jax.jit(function, compiler_options=compiler_options(), **options)


def steps_per_call(most: int) -> int:
    """How many steps one call to the device runs; all of them, or one on a CPU.

    XLA runs a convolution inside a loop on one thread of a CPU and by a slower routine,
    many times slower than outside. An accelerator is to be kept busy without the host.
    """
    return 1 if jax.default_backend() == "cpu" else most


def policy_tables(policy: Policy, config: Config, layers: Layers) -> Tables:
    """The global rate and the multipliers of every step of a run under a policy."""
    total = config.total_steps
    rate = global_rate(policy.schedule or config.schedule, config.rate, total)
    multipliers = policy.multipliers(layers, total)

    @jax.jit
    def evaluate(steps: jax.Array) -> Tables:
        values = jax.vmap(multipliers)(steps) if callable(multipliers) else multipliers
        return Tables(
            jnp.broadcast_to(jax.vmap(rate)(steps), (total,)).astype(jnp.float32),
            jnp.broadcast_to(values, (total, len(layers))).astype(jnp.float32),
        )

    return jax.device_get(evaluate(jnp.arange(total)))


def use_compilation_cache() -> None:
    """Keeps compiled programs in the user's cache folder, for the next start."""
    jax.config.update("jax_compilation_cache_dir", str(cache.folder() / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


class _Compiled(NamedTuple):
    """The program of a layering, and what of it is compiled once."""

    program: Program
    like: TrainState  # of shapes
    initial: Callable[[jax.Array], TrainState]
    score: Callable[..., tuple[jax.Array, jax.Array, jax.Array]]


class _Stepping(NamedTuple):
    """The steps of a phase, compiled."""

    step: Callable[[TrainState, Images, Tables], TrainState]
    steps: Callable[[TrainState, Images, Tables], TrainState]
    steps_per_call: int
    work: float  # floating-point operations of a step, as XLA counts them


class _Stage(NamedTuple):
    """A phase of a run."""

    phase: Phase
    stepping: _Stepping
    about: dict[str, Any]  # for the records


@dataclasses.dataclass
class _Run:
    """Where a run stands, and the events that say so."""

    policy: str
    seed: int
    batch_size: int
    compiled: _Compiled
    stages: list[_Stage]
    state: TrainState
    step: int
    seconds: float

    @property
    def stage(self) -> _Stage:
        """The one that the next step belongs to."""
        return next(stage for stage in self.stages if self.step < stage.phase.stop)

    def event(self, kind: str, **fields: Any) -> Event:
        return {
            "kind": kind,
            "policy": self.policy,
            "seed": self.seed,
            "step": self.step,
            "images": self.step * self.batch_size,
            "seconds": self.seconds,
            **fields,
        }


def _on_device(images: np.ndarray, labels: np.ndarray) -> Images:
    return Images(jnp.asarray(images), jnp.asarray(labels))


def _batches(split: Split) -> list[Images]:
    """Batches of one size on the device, the last filled up with label −1."""
    fill = -len(split.labels) % EVALUATION_BATCH
    images = np.pad(split.images, [(0, fill), (0, 0), (0, 0), (0, 0)])
    labels = np.pad(split.labels, (0, fill), constant_values=-1)
    parts = len(labels) // EVALUATION_BATCH
    return [
        _on_device(*part)
        for part in zip(np.split(images, parts), np.split(labels, parts), strict=True)
    ]
